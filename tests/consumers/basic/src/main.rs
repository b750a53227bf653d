//! Rotates on the CPU, held to f64; and on the GPU where there is one, held to the CPU's bits.

use std::error::Error;

use condensed_rope::{Frequencies, Layout, Pairing, Positions, cpu};
use half::bf16;

const TOKENS: usize = 300;
const HEADS: usize = 4;
const DIM: usize = 128;
const RATIO: f64 = 8.0;

fn main() -> Result<(), Box<dyn Error>> {
    let frequencies = Frequencies::new(DIM, 10_000.0)?.condensed(RATIO)?;
    let given: Vec<bf16> =
        (0..TOKENS * HEADS * DIM).map(|i| bf16::from_f64((i as f64 * 0.37).sin())).collect();
    let ids: Vec<i32> = (0..TOKENS as i32).map(|t| 60 * t).collect();
    let layout = Layout::thd(TOKENS, HEADS, DIM);

    let mut rotated = given.clone();
    cpu::Rope::new(&frequencies, Pairing::HalfSplit).rotate(
        Some(cpu::Heads::in_place(&mut rotated, layout)),
        None,
        Positions::ids(&ids),
    )?;
    for (row, (got, x)) in rotated.chunks(DIM).zip(given.chunks(DIM)).enumerate() {
        let position = f64::from(ids[row / HEADS]) / RATIO;
        for j in 0..DIM / 2 {
            let angle = position * 10_000f64.powf(-2.0 * j as f64 / DIM as f64);
            let (a, b) = (x[j].to_f64(), x[j + DIM / 2].to_f64());
            let truth = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()];
            for (got, truth) in [got[j], got[j + DIM / 2]].into_iter().zip(truth) {
                // Half a step of bf16, and f32's own roundings.
                let limit = truth.abs() * 2f64.powi(-8) + 1e-6;
                assert!((got.to_f64() - truth).abs() <= limit, "row {row}: {got}, not {truth}");
            }
        }
    }
    println!("CPU: rotated, right");
    #[cfg(feature = "cuda")]
    println!("GPU: {}", on_the_gpu(&frequencies, given, &rotated, &ids, layout)?);
    Ok(())
}

/// What came of it; what the machine has not is no failure of the program.
#[cfg(feature = "cuda")]
fn on_the_gpu(
    frequencies: &Frequencies,
    given: Vec<bf16>,
    expected: &[bf16],
    ids: &[i32],
    layout: Layout,
) -> Result<String, Box<dyn Error>> {
    use condensed_rope::cuda;

    println!("kernels: {}", cuda::COMPILER);
    let kernels = match cuda::context(0).and_then(|context| cuda::Kernels::load(&context)) {
        Ok(kernels) => kernels,
        Err(error) => return Ok(format!("not run: {error}")),
    };
    let stream = kernels.context().default_stream();
    let rope = cuda::Rope::new(&kernels, frequencies, Pairing::HalfSplit)?;
    let (mut q, ids) = (stream.clone_htod(&given)?, stream.clone_htod(ids)?);
    let heads = cuda::Heads::in_place(&mut q, layout);
    rope.rotate(&stream, Some(heads), None, Positions::ids(&ids))?;
    let got = stream.clone_dtoh(&q)?;
    let bits = |x: &[bf16]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&got), bits(expected));
    kernels.load_append()?;
    Ok("rotated, the CPU's bits".to_owned())
}
