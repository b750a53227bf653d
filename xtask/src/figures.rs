//! The README's pictures, drawn from the committed results.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;
use serde_json::Value;

use crate::plot::{self, GREY};
use crate::{Result, bench, run};

/// A curve: its name in the rows and in the legend, and its colour.
type Curve = (&'static str, &'static str, RGBColor);

/// Points by the name of their curve.
type Points = BTreeMap<String, Vec<(f64, f64)>>;

const BLUE: RGBColor = RGBColor(31, 119, 180);
const ORANGE: RGBColor = RGBColor(230, 126, 20);
const GREEN: RGBColor = RGBColor(44, 140, 60);
const RED: RGBColor = RGBColor(200, 50, 50);
const PURPLE: RGBColor = RGBColor(130, 80, 170);
const SKY: RGBColor = RGBColor(110, 190, 240);
const BROWN: RGBColor = RGBColor(130, 90, 60);

/// The first three in the benches' own process, the others in torch's, where a launch of a graph takes longer.
const SPEED: [Curve; 7] = [
    ("ours", "condensed-rope", BLUE),
    ("ours+pdl", "condensed-rope, PDL", SKY),
    ("flashinfer_table", "FlashInfer, table", ORANGE),
    ("ours_in_torch", "condensed-rope, in torch", GREY),
    ("flash_attn", "flash-attention, in torch", BROWN),
    ("liger", "Liger, in torch", GREEN),
    ("sglang", "sglang, in torch", PURPLE),
];
const APPEND: [Curve; 7] = [
    ("limit", "limit: copy", GREY),
    ("ours", "condensed-rope, 1 launch", BLUE),
    ("ours+pdl", "condensed-rope, 1 launch, PDL", SKY),
    ("launches_2", "norm + rotate, append", GREEN),
    ("launches_3", "norm, rotate, append", ORANGE),
    ("launches_4", "norm q, norm k, rotate, append", RED),
    ("warp_a_head", "1 launch, a warp a head", PURPLE),
];
const ERRORS: [Curve; 4] = [
    ("ours", "condensed-rope", BLUE),
    ("hf_f32", "f32 angles (HF, FastChat)", GREEN),
    ("flashinfer_on_the_fly", "FlashInfer, on the fly", RED),
    ("bf16_table", "table in bf16", ORANGE),
];

pub fn figures() -> Result<()> {
    let root = run::root();
    let results = root.join("benches/results");
    let docs = root.join("docs");
    fs::create_dir_all(&docs).map_err(|error| format!("{}: {error}", docs.display()))?;
    let rows = bench::read(&results.join("h100.json"))?;
    for (cache, name, title) in [
        (
            "rotating",
            "speed_cold.svg",
            "time over a copy's (H100, bf16, 32 + 8 heads of 128, DRAM-cold)",
        ),
        ("hot", "speed_hot.svg", "time over a copy's (H100, bf16, 32 + 8 heads of 128, L2-hot)"),
    ] {
        speed(&rows, cache, title, &docs.join(name))?;
    }
    append(&bench::read(&results.join("append_h100.json"))?, &docs.join("append.svg"))?;
    errors(&bench::read(&results.join("errors_h100.json"))?, &docs.join("errors.svg"))?;
    perplexity(&results.join("perplexity_h100.jsonl"), &docs.join("perplexity.svg"))
}

/// A line a run of candle's example: perplexity by position, of each ratio.
fn perplexity(results: &Path, path: &Path) -> Result<()> {
    const COLOURS: [RGBColor; 5] = [GREY, BLUE, GREEN, ORANGE, RED];
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", results.display());
    let text = fs::read_to_string(results).map_err(|error| failed(&error))?;
    let mut curves = Vec::new();
    for (line, colour) in text.lines().zip(COLOURS) {
        let row: Value = serde_json::from_str(line).map_err(|error| failed(&error))?;
        let bucket = row["bucket"].as_f64().ok_or_else(|| failed(&"bucket is missing"))?;
        let values =
            row["perplexity"].as_array().ok_or_else(|| failed(&"perplexity is missing"))?;
        let point = |(i, y): (usize, &Value)| Some(((i as f64 + 0.5) * bucket, y.as_f64()?));
        let label = match (row["kind"].as_str(), row["ratio"].as_f64()) {
            (_, Some(1.0)) => "as trained".to_owned(),
            (Some("ntk"), Some(ratio)) => format!("NTK-aware, {ratio}"),
            (_, ratio) => format!("condensed, {}", ratio.unwrap_or(f64::NAN)),
        };
        let points = values.iter().enumerate().filter_map(point).collect();
        curves.push(plot::Curve { label, colour, points });
    }
    let titles = plot::Titles {
        title: "perplexity of a long article by position, SmolLM2-135M-Instruct, trained on 8192 positions",
        x: "position",
        y: "perplexity",
        legend: SeriesLabelPosition::UpperLeft,
    };
    let last = curves.iter().flat_map(|curve| &curve.points).map(|(x, _)| *x);
    let last = last.fold(1.0, f64::max);
    plot::draw(path, &titles, 0.0..last * 1.05, 10.0..20_000.0, &curves)?;
    println!("{}", path.display());
    Ok(())
}

