//! Graphs and launches that start early: what a stream sees, and when.

use std::sync::Arc;

use condensed_rope::cuda::cudarc::driver::{CudaContext, CudaGraph, CudaSlice, CudaStream, sys};
use condensed_rope::cuda::{self, Heads, Kernels, Pdl, Rope};
use condensed_rope::{
    Dynamic, Error, Frequencies, FrequencySchedule, Layout, Pairing, Positions, RopeScaling, cpu,
};
use half::bf16;
use testkit::call::noise;

use crate::gpu::{Gpu, bits, on_cpu};

/// A context of its own and a stream, for tests that do everything on that stream, in order: buffers
/// must not wait on events while it is captured.
pub fn context_and_stream() -> (Arc<CudaContext>, Arc<CudaStream>) {
    let context = cuda::context(0).expect("a CUDA device");
    // SAFETY: whoever asks uses one stream.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().expect("a stream");
    (context, stream)
}

fn rope(context: &Arc<CudaContext>, frequencies: &Frequencies) -> Rope {
    let kernels = Kernels::load(context).expect("kernels load");
    Rope::new(&kernels, frequencies, Pairing::HalfSplit).expect("room")
}

/// What `calls` launch on the stream, as a graph.
pub fn captured(stream: &Arc<CudaStream>, calls: impl FnOnce()) -> CudaGraph {
    // Other tests' first stream is made by now.
    Gpu::get();
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).expect("captures");
    calls();
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    stream.end_capture(flags).expect("a graph").expect("not empty")
}

#[test]
#[ignore = "needs a CUDA GPU"]
fn a_replayed_graph_sees_changed_positions() {
    let (context, stream) = context_and_stream();
    let frequencies =
        Frequencies::new(128, 10_000.0).and_then(|f| f.condensed(8.0)).expect("valid");
    let rope = rope(&context, &frequencies);
    let (tokens, heads) = (5, 4);
    let given = noise::<bf16>(tokens * heads * 128, 1);
    let mut q = stream.clone_htod(&given).expect("a copy");
    let mut ids = stream.clone_htod(&[0i64; 5]).expect("a copy");
    stream.synchronize().expect("done");

    let graph = captured(&stream, || {
        let layout = Layout::thd(tokens, heads, 128);
        rope.rotate(&stream, Some(Heads::in_place(&mut q, layout)), None, Positions::ids(&ids))
            .expect("a call under capture allocates nothing and waits for nothing");
    });

    for positions in [[0i64, 1, 2, 3, 4], [16_383, 70_000, -9, 1 << 31, 12]] {
        stream.memcpy_htod(&given, &mut q).expect("a copy");
        stream.memcpy_htod(&positions, &mut ids).expect("a copy");
        graph.launch().expect("a replay");
        let got = stream.clone_dtoh(&q).expect("a copy");
        assert_eq!(bits(&got), bits(&on_cpu(&frequencies, given.clone(), heads, &positions)));
    }
}

/// New frequencies reach clones and captured graphs; what would not is refused.
#[test]
#[ignore = "needs a CUDA GPU"]
fn a_rope_turns_by_the_frequencies_written_last() {
    let (context, stream) = context_and_stream();
    let scaling = RopeScaling::Dynamic(Dynamic::new(4.0, 2048));
    let mut schedule = FrequencySchedule::new(128, 10_000.0, scaling).expect("valid");
    let rope = rope(&context, schedule.frequencies());
    let clone = rope.clone();
    let given = noise::<bf16>(3 * 2 * 128, 1);
    let positions = [0i64, 9_000, 17];
    let mut q = stream.clone_htod(&given).expect("a copy");
    let ids = stream.clone_htod(&positions).expect("a copy");
    stream.synchronize().expect("done");

    let graph = captured(&stream, || {
        let layout = Layout::thd(3, 2, 128);
        clone
            .rotate(&stream, Some(Heads::in_place(&mut q, layout)), None, Positions::ids(&ids))
            .expect("a call under capture");
        let refused = rope.set_frequencies(&stream, 0, schedule.frequencies());
        assert_eq!(refused, Err(Error::StreamCapturing { doing: "writing frequencies" }));
        let mut embedding = condensed_rope::CondensedRotaryEmbedding::new(128, 8.0).expect("valid");
        let refused = embedding.forward_cuda::<f32>(rope.kernels(), &stream, 5).err();
        assert_eq!(refused, Some(Error::StreamCapturing { doing: "allocating the table" }));
    });

    for length in [2048, 9_001, 100] {
        schedule.set_length(length);
        rope.set_frequencies(&stream, 0, schedule.frequencies()).expect("a set of the same size");
        stream.memcpy_htod(&given, &mut q).expect("a copy");
        graph.launch().expect("a replay");
        let got = stream.clone_dtoh(&q).expect("a copy");
        let expected = on_cpu(schedule.frequencies(), given.clone(), 2, &positions);
        assert_eq!(bits(&got), bits(&expected), "at length {length}");
    }
    let other = Frequencies::new(64, 10_000.0).expect("valid");
    let refused = rope.set_frequencies(&stream, 0, &other);
    assert_eq!(refused, Err(Error::SetRotaryDim { expected: 128, given: 64 }));
    let refused = rope.set_frequencies(&stream, 1, schedule.frequencies());
    assert_eq!(refused, Err(Error::SetIndex { count: 1, given: 1 }));
    let loud = schedule.frequencies().clone().with_factor(1.5).expect("finite");
    let refused = rope.set_frequencies(&stream, 0, &loud);
    assert_eq!(refused, Err(Error::SetFactor { expected: 1.0, given: 1.5 }));
}

