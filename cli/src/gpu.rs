//! Rotating on the GPU.

use std::sync::Arc;

use condensed_rope::cuda::{Kernels, Rope, cudarc};
use condensed_rope::{Frequencies, IndexType, Pairing, RawBuffer, RawIds, RawOperand};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut};

use crate::Result;
use crate::files::Tensor;
use crate::rotate::{Call, Context};

fn rope(context: &Context, call: &Call) -> Result<Rope> {
    let frequencies = call.rotary.schedule.frequencies();
    let rope = Rope::new(&Kernels::load(context)?, frequencies, call.rotary.pairing)?;
    Ok(if call.inverse { rope.inverse() } else { rope })
}

pub fn run(
    call: &Call,
    context: &Context,
    mut tensors: [&mut Option<Tensor>; 2],
) -> Result<String> {
    let stream = context.default_stream();
    let rope = rope(context, call)?;
    let upload = |tensor: &Option<Tensor>| {
        tensor.as_ref().map(|tensor| Bytes::upload(&stream, tensor.bytes())).transpose()
    };
    let mut on_device = [upload(tensors[0])?, upload(tensors[1])?];
    let mut ids = Vec::new();
    let positions = call.positions.try_map(|_, values| -> Result<RawIds> {
        let mut on_device = Bytes::upload(&stream, bytemuck::cast_slice(values))?;
        let address = on_device.address(&stream);
        ids.push(on_device);
        Ok(RawIds::new(IndexType::I64, address, values.len()))
    })?;
    let mut operands = [None; 2];
    for (i, (tensor, on_device)) in tensors.iter().zip(&mut on_device).enumerate() {
        if let (Some(tensor), Some(on_device), Some(layout)) =
            (&**tensor, on_device, call.layouts[i])
        {
            let len = tensor.bytes().len() / tensor.dtype.size();
            let buffer = RawBuffer::new(on_device.address(&stream), len);
            operands[i] = Some(RawOperand::in_place(tensor.dtype, buffer, layout));
        }
    }
    let [q, k] = operands;
    // SAFETY: the buffers hold the tensors whole, and are kept until the stream was waited for.
    unsafe { rope.rotate_raw(stream.cu_stream().cast(), q, k, positions) }?;
    for (tensor, on_device) in tensors.iter_mut().zip(&on_device) {
        if let (Some(tensor), Some(on_device)) = (&mut **tensor, on_device) {
            on_device.download(&stream, tensor.bytes_mut())?;
        }
    }
    stream.synchronize()?;
    drop(ids);
    Ok(context.name()?)
}

pub fn table(
    context: &Context,
    frequencies: &Frequencies,
    pairing: Pairing,
    inverse: bool,
    cos: &mut [f32],
    sin: &mut [f32],
) -> Result<String> {
    let stream = context.default_stream();
    let rope = Rope::new(&Kernels::load(context)?, frequencies, pairing)?;
    let rope = if inverse { rope.inverse() } else { rope };
    if !cos.is_empty() {
        let (mut on_cos, mut on_sin) = (stream.clone_htod(&*cos)?, stream.clone_htod(&*sin)?);
        rope.cos_sin(&stream, 0, &mut on_cos, &mut on_sin)?;
        stream.memcpy_dtoh(&on_cos, cos)?;
        stream.memcpy_dtoh(&on_sin, sin)?;
        stream.synchronize()?;
    }
    Ok(context.name()?)
}

/// A tensor's bytes in device memory.
struct Bytes(CudaSlice<u8>);

impl Bytes {
    fn upload(stream: &Arc<CudaStream>, bytes: &[u8]) -> Result<Self> {
        // The driver refuses an empty allocation.
        let mut slice = stream.alloc_zeros(bytes.len().max(1))?;
        stream.memcpy_htod(bytes, &mut slice)?;
        Ok(Self(slice))
    }

    fn address(&mut self, stream: &CudaStream) -> u64 {
        self.0.device_ptr_mut(stream).0
    }

    fn download(&self, stream: &Arc<CudaStream>, bytes: &mut [u8]) -> Result<()> {
        Ok(stream.memcpy_dtoh(&self.0.slice(..bytes.len()), bytes)?)
    }
}
