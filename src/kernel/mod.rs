//! What the kernels are told, and how a launch is cut into threads. Knows no driver: the CUDA backend
//! submits a [`Launch`] to a stream, and the tests run one on the host.

#![allow(missing_docs, reason = "not part of the interface: for the crate and its tests")]

mod geometry;
mod launch;
mod raw;
mod request;
mod retention;
mod sets;

pub use crate::heads::check_table;
pub use geometry::{Geometry, Work};
pub use launch::{Device, Launch, Spec};
pub use raw::{PositionSource, RawHeads, RawIds, check_raw};
pub use request::{Axes, Choice, Divisor, Ids, Overlap, Request, Rest, Rows, Tensor};
pub use request::{TokenPositions, Variant};
pub use retention::{Retention, Traffic};
pub use sets::{SetShape, Sets, write as write_set};

/// A device address, or a host one where the kernels run on the host: `CUdeviceptr` in either case.
pub type Address = u64;

/// The kernels' entries, each in all variants: `ROPE_ENTRIES` of `kernels/variants.h`, and the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A thread takes one head of q or of k.
    Rotate1,
    /// Two heads of q or of k.
    Rotate2,
    /// Four heads of q or of k.
    Rotate4,
    /// Four heads of q and one of k.
    Rotate4And1,
    /// Two heads of q and one of k.
    Rotate2And1,
    /// As `Rotate2` and `Rotate2And1`, by many positions a token or many sets of frequencies.
    ManyRotate2,
    ManyRotate2And1,
    CosSin,
}

impl Entry {
    pub const ALL: [Self; 8] = [
        Self::Rotate1,
        Self::Rotate2,
        Self::Rotate4,
        Self::Rotate4And1,
        Self::Rotate2And1,
        Self::ManyRotate2,
        Self::ManyRotate2And1,
        Self::CosSin,
    ];

    /// What its kernels' names start with.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rotate1 => "rotate_1_0",
            Self::Rotate2 => "rotate_2_0",
            Self::Rotate4 => "rotate_4_0",
            Self::Rotate4And1 => "rotate_4_1",
            Self::Rotate2And1 => "rotate_2_1",
            Self::ManyRotate2 => "rotate_many_2_0",
            Self::ManyRotate2And1 => "rotate_many_2_1",
            Self::CosSin => "cos_sin",
        }
    }

    /// Heads of q and of k that one thread takes.
    pub fn heads(self) -> [usize; 2] {
        match self {
            Self::Rotate1 | Self::CosSin => [1, 1],
            Self::Rotate2 | Self::ManyRotate2 => [2, 2],
            Self::Rotate4 => [4, 4],
            Self::Rotate4And1 => [4, 1],
            Self::Rotate2And1 | Self::ManyRotate2And1 => [2, 1],
        }
    }

    /// Whether a block works on q and k, not on one of them.
    pub fn is_together(self) -> bool {
        matches!(self, Self::Rotate4And1 | Self::Rotate2And1 | Self::ManyRotate2And1)
    }
}
