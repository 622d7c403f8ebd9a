//! What every controller needs, of the hub and of functions: one of several processes leads,
//! watched copies of kinds, conditions. Knows no kind of its own.

pub mod backoff;
pub mod conditions;
pub mod leader;
pub mod mark;
pub mod objects;
pub mod process;
