//! LongChat-7b-16k's rotation at several lengths: on the GPU by events around each call, where there
//! is one, and on the CPU backend.
//!
//! `cargo bench`, or from the bundle `bash run.sh bench`.

use condensed_rope::{Frequencies, Layout, Pairing, Positions, cpu};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;

const HEADS: usize = 32;
const HEAD_DIM: usize = 128;

fn frequencies() -> Frequencies {
    Frequencies::new(HEAD_DIM, 10_000.0).and_then(|f| f.condensed(8.0)).expect("valid")
}

/// q and k, each read once and written once.
fn bytes(tokens: usize) -> Throughput {
    Throughput::Bytes((2 * 2 * tokens * HEADS * HEAD_DIM * size_of::<bf16>()) as u64)
}

fn on_cpu(criterion: &mut Criterion) {
    let rope = cpu::Rope::new(&frequencies(), Pairing::HalfSplit);
    let mut group = criterion.benchmark_group("cpu");
    group.sample_size(20);
    for tokens in [1, 128, 2048] {
        let layout = Layout::thd(tokens, HEADS, HEAD_DIM);
        let mut q = vec![bf16::from_f32(1.5); tokens * HEADS * HEAD_DIM];
        let mut k = q.clone();
        group.throughput(bytes(tokens));
        group.bench_function(BenchmarkId::from_parameter(tokens), |bencher| {
            bencher.iter(|| {
                let q = cpu::Heads::in_place(&mut q, layout);
                let k = cpu::Heads::in_place(&mut k, layout);
                rope.rotate(q, Some(k), Positions::from(0)).expect("a valid call");
            });
        });
    }
}

#[cfg(feature = "cuda")]
fn on_gpu(criterion: &mut Criterion) {
    use std::time::Duration;

    use condensed_rope::cuda::{self, Heads, cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT};

    let context = match cuda::context(0) {
        Ok(context) => context,
        Err(error) => return println!("no GPU benches: {error}"),
    };
    let stream = context.default_stream();
    let rope = cuda::Rope::new(&context, &frequencies(), Pairing::HalfSplit).expect("kernels load");
    let mut group = criterion.benchmark_group("cuda");
    for tokens in [1, 128, 2048, 16_384] {
        let layout = Layout::thd(tokens, HEADS, HEAD_DIM);
        let new = || stream.alloc_zeros::<bf16>(tokens * HEADS * HEAD_DIM).expect("device memory");
        let (mut q, mut k) = (new(), new());
        group.throughput(bytes(tokens));
        group.bench_function(BenchmarkId::from_parameter(tokens), |bencher| {
            bencher.iter_custom(|iterations| {
                let start = stream.record_event(Some(CU_EVENT_DEFAULT)).expect("an event");
                for _ in 0..iterations {
                    let q = Heads::in_place(&mut q, layout);
                    let k = Heads::in_place(&mut k, layout);
                    rope.rotate(&stream, q, Some(k), Positions::from(0)).expect("a valid call");
                }
                let end = stream.record_event(Some(CU_EVENT_DEFAULT)).expect("an event");
                Duration::from_secs_f64(f64::from(start.elapsed_ms(&end).expect("a time")) / 1e3)
            });
        });
    }
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(_: &mut Criterion) {
    println!("no GPU benches: built without the `cuda` feature");
}

criterion_group!(benches, on_gpu, on_cpu);
criterion_main!(benches);
