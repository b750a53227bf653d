use std::fmt;

use crate::limits::MAX_AXES;
use crate::{Error, MAX_HEAD_DIM, Result};

/// Which of a token's positions turns which pairs: M-RoPE's time, height and width, a picture's height and width,
/// up to four axes.
///
/// ```
/// use condensed_rope::{SectionOrder, Sections};
///
/// let qwen2_vl = Sections::blocks([16, 24, 24])?;
/// assert_eq!([0, 16, 63].map(|pair| qwen2_vl.axis(pair)), [0, 1, 2]);
/// let qwen3_vl = Sections::interleaved([24, 20, 20])?;
/// assert_eq!([0, 1, 2, 59, 60].map(|pair| qwen3_vl.axis(pair)), [0, 1, 2, 2, 0]);
/// let ernie4_5_vl = Sections::height_width_then_time([20, 22, 22])?;
/// assert_eq!([0, 1, 42, 43, 44].map(|pair| ernie4_5_vl.axis(pair)), [1, 2, 1, 2, 0]);
/// let any = Sections::of_pairs(2, &[1, 0, 0, 1])?;
/// assert_eq!((any.axes(), any.sizes(), any.order()), (2, vec![2, 2], SectionOrder::Other));
/// # Ok::<(), condensed_rope::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sections {
    axes: u16,
    pairs: u16,
    codes: [u32; Sections::WORDS],
}

/// How axes follow one another from pair to pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SectionOrder {
    /// One axis after the other.
    Blocks,
    /// In turn, for as many pairs as each has; what is left goes by the first.
    Interleaved,
    /// Height and width in turn, then time (ERNIE-4.5-VL).
    HeightWidthThenTime,
    /// None of these.
    Other,
}

impl SectionOrder {
    /// In words, as the `rotate` tool prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Interleaved => "interleaved",
            Self::HeightWidthThenTime => "height-width-then-time",
            Self::Other => "other",
        }
    }
}

impl Sections {
    const BITS: usize = 2;
    const PAIRS_A_WORD: usize = u32::BITS as usize / Self::BITS;
    /// Words of two bits a pair.
    pub(crate) const WORDS: usize = MAX_HEAD_DIM / 2 / Self::PAIRS_A_WORD;

    /// `sizes` pairs by each axis, one axis after the other: `[time, height, width]` (Qwen2-VL), or four
    /// (HunYuan-VL's xdrope).
    ///
    /// # Errors
    /// [`Error::Axes`] unless there are 1 to 4 axes; [`Error::Sections`] where the sizes add up to more pairs than a
    /// head can have.
    pub fn blocks(sizes: impl AsRef<[usize]>) -> Result<Self> {
        let sizes = sizes.as_ref();
        let pairs = total(sizes)?;
        let mut ends = sizes.iter().scan(0, |end, &size| {
            *end += size;
            Some(*end)
        });
        let (mut axis, mut end) = (0, ends.next().unwrap_or(0));
        Self::new(
            sizes.len(),
            (0..pairs).map(|pair| {
                while pair >= end {
                    (axis, end) = (axis + 1, ends.next().unwrap_or(pairs));
                }
                axis
            }),
        )
    }

    /// The axes in turn, for as many pairs as each has; what is left goes by the first (`[time, height, width]` of
    /// Qwen3-VL).
    ///
    /// # Errors
    /// As [`blocks`](Self::blocks).
    pub fn interleaved(sizes: impl AsRef<[usize]>) -> Result<Self> {
        let sizes = sizes.as_ref();
        let (pairs, axes) = (total(sizes)?, sizes.len());
        Self::new(
            axes,
            (0..pairs).map(|pair| {
                let axis = pair % axes;
                if pair < axes * sizes[axis] { axis } else { 0 }
            }),
        )
    }

    /// Height and width in turn, for as many pairs as both have, then time (ERNIE-4.5-VL). `sizes` are
    /// `[time, height, width]`; of unlike height and width the larger one's rest follows.
    ///
    /// # Errors
    /// As [`blocks`](Self::blocks).
    pub fn height_width_then_time(sizes: [usize; 3]) -> Result<Self> {
        let [_, height, width] = sizes;
        let (pairs, both) = (total(&sizes)?, height.min(width));
        Self::new(
            3,
            (0..pairs).map(|pair| match pair {
                _ if pair < 2 * both => 1 + pair % 2,
                _ if pair < height + width => 1 + usize::from(width > height),
                _ => 0,
            }),
        )
    }

