//! Graph replays of one case on a device, ours and what it is measured against.

use std::error::Error;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use condensed_rope::cuda::cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtrMut, result, sys,
};
use condensed_rope::cuda::cudarc::nvrtc::Ptx;
use condensed_rope::cuda::{self, Overlap, RawHeads, RawIds, Rope};
use condensed_rope::{Dtype, Frequencies, Pairing, Positions};
use criterion::Criterion;
use half::bf16;

use crate::cases::{Case, Op, Order};
use crate::row::Rows;

const LIMIT: &str = include_str!(concat!(env!("CONDENSED_ROPE_KERNELS"), "/bench/limit.ptx"));
/// What "rotating" walks over, at least.
const ROTATING: usize = 400 << 20;
const MOST_LAUNCHES: usize = 8192;
/// L2 of an H100, less a margin.
const HOT: usize = 44 << 20;
const POOL: usize = 6 << 30;
const MOST_TOKENS: usize = 131_072;

pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    rope: Rope,
    pool: u64,
    ids: u64,
    limit: Vec<(usize, CudaFunction)>,
    empty: CudaFunction,
    candle: CudaFunction,
    _memory: (CudaSlice<u8>, CudaSlice<i64>),
}

type Launch<'a> = dyn Fn(usize) + 'a;

impl Device {
    pub fn open() -> Result<Self, Box<dyn Error>> {
        let context = cuda::context(0)?;
        // SAFETY: everything is on one stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let rope = Rope::new(&context, &Frequencies::new(128, 10_000.0)?, Pairing::HalfSplit)?;
        let mut memory = stream.alloc_zeros::<u8>(POOL)?;
        // Values of about one, without a pattern: zeros would be kinder than real data.
        let noise: Vec<u8> = (0..32u32 << 20)
            .map(|i| if i % 2 == 0 { (i.wrapping_mul(2_654_435_761) >> 24) as u8 } else { 0x3f })
            .collect();
        for start in (0..POOL).step_by(noise.len()) {
            stream.memcpy_htod(&noise, &mut memory.slice_mut(start..start + noise.len()))?;
        }
        let mut ids = stream.clone_htod(&(0..MOST_TOKENS as i64).collect::<Vec<_>>())?;
        let module = context.load_module(Ptx::from_src(LIMIT))?;
        let limit = [1, 2, 4, 8]
            .map(|vectors| module.load_function(&format!("copy_{vectors}")).map(|f| (vectors, f)));
        let limit = limit.into_iter().collect::<Result<Vec<_>, _>>()?;
        stream.synchronize()?;
        let pool = memory.device_ptr_mut(&stream).0;
        let on_ids = ids.device_ptr_mut(&stream).0;
        Ok(Self {
            empty: module.load_function("empty")?,
            candle: module.load_function("candle_rope")?,
            rope,
            pool,
            ids: on_ids,
            limit,
            _memory: (memory, ids),
            context,
            stream,
        })
    }

    pub fn name(&self) -> String {
        self.context.name().unwrap_or_default()
    }

    /// Ours with and without overlap, and the limit, rotating and, where it fits, hot.
    pub fn bench(&mut self, case: &Case, criterion: &mut Criterion, rows: &mut Rows) {
        let frequencies = Frequencies::new(case.rotary_dim, 10_000.0).expect("valid");
        let rope = self.rope.with(&frequencies, case.pairing).expect("room for the steps");
        let rope = if case.op == Op::Inverse { rope.inverse() } else { rope };
        let early = rope.overlapping(Overlap::PositionsReady);
        let sources = if case.op == Op::OutOfPlace { 2 } else { 1 };
        let slot = (case.footprint() * sources).next_multiple_of(256);
        let plain = case.op == Op::Rotate && case.order == Order::Thd;
        for hot in [false, true] {
            if hot && slot > HOT {
                continue;
            }
            let slots = if hot { 1 } else { (ROTATING.div_ceil(slot) + 1).clamp(2, MOST_LAUNCHES) };
            let slots = slots.min(POOL / slot);
            let launches = if hot { (20_000_000 / slot).clamp(20, 500) } else { slots.max(8) };
            let address = |i: usize| self.pool + (i % slots * slot) as u64;
            let mut measure = |name: &str, pdl: bool, launch: &Launch| {
                let mut samples = self.replay(criterion, &case.id(name, hot), launches, launch);
                rows.push(case, name, hot, pdl, &mut samples);
            };
            measure("ours", false, &|i| self.rotate(&rope, case, address(i)));
            if plain && case.tokens <= 2048 {
                measure("ours", true, &|i| self.rotate(&early, case, address(i)));
            }
            if plain
                && case.dtype == Dtype::BF16
                && case.tokens * case.heads[0] < 1 << 23
                && case.rotary_dim == case.head_dim
            {
                measure("candle", false, &|i| self.candle(case, address(i)));
            }
            if plain && case.tokens == 1 {
                measure("empty", false, &|_| self.launch(&self.empty, 1, 32, &mut []));
            }
            self.limit(case, hot, launches, &address, criterion, rows);
        }
    }

