//! The drop-in: a config and one ratio.

use candle_core::{DType, Device, Result, Tensor};
use condensed_rope_candle::{DimOrder, Frequencies, Pairing, Positions, Rope, RotaryEmbedding};

const LLAMA: &str = r#"{"model_type": "llama", "hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 2,
    "max_position_embeddings": 2048, "rope_theta": 10000.0"#;

fn rotated(rotary: &RotaryEmbedding, layer: usize, start: usize) -> Result<Vec<f32>> {
    let q = Tensor::arange(0f32, (4 * 3 * 64) as f32, &Device::Cpu)?.reshape((1, 4, 3, 64))?;
    rotary.rotate(layer, &q, &q, start)?.0.flatten_all()?.to_vec1()
}

#[test]
fn one_ratio_condenses_a_model() -> Result<()> {
    let text = format!("{LLAMA}}}");
    let rotary = RotaryEmbedding::from_json(&text, Some(8.0), &Device::Cpu)?;
    let frequencies = Frequencies::new(64, 10_000.0).and_then(|f| f.condensed(8.0));
    let rope = Rope::new(&Device::Cpu, &frequencies.expect("valid"), Pairing::HalfSplit)?;
    let q = Tensor::arange(0f32, (4 * 3 * 64) as f32, &Device::Cpu)?.reshape((1, 4, 3, 64))?;
    let by_hand = rope.rotate_one(DimOrder::Bhsd, &q, &Positions::consecutive(16_000))?;
    assert_eq!(rotated(&rotary, 1, 16_000)?, by_hand.flatten_all()?.to_vec1::<f32>()?);
    let plain = RotaryEmbedding::from_json(&text, None, &Device::Cpu)?;
    assert_eq!(rotated(&rotary, 0, 8000)?[..64], rotated(&plain, 0, 1000)?[..64]);
    assert!(rotary.layer(2).is_err());
    let (cos, sin) = rotary.cos_sin(0, 7, DType::BF16)?;
    assert_eq!((cos.dims(), sin.dims()), (&[7, 32][..], &[7, 32][..]));
    Ok(())
}

#[test]
fn a_stretched_config_refuses_a_second_stretch() {
    let text = format!(r#"{LLAMA}, "rope_scaling": {{"type": "linear", "factor": 4.0}}}}"#);
    assert!(RotaryEmbedding::from_json(&text, None, &Device::Cpu).is_ok());
    let error = RotaryEmbedding::from_json(&text, Some(2.0), &Device::Cpu).expect_err("refused");
    assert!(error.to_string().contains("twice"), "{error}");
    let error = RotaryEmbedding::from_json("{}", None, &Device::Cpu).expect_err("refused");
    assert!(error.to_string().contains("model_type"), "{error}");
}

#[test]
fn layers_that_do_not_rotate_come_back_as_they_are() -> Result<()> {
    let text = LLAMA.replace("llama", "smollm3").replace("_layers\": 2", "_layers\": 4") + "}";
    let rotary = RotaryEmbedding::from_json(&text, None, &Device::Cpu)?;
    assert!(rotary.layer(3)?.is_none() && rotary.layer(2)?.is_some());
    let expected: Vec<f32> = (0..4 * 3 * 64).map(|i| i as f32).collect();
    assert_eq!(rotated(&rotary, 3, 500)?, expected);
    assert!(rotated(&rotary, 2, 500)? != expected);
    assert!(rotary.cos_sin(3, 5, DType::F32).is_err());
    Ok(())
}

#[test]
fn a_gguf_file_says_it_as_well() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/gguf/llama_3_1_8b.gguf");
    let rotary = RotaryEmbedding::from_gguf(path, None, &Device::Cpu)?;
    assert_eq!(rotary.config().num_layers, Some(32));
    assert_eq!(rotary.layer(31)?.expect("rotates").rotary_dim(), 128);
    assert!(RotaryEmbedding::from_gguf(path, Some(2.0), &Device::Cpu).is_err());
    assert!(RotaryEmbedding::from_gguf("nowhere.gguf", None, &Device::Cpu).is_err());
    Ok(())
}

#[test]
fn longer_texts_have_frequencies_of_their_own() -> Result<()> {
    let list = |value: f64| format!("[{}]", vec![value.to_string(); 32].join(", "));
    let text = format!(
        r#"{LLAMA}, "original_max_position_embeddings": 2048, "rope_scaling": {{"type": "longrope",
        "short_factor": {}, "long_factor": {}}}}}"#,
        list(1.0),
        list(4.0)
    );
    let mut rotary = RotaryEmbedding::from_json(&text, None, &Device::Cpu)?;
    let short = rotated(&rotary, 0, 1000)?;
    assert!(!rotary.set_length(2048)?);
    assert!(rotary.set_length(2049)?);
    let long = rotated(&rotary, 0, 1000)?;
    assert!(short != long && rotary.set_length(100)?);
    assert_eq!(rotated(&rotary, 0, 1000)?, short);
    Ok(())
}
