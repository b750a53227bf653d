//! Phase words in device memory.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result::stream::StreamKind;
use cudarc::driver::sys::CUstream;
use cudarc::driver::{CudaContext, result};

use super::context::{Current, OutsideCaptures, allocating, driver};
use crate::frequencies::{WordsShape, write_set};
use crate::{Frequencies, PhaseWords, Result};

/// A buffer that is allocated and freed synchronously, so that ropes may be made and dropped during a
/// capture.
///
/// Not a `CudaSlice`, which waits on events, as a stream under capture must not; and nothing here waits
/// for the whole context, which would break a capture on another thread.
#[derive(Debug)]
pub(super) struct DeviceWords {
    pub address: u64,
    /// What was last copied there, kept as long: a copy may be captured into a graph.
    host: Mutex<Vec<u64>>,
    context: Arc<CudaContext>,
}

impl DeviceWords {
    /// Leaves the caller's context current.
    pub fn upload(context: &Arc<CudaContext>, words: &PhaseWords) -> Result<Self> {
        const DOING: &str = "uploading the phase words";
        let refused = driver(DOING);
        let _current = Current::enter(context).map_err(&refused)?;
        let _relaxed = OutsideCaptures::enter();
        let words = words.words().to_vec();
        let bytes = size_of_val(&*words);
        // SAFETY: the context is current; the memory is written before it is read.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(allocating(DOING, bytes))?;
        let mut buffer = Self { address, host: Mutex::new(words), context: context.clone() };
        let stream = result::stream::create(StreamKind::NonBlocking).map_err(&refused)?;
        let words = buffer.host.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: `address` is an allocation of as many words, which outlive the wait below.
        let copied = unsafe { result::memcpy_htod_async(address, words, stream) };
        // SAFETY: the stream was just created.
        let finished = unsafe { result::stream::synchronize(stream) };
        // SAFETY: nobody else has the stream.
        let destroyed = unsafe { result::stream::destroy(stream) };
        copied.and(finished).and(destroyed).map_err(refused)?;
        Ok(buffer)
    }

    /// Writes a set anew and copies it on `stream`, of the same context, which is current. The frequencies fit.
    pub fn rewrite(
        &self,
        stream: CUstream,
        shape: WordsShape,
        set: usize,
        frequencies: &Frequencies,
    ) -> Result<()> {
        let mut words = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        let range = shape.range(set);
        let address = self.address + (range.start * size_of::<u64>()) as u64;
        let words = &mut words[range];
        write_set(frequencies, words);
        // SAFETY: as many words lie there, and these are kept as long as those. The driver has copied
        // pageable memory when it returns; or, where another thread has begun a capture on the stream,
        // the graph copies what they say then. Launches before it on the stream have read what they
        // need; others may read a mixture, which is frequencies as good as any to them.
        unsafe { result::memcpy_htod_async(address, words, stream) }
            .map_err(driver("writing frequencies"))
    }
}

impl Drop for DeviceWords {
    fn drop(&mut self) {
        let _relaxed = OutsideCaptures::enter();
        // Where the context cannot be entered, its memory is gone with it. A refusal has nobody to go to.
        let Ok(_current) = Current::enter(&self.context) else { return };
        // SAFETY: `upload` allocated it. A launch may still be reading: cuMemFree waits for work that
        // was submitted, as it says of memory that is not from a stream's pool.
        let _ = unsafe { result::free_sync(self.address) };
    }
}
