use std::time::Instant;

use candle_core::{Device, Result};
use clap::Args;

use crate::Source;
use crate::model::{Model, likeliest};

/// Prefill and decode, turn about, with this crate's step, fused with norms and appends and apart from them, and with
/// candle-nn's.
#[derive(Args)]
pub struct Speed {
    #[command(flatten)]
    source: Source,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 2048)]
    prompt: usize,
    /// Tokens that are made after it.
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Rounds, of which the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

impl Speed {
    pub fn run(&self) -> Result<()> {
        let device = self.source.device()?;
        let capacity = self.prompt + self.tokens;
        let mut models = [
            ("fused", self.source.load(capacity, &device)?),
            ("rotation alone", self.source.load_apart(capacity, &device)?),
            ("candle-nn", self.source.load_with_tables(capacity, &device)?),
        ];
        let prompt: Vec<u32> = (0..self.prompt as u32).map(|i| 5 + i * 7919 % 1000).collect();
        let mut seconds = [const { Vec::new() }; 3];
        for round in 0..=self.rounds {
            for ((_, model), seconds) in models.iter_mut().zip(&mut seconds) {
                let both = self.once(model, &prompt, &device)?;
                // The first round warms up.
                if round > 0 {
                    seconds.push(both);
                }
            }
        }
        println!("{:16}{:>18}{:>18}", "rotary step", "prefill tokens/s", "decode tokens/s");
        for ((name, _), seconds) in models.iter().zip(&seconds) {
            let median = |pick: fn(&(f64, f64)) -> f64| {
                let mut all: Vec<f64> = seconds.iter().map(pick).collect();
                all.sort_by(f64::total_cmp);
                all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
            };
            let (prefill, decode) = (median(|s| s.0), median(|s| s.1));
            let per_second = |tokens: usize, seconds: f64| tokens as f64 / seconds;
            println!(
                "{name:16}{:>18.0}{:>18.1}",
                per_second(self.prompt, prefill),
                per_second(self.tokens, decode)
            );
        }
        Ok(())
    }

    /// Seconds of the prompt, and of the tokens after it.
    fn once(&self, model: &mut Model, prompt: &[u32], device: &Device) -> Result<(f64, f64)> {
        model.clear();
        device.synchronize()?;
        let start = Instant::now();
        let mut token = likeliest(&model.forward(prompt)?)?;
        let prefill = start.elapsed().as_secs_f64();
        let start = Instant::now();
        for _ in 0..self.tokens {
            token = likeliest(&model.forward(&[token])?)?;
        }
        Ok((prefill, start.elapsed().as_secs_f64()))
    }
}
