//! NVTX ranges named for the operation, for `nsys` and `ncu --nvtx`; nothing without the feature.

use std::marker::PhantomData;

/// Ends its range when dropped. Ranges nest on the thread that opened them, so it stays there.
#[must_use]
pub(crate) struct Range(PhantomData<*const ()>);

pub(crate) fn range(name: &'static str) -> Range {
    #[cfg(feature = "nvtx")]
    nvtx::range_push!("{name}");
    #[cfg(not(feature = "nvtx"))]
    let _ = name;
    Range(PhantomData)
}

#[cfg(feature = "nvtx")]
impl Drop for Range {
    fn drop(&mut self) {
        nvtx::range_pop!();
    }
}
