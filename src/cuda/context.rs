//! Contexts, and the driver's word on them.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};

use crate::{Error, Result};

/// A `CUstream` of any version of cudarc, or of none; null is the legacy default stream.
pub type RawStream = *mut c_void;

/// The primary context of device `ordinal`. Where `CudaContext::new` panics without a driver
/// library, this says so. Leaves it current, as that does.
///
/// # Errors
/// [`Error::NoDriver`], [`Error::NoDevice`], or [`Error::Driver`].
pub fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    if library().is_none() {
        return Err(Error::NoDriver);
    }
    // cudarc takes the driver's own i32, and an ordinal beyond it for a negative one.
    if i32::try_from(ordinal).is_err() {
        return Err(Error::NoDevice { ordinal });
    }
    CudaContext::new(ordinal).map_err(|error| match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE | CUresult::CUDA_ERROR_INVALID_DEVICE => {
            Error::NoDevice { ordinal }
        }
        _ => driver("creating a context")(error),
    })
}

/// A handle of a context that somebody else made, and keeps.
///
/// # Safety
/// `context` is current on this thread; unless it is a primary one it outlives all that is made of the handle.
pub(super) unsafe fn borrowed(context: sys::CUcontext) -> Result<Arc<CudaContext>> {
    let asking = driver("asking about the current context");
    let mut device = 0;
    // SAFETY: a context is current, which is all that the driver asks for.
    unsafe { sys::cuCtxGetDevice(&raw mut device) }.result().map_err(&asking)?;
    // cudarc's ordinals are the driver's device numbers.
    let ordinal = device as usize;
    let (mut flags, mut active) = (0, 0);
    // SAFETY: a device of the driver's, and two numbers to write to.
    unsafe { sys::cuDevicePrimaryCtxGetState(device, &raw mut flags, &raw mut active) }
        .result()
        .map_err(&asking)?;
    // One that is not active is not current, and asking for it would make it.
    if active != 0 {
        let primary = self::context(ordinal)?;
        if primary.cu_ctx() == context {
            return Ok(primary);
        }
    }
    // SAFETY: it is valid, and of this device. Nobody must destroy what is not theirs, and the handle would on its drop:
    // one of its references is never dropped.
    let handle = unsafe { CudaContext::from_raw_context(ordinal, device, context) };
    let handle = handle.map_err(&asking)?;
    std::mem::forget(handle.clone());
    Ok(handle)
}

/// The driver's library, beside cudarc: whether it can be loaded cannot be asked of cudarc in all of its ways
/// of linking, and its bindings name some functions by the version of the toolkit; an engine may have
/// chosen any.
pub(super) fn library() -> Option<libloading::Library> {
    ["libcuda.so.1", "libcuda.so", "nvcuda.dll"].into_iter().find_map(|name| {
        // SAFETY: the driver's library runs no code on loading that others would mind; it is what
        // every CUDA program loads.
        unsafe { libloading::Library::new(name) }.ok()
    })
}

/// Turns a refusal of the driver into an [`Error`] that says what was being done.
pub(super) fn driver(doing: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Driver { doing, reason: format!("{error}") }
}

/// Tells a full device from other refusals.
pub(super) fn allocating(doing: &'static str, bytes: usize) -> impl Fn(DriverError) -> Error {
    move |error| match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { bytes },
        _ => driver(doing)(error),
    }
}

/// Whether work on the stream goes into a graph.
///
/// # Safety
/// `stream` is a stream of the current context.
pub(super) unsafe fn is_capturing(stream: sys::CUstream) -> Result<bool> {
    // SAFETY: the caller's promise.
    let status = unsafe { result::stream::is_capturing(stream) };
    let status = status.map_err(driver("asking whether the stream is being captured"))?;
    Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

/// The very handle, not another one of the same context: each orders streams by state of its own.
pub(super) fn check_handle(
    context: &Arc<CudaContext>,
    what: &'static str,
    of: &Arc<CudaContext>,
) -> Result<()> {
    if Arc::ptr_eq(context, of) { Ok(()) } else { Err(Error::Context { what }) }
}

/// Checks the stream's handle and makes the context current, as cudarc's own safe calls do.
pub(super) fn enter(context: &Arc<CudaContext>, stream: &CudaStream) -> Result<()> {
    check_handle(context, "stream", stream.context())?;
    // Reports what an earlier call or a drop has left behind, too.
    context.bind_to_thread().map_err(driver("binding the context, or before this call"))
}

/// A context that is current until this is dropped; then the one before is again.
pub(super) struct Current {
    before: Option<sys::CUcontext>,
    changed: bool,
}

impl Current {
    /// Whatever becomes current meanwhile. The driver's library is there.
    pub fn kept() -> Self {
        // A driver that nobody has initialised has none.
        Self { before: result::ctx::get_current().unwrap_or(None), changed: true }
    }

    /// The one that becomes current again, where there is one.
    pub fn before(&self) -> Option<sys::CUcontext> {
        self.before
    }

    pub fn enter(context: &CudaContext) -> std::result::Result<Self, DriverError> {
        let before = result::ctx::get_current()?;
        let changed = before != Some(context.cu_ctx());
        if changed {
            // SAFETY: the handle keeps its context alive.
            unsafe { result::ctx::set_current(context.cu_ctx()) }?;
        }
        Ok(Self { before, changed })
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        if self.changed {
            let before = self.before.unwrap_or(std::ptr::null_mut());
            // SAFETY: it was current; null is no context. A refusal leaves ours, and has nobody to go to.
            let _ = unsafe { result::ctx::set_current(before) };
        }
    }
}

/// While this lives, allocating and freeing on this thread disturbs no capture, here or elsewhere: nothing
/// that is allocated or freed is known to a stream that is being captured.
pub(super) struct OutsideCaptures(CUstreamCaptureMode);

impl OutsideCaptures {
    pub fn enter() -> Self {
        let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: it exchanges the thread's mode for this one. It refuses no valid mode.
        let _ = unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) };
        Self(mode)
    }
}

impl Drop for OutsideCaptures {
    fn drop(&mut self) {
        // SAFETY: as above; this was the thread's mode.
        let _ = unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut self.0) };
    }
}
