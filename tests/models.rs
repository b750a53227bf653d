//! Released models' `config.json`: what it is read as, held to transformers' own frequencies and
//! rotations and to mpmath's, and every model's rotation on the CPU backend.

use condensed_rope::hf::ConfigError;
use condensed_rope::{Dtype, Error, Frequencies, Layout, Pairing, Positions, Scaled, Scaling, cpu};
use testkit::golden::{MODELS, number, size};
use testkit::{models, tolerance};

mod on_cpu {
    testkit::models!([] testkit::Cpu);
}

/// Within f32's rounding of transformers' `inv_freq`, and within 1e-15 of mpmath's, at every length.
#[test]
fn frequencies_are_transformers_own() {
    for (i, case) in MODELS.cases().iter().enumerate() {
        let name = case["model"].as_str().expect("a name");
        let layer_type = case["layer_type"].as_str();
        let config = models::config(name);
        // gpt-oss has layer types, but one rope for all.
        let layer = config.layer(layer_type).expect("a layer of that type");
        assert_eq!(layer.rotary_dim, size(case, "dim"), "{name}");
        assert_eq!(layer.scaled.base(), number(case, "rope_theta"), "{name}");
        let attention = f64::from(layer.scaled.frequencies().factor());
        let theirs = number(case, "attention_factor");
        let rounding = theirs * tolerance::unit_roundoff(Dtype::F32);
        assert!((attention - theirs).abs() <= rounding, "{name}: {attention} is not {theirs}");

        let mut scaled = layer.scaled.clone();
        for length in case["lengths"].as_array().expect("lengths") {
            let length = length.as_u64().expect("a length") as usize;
            scaled.set_length(length);
            let ours: Vec<f64> = scaled.frequencies().inv_freq().collect();
            let exact = MODELS.f64s(i, &format!("exact.{length}"));
            assert_eq!(ours.len(), exact.len());
            for (j, (ours, exact)) in ours.iter().zip(&exact).enumerate() {
                let off = (ours - exact).abs();
                assert!(
                    off <= exact * 1e-15,
                    "{name} at {length}: pair {j}: {ours} is not {exact}"
                );
            }
            let key = format!("inv_freq.{length}");
            if !MODELS.has(i, &key) {
                continue; // GPT-J has no module that keeps them
            }
            let roundings = roundings(layer.scaled.base());
            // YaRN's and Llama 3's blends weigh by differences, of numbers up to the fast end.
            let blended = matches!(scaled.scaling(), Scaling::Yarn(_) | Scaling::Llama3 { .. });
            let plain = Frequencies::new(layer.rotary_dim, layer.scaled.base()).expect("valid");
            for ((theirs, ours), plain) in
                MODELS.f32s(i, &key).iter().zip(&ours).zip(plain.inv_freq())
            {
                let scale = if blended { plain } else { *ours };
                let off = (f64::from(*theirs) - ours).abs();
                assert!(off <= scale * roundings, "{name} at {length}: {theirs} is not {ours}");
            }
        }
    }
}

/// Rotated by each model's own function, at positions to 131071, within the error of f32 angles.
#[test]
fn rotations_are_transformers_own() {
    let ids = MODELS.positions();
    for (i, case) in MODELS.cases().iter().enumerate() {
        let name = case["model"].as_str().expect("a name");
        let config = models::config(name);
        let layer = config.layer(case["layer_type"].as_str()).expect("a layer of that type");
        let (dim, given) = (layer.rotary_dim, MODELS.f32s(i, "q"));
        let pairing = layer.pairing.expect("models of the table fix it");
        let mut q = given.clone();
        let layout = Layout::bhsd(1, 2, ids.len(), dim);
        let frequencies = layer.scaled.frequencies();
        cpu::Rope::new(frequencies, pairing)
            .rotate(cpu::Heads::in_place(&mut q, layout), None, Positions::ids(&ids))
            .expect("a valid call");
        close(name, &layer.scaled, pairing, &given, &q, &MODELS.f32s(i, "q_out"), |row| {
            ids[row % ids.len()]
        });
    }
}

/// Three positions a token, by Qwen2-VL's and Qwen3-VL's own modules.
#[test]
fn three_axes_are_transformers_own() {
    for name in ["qwen2_vl_7b", "qwen3_vl_8b"] {
        let config = models::config(name);
        let layer = &config.layers[0];
        let ids = MODELS.named_i64s(&format!("{name}.mrope.ids"));
        let given = MODELS.named_f32s(&format!("{name}.mrope.q"));
        let mut q = given.clone();
        let tokens = ids.len() / 3;
        let positions = Positions::axes(&ids, layer.sections.expect("sections"));
        cpu::Rope::new(layer.scaled.frequencies(), Pairing::HalfSplit)
            .rotate(cpu::Heads::in_place(&mut q, Layout::bhsd(1, 2, tokens, 128)), None, positions)
            .expect("a valid call");
        let theirs = MODELS.named_f32s(&format!("{name}.mrope.q_out"));
        let largest = *ids.iter().max().expect("ids");
        close(name, &layer.scaled, Pairing::HalfSplit, &given, &q, &theirs, |_| largest);
    }
}

