//! Namespace and Services.
use crate::World;
use serde_json::Value;
/// Namespace and Services of the plane, in this order.
pub fn services(_world: &World) -> Vec<Value> {
    Vec::new()
}