/// A graph keeps what its launches read: the rope and the kernels go first, other memory takes their place, and
/// the replay is right; and once the graph is gone, so are they.
#[test]
#[ignore = "needs a CUDA GPU"]
fn a_graph_outlives_its_rope() {
    let (context, stream) = context_and_stream();
    let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
    let given = noise::<bf16>(5 * 4 * 128, 1);
    let mut q = stream.clone_htod(&given).expect("a copy");
    let mut table = stream.alloc_zeros::<f32>(2 * 128).expect("device memory");
    let mut other = stream.alloc_zeros::<f32>(2 * 128).expect("device memory");
    stream.synchronize().expect("done");
    let rope = rope(&context, &frequencies);
    let handles = Arc::strong_count(&context);
    let graph = captured(&stream, || {
        let layout = Layout::thd(5, 4, 128);
        for round in 0..3 {
            let heads = Heads::in_place(&mut q, layout);
            let rope = if round == 1 { rope.inverse() } else { rope.clone() };
            rope.rotate(&stream, Some(heads), None, Positions::consecutive(3)).expect("captured");
        }
        rope.cos_sin(&stream, 9, &mut table, &mut other).expect("captured");
    });
    drop(rope);
    // Whatever was free is written over.
    let filler = u64::from_ne_bytes([0x5a; 8]);
    let fill: Vec<_> =
        (0..64).map(|_| stream.clone_htod(&[filler; 4096]).expect("a copy")).collect();
    stream.memcpy_htod(&given, &mut q).expect("a copy");
    graph.launch().expect("a replay");
    let ids = [3, 4, 5, 6, 7];
    let there = on_cpu(&frequencies, given, 4, &ids);
    let mut back = there;
    cpu::Rope::new(&frequencies, Pairing::HalfSplit)
        .inverse()
        .rotate(
            Some(cpu::Heads::in_place(&mut back, Layout::thd(5, 4, 128))),
            None,
            Positions::ids(&ids),
        )
        .expect("valid");
    let expected = on_cpu(&frequencies, back, 4, &ids);
    assert_eq!(bits(&stream.clone_dtoh(&q).expect("a copy")), bits(&expected));
    let (mut cos, mut sin) = (vec![0f32; 256], vec![0f32; 256]);
    let on_cpu = cpu::Rope::new(&frequencies, Pairing::HalfSplit);
    on_cpu.cos_sin(9, &mut cos, &mut sin).expect("a table");
    assert_eq!(stream.clone_dtoh(&table).expect("a copy"), cos);
    drop(fill);
    stream.synchronize().expect("done");
    assert!(Arc::strong_count(&context) >= handles, "the graph has a share");
    drop(graph);
    // Another thread frees the rope.
    let start = std::time::Instant::now();
    while Arc::strong_count(&context) >= handles && start.elapsed().as_secs() < 10 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(Arc::strong_count(&context) < handles, "the rope went with the graph");
}

