//! What is measured, as rows of a JSON file.

use std::fs;

use serde_json::{Value, json};

use crate::cases::{Cache, Case};

/// Rows, written once at the end.
pub struct Rows {
    device: String,
    rows: Vec<Value>,
}

impl Rows {
    pub fn new(device: &str) -> Self {
        Self { device: device.to_owned(), rows: Vec::new() }
    }

    /// `samples` are microseconds a launch.
    pub fn push(
        &mut self,
        case: &Case,
        implementation: &str,
        cache: Cache,
        pdl: bool,
        samples: &mut [f64],
    ) {
        let row = json!({
            "op": case.op.name(),
            "impl": implementation,
            "dtype": case.dtype.name(),
            "pairing": case.pairing_name(),
            "layout": case.order.name(),
            "q_heads": case.heads[0],
            "kv_heads": case.heads[1],
            "head_dim": case.head_dim,
            "rotary_dim": case.rotary_dim,
            "tokens": case.tokens,
            "cache": cache.name(),
            "pdl": pdl,
            "bytes": case.bytes(),
        });
        self.push_row(row, samples);
    }

    /// `row` with the median of its samples.
    pub fn push_row(&mut self, mut row: Value, samples: &mut [f64]) {
        if samples.is_empty() {
            return; // filtered out by the command line
        }
        samples.sort_by(f64::total_cmp);
        row["median_us"] = samples[samples.len() / 2].into();
        self.rows.push(row);
    }

    pub fn write(&self) {
        if self.rows.is_empty() {
            return;
        }
        let path = std::env::var("CONDENSED_ROPE_BENCH_JSON").unwrap_or("bench.json".to_owned());
        let lines: Vec<String> = self.rows.iter().map(Value::to_string).collect();
        let file = format!("[\n{}\n]\n", lines.join(",\n"));
        fs::write(&path, file).expect("the JSON file can be written");
        println!("{} rows on {} in {path}", self.rows.len(), self.device);
    }
}
