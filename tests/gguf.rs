//! GGUF files: of known models, written by ggml-org's own package (`tests/golden/gguf_files.py`), held to the same models'
//! config.json; and malformed ones.

#![cfg(feature = "config")]

use std::io::Cursor;

use condensed_rope::config::{Config, ConfigError, Explicit, Rotary};
use condensed_rope::{Pairing, RopeScaling, Sections};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use testkit::conformance::models;

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("golden/gguf/", $name, ".gguf")).as_slice()
    };
}

const FILES: [(&str, &[u8]); 7] = [
    ("llama_3_1_8b", file!("llama_3_1_8b")),
    ("qwen2_5_7b", file!("qwen2_5_7b")),
    ("phi_3_5_mini", file!("phi_3_5_mini")),
    ("gemma_3_4b", file!("gemma_3_4b")),
    ("glm_4_9b", file!("glm_4_9b")),
    ("qwen2_vl_7b", file!("qwen2_vl_7b")),
    ("deepseek_v3", file!("deepseek_v3")),
];

fn bytes(name: &str) -> Vec<u8> {
    FILES.iter().find(|(known, _)| *known == name).expect("a file").1.to_vec()
}

fn read(bytes: impl AsRef<[u8]>) -> Result<Config, ConfigError> {
    Config::from_gguf(Cursor::new(bytes))
}

fn inv_freq(rotary: &Rotary) -> Vec<f64> {
    rotary.schedule.frequencies().inv_freq().collect()
}

/// The same model by its config.json: alike but for llama's pairing, whose rows are in another order.
#[test]
fn files_are_what_their_config_json_is() {
    for name in ["llama_3_1_8b", "qwen2_5_7b", "glm_4_9b", "qwen2_vl_7b", "deepseek_v3"] {
        let (json, gguf) = (models::config(name), read(bytes(name)).expect("a file"));
        assert_eq!(gguf.groups.len(), 1, "{name}");
        let layers = gguf.num_layers.expect("a number of layers");
        assert_eq!(gguf.groups[0].indices, Some((0..layers).collect()), "{name}");
        let (theirs, ours) = (json.rotary(None).expect("alike"), gguf.rotary(None).expect("alike"));
        let shape = |r: &Rotary| (r.head_dim, r.rotary_offset, r.rotary_dim, r.sections);
        assert_eq!(shape(ours), shape(theirs), "{name}");
        let pairing = if name == "llama_3_1_8b" { Pairing::Interleaved } else { theirs.pairing };
        assert_eq!(ours.pairing, pairing, "{name}");
        let factors = [ours, theirs].map(|r| r.schedule.frequencies().factor());
        assert!((factors[0] - factors[1]).abs() < 1e-6, "{name}: {factors:?}");
        for (ours, theirs) in inv_freq(ours).iter().zip(inv_freq(theirs)) {
            // Llama 3's factors are 32-bit floats of 32-bit frequencies in the file.
            assert!((ours - theirs).abs() <= 2e-6 * theirs, "{name}: {ours} is not {theirs}");
        }
    }
}

#[test]
fn two_lists_are_longrope() {
    let config = read(bytes("phi_3_5_mini")).expect("a file");
    let rotary = config.rotary(None).expect("alike");
    let RopeScaling::LongRope(longrope) = rotary.schedule.scaling() else { panic!("LongRoPE") };
    assert_eq!(longrope.original_max_position_embeddings, 4096);
    assert_eq!((longrope.short_factor.len(), longrope.long_factor[47]), (48, 60.0));
    let factor = f64::from(rotary.schedule.frequencies().factor());
    assert!((factor - (1.0 + 32f64.ln() / 4096f64.ln()).sqrt()).abs() < 1e-6);
    assert_eq!(rotary.pairing, Pairing::HalfSplit);
}

#[test]
fn gemma_3_slides_by_another_base() {
    let config = read(bytes("gemma_3_4b")).expect("a file");
    let full: Vec<usize> = (0..34).filter(|layer| layer % 6 == 5).collect();
    for layer in 0..34 {
        let group = config.layer(layer).expect("a layer");
        let schedule = &group.rotary.as_ref().expect("rotates").schedule;
        let is_full = full.contains(&layer);
        let base = if is_full { 1e6 } else { 1e4 };
        assert_eq!((schedule.base(), group.layer_types[0] == "full_attention"), (base, is_full));
        assert_eq!(matches!(schedule.scaling(), RopeScaling::Linear(_)), is_full);
    }
}