/// How far transformers' f32 frequencies are off, relative to unscaled ones: the exponent is rounded
/// before the power, which multiplies that by ln base; then the power, its reciprocal, and a blend of two.
fn roundings(base: f64) -> f64 {
    (base.ln() + 8.0) * 2f64.powi(-24)
}

/// Rows of q, each turned to a position (or one nearer to zero), ours and theirs.
fn close(
    name: &str,
    scaled: &Scaled,
    pairing: Pairing,
    given: &[f32],
    ours: &[f32],
    theirs: &[f32],
    position: impl Fn(usize) -> i64,
) {
    let (pairs, dim) = (scaled.frequencies().pairs(), scaled.frequencies().rotary_dim());
    let plain = Frequencies::new(dim, scaled.base()).expect("valid");
    let plain: Vec<f64> = plain.inv_freq().collect();
    let factor = f64::from(scaled.frequencies().factor());
    for (at, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let (row, channel) = (at / dim, at % dim);
        let (pair, partner) = match pairing {
            Pairing::HalfSplit => (channel % pairs, (channel + pairs) % dim),
            Pairing::Interleaved => (channel / 2, channel ^ 1),
        };
        let size = f64::from(given[at].abs() + given[row * dim + partner].abs()) * factor;
        // And the angle is rounded.
        let off = position(row) as f64 * plain[pair] * (roundings(scaled.base()) + 2f64.powi(-24));
        let allowed =
            size * (off + tolerance::COS_SIN + 4.0 * tolerance::unit_roundoff(Dtype::F32));
        let (ours, theirs) = (f64::from(*ours), f64::from(*theirs));
        assert!(
            (ours - theirs).abs() <= allowed,
            "{name} row {row} channel {channel}: {ours} is not {theirs} within {allowed:e}"
        );
    }
}

/// The values that the papers and configs are known by.
#[test]
fn worked_values() {
    let attention = |name| f64::from(models::config(name).layers[0].scaled.frequencies().factor());
    for (name, expected) in
        [("phi_3_5_mini", 1.1902), ("gpt_oss_120b", 1.3466), ("qwen2_5_7b", 1.1386)]
    {
        assert!((attention(name) - expected).abs() < 5e-5, "{name}: {}", attention(name));
    }
    let deepseek = models::config("deepseek_v3");
    let layer = &deepseek.layers[0];
    assert_eq!((layer.head_dim, layer.rotary_offset, layer.rotary_dim), (192, 128, 64));
    assert_eq!(layer.pairing, Some(Pairing::Interleaved));
    assert_eq!(layer.scaled.frequencies().factor(), 1.0);
    let plain = Frequencies::new(64, 10_000.0).expect("valid");
    // The ramp runs from pair 10 to pair 23.
    let scaled: Vec<f64> = layer.scaled.frequencies().inv_freq().collect();
    for (j, plain) in plain.inv_freq().enumerate() {
        let ratio = plain / scaled[j];
        let fine = match j {
            0..=10 => (ratio - 1.0).abs() < 1e-12,
            11..=22 => ratio > 1.0 && ratio < 40.0,
            _ => (ratio - 40.0).abs() < 1e-12,
        };
        assert!(fine, "pair {j} is divided by {ratio}");
    }
    let gemma = models::config("gemma_3_12b");
    let names: Vec<_> = gemma.layers.iter().filter_map(|l| l.layer_type.as_deref()).collect();
    assert_eq!(names, ["full_attention", "sliding_attention"]);
}

/// A ratio on top of a plain config is FastChat's patch; on top of one that stretches already, an error.
#[test]
fn ratios_go_on_top_where_that_makes_sense() {
    let plain = r#"{"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32}"#;
    let condensed =
        Frequencies::from_hf_config(plain).and_then(|config| config.condensed(8.0)).expect("valid");
    let expected = Frequencies::new(128, 10_000.0).and_then(|f| f.condensed(8.0)).expect("valid");
    assert_eq!(condensed.layers[0].scaled.frequencies(), &expected);
    for name in ["longchat_7b_16k", "qwen3_8b", "phi_4_mini", "kind_dynamic", "gemma_3_12b"] {
        let error = models::config(name).condensed(8.0).expect_err(name);
        let twice = matches!(&error, ConfigError::Rope { error: Error::NotCondensable { .. }, .. });
        assert!(twice, "{name}: {error}");
    }
    let llama = models::config("llama_3_1_8b").condensed(2.0).expect("valid");
    let (twice, once) = (&llama.layers[0].scaled, &models::config("llama_3_1_8b").layers[0].scaled);
    for (twice, once) in twice.frequencies().inv_freq().zip(once.frequencies().inv_freq()) {
        assert_eq!(2.0 * twice, once);
    }
}

