//! Where the buffers of a call are.

use crate::call::Names;
use crate::{Dtype, RawBuffer, RawIds, RawOperand, Result, Stored};

/// The buffers of one backend. [`Raw`] has them by address; `cpu::Slices` in slices; `cuda::Device` in device memory.
pub trait Memory {
    /// Heads that are rotated: where they are read, and where they go.
    type Heads: std::fmt::Debug;
    /// Elements to read, of a type that is known at run time: rows, weights, scales.
    type Tensor: std::fmt::Debug;
    /// Elements or 8-bit floats to write.
    type Buffer: std::fmt::Debug;
    /// Ids to read.
    type Ids: std::fmt::Debug;
}

/// Buffers by address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Raw {}

impl Memory for Raw {
    type Heads = RawOperand;
    type Tensor = RawTensor;
    type Buffer = RawMemory;
    type Ids = RawIds;
}

/// Elements to read, by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawTensor {
    pub(crate) dtype: Dtype,
    pub(crate) buffer: RawBuffer,
}

impl RawTensor {
    /// Elements of `dtype` in `buffer`.
    pub fn new(dtype: Dtype, buffer: impl Into<RawBuffer>) -> Self {
        Self { dtype, buffer: buffer.into() }
    }
}

/// Elements or 8-bit floats to write, by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawMemory {
    pub(crate) stored: Stored,
    pub(crate) buffer: RawBuffer,
}

impl RawMemory {
    /// Numbers of a type in `buffer`.
    pub fn new(stored: impl Into<Stored>, buffer: impl Into<RawBuffer>) -> Self {
        Self { stored: stored.into(), buffer: buffer.into() }
    }
}

/// Turns a backend's buffers into addresses, each by its name in errors.
pub(crate) trait Lower<'a, M: Memory> {
    fn heads(&mut self, names: Names, heads: &'a mut M::Heads) -> Result<RawOperand>;
    fn tensor(&mut self, name: &'static str, tensor: &'a M::Tensor) -> Result<RawTensor>;
    fn buffer(&mut self, name: &'static str, buffer: &'a mut M::Buffer) -> Result<RawMemory>;
    fn ids(&mut self, name: &'static str, ids: &'a M::Ids) -> Result<RawIds>;
}
