//! Calls at random, most of them wrong in one way or several: sizes of nothing and of everything, strides that
//! overlap, buffers that end early, lists of the wrong length, addresses that are null, odd or another
//! tensor's. Each is an error that changes nothing, or changes exactly the elements that it names, to the right
//! values; and a call that nothing is wrong with is not refused.
//!
//! `CONDENSED_ROPE_HOSTILE` says how many of each kind; a few thousand without it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use condensed_rope::{
    Dtype, Error, Frequencies, IndexType, Layout, PhaseWords, Positions, RawBuffer, RawIds,
    RawOperand, Result, RopeSpec, Sections, cpu,
};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::call::{TestElement, buffer_len, end, noise};
use crate::conformance::grids::PAIRINGS;
use crate::{Backend, Call, Operand, Values};

/// Calls of each kind.
pub fn count() -> usize {
    let asked = std::env::var("CONDENSED_ROPE_HOSTILE").ok();
    asked.and_then(|count| count.parse().ok()).unwrap_or(4000)
}

/// What became of them.
#[derive(Default)]
struct Tally {
    rotated: usize,
    refused: usize,
}

impl Tally {
    fn report(&self, what: &str) {
        let Self { rotated, refused } = self;
        println!("hostile calls, {what}: {rotated} rotated, {refused} refused");
        // Neither all wrong nor all right.
        assert!(*rotated * 20 > *refused && *refused * 20 > *rotated, "{rotated} and {refused}");
    }

    fn count(&mut self, result: &Result<()>) {
        match result {
            Ok(()) => self.rotated += 1,
            Err(_) => self.refused += 1,
        }
    }
}

/// With a small probability, one of `values` instead.
fn or_odd<T: Copy>(rng: &mut StdRng, usual: T, odd: f64, values: &[T]) -> T {
    if rng.random_bool(odd) { values[rng.random_range(0..values.len())] } else { usual }
}

/// A layout of small sizes, now and then of none or of far too many.
fn layout(rng: &mut StdRng, [batch, seq]: [usize; 2], rotary_dim: usize, odd: f64) -> Layout {
    const HUGE: [usize; 6] = [0, 1, 1 << 16, 1 << 31, usize::MAX / 2, usize::MAX];
    let [batch, seq] = [batch, seq].map(|n| or_odd(rng, n, odd / 4.0, &HUGE));
    let heads = rng.random_range(1..5);
    let heads = or_odd(rng, heads, odd, &HUGE);
    let room = [0, 0, 0, 1, 4, 12][rng.random_range(0..6)];
    let head_dim = or_odd(rng, rotary_dim + room, odd / 2.0, &[0, 1, rotary_dim, 1024, 1025]);
    let rotary_offset = or_odd(rng, room / 2, odd / 2.0, &[1, room, room + 1, usize::MAX]);
    let tight = if rng.random_bool(0.5) {
        Layout::bshd(batch, seq, heads, head_dim)
    } else {
        Layout::bhsd(batch, heads, seq, head_dim)
    };
    let gap = [0, 0, 1, 2, 8][rng.random_range(0..5)];
    let strides = tight.strides().map(|stride| {
        let odd_strides = [0, 1, head_dim, stride / 2, stride.wrapping_sub(1), 1 << 61, usize::MAX];
        or_odd(rng, stride.saturating_mul(gap + 1).max(stride), odd / 3.0, &odd_strides)
    });
    let offset = rng.random_range(0..9);
    let offset = or_odd(rng, offset, odd / 4.0, &[1 << 20, 1 << 62, usize::MAX]);
    tight.with_strides(strides).at(offset).rotate_from(rotary_offset)
}

