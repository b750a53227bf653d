//! The CPU backend held to what other code gave: mpmath, FastChat, transformers. The GPU is held to
//! the CPU backend's bits, so this holds it too.

use condensed_rope::{
    CondensedRotaryEmbedding, Dtype, Element, Frequencies, Layout, Pairing, Positions, QkNorm, cpu,
};
use serde_json::Value;
use testkit::golden::{
    EXACT, FASTCHAT, LLAMA, NORMS, Stored, dtype, f32_angle_error, number, size,
};
use testkit::{tolerance, with_dtype};

/// Every phase step is the nearest 64-bit fraction of a turn.
#[test]
fn steps_are_exact() {
    for (i, case) in EXACT.cases().iter().enumerate() {
        let frequencies = Frequencies::new(size(case, "dim"), number(case, "base"))
            .and_then(|f| f.condensed(number(case, "ratio")))
            .expect("valid");
        let steps: Vec<i64> = frequencies.steps().map(|step| step as i64).collect();
        assert_eq!(steps, EXACT.i64s(i, "steps"), "{case}");
    }
}

/// cos and sin are within 1e-7 of the truth at every position up to 2^31, either way.
#[test]
fn cos_and_sin_are_exact_at_every_position() {
    let positions = EXACT.positions();
    let mut worst = 0.0f64;
    for (i, case) in EXACT.cases().iter().enumerate() {
        let dim = size(case, "dim");
        let frequencies = Frequencies::new(dim, number(case, "base"))
            .and_then(|f| f.condensed(number(case, "ratio")))
            .expect("valid");
        let rope = cpu::Rope::new(&frequencies, Pairing::Interleaved);
        let exact = [EXACT.f64s(i, "cos"), EXACT.f64s(i, "sin")];
        for (row, &position) in positions.iter().enumerate() {
            let (mut cos, mut sin) = (vec![0f32; dim], vec![0f32; dim]);
            rope.cos_sin(position, &mut cos, &mut sin).expect("one row");
            for j in 0..dim / 2 {
                for (got, exact) in [&cos, &sin].into_iter().zip(&exact) {
                    let error = (f64::from(got[2 * j]) - exact[row * dim / 2 + j]).abs();
                    assert!(
                        error < tolerance::COS_SIN,
                        "{case} pair {j} at {position}: off by {error:e}"
                    );
                    worst = worst.max(error);
                }
            }
        }
    }
    println!("largest error of cos and sin: {worst:e}");
}

/// FastChat's shapes, capacity and growth; its values within the error of its f32 angles.
#[test]
fn tables_are_fastchats() {
    for (i, case) in FASTCHAT.cases().iter().enumerate() {
        with_dtype!(dtype(case), tables_are_fastchats_as(i, case));
    }
}

fn tables_are_fastchats_as<T: Stored>(i: usize, case: &Value) {
    let (dim, seq_len) = (size(case, "dim"), size(case, "seq_len"));
    let mut embedding = CondensedRotaryEmbedding::with_base(
        dim,
        number(case, "ratio"),
        size(case, "max_position_embeddings"),
        number(case, "base"),
    )
    .expect("valid");
    assert_eq!(embedding.capacity(), number(case, "capacity"), "{case}");
    let table = embedding.forward::<T>(seq_len).expect("a table");
    assert_eq!(embedding.capacity(), number(case, "grown"), "{case}");
    assert_eq!(serde_json::json!(table.shape), case["shape"], "{case}");

    let inv_freq: Vec<f64> = embedding.frequencies().inv_freq().collect();
    let theirs = [FASTCHAT.values::<T>(i, "cos"), FASTCHAT.values::<T>(i, "sin")];
    for (row, position) in FASTCHAT.i64s(i, "rows").into_iter().enumerate() {
        for channel in 0..dim {
            let angle = position as f64 * inv_freq[channel % (dim / 2)];
            let at = position as usize * dim + channel;
            for (ours, theirs) in [&table.cos, &table.sin].into_iter().zip(&theirs) {
                let (ours, theirs) = (ours[at].value(), theirs[row * dim + channel].value());
                // Both were rounded to T; ours was exact before, theirs had f32 angles.
                let angles = f32_angle_error(angle) + 2.0 * tolerance::COS_SIN;
                let allowed = 2.0 * tolerance::stored(T::DTYPE, 1.0, angles);
                assert!(
                    (ours - theirs).abs() <= allowed,
                    "{case} row {position} channel {channel}: {ours} is not {theirs} within {allowed:e}"
                );
            }
        }
    }
}

/// The two faults of FastChat's class that ours does not have: a table made in a narrow type is not
/// rounded for good, and growth in f16 gives no NaN.
#[test]
fn growth_in_a_narrow_type_leaves_nothing_behind() {
    let mut grown = CondensedRotaryEmbedding::new(128, 8.0).expect("valid");
    let narrow = grown.forward::<half::f16>(70_000).expect("a table");
    assert!(narrow.cos.iter().chain(&narrow.sin).all(|x| !x.is_nan()));
    let wide = grown.forward::<f32>(70_000).expect("a table");
    let fresh = CondensedRotaryEmbedding::new(128, 8.0).and_then(|mut e| e.forward::<f32>(70_000));
    assert_eq!(Ok(wide), fresh);
}

