use std::ffi::c_void;

use crate::{
    Append, Dtype, Frequencies, Positions, Raw, RawBuffer, RawIds, RawOperand, Result, RopeSpec,
    cpu,
};

/// A rope of either backend, for callers that learn at run time where their tensors lie. Streams are those of
/// `cuda::RawStream`; the CPU has none, and takes null or any.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AnyRope {
    /// Over host memory.
    Cpu(cpu::Rope),
    /// Over device memory.
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::Rope),
}

impl From<cpu::Rope> for AnyRope {
    fn from(rope: cpu::Rope) -> Self {
        Self::Cpu(rope)
    }
}

#[cfg(feature = "cuda")]
impl From<crate::cuda::Rope> for AnyRope {
    fn from(rope: crate::cuda::Rope) -> Self {
        Self::Cuda(rope)
    }
}

impl AnyRope {
    /// What the rope is, apart from its words.
    pub fn spec(&self) -> &RopeSpec {
        match self {
            Self::Cpu(rope) => rope.spec(),
            #[cfg(feature = "cuda")]
            Self::Cuda(rope) => rope.spec(),
        }
    }

    /// The same rope turning the other way.
    pub fn inverse(&self) -> Self {
        match self {
            Self::Cpu(rope) => rope.inverse().into(),
            #[cfg(feature = "cuda")]
            Self::Cuda(rope) => rope.inverse().into(),
        }
    }

    /// As [`cpu::Rope::rotate_raw`] or `cuda::Rope::rotate_raw`.
    ///
    /// # Errors
    /// Theirs.
    ///
    /// # Safety
    /// Theirs.
    pub unsafe fn rotate_raw(
        &self,
        stream: *mut c_void,
        q: Option<RawOperand>,
        k: Option<RawOperand>,
        positions: Positions<RawIds>,
    ) -> Result<()> {
        let _ = stream;
        match self {
            // SAFETY: the caller's promise.
            Self::Cpu(rope) => unsafe { rope.rotate_raw(q, k, positions) },
            #[cfg(feature = "cuda")]
            // SAFETY: the caller's promise.
            Self::Cuda(rope) => unsafe { rope.rotate_raw(stream, q, k, positions) },
        }
    }

    /// As [`cpu::Rope::rotate_append_raw`] or `cuda::Rope::rotate_append_raw`.
    ///
    /// # Errors
    /// Theirs.
    ///
    /// # Safety
    /// Theirs.
    pub unsafe fn rotate_append_raw(
        &self,
        stream: *mut c_void,
        call: Append<Raw>,
        positions: Positions<RawIds>,
    ) -> Result<()> {
        let _ = stream;
        match self {
            // SAFETY: the caller's promise.
            Self::Cpu(rope) => unsafe { rope.rotate_append_raw(call, positions) },
            #[cfg(feature = "cuda")]
            // SAFETY: the caller's promise.
            Self::Cuda(rope) => unsafe { rope.rotate_append_raw(stream, call, positions) },
        }
    }

    /// As [`cpu::Rope::cos_sin_raw`] or `cuda::Rope::cos_sin_raw`.
    ///
    /// # Errors
    /// Theirs.
    ///
    /// # Safety
    /// Theirs.
    pub unsafe fn cos_sin_raw(
        &self,
        stream: *mut c_void,
        dtype: Dtype,
        start: i64,
        rows: usize,
        cos: RawBuffer,
        sin: RawBuffer,
    ) -> Result<()> {
        let _ = stream;
        match self {
            // SAFETY: the caller's promise.
            Self::Cpu(rope) => unsafe { rope.cos_sin_raw(dtype, start, rows, cos, sin) },
            #[cfg(feature = "cuda")]
            // SAFETY: the caller's promise.
            Self::Cuda(rope) => unsafe { rope.cos_sin_raw(stream, dtype, start, rows, cos, sin) },
        }
    }

    /// As [`cpu::Rope::set_frequencies`] or `cuda::Rope::set_frequencies_raw`.
    ///
    /// # Errors
    /// Theirs.
    ///
    /// # Safety
    /// `stream` is a stream of the rope's context.
    pub unsafe fn set_frequencies_raw(
        &self,
        stream: *mut c_void,
        set: usize,
        frequencies: &Frequencies,
    ) -> Result<()> {
        let _ = stream;
        match self {
            Self::Cpu(rope) => rope.set_frequencies(set, frequencies),
            #[cfg(feature = "cuda")]
            // SAFETY: the caller's promise.
            Self::Cuda(rope) => unsafe { rope.set_frequencies_raw(stream, set, frequencies) },
        }
    }
}
