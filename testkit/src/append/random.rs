//! Cases at random.

use condensed_rope::{Dtype, KvLayout, Layout, Pairing, Positions, Sections, Stored};
use rand::Rng;
use rand::rngs::StdRng;

use super::{AppendCase, CacheCase, NormCase, ScaleOf, SlotsOf, To};
use crate::Values;

/// A number of elements by which something is out of step: alignments of every width.
fn some(rng: &mut StdRng) -> usize {
    [0, 0, 0, 1, 2, 4, 8, 16][rng.random_range(0..8)]
}

fn view(rng: &mut StdRng, [batch, seq]: [usize; 2], heads: usize, dim: usize) -> Layout {
    let head = dim + some(rng);
    let strides = if rng.random_bool(0.6) {
        let token = heads.max(1) * head + some(rng);
        [seq * token + some(rng), token, head]
    } else {
        let stride = seq * head + some(rng);
        [heads.max(1) * stride + some(rng), head, stride]
    };
    Layout::bshd(batch, seq, heads, dim).with_strides(strides).at(some(rng))
}

fn cache(rng: &mut StdRng, pages: usize, size: usize, heads: usize, dim: usize) -> KvLayout {
    let row = dim + some(rng);
    let strides = if rng.random_bool(0.5) {
        let slot = heads * row + some(rng);
        [size * slot + some(rng), slot, row]
    } else {
        let head = size * row + some(rng);
        [heads * head + some(rng), row, head]
    };
    KvLayout::nhd(pages, size, heads, dim).with_strides(strides).at(some(rng))
}

fn scale(rng: &mut StdRng) -> ScaleOf {
    match rng.random_range(0..3) {
        0 => ScaleOf::Value(rng.random_range(0.01..3.0)),
        1 => ScaleOf::Tensor(rng.random_range(0.001..0.1)),
        _ => ScaleOf::Heads,
    }
}

