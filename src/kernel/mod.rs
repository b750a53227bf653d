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
pub use request::{Divisor, Overlap, PositionSource, Request, Tensor, Variant};

/// A device address, or a host one where the kernels run on the host: `CUdeviceptr` in either case.
pub type Address = u64;

/// The kernels' entries, each in all variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Two heads a thread.
    Rotate2,
    /// Eight heads a thread.
    Rotate8,
    CosSin,
}

impl Entry {
    pub const ALL: [Self; 3] = [Self::Rotate2, Self::Rotate8, Self::CosSin];

    /// What its kernels' names start with.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rotate2 => "rotate_2",
            Self::Rotate8 => "rotate_8",
            Self::CosSin => "cos_sin",
        }
    }

    /// Heads that one thread takes.
    pub fn heads(self) -> usize {
        match self {
            Self::Rotate2 => 2,
            Self::Rotate8 => 8,
            Self::CosSin => 1,
        }
    }
}