/// transformers' Llama rotation within the error of its f32 angles, tables and products.
#[test]
fn rotations_are_llamas() {
    for (i, case) in LLAMA.cases().iter().enumerate() {
        with_dtype!(dtype(case), rotations_are_llamas_as(i, case));
    }
}

fn rotations_are_llamas_as<T: Stored>(i: usize, case: &Value) {
    let dim = size(case, "head_dim");
    let frequencies = Frequencies::new(dim, number(case, "base"))
        .and_then(|f| f.condensed(number(case, "factor")))
        .expect("valid");
    let ids = LLAMA.i64s(i, "ids");
    let (batch, seq) = (2, ids.len() / 2);
    let [mut q, mut k] = ["q", "k"].map(|name| LLAMA.values::<T>(i, name));
    let heads = [size(case, "heads"), size(case, "kv_heads")];
    let layouts = heads.map(|heads| Layout::bhsd(batch, heads, seq, dim));
    cpu::Rope::new(&frequencies, Pairing::HalfSplit)
        .rotate(
            Some(cpu::Heads::in_place(&mut q, layouts[0])),
            Some(cpu::Heads::in_place(&mut k, layouts[1])),
            Positions::ids(&ids),
        )
        .expect("a valid call");
    let inv_freq: Vec<f64> = frequencies.inv_freq().collect();
    for ((ours, name), heads) in [q, k].iter().zip(["q", "k"]).zip(heads) {
        let given = LLAMA.values::<T>(i, name);
        let theirs = LLAMA.values::<T>(i, &format!("{name}_out"));
        for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let (channel, s, b) = (at % dim, at / dim % seq, at / dim / seq / heads);
            let partner = at - channel + (channel + dim / 2) % dim;
            let size = given[at].value().abs() + given[partner].value().abs();
            let angle = ids[b * seq + s] as f64 * inv_freq[channel % (dim / 2)];
            // Their tables and products are rounded to T; their sum once more, as is our result.
            let theirs_off = f32_angle_error(angle) + 2.0 * tolerance::unit_roundoff(T::DTYPE);
            let allowed = size * (theirs_off + tolerance::COS_SIN)
                + 2.0 * tolerance::stored(T::DTYPE, size, 0.0);
            let (ours, theirs) = (ours.value(), theirs.value());
            assert!(
                (ours - theirs).abs() <= allowed,
                "{case} {name}[{at}]: {ours} is not {theirs} within {allowed:e}"
            );
        }
    }
}

/// A checkpoint's own f32 list reproduces the frequencies that its model was trained with.
#[test]
fn a_callers_own_inv_freq_is_taken_as_it_is() {
    for (i, case) in LLAMA.cases().iter().enumerate() {
        let list = LLAMA.f32s(i, "inv_freq");
        let frequencies = Frequencies::from_inv_freq_f32(&list).expect("valid");
        let kept: Vec<f32> = frequencies.inv_freq().map(|f| f as f32).collect();
        assert_eq!(kept, list);
        let exact = Frequencies::new(size(case, "head_dim"), number(case, "base"))
            .and_then(|f| f.condensed(number(case, "factor")))
            .expect("valid");
        for (theirs, ours) in frequencies.inv_freq().zip(exact.inv_freq()) {
            let roundings = 4.0 * tolerance::unit_roundoff(Dtype::F32);
            assert!((theirs / ours - 1.0).abs() <= roundings, "{theirs} is not {ours}");
        }
    }
}

/// transformers' Qwen 3 and Gemma 3 modules, at position 0, where nothing turns. In f32 theirs sums in another order; in
/// bf16 theirs rounds once (Gemma 3) or twice (Qwen 3: before the weight, too), and ours once.
#[test]
fn norms_are_transformers_own() {
    fn run<T: Element>(model: &str, dim: usize, roundings: f64) {
        let kind = if T::DTYPE == Dtype::F32 { "" } else { ".bf16" };
        let named = |name: &str| NORMS.named_f32s(&format!("{model}{kind}.{name}"));
        let narrow = |list: Vec<f32>| list.into_iter().map(T::narrow).collect::<Vec<T>>();
        let (mut x, weights, expected) =
            (narrow(named("x")), narrow(named("weight")), named("out"));
        let rows = x.len() / dim;
        let rope = cpu::Rope::new(&Frequencies::new(dim, 1e6).expect("valid"), Pairing::HalfSplit);
        let norm = QkNorm::rms(1e-6).q(&weights);
        let norm = if model == "gemma3" { norm.unit_offset() } else { norm };
        let heads = cpu::Heads::in_place(&mut x, Layout::bshd(1, 1, rows, dim));
        let call = cpu::Append::new(Some(heads.into()), None, None).with_norm(norm);
        rope.rotate_append(call, Positions::consecutive(0)).expect("a valid call");
        for (i, (got, expected)) in x.iter().zip(expected).enumerate() {
            let (got, expected) = (f64::from(got.widen()), f64::from(expected));
            let before = expected.abs() * 2.0 * tolerance::norm(dim);
            let allowed = roundings * tolerance::stored(T::DTYPE, expected, before);
            assert!((got - expected).abs() <= allowed, "{model} {i}: {got} is not {expected}");
        }
    }
    for (model, dim, roundings) in [("qwen3", 128, 4.0), ("gemma3", 256, 2.0)] {
        run::<f32>(model, dim, 2.0);
        run::<half::bf16>(model, dim, roundings);
    }
}
