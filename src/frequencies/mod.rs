//! Frequencies: one a channel pair, by base, by scaling or as given; and the words that the kernels read.

mod double_double;
mod phase_words;
mod scaling;
mod schedule;

use double_double::{DoubleDouble, TAU};
pub(crate) use phase_words::read as read_set;
#[cfg(feature = "cuda")]
pub(crate) use phase_words::write as write_set;
pub use phase_words::{PhaseWords, WordsShape};
pub use scaling::{Dynamic, Linear, Llama3, LongRope, Ntk, Proportional, RopeScaling, Yarn};
pub use schedule::FrequencySchedule;

use crate::{Error, MAX_HEAD_DIM, Result};

/// How fast each channel pair turns: one angular frequency a pair, kept in better than f64.
///
/// Every scaling of RoPE is another list of frequencies. Condensing (FastChat's
/// `CondenseRotaryEmbedding`, SuperHOT, Meta's Position Interpolation, arXiv 2306.15595) divides
/// positions by a ratio, which is the same as dividing every frequency by it.
///
/// ```
/// use condensed_rope::Frequencies;
///
/// // LongChat-7b-16k: trained on 2048 positions, reads 2048 * 8 of them.
/// let frequencies = Frequencies::new(128, 10_000.0)?.condensed(8.0)?;
/// assert_eq!(frequencies.rotary_dim(), 128);
/// assert_eq!(frequencies.inv_freq().next(), Some(1.0 / 8.0));
/// # Ok::<(), condensed_rope::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// Radians per position.
    inv_freq: Vec<DoubleDouble>,
    factor: f32,
}

impl Frequencies {
    /// `inv_freq[j] = base^(-2j / rotary_dim)` radians per position, for `j < rotary_dim / 2`: the
    /// frequencies of RoFormer (arXiv 2104.09864), LLaMA and GPT-NeoX.
    ///
    /// `rotary_dim` counts rotated channels, not channels per head: a model that rotates 20 of 80
    /// channels divides the exponent by 20.
    ///
    /// # Errors
    /// [`Error::RotaryDim`] where `rotary_dim` is odd, zero or over [`MAX_HEAD_DIM`];
    /// [`Error::Base`] where `base` is not a finite number above zero; [`Error::Frequency`] where a
    /// base far below 1 makes a pair turn too fast.
    pub fn new(rotary_dim: usize, base: f64) -> Result<Self> {
        check_rotary_dim(rotary_dim)?;
        check_base(base)?;
        let mut inv_freq = vec![0.0.into(); rotary_dim / 2];
        powers(&mut inv_freq, DoubleDouble::from(base).ln());
        Self::checked(inv_freq)
    }

    /// A vision tower's, of pairs that turn by the height and the width of a patch
    /// ([`Sections::vision_2d`](crate::Sections::vision_2d)): either half of the pairs is a rope of half the channels
    /// (Qwen2-VL, Gemma 4, Llama 4).
    ///
    /// ```
    /// use condensed_rope::{Frequencies, Layout, Pairing, Positions, Sections, cpu};
    ///
    /// let frequencies = Frequencies::vision_2d(80, 10_000.0)?;
    /// let rope = cpu::Rope::new(&frequencies, Pairing::HalfSplit);
    /// // Four patches, two by two: their rows, then their columns.
    /// let ids = [0i64, 0, 1, 1, 0, 1, 0, 1];
    /// let mut q = vec![1.0f32; 4 * 16 * 80];
    /// let q = cpu::Heads::in_place(&mut q, Layout::thd(4, 16, 80));
    /// rope.rotate(Some(q), None, Positions::axes(&ids, Sections::vision_2d(40)?))?;
    /// # Ok::<(), condensed_rope::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Vision2d`] where `rotary_dim` is not a multiple of 4, and [`new`](Self::new)'s.
    pub fn vision_2d(rotary_dim: usize, base: f64) -> Result<Self> {
        check_vision_2d(rotary_dim)?;
        let Self { inv_freq, .. } = Self::new(rotary_dim / 2, base)?;
        Self::checked([inv_freq.as_slice(), &inv_freq].concat())
    }

    /// The same of a rope of all channels, whose pairs go to height and width in turn: even ones to the first half,
    /// odd ones to the second (Pixtral).
    ///
    /// # Errors
    /// As [`vision_2d`](Self::vision_2d).
    pub fn vision_2d_in_turn(rotary_dim: usize, base: f64) -> Result<Self> {
        check_vision_2d(rotary_dim)?;
        let Self { inv_freq, .. } = Self::new(rotary_dim, base)?;
        let every_second = |first| inv_freq.iter().skip(first).step_by(2).copied();
        Self::checked(every_second(0).chain(every_second(1)).collect())
    }

