//! The C interface. Every function returns a status: 0, or the code of an error, whose message
//! [`crope_last_error`] has. Nothing unwinds into C, and nothing aborts on input: NULL, unknown numbers, wrong struct
//! sizes and misaligned addresses come back as statuses.
//!
//! The library exports `crope_*` alone; `include/condensed_rope.h` is its header.

mod append;
mod error;
mod frequencies;
mod kernels;
mod rotate;
mod sized;

pub use append::*;
pub use error::*;
pub use frequencies::*;
pub use kernels::*;
pub use rotate::*;
