//! What a call costs the host: time and allocations of the safe call and of the raw one against a bare
//! `cuLaunchKernel` of the same kernel, and the time to load the kernels with the driver's compiler
//! cache off.

use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::error::Error;
use std::ffi::c_void;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use condensed_rope::cuda::cudarc::driver::{DevicePtrMut, result};
use condensed_rope::cuda::cudarc::nvrtc::Ptx;
use condensed_rope::cuda::{self, Heads, Kernels, Pdl, Rope};
use condensed_rope::plan::{Call, DeviceProps, Params, Planner};
use condensed_rope::{
    Dtype, Frequencies, IndexType, Layout, Pairing, Positions, RawIds, RawOperand, RopeSpec,
};
use criterion::Criterion;
use half::bf16;

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(block) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, block: Block) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, block) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CODE: &[u8] = include_bytes!(concat!(env!("CONDENSED_ROPE_KERNELS"), "/flat.fatbin"));
/// In a child's environment: measure the load and print milliseconds.
const LOAD: &str = "CONDENSED_ROPE_BENCH_LOAD";
/// Launches in a row, before the stream is waited for outside the measurement: well below what a
/// driver queues without blocking.
const RUN: u64 = 200;

fn main() {
    if std::env::var_os(LOAD).is_some() {
        return load().expect("the parent loaded before");
    }
    let result = match cuda::context(0) {
        Err(error) => return println!("no host benches: {error}"),
        Ok(_) => calls().and_then(|()| loads()),
    };
    if let Err(error) = result {
        panic!("{error}");
    }
}

fn frequencies() -> Frequencies {
    Frequencies::new(128, 10_000.0).and_then(|f| f.condensed(8.0)).expect("valid")
}

/// One decoded token of 32 + 8 heads of 128, bf16.
fn calls() -> Result<(), Box<dyn Error>> {
    let context = cuda::context(0)?;
    let stream = context.default_stream();
    let rope = Rope::new(&Kernels::load(&context)?, &frequencies(), Pairing::HalfSplit)?;
    let [q_layout, k_layout] = [32, 8].map(|heads| Layout::thd(1, heads, 128));
    let mut q = stream.alloc_zeros::<bf16>(32 * 128)?;
    let mut k = stream.alloc_zeros::<bf16>(8 * 128)?;
    let mut ids = stream.clone_htod(&[12_345i64])?;
    let host_words = frequencies().phase_words();
    let mut words = stream.clone_htod(host_words.words())?;
    stream.synchronize()?;

    let address = |(address, _guard): (u64, _)| address;
    let operand = |address, layout| Some(RawOperand::in_place(Dtype::BF16, address, layout));
    let raw_q = operand(address(q.device_ptr_mut(&stream)), q_layout);
    let raw_k = operand(address(k.device_ptr_mut(&stream)), k_layout);
    let (on_ids, _) = ids.device_ptr_mut(&stream);
    let positions = Positions::ids(RawIds::new(IndexType::I64, on_ids, 1));
    let spec = RopeSpec::of(&host_words, Pairing::HalfSplit);
    let (words, device) = (words.device_ptr_mut(&stream).0, DeviceProps::H100);
    let planner = Planner { words, spec, device, pdl: Pdl::Off };
    let call = Call { q: raw_q, k: raw_k, positions }.check(&spec)?;
    let launch = planner.rotation(&call).expect("work");
    let module = context.load_module(Ptx::from_binary(CODE.to_vec()))?;
    let function = module.load_function(&launch.name())?;
    let (grid, block) = (launch.tiling.grid, launch.tiling.block);

    let mut criterion = Criterion::default().without_plots().configure_from_args();
    let mut measure = |name: &str, call: &mut dyn FnMut()| {
        call();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (0..RUN).for_each(|_| call());
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        let mut samples = Vec::new();
        criterion.bench_function(&format!("host/{name}"), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut sum = Duration::ZERO;
                let mut left = iterations;
                while left > 0 {
                    let run = left.min(RUN);
                    stream.synchronize().expect("launches that ran");
                    let start = Instant::now();
                    (0..run).for_each(|_| call());
                    let took = start.elapsed();
                    samples.push(took.as_secs_f64() * 1e9 / run as f64);
                    sum += took;
                    left -= run;
                }
                sum
            });
        });
        stream.synchronize().expect("launches that ran");
        samples.sort_by(f64::total_cmp);
        (samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN), allocations)
    };
    let bare = measure("cuLaunchKernel", &mut || {
        let mut arguments: [*mut c_void; 1] = [launch.params.argument().cast_mut()];
        let (stream, function) = (stream.cu_stream(), function.cu_function());
        // SAFETY: the parameters name the buffers above, which outlive it.
        unsafe { result::launch_kernel(function, grid, block, 0, stream, &mut arguments) }
            .expect("a launch");
    });
    let raw = measure("rotate_raw", &mut || {
        // SAFETY: the buffers outlive the launches, and all of them are on one stream.
        unsafe { rope.rotate_raw(stream.cu_stream().cast(), raw_q, raw_k, positions) }
            .expect("a valid call");
    });
    let safe = measure("rotate", &mut || {
        let (q, k) = (Heads::in_place(&mut q, q_layout), Heads::in_place(&mut k, k_layout));
        rope.rotate(&stream, Some(q), Some(k), Positions::ids(&ids)).expect("a valid call");
    });
    println!("{:16}{:>10}{:>10}{:>22}", "host", "ns", "ratio", "allocations of 200");
    for (name, (ns, allocations)) in
        [("cuLaunchKernel", bare), ("rotate_raw", raw), ("rotate", safe)]
    {
        println!("{name:16}{ns:>10.0}{:>10.2}{allocations:>22}", ns / bare.0);
    }
    Ok(())
}

/// The load in processes of their own, so that each is a first one.
fn loads() -> Result<(), Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let mut child = Command::new(std::env::current_exe()?);
        let output = child.env(LOAD, "1").env("CUDA_CACHE_DISABLE", "1").output()?;
        times.push(String::from_utf8(output.stdout)?.trim().parse::<f64>()?);
    }
    times.sort_by(f64::total_cmp);
    println!("loading the kernels, compiler cache off: {:.1} ms (median of 5)", times[2]);
    Ok(())
}

fn load() -> Result<(), Box<dyn Error>> {
    let context = cuda::context(0)?;
    context.default_stream().synchronize()?;
    let start = Instant::now();
    let kernels = Kernels::load(&context)?;
    println!("{:.3}", start.elapsed().as_secs_f64() * 1e3);
    drop(kernels);
    Ok(())
}
