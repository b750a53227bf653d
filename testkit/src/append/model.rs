//! What a call must leave behind.

use condensed_rope::{Dtype, Layout, PositionKind, Stored, cpu};
use half::{bf16, f16};

use super::{AppendCase, Built, Memory, ScaleOf, SlotsOf, To};
use crate::backend::borrow;
use crate::oracle::{self, tolerance};
use crate::{Backend, Call, Operand};

/// Above this, f64 truth of rows is the CPU backend's business.
const TRUTH_ELEMENTS: usize = 1 << 14;

/// Runs the case on `backend`, and panics unless every byte of every buffer is what the model says.
pub fn check(backend: &impl Backend, case: &AppendCase) {
    let what = format!("{} on {case:?}", backend.name());
    let before = case.build();
    let expected = expect(&before, &what);
    let mut after = before;
    backend.append(&mut after).unwrap_or_else(|error| panic!("{what}: {error}"));
    for (buffer, (got, expected)) in after.buffers.iter().zip(&expected).enumerate() {
        if got != expected {
            let (a, b) = (got.bytes(), expected.bytes());
            let at = (0..a.len()).find(|&i| a[i] != b[i]).expect("they differ");
            let role = after.role(buffer);
            panic!("{what}: byte {at} of {role} is {:#x}, not {:#x}", a[at], b[at]);
        }
    }
}

impl Built {
    fn role(&self, buffer: usize) -> &'static str {
        let roles = [
            (self.caches[1], "the value cache"),
            (self.caches[0], "the key cache"),
            (self.q[1], "q"),
            (self.k[1], "k"),
        ];
        roles
            .into_iter()
            .find(|(of, _)| *of == buffer)
            .map_or("a buffer that is read", |(_, role)| role)
    }
}

/// Elements of one tensor, `[batch, seq, heads, head_dim]`, by their bits.
type Heads = Vec<u32>;

fn expect(built: &Built, what: &str) -> Vec<Memory> {
    let case = &built.case;
    let mut buffers = built.buffers.clone();
    let dtype = case.dtype;
    let gather = |buffer: usize, layout: &Layout| -> Heads {
        let at = |element: usize| get(&built.buffers[buffer], dtype, element);
        rows(layout).flat_map(|row| (row..row + layout.shape()[3]).map(at)).collect()
    };
    for (i, tensor) in [&case.q, &case.k].into_iter().enumerate() {
        let Some((layout, to)) = tensor else { continue };
        let [from, target] = if i == 0 { [built.q[0], built.q[1]] } else { built.k };
        let given = gather(from, layout);
        let weights = case.norm.of[i].then(|| {
            let dim = layout.shape()[3];
            (0..dim).map(|c| get(&built.buffers[built.weights[i]], dtype, c)).collect::<Vec<_>>()
        });
        let made = transform(case, layout, &given, weights.as_deref());
        if made.len() <= TRUTH_ELEMENTS && !case.specials {
            verify(case, layout, &given, &made, weights.as_deref(), what);
        }
        let dim = layout.shape()[3];
        match to {
            To::Nowhere => {}
            To::InPlace | To::Elsewhere(_) => {
                let to = if let To::Elsewhere(to) = to { to } else { layout };
                for (row, head) in rows(to).zip(made.chunks(dim)) {
                    for (c, bits) in head.iter().enumerate() {
                        put(&mut buffers[target], dtype, row + c, *bits);
                    }
                }
            }
            To::Fp8(stored, to, of) => {
                let heads = to.shape()[2];
                for (n, (row, head)) in rows(to).zip(made.chunks(dim)).enumerate() {
                    let scale = scale_of(built, *of, built.q[2], n % heads);
                    for (c, bits) in head.iter().enumerate() {
                        buffers[target].bytes_mut()[row + c] =
                            fp8(*stored, value(dtype, *bits), scale);
                    }
                }
            }
        }
        if i == 1 && case.cache.is_some() {
            append(built, 0, layout, &made, &mut buffers);
        }
    }
    if let Some(v) = &case.v {
        append(built, 1, v, &gather(built.v, v), &mut buffers);
    }
    buffers
}

/// Rows in order, by their first element.
fn rows(layout: &Layout) -> impl Iterator<Item = usize> {
    let [batch, seq, heads, _] = layout.shape();
    let ([b_stride, s_stride, h_stride], offset) = (layout.strides(), layout.offset());
    (0..batch).flat_map(move |b| {
        (0..seq).flat_map(move |s| {
            (0..heads).map(move |h| offset + b * b_stride + s * s_stride + h * h_stride)
        })
    })
}

fn get(memory: &Memory, dtype: Dtype, element: usize) -> u32 {
    let bytes = memory.bytes();
    match dtype {
        Dtype::F32 => u32::from_le_bytes(bytes[4 * element..][..4].try_into().expect("four bytes")),
        _ => u16::from_le_bytes(bytes[2 * element..][..2].try_into().expect("two bytes")).into(),
    }
}