/// Capturing on one thread is not disturbed by ropes that come, work and go on another.
#[test]
#[ignore = "needs a CUDA GPU"]
fn ropes_come_and_go_while_another_thread_captures() {
    let gpu = Gpu::get();
    let (context, stream) = context_and_stream();
    let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
    let rope = rope(&context, &frequencies);
    let given = noise::<bf16>(2 * 3 * 128, 8);
    let mut q = stream.clone_htod(&given).expect("a copy");
    // cudarc waits for the whole context when the first stream is made, which a capture forbids.
    let theirs = gpu.stream();
    stream.synchronize().expect("done");
    let graph = captured(&stream, || {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..20 {
                    let other = gpu.rope(&frequencies, Pairing::HalfSplit);
                    let given = noise::<bf16>(2 * 3 * 128, round);
                    let mut q = theirs.clone_htod(&given).expect("a copy");
                    let heads = Heads::in_place(&mut q, Layout::thd(2, 3, 128));
                    other
                        .rotate(&theirs, Some(heads), None, Positions::consecutive(7))
                        .expect("a valid call");
                    drop(other); // perhaps before its launch has run
                    let got = theirs.clone_dtoh(&q).expect("a copy");
                    assert_eq!(bits(&got), bits(&on_cpu(&frequencies, given, 3, &[7, 8])));
                }
            });
        });
        let heads = Heads::in_place(&mut q, Layout::thd(2, 3, 128));
        rope.rotate(&stream, Some(heads), None, Positions::consecutive(7))
            .expect("the capture goes on");
    });
    graph.launch().expect("a replay");
    let got = stream.clone_dtoh(&q).expect("a copy");
    assert_eq!(bits(&got), bits(&on_cpu(&frequencies, given, 3, &[7, 8])));
}

/// A chain of launches that start early, on one stream, eager and as a graph: each rotation's positions are
/// written by the kernel just before it, and its q by the rotation before that.
#[test]
#[ignore = "needs a CUDA GPU"]
fn launches_that_start_early_see_what_the_kernel_before_wrote() {
    const ROUNDS: usize = 200;
    let (tokens, heads) = (64, 4);
    let (context, stream) = context_and_stream();
    let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
    let plain = rope(&context, &frequencies);
    let rope = plain.with_pdl(Pdl::On);
    let all: Vec<i32> = (0..(ROUNDS * tokens) as i32).map(|i| i * 7919 % 100_000).collect();
    let given = noise::<bf16>(tokens * heads * 128, 1);
    let given_ids = stream.clone_htod(&all).expect("a copy");
    let mut ids = stream.alloc_zeros::<i32>(tokens).expect("device memory");
    let mut q = stream.clone_htod(&given).expect("a copy");

    // Turning by position 0 copies bits: the kernel that writes positions is one of ours.
    let two = Frequencies::new(2, 1.0).expect("valid");
    let copy = Rope::new(plain.kernels(), &two, Pairing::HalfSplit).expect("room");
    let copy = copy.with_pdl(Pdl::On);
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
            copy.rotate(&stream, Some(heads_of_ids), None, Positions::shared_ids(&zeros))
                .expect("valid");
            let heads = Heads::in_place(&mut *q, Layout::thd(tokens, heads, 128));
            rope.rotate(&stream, Some(heads), None, Positions::ids(&*ids)).expect("valid");
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
    let graph = captured(&stream, || {
        run(&mut ids, &mut q);
    });
    graph.launch().expect("a replay");
    assert_eq!(bits(&stream.clone_dtoh(&q).expect("a copy")), bits(&expected), "as a graph");
    // Positions that were written long ago may be read at once.
    let early = plain.with_pdl(Pdl::PositionsReady);
    stream.memcpy_htod(&given, &mut q).expect("a copy");
    let ready = stream.clone_htod(&all[..tokens]).expect("a copy");
    stream.synchronize().expect("done");
    for rope in [&early, &early.inverse(), &early] {
        let heads = Heads::in_place(&mut q, Layout::thd(tokens, heads, 128));
        rope.rotate(&stream, Some(heads), None, Positions::ids(&ready)).expect("valid");
    }
    let first: Vec<i64> = all[..tokens].iter().map(|&id| id.into()).collect();
    let there = on_cpu(&frequencies, given.clone(), heads, &first);
    let mut back = there.clone();
    cpu::Rope::new(&frequencies, Pairing::HalfSplit)
        .inverse()
        .rotate(
            Some(cpu::Heads::in_place(&mut back, Layout::thd(tokens, heads, 128))),
            None,
            Positions::ids(&first),
        )
        .expect("valid");
    let expected = on_cpu(&frequencies, back, heads, &first);
    assert_eq!(bits(&stream.clone_dtoh(&q).expect("a copy")), bits(&expected), "positions ready");
}
