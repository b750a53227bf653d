//! What a caller says: element types, layouts, positions and tensors by address; and every check of it.

mod append;
pub(crate) mod check;
mod dtype;
mod layout;
mod operand;
mod pairing;
mod positions;
mod sections;
mod spec;

pub(crate) use append::Lower;
pub use append::{
    Append, CheckedAppend, CheckedCache, CheckedScale, CheckedTensor, Keys, KvCache, KvLayout,
    Memory, Pages, QkNorm, Queries, Raw, RawMemory, RawTensor, Rows, Scale, SlotMapping, Slots,
    Stored, Target,
};
pub use check::{Call, Checked, CheckedTable, Table};
pub use dtype::{Dtype, Element, IndexType};
pub use layout::{DimOrder, Layout};
pub(crate) use operand::Names;
pub use operand::{Address, RawBuffer, RawIds, RawOperand};
pub use pairing::{Direction, Pairing};
pub(crate) use positions::IdStrides;
pub use positions::{PositionKind, Positions};
pub use sections::{SectionOrder, Sections};
pub use spec::RopeSpec;
