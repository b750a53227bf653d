//! What condensed-rope's tests share: a naive truth in f64, calls with guards around every row,
//! tolerances derived from the element type, the grids that every backend runs, and (feature
//! `kernel-on-host`) the kernels' own source compiled for the host.

pub mod backend;
pub mod call;
mod case;
pub mod choices;
pub mod errors;
pub mod golden;
pub mod grids;
#[cfg(feature = "kernel-on-host")]
pub mod host;
pub mod models;
pub mod suite;
pub mod tolerance;
pub mod truth;

pub use backend::{Backend, Cpu};
pub use call::{Call, Operand, Values};
pub use case::{Case, Order, check};
