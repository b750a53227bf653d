use crate::limits::MAX_SETS;
use crate::{Address, Error, IndexType, RawIds, Result, Sections};

/// The position of each token. Every `i64` is a valid position, negative ones too.
///
/// `I` is the backend's buffer of `i32`, `i64` or `u32`: [`cpu::Ids`](crate::cpu::Ids) over slices,
/// `cuda::Ids` over device memory, [`RawIds`] by address. The kernel reads it, so a replayed CUDA graph sees
/// what it holds then.
///
/// Where a rope has several sets of frequencies, [`with_sets`](Self::with_sets) says by which one each
/// sequence turns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Positions<I> {
    pub(crate) kind: PositionKind<I>,
    pub(crate) sets: Option<I>,
}

/// Where positions come from. Strides are in values.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum PositionKind<I> {
    /// One id a token: token `s` of sequence `b` has `ids[b * row_stride + s]`.
    Ids {
        /// The ids.
        ids: I,
        /// From one sequence's row to the next one's: 0 where all share a row, as in an expanded
        /// `[1, seq]`; `None` for `seq`, rows end to end.
        row_stride: Option<usize>,
    },
    /// `start, start + 1, …` in every sequence of the batch.
    Consecutive(i64),
    /// `starts[b], starts[b] + 1, …` in sequence `b`: one start a sequence.
    Starts(I),
    /// Sequences of different lengths end to end, in a `[tokens, heads, head_dim]` tensor. Sequence
    /// `i` is tokens `cu_seqlens[i]` up to `cu_seqlens[i + 1]`.
    Ragged {
        /// `i32`, ascending, one entry more than there are sequences. Tokens before the first or
        /// from the last entry on count on from the nearest sequence.
        cu_seqlens: I,
        /// The position of each sequence's first token; zero without.
        starts: Option<I>,
    },
    /// Several ids a token, one by each axis of `sections` (M-RoPE's time, height and width): token `s` of sequence
    /// `b` has `ids[axis * axis_stride + b * row_stride + s]`.
    Axes {
        /// The ids.
        ids: I,
        /// Which of them turns which pairs.
        sections: Sections,
        /// As of `Ids`.
        row_stride: Option<usize>,
        /// From one axis' ids to the next one's; `None` for rows end to end: `batch * row_stride`, or
        /// `seq` where all sequences share a row.
        axis_stride: Option<usize>,
    },
}

impl<I> From<PositionKind<I>> for Positions<I> {
    fn from(kind: PositionKind<I>) -> Self {
        Self { kind, sets: None }
    }
}

impl<I> Positions<I> {
    /// One id a token, `[tokens]` or `[batch, seq]`.
    pub fn ids(ids: impl Into<I>) -> Self {
        PositionKind::Ids { ids: ids.into(), row_stride: None }.into()
    }

    /// One row of ids, `[seq]`, that every sequence of the batch shares.
    pub fn shared_ids(ids: impl Into<I>) -> Self {
        Self::strided_ids(ids, 0)
    }

    /// One id a token, `[batch, seq]` with a stride of rows, in values.
    pub fn strided_ids(ids: impl Into<I>, row_stride: usize) -> Self {
        PositionKind::Ids { ids: ids.into(), row_stride: Some(row_stride) }.into()
    }

    /// `start, start + 1, …` in every sequence of the batch.
    pub fn consecutive(start: i64) -> Self {
        PositionKind::Consecutive(start).into()
    }

    /// `starts[b], starts[b] + 1, …` in sequence `b`.
    pub fn starts(starts: impl Into<I>) -> Self {
        PositionKind::Starts(starts.into()).into()
    }

    /// Sequences of different lengths end to end, each starting at position zero.
    pub fn ragged(cu_seqlens: impl Into<I>) -> Self {
        PositionKind::Ragged { cu_seqlens: cu_seqlens.into(), starts: None }.into()
    }

    /// Sequences of different lengths end to end, each from its own start.
    pub fn ragged_from(cu_seqlens: impl Into<I>, starts: impl Into<I>) -> Self {
        PositionKind::Ragged { cu_seqlens: cu_seqlens.into(), starts: Some(starts.into()) }.into()
    }