    /// Frequencies in radians per position, as they are given: one a pair, so the rotary dimension
    /// is twice the length. Any finite number will do, zero (a pair that never turns) and negative
    /// ones too.
    ///
    /// # Errors
    /// [`Error::RotaryDim`] where the list is empty or over [`MAX_HEAD_DIM`] / 2 long;
    /// [`Error::Frequency`] where one is not finite, or 2^32 turns per position or more.
    pub fn from_inv_freq(inv_freq: &[f64]) -> Result<Self> {
        check_rotary_dim(inv_freq.len().saturating_mul(2))?;
        Self::checked(inv_freq.iter().map(|&f| f.into()).collect())
    }

    /// The same from f32: a checkpoint's `inv_freq` buffer, with the rounding it was trained with.
    ///
    /// # Errors
    /// As [`from_inv_freq`](Self::from_inv_freq).
    pub fn from_inv_freq_f32(inv_freq: &[f32]) -> Result<Self> {
        check_rotary_dim(inv_freq.len().saturating_mul(2))?;
        Self::checked(inv_freq.iter().map(|&f| f64::from(f).into()).collect())
    }

    /// Divides every position by `ratio`: a model trained on `n` positions reads `n * ratio` of
    /// them. Fractional ratios and ratios below 1 are fine. Applied twice, the ratios multiply.
    ///
    /// # Errors
    /// [`Error::Ratio`] where `ratio` is not a finite number above zero; [`Error::Frequency`] where
    /// a ratio far below 1 makes a pair turn too fast.
    pub fn condensed(self, ratio: f64) -> Result<Self> {
        if !(ratio.is_finite() && ratio > 0.0) {
            return Err(Error::Ratio { given: ratio });
        }
        let inv_freq = self.inv_freq.iter().map(|f| f.div(ratio.into())).collect();
        Ok(Self { factor: self.factor, ..Self::checked(inv_freq)? })
    }

    /// Multiplies cos and sin by `factor` (YaRN's and LongRoPE's attention factor). 1 at first;
    /// replaces an earlier factor.
    ///
    /// # Errors
    /// [`Error::Factor`] where `factor` is not finite.
    pub fn with_factor(self, factor: f32) -> Result<Self> {
        if !factor.is_finite() {
            return Err(Error::Factor { given: factor });
        }
        Ok(Self { factor, ..self })
    }

    /// Number of rotated channels: twice the number of pairs.
    pub fn rotary_dim(&self) -> usize {
        2 * self.inv_freq.len()
    }

    /// Number of channel pairs.
    pub fn pairs(&self) -> usize {
        self.inv_freq.len()
    }

    /// The factor on cos and sin.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Radians per position of each pair, after condensing, to the nearest f64.
    pub fn inv_freq(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        self.inv_freq.iter().map(|f| f.high)
    }

    /// Turns per position of each pair, as the nearest 64-bit fraction of a turn. Times a position,
    /// wrapping, it is the pair's phase in units of 2^-64 turns, off by at most
    /// `|position| * 2^-65` turns.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.inv_freq.iter().map(|f| f.div(TAU).turns_to_phase())
    }

    /// As the kernels read them.
    pub fn phase_words(&self) -> PhaseWords {
        PhaseWords::new(self)
    }

    fn checked(inv_freq: Vec<DoubleDouble>) -> Result<Self> {
        let frequencies = Self { inv_freq, factor: 1.0 };
        frequencies.recheck()?;
        Ok(frequencies)
    }

    /// Every frequency can be kept exact.
    fn recheck(&self) -> Result<()> {
        // Above this the fraction of a turn would keep fewer than 64 of the 106 bits.
        let limit = TAU.high * 2f64.powi(32);
        match self.inv_freq.iter().position(|f| f.high.is_nan() || f.high.abs() >= limit) {
            Some(pair) => Err(Error::Frequency { pair, given: self.inv_freq[pair].high }),
            None => Ok(()),
        }
    }

    /// For a scaling to work them out again.
    fn inv_freq_mut(&mut self) -> &mut [DoubleDouble] {
        &mut self.inv_freq
    }
}

/// `base^(-j / pairs)`.
fn powers(inv_freq: &mut [DoubleDouble], ln_base: DoubleDouble) {
    let pairs = DoubleDouble::from(inv_freq.len() as f64);
    for (j, f) in inv_freq.iter_mut().enumerate() {
        *f = DoubleDouble::from(-(j as f64)).div(pairs).mul(ln_base).exp();
    }
}

fn check_base(base: f64) -> Result<()> {
    if base.is_finite() && base > 0.0 { Ok(()) } else { Err(Error::Base { given: base }) }
}

fn check_vision_2d(rotary_dim: usize) -> Result<()> {
    let fits = rotary_dim.is_multiple_of(4) && (4..=MAX_HEAD_DIM).contains(&rotary_dim);
    if fits { Ok(()) } else { Err(Error::Vision2d { given: rotary_dim }) }
}

pub(crate) fn check_rotary_dim(rotary_dim: usize) -> Result<()> {
    if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) || rotary_dim > MAX_HEAD_DIM {
        return Err(Error::RotaryDim { given: rotary_dim });
    }
    Ok(())
}
