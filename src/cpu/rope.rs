use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use half::{bf16, f16};

use super::append::Appending;
use super::operands::{ByAddress, Heads, Ids, written};
use super::rotate::Rotation;
use super::threads::{Threads, note_process};
use super::{angles::Turns, table};
use crate::call::{Call, CheckedAppend, CheckedTable, Table};
use crate::frequencies::read_set;
use crate::{
    Append, Dtype, Element, Error, Frequencies, Layout, Pairing, PhaseWords, Positions, Raw,
    RawBuffer, RawIds, RawOperand, Result, RopeSpec, trace,
};

/// Rotates query and key on the CPU. Cheap to clone; `Send + Sync`; no state but its frequencies.
#[derive(Clone, Debug)]
pub struct Rope {
    spec: RopeSpec,
    words: Words,
    threads: Threads,
}

/// Phase words: the rope's, which its clones share, or the caller's.
#[derive(Clone)]
enum Words {
    Owned(Arc<RwLock<Arc<PhaseWords>>>),
    Borrowed { address: u64, len: usize },
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owned(_) => f.write_str("Owned"),
            Self::Borrowed { address, len } => write!(f, "Borrowed {len} at {address:#x}"),
        }
    }
}

impl Words {
    /// What they are now: writing others meanwhile does not disturb who reads these.
    fn with<R>(&self, read: impl FnOnce(&[u64]) -> R) -> R {
        match self {
            Self::Owned(words) => {
                let now = words.read().unwrap_or_else(PoisonError::into_inner).clone();
                read(now.words())
            }
            Self::Borrowed { address, len } => {
                let first = std::ptr::with_exposed_provenance(*address as usize);
                // SAFETY: `Rope::borrowing`'s caller promised so many words for as long as the rope is used.
                read(unsafe { std::slice::from_raw_parts(first, *len) })
            }
        }
    }
}

/// Picks the element type of a call that was checked.
macro_rules! by_dtype {
    ($dtype:expr, $T:ident => $run:expr) => {
        match $dtype {
            Dtype::F32 => {
                type $T = f32;
                $run
            }
            Dtype::F16 => {
                type $T = f16;
                $run
            }
            Dtype::BF16 => {
                type $T = bf16;
                $run
            }
        }
    };
}

impl Rope {
    /// A rope that turns `frequencies` in pairs laid out as `pairing` says.
    pub fn new(frequencies: &Frequencies, pairing: Pairing) -> Self {
        Self::from_words(frequencies.phase_words(), pairing)
    }

    /// A rope with several sets of frequencies, for batches that mix ratios or lengths: see
    /// [`Positions::with_sets`]. Where a call does not choose, all sequences turn by the first.
    ///
    /// # Errors
    /// [`Error::NoSets`]; [`Error::SetRotaryDim`] where they differ in rotary dimension.
    pub fn with_frequency_sets(sets: &[Frequencies], pairing: Pairing) -> Result<Self> {
        Ok(Self::from_words(PhaseWords::from_sets(sets)?, pairing))
    }

    /// A rope that owns these words.
    pub fn from_words(words: PhaseWords, pairing: Pairing) -> Self {
        note_process();
        let spec = RopeSpec::of(&words, pairing);
        let words = Words::Owned(Arc::new(RwLock::new(Arc::new(words))));
        Self { spec, words, threads: Threads::ambient() }
    }

    /// A rope over `len` phase words that somebody else owns, at `address`.
    ///
    /// # Errors
    /// [`Error::WordsLen`] where the spec has another number; [`Error::Null`]; [`Error::Alignment`] where the
    /// address is not a multiple of 8.
    ///
    /// # Safety
    /// The words are valid as long as the rope or a clone of it is used, and not written during a call.
    pub unsafe fn borrowing(address: u64, len: usize, spec: RopeSpec) -> Result<Self> {
        note_process();
        spec.check_words(address, len, align_of::<u64>())?;
        Ok(Self { spec, words: Words::Borrowed { address, len }, threads: Threads::ambient() })
    }

    /// The same rope turning the other way: see [`Direction::Inverse`](crate::Direction::Inverse).
    pub fn inverse(&self) -> Self {
        Self { spec: self.spec.inverse(), ..self.clone() }
    }

    /// The same rope, whose large calls use these threads.
    pub fn with_threads(&self, threads: Threads) -> Self {
        Self { threads, ..self.clone() }
    }

