//! What the kernels are told, and how a launch is cut into threads. Knows no driver: the CUDA backend
//! submits a [`Launch`] to a stream, and the tests run one on the host.

#![allow(missing_docs, reason = "not part of the interface: for the crate and its tests")]

mod geometry;
mod launch;
mod raw;
mod request;

pub use geometry::Geometry;
pub use launch::{Launch, Spec};
pub use raw::{RawHeads, RawIds, check_raw};
pub use request::{Divisor, PositionSource, Request, Tensor, Variant};

/// A device address, or a host one where the kernels run on the host: `CUdeviceptr` in either case.
pub type Address = u64;

/// The kernels' two entries, each in all variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Rotate,
    CosSin,
}

impl Entry {
    /// What its kernels' names start with.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rotate => "rotate",
            Self::CosSin => "cos_sin",
        }
    }
}