fn put(memory: &mut Memory, dtype: Dtype, element: usize, bits: u32) {
    let size = dtype.size();
    memory.bytes_mut()[size * element..][..size].copy_from_slice(&bits.to_le_bytes()[..size]);
}

fn value(dtype: Dtype, bits: u32) -> f32 {
    match dtype {
        Dtype::F32 => f32::from_bits(bits),
        Dtype::F16 => f16::from_bits(bits as u16).to_f32(),
        _ => bf16::from_bits(bits as u16).to_f32(),
    }
}

/// Norm and rotation of heads that lie end to end, by the CPU backend; without a norm by its plain rotation.
fn transform(case: &AppendCase, layout: &Layout, given: &Heads, weights: Option<&[u32]>) -> Heads {
    match case.dtype {
        Dtype::F32 => transform_as(case, layout, given, weights, f32::from_bits, f32::to_bits),
        Dtype::F16 => transform_as(
            case,
            layout,
            given,
            weights,
            |bits| f16::from_bits(bits as u16),
            |x: f16| x.to_bits().into(),
        ),
        _ => transform_as(
            case,
            layout,
            given,
            weights,
            |bits| bf16::from_bits(bits as u16),
            |x: bf16| x.to_bits().into(),
        ),
    }
}

fn transform_as<T: crate::call::TestElement>(
    case: &AppendCase,
    layout: &Layout,
    given: &Heads,
    weights: Option<&[u32]>,
    from: impl Fn(u32) -> T,
    to: impl Fn(T) -> u32,
) -> Heads {
    let [batch, seq, heads, dim] = layout.shape();
    let plain = Layout::bshd(batch, seq, heads, dim).rotate_from(layout.rotary_offset());
    let mut elements: Vec<T> = given.iter().map(|&bits| from(bits)).collect();
    let words = condensed_rope::PhaseWords::from_sets(&case.sets()).expect("valid");
    let rope = cpu::Rope::from_words(words, case.pairing);
    let rope = if case.inverse { rope.inverse() } else { rope };
    let heads = cpu::Heads::in_place(&mut elements, plain);
    let positions = borrow(&case.positions);
    match weights {
        None => rope.rotate(Some(heads), None, positions).expect("a valid call"),
        Some(weights) => {
            let weights: Vec<T> = weights.iter().map(|&bits| from(bits)).collect();
            let norm = condensed_rope::QkNorm::rms(case.norm.eps).q(&weights);
            let norm = if case.norm.unit_offset { norm.unit_offset() } else { norm };
            let call = cpu::Append::new(Some(heads.into()), None, None).with_norm(norm);
            rope.rotate_append(call, positions).expect("a valid call");
        }
    }
    elements.into_iter().map(to).collect()
}

/// Against f64.
fn verify(
    case: &AppendCase,
    layout: &Layout,
    given: &Heads,
    made: &Heads,
    weights: Option<&[u32]>,
    what: &str,
) {
    let [_, seq, heads, dim] = layout.shape();
    let dtype = case.dtype;
    let exact_value = |bits: u32| f64::from(value(dtype, bits));
    // What is known of positions and sets.
    let positions = Call::<f32> {
        sets: case.sets(),
        pairing: case.pairing,
        inverse: case.inverse,
        q: Some(Operand { buffer: Vec::new(), layout: *layout, source: None }),
        k: None,
        packed_k: None,
        positions: case.positions.clone(),
    };
    let before = layout.rotary_offset();
    for (n, (given, made)) in given.chunks(dim).zip(made.chunks(dim)).enumerate() {
        let token = n / heads;
        let (b, s) = (token / seq, token % seq);
        let mut x: Vec<f64> = given.iter().map(|&bits| exact_value(bits)).collect();
        let mut error = 0.0;
        if let Some(weights) = weights {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / dim as f64;
            let inverse = 1.0 / (mean + f64::from(case.norm.eps)).sqrt();
            let unit = if case.norm.unit_offset { 1.0 } else { 0.0 };
            for (x, weight) in x.iter_mut().zip(weights) {
                *x *= inverse * (exact_value(*weight) + unit);
            }
            error = tolerance::norm(dim);
        }
        let frequencies = positions.frequencies(b, s);
        let factor = f64::from(frequencies.factor());
        let angles =
            oracle::angles(frequencies, |pair| positions.position(b, s, pair), case.inverse);
        let pairs = angles.len();
        let mut checked = vec![false; dim];
        let mut hold = |channel: usize, exact: f64, allowed: f64| {
            checked[channel] = true;
            let got = exact_value(made[channel]);
            assert!(
                (got - exact).abs() <= allowed,
                "{what}: channel {channel} of head {n}: {got} is not {exact} within {allowed:e}"
            );
        };
        for (j, angle) in angles.iter().enumerate() {
            let at = oracle::channels(case.pairing, pairs, j).map(|c| c + before);
            let exact = oracle::rotate(x[at[0]], x[at[1]], *angle, factor);
            let size = (x[at[0]].abs() + x[at[1]].abs()) * factor.abs();
            for (channel, exact) in at.into_iter().zip(exact) {
                let turned = tolerance::COS_SIN + angle.error + error;
                hold(channel, exact, tolerance::rotated(dtype, exact, size, turned));
            }
        }
        for channel in (0..before).chain(before + 2 * pairs..dim) {
            let exact = x[channel];
            let allowed = match weights {
                None => 0.0,
                Some(_) => tolerance::stored(dtype, exact, exact.abs() * error),
            };
            hold(channel, exact, allowed);
        }
        assert!(checked.iter().all(|checked| *checked));
    }
}

