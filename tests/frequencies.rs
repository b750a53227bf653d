//! Frequencies and FastChat's class: what they refuse, and how they compose.

use condensed_rope::{
    CondensedRotaryEmbedding, Dynamic, Error, Frequencies, FrequencySchedule, Layout, Linear,
    Llama3, LongRope, MAX_HEAD_DIM, Ntk, Pairing, PhaseWords, Positions, Proportional, RopeScaling,
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
    // 2^32 turns are the first that are too many, either way.
    let limit = std::f64::consts::TAU * 2f64.powi(32);
    let below = f64::from_bits(limit.to_bits() - 1);
    assert!(Frequencies::from_inv_freq(&[below, -below]).is_ok());
    for given in [limit, -limit] {
        let list = Frequencies::from_inv_freq(&[given]);
        assert_eq!(list, Err(Error::Frequency { pair: 0, given }));
    }
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
        RopeScaling::Yarn(yarn)
    };
    let longrope = |short: usize, long: usize| {
        RopeScaling::LongRope(LongRope::new(vec![1.0; short], vec![2.0; long], 4096))
    };
    let scaled =
        |scaling: &RopeScaling| FrequencySchedule::new(16, 10_000.0, scaling.clone()).map(|_| ());
    let linear = |factor| RopeScaling::Linear(Linear::new(factor));
    let dynamic = |factor, max| RopeScaling::Dynamic(Dynamic::new(factor, max));
    let llama3 = |change: fn(&mut Llama3)| {
        let mut llama3 = Llama3::new(8.0, 8192);
        change(&mut llama3);
        RopeScaling::Llama3(llama3)
    };
    let proportional = |factor, share| RopeScaling::Proportional(Proportional::new(factor, share));
    for (scaling, key) in [
        (linear(0.5), "factor"),
        (linear(f64::NAN), "factor"),
        (linear(2f64.powi(53) * 2.0), "factor"),
        (RopeScaling::Ntk(Ntk::new(f64::INFINITY)), "factor"),
        (dynamic(1e300, 2048), "factor"),
        (dynamic(2.0, 0), "max_position_embeddings"),
        (proportional(1.0, 1.5), "partial_rotary_factor"),
        (proportional(1.0, -0.1), "partial_rotary_factor"),
        (proportional(0.5, 1.0), "factor"),
        (llama3(|llama3| llama3.factor = 0.5), "factor"),
        (llama3(|llama3| llama3.low_freq_factor = 0.0), "low_freq_factor"),
        (llama3(|llama3| llama3.high_freq_factor = 0.999), "high_freq_factor"),
        (
            llama3(|llama3| llama3.original_max_position_embeddings = 0),
            "original_max_position_embeddings",
        ),
        (yarn(|yarn| yarn.factor = 0.0), "factor"),
        (yarn(|yarn| yarn.beta_fast = 0.999), "beta_fast"),
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
    let mut silent = LongRope::new(vec![1.0; 8], vec![1.0; 8], 4096);
    silent.attention_factor = 0.0;
    assert!(scaled(&RopeScaling::LongRope(silent)).is_err());
    // The ends of the ranges are within.
    for scaling in [linear(1.0), linear(2f64.powi(53)), proportional(1.0, 0.0), dynamic(1.0, 1)] {
        assert_eq!(scaled(&scaling), Ok(()), "{scaling:?}");
    }
    // A base cannot be stretched where there is one pair; YaRN's ramp wants one above 1.
    let one_pair = FrequencySchedule::new(2, 10_000.0, RopeScaling::Ntk(Ntk::new(2.0)));
    let flat = FrequencySchedule::new(16, 1.0, RopeScaling::Yarn(Yarn::new(4.0, 4096)));
    assert!(matches!(flat, Err(Error::Scaling { key: "rope_theta", .. })), "{flat:?}");
    assert!(matches!(one_pair, Err(Error::Scaling { key: "rotary_dim", .. })), "{one_pair:?}");

    let dynamic = dynamic(2f64.powi(53), 1);
    let mut scaled = FrequencySchedule::new(1024, 1e300, dynamic).expect("valid");
    assert!(scaled.set_length(usize::MAX));
    assert!(scaled.frequencies().inv_freq().all(f64::is_finite));
}

#[test]
fn sets_are_of_one_size() {
    let of = |dim| Frequencies::new(dim, 10_000.0).expect("valid");
    let refused =
        |sets: &[Frequencies]| cpu::Rope::with_frequency_sets(sets, Pairing::HalfSplit).map(|_| ());
    assert_eq!(refused(&[]), Err(Error::NoSets));
    assert_eq!(refused(&[of(64), of(128)]), Err(Error::SetRotaryDim { expected: 64, given: 128 }));
    assert_eq!(refused(&[of(64), of(64)]), Ok(()));
    let too_many = Sections::blocks([200, 200, 200]);
    assert_eq!(too_many, Err(Error::Sections { expected: 512, given: vec![200; 3] }));
}

