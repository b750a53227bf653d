//! The CUDA backend on a device: `cargo test --test cuda -- --include-ignored`.
#![cfg(feature = "cuda")]

mod capture;
mod gpu;

use condensed_rope::cuda::cudarc::driver::{CudaContext, DevicePtr, DevicePtrMut, sys};
use condensed_rope::cuda::{self, Heads, RawHeads, RawIds, Rope};
use condensed_rope::{CondensedRotaryEmbedding, Dtype, Error, Frequencies, Layout, Positions, cpu};
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
    for t in probes {
        let rows = noise::<bf16>(row, t as u64);
        stream.memcpy_htod(&rows, &mut q.slice_mut(t * row..(t + 1) * row)).expect("a copy");
    }
    let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
    let layout = Layout::thd(tokens, heads, 128);
    gpu.rope
        .rotate(&stream, Heads::in_place(&mut q, layout), None, Positions::from(0))
        .expect("a valid call");
    for t in probes {
        let got = stream.clone_dtoh(&q.slice(t * row..(t + 1) * row)).expect("a copy");
        let expected = on_cpu(&frequencies, noise(row, t as u64), heads, &[t as i64]);
        assert_eq!(bits(&got), bits(&expected), "token {t}");
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
    gpu.rope
        .rotate(&stream, Heads::in_place(&mut q, far), None, Positions::from(9))
        .expect("a valid call");
    for (h, rows) in given.into_iter().enumerate() {
        let got = stream.clone_dtoh(&q.slice(h * len / 2..h * len / 2 + 256)).expect("a copy");
        assert_eq!(bits(&got), bits(&on_cpu(&frequencies, rows, 1, &[9, 10])), "head {h}");
    }
}

#[test]
#[ignore = "needs a CUDA GPU"]
fn buffers_and_streams_of_another_context_are_refused() {
    let gpu = Gpu::get();
    let stream = gpu.stream();
    let device = gpu.context.cu_device();
    let mut handle = std::ptr::null_mut();
    // By its exported name: cudarc's bindings have another one for each version of the toolkit.
    type Create = unsafe extern "C" fn(*mut sys::CUcontext, u32, sys::CUdevice) -> sys::CUresult;
    // SAFETY: the driver, which is loaded already.
    let driver = unsafe { libloading::Library::new("libcuda.so.1") }.expect("the driver");
    // SAFETY: the signature of cuCtxCreate_v2 in cuda.h.
    let create = unsafe { driver.get::<Create>(b"cuCtxCreate_v2") }.expect("the driver's function");
    // SAFETY: the driver is initialised, and `handle` receives the new context.
    let created = unsafe { create(&mut handle, 0, device) };
    assert_eq!(created, sys::CUresult::CUDA_SUCCESS);
    // SAFETY: a context of that device, which nobody else has.
    let other = unsafe { CudaContext::from_raw_context(0, device, handle) }.expect("a context");
    let other_stream = other.default_stream();
    let mut theirs = other_stream.alloc_zeros::<f32>(128).expect("device memory");
    let their_ids = other_stream.alloc_zeros::<i32>(1).expect("device memory");
    gpu.context.bind_to_thread().expect("binds");
    let mut ours = stream.alloc_zeros::<f32>(128).expect("device memory");
    let layout = Layout::thd(1, 1, 128);
    let refused = |what| Err(Error::Context { what });
    let call = Heads::in_place(&mut theirs, layout);
    assert_eq!(gpu.rope.rotate(&stream, call, None, Positions::from(0)), refused("q"));
    let (q, k) = (Heads::in_place(&mut ours, layout), Heads::in_place(&mut theirs, layout));
    assert_eq!(gpu.rope.rotate(&stream, q, Some(k), Positions::from(0)), refused("k"));
    let q = Heads::in_place(&mut ours, layout);
    let ids = Positions::ids(&their_ids);
    assert_eq!(gpu.rope.rotate(&stream, q, None, ids), refused("position ids"));
    let q = Heads::in_place(&mut ours, layout);
    assert_eq!(gpu.rope.rotate(&other_stream, q, None, Positions::from(0)), refused("stream"));
}