/// Positions for so many tokens, now and then for others.
fn positions(
    rng: &mut StdRng,
    [batch, seq]: [usize; 2],
    pairs: usize,
    odd: f64,
) -> Positions<Values> {
    let small = |n: usize| n.min(64);
    let (batch, seq) = (small(batch), small(seq));
    let tokens = batch * seq;
    let values = |rng: &mut StdRng, n: usize| {
        let n = or_odd(rng, n, odd, &[0, 1, n + 1, n.saturating_sub(1), 2 * n]);
        match rng.random_range(0..3) {
            0 => Values::I32((0..n).map(|_| rng.random_range(-99..100_000)).collect()),
            1 => Values::I64((0..n).map(|_| rng.random_range(-99..100_000)).collect()),
            _ => Values::U32((0..n).map(|_| rng.random_range(0..100_000)).collect()),
        }
    };
    let positions: Positions<Values> = match rng.random_range(0..8) {
        0 => Positions::ids(values(rng, tokens)),
        1 => Positions::shared_ids(values(rng, seq)),
        2 => {
            let usual = seq + rng.random_range(0..3);
            let stride = or_odd(rng, usual, odd, &[0, 1, 1 << 40, usize::MAX]);
            let needed = if tokens == 0 { 0 } else { (batch - 1) * usual + seq };
            Positions::strided_ids(values(rng, needed), stride)
        }
        3 => Positions::starts(values(rng, batch)),
        4 | 5 => {
            let sequences = rng.random_range(1..5);
            let mut cu_seqlens: Vec<i32> =
                (0..=sequences).map(|_| rng.random_range(0..=tokens as i32)).collect();
            // Otherwise which sequence a token is of is nobody's promise.
            cu_seqlens.sort_unstable();
            let len = or_odd(rng, cu_seqlens.len(), odd, &[0, 1, 2]);
            cu_seqlens.truncate(len);
            let cu_seqlens = if rng.random_bool(odd / 2.0) {
                Values::I64(cu_seqlens.iter().map(|&n| n.into()).collect())
            } else {
                Values::I32(cu_seqlens)
            };
            if rng.random_bool(0.5) {
                Positions::ragged(cu_seqlens)
            } else {
                Positions::ragged_from(cu_seqlens, values(rng, sequences))
            }
        }
        6 => {
            let axes = rng.random_range(1..=4);
            let pairs = or_odd(rng, pairs, odd, &[0, 1, 7]);
            let of_pair: Vec<_> = (0..pairs).map(|_| rng.random_range(0..axes)).collect();
            let sections = Sections::of_pairs(axes, &of_pair).expect("few pairs");
            if rng.random_bool(0.3) {
                let stride = or_odd(rng, seq, odd, &[0, 1, usize::MAX]);
                Positions::strided_axes(values(rng, axes * seq), sections, [stride, 0])
            } else {
                Positions::axes(values(rng, axes * tokens), sections)
            }
        }
        _ => Positions::consecutive(rng.random_range(-9..100_000)),
    };
    if rng.random_bool(0.15) {
        let sequences = match positions.kind() {
            condensed_rope::PositionKind::Ragged { cu_seqlens, .. } => {
                cu_seqlens.len().saturating_sub(1)
            }
            _ => batch,
        };
        return positions.with_sets(values(rng, sequences));
    }
    positions
}

fn frequencies(rng: &mut StdRng, rotary_dim: usize) -> Vec<Frequencies> {
    let new = |base: f64, factor: f32| {
        Frequencies::new(rotary_dim, base).and_then(|f| f.with_factor(factor)).expect("valid")
    };
    let all = [new(10_000.0, 1.0), new(500.0, 1.5), new(1e6, -0.5)];
    all[..rng.random_range(1..=3)].to_vec()
}

/// How many things may go wrong: often none.
fn oddness(rng: &mut StdRng) -> f64 {
    [0.0, 0.0, 0.02, 0.1, 0.3][rng.random_range(0..5)]
}

