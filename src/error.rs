//! Every error of the crate, in one table: its code, its fields and its message.

use std::fmt;

use crate::limits::MAX_AXES;
use crate::{Dtype, MAX_HEAD_DIM};

macro_rules! errors {
    ($(
        $(#[doc = $doc:literal])+
        $code:literal $name:ident $({ $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty,)+ })?
            => $message:literal $(, $argument:expr)*;
    )+) => {
        /// What can go wrong. Every check happens on the host before anything is launched or written.
        ///
        /// Messages say what was expected and what was given. `tensor` is `"q"` or `"k"`, with `" source"`
        /// behind it for the tensor that an out-of-place call reads, or the name of an index buffer.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Error {
            $($(#[doc = $doc])+ $name $({ $($(#[doc = $field_doc])+ $field: $type,)+ })?,)+
        }

        impl Error {
            /// A number for other languages: stable, never used for another error, never zero.
            pub fn code(&self) -> u32 {
                match self {
                    $(Self::$name { .. } => $code,)+
                }
            }
        }

        impl fmt::Display for Error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name $({ $($field),+ })? => write!(f, $message $(, $argument)*),)+
                }
            }
        }

        /// Every variant, of fields that say nothing.
        #[cfg(test)]
        fn samples() -> Vec<Error> {
            vec![$(Error::$name $({ $($field: Default::default()),+ })?),+]
        }
    };
}

