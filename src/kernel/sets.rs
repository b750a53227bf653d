//! Sets of frequencies as the kernels read them.

use crate::{Error, Frequencies, Result};

/// Phase steps of one or more sets, one `u64` a pair, each set's with its factor as its last word; and
/// behind them a zero, the position id of tokens that have none.
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

    /// The word that is zero.
    pub fn zero(&self) -> usize {
        self.count * self.stride
    }

    /// The set that an index means: the last one for what is below zero or beyond it.
    pub fn set(&self, index: i64) -> usize {
        usize::try_from(index).map_or(self.count - 1, |index| index.min(self.count - 1))
    }
}

impl Sets {
    pub fn one(frequencies: &Frequencies) -> Self {
        Self::of(frequencies, std::slice::from_ref(frequencies))
    }

    /// Sets of one rotary dimension.
    ///
    /// # Errors
    /// [`Error::Sets`] where there are none, or they differ in rotary dimension.
    pub fn new(sets: &[Frequencies]) -> Result<Self> {
        let Some(first) = sets.first() else {
            return Err(Error::Sets { expected: 2, given: 0 });
        };
        let expected = first.rotary_dim();
        let other = sets.iter().map(Frequencies::rotary_dim).find(|&given| given != expected);
        let too_many = (sets.len() > u32::MAX as usize).then_some(expected);
        if let Some(given) = other.or(too_many) {
            return Err(Error::Sets { expected, given });
        }
        Ok(Self::of(first, sets))
    }

    fn of(first: &Frequencies, sets: &[Frequencies]) -> Self {
        let rotary_dim = first.rotary_dim();
        let stride = (rotary_dim / 2 + 1).next_multiple_of(2);
        let shape = SetShape { rotary_dim, count: sets.len(), stride };
        // Pairs of words, as the kernels' alignment wants them.
        let mut words = vec![0; shape.zero() + 2];
        for (set, words) in sets.iter().zip(words.chunks_exact_mut(stride)) {
            write(set, words);
        }
        Self { words, shape, factor: first.factor() }
    }

    /// One set's steps, and its factor.
    pub fn get(&self, set: usize) -> (&[u64], f32) {
        let words = &self.words[set * self.shape.stride..][..self.shape.stride];
        (&words[..self.shape.pairs()], f32::from_bits(words[self.shape.stride - 1] as u32))
    }
}

/// One set's words, `stride` of them.
pub fn write(frequencies: &Frequencies, words: &mut [u64]) {
    for (word, step) in words.iter_mut().zip(frequencies.steps()) {
        *word = step;
    }
    if let Some(last) = words.last_mut() {
        *last = frequencies.factor().to_bits().into();
    }
}
