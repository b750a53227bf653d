//! The README's pictures, drawn from the committed results.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;
use serde_json::Value;

use crate::{Result, bench, run};

/// A curve: its name in the rows and in the legend, and its colour.
type Curve = (&'static str, &'static str, RGBColor);

/// Points by the name of their curve.
type Points = BTreeMap<String, Vec<(f64, f64)>>;

const BLUE: RGBColor = RGBColor(31, 119, 180);
const GREY: RGBColor = RGBColor(120, 120, 120);
const ORANGE: RGBColor = RGBColor(230, 126, 20);
const GREEN: RGBColor = RGBColor(44, 140, 60);
const RED: RGBColor = RGBColor(200, 50, 50);
const PURPLE: RGBColor = RGBColor(130, 80, 170);

const SPEED: [Curve; 6] = [
    ("limit", "limit: copy in place", GREY),
    ("ours", "condensed-rope", BLUE),
    ("liger", "Liger (table given)", GREEN),
    ("flashinfer_table", "FlashInfer, table", ORANGE),
    ("flashinfer_on_the_fly", "FlashInfer, on the fly", RED),
    ("candle", "candle-nn (table given)", PURPLE),
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
    speed(&bench::read(&results.join("h100.json"))?, &docs.join("bandwidth.svg"))?;
    errors(&bench::read(&results.join("errors_h100.json"))?, &docs.join("errors.svg"))
}

/// Points of each curve, by its name, of the rows that `point` has one for.
fn points(rows: &[Value], point: impl Fn(&Value) -> Option<(f64, f64)>) -> Points {
    let mut curves = Points::new();
    for row in rows {
        if let (Some(name), Some(point)) = (row["impl"].as_str(), point(row)) {
            curves.entry(name.to_owned()).or_default().push(point);
        }
    }
    for points in curves.values_mut() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    curves
}

/// bf16, half-split, 32 + 8 heads of 128, from memory.
fn speed(rows: &[Value], path: &Path) -> Result<()> {
    let wanted = [
        ("op", Value::from("rotate")),
        ("dtype", Value::from("bf16")),
        ("pairing", Value::from("half_split")),
        ("layout", Value::from("thd")),
        ("cache", Value::from("rotating")),
        ("pdl", Value::from(false)),
        ("kv_heads", Value::from(8)),
        ("q_heads", Value::from(32)),
        ("head_dim", Value::from(128)),
        ("rotary_dim", Value::from(128)),
    ];
    let curves = points(rows, |row| {
        let plain = wanted.iter().all(|(key, value)| row[key] == *value);
        let speed = row["bytes"].as_f64()? / row["median_us"].as_f64()? / 1e3;
        plain.then_some((row["tokens"].as_f64()?, speed))
    });
    draw(
        path,
        "q and k read and written, GB/s (H100, bf16, 32 + 8 heads of 128, from memory)",
        ("tokens", "GB/s"),
        (1.0..131_072.0, 10.0..4000.0),
        (&SPEED, &curves),
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
    )
}

/// Curves on two logarithmic axes.
fn draw(
    path: &Path,
    title: &str,
    (x_label, y_label): (&str, &str),
    (x, y): (Range<f64>, Range<f64>),
    (curves, points): (&[Curve], &Points),
) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let area = SVGBackend::new(path, (860, 440)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 17))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(x.log_scale(), y.log_scale())
        .map_err(|error| failed(&error))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(x_label)
        .y_desc(y_label)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .label_style(("sans-serif", 13))
        .draw()
        .map_err(|error| failed(&error))?;
    for &(name, label, colour) in curves {
        let points = points.get(name).ok_or_else(|| failed(&format!("no rows of {name}")))?;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))
            .map_err(|error| failed(&error))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(GREY)
        .label_font(("sans-serif", 13))
        .draw()
        .map_err(|error| failed(&error))?;
    area.present().map_err(|error| failed(&error))?;
    println!("{}", path.display());
    Ok(())
}

/// A number on an axis.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.0}G", v / 1e9),
        v if v >= 1e6 => format!("{:.0}M", v / 1e6),
        v if v >= 1e4 => format!("{:.0}k", v / 1e3),
        v if v >= 0.1 => format!("{v}"),
        v => format!("{v:.0e}"),
    }
}
