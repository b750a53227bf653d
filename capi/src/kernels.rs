use crate::error::{argument, status};

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
    status(|| {
        if out.is_null() {
            return Err(argument("out", "an address: given NULL"));
        }
        #[cfg(feature = "cuda")]
        {
            let kernels = condensed_rope::cuda::Kernels::of_device(ordinal as usize)?;
            // SAFETY: the caller's promise.
            unsafe { out.write(Box::into_raw(Box::new(crope_kernels(Backend::Cuda(kernels))))) };
            Ok(())
        }
        #[cfg(not(feature = "cuda"))]
        {
            let _ = ordinal;
            Err(argument("crope_kernels_cuda", "a library built with the feature cuda"))
        }
    })
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