/// A condensed scaling stays condensed when the length changes it, and NTK spares the fastest pair.
#[test]
fn ntk_stretches_the_base() {
    let scaled = Scaled::new(128, 10_000.0, Scaling::Ntk { factor: 4.0 }).expect("valid");
    let plain = Frequencies::new(128, 10_000.0).expect("valid");
    let ratios: Vec<f64> =
        plain.inv_freq().zip(scaled.frequencies().inv_freq()).map(|(a, b)| a / b).collect();
    assert_eq!(ratios[0], 1.0);
    assert!((ratios[63] - 4.0).abs() < 1e-12, "{}", ratios[63]);
    let condensed = scaled.condensed(2.0).expect("NTK may be condensed");
    assert_eq!((condensed.ratio(), condensed.frequencies().inv_freq().next()), (2.0, Some(0.5)));
}

/// Every message names the key.
#[test]
fn bad_configs_are_refused() {
    let llama = |rest: &str| {
        format!(r#"{{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4{rest}}}"#)
    };
    let with = |scaling: &str| {
        llama(&format!(r#", "max_position_embeddings": 100, "rope_scaling": {scaling}"#))
    };
    for (config, key) in [
        ("[]".to_owned(), "not an object"),
        ("{".to_owned(), "EOF"),
        ("{}".to_owned(), "hidden_size"),
        (r#"{"hidden_size": 64}"#.to_owned(), "num_attention_heads"),
        (with(r#"{"rope_type": "spiral"}"#), "rope_type"),
        (with(r#"{"rope_type": 3}"#), "rope_type"),
        (with(r#"{"type": "linear", "rope_type": "yarn", "factor": 2.0}"#), "type"),
        (with(r#"{"type": "linear"}"#), "factor"),
        (with(r#"{"type": "linear", "factor": 0.5}"#), "factor"),
        (with(r#"{"type": "linear", "factor": "8"}"#), "factor"),
        (with(r#"{"type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}"#), "low_freq_factor"),
        (
            with(r#"{"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}"#),
            "high_freq_factor",
        ),
        (with(r#"{"type": "longrope", "short_factor": [1, 1]}"#), "long_factor"),
        (with(r#"{"type": "su", "short_factor": [1, 1], "long_factor": [1]}"#), "short_factor"),
        (with(r#"{"type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 32}"#), "beta_fast"),
        (with(r#"{"type": "mrope", "mrope_section": [1, 2]}"#), "mrope_section"),
        (with(r#"{"type": "mrope", "mrope_section": [1, 2, 3]}"#), "mrope_section"),
        (with(r#"{"type": "mrope", "mrope_section": [2.5, 3, 3]}"#), "mrope_section"),
        (with(r#"{"type": "mrope", "mrope_section": [-1, 4, 4]}"#), "mrope_section"),
        (with(r#"{"type": "mrope", "mrope_section": [1e300, 4, 4]}"#), "mrope_section"),
        (
            llama(r#", "rope_scaling": {"type": "yarn", "factor": 4.0}"#),
            "original_max_position_embeddings",
        ),
        (
            llama(r#", "rope_scaling": {"type": "dynamic", "factor": 4.0}"#),
            "max_position_embeddings",
        ),
        (
            llama(
                r#", "rope_scaling": {"type": "linear", "factor": 4.0},
                "rope_parameters": {"rope_type": "linear", "factor": 8.0}"#,
            ),
            "rope_scaling.factor",
        ),
        (
            llama(r#", "rope_theta": 10000.0, "rope_parameters": {"rope_theta": 500000.0}"#),
            "rope_parameters.rope_theta",
        ),
        (llama(r#", "rope_theta": -1"#), "base"),
        (llama(r#", "partial_rotary_factor": 0.5, "rotary_pct": 0.25"#), "rotary_pct"),
        (llama(r#", "partial_rotary_factor": 1.5"#), "partial_rotary_factor"),
        (llama(r#", "head_dim": 0"#), "head_dim"),
        (llama(r#", "head_dim": 7"#), "rotary_dim"),
        (llama(r#", "head_dim": 100000"#), "rotary_dim"),
    ] {
        let error = Frequencies::from_hf_config(&config).expect_err(&config).to_string();
        assert!(error.contains(key), "{config}: {error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }
}
