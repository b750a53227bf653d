//! Rotates tensors in files by what a model's `config.json` says, and shows what it says.
//!
//!     cargo run --release -p condensed-rope-cli -- --config config.json --input in.safetensors --output out.safetensors
//!     cargo run --release -p condensed-rope-cli -- inspect --config config.json
//!
//! `--help` tells more. Errors are one line on standard error, exit code 2, and then there is no output.

mod files;
#[cfg(feature = "cuda")]
mod gpu;
mod inspect;
mod json;
mod model;
mod plot;
mod positions;
mod rotate;
mod table;

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, ValueEnum};

/// What went wrong, in one line.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Which layers of which model.
#[derive(Args)]
pub struct Model {
    /// The model's config.json, or its GGUF file.
    #[arg(long)]
    config: PathBuf,
    /// Divide positions by this, on top of the config: FastChat's condense ratio.
    #[arg(long, value_name = "R")]
    condense_ratio: Option<f64>,
    /// For models whose layer types differ: full_attention, sliding_attention.
    #[arg(long, value_name = "NAME")]
    layer_type: Option<String>,
    /// The layer of this index, instead of a type.
    #[arg(long, value_name = "N", conflicts_with = "layer_type")]
    layer: Option<usize>,
    /// How channels pair, of a model type that is not known: it is read by LLaMA's keys and defaults then.
    #[arg(long, value_enum)]
    pairing: Option<Pairing>,
    /// Channels of a head, where the config cannot say it.
    #[arg(long, value_name = "N")]
    head_dim: Option<usize>,
    /// The first channel that rotates, where the config cannot say it.
    #[arg(long, value_name = "N")]
    rotary_offset: Option<usize>,
    /// How many channels rotate, where the config cannot say it.
    #[arg(long, value_name = "N")]
    rotary_dim: Option<usize>,
}

/// Rotates q and k of a safetensors file as a model's config.json asks for it, or writes cos and sin.
///
/// `rotate inspect --config config.json` shows what a config means; `rotate inspect --help` tells more.
#[derive(Parser)]
#[command(name = "rotate")]
pub struct Rotate {
    #[command(flatten)]
    model: Model,
    /// A safetensors file with `q`, `k` or both (f32, f16, bf16) and `positions` (i32, i64, u32), if there
    /// are any: [tokens] or [batch, seq], a batch of 1 for all sequences; for M-RoPE with 3 in front, or 4,
    /// of which the first is not used; without positions they count from 0.
    #[arg(long, required_unless_present = "cos_sin")]
    input: Option<PathBuf>,
    /// Where the result goes: the same names, types and shapes.
    #[arg(long)]
    output: PathBuf,
    /// Where to rotate: on the GPU where there is one, or always there, or on the CPU.
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// The tensors' dimensions; [tokens, heads, dim] is thd, [batch, seq, heads, dim] is bshd.
    #[arg(long, value_enum)]
    layout: Option<Order>,
    /// Rotate backwards.
    #[arg(long)]
    inverse: bool,
    /// Write `cos` and `sin` of positions 0 to N - 1, [1, 1, N, dim] in f32, instead.
    #[arg(long, value_name = "N", conflicts_with_all = ["input", "layout"])]
    cos_sin: Option<usize>,
}

/// Shows what a config.json means, as a table.
#[derive(Parser)]
#[command(name = "rotate inspect")]
pub struct Inspect {
    #[command(flatten)]
    model: Model,
    /// Also draw the angle per position of each pair, before and after scaling.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// One JSON object instead of the table.
    #[arg(long, conflicts_with = "svg")]
    json: bool,
    /// The frequencies of sequences of this length.
    #[arg(long, value_name = "N")]
    length: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    Auto,
    Cuda,
    Cpu,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Order {
    Thd,
    Bshd,
    Bhsd,
    Sbhd,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pairing {
    HalfSplit,
    Interleaved,
}

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let result = if arguments.get(1).is_some_and(|first| first == "inspect") {
        arguments.remove(1);
        parse::<Inspect>(arguments).and_then(|inspect| inspect::inspect(&inspect))
    } else {
        parse::<Rotate>(arguments).and_then(|rotate| match rotate.cos_sin {
            Some(rows) => table::write(&rotate, rows),
            None => rotate::rotate(&rotate),
        })
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error.to_string()));
            ExitCode::from(2)
        }
    }
}

/// Names out of files may hold anything.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Help goes to standard output and ends the program; what is wrong becomes one line.
fn parse<T: Parser>(arguments: Vec<OsString>) -> Result<T> {
    T::try_parse_from(arguments).map_err(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        let text = error.to_string();
        let what = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        what.split_whitespace().collect::<Vec<_>>().join(" ").into()
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn errors_are_one_line() {
        let text = super::one_line("a\r\nb\u{85}c\u{1b}[31m");
        assert!(!text.chars().any(char::is_control) && text.starts_with("a  b"), "{text:?}");
    }
}
