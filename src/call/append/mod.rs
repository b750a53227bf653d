//! What a call says that normalises, rotates and appends: for every backend one description, whose buffers are a
//! backend's own.

mod cache;
mod call;
mod check;
mod memory;
mod norm;
mod slots;

pub use cache::{KvCache, KvLayout, Scale, Stored};
pub use call::{Append, Keys, Queries, Rows};
pub use check::{CheckedAppend, CheckedCache, CheckedScale, CheckedTensor, Pages, Target};
pub(crate) use memory::Lower;
pub use memory::{Memory, Raw, RawMemory, RawTensor};
pub use norm::QkNorm;
pub use slots::{SlotMapping, Slots};
