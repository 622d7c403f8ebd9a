//! Messages between the parts.
//!
//! [`FetchRequest`], [`LoadRequest`], [`SpecializeRequest`] and the builder's are Fission's; the
//! executor's under `/farplane/v1/` are our own, between router and executor of one release.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::function::{MountedReference, ObjectReference};
use crate::package::{Archive, Checksum};

/// Path: router asks the executor for an instance, [`InstanceRequest`].
pub const INSTANCES: &str = "/farplane/v1/instances";
/// Path: router tells the executor what it used, [`Usage`].
pub const USAGE: &str = "/farplane/v1/usage";
/// Path: executor asks a fetcher whether its Pod has code, [`FetcherState`].
pub const FETCHER_STATE: &str = "/farplane/v1/state";
/// Path: the kubelet asks a fetcher whether its Pod, which is to end, may be stopped; answered
/// when no call runs there any more. Not signed: it only waits.
pub const QUIET: &str = "/farplane/v1/quiet";
/// Path: router hands over an asynchronous call, [`InvocationRequest`]; answered with 202 and
/// [`InvocationReply`] once it is durable. Signed for [`crate::auth::Service::Invocations`].
pub const INVOCATIONS: &str = "/farplane/v1/invocations";
/// Path: the router's `/v1/async/dlq/{list,show,redrive,purge}` go to
/// `{INVOCATIONS_DEAD}/{list,show,redrive,purge}` with their query and body as they are.
pub const INVOCATIONS_DEAD: &str = "/farplane/v1/invocations/dlq";
/// Largest body of an asynchronous call in bytes; the router answers 413 beyond.
pub const INVOCATION_LIMIT: usize = 256 * 1024;

/// A function at one state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Generation of the spec.
    pub generation: i64,
    /// Version that is called; the live function when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// Asks for an instance beside those that the router has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceRequest {
    /// Of which function. The executor serves its own view of it when that is newer.
    pub function: FunctionKey,
    /// Addresses that the router knows, `ip:port`. Another instance that the executor knows is
    /// named before one is made.
    #[serde(default)]
    pub known: Vec<String>,
}

/// An instance that has its code and accepts connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// `ip:port`.
    pub address: String,
    /// Pod behind it; none when the address is a Service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectReference>,
    /// Of which state of the function it is.
    pub function: FunctionKey,
    /// True when the executor made it for this request.
    #[serde(default)]
    pub cold: bool,
}

/// What a router did since it last said so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Name of the router's Pod.
    pub router: String,
    /// Instances it used or is using.
    pub instances: Vec<InstanceUsage>,
}

/// Use of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceUsage {
    /// `ip:port`.
    pub address: String,
    /// Calls that run now.
    pub active: usize,
    /// Milliseconds since the last call ended; 0 while any runs.
    pub idle_ms: u64,
}

/// An error of a part, as clients see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// `router`, `executor`, `fetcher`, `environment`, `function`.
    pub component: String,
    /// The cause in words, with what to check next.
    pub reason: String,
    /// Id of the request; empty until the router fills it in.
    #[serde(default)]
    pub request_id: String,
    /// Id of the trace.
    #[serde(default)]
    pub trace_id: String,
}

/// What a fetcher shall bring. Fission's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchRequest {
    /// 0 source, 1 deployment, 2 URL.
    #[serde(default)]
    pub fetch_type: u8,
    /// Package that is read from the API server when `archive` is absent.
    #[serde(default)]
    pub package: ObjectReference,
    /// Where to download, for type 2.
    #[serde(default)]
    pub url: String,
    /// Storage service.
    #[serde(default, rename = "storagesvcurl")]
    pub storage_url: String,
    /// Name of the file or directory below `/userfunc`.
    #[serde(default)]
    pub filename: String,
    /// Secrets to write as files.
    #[serde(default)]
    pub secret_list: Vec<MountedReference>,
    /// ConfigMaps to write as files.
    #[serde(default)]
    pub config_map_list: Vec<MountedReference>,
    /// Do not unpack.
    #[serde(default, rename = "keeparchive")]
    pub keep_archive: bool,
    /// The archive itself: saves the read of the package. Our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,
}

/// What a runtime shall load. Fission's `FunctionLoadRequest`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadRequest {
    /// File or directory of the code.
    pub filepath: String,
    /// Entry point.
    #[serde(rename = "functionName")]
    pub function_name: String,
    /// Path that the function is called at.
    #[serde(default)]
    pub url: String,
    /// Metadata of the function.
    #[serde(default, rename = "FunctionMetadata")]
    pub function_metadata: Value,
    /// Version of the environment's contract.
    #[serde(default, rename = "envVersion")]
    pub env_version: i32,
}

/// Body of a fetcher's `/specialize`. Fission's, with the function's key added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpecializeRequest {
    /// What to bring.
    #[serde(rename = "FetchReq")]
    pub fetch: FetchRequest,
    /// What to load.
    #[serde(rename = "LoadReq")]
    pub load: LoadRequest,
    /// Whose code it is; told again by [`FetcherState`]. Our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionKey>,
}

/// What a fetcher says of its Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetcherState {
    /// Whose code the Pod has; none while it is generic.
    #[serde(default)]
    pub function: Option<FunctionKey>,
    /// A specialisation was begun, whatever came of it: the Pod is not generic any more.
    #[serde(default)]
    pub begun: bool,
}

/// Body of a fetcher's `/upload`. Fission's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRequest {
    /// File or directory below `/packages`.
    pub filename: String,
    /// Storage service.
    #[serde(rename = "storagesvcurl")]
    pub storage_url: String,
    /// Pack it first.
    #[serde(default, rename = "archivepackage")]
    pub archive_package: bool,
}

/// Answer of a fetcher's `/upload`. Fission's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UploadReply {
    /// Where it can be downloaded.
    pub archive_download_url: String,
    /// Digest of it.
    pub checksum: Checksum,
}

/// Body of a builder's `/`. Fission's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildRequest {
    /// Name of the source below `/packages`.
    pub src_pkg_filename: String,
    /// Build command.
    pub command: String,
}

/// Answer of a builder's `/`. Fission's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildReply {
    /// Name of what was built below `/packages`.
    pub artifact_filename: String,
    /// What the build said.
    pub build_logs: String,
}

/// An asynchronous call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InvocationRequest {
    /// Namespace of the function.
    pub namespace: String,
    /// Name of the function.
    pub function: String,
    /// Alias or version that was called; an alias is pinned to its version when it is taken.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tag: String,
    /// HTTP method.
    pub method: String,
    /// Path and query that the function sees.
    pub target: String,
    /// Headers of the client.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Body, base64.
    #[serde(default)]
    pub body: String,
    /// `X-Fission-Dedup-Key`: a second call with the same key is the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup_key: Option<String>,
}

/// Answer to an [`InvocationRequest`]; also what the client gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InvocationReply {
    /// `X-Fission-Invocation-Id`.
    pub invocation_id: String,
}
