//! The CUDA backend: one launch rotates q and k, on any stream of the rope's context.
//!
//! ```no_run
//! use condensed_rope::{Frequencies, Layout, Pairing, Positions, cuda};
//! use half::bf16;
//!
//! let context = cuda::context(0)?;
//! let stream = context.default_stream();
//! let frequencies = Frequencies::new(128, 10_000.0)?.condensed(8.0)?;
//! let rope = cuda::Rope::new(&context, &frequencies, Pairing::HalfSplit)?;
//!
//! let mut q = stream.alloc_zeros::<bf16>(16_384 * 32 * 128)?;
//! let mut k = stream.alloc_zeros::<bf16>(16_384 * 8 * 128)?;
//! let ids = stream.clone_htod(&(0..16_384).collect::<Vec<i32>>())?;
//! rope.rotate(
//!     &stream,
//!     cuda::Heads::in_place(&mut q, Layout::thd(16_384, 32, 128)),
//!     Some(cuda::Heads::in_place(&mut k, Layout::thd(16_384, 8, 128))),
//!     Positions::ids(&ids),
//! )?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A call checks its arguments and launches: it allocates nothing, waits for nothing and asks the
//! driver nothing, so it can be captured into a graph. A replay sees the positions that the buffers
//! hold then. Keep the rope as long as the graph may run: the graph reads the rope's steps.
//!
//! Calls order themselves by cudarc's event tracking, where the context has it on.
//!
//! On devices of compute capability 9.0 and newer a rotation in place asks L2 to keep what it reads until
//! it is written. Afterwards those lines are ordinary ones, whatever an access policy window had asked
//! for them before; of whole heads that are more than half of L2, one half is among the first to go.

mod buffers;
mod kernels;
mod rope;

use std::sync::Arc;

pub use crate::kernel::{Overlap, RawHeads, RawIds};
pub use buffers::{Heads, Ids, View, ViewMut};
pub use cudarc;
use cudarc::driver::CudaContext;
pub use rope::Rope;

use crate::{Error, Result};

/// The primary context of device `ordinal`. Where `CudaContext::new` panics without a driver
/// library, this says so.
///
/// # Errors
/// [`Error::NoDriver`], [`Error::NoDevice`], or [`Error::Driver`].
pub fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    if !driver_is_present() {
        return Err(Error::NoDriver);
    }
    use cudarc::driver::sys::CUresult;
    CudaContext::new(ordinal).map_err(|error| match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE | CUresult::CUDA_ERROR_INVALID_DEVICE => {
            Error::NoDevice { ordinal }
        }
        _ => kernels::driver("creating a context")(error),
    })
}

/// Whether the driver's library can be loaded. cudarc's own question is not there in all of its
/// ways of linking, and an engine may have chosen any.
fn driver_is_present() -> bool {
    ["libcuda.so", "libcuda.so.1", "nvcuda.dll"].into_iter().any(|name| {
        // SAFETY: the driver's library runs no code on loading that others would mind; it is what
        // every CUDA program loads.
        unsafe { libloading::Library::new(name) }.is_ok()
    })
}
