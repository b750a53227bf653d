//! Rotary position embedding by condensed positions, fused: one launch rotates query and key in
//! place, with cos and sin made inside the kernel, exact at every position.
//!
//! Data goes one way:
//!
//! ```text
//! Frequencies -> PhaseWords -> Rope -> rotate(q, k, positions)
//! ```
//!
//! # Map
//!
//! | what | where |
//! |---|---|
//! | how fast pairs turn | [`Frequencies`], [`FrequencySchedule`] by a [`RopeScaling`]; as words: [`PhaseWords`] |
//! | from a checkpoint's `config.json` | `config` (feature `config`) |
//! | what a call says | [`Layout`], [`DimOrder`], [`Positions`], [`Sections`], [`SectionOrder`], [`Pairing`], [`Dtype`], [`IndexType`] |
//! | norm, rotation and append in one call | [`Append`], [`QkNorm`], [`KvCache`], [`KvLayout`], [`SlotMapping`], [`Scale`], [`Stored`] |
//! | the same by address | [`RawOperand`], [`RawIds`], [`RawBuffer`], [`RopeSpec`] |
//! | what does the work | [`cpu::Rope`]; `cuda::Rope` (feature `cuda`, on by default); either: [`AnyRope`]; on tensors: `tch::rotate` (feature `tch`) |
//! | FastChat's class | [`CondensedRotaryEmbedding`] |
//! | what can go wrong | [`Error`], with a stable [`code`](Error::code) |
//!
//! Safe, generic and raw entries of a backend take one way: operands by address, one check, a plan that
//! cannot fail, one launch. So they accept and refuse the same calls, and all backends give the same bits.
//!
//! # Example
//!
//! ```
//! use condensed_rope::{Frequencies, Layout, Pairing, Positions, cpu};
//!
//! // LongChat-7b-16k: trained on 2048 positions, reads 2048 * 8 of them.
//! let frequencies = Frequencies::new(128, 10_000.0)?.condensed(8.0)?;
//! let rope = cpu::Rope::new(&frequencies, Pairing::HalfSplit);
//!
//! // One decoded token of each of two sequences: 32 query heads, 8 key heads.
//! let (mut q, mut k) = (vec![1f32; 2 * 32 * 128], vec![1f32; 2 * 8 * 128]);
//! rope.rotate(
//!     Some(cpu::Heads::in_place(&mut q, Layout::bshd(2, 1, 32, 128))),
//!     Some(cpu::Heads::in_place(&mut k, Layout::bshd(2, 1, 8, 128))),
//!     Positions::starts(&[16_383i64, 70]),
//! )?;
//! # Ok::<(), condensed_rope::Error>(())
//! ```
//!
//! On a GPU the calls are the same, with a stream and device memory: see `cuda`.
//!
//! # Features
//!
//! `cuda` (default): the GPU backend, with the kernels compiled; a driver to run. `config`: `config.json` and GGUF. `tch`: reference
//! flows and rotation of tensors; libtorch. `nvtx`: NVTX ranges around calls. `bench`, `peers`: for this
//! crate's own benches.
//!
//! Signatures of `cuda` hold types of cudarc 0.19: a new minor version of cudarc is a breaking release here.
#![deny(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod any_rope;
mod call;
#[cfg(feature = "config")]
pub mod config;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod error;
mod fastchat;
mod frequencies;
mod limits;
#[doc(hidden)]
pub mod plan;
#[cfg(feature = "tch")]
pub mod tch;
mod trace;

pub use any_rope::AnyRope;
pub use call::{
    Address, Append, DimOrder, Direction, Dtype, Element, IndexType, Keys, KvCache, KvLayout,
    Layout, Memory, Pairing, PositionKind, Positions, QkNorm, Queries, Raw, RawBuffer, RawIds,
    RawMemory, RawOperand, RawTensor, RopeSpec, Rows, Scale, SectionOrder, Sections, SlotMapping,
    Slots, Stored,
};
pub use error::{Error, Result};
pub use fastchat::{CondensedRotaryEmbedding, CosSin};
pub use frequencies::{
    Dynamic, Frequencies, FrequencySchedule, Linear, Llama3, LongRope, Ntk, PhaseWords,
    Proportional, RopeScaling, Yarn,
};
pub use limits::MAX_HEAD_DIM;
pub use plan::Pdl;

/// The README's example is compiled.
#[cfg(all(doctest, feature = "cuda"))]
#[doc = include_str!("../README.md")]
struct Readme;
