//! The largest error of cos and sin against position: ours, FlashInfer's on the fly (with the `peers`
//! feature, on a GPU), HF's f32 angles, and the bf16 table made of them. head_dim 128, base 10000.
//!
//! Rows go to `CONDENSED_ROPE_ERRORS_JSON`, else `errors.json` in the working folder.

use std::fs;

use condensed_rope::{Frequencies, Pairing, cpu};
use half::bf16;
use serde_json::{Value, json};

const DIM: usize = 128;
/// Consecutive positions that one row looks at.
const WINDOW: usize = 256;

/// `inv_freq`, as f64 that all are measured by.
fn inv_freq() -> Vec<f64> {
    (0..DIM / 2).map(|j| 10_000f64.powf(-2.0 * j as f64 / DIM as f64)).collect()
}

/// cos, then sin, of `position * inv_freq`: the product to twice the precision of f64.
fn truth(position: i64, inv_freq: f64) -> [f64; 2] {
    let high = position as f64 * inv_freq;
    let low = (position as f64).mul_add(inv_freq, -high);
    [high.cos() - low * high.sin(), high.sin() + low * high.cos()]
}

/// Of a table of `WINDOW` rows, each cos of every pair and then sin.
fn largest_error(start: i64, table: impl Fn(usize, usize) -> [f64; 2]) -> f64 {
    let inv_freq = inv_freq();
    let errors = (0..WINDOW).flat_map(|row| {
        let (table, inv_freq) = (&table, &inv_freq);
        (0..DIM / 2).map(move |j| {
            let ([cos, sin], [c, s]) = (table(row, j), truth(start + row as i64, inv_freq[j]));
            (cos - c).abs().max((sin - s).abs())
        })
    });
    errors.fold(0.0, f64::max)
}

fn ours(start: i64) -> f64 {
    let frequencies = Frequencies::from_inv_freq(&inv_freq()).expect("valid");
    let rope = cpu::Rope::new(&frequencies, Pairing::HalfSplit);
    let (mut cos, mut sin) = (vec![0f32; WINDOW * DIM], vec![0f32; WINDOW * DIM]);
    rope.cos_sin(start, &mut cos, &mut sin).expect("a table");
    largest_error(start, |row, j| [cos[row * DIM + j].into(), sin[row * DIM + j].into()])
}

/// transformers and FastChat: the angle is a product of two f32.
fn hf(start: i64, round: fn(f64) -> f64) -> f64 {
    let inv_freq: Vec<f32> =
        (0..DIM / 2).map(|j| 1.0 / 10_000f32.powf((2 * j) as f32 / DIM as f32)).collect();
    largest_error(start, |row, j| {
        let angle = f64::from((start + row as i64) as f32 * inv_freq[j]);
        [round(angle.cos()), round(angle.sin())]
    })
}

#[cfg(feature = "peers")]
fn flashinfer() -> Option<Box<dyn Fn(i64) -> f64>> {
    use std::ffi::{c_int, c_void};

    use condensed_rope::cuda::{self, cudarc::driver::DevicePtrMut};

    unsafe extern "C" {
        fn flashinfer_angles(q: u64, ids: u64, tokens: u32, stream: *mut c_void) -> c_int;
    }
    let stream = match cuda::context(0) {
        Ok(context) => context.default_stream(),
        Err(error) => {
            println!("no row of FlashInfer: {error}");
            return None;
        }
    };
    Some(Box::new(move |start| {
        let rows: Vec<f32> =
            (0..WINDOW * DIM).map(|i| if i % DIM < DIM / 2 { 1.0 } else { 0.0 }).collect();
        let ids: Vec<i32> = (0..WINDOW as i32).map(|row| start as i32 + row).collect();
        let mut q = stream.clone_htod(&rows).expect("room");
        let mut ids = stream.clone_htod(&ids).expect("room");
        let ((q_address, _q), (ids_address, _ids)) =
            (q.device_ptr_mut(&stream), ids.device_ptr_mut(&stream));
        let on = stream.cu_stream().cast();
        // SAFETY: one head of 128 a token, and as many ids; the stream is the primary context's.
        let status = unsafe { flashinfer_angles(q_address, ids_address, WINDOW as u32, on) };
        assert_eq!(status, 0, "FlashInfer refused");
        drop((_q, _ids));
        let out = stream.clone_dtoh(&q).expect("a result");
        largest_error(start, |row, j| {
            [out[row * DIM + j].into(), out[row * DIM + DIM / 2 + j].into()]
        })
    }))
}

#[cfg(not(feature = "peers"))]
fn flashinfer() -> Option<Box<dyn Fn(i64) -> f64>> {
    None
}

fn main() {
    let flashinfer = flashinfer();
    let mut rows: Vec<Value> = Vec::new();
    println!(
        "{:>12}{:>12}{:>24}{:>12}{:>12}",
        "from", "ours", "flashinfer_on_the_fly", "hf_f32", "bf16_table"
    );
    // Two an octave, to the last window below 2^31.
    for half_octave in 0..=62 {
        let start = 2f64.powf(f64::from(half_octave) / 2.0).round() as i64;
        let start = start.min((1 << 31) - WINDOW as i64);
        let errors = [
            ("ours", Some(ours(start))),
            ("flashinfer_on_the_fly", flashinfer.as_ref().map(|error| error(start))),
            ("hf_f32", Some(hf(start, |value| value))),
            ("bf16_table", Some(hf(start, |value| bf16::from_f64(value).to_f64()))),
        ];
        let shown = errors.map(|(_, error)| error.map_or("-".to_owned(), |e| format!("{e:.2e}")));
        println!("{start:>12}{:>12}{:>24}{:>12}{:>12}", shown[0], shown[1], shown[2], shown[3]);
        for (name, error) in errors {
            if let Some(error) = error {
                rows.push(json!({"impl": name, "position": start, "largest_error": error}));
            }
        }
    }
    let path = std::env::var("CONDENSED_ROPE_ERRORS_JSON").unwrap_or("errors.json".to_owned());
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    fs::write(&path, format!("[\n{}\n]\n", lines.join(",\n"))).expect("the file can be written");
    println!("{} rows in {path}", rows.len());
}
