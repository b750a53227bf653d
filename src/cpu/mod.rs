//! The portable backend: the same calls as on the GPU over slices, on all cores, with the same bits.
//!
//! ```
//! use condensed_rope::{Frequencies, Layout, Pairing, Positions, cpu};
//!
//! let frequencies = Frequencies::new(64, 10_000.0)?.condensed(8.0)?;
//! let rope = cpu::Rope::new(&frequencies, Pairing::HalfSplit);
//! let mut q = vec![1.0f32; 3 * 4 * 64];
//! let mut k = vec![1.0f32; 3 * 2 * 64];
//! rope.rotate(
//!     Some(cpu::Heads::in_place(&mut q, Layout::thd(3, 4, 64))),
//!     Some(cpu::Heads::in_place(&mut k, Layout::thd(3, 2, 64))),
//!     Positions::ids(&[0i64, 70_000, -5]),
//! )?;
//! assert_eq!(q[..64], [1.0; 64]); // position 0 does not turn
//! # Ok::<(), condensed_rope::Error>(())
//! ```

mod angles;
mod append;
mod ids;
mod norm;
mod operands;
mod phase;
mod positions;
mod rope;
mod rotate;
mod simd;
mod table;
mod threads;

pub use operands::{Append, Buffer, Heads, Ids, Slices, Tensor};
pub use rope::Rope;
pub use threads::Threads;
