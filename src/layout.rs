use crate::{Error, MAX_HEAD_DIM, Result};

/// Where the heads of a query or key tensor lie in their buffer.
///
/// A tensor is `[batch, seq]` tokens of `heads` rows of `head_dim` channels. Channels are
/// contiguous; everything else has a stride, in elements, and nothing needs to be aligned. Row
/// `(b, s, h)` starts at element `offset + b * batch_stride + s * token_stride + h * head_stride`.
///
/// ```
/// use condensed_rope::Layout;
///
/// // [batch, seq, heads, dim] and [batch, heads, seq, dim] of the same sizes.
/// let bshd = Layout::bshd(2, 100, 32, 128);
/// let bhsd = Layout::bhsd(2, 32, 100, 128);
/// assert_eq!(bshd.strides(), [100 * 32 * 128, 32 * 128, 128]);
/// assert_eq!(bhsd.strides(), [32 * 100 * 128, 128, 100 * 128]);
///
/// // Packed [tokens, q heads + 2 * kv heads, dim]: q and k are views of one buffer.
/// let row = (32 + 2 * 8) * 128;
/// let q = Layout::thd(100, 32, 128).with_strides([0, row, 128]);
/// let k = Layout::thd(100, 8, 128).with_strides([0, row, 128]).at(32 * 128);
///
/// // DeepSeek-V3: only the last 64 of 192 channels rotate.
/// let mla = Layout::thd(100, 128, 192).rotate_from(128);
/// # let _ = (q, k, mla);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    pub(crate) batch: usize,
    pub(crate) seq: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) strides: [usize; 3],
    pub(crate) offset: usize,
    pub(crate) rotary_offset: usize,
}

impl Layout {
    /// Contiguous `[tokens, heads, head_dim]`: a batch of one, or a ragged batch end to end.
    pub const fn thd(tokens: usize, heads: usize, head_dim: usize) -> Self {
        Self::bshd(1, tokens, heads, head_dim)
    }

    /// Contiguous `[batch, seq, heads, head_dim]`.
    pub const fn bshd(batch: usize, seq: usize, heads: usize, head_dim: usize) -> Self {
        // Saturated sizes fail the bounds check later; nothing is addressed through them.
        let token = heads.saturating_mul(head_dim);
        let strides = [seq.saturating_mul(token), token, head_dim];
        Self { batch, seq, heads, head_dim, strides, offset: 0, rotary_offset: 0 }
    }

    /// Contiguous `[batch, heads, seq, head_dim]`.
    pub const fn bhsd(batch: usize, heads: usize, seq: usize, head_dim: usize) -> Self {
        let head = seq.saturating_mul(head_dim);
        let strides = [heads.saturating_mul(head), head_dim, head];
        Self { batch, seq, heads, head_dim, strides, offset: 0, rotary_offset: 0 }
    }

    /// The same shape with strides of batch, token and head, in elements.
    pub const fn with_strides(self, strides: [usize; 3]) -> Self {
        Self { strides, ..self }
    }

    /// The same view, starting at element `offset` of its buffer.
    pub const fn at(self, offset: usize) -> Self {
        Self { offset, ..self }
    }

    /// The same view, whose rotated channels start at `channel` of each head instead of 0. The
    /// others stay as they are.
    pub const fn rotate_from(self, channel: usize) -> Self {
        Self { rotary_offset: channel, ..self }
    }

    /// `[batch, seq, heads, head_dim]`.
    pub const fn shape(&self) -> [usize; 4] {
        [self.batch, self.seq, self.heads, self.head_dim]
    }

    /// Strides of batch, token and head, in elements.
    pub const fn strides(&self) -> [usize; 3] {
        self.strides
    }

    /// The element of the buffer where the view starts.
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// The first rotated channel of each head.
    pub const fn rotary_offset(&self) -> usize {
        self.rotary_offset
    }

    /// Tokens in the batch. Saturates.
    pub const fn tokens(&self) -> usize {
        self.batch.saturating_mul(self.seq)
    }

    /// Where a row starts in the buffer. Only for layouts that passed [`check`](Self::check).
    pub(crate) fn row(&self, b: usize, s: usize, h: usize) -> usize {
        self.offset + b * self.strides[0] + s * self.strides[1] + h * self.strides[2]
    }

