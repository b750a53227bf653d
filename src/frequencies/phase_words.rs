use super::check_rotary_dim;
use crate::limits::MAX_SETS;
use crate::{Error, Frequencies, Result};

/// Frequencies as the kernels read them: one or more sets of 64-bit words, which a rope owns, or borrows
/// from a buffer of the caller's.
///
/// Format 1. A set is one word a pair (turns per position, in units of 2^-64), zeros up to an odd number of
/// words, and as its last word the bits of the `f32` factor on cos and sin. Behind the last set lie two
/// zero words. So there are `sets * stride + 2` words, where `stride` is `rotary_dim / 2 + 1` rounded up to
/// an even number. On a GPU they must be aligned to 16 bytes.
///
/// ```
/// use condensed_rope::{Frequencies, PhaseWords};
///
/// let frequencies = Frequencies::new(128, 10_000.0)?.condensed(8.0)?;
/// let words = PhaseWords::new(&frequencies);
/// assert_eq!(words.words().len(), PhaseWords::len_of(128, 1)?);
/// // They can be stored, and read back where the format is the same.
/// let stored = words.words().to_vec();
/// assert_eq!(PhaseWords::from_words(PhaseWords::FORMAT, 128, 1, stored)?, words);
/// # Ok::<(), condensed_rope::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseWords {
    words: Vec<u64>,
    shape: WordsShape,
}

/// What decides where each set lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordsShape {
    pub rotary_dim: usize,
    pub sets: usize,
}

impl WordsShape {
    pub fn pairs(&self) -> usize {
        self.rotary_dim / 2
    }

    /// Words from one set to the next: even, since the kernels read two at a time.
    pub fn stride(&self) -> usize {
        (self.pairs() + 1).next_multiple_of(2)
    }

    /// The first of the words that are zero: the position id of tokens that have none.
    pub fn zero(&self) -> usize {
        self.sets * self.stride()
    }

    pub fn len(&self) -> usize {
        self.zero() + 2
    }

    /// The set that an index means: the last one for what is below zero or beyond it.
    pub fn set(&self, index: i64) -> usize {
        usize::try_from(index).map_or(self.sets - 1, |index| index.min(self.sets - 1))
    }

    pub(crate) fn checked(rotary_dim: usize, sets: usize) -> Result<Self> {
        check_rotary_dim(rotary_dim)?;
        if sets == 0 {
            return Err(Error::NoSets);
        }
        // A set is up to 514 words, so that the length fits `usize`.
        if sets > MAX_SETS {
            let (tensor, what) = ("phase words", "the number of sets");
            return Err(Error::TooLarge { tensor, what, limit: MAX_SETS });
        }
        Ok(Self { rotary_dim, sets })
    }
}

impl PhaseWords {
    /// The version of the format.
    pub const FORMAT: u32 = 1;

    /// One set.
    pub fn new(frequencies: &Frequencies) -> Self {
        let shape = WordsShape { rotary_dim: frequencies.rotary_dim(), sets: 1 };
        Self::written(shape, std::slice::from_ref(frequencies))
    }

    /// Several sets of one rotary dimension.
    ///
    /// # Errors
    /// [`Error::NoSets`]; [`Error::SetRotaryDim`] where they differ; [`Error::TooLarge`] for more than
    /// 2^32 - 1.
    pub fn from_sets(sets: &[Frequencies]) -> Result<Self> {
        let first = sets.first().ok_or(Error::NoSets)?;
        let shape = WordsShape::checked(first.rotary_dim(), sets.len())?;
        sets.iter().try_for_each(|set| shape.check_set(set))?;
        Ok(Self::written(shape, sets))
    }

    /// Words that were stored.
    ///
    /// # Errors
    /// [`Error::WordsFormat`] where `format` is another version; [`Error::RotaryDim`]; [`Error::NoSets`];
    /// [`Error::WordsLen`]; [`Error::Factor`] where a set's last word is no finite factor.
    pub fn from_words(
        format: u32,
        rotary_dim: usize,
        sets: usize,
        words: Vec<u64>,
    ) -> Result<Self> {
        if format != Self::FORMAT {
            return Err(Error::WordsFormat { expected: Self::FORMAT, given: format });
        }
        let shape = WordsShape::checked(rotary_dim, sets)?;
        let (expected, given) = (shape.len(), words.len());
        if expected != given {
            return Err(Error::WordsLen { expected, given });
        }
        let mut words = Self { words, shape };
        // What the kernels take for zero.
        let zero = shape.zero();
        words.words[zero..].fill(0);
        for set in 0..sets {
            let (_, factor) = words.get(set);
            if !factor.is_finite() {
                return Err(Error::Factor { given: factor });
            }
        }
        Ok(words)
    }

    /// The number of words of so many sets.
    ///
    /// # Errors
    /// [`Error::RotaryDim`]; [`Error::NoSets`]; [`Error::TooLarge`].
    pub fn len_of(rotary_dim: usize, sets: usize) -> Result<usize> {
        WordsShape::checked(rotary_dim, sets).map(|shape| shape.len())
    }

    /// The words.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Number of rotated channels.
    pub fn rotary_dim(&self) -> usize {
        self.shape.rotary_dim
    }

    /// Number of sets.
    pub fn sets(&self) -> usize {
        self.shape.sets
    }

    /// The first set's factor on cos and sin.
    pub fn factor(&self) -> f32 {
        self.get(0).1
    }

