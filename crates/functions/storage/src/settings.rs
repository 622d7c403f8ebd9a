//! What storage is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use farplane_functions_types::names::port;

/// What storage is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where requests are taken.
    pub listen: SocketAddr,
    /// Master secrets: the current one first, then one that is being replaced. When empty,
    /// nothing is checked.
    pub secrets: Vec<Vec<u8>>,
    /// Where archives are kept.
    pub backend: Backend,
    /// Largest archive, in bytes.
    pub limit: u64,
    /// When archives are removed.
    pub prune: Prune,
}

impl Settings {
    /// For archives in a directory.
    pub fn local(directory: PathBuf, secrets: Vec<Vec<u8>>) -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], port::STORAGE)),
            secrets,
            backend: Backend::Local { directory },
            limit: 256 << 20,
            prune: Prune::default(),
        }
    }
}

/// Where archives are kept.
#[derive(Clone, Debug)]
pub enum Backend {
    /// Below a directory.
    Local {
        /// The directory, a volume of its own.
        directory: PathBuf,
    },
    /// In a bucket.
    S3 {
        /// The bucket.
        bucket: S3,
        /// Below it uploads are kept until they are whole.
        spool: PathBuf,
    },
}

/// A bucket and who may use it.
#[derive(Clone)]
pub struct S3 {
    /// URL of the server; Amazon's when empty.
    pub endpoint: String,
    /// Name of the bucket.
    pub bucket: String,
    /// Put before every key; no `/` at its ends.
    pub prefix: String,
    /// Region.
    pub region: String,
    /// Name of the access key.
    pub access_key_id: String,
    /// The access key.
    pub secret_access_key: String,
    /// Certificates in PEM that are trusted beside the public ones.
    pub certificates: Option<Vec<u8>>,
}

impl std::fmt::Debug for S3 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("S3")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl S3 {
    /// Reads Fission's variables, `STORAGE_S3_*`; none without a bucket. Certificates are read
    /// from the file in `SSL_CERT_FILE`.
    pub fn read(environment: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let text = |name: &str| environment(name).unwrap_or_default().trim().to_owned();
        let bucket = text("STORAGE_S3_BUCKET_NAME");
        if bucket.is_empty() {
            return None;
        }
        let region = text("STORAGE_S3_REGION");
        Some(Self {
            endpoint: text("STORAGE_S3_ENDPOINT"),
            bucket,
            prefix: text("STORAGE_S3_SUB_DIR").trim_matches('/').to_owned(),
            region: if region.is_empty() {
                "us-east-1".to_owned()
            } else {
                region
            },
            access_key_id: text("STORAGE_S3_ACCESS_KEY_ID"),
            secret_access_key: text("STORAGE_S3_SECRET_ACCESS_KEY"),
            certificates: std::fs::read(text("SSL_CERT_FILE")).ok(),
        })
    }
}

/// When archives that no package names are removed.
#[derive(Clone, Copy, Debug)]
pub struct Prune {
    /// Between two looks.
    pub interval: Duration,
    /// Younger archives stay: their package may be on its way.
    pub grace: Duration,
}

impl Default for Prune {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(20 * 60),
            grace: Duration::from_secs(60 * 60),
        }
    }
}
