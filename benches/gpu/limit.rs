//! The memory limit: the best of several kernels that only move the bytes.

use condensed_rope::cuda::cudarc::driver::{CudaFunction, CudaModule, DriverError};
use criterion::Criterion;
use std::sync::Arc;

use crate::cases::{Case, Op};
use crate::device::{Device, Replays};
use crate::row::Rows;

const PER_THREAD: [usize; 4] = [1, 2, 4, 8];
const THREADS: [usize; 5] = [64, 128, 256, 512, 1024];

/// Kernels by what they do, each with 1, 2, 4 and 8 vectors a thread.
pub struct Limit {
    copy: Vec<CudaFunction>,
    fill: Vec<CudaFunction>,
    rows: Vec<CudaFunction>,
}

impl Limit {
    pub fn load(module: &Arc<CudaModule>) -> Result<Self, DriverError> {
        let family = |name: &str| {
            let load = |n: usize| module.load_function(&format!("{name}_{n}"));
            PER_THREAD.into_iter().map(load).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { copy: family("copy")?, fill: family("fill")?, rows: family("rows")? })
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
            Op::CosSin => (&self.fill, 16),
            _ if row == pitch => (&self.copy, 16),
            _ => (&self.rows, 8),
        };
        let reads = if case.op == Op::CosSin { 1 } else { 2 };
        let vectors = (case.bytes() / reads / vector).max(1) as u64;
        let launch = |kernel: usize, threads: usize, i: usize| {
            let blocks = (vectors as usize).div_ceil(PER_THREAD[kernel] * threads);
            let (mut data, mut n) = (replays.address(i), vectors);
            let (mut row, mut pitch) = ((row / vector) as u32, (pitch / vector) as u32);
            let mut arguments = [
                (&raw mut data).cast(),
                (&raw mut n).cast(),
                (&raw mut row).cast(),
                (&raw mut pitch).cast(),
            ];
            // Kernels that take fewer arguments leave the last ones alone.
            device.launch(&family[kernel], blocks, threads, &mut arguments);
        };
        let prepare = || {
            let mut best = (f64::INFINITY, 0, 0);
            for kernel in 0..PER_THREAD.len() {
                for threads in THREADS {
                    let count = replays.launches.min(512);
                    let graph = device.capture(count, &|i| launch(kernel, threads, i));
                    let mut times: Vec<f64> = (0..4).map(|_| device.microseconds(&graph)).collect();
                    times.remove(0);
                    times.sort_by(f64::total_cmp);
                    if times[1] < best.0 {
                        best = (times[1], kernel, threads);
                    }
                }
            }
            let (_, kernel, threads) = best;
            move |i| launch(kernel, threads, i)
        };
        device.measure(case, "limit", false, replays, criterion, rows, prepare);
    }
}
