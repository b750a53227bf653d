//! Tensors' memory by address, as calls of the core take it.

use std::ffi::c_void;

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::{CudaStorageSlice, cudarc::driver as cudarc};
use candle_core::{CpuStorage, CudaStorage, Device, Result, Storage};
use condensed_rope::{Error, RawBuffer};

/// Where work of a device goes: candle's own stream of it.
pub(crate) struct Stream {
    #[cfg(feature = "cuda")]
    cuda: Option<std::sync::Arc<cudarc::CudaStream>>,
}

impl Stream {
    pub fn of(device: &Device) -> Self {
        #[cfg(feature = "cuda")]
        let stream = match device {
            Device::Cuda(device) => Self { cuda: Some(device.cuda_stream()) },
            _ => Self { cuda: None },
        };
        #[cfg(not(feature = "cuda"))]
        let stream = {
            let _ = device;
            Self {}
        };
        stream
    }

    /// As raw calls take it.
    pub fn raw(&self) -> *mut c_void {
        #[cfg(feature = "cuda")]
        if let Some(stream) = &self.cuda {
            return stream.cu_stream().cast();
        }
        std::ptr::null_mut()
    }
}

/// A storage's elements, as long as somebody holds the storage.
pub(crate) struct Span<'a> {
    pub buffer: RawBuffer,
    pub address: u64,
    /// What the device has done with them by then is in the order of its streams.
    _used: Used<'a>,
}

#[cfg(feature = "cuda")]
type Used<'a> = Option<cudarc::SyncOnDrop<'a>>;
#[cfg(not(feature = "cuda"))]
type Used<'a> = std::marker::PhantomData<&'a ()>;

impl<'a> Span<'a> {
    fn new(address: u64, len: usize, _used: Used<'a>) -> Self {
        Self { buffer: RawBuffer::new(address, len), address, _used }
    }

    /// To read.
    pub fn read(storage: &'a Storage, stream: &'a Stream) -> Result<Self> {
        match storage {
            Storage::Cpu(storage) => Self::read_host(storage),
            Storage::Cuda(storage) => Self::read_device(storage, stream),
            Storage::Metal(_) => unsupported(),
        }
    }

    pub fn read_host(storage: &'a CpuStorage) -> Result<Self> {
        macro_rules! read {
            ($($kind:ident),+) => {
                match storage {
                    $(CpuStorage::$kind(list) => {
                        let address = list.as_ptr().expose_provenance() as u64;
                        Ok(Self::new(address, list.len(), Used::default()))
                    })+
                    _ => unsupported(),
                }
            };
        }
        read!(F32, F16, BF16, U32, I32, I64)
    }

    /// To read and write.
    pub fn write(storage: &'a mut CpuStorage) -> Result<Self> {
        macro_rules! write {
            ($($kind:ident),+) => {
                match storage {
                    $(CpuStorage::$kind(list) => {
                        let address = list.as_mut_ptr().expose_provenance() as u64;
                        Ok(Self::new(address, list.len(), Used::default()))
                    })+
                    _ => unsupported(),
                }
            };
        }
        write!(F32, F16, BF16, F8E4M3)
    }

    #[cfg(not(feature = "cuda"))]
    pub fn read_device(_: &'a CudaStorage, _: &'a Stream) -> Result<Self> {
        unsupported()
    }

    #[cfg(feature = "cuda")]
    pub fn read_device(storage: &'a CudaStorage, stream: &'a Stream) -> Result<Self> {
        use cudarc::DevicePtr;
        let Some(stream) = &stream.cuda else { return unsupported() };
        macro_rules! read {
            ($($kind:ident),+) => {
                match &storage.slice {
                    $(CudaStorageSlice::$kind(slice) => {
                        let (address, used) = slice.device_ptr(stream);
                        Ok(Self::new(address, slice.len(), Some(used)))
                    })+
                    _ => unsupported(),
                }
            };
        }
        read!(F32, F16, BF16, U32, I32, I64)
    }

    /// To read and write, on a device.
    #[cfg(feature = "cuda")]
    pub fn write_device(storage: &'a mut CudaStorage, stream: &'a Stream) -> Result<Self> {
        use cudarc::DevicePtrMut;
        let Some(stream) = &stream.cuda else { return unsupported() };
        macro_rules! write {
            ($($kind:ident),+) => {
                match &mut storage.slice {
                    $(CudaStorageSlice::$kind(slice) => {
                        let len = slice.len();
                        let (address, used) = slice.device_ptr_mut(stream);
                        Ok(Self::new(address, len, Some(used)))
                    })+
                    _ => unsupported(),
                }
            };
        }
        write!(F32, F16, BF16, F8E4M3)
    }
}

/// Element types were looked at before.
fn unsupported<T>() -> Result<T> {
    let (tensor, expected) = ("tensor", "f32, f16, bf16 or ids on the CPU or a CUDA device");
    Err(wrap(Error::Tensor { tensor, expected, given: "another".to_owned() }))
}

/// Ours as candle's.
pub(crate) fn wrap(error: Error) -> candle_core::Error {
    candle_core::Error::wrap(error)
}
