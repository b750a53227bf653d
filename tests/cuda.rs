//! The CUDA backend on a device: `cargo test --test cuda -- --include-ignored`.
#![cfg(feature = "cuda")]

use std::sync::{Arc, LazyLock};

use condensed_rope::cuda::cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, sys,
};
use condensed_rope::cuda::{self, Heads, Ids, Overlap, RawHeads, RawIds, Rope, View, ViewMut};
use condensed_rope::{
    CondensedRotaryEmbedding, Dtype, Error, Frequencies, Layout, Pairing, Positions, Result, cpu,
};
use half::bf16;
use testkit::call::{TestElement, noise};
use testkit::{Backend, Call, Operand, Values};

testkit::suite!(ignore = "needs a CUDA GPU"; Gpu::get());

/// Device 0, with the kernels loaded once for all tests.
struct Gpu {
    context: Arc<CudaContext>,
    rope: Rope,
}

impl Gpu {
    fn get() -> &'static Self {
        static GPU: LazyLock<Gpu> = LazyLock::new(|| {
            let context = cuda::context(0).expect("a CUDA device");
            let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
            let rope = Rope::new(&context, &frequencies, Pairing::HalfSplit).expect("kernels load");
            Gpu { context, rope }
        });
        &GPU
    }

    fn rope(&self, frequencies: &Frequencies, pairing: Pairing) -> Rope {
        self.rope.with(frequencies, pairing).expect("room for the steps")
    }

    fn stream(&self) -> Arc<CudaStream> {
        self.context.new_stream().expect("a stream")
    }
}

/// Elements of any type, in device memory.
struct Buffer {
    bytes: CudaSlice<u8>,
    len: usize,
}

impl Buffer {
    fn upload<T: TestElement>(stream: &Arc<CudaStream>, values: &[T]) -> Self {
        // SAFETY: elements are plain numbers, so their bytes are initialised.
        let bytes = unsafe {
            std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values))
        };
        // An empty allocation is refused by the driver.
        let mut slice = stream.alloc_zeros(bytes.len().max(1)).expect("device memory");
        stream.memcpy_htod(bytes, &mut slice).expect("a copy");
        Self { bytes: slice, len: values.len() }
    }

    fn download<T: TestElement>(&self, stream: &Arc<CudaStream>, values: &mut [T]) {
        let bytes = stream.clone_dtoh(&self.bytes).expect("a copy");
        assert!(size_of_val(values) <= bytes.len());
        // SAFETY: as many bytes as the elements have, and any bits are a number.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                values.as_mut_ptr().cast(),
                size_of_val(values),
            );
        }
    }

    fn view<T>(&self) -> View<'_, T> {
        // SAFETY: the bytes are those of `len` numbers.
        unsafe { self.bytes.transmute(self.len) }.expect("long enough").into()
    }

    fn view_mut<T>(&mut self) -> ViewMut<'_, T> {
        // SAFETY: the bytes are those of `len` numbers.
        unsafe { self.bytes.transmute_mut(self.len) }.expect("long enough").into()
    }
}

/// An operand in device memory: the target, and the source if there is one.
struct OnDevice {
    target: Buffer,
    layout: Layout,
    source: Option<(Buffer, Layout)>,
}

impl OnDevice {
    fn upload<T: TestElement>(stream: &Arc<CudaStream>, operand: &Operand<T>) -> Self {
        Self {
            target: Buffer::upload(stream, &operand.buffer),
            layout: operand.layout,
            source: operand
                .source
                .as_ref()
                .map(|(buffer, from)| (Buffer::upload(stream, buffer), *from)),
        }
    }

    fn heads<T: TestElement>(&mut self) -> Heads<'_, T> {
        match &self.source {
            None => Heads::in_place(self.target.view_mut(), self.layout),
            Some((source, from)) => {
                Heads::out_of_place(source.view::<T>(), *from, self.target.view_mut(), self.layout)
            }
        }
    }
}

/// Index values in device memory.
enum IdsOnDevice {
    I32(CudaSlice<i32>),
    I64(CudaSlice<i64>),
}

