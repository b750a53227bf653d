//! The kernels' own source, run on the host: what a machine without a GPU can show of it.
#![cfg(feature = "kernel-on-host")]

use testkit::host::KernelOnHost;

/// Cut as for a large GPU.
mod large {
    testkit::suite!(super::KernelOnHost { multiprocessors: 132 });
}

/// Cut as for a GPU so small that every thread takes several heads.
mod small {
    testkit::suite!(super::KernelOnHost { multiprocessors: 1 });
}
