//! DeepSeek-V4's ropes are named `main` and `compress`, not by layer type, or written in one object of yet another
//! spelling. Here they become what other configs say: a rope for each layer type.

use serde_json::{Map, Value, json};

use crate::config::error::{ConfigError, Result};

const SLIDING: &str = "sliding_attention";
const SPARSE: &str = "compressed_sparse_attention";
const HEAVY: &str = "heavily_compressed_attention";

/// The config with `layer_types`, ropes by layer type, and the part of the head as MLA's keys have it.
pub(super) fn canonical(config: &Map<String, Value>) -> Result<Map<String, Value>> {
    let mut config = config.clone();
    // Leftovers of the other spelling beside the two ropes change nothing; alone they are the ropes.
    let mut take = |key: &str, default: Value| {
        config.remove(key).filter(|value| !value.is_null()).unwrap_or(default)
    };
    let theta = take("rope_theta", json!(10_000.0));
    let compress_theta = take("compress_rope_theta", json!(160_000.0));
    let head_dim = take("head_dim", json!(512));
    let given = [take("rope_parameters", Value::Null), take("rope_scaling", Value::Null)];
    let partial = take("partial_rotary_factor", json!(64.0 / 512.0));
    let rotary_dim = take("qk_rope_head_dim", Value::Null);
    let ratios = take("compress_ratios", Value::Null);
    let layers = config.get("num_hidden_layers").and_then(Value::as_u64);

    let wrong = |key: &str, expected, given: &Value| ConfigError::Value {
        key: key.to_owned(),
        expected,
        given: given.to_string(),
    };
    let head = head_dim.as_u64().filter(|&n| n <= 1 << 20);
    let head = head.ok_or_else(|| wrong("head_dim", "a whole number", &head_dim))?;
    let rotary = match (&rotary_dim, partial.as_f64()) {
        (Value::Null, Some(part)) if (0.0..=1.0).contains(&part) => (head as f64 * part) as u64,
        (Value::Null, _) => return Err(wrong("partial_rotary_factor", "0 to 1", &partial)),
        (given, _) => given
            .as_u64()
            .filter(|&n| n <= head)
            .ok_or_else(|| wrong("qk_rope_head_dim", "at most head_dim", given))?,
    };
    config.insert("qk_rope_head_dim".to_owned(), json!(rotary));
    config.insert("qk_nope_head_dim".to_owned(), json!(head - rotary));

    if config.get("layer_types").is_none_or(Value::is_null) {
        let types = match &ratios {
            Value::Array(ratios) => ratios.iter().map(by_ratio).collect::<Result<Vec<_>>>()?,
            _ => by_default(layers.unwrap_or(0).min(1 << 16) as usize),
        };
        let shown = layers.map_or(types.len(), |layers| types.len().min(layers as usize));
        config.insert("layer_types".to_owned(), json!(types[..shown]));
    }

    let object = given.iter().find_map(Value::as_object);
    let nested = |name: &str| object.and_then(|object| object.get(name)).filter(|v| v.is_object());
    let (main, compress) = match (nested("main"), nested("compress")) {
        (Some(main), Some(compress)) => (main.clone(), compress.clone()),
        _ => {
            let mut compress = object.cloned().unwrap_or_default();
            compress.insert("rope_theta".to_owned(), compress_theta);
            let kind = compress.get("rope_type").or(compress.get("type"));
            // Its cos and sin are not multiplied.
            if kind.and_then(Value::as_str) == Some("yarn") {
                compress.entry("attention_factor").or_insert(json!(1.0));
            }
            (json!({ "rope_theta": theta }), Value::Object(compress))
        }
    };
    let ropes = json!({ SLIDING: main, SPARSE: compress, HEAVY: compress });
    config.insert("rope_parameters".to_owned(), ropes);
    Ok(config)
}

fn by_ratio(ratio: &Value) -> Result<&'static str> {
    match ratio.as_u64() {
        Some(0) => Ok(SLIDING),
        Some(4) => Ok(SPARSE),
        Some(128) => Ok(HEAVY),
        _ => Err(ConfigError::Value {
            key: "compress_ratios".to_owned(),
            expected: "0, 4 or 128 a layer",
            given: ratio.to_string(),
        }),
    }
}

/// Two layers heavily compressed, then both kinds in turn.
fn by_default(layers: usize) -> Vec<&'static str> {
    (0..layers).map(|layer| if layer >= 2 && layer % 2 == 1 { SPARSE } else { HEAVY }).collect()
}