/// Points of each curve, by its name (`+pdl` where launches overlapped), of the rows that `point` has one for.
fn points(rows: &[Value], point: impl Fn(&Value) -> Option<(f64, f64)>) -> Points {
    let mut curves = Points::new();
    for row in rows {
        if let (Some(name), Some(point)) = (row["impl"].as_str(), point(row)) {
            let pdl = if row["pdl"] == true { "+pdl" } else { "" };
            curves.entry(format!("{name}{pdl}")).or_default().push(point);
        }
    }
    for points in curves.values_mut() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    curves
}

/// `of` a row against its tokens, of the rows whose fields are these.
fn by_tokens(
    rows: &[Value],
    wanted: &[(&str, Value)],
    of: impl Fn(&Value) -> Option<f64>,
) -> Points {
    points(rows, |row| {
        let is_wanted = wanted.iter().all(|(key, value)| row[key] == *value);
        is_wanted.then_some((row["tokens"].as_f64()?, of(row)?))
    })
}

/// bf16, half-split, 32 + 8 heads of 128: times over that of the copy in place.
fn speed(rows: &[Value], cache: &str, title: &str, path: &Path) -> Result<()> {
    let wanted = [
        ("op", Value::from("rotate")),
        ("dtype", Value::from("bf16")),
        ("pairing", Value::from("half_split")),
        ("layout", Value::from("thd")),
        ("cache", Value::from(cache)),
        ("kv_heads", Value::from(8)),
        ("q_heads", Value::from(32)),
        ("head_dim", Value::from(128)),
        ("rotary_dim", Value::from(128)),
    ];
    let mut curves = by_tokens(rows, &wanted, |row| row["median_us"].as_f64());
    let limits = curves.remove("limit").unwrap_or_default();
    for points in curves.values_mut() {
        points.retain_mut(|(tokens, us)| {
            let limit = limits.iter().find(|(of, _)| of == tokens);
            limit.inspect(|(_, limit)| *us /= limit).is_some()
        });
    }
    let last = limits.last().map_or(2.0, |(tokens, _)| *tokens);
    draw(
        path,
        title,
        ("tokens", "times a copy in place"),
        (1.0..last, 0.6..2.0),
        (&SPEED, &curves),
        SeriesLabelPosition::LowerRight,
    )
}

/// Qwen3-8B's attention, bf16 pages, DRAM-cold.
fn append(rows: &[Value], path: &Path) -> Result<()> {
    let wanted = [
        ("model", Value::from("Qwen3-8B")),
        ("cache_dtype", Value::from("bf16")),
        ("cache", Value::from("rotating")),
    ];
    let speed = |row: &Value| Some(row["bytes"].as_f64()? / row["median_us"].as_f64()? / 1e3);
    let curves = by_tokens(rows, &wanted, speed);
    draw(
        path,
        "QK-norm, rotation and append: bytes that must move, GB/s (H100, Qwen3-8B, bf16 pages, DRAM-cold)",
        ("tokens", "GB/s"),
        (1.0..8192.0, 3.0..4000.0),
        (&APPEND, &curves),
        SeriesLabelPosition::UpperLeft,
    )
}

fn errors(rows: &[Value], path: &Path) -> Result<()> {
    let curves =
        points(rows, |row| Some((row["position"].as_f64()?, row["largest_error"].as_f64()?)));
    draw(
        path,
        "largest error of cos and sin against f64 (head_dim 128, base 10000)",
        ("position", "error"),
        (1.0..2_147_483_648.0, 1e-8..10.0),
        (&ERRORS, &curves),
        SeriesLabelPosition::UpperLeft,
    )
}

/// The curves that there are points for, on two logarithmic axes.
fn draw(
    path: &Path,
    title: &str,
    (x_label, y_label): (&str, &str),
    (x, y): (Range<f64>, Range<f64>),
    (curves, points): (&[Curve], &Points),
    legend: SeriesLabelPosition,
) -> Result<()> {
    let curve = |&(name, label, colour): &Curve| {
        let points = points.get(name);
        let points = points.ok_or_else(|| format!("{}: no rows of {name}", path.display()))?;
        Ok(plot::Curve { label: label.to_owned(), colour, points: points.clone() })
    };
    let curves = curves.iter().map(curve).collect::<Result<Vec<_>>>()?;
    let titles = plot::Titles { title, x: x_label, y: y_label, legend };
    plot::draw(path, &titles, x.log_scale(), y, &curves)?;
    println!("{}", path.display());
    Ok(())
}
