//! Plans launches: from a checked call to a kernel, a tiling and parameters. Pure: no driver calls. The CUDA
//! backend submits a [`Launch`] to a stream, and the tests run one on the host.

#![allow(missing_docs, reason = "not part of the interface: for the crate and its tests")]

mod append;
mod l2_hint;
mod launch;
mod params;
mod pdl;
mod rotation;
mod run;
mod source;
mod tiling;
mod variant;

pub use crate::call::{Call, Checked, CheckedAppend, CheckedTable, Table};
pub use append::AnyAppendParams;
pub use l2_hint::{L2Hint, Traffic};
pub use launch::{DeviceProps, Launch, Params, Planner};
pub use params::TokenPositions;
pub use params::{AppendParams, Axes, CosSinParams, Divisor, Field, FrequencySets, HeadShape, Ids};
pub use params::{
    FlatAppendParams, FlatKvPages, FlatParams, FlatRows, KvPages, PageTable, PassThrough,
    RotateParams, Rows, STRUCTS, Scale, SlotMapping,
};
pub use pdl::Pdl;
pub use rotation::RotationParams;
pub use tiling::{Cut, Tiling, Work};
pub use variant::{AppendEntry, AppendForm, Entry, Form, Heads, Kernel, Variant};