/// Values of files written by hand, after the specification.
enum V {
    U32(u32),
    F32(f32),
    Text(&'static str),
    List(&'static [i32]),
    Flags(&'static [u8]),
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn file(pairs: &[(&str, V)]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        text(&mut out, key);
        match value {
            V::U32(n) => out.extend([4, *n].iter().flat_map(|n| n.to_le_bytes())),
            V::F32(n) => {
                out.extend(6u32.to_le_bytes());
                out.extend(n.to_le_bytes());
            }
            V::Text(value) => {
                out.extend(8u32.to_le_bytes());
                text(&mut out, value);
            }
            V::List(list) => {
                out.extend([9u32, 5].iter().flat_map(|n| n.to_le_bytes()));
                out.extend((list.len() as u64).to_le_bytes());
                out.extend(list.iter().flat_map(|n| n.to_le_bytes()));
            }
            V::Flags(list) => {
                out.extend([9u32, 7].iter().flat_map(|n| n.to_le_bytes()));
                out.extend((list.len() as u64).to_le_bytes());
                out.extend(*list);
            }
        }
    }
    out
}

/// A model of an architecture: eight layers, four heads of 64 channels.
fn model(architecture: &'static str, more: Vec<(&str, V)>) -> Vec<u8> {
    let key = |key: &str| format!("{architecture}.{key}");
    let sizes = [
        (key("block_count"), 8),
        (key("embedding_length"), 256),
        (key("attention.head_count"), 4),
        (key("context_length"), 4096),
    ];
    let mut pairs = vec![("general.architecture", V::Text(architecture))];
    pairs.extend(sizes.iter().map(|(key, n)| (key.as_str(), V::U32(*n))));
    let more: Vec<_> = more.into_iter().map(|(name, value)| (key(name), value)).collect();
    let mut keys: Vec<String> = Vec::new();
    let mut values = Vec::new();
    for (key, value) in more {
        keys.push(key);
        values.push(value);
    }
    pairs.extend(keys.iter().map(String::as_str).zip(values));
    file(&pairs)
}

#[test]
fn layers_are_told_apart() {
    let indices = |config: &Config, rotates: bool| -> Vec<usize> {
        let rotates = |layer: &usize| {
            config.layer(*layer).is_some_and(|group| group.rotary.is_some() == rotates)
        };
        (0..8).filter(rotates).collect()
    };
    for (architecture, more, without) in [
        ("llama", vec![], vec![]),
        ("smollm3", vec![], vec![3, 7]),
        ("cohere2", vec![("attention.sliding_window", V::U32(4096))], vec![3, 7]),
        ("exaone4", vec![], vec![]),
        ("exaone4", vec![("attention.sliding_window", V::U32(4096))], vec![3, 7]),
        (
            "exaone4",
            vec![
                ("attention.sliding_window", V::U32(4096)),
                ("attention.sliding_window_pattern", V::U32(2)),
            ],
            vec![1, 3, 5, 7],
        ),
        ("bloom", vec![], (0..8).collect()),
    ] {
        let config = read(model(architecture, more)).expect(architecture);
        assert_eq!(indices(&config, false), without, "{architecture}");
        assert_eq!(indices(&config, true).len(), 8 - without.len(), "{architecture}");
    }
    // Layers without key heads do not attend, and are in no group.
    let heads = V::List(&[0, 0, 2, 0, 0, 2, 0, 2]);
    let config = read(model("lfm2", vec![("attention.head_count_kv", heads)])).expect("read");
    assert_eq!(indices(&config, true), [2, 5, 7]);
    assert!(config.layer(0).is_none());
    let pattern = V::Flags(&[1, 1, 0, 1, 1, 0, 1, 1]);
    let more = vec![
        ("attention.sliding_window_pattern", pattern),
        ("attention.key_length", V::U32(512)),
        ("attention.key_length_swa", V::U32(256)),
        ("rope.freq_base", V::F32(1e6)),
    ];
    let config = read(model("gemma4", more)).expect("read");
    let heads: Vec<_> = (0..8)
        .map(|layer| config.layer(layer).expect("a layer").rotary.as_ref().expect("rotates"))
        .map(|rotary| (rotary.head_dim, rotary.schedule.base()))
        .collect();
    let (full, sliding) = ((512, 1e6), (256, 1e4));
    assert_eq!(heads, [sliding, sliding, full, sliding, sliding, full, sliding, sliding]);
}

#[test]
fn keys_are_read_or_named() {
    let refused = |architecture, more| {
        let error = read(model(architecture, more)).expect_err("refused");
        println!("{error}");
        error.to_string()
    };
    for (more, word) in [
        (vec![("rope.freq_bass", V::F32(1e4))], "llama.rope.freq_bass"),
        (vec![("rope.scaling.alpha", V::F32(1000.0))], "llama.rope.scaling.alpha"),
        (vec![("rope.scaling.type", V::Text("ntk"))], "llama.rope.scaling.type"),
        (vec![("rope.scaling.type", V::Text("yarn"))], "llama.rope.scaling.factor is missing"),
        (vec![("rope.scaling.type", V::Text("longrope"))], "rope_factors_long.weight is missing"),
        (vec![("rope.freq_base", V::Text("1e4"))], "llama.rope.freq_base"),
        (vec![("rope.freq_base", V::F32(f32::NAN))], "llama.rope.freq_base"),
        (vec![("rope.freq_base", V::F32(-1.0))], "base must be"),
        (vec![("rope.dimension_count", V::U32(63))], "llama.rope.dimension_count"),
        (vec![("rope.dimension_count", V::U32(66))], "llama.rope.dimension_count"),
        (vec![("rope.dimension_sections", V::List(&[8, 8, 8, 0]))], "dimension_sections"),
        (vec![("attention.head_count_kv", V::List(&[2, 2]))], "attention.head_count_kv"),
    ] {
        let error = refused("llama", more);
        assert!(error.contains(word), "{error}");
    }
    assert!(refused("my-own", vec![]).contains("my-own"));
    let asked = Explicit::pairing(Pairing::Interleaved);
    let mine = Config::from_gguf_with(Cursor::new(model("my-own", vec![])), asked).expect("read");
    assert_eq!(mine.rotary(None).expect("alike").pairing, Pairing::Interleaved);
    let asked = Explicit::pairing(Pairing::HalfSplit);
    let error = Config::from_gguf_with(Cursor::new(bytes("llama_3_1_8b")), asked);
    assert!(matches!(error, Err(ConfigError::Contradiction { .. })));

    let linear = vec![("rope.scale_linear", V::F32(4.0)), ("rope.scaling.finetuned", V::U32(1))];
    assert!(refused("qwen2", linear).contains("finetuned"));
    let linear = read(model("qwen2", vec![("rope.scale_linear", V::F32(4.0))])).expect("read");
    let scaling = linear.rotary(None).expect("alike").schedule.scaling().clone();
    assert!(matches!(scaling, RopeScaling::Linear(linear) if linear.factor == 4.0));
    let turns = vec![("rope.dimension_sections", V::List(&[12, 10, 10, 0]))];
    let config = read(model("qwen3vl", turns)).expect("read");
    let sections = Sections::interleaved([12, 10, 10]).expect("32 pairs");
    assert_eq!(config.rotary(None).expect("alike").sections, Some(sections));
    let none = read(model("qwen2", vec![("rope.dimension_sections", V::List(&[0, 0, 0, 0]))]));
    assert_eq!(none.expect("read").rotary(None).expect("alike").sections, None);
}

/// Cut at every byte, and with bytes of the head changed at random: an error or an answer, never a panic.
#[test]
fn malformed_files_are_errors() {
    for (name, file) in FILES {
        let end = file.len();
        // A file without tensors of factors is read up to its metadata's end.
        let whole = read(file).expect(name);
        for cut in 0..end {
            match read(&file[..cut]) {
                Err(ConfigError::Gguf { .. }) => {}
                Ok(config) => assert_eq!(config, whole, "{name} cut at {cut}"),
                Err(other) => panic!("{name} cut at {cut}: {other}"),
            }
        }
        assert!(matches!(read(&file[..200]), Err(ConfigError::Gguf { .. })));
        let mut rng = StdRng::seed_from_u64(end as u64);
        for _ in 0..4000 {
            let mut broken = file.to_vec();
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..end);
                broken[at] = rng.random();
            }
            if let Err(error) = read(&broken) {
                assert!(!error.to_string().contains('\n') || error.to_string().len() < 2000);
            }
        }
    }
    for (bytes, word) in [
        (&b""[..], "too early"),
        (b"GGU", "too early"),
        (b"GGML\0\0\0\0", "GGUF"),
        (b"GGUF\x01\0\0\0", "given 1"),
        (b"GGUF\0\0\0\x03", "big-endian"),
        (b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0", "at most"),
    ] {
        let error = read(bytes).expect_err("malformed").to_string();
        assert!(error.contains(word), "{error}");
    }
    let no_name = file(&[]);
    assert!(read(no_name).expect_err("nothing").to_string().contains("general.architecture"));
    let twice = file(&[("a", V::U32(1)), ("a", V::U32(2))]);
    assert!(read(twice).expect_err("twice").to_string().contains("twice"));
}