    fn sizes(&self) -> [usize; 3] {
        [self.batch, self.seq, self.heads]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sizes().contains(&0)
    }

    /// One past the last element of the view; `None` where that overflows.
    fn end(&self) -> Option<usize> {
        let start = self.offset.checked_add(self.head_dim)?;
        self.sizes().iter().zip(self.strides).try_fold(start, |end, (&n, stride)| {
            end.checked_add(n.saturating_sub(1).checked_mul(stride)?)
        })
    }

    /// The view lies within `len` elements, its sizes fit the kernels' indices, and the rotated
    /// channels fit in the head.
    pub(crate) fn check(&self, tensor: &'static str, len: usize, rotary_dim: usize) -> Result<()> {
        let Self { head_dim, rotary_offset: offset, .. } = *self;
        if head_dim == 0 || head_dim > MAX_HEAD_DIM {
            return Err(Error::HeadDim { tensor, given: head_dim });
        }
        if offset.checked_add(rotary_dim).is_none_or(|end| end > head_dim) {
            return Err(Error::RotaryRange { tensor, offset, rotary_dim, head_dim });
        }
        if self.is_empty() {
            return Ok(());
        }
        const LIMIT: usize = i32::MAX as usize;
        if self.batch.checked_mul(self.seq).is_none_or(|tokens| tokens > LIMIT) {
            return Err(Error::TooLarge { tensor, what: "the number of tokens", limit: LIMIT });
        }
        // Slices of heads are counted in the grid's second dimension, which ends at 65535.
        const HEADS: usize = i16::MAX as usize;
        if self.heads > HEADS {
            return Err(Error::TooLarge { tensor, what: "the number of heads", limit: HEADS });
        }
        // Strides of dimensions of size one are never stepped by, but they are passed on.
        const ELEMENTS: usize = i64::MAX as usize / 8;
        if self.strides.iter().any(|&stride| stride > ELEMENTS) {
            return Err(Error::TooLarge { tensor, what: "a stride in elements", limit: ELEMENTS });
        }
        match self.end() {
            None => {
                Err(Error::TooLarge { tensor, what: "the view's last element", limit: usize::MAX })
            }
            Some(needed) if needed > len => Err(Error::OutOfBounds { tensor, needed, given: len }),
            Some(_) => Ok(()),
        }
    }

    /// No two rows share an element. Dimensions must nest: sorted by stride, each steps over all of
    /// the ones below it.
    pub(crate) fn check_rows_disjoint(&self, tensor: &'static str) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let mut inner = self.head_dim;
        for (size, stride) in self.dims().into_iter().rev().filter(|(size, _)| *size > 1) {
            if stride < inner {
                return Err(Error::OverlappingRows { tensor, strides: self.strides });
            }
            inner = stride.saturating_mul(size - 1).saturating_add(inner);
        }
        Ok(())
    }

    /// Two nested views of one buffer share no element, as far as can be shown: either one ends
    /// before the other starts, or both repeat with one stride and share nothing within a period.
    pub(crate) fn disjoint(&self, other: &Self) -> bool {
        let before = |a: &Self, b: &Self| a.end().is_some_and(|end| end <= b.offset);
        if self.is_empty() || other.is_empty() || before(self, other) || before(other, self) {
            return true;
        }
        // A dimension of size one repeats nothing.
        let repeating = |layout: &Self| {
            let mut dims = layout.dims();
            dims.sort_by_key(|&(size, _)| size <= 1);
            let count = dims.iter().filter(|&&(size, _)| size > 1).count();
            (dims, count)
        };
        let ((a, a_count), (b, b_count)) = (repeating(self), repeating(other));
        spans_interlock(
            (self.offset, self.head_dim, &a[..a_count]),
            (other.offset, other.head_dim, &b[..b_count]),
        )
    }

    /// `(size, stride)`, largest stride first.
    fn dims(&self) -> [(usize, usize); 3] {
        let mut dims = [0, 1, 2].map(|i| (self.sizes()[i], self.strides[i]));
        dims.sort_by_key(|&(_, stride)| std::cmp::Reverse(stride));
        dims
    }
}

/// Start, length of one row, and the dimensions that repeat it.
type Span<'a> = (usize, usize, &'a [(usize, usize)]);