/// Whether a call is right as far as one can say without counting elements that share memory.
fn is_sound<T: TestElement>(call: &Call<T>) -> bool {
    let limit = (1usize << 31) - 1;
    let rotary_dim = call.sets[0].rotary_dim();
    let mut tokens = None;
    for operand in [&call.q, &call.k].into_iter().flatten() {
        let views = [
            Some((&operand.buffer, &operand.layout)),
            operand.source.as_ref().map(|(buffer, layout)| (buffer, layout)),
        ];
        for (buffer, layout) in views.into_iter().flatten() {
            let [batch, seq, heads, head_dim] = layout.shape();
            let range = layout.rotary_offset().saturating_add(rotary_dim);
            let sizes = batch <= limit && seq <= limit && heads < 1 << 15;
            let sizes = sizes && batch.saturating_mul(seq) <= limit;
            let strides = layout.strides().into_iter().chain([layout.offset()]);
            let strides = strides.into_iter().all(|n| n <= i64::MAX as usize / 8);
            let dims = (1..=1024).contains(&head_dim) && range <= head_dim;
            let tokens = *tokens.get_or_insert([batch, seq]) == [batch, seq];
            if !(sizes && strides && dims && tokens && end(layout) <= buffer.len()) {
                return false;
            }
        }
        if let Some((_, from)) = &operand.source {
            let same = from.shape() == operand.layout.shape();
            if !same || from.rotary_offset() != operand.layout.rotary_offset() {
                return false;
            }
        }
    }
    let Some([batch, seq]) = tokens else { return false };
    positions_are_sound(&call.positions, [batch, seq], rotary_dim / 2)
}

fn positions_are_sound(
    positions: &Positions<Values>,
    [batch, seq]: [usize; 2],
    pairs: usize,
) -> bool {
    use condensed_rope::PositionKind as Kind;
    let tokens = batch.saturating_mul(seq);
    let mut sequences = batch;
    // The index of the last id, one up; none for no tokens.
    let last = |row: usize, axes: usize, axis: usize| {
        if tokens == 0 {
            return 0;
        }
        let rows = (batch - 1).saturating_mul(row).saturating_add(seq);
        (axes - 1).saturating_mul(axis).saturating_add(rows)
    };
    let kind = match positions.kind() {
        Kind::Consecutive(_) => true,
        Kind::Ids { ids, row_stride: None } => ids.len() == tokens,
        Kind::Ids { ids, row_stride: Some(0) } => ids.len() == if batch > 0 { seq } else { 0 },
        Kind::Ids { ids, row_stride: Some(row) } => ids.len() >= last(*row, 1, 0),
        Kind::Starts(starts) => starts.len() == batch,
        Kind::Ragged { cu_seqlens, starts } => {
            sequences = cu_seqlens.len().saturating_sub(1);
            batch == 1
                && sequences > 0
                && matches!(cu_seqlens, Values::I32(_))
                && starts.as_ref().is_none_or(|starts| starts.len() == sequences)
        }
        Kind::Axes { ids, sections, row_stride, axis_stride } => {
            let fits = match (row_stride, axis_stride) {
                (Some(row), Some(axis)) => ids.len() >= last(*row, sections.axes(), *axis),
                _ => ids.len() == sections.axes() * tokens,
            };
            sections.pairs() == pairs && fits
        }
        _ => panic!("a kind of positions that the tests do not know"),
    };
    kind && positions.sets().is_none_or(|sets| sets.len() == sequences)
}

/// What a right call may still be refused for: views that cannot be shown to be apart.
fn is_about_overlap(error: &Error) -> bool {
    matches!(error, Error::OverlappingRows { .. } | Error::OverlappingTensors { .. })
}

/// Hostile calls of the safe interface.
pub fn run(backend: &impl Backend, count: usize, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    for i in 0..count {
        match rng.random_range(0..3) {
            0 => one::<f32>(backend, &mut rng, i as u64, &mut tally),
            1 => one::<f16>(backend, &mut rng, i as u64, &mut tally),
            _ => one::<bf16>(backend, &mut rng, i as u64, &mut tally),
        }
    }
    tally.report(&format!("safe, on {}", backend.name()));
}