/// A builder's calls commute: neither forgets what the other said, in a rope as in a list.
#[test]
fn ratio_and_factor_commute() {
    let plain = || Frequencies::new(16, 10_000.0).expect("valid");
    let first = plain().with_factor(1.5).and_then(|f| f.condensed(8.0)).expect("valid");
    let last = plain().condensed(8.0).and_then(|f| f.with_factor(1.5)).expect("valid");
    assert_eq!(first, last);
    assert_eq!(first.factor(), 1.5);
    assert_eq!(first.phase_words(), last.phase_words());
    let sine = |frequencies: &Frequencies| {
        let (mut cos, mut sin) = ([0f32; 16], [0f32; 16]);
        let rope = cpu::Rope::new(frequencies, Pairing::HalfSplit);
        rope.cos_sin(0, &mut cos, &mut sin).expect("one row");
        cos[0]
    };
    assert_eq!((sine(&first), sine(&last)), (1.5, 1.5));
    let schedule = |scaling| FrequencySchedule::new(16, 10_000.0, scaling).expect("valid");
    let llama3 =
        schedule(RopeScaling::Llama3(Llama3::new(8.0, 8192))).condensed(2.0).expect("may be");
    assert_eq!(llama3.ratio(), 2.0);
    assert_eq!(llama3.condensed(4.0).expect("may be").ratio(), 8.0);
}

/// Other frequencies reach a rope and its clones; what would not fit is refused, and changes nothing.
#[test]
fn a_ropes_frequencies_can_be_written_anew() {
    let frequencies = |base| Frequencies::new(16, base).expect("valid");
    let rope = cpu::Rope::new(&frequencies(10_000.0), Pairing::HalfSplit);
    let clone = rope.inverse();
    let row = |rope: &cpu::Rope| {
        let (mut cos, mut sin) = ([0f32; 16], [0f32; 16]);
        rope.cos_sin(77, &mut cos, &mut sin).expect("one row");
        (cos, sin)
    };
    let of = |base, rope: fn(cpu::Rope) -> cpu::Rope| {
        row(&rope(cpu::Rope::new(&frequencies(base), Pairing::HalfSplit)))
    };
    rope.set_frequencies(0, &frequencies(500.0)).expect("fits");
    assert_eq!(row(&rope), of(500.0, |rope| rope));
    assert_eq!(row(&clone), of(500.0, |rope| rope.inverse()));
    let loud = frequencies(9.0).with_factor(1.5).expect("finite");
    let refused = rope.set_frequencies(0, &loud);
    assert_eq!(refused, Err(Error::SetFactor { expected: 1.0, given: 1.5 }));
    let refused = rope.set_frequencies(1, &frequencies(9.0));
    assert_eq!(refused, Err(Error::SetIndex { count: 1, given: 1 }));
    let refused = rope.set_frequencies(0, &Frequencies::new(18, 9.0).expect("valid"));
    assert_eq!(refused, Err(Error::SetRotaryDim { expected: 16, given: 18 }));
    assert_eq!(row(&rope), of(500.0, |rope| rope));
}

/// A rope over words that somebody else owns turns as one that owns them, by what they say at each call.
#[test]
fn words_can_be_borrowed() {
    let frequencies = |base| Frequencies::new(16, base).expect("valid");
    let mut words = frequencies(10_000.0).phase_words().words().to_vec();
    let spec = condensed_rope::RopeSpec::new(16, Pairing::Interleaved).expect("valid");
    let address = words.as_mut_ptr() as u64;
    let borrow = |address, len| {
        // SAFETY: the words outlive the rope, where it takes them.
        unsafe { cpu::Rope::borrowing(address, len, spec) }
    };
    let rope = borrow(address, words.len()).expect("as many as one set has");
    let row = |rope: &cpu::Rope| {
        let (mut cos, mut sin) = ([0f32; 16], [0f32; 16]);
        rope.cos_sin(1 << 40, &mut cos, &mut sin).expect("one row");
        (cos, sin)
    };
    for base in [10_000.0, 500.0] {
        words.copy_from_slice(frequencies(base).phase_words().words());
        let own = cpu::Rope::from_words(frequencies(base).phase_words(), Pairing::Interleaved);
        assert_eq!(row(&rope), row(&own));
    }
    // The factor is the spec's, whatever the words say.
    let loud = frequencies(500.0).with_factor(2.0).expect("valid");
    let quiet = row(&rope);
    words.copy_from_slice(loud.phase_words().words());
    assert_eq!(row(&rope), quiet);
    let mut q = [1f32; 16];
    let heads = cpu::Heads::in_place(&mut q, Layout::thd(1, 1, 16));
    rope.rotate(Some(heads), None, Positions::consecutive(0)).expect("a valid call");
    assert_eq!(q, [1f32; 16]);
    assert_eq!(rope.set_frequencies(0, &frequencies(9.0)), Err(Error::BorrowedWords));
    let len = PhaseWords::len_of(16, 1).expect("valid");
    for given in [0, len - 1, len + 1, 2 * len] {
        let refused = borrow(address, given).map(|_| ());
        assert_eq!(refused, Err(Error::WordsLen { expected: len, given }));
    }
    let refused = borrow(0, len).map(|_| ());
    assert_eq!(refused, Err(Error::Null { tensor: "phase words" }));
    let refused = borrow(address + 4, len).map(|_| ());
    let tensor = "phase words";
    assert_eq!(refused, Err(Error::Alignment { tensor, expected: 8, given: address + 4 }));
}