errors! {
    /// A rotary dimension that is odd, zero or over [`MAX_HEAD_DIM`].
    1 RotaryDim {
        /// The number of rotated channels that was asked for.
        given: usize,
    } => "rotary_dim must be even, from 2 to {MAX_HEAD_DIM}: given {given}";
    /// A head dimension of zero or over [`MAX_HEAD_DIM`].
    2 HeadDim {
        /// Which tensor.
        tensor: &'static str,
        /// Its channels per head.
        given: usize,
    } => "{tensor}: head_dim must be 1 to {MAX_HEAD_DIM}: given {given}";
    /// A base that is not a finite number above zero.
    3 Base {
        /// The base that was given.
        given: f64,
    } => "base must be a finite number above zero: given {given}";
    /// A condense ratio that is not a finite number above zero.
    4 Ratio {
        /// The ratio that was given.
        given: f64,
    } => "condense ratio must be a finite number above zero: given {given}";
    /// A factor on cos and sin that is not finite.
    5 Factor {
        /// The factor that was given.
        given: f32,
    } => "factor on cos and sin must be finite: given {given}";
    /// A frequency that is not finite, or too high to keep exact (2^32 turns per position or more).
    6 Frequency {
        /// Which pair.
        pair: usize,
        /// Its frequency after condensing, in radians per position.
        given: f64,
    } => "frequency of pair {pair} must be finite and below 2^32 turns per position: given {given} \
          radians per position";
    /// A parameter of a scaling that is out of range.
    7 Scaling {
        /// Its name, transformers' one.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        given: f64,
    } => "{key} must be {expected}: given {given}";
    /// A scaling's list that does not have one entry a pair.
    8 ScalingList {
        /// Its name, transformers' one.
        key: &'static str,
        /// Number of pairs.
        expected: usize,
        /// Its length.
        given: usize,
    } => "{key} must have one entry a pair, {expected}: given {given}";
    /// Sections of M-RoPE that do not add up to the pairs there are.
    9 Sections {
        /// Number of pairs (or the most there can be).
        expected: usize,
        /// Pairs of each axis.
        given: Vec<usize>,
    } => "sections must add up to {expected} pairs: given {given:?}";
    /// A rope without a set of frequencies.
    10 NoSets => "a rope needs at least one set of frequencies: given none";
    /// Frequencies of another rotary dimension than the rope's, or than its first set's.
    11 SetRotaryDim {
        /// The rope's.
        expected: usize,
        /// That of these frequencies.
        given: usize,
    } => "frequencies must have the rope's rotary dimension of {expected}: given {given}";
    /// A set of frequencies that the rope does not have.
    12 SetIndex {
        /// How many sets there are.
        count: usize,
        /// The index that was given.
        given: usize,
    } => "the rope has {count} sets of frequencies: given set {given}";
    /// Frequencies with another factor on cos and sin than the rope's own, to be written over its first
    /// set: calls that do not choose a set take the factor from the rope. A rope of several sets, of which
    /// calls choose one, may differ in every set but the first.
    13 SetFactor {
        /// The rope's.
        expected: f32,
        /// That of the new frequencies.
        given: f32,
    } => "frequencies written over a rope's first set must have its factor on cos and sin, {expected}: \
          given {given}";
    /// Writing over phase words that the caller owns: the rope only borrows them.
    14 BorrowedWords => "the rope borrows its phase words, which only their owner may write: given new \
          frequencies";
    /// Phase words of the wrong length.
    15 WordsLen {
        /// [`PhaseWords::len_of`](crate::PhaseWords::len_of) the rotary dimension and the sets.
        expected: usize,
        /// How many were given.
        given: usize,
    } => "phase words: expected {expected}: given {given}";
    /// Phase words of another version of the format.
    16 WordsFormat {
        /// [`PhaseWords::FORMAT`](crate::PhaseWords::FORMAT).
        expected: u32,
        /// The version that was given.
        given: u32,
    } => "phase words must be of format {expected}: given format {given}";
    /// A condense ratio on top of a scaling that stretches positions itself.
    17 NotCondensable {
        /// transformers' name of the scaling.
        scaling: &'static str,
        /// The ratio that was given.
        ratio: f64,
    } => "{scaling} scaling stretches positions itself: given a ratio of {ratio} on top, which would do \
          it twice";
    /// A capacity (`max_position_embeddings * ratio`) that is not a finite number of rows.
    18 Capacity {
        /// The capacity that the arguments amount to.
        given: f64,
    } => "max_position_embeddings times ratio must be a finite number of rows: given {given}";
    /// The rotated channels do not fit in the head.
    19 RotaryRange {
        /// Which tensor.
        tensor: &'static str,
        /// First rotated channel.
        offset: usize,
        /// Number of rotated channels.
        rotary_dim: usize,
        /// Channels per head.
        head_dim: usize,
    } => "{tensor}: rotated channels must lie within head_dim {head_dim}: given {rotary_dim} channels \
          from {offset}";
    /// A view reaches past the end of its buffer.
    20 OutOfBounds {
        /// Which tensor or index buffer.
        tensor: &'static str,
        /// Elements the view needs the buffer to have.
        needed: usize,
        /// Elements it has.
        given: usize,
    } => "{tensor}: the view needs a buffer of {needed} elements: given {given}";
    /// A size, stride or address range over its limit: tokens of one launch up to 2^31 - 1, heads of a
    /// tensor up to 32767, byte offsets within `i64`.
    21 TooLarge {
        /// Which tensor or index buffer.
        tensor: &'static str,
        /// The quantity that is over its limit.
        what: &'static str,
        /// The most it may be.
        limit: usize,
    } => "{tensor}: {what} must be at most {limit}: given more";
    /// Rows of one view share memory, so rotating in place would rotate something twice.
    22 OverlappingRows {
        /// Which tensor.
        tensor: &'static str,
        /// The strides of batch, token and head, in elements.
        strides: [usize; 3],
    } => "{tensor}: rows of a view that is written must not share memory: given strides of batch, token \
          and head {strides:?}";
    /// Two tensors, one of them written, share memory or cannot be shown not to.
    23 OverlappingTensors {
        /// The two tensors.
        tensors: [&'static str; 2],
    } => "{} and {} must not share memory: given two that do, or may", tensors[0], tensors[1];
    /// k disagrees with q about the number of tokens.
    24 Tokens {
        /// Which tensor.
        tensor: &'static str,
        /// q's `[batch, seq]`.
        expected: [usize; 2],
        /// This tensor's `[batch, seq]`.
        given: [usize; 2],
    } => "{tensor}: [batch, seq] must be q's {expected:?}: given {given:?}";
    /// Source and target of an out-of-place rotation differ in shape.
    25 Shape {
        /// Which tensor.
        tensor: &'static str,
        /// The target's `[batch, seq, heads, head_dim]`.
        expected: [usize; 4],
        /// The source's.
        given: [usize; 4],
    } => "{tensor}: [batch, seq, heads, head_dim] must be the target's {expected:?}: given {given:?}";
    /// Source and target of an out-of-place rotation rotate different channels.
    26 RotaryOffset {
        /// Which tensor.
        tensor: &'static str,
        /// The target's first rotated channel.
        expected: usize,
        /// The source's.
        given: usize,
    } => "{tensor}: the first rotated channel must be the target's {expected}: given {given}";
    /// Position ids, starts or choices of sets of the wrong length.
    27 Positions {
        /// What the values are.
        what: &'static str,
        /// How many the call needs.
        expected: usize,
        /// How many were given.
        given: usize,
    } => "{what}: expected {expected} values: given {given}";
    /// `cu_seqlens` of fewer than two entries: one more than there are sequences, of which there is one at
    /// least.
    28 CuSeqlens {
        /// Entries given.
        given: usize,
    } => "cu_seqlens: expected 2 entries or more: given {given}";
    /// `cu_seqlens` go with `[tokens, heads, head_dim]` tensors, which have a batch of one.
    29 RaggedBatch {
        /// The batch that was given.
        given: usize,
    } => "cu_seqlens go with a batch of 1 ([tokens, heads, head_dim]): given a batch of {given}";
    /// An element type that is not the one needed, or none that the kernels know.
    30 Dtype {
        /// Which tensor or index buffer.
        tensor: &'static str,
        /// The type it must have.
        expected: &'static str,
        /// The type it has.
        given: String,
    } => "{tensor}: element type must be {expected}: given {given}";
    /// An address that is not a multiple of the element size (of 16 bytes, for phase words on a GPU).
    31 Alignment {
        /// Which tensor or index buffer.
        tensor: &'static str,
        /// Bytes its address must be a multiple of.
        expected: usize,
        /// The address.
        given: u64,
    } => "{tensor}: address must be a multiple of {expected} bytes: given {given:#x}";
    /// An address of zero where elements are to be read or written.
    32 Null {
        /// Which tensor or index buffer.
        tensor: &'static str,
    } => "{tensor}: expected an address: given null";
    /// A tensor of the wrong number of dimensions.
    33 Rank {
        /// Which tensor.
        tensor: &'static str,
        /// Dimensions it must have.
        expected: usize,
        /// Dimensions it has (or strides, where their number differs).
        given: usize,
    } => "{tensor}: expected {expected} dimensions: given {given}";
    /// A size below zero.
    34 Size {
        /// Which tensor.
        tensor: &'static str,
        /// Which of its dimensions.
        dimension: usize,
        /// The size.
        given: i64,
    } => "{tensor}: size of dimension {dimension} must be zero or more: given {given}";
    /// A stride below zero, or channels that are not contiguous.
    35 Stride {
        /// Which tensor.
        tensor: &'static str,
        /// Which of its dimensions.
        dimension: usize,
        /// What the stride must be.
        expected: &'static str,
        /// The stride, in elements.
        given: i64,
    } => "{tensor}: stride of dimension {dimension} must be {expected}: given {given}";
    /// A call with neither q nor k.
    36 NoTensors => "expected q, k or both: given neither";
    /// A buffer or a stream that belongs to another CUDA context, or to another handle of the same one:
    /// cudarc orders streams by state of each handle.
    37 Context {
        /// Which buffer, or `"stream"`.
        what: &'static str,
    } => "{what} must belong to the very CudaContext handle of the rope's kernels: given one of another \
          context, or of another handle of the same one";
    /// No CUDA driver library on this machine.
    38 NoDriver => "expected a CUDA driver library on this machine: given none";
    /// The driver sees no device of this number.
    39 NoDevice {
        /// The device that was asked for.
        ordinal: usize,
    } => "no such CUDA device on this machine: given {ordinal}";
    /// The device is older than the kernels.
    40 DeviceTooOld {
        /// Compute capability the kernels need.
        expected: (i32, i32),
        /// The device's.
        given: (i32, i32),
    } => "kernels need compute capability {}.{} or newer: given {}.{}", expected.0, expected.1, given.0,
        given.1;
    /// No memory is left, on the device or off it, for phase words or a result.
    41 OutOfMemory {
        /// Bytes that were asked for.
        bytes: usize,
    } => "out of memory: expected {bytes} bytes to be free, given fewer";
    /// A stream that is being captured into a graph, for something that cannot be captured.
    42 StreamCapturing {
        /// What was asked for.
        doing: &'static str,
    } => "{doing} cannot be captured into a graph: given a stream that is being captured";
    /// The CUDA driver refused a call.
    43 Driver {
        /// What was being done.
        doing: &'static str,
        /// The driver's own name for the error, with its description.
        reason: String,
    } => "CUDA driver, {doing}: {reason}";
    /// A tensor that the tch integration cannot take.
    44 Tensor {
        /// Which tensor.
        tensor: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        given: String,
    } => "{tensor}: must be {expected}: given {given}";
    /// More axes than a token has positions, or none.
    45 Axes {
        /// How many were given.
        given: usize,
    } => "sections must be of 1 to {MAX_AXES} axes: given {given}";
    /// A pair's axis that there is not.
    46 Axis {
        /// Which pair.
        pair: usize,
        /// Number of axes.
        expected: usize,
        /// The axis that was given.
        given: usize,
    } => "axis of pair {pair} must be one of {expected}: given {given}";
    /// Rotated channels that two axes cannot share in whole pairs.
    47 Vision2d {
        /// Number of rotated channels.
        given: usize,
    } => "rotary_dim of a rope of two axes must be a multiple of 4 up to {MAX_HEAD_DIM}: given {given}";
    /// No context is current on the calling thread.
    48 NoContext => "expected a CUDA context that is current on this thread: given none";
    /// A head of an odd number of channels, where all of it is normalised or cached: channels come in pairs.
    49 OddHeadDim {
        /// Which tensor.
        tensor: &'static str,
        /// Its channels per head.
        given: usize,
    } => "{tensor}: head_dim must be even where heads are normalised or cached: given {given}";
    /// An epsilon of a norm that is not a number from 2^-101 on: what is smaller has no root of the same bits everywhere.
    50 Epsilon {
        /// The epsilon that was given.
        given: f32,
    } => "epsilon of a norm must be finite, 2^-101 or more: given {given}";
    /// A scale of 8-bit floats that is not a normal number above zero.
    51 Scale {
        /// Whose.
        tensor: &'static str,
        /// The scale that was given.
        given: f32,
    } => "{tensor}: must be finite, 2^-126 or more: given {given}";
    /// Keys or values that are only read, without a cache for them to go to; or a cache without them.
    52 Cache {
        /// What is missing, or superfluous.
        what: &'static str,
        /// What the call must have.
        expected: &'static str,
    } => "{what}: expected {expected}: given none";
    /// A cache that does not have the heads of what goes there, or the pages of the other one.
    53 CacheShape {
        /// Which cache.
        tensor: &'static str,
        /// Which of its sizes.
        what: &'static str,
        /// What it must be.
        expected: usize,
        /// What it is.
        given: usize,
    } => "{tensor}: {what} must be {expected}: given {given}";
    /// The driver is of an older CUDA release than the kernels were compiled for.
    54 DriverTooOld {
        /// The CUDA release that the driver must be of, at least.
        expected: (i32, i32),
        /// The driver's.
        given: (i32, i32),
    } => "kernels need a driver of CUDA {}.{} or newer: given one of {}.{}", expected.0, expected.1,
        given.0, given.1;
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn dtype(tensor: &'static str, expected: Dtype, given: Dtype) -> Self {
        Self::Dtype { tensor, expected: expected.name(), given: given.name().to_owned() }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_ascend() {
        let codes: Vec<u32> = samples().iter().map(Error::code).collect();
        assert!(codes.windows(2).all(|two| two[0] < two[1]) && codes[0] > 0, "{codes:?}");
    }

    /// What was expected and what was given, in one line, and in words of its own.
    #[test]
    fn messages_say_what_was_given() {
        let messages: Vec<String> = samples().iter().map(Error::to_string).collect();
        for (error, message) in samples().iter().zip(&messages) {
            println!("{:2} {message}", error.code());
            let given = message.contains("given") || matches!(error, Error::Driver { .. });
            assert!(given && !message.contains('\n'), "{message}");
            assert_eq!(messages.iter().filter(|m| *m == message).count(), 1, "{message}");
        }
    }
}