    /// Writes other frequencies over set `set` (0, where there is one): calls of this rope and of its clones
    /// that start afterwards turn by them. For frequencies that change with the length, such as
    /// [`FrequencySchedule::set_length`](crate::FrequencySchedule::set_length)'s.
    ///
    /// # Errors
    /// [`Error::SetRotaryDim`]; [`Error::SetIndex`]; [`Error::SetFactor`]; [`Error::BorrowedWords`].
    pub fn set_frequencies(&self, set: usize, frequencies: &Frequencies) -> Result<()> {
        let Words::Owned(words) = &self.words else { return Err(Error::BorrowedWords) };
        let mut words = words.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut words).set_frequencies(set, frequencies)
    }

    /// What the rope is, apart from its words.
    pub fn spec(&self) -> &RopeSpec {
        &self.spec
    }

    /// Number of rotated channels.
    pub fn rotary_dim(&self) -> usize {
        self.spec.rotary_dim()
    }

    /// Rotates q, k or both by the tokens' positions. Nothing else is touched: not the channels outside
    /// the rotated range, not what lies between strides.
    ///
    /// # Errors
    /// Any of the [`Error`]s about types, shapes, strides, ranges and lengths. Then nothing was written.
    pub fn rotate(
        &self,
        q: Option<Heads<'_>>,
        k: Option<Heads<'_>>,
        positions: Positions<Ids<'_>>,
    ) -> Result<()> {
        let raw = |heads: &Option<Heads>| heads.as_ref().map(|heads| heads.raw);
        // SAFETY: the slices are borrowed until the end of the call, the targets exclusively, and the
        // operands know how long they are.
        unsafe { self.rotate_raw(raw(&q), raw(&k), positions.raw()) }
    }

    /// Rotates q and k that are views of one buffer, in place: packed QKV.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate), and [`Error::OverlappingTensors`] where the views share memory.
    pub fn rotate_packed<T: Element>(
        &self,
        buffer: &mut [T],
        q: Layout,
        k: Layout,
        positions: Positions<Ids<'_>>,
    ) -> Result<()> {
        let buffer = written(buffer);
        let [q, k] = [q, k].map(|layout| Some(RawOperand::in_place(T::DTYPE, buffer, layout)));
        // SAFETY: the slice is borrowed exclusively, and the operands know how long it is.
        unsafe { self.rotate_raw(q, k, positions.raw()) }
    }

    /// Rotates tensors by address: the same checks, but for the lengths of buffers that are not given.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate); also [`Error::Null`], [`Error::Alignment`] where an address is not a
    /// multiple of its element size, and [`Error::OverlappingTensors`] where what is written shares memory
    /// with another tensor (a source that *is* its target, by address and layout, is in place).
    ///
    /// # Safety
    /// During the call every row of the layouts is valid memory of the operands' element type, readable for
    /// sources and writable for targets, and so are the positions; nothing else writes to them, nor reads
    /// what is written.
    pub unsafe fn rotate_raw(
        &self,
        q: Option<RawOperand>,
        k: Option<RawOperand>,
        positions: Positions<RawIds>,
    ) -> Result<()> {
        let _range = trace::range("condensed_rope::cpu::rotate");
        let call = Call { q, k, positions }.check(&self.spec)?;
        self.words.with(|words| {
            let rotation = Rotation { spec: self.spec, words, call: &call, threads: &self.threads };
            // SAFETY: the checks say that every row lies in its buffer and that no two rows that are
            // written share an element; the rest is the caller's promise.
            by_dtype!(call.dtype(), T => unsafe { rotation.run::<T>() });
        });
        Ok(())
    }

    /// Normalises query and key heads, rotates them by the tokens' positions, and appends keys and values to a cache: as
    /// much of that as the call asks for. What is stored is rounded once, to the element type; as 8-bit floats, from there.
    /// Where two tokens have one slot, the later one's key and value are there.
    ///
    /// ```
    /// use condensed_rope::{
    ///     Frequencies, KvCache, KvLayout, Layout, Pairing, Positions, QkNorm, Rows, SlotMapping, cpu,
    /// };
    ///
    /// // Two tokens of 4 query heads and 2 key and value heads of 64, into a cache of 10 pages of 16.
    /// let rope = cpu::Rope::new(&Frequencies::new(64, 1e6)?, Pairing::HalfSplit);
    /// let (mut q, k, v) = (vec![1f32; 2 * 4 * 64], vec![1f32; 2 * 2 * 64], vec![2f32; 2 * 2 * 64]);
    /// let weights = vec![1f32; 64];
    /// let layout = KvLayout::nhd(10, 16, 2, 64);
    /// let (mut keys, mut values) = (vec![0f32; 10 * 16 * 2 * 64], vec![0f32; 10 * 16 * 2 * 64]);
    /// let call = cpu::Append::new(
    ///     Some(cpu::Heads::in_place(&mut q, Layout::thd(2, 4, 64)).into()),
    ///     Some(Rows::new(&k, Layout::thd(2, 2, 64)).into()),
    ///     Some(Rows::new(&v, Layout::thd(2, 2, 64))),
    /// );
    /// let call = call
    ///     .with_norm(QkNorm::rms(1e-6).q(&weights).k(&weights))
    ///     .with_cache(KvCache::new(&mut keys, layout, &mut values, layout), SlotMapping::ids(&[35i64, -1]));
    /// rope.rotate_append(call, Positions::ids(&[3i64, 4]))?;
    /// assert_eq!(values[35 * 2 * 64], 2.0);
    /// # Ok::<(), condensed_rope::Error>(())
    /// ```
    ///
    /// # Errors
    /// Any of the [`Error`]s about types, shapes, strides, ranges, lengths, weights, scales and caches. Then nothing was
    /// written. Slots and positions are right whatever they are: a slot that the cache does not have stores nothing.
    pub fn rotate_append(
        &self,
        mut call: super::Append<'_>,
        positions: Positions<Ids<'_>>,
    ) -> Result<()> {
        let raw = call.lower(&mut ByAddress)?;
        let call = raw.check(&self.spec, positions.raw())?;
        // SAFETY: the slices are borrowed until the end of the call, what is written exclusively, and the checks knew how
        // long they are.
        unsafe { self.append(&call) };
        Ok(())
    }

    /// The same by address: the same checks, but for the lengths of buffers that are not given.
    ///
    /// # Errors
    /// As [`rotate_append`](Self::rotate_append); also [`Error::Null`], [`Error::Alignment`], and
    /// [`Error::OverlappingTensors`] where what is written shares memory with another tensor.
    ///
    /// # Safety
    /// As of [`rotate_raw`](Self::rotate_raw), of every tensor of the call.
    pub unsafe fn rotate_append_raw(
        &self,
        call: Append<Raw>,
        positions: Positions<RawIds>,
    ) -> Result<()> {
        let call = call.raw()?.check(&self.spec, positions)?;
        // SAFETY: the caller's promise.
        unsafe { self.append(&call) };
        Ok(())
    }

    /// # Safety
    /// Every row, page and list of the call is valid, and what is written nobody else's.
    unsafe fn append(&self, call: &CheckedAppend) {
        let _range = trace::range("condensed_rope::cpu::rotate_append");
        self.words.with(|words| {
            let appending = Appending { spec: self.spec, words, call, threads: &self.threads };
            // SAFETY: the caller's promise; the checks say that every row lies in its buffer.
            by_dtype!(call.dtype, T => unsafe { appending.run::<T>() });
        });
    }

    /// Writes cos and sin of `cos.len() / rotary_dim` consecutive positions from `start`, each
    /// `[positions, rotary_dim]`, both channels of a pair alike: `cat(freqs, freqs)` where the
    /// pairing is half-split, `repeat_interleave(freqs, 2)` where it is interleaved. With the factor
    /// of the frequencies, rounded once to `T`. Where there are several sets of them, the first one's.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] where the slices are not of one length, a multiple of `rotary_dim`;
    /// [`Error::TooLarge`] from 2^31 rows on.
    pub fn cos_sin<T: Element>(&self, start: i64, cos: &mut [T], sin: &mut [T]) -> Result<()> {
        let (cos, sin) = (written(cos), written(sin));
        let table = Table::filling(T::DTYPE, cos, sin, start, self.rotary_dim());
        let table = table.check(&self.spec)?;
        // SAFETY: the slices are borrowed exclusively, and the checks know how long they are.
        unsafe { self.write_table(&table) };
        Ok(())
    }

    /// Writes `rows` rows of the table by address.
    ///
    /// # Errors
    /// As [`cos_sin`](Self::cos_sin); also [`Error::Null`], [`Error::Alignment`] and
    /// [`Error::OverlappingTensors`].
    ///
    /// # Safety
    /// During the call both buffers are valid memory for `rows * rotary_dim` elements, and nobody else's.
    pub unsafe fn cos_sin_raw(
        &self,
        dtype: Dtype,
        start: i64,
        rows: usize,
        cos: RawBuffer,
        sin: RawBuffer,
    ) -> Result<()> {
        let table = Table { dtype, cos, sin, start, rows }.check(&self.spec)?;
        // SAFETY: the caller's promise.
        unsafe { self.write_table(&table) };
        Ok(())
    }

    /// # Safety
    /// As of [`table::run`].
    unsafe fn write_table(&self, table: &CheckedTable) {
        let _range = trace::range("condensed_rope::cpu::cos_sin");
        self.words.with(|words| {
            let steps = read_set(words, self.spec.words, 0).0;
            let turns = Turns::new(steps, self.spec.direction(), self.spec.factor());
            let (pairing, threads) = (self.spec.pairing(), &self.threads);
            by_dtype!(table.table().dtype, T => {
                // SAFETY: the caller's promise.
                unsafe { table::run::<T>(turns, pairing, table, threads) }
            });
        });
    }
}
