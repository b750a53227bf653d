//! Norm, rotation and append.

use condensed_rope::{Dtype, Error, KvLayout, Layout, Pairing, Positions, Stored};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::append::{AppendCase, CacheCase, NormCase, ScaleOf, SlotsOf, To, check, random};
use crate::{Backend, Cpu, Values};

/// Everything at random: shapes, strides, types, targets, norms, caches, slots, positions.
pub fn random_calls(backend: &impl Backend) {
    let mut rng = StdRng::seed_from_u64(16);
    for _ in 0..1500 {
        check(backend, &random(&mut rng));
    }
}

/// Tokens of these heads, packed, in place, normalised, into pages of 16.
fn packed(tokens: usize, [q, kv]: [usize; 2], dim: usize, offset: usize) -> AppendCase {
    let row = (q + 2 * kv) * dim + offset;
    let view = |heads, at| Layout::thd(tokens, heads, dim).with_strides([0, row, dim]).at(at);
    let pages = KvLayout::nhd(tokens.div_ceil(16) + 1, 16, kv, dim);
    AppendCase {
        dtype: Dtype::BF16,
        pairing: Pairing::HalfSplit,
        rotary_dim: dim,
        bases: vec![(1e6, 1.0)],
        inverse: false,
        q: Some((view(q, offset), To::InPlace)),
        k: Some((view(kv, offset + q * dim), To::Nowhere)),
        v: Some(view(kv, offset + (q + kv) * dim)),
        packed: true,
        norm: NormCase { eps: 1e-6, unit_offset: false, of: [true, true] },
        cache: Some(CacheCase {
            stored: Stored::Element(Dtype::BF16),
            layouts: [Some(pages), Some(pages)],
            shared: false,
            scales: [ScaleOf::Value(1.0); 2],
            slots: SlotsOf::Ids(Values::I64((0..tokens as i64).map(|t| t * 7 % 17).collect())),
            reserved: 0,
        }),
        positions: Positions::consecutive(1000),
        specials: false,
        seed: tokens as u64,
    }
}

/// Slots of so many tokens, no two alike.
fn distinct(tokens: usize) -> SlotsOf {
    SlotsOf::Ids(Values::I64((0..tokens as i64).rev().collect()))
}

/// Every vector width of every type and pairing, by alignment, with as many query heads as any cut wants; and of heads half of
/// which rotates, which the kernels for runs do not take.
pub fn vectors_and_cuts(backend: &impl Backend) {
    for (heads, dim) in
        [([4, 1], 64), ([2, 1], 64), ([3, 2], 64), ([8, 2], 96), ([4, 2], 256), ([16, 2], 256)]
    {
        for (seed, dtype) in Dtype::ALL.into_iter().enumerate() {
            for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
                for (offset, rotary_dim) in [(0, dim), (1, dim), (2, dim), (4, dim), (0, dim / 2)] {
                    let case = packed(37, heads, dim, offset);
                    let case = AppendCase { dtype, pairing, rotary_dim, ..case };
                    for stored in [Stored::Element(dtype), Stored::Fp8E4M3, Stored::Fp8E5M2] {
                        let cache = case.cache.clone().map(|cache| {
                            let (slots, scales) = (distinct(37), [ScaleOf::Heads; 2]);
                            CacheCase { stored, slots, scales, ..cache }
                        });
                        check(backend, &AppendCase { cache, seed: seed as u64, ..case.clone() });
                    }
                }
            }
        }
    }
}

/// As many tokens in one run as every cut of a device of 132 multiprocessors wants: byte for byte the CPU's.
pub fn runs_of_any_size(backend: &impl Backend) {
    for tokens in [600, 1100, 2600, 4000, 8000, 30_000] {
        for (pairing, norm, stored) in [
            (Pairing::HalfSplit, true, Stored::Element(Dtype::BF16)),
            (Pairing::HalfSplit, true, Stored::Fp8E4M3),
            (Pairing::Interleaved, false, Stored::Fp8E5M2),
        ] {
            let case = packed(tokens, [4, 2], 128, 0);
            let scales = [ScaleOf::Heads, ScaleOf::Tensor(0.02)];
            let cache = case.cache.clone();
            let cache =
                cache.map(|cache| CacheCase { stored, scales, slots: distinct(tokens), ..cache });
            let norm = NormCase { of: [norm; 2], ..case.norm };
            let mut given = AppendCase { pairing, norm, cache, ..case }.build();
            let mut expected = given.clone();
            Cpu.append(&mut expected).expect("a valid call");
            backend.append(&mut given).expect("a valid call");
            let same = given.buffers == expected.buffers;
            assert!(same, "{}: {tokens} tokens, {pairing:?}, {stored:?}", backend.name());
        }
    }
}

