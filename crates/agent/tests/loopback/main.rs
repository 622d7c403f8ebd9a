//! The agent against the real gateway over loopback.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod enrol;
mod hub;
mod program;
mod support;
