//! Tests with real files, processes and archives.

mod archives;
mod containers;
mod decisions;
mod engine;
pub mod kill;
mod machine;
mod processes;
mod support;
