//! Frequencies and FastChat's class: what they refuse, and how they compose.

use condensed_rope::{
    CondensedRotaryEmbedding, Error, Frequencies, LongRope, MAX_HEAD_DIM, Pairing, Scaled, Scaling,
    Sections, Yarn, cpu,
};

#[test]
fn bad_arguments_are_refused() {
    for given in [0, 1, 7, MAX_HEAD_DIM + 2, usize::MAX] {
        assert_eq!(Frequencies::new(given, 10_000.0), Err(Error::RotaryDim { given }));
    }
    for given in [0.0, -0.0, -1.0, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(Frequencies::new(8, given), Err(Error::Base { given }));
        let ratio = Frequencies::new(8, 10_000.0).expect("valid").condensed(given);
        assert_eq!(ratio, Err(Error::Ratio { given }));
        let embedding = CondensedRotaryEmbedding::new(8, given).map(|_| ());
        assert_eq!(embedding, Err(Error::Ratio { given }));
    }
    assert!(matches!(Frequencies::new(8, f64::NAN), Err(Error::Base { given }) if given.is_nan()));
    let nan = Frequencies::new(8, 10_000.0).expect("valid").condensed(f64::NAN);
    assert!(matches!(nan, Err(Error::Ratio { given }) if given.is_nan()));
    let factor = Frequencies::new(8, 10_000.0).expect("valid").with_factor(f32::INFINITY);
    assert_eq!(factor, Err(Error::Factor { given: f32::INFINITY }));
    assert_eq!(Frequencies::from_inv_freq(&[]), Err(Error::RotaryDim { given: 0 }));
    let fast = 2f64.powi(36);
    let list = Frequencies::from_inv_freq(&[1.0, fast]);
    assert_eq!(list, Err(Error::Frequency { pair: 1, given: fast }));
    let list = Frequencies::from_inv_freq_f32(&[f32::NAN]);
    assert!(matches!(list, Err(Error::Frequency { pair: 0, given }) if given.is_nan()));
    // Finite and above zero, but so small that pairs turn too fast to keep exact, or overflow.
    for ratio in [1e-12, f64::MIN_POSITIVE, 5e-324] {
        let condensed = Frequencies::new(8, 10_000.0).expect("valid").condensed(ratio);
        assert!(matches!(condensed, Err(Error::Frequency { pair: 0, .. })), "{condensed:?}");
    }
    let capacity = CondensedRotaryEmbedding::with_base(8, 1e300, usize::MAX, 10_000.0).map(|_| ());
    assert!(matches!(capacity, Err(Error::Capacity { given }) if given.is_infinite()));
}

#[test]
fn the_longest_table_is_an_error_not_a_panic() {
    let mut embedding = CondensedRotaryEmbedding::new(128, 8.0).expect("valid");
    let table = embedding.forward::<f32>(usize::MAX).map(|_| ());
    assert!(matches!(table, Err(Error::TooLarge { tensor: "cos", .. })), "{table:?}");
    let table = embedding.forward::<f32>(1 << 50).map(|_| ());
    assert_eq!(table, Err(Error::OutOfMemory { bytes: 1 << 59 }));
    assert_eq!(embedding.capacity(), 16_384.0, "a table that failed is not counted");
}

#[test]
fn every_finite_base_above_zero_works() {
    for base in [5e-324, 1e-300, 0.1, 1.0, 1e300, f64::MAX] {
        match Frequencies::new(4, base) {
            Ok(frequencies) => assert!(frequencies.inv_freq().all(f64::is_finite)),
            Err(error) => {
                assert!(matches!(error, Error::Frequency { .. }) && base < 1e-9, "{error}")
            }
        }
    }
}

