//! LongChat-7b-16k's rotation at several lengths on the CPU backend: `cargo bench --bench cpu`.

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

criterion_group!(benches, on_cpu);
criterion_main!(benches);
