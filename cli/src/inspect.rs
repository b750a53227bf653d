//! What a config means, for people.

use std::f64::consts::TAU;
use std::io::Write;
use std::path::Path;

use condensed_rope::config::{Config, ConfigError, LayerGroup, Rotary};
use condensed_rope::{Direction, Frequencies, Pairing, RopeScaling, SectionOrder};
use plotters::prelude::{RGBColor, SeriesLabelPosition};

use crate::plot::{self, Curve, Titles};
use crate::{Inspect, Result, json, model};

pub fn inspect(arguments: &Inspect) -> Result<()> {
    let mut config = model::config(&arguments.model)?;
    if let Some(name) = &arguments.model.layer_type {
        // An error names the types that there are.
        if let Err(error) = config.rotary(Some(name))
            && !matches!(error, ConfigError::NoRotation { .. })
        {
            return Err(format!("--layer-type: {error}").into());
        }
        config.groups.retain(|group| group.layer_types.contains(name));
    }
    if let Some(index) = arguments.model.layer {
        let group = config.layer(index).cloned();
        config.groups = vec![group.ok_or("--layer: no such layer")?];
    }
    if let Some(length) = arguments.length {
        for rotary in config.groups.iter_mut().filter_map(|group| group.rotary.as_mut()) {
            rotary.schedule.set_length(length);
        }
    }
    let mut text = if arguments.json {
        json::object(&config, arguments.length).to_string()
    } else {
        table(&config)
    };
    text.push('\n');
    if let Some(path) = &arguments.svg {
        draw(path, &config.groups)?;
        text.push_str(&format!("{}\n", path.display()));
    }
    // Whoever reads may stop before the end.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// A column a group of layers.
fn table(config: &Config) -> String {
    let mut text = config.model_type.as_deref().unwrap_or("a model without model_type").to_owned();
    let columns: Vec<Vec<(&str, String)>> = config.groups.iter().map(describe).collect();
    let longest = columns.iter().max_by_key(|column| column.len());
    for (row, (title, _)) in longest.into_iter().flatten().enumerate() {
        text.push_str(&format!("\n  {title:<34}"));
        for column in &columns {
            text.push_str(&format!("{:<28}", column.get(row).map_or("", |(_, value)| value)));
        }
        text.truncate(text.trim_end().len());
    }
    text
}

/// One column of the table; layers that do not rotate end early.
fn describe(group: &LayerGroup) -> Vec<(&'static str, String)> {
    let types = match group.layer_types.as_slice() {
        [] => "all".to_owned(),
        types => types.join(", "),
    };
    let count = group.indices.as_ref().map_or("not given".to_owned(), |all| all.len().to_string());
    let mut column = vec![("layers", types), ("number of layers", count)];
    let Some(rotary) = &group.rotary else {
        column.push(("channels that rotate", "none".to_owned()));
        return column;
    };
    let schedule = &rotary.schedule;
    let inv_freq: Vec<f64> = schedule.frequencies().inv_freq().collect();
    let wavelength = |j: usize| match inv_freq[j] {
        0.0 => "never turns".to_owned(),
        f => format!("{} (pair {j})", positions(TAU / f)),
    };
    let slowest = inv_freq.iter().copied().filter(|&f| f > 0.0).fold(f64::INFINITY, f64::min);
    let (middle, last) = (inv_freq.len() / 2, inv_freq.len() - 1);
    let first = rotary.rotary_offset;
    let pairing = match rotary.pairing {
        Pairing::HalfSplit => "half-split (NeoX)",
        _ => "interleaved (GPT-J)",
    };
    column.extend([
        (
            "channels that rotate",
            format!("{first}..{} of {}", first + rotary.rotary_dim, rotary.head_dim),
        ),
        ("scaling", kind(schedule.scaling())),
        ("condense ratio on top", ratio(schedule.ratio())),
        ("base", format!("{}", schedule.base())),
        ("pairing", pairing.to_owned()),
        (
            "direction",
            match rotary.direction {
                Direction::Forward => "forward".to_owned(),
                Direction::Inverse => "inverse".to_owned(),
            },
        ),
        (
            "sections (time, height, width)",
            rotary.sections.map_or("none".to_owned(), |sections| {
                let how = match sections.order() {
                    SectionOrder::Blocks => "in blocks",
                    order => order.name(),
                };
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
            json::changes_from(schedule.scaling())
                .map_or("no".to_owned(), |length| format!("from {length}")),
        ),
        (
            "max_position_embeddings",
            rotary.max_position_embeddings.map_or("not given".to_owned(), |max| max.to_string()),
        ),
    ]);
    column
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
fn draw(path: &Path, groups: &[LayerGroup]) -> Result<()> {
    let before = |rotary: &Rotary| -> Result<Vec<f64>> {
        Ok(Frequencies::new(rotary.rotary_dim, rotary.schedule.base())?.inv_freq().collect())
    };
    let after =
        |rotary: &Rotary| -> Vec<f64> { rotary.schedule.frequencies().inv_freq().collect() };
    let rotating: Vec<(&LayerGroup, &Rotary)> =
        groups.iter().filter_map(|group| Some((group, group.rotary.as_ref()?))).collect();
    if rotating.is_empty() {
        return Err("--svg: no layer rotates".into());
    }
    let mut all = Vec::new();
    for (_, rotary) in &rotating {
        all.extend(before(rotary)?.into_iter().chain(after(rotary)).filter(|&f| f > 0.0));
    }
    let low = all.iter().copied().fold(f64::INFINITY, f64::min) / 2.0;
    let high = all.iter().copied().fold(0.0, f64::max) * 2.0;
    let pairs = rotating.iter().map(|(_, rotary)| rotary.rotary_dim / 2).max().unwrap_or(1);
    let colours = [RGBColor(31, 119, 180), RGBColor(230, 126, 20), RGBColor(44, 140, 60)];
    let mut curves = Vec::new();
    for (i, (group, rotary)) in rotating.into_iter().enumerate() {
        let name = match group.layer_types.as_slice() {
            [] => "all layers".to_owned(),
            types => types.join(", "),
        };
        for (values, colour, when) in [
            (before(rotary)?, plot::GREY, "before"),
            (after(rotary), colours[i % colours.len()], "after"),
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
