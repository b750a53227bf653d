//! The grids that other libraries test themselves with, run whole where a machine can, and the cases
//! that nobody tests.

use condensed_rope::{Dtype, Frequencies, Layout, Pairing, Positions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::case::packed_qkv;
use crate::{Backend, Case, Order, Values, check};

pub(crate) const PAIRINGS: [Pairing; 2] = [Pairing::HalfSplit, Pairing::Interleaved];

/// Checks all cases within the backend's budget, and every `SAMPLE`th of the larger ones on a
/// backend that has the memory. Says what it left out.
pub(crate) fn run(backend: &impl Backend, name: &str, cases: impl Iterator<Item = Case>) {
    const SAMPLE: usize = 97;
    const LARGEST: usize = 1 << 27;
    let (mut ran, mut large, mut left_out) = (0, 0, 0);
    for (i, mut case) in cases.enumerate() {
        case.seed = i as u64;
        let elements = case.elements();
        if elements <= backend.budget() {
            check(backend, &case);
            ran += 1;
        } else if backend.budget() >= 1 << 20 && i % SAMPLE == 0 && elements <= LARGEST {
            check(backend, &case);
            large += 1;
        } else {
            left_out += 1;
        }
    }
    println!(
        "{name} on {}: {ran} cases ran, {large} sampled of the large ones, {left_out} left out",
        backend.name()
    );
    assert!(ran > 0, "{name}: nothing ran");
}

/// Checks all cases of a grid that is small enough for a machine with memory; on others those that are. Says how many.
fn run_whole(backend: &impl Backend, name: &str, cases: &[Case]) {
    let mut ran = 0;
    for case in cases {
        if case.elements() <= backend.budget() * 64 {
            check(backend, case);
            ran += 1;
        }
    }
    println!("{name} on {}: {ran} of {} cases ran", backend.name(), cases.len());
    assert!(ran > 0, "{name}: nothing ran");
}

/// `test_rope.py` of FlashInfer: batches, lengths, offsets, partial rotation, packed QKV.
pub fn flashinfer(backend: &impl Backend) {
    let mut cases = Vec::new();
    for batch in [1, 19, 99, 989] {
        for length in [1, 4, 19, 204] {
            for q_heads in [8, 16] {
                for offset in [0, 15, 99] {
                    for head_dim in [64, 128, 256] {
                        for base in [10_000.0, 500_000.0] {
                            for quarters in 1..=4 {
                                for out_of_place in [false, true] {
                                    let [q, k] = packed_qkv(batch, length, [q_heads, 8], head_dim);
                                    let case = Case {
                                        base,
                                        packed: !out_of_place,
                                        dtype: Dtype::ALL[(cases.len() / 7) % 3],
                                        pairing: PAIRINGS[(cases.len() / 5) % 2],
                                        positions: Positions::consecutive(offset),
                                        ..Case::of(head_dim * quarters / 4, q, Some(k))
                                    };
                                    let copies = out_of_place;
                                    cases.push(if copies { case.out_of_place() } else { case });
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    run(backend, "FlashInfer's grid", cases.into_iter());
}

/// FlashInfer's table cases: head and rotary dimensions that are no power of two, random positions.
pub fn flashinfer_table(backend: &impl Backend) {
    let (h, i) = (Pairing::HalfSplit, Pairing::Interleaved);
    let rows = [
        (64, 64, 32, 8000.0, h, 32, 32, 1, 1),
        (256, 128, 4096, 10_000.0, h, 2, 512, 4, 2),
        (64, 32, 2048, 8432.0, h, 2, 199, 4, 1),
        (192, 128, 4096, 9231.0, h, 3, 231, 3, 2),
        (80, 64, 1024, 10_000.0, i, 4, 64, 2, 2),
        (112, 64, 2048, 12_000.0, h, 5, 77, 2, 1),
        (160, 96, 8192, 10_000.0, i, 2, 128, 6, 3),
    ];
    let mut rng = StdRng::seed_from_u64(1);
    let cases = rows.map(|(head, rotary, max, base, pairing, batch, length, q, kv)| Case {
        base,
        pairing,
        dtype: Dtype::BF16,
        positions: Positions::ids(Values::I64(
            (0..batch * length).map(|_| rng.random_range(0..max)).collect(),
        )),
        ..Case::of(
            rotary,
            Layout::thd(batch * length, q, head),
            Some(Layout::thd(batch * length, kv, head)),
        )
    });
    run(backend, "FlashInfer's table cases", cases.into_iter());
}

/// vLLM's `test_pos_encoding.py`: pairings, padded heads, odd head dimensions, with and without key.
pub fn vllm(backend: &impl Backend) {
    let mut rng = StdRng::seed_from_u64(2);
    let mut cases = Vec::new();
    for pairing in PAIRINGS {
        for order in Order::ALL {
            for length in [11, 8192] {
                for head_dim in [64, 80, 112, 120, 256] {
                    for rotary_dim in [head_dim, 32] {
                        for dtype in Dtype::ALL {
                            for with_key in [true, false] {
                                let layout = order.layout(5, length, 17, head_dim);
                                let ids = (0..5 * length).map(|_| rng.random_range(0..8192));
                                cases.push(Case {
                                    dtype,
                                    pairing,
                                    positions: Positions::ids(Values::I64(ids.collect())),
                                    ..Case::of(rotary_dim, layout, with_key.then_some(layout))
                                });
                            }
                        }
                    }
                }
            }
        }
    }
    run(backend, "vLLM's grid", cases.into_iter());
}

/// Liger's shapes, and TransformerEngine's lengths with full and half rotation.
pub fn liger_and_transformer_engine(backend: &impl Backend) {
    let mut cases = Vec::new();
    for dtype in Dtype::ALL {
        for (batch, seq, q, kv, head_dim) in [
            (3, 423, 73, 213, 92),
            (3, 423, 73, 155, 92),
            (1, 8192, 32, 8, 128),
            (1, 40, 73, 213, 92),
        ] {
            let [q, k] = [q, kv].map(|heads| Layout::bhsd(batch, heads, seq, head_dim));
            cases.push(Case { dtype, ..Case::of(head_dim, q, Some(k)) });
        }
        for seq in [2048, 4096] {
            for head_dim in [128, 256] {
                for rotary_dim in [head_dim, head_dim / 2] {
                    let layout = Layout::bshd(2, seq, 2, head_dim);
                    cases.push(Case { dtype, ..Case::of(rotary_dim, layout, None) });
                }
            }
        }
    }
    run_whole(backend, "Liger's and TransformerEngine's shapes", &cases);
}

/// Ratios, whole and fractional and below one, at positions up to 2^31 and below zero.
pub fn ratios_and_positions(backend: &impl Backend) {
    let ids =
        [0, 1, 2047, 4096, 32_767, 131_071, 1 << 20, (1 << 24) + 1, (1 << 31) - 1, -1, -70_000];
    let mut cases = Vec::new();
    for ratio in [1.0, 2.0, 2.5, 3.0, 4.0, 8.0, 16.0, 0.5] {
        for dtype in Dtype::ALL {
            for pairing in PAIRINGS {
                let [q, k] = [3, 2].map(|heads| Layout::thd(ids.len(), heads, 128));
                cases.push(Case {
                    dtype,
                    pairing,
                    ratio,
                    inverse: cases.len() % 3 == 2,
                    positions: Positions::ids(Values::I64(ids.to_vec())),
                    ..Case::of(128, q, Some(k))
                });
            }
        }
    }
    run(backend, "ratios and positions", cases.into_iter());
}

/// Rotary dimensions that are no power of two, at the start and at the end of the head, in place,
/// from every alignment that an element offset can give.
pub fn odd_rotary_dims(backend: &impl Backend) {
    let mut cases = Vec::new();
    for rotary_dim in [2, 6, 20, 24, 48, 64, 80, 96, 112, 120, 192, 576, 1024] {
        // Where heads are small, enough of them for every way to cut a launch.
        let tokens = if rotary_dim <= 64 { 640 } else { 3 };
        for dtype in Dtype::ALL {
            for pairing in PAIRINGS {
                for offset in 0..9 {
                    let head_dim = (rotary_dim + 2 * offset).min(1024);
                    let rotary_offset = if offset % 2 == 0 { 0 } else { head_dim - rotary_dim };
                    let view = |heads| {
                        Layout::thd(tokens, heads, head_dim).at(offset).rotate_from(rotary_offset)
                    };
                    let case = Case {
                        dtype,
                        pairing,
                        positions: Positions::consecutive(4000),
                        ..Case::of(rotary_dim, view(3), Some(view(1)))
                    };
                    // And with as many key heads, which are cut another way; in two sequences, and by one of several
                    // sets, which kernels of their own do.
                    let moved = |case: Case| if offset == 8 { case.out_of_place() } else { case };
                    if [24, 48, 64].contains(&rotary_dim) {
                        cases.push(moved(Case { k: Some(view(3)), ..case.clone() }));
                        let two = |heads| {
                            let layout = Layout::bshd(2, tokens.div_ceil(2), heads, head_dim);
                            layout.at(offset).rotate_from(rotary_offset)
                        };
                        cases.push(Case { q: Some(two(3)), k: Some(two(1)), ..case.clone() });
                        let other = |base| Frequencies::new(rotary_dim, base).expect("valid");
                        let sets = vec![other(500.0), other(90_000.0)];
                        let positions =
                            Positions::consecutive(4000).with_sets(Values::I32(vec![1]));
                        cases.push(moved(Case { sets, positions, ..case.clone() }));
                    }
                    cases.push(moved(case));
                }
            }
        }
    }
    run(backend, "odd rotary dimensions", cases.into_iter());
}

/// Every even rotary dimension, where vectors are as wide as the alignment of everything but the run of pairs
/// allows: in heads of a multiple of 16 channels, both pairings, in place and from an aligned copy.
pub fn every_rotary_dim(backend: &impl Backend) {
    let mut cases = Vec::new();
    for rotary_dim in (2..=130).step_by(2).chain([254, 510, 1022]) {
        let head_dim = usize::next_multiple_of(rotary_dim, 16);
        for dtype in Dtype::ALL {
            for pairing in PAIRINGS {
                let [q, k] = [2, 1].map(|heads| Layout::thd(3, heads, head_dim));
                let positions = Positions::consecutive(77);
                let case = Case { dtype, pairing, positions, ..Case::of(rotary_dim, q, Some(k)) };
                cases.push(Case { from: [Some(q), Some(k)], ..case.clone() });
                cases.push(case);
            }
        }
    }
    run(backend, "every rotary dimension", cases.into_iter());
}

/// q without k, and k without q: in place, copied, by ids.
pub fn alone(backend: &impl Backend) {
    let layout = Layout::bshd(2, 9, 5, 48);
    let mut cases = Vec::new();
    for dtype in Dtype::ALL {
        for pairing in PAIRINGS {
            let ids = Values::U32((0..18).map(|i| i * 911).collect());
            let positions = Positions::ids(ids);
            let q = Case { dtype, pairing, positions, ..Case::of(32, layout, None) };
            let k = Case { q: None, k: Some(layout), ..q.clone() };
            cases.extend([q.clone().out_of_place(), k.clone().out_of_place(), q, k]);
        }
    }
    run(backend, "q alone, k alone", cases.into_iter());
}

/// Heads, strides, rotary ranges of real models: q and k differ in head count, head dimension and
/// head stride.
pub fn model_shapes(backend: &impl Backend) {
    let mut cases = Vec::new();
    for dtype in Dtype::ALL {
        for (q, k, dim, rotary, pairing) in [
            (32, 32, 128, 128, Pairing::HalfSplit),
            (64, 8, 128, 128, Pairing::HalfSplit),
            (32, 8, 64, 64, Pairing::HalfSplit),
            (28, 4, 128, 128, Pairing::HalfSplit),
            (71, 1, 64, 64, Pairing::HalfSplit),
            (128, 8, 128, 128, Pairing::HalfSplit),
            (24, 8, 128, 96, Pairing::HalfSplit),
            (32, 2, 128, 64, Pairing::Interleaved),
            (16, 16, 256, 64, Pairing::Interleaved),
            (32, 32, 80, 20, Pairing::HalfSplit),
            (64, 64, 96, 24, Pairing::HalfSplit),
        ] {
            let case = Case::of(rotary, Layout::thd(5, q, dim), Some(Layout::thd(5, k, dim)));
            cases.push(Case { dtype, pairing, positions: Positions::consecutive(16_380), ..case });
        }
        // DeepSeek-V3: the last 64 of 192 and of 576.
        let mla = Case::of(
            64,
            Layout::thd(5, 128, 192).rotate_from(128),
            Some(Layout::thd(5, 1, 576).rotate_from(512)),
        );
        cases.push(Case { dtype, pairing: Pairing::Interleaved, ..mla });
        // q heads with gates between them, k heads without.
        let q = Layout::thd(5, 16, 128).with_strides([0, 16 * 256, 256]);
        let strided = Case::of(64, q, Some(Layout::thd(5, 4, 64)));
        cases.push(Case { dtype, ..strided });
    }
    run(backend, "shapes of real models", cases.into_iter());
}

/// Numbers of heads that threads share unevenly, in so many tokens that a launch takes each of its cuts: on a small device,
/// or, where there is the memory, on a large one.
pub fn shares_of_heads(backend: &impl Backend) {
    const HEADS: [[usize; 2]; 8] =
        [[32, 8], [5, 3], [8, 8], [1, 0], [0, 9], [13, 1], [24, 2], [7, 6]];
    let mut cases = Vec::new();
    let mut add = |tokens, heads: [usize; 2], head_dim, dtype, pairing| {
        let [q, k] = heads.map(|n| (n > 0).then_some(Layout::thd(tokens, n, head_dim)));
        let positions = Positions::consecutive(50);
        let layout = Layout::thd(tokens, 1, head_dim);
        cases.push(Case { dtype, pairing, positions, q, k, ..Case::of(head_dim, layout, None) });
    };
    for heads in HEADS {
        for tokens in [3, 16, 40, 100, 300] {
            for dtype in [Dtype::F16, Dtype::BF16] {
                for pairing in PAIRINGS {
                    add(tokens, heads, 64, dtype, pairing);
                }
            }
        }
    }
    if backend.budget() >= 1 << 20 {
        for (heads, tokens) in [
            ([32, 8], 700),
            ([32, 8], 1024),
            ([13, 3], 2600),
            ([32, 8], 2047),
            ([7, 17], 4090),
            ([32, 32], 2050),
            ([71, 1], 4096),
            ([3, 5], 65_536),
        ] {
            add(tokens, heads, 128, Dtype::BF16, PAIRINGS[tokens % 2]);
        }
    }
    run_whole(backend, "shares of heads", &cases);
}

/// Every kind of positions, of every type of ids.
pub fn positions(backend: &impl Backend) {
    let layout = |heads| Layout::bshd(3, 7, heads, 32);
    let ragged = |heads| Layout::thd(21, heads, 32);
    let narrow: Vec<i32> = (0..24).map(|i| (i * 7919) % 5000 - 100).collect();
    let wide: Vec<i64> = narrow.iter().map(|&id| i64::from(id) << 33).collect();
    // Those that are negative as an i32, too.
    let unsigned: Vec<u32> = narrow.iter().map(|&id| id as u32).collect();
    let every = |n: usize| {
        [
            Values::I32(narrow[..n].to_vec()),
            Values::I64(wide[..n].to_vec()),
            Values::U32(unsigned[..n].to_vec()),
        ]
    };
    let mut all =
        vec![(false, Positions::consecutive(-3)), (false, Positions::consecutive(i64::MAX - 2))];
    all.extend(every(21).map(|ids| (false, Positions::ids(ids))));
    all.extend(every(7).map(|ids| (false, Positions::shared_ids(ids))));
    all.extend(every(24).map(|ids| (false, Positions::strided_ids(ids, 8))));
    all.extend(every(13).map(|ids| (false, Positions::strided_ids(ids, 3))));
    all.extend(every(3).map(|starts| (false, Positions::starts(starts))));
    for cu_seqlens in [vec![0, 21], vec![0, 5, 5, 6, 20, 21], vec![2, 9, 15]] {
        let sequences = cu_seqlens.len() - 1;
        let cu_seqlens = Values::I32(cu_seqlens);
        all.push((true, Positions::ragged(cu_seqlens.clone())));
        all.extend(
            every(sequences)
                .map(|starts| (true, Positions::ragged_from(cu_seqlens.clone(), starts))),
        );
    }
    // cu_seqlens of any values: every token has a sequence.
    for cu_seqlens in [vec![30, 40], vec![9, 3, 1], vec![i32::MIN, i32::MAX, 5], vec![-5, -1]] {
        all.push((true, Positions::ragged(Values::I32(cu_seqlens))));
    }
    for (flat, positions) in all {
        let (q, k) = if flat { (ragged(2), ragged(1)) } else { (layout(2), layout(1)) };
        // Positions of 2^31 and more are past what f64 truth can say within the tolerance.
        let case = Case { dtype: Dtype::F32, positions, ..Case::of(32, q, Some(k)) };
        let call = case.build::<f32>();
        let [batch, seq] = if flat { [1, 21] } else { [3, 7] };
        let far =
            (0..batch * seq).any(|t| call.position(t / seq, t % seq, 0).unsigned_abs() > 1 << 31);
        if far { check_bits_only(backend, &case) } else { check(backend, &case) }
    }
}

/// For positions so far out that f64 cannot say the truth: the bits of one call with ids.
fn check_bits_only(backend: &impl Backend, case: &Case) {
    let mut call = case.build::<f32>();
    let [batch, seq, ..] = case.q.expect("cases with q").shape();
    let ids = (0..batch * seq).map(|t| call.position(t / seq, t % seq, 0)).collect();
    let mut by_ids =
        Case { positions: Positions::ids(Values::I64(ids)), ..case.clone() }.build::<f32>();
    backend.rotate(&mut call).expect("a valid call");
    crate::Cpu.rotate(&mut by_ids).expect("a valid call");
    call.assert_same_bits(&by_ids, &format!("{} on {case:?}", backend.name()));
}

/// Everything at random: shapes, strides, offsets of q, of k and of their sources, kinds of positions,
/// factors, directions.
pub fn random(backend: &impl Backend) {
    let mut rng = StdRng::seed_from_u64(3);
    let cases = (0..1500).map(|_| {
        let [batch, seq] = [rng.random_range(1..4), rng.random_range(1..9)];
        let [q_heads, k_heads] = [rng.random_range(0..6), rng.random_range(0..4)];
        let rotary_dim: usize = 2 * rng.random_range(1..65);
        // Alignments of every width, apart for each tensor.
        let some = |rng: &mut StdRng| [0, 1, 2, 4, 8, 16][rng.random_range(0..6)];
        let view = |rng: &mut StdRng, heads: usize, head_dim: usize, rotary_offset: usize| {
            let head = head_dim + some(rng);
            let (tight_token, tight_head) = (heads.max(1) * head, seq * head);
            let strides = if rng.random_bool(0.5) {
                let token = tight_token + some(rng);
                [seq * token + some(rng), token, head]
            } else {
                let stride = tight_head + some(rng);
                [heads.max(1) * stride + some(rng), head, stride]
            };
            let layout = Layout::bshd(batch, seq, heads, head_dim).with_strides(strides);
            layout.at(some(rng)).rotate_from(rotary_offset)
        };
        let tensor = |rng: &mut StdRng, heads: usize| {
            let rotary_offset: usize = rng.random_range(0..4) * rng.random_range(0..3);
            let head_dim: usize = rotary_dim + rotary_offset + rng.random_range(0..5);
            let head_dim =
                if rng.random_bool(0.3) { head_dim.next_multiple_of(16) } else { head_dim };
            let to = view(rng, heads, head_dim, rotary_offset);
            (to, view(rng, heads, head_dim, rotary_offset))
        };
        let ((q, q_from), (k, k_from)) = (tensor(&mut rng, q_heads), tensor(&mut rng, k_heads));
        let tokens = batch * seq;
        let ids = |n: usize, rng: &mut StdRng| match rng.random_range(0..3) {
            0 => Values::I32((0..n).map(|_| rng.random_range(-5000..200_000)).collect()),
            1 => Values::I64((0..n).map(|_| rng.random_range(-5000..200_000)).collect()),
            _ => Values::U32((0..n).map(|_| rng.random_range(0..200_000)).collect()),
        };
        let positions = match rng.random_range(0..5) {
            0 => Positions::ids(ids(tokens, &mut rng)),
            1 => Positions::shared_ids(ids(seq, &mut rng)),
            2 => Positions::starts(ids(batch, &mut rng)),
            3 => Positions::strided_ids(ids(tokens + 2 * batch, &mut rng), seq + 2),
            _ => Positions::consecutive(rng.random_range(-100..100_000)),
        };
        let copies = rng.random_bool(0.4);
        let (with_q, with_k) =
            [(true, true), (true, true), (true, false), (false, true)][rng.random_range(0..4)];
        Case {
            dtype: Dtype::ALL[rng.random_range(0..3)],
            pairing: PAIRINGS[rng.random_range(0..2)],
            base: [10_000.0, 500_000.0, 1.5, 0.9][rng.random_range(0..4)],
            ratio: rng.random_range(0.3..20.0),
            factor: [1.0, 1.0, 1.19, -0.5, 0.0][rng.random_range(0..5)],
            inverse: rng.random_bool(0.3),
            q: with_q.then_some(q),
            k: with_k.then_some(k),
            from: [(copies && with_q).then_some(q_from), (copies && with_k).then_some(k_from)],
            positions,
            ..Case::of(rotary_dim, q, None)
        }
    });
    run(backend, "random calls", cases.collect::<Vec<_>>().into_iter());
}
