//! The same code compiled once for what every CPU of the target has and once for what most have.
//!
//! `mul_add` is one instruction where the CPU has fma and a slow, equally exact library call where
//! the compiler may not assume it; so the choice is made at run time, around whole tasks.

/// A piece of work whose `run`, and all it calls, is `#[inline(always)]`.
pub(super) trait Work {
    fn run(self);
}

/// Runs `work` with the widest vectors the CPU has.
pub(super) fn dispatch<W: Work>(work: W) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the CPU has the features the function is compiled for.
            return unsafe { with_avx512(work) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has the features the function is compiled for.
            return unsafe { with_avx2(work) };
        }
    }
    work.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn with_avx512<W: Work>(work: W) {
    work.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2<W: Work>(work: W) {
    work.run();
}
