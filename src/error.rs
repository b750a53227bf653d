use std::fmt;

/// What can go wrong. Every check happens on the host before anything is launched or written.
///
/// Messages say what was expected and what was given. `tensor` is `"q"` or `"k"` (`"qkv"` for a
/// packed buffer), with `" source"` behind it for the tensor that an out-of-place call reads.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A rotary dimension that is odd, zero or over [`MAX_HEAD_DIM`](crate::MAX_HEAD_DIM).
    RotaryDim {
        /// The number of rotated channels that was asked for.
        given: usize,
    },
    /// A head dimension of zero or over [`MAX_HEAD_DIM`](crate::MAX_HEAD_DIM).
    HeadDim {
        /// Which tensor.
        tensor: &'static str,
        /// Its channels per head.
        given: usize,
    },
    /// A base that is not a finite number above zero.
    Base {
        /// The base that was given.
        given: f64,
    },
    /// A condense ratio that is not a finite number above zero.
    Ratio {
        /// The ratio that was given.
        given: f64,
    },
    /// A factor on cos and sin that is not finite.
    Factor {
        /// The factor that was given.
        given: f32,
    },
    /// A frequency that is not finite, or too high to keep exact (2^32 turns per position or more).
    Frequency {
        /// Which pair.
        pair: usize,
        /// Its frequency after condensing, in radians per position.
        given: f64,
    },
    /// A parameter of a scaling that is out of range.
    Scaling {
        /// Its name, transformers' one.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        given: f64,
    },
    /// A scaling's list that does not have one entry a pair.
    ScalingList {
        /// Its name, transformers' one.
        key: &'static str,
        /// Number of pairs.
        expected: usize,
        /// Its length.
        given: usize,
    },
    /// Sections of M-RoPE that do not add up to the pairs there are.
    Sections {
        /// Number of pairs (or the most there can be).
        expected: usize,
        /// Pairs by time, height and width.
        given: [usize; 3],
    },
    /// No sets of frequencies, or sets that differ in rotary dimension.
    Sets {
        /// The first set's rotary dimension.
        expected: usize,
        /// Another one's; zero where there are no sets.
        given: usize,
    },
    /// A condense ratio on top of a scaling that stretches positions itself.
    NotCondensable {
        /// transformers' name of the scaling.
        scaling: &'static str,
        /// The ratio that was given.
        ratio: f64,
    },
    /// A capacity (`max_position_embeddings · ratio`) that is not a finite number of rows.
    Capacity {
        /// The capacity that the arguments amount to.
        given: f64,
    },
    /// The rotated channels do not fit in the head.
    RotaryRange {
        /// Which tensor.
        tensor: &'static str,
        /// First rotated channel.
        offset: usize,
        /// Number of rotated channels.
        rotary_dim: usize,
        /// Channels per head.
        head_dim: usize,
    },
    /// A view reaches past the end of its buffer.
    OutOfBounds {
        /// Which tensor or index buffer.
        tensor: &'static str,
        /// Elements the view needs the buffer to have.
        needed: usize,
        /// Elements it has.
        given: usize,
    },
    /// A shape or stride too large to address: byte offsets stay within `i64`, the tokens of one
    /// launch below 2^31 and a tensor's heads below 2^15.
    TooLarge {
        /// Which tensor.
        tensor: &'static str,
        /// The quantity that is over its limit.
        what: &'static str,
        /// The most it may be.
        limit: usize,
    },
    /// Rows of one view share memory, so rotating in place would rotate something twice.
    OverlappingRows {
        /// Which tensor.
        tensor: &'static str,
        /// The strides of batch, token and head, in elements.
        strides: [usize; 3],
    },
    /// Two views of one buffer share memory, or cannot be shown not to.
    OverlappingTensors {
        /// The two tensors.
        tensors: [&'static str; 2],
    },
    /// A tensor disagrees with q about the number of tokens.
    Tokens {
        /// Which tensor.
        tensor: &'static str,
        /// q's `[batch, seq]`.
        expected: [usize; 2],
        /// This tensor's `[batch, seq]`.
        given: [usize; 2],
    },
    /// Source and target of an out-of-place rotation differ in shape.
    Shape {
        /// Which tensor.
        tensor: &'static str,
        /// The target's `[batch, seq, heads, head_dim]`.
        expected: [usize; 4],
        /// The source's.
        given: [usize; 4],
    },
    /// Source and target of an out-of-place rotation rotate different channels.
    RotaryOffset {
        /// Which tensor.
        tensor: &'static str,
        /// The target's first rotated channel.
        expected: usize,
        /// The source's.
        given: usize,
    },
    /// Position ids or starts of the wrong length.
    Positions {
        /// What the values are.
        what: &'static str,
        /// How many the call needs.
        expected: usize,
        /// How many were given.
        given: usize,
    },
    /// `cu_seqlens` that does not fit: it holds one more entry than there are sequences, so at least
    /// two, and as many as starts plus one where starts are given.
    CuSeqlens {
        /// Entries that would fit.
        expected: usize,
        /// Entries given.
        given: usize,
    },
    /// `cu_seqlens` go with `[tokens, heads, head_dim]` tensors, which have a batch of one.
    RaggedBatch {
        /// The batch that was given.
        given: usize,
    },
    /// Two element types where one is needed.
    Dtype {
        /// Which tensor or index buffer.
        tensor: &'static str,
        /// The type it must have.
        expected: &'static str,
        /// The type it has.
        given: String,
    },
    /// A pointer that is not aligned to its element type.
    Alignment {
        /// Which tensor or index buffer.
        tensor: &'static str,
        /// Bytes its address must be a multiple of.
        expected: usize,
        /// The address.
        given: u64,
    },
    /// A buffer or a stream that belongs to another CUDA context (or another device).
    Context {
        /// Which buffer, or `"stream"`.
        what: &'static str,
    },
    /// No CUDA driver library on this machine.
    NoDriver,
    /// The driver sees no device of this number.
    NoDevice {
        /// The device that was asked for.
        ordinal: usize,
    },
    /// The device is older than the kernels.
    DeviceTooOld {
        /// Compute capability the kernels need.
        expected: (i32, i32),
        /// The device's.
        given: (i32, i32),
    },
    /// No memory is left, on the device or off it, for the phase steps or the result.
    OutOfMemory {
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// The CUDA driver refused a call.
    Driver {
        /// What was being done.
        doing: &'static str,
        /// The driver's own name for the error, with its description.
        reason: String,
    },
    /// A tensor that the tch integration cannot take.
    Tensor {
        /// Which tensor.
        tensor: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        given: String,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn dtype(tensor: &'static str, expected: crate::Dtype, given: crate::Dtype) -> Self {
        Self::Dtype { tensor, expected: expected.name(), given: given.name().to_owned() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::MAX_HEAD_DIM;
        match self {
            Self::RotaryDim { given } => {
                write!(f, "rotary_dim must be even, from 2 to {MAX_HEAD_DIM}: given {given}")
            }
            Self::HeadDim { tensor, given } => {
                write!(f, "{tensor}: head_dim must be 1 to {MAX_HEAD_DIM}: given {given}")
            }
            Self::Base { given } => {
                write!(f, "base must be a finite number above zero: given {given}")
            }
            Self::Ratio { given } => {
                write!(f, "condense ratio must be a finite number above zero: given {given}")
            }
            Self::Factor { given } => {
                write!(f, "factor on cos and sin must be finite: given {given}")
            }
            Self::Frequency { pair, given } => write!(
                f,
                "frequency of pair {pair} must be finite and below 2^32 turns per position: \
                 given {given} radians per position"
            ),
            Self::Scaling { key, expected, given } => {
                write!(f, "{key} must be {expected}: given {given}")
            }
            Self::ScalingList { key, expected, given } => {
                write!(f, "{key} must have one entry a pair, {expected}: given {given}")
            }
            Self::Sections { expected, given } => {
                write!(f, "sections must add up to {expected} pairs: given {given:?}")
            }
            Self::Sets { given: 0, .. } => {
                write!(f, "there must be a set of frequencies: given none")
            }
            Self::Sets { expected, given } => {
                write!(f, "all sets must have a rotary dimension of {expected}: given {given}")
            }
            Self::NotCondensable { scaling, ratio } => write!(
                f,
                "{scaling} scaling stretches positions itself: a ratio of {ratio} would do it twice"
            ),
            Self::Capacity { given } => write!(
                f,
                "max_position_embeddings times ratio must be a finite number of rows: given {given}"
            ),
            Self::RotaryRange { tensor, offset, rotary_dim, head_dim } => write!(
                f,
                "{tensor}: rotated channels must lie within head_dim {head_dim}: \
                 given {rotary_dim} channels from {offset}"
            ),
            Self::OutOfBounds { tensor, needed, given } => {
                write!(f, "{tensor}: the view needs a buffer of {needed} elements: given {given}")
            }
            Self::TooLarge { tensor, what, limit } => {
                write!(f, "{tensor}: {what} must be at most {limit}: given more")
            }
            Self::OverlappingRows { tensor, strides: [batch, token, head] } => write!(
                f,
                "{tensor}: rows of a view that is written must not share memory: given strides \
                 of batch {batch}, token {token}, head {head} elements"
            ),
            Self::OverlappingTensors { tensors: [a, b] } => {
                write!(f, "{a} and {b} must not share memory")
            }
            Self::Tokens { tensor, expected, given } => {
                write!(f, "{tensor}: [batch, seq] must be q's {expected:?}: given {given:?}")
            }
            Self::Shape { tensor, expected, given } => write!(
                f,
                "{tensor}: [batch, seq, heads, head_dim] must be the target's {expected:?}: \
                 given {given:?}"
            ),
            Self::RotaryOffset { tensor, expected, given } => write!(
                f,
                "{tensor}: the first rotated channel must be the target's {expected}: given {given}"
            ),
            Self::Positions { what, expected, given } => {
                write!(f, "{what}: expected {expected} values: given {given}")
            }
            Self::CuSeqlens { expected, given } => {
                write!(f, "cu_seqlens: expected {expected} entries: given {given}")
            }
            Self::RaggedBatch { given } => write!(
                f,
                "cu_seqlens go with a batch of 1 ([tokens, heads, head_dim]): given a batch of {given}"
            ),
            Self::Dtype { tensor, expected, given } => {
                write!(f, "{tensor}: element type must be {expected}: given {given}")
            }
            Self::Alignment { tensor, expected, given } => write!(
                f,
                "{tensor}: address must be a multiple of {expected} bytes: given {given:#x}"
            ),
            Self::Context { what } => {
                write!(f, "{what} must belong to the rope's CUDA context: given one of another")
            }
            Self::NoDriver => write!(f, "no CUDA driver library on this machine"),
            Self::NoDevice { ordinal } => write!(f, "no CUDA device {ordinal} on this machine"),
            Self::DeviceTooOld { expected, given } => write!(
                f,
                "kernels need compute capability {}.{} or newer: given {}.{}",
                expected.0, expected.1, given.0, given.1
            ),
            Self::OutOfMemory { bytes } => {
                write!(f, "out of memory: expected {bytes} bytes to be free, given fewer")
            }
            Self::Driver { doing, reason } => write!(f, "CUDA driver, {doing}: {reason}"),
            Self::Tensor { tensor, expected, given } => {
                write!(f, "{tensor}: must be {expected}: given {given}")
            }
        }
    }
}

impl std::error::Error for Error {}