fn one<T: TestElement>(backend: &impl Backend, rng: &mut StdRng, seed: u64, tally: &mut Tally) {
    let odd = oddness(rng);
    let rotary_dim = 2 * rng.random_range(1..14);
    let tokens = [rng.random_range(1..4), rng.random_range(1..7)];
    let operand = |rng: &mut StdRng, seed: u64| {
        let to = layout(rng, tokens, rotary_dim, odd);
        let buffer = |rng: &mut StdRng, layout: &Layout, seed| {
            // A huge view has a small buffer.
            let len = if end(layout) > 1 << 16 { 64 } else { buffer_len(layout) };
            let short = or_odd(rng, 0, odd, &[13, 14, 20, 64]);
            noise::<T>(len.saturating_sub(short), seed)
        };
        let source = rng.random_bool(0.3).then(|| {
            let [batch, seq, heads, head_dim] = to.shape();
            let from = Layout::bhsd(batch, heads, seq, head_dim).at(rng.random_range(0..4));
            let from = from.rotate_from(to.rotary_offset());
            let from =
                if rng.random_bool(odd) { layout(rng, tokens, rotary_dim, odd) } else { from };
            (buffer(rng, &from, seed ^ 1), from)
        });
        Operand { buffer: buffer(rng, &to, seed), layout: to, source }
    };
    let q = (!rng.random_bool(0.2)).then(|| operand(rng, 4 * seed));
    let k = (!rng.random_bool(0.3)).then(|| operand(rng, 4 * seed + 2));
    let packed = rng.random_bool(0.2) && q.is_some();
    let packed_k = packed.then(|| layout(rng, tokens, rotary_dim, odd));
    let first = q.as_ref().or(k.as_ref()).map_or(tokens, |operand| {
        let [batch, seq, ..] = operand.layout.shape();
        [batch, seq]
    });
    let before = Call {
        sets: frequencies(rng, rotary_dim),
        pairing: PAIRINGS[rng.random_range(0..2)],
        inverse: rng.random_bool(0.3),
        q: q.map(|q| Operand { source: q.source.filter(|_| !packed), ..q }),
        k: k.filter(|_| !packed),
        packed_k,
        positions: positions(rng, first, rotary_dim / 2, odd),
    };
    let mut after = before.clone();
    let what = format!("hostile call {seed} of {}", backend.name());
    let result = catch_unwind(AssertUnwindSafe(|| backend.rotate(&mut after)));
    let result = result.unwrap_or_else(|_| panic!("{what} panicked: {before:?}"));
    tally.count(&result);
    match &result {
        Ok(()) => before.verify(&after, &what),
        Err(error) => {
            after.assert_same_bits(&before, &what);
            let refused_rightly =
                before.packed_k.is_some() || !is_sound(&before) || is_about_overlap(error);
            assert!(refused_rightly, "{what} is right, but: {error}\n{before:?}");
        }
    }
}

/// Something that rotates by address.
pub trait RawBackend {
    /// For messages.
    fn name(&self) -> &'static str;
    /// # Safety
    /// As of [`cpu::Rope::rotate_raw`].
    unsafe fn rotate_raw(
        &self,
        words: &PhaseWords,
        spec: RopeSpec,
        q: Option<RawOperand>,
        k: Option<RawOperand>,
        positions: Positions<RawIds>,
    ) -> Result<()>;
}

impl RawBackend for crate::Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    unsafe fn rotate_raw(
        &self,
        words: &PhaseWords,
        spec: RopeSpec,
        q: Option<RawOperand>,
        k: Option<RawOperand>,
        positions: Positions<RawIds>,
    ) -> Result<()> {
        let (address, len) = (words.words().as_ptr() as u64, words.words().len());
        // SAFETY: the words outlive the rope.
        let rope = unsafe { cpu::Rope::borrowing(address, len, spec) }?;
        // SAFETY: the caller's promise.
        unsafe { rope.rotate_raw(q, k, positions) }
    }
}

