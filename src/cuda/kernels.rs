//! The compiled kernels in one context.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result::stream::StreamKind;
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, result};
use cudarc::nvrtc::Ptx;

use crate::kernel::{Device, Entry, Variant};
use crate::{Error, Result};

/// Machine code and PTX; the driver takes what suits the device.
const ROTATE: &[u8] = include_bytes!(concat!(env!("CONDENSED_ROPE_KERNELS"), "/rotate.fatbin"));
const COS_SIN: &[u8] = include_bytes!(concat!(env!("CONDENSED_ROPE_KERNELS"), "/cos_sin.fatbin"));
const OLDEST: (i32, i32) = (7, 5);

/// One entry of a `.cu` file in all variants; `None` where there is no such variant.
type Entries = [Option<CudaFunction>; Variant::COUNT];

/// The kernels, loaded into a context, and what launches need to know of its device.
#[derive(Debug)]
pub(super) struct Kernels {
    pub context: Arc<CudaContext>,
    pub device: Device,
    /// Whether launches may overlap: compute capability 9.0 and newer.
    pub overlaps: bool,
    /// By place in [`Entry::ALL`].
    entries: [Entries; Entry::ALL.len()],
}

impl Kernels {
    pub fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let loading = driver("loading the kernels");
        let capability = context.compute_capability().map_err(&loading)?;
        if capability < OLDEST {
            return Err(Error::DeviceTooOld { expected: OLDEST, given: capability });
        }
        let attribute = |attribute| context.attribute(attribute).map_err(&loading);
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let l2_bytes = attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
        let [rotate, cos_sin] = [ROTATE, COS_SIN]
            .map(|code| context.load_module(Ptx::from_binary(code.to_vec())).map_err(&loading));
        let (rotate, cos_sin) = (rotate?, cos_sin?);
        let mut entries = [const { [const { None }; Variant::COUNT] }; Entry::ALL.len()];
        for (entry, functions) in Entry::ALL.into_iter().zip(&mut entries) {
            let module = if entry == Entry::CosSin { &cos_sin } else { &rotate };
            for variant in Variant::all() {
                let function = module.load_function(&variant.name(entry)).map_err(&loading)?;
                functions[variant.index()] = Some(function);
            }
        }
        let device = Device {
            multiprocessors: multiprocessors.max(1) as usize,
            l2_bytes: l2_bytes.max(0) as usize,
        };
        let overlaps = capability >= (9, 0);
        Ok(Self { context: context.clone(), device, overlaps, entries })
    }

    pub fn function(&self, entry: Entry, variant: Variant) -> &CudaFunction {
        let function = &self.entries[entry as usize][variant.index()];
        function.as_ref().expect("`load` filled in every variant")
    }
}

/// Turns a refusal of the driver into an [`Error`] that says what was being done.
pub(super) fn driver(doing: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Driver { doing, reason: format!("{error}") }
}

/// Device memory that is there before anything can use it and goes when nothing can any more.
///
/// Not a `CudaSlice`, which waits on events, as a stream under capture must not; and nothing here waits
/// for the whole context, which would break a capture on another thread.
#[derive(Debug)]
pub(super) struct Steps {
    pub address: u64,
    /// What was last copied there, kept as long: a copy may be captured into a graph.
    words: Mutex<Vec<u64>>,
    context: Arc<CudaContext>,
}

impl Steps {
    pub fn upload(context: &Arc<CudaContext>, words: Vec<u64>) -> Result<Self> {
        let doing = driver("uploading the phase steps");
        context.bind_to_thread().map_err(&doing)?;
        let bytes = size_of_val(&*words);
        // SAFETY: the context is current; the memory is written before it is read.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(allocating(bytes, &doing))?;
        let mut buffer = Self { address, words: Mutex::new(words), context: context.clone() };
        let stream = result::stream::create(StreamKind::NonBlocking).map_err(&doing)?;
        let words = buffer.words.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: `address` is an allocation of as many words, which outlive the wait below.
        let copied = unsafe { result::memcpy_htod_async(address, words, stream) };
        // SAFETY: the stream was just created.
        let finished = unsafe { result::stream::synchronize(stream) };
        // SAFETY: nobody else has the stream.
        let destroyed = unsafe { result::stream::destroy(stream) };
        copied.and(finished).and(destroyed).map_err(&doing)?;
        Ok(buffer)
    }

    /// Writes a range of the words anew and copies it on `stream`, of the same context, which is
    /// current.
    pub fn rewrite(
        &self,
        stream: &CudaStream,
        range: Range<usize>,
        write: impl FnOnce(&mut [u64]),
    ) -> std::result::Result<(), DriverError> {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let address = self.address + (range.start * size_of::<u64>()) as u64;
        let words = &mut words[range];
        write(words);
        // SAFETY: as many words lie there, and these are kept as long as those. The driver has copied
        // pageable memory when it returns; or, where another thread has begun a capture on the stream,
        // the graph copies what they say then. Launches before it on the stream have read what they
        // need; others may read a mixture, which is frequencies as good as any to them.
        unsafe { result::memcpy_htod_async(address, words, stream.cu_stream()) }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        // A refusal here has nobody to go to; the context keeps it.
        self.context.record_err(self.context.bind_to_thread());
        // SAFETY: `upload` allocated it. A launch may still be reading: cuMemFree waits for work that
        // was submitted, as it says of memory that is not from a stream's pool.
        self.context.record_err(unsafe { result::free_sync(self.address) });
    }
}

/// Tells a full device from other refusals.
pub(super) fn allocating(
    bytes: usize,
    otherwise: &impl Fn(DriverError) -> Error,
) -> impl Fn(DriverError) -> Error {
    move |error| match error.0 {
        cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { bytes },
        _ => otherwise(error),
    }
}
