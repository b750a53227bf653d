//! Slices as calls take them.

use std::marker::PhantomData;

use crate::{Element, IndexType, Layout, Positions, RawBuffer, RawIds, RawOperand};

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