impl IdsOnDevice {
    fn upload(stream: &Arc<CudaStream>, values: &Values) -> Self {
        match values {
            Values::I32(values) => Self::I32(stream.clone_htod(values).expect("a copy")),
            Values::I64(values) => Self::I64(stream.clone_htod(values).expect("a copy")),
        }
    }

    fn ids(&self) -> Ids<'_> {
        match self {
            Self::I32(slice) => slice.into(),
            Self::I64(slice) => slice.into(),
        }
    }
}

impl Backend for &Gpu {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn budget(&self) -> usize {
        1 << 20
    }

    fn rotate<T: TestElement>(&self, call: &mut Call<T>) -> Result<()> {
        let stream = self.stream();
        let rope = self.rope(&call.frequencies, call.pairing);
        let rope = if call.inverse { rope.inverse() } else { rope };
        let mut q = OnDevice::upload(&stream, &call.q);
        let mut k = call.k.as_ref().map(|k| OnDevice::upload(&stream, k));
        let upload = |values: &Values| IdsOnDevice::upload(&stream, values);
        let (mut values, mut cu) = (None, None);
        match &call.positions {
            Positions::Ids(ids) | Positions::SharedIds(ids) | Positions::Starts(ids) => {
                values = Some(upload(ids));
            }
            Positions::Ragged { cu_seqlens, starts } => {
                cu = Some(upload(cu_seqlens));
                values = starts.as_ref().map(upload);
            }
            _ => {}
        }
        let ids = || values.as_ref().expect("uploaded").ids();
        let positions = match &call.positions {
            Positions::Ids(_) => Positions::Ids(ids()),
            Positions::SharedIds(_) => Positions::SharedIds(ids()),
            Positions::Starts(_) => Positions::Starts(ids()),
            Positions::Ragged { starts, .. } => Positions::Ragged {
                cu_seqlens: cu.as_ref().expect("uploaded").ids(),
                starts: starts.as_ref().map(|_| ids()),
            },
            Positions::From(start) => Positions::From(*start),
            _ => panic!("a kind of positions that the tests do not know"),
        };
        match call.packed_k {
            Some(layout) => {
                let buffer = q.target.view_mut::<T>();
                rope.rotate_packed(&stream, buffer, call.q.layout, layout, positions)?;
            }
            None => {
                rope.rotate::<T>(&stream, q.heads(), k.as_mut().map(OnDevice::heads), positions)?
            }
        }
        q.target.download(&stream, &mut call.q.buffer);
        if let (Some(k), Some(to)) = (&k, &mut call.k) {
            k.target.download(&stream, &mut to.buffer);
        }
        Ok(())
    }

    fn cos_sin<T: TestElement>(
        &self,
        frequencies: &Frequencies,
        pairing: Pairing,
        start: i64,
        cos: &mut [T],
        sin: &mut [T],
    ) -> Result<()> {
        let stream = self.stream();
        let [mut on_cos, mut on_sin] = [&*cos, &*sin].map(|values| Buffer::upload(&stream, values));
        let rope = self.rope(frequencies, pairing);
        rope.cos_sin(&stream, start, on_cos.view_mut::<T>(), on_sin.view_mut::<T>())?;
        on_cos.download(&stream, cos);
        on_sin.download(&stream, sin);
        Ok(())
    }
}

fn bits(values: &[bf16]) -> Vec<u16> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// `rows` of q, `[tokens, heads, 128]`, as the CPU rotates them.
fn on_cpu(frequencies: &Frequencies, mut rows: Vec<bf16>, heads: usize, ids: &[i64]) -> Vec<bf16> {
    let layout = Layout::thd(ids.len(), heads, 128);
    cpu::Rope::new(frequencies, Pairing::HalfSplit)
        .rotate(cpu::Heads::in_place(&mut rows, layout), None, Positions::ids(ids))
        .expect("a valid call");
    rows
}

