//! Slices as calls take them.

use std::marker::PhantomData;

use crate::call::{Lower, Names};
use crate::{
    Element, IndexType, Keys, Layout, Memory, Positions, Queries, RawBuffer, RawIds, RawMemory,
    RawOperand, RawTensor, Result, Stored,
};

/// Heads in slices: see [`in_place`](Heads::in_place) and [`out_of_place`](Heads::out_of_place). The element
/// type is known at run time; q and k of one call must have the same.
#[derive(Debug)]
pub struct Heads<'a> {
    pub(super) raw: RawOperand,
    borrowed: PhantomData<&'a mut ()>,
}

impl<'a> Heads<'a> {
    /// Rotates where the heads lie.
    pub fn in_place<T: Element>(buffer: &'a mut [T], layout: Layout) -> Self {
        let raw = RawOperand::in_place(T::DTYPE, written(buffer), layout);
        Self { raw, borrowed: PhantomData }
    }

    /// Reads `source` and writes `target`, which ends up with the channels that do not rotate too.
    /// The layouts may differ in strides and offset, not in shape or rotated channels.
    pub fn out_of_place<T: Element>(
        source: &'a [T],
        from: Layout,
        target: &'a mut [T],
        layout: Layout,
    ) -> Self {
        let source = RawBuffer::new(source.as_ptr().expose_provenance() as u64, source.len());
        let raw = RawOperand::out_of_place(T::DTYPE, source, from, written(target), layout);
        Self { raw, borrowed: PhantomData }
    }
}

/// Buffers in slices.
#[derive(Debug)]
pub struct Slices<'a>(PhantomData<&'a mut ()>);

impl<'a> Memory for Slices<'a> {
    type Heads = Heads<'a>;
    type Tensor = Tensor<'a>;
    type Buffer = Buffer<'a>;
    type Ids = Ids<'a>;
}

/// A call of norm, rotation and append over slices.
pub type Append<'a> = crate::Append<Slices<'a>>;

impl<'a> From<Heads<'a>> for Queries<Slices<'a>> {
    fn from(heads: Heads<'a>) -> Self {
        Self::Heads(heads)
    }
}

impl<'a> From<Heads<'a>> for Keys<Slices<'a>> {
    fn from(heads: Heads<'a>) -> Self {
        Self::Heads(heads)
    }
}

/// Elements to read: rows, weights or scales.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    raw: RawTensor,
    borrowed: PhantomData<&'a ()>,
}

impl<'a, T: Element> From<&'a [T]> for Tensor<'a> {
    fn from(elements: &'a [T]) -> Self {
        let address = elements.as_ptr().expose_provenance() as u64;
        let raw = RawTensor::new(T::DTYPE, RawBuffer::new(address, elements.len()));
        Self { raw, borrowed: PhantomData }
    }
}

impl<'a, T: Element> From<&'a Vec<T>> for Tensor<'a> {
    fn from(elements: &'a Vec<T>) -> Self {
        elements.as_slice().into()
    }
}

/// Elements or 8-bit floats to write: a cache, queries of another type, or packed rows.
#[derive(Debug)]
pub struct Buffer<'a> {
    raw: RawMemory,
    borrowed: PhantomData<&'a mut ()>,
}

impl<'a> Buffer<'a> {
    /// 8-bit floats of this format, a byte each.
    pub fn fp8(stored: Stored, bytes: &'a mut [u8]) -> Self {
        let address = bytes.as_mut_ptr().expose_provenance() as u64;
        let raw = RawMemory::new(stored, RawBuffer::new(address, bytes.len() / stored.size()));
        Self { raw, borrowed: PhantomData }
    }
}

impl<'a, T: Element> From<&'a mut [T]> for Buffer<'a> {
    fn from(elements: &'a mut [T]) -> Self {
        Self { raw: RawMemory::new(T::DTYPE, written(elements)), borrowed: PhantomData }
    }
}

impl<'a, T: Element> From<&'a mut Vec<T>> for Buffer<'a> {
    fn from(elements: &'a mut Vec<T>) -> Self {
        elements.as_mut_slice().into()
    }
}

/// By address, for as long as the slices are borrowed.
pub(super) struct ByAddress;

impl<'a, 'b> Lower<'b, Slices<'a>> for ByAddress {
    fn heads(&mut self, _: Names, heads: &'b mut Heads<'a>) -> Result<RawOperand> {
        Ok(heads.raw)
    }
    fn tensor(&mut self, _: &'static str, tensor: &'b Tensor<'a>) -> Result<RawTensor> {
        Ok(tensor.raw)
    }
    fn buffer(&mut self, _: &'static str, buffer: &'b mut Buffer<'a>) -> Result<RawMemory> {
        Ok(buffer.raw)
    }
    fn ids(&mut self, _: &'static str, ids: &'b Ids<'a>) -> Result<RawIds> {
        Ok(ids.raw())
    }
}

/// A slice that is written, by address.
pub(super) fn written<T: Element>(buffer: &mut [T]) -> RawBuffer {
    RawBuffer::new(buffer.as_mut_ptr().expose_provenance() as u64, buffer.len())
}

/// Position ids, starts or `cu_seqlens` in a slice of `i32`, `i64` or `u32`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Ids<'a> {
    /// 32-bit values.
    I32(&'a [i32]),
    /// 64-bit values.
    I64(&'a [i64]),
    /// Unsigned 32-bit values.
    U32(&'a [u32]),
}

macro_rules! ids {
    ($($variant:ident($int:ty)),*) => {
        $(
            impl<'a> From<&'a [$int]> for Ids<'a> {
                fn from(values: &'a [$int]) -> Self {
                    Self::$variant(values)
                }
            }
            impl<'a> From<&'a Vec<$int>> for Ids<'a> {
                fn from(values: &'a Vec<$int>) -> Self {
                    Self::$variant(values)
                }
            }
            impl<'a, const N: usize> From<&'a [$int; N]> for Ids<'a> {
                fn from(values: &'a [$int; N]) -> Self {
                    Self::$variant(values)
                }
            }
        )*

        impl Ids<'_> {
            /// By address, for as long as the slice is borrowed.
            pub fn raw(&self) -> RawIds {
                match self {
                    $(Self::$variant(values) => {
                        let address = values.as_ptr().expose_provenance() as u64;
                        RawIds::new(IndexType::$variant, address, values.len())
                    })*
                }
            }
        }
    };
}
ids!(I32(i32), I64(i64), U32(u32));

impl Positions<Ids<'_>> {
    /// By address, for as long as the slices are borrowed.
    pub(super) fn raw(&self) -> Positions<RawIds> {
        self.as_ref().map(Ids::raw)
    }
}
