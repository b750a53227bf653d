//! Texts to tokens: `tokenizer.json`, or what a GGUF file holds of its tokenizer.

use std::fs::File;
use std::path::Path;

use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use candle_core::{Error, Result};
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

pub fn tokenizer(model: &Path) -> Result<Tokenizer> {
    if model.is_dir() {
        return Tokenizer::from_file(model.join("tokenizer.json")).map_err(failed);
    }
    let content = Content::read(&mut File::open(model)?)?;
    let mut tokenizer = Tokenizer::from_gguf(&content)?;
    let kind = content.metadata.get("tokenizer.ggml.pre").and_then(|kind| kind.to_string().ok());
    if kind.is_some_and(|kind| kind == "smollm") {
        // candle takes GPT-2's rule, with a space in front; this one splits digits, and has none.
        let parts = vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()];
        tokenizer.with_pre_tokenizer(Some(Sequence::new(parts)));
    }
    Ok(tokenizer)
}

pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    Ok(tokenizer.encode(text, false).map_err(failed)?.get_ids().to_vec())
}

fn failed(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::msg(error.to_string())
}
