//! Sets of frequencies as the kernels read them.

use crate::{Error, Frequencies, Result};

/// Phase steps of one or more sets, one `u64` a pair, each set's followed by its factor.
#[derive(Clone, Debug)]
pub struct Sets {
    pub words: Vec<u64>,
    pub shape: SetShape,
    /// The first set's factor on cos and sin.
    pub factor: f32,
}

/// What a call needs to know of them.
#[derive(Clone, Copy, Debug)]
pub struct SetShape {
    pub rotary_dim: usize,
    pub count: usize,
    /// Words from one set to the next: even, since the kernels read two at a time.
    pub stride: usize,
}

impl SetShape {
    pub fn pairs(&self) -> usize {
        self.rotary_dim / 2
    }

    /// The set that an index means: the last one for what is below zero or beyond it.
    pub fn set(&self, index: i64) -> usize {
        usize::try_from(index).map_or(self.count - 1, |index| index.min(self.count - 1))
    }
}

impl Sets {
    pub fn one(frequencies: &Frequencies) -> Self {
        let pairs = frequencies.pairs();
        let stride = (pairs + 1).next_multiple_of(2);
        let mut words = vec![0; stride];
        write(frequencies, &mut words);
        let shape = SetShape { rotary_dim: 2 * pairs, count: 1, stride };
        Self { words, shape, factor: frequencies.factor() }
    }

    /// Sets of one rotary dimension.
    ///
    /// # Errors
    /// [`Error::Sets`] where there are none, or they differ in rotary dimension.
    pub fn new(sets: &[Frequencies]) -> Result<Self> {
        let Some((first, others)) = sets.split_first() else {
            return Err(Error::Sets { expected: 2, given: 0 });
        };
        let mut all = Self::one(first);
        for set in others {
            let (expected, given) = (first.rotary_dim(), set.rotary_dim());
            if expected != given || all.shape.count >= u32::MAX as usize {
                return Err(Error::Sets { expected, given });
            }
            all.words.extend(Self::one(set).words);
            all.shape.count += 1;
        }
        Ok(all)
    }

    /// One set's steps, and its factor.
    pub fn get(&self, set: usize) -> (&[u64], f32) {
        let words = &self.words[set * self.shape.stride..];
        let pairs = self.shape.pairs();
        (&words[..pairs], f32::from_bits(words[pairs] as u32))
    }
}

/// One set's words.
pub fn write(frequencies: &Frequencies, words: &mut [u64]) {
    let factor = frequencies.factor().to_bits().into();
    for (word, step) in words.iter_mut().zip(frequencies.steps().chain([factor])) {
        *word = step;
    }
}