    /// M-RoPE and its kin: several ids a token, `[axes, tokens]` or `[axes, batch, seq]`, and which of them
    /// turns which pairs.
    pub fn axes(ids: impl Into<I>, sections: Sections) -> Self {
        let (row_stride, axis_stride) = (None, None);
        PositionKind::Axes { ids: ids.into(), sections, row_stride, axis_stride }.into()
    }

    /// The same, `[axes, batch, seq]` with strides of axes and of rows, in values: `[seq, 0]` for an expanded
    /// `[axes, 1, seq]`.
    pub fn strided_axes(
        ids: impl Into<I>,
        sections: Sections,
        [axis_stride, row_stride]: [usize; 2],
    ) -> Self {
        let (row_stride, axis_stride) = (Some(row_stride), Some(axis_stride));
        PositionKind::Axes { ids: ids.into(), sections, row_stride, axis_stride }.into()
    }

    /// The same positions, where sequence `i` turns by set `sets[i]` of the rope's frequencies. One
    /// index a sequence: of the batch, or of `cu_seqlens`. What is below zero or beyond the last set is
    /// the last set.
    pub fn with_sets(self, sets: impl Into<I>) -> Self {
        Self { sets: Some(sets.into()), ..self }
    }

    /// Where positions come from.
    pub fn kind(&self) -> &PositionKind<I> {
        &self.kind
    }

    /// By which set of frequencies each sequence turns.
    pub fn sets(&self) -> Option<&I> {
        self.sets.as_ref()
    }

    /// The same positions over borrowed buffers.
    pub fn as_ref(&self) -> Positions<&I> {
        use PositionKind as Kind;
        let kind = match &self.kind {
            Kind::Ids { ids, row_stride } => Kind::Ids { ids, row_stride: *row_stride },
            Kind::Consecutive(start) => Kind::Consecutive(*start),
            Kind::Starts(starts) => Kind::Starts(starts),
            Kind::Ragged { cu_seqlens, starts } => {
                Kind::Ragged { cu_seqlens, starts: starts.as_ref() }
            }
            Kind::Axes { ids, sections, row_stride, axis_stride } => Kind::Axes {
                ids,
                sections: *sections,
                row_stride: *row_stride,
                axis_stride: *axis_stride,
            },
        };
        Positions { kind, sets: self.sets.as_ref() }
    }