/// Neither ends before the other starts, yet they share nothing.
fn spans_interlock(a: Span, b: Span) -> bool {
    let end = |(start, row, dims): Span| {
        dims.iter().fold(start + row, |end, (size, stride)| end + (size - 1) * stride)
    };
    let (Some((&(_, period), a_inner)), Some((&(_, other), b_inner))) =
        (a.2.split_first(), b.2.split_first())
    else {
        return false;
    };
    let (a, b) = ((a.0, a.1, a_inner), (b.0, b.1, b_inner));
    let (first, a_end, b_end) = (a.0.min(b.0), end(a), end(b));
    period == other
        && a_end - first <= period
        && b_end - first <= period
        && (a_end <= b.0 || b_end <= a.0 || spans_interlock(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::HashSet;

    fn elements(layout: &Layout) -> Vec<usize> {
        let mut all = Vec::new();
        for b in 0..layout.batch {
            for s in 0..layout.seq {
                for h in 0..layout.heads {
                    let row = layout.row(b, s, h);
                    all.extend(row..row + layout.head_dim);
                }
            }
        }
        all
    }

    fn random(rng: &mut StdRng) -> Layout {
        let [batch, seq, heads] = [0; 3].map(|_| rng.random_range(1..4));
        Layout::bshd(batch, seq, heads, rng.random_range(1..4))
            .with_strides([0; 3].map(|_| rng.random_range(0..30)))
            .at(rng.random_range(0..12))
    }

    /// What the checks accept holds element by element, and they accept a fair share.
    #[test]
    fn checks_agree_with_counting_elements() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut rows_ok, mut pairs_ok) = (0, 0);
        for _ in 0..20_000 {
            let (a, b) = (random(&mut rng), random(&mut rng));
            let all = elements(&a);
            let end = all.iter().max().unwrap() + 1;
            assert!(a.check("q", end, 0).is_ok());
            assert_eq!(
                a.check("q", end - 1, 0),
                Err(Error::OutOfBounds { tensor: "q", needed: end, given: end - 1 })
            );
            let unique: HashSet<_> = all.iter().copied().collect();
            if a.check_rows_disjoint("q").is_ok() {
                assert_eq!(unique.len(), all.len(), "{a:?}");
                rows_ok += 1;
            }
            let nested = [a, b].iter().all(|l| l.check_rows_disjoint("q").is_ok());
            if nested && a.disjoint(&b) {
                assert!(elements(&b).iter().all(|e| !unique.contains(e)), "{a:?} {b:?}");
                pairs_ok += 1;
            }
        }
        assert!(rows_ok > 2_000 && pairs_ok > 100, "{rows_ok} {pairs_ok}");
    }

    #[test]
    fn packed_views_are_disjoint() {
        let row = (32 + 8 + 8) * 128;
        let q = Layout::bshd(2, 5, 32, 128).with_strides([5 * row, row, 128]);
        let k = Layout::bshd(2, 5, 8, 128).with_strides([5 * row, row, 128]).at(32 * 128);
        assert!(q.disjoint(&k) && k.disjoint(&q));
        assert!(!q.disjoint(&k.at(31 * 128)) && !k.at(31 * 128).disjoint(&q));
        // q and k heads interleaved: each head of 128 followed by its key's.
        let q = Layout::thd(5, 8, 128).with_strides([0, 8 * 256, 256]);
        let k = q.at(128);
        assert!(q.disjoint(&k));
    }

    #[test]
    fn absurd_sizes_are_errors() {
        let huge = Layout::bshd(usize::MAX, usize::MAX, usize::MAX, 128);
        assert!(matches!(huge.check("q", usize::MAX, 2), Err(Error::TooLarge { .. })));
        let stride = Layout::thd(1, 2, 2).with_strides([0, 0, usize::MAX]);
        assert!(matches!(stride.check("q", 4, 2), Err(Error::TooLarge { .. })));
        let offset = Layout::thd(1, 2, 2).at(usize::MAX);
        assert!(matches!(offset.check("q", 4, 2), Err(Error::TooLarge { .. })));
        assert_eq!(
            Layout::thd(1, 1, 8).rotate_from(usize::MAX).check("k", 8, 4),
            Err(Error::RotaryRange { tensor: "k", offset: usize::MAX, rotary_dim: 4, head_dim: 8 })
        );
    }
}
