//! Answers to signing requests.
use crate::World;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
/// One answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Name of the request.
    pub request: String,
    /// Approved or denied.
    pub approved: bool,
    /// Why not, for people; empty when approved.
    pub reason: String,
}
/// What to do with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The host asks for itself.
    Approve,
    /// It asks for what it is not.
    Deny(String),
    /// Not ours to answer, or answered.
    Ignore,
}
/// Answers to the open requests of `world.view`.
pub fn answers(_world: &World) -> Vec<Answer> {
    Vec::new()
}
/// What to do with one request.
pub fn decide_request(_world: &World, _request: &CertificateSigningRequest) -> Decision {
    Decision::Ignore
}