/// A tensor of the arena: where it starts, in bytes, and how many elements the call says it has.
#[derive(Clone, Copy, Debug)]
struct Place {
    byte: usize,
    layout: Layout,
    len: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct RawTensor {
    dtype: Dtype,
    to: Place,
    from: Option<Place>,
}

/// Bytes that all tensors of a call share.
const ARENA: usize = 1 << 13;

impl Place {
    /// Somewhere in the arena, and no longer than that.
    fn random(rng: &mut StdRng, layout: Layout, size: usize, odd: f64) -> Self {
        let element = rng.random_range(0..ARENA / size / 2);
        let byte = element * size + or_odd(rng, 0, odd / 3.0, &[1, 2, 3]);
        let room = (ARENA - byte) / size;
        let needed = end(&layout);
        // An address alone is a promise that the arena keeps, where it can.
        let len = if needed <= room && rng.random_bool(0.3) {
            None
        } else {
            Some(or_odd(rng, room, odd, &[0, 1, needed.saturating_sub(1).min(room)]))
        };
        Self { byte, layout, len }
    }

    fn buffer(&self, base: u64) -> RawBuffer {
        let address = base + self.byte as u64;
        self.len.map_or(RawBuffer::unbounded(address), |len| RawBuffer::new(address, len))
    }

    /// The layout in an arena of elements of `size` bytes; an empty one stays as it is.
    fn view(&self, size: usize) -> Layout {
        if end(&self.layout) == 0 {
            return self.layout;
        }
        assert_eq!(self.byte % size, 0, "not aligned, and not refused");
        self.layout.at(self.layout.offset() + self.byte / size)
    }

    /// Elements of every row, in an arena of elements of `size` bytes.
    fn rows(&self, size: usize) -> Vec<std::ops::Range<usize>> {
        let view = self.view(size);
        let ([batch, seq, heads, head_dim], [b, s, h]) = (view.shape(), view.strides());
        let mut rows = Vec::new();
        if end(&view) > 0 {
            for i in 0..batch * seq * heads {
                let (head, token) = (i % heads, i / heads);
                let row = view.offset() + token / seq * b + token % seq * s + head * h;
                rows.push(row..row + head_dim);
            }
        }
        rows
    }
}

impl RawTensor {
    fn random(rng: &mut StdRng, dtype: Dtype, tokens: [usize; 2], dim: usize, odd: f64) -> Self {
        let dtype = or_odd(rng, dtype, odd / 4.0, &Dtype::ALL);
        let size = dtype.size();
        let to = layout(rng, tokens, dim, odd);
        let to = Place::random(rng, to, size, odd);
        let from = rng.random_bool(0.3).then(|| {
            let from = if rng.random_bool(odd) { layout(rng, tokens, dim, odd) } else { to.layout };
            if rng.random_bool(0.2) { to } else { Place::random(rng, from, size, odd) }
        });
        Self { dtype, to, from }
    }

    fn operand(&self, base: u64) -> RawOperand {
        let Self { dtype, to, from } = self;
        match from {
            None => RawOperand::in_place(*dtype, to.buffer(base), to.layout),
            Some(from) => RawOperand::out_of_place(
                *dtype,
                from.buffer(base),
                from.layout,
                to.buffer(base),
                to.layout,
            ),
        }
    }

    /// The same tensor as one of a call whose buffer is an arena.
    fn of<T: TestElement>(&self, arena: &[T], given: &[T]) -> Operand<T> {
        let size = size_of::<T>();
        let source = self.from.map(|from| (given.to_vec(), from.view(size)));
        Operand { buffer: arena.to_vec(), layout: self.to.view(size), source }
    }
}

fn raw_ids(values: &Values, null: bool) -> RawIds {
    let (dtype, address) = match values {
        Values::I32(values) => (IndexType::I32, values.as_ptr() as u64),
        Values::I64(values) => (IndexType::I64, values.as_ptr() as u64),
        Values::U32(values) => (IndexType::U32, values.as_ptr() as u64),
    };
    RawIds::new(dtype, if null { 0 } else { address }, values.len())
}

fn same_bits<T: TestElement>(a: &[T], b: &[T]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.bits() == b.bits())
}

