//! Released models' `config.json`: what it is read as, held to transformers' own frequencies and
//! rotations and to mpmath's, and every model's rotation on the CPU backend.

use condensed_rope::config::{Config, ConfigError};
use condensed_rope::{
    Dtype, Error, Frequencies, FrequencySchedule, Layout, Ntk, Pairing, Positions, RopeScaling, cpu,
};
use testkit::conformance::models;
use testkit::golden::{MODELS, number, size};
use testkit::tolerance;

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
        let layer = config.rotary(layer_type).expect("a layer of that type");
        assert_eq!(layer.rotary_dim, size(case, "dim"), "{name}");
        assert_eq!(layer.schedule.base(), number(case, "rope_theta"), "{name}");
        let attention = f64::from(layer.schedule.frequencies().factor());
        let theirs = number(case, "attention_factor");
        let rounding = theirs * tolerance::unit_roundoff(Dtype::F32);
        assert!((attention - theirs).abs() <= rounding, "{name}: {attention} is not {theirs}");

        let mut scaled = layer.schedule.clone();
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
            let roundings = roundings(layer.schedule.base());
            // YaRN's and Llama 3's blends weigh by differences, of numbers up to the fast end.
            let blended = matches!(scaled.scaling(), RopeScaling::Yarn(_) | RopeScaling::Llama3(_));
            let plain = Frequencies::new(layer.rotary_dim, layer.schedule.base()).expect("valid");
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
        let layer = config.rotary(case["layer_type"].as_str()).expect("a layer of that type");
        let (dim, given) = (layer.rotary_dim, MODELS.f32s(i, "q"));
        let pairing = layer.pairing;
        let mut q = given.clone();
        let layout = Layout::bhsd(1, 2, ids.len(), dim);
        let frequencies = layer.schedule.frequencies();
        cpu::Rope::new(frequencies, pairing)
            .rotate(Some(cpu::Heads::in_place(&mut q, layout)), None, Positions::ids(&ids))
            .expect("a valid call");
        close(name, &layer.schedule, pairing, &given, &q, &MODELS.f32s(i, "q_out"), |row| {
            ids[row % ids.len()]
        });
    }
}

