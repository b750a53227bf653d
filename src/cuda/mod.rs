//! The CUDA backend: one launch rotates q and k, on any stream of the rope's context.
//!
//! ```no_run
//! use condensed_rope::{Frequencies, Layout, Pairing, Positions, cuda};
//! use half::bf16;
//!
//! let context = cuda::context(0)?;
//! let stream = context.default_stream();
//! let kernels = cuda::Kernels::load(&context)?; // once a context
//! let frequencies = Frequencies::new(128, 10_000.0)?.condensed(8.0)?;
//! let rope = cuda::Rope::new(&kernels, &frequencies, Pairing::HalfSplit)?;
//!
//! let mut q = stream.alloc_zeros::<bf16>(16_384 * 32 * 128)?;
//! let mut k = stream.alloc_zeros::<bf16>(16_384 * 8 * 128)?;
//! let ids = stream.clone_htod(&(0..16_384).collect::<Vec<i32>>())?;
//! rope.rotate(
//!     &stream,
//!     Some(cuda::Heads::in_place(&mut q, Layout::thd(16_384, 32, 128))),
//!     Some(cuda::Heads::in_place(&mut k, Layout::thd(16_384, 8, 128))),
//!     Positions::ids(&ids),
//! )?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A call checks its arguments and launches: it allocates nothing and waits for nothing, so it can be captured
//! into a graph. A replay sees the positions that the buffers hold then. The graph shares the rope's kernels
//! and phase words, and keeps them.
//!
//! # Contexts and streams
//!
//! cudarc keeps what orders streams (event tracking, the number of streams) in each [`CudaContext`] *handle*.
//! So everything of a call must come from the very handle that the kernels were loaded with: load them with
//! `stream.context()`. Safe calls order themselves by cudarc's events, where the handle has them on, and
//! leave their context current, as cudarc's do. Raw ones order nothing, and leave the caller's context
//! current.
//!
//! # Safety
//!
//! Three holes of cudarc 0.19's own safe interface stay open around the safe calls here, and no wrapper can
//! close them:
//!
//! - `CudaGraph::launch` is safe, although a graph names buffers by address: q, k and position buffers must
//!   outlive every graph that captured a call on them, as with cudarc's own `memset_zeros` or `memcpy_dtod`.
//! - A `CudaSlice` keeps *one* event for its reads: where launches on two streams read one buffer (ids, say),
//!   a later write or free waits for the last of them alone.
//! - Dropping the last stream that was made besides the default one turns event tracking off, also for work
//!   that it still runs.
//!
//! # L2
//!
//! On devices of compute capability 9.0 and newer a rotation in place loads with evict_last and stores with
//! evict_normal. Afterwards those lines are ordinary ones, whatever an access policy window had asked for them
//! before; of whole heads that are more than half of L2, one half is evict_first.

mod capture;
mod context;
mod kernels;
mod memory;
mod operands;
mod rope;
mod words;

pub use context::{RawStream, context};
pub use cudarc;
#[cfg(doc)]
use cudarc::driver::CudaContext;
pub use kernels::{COMPILER, Kernels, launch_on};
pub use memory::{Append, Buffer, Device, Tensor};
pub use operands::{DeviceElement, Heads, Ids, View, ViewMut};
pub use rope::Rope;

pub use crate::plan::Pdl;