    /// The first half of `pairs` by the first axis, the other half by the second: the height and width of a picture's
    /// patch in a vision tower, whose frequencies are
    /// [`Frequencies::vision_2d`](crate::Frequencies::vision_2d)'s.
    ///
    /// # Errors
    /// As [`blocks`](Self::blocks).
    pub fn vision_2d(pairs: usize) -> Result<Self> {
        Self::blocks([pairs / 2, pairs - pairs / 2])
    }

    /// An axis for each pair, of as many axes as there are ids a token.
    ///
    /// # Errors
    /// [`Error::Axes`] unless there are 1 to 4 axes; [`Error::Axis`] for a pair's axis that is not one of them;
    /// [`Error::Sections`] for more pairs than a head can have.
    pub fn of_pairs(axes: usize, of_pair: &[usize]) -> Result<Self> {
        check_axes(axes)?;
        if let Some(pair) = of_pair.iter().position(|&axis| axis >= axes) {
            return Err(Error::Axis { pair, expected: axes, given: of_pair[pair] });
        }
        if of_pair.len() > MAX_HEAD_DIM / 2 {
            let sizes = (0..axes).map(|axis| of_pair.iter().filter(|&&a| a == axis).count());
            return Err(Error::Sections { expected: MAX_HEAD_DIM / 2, given: sizes.collect() });
        }
        Self::new(axes, of_pair.iter().copied())
    }

    /// `axes` are 1 to 4, and pairs no more than a head can have.
    fn new(axes: usize, of_pair: impl Iterator<Item = usize>) -> Result<Self> {
        check_axes(axes)?;
        let mut sections = Self { axes: axes as u16, pairs: 0, codes: [0; Self::WORDS] };
        for (pair, axis) in of_pair.enumerate() {
            let shift = Self::BITS * (pair % Self::PAIRS_A_WORD);
            sections.codes[pair / Self::PAIRS_A_WORD] |= (axis as u32) << shift;
            sections.pairs += 1;
        }
        Ok(sections)
    }

    /// How many positions a token has.
    pub fn axes(&self) -> usize {
        self.axes.into()
    }

    /// How many pairs there are.
    pub fn pairs(&self) -> usize {
        self.pairs.into()
    }

    /// Pairs of each axis.
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.axes()];
        (0..self.pairs()).for_each(|pair| sizes[self.axis(pair)] += 1);
        sizes
    }

    /// The axis of a pair: 0 is the first row of ids, time in M-RoPE. Beyond the last pair, 0.
    pub fn axis(&self, pair: usize) -> usize {
        let word = self.codes.get(pair / Self::PAIRS_A_WORD).copied().unwrap_or(0);
        (word >> (Self::BITS * (pair % Self::PAIRS_A_WORD)) & ((1 << Self::BITS) - 1)) as usize
    }

    /// How axes follow one another: blocks, where several orders are the same.
    pub fn order(&self) -> SectionOrder {
        let sizes = self.sizes();
        let is = |sections: Result<Self>| sections.as_ref() == Ok(self);
        if is(Self::blocks(&sizes)) {
            SectionOrder::Blocks
        } else if is(Self::interleaved(&sizes)) {
            SectionOrder::Interleaved
        } else if <[usize; 3]>::try_from(sizes).is_ok_and(|s| is(Self::height_width_then_time(s))) {
            SectionOrder::HeightWidthThenTime
        } else {
            SectionOrder::Other
        }
    }

    /// Two bits a pair, the first one's the lowest.
    pub(crate) fn codes(&self) -> [u32; Self::WORDS] {
        self.codes
    }

    /// The sizes are those of a head with as many pairs.
    pub(crate) fn check(&self, pairs: usize) -> Result<()> {
        if self.pairs() == pairs {
            Ok(())
        } else {
            Err(Error::Sections { expected: pairs, given: self.sizes() })
        }
    }
}