/// A case of any shape that the call takes.
pub fn random(rng: &mut StdRng) -> AppendCase {
    let dtype = Dtype::ALL[rng.random_range(0..3)];
    let pairing = [Pairing::HalfSplit, Pairing::Interleaved][rng.random_range(0..2)];
    let [batch, seq] = [rng.random_range(1..4), rng.random_range(1..7)];
    let dims = [2, 6, 16, 40, 64, 64, 80, 96, 128, 128, 128, 192, 256, 512, 1024];
    let dim: usize = dims[rng.random_range(0..dims.len())];
    let rotary_dim = if rng.random_bool(0.5) { dim } else { 2 * rng.random_range(1..=dim / 2) };
    let room = dim - rotary_dim;
    let before = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..=room) };
    let before = if rng.random_bool(0.5) { before / 8 * 8 } else { before };
    let [q_heads, kv_heads] = [rng.random_range(1..10), rng.random_range(1..4)];
    let v_dim = if rng.random_bool(0.8) { dim } else { 2 * rng.random_range(1..=256) };
    let v_heads = if rng.random_bool(0.9) { kv_heads } else { rng.random_range(1..4) };
    let tokens = [batch, seq];
    let packed = rng.random_bool(0.25);
    let has_cache = rng.random_bool(0.8);
    let has_v = has_cache && rng.random_bool(0.9);
    let has_q = rng.random_bool(0.9);
    let (q, k, v);
    if packed {
        let row = q_heads * dim + kv_heads * dim + v_heads * v_dim + some(rng);
        let strides = |dim| [seq * row, row, dim];
        let offset = some(rng);
        let at = |heads, dim, first: usize| {
            Layout::bshd(batch, seq, heads, dim).with_strides(strides(dim)).at(offset + first)
        };
        let to = if has_cache && rng.random_bool(0.5) { To::Nowhere } else { To::InPlace };
        q = has_q.then(|| (at(q_heads, dim, 0).rotate_from(before), To::InPlace));
        k = Some((at(kv_heads, dim, q_heads * dim).rotate_from(before), to));
        v = has_v.then(|| at(v_heads, v_dim, (q_heads + kv_heads) * dim));
    } else {
        let tensor = |rng: &mut StdRng, heads, nowhere: bool, fp8: bool| {
            let from = view(rng, tokens, heads, dim).rotate_from(before);
            let to = view(rng, tokens, heads, dim).rotate_from(before);
            let to = match rng.random_range(0..4) {
                0 => To::Elsewhere(to),
                1 if nowhere => To::Nowhere,
                1 if fp8 => {
                    let stored = [Stored::Fp8E4M3, Stored::Fp8E5M2][rng.random_range(0..2)];
                    To::Fp8(stored, to, scale(rng))
                }
                _ => To::InPlace,
            };
            (from, to)
        };
        q = has_q.then(|| tensor(rng, q_heads, false, true));
        k = (has_cache || !has_q || rng.random_bool(0.7))
            .then(|| tensor(rng, kv_heads, has_cache, false));
        v = has_v.then(|| view(rng, tokens, v_heads, v_dim));
    }
    let count = batch * seq;
    let ids = |rng: &mut StdRng, n: usize| match rng.random_range(0..3) {
        0 => Values::I32((0..n).map(|_| rng.random_range(-50..20_000)).collect()),
        1 => Values::I64((0..n).map(|_| rng.random_range(-50..20_000)).collect()),
        _ => Values::U32((0..n).map(|_| rng.random_range(0..20_000)).collect()),
    };
    let mut positions = match rng.random_range(0..6) {
        0 | 1 => Positions::ids(ids(rng, count)),
        2 => Positions::shared_ids(ids(rng, seq)),
        3 => Positions::starts(ids(rng, batch)),
        4 => {
            let half = rotary_dim / 2;
            let first = rng.random_range(0..=half);
            let sections = Sections::blocks([first, half - first]).expect("small");
            Positions::axes(ids(rng, 2 * count), sections)
        }
        _ => Positions::consecutive(rng.random_range(-3..1000)),
    };
    let mut bases = vec![([10_000.0, 1e6][rng.random_range(0..2)], 1.0)];
    if rng.random_bool(0.2) {
        bases.push((500.0, 1.19));
        positions =
            positions.with_sets(Values::I32((0..batch).map(|_| rng.random_range(-1..3)).collect()));
    }
    let by_axes = matches!(positions.kind(), condensed_rope::PositionKind::Axes { .. });
    let cache = has_cache.then(|| {
        let (pages, size) = (rng.random_range(0..6), [1, 3, 16][rng.random_range(0..3)]);
        let slots = pages * size;
        let shared = has_v && v_heads == kv_heads && rng.random_bool(0.3);
        let layouts = if shared {
            // Side by side in rows of both.
            let (row, heads) = (dim + v_dim + some(rng), kv_heads);
            let strides = [size * heads * row, heads * row, row];
            let first = some(rng);
            let of = |heads, dim, at| {
                KvLayout::nhd(pages, size, heads, dim).with_strides(strides).at(first + at)
            };
            [Some(of(kv_heads, dim, 0)), Some(of(v_heads, v_dim, dim))]
        } else {
            let k = cache(rng, pages, size, kv_heads, dim);
            [Some(k), has_v.then(|| cache(rng, pages, size, v_heads, v_dim))]
        };
        let stored = match rng.random_range(0..4) {
            0 => Stored::Fp8E4M3,
            1 => Stored::Fp8E5M2,
            _ => Stored::Element(dtype),
        };
        let by_table = !by_axes && rng.random_bool(0.25);
        let given = if by_table {
            let width = rng.random_range(0..5);
            let row_stride = width + rng.random_range(0..3);
            let n = batch * row_stride;
            let page = |rng: &mut StdRng| match rng.random_range(0..6) {
                0 => [-1, -7, pages as i64, 1 << 31, 1 << 40, i64::MIN][rng.random_range(0..6)],
                _ => rng.random_range(0..pages.max(1)) as i64,
            };
            let mut all: Vec<i64> = (0..n).map(|_| page(rng)).collect();
            distinct(&mut all);
            SlotsOf::Table { pages: as_ids(rng, all), width, row_stride }
        } else {
            // Distinct where they are valid, so that there is one answer.
            let mut free: Vec<i64> = (0..slots as i64).collect();
            let n = count - if rng.random_bool(0.2) { rng.random_range(0..=count) } else { 0 };
            let all = (0..n).map(|_| {
                let bad = [-1, slots as i64, 1 << 31, 1 << 32, 1 << 40, i64::MIN, i64::MAX];
                if free.is_empty() || rng.random_bool(0.2) {
                    bad[rng.random_range(0..bad.len())]
                } else {
                    free.swap_remove(rng.random_range(0..free.len()))
                }
            });
            let all: Vec<i64> = all.collect();
            SlotsOf::Ids(as_ids(rng, all))
        };
        let reserved = if rng.random_bool(0.3) { rng.random_range(0..=slots) } else { 0 };
        let scales = [scale(rng), scale(rng)];
        CacheCase { stored, layouts, shared, scales, slots: given, reserved }
    });
    if cache.as_ref().is_some_and(|cache| matches!(cache.slots, SlotsOf::Table { .. })) {
        // Positions that the table has, and of which no two are one.
        positions = match rng.random_range(0..3) {
            0 => Positions::consecutive(rng.random_range(-2..40)),
            1 => Positions::starts(Values::I64(
                (0..batch).map(|_| rng.random_range(-2..40)).collect(),
            )),
            _ => Positions::ids(Values::I32(
                (0..count).map(|t| (t % seq) as i32 * 3 + (t / seq) as i32).collect(),
            )),
        };
    }
    let norm = NormCase {
        eps: [1e-6, 1e-5, 1e-12][rng.random_range(0..3)],
        unit_offset: rng.random_bool(0.3),
        of: [rng.random_bool(0.6), rng.random_bool(0.6)],
    };
    AppendCase {
        dtype,
        pairing,
        rotary_dim,
        bases,
        inverse: rng.random_bool(0.2),
        q,
        k,
        v,
        packed,
        norm,
        cache,
        positions,
        specials: rng.random_bool(0.3),
        seed: rng.random(),
    }
}

/// A page that comes twice is no page.
fn distinct(pages: &mut [i64]) {
    for i in 0..pages.len() {
        if pages[..i].contains(&pages[i]) {
            pages[i] = -1;
        }
    }
}

/// In 64 bits, or in 32, where what does not fit is negative, or, of unsigned ones, the largest.
fn as_ids(rng: &mut StdRng, all: Vec<i64>) -> Values {
    match rng.random_range(0..3) {
        0 => Values::I64(all),
        1 => Values::I32(all.into_iter().map(|id| i32::try_from(id).unwrap_or(-3)).collect()),
        _ => Values::U32(all.into_iter().map(|id| u32::try_from(id).unwrap_or(u32::MAX)).collect()),
    }
}
