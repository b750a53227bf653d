//! LongChat-7b-16k's rotation on the CPU backend: `cargo bench --bench cpu`. With the `peers` feature
//! also candle-nn's CPU `rope` and HF's flow in eager tch, which are given cos and sin.

use std::time::Duration;

use condensed_rope::{Element, Frequencies, Layout, Pairing, Positions, cpu};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use rayon::prelude::*;

const HEADS: usize = 32;
const HEAD_DIM: usize = 128;
const TOKENS: [usize; 3] = [1, 128, 2048];
/// q and k of these do not fit a cache.
const MANY: usize = 16_384;

fn frequencies() -> Frequencies {
    Frequencies::new(HEAD_DIM, 10_000.0).and_then(|f| f.condensed(8.0)).expect("valid")
}

/// q and k, each read once and written once.
fn bytes<T>(tokens: usize) -> Throughput {
    Throughput::Bytes((2 * 2 * tokens * HEADS * HEAD_DIM * size_of::<T>()) as u64)
}

fn ours<T: Element>(criterion: &mut Criterion, one: T) {
    let rope = cpu::Rope::new(&frequencies(), Pairing::HalfSplit);
    let mut group = criterion.benchmark_group(format!("cpu {}", T::DTYPE.name()));
    group.sample_size(20);
    for tokens in TOKENS.into_iter().chain([MANY]) {
        let layout = Layout::thd(tokens, HEADS, HEAD_DIM);
        let mut q = vec![one; tokens * HEADS * HEAD_DIM];
        let mut k = q.clone();
        group.throughput(bytes::<T>(tokens));
        group.bench_function(BenchmarkId::new("ours", tokens), |bencher| {
            bencher.iter(|| {
                let q = cpu::Heads::in_place(&mut q, layout);
                let k = cpu::Heads::in_place(&mut k, layout);
                rope.rotate(Some(q), Some(k), Positions::consecutive(0)).expect("a valid call");
            });
        });
    }
}

/// What memory allows: every element read, changed and written, by all threads.
fn pass<T: Element>(criterion: &mut Criterion, one: T, change: impl Fn(&mut T) + Sync) {
    let mut group = criterion.benchmark_group(format!("cpu {}", T::DTYPE.name()));
    group.sample_size(20).throughput(bytes::<T>(MANY));
    let mut both: Box<[T]> = std::iter::repeat_n(one, 2 * MANY * HEADS * HEAD_DIM).collect();
    group.bench_function(BenchmarkId::new("pass in place", MANY), |bencher| {
        bencher.iter(|| {
            both.par_chunks_mut(1 << 16).for_each(|part| part.iter_mut().for_each(&change))
        });
    });
}

fn on_cpu(criterion: &mut Criterion) {
    pass(criterion, bf16::from_f32(1.5), |x| *x = bf16::from_bits(x.to_bits() ^ 1));
    pass(criterion, 1.5f32, |x| *x = f32::from_bits(x.to_bits() ^ 1));
    ours(criterion, bf16::from_f32(1.5));
    ours(criterion, 1.5f32);
    #[cfg(feature = "peers")]
    peers::on_cpu(criterion);
}

/// As long as what is compared with is kind to them: contiguous `[batch, heads, seq, dim]`, tables made
/// before.
#[cfg(feature = "peers")]
mod peers {
    use candle_core::{DType, Device, Tensor};
    use tch::{Kind, Tensor as TchTensor};

    use super::*;

    pub fn on_cpu(criterion: &mut Criterion) {
        candle::<bf16>(criterion, DType::BF16);
        candle::<f32>(criterion, DType::F32);
        tch_eager::<bf16>(criterion, Kind::BFloat16);
        tch_eager::<f32>(criterion, Kind::Float);
    }

    fn candle<T: Element>(criterion: &mut Criterion, dtype: DType) {
        let mut group = criterion.benchmark_group(format!("cpu {}", T::DTYPE.name()));
        group.sample_size(20);
        for tokens in TOKENS {
            let new = |shape: &[usize]| {
                Tensor::full(1.5f32, shape, &Device::Cpu)
                    .and_then(|tensor| tensor.contiguous()?.to_dtype(dtype))
                    .expect("a tensor")
            };
            let (q, k) = (new(&[1, HEADS, tokens, HEAD_DIM]), new(&[1, HEADS, tokens, HEAD_DIM]));
            let (cos, sin) = (new(&[tokens, HEAD_DIM / 2]), new(&[tokens, HEAD_DIM / 2]));
            group.throughput(bytes::<T>(tokens));
            group.bench_function(BenchmarkId::new("candle", tokens), |bencher| {
                bencher.iter(|| {
                    let rope = |x| candle_nn::rotary_emb::rope(x, &cos, &sin).expect("a rotation");
                    (rope(&q), rope(&k))
                });
            });
        }
    }

    fn tch_eager<T: Element>(criterion: &mut Criterion, kind: Kind) {
        let mut group = criterion.benchmark_group(format!("cpu {}", T::DTYPE.name()));
        group.sample_size(20);
        for tokens in TOKENS {
            let new = |heads: usize| {
                let shape = [1, heads, tokens, HEAD_DIM].map(|size| size as i64);
                TchTensor::full(shape, 1.5, (kind, tch::Device::Cpu))
            };
            let (q, k, cos, sin) = (new(HEADS), new(HEADS), new(1), new(1));
            group.throughput(bytes::<T>(tokens));
            group.bench_function(BenchmarkId::new("tch eager", tokens), |bencher| {
                bencher.iter(|| {
                    let rotate = |x| condensed_rope::tch::rotate_by_table(x, &cos, &sin);
                    (rotate(&q), rotate(&k))
                });
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    targets = on_cpu
}
criterion_main!(benches);