#[test]
#[ignore = "needs a CUDA GPU"]
fn a_replayed_graph_sees_changed_positions() {
    // A context of its own: its buffers must not wait on events while a stream is captured.
    let context = cuda::context(0).expect("a CUDA device");
    // SAFETY: everything below is on one stream, in order.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().expect("a stream");
    let frequencies =
        Frequencies::new(128, 10_000.0).and_then(|f| f.condensed(8.0)).expect("valid");
    let rope = Rope::new(&context, &frequencies, Pairing::HalfSplit).expect("kernels load");
    let (tokens, heads) = (5, 4);
    let given = noise::<bf16>(tokens * heads * 128, 1);
    let mut q = stream.clone_htod(&given).expect("a copy");
    let mut ids = stream.clone_htod(&[0i64; 5]).expect("a copy");
    stream.synchronize().expect("done");

    stream
        .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .expect("captures");
    let layout = Layout::thd(tokens, heads, 128);
    rope.rotate(&stream, Heads::in_place(&mut q, layout), None, Positions::ids(&ids))
        .expect("a call under capture allocates nothing and waits for nothing");
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).expect("a graph").expect("not empty");

    for positions in [[0i64, 1, 2, 3, 4], [16_383, 70_000, -9, 1 << 31, 12]] {
        stream.memcpy_htod(&given, &mut q).expect("a copy");
        stream.memcpy_htod(&positions, &mut ids).expect("a copy");
        graph.launch().expect("a replay");
        let got = stream.clone_dtoh(&q).expect("a copy");
        assert_eq!(bits(&got), bits(&on_cpu(&frequencies, given.clone(), heads, &positions)));
    }
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
        let positions = || Positions::Ids(RawIds { address: ids, len: 3, wide: false });
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
        assert_eq!(rotate(heads, None, Positions::Ids(wide)), Err(alignment));
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

/// Capturing on one thread is not disturbed by ropes that come, work and go on another.
#[test]
#[ignore = "needs a CUDA GPU"]
fn ropes_come_and_go_while_another_thread_captures() {
    let gpu = Gpu::get();
    let context = cuda::context(0).expect("a CUDA device");
    // SAFETY: everything on this thread is on one stream, in order.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().expect("a stream");
    let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
    let rope = Rope::new(&context, &frequencies, Pairing::HalfSplit).expect("kernels load");
    let given = noise::<bf16>(2 * 3 * 128, 8);
    let mut q = stream.clone_htod(&given).expect("a copy");
    // cudarc waits for the whole context when the first stream is made, which a capture forbids.
    let theirs = gpu.stream();
    stream.synchronize().expect("done");
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).expect("captures");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..20 {
                let other = gpu.rope(&frequencies, Pairing::HalfSplit);
                let given = noise::<bf16>(2 * 3 * 128, round);
                let mut q = theirs.clone_htod(&given).expect("a copy");
                let heads = Heads::in_place(&mut q, Layout::thd(2, 3, 128));
                other.rotate(&theirs, heads, None, Positions::from(7)).expect("a valid call");
                drop(other); // perhaps before its launch has run
                let got = theirs.clone_dtoh(&q).expect("a copy");
                assert_eq!(bits(&got), bits(&on_cpu(&frequencies, given, 3, &[7, 8])));
            }
        });
    });
    let heads = Heads::in_place(&mut q, Layout::thd(2, 3, 128));
    rope.rotate(&stream, heads, None, Positions::from(7)).expect("the capture goes on");
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).expect("a graph").expect("not empty");
    graph.launch().expect("a replay");
    let got = stream.clone_dtoh(&q).expect("a copy");
    assert_eq!(bits(&got), bits(&on_cpu(&frequencies, given, 3, &[7, 8])));
}

