//! A call of any backend, with the memory it works on.

use condensed_rope::{Element, Frequencies, Layout, Pairing, PositionKind, Positions};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{tolerance, truth};

/// Index values, owned.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    I32(Vec<i32>),
    I64(Vec<i64>),
}

impl Values {
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        match self {
            Self::I32(values) => values.len(),
            Self::I64(values) => values.len(),
        }
    }

    pub fn get(&self, i: usize) -> i64 {
        match self {
            Self::I32(values) => values[i].into(),
            Self::I64(values) => values[i],
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
    pub q: Operand<T>,
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

/// One past the last element of a view.
pub fn end(layout: &Layout) -> usize {
    let [batch, seq, heads, head_dim] = layout.shape();
    let steps = [batch, seq, heads].into_iter().zip(layout.strides());
    let last: usize = steps.map(|(n, stride)| n.saturating_sub(1) * stride).sum();
    layout.offset() + last + head_dim
}

/// Elements a view needs, with a margin that belongs to nobody.
pub fn buffer_len(layout: &Layout) -> usize {
    end(layout) + 13
}

impl<T: TestElement> Call<T> {
    /// The sequence of a token: of the batch, or of `cu_seqlens`.
    fn sequence(&self, b: usize, s: usize) -> usize {
        let PositionKind::Ragged { cu_seqlens, .. } = self.positions.kind() else { return b };
        let t = (b * self.q.layout.shape()[1] + s) as i64;
        (0..cu_seqlens.len() - 1).rev().find(|&i| cu_seqlens.get(i) <= t).unwrap_or(0)
    }

    /// The position by which a pair of token `s` of sequence `b` turns, by definition.
    pub fn position(&self, b: usize, s: usize, pair: usize) -> i64 {
        let [batch, seq, ..] = self.q.layout.shape();
        let t = b * seq + s;
        match self.positions.kind() {
            PositionKind::Ids(ids) => ids.get(t),
            PositionKind::SharedIds(ids) => ids.get(s),
            PositionKind::From(start) => start.wrapping_add(s as i64),
            PositionKind::Starts(starts) => starts.get(b).wrapping_add(s as i64),
            PositionKind::Ragged { cu_seqlens, starts } => {
                let i = self.sequence(b, s);
                let start = starts.as_ref().map_or(0, |starts| starts.get(i));
                start.wrapping_add(t as i64 - cu_seqlens.get(i))
            }
            PositionKind::Axes { ids, sections } => ids.get(sections.axis(pair) * batch * seq + t),
            _ => panic!("a kind of positions that the truth does not know"),
        }
    }

    /// The frequencies by which token `s` of sequence `b` turns.
    pub fn frequencies(&self, b: usize, s: usize) -> &Frequencies {
        let last = self.sets.len() - 1;
        let set = self.positions.sets().map_or(0, |sets| sets.get(self.sequence(b, s)));
        &self.sets[usize::try_from(set).map_or(last, |set| set.min(last))]
    }

    /// Panics unless `after` is this call's exact result: rotated channels within the tolerance,
    /// and every other element of every buffer as it was, bit for bit.
    pub fn verify(&self, after: &Self, what: &str) {
        let mut views = vec![(&self.q, self.q.layout, &after.q)];
        if let (Some(before), Some(after)) = (&self.k, &after.k) {
            views.push((before, before.layout, after));
        }
        if let Some(layout) = self.packed_k {
            views.push((&self.q, layout, &after.q));
        }
        let pairs = self.sets[0].pairs();
        let [batch, seq, ..] = self.q.layout.shape();
        // What may change, by buffer: q's (with a packed k) and k's own.
        let mut touched = [
            vec![false; self.q.buffer.len()],
            vec![false; self.k.as_ref().map_or(0, |k| k.buffer.len())],
        ];
        for b in 0..batch {
            for s in 0..seq {
                let frequencies = self.frequencies(b, s);
                let factor = f64::from(frequencies.factor());
                let position = |pair| self.position(b, s, pair);
                let angles = truth::angles(frequencies, position, self.inverse);
                for (i, (before, layout, after)) in views.iter().enumerate() {
                    let rotary_offset = layout.rotary_offset();
                    let [_, _, heads, head_dim] = layout.shape();
                    let row_of = |layout: &Layout, h: usize| {
                        let [batch_stride, token_stride, head_stride] = layout.strides();
                        layout.offset() + b * batch_stride + s * token_stride + h * head_stride
                    };
                    let touched = &mut touched[usize::from(i == 1 && self.k.is_some())];
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
                                    "{what}: channel {c} of b {b} s {s} head {h} was not carried along"
                                );
                            }
                        }
                        for (j, angle) in angles.iter().enumerate() {
                            let [a, c] =
                                truth::channels(self.pairing, pairs, j).map(|c| c + rotary_offset);
                            let (x, y) = (given[a].value(), given[c].value());
                            let exact = truth::rotate(x, y, *angle, factor);
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
        let buffers = [
            (&self.q.buffer, &after.q.buffer),
            self.k
                .as_ref()
                .zip(after.k.as_ref())
                .map_or((&self.q.buffer, &after.q.buffer), |(k, after)| (&k.buffer, &after.buffer)),
        ];
        for ((before, after), touched) in buffers.into_iter().zip(&touched) {
            for (i, touched) in touched.iter().enumerate() {
                assert!(
                    *touched || before[i].bits() == after[i].bits(),
                    "{what}: element {i}, outside every rotated channel, was written"
                );
            }
        }
    }

    /// Panics unless both calls hold the same bits everywhere.
    pub fn assert_same_bits(&self, other: &Self, what: &str) {
        let buffers = |call: &Self| {
            let k = call.k.as_ref().map_or(&[][..], |k| &k.buffer).to_vec();
            [call.q.buffer.clone(), k]
        };
        for (a, b) in buffers(self).iter().zip(&buffers(other)) {
            assert_eq!(a.len(), b.len());
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                assert!(
                    a.bits() == b.bits(),
                    "{what}: element {i} is {a:?} ({:#x}) here and {b:?} ({:#x}) on the CPU backend",
                    a.bits(),
                    b.bits()
                );
            }
        }
    }
}