/// The attention of models that engines run.
pub fn models(backend: &impl Backend) {
    // Heads of q and of k and v, head_dim, rotary_dim, whether they are normalised, and with an offset.
    for (heads, dim, rotary_dim, norm, unit_offset) in [
        ([32, 8], 128, 128, true, false),  // Qwen3-8B
        ([32, 8], 128, 128, false, false), // Llama-3.1-8B
        ([64, 8], 128, 128, false, false), // Llama-3.1-70B
        ([16, 8], 256, 256, true, true),   // Gemma-3-12b
        ([64, 8], 64, 64, false, false),   // gpt-oss-120b
        ([16, 2], 256, 64, true, true),    // Qwen3.5
        ([8, 1], 512, 128, true, false),   // as Gemma 4's global layers
        ([96, 8], 128, 64, true, false),   // GLM-4.5
    ] {
        for tokens in [1, 5] {
            let case = packed(tokens, heads, dim, 0);
            let cache =
                case.cache.clone().map(|cache| CacheCase { slots: distinct(tokens), ..cache });
            let norm = NormCase { unit_offset, of: [norm; 2], ..case.norm };
            check(backend, &AppendCase { rotary_dim, norm, cache, ..case });
        }
    }
    // DeepSeek-V3's latent cache: rows of 576, whose last 64 channels are the rotated key.
    for tokens in [1, 19] {
        let case = packed(tokens, [128, 1], 64, 0);
        let row = 128 * 64 + 64 + 512;
        let view =
            |heads, dim, at| Layout::thd(tokens, heads, dim).with_strides([0, row, dim]).at(at);
        let pages = |dim| KvLayout::nhd(3, 16, 1, dim).with_strides([16 * 576, 576, 576]);
        let cache = case.cache.clone().map(|cache| CacheCase {
            layouts: [Some(pages(64).at(512)), Some(pages(512))],
            shared: true,
            slots: distinct(tokens),
            ..cache
        });
        check(
            backend,
            &AppendCase {
                pairing: Pairing::Interleaved,
                q: Some((view(128, 64, 0), To::InPlace)),
                k: Some((view(1, 64, 128 * 64), To::Nowhere)),
                v: Some(view(1, 512, 129 * 64)),
                norm: NormCase { of: [false; 2], ..case.norm },
                cache,
                ..case
            },
        );
    }
}

/// What a token alone gives, of one key head and its query heads, is what all of them together give, bit for bit: sums have one
/// order, whatever the cut.
pub fn sharding(backend: &impl Backend) {
    let (tokens, heads, dim) = (9, [6, 3], 128);
    let case = packed(tokens, heads, dim, 0);
    let slots = SlotsOf::Ids(Values::I32((0..tokens as i32).collect()));
    let cache = case.cache.clone().map(|cache| CacheCase { slots, ..cache });
    let case = AppendCase { cache, seed: 5, ..case };
    let mut whole = case.build();
    let given = whole.clone();
    backend.append(&mut whole).expect("a valid call");
    for token in 0..tokens {
        for kv in 0..heads[1] {
            let narrowed = |layout: Layout, first: usize, count: usize| {
                let [_, row, head] = layout.strides();
                let at = layout.offset() + token * row + first * head;
                Layout::thd(1, count, dim).with_strides([0, row, head]).at(at)
            };
            let mut shard = given.clone();
            let of = &mut shard.case;
            of.q = case.q.clone().map(|(layout, to)| (narrowed(layout, 2 * kv, 2), to));
            of.k = case.k.clone().map(|(layout, to)| (narrowed(layout, kv, 1), to));
            of.v = case.v.map(|layout| narrowed(layout, kv, 1));
            let cache = of.cache.as_mut().expect("a case with a cache");
            cache.layouts = cache.layouts.map(|layout| {
                let layout = layout.expect("k and v");
                let [pages, size, ..] = layout.shape();
                Some(KvLayout::nhd(pages, size, 1, dim).with_strides(layout.strides()).at(kv * dim))
            });
            cache.slots = SlotsOf::Ids(Values::I32(vec![0]));
            shard.set_first_slot(token as i32);
            shard.set_start(1000 + token as i64);
            backend.append(&mut shard).expect("a valid call");
            let q = case.q.as_ref().expect("a case with q").0;
            let row = q.offset() + token * q.strides()[1] + 2 * kv * dim;
            let slot = (token * heads[1] + kv) * dim;
            shard.assert_same(&whole, shard.rows(), row..row + 2 * dim);
            for cache in shard.caches() {
                shard.assert_same(&whole, cache, slot..slot + dim);
            }
        }
    }
}

/// A view that ends an element past its buffer is refused, and nothing is written.
pub fn short_buffers(backend: &impl Backend) {
    let mut rng = StdRng::seed_from_u64(61);
    for _ in 0..100 {
        let built = random(&mut rng).build();
        for (buffer, size) in built.views() {
            let mut short = built.clone();
            short.shorten(buffer, size);
            let before = short.buffers.clone();
            let refused = backend.append(&mut short);
            let is_it = matches!(refused, Err(Error::OutOfBounds { .. }));
            assert!(is_it, "{}: buffer {buffer} of {:?}: {refused:?}", backend.name(), short.case);
            assert!(short.buffers == before, "{}: {:?}", backend.name(), short.case);
        }
    }
}
