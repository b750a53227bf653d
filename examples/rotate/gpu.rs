//! Rotating on the GPU.

use condensed_rope::Element;
use condensed_rope::cuda::{RawHeads, RawIds, Rope, cudarc};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut};

use crate::Result;
use crate::run::{Call, Context, Ids, positions};

pub fn run<T: Element>(
    call: &Call,
    context: &Context,
    q: &mut [T],
    k: Option<&mut Vec<T>>,
) -> Result<String> {
    let stream = context.default_stream();
    let rope = Rope::new(context, call.layer.scaled.frequencies(), call.pairing)?;
    let rope = if call.inverse { rope.inverse() } else { rope };
    let mut on_q = Bytes::upload(&stream, q)?;
    let mut on_k = k.as_ref().map(|k| Bytes::upload(&stream, k)).transpose()?;
    let mut on_ids = match call.ids {
        Ids::FromZero => None,
        Ids::Each(ids) | Ids::Shared(ids) | Ids::Axes(ids) => Some(stream.clone_htod(ids)?),
    };
    let address = on_ids.as_mut().map_or(0, |ids| ids.device_ptr_mut(&stream).0);
    let positions = positions(call, |ids| RawIds { address, len: ids.len(), wide: true });
    let [q_layout, k_layout] = call.layouts;
    let q_heads = RawHeads::in_place(T::DTYPE, on_q.address(&stream), q_layout);
    let k_heads = on_k.as_mut().map(|k| RawHeads::in_place(T::DTYPE, k.address(&stream), k_layout));
    // SAFETY: the buffers hold the tensors whole, and are kept until the stream was waited for.
    unsafe { rope.rotate_raw(stream.cu_stream(), q_heads, k_heads, positions) }?;
    on_q.download(&stream, q)?;
    if let (Some(on_k), Some(k)) = (&on_k, k) {
        on_k.download(&stream, k)?;
    }
    stream.synchronize()?;
    drop(on_ids);
    Ok(context.name()?)
}

/// Elements of any type, in device memory.
struct Bytes(CudaSlice<u8>);

impl Bytes {
    fn upload<T: Element>(stream: &std::sync::Arc<CudaStream>, values: &[T]) -> Result<Self> {
        // SAFETY: elements are plain numbers, so their bytes are initialised.
        let bytes = unsafe {
            std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values))
        };
        // An empty allocation is refused by the driver.
        let mut slice = stream.alloc_zeros(bytes.len().max(1))?;
        stream.memcpy_htod(bytes, &mut slice)?;
        Ok(Self(slice))
    }

    fn address(&mut self, stream: &CudaStream) -> u64 {
        self.0.device_ptr_mut(stream).0
    }

    fn download<T: Element>(
        &self,
        stream: &std::sync::Arc<CudaStream>,
        values: &mut [T],
    ) -> Result<()> {
        let len = size_of_val(values);
        // SAFETY: any bytes are a number, and nobody else has them.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), len) };
        stream.memcpy_dtoh(&self.0.slice(..len), bytes)?;
        Ok(())
    }
}
