use crate::error::{Failure, argument, status};

/// Where calls run: the CPU, or a device whose kernels are loaded. Made once, shared by all threads.
#[allow(non_camel_case_types)]
pub struct crope_kernels(pub(crate) Backend);

#[derive(Clone)]
pub(crate) enum Backend {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(condensed_rope::cuda::Kernels),
}

/// The CPU.
///
/// # Safety
/// `out` is NULL or where a pointer may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_kernels_cpu(out: *mut *mut crope_kernels) -> i32 {
    status(|| {
        if out.is_null() {
            return Err(argument("out", "an address: given NULL"));
        }
        // SAFETY: the caller's promise.
        unsafe { out.write(Box::into_raw(Box::new(crope_kernels(Backend::Cpu)))) };
        Ok(())
    })
}

/// The kernels of a CUDA device, in its primary context, which the CUDA runtime uses. The caller's current context stays
/// current.
///
/// # Safety
/// `out` is NULL or where a pointer may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_kernels_cuda(ordinal: u32, out: *mut *mut crope_kernels) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { on_cuda(out, || cuda::of_device(ordinal)) }
}

/// The kernels in the calling thread's current context, whoever made it.
///
/// # Safety
/// `out` is NULL or where a pointer may be written. Unless it is a device's primary context, the context is destroyed after
/// the kernels have been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_kernels_cuda_current(out: *mut *mut crope_kernels) -> i32 {
    // SAFETY: the caller's promise.
    let load = || unsafe { cuda::of_current() };
    // SAFETY: the caller's promise.
    unsafe { on_cuda(out, load) }
}

/// # Safety
/// `out` is NULL or where a pointer may be written.
unsafe fn on_cuda(
    out: *mut *mut crope_kernels,
    load: impl FnOnce() -> Result<Backend, Failure>,
) -> i32 {
    status(|| {
        if out.is_null() {
            return Err(argument("out", "an address: given NULL"));
        }
        let kernels = Box::new(crope_kernels(load()?));
        // SAFETY: the caller's promise.
        unsafe { out.write(Box::into_raw(kernels)) };
        Ok(())
    })
}

#[cfg(feature = "cuda")]
mod cuda {
    use condensed_rope::cuda::Kernels;

    use super::{Backend, Failure};

    pub fn of_device(ordinal: u32) -> Result<Backend, Failure> {
        Ok(Backend::Cuda(Kernels::of_device(ordinal as usize)?))
    }

    /// # Safety
    /// As of [`Kernels::of_current`].
    pub unsafe fn of_current() -> Result<Backend, Failure> {
        // SAFETY: the caller's promise.
        Ok(Backend::Cuda(unsafe { Kernels::of_current() }?))
    }
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    use super::{Backend, Failure, argument};

    fn without() -> Failure {
        argument("crope_kernels_cuda", "a library built with the feature cuda")
    }

    pub fn of_device(_: u32) -> Result<Backend, Failure> {
        Err(without())
    }

    /// # Safety
    /// None is needed.
    pub unsafe fn of_current() -> Result<Backend, Failure> {
        Err(without())
    }
}

/// Frees them; NULL is nothing. What they launched may still run.
///
/// # Safety
/// `kernels` is NULL or came from this library, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_kernels_free(kernels: *mut crope_kernels) {
    if !kernels.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(kernels) });
    }
}
