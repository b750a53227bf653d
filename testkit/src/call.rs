//! A call of any backend, with the memory it works on.

use condensed_rope::{Element, Frequencies, Layout, Pairing, PositionKind, Positions};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::oracle::{self, tolerance};

/// Index values, owned.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    I32(Vec<i32>),
    I64(Vec<i64>),
    U32(Vec<u32>),
}

impl Values {
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        match self {
            Self::I32(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::U32(values) => values.len(),
        }
    }

    pub fn get(&self, i: usize) -> i64 {
        match self {
            Self::I32(values) => values[i].into(),
            Self::I64(values) => values[i],
            Self::U32(values) => values[i].into(),
        }
    }
}

/// One tensor: a buffer that is longer than its view, so that a stray write shows.
#[derive(Clone, Debug)]
pub struct Operand<T> {
    pub buffer: Vec<T>,
    pub layout: Layout,
    /// Read from here instead.
    pub source: Option<(Vec<T>, Layout)>,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call<T> {
    /// One set of frequencies, or those that sequences choose from.
    pub sets: Vec<Frequencies>,
    pub pairing: Pairing,
    pub inverse: bool,
    pub q: Option<Operand<T>>,
    pub k: Option<Operand<T>>,
    /// k is this view of q's buffer.
    pub packed_k: Option<Layout>,
    pub positions: Positions<Values>,
}

/// Something a test can draw at random and compare by bits.
pub trait TestElement: Element + PartialEq + std::fmt::Debug {
    fn of(value: f32) -> Self;
    fn bits(self) -> u32;
    fn value(self) -> f64 {
        f64::from(self.widen())
    }
}

impl TestElement for f32 {
    fn of(value: f32) -> Self {
        value
    }
    fn bits(self) -> u32 {
        self.to_bits()
    }
}
impl TestElement for f16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn bits(self) -> u32 {
        self.to_bits().into()
    }
}
impl TestElement for bf16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn bits(self) -> u32 {
        self.to_bits().into()
    }
}

/// `len` numbers of about unit size: no zeros, no pattern.
pub fn noise<T: TestElement>(len: usize, seed: u64) -> Vec<T> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..len).map(|_| T::of(rng.random_range(-2.0..2.0))).collect()
}

/// Elements that a view needs its buffer to have. Saturates, for layouts that nothing could hold.
pub fn end(layout: &Layout) -> usize {
    let [batch, seq, heads, head_dim] = layout.shape();
    if [batch, seq, heads].contains(&0) {
        return 0;
    }
    let steps = [batch, seq, heads].into_iter().zip(layout.strides());
    let last = steps.fold(0, |sum: usize, (n, s)| sum.saturating_add((n - 1).saturating_mul(s)));
    layout.offset().saturating_add(last).saturating_add(head_dim)
}

/// Elements a view needs, with a margin that belongs to nobody.
pub fn buffer_len(layout: &Layout) -> usize {
    end(layout) + 13
}

impl<T: TestElement> Call<T> {
    /// q, or k where there is no q.
    fn first(&self) -> &Operand<T> {
        self.q.as_ref().or(self.k.as_ref()).expect("a call with a tensor")
    }

    /// q of a call that has one.
    pub fn q(&mut self) -> &mut Operand<T> {
        self.q.as_mut().expect("a call with q")
    }

    fn batch_seq(&self) -> [usize; 2] {
        let [batch, seq, ..] = self.first().layout.shape();
        [batch, seq]
    }

    /// The sequence of a token: of the batch, or of `cu_seqlens`.
    fn sequence(&self, b: usize, s: usize) -> usize {
        let PositionKind::Ragged { cu_seqlens, .. } = self.positions.kind() else { return b };
        let t = (b * self.batch_seq()[1] + s) as i64;
        (0..cu_seqlens.len() - 1).rev().find(|&i| cu_seqlens.get(i) <= t).unwrap_or(0)
    }

    /// The position by which a pair of token `s` of sequence `b` turns, by definition.
    pub fn position(&self, b: usize, s: usize, pair: usize) -> i64 {
        let [batch, seq] = self.batch_seq();
        let t = b * seq + s;
        match self.positions.kind() {
            PositionKind::Ids { ids, row_stride } => ids.get(b * row_stride.unwrap_or(seq) + s),
            PositionKind::Consecutive(start) => start.wrapping_add(s as i64),
            PositionKind::Starts(starts) => starts.get(b).wrapping_add(s as i64),
            PositionKind::Ragged { cu_seqlens, starts } => {
                let i = self.sequence(b, s);
                let start = starts.as_ref().map_or(0, |starts| starts.get(i));
                start.wrapping_add(t as i64 - cu_seqlens.get(i))
            }
            PositionKind::Axes { ids, sections, row_stride, axis_stride } => {
                let row = row_stride.unwrap_or(seq);
                let axis = axis_stride.unwrap_or(if row == 0 { seq } else { batch * row });
                ids.get(sections.axis(pair) * axis + b * row + s)
            }
            _ => panic!("a kind of positions that the truth does not know"),
        }
    }

