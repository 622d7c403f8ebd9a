//! The agent.

pub mod units;