#[test]
#[ignore = "needs a CUDA GPU"]
fn the_raw_entry_rotates_and_refuses() {
    let gpu = Gpu::get();
    let stream = gpu.stream();
    let given = noise::<bf16>(3 * 4 * 128, 5);
    let mut q = stream.clone_htod(&given).expect("a copy");
    let ids = stream.clone_htod(&[5i32, -6, 700]).expect("a copy");
    let layout = Layout::thd(3, 4, 128);
    {
        let (address, _guard) = q.device_ptr_mut(&stream);
        let (ids, _ids_guard) = ids.device_ptr(&stream);
        let heads = RawHeads::in_place(Dtype::BF16, address, layout);
        let rotate = |q: RawHeads, k: Option<RawHeads>, positions: Positions<RawIds>| {
            // SAFETY: the buffers outlive the synchronisation below, and nothing else uses them.
            unsafe { gpu.rope.rotate_raw(stream.cu_stream(), q, k, positions) }
        };
        let positions = || Positions::ids(RawIds { address: ids, len: 3, wide: false });
        let other = RawHeads::in_place(Dtype::F16, address + (1 << 20), layout);
        let dtype = Error::Dtype { tensor: "k", expected: "bf16", given: "f16".to_owned() };
        assert_eq!(rotate(heads, Some(other), positions()), Err(dtype));
        let odd = RawHeads::in_place(Dtype::BF16, address + 1, layout);
        let alignment = Error::Alignment { tensor: "q", expected: 2, given: address + 1 };
        assert_eq!(rotate(odd, None, positions()), Err(alignment));
        let overlap = |a, b| Err(Error::OverlappingTensors { tensors: [a, b] });
        assert_eq!(rotate(heads, Some(heads), positions()), overlap("q", "k"));
        let shifted = heads.reading(address + 2, layout);
        assert_eq!(rotate(shifted, None, positions()), overlap("q", "q source"));
        let wide = RawIds { address: ids + 4, len: 3, wide: true };
        let alignment = Error::Alignment { tensor: "position ids", expected: 8, given: ids + 4 };
        assert_eq!(rotate(heads, None, Positions::ids(wide)), Err(alignment));
        // A source that is its target is in place.
        assert_eq!(rotate(heads.reading(address, layout), None, positions()), Ok(()));
        stream.synchronize().expect("done");
    }
    let got = stream.clone_dtoh(&q).expect("a copy");
    let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
    assert_eq!(bits(&got), bits(&on_cpu(&frequencies, given, 4, &[5, -6, 700])));
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
                    rope.rotate(&stream, heads, None, Positions::ids(&on_device))
                        .expect("a valid call");
                    let got = stream.clone_dtoh(&q).expect("a copy");
                    assert_eq!(bits(&got), bits(&on_cpu(frequencies, given, 4, &ids)));
                }
            });
        }
    });
}
#[test]
#[ignore = "needs a CUDA GPU"]
fn fastchats_table_is_the_same_on_the_gpu() {
    let gpu = Gpu::get();
    let stream = gpu.stream();
    let mut embedding = CondensedRotaryEmbedding::new(128, 8.0).expect("valid");
    let expected = embedding.forward::<f32>(20_000).expect("a table");
    let table = embedding.forward_cuda::<f32>(&gpu.rope, &stream, 20_000).expect("a table");
    assert_eq!(table.shape, [1, 1, 20_000, 128]);
    assert_eq!(stream.clone_dtoh(&table.cos).expect("a copy"), expected.cos);
    assert_eq!(stream.clone_dtoh(&table.sin).expect("a copy"), expected.sin);
    let bytes = ((1usize << 31) - 1) * 128 * 4;
    let full = embedding.forward_cuda::<f32>(&gpu.rope, &stream, (1 << 31) - 1);
    assert_eq!(full.err(), Some(Error::OutOfMemory { bytes }));
    assert_eq!(embedding.capacity(), 20_000.0, "a table that failed is not counted");
}

#[test]
#[ignore = "needs a CUDA GPU"]
fn there_is_no_device_99() {
    assert_eq!(cuda::context(99).err(), Some(Error::NoDevice { ordinal: 99 }));
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
    check::<cpu::Rope>();
    check::<Error>();
}
