//! Rotary position embedding by condensed positions, fused: one launch rotates query and key in
//! place, with cos and sin made inside the kernel, exact at every position.
#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod condensed;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod double_double;
mod element;
mod error;
mod frequencies;
mod heads;
#[cfg(feature = "hf")]
pub mod hf;
#[doc(hidden)]
pub mod kernel;
mod layout;
mod pairing;
mod positions;
mod scaled;
mod scaling;
mod sections;
#[cfg(feature = "tch")]
pub mod tch;
mod trace;

pub use condensed::{CondensedRotaryEmbedding, CosSin};
pub use element::{Dtype, Element};
pub use error::{Error, Result};
pub use frequencies::Frequencies;
pub use heads::Heads;
pub use layout::Layout;
pub use pairing::{Direction, Pairing};
pub use positions::{PositionKind, Positions};
pub use scaled::Scaled;
pub use scaling::{LongRope, Scaling, Yarn};
pub use sections::Sections;

/// The most channels a head may have.
pub const MAX_HEAD_DIM: usize = 1024;
