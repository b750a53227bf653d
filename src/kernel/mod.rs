//! What the kernels are told, and how a launch is cut into threads. Knows no driver: the CUDA backend
//! submits a [`Launch`] to a stream, and the tests run one on the host.

#![allow(missing_docs, reason = "not part of the interface: for the crate and its tests")]

mod geometry;
mod launch;
mod raw;
mod request;

pub use crate::heads::check_table;
pub use geometry::Geometry;
pub use launch::{Launch, Spec};
pub use raw::{RawHeads, RawIds, check_raw};
pub use request::{Divisor, Overlap, PositionSource, Request, Tensor, Variant};

/// A device address, or a host one where the kernels run on the host: `CUdeviceptr` in either case.
pub type Address = u64;

/// The kernels' entries, each in all variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A block works on q or on k.
    Apart,
    /// A block works on both.
    Together,
    CosSin,
}

impl Entry {
    pub const ALL: [Self; 3] = [Self::Apart, Self::Together, Self::CosSin];

    /// What its kernels' names start with.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apart => "rotate_apart",
            Self::Together => "rotate_together",
            Self::CosSin => "cos_sin",
        }
    }

    /// Heads of q and of k that one thread takes: `ROPE_APART` and so on of `kernels/variants.h`.
    pub fn heads(self) -> [usize; 2] {
        match self {
            Self::Apart => [2, 2],
            Self::Together => [4, 1],
            Self::CosSin => [1, 1],
        }
    }
}
