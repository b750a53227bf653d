//! FastChat's class, on both backends.

use crate::{Element, Error, Frequencies, Pairing, Result, cpu};

/// FastChat's `CondenseRotaryEmbedding`: cos and sin tables of condensed positions.
///
/// Same arguments, same shapes, same growth. The values are exact at every row where FastChat's
/// f32 angles drift, and a row does not depend on the type or the length that was asked for before:
/// each call makes its rows anew, rounded once to the type it returns.
///
/// ```
/// use condensed_rope::CondensedRotaryEmbedding;
///
/// let mut embedding = CondensedRotaryEmbedding::new(128, 8.0)?; // LongChat-7b-16k
/// let table = embedding.forward::<f32>(4096)?;
/// assert_eq!(table.shape, [1, 1, 4096, 128]);
/// assert_eq!(embedding.capacity(), 16384.0);
/// embedding.forward::<half::f16>(70_000)?; // longer than the capacity: it grows
/// assert_eq!(embedding.capacity(), 70_000.0);
/// # Ok::<(), condensed_rope::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CondensedRotaryEmbedding {
    frequencies: Frequencies,
    rope: cpu::Rope,
    capacity: f64,
}

/// Cos and sin of consecutive positions from 0, as FastChat's `forward` returns them.
#[derive(Clone, Debug, PartialEq)]
pub struct CosSin<B> {
    /// Cosines, row by row.
    pub cos: B,
    /// Sines, row by row.
    pub sin: B,
    /// `[1, 1, seq_len, dim]`, of either.
    pub shape: [usize; 4],
}

impl CondensedRotaryEmbedding {
    /// FastChat's default for `max_position_embeddings`: the length LLaMA was trained on.
    pub const MAX_POSITION_EMBEDDINGS: usize = 2048;
    /// FastChat's default for `base`.
    pub const BASE: f64 = 10_000.0;

    /// For heads of `dim` channels and a condense ratio, with FastChat's defaults.
    ///
    /// # Errors
    /// As [`with_base`](Self::with_base).
    pub fn new(dim: usize, ratio: f64) -> Result<Self> {
        Self::with_base(dim, ratio, Self::MAX_POSITION_EMBEDDINGS, Self::BASE)
    }

    /// The whole argument list. `max_position_embeddings` is the length *before* condensing.
    ///
    /// # Errors
    /// [`Error::RotaryDim`], [`Error::Base`] and [`Error::Ratio`] as [`Frequencies`] gives them;
    /// [`Error::Capacity`] where `max_position_embeddings * ratio` is not finite.
    pub fn with_base(
        dim: usize,
        ratio: f64,
        max_position_embeddings: usize,
        base: f64,
    ) -> Result<Self> {
        let frequencies = Frequencies::new(dim, base)?.condensed(ratio)?;
        let capacity = max_position_embeddings as f64 * ratio;
        if !capacity.is_finite() {
            return Err(Error::Capacity { given: capacity });
        }
        let rope = cpu::Rope::new(&frequencies, Pairing::HalfSplit);
        Ok(Self { frequencies, rope, capacity })
    }

    /// The frequencies, to make a rope of.
    pub fn frequencies(&self) -> &Frequencies {
        &self.frequencies
    }

    /// Positions that FastChat's table would hold now: `max_position_embeddings * ratio` at first
    /// (fractional where the ratio is; its table then has the next whole number of rows), later the
    /// longest `seq_len` asked for. Any position is exact whatever this says.
    pub fn capacity(&self) -> f64 {
        self.capacity
    }

    /// Cos and sin of positions `0..seq_len` on the CPU, in the asked type.
    ///
    /// # Errors
    /// [`Error::TooLarge`] where the table does not fit in memory's address range or has 2^31 rows or more;
    /// [`Error::OutOfMemory`] where the allocator refuses it.
    pub fn forward<T: Element>(&mut self, seq_len: usize) -> Result<CosSin<Vec<T>>> {
        let (len, shape) = self.table(seq_len)?;
        let (mut cos, mut sin) = (zeros(len)?, zeros(len)?);
        self.rope.cos_sin(0, &mut cos, &mut sin)?;
        self.grow(seq_len);
        Ok(CosSin { cos, sin, shape })
    }

    /// The same in device memory, made by one launch of `kernels` on `stream`, and waited for.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or as [`cuda::Rope::cos_sin`](crate::cuda::Rope::cos_sin).
    #[cfg(feature = "cuda")]
    pub fn forward_cuda<T: crate::cuda::DeviceElement>(
        &mut self,
        kernels: &crate::cuda::Kernels,
        stream: &std::sync::Arc<cudarc::driver::CudaStream>,
        seq_len: usize,
    ) -> Result<CosSin<cudarc::driver::CudaSlice<T>>> {
        let (len, shape) = self.table(seq_len)?;
        let rope = crate::cuda::Rope::new(kernels, &self.frequencies, Pairing::HalfSplit)?;
        let [cos, sin] = rope.new_table(stream, len)?;
        self.grow(seq_len);
        Ok(CosSin { cos, sin, shape })
    }

    /// Elements and shape of a table.
    fn table(&self, seq_len: usize) -> Result<(usize, [usize; 4])> {
        let dim = self.frequencies.rotary_dim();
        let limit = isize::MAX as usize / 8;
        let len = seq_len.checked_mul(dim).filter(|&len| len <= limit);
        let len = len.ok_or(Error::TooLarge { tensor: "cos", what: "the table", limit })?;
        Ok((len, [1, 1, seq_len, dim]))
    }

    fn grow(&mut self, seq_len: usize) {
        self.capacity = self.capacity.max(seq_len as f64);
    }
}

fn zeros<T: Element>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    let reserved = values.try_reserve_exact(len);
    reserved.map_err(|_| Error::OutOfMemory { bytes: len * size_of::<T>() })?;
    values.resize(len, T::default());
    Ok(values)
}