/// A chain of overlapping launches on one stream, eager and as a graph: each rotation's positions are
/// written by the kernel just before it, and its q by the rotation before that.
#[test]
#[ignore = "needs a CUDA GPU"]
fn overlapping_launches_see_what_the_kernel_before_wrote() {
    const ROUNDS: usize = 200;
    let (tokens, heads) = (64, 4);
    let context = cuda::context(0).expect("a CUDA device");
    // SAFETY: everything below is on one stream, in order.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().expect("a stream");
    let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
    let plain = Rope::new(&context, &frequencies, Pairing::HalfSplit).expect("kernels load");
    let rope = plain.overlapping(Overlap::Launch);
    let all: Vec<i32> = (0..(ROUNDS * tokens) as i32).map(|i| i * 7919 % 100_000).collect();
    let given = noise::<bf16>(tokens * heads * 128, 1);
    let given_ids = stream.clone_htod(&all).expect("a copy");
    let mut ids = stream.alloc_zeros::<i32>(tokens).expect("device memory");
    let mut q = stream.clone_htod(&given).expect("a copy");

    // Turning by position 0 copies bits: the kernel that writes positions is one of ours.
    let copy =
        plain.with(&Frequencies::new(2, 1.0).expect("valid"), Pairing::HalfSplit).expect("room");
    let copy = copy.overlapping(Overlap::Launch);
    // One position, zero, for a batch of pairs.
    let words = Layout::bshd(tokens / 2, 1, 1, 2);
    let zeros = stream.alloc_zeros::<i32>(1).expect("device memory");
    let run = |ids: &mut CudaSlice<i32>, q: &mut CudaSlice<bf16>| {
        for round in 0..ROUNDS {
            // SAFETY: any bits are an f32, and small integers are subnormal ones, which are kept.
            let from = unsafe { given_ids.transmute::<f32>(ROUNDS * tokens) }.expect("as long");
            // SAFETY: as above.
            let to = unsafe { ids.transmute_mut::<f32>(tokens) }.expect("as long");
            let heads_of_ids = Heads::out_of_place(from, words.at(round * tokens), to, words);
            copy.rotate(&stream, heads_of_ids, None, Positions::shared_ids(&zeros)).expect("valid");
            let heads = Heads::in_place(&mut *q, Layout::thd(tokens, heads, 128));
            rope.rotate(&stream, heads, None, Positions::ids(&*ids)).expect("valid");
        }
    };
    let mut expected = given.clone();
    for round in all.chunks(tokens) {
        let round: Vec<i64> = round.iter().map(|&id| id.into()).collect();
        expected = on_cpu(&frequencies, expected, heads, &round);
    }
    run(&mut ids, &mut q);
    assert_eq!(bits(&stream.clone_dtoh(&q).expect("a copy")), bits(&expected), "eager");

    stream.memcpy_htod(&given, &mut q).expect("a copy");
    stream.synchronize().expect("done");
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).expect("captures");
    run(&mut ids, &mut q);
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).expect("a graph").expect("not empty");
    graph.launch().expect("a replay");
    assert_eq!(bits(&stream.clone_dtoh(&q).expect("a copy")), bits(&expected), "as a graph");
    // Positions that were written long ago may be read at once.
    let early = plain.overlapping(Overlap::PositionsReady);
    stream.memcpy_htod(&given, &mut q).expect("a copy");
    let ready = stream.clone_htod(&all[..tokens]).expect("a copy");
    stream.synchronize().expect("done");
    for rope in [&early, &early.inverse(), &early] {
        let heads = Heads::in_place(&mut q, Layout::thd(tokens, heads, 128));
        rope.rotate(&stream, heads, None, Positions::ids(&ready)).expect("valid");
    }
    let first: Vec<i64> = all[..tokens].iter().map(|&id| id.into()).collect();
    let there = on_cpu(&frequencies, given.clone(), heads, &first);
    let mut back = there.clone();
    cpu::Rope::new(&frequencies, Pairing::HalfSplit)
        .inverse()
        .rotate(
            cpu::Heads::in_place(&mut back, Layout::thd(tokens, heads, 128)),
            None,
            Positions::ids(&first),
        )
        .expect("valid");
    let expected = on_cpu(&frequencies, back, heads, &first);
    assert_eq!(bits(&stream.clone_dtoh(&q).expect("a copy")), bits(&expected), "positions ready");
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
