//! What condensed-rope's tests share: a naive truth in f64, calls with guards around every row,
//! tolerances derived from the element type, what every backend must show, and (feature
//! `kernel-on-host`) the kernels' own source compiled for the host. README.md says how to add to it.

pub mod append;
pub mod backend;
pub mod call;
mod case;
pub mod conformance;
pub mod golden;
#[cfg(feature = "kernel-on-host")]
pub mod host;
pub mod hostile;
pub mod oracle;

pub use backend::{Backend, Cpu};
pub use call::{Call, Operand, Values};
pub use case::{Case, Order, check};
pub use oracle::tolerance;