#[test]
fn ratios_multiply_and_zero_and_negative_frequencies_work() {
    let twice = Frequencies::new(64, 10_000.0).and_then(|f| f.condensed(2.0)?.condensed(4.0));
    let once = Frequencies::new(64, 10_000.0).and_then(|f| f.condensed(8.0));
    assert_eq!(twice, once);
    let steps: Vec<u64> =
        Frequencies::from_inv_freq(&[0.0, 1.0, -1.0]).expect("valid").steps().collect();
    assert_eq!(steps[0], 0);
    assert_eq!(steps[1], steps[2].wrapping_neg());
}

/// Parameters out of range are errors with transformers' names, and whatever is accepted stays finite at
/// every length.
#[test]
fn scalings_refuse_what_they_cannot_hold() {
    let yarn = |change: fn(&mut Yarn)| {
        let mut yarn = Yarn::new(4.0, 4096);
        change(&mut yarn);
        Scaling::Yarn(yarn)
    };
    let longrope = |short: usize, long: usize| {
        Scaling::LongRope(LongRope {
            short_factor: vec![1.0; short],
            long_factor: vec![2.0; long],
            original_max_position_embeddings: 4096,
            attention_factor: 1.0,
        })
    };
    let scaled = |scaling: &Scaling| Scaled::new(16, 10_000.0, scaling.clone()).map(|_| ());
    for (scaling, key) in [
        (Scaling::Linear { factor: 0.5 }, "factor"),
        (Scaling::Linear { factor: f64::NAN }, "factor"),
        (Scaling::Ntk { factor: f64::INFINITY }, "factor"),
        (Scaling::Dynamic { factor: 1e300, max_position_embeddings: 2048 }, "factor"),
        (Scaling::Dynamic { factor: 2.0, max_position_embeddings: 0 }, "max_position_embeddings"),
        (
            Scaling::Proportional { factor: 1.0, partial_rotary_factor: 1.5 },
            "partial_rotary_factor",
        ),
        (yarn(|yarn| yarn.beta_fast = 1.0), "beta_fast"),
        (yarn(|yarn| yarn.beta_slow = 0.0), "beta_slow"),
        (yarn(|yarn| yarn.attention_factor = f64::NAN), "attention_factor"),
        (
            yarn(|yarn| yarn.original_max_position_embeddings = 0),
            "original_max_position_embeddings",
        ),
    ] {
        let error = scaled(&scaling).expect_err("out of range");
        assert!(matches!(error, Error::Scaling { key: named, .. } if named == key), "{error}");
    }
    let list = |key, given| Err(Error::ScalingList { key, expected: 8, given });
    assert_eq!(scaled(&longrope(7, 8)), list("short_factor", 7));
    assert_eq!(scaled(&longrope(8, 9)), list("long_factor", 9));
    // A base cannot be stretched where there is one pair.
    let one_pair = Scaled::new(2, 10_000.0, Scaling::Ntk { factor: 2.0 });
    assert!(matches!(one_pair, Err(Error::Scaling { key: "rotary_dim", .. })), "{one_pair:?}");

    let dynamic = Scaling::Dynamic { factor: 2f64.powi(53), max_position_embeddings: 1 };
    let mut scaled = Scaled::new(1024, 1e300, dynamic).expect("valid");
    assert!(scaled.set_length(usize::MAX));
    assert!(scaled.frequencies().inv_freq().all(f64::is_finite));
}

#[test]
fn sets_are_of_one_size() {
    let of = |dim| Frequencies::new(dim, 10_000.0).expect("valid");
    let refused = |sets: &[Frequencies]| cpu::Rope::of_sets(sets, Pairing::HalfSplit).map(|_| ());
    assert_eq!(refused(&[]), Err(Error::Sets { expected: 2, given: 0 }));
    assert_eq!(refused(&[of(64), of(128)]), Err(Error::Sets { expected: 64, given: 128 }));
    assert_eq!(refused(&[of(64), of(64)]), Ok(()));
    let too_many = Sections::blocks([200, 200, 200]);
    assert_eq!(too_many, Err(Error::Sections { expected: 512, given: [200; 3] }));
}
