use std::fs;
use std::path::PathBuf;

use candle_core::{D, Result, Tensor, bail};
use candle_nn::ops::log_softmax;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::{Source, name, text};

/// How well a text is foretold at each position, window by window.
#[derive(Args)]
pub struct Perplexity {
    #[command(flatten)]
    source: Source,
    /// A text file.
    #[arg(long)]
    text: PathBuf,
    /// Tokens of a window: the longest context that is looked at.
    #[arg(long, default_value_t = 32768)]
    window: usize,
    /// Windows of the text, at most; each starts where the one before ended.
    #[arg(long, default_value_t = 1)]
    windows: usize,
    /// Positions that are shown together.
    #[arg(long, default_value_t = 2048)]
    bucket: usize,
    /// Tokens of a forward pass.
    #[arg(long, default_value_t = 512)]
    chunk: usize,
    /// Adds a line of JSON to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Perplexity {
    pub fn run(&self) -> Result<()> {
        let Self { window, windows, bucket, chunk, .. } = *self;
        if [window, windows, bucket, chunk].contains(&0) {
            bail!("--window, --windows, --bucket and --chunk must be above 0");
        }
        let device = self.source.device()?;
        let tokenizer = text::tokenizer(&self.source.model)?;
        let tokens = text::encode(&tokenizer, &fs::read_to_string(&self.text)?)?;
        if tokens.len() <= window {
            bail!("the text has {} tokens: --window must be below", tokens.len());
        }
        let windows = windows.min((tokens.len() - 1) / window);
        let mut model = self.source.load(window, &device)?;
        let bar = ProgressBar::new((windows * window) as u64);
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} tokens, {eta} left");
        bar.set_style(style.map_err(candle_core::Error::wrap)?);

        // Sums of -ln p, and of tokens.
        let mut sums = vec![(0.0f64, 0usize); window.div_ceil(bucket)];
        for first in (0..windows).map(|n| n * window) {
            model.clear();
            for start in (0..window).step_by(chunk) {
                let end = (start + chunk).min(window);
                let given = &tokens[first + start..first + end];
                let next = Tensor::new(&tokens[first + start + 1..first + end + 1], &device)?;
                let logits = log_softmax(&model.forward(given)?, D::Minus1)?;
                let chosen = logits.gather(&next.unsqueeze(1)?, 1)?.squeeze(1)?;
                for (i, log_p) in chosen.to_vec1::<f32>()?.into_iter().enumerate() {
                    let (sum, count) = &mut sums[(start + i) / bucket];
                    *sum -= f64::from(log_p);
                    *count += 1;
                }
                bar.inc((end - start) as u64);
            }
        }
        bar.finish_and_clear();
        self.show(&sums, model.sizes.context, tokens.len())
    }

    fn show(&self, sums: &[(f64, usize)], trained: usize, tokens: usize) -> Result<()> {
        let perplexity = |&(sum, count): &(f64, usize)| (sum / count as f64).exp();
        let ratio = self.source.condense_ratio.or(self.source.ntk).unwrap_or(1.0);
        let kind = if self.source.ntk.is_some() { "ntk" } else { "condensed" };
        println!(
            "{} of {tokens} tokens, trained on {trained} positions, {kind} {ratio}",
            name(&self.text)
        );
        for (i, sum) in sums.iter().enumerate() {
            let end = ((i + 1) * self.bucket).min(self.window);
            println!("{:>7} ..{end:>7}  {:>12.3}", i * self.bucket, perplexity(sum));
        }
        let Some(path) = &self.json else { return Ok(()) };
        let line = json!({
            "model": name(&self.source.model), "text": name(&self.text), "kind": kind,
            "ratio": ratio, "trained": trained, "bucket": self.bucket,
            "tokens": sums.iter().map(|(_, count)| count).sum::<usize>(),
            "perplexity": sums.iter().map(perplexity).collect::<Vec<_>>(),
        });
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
        std::io::Write::write_all(&mut file, format!("{line}\n").as_bytes())?;
        Ok(())
    }
}
