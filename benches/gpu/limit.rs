//! The memory limit: the best of several kernels that only move the bytes.

use condensed_rope::cuda::cudarc::driver::{CudaFunction, CudaModule, DriverError};
use criterion::Criterion;
use std::sync::Arc;

use crate::cases::{Cache, Case, Op};
use crate::device::{Device, Replays};
use crate::row::Rows;

const THREADS: [usize; 5] = [64, 128, 256, 512, 1024];
/// What a thread of `walk` does one after the other.
const ROUNDS: usize = 4;

/// A kernel, and how many vectors a thread of it moves.
struct Mover {
    function: CudaFunction,
    vectors: usize,
}

/// Kernels by what they do.
pub struct Limit {
    copy: Vec<Mover>,
    walk: Vec<Mover>,
    fill: Vec<Mover>,
    rows: Vec<Mover>,
    write: CudaFunction,
}

impl Limit {
    pub fn load(module: &Arc<CudaModule>) -> Result<Self, DriverError> {
        let family = |name: &str, rounds: usize| {
            let load = |n: usize| {
                let function = module.load_function(&format!("{name}_{n}"))?;
                Ok(Mover { function, vectors: n * rounds })
            };
            [1, 2, 4, 8].into_iter().map(load).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            copy: family("copy", 1)?,
            walk: family("walk", ROUNDS)?,
            fill: family("fill", 1)?,
            rows: family("rows", 1)?,
            write: module.load_function("write_backwards")?,
        })
    }

    /// What a kernel before a rotation might do: reads and writes a buffer's vectors, from its end to
    /// its start.
    pub fn write(&self, device: &Device, address: u64, bytes: usize) {
        let (mut data, mut n) = (address, (bytes / 16) as u64);
        let blocks = (bytes / 16).div_ceil(4 * 256);
        device.launch(&self.write, blocks, 256, &mut [(&raw mut data).cast(), (&raw mut n).cast()]);
    }

    /// Which one is best is found by quick replays; that one is measured.
    pub fn measure(
        &self,
        device: &Device,
        case: &Case,
        replays: &Replays,
        criterion: &mut Criterion,
        rows: &mut Rows,
    ) {
        let (row, pitch) = case.runs();
        let (family, vector) = match case.op {
            Op::CosSin => (vec![&self.fill], 16),
            _ if row != pitch => (vec![&self.rows], 8),
            // From memory, walking is never best.
            _ if replays.cache == Cache::Rotating => (vec![&self.copy], 16),
            _ => (vec![&self.copy, &self.walk], 16),
        };
        let reads = if case.op == Op::CosSin { 1 } else { 2 };
        let vectors = (case.bytes() / reads / vector).max(1);
        let launch = |mover: &Mover, threads: usize, i: usize| {
            let blocks = vectors.div_ceil(mover.vectors * threads);
            let (mut data, mut n) = (replays.address(i), vectors as u64);
            let (mut row, mut pitch) = ((row / vector) as u32, (pitch / vector) as u32);
            let mut arguments = [
                (&raw mut data).cast(),
                (&raw mut n).cast(),
                (&raw mut row).cast(),
                (&raw mut pitch).cast(),
            ];
            // Kernels that take fewer arguments leave the last ones alone.
            device.launch(&mover.function, blocks, threads, &mut arguments);
        };
        let quick = |mover, threads| {
            let count = replays.launches.min(512);
            device.median::<3>(&device.capture(replays, count, &|i| launch(mover, threads, i)))
        };
        let prepare = || {
            let movers = family.iter().copied().flatten();
            let cuts = movers.flat_map(|mover| THREADS.map(|threads| (mover, threads)));
            let timed = cuts.map(|(mover, threads)| (quick(mover, threads), mover, threads));
            let best = timed.min_by(|a, b| a.0.total_cmp(&b.0));
            let (_, mover, threads) = best.expect("a family is not empty");
            move |i| launch(mover, threads, i)
        };
        device.measure(case, "limit", false, replays, criterion, rows, prepare);
    }
}
