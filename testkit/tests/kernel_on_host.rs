//! The kernels' own source, run on the host: what a machine without a GPU can show of it.
#![cfg(feature = "kernel-on-host")]

use condensed_rope::kernel::{Entry, Overlap, Variant};
use testkit::host::{KernelOnHost, RAN};

/// Cut as for a large GPU.
mod large {
    testkit::suite!(super::KernelOnHost { multiprocessors: 132, overlap: super::Overlap::None });
}

/// Cut as for a GPU so small that every thread takes several heads.
mod small {
    testkit::suite!(super::KernelOnHost {
        multiprocessors: 1,
        overlap: super::Overlap::PositionsReady
    });
}

mod models {
    testkit::models!([] super::KernelOnHost { multiprocessors: 132, overlap: super::Overlap::None });
}

/// The suites leave no kernel out.
#[test]
fn every_kernel_runs() {
    for multiprocessors in [1, 4, 20, 132] {
        let backend = KernelOnHost { multiprocessors, overlap: Overlap::Launch };
        testkit::grids::odd_rotary_dims(&backend);
        testkit::grids::vllm(&backend);
        testkit::choices::sets(&backend);
        testkit::choices::axes(&backend);
        testkit::suite::tables(&backend);
    }
    let ran = RAN.lock().expect("no test panics here").clone();
    for entry in Entry::ALL {
        for variant in Variant::all() {
            let name = variant.name(entry);
            assert!(ran.contains(&name), "{name} did not run");
        }
    }
}
