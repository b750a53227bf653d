//! Buffers in device memory, as calls take them.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr,
    DeviceSlice, SyncOnDrop, ValidAsZeroBits,
};
use half::{bf16, f16};

use super::context::check_handle;
use crate::call::Names;
use crate::{Dtype, Element, IndexType, Layout, Positions, RawBuffer, RawIds, RawOperand, Result};

/// Device memory to read: from a `&CudaSlice` or a `CudaView`.
#[derive(Debug)]
pub struct View<'a, T>(pub(super) CudaView<'a, T>);

/// Device memory to write: from a `&mut CudaSlice` or a `CudaViewMut`.
#[derive(Debug)]
pub struct ViewMut<'a, T>(CudaViewMut<'a, T>);

impl<'a, T> From<&'a CudaSlice<T>> for View<'a, T> {
    fn from(slice: &'a CudaSlice<T>) -> Self {
        Self(slice.as_view())
    }
}
impl<'a, T> From<CudaView<'a, T>> for View<'a, T> {
    fn from(view: CudaView<'a, T>) -> Self {
        Self(view)
    }
}
impl<'a, T> From<&'a mut CudaSlice<T>> for ViewMut<'a, T> {
    fn from(slice: &'a mut CudaSlice<T>) -> Self {
        Self(slice.as_view_mut())
    }
}
impl<'a, T> From<CudaViewMut<'a, T>> for ViewMut<'a, T> {
    fn from(view: CudaViewMut<'a, T>) -> Self {
        Self(view)
    }
}

/// A view of one of the types that rotate.
#[derive(Debug)]
pub(super) enum AnyView<'a> {
    F32(CudaView<'a, f32>),
    F16(CudaView<'a, f16>),
    BF16(CudaView<'a, bf16>),
}

/// The same, to write.
#[derive(Debug)]
pub(super) enum AnyViewMut<'a> {
    F32(CudaViewMut<'a, f32>),
    F16(CudaViewMut<'a, f16>),
    BF16(CudaViewMut<'a, bf16>),
}

mod erased {
    use super::{AnyView, AnyViewMut, CudaView, CudaViewMut};

    /// Sealed, and how a view forgets its type.
    pub trait Erase: Sized {
        #[expect(private_interfaces, reason = "sealed: nobody else can call it")]
        fn view(view: CudaView<'_, Self>) -> AnyView<'_>;
        #[expect(private_interfaces, reason = "sealed: nobody else can call it")]
        fn view_mut(view: CudaViewMut<'_, Self>) -> AnyViewMut<'_>;
    }
}
use erased::Erase;

/// An [`Element`] in device memory. Sealed, as that is.
pub trait DeviceElement: Element + DeviceRepr + ValidAsZeroBits + Erase {}

/// What views of any type have in common.
macro_rules! any_view {
    ($any:ident, $view:ident, $($variant:ident($element:ty)),+) => {
        impl $any<'_> {
            pub fn len(&self) -> usize {
                match self {
                    $(Self::$variant(view) => view.len(),)+
                }
            }

            pub fn context(&self) -> &Arc<CudaContext> {
                match self {
                    $(Self::$variant(view) => view.stream().context(),)+
                }
            }
        }
    };
}
any_view!(AnyView, CudaView, F32(f32), F16(f16), BF16(bf16));
any_view!(AnyViewMut, CudaViewMut, F32(f32), F16(f16), BF16(bf16));

macro_rules! elements {
    ($($variant:ident($element:ty)),+) => {
        $(
            #[expect(private_interfaces, reason = "sealed: nobody else can call it")]
            impl Erase for $element {
                fn view(view: CudaView<'_, Self>) -> AnyView<'_> {
                    AnyView::$variant(view)
                }
                fn view_mut(view: CudaViewMut<'_, Self>) -> AnyViewMut<'_> {
                    AnyViewMut::$variant(view)
                }
            }
            impl DeviceElement for $element {}
        )+

        impl AnyView<'_> {
            pub fn dtype(&self) -> Dtype {
                match self {
                    $(Self::$variant(_) => Dtype::$variant,)+
                }
            }

            pub fn resolve<'b>(&'b self, stream: &'b CudaStream) -> (RawBuffer, SyncOnDrop<'b>) {
                let (address, guard) = match self {
                    $(Self::$variant(view) => view.device_ptr(stream),)+
                };
                (RawBuffer::new(address, self.len()), guard)
            }
        }

        impl AnyViewMut<'_> {
            pub fn dtype(&self) -> Dtype {
                match self {
                    $(Self::$variant(_) => Dtype::$variant,)+
                }
            }

            pub fn resolve<'b>(&'b mut self, stream: &'b CudaStream) -> (RawBuffer, SyncOnDrop<'b>) {
                let len = self.len();
                let (address, guard) = match self {
                    $(Self::$variant(view) => view.device_ptr_mut(stream),)+
                };
                (RawBuffer::new(address, len), guard)
            }
        }
    };
}
elements!(F32(f32), F16(f16), BF16(bf16));

impl AnyViewMut<'_> {
    pub fn check_handle(&self, context: &Arc<CudaContext>, what: &'static str) -> Result<()> {
        check_handle(context, what, self.context())
    }
}

/// Any buffer to read, its type forgotten.
pub(super) fn any<'a, T: DeviceElement>(buffer: impl Into<View<'a, T>>) -> AnyView<'a> {
    T::view(buffer.into().0)
}

