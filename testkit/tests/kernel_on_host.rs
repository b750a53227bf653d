//! The kernels' own source, run on the host: what a machine without a GPU can show of it.
#![cfg(feature = "kernel-on-host")]

use condensed_rope::plan::{Kernel, Pdl, STRUCTS};
use testkit::conformance::{append, grids, mrope_and_sets, properties};
use testkit::host::{KernelOnHost, RAN, params_fields};
use testkit::hostile;

const LARGE: KernelOnHost = KernelOnHost { multiprocessors: 132, pdl: Pdl::Off };

/// Cut as for a large GPU.
mod large {
    testkit::suite!(super::LARGE);
}

/// Cut as for a GPU so small that every thread takes several heads.
mod small {
    testkit::suite!(super::KernelOnHost { multiprocessors: 1, pdl: super::Pdl::PositionsReady });
}

mod models {
    testkit::models!([] super::LARGE);
}

/// The raw interface, where tensors meet in one arena.
#[test]
fn hostile_raw_calls_do_what_they_say_or_nothing() {
    hostile::run_raw(&LARGE, hostile::count(), 7);
    hostile::run_raw(&testkit::Cpu, hostile::count(), 7);
}

/// The parameters are the same structs on both sides, field for field.
#[test]
fn parameters_are_laid_out_alike() {
    let ours = STRUCTS.iter().flat_map(|(of, size, fields)| {
        let whole = [(of.to_string(), String::new(), 0, *size)];
        let fields = fields
            .iter()
            .map(|(name, offset, size)| (of.to_string(), name.to_string(), *offset, *size));
        whole.into_iter().chain(fields)
    });
    assert_eq!(params_fields(), ours.collect::<Vec<_>>());
    // No byte is nobody's: neither side can have a field that the other does not list.
    for (of, size, fields) in STRUCTS {
        let end = fields.iter().fold(0, |end, (name, offset, size)| {
            assert_eq!(*offset, end, "padding before {of}::{name}");
            offset + size
        });
        assert_eq!(end, *size, "padding at the end of {of}");
    }
}

/// The suites leave no kernel out.
#[test]
fn every_kernel_runs() {
    for multiprocessors in [1, 4, 20, 132] {
        for pdl in [Pdl::Off, Pdl::On, Pdl::PositionsReady] {
            let backend = KernelOnHost { multiprocessors, pdl };
            grids::odd_rotary_dims(&backend);
            grids::shares_of_heads(&backend);
            append::vectors_and_cuts(&backend);
        }
        let backend = KernelOnHost { multiprocessors, pdl: Pdl::On };
        grids::vllm(&backend);
        mrope_and_sets::sets(&backend);
        append::random_calls(&backend);
        mrope_and_sets::axes(&backend);
        properties::tables(&backend);
    }
    let ran = RAN.lock().expect("no test panics here").clone();
    for kernel in Kernel::all() {
        for variant in kernel.variants() {
            let name = kernel.name(variant);
            assert!(ran.contains(&name), "{name} did not run");
        }
    }
}