    /// The frequencies by which token `s` of sequence `b` turns.
    pub fn frequencies(&self, b: usize, s: usize) -> &Frequencies {
        let last = self.sets.len() - 1;
        let set = self.positions.sets().map_or(0, |sets| {
            usize::try_from(sets.get(self.sequence(b, s))).map_or(last, |set| set.min(last))
        });
        &self.sets[set]
    }

    /// Panics unless `after` holds, of this call, every rotated channel within the tolerance of the exact one,
    /// and every other element of every buffer as it was, bit for bit.
    pub fn verify(&self, after: &Self, what: &str) {
        // The view, the buffer it is of, before and after: q's (with a packed k), and k's own.
        let mut views = Vec::new();
        for (i, (before, after)) in [(&self.q, &after.q), (&self.k, &after.k)].iter().enumerate() {
            if let (Some(before), Some(after)) = (before, after) {
                views.push((i, before, before.layout, after));
            }
        }
        if let (Some(layout), Some(before), Some(after)) = (self.packed_k, &self.q, &after.q) {
            views.push((0, before, layout, after));
        }
        let pairs = self.sets[0].pairs();
        let [batch, seq] = self.batch_seq();
        let len = |operand: &Option<Operand<T>>| operand.as_ref().map_or(0, |x| x.buffer.len());
        let mut touched = [vec![false; len(&self.q)], vec![false; len(&self.k)]];
        for b in 0..batch {
            for s in 0..seq {
                let frequencies = self.frequencies(b, s);
                let factor = f64::from(frequencies.factor());
                let position = |pair| self.position(b, s, pair);
                let angles = oracle::angles(frequencies, position, self.inverse);
                for (buffer, before, layout, after) in &views {
                    let rotary_offset = layout.rotary_offset();
                    let [_, _, heads, head_dim] = layout.shape();
                    let row_of = |layout: &Layout, h: usize| {
                        let [batch_stride, token_stride, head_stride] = layout.strides();
                        layout.offset() + b * batch_stride + s * token_stride + h * head_stride
                    };
                    let touched = &mut touched[*buffer];
                    for h in 0..heads {
                        let row = row_of(layout, h);
                        let (from, from_row) = match &before.source {
                            Some((source, layout)) => (source, row_of(layout, h)),
                            None => (&before.buffer, row),
                        };
                        let got = &after.buffer[row..row + head_dim];
                        let given = &from[from_row..from_row + head_dim];
                        if before.source.is_some() {
                            touched[row..row + head_dim].fill(true);
                            for (c, (got, given)) in got.iter().zip(given).enumerate() {
                                let rotated = c >= rotary_offset && c < rotary_offset + 2 * pairs;
                                assert!(
                                    rotated || got.bits() == given.bits(),
                                    "{what}: channel {c} of b {b} s {s} head {h} was not copied"
                                );
                            }
                        }
                        for (j, angle) in angles.iter().enumerate() {
                            let [a, c] =
                                oracle::channels(self.pairing, pairs, j).map(|c| c + rotary_offset);
                            let (x, y) = (given[a].value(), given[c].value());
                            let exact = oracle::rotate(x, y, *angle, factor);
                            let size = (x.abs() + y.abs()) * factor.abs();
                            for (channel, exact) in [a, c].into_iter().zip(exact) {
                                touched[row + channel] = true;
                                let error = tolerance::COS_SIN + angle.error;
                                let allowed = tolerance::rotated(T::DTYPE, exact, size, error);
                                let got = got[channel].value();
                                assert!(
                                    (got - exact).abs() <= allowed,
                                    "{what}: channel {channel} of b {b} s {s} head {h} at position \
                                     {}: {got} is not {exact} within {allowed:e}",
                                    position(j)
                                );
                            }
                        }
                    }
                }
            }
        }
        for ((before, after), touched) in
            [(&self.q, &after.q), (&self.k, &after.k)].into_iter().zip(&touched)
        {
            let (Some(before), Some(after)) = (before, after) else { continue };
            for (i, touched) in touched.iter().enumerate() {
                assert!(
                    *touched || before.buffer[i].bits() == after.buffer[i].bits(),
                    "{what}: element {i}, outside every rotated channel, was written"
                );
            }
        }
    }

    /// Panics unless both calls hold the same bits everywhere.
    pub fn assert_same_bits(&self, other: &Self, what: &str) {
        for (name, a, b) in [("q", &self.q, &other.q), ("k", &self.k, &other.k)] {
            let buffer = |operand: &Option<Operand<T>>| {
                operand.as_ref().map_or_else(Vec::new, |operand| operand.buffer.clone())
            };
            let (a, b) = (buffer(a), buffer(b));
            assert_eq!(a.len(), b.len());
            for (i, (a, b)) in a.iter().zip(&b).enumerate() {
                assert!(
                    a.bits() == b.bits(),
                    "{what}: element {i} of {name} is {a:?} ({:#x}) here and {b:?} ({:#x}) there",
                    a.bits(),
                    b.bits()
                );
            }
        }
    }
}
