//! Device memory as calls of norm, rotation and append take it.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtrMut, DeviceSlice,
    SyncOnDrop,
};

use super::context::check_handle;
use super::operands::{AnyView, AnyViewMut, DeviceElement, Heads, Ids, any, any_mut};
use crate::call::{Lower, Names};
use crate::{
    Keys, Memory, Queries, RawBuffer, RawIds, RawMemory, RawOperand, RawTensor, Result, Stored,
};

/// Buffers in device memory.
#[derive(Debug)]
pub struct Device<'a>(std::marker::PhantomData<&'a mut ()>);

impl<'a> Memory for Device<'a> {
    type Heads = Heads<'a>;
    type Tensor = Tensor<'a>;
    type Buffer = Buffer<'a>;
    type Ids = Ids<'a>;
}

/// A call of norm, rotation and append on a device.
pub type Append<'a> = crate::Append<Device<'a>>;

impl<'a> From<Heads<'a>> for Queries<Device<'a>> {
    fn from(heads: Heads<'a>) -> Self {
        Self::Heads(heads)
    }
}

impl<'a> From<Heads<'a>> for Keys<Device<'a>> {
    fn from(heads: Heads<'a>) -> Self {
        Self::Heads(heads)
    }
}

/// Elements to read: rows, weights or scales; a `&CudaSlice` or a `CudaView`.
#[derive(Debug)]
pub struct Tensor<'a>(AnyView<'a>);

impl<'a, T: DeviceElement> From<&'a CudaSlice<T>> for Tensor<'a> {
    fn from(slice: &'a CudaSlice<T>) -> Self {
        Self(any(slice))
    }
}

impl<'a, T: DeviceElement> From<CudaView<'a, T>> for Tensor<'a> {
    fn from(view: CudaView<'a, T>) -> Self {
        Self(any(view))
    }
}

/// Elements or 8-bit floats to write: a cache, queries of another type, or packed rows.
#[derive(Debug)]
pub struct Buffer<'a>(Written<'a>);

#[derive(Debug)]
enum Written<'a> {
    Elements(AnyViewMut<'a>),
    Fp8(Stored, CudaViewMut<'a, u8>),
}

impl<'a> Buffer<'a> {
    /// 8-bit floats of this format, a byte each.
    pub fn fp8(stored: Stored, bytes: &'a mut CudaSlice<u8>) -> Self {
        Self::fp8_view(stored, bytes.as_view_mut())
    }

    /// The same, of a part of a slice.
    pub fn fp8_view(stored: Stored, bytes: CudaViewMut<'a, u8>) -> Self {
        Self(Written::Fp8(stored, bytes))
    }
}

impl<'a, T: DeviceElement> From<&'a mut CudaSlice<T>> for Buffer<'a> {
    fn from(slice: &'a mut CudaSlice<T>) -> Self {
        Self(Written::Elements(any_mut(slice)))
    }
}

impl<'a, T: DeviceElement> From<CudaViewMut<'a, T>> for Buffer<'a> {
    fn from(view: CudaViewMut<'a, T>) -> Self {
        Self(Written::Elements(any_mut(view)))
    }
}

/// Buffers of one call: q's source and target or its scale, k's two, v, weights, caches and their scales, slots.
const MAX_BUFFERS: usize = 13;

/// Turns buffers into addresses once `stream` waits for earlier work on them, and records the call's on drop.
pub(super) struct Resolving<'a> {
    context: &'a Arc<CudaContext>,
    stream: &'a CudaStream,
    guards: [Option<SyncOnDrop<'a>>; MAX_BUFFERS],
    count: usize,
}

impl<'a> Resolving<'a> {
    pub fn new(context: &'a Arc<CudaContext>, stream: &'a CudaStream) -> Self {
        Self { context, stream, guards: [const { None }; MAX_BUFFERS], count: 0 }
    }

    fn hold(&mut self, guard: SyncOnDrop<'a>) {
        // Dropped here, were there one too many: recorded before the launch, which `MAX_BUFFERS` rules out.
        debug_assert!(self.count < MAX_BUFFERS, "a call of more buffers");
        if let Some(place) = self.guards.get_mut(self.count) {
            *place = Some(guard);
            self.count += 1;
        }
    }
}

impl<'a: 'b, 'b> Lower<'b, Device<'a>> for Resolving<'b> {
    fn heads(&mut self, names: Names, heads: &'b mut Heads<'a>) -> Result<RawOperand> {
        heads.check_handle(self.context, names)?;
        let (raw, guards) = heads.resolve(self.stream);
        for guard in guards.into_iter().flatten() {
            self.hold(guard);
        }
        Ok(raw)
    }

    fn tensor(&mut self, name: &'static str, tensor: &'b Tensor<'a>) -> Result<RawTensor> {
        check_handle(self.context, name, tensor.0.context())?;
        let (buffer, guard) = tensor.0.resolve(self.stream);
        self.hold(guard);
        Ok(RawTensor::new(tensor.0.dtype(), buffer))
    }

    fn buffer(&mut self, name: &'static str, buffer: &'b mut Buffer<'a>) -> Result<RawMemory> {
        let (stored, (raw, guard)) = match &mut buffer.0 {
            Written::Elements(view) => {
                check_handle(self.context, name, view.context())?;
                (Stored::Element(view.dtype()), view.resolve(self.stream))
            }
            Written::Fp8(stored, view) => {
                check_handle(self.context, name, view.stream().context())?;
                let len = view.len() / stored.size();
                let (address, guard) = view.device_ptr_mut(self.stream);
                (*stored, (RawBuffer::new(address, len), guard))
            }
        };
        self.hold(guard);
        Ok(RawMemory::new(stored, raw))
    }

    fn ids(&mut self, name: &'static str, ids: &'b Ids<'a>) -> Result<RawIds> {
        check_handle(self.context, name, ids.context())?;
        let (raw, guard) = ids.resolve(self.stream);
        self.hold(guard);
        Ok(raw)
    }
}
