//! Objects of the API, and whose fields we write.

pub(crate) use farplane_control::conditions::{READY, Said, set_condition};
pub(crate) use farplane_control::objects::{Kind, Watched, is_code, now};

/// Owner of the fields that we write.
pub(crate) const FIELD_MANAGER: &str = "farplane-executor";
