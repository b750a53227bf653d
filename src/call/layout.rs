use crate::limits::{MAX_HEADS, MAX_STRIDE, MAX_TOKENS};
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
    batch: usize,
    seq: usize,
    heads: usize,
    head_dim: usize,
    strides: [usize; 3],
    offset: usize,
    rotary_offset: usize,
}

/// In which order a tensor has its dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DimOrder {
    /// `[tokens, heads, head_dim]`: a batch of one, or a ragged batch end to end.
    Thd,
    /// `[batch, seq, heads, head_dim]`: flash-attention's.
    Bshd,
    /// `[batch, heads, seq, head_dim]`: transformers' and candle's.
    Bhsd,
    /// `[seq, batch, heads, head_dim]`: Megatron's.
    Sbhd,
}

impl DimOrder {
    /// Number of dimensions.
    pub const fn rank(self) -> usize {
        match self {
            Self::Thd => 3,
            Self::Bshd | Self::Bhsd | Self::Sbhd => 4,
        }
    }

    /// Which dimension counts the tokens of a sequence.
    pub const fn seq_dimension(self) -> usize {
        match self {
            Self::Thd | Self::Sbhd => 0,
            Self::Bshd => 1,
            Self::Bhsd => 2,
        }
    }

    /// Where batch, seq and heads are among the dimensions; there is no batch in `Thd`.
    const fn places(self) -> [Option<usize>; 3] {
        match self {
            Self::Thd => [None, Some(0), Some(1)],
            Self::Bshd => [Some(0), Some(1), Some(2)],
            Self::Bhsd => [Some(0), Some(2), Some(1)],
            Self::Sbhd => [Some(1), Some(0), Some(2)],
        }
    }
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

    /// Contiguous, of these sizes in this order; `tensor` is named in errors.
    ///
    /// ```
    /// use condensed_rope::{DimOrder, Layout};
    ///
    /// let layout = Layout::contiguous("q", DimOrder::Bhsd, &[2, 32, 100, 128])?;
    /// assert_eq!(layout, Layout::bhsd(2, 32, 100, 128));
    /// # Ok::<(), condensed_rope::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Rank`] where there are not as many sizes as the order has dimensions.
    pub fn contiguous(tensor: &'static str, order: DimOrder, sizes: &[usize]) -> Result<Self> {
        let (expected, given) = (order.rank(), sizes.len());
        let Some((&head_dim, _)) = sizes.split_last().filter(|_| expected == given) else {
            return Err(Error::Rank { tensor, expected, given });
        };
        // Saturated, as in `bshd`.
        let stride = |i: usize| sizes[i + 1..].iter().fold(1, |n: usize, &m| n.saturating_mul(m));
        let places = order.places();
        let [batch, seq, heads] = places.map(|place| place.map_or(1, |i| sizes[i]));
        let mut strides = places.map(|place| place.map_or(0, stride));
        if places[0].is_none() {
            strides[0] = seq.saturating_mul(strides[1]);
        }
        Ok(Self { batch, seq, heads, head_dim, strides, offset: 0, rotary_offset: 0 })
    }

