//! The example's model against transformers' Llama, Qwen 3 and Mistral, for tiny random checkpoints
//! (`tests/parity/make.py`): logits, greedy tokens, and decoding by steps.

#[macro_use]
mod on_devices;
#[allow(dead_code)]
#[path = "../examples/llama/model.rs"]
mod model;
#[allow(dead_code)]
#[path = "../examples/llama/weights.rs"]
mod weights;

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use condensed_rope_candle::RotaryEmbedding;
use model::{Model, Rotation, likeliest};
use serde_json::Value;
use weights::Weights;

const TENSORS: &[u8] = include_bytes!("parity/parity.safetensors");
const CASES: &str = include_str!("parity/parity.json");

struct Case {
    name: String,
    config: String,
    tensors: HashMap<String, Tensor>,
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    logits: Tensor,
    bf16: Tensor,
}

fn numbers(value: &Value) -> Vec<u32> {
    let list = value.as_array().expect("a list").iter();
    list.map(|n| n.as_u64().expect("a number") as u32).collect()
}

fn cases(device: &Device) -> Result<Vec<Case>> {
    let all = candle_core::safetensors::load_buffer(TENSORS, device)?;
    let json: Value = serde_json::from_str(CASES).expect("JSON");
    let cases = json["cases"].as_array().expect("cases").iter().enumerate();
    Ok(cases
        .map(|(i, case)| {
            let prefix = format!("{}.", case["weights"].as_str().expect("a name"));
            let own = |(name, tensor): (&String, &Tensor)| {
                Some((name.strip_prefix(&prefix)?.to_owned(), tensor.clone()))
            };
            Case {
                name: format!("{prefix}{}", case["config"]["rope_parameters"]),
                config: case["config"].to_string(),
                tensors: all.iter().filter_map(own).collect(),
                prompt: numbers(&json["prompt"]),
                greedy: numbers(&case["greedy"]),
                logits: all[&format!("case{i}.logits")].clone(),
                bf16: all[&format!("case{i}.bf16")].clone(),
            }
        })
        .collect())
}

impl Case {
    fn model(&self, dtype: DType, device: &Device) -> Result<Model> {
        self.model_by(Rotation::Fused, dtype, device)
    }

    fn model_by(
        &self,
        rotation: fn(RotaryEmbedding) -> Rotation,
        dtype: DType,
        device: &Device,
    ) -> Result<Model> {
        let weights = Weights::of_tensors(&self.config, self.tensors.clone(), dtype, device)?;
        let rotary = RotaryEmbedding::from_json(&self.config, None, device)?;
        Model::new(&weights, rotation(rotary), self.prompt.len() + self.greedy.len())
    }
}

/// The largest difference, over the range of what is expected.
fn apart(ours: &Tensor, theirs: &Tensor) -> Result<f32> {
    let range =
        (theirs.max_all()?.to_scalar::<f32>()? - theirs.min_all()?.to_scalar::<f32>()?).abs();
    Ok((ours - theirs)?.abs()?.max_all()?.to_scalar::<f32>()? / range)
}

fn logits_are_transformers_own(device: &Device) -> Result<()> {
    for case in cases(device)? {
        for rotation in [Rotation::Fused, Rotation::Ours as fn(RotaryEmbedding) -> Rotation] {
            let exact = case.model_by(rotation, DType::F32, device)?.forward(&case.prompt)?;
            let off = apart(&exact, &case.logits)?;
            assert!(off < 2e-4, "{}: {off} of the range in f32", case.name);
        }
        // Both round to 8 bits at every step, in ways of their own.
        let half = case.model(DType::BF16, device)?.forward(&case.prompt)?;
        let off = apart(&half, &case.bf16)?;
        assert!(off < 0.06, "{}: {off} of the range in bf16", case.name);
    }
    Ok(())
}

fn greedy_tokens_are_transformers_own(device: &Device) -> Result<()> {
    for case in cases(device)? {
        let mut model = case.model(DType::F32, device)?;
        let mut token = likeliest(&model.prefill(&case.prompt)?)?;
        let mut ours = vec![token];
        while ours.len() < case.greedy.len() {
            token = likeliest(&model.forward(&[token])?)?;
            ours.push(token);
        }
        assert_eq!(ours, case.greedy, "{}", case.name);
    }
    Ok(())
}

/// Token by token and all at once.
fn steps_are_a_prefill(device: &Device) -> Result<()> {
    for case in cases(device)? {
        let mut model = case.model(DType::F32, device)?;
        let rows = case.prompt.iter().map(|token| model.forward(&[*token]));
        let steps = Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?;
        model.clear();
        let whole = model.forward(&case.prompt)?;
        let off = apart(&steps, &whole)?;
        assert!(off < 2e-5, "{}: {off}", case.name);
        let error = model.forward(&[0; 1000]).expect_err("no room");
        assert!(error.to_string().contains("given more"), "{error}");
    }
    Ok(())
}

/// The one switch: a plain config and a ratio are transformers' linear scaling of that factor.
fn a_condense_ratio_is_linear_scaling(device: &Device) -> Result<()> {
    let cases = cases(device)?;
    let plain = &cases[0];
    for (ratio, linear) in [(4.0, &cases[1]), (8.0, &cases[2])] {
        let weights =
            Weights::of_tensors(&plain.config, plain.tensors.clone(), DType::F32, device)?;
        let rotary = RotaryEmbedding::from_json(&plain.config, Some(ratio), device)?;
        let mut model = Model::new(&weights, Rotation::Fused(rotary), plain.prompt.len())?;
        let off = apart(&model.forward(&plain.prompt)?, &linear.logits)?;
        assert!(off < 2e-4, "{ratio}: {off}");
        assert!(RotaryEmbedding::from_json(&linear.config, Some(ratio), device).is_err());
    }
    Ok(())
}

on_devices!(
    logits_are_transformers_own,
    greedy_tokens_are_transformers_own,
    steps_are_a_prefill,
    a_condense_ratio_is_linear_scaling,
);
