//! The most of everything. Indices of the kernels are 32 bits wide, their byte offsets 64.

/// The most channels a head may have.
pub const MAX_HEAD_DIM: usize = 1024;
/// Positions of one token: rows of ids, of which each pair takes one.
pub(crate) const MAX_AXES: usize = 4;
/// Tokens of one launch.
pub(crate) const MAX_TOKENS: usize = i32::MAX as usize;
/// Heads of one tensor: slices of heads are counted in the grid's second dimension, which ends at 65535.
pub(crate) const MAX_HEADS: usize = i16::MAX as usize;
/// A stride or an offset in elements: in bytes it stays within `i64`.
pub(crate) const MAX_STRIDE: usize = i64::MAX as usize / 8;
/// Sets of frequencies of one rope, and sequences of one ragged batch.
pub(crate) const MAX_SETS: usize = u32::MAX as usize;