    /// Sizes and strides in elements, as frameworks have them; `tensor` is named in errors. Strides of
    /// dimensions of one or no element may be anything.
    ///
    /// ```
    /// use condensed_rope::{DimOrder, Layout};
    ///
    /// // torch: x.transpose(1, 2) of a contiguous [2, 100, 32, 128].
    /// let (sizes, strides) = ([2, 32, 100, 128], [409_600, 128, 4096, 1]);
    /// let layout = Layout::from_sizes_strides("q", DimOrder::Bhsd, &sizes, &strides)?;
    /// assert_eq!(layout, Layout::bshd(2, 100, 32, 128));
    /// # Ok::<(), condensed_rope::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Rank`]; [`Error::Size`] for a negative one; [`Error::Stride`] for a negative one, and where
    /// channels are not contiguous.
    pub fn from_sizes_strides(
        tensor: &'static str,
        order: DimOrder,
        sizes: &[i64],
        strides: &[i64],
    ) -> Result<Self> {
        let expected = order.rank();
        for given in [sizes.len(), strides.len()] {
            if expected != given {
                return Err(Error::Rank { tensor, expected, given });
            }
        }
        let size = |dimension: usize| {
            let given = sizes[dimension];
            usize::try_from(given).map_err(|_| Error::Size { tensor, dimension, given })
        };
        let stride = |dimension: usize| {
            let given = strides[dimension];
            if sizes[dimension] <= 1 {
                return Ok(usize::try_from(given).unwrap_or(0).min(MAX_STRIDE));
            }
            let expected = "zero or more";
            usize::try_from(given).map_err(|_| Error::Stride { tensor, dimension, expected, given })
        };
        let mut layout = Self::thd(1, 1, size(expected - 1)?);
        if layout.head_dim > 1 && strides[expected - 1] != 1 {
            let (dimension, given) = (expected - 1, strides[expected - 1]);
            let expected = "1 (contiguous channels)";
            return Err(Error::Stride { tensor, dimension, expected, given });
        }
        let mut all = [1; 3];
        for (i, place) in order.places().into_iter().enumerate() {
            let Some(dimension) = place else { continue };
            all[i] = size(dimension)?;
            layout.strides[i] = stride(dimension)?;
        }
        [layout.batch, layout.seq, layout.heads] = all;
        if order.places()[0].is_none() {
            // As `thd` has it, in so far as it is one: a batch of one is never stepped along.
            layout.strides[0] = layout.seq.saturating_mul(layout.strides[1]).min(MAX_STRIDE);
        }
        Ok(layout)
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

    /// The rotated channels of each head, and nothing else.
    pub(crate) const fn narrowed(self, rotary_dim: usize) -> Self {
        let offset = self.offset + self.rotary_offset;
        Self { head_dim: rotary_dim, offset, rotary_offset: 0, ..self }
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
    pub(crate) fn end(&self) -> Option<usize> {
        let start = self.offset.checked_add(self.head_dim)?;
        self.sizes().iter().zip(self.strides).try_fold(start, |end, (&n, stride)| {
            end.checked_add(n.saturating_sub(1).checked_mul(stride)?)
        })
    }

    /// The view lies within `len` elements, its sizes fit the kernels' indices, and the rotated
    /// channels fit in the head. Returns the elements that it needs of its buffer: none, where it is empty.
    pub(crate) fn check(
        &self,
        tensor: &'static str,
        len: usize,
        rotary_dim: usize,
    ) -> Result<usize> {
        let Self { head_dim, rotary_offset: offset, .. } = *self;
        if head_dim == 0 || head_dim > MAX_HEAD_DIM {
            return Err(Error::HeadDim { tensor, given: head_dim });
        }
        if offset.checked_add(rotary_dim).is_none_or(|end| end > head_dim) {
            return Err(Error::RotaryRange { tensor, offset, rotary_dim, head_dim });
        }
        // Empty views, too: their sizes are loops' bounds, and their strides are passed on.
        let limited = |what, limit, fits: bool| {
            if fits { Ok(()) } else { Err(Error::TooLarge { tensor, what, limit }) }
        };
        let fits = |n: usize| n <= MAX_TOKENS;
        let tokens = self.batch.checked_mul(self.seq).is_some_and(fits);
        let tokens = tokens && fits(self.batch) && fits(self.seq);
        limited("the number of tokens", MAX_TOKENS, tokens)?;
        limited("the number of heads", MAX_HEADS, self.heads <= MAX_HEADS)?;
        let strides = self.strides.iter().all(|&stride| stride <= MAX_STRIDE);
        limited("a stride in elements", MAX_STRIDE, strides)?;
        limited("the offset in elements", MAX_STRIDE, self.offset <= MAX_STRIDE)?;
        if self.is_empty() {
            return Ok(0);
        }
        match self.end() {
            None => {
                Err(Error::TooLarge { tensor, what: "the view's last element", limit: usize::MAX })
            }
            Some(needed) if needed > len => Err(Error::OutOfBounds { tensor, needed, given: len }),
            Some(needed) => Ok(needed),
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
            assert_eq!(a.check("q", end, 0), Ok(end));
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

    /// Each limit holds, one above it does not, and an empty view is held to the same.
    #[test]
    fn limits_hold_for_empty_views_too() {
        let full = Layout::thd(1, 1, 8);
        for empty in [false, true] {
            let check = |layout: Layout| layout.check("q", usize::MAX, 8).map(|_| ());
            let refused = |what, limit| Err(Error::TooLarge { tensor: "q", what, limit });
            let heads = |heads| Layout { heads, seq: usize::from(!empty), ..full };
            assert_eq!(check(heads(MAX_HEADS)), Ok(()));
            assert_eq!(check(heads(MAX_HEADS + 1)), refused("the number of heads", MAX_HEADS));
            for axis in 0..2 {
                let tokens = |n| {
                    let [batch, seq] = if axis == 0 { [n, 1] } else { [1, n] };
                    Layout { batch, seq, heads: usize::from(!empty), ..full }
                };
                let what = "the number of tokens";
                assert_eq!(check(tokens(MAX_TOKENS)), Ok(()));
                assert_eq!(check(tokens(MAX_TOKENS + 1)), refused(what, MAX_TOKENS));
            }
            let none = Layout { heads: usize::from(!empty), ..full };
            for i in 0..3 {
                let strided = |stride| {
                    let mut strides = [8; 3];
                    strides[i] = stride;
                    none.with_strides(strides)
                };
                assert_eq!(check(strided(MAX_STRIDE)), Ok(()));
                let what = "a stride in elements";
                assert_eq!(check(strided(MAX_STRIDE + 1)), refused(what, MAX_STRIDE));
            }
            assert_eq!(check(none.at(MAX_STRIDE)), Ok(()));
            let what = "the offset in elements";
            assert_eq!(check(none.at(MAX_STRIDE + 1)), refused(what, MAX_STRIDE));
        }
        // Half of them would do for a product.
        let empty = Layout::bshd(usize::MAX, 0, 1, 8);
        assert!(matches!(empty.check("q", 0, 8), Err(Error::TooLarge { .. })));
    }

    /// Strides that fit without a gap are fine, in every order of dimensions.
    #[test]
    fn tight_strides_are_accepted() {
        let [b, s, h, d] = [2, 3, 4, 5];
        for order in [DimOrder::Bshd, DimOrder::Bhsd, DimOrder::Sbhd] {
            let sizes = match order {
                DimOrder::Bhsd => [b, h, s, d],
                DimOrder::Sbhd => [s, b, h, d],
                _ => [b, s, h, d],
            };
            let layout = Layout::contiguous("q", order, &sizes).expect("four sizes");
            assert_eq!(layout.shape(), [b, s, h, d]);
            assert_eq!(layout.check_rows_disjoint("q"), Ok(()));
            assert_eq!(layout.check("q", b * s * h * d, 2), Ok(b * s * h * d));
            let sizes = sizes.map(|n| n as i64);
            let strides = [sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3], 1];
            let given = Layout::from_sizes_strides("q", order, &sizes, &strides);
            assert_eq!(given, Ok(layout));
        }
        let thd = Layout::contiguous("q", DimOrder::Thd, &[3, 4, 5]);
        assert_eq!(thd, Ok(Layout::thd(3, 4, 5)));
        let given = Layout::from_sizes_strides("q", DimOrder::Thd, &[3, 4, 5], &[20, 5, 1]);
        assert_eq!(given, Ok(Layout::thd(3, 4, 5)));
    }

    #[test]
    fn sizes_and_strides_of_frameworks_are_checked() {
        let from = |sizes: &[i64], strides: &[i64]| {
            Layout::from_sizes_strides("k", DimOrder::Bhsd, sizes, strides)
        };
        let tensor = "k";
        let rank = |given| Err(Error::Rank { tensor, expected: 4, given });
        assert_eq!(from(&[1, 2, 3], &[6, 3, 1]), rank(3));
        assert_eq!(from(&[1, 2, 3, 4], &[12, 4, 1]), rank(3));
        assert_eq!(Layout::contiguous("k", DimOrder::Bhsd, &[]), rank(0));
        let size = Err(Error::Size { tensor, dimension: 2, given: -3 });
        assert_eq!(from(&[1, 2, -3, 4], &[12, 4, 8, 1]), size);
        let size = Err(Error::Size { tensor, dimension: 3, given: i64::MIN });
        assert_eq!(from(&[1, 2, 3, i64::MIN], &[12, 4, 8, 1]), size);
        let stride =
            |dimension, expected, given| Err(Error::Stride { tensor, dimension, expected, given });
        assert_eq!(from(&[1, 2, 3, 4], &[24, -4, 8, 1]), stride(1, "zero or more", -4));
        let channels = "1 (contiguous channels)";
        assert_eq!(from(&[1, 2, 3, 4], &[24, 12, 4, 2]), stride(3, channels, 2));
        assert_eq!(from(&[1, 2, 3, 4], &[24, 12, 4, 0]), stride(3, channels, 0));
        // Dimensions of one element may have any stride; one channel, too.
        let odd =
            from(&[1, 1, 3, 1], &[i64::MIN, -7, 4, -2]).expect("strides that nothing steps by");
        assert_eq!(odd.shape(), [1, 3, 1, 1]);
        assert_eq!(odd.check("k", 9, 0), Ok(9));
        let far = from(&[1, 1, 3, 1], &[i64::MAX, i64::MAX, 4, 1]).expect("nothing steps by them");
        assert_eq!(far.check("k", 9, 0), Ok(9));
        let huge = from(&[i64::MAX, i64::MAX, i64::MAX, 4], &[i64::MAX; 4].map(|s| s - 1));
        assert_eq!(huge, stride(3, channels, i64::MAX - 1));
        let huge = from(&[i64::MAX, i64::MAX, i64::MAX, 4], &[i64::MAX, i64::MAX, i64::MAX, 1]);
        assert!(matches!(
            huge.expect("checked later").check("k", 9, 2),
            Err(Error::TooLarge { .. })
        ));
    }
}
