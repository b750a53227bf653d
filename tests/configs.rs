//! Configs of every class that `config::Config` reads or refuses: which layers rotate, by what, and that no key about
//! ropes is passed over. What is right is what
//! transformers 5.24.0's classes do.

#![cfg(feature = "config")]

use condensed_rope::config::{Config, ConfigError, Explicit, LayerGroup, Rotary};
use condensed_rope::{Direction, Frequencies, Pairing, RopeScaling, SectionOrder};
use testkit::conformance::models::rotaries;

const SIZES: &str = r#""hidden_size": 4096, "num_attention_heads": 32"#;

fn text(model_type: &str, rest: &str) -> String {
    format!(r#"{{"model_type": "{model_type}", {SIZES}{rest}}}"#)
}

fn read(model_type: &str, rest: &str) -> Config {
    let text = text(model_type, rest);
    Config::from_json(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(model_type: &str, rest: &str) -> ConfigError {
    let text = text(model_type, rest);
    Config::from_json(&text).expect_err(&text)
}

/// Types, indices, and whether they rotate.
type Group<'a> = (Vec<&'a str>, Option<Vec<usize>>, bool);

fn groups(config: &Config) -> Vec<Group<'_>> {
    fn types(group: &LayerGroup) -> Vec<&str> {
        group.layer_types.iter().map(String::as_str).collect()
    }
    let groups = config.groups.iter();
    groups.map(|group| (types(group), group.indices.clone(), group.rotary.is_some())).collect()
}

fn only(config: &Config) -> &Rotary {
    config.rotary(None).expect("all layers that rotate do alike")
}

const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

#[test]
fn layers_that_do_not_rotate_are_told_apart() {
    // SmolLM3: every fourth, or by a list.
    let config = read("smollm3", r#", "num_hidden_layers": 8"#);
    let (rotating, other) = (vec![0, 1, 2, 4, 5, 6], vec![3, 7]);
    assert_eq!(groups(&config), [(vec![], Some(rotating), true), (vec![], Some(other), false)]);
    assert_eq!(only(&config).schedule.base(), 2e6);
    assert!(config.layer(6).is_some_and(|group| group.rotary.is_some()));
    assert!(config.layer(7).is_some_and(|group| group.rotary.is_none()));
    assert!(config.layer(8).is_none());
    let listed = r#", "num_hidden_layers": 3, "no_rope_layers": [0, 1, 1]"#;
    let config = read("smollm3", listed);
    assert_eq!(groups(&config), [(vec![], Some(vec![0]), false), (vec![], Some(vec![1, 2]), true)]);
    let error = refused("smollm3", r#", "num_hidden_layers": 3, "no_rope_layers": [1]"#);
    assert!(error.to_string().contains("no_rope_layers"), "{error}");
    // Types without a number of layers, and a list that is too short for them.
    let types = r#", "layer_types": ["full_attention", "full_attention"], "no_rope_layers": [0]"#;
    assert_eq!(groups(&read("smollm3", types)).len(), 2);

    // Full layers of Cohere's second generation; the pattern is the class's, the file's, or a list.
    for (rest, full) in [
        (r#", "num_hidden_layers": 5"#, vec![3]),
        (r#", "num_hidden_layers": 5, "sliding_window_pattern": 2"#, vec![1, 3]),
        (r#", "layer_types": ["full_attention", "sliding_attention"]"#, vec![0]),
    ] {
        let config = read("cohere2", rest);
        let of = |name| config.groups.iter().find(|group| group.layer_types == [name]);
        let (full_layers, sliding) = (of(FULL).expect("full"), of(SLIDING).expect("sliding"));
        assert_eq!(full_layers.indices, Some(full));
        assert!(full_layers.rotary.is_none() && sliding.rotary.is_some());
        assert_eq!(
            config.rotary(Some(FULL)),
            Err(ConfigError::NoRotation { layer_type: Some(FULL.to_owned()) })
        );
        assert_eq!(config.rotary(Some(SLIDING)), config.rotary(None));
    }
    // EXAONE 4 without sliding layers rotates everywhere.
    let all = r#", "layer_types": ["full_attention", "full_attention"]"#;
    assert_eq!(groups(&read("exaone4", all)), [(vec![FULL], Some(vec![0, 1]), true)]);
    let both = r#", "num_hidden_layers": 4, "sliding_window_pattern": "LLLG""#;
    assert_eq!(groups(&read("exaone4", both))[1], (vec![FULL], Some(vec![3]), false));
    // Llama 4 names them.
    let config = read("llama4_text", r#", "num_hidden_layers": 4"#);
    assert_eq!(
        groups(&config),
        [
            (vec!["chunked_attention"], Some(vec![0, 1, 2]), true),
            (vec![FULL], Some(vec![3]), false)
        ]
    );
    // Layers without attention are in no group.
    let hybrid = r#", "layer_types": ["linear_attention", "full_attention"]"#;
    let config = read("qwen3_next", hybrid);
    assert_eq!(groups(&config), [(vec![FULL], Some(vec![1]), true)]);
    assert!(config.layer(0).is_none());
    assert_eq!((only(&config).head_dim, only(&config).rotary_dim), (256, 64));
}

#[test]
fn models_without_rotary_embedding_say_so() {
    for (model_type, rest) in [
        ("gpt2", ""),
        ("jamba", ""),
        ("falcon", r#", "alibi": true, "rope_theta": 10000, "rope_scaling": null"#),
        ("granitemoehybrid", r#", "position_embedding_type": "nope""#),
        ("granitemoehybrid", ""),
        ("zamba2", r#", "attention_head_dim": 128, "use_mem_rope": false"#),
    ] {
        let config = read(model_type, rest);
        assert!(rotaries(&config).is_empty(), "{model_type} {rest}");
        assert_eq!(config.rotary(None), Err(ConfigError::NoRotation { layer_type: None }));
    }
    let config = read("zamba2", r#", "attention_head_dim": 64, "use_mem_rope": true"#);
    assert_eq!(only(&config).head_dim, 64);
    let config = read("granitemoehybrid", r#", "position_embedding_type": "rope""#);
    assert_eq!(rotaries(&config).len(), 1);
    assert_eq!(rotaries(&read("falcon", r#", "alibi": false"#)).len(), 1);
}

#[test]
fn layer_types_have_ropes_of_their_own() {
    let yarn = r#"{"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192}"#;
    // OLMo 3: scaling is the full layers'.
    let config = read("olmo3", &format!(r#", "num_hidden_layers": 8, "rope_scaling": {yarn}"#));
    let of = |name| config.rotary(Some(name)).expect("it rotates");
    assert_eq!(of(SLIDING).schedule.scaling(), &RopeScaling::Default);
    assert!(matches!(of(FULL).schedule.scaling(), RopeScaling::Yarn(_)));
    assert_eq!(config.layer(7).map(|group| &*group.layer_types), Some(&[FULL.to_owned()][..]));
    let known = vec![FULL.to_owned(), SLIDING.to_owned()];
    let none = ConfigError::LayerType { given: None, known: known.clone() };
    assert_eq!(config.rotary(None), Err(none));
    let given = Some("deep".to_owned());
    assert_eq!(config.rotary(Some("deep")), Err(ConfigError::LayerType { given, known }));
    // Without any scaling both turn alike, and are one group.
    let config = read("olmo3", r#", "num_hidden_layers": 8"#);
    assert_eq!(groups(&config).len(), 1);
    assert_eq!(groups(&config)[0].1, Some((0..8).collect()));
    // ModernBERT: a base each, the first layer a full one.
    let bases =
        r#", "num_hidden_layers": 4, "global_rope_theta": 160000.0, "local_rope_theta": 5000"#;
    let config = read("modernbert", bases);
    let of = |name| config.rotary(Some(name)).expect("it rotates").schedule.base();
    assert_eq!((of(FULL), of(SLIDING)), (160_000.0, 5000.0));
    assert_eq!(config.groups[0].indices, Some(vec![0, 3]));
    // MiMo: the same, and a part of each head.
    let bases = r#", "head_dim": 192, "partial_rotary_factor": 0.334, "rope_theta": 5000000,
        "swa_rope_theta": 20000"#;
    let config = read("mimo_v2_flash", bases);
    let of = |name| config.rotary(Some(name)).expect("it rotates");
    assert_eq!((of(FULL).schedule.base(), of(SLIDING).schedule.base()), (5e6, 20_000.0));
    assert_eq!(of(FULL).rotary_dim, 64);
    let listed = format!(r#"{bases}, "num_hidden_layers": 3, "hybrid_layer_pattern": [0, 1, 1]"#);
    let config = read("mimo_v2_flash", &listed);
    assert_eq!(config.rotary(Some(FULL)).map(|rotary| rotary.schedule.base()), Ok(5e6));
    assert_eq!(config.groups[1].indices, Some(vec![1, 2]));
    let config = read("mimo_v2_flash", &format!(r#"{listed}, "swa_head_dim": 96"#));
    let head_dim = |name| config.rotary(Some(name)).map(|rotary| rotary.head_dim);
    assert_eq!((head_dim(FULL), head_dim(SLIDING)), (Ok(192), Ok(96)));
    let error = refused("mimo_v2_flash", &listed.replace("3,", "2,")).to_string();
    assert!(error.contains("hybrid_layer_pattern"), "{error}");
    let error = refused("mimo_v2_flash", r#", "num_hidden_layers": 3"#).to_string();
    assert!(error.contains("layer_types"), "{error}");
    // Nested, with what another file left beside the types.
    for beside in ["", r#", "rope_theta": 500000.0"#, r#", "rope_type": "default""#] {
        let nested = format!(
            r#", "layer_types": ["sliding_attention", "full_attention"], "rope_parameters": {{
            "full_attention": {{"rope_type": "linear", "factor": 8.0}},
            "sliding_attention": {{"rope_type": "default"}}{beside}}}"#
        );
        for key in ["rope_parameters", "rope_scaling"] {
            let config = read("olmo3", &nested.replace("rope_parameters", key));
            let of =
                |name| config.rotary(Some(name)).expect("it rotates").schedule.scaling().name();
            assert_eq!((of(FULL), of(SLIDING)), ("linear", "default"));
        }
        let null = nested.replace(r#"{"rope_type": "default"}"#, "null");
        let config = read("olmo3", &null);
        assert!(config.rotary(Some(SLIDING)).is_err() && config.rotary(Some(FULL)).is_ok());
    }
    // Gemma 4: another head in full layers, a quarter of whose pairs turn.
    let config = read(
        "gemma4_text",
        r#", "head_dim": 256, "global_head_dim": 512, "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}"#,
    );
    let of = |name| config.rotary(Some(name)).expect("it rotates");
    let turning = |rotary: &Rotary| {
        let inv_freq = rotary.schedule.frequencies().inv_freq();
        (rotary.head_dim, rotary.rotary_dim, inv_freq.filter(|&f| f > 0.0).count())
    };
    assert_eq!(turning(of(FULL)), (512, 512, 64));
    assert_eq!(turning(of(SLIDING)), (256, 256, 128));
    let deep = r#", "layer_types": ["deep_attention"], "rope_parameters": {"full_attention": {}}"#;
    assert!(refused("olmo3", deep).to_string().contains("deep_attention"));
}

#[test]
fn every_spelling_is_read() {
    let frequencies = |config: &Config| only(config).schedule.frequencies().clone();
    let plain = |dim, base| Frequencies::new(dim, base).expect("valid");
    // LongChat's first.
    let config = read("llama", r#", "rope_condense_ratio": 8"#);
    assert_eq!(frequencies(&config), plain(128, 1e4).condensed(8.0).expect("valid"));
    assert!(config.condensed(2.0).is_ok());
    for (model_type, rest, dim, base) in [
        ("chatglm", r#", "kv_channels": 128, "rope_ratio": 50"#, 64, 5e5),
        ("phi3small", r#", "rope_embedding_base": 1000000"#, 128, 1e6),
        ("stablelm_epoch", r#", "rope_pct": 0.5"#, 64, 1e4),
        ("nomic_bert", r#", "rotary_emb_fraction": 0.5, "rotary_emb_base": 1000"#, 64, 1000.0),
        ("phi-msft", r#", "rotary_dim": 32"#, 32, 1e4),
        ("qwen3_moe", "", 128, 1e4),
        ("jetmoe", r#", "kv_channels": 64"#, 64, 1e4),
        ("mixtral", "", 128, 1e6),
        ("llama4", "", 128, 5e5),
    ] {
        let config = read(model_type, rest);
        assert_eq!(frequencies(&config), plain(dim, base), "{model_type} {rest}");
    }
    let interleaved = read("nomic_bert", r#", "rotary_emb_interleaved": true"#);
    assert_eq!(only(&interleaved).pairing, Pairing::Interleaved);
    assert_eq!(only(&read("nanochat", "")).direction, Direction::Inverse);
    assert_eq!(only(&read("llama", "")).direction, Direction::Forward);
    // HunYuan's alpha is a fixed base, 1e4 * 1000^(128/126).
    let alpha = r#", "max_position_embeddings": 32768,
        "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0, "beta_fast": 32}"#;
    let inv_freq: Vec<f64> = frequencies(&read("hunyuan_v1_dense", alpha)).inv_freq().collect();
    let stretched = plain(128, 1e4 * 1000f64.powf(128.0 / 126.0));
    for (got, expected) in inv_freq.iter().zip(stretched.inv_freq()) {
        assert!((got - expected).abs() <= expected * 1e-13);
    }
    // PhiMoE's factor, where both lists share it.
    let ones = format!("[{}]", vec!["1"; 64].join(", "));
    let lists = |long_mscale: f64| {
        format!(
            r#", "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
            "rope_scaling": {{"type": "longrope", "short_factor": {ones}, "long_factor": {ones},
            "short_mscale": 1.25, "long_mscale": {long_mscale}}}"#
        )
    };
    assert_eq!(frequencies(&read("phimoe", &lists(1.25))).factor(), 1.25);
    assert!(refused("phimoe", &lists(1.5)).to_string().contains("long_mscale"));
    // Sections are the class's, whatever a flag says.
    for (model_type, sizes, order) in [
        ("qwen2_5_vl", [16, 24, 24], SectionOrder::Blocks),
        ("qwen3_vl", [24, 20, 20], SectionOrder::Interleaved),
        ("qwen3_5", [11, 11, 10], SectionOrder::Interleaved),
    ] {
        let rope = r#", "rope_scaling": {"type": "mrope", "mrope_interleaved": true}"#;
        for rest in ["", rope] {
            let config = read(model_type, rest);
            let sections = only(&config).sections.expect("sections");
            assert_eq!((sections.sizes(), sections.order()), (sizes.to_vec(), order));
        }
    }
    // Another kind's name beside "mrope".
    let both = r#", "max_position_embeddings": 4096, "rope_scaling": {"type": "mrope",
        "rope_type": "yarn", "factor": 4.0, "mrope_section": [16, 24, 24]}"#;
    assert_eq!(only(&read("qwen2_vl", both)).schedule.scaling().name(), "yarn");
    // The language model's part, under each of its names.
    let llama = text("llama", r#", "rope_theta": 20000"#);
    for part in ["text_config", "llm_config", "language_config"] {
        let config = format!(r#"{{"model_type": "anything", "{part}": {llama}}}"#);
        let config = Config::from_json(&config).expect(part);
        assert_eq!(config.model_type.as_deref(), Some("llama"));
        assert_eq!(frequencies(&config), plain(128, 2e4));
    }
    // What Python writes for numbers that JSON does not have, in and outside of texts.
    let infinity =
        r#", "router_limit": Infinity, "other": [-Infinity, NaN, "\"NaN\\"], "NaN": "é""#;
    assert_eq!(frequencies(&read("llama", infinity)), plain(128, 1e4));
}

#[test]
fn a_model_type_that_is_not_known_needs_its_pairing() {
    let text = text("unheard_of", "");
    let given = Some("unheard_of".to_owned());
    assert_eq!(Config::from_json(&text), Err(ConfigError::ModelType { given }));
    for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
        let config = Config::from_json_with(&text, Explicit::pairing(pairing)).expect("read");
        assert_eq!(only(&config).pairing, pairing);
    }
    let llama = read("llama", "");
    let same =
        Config::from_json_with(&self::text("llama", ""), Explicit::pairing(Pairing::HalfSplit));
    assert_eq!(same, Ok(llama));
    let other =
        Config::from_json_with(&self::text("llama", ""), Explicit::pairing(Pairing::Interleaved));
    assert!(matches!(other, Err(ConfigError::Contradiction { .. })));
}

/// Every key of a rope's object, added to every kind: it changes the answer, is an error that names it, or is
/// known to change no angle.
#[test]
fn no_key_of_a_rope_is_passed_over() {
    const KINDS: [&str; 7] = [
        r#""rope_type": "default""#,
        r#""rope_type": "linear", "factor": 4.0"#,
        r#""rope_type": "dynamic", "factor": 4.0"#,
        r#""rope_type": "yarn", "factor": 4.0"#,
        r#""rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0"#,
        r#""rope_type": "longrope", "short_factor": LIST, "long_factor": LIST"#,
        r#""rope_type": "proportional", "factor": 2.0"#,
    ];
    const KEYS: [&str; 23] = [
        "alpha",
        "attention_factor",
        "attn_factor",
        "beta_fast",
        "beta_slow",
        "extrapolation_factor",
        "factor",
        "finetuned",
        "high_freq_factor",
        "long_factor",
        "long_mscale",
        "low_freq_factor",
        "mrope_section",
        "original_max_position_embedding",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "rope_theta",
        "short_factor",
        "short_mscale",
        "truncate",
        "type",
        "rope_dim",
        "scale",
    ];
    let harmless = |kind: &str, key: &str| match key {
        "original_max_position_embeddings" => {
            ["default", "linear", "dynamic", "proportional"].iter().any(|k| kind.contains(k))
        }
        _ => false,
    };
    let list = format!("[{}]", vec!["1.5"; 64].join(", "));
    let rest =
        |rope: &str| format!(r#", "max_position_embeddings": 8192, "rope_scaling": {{{rope}}}"#);
    let mut checked = 0;
    for kind in KINDS {
        let kind = kind.replace("LIST", &list);
        let before = read("llama", &rest(&kind));
        for key in KEYS {
            if kind.contains(&format!("\"{key}\"")) || harmless(&kind, key) {
                continue;
            }
            // LongRoPE's factor counts above 1 alone.
            let value = if key == "factor" { 3.0 } else { 0.75 };
            let text = text("llama", &rest(&format!(r#"{kind}, "{key}": {value}"#)));
            match Config::from_json(&text) {
                Ok(after) => {
                    assert!(after.groups != before.groups, "{kind}: {key} is passed over")
                }
                // Another part of the head has another number of pairs than the lists.
                Err(ConfigError::Rope { .. }) if key == "partial_rotary_factor" => {}
                Err(error) => assert!(error.to_string().contains(key), "{key} of {kind}: {error}"),
            }
            checked += 1;
        }
    }
    assert!(checked > 120, "{checked}");
}

/// The same at the top, and beside a language model's part.
#[test]
fn no_key_at_the_top_is_passed_over() {
    for key in [
        "rope_thetas",
        "rope_base",
        "rotary_percentage",
        "use_rope",
        "nope_layers_rope",
        "rope_factor",
        "layer_rope_theta",
        "mup_rope_scale",
        "rotary_ndims",
        "alibi_bias_max",
        "xrope_section",
        "mla_use_nope",
        "original_rope",
        "no_rope_layer_interval",
        "rotary_scaling_factor",
    ] {
        let error = refused("llama", &format!(r#", "{key}": 3.5"#));
        assert!(matches!(&error, ConfigError::Unread { key: k, .. } if k == key), "{error}");
        read("llama", &format!(r#", "{key}": null"#));
        read("llama", &format!(r#", "{key}": false"#));
    }
    let llama = text("llama", "");
    let outer = |rest: &str| {
        Config::from_json(&format!(r#"{{"model_type": "any", "text_config": {llama}{rest}}}"#))
    };
    assert!(outer("").is_ok());
    for key in ["rope_scaling", "rope_theta"] {
        let error = outer(&format!(r#", "{key}": {{"type": "linear", "factor": 4.0}}"#));
        assert!(error.expect_err(key).to_string().contains(key));
    }
    // A misspelt key of YaRN's; another engine's.
    for key in ["original_max_position_embedding", "attn_factor"] {
        let rope = format!(
            r#", "max_position_embeddings": 131072,
            "rope_scaling": {{"rope_type": "yarn", "factor": 4.0, "{key}": 0.5}}"#
        );
        assert!(refused("qwen2", &rope).to_string().contains(key));
    }
}

/// What no call could take.
#[test]
fn values_out_of_range_are_refused_with_their_key() {
    for (model_type, rest, key) in [
        ("gptj", r#", "head_dim": 64, "rotary_dim": 96"#, "rotary_dim"),
        ("llama", r#", "head_dim": 2048, "partial_rotary_factor": 0.25"#, "head_dim"),
        ("llama", r#", "head_dim": 1"#, "head_dim"),
        (
            "llama",
            r#", "max_position_embeddings": 64,
            "rope_scaling": {"type": "yarn", "factor": 2.0, "attention_factor": 1e-60}"#,
            "factor",
        ),
        ("olmo3", r#", "rope_parameters": {"full_attention": {}, "deep": 3}"#, "deep"),
        ("llama", r#", "position_embedding_type": "spiral""#, "position_embedding_type"),
        ("llama", r#", "rope_scaling": {"type": "axial"}"#, "axial"),
        ("llama", r#", "rope_scaling": {"type": "ntk", "factor": 2.0}"#, "ntk"),
        ("gpt_oss", "", "rope_parameters"),
    ] {
        let error = refused(model_type, rest);
        assert!(error.to_string().contains(key), "{model_type} {rest}: {error}");
    }
    let heads = r#"{"model_type": "gptj", "n_embd": 4, "n_head": 16, "rotary_dim": 64}"#;
    assert!(Config::from_json(heads).expect_err(heads).to_string().contains("rotary_dim"));
}

/// Bases listed by layer; zero is a layer that does not rotate.
#[test]
fn bases_may_be_listed_by_layer() {
    let list = r#", "num_hidden_layers": 4, "layer_rope_theta": [10000.0, 0, 500000.0, 10000.0]"#;
    let config = read("granite_swa", list);
    let base = |layer: usize| {
        let group = config.layer(layer).expect("a layer");
        group.rotary.as_ref().map(|rotary| rotary.schedule.base())
    };
    assert_eq!([0, 1, 2, 3].map(base), [Some(1e4), None, Some(5e5), Some(1e4)]);
    let short = refused("granite_swa", r#", "num_hidden_layers": 4, "layer_rope_theta": [1e4]"#);
    assert!(short.to_string().contains("layer_rope_theta"), "{short}");
}

/// 21 of 42 channels: eleven pairs, over the exponents of 21.
#[test]
fn an_odd_part_is_whole_pairs() {
    let text = |rope: &str| {
        format!(
            r#"{{"model_type": "glm4_moe", "hidden_size": 4096, "num_attention_heads": 96,
            "rope_parameters": {{"partial_rotary_factor": 0.5, {rope}}}}}"#
        )
    };
    let config = Config::from_json(&text(r#""rope_type": "default""#)).expect("read");
    let rotary = config.rotary(None).expect("alike");
    assert_eq!((rotary.head_dim, rotary.rotary_dim), (42, 22));
    for (j, f) in rotary.schedule.frequencies().inv_freq().enumerate() {
        let theirs = 10_000f64.powf(-2.0 * j as f64 / 21.0);
        assert!((f - theirs).abs() < 1e-14 * theirs, "pair {j}: {f} is not {theirs}");
    }
    let scaled = Config::from_json(&text(r#""rope_type": "linear", "factor": 2.0"#));
    assert!(scaled.expect_err("refused").to_string().contains("partial_rotary_factor"));
}

/// gte's: the base times the factor, and every frequency divided by factor^(2/d).
#[test]
fn ntk_is_gtes_where_the_class_has_it() {
    let rope = r#", "rope_theta": 160000, "rope_scaling": {"type": "ntk", "factor": 2.0}"#;
    let config = read("new", rope);
    let frequencies = only(&config).schedule.frequencies();
    let dim = frequencies.rotary_dim() as f64;
    for (j, f) in frequencies.inv_freq().enumerate() {
        let theirs = 320_000f64.powf(-2.0 * j as f64 / dim) / 2f64.powf(2.0 / dim);
        assert!((f - theirs).abs() < 1e-14 * theirs, "pair {j}: {f} is not {theirs}");
    }
    assert!(refused("llama", rope).to_string().contains("ntk"));
}

/// DeepSeek-V4, in either spelling: two ropes by kind of layer, YaRN without its factor, the last channels of a head.
#[test]
fn deepseek_v4_has_two_ropes() {
    let layers = r#""num_hidden_layers": 4, "compress_ratios": [0, 4, 128, 0]"#;
    let yarn = r#""rope_type": "yarn", "factor": 16, "original_max_position_embeddings": 65536"#;
    for rest in [
        format!(
            r#"{layers}, "qk_rope_head_dim": 64, "rope_theta": 10000, "compress_rope_theta": 160000,
            "rope_scaling": {{{yarn}}}"#
        ),
        format!(
            r#"{layers}, "rope_parameters": {{"main": {{"rope_theta": 10000.0}}, "compress":
            {{"rope_theta": 160000.0, "attention_factor": 1.0, {yarn}}}}}"#
        ),
    ] {
        let text = format!(
            r#"{{"model_type": "deepseek_v4", "head_dim": 512, "num_attention_heads": 64, {rest}}}"#
        );
        let config = Config::from_json(&text).expect("read");
        let shown = [0, 1, 2, 3].map(|layer| {
            let rotary = config.layer(layer).expect("a layer").rotary.clone().expect("rotates");
            let schedule = &rotary.schedule;
            assert_eq!(schedule.frequencies().factor(), 1.0);
            assert_eq!((rotary.head_dim, rotary.rotary_offset, rotary.rotary_dim), (512, 448, 64));
            assert_eq!(rotary.pairing, Pairing::Interleaved);
            (schedule.base(), matches!(schedule.scaling(), RopeScaling::Yarn(_)))
        });
        let (sliding, compressed) = ((1e4, false), (16e4, true));
        assert_eq!(shown, [sliding, compressed, compressed, sliding]);
    }
    for (key, value) in [
        ("head_dim", "\"512\""),
        ("qk_rope_head_dim", "513"),
        ("partial_rotary_factor", "2.0"),
        ("compress_ratios", "[7]"),
        ("rope_thita", "1e4"),
    ] {
        let text =
            format!(r#"{{"model_type": "deepseek_v4", "num_hidden_layers": 4, "{key}": {value}}}"#);
        let error = Config::from_json(&text).expect_err("refused").to_string();
        assert!(error.contains(key), "{error}");
    }
}

/// What files leave to the class, and what is another part's.
#[test]
fn sizes_may_be_left_to_the_class() {
    let llava = r#"{"model_type": "llava", "text_config": {"model_type": "llama"}}"#;
    assert_eq!(only(&Config::from_json(llava).expect("read")).head_dim, 128);
    let half = r#"{"model_type": "llama", "hidden_size": 4096}"#;
    let error = Config::from_json(half).expect_err("refused").to_string();
    assert!(error.contains("num_attention_heads"), "{error}");
    let dbrx = r#"{"model_type": "dbrx", "d_model": 6144, "n_heads": 48}"#;
    assert_eq!(only(&Config::from_json(dbrx).expect("read")).head_dim, 128);
    let audio = r#", "rope_parameters": {"rope_type": "default", "rope_theta": 1200.0}"#;
    let outer = |model_type| {
        let text = format!(r#"{{"model_type": "qwen2", {SIZES}}}"#);
        Config::from_json(&format!(
            r#"{{"model_type": "{model_type}", "text_config": {text}{audio}}}"#
        ))
    };
    assert!(outer("musicflamingo").is_ok());
    assert!(outer("llava").expect_err("refused").to_string().contains("rope_parameters"));
    let dynamic = refused("qwen", r#", "use_dynamic_ntk": true"#).to_string();
    assert!(dynamic.contains("use_dynamic_ntk"), "{dynamic}");
}
