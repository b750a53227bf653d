use crate::{Error, Result};

/// Which of three positions (time, height, width) turns which pairs: M-RoPE.
///
/// ```
/// use condensed_rope::Sections;
///
/// let qwen2_vl = Sections::blocks([16, 24, 24])?;
/// assert_eq!([0, 16, 63].map(|pair| qwen2_vl.axis(pair)), [0, 1, 2]);
/// let qwen3_vl = Sections::interleaved([24, 20, 20])?;
/// assert_eq!([0, 1, 2, 59, 60].map(|pair| qwen3_vl.axis(pair)), [0, 1, 2, 2, 0]);
/// # Ok::<(), condensed_rope::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sections {
    sizes: [u32; 3],
    interleaved: bool,
}

impl Sections {
    /// `sizes` pairs by time, then height, then width (Qwen2-VL).
    ///
    /// # Errors
    /// [`Error::Sections`] where the sizes add up to more pairs than a head can have.
    pub fn blocks(sizes: [usize; 3]) -> Result<Self> {
        Self::new(sizes, false)
    }

    /// Time, height, width in turn, for as many pairs as each has; what is left goes by time
    /// (Qwen3-VL).
    ///
    /// # Errors
    /// As [`blocks`](Self::blocks).
    pub fn interleaved(sizes: [usize; 3]) -> Result<Self> {
        Self::new(sizes, true)
    }

    fn new(sizes: [usize; 3], interleaved: bool) -> Result<Self> {
        let limit = crate::MAX_HEAD_DIM / 2;
        if sizes.iter().any(|&size| size > limit) || sizes.iter().sum::<usize>() > limit {
            return Err(Error::Sections { expected: limit, given: sizes });
        }
        Ok(Self { sizes: sizes.map(|size| size as u32), interleaved })
    }

    /// Pairs of each axis.
    pub fn sizes(&self) -> [usize; 3] {
        self.sizes.map(|size| size as usize)
    }

    /// Whether axes take turns.
    pub fn is_interleaved(&self) -> bool {
        self.interleaved
    }

    /// The axis of a pair: 0 is time, 1 height, 2 width.
    pub fn axis(&self, pair: usize) -> usize {
        let [time, height, width] = self.sizes();
        if !self.interleaved {
            return usize::from(pair >= time) + usize::from(pair >= time + height);
        }
        match pair % 3 {
            1 if pair < 3 * height => 1,
            2 if pair < 3 * width => 2,
            _ => 0,
        }
    }

    /// The sizes are those of a head with as many pairs.
    pub(crate) fn check(&self, pairs: usize) -> Result<()> {
        let given = self.sizes();
        if given.iter().sum::<usize>() == pairs {
            Ok(())
        } else {
            Err(Error::Sections { expected: pairs, given })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By transformers' own words, for all small sizes: `mrope_section` split in order, and slices of every third
    /// pair that are overwritten.
    #[test]
    fn axes_are_transformers_own() {
        for sizes in (0..512).map(|n| [n % 8, n / 8 % 8, n / 64]) {
            let pairs: usize = sizes.iter().sum();
            let blocks = Sections::blocks(sizes).expect("small");
            let split = sizes.iter().enumerate();
            let split: Vec<usize> = split.flat_map(|(axis, &n)| vec![axis; n]).collect();
            assert_eq!((0..pairs).map(|pair| blocks.axis(pair)).collect::<Vec<_>>(), split);
            let mut slices = vec![0; pairs];
            for axis in [1, 2] {
                for pair in (axis..3 * sizes[axis]).step_by(3).filter(|&pair| pair < pairs) {
                    slices[pair] = axis;
                }
            }
            let turns = Sections::interleaved(sizes).expect("small");
            let axes: Vec<_> = (0..pairs).map(|pair| turns.axis(pair)).collect();
            assert_eq!(axes, slices, "{sizes:?}");
        }
    }
}
