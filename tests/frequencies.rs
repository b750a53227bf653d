//! Frequencies and FastChat's class: what they refuse, and how they compose.

use condensed_rope::{CondensedRotaryEmbedding, Error, Frequencies, MAX_HEAD_DIM};

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
