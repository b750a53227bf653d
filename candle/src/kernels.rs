//! What CUDA devices need: kernels loaded once a context, and memory whose values are yet to come.

use std::sync::Mutex;

use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice};
use candle_core::{Result, Storage};
use condensed_rope::Dtype;
use condensed_rope::cuda::Kernels;

use crate::memory::wrap;

/// Loading takes milliseconds, and candle's tensors share the primary context of a device, which this keeps alive.
static LOADED: Mutex<Vec<Kernels>> = Mutex::new(Vec::new());

/// The kernels of a device's context.
pub(crate) fn of(device: &CudaDevice) -> Result<Kernels> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let mut loaded = LOADED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(kernels) = loaded.iter().find(|kernels| kernels.context() == context) {
        return Ok(kernels.clone());
    }
    let kernels = Kernels::load(context).map_err(wrap)?;
    loaded.push(kernels.clone());
    Ok(kernels)
}

/// `len` elements, every one of which the caller writes.
pub(crate) fn alloc(device: &CudaDevice, dtype: Dtype, len: usize) -> Result<Storage> {
    macro_rules! slice {
        ($kind:ident, $type:ty) => {
            // SAFETY: the caller writes every element before anybody reads one.
            CudaStorageSlice::$kind(unsafe { device.alloc::<$type>(len) }?)
        };
    }
    let slice = match dtype {
        Dtype::F32 => slice!(F32, f32),
        Dtype::F16 => slice!(F16, half::f16),
        _ => slice!(BF16, half::bf16),
    };
    Ok(Storage::Cuda(CudaStorage { slice, device: device.clone() }))
}