impl fmt::Debug for Sections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sections({:?}, {:?})", self.sizes(), self.order())
    }
}

fn check_axes(given: usize) -> Result<()> {
    if (1..=MAX_AXES).contains(&given) { Ok(()) } else { Err(Error::Axes { given }) }
}

/// All pairs of as many axes as there can be.
fn total(sizes: &[usize]) -> Result<usize> {
    const LIMIT: usize = MAX_HEAD_DIM / 2;
    check_axes(sizes.len())?;
    match sizes.iter().try_fold(0, |sum: usize, &size| sum.checked_add(size)) {
        Some(pairs) if pairs <= LIMIT => Ok(pairs),
        _ => Err(Error::Sections { expected: LIMIT, given: sizes.to_vec() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes(sections: &Sections) -> Vec<usize> {
        (0..sections.pairs()).map(|pair| sections.axis(pair)).collect()
    }

    /// By transformers' own words, for all small sizes: `mrope_section` split in order, slices of every third pair
    /// that are overwritten, and a stack of height and width before time.
    #[test]
    fn axes_are_transformers_own() {
        for sizes in (0..512).map(|n| [n % 8, n / 8 % 8, n / 64]) {
            let pairs: usize = sizes.iter().sum();
            let blocks = Sections::blocks(sizes).expect("small");
            let split = sizes.iter().enumerate();
            let split: Vec<usize> = split.flat_map(|(axis, &n)| vec![axis; n]).collect();
            assert_eq!(axes(&blocks), split);
            assert_eq!((blocks.sizes(), blocks.pairs()), (sizes.to_vec(), pairs));
            let mut slices = vec![0; pairs];
            for axis in [1, 2] {
                for pair in (axis..3 * sizes[axis]).step_by(3).filter(|&pair| pair < pairs) {
                    slices[pair] = axis;
                }
            }
            let turns = Sections::interleaved(sizes).expect("small");
            assert_eq!(axes(&turns), slices, "{sizes:?}");
            let [time, height, width] = sizes;
            let stack = Sections::height_width_then_time(sizes).expect("small");
            assert_eq!(stack.sizes(), sizes);
            if height == width {
                let expected = [[1, 2].repeat(height), vec![0; time]].concat();
                assert_eq!(axes(&stack), expected, "{sizes:?}");
            }
        }
    }

    #[test]
    fn orders_are_told_apart() {
        let order = |sections: Result<Sections>| sections.expect("small").order();
        assert_eq!(order(Sections::blocks([16, 16, 16, 16])), SectionOrder::Blocks);
        assert_eq!(order(Sections::interleaved([24, 20, 20])), SectionOrder::Interleaved);
        let ernie = Sections::height_width_then_time([20, 22, 22]);
        assert_eq!(order(ernie), SectionOrder::HeightWidthThenTime);
        assert_eq!(order(Sections::vision_2d(40)), SectionOrder::Blocks);
        assert_eq!(order(Sections::of_pairs(4, &[3, 0, 3])), SectionOrder::Other);
        assert_eq!(order(Sections::of_pairs(1, &[0, 0])), SectionOrder::Blocks);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for given in [0, 5] {
            assert_eq!(Sections::blocks(vec![1; given]), Err(Error::Axes { given }));
            assert_eq!(Sections::interleaved(vec![1; given]), Err(Error::Axes { given }));
            assert_eq!(Sections::of_pairs(given, &[0]), Err(Error::Axes { given }));
        }
        for given in [vec![usize::MAX, 1, 1], vec![500, 13]] {
            assert_eq!(Sections::blocks(&given), Err(Error::Sections { expected: 512, given }));
        }
        let wrong = Error::Axis { pair: 1, expected: 2, given: 2 };
        assert_eq!(Sections::of_pairs(2, &[1, 2]), Err(wrong));
        let given = vec![0, 513];
        let many = Sections::of_pairs(2, &[1; 513]);
        assert_eq!(many, Err(Error::Sections { expected: 512, given }));
        assert_eq!(Sections::of_pairs(4, &[3; 512]).map(|all| all.axis(511)), Ok(3));
    }
}