    /// The same positions over other buffers, from host slices to device memory, say; `f` is told what
    /// each buffer holds, for its errors.
    ///
    /// # Errors
    /// The first one of `f`'s.
    pub fn try_map<J, E>(
        self,
        mut f: impl FnMut(&'static str, I) -> std::result::Result<J, E>,
    ) -> std::result::Result<Positions<J>, E> {
        use PositionKind as Kind;
        let kind = match self.kind {
            Kind::Ids { ids, row_stride } => Kind::Ids { ids: f(IDS, ids)?, row_stride },
            Kind::Consecutive(start) => Kind::Consecutive(start),
            Kind::Starts(starts) => Kind::Starts(f(STARTS, starts)?),
            Kind::Ragged { cu_seqlens, starts } => Kind::Ragged {
                cu_seqlens: f(CU_SEQLENS, cu_seqlens)?,
                starts: starts.map(|starts| f(STARTS, starts)).transpose()?,
            },
            Kind::Axes { ids, sections, row_stride, axis_stride } => {
                Kind::Axes { ids: f(IDS, ids)?, sections, row_stride, axis_stride }
            }
        };
        let sets = self.sets.map(|sets| f(SETS, sets)).transpose()?;
        Ok(Positions { kind, sets })
    }

    /// The same where nothing can go wrong.
    pub fn map<J>(self, mut f: impl FnMut(I) -> J) -> Positions<J> {
        let mapped = self.try_map(|_, buffer| Ok::<_, std::convert::Infallible>(f(buffer)));
        match mapped {
            Ok(positions) => positions,
            Err(never) => match never {},
        }
    }
}

impl Positions<RawIds> {
    /// Ids of a framework's tensor, by its sizes and strides in values, for a call of `[batch, seq]` tokens: one a
    /// token, flat or `[batch, seq]` with any stride of rows; or one row that the batch shares, `[seq]`, `[1, seq]`
    /// or an expanded one.
    ///
    /// ```
    /// use condensed_rope::{IndexType, Positions, RawIds};
    ///
    /// let ids: Vec<i64> = (0..100).collect();
    /// let address = ids.as_ptr() as u64;
    /// let shared = Positions::of_tensor(IndexType::I64, address, &[1, 100], &[100, 1], [4, 100])?;
    /// assert_eq!(shared, Positions::shared_ids(RawIds::new(IndexType::I64, address, 100)));
    /// # Ok::<(), condensed_rope::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Tensor`] for any other shape, and for ids that are not contiguous along a sequence.
    pub fn of_tensor(
        dtype: IndexType,
        address: Address,
        sizes: &[i64],
        strides: &[i64],
        [batch, seq]: [usize; 2],
    ) -> Result<Self> {
        let refused =
            |expected: &'static str, given: String| Error::Tensor { tensor: IDS, expected, given };
        let (&[.., n], &[.., s]) = (sizes, strides) else {
            return Err(refused("of one or two dimensions", "a scalar".to_owned()));
        };
        if n > 1 && s != 1 {
            let given = format!("strides {strides:?}");
            return Err(refused("contiguous along a sequence", given));
        }
        let raw = |len: usize| RawIds::new(dtype, address, len);
        match (sizes, strides) {
            (&[n], _) if batch > 1 && n as usize == seq => Ok(Self::shared_ids(raw(seq))),
            (&[n], _) => Ok(Self::ids(raw(n as usize))),
            (&[1, n], _) if batch > 1 => Ok(Self::shared_ids(raw(n as usize))),
            (&[_, _], &[stride, _]) if stride < 0 => {
                Err(refused("of strides of zero or more", format!("{strides:?}")))
            }
            (&[rows, n], &[stride, _]) if [rows as usize, n as usize] == [batch, seq] => {
                let stride = if rows > 1 { stride as usize } else { seq };
                let empty = n == 0 || batch == 0;
                let needed = if empty { 0 } else { (batch - 1).saturating_mul(stride) + seq };
                if stride == seq {
                    return Ok(Self::ids(raw(needed)));
                }
                Ok(Self::strided_ids(raw(needed), stride))
            }
            _ => Err(refused("of one id a token, or of one row for all", format!("{sizes:?}"))),
        }
    }

    /// Several ids a token of a framework's tensor, `[axes, tokens]` or `[axes, batch, seq]` with any strides of axes and
    /// of rows; or one row an axis that the batch shares, `[axes, seq]`, `[axes, 1, seq]` or an expanded one.
    ///
    /// # Errors
    /// As [`of_tensor`](Self::of_tensor); also where the first size is not the number of axes.
    pub fn axes_of_tensor(
        dtype: IndexType,
        address: Address,
        sizes: &[i64],
        strides: &[i64],
        batch_seq: [usize; 2],
        sections: Sections,
    ) -> Result<Self> {
        let axes = sections.axes();
        let refused =
            |expected: &'static str, given: String| Error::Tensor { tensor: IDS, expected, given };
        let (&[first, ref sizes @ ..], &[axis_stride, ref strides @ ..]) = (sizes, strides) else {
            return Err(refused("of two or three dimensions", "a scalar".to_owned()));
        };
        if usize::try_from(first) != Ok(axes) {
            let given = format!("{first} rows for {axes} axes");
            return Err(refused("of one row an axis", given));
        }
        let axis_stride = if axes > 1 { axis_stride } else { 0 };
        let axis_stride = usize::try_from(axis_stride)
            .map_err(|_| refused("of strides of zero or more", format!("{axis_stride}")))?;
        let one = Self::of_tensor(dtype, address, sizes, strides, batch_seq)?;
        let PositionKind::Ids { ids, row_stride } = one.kind else { return Ok(one) };
        let row_stride = row_stride.unwrap_or(batch_seq[1]);
        // What the last axis reaches: zero ids are zero of every axis.
        let len = if ids.len == 0 { 0 } else { axis_stride.saturating_mul(axes - 1) + ids.len };
        let ids = RawIds::new(dtype, address, len);
        Ok(Self::strided_axes(ids, sections, [axis_stride, row_stride]))
    }
}

const IDS: &str = "position ids";
const STARTS: &str = "starts";
const CU_SEQLENS: &str = "cu_seqlens";
const SETS: &str = "sets";

/// Strides of rows and axes, in values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdStrides {
    pub row: usize,
    pub axis: usize,
}

