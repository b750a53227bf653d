use crate::frequencies::WordsShape;
use crate::{Direction, Error, Pairing, PhaseWords, Positions, RawIds, RawOperand, Result};

use super::check::Call;

/// What a rope is, apart from the memory of its phase words: a few numbers, to copy and to store.
///
/// ```
/// use condensed_rope::{Frequencies, Pairing, RopeSpec};
///
/// let words = Frequencies::new(128, 10_000.0)?.phase_words();
/// let spec = RopeSpec::of(&words, Pairing::HalfSplit);
/// assert_eq!(spec, RopeSpec::new(128, Pairing::HalfSplit)?);
/// # Ok::<(), condensed_rope::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeSpec {
    pub(crate) words: WordsShape,
    pub(crate) pairing: Pairing,
    pub(crate) direction: Direction,
    /// On cos and sin, where a call does not choose a set.
    pub(crate) factor: f32,
}

impl RopeSpec {
    /// One set of frequencies with a factor of 1, turning forward.
    ///
    /// # Errors
    /// [`Error::RotaryDim`].
    pub fn new(rotary_dim: usize, pairing: Pairing) -> Result<Self> {
        let words = WordsShape::checked(rotary_dim, 1)?;
        Ok(Self { words, pairing, direction: Direction::Forward, factor: 1.0 })
    }

    /// What goes with these words.
    pub fn of(words: &PhaseWords, pairing: Pairing) -> Self {
        let (words, factor) = (words.shape(), words.factor());
        Self { words, pairing, direction: Direction::Forward, factor }
    }

    /// The same with so many sets of frequencies.
    ///
    /// # Errors
    /// [`Error::NoSets`]; [`Error::TooLarge`].
    pub fn with_sets(self, sets: usize) -> Result<Self> {
        Ok(Self { words: WordsShape::checked(self.words.rotary_dim, sets)?, ..self })
    }

    /// The same with a factor on cos and sin. Calls that choose a set take that set's, from the words.
    ///
    /// # Errors
    /// [`Error::Factor`] where it is not finite.
    pub fn with_factor(self, factor: f32) -> Result<Self> {
        if !factor.is_finite() {
            return Err(Error::Factor { given: factor });
        }
        Ok(Self { factor, ..self })
    }

    /// The same turning one way or the other.
    pub fn with_direction(self, direction: Direction) -> Self {
        Self { direction, ..self }
    }

    /// The same turning the other way.
    pub fn inverse(self) -> Self {
        self.with_direction(self.direction.reversed())
    }

    /// Number of rotated channels.
    pub fn rotary_dim(&self) -> usize {
        self.words.rotary_dim
    }

    /// Number of sets of frequencies.
    pub fn sets(&self) -> usize {
        self.words.sets
    }

    /// How channels pair.
    pub fn pairing(&self) -> Pairing {
        self.pairing
    }

    /// Which way it turns.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The factor on cos and sin of calls that do not choose a set.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Every check of a rotation by address, and nothing else: nothing is read, written or launched.
    ///
    /// ```
    /// use condensed_rope::{Dtype, Error, Layout, Pairing, Positions, RawBuffer, RawOperand, RopeSpec};
    ///
    /// let spec = RopeSpec::new(128, Pairing::HalfSplit)?;
    /// let q = |head_dim| {
    ///     let layout = Layout::thd(7, 32, head_dim);
    ///     RawOperand::in_place(Dtype::BF16, RawBuffer::unbounded(1 << 20), layout)
    /// };
    /// spec.check(Some(q(128)), None, Positions::consecutive(0))?;
    /// let small = spec.check(Some(q(64)), None, Positions::consecutive(0));
    /// assert!(matches!(small, Err(Error::RotaryRange { .. })));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`cpu::Rope::rotate_raw`](crate::cpu::Rope::rotate_raw).
    pub fn check(
        &self,
        q: Option<RawOperand>,
        k: Option<RawOperand>,
        positions: Positions<RawIds>,
    ) -> Result<()> {
        Call { q, k, positions }.check(self).map(drop)
    }

    /// Phase words at an address fit it: their number, null, alignment.
    pub(crate) fn check_words(&self, address: u64, len: usize, alignment: usize) -> Result<()> {
        let expected = self.words.len();
        if expected != len {
            return Err(Error::WordsLen { expected, given: len });
        }
        super::operand::check_address("phase words", address, alignment, len * size_of::<u64>())
    }
}
