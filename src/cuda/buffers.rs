//! Buffers in device memory, as calls take them.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut,
    DeviceSlice, SyncOnDrop,
};

use crate::heads::Extent;
use crate::kernel::{RawHeads, RawIds};
use crate::positions::Indices;
use crate::{Element, Error, Layout, PositionKind, Positions, Result};

/// Device memory to read: from a `&CudaSlice` or a `CudaView`.
#[derive(Debug)]
pub struct View<'a, T>(pub(super) CudaView<'a, T>);

/// Device memory to write: from a `&mut CudaSlice` or a `CudaViewMut`.
#[derive(Debug)]
pub struct ViewMut<'a, T>(pub(super) CudaViewMut<'a, T>);

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

/// The buffer lives in the rope's context.
pub(super) fn check_context<T>(
    context: &Arc<CudaContext>,
    what: &'static str,
    buffer: &impl DeviceSlice<T>,
) -> Result<()> {
    if buffer.stream().context() == context { Ok(()) } else { Err(Error::Context { what }) }
}

/// What a launch keeps until it is submitted: each records its stream's work when dropped.
pub(super) type Guards<'a> = [Option<SyncOnDrop<'a>>; 2];

/// Heads in device memory: see [`in_place`](Heads::in_place) and
/// [`out_of_place`](Heads::out_of_place).
pub type Heads<'a, T> = crate::Heads<View<'a, T>, ViewMut<'a, T>>;

impl<'a, T: Element> Heads<'a, T> {
    /// Rotates where the heads lie: a `&mut CudaSlice` or a `CudaViewMut`.
    pub fn in_place(buffer: impl Into<ViewMut<'a, T>>, layout: Layout) -> Self {
        Self { source: None, target: buffer.into(), layout }
    }

    /// Reads `source` and writes `target`, which ends up with the channels that do not rotate too.
    /// The layouts may differ in strides and offset, not in shape or rotated channels.
    pub fn out_of_place(
        source: impl Into<View<'a, T>>,
        from: Layout,
        target: impl Into<ViewMut<'a, T>>,
        layout: Layout,
    ) -> Self {
        Self { source: Some((source.into(), from)), target: target.into(), layout }
    }

    pub(super) fn extent(
        &self,
        extent: fn(Layout, usize, Option<(Layout, usize)>) -> Extent,
    ) -> Extent {
        let source = self.source.as_ref().map(|(view, layout)| (*layout, view.0.len()));
        extent(self.layout, self.target.0.len(), source)
    }

    pub(super) fn check_context(&self, context: &Arc<CudaContext>, extent: &Extent) -> Result<()> {
        check_context(context, extent.name, &self.target.0)?;
        self.source
            .as_ref()
            .map_or(Ok(()), |(view, _)| check_context(context, extent.source_name, &view.0))
    }

    /// Addresses, once `stream` waits for earlier work on the buffers.
    pub(super) fn resolve<'b>(&'b mut self, stream: &'b CudaStream) -> (RawHeads, Guards<'b>) {
        let (target, writing) = self.target.0.device_ptr_mut(stream);
        let raw = RawHeads::in_place(T::DTYPE, target, self.layout);
        match &self.source {
            None => (raw, [Some(writing), None]),
            Some((view, layout)) => {
                let (source, reading) = view.0.device_ptr(stream);
                (raw.reading(source, *layout), [Some(writing), Some(reading)])
            }
        }
    }
}

/// Position ids, starts or `cu_seqlens` in device memory: from a `&CudaSlice` or `CudaView` of `i32`
/// or `i64`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Ids<'a> {
    /// 32-bit values.
    I32(CudaView<'a, i32>),
    /// 64-bit values.
    I64(CudaView<'a, i64>),
}

macro_rules! ids_from {
    ($($variant:ident($int:ty)),*) => {$(
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
    )*};
}
ids_from!(I32(i32), I64(i64));

impl Indices for Ids<'_> {
    fn len(&self) -> usize {
        match self {
            Self::I32(view) => view.len(),
            Self::I64(view) => view.len(),
        }
    }

    fn wide(&self) -> bool {
        matches!(self, Self::I64(_))
    }
}

impl Ids<'_> {
    fn check_context(&self, context: &Arc<CudaContext>, what: &'static str) -> Result<()> {
        match self {
            Self::I32(view) => check_context(context, what, view),
            Self::I64(view) => check_context(context, what, view),
        }
    }

    fn resolve<'b>(&'b self, stream: &'b CudaStream) -> (RawIds, SyncOnDrop<'b>) {
        let (address, guard) = match self {
            Self::I32(view) => view.device_ptr(stream),
            Self::I64(view) => view.device_ptr(stream),
        };
        (RawIds { address, len: self.len(), wide: self.wide() }, guard)
    }
}

impl Positions<Ids<'_>> {
    pub(super) fn check_context(&self, context: &Arc<CudaContext>) -> Result<()> {
        match &self.kind {
            PositionKind::From(_) => {}
            PositionKind::Ids(ids)
            | PositionKind::SharedIds(ids)
            | PositionKind::Axes { ids, .. } => ids.check_context(context, "position ids")?,
            PositionKind::Starts(starts) => starts.check_context(context, "starts")?,
            PositionKind::Ragged { cu_seqlens, starts } => {
                cu_seqlens.check_context(context, "cu_seqlens")?;
                if let Some(starts) = starts {
                    starts.check_context(context, "starts")?;
                }
            }
        }
        self.sets.as_ref().map_or(Ok(()), |sets| sets.check_context(context, "sets"))
    }

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
