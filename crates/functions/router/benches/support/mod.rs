//! The processes of the benchmark.

pub mod instance;
pub mod load;
pub mod router;

/// Whatever goes wrong ends the benchmark.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
