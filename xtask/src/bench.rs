//! The GPU benches, and their rows as a table of ratios.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::toolchain::{self, Tool};
use crate::{Result, run};

/// Runs the GPU, host and CPU benches; the rows go to `target/bench.json`, the ratios to the terminal.
pub fn bench() -> Result<()> {
    let (nvcc, libtorch, flashinfer) =
        (toolchain::nvcc()?, toolchain::libtorch()?, toolchain::flashinfer()?);
    let file = run::root().join("target/bench.json");
    let bench = |name: &str| {
        let mut command = run::cargo(&["bench", "--features", "peers", "--bench", name]);
        nvcc.put_in(&mut command);
        libtorch.put_in(&mut command);
        flashinfer.put_in(&mut command);
        command.env("CONDENSED_ROPE_BENCH_JSON", &file);
        command.env("CONDENSED_ROPE_ERRORS_JSON", file.with_file_name("errors.json"));
        run::check(&mut command)
    };
    if toolchain::gpu().is_some() {
        run::step("GPU: graph replays against the memory limit and peers (several minutes)");
        bench("gpu")?;
        table(&file.display().to_string())?;
        println!(
            "\npython3 benches/peers.py {} adds what runs in torch: flash-attention, sglang, Liger, HF",
            file.display()
        );
        run::step("host: what a call costs");
        bench("host")?;
        run::step("errors against position");
        bench("errors")?;
    } else {
        println!("no GPU benches: nvidia-smi finds no device");
    }
    run::step("CPU backend");
    bench("cpu")
}

/// Peers by their names in the rows and over their columns.
const PEERS: [(&str, &str); 17] = [
    ("flashinfer_table", "fi table"),
    ("flashinfer_on_the_fly", "fi on fly"),
    ("flash_attn", "flash-attn"),
    ("sglang", "sglang"),
    ("sglang+pdl", "sgl pdl"),
    ("vllm", "vllm"),
    ("ours_no_ids", "no ids"),
    ("ours_in_torch", "in torch"),
    ("liger", "liger"),
    ("candle", "candle"),
    ("compile", "compile"),
    ("compile+angles", "+angles"),
    ("hf_eager", "hf eager"),
    ("launches_2", "2 launches"),
    ("launches_4", "4 launches"),
    ("warp_a_head", "warp/head"),
    ("flashinfer", "fi append"),
];

/// What a row measured.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    case: String,
    tokens: u64,
    cache: String,
    /// `+pdl` where launches overlapped.
    implementation: String,
}

struct Row {
    key: Key,
    us: f64,
    bytes: u64,
}

/// The rows of a file of measurements, whatever was measured.
pub fn read(path: &Path) -> Result<Vec<Value>> {
    let failed = |error: &dyn Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    serde_json::from_str(&text).map_err(|error| failed(&error))
}

fn rows(path: &str) -> Result<Vec<Row>> {
    let parse = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap_or("?").to_owned();
        let number = |key: &str| row[key].as_u64().unwrap_or(0);
        // The compiled flow that makes cos and sin too stands beside the one that is given them.
        let (op, angles) = match text("op").strip_suffix("_with_angles") {
            Some(op) => (op.to_owned(), "+angles"),
            None => (text("op"), ""),
        };
        let case = format!(
            "{} {} {} {} {}+{} x {}/{}",
            op,
            text("dtype"),
            text("pairing"),
            text("layout"),
            number("q_heads"),
            number("kv_heads"),
            number("rotary_dim"),
            number("head_dim"),
        );
        let model = row["model"]
            .as_str()
            .map_or(String::new(), |model| format!(" {model} {} cache", text("cache_dtype")));
        let case = case + &model;
        let pdl = if row["pdl"] == true { "+pdl" } else { "" };
        let us = row["median_us"]
            .as_f64()
            .ok_or_else(|| format!("{path}: a row without a time: {row}"))?;
        let implementation = text("impl") + angles + pdl;
        let key = Key { case, tokens: number("tokens"), cache: text("cache"), implementation };
        Ok(Row { key, us, bytes: number("bytes") })
    };
    read(Path::new(path))?.iter().map(parse).collect()
}

/// Prints a bench file's rows, one line a case: ours, the limit, and how the others compare.
pub fn table(path: &str) -> Result<()> {
    let mut cases: BTreeMap<(String, u64), BTreeMap<String, f64>> = BTreeMap::new();
    let mut bytes = BTreeMap::new();
    for Row { key, us, bytes: moved } in rows(path)? {
        let case = (format!("{} {}", key.case, key.cache), key.tokens);
        bytes.insert(case.clone(), moved);
        cases.entry(case).or_default().insert(key.implementation, us);
    }
    let mut last = String::new();
    for ((case, tokens), times) in &cases {
        if *case != last {
            println!("\n{case}");
            print!("{:>9}{:>10}{:>8}{:>10}", "tokens", "ours us", "GB/s", "limit us");
            print!("{:>12}{:>11} |", "ours/limit", "pdl/limit");
            println!("{} / ours", PEERS.map(|(_, title)| format!("{title:>11}")).concat());
            last.clone_from(case);
        }
        let ratio = |a: &str, b: &str| match (times.get(a), times.get(b)) {
            (Some(a), Some(b)) => format!("{:.3}", a / b),
            _ => "-".to_owned(),
        };
        let time = |name: &str| times.get(name).map_or("-".to_owned(), |us| format!("{us:.2}"));
        let moved = bytes[&(case.clone(), *tokens)] as f64;
        let speed =
            times.get("ours").map_or("-".to_owned(), |us| format!("{:.0}", moved / us / 1e3));
        print!("{tokens:>9}{:>10}{speed:>8}{:>10}", time("ours"), time("limit"));
        print!("{:>12}{:>11} |", ratio("ours", "limit"), ratio("ours+pdl", "limit"));
        println!("{}", PEERS.map(|(peer, _)| format!("{:>11}", ratio(peer, "ours"))).concat());
    }
    Ok(())
}

/// Prints how far the rows that two bench files share are apart, by implementation and cache.
pub fn compare(before: &str, after: &str) -> Result<()> {
    let old: BTreeMap<Key, f64> = rows(before)?.into_iter().map(|row| (row.key, row.us)).collect();
    let mut apart: BTreeMap<(String, String), Vec<(f64, String)>> = BTreeMap::new();
    for Row { key, us, .. } in rows(after)? {
        let Some(was) = old.get(&key) else { continue };
        let Key { case, tokens, cache, implementation } = key;
        let percent = (us / was - 1.0) * 100.0;
        apart
            .entry((cache, implementation))
            .or_default()
            .push((percent, format!("{case}, {tokens}")));
    }
    if apart.is_empty() {
        return Err(format!("{before} and {after} have no row in common"));
    }
    println!("{:<16}{:<24}{:>5}{:>10}{:>9}", "cache", "implementation", "rows", "median", "most");
    for ((cache, implementation), mut rows) in apart {
        rows.sort_by(|(a, _), (b, _)| a.abs().total_cmp(&b.abs()));
        let (median, (most, at)) = (rows[rows.len() / 2].0.abs(), &rows[rows.len() - 1]);
        print!("{cache:<16}{implementation:<24}{:>5}{median:>8.2} %{most:>+7.2} %", rows.len());
        println!("  {at}");
    }
    Ok(())
}
