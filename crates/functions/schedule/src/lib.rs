//! Times as Fission's users write them: when a timer is due, and how long something takes. Pure.

pub mod cron;
pub mod duration;
