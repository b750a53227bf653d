//! The memory limit: the best of several kernels that only move the bytes.

use condensed_rope::cuda::cudarc::driver::{CudaFunction, CudaModule, DriverError};
use condensed_rope::plan::L2Hint;
use criterion::Criterion;
use std::fmt;
use std::sync::Arc;

use crate::cases::{Cache, Case, Op};
use crate::device::{Device, Replays};
use crate::row::Rows;

const THREADS: [usize; 5] = [64, 128, 256, 512, 1024];
/// What a thread of `walk` does one after the other.
const ROUNDS: usize = 4;

const HINTS: [L2Hint; 3] = [L2Hint::NONE, L2Hint::LAST_THEN_NORMAL, L2Hint::LAST_THEN_HALF_FIRST];

/// A kernel, and how many vectors a thread of it moves.
struct Mover {
    name: String,
    plain: CudaFunction,
    kept: CudaFunction,
    vectors: usize,
}

/// A way to move the bytes.
#[derive(Clone, Copy)]
struct Way<'a> {
    mover: &'a Mover,
    threads: usize,
    hint: L2Hint,
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = match self.hint {
            L2Hint::NONE => "no hint to L2",
            L2Hint::LAST_THEN_NORMAL => "evict_last, then evict_normal",
            _ => "evict_last, then half evict_first",
        };
        write!(f, "{} a thread, {} threads a block, {hint}", self.mover.name, self.threads)
    }
}

/// Of `benches/limit.cu`.
#[repr(C)]
struct Work {
    data: u64,
    vectors: u64,
    load_hint: u32,
    store_hint: u32,
}

impl Work {
    fn new(data: u64, vectors: usize, hint: L2Hint) -> Self {
        let (load_hint, store_hint) = (hint.load, hint.store);
        Self { data, vectors: vectors as u64, load_hint, store_hint }
    }
}

/// Kernels by what they do.
pub struct Limit {
    copy: Vec<Mover>,
    walk: Vec<Mover>,
    fill: Vec<Mover>,
    rows: Vec<Mover>,
    write: CudaFunction,
    write_closed: CudaFunction,
}

impl Limit {
    pub fn load(module: &Arc<CudaModule>) -> Result<Self, DriverError> {
        let family = |name: &str, rounds: usize| {
            let load = |n: usize| {
                let plain = module.load_function(&format!("{name}_{n}"))?;
                let kept = module.load_function(&format!("{name}_kept_{n}"))?;
                let name = format!("{name} of {n} vectors");
                Ok(Mover { name, plain, kept, vectors: n * rounds })
            };
            [1, 2, 4, 8].into_iter().map(load).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            copy: family("copy", 1)?,
            walk: family("walk", ROUNDS)?,
            fill: family("fill", 1)?,
            rows: family("rows", 1)?,
            write: module.load_function("write_backwards")?,
            write_closed: module.load_function("write_backwards_closed")?,
        })
    }

    /// What a kernel before a rotation might do: reads and writes a buffer's vectors, from its end to
    /// its start; `closed` does not let the next kernel start early.
    pub fn write(&self, device: &Device, address: u64, bytes: usize, closed: bool) {
        let mut work = Work::new(address, bytes / 16, L2Hint::NONE);
        let blocks = (bytes / 16).div_ceil(4 * 256);
        let write = if closed { &self.write_closed } else { &self.write };
        device.launch(write, blocks, 256, &mut [(&raw mut work).cast()]);
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
            // DRAM-cold, walking is never best.
            _ if replays.cache == Cache::Rotating => (vec![&self.copy], 16),
            _ => (vec![&self.copy, &self.walk], 16),
        };
        let reads = if case.op == Op::CosSin { 1 } else { 2 };
        let vectors = (case.bytes() / reads / vector).max(1);
        let launch = |Way { mover, threads, hint }: Way, i: usize| {
            let blocks = vectors.div_ceil(mover.vectors * threads);
            let mut work = Work::new(replays.address(i), vectors, hint);
            let (mut row, mut pitch) = ((row / vector) as u32, (pitch / vector) as u32);
            let mut arguments =
                [(&raw mut work).cast(), (&raw mut row).cast(), (&raw mut pitch).cast()];
            let plain = hint == L2Hint::NONE;
            let function = if plain { &mover.plain } else { &mover.kept };
            // Kernels that take fewer arguments leave the last ones alone.
            device.launch(function, blocks, threads, &mut arguments);
        };
        let quick = |way: Way| {
            let count = replays.launches.min(512);
            device.median::<3>(&device.capture(replays, count, &|i| launch(way, i)))
        };
        let prepare = || {
            let movers = family.iter().copied().flatten();
            let cuts = movers.flat_map(|mover| THREADS.map(|threads| (mover, threads)));
            let ways =
                cuts.flat_map(|(mover, threads)| HINTS.map(|hint| Way { mover, threads, hint }));
            let timed = ways.map(|way| (quick(way), way));
            let fastest = timed.min_by(|a, b| a.0.total_cmp(&b.0));
            let (_, way) = fastest.expect("a family is not empty");
            println!("the fastest is {way}");
            move |i| launch(way, i)
        };
        device.measure(case, "limit", false, replays, criterion, rows, prepare);
    }
}
