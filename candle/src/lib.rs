//! Rotary position embedding by condensed positions for candle: query and key in one launch, exact at every position.
//!
//! [`Rope`] rotates tensors as they lie, out of place with a gradient where one is tracked, in place, or straight into a
//! KV cache. [`RotaryEmbedding`] is one that a model's `config.json` or GGUF file describes, with one optional condense
//! ratio: the switch by which a model reads longer contexts.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use condensed_rope_candle::{DimOrder, Frequencies, Pairing, Positions, Rope};
//!
//! // LongChat: positions divided by 8.
//! let frequencies = Frequencies::new(128, 10_000.0).and_then(|f| f.condensed(8.0));
//! let frequencies = frequencies.map_err(candle_core::Error::wrap)?;
//! let rope = Rope::new(&Device::Cpu, &frequencies, Pairing::HalfSplit)?;
//! let q = Tensor::randn(0f32, 1.0, (1, 32, 10, 128), &Device::Cpu)?;
//! let k = Tensor::randn(0f32, 1.0, (1, 8, 10, 128), &Device::Cpu)?;
//! let (q, k) = rope.rotate(DimOrder::Bhsd, &q, &k, &Positions::consecutive(4096))?;
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! The version follows candle's minor one. The feature `cuda` is candle's `cuda` and ours.

mod append;
mod gradient;
#[cfg(feature = "cuda")]
mod kernels;
mod locks;
mod memory;
mod positions;
mod rope;
mod rotary_embedding;

pub use append::{Append, KvCache, Norm, Slots};
pub use condensed_rope::DimOrder;
pub use condensed_rope::config;
pub use condensed_rope::{
    Dtype, Error, Frequencies, FrequencySchedule, Layout, Ntk, Pairing, RopeScaling, SectionOrder,
    Sections,
};
pub use rope::Rope;
pub use rotary_embedding::RotaryEmbedding;

/// The position of each token: tensors of `u32`, `i32` or `i64` on q's device, or a start on the host.
///
/// Ids are `[tokens]` or `[batch, seq]`, `[seq]` and `[1, seq]` for a row that the batch shares; ids of several axes
/// `[axes, tokens]` or `[axes, batch, seq]`; starts, `cu_seqlens` and sets contiguous.
pub type Positions = condensed_rope::Positions<candle_core::Tensor>;
