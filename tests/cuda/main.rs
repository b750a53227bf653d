//! The CUDA backend on a device: `cargo test --test cuda -- --include-ignored`.
#![cfg(feature = "cuda")]

mod append;
mod capture;
mod contexts;
mod gpu;
mod raw;

use condensed_rope::cuda::{self, Heads, Kernels, Rope};
use condensed_rope::{
    CondensedRotaryEmbedding, Error, Frequencies, Layout, Pairing, Positions, Queries, cpu,
};
use gpu::{Gpu, bits, on_cpu};
use half::bf16;
use testkit::call::noise;

testkit::suite!(ignore = "needs a CUDA GPU"; Gpu::get());

mod models {
    testkit::models!([#[ignore = "needs a CUDA GPU"]] super::Gpu::get());
}

#[test]
#[ignore = "needs a CUDA GPU with 6 GB free"]
fn tensors_over_2_31_elements_are_addressed() {
    let gpu = Gpu::get();
    let stream = gpu.stream();
    let (tokens, heads) = (150_000, 128);
    let len = tokens * heads * 128;
    assert!(len > 1 << 31);
    let mut q = stream.alloc_zeros::<bf16>(len).expect("device memory");
    let probes = [0, 1, 77_777, 131_071, 131_072, 149_999];
    let row = heads * 128;
    let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
    let layout = Layout::thd(tokens, heads, 128);
    // The second launch's grid has more tiles of tokens than fit its second dimension.
    for appends in [false, true] {
        for t in probes {
            let rows = noise::<bf16>(row, t as u64);
            stream.memcpy_htod(&rows, &mut q.slice_mut(t * row..(t + 1) * row)).expect("a copy");
        }
        let (whole, positions) = (Heads::in_place(&mut q, layout), Positions::consecutive(0));
        let done = if appends {
            let call = cuda::Append::new(Some(Queries::Heads(whole)), None, None);
            gpu.rope.rotate_append(&stream, call, positions)
        } else {
            gpu.rope.rotate(&stream, Some(whole), None, positions)
        };
        done.expect("a valid call");
        for t in probes {
            let got = stream.clone_dtoh(&q.slice(t * row..(t + 1) * row)).expect("a copy");
            let expected = on_cpu(&frequencies, noise(row, t as u64), heads, &[t as i64]);
            assert_eq!(bits(&got), bits(&expected), "token {t}, {appends}");
        }
    }
    // Heads further apart than 2^31 bytes.
    let far = Layout::thd(2, 2, 128).with_strides([0, 128, len / 2]);
    let mut given = Vec::new();
    for h in 0..2 {
        let rows = noise::<bf16>(256, 90 + h as u64);
        stream
            .memcpy_htod(&rows, &mut q.slice_mut(h * len / 2..h * len / 2 + 256))
            .expect("a copy");
        given.push(rows);
    }
    let heads = Heads::in_place(&mut q, far);
    gpu.rope.rotate(&stream, Some(heads), None, Positions::consecutive(9)).expect("a valid call");
    for (h, rows) in given.into_iter().enumerate() {
        let got = stream.clone_dtoh(&q.slice(h * len / 2..h * len / 2 + 256)).expect("a copy");
        assert_eq!(bits(&got), bits(&on_cpu(&frequencies, rows, 1, &[9, 10])), "head {h}");
    }
}

#[test]
#[ignore = "needs a CUDA GPU"]
fn ropes_are_shared_between_threads_and_streams() {
    let gpu = Gpu::get();
    let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let frequencies = &frequencies;
            scope.spawn(move || {
                let stream = gpu.stream();
                let rope = gpu.rope.clone();
                let ids: Vec<i64> = (0..64).map(|i| i * 1000 + thread as i64).collect();
                for round in 0..20 {
                    let given = noise::<bf16>(64 * 4 * 128, thread * 100 + round);
                    let mut q = stream.clone_htod(&given).expect("a copy");
                    let on_device = stream.clone_htod(&ids).expect("a copy");
                    let heads = Heads::in_place(&mut q, Layout::thd(64, 4, 128));
                    rope.rotate(&stream, Some(heads), None, Positions::ids(&on_device))
                        .expect("a valid call");
                    let got = stream.clone_dtoh(&q).expect("a copy");
                    assert_eq!(bits(&got), bits(&on_cpu(frequencies, given, 4, &ids)));
                }
            });
        }
    });
}

/// A rope a layer loads no module: 80 of them, and the memory of their words alone.
#[test]
#[ignore = "needs a CUDA GPU"]
fn ropes_of_all_layers_share_the_kernels() {
    let gpu = Gpu::get();
    let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
    let start = std::time::Instant::now();
    let ropes: Vec<Rope> = (0..80).map(|_| gpu.rope(&frequencies, Pairing::HalfSplit)).collect();
    let each = start.elapsed() / 80;
    println!("making a rope of loaded kernels: {each:?}");
    let stream = gpu.stream();
    let given = noise::<bf16>(3 * 4 * 128, 1);
    let expected = bits(&on_cpu(&frequencies, given.clone(), 4, &[5, 6, 7]));
    for rope in ropes {
        let mut q = stream.clone_htod(&given).expect("a copy");
        let heads = Heads::in_place(&mut q, Layout::thd(3, 4, 128));
        rope.rotate(&stream, Some(heads), None, Positions::consecutive(5)).expect("a valid call");
        assert_eq!(bits(&stream.clone_dtoh(&q).expect("a copy")), expected);
    }
}

#[test]
#[ignore = "needs a CUDA GPU"]
fn fastchats_table_is_the_same_on_the_gpu() {
    let gpu = Gpu::get();
    let stream = gpu.stream();
    let mut embedding = CondensedRotaryEmbedding::new(128, 8.0).expect("valid");
    let expected = embedding.forward::<f32>(20_000).expect("a table");
    let table = embedding.forward_cuda::<f32>(&gpu.kernels, &stream, 20_000).expect("a table");
    assert_eq!(table.shape, [1, 1, 20_000, 128]);
    assert_eq!(stream.clone_dtoh(&table.cos).expect("a copy"), expected.cos);
    assert_eq!(stream.clone_dtoh(&table.sin).expect("a copy"), expected.sin);
    let bytes = ((1usize << 31) - 1) * 128 * 4;
    let full = embedding.forward_cuda::<f32>(&gpu.kernels, &stream, (1 << 31) - 1);
    assert_eq!(full.err(), Some(Error::OutOfMemory { bytes }));
    assert_eq!(embedding.capacity(), 20_000.0, "a table that failed is not counted");
    // Of no rows, as on the CPU.
    let none = embedding.forward_cuda::<bf16>(&gpu.kernels, &stream, 0).expect("an empty table");
    assert_eq!((none.cos.len(), none.sin.len(), none.shape), (0, 0, [1, 1, 0, 128]));
    drop(none);
    stream.synchronize().expect("and it goes without a word");
    gpu.context().check_err().expect("nothing was refused behind our back");
}

#[test]
#[ignore = "needs a CUDA GPU"]
fn there_is_no_device_99() {
    for ordinal in [99, usize::MAX, 1 << 32] {
        assert_eq!(cuda::context(ordinal).err(), Some(Error::NoDevice { ordinal }));
    }
}

#[test]
fn a_machine_without_a_driver_says_so() {
    match cuda::context(0) {
        Ok(_) | Err(Error::NoDriver | Error::NoDevice { ordinal: 0 }) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn ropes_are_send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<Rope>();
    check::<Kernels>();
    check::<cpu::Rope>();
    check::<Error>();
}
