//! Every model type that transformers runs, held to what its class was seen to do (`tests/golden/model_types.py`).

#![cfg(feature = "config")]

use std::collections::BTreeMap;

use condensed_rope::config::{Config, LayerGroup, TRANSFORMERS_VERSION};
use condensed_rope::{Direction, Pairing};
use serde_json::Value;

const TYPES: &str = include_str!("../src/config/hf/model_types.json");

/// What a class was seen to do with some layers; ours and theirs alike.
fn ours(group: &LayerGroup) -> Value {
    let Some(rotary) = &group.rotary else { return Value::Null };
    let frequencies = rotary.schedule.frequencies();
    let inv_freq: Vec<f64> = frequencies.inv_freq().collect();
    serde_json::json!({
        "head_dim": rotary.head_dim,
        "rotary_offset": rotary.rotary_offset,
        "rotary_dim": rotary.rotary_dim,
        "pairing": if rotary.pairing == Pairing::HalfSplit { "half-split" } else { "interleaved" },
        "direction": if rotary.direction == Direction::Forward { "forward" } else { "inverse" },
        "factor": frequencies.factor(),
        "inv_freq": inv_freq,
        "axes": rotary.sections.map(|sections| {
            (0..sections.pairs()).map(|pair| sections.axis(pair).to_string()).collect::<String>()
        }),
    })
}

/// Why our answer for a layer is not what the class does; `None` where it is.
fn differs(theirs: &Value, ours: &Value) -> Option<String> {
    let rotates = theirs["pairing"].is_string();
    if rotates == ours.is_null() {
        return Some(format!("rotates: {rotates}"));
    }
    if !rotates {
        return None;
    }
    let inv_freq = ours["inv_freq"].as_array().expect("numbers");
    let number = |value: &Value| value.as_f64().expect("a number");
    // Pairs that never turn are in our range and were not seen to move.
    let turning = inv_freq.iter().take_while(|f| number(f) > 0.0).count();
    for key in ["head_dim", "rotary_offset", "rotary_dim", "pairing", "direction", "axes"] {
        if key == "rotary_dim" && turning < inv_freq.len() {
            continue;
        }
        if theirs[key] != ours[key] {
            return Some(format!("{key}: {} is not {}", ours[key], theirs[key]));
        }
    }
    let factor = number(&theirs["attention_factor"]);
    if (number(&ours["factor"]) - factor).abs() > 1e-5 {
        return Some(format!("factor: {} is not {factor}", ours["factor"]));
    }
    for (pair, theirs) in theirs["inv_freq"].as_object().expect("pairs") {
        let ours = number(&inv_freq[pair.parse::<usize>().expect("a pair")]);
        let theirs = number(theirs);
        // Of f32 angles, five digits at least of those that turn within the positions tried.
        if (ours - theirs).abs() > 2e-4 * theirs + 2e-9 {
            return Some(format!("pair {pair}: {ours} is not {theirs}"));
        }
    }
    None
}

/// Types that are not in the table, or whose files must say what the class has as a list.
const REFUSED: [&str; 8] = [
    "dots3_note",
    "dots3_note_text",
    "flint",
    "gradium_phonon_tts",
    "lara_mini",
    "mistral_large4",
    "mistral_large4_text",
    "pocket_tts",
];