impl IdStrides {
    /// Rows end to end where a stride is not given; zero between rows of which there is one. Saturates.
    pub fn of(row: Option<usize>, axis: Option<usize>, [batch, seq]: [usize; 2]) -> Self {
        let row = row.unwrap_or(seq);
        let end_to_end = if row == 0 { seq } else { batch.saturating_mul(row) };
        Self { row: if batch > 1 { row } else { 0 }, axis: axis.unwrap_or(end_to_end) }
    }
}

/// Values are as many as `axes` times `[batch, seq]` ids need: that number, where rows lie end to end (or
/// are shared by all), since more or fewer are another batch's; else that number or more.
fn check_ids(
    ids: &RawIds,
    what: &'static str,
    axes: usize,
    [row, axis]: [Option<usize>; 2],
    [batch, seq]: [usize; 2],
) -> Result<()> {
    let given = ids.len;
    let strides = IdStrides::of(row, axis, [batch, seq]);
    let expected = if batch == 0 || seq == 0 {
        Some(0)
    } else {
        let last = |n: usize, stride: usize| (n - 1).checked_mul(stride);
        last(batch, strides.row)
            .zip(last(axes, strides.axis))
            .and_then(|(rows, axes)| rows.checked_add(axes)?.checked_add(seq))
    };
    // No buffer is as long as what overflows.
    let expected = expected.unwrap_or(usize::MAX);
    let exact = matches!(row, None | Some(0)) && axis.is_none();
    if given == expected || (given > expected && !exact) {
        ids.check(what)
    } else {
        Err(Error::Positions { what, expected, given })
    }
}

