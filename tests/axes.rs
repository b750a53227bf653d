//! Positions on several axes, held to transformers' own modules: ERNIE-4.5-VL's text model and three vision towers.

use condensed_rope::{Dtype, Frequencies, Layout, Pairing, Positions, Sections, cpu};
use testkit::golden::AXES;
use testkit::tolerance;

/// `[tokens, 2, head_dim]` of the golden file, turned by the CPU backend.
fn is_transformers_own(
    name: &str,
    frequencies: &Frequencies,
    pairing: Pairing,
    sections: Sections,
    base: f64,
) {
    let ids = AXES.named_i64s(&format!("{name}.ids"));
    let given = AXES.named_f32s(&format!("{name}.q"));
    let theirs = AXES.named_f32s(&format!("{name}.q_out"));
    let (dim, tokens) = (frequencies.rotary_dim(), ids.len() / sections.axes());
    let mut ours = given.clone();
    let q = cpu::Heads::in_place(&mut ours, Layout::thd(tokens, 2, dim));
    let positions = Positions::axes(&ids, sections);
    cpu::Rope::new(frequencies, pairing).rotate(Some(q), None, positions).expect("a valid call");

    let inv_freq: Vec<f64> = frequencies.inv_freq().collect();
    for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        let (row, channel) = (at / dim, at % dim);
        let (pair, partner) = match pairing {
            Pairing::HalfSplit => (channel % (dim / 2), (channel + dim / 2) % dim),
            _ => (channel / 2, channel ^ 1),
        };
        let id = ids[sections.axis(pair) * tokens + row / 2] as f64;
        // transformers' f32 angles: the exponent's rounding times ln base, the power's, and the product's.
        let off = id * inv_freq[pair] * (base.ln() + 9.0) * tolerance::unit_roundoff(Dtype::F32);
        let size = f64::from(given[at].abs() + given[row * dim + partner].abs());
        let allowed =
            size * (off + tolerance::COS_SIN + 4.0 * tolerance::unit_roundoff(Dtype::F32));
        let apart = (f64::from(*ours) - f64::from(*theirs)).abs();
        assert!(apart <= allowed, "{name} row {row} channel {channel}: {ours} is not {theirs}");
    }
    assert!(ours != given);
}

#[test]
fn height_and_width_in_turn_then_time_is_ernies() {
    let sections = Sections::height_width_then_time([20, 22, 22]).expect("64 pairs");
    let frequencies = Frequencies::new(128, 500_000.0).expect("valid");
    is_transformers_own("ernie4_5_vl", &frequencies, Pairing::Interleaved, sections, 500_000.0);
}

#[test]
fn vision_2d_is_qwen2_vls_and_llama4s() {
    for (name, dim, pairing) in
        [("qwen2_vl_vision", 80, Pairing::HalfSplit), ("llama4_vision", 88, Pairing::Interleaved)]
    {
        let frequencies = Frequencies::vision_2d(dim, 10_000.0).expect("valid");
        let sections = Sections::vision_2d(dim / 2).expect("few pairs");
        is_transformers_own(name, &frequencies, pairing, sections, 10_000.0);
    }
}

#[test]
fn vision_2d_in_turn_is_pixtrals() {
    let frequencies = Frequencies::vision_2d_in_turn(64, 10_000.0).expect("valid");
    let sections = Sections::vision_2d(32).expect("few pairs");
    is_transformers_own("pixtral_vision", &frequencies, Pairing::HalfSplit, sections, 10_000.0);
}

/// Whole pairs for either axis.
#[test]
fn vision_2d_needs_a_multiple_of_four() {
    use condensed_rope::Error;
    for given in [0, 2, 6, 42, 1026, 1028, usize::MAX] {
        let error = Err(Error::Vision2d { given });
        assert_eq!(Frequencies::vision_2d(given, 10_000.0), error);
        assert_eq!(Frequencies::vision_2d_in_turn(given, 10_000.0), error);
    }
    assert_eq!(Frequencies::vision_2d(4, 0.0), Err(Error::Base { given: 0.0 }));
    let smallest = Frequencies::vision_2d(4, 10_000.0).expect("valid");
    assert_eq!(smallest.inv_freq().collect::<Vec<_>>(), [1.0, 1.0]);
    let in_turn = Frequencies::vision_2d_in_turn(4, 10_000.0).expect("valid");
    assert_eq!(in_turn.inv_freq().collect::<Vec<_>>(), [1.0, 0.01]);
}