/// Any buffer to write, its type forgotten.
pub(super) fn any_mut<'a, T: DeviceElement>(buffer: impl Into<ViewMut<'a, T>>) -> AnyViewMut<'a> {
    T::view_mut(buffer.into().0)
}

/// What a launch keeps until it is submitted: each records its stream's work when dropped.
pub(super) type Guards<'a> = [Option<SyncOnDrop<'a>>; 2];

/// Heads in device memory: see [`in_place`](Heads::in_place) and [`out_of_place`](Heads::out_of_place). The
/// element type is known at run time; q and k of one call must have the same.
#[derive(Debug)]
pub struct Heads<'a> {
    source: Option<(AnyView<'a>, Layout)>,
    target: AnyViewMut<'a>,
    layout: Layout,
}

impl<'a> Heads<'a> {
    /// Rotates where the heads lie: a `&mut CudaSlice` or a `CudaViewMut`.
    pub fn in_place<T: DeviceElement>(buffer: impl Into<ViewMut<'a, T>>, layout: Layout) -> Self {
        Self { source: None, target: any_mut(buffer), layout }
    }

    /// Reads `source` and writes `target`, which ends up with the channels that do not rotate too.
    /// The layouts may differ in strides and offset, not in shape or rotated channels.
    pub fn out_of_place<T: DeviceElement>(
        source: impl Into<View<'a, T>>,
        from: Layout,
        target: impl Into<ViewMut<'a, T>>,
        layout: Layout,
    ) -> Self {
        Self { source: Some((T::view(source.into().0), from)), target: any_mut(target), layout }
    }

    pub(super) fn check_handle(&self, context: &Arc<CudaContext>, names: Names) -> Result<()> {
        self.target.check_handle(context, names.target)?;
        self.source
            .as_ref()
            .map_or(Ok(()), |(view, _)| check_handle(context, names.source, view.context()))
    }

    /// Addresses, once `stream` waits for earlier work on the buffers.
    pub(super) fn resolve<'b>(&'b mut self, stream: &'b CudaStream) -> (RawOperand, Guards<'b>) {
        let dtype = self.target.dtype();
        let (target, writing) = self.target.resolve(stream);
        match &self.source {
            None => (RawOperand::in_place(dtype, target, self.layout), [Some(writing), None]),
            Some((view, from)) => {
                let (source, reading) = view.resolve(stream);
                let raw = RawOperand::out_of_place(dtype, source, *from, target, self.layout);
                (raw, [Some(writing), Some(reading)])
            }
        }
    }
}

/// Position ids, starts or `cu_seqlens` in device memory: from a `&CudaSlice` or `CudaView` of `i32`, `i64` or
/// `u32`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Ids<'a> {
    /// 32-bit values.
    I32(CudaView<'a, i32>),
    /// 64-bit values.
    I64(CudaView<'a, i64>),
    /// Unsigned 32-bit values.
    U32(CudaView<'a, u32>),
}

macro_rules! ids {
    ($($variant:ident($int:ty)),*) => {
        $(
            impl<'a> From<&'a CudaSlice<$int>> for Ids<'a> {
                fn from(slice: &'a CudaSlice<$int>) -> Self {
                    Self::$variant(slice.as_view())
                }
            }
            impl<'a> From<CudaView<'a, $int>> for Ids<'a> {
                fn from(view: CudaView<'a, $int>) -> Self {
                    Self::$variant(view)
                }
            }
        )*

        impl Ids<'_> {
            pub(super) fn context(&self) -> &Arc<CudaContext> {
                match self {
                    $(Self::$variant(view) => view.stream().context(),)*
                }
            }

            pub(super) fn resolve<'b>(
                &'b self,
                stream: &'b CudaStream,
            ) -> (RawIds, SyncOnDrop<'b>) {
                match self {
                    $(Self::$variant(view) => {
                        let (address, guard) = view.device_ptr(stream);
                        (RawIds::new(IndexType::$variant, address, view.len()), guard)
                    })*
                }
            }
        }
    };
}
ids!(I32(i32), I64(i64), U32(u32));

impl Positions<Ids<'_>> {
    pub(super) fn check_handle(&self, context: &Arc<CudaContext>) -> Result<()> {
        let checked = self.as_ref().try_map(|what, ids| check_handle(context, what, ids.context()));
        checked.map(|_| ())
    }

    /// Addresses, once `stream` waits for earlier work on the buffers.
    pub(super) fn resolve<'b>(
        &'b self,
        stream: &'b CudaStream,
    ) -> (Positions<RawIds>, [Option<SyncOnDrop<'b>>; 3]) {
        // A kind has two buffers at most, and the sets are a third.
        let (mut guards, mut count) = ([const { None }; 3], 0);
        let raw = self.as_ref().map(|ids| {
            let (raw, guard) = ids.resolve(stream);
            guards[count] = Some(guard);
            count += 1;
            raw
        });
        (raw, guards)
    }
}
