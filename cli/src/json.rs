//! What a config means, for programs: one JSON object.

use condensed_rope::config::{Config, LayerGroup, TRANSFORMERS_VERSION};
use condensed_rope::{Direction, Pairing, RopeScaling};
use serde_json::{Value, json};

/// Every key is always there, null where it says nothing. `length` is the one that frequencies are of.
pub fn object(config: &Config, length: Option<usize>) -> Value {
    json!({
        "format": 1,
        "model_type": config.model_type,
        "table": format!("transformers {TRANSFORMERS_VERSION}"),
        "num_layers": config.num_layers,
        "length": length,
        "groups": config.groups.iter().map(group).collect::<Vec<_>>(),
    })
}

fn group(group: &LayerGroup) -> Value {
    let rotary = group.rotary.as_ref();
    let schedule = rotary.map(|rotary| &rotary.schedule);
    let frequencies = schedule.map(|schedule| schedule.frequencies());
    json!({
        "layer_types": group.layer_types,
        "indices": group.indices,
        "rotates": rotary.is_some(),
        "head_dim": rotary.map(|rotary| rotary.head_dim),
        "rotary_offset": rotary.map(|rotary| rotary.rotary_offset),
        "rotary_dim": rotary.map(|rotary| rotary.rotary_dim),
        "pairing": rotary.map(|rotary| match rotary.pairing {
            Pairing::HalfSplit => "half-split",
            _ => "interleaved",
        }),
        "direction": rotary.map(|rotary| match rotary.direction {
            Direction::Forward => "forward",
            Direction::Inverse => "inverse",
        }),
        "sections": rotary.and_then(|rotary| rotary.sections).map(|sections| json!({
            "sizes": sections.sizes(),
            "order": sections.order().name(),
        })),
        "attention_factor": frequencies.map(|frequencies| f64::from(frequencies.factor())),
        "base": schedule.map(|schedule| schedule.base()),
        "ratio": schedule.map(|schedule| schedule.ratio()),
        "scaling": schedule.map(|schedule| scaling(schedule.scaling())),
        "changes_from": schedule.and_then(|schedule| changes_from(schedule.scaling())),
        "inv_freq": frequencies.map(|frequencies| frequencies.inv_freq().collect::<Vec<_>>()),
    })
}

/// The first length of other frequencies.
pub fn changes_from(scaling: &RopeScaling) -> Option<usize> {
    let last = match scaling {
        RopeScaling::Dynamic(dynamic) => dynamic.max_position_embeddings,
        RopeScaling::LongRope(longrope) => longrope.original_max_position_embeddings,
        _ => return None,
    };
    Some(last.saturating_add(1))
}

/// By transformers' names, defaults filled in.
fn scaling(scaling: &RopeScaling) -> Value {
    let mut value = match scaling {
        RopeScaling::Linear(linear) => json!({ "factor": linear.factor }),
        RopeScaling::Ntk(ntk) => json!({ "factor": ntk.factor }),
        RopeScaling::Dynamic(dynamic) => json!({
            "factor": dynamic.factor,
            "max_position_embeddings": dynamic.max_position_embeddings,
        }),
        RopeScaling::Yarn(yarn) => json!({
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_position_embeddings,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            "truncate": yarn.truncate,
        }),
        RopeScaling::LongRope(longrope) => json!({
            "original_max_position_embeddings": longrope.original_max_position_embeddings,
            "short_factor": longrope.short_factor,
            "long_factor": longrope.long_factor,
        }),
        RopeScaling::Llama3(llama3) => json!({
            "factor": llama3.factor,
            "original_max_position_embeddings": llama3.original_max_position_embeddings,
            "low_freq_factor": llama3.low_freq_factor,
            "high_freq_factor": llama3.high_freq_factor,
        }),
        RopeScaling::Proportional(proportional) => json!({
            "factor": proportional.factor,
            "partial_rotary_factor": proportional.partial_rotary_factor,
        }),
        _ => json!({}),
    };
    value["name"] = scaling.name().into();
    value
}