    /// Writes other frequencies over set `set`.
    ///
    /// # Errors
    /// [`Error::SetRotaryDim`]; [`Error::SetIndex`]; [`Error::SetFactor`] for a first set of another factor,
    /// which calls that do not choose a set take from the rope.
    pub fn set_frequencies(&mut self, set: usize, frequencies: &Frequencies) -> Result<()> {
        self.shape.check_write(self.factor(), set, frequencies)?;
        let range = self.shape.range(set);
        write(frequencies, &mut self.words[range]);
        Ok(())
    }

    pub(crate) fn shape(&self) -> WordsShape {
        self.shape
    }

    /// One set's steps, and its factor.
    pub(crate) fn get(&self, set: usize) -> (&[u64], f32) {
        read(&self.words, self.shape, set)
    }

    fn written(shape: WordsShape, sets: &[Frequencies]) -> Self {
        let mut words = vec![0; shape.len()];
        for (set, words) in sets.iter().zip(words.chunks_exact_mut(shape.stride())) {
            write(set, words);
        }
        Self { words, shape }
    }
}

impl WordsShape {
    pub(crate) fn range(&self, set: usize) -> std::ops::Range<usize> {
        set * self.stride()..(set + 1) * self.stride()
    }

    fn check_set(&self, frequencies: &Frequencies) -> Result<()> {
        let (expected, given) = (self.rotary_dim, frequencies.rotary_dim());
        if expected == given { Ok(()) } else { Err(Error::SetRotaryDim { expected, given }) }
    }

    /// `frequencies` may be written over set `set` of a rope with this factor.
    pub(crate) fn check_write(
        &self,
        factor: f32,
        set: usize,
        frequencies: &Frequencies,
    ) -> Result<()> {
        self.check_set(frequencies)?;
        if set >= self.sets {
            return Err(Error::SetIndex { count: self.sets, given: set });
        }
        let (expected, given) = (factor, frequencies.factor());
        if set == 0 && expected.to_bits() != given.to_bits() {
            return Err(Error::SetFactor { expected, given });
        }
        Ok(())
    }
}

/// Set `set` of words of a shape: its steps, and its factor.
pub(crate) fn read(words: &[u64], shape: WordsShape, set: usize) -> (&[u64], f32) {
    let words = &words[shape.range(set)];
    (&words[..shape.pairs()], f32::from_bits(words[shape.stride() - 1] as u32))
}

/// One set's words, `stride` of them.
pub(crate) fn write(frequencies: &Frequencies, words: &mut [u64]) {
    words.fill(0);
    for (word, step) in words.iter_mut().zip(frequencies.steps()) {
        *word = step;
    }
    if let Some(last) = words.last_mut() {
        *last = frequencies.factor().to_bits().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(dim: usize) -> Frequencies {
        Frequencies::new(dim, 10_000.0).expect("valid")
    }

    #[test]
    fn words_are_as_the_format_says() {
        let two = [frequencies(6), frequencies(6).with_factor(1.5).expect("finite")];
        let words = PhaseWords::from_sets(&two).expect("one rotary dimension");
        let steps: Vec<u64> = two[0].steps().collect();
        let one = |factor: f32| [steps.clone(), vec![factor.to_bits().into()]].concat();
        assert_eq!(words.words(), [one(1.0), one(1.5), vec![0, 0]].concat());
        // An even number of pairs has a word of padding.
        assert_eq!(PhaseWords::new(&frequencies(8)).words()[4], 0);
        assert_eq!(PhaseWords::len_of(128, 1), Ok(68));
    }

    #[test]
    fn wrong_words_are_refused() {
        let words = PhaseWords::new(&frequencies(8)).words().to_vec();
        let from = PhaseWords::from_words;
        assert_eq!(from(2, 8, 1, words.clone()), Err(Error::WordsFormat { expected: 1, given: 2 }));
        assert_eq!(from(1, 8, 2, words.clone()), Err(Error::WordsLen { expected: 14, given: 8 }));
        assert_eq!(from(1, 7, 1, words.clone()), Err(Error::RotaryDim { given: 7 }));
        assert_eq!(from(1, 8, 0, words.clone()), Err(Error::NoSets));
        let limit = MAX_SETS;
        let too_large =
            Error::TooLarge { tensor: "phase words", what: "the number of sets", limit };
        assert_eq!(from(1, 8, limit + 1, words.clone()), Err(too_large));
        let mut endless = words.clone();
        endless[5] = f32::INFINITY.to_bits().into();
        assert_eq!(from(1, 8, 1, endless), Err(Error::Factor { given: f32::INFINITY }));
        let mut not_zero = words.clone();
        not_zero[7] = 3;
        assert_eq!(from(1, 8, 1, not_zero).expect("valid").words(), words);
    }

    #[test]
    fn sets_are_written_over_where_they_fit() {
        let mut words = PhaseWords::from_sets(&[frequencies(8), frequencies(8)]).expect("valid");
        let other = frequencies(8).condensed(4.0).expect("valid");
        let loud = other.clone().with_factor(2.0).expect("finite");
        assert_eq!(
            words.set_frequencies(0, &loud),
            Err(Error::SetFactor { expected: 1.0, given: 2.0 })
        );
        assert_eq!(words.set_frequencies(2, &other), Err(Error::SetIndex { count: 2, given: 2 }));
        let wide = frequencies(10);
        let refused = Err(Error::SetRotaryDim { expected: 8, given: 10 });
        assert_eq!(words.set_frequencies(0, &wide), refused);
        assert_eq!(PhaseWords::from_sets(&[other.clone(), wide]).map(|_| ()), refused);
        words.set_frequencies(0, &other).expect("fits");
        words.set_frequencies(1, &loud).expect("a later set has a factor of its own");
        assert_eq!(words, PhaseWords::from_sets(&[other, loud]).expect("valid"));
        assert_eq!(words.shape().set(-1), 1);
    }
}
