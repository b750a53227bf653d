//! A Llama-family model that reads longer contexts by one switch, `--condense-ratio`.
//!
//!     cargo run --release -p condensed-rope-candle --example llama -- generate --model model.gguf --prompt "Once"
//!     cargo run --release -p condensed-rope-candle --example llama -- perplexity --model model.gguf --text book.txt
//!
//! A model is a GGUF file, or a folder with `config.json`, `tokenizer.json` and `*.safetensors`.

mod model;
mod perplexity;
mod speed;
mod text;
mod weights;

use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use condensed_rope_candle::{
    FrequencySchedule, Pairing, RopeScaling, RotaryEmbedding, config::Config,
};

use model::{Model, Rotation, likeliest};
use weights::Weights;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continues a prompt, greedily.
    Generate(Generate),
    /// Perplexity of a text, by position.
    Perplexity(perplexity::Perplexity),
    /// Tokens a second of prefill and decode, with this crate's step fused and apart, and with candle-nn's.
    Speed(speed::Speed),
}

/// A model, and how far its positions are stretched.
#[derive(Args, Clone)]
struct Source {
    /// A GGUF file, or a folder with config.json and *.safetensors.
    #[arg(long)]
    model: PathBuf,
    /// Divide positions by this: FastChat's replace_llama_with_condense(ratio).
    #[arg(long, value_name = "R", conflicts_with = "ntk")]
    condense_ratio: Option<f64>,
    /// Stretch the base so that the slowest pair is divided by this (NTK-aware), to compare with.
    #[arg(long, value_name = "R")]
    ntk: Option<f64>,
    /// Element type of weights and activations.
    #[arg(long, value_enum, default_value_t = Type::F32)]
    dtype: Type,
    /// Work on the CPU even where there is a GPU.
    #[arg(long)]
    cpu: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    F32,
    F16,
    Bf16,
}

#[derive(Args)]
struct Generate {
    #[command(flatten)]
    source: Source,
    #[arg(long, required_unless_present = "prompt_file")]
    prompt: Option<String>,
    /// A file with the prompt.
    #[arg(long, conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// Tokens of the prompt that are kept, at most: its last ones.
    #[arg(long, default_value_t = usize::MAX)]
    keep: usize,
    /// Tokens to make, at most.
    #[arg(long, default_value_t = 100)]
    tokens: usize,
}

impl Source {
    fn device(&self) -> Result<Device> {
        if self.cpu || !cfg!(feature = "cuda") {
            Ok(Device::Cpu)
        } else {
            Device::cuda_if_available(0)
        }
    }

    fn dtype(&self) -> DType {
        match self.dtype {
            Type::F32 => DType::F32,
            Type::F16 => DType::F16,
            Type::Bf16 => DType::BF16,
        }
    }

    /// The model's rotary embedding, stretched as asked for.
    fn rotary(&self, device: &Device) -> Result<RotaryEmbedding> {
        let config = if self.model.is_dir() {
            Config::from_json(&std::fs::read_to_string(self.model.join("config.json"))?)
        } else {
            Config::from_gguf(std::fs::File::open(&self.model)?)
        };
        let Some(ratio) = self.ntk else {
            return RotaryEmbedding::new(config, self.condense_ratio, device);
        };
        let mut config = config.map_err(candle_core::Error::wrap)?;
        for rotary in config.groups.iter_mut().filter_map(|group| group.rotary.as_mut()) {
            if *rotary.schedule.scaling() != RopeScaling::Default {
                bail!("the config is stretched already");
            }
            let scaling = RopeScaling::Ntk(condensed_rope_candle::Ntk::new(ratio));
            let schedule =
                FrequencySchedule::new(rotary.rotary_dim, rotary.schedule.base(), scaling);
            rotary.schedule = schedule.map_err(candle_core::Error::wrap)?;
        }
        RotaryEmbedding::new(Ok(config), None, device)
    }

    /// With a cache for `capacity` tokens.
    fn load(&self, capacity: usize, device: &Device) -> Result<Model> {
        let weights = Weights::open(&self.model, self.dtype(), device)?;
        Model::new(&weights, Rotation::Fused(self.rotary(device)?), capacity)
    }

    /// The same with norms and appends apart from the rotation.
    fn load_apart(&self, capacity: usize, device: &Device) -> Result<Model> {
        let weights = Weights::open(&self.model, self.dtype(), device)?;
        Model::new(&weights, Rotation::Ours(self.rotary(device)?), capacity)
    }

    /// The same, rotated by candle-nn from tables of all positions.
    fn load_with_tables(&self, capacity: usize, device: &Device) -> Result<Model> {
        let weights = Weights::open(&self.model, self.dtype(), device)?;
        let rotary = self.rotary(device)?;
        let (cos, sin) = rotary.cos_sin(0, capacity, self.dtype())?;
        let pairing = rotary.config().rotary(None).map_err(candle_core::Error::wrap)?.pairing;
        let interleaved = pairing == Pairing::Interleaved;
        Model::new(&weights, Rotation::CandleNn { cos, sin, interleaved }, capacity)
    }
}

impl Generate {
    fn run(&self) -> Result<()> {
        let device = self.source.device()?;
        let tokenizer = text::tokenizer(&self.source.model)?;
        let text = match (&self.prompt, &self.prompt_file) {
            (Some(prompt), _) => prompt.clone(),
            (None, Some(file)) => std::fs::read_to_string(file)?,
            (None, None) => String::new(),
        };
        let mut prompt = text::encode(&tokenizer, &text)?;
        prompt.drain(..prompt.len().saturating_sub(self.keep));
        if prompt.is_empty() {
            bail!("the prompt must have a token at least");
        }
        let mut model = self.source.load(prompt.len() + self.tokens, &device)?;
        let mut out = std::io::stdout();
        print!("{}", tokenizer.decode(&prompt, true).unwrap_or_default());
        let mut stream = tokenizer.decode_stream(true);
        let mut logits = model.prefill(&prompt)?;
        for _ in 0..self.tokens {
            let token = likeliest(&logits)?;
            if model.sizes.end_of_text.contains(&token) {
                break;
            }
            let piece =
                stream.step(token).map_err(|error| candle_core::Error::msg(error.to_string()))?;
            print!("{}", piece.unwrap_or_default());
            out.flush()?;
            logits = model.forward(&[token])?;
        }
        println!();
        Ok(())
    }
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn main() -> std::process::ExitCode {
    let result = match Cli::parse().command {
        Command::Generate(generate) => generate.run(),
        Command::Perplexity(perplexity) => perplexity.run(),
        Command::Speed(speed) => speed.run(),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.to_string().lines().next().unwrap_or_default());
            std::process::ExitCode::from(2)
        }
    }
}