/// Three positions a token, by Qwen2-VL's and Qwen3-VL's own modules.
#[test]
fn three_axes_are_transformers_own() {
    for name in ["qwen2_vl_7b", "qwen3_vl_8b"] {
        let config = models::config(name);
        let layer = config.rotary(None).expect("all alike");
        let ids = MODELS.named_i64s(&format!("{name}.mrope.ids"));
        let given = MODELS.named_f32s(&format!("{name}.mrope.q"));
        let mut q = given.clone();
        let tokens = ids.len() / 3;
        let positions = Positions::axes(&ids, layer.sections.expect("sections"));
        cpu::Rope::new(layer.schedule.frequencies(), Pairing::HalfSplit)
            .rotate(
                Some(cpu::Heads::in_place(&mut q, Layout::bhsd(1, 2, tokens, 128))),
                None,
                positions,
            )
            .expect("a valid call");
        let theirs = MODELS.named_f32s(&format!("{name}.mrope.q_out"));
        let largest = *ids.iter().max().expect("ids");
        close(name, &layer.schedule, Pairing::HalfSplit, &given, &q, &theirs, |_| largest);
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
    scaled: &FrequencySchedule,
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
            other => panic!("a pairing that the tests do not know: {other:?}"),
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
    let attention = |name| {
        f64::from(models::rotaries(&models::config(name))[0].schedule.frequencies().factor())
    };
    for (name, expected) in
        [("phi_3_5_mini", 1.1902), ("gpt_oss_120b", 1.3466), ("qwen2_5_7b", 1.1386)]
    {
        assert!((attention(name) - expected).abs() < 5e-5, "{name}: {}", attention(name));
    }
    let deepseek = models::config("deepseek_v3");
    let layer = deepseek.rotary(None).expect("all alike");
    assert_eq!((layer.head_dim, layer.rotary_offset, layer.rotary_dim), (192, 128, 64));
    assert_eq!(layer.pairing, Pairing::Interleaved);
    assert_eq!(layer.schedule.frequencies().factor(), 1.0);
    let plain = Frequencies::new(64, 10_000.0).expect("valid");
    // The ramp runs from pair 10 to pair 23.
    let scaled: Vec<f64> = layer.schedule.frequencies().inv_freq().collect();
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
    let names: Vec<_> = gemma.groups.iter().flat_map(|group| group.layer_types.clone()).collect();
    assert_eq!(names, ["full_attention", "sliding_attention"]);
}

/// A ratio on top of a plain config is FastChat's patch; on top of one that stretches already, an error.
#[test]
fn ratios_go_on_top_where_that_makes_sense() {
    let llama = r#"{"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32}"#;
    let condensed =
        Config::from_json(llama).and_then(|config| config.condensed(8.0)).expect("valid");
    let expected = Frequencies::new(128, 10_000.0).and_then(|f| f.condensed(8.0)).expect("valid");
    assert_eq!(models::rotaries(&condensed)[0].schedule.frequencies(), &expected);
    for name in ["longchat_7b_16k", "qwen3_8b", "phi_4_mini", "kind_dynamic", "gemma_3_12b"] {
        let error = models::config(name).condensed(8.0).expect_err(name);
        let twice = matches!(&error, ConfigError::Rope { error: Error::NotCondensable { .. }, .. });
        assert!(twice, "{name}: {error}");
    }
    let plain = models::config("llama_3_1_8b");
    let llama = plain.clone().condensed(2.0).expect("valid");
    let (twice, once) =
        (&models::rotaries(&llama)[0].schedule, &models::rotaries(&plain)[0].schedule);
    for (twice, once) in twice.frequencies().inv_freq().zip(once.frequencies().inv_freq()) {
        assert_eq!(2.0 * twice, once);
    }
}

/// A condensed scaling stays condensed when the length changes it, and NTK spares the fastest pair.
#[test]
fn ntk_stretches_the_base() {
    let scaled =
        FrequencySchedule::new(128, 10_000.0, RopeScaling::Ntk(Ntk::new(4.0))).expect("valid");
    let plain = Frequencies::new(128, 10_000.0).expect("valid");
    let ratios: Vec<f64> =
        plain.inv_freq().zip(scaled.frequencies().inv_freq()).map(|(a, b)| a / b).collect();
    assert_eq!(ratios[0], 1.0);
    assert!((ratios[63] - 4.0).abs() < 1e-12, "{}", ratios[63]);
    let condensed = scaled.condensed(2.0).expect("NTK may be condensed");
    assert_eq!((condensed.ratio(), condensed.frequencies().inv_freq().next()), (2.0, Some(0.5)));
}

/// Like parameters take unlike values, and every default is a model's own.
#[test]
fn keys_are_not_mixed_up() {
    let base = r#""hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 4096,
        "qk_rope_head_dim": 16"#;
    let read = |rest: &str| Config::from_json(&format!("{{{base}, {rest}}}")).expect("valid");
    // mscale over mscale_all_dim, not the other way round.
    let yarn = |mscale, all_dim| {
        let config = read(&format!(
            r#""model_type": "llama", "rope_scaling": {{"rope_type": "yarn", "factor": 40.0,
            "original_max_position_embeddings": 4096, "mscale": {mscale}, "mscale_all_dim": {all_dim}}}"#
        ));
        f64::from(models::rotaries(&config)[0].schedule.frequencies().factor())
    };
    let scale = |mscale: f64| 0.1 * mscale * 40f64.ln() + 1.0;
    assert!((yarn(1.0, 0.5) - scale(1.0) / scale(0.5)).abs() < 1e-6);
    assert!((yarn(0.707, 1.0) - scale(0.707) / scale(1.0)).abs() < 1e-6);
    // A flag overrules the model type, either way.
    for (flag, pairing) in [(true, Pairing::Interleaved), (false, Pairing::HalfSplit)] {
        for model in ["llama", "deepseek_v3"] {
            let config = read(&format!(r#""model_type": "{model}", "rope_interleave": {flag}"#));
            assert_eq!(models::rotaries(&config)[0].pairing, pairing, "{model}");
        }
    }
    // Gemma 3's local base, where the config leaves it out.
    let gemma = read(r#""model_type": "gemma3_text", "head_dim": 16"#);
    let bases: Vec<f64> =
        models::rotaries(&gemma).iter().map(|rotary| rotary.schedule.base()).collect();
    assert_eq!(bases, [1_000_000.0, 10_000.0]);
}

/// A ramp that ends beyond the last pair, one that begins before the first, one of no width: transformers cuts
/// it at the last channel, and so do we. By the formula in f64.
#[test]
fn yarns_ramp_is_cut_where_transformers_cuts_it() {
    for (base, original) in [
        (10_000.0, 4096),
        (10_000.0, 1 << 17),
        (100.0, 1 << 20),
        (1e6, 64),
        (500.0, 1 << 30),
        (1.5, 4096),
        (1e9, 2),
    ] {
        for dim in [2, 8, 64, 128] {
            // Kimi K2's two equal ends are a step, or a ramp of one pair.
            for (truncate, beta_fast) in [(true, 32.0), (false, 32.0), (true, 1.0), (false, 1.0)] {
                let mut yarn = condensed_rope::Yarn::new(8.0, original);
                (yarn.truncate, yarn.beta_fast) = (truncate, beta_fast);
                let schedule = FrequencySchedule::new(dim, base, RopeScaling::Yarn(yarn));
                let schedule = schedule.expect("valid");
                let pair = |beta: f64| {
                    let turns = original as f64 / (beta * std::f64::consts::TAU);
                    dim as f64 * turns.ln() / (2.0 * base.ln())
                };
                let (mut low, mut high) = (pair(beta_fast), pair(1.0));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                for (j, got) in schedule.frequencies().inv_freq().enumerate() {
                    let plain = base.powf(-2.0 * j as f64 / dim as f64);
                    let ramp = ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    let exact = plain * (1.0 - ramp) + plain / 8.0 * ramp;
                    // The ramp of two close ends magnifies their rounding.
                    let allowed = plain * (1e-12 + 1e-15 / (high - low).abs());
                    assert!(
                        (got - exact).abs() <= allowed,
                        "base {base}, {original}, dim {dim}, pair {j}: {got} is not {exact}"
                    );
                }
            }
        }
    }
}

/// Llama 3's three ranges, by transformers' formula in f64, which has no step where they meet.
#[test]
fn llama3s_blend_is_transformers() {
    for (base, original) in [(500_000.0, 8192), (10_000.0, 512), (100.0, 100), (2.0, 40)] {
        for (low, high) in [(1.0, 4.0), (0.5, 32.0), (2.0, 2.5), (3.0, 50.0), (1.0, 1.0)] {
            let mut llama3 = condensed_rope::Llama3::new(8.0, original);
            (llama3.low_freq_factor, llama3.high_freq_factor) = (low, high);
            let schedule = FrequencySchedule::new(128, base, RopeScaling::Llama3(llama3));
            for (j, got) in schedule.expect("valid").frequencies().inv_freq().enumerate() {
                let plain = base.powf(-2.0 * j as f64 / 128.0);
                let turns = original as f64 * plain / std::f64::consts::TAU;
                // Llama 4 Scout's two equal ends are a step.
                let smooth = match high - low {
                    0.0 => f64::from(turns >= low),
                    width => ((turns - low) / width).clamp(0.0, 1.0),
                };
                let exact = plain * smooth + plain / 8.0 * (1.0 - smooth);
                assert!(
                    (got - exact).abs() <= plain * 1e-12,
                    "base {base}, {original}, {low} to {high}, pair {j}: {got} is not {exact}"
                );
            }
        }
    }
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
        ("{}".to_owned(), "model_type"),
        (r#"{"model_type": "unheard_of"}"#.to_owned(), "unheard_of"),
        (r#"{"model_type": "qwen2"}"#.to_owned(), "hidden_size"),
        (r#"{"model_type": "llama", "hidden_size": 64}"#.to_owned(), "num_attention_heads"),
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
        (llama(r#", "head_dim": 7"#), "head_dim"),
        (llama(r#", "head_dim": 100000"#), "head_dim"),
        (llama(r#", "num_hidden_layers": 1e15"#), "num_hidden_layers"),
        (llama(r#", "num_hidden_layers": 4097"#), "num_hidden_layers"),
        (llama(r#", "num_hidden_layers": 2, "layer_types": ["full_attention"]"#), "layer_types"),
        (with(r#"{"type": "linear", "factor": Infinity}"#), "factor"),
    ] {
        let error = Config::from_json(&config).expect_err(&config).to_string();
        assert!(error.contains(key), "{config}: {error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }
}
