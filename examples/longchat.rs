//! The rotary step of LongChat-7b-16k: 16384 tokens of 32 + 32 heads of 128, bf16, positions divided
//! by 8. On the GPU where there is one, else on the CPU backend; checked against f64.
//!
//! `cargo xtask demo`, or `cargo run --release --example longchat [TOKENS]`.

use std::error::Error;
use std::time::Instant;

use condensed_rope::{Frequencies, Layout, Pairing, Positions, cpu};
use half::bf16;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const HEADS: usize = 32;
const HEAD_DIM: usize = 128;

fn main() -> Result<(), Box<dyn Error>> {
    let tokens =
        std::env::args().nth(1).map_or(Ok(16_384), |argument| argument.parse::<usize>())?;
    let frequencies = Frequencies::new(HEAD_DIM, 10_000.0)?.condensed(8.0)?;
    let mut rng = StdRng::seed_from_u64(0);
    let mut tensor = || -> Vec<bf16> {
        let len = tokens * HEADS * HEAD_DIM;
        (0..len).map(|_| bf16::from_f32(rng.random_range(-3.0..3.0))).collect()
    };
    let (q, k) = (tensor(), tensor());

    println!(
        "LongChat-7b-16k: q and k of [{tokens}, {HEADS}, {HEAD_DIM}] bf16, base 10000, ratio 8"
    );
    let run = match on_gpu(&frequencies, &q, &k)? {
        Some(run) => run,
        None => on_cpu(&frequencies, &q, &k)?,
    };
    let (mut error, mut rounding) = (0.0f64, 0.0f64);
    for (before, after) in [(&q, &run.q), (&k, &run.k)] {
        let worst = largest_error(&frequencies, before, after);
        (error, rounding) = (error.max(worst.0), rounding.max(worst.1));
    }
    println!("  {:<24}{}", "ran on", run.device);
    println!("  {:<24}{tokens}", "tokens");
    println!("  {:<24}{:.1} us (median of {})", "time", run.seconds * 1e6, run.repeats);
    // Each of q and k is read once and written once.
    let bytes = (4 * q.len() * size_of::<bf16>()) as f64;
    println!("  {:<24}{:.0} GB/s read and written", "bandwidth", bytes / run.seconds / 1e9);
    println!("  {:<24}{error:.2e} of {} values", "largest error vs f64", 2 * q.len());
    println!(
        "  {:<24}{rounding:.2e}, half a unit in the last place of bf16 there",
        "of which rounding"
    );
    Ok(())
}

/// Of q, or k, with as many values.
fn layout(values: usize) -> Layout {
    Layout::thd(values / (HEADS * HEAD_DIM), HEADS, HEAD_DIM)
}

/// What came out, and how long it took.
struct Run {
    device: String,
    q: Vec<bf16>,
    k: Vec<bf16>,
    seconds: f64,
    repeats: usize,
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn on_cpu(frequencies: &Frequencies, q: &[bf16], k: &[bf16]) -> Result<Run, Box<dyn Error>> {
    const REPEATS: usize = 5;
    let rope = cpu::Rope::new(frequencies, Pairing::HalfSplit);
    let layout = layout(q.len());
    let rotate = |q: &mut [bf16], k: &mut [bf16]| {
        let (q, k) = (cpu::Heads::in_place(q, layout), cpu::Heads::in_place(k, layout));
        rope.rotate(Some(q), Some(k), Positions::consecutive(0))
    };
    let (mut out_q, mut out_k) = (q.to_vec(), k.to_vec());
    let mut seconds = Vec::new();
    for _ in 0..REPEATS {
        out_q.copy_from_slice(q);
        out_k.copy_from_slice(k);
        let start = Instant::now();
        rotate(&mut out_q, &mut out_k)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let device = format!("the CPU backend, {threads} threads");
    Ok(Run { device, q: out_q, k: out_k, seconds: median(seconds), repeats: REPEATS })
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(_: &Frequencies, _: &[bf16], _: &[bf16]) -> Result<Option<Run>, Box<dyn Error>> {
    println!("  built without the `cuda` feature");
    Ok(None)
}

#[cfg(feature = "cuda")]
fn on_gpu(
    frequencies: &Frequencies,
    q: &[bf16],
    k: &[bf16],
) -> Result<Option<Run>, Box<dyn Error>> {
    use condensed_rope::cuda::{self, Heads, Kernels};
    use cuda::cudarc::driver::CudaSlice;
    use cuda::cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;

    const REPEATS: usize = 101;
    let context = match cuda::context(0) {
        Ok(context) => context,
        Err(error) => {
            println!("  no GPU: {error}");
            return Ok(None);
        }
    };
    let stream = context.default_stream();
    let rope = cuda::Rope::new(&Kernels::load(&context)?, frequencies, Pairing::HalfSplit)?;
    let (mut on_q, mut on_k) = (stream.clone_htod(q)?, stream.clone_htod(k)?);
    let layout = layout(q.len());
    let rotate = |rope: &cuda::Rope, q: &mut CudaSlice<bf16>, k: &mut CudaSlice<bf16>| {
        let (q, k) = (Heads::in_place(q, layout), Heads::in_place(k, layout));
        rope.rotate(&stream, Some(q), Some(k), Positions::consecutive(0))
    };
    // The first call is the one that is checked; the others are timed, there and back.
    rotate(&rope, &mut on_q, &mut on_k)?;
    let (out_q, out_k) = (stream.clone_dtoh(&on_q)?, stream.clone_dtoh(&on_k)?);
    let back = rope.inverse();
    let mut seconds = Vec::new();
    for i in 0..REPEATS {
        let start = stream.record_event(Some(CU_EVENT_DEFAULT))?;
        rotate(if i % 2 == 0 { &back } else { &rope }, &mut on_q, &mut on_k)?;
        let end = stream.record_event(Some(CU_EVENT_DEFAULT))?;
        seconds.push(f64::from(start.elapsed_ms(&end)?) / 1e3);
    }
    Ok(Some(Run {
        device: context.name()?,
        q: out_q,
        k: out_k,
        seconds: median(seconds),
        repeats: REPEATS,
    }))
}

/// The largest error against f64, and the rounding to bf16 that the value there allows.
fn largest_error(frequencies: &Frequencies, before: &[bf16], after: &[bf16]) -> (f64, f64) {
    let inv_freq: Vec<f64> = frequencies.inv_freq().collect();
    let half = HEAD_DIM / 2;
    let mut worst = (0.0, 0.0);
    for t in 0..before.len() / (HEADS * HEAD_DIM) {
        let turns: Vec<(f64, f64)> = inv_freq.iter().map(|f| (t as f64 * f).sin_cos()).collect();
        for h in 0..HEADS {
            let row = (t * HEADS + h) * HEAD_DIM;
            for (j, (sin, cos)) in turns.iter().enumerate() {
                let [x, y] = [row + j, row + j + half].map(|i| before[i].to_f64());
                for (i, exact) in
                    [(row + j, x * cos - y * sin), (row + j + half, y * cos + x * sin)]
                {
                    let error = (after[i].to_f64() - exact).abs();
                    if error > worst.0 {
                        worst = (error, 2f64.powi(exact.abs().log2().floor() as i32 - 8));
                    }
                }
            }
        }
    }
    worst
}