    /// The best of several copies over as many bytes. Which one is best is found by quick replays;
    /// that one is measured.
    fn limit(
        &self,
        case: &Case,
        hot: bool,
        launches: usize,
        address: &dyn Fn(usize) -> u64,
        criterion: &mut Criterion,
        rows: &mut Rows,
    ) {
        // A table is written only: half as many bytes copied move as many.
        let vectors = (case.bytes() / 2 / 16).max(1) as u64;
        let copy = |(per_thread, function): &(usize, CudaFunction), threads: usize, i: usize| {
            let blocks = (vectors as usize).div_ceil(per_thread * threads);
            let (mut data, mut n) = (address(i), vectors);
            let mut arguments = [(&raw mut data).cast(), (&raw mut n).cast()];
            self.launch(function, blocks, threads, &mut arguments);
        };
        let mut best = (f64::INFINITY, 0, 0);
        for (kernel, function) in self.limit.iter().enumerate() {
            for threads in [64, 128, 256, 512, 1024] {
                let graph = self.capture(launches.min(512), &|i| copy(function, threads, i));
                let mut times: Vec<f64> =
                    (0..4).map(|_| graph.microseconds(&self.stream)).collect();
                times.remove(0);
                times.sort_by(f64::total_cmp);
                if times[1] < best.0 {
                    best = (times[1], kernel, threads);
                }
            }
        }
        let (_, kernel, threads) = best;
        let launch = |i: usize| copy(&self.limit[kernel], threads, i);
        let mut samples = self.replay(criterion, &case.id("limit", hot), launches, &launch);
        rows.push(case, "limit", hot, false, &mut samples);
    }

    fn rotate(&self, rope: &Rope, case: &Case, address: u64) {
        let stream = self.stream.cu_stream();
        if case.op == Op::CosSin {
            // The safe call wants buffers; a table is two one-headed tensors to it in any case.
            let table = |at: u64, len: usize| match case.dtype {
                // SAFETY: memory of the pool, which outlives the slice: `leak` gives it back.
                Dtype::BF16 => unsafe { self.stream.upgrade_device_ptr::<bf16>(at, len) },
                _ => unreachable!("the table is measured in bf16"),
            };
            let len = case.tokens * case.rotary_dim;
            let (mut cos, mut sin) = (table(address, len), table(address + 2 * len as u64, len));
            rope.cos_sin(&self.stream, 0, &mut cos, &mut sin).expect("a valid call");
            let _ = (cos.leak(), sin.leak());
            return;
        }
        let [q, k] = case.layouts();
        let heads = |layout| {
            let raw = RawHeads::in_place(case.dtype, address, layout);
            match case.op {
                Op::OutOfPlace => raw.reading(address + case.footprint() as u64, layout),
                _ => raw,
            }
        };
        let ids = RawIds { address: self.ids, len: case.tokens, wide: true };
        // SAFETY: the pool and the ids outlive every launch, and all of them are on one stream.
        unsafe { rope.rotate_raw(stream, heads(q), Some(heads(k)), Positions::Ids(ids)) }
            .expect("a valid call");
    }

    /// q, then k, onto themselves (which is kinder to it than a second buffer), by tables at the end
    /// of the pool.
    fn candle(&self, case: &Case, address: u64) {
        let tables = self.pool + (POOL - 2 * MOST_TOKENS * case.head_dim * 2) as u64;
        let mut src = address;
        for heads in case.heads {
            let (mut dst, mut cos, mut sin) =
                (src, tables, tables + (MOST_TOKENS * case.head_dim) as u64);
            let (mut bh, mut td, mut d) =
                (heads as u32, (case.tokens * case.head_dim) as u32, case.head_dim as u32);
            let mut arguments = [
                (&raw mut src).cast(),
                (&raw mut cos).cast(),
                (&raw mut sin).cast(),
                (&raw mut dst).cast(),
                (&raw mut bh).cast(),
                (&raw mut td).cast(),
                (&raw mut d).cast(),
            ];
            let pairs = heads * case.tokens * case.head_dim / 2;
            self.launch(&self.candle, pairs.div_ceil(1024), 1024, &mut arguments);
            src += (heads * case.tokens * case.head_dim * 2) as u64;
        }
    }

    fn launch(
        &self,
        f: &CudaFunction,
        blocks: usize,
        threads: usize,
        arguments: &mut [*mut c_void],
    ) {
        let (grid, block) = ((blocks as u32, 1, 1), (threads as u32, 1, 1));
        // SAFETY: the arguments are the kernel's, and name memory of the pool.
        unsafe {
            result::launch_kernel(
                f.cu_function(),
                grid,
                block,
                0,
                self.stream.cu_stream(),
                arguments,
            )
        }
        .expect("a launch");
    }

    fn capture(&self, launches: usize, launch: &Launch) -> Graph {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).expect("captures");
        (0..launches).for_each(launch);
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags).expect("a graph").expect("not empty");
        Graph { graph, launches }
    }

    /// Microseconds a launch, of each replay.
    fn replay(
        &self,
        criterion: &mut Criterion,
        id: &str,
        launches: usize,
        launch: &Launch,
    ) -> Vec<f64> {
        let mut samples = Vec::new();
        let mut graph = None;
        criterion.bench_function(id, |bencher| {
            let graph = graph.get_or_insert_with(|| self.capture(launches, launch));
            bencher.iter_custom(|iterations| {
                let times = (0..iterations).map(|_| graph.microseconds(&self.stream));
                let start = samples.len();
                samples.extend(times);
                Duration::from_secs_f64(samples[start..].iter().sum::<f64>() / 1e6)
            });
        });
        samples
    }
}

struct Graph {
    graph: condensed_rope::cuda::cudarc::driver::CudaGraph,
    launches: usize,
}

impl Graph {
    fn microseconds(&self, stream: &Arc<CudaStream>) -> f64 {
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let start = stream.record_event(timed).expect("an event");
        self.graph.launch().expect("a replay");
        let end = stream.record_event(timed).expect("an event");
        f64::from(start.elapsed_ms(&end).expect("a time")) * 1e3 / self.launches as f64
    }
}