/// Puts the heads of one tensor into its cache, token by token.
fn append(built: &Built, i: usize, layout: &Layout, heads: &Heads, buffers: &mut [Memory]) {
    let case = &built.case;
    let cache = case.cache.as_ref().expect("a case with a cache");
    let Some(pages) = cache.layouts[i] else { return };
    let [_, seq, count, dim] = layout.shape();
    let [number, page_size, ..] = pages.shape();
    let [page_stride, slot_stride, head_stride] = pages.strides();
    for (token, row) in heads.chunks(count * dim).enumerate() {
        let Some(slot) = slot(case, token, seq, page_size) else { continue };
        if slot < cache.reserved as i128 || slot >= (number * page_size) as i128 {
            continue;
        }
        let (page, entry) = (slot as usize / page_size, slot as usize % page_size);
        for (h, head) in row.chunks(dim).enumerate() {
            let scale = scale_of(built, cache.scales[i], built.scales[i], h);
            let at = pages.offset() + page * page_stride + entry * slot_stride + h * head_stride;
            for (c, bits) in head.iter().enumerate() {
                let memory = &mut buffers[built.caches[i]];
                match cache.stored {
                    Stored::Element(dtype) => put(memory, dtype, at + c, *bits),
                    stored => {
                        memory.bytes_mut()[at + c] = fp8(stored, value(case.dtype, *bits), scale);
                    }
                }
            }
        }
    }
}

/// The slot that a token names, in whole numbers.
fn slot(case: &AppendCase, token: usize, seq: usize, page_size: usize) -> Option<i128> {
    let cache = case.cache.as_ref()?;
    match &cache.slots {
        SlotsOf::Ids(ids) => (token < ids.len()).then(|| ids.get(token).into()),
        SlotsOf::Table { pages, width, row_stride } => {
            let [batch, _] = case.batch_seq();
            let call = Call::<f32> {
                sets: case.sets(),
                pairing: case.pairing,
                inverse: false,
                q: Some(Operand {
                    buffer: Vec::new(),
                    layout: Layout::bshd(batch, seq, 1, 2),
                    source: None,
                }),
                k: None,
                packed_k: None,
                positions: case.positions.clone(),
            };
            let position = call.position(token / seq, token % seq, 0);
            let sequence = match case.positions.kind() {
                PositionKind::Ragged { cu_seqlens, .. } => (0..cu_seqlens.len() - 1)
                    .rev()
                    .find(|&i| cu_seqlens.get(i) <= token as i64)
                    .unwrap_or(0),
                _ => token / seq,
            };
            let position = usize::try_from(position).ok()?;
            if page_size == 0 || position / page_size >= *width {
                return None;
            }
            let page = pages.get(sequence * row_stride + position / page_size);
            Some(i128::from(page) * page_size as i128 + (position % page_size) as i128)
        }
    }
}

fn scale_of(built: &Built, of: ScaleOf, buffer: usize, head: usize) -> f32 {
    let index = if matches!(of, ScaleOf::Heads) { head } else { 0 };
    f32::from_bits(get(&built.buffers[buffer], Dtype::F32, index))
}

/// The nearest 8-bit float of all, ties to the even one; beyond the largest, that one.
fn fp8(stored: Stored, element: f32, scale: f32) -> u8 {
    let value = element * (1.0 / scale);
    if value.is_nan() {
        return 0x7f;
    }
    let (mantissa, bias, largest) =
        if stored == Stored::Fp8E4M3 { (3, 7, 0x7e) } else { (2, 15, 0x7b) };
    let number = |bits: u8| {
        let fraction = f64::from(bits & ((1 << mantissa) - 1)) / f64::from(1 << mantissa);
        match i32::from(bits >> mantissa) {
            0 => fraction * 2f64.powi(1 - bias),
            exponent => (1.0 + fraction) * 2f64.powi(exponent - bias),
        }
    };
    let magnitude = f64::from(value.abs());
    // The last one not above it.
    let (mut low, mut high) = (0u8, largest + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if number(middle) <= magnitude { low = middle } else { high = middle }
    }
    let mut bits = low;
    if low < largest {
        let (below, above) = (magnitude - number(low), number(low + 1) - magnitude);
        if above < below || (above == below && low % 2 == 1) {
            bits = low + 1;
        }
    }
    bits | if value.is_sign_negative() { 0x80 } else { 0 }
}