/// Hostile calls of the raw interface: all tensors in one arena, so that they meet one another.
pub fn run_raw(backend: &impl RawBackend, count: usize, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    for i in 0..count {
        match rng.random_range(0..3) {
            0 => one_raw::<f32>(backend, &mut rng, i, &mut tally),
            1 => one_raw::<f16>(backend, &mut rng, i, &mut tally),
            _ => one_raw::<bf16>(backend, &mut rng, i, &mut tally),
        }
    }
    tally.report(&format!("raw, on {}", backend.name()));
}

fn one_raw<T: TestElement>(
    backend: &impl RawBackend,
    rng: &mut StdRng,
    i: usize,
    tally: &mut Tally,
) {
    let odd = oddness(rng);
    let size = size_of::<T>();
    let rotary_dim = 2 * rng.random_range(1..8);
    let tokens = [rng.random_range(1..3), rng.random_range(1..4)];
    let tensor = |rng: &mut StdRng| RawTensor::random(rng, T::DTYPE, tokens, rotary_dim, odd);
    let q = (!rng.random_bool(0.2)).then(|| tensor(rng));
    let k = (!rng.random_bool(0.3)).then(|| tensor(rng));
    let sets = frequencies(rng, rotary_dim);
    let words = PhaseWords::from_sets(&sets).expect("valid sets");
    let pairing = PAIRINGS[rng.random_range(0..2)];
    let inverse = rng.random_bool(0.3);
    let spec = RopeSpec::of(&words, pairing);
    let spec = if inverse { spec.inverse() } else { spec };
    let values = positions(rng, tokens, rotary_dim / 2, odd);
    let null = rng.random_bool(odd / 4.0);

    let given: Vec<T> = noise(ARENA / size, i as u64);
    let mut arena = given.clone();
    let base = arena.as_mut_ptr() as u64;
    let what = format!("hostile raw call {i} of {}: {q:?} {k:?} {values:?}", backend.name());
    let result = catch_unwind(AssertUnwindSafe(|| {
        let operand = |tensor: Option<RawTensor>| tensor.map(|tensor| tensor.operand(base));
        let ids = values.as_ref().map(|values| raw_ids(values, null));
        // SAFETY: what lies within the lengths that are given, or within the layouts where none is, is the
        // arena's; ids that are not null are as many as they say.
        unsafe { backend.rotate_raw(&words, spec, operand(q), operand(k), ids) }
    }));
    let result = result.unwrap_or_else(|_| panic!("{what} panicked"));
    tally.count(&result);
    if result.is_err() {
        return assert!(same_bits(&arena, &given), "{what}: refused, and written");
    }
    let tensors = [q, k];
    if tensors.iter().flatten().any(|tensor| tensor.dtype != T::DTYPE) {
        // Of another type than the arena is read by; but of one.
        return assert!(q.zip(k).is_none_or(|(q, k)| q.dtype == k.dtype), "{what}: two types");
    }
    // Each tensor's own rows, over what was there before, are right; and nothing else has changed.
    let mut expected = given.clone();
    for (n, tensor) in tensors.into_iter().enumerate() {
        let Some(tensor) = tensor else { continue };
        let mut own = given.clone();
        for row in tensor.to.rows(size) {
            own[row.clone()].copy_from_slice(&arena[row.clone()]);
            expected[row.clone()].copy_from_slice(&arena[row]);
        }
        let call = |buffer: &[T]| {
            let [q, k] = [0, 1].map(|m| (m == n).then(|| tensor.of(buffer, &given)));
            let (sets, positions) = (sets.clone(), values.clone());
            Call { sets, pairing, inverse, q, k, packed_k: None, positions }
        };
        call(&given).verify(&call(&own), &what);
    }
    assert!(same_bits(&arena, &expected), "{what}: an element outside of every row was written");
}
