//! What a config means, for people.

use std::f64::consts::TAU;
use std::io::Write;
use std::path::Path;

use condensed_rope::hf::Layer;
use condensed_rope::{Frequencies, Pairing, RopeScaling};
use plotters::prelude::{RGBColor, SeriesLabelPosition};

use crate::plot::{self, Curve, Titles};
use crate::{Inspect, Result, model};

pub fn inspect(arguments: &Inspect) -> Result<()> {
    let config = model::config(&arguments.model)?;
    let layers = match &arguments.model.layer_type {
        None => config.layers.clone(),
        Some(_) => vec![model::layer(&arguments.model)?],
    };
    let mut text = config.model_type.as_deref().unwrap_or("a model without model_type").to_owned();
    let tables: Vec<Vec<(&str, String)>> = layers.iter().map(describe).collect();
    if tables.is_empty() {
        text.push_str("\n  no layers");
    }
    for (row, (title, _)) in tables.first().into_iter().flatten().enumerate() {
        text.push_str(&format!("\n  {title:<34}"));
        for table in &tables {
            text.push_str(&format!("{:<28}", table[row].1));
        }
        text.truncate(text.trim_end().len());
    }
    text.push('\n');
    if let Some(path) = &arguments.svg {
        draw(path, &layers)?;
        text.push_str(&format!("{}\n", path.display()));
    }
    // Whoever reads may stop before the end.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// One column of the table.
fn describe(layer: &Layer) -> Vec<(&'static str, String)> {
    let schedule = &layer.schedule;
    let inv_freq: Vec<f64> = schedule.frequencies().inv_freq().collect();
    let wavelength = |j: usize| match inv_freq[j] {
        0.0 => "never turns".to_owned(),
        f => format!("{} (pair {j})", positions(TAU / f)),
    };
    let slowest = inv_freq.iter().copied().filter(|&f| f > 0.0).fold(f64::INFINITY, f64::min);
    let (middle, last) = (inv_freq.len() / 2, inv_freq.len() - 1);
    let pairing = match layer.pairing {
        Some(Pairing::HalfSplit) => "half-split (NeoX)",
        Some(Pairing::Interleaved) => "interleaved (GPT-J)",
        Some(_) => "another way",
        None => "not fixed by the model type",
    };
    let first = layer.rotary_offset;
    vec![
        ("layers", layer.layer_type.clone().unwrap_or("all".to_owned())),
        ("scaling", kind(schedule.scaling())),
        ("condense ratio on top", ratio(schedule.ratio())),
        ("base", format!("{}", schedule.base())),
        (
            "channels that rotate",
            format!("{first}..{} of {}", first + layer.rotary_dim, layer.head_dim),
        ),
        ("pairing", pairing.to_owned()),
        (
            "sections (time, height, width)",
            layer.sections.map_or("none".to_owned(), |sections| {
                let how = if sections.is_interleaved() { "interleaved" } else { "in blocks" };
                format!("{:?} {how}", sections.sizes())
            }),
        ),
        ("wavelength, first pair", wavelength(0)),
        ("wavelength, middle pair", wavelength(middle)),
        ("wavelength, last pair", wavelength(last)),
        ("slowest pair's first full turn", positions(TAU / slowest)),
        ("attention factor on cos and sin", format!("{:.4}", schedule.frequencies().factor())),
        (
            "other frequencies when longer",
            match schedule.scaling() {
                RopeScaling::Dynamic(dynamic) => {
                    format!("from {}", dynamic.max_position_embeddings.saturating_add(1))
                }
                RopeScaling::LongRope(long) => {
                    format!("from {}", long.original_max_position_embeddings.saturating_add(1))
                }
                _ => "no".to_owned(),
            },
        ),
        (
            "max_position_embeddings",
            layer.max_position_embeddings.map_or("not given".to_owned(), |max| max.to_string()),
        ),
    ]
}

fn kind(scaling: &RopeScaling) -> String {
    let name = scaling.name();
    match scaling {
        RopeScaling::Linear(linear) => format!("{name}, ratio {}", linear.factor),
        RopeScaling::Ntk(ntk) => format!("{name}, factor {}", ntk.factor),
        RopeScaling::Dynamic(dynamic) => format!("{name}, factor {}", dynamic.factor),
        RopeScaling::Llama3(llama3) => format!("{name}, factor {}", llama3.factor),
        RopeScaling::Proportional(scaling) => format!("{name}, factor {}", scaling.factor),
        RopeScaling::Yarn(yarn) => format!("{name}, factor {}", yarn.factor),
        _ => name.to_owned(),
    }
}

fn ratio(ratio: f64) -> String {
    if ratio == 1.0 { "none".to_owned() } else { format!("{ratio}") }
}

fn positions(n: f64) -> String {
    if n < 1000.0 { format!("{n:.2}") } else { format!("{n:.0}") }
}

/// Radians per position of each pair, on a logarithmic axis; before scaling in grey.
fn draw(path: &Path, layers: &[Layer]) -> Result<()> {
    let before = |layer: &Layer| -> Result<Vec<f64>> {
        Ok(Frequencies::new(layer.rotary_dim, layer.schedule.base())?.inv_freq().collect())
    };
    let after = |layer: &Layer| -> Vec<f64> { layer.schedule.frequencies().inv_freq().collect() };
    let mut all = Vec::new();
    for layer in layers {
        all.extend(before(layer)?.into_iter().chain(after(layer)).filter(|&f| f > 0.0));
    }
    let low = all.iter().copied().fold(f64::INFINITY, f64::min) / 2.0;
    let high = all.iter().copied().fold(0.0, f64::max) * 2.0;
    let pairs = layers.iter().map(|layer| layer.rotary_dim / 2).max().unwrap_or(1);
    let colours = [RGBColor(31, 119, 180), RGBColor(230, 126, 20), RGBColor(44, 140, 60)];
    let mut curves = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        let name = layer.layer_type.as_deref().unwrap_or("all layers");
        for (values, colour, when) in [
            (before(layer)?, plot::GREY, "before"),
            (after(layer), colours[i % colours.len()], "after"),
        ] {
            let turning = values.iter().enumerate().filter(|(_, f)| **f > 0.0);
            let points = turning.map(|(j, &f)| (j as f64, f)).collect();
            curves.push(Curve { label: format!("{name}, {when}"), colour, points });
        }
    }
    let titles = Titles {
        title: "angle per position, before and after scaling",
        x: "pair",
        y: "radians per position",
        legend: SeriesLabelPosition::MiddleRight,
    };
    Ok(plot::draw(path, &titles, 0.0..pairs as f64, low..high, &curves)?)
}