#[test]
fn every_type_is_what_its_class_does_or_is_refused_by_name() {
    let json: Value = serde_json::from_str(TYPES).expect("JSON");
    assert_eq!(json["transformers"], TRANSFORMERS_VERSION);
    let (mut wrong, mut refused, mut right) = (Vec::new(), BTreeMap::new(), 0);
    for (name, found) in json["types"].as_object().expect("types") {
        let config = match Config::from_json(&found["config"].to_string()) {
            Ok(config) => config,
            Err(error) => {
                refused.insert(name.clone(), error.to_string());
                continue;
            }
        };
        let mut why = None;
        for group in found["groups"].as_array().expect("groups") {
            for index in group["indices"].as_array().expect("indices") {
                let index = index.as_u64().expect("an index") as usize;
                let given = config.layer(index).map_or(Value::Null, ours);
                why = why.or(differs(group, &given).map(|why| format!("layer {index}: {why}")));
            }
        }
        match why {
            Some(why) => wrong.push(format!("{name}: {why}")),
            None => right += 1,
        }
    }
    println!("{right} right, {} refused", refused.len());
    for (name, error) in &refused {
        println!("refused {name}: {error}");
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(refused.keys().collect::<Vec<_>>(), REFUSED);
    assert!(right > 300);
}

/// `docs/models.md` is what the classes were seen to do. With `CONDENSED_ROPE_UPDATE` set it is written anew.
#[test]
fn the_table_in_the_docs_is_of_the_same_data() {
    let json: Value = serde_json::from_str(TYPES).expect("JSON");
    let types = json["types"].as_object().expect("types");
    let rotating = |found: &Value| {
        found["groups"].as_array().is_some_and(|g| g.iter().any(|g| g["pairing"].is_string()))
    };
    let rows: Vec<_> = types.iter().filter(|(_, found)| rotating(found)).collect();
    let without: Vec<_> = types.iter().filter(|(_, found)| !rotating(found)).collect();
    let names = without.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>();
    let mut text = format!(
        "# Model types\n\nWhat {} model types of transformers {TRANSFORMERS_VERSION} do to q and k, seen by running \
         their classes with\nthe sizes that they have where a file is silent (`tests/golden/model_types.py`). \
         `config::Config` is held to it.\n\n\
         | type | layers | channels that rotate | pairing | axes |\n|---|---|---|---|---|\n",
        types.len()
    );
    for (name, found) in rows {
        let groups = found["groups"].as_array().expect("groups");
        let column = |cell: &dyn Fn(&Value) -> String| {
            groups.iter().map(cell).collect::<Vec<_>>().join("<br>")
        };
        let layers = column(&|group| {
            let name = group["layer_type"].as_str().unwrap_or("all");
            name.trim_end_matches("_attention").to_owned()
        });
        let channels = column(&|group| match group["rotary_offset"].as_u64() {
            None => "none".to_owned(),
            Some(first) => {
                let end = first + group["rotary_dim"].as_u64().unwrap_or(0);
                format!("{first}..{end} of {}", group["head_dim"])
            }
        });
        let pairing = column(&|group| {
            let pairing = group["pairing"].as_str().unwrap_or("");
            let inverse = group["direction"] == "inverse";
            format!("{pairing}{}", if inverse { ", inverse" } else { "" })
        });
        let axes = column(&|group| {
            let axes = group["axes"].as_str().unwrap_or("");
            let count = |axis: char| axes.chars().filter(|&a| a == axis).count().to_string();
            let counts = if axes.is_empty() { Vec::new() } else { vec!['0', '1', '2'] };
            let counts = counts.into_iter().map(count).collect::<Vec<_>>().join(" + ");
            match axes.get(..3) {
                Some("012") => format!("{counts} in turn"),
                Some("121") => format!("{counts}, height and width in turn first"),
                Some(_) => format!("{counts} in blocks"),
                None => String::new(),
            }
        });
        text += &format!("| `{name}` | {layers} | {channels} | {pairing} | {axes} |\n");
    }
    text += &format!("\n{} have no rotary embedding: {}.\n", without.len(), names.join(", "));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/models.md");
    if std::env::var_os("CONDENSED_ROPE_UPDATE").is_some() {
        std::fs::write(path, &text).expect("written");
    }
    assert!(include_str!("../docs/models.md") == text, "CONDENSED_ROPE_UPDATE=1 writes it anew");
    let readme = include_str!("../README.md");
    let count = format!("{} model types of transformers", types.len());
    assert!(readme.contains(&count), "{count}");
}

/// Which types normalise q and k, and how, as their own source and norms say (`tests/golden/qk_norms.py`).
#[test]
fn norms_are_what_classes_do() {
    use condensed_rope::config::{NormOrder, NormWeights};
    let seen: BTreeMap<String, Vec<Value>> =
        serde_json::from_str(include_str!("golden/qk_norms.json")).expect("JSON");
    let types: BTreeMap<String, Value> = serde_json::from_str(TYPES).expect("JSON");
    let (mut compared, mut wrong) = (0, Vec::new());
    for model_type in types.keys().chain(seen.keys()) {
        // Everything that a class may want, and the keys that turn norms on.
        let file = serde_json::json!({
            "model_type": model_type, "hidden_size": 1024, "num_attention_heads": 8, "head_dim": 128,
            "use_qk_norm": true, "qk_layernorm": true,
        });
        let Ok(config) = Config::from_json(&file.to_string()) else { continue };
        let theirs = seen.get(model_type).map(|norms| &norms[0]);
        let ours = config.qk_norm.map(|norm| {
            let weights = match norm.weights {
                NormWeights::Plain => "weight",
                NormWeights::UnitOffset => "1 + weight",
                _ => "other",
            };
            let order = if norm.order == NormOrder::BeforeRotation { "before" } else { "after" };
            (weights, if norm.is_per_head { "head" } else { "all heads" }, order, norm.eps)
        });
        let theirs = theirs.map(|norm| {
            let text = |key: &str| norm[key].as_str().expect("a string");
            let weights = if text("norm") == "rms" { text("weight") } else { "other" };
            let eps = norm["eps"].as_f64().or(ours.map(|ours| ours.3)).unwrap_or_default();
            (weights, text("over"), text("order"), eps)
        });
        compared += usize::from(theirs.is_some());
        if ours != theirs {
            wrong.push(format!("{model_type}: {ours:?} is not {theirs:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared >= 45, "{compared} types with norms");
}
