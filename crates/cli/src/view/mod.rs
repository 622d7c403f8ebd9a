//! Pure rendering: text from objects. No IO, no clock.

pub(crate) mod cells;
pub(crate) mod cluster;
pub(crate) mod host;
pub(crate) mod rows;