impl Positions<RawIds> {
    /// Buffers are as long as `[batch, seq]` tokens need, of types that are read, aligned and not null;
    /// and sections are as many as pairs.
    pub(crate) fn check(&self, batch: usize, seq: usize, rotary_dim: usize) -> Result<()> {
        let per_sequence = |what, sequences, values: &RawIds| {
            let (expected, given) = (sequences, values.len);
            if expected == given {
                values.check(what)
            } else {
                Err(Error::Positions { what, expected, given })
            }
        };
        let mut sequences = batch;
        match &self.kind {
            PositionKind::Consecutive(_) => {}
            PositionKind::Ids { ids, row_stride } => {
                let what = if *row_stride == Some(0) { "shared position ids" } else { IDS };
                check_ids(ids, what, 1, [*row_stride, None], [batch, seq])?;
            }
            PositionKind::Starts(starts) => per_sequence(STARTS, batch, starts)?,
            PositionKind::Ragged { cu_seqlens, starts } => {
                if batch != 1 {
                    return Err(Error::RaggedBatch { given: batch });
                }
                if cu_seqlens.dtype != IndexType::I32 {
                    return Err(Error::Dtype {
                        tensor: CU_SEQLENS,
                        expected: IndexType::I32.name(),
                        given: cu_seqlens.dtype.name().to_owned(),
                    });
                }
                let given = cu_seqlens.len;
                let count = given.checked_sub(1).filter(|&n| n > 0);
                sequences = count.ok_or(Error::CuSeqlens { given })?;
                if sequences > MAX_SETS {
                    let (tensor, what) = (CU_SEQLENS, "the number of sequences");
                    return Err(Error::TooLarge { tensor, what, limit: MAX_SETS });
                }
                cu_seqlens.check(CU_SEQLENS)?;
                if let Some(starts) = starts {
                    per_sequence(STARTS, sequences, starts)?;
                }
            }
            PositionKind::Axes { ids, sections, row_stride, axis_stride } => {
                sections.check(rotary_dim / 2)?;
                let (what, strides) = ("position ids of all axes", [*row_stride, *axis_stride]);
                check_ids(ids, what, sections.axes(), strides, [batch, seq])?;
            }
        }
        self.sets.as_ref().map_or(Ok(()), |sets| per_sequence(SETS, sequences, sets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(len: usize) -> RawIds {
        RawIds::new(IndexType::I32, 1 << 20, len)
    }

    /// Every kind, with buffers of no to two values too many: exactly the lengths that fit are taken.
    #[test]
    fn lengths_are_checked_one_by_one() {
        let sections = Sections::blocks([1, 2, 1]).expect("small");
        for [batch, seq] in [[1, 4], [3, 2], [2, 1], [3, 0], [0, 3]] {
            let tokens = batch * seq;
            let fits = |positions: Positions<RawIds>| positions.check(batch, seq, 8).is_ok();
            for n in 0..3 * tokens + 3 {
                assert_eq!(fits(Positions::ids(raw(n))), n == tokens);
                let row = if batch > 0 { seq } else { 0 };
                assert_eq!(fits(Positions::shared_ids(raw(n))), n == row);
                assert_eq!(fits(Positions::starts(raw(n))), n == batch);
                let chosen = Positions::consecutive(0).with_sets(raw(n));
                assert_eq!(fits(chosen), n == batch);
                assert_eq!(fits(Positions::axes(raw(n), sections)), n == 3 * tokens);
                let needed = if tokens == 0 { 0 } else { (batch - 1) * (seq + 1) + seq };
                assert_eq!(fits(Positions::strided_ids(raw(n), seq + 1)), n >= needed);
                let needed = if tokens == 0 { 0 } else { 2 * (seq + 2) + seq };
                let shared = Positions::strided_axes(raw(n), sections, [seq + 2, 0]);
                assert_eq!(fits(shared), n >= needed);
                for m in 0..5 {
                    let ragged = Positions::ragged(raw(n));
                    let from = Positions::ragged_from(raw(n), raw(m));
                    assert_eq!(fits(ragged), batch == 1 && n >= 2);
                    assert_eq!(fits(from), batch == 1 && n >= 2 && m == n - 1);
                    assert_eq!(fits(ragged.with_sets(raw(m))), batch == 1 && n >= 2 && m == n - 1);
                }
            }
        }
    }

    /// A framework's tensors of three axes, whole, sliced and expanded: what a call reads, by its index.
    #[test]
    fn tensors_of_axes_are_what_their_strides_say() {
        let sections = Sections::blocks([1, 2, 1]).expect("small");
        let of = |sizes: &[i64], strides: &[i64], tokens| {
            Positions::axes_of_tensor(IndexType::I64, 64, sizes, strides, tokens, sections)
        };
        let strided = |len, strides| {
            let ids = RawIds::new(IndexType::I64, 64, len);
            Ok(Positions::strided_axes(ids, sections, strides))
        };
        assert_eq!(of(&[3, 2, 5], &[10, 5, 1], [2, 5]), strided(30, [10, 5]));
        assert_eq!(of(&[3, 2, 5], &[40, 9, 1], [2, 5]), strided(94, [40, 9]));
        assert_eq!(of(&[3, 2, 5], &[40, 0, 1], [2, 5]), strided(85, [40, 0]));
        assert_eq!(of(&[3, 1, 5], &[5, 5, 1], [2, 5]), strided(15, [5, 0]));
        assert_eq!(of(&[3, 5], &[5, 1], [2, 5]), strided(15, [5, 0]));
        assert_eq!(of(&[3, 10], &[10, 1], [2, 5]), strided(30, [10, 5]));
        // One row for all axes, as text has it.
        assert_eq!(of(&[3, 1, 5], &[0, 5, 1], [1, 5]), strided(5, [0, 5]));
        for tokens in [[2, 5], [1, 5], [2, 0], [0, 5]] {
            let sizes = [3, tokens[0] as i64, tokens[1] as i64];
            let strides = [(tokens[0] * tokens[1]) as i64, tokens[1] as i64, 1];
            let positions = of(&sizes, &strides, tokens).expect("whole");
            assert_eq!(positions.check(tokens[0], tokens[1], 8), Ok(()), "{tokens:?}");
        }
        for (sizes, strides) in [
            (&[2i64, 2, 5][..], &[10i64, 5, 1][..]),
            (&[3, 2, 4], &[8, 4, 1]),
            (&[3, 2, 5], &[10, 5, 2]),
            (&[3, 2, 5], &[-10, 5, 1]),
            (&[3, 2, 5], &[10, -5, 1]),
            (&[3], &[1]),
            (&[], &[]),
        ] {
            assert!(matches!(of(sizes, strides, [2, 5]), Err(Error::Tensor { .. })), "{sizes:?}");
        }
    }

    /// What is not said: rows and axes end to end, and of a row that all share, one.
    #[test]
    fn strides_default_to_end_to_end() {
        let of = |row, axis, sizes| {
            let IdStrides { row, axis } = IdStrides::of(row, axis, sizes);
            (row, axis)
        };
        assert_eq!(of(None, None, [3, 5]), (5, 15));
        assert_eq!(of(Some(7), None, [3, 5]), (7, 21));
        assert_eq!(of(Some(0), None, [3, 5]), (0, 5));
        assert_eq!(of(Some(0), Some(9), [3, 5]), (0, 9));
        assert_eq!(of(Some(7), Some(0), [1, 5]), (0, 0));
    }

    #[test]
    fn buffers_that_cannot_be_are_refused() {
        let check = |ids: RawIds| Positions::ids(ids).check(1, ids.len, 8);
        let tensor = "position ids";
        for dtype in IndexType::ALL {
            assert_eq!(check(RawIds::new(dtype, 0, 3)), Err(Error::Null { tensor }));
            let (expected, given) = (dtype.size(), 0x1002);
            let alignment = Err(Error::Alignment { tensor, expected, given });
            assert_eq!(check(RawIds::new(dtype, given, 3)), alignment);
            assert!(matches!(
                check(RawIds::new(dtype, u64::MAX - 7, 3)),
                Err(Error::TooLarge { .. })
            ));
            // Nothing is read of nothing.
            assert_eq!(check(RawIds::new(dtype, 0, 0)), Ok(()));
        }
        let ragged = |dtype| Positions::ragged(RawIds::new(dtype, 64, 3)).check(1, 9, 8);
        assert_eq!(ragged(IndexType::I32), Ok(()));
        for dtype in [IndexType::I64, IndexType::U32] {
            assert!(matches!(ragged(dtype), Err(Error::Dtype { tensor: "cu_seqlens", .. })));
        }
        let cu_seqlens = |len| Positions::ragged(raw(len)).check(1, 9, 8);
        assert_eq!(cu_seqlens(0), Err(Error::CuSeqlens { given: 0 }));
        assert_eq!(cu_seqlens(1), Err(Error::CuSeqlens { given: 1 }));
        let what = "the number of sequences";
        let too_many = Error::TooLarge { tensor: "cu_seqlens", what, limit: MAX_SETS };
        assert_eq!(cu_seqlens(MAX_SETS + 1), Ok(()));
        assert_eq!(cu_seqlens(MAX_SETS + 2), Err(too_many.clone()));
        assert_eq!(cu_seqlens(usize::MAX), Err(too_many));
        let at = |address| Positions::ragged(RawIds::new(IndexType::I32, address, 3));
        let tensor = "cu_seqlens";
        assert_eq!(at(0).check(1, 9, 8), Err(Error::Null { tensor }));
        let odd = Error::Alignment { tensor, expected: 4, given: 66 };
        assert_eq!(at(66).check(1, 9, 8), Err(odd));
        // A stride whose last row no buffer reaches.
        let far = Positions::strided_ids(raw(9), usize::MAX).check(3, 3, 8);
        assert!(matches!(far, Err(Error::Positions { expected: usize::MAX, .. })));
    }

    #[test]
    fn a_buffer_can_be_refused_while_it_is_mapped() {
        let positions = Positions::ragged_from(1, 2).with_sets(3);
        let names = std::cell::RefCell::new(Vec::new());
        let mapped: std::result::Result<Positions<i32>, i32> = positions.try_map(|what, ids| {
            names.borrow_mut().push(what);
            if ids == 3 { Err(ids) } else { Ok(ids) }
        });
        assert_eq!(mapped, Err(3));
        assert_eq!(names.into_inner(), ["cu_seqlens", "starts", "sets"]);
    }
}
