//! The handle, and its calls.

use std::sync::Arc;

use cudarc::driver::sys::CUstream;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream};

use super::context::{Current, RawStream, allocating, check_handle, driver, enter, is_capturing};
use super::memory::Resolving;
use super::operands::{AnyViewMut, DeviceElement, Heads, Ids, ViewMut, any_mut};
use super::words::DeviceWords;
use super::{Kernels, capture};
use crate::call::{Call, Checked, CheckedTable, Names, Table};
use crate::plan::{Pdl, Planner};
use crate::{
    Append, Dtype, Error, Frequencies, Layout, Pairing, PhaseWords, Positions, Raw, RawBuffer,
    RawIds, RawOperand, Result, RopeSpec, trace,
};

/// Rotates query and key on one device. Cheap to clone; `Send + Sync`; no state but its frequencies.
#[derive(Clone, Debug)]
pub struct Rope {
    spec: RopeSpec,
    // Before the kernels: freeing words waits for launches, which run the kernels' code.
    words: Words,
    kernels: Kernels,
    pdl: Pdl,
}

/// Phase words in device memory: the rope's, which its clones share, or the caller's.
#[derive(Clone, Debug)]
enum Words {
    Owned(Arc<DeviceWords>),
    Borrowed(u64),
}

/// What is done where the words are written anew.
const WRITING: &str = "writing frequencies";

impl Rope {
    /// A rope that turns `frequencies` in pairs laid out as `pairing` says. Uploads its phase words, about a
    /// kilobyte, and waits for that. Leaves the caller's context current, as does everything but the safe
    /// calls.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; or [`Error::Driver`].
    pub fn new(kernels: &Kernels, frequencies: &Frequencies, pairing: Pairing) -> Result<Self> {
        Self::from_words(kernels, &frequencies.phase_words(), pairing)
    }

    /// A rope with several sets of frequencies, for batches that mix ratios or lengths: see
    /// [`Positions::with_sets`]. Where a call does not choose, all sequences turn by the first.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::NoSets`]; [`Error::SetRotaryDim`] where they differ in rotary
    /// dimension.
    pub fn with_frequency_sets(
        kernels: &Kernels,
        sets: &[Frequencies],
        pairing: Pairing,
    ) -> Result<Self> {
        Self::from_words(kernels, &PhaseWords::from_sets(sets)?, pairing)
    }

    /// A rope with a copy of these words.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_words(kernels: &Kernels, words: &PhaseWords, pairing: Pairing) -> Result<Self> {
        let spec = RopeSpec::of(words, pairing);
        let words = Words::Owned(Arc::new(DeviceWords::upload(kernels.context(), words)?));
        Ok(Self { spec, words, kernels: kernels.clone(), pdl: Pdl::Off })
    }

    /// A rope over `len` phase words that somebody else owns, at `address` in device memory.
    ///
    /// # Errors
    /// [`Error::WordsLen`] where the spec has another number; [`Error::Null`]; [`Error::Alignment`] where the
    /// address is not a multiple of 16.
    ///
    /// # Safety
    /// The words are valid device memory of the kernels' context as long as a launch of the rope or of a
    /// clone of it, or a graph that captured one, may run.
    pub unsafe fn borrowing(
        kernels: &Kernels,
        address: u64,
        len: usize,
        spec: RopeSpec,
    ) -> Result<Self> {
        spec.check_words(address, len, 16)?;
        Ok(Self { spec, words: Words::Borrowed(address), kernels: kernels.clone(), pdl: Pdl::Off })
    }

    /// The same rope turning the other way: see [`Direction::Inverse`](crate::Direction::Inverse).
    pub fn inverse(&self) -> Self {
        Self { spec: self.spec.inverse(), ..self.clone() }
    }

    /// The same rope, whose launches may start beside the kernels before them: see [`Pdl`] for what that
    /// asks of the caller, and when it gains. [`Pdl::Off`] at first; ignored below compute capability 9.0,
    /// and by launches that are too large to gain.
    pub fn with_pdl(&self, pdl: Pdl) -> Self {
        Self { pdl: self.kernels.pdl(pdl), ..self.clone() }
    }

    /// What the rope is, apart from its words.
    pub fn spec(&self) -> &RopeSpec {
        &self.spec
    }

    /// Number of rotated channels.
    pub fn rotary_dim(&self) -> usize {
        self.spec.rotary_dim()
    }

    /// The kernels that it launches.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// The context it lives in: the very handle.
    pub fn context(&self) -> &Arc<CudaContext> {
        self.kernels.context()
    }

    fn planner(&self) -> Planner {
        let words = match &self.words {
            Words::Owned(words) => words.address,
            Words::Borrowed(address) => *address,
        };
        Planner { words, spec: self.spec, device: self.kernels.device(), pdl: self.pdl }
    }

    /// Writes other frequencies over set `set` (0, where there is one), on `stream`: launches after it
    /// on that stream turn by them, those of clones of this rope and of graphs that captured one too.
    /// For frequencies that change with the length, such as
    /// [`FrequencySchedule::set_length`](crate::FrequencySchedule::set_length)'s. Nothing is allocated on
    /// the device.
    ///
    /// # Errors
    /// [`Error::SetRotaryDim`]; [`Error::SetIndex`]; [`Error::SetFactor`]; [`Error::BorrowedWords`];
    /// [`Error::StreamCapturing`]; [`Error::Context`]; or [`Error::Driver`].
    pub fn set_frequencies(
        &self,
        stream: &CudaStream,
        set: usize,
        frequencies: &Frequencies,
    ) -> Result<()> {
        check_handle(self.context(), "stream", stream.context())?;
        // SAFETY: a stream of this context.
        unsafe { self.set_frequencies_raw(stream.cu_stream().cast(), set, frequencies) }
    }

    /// The same on a stream that somebody else owns.
    ///
    /// # Errors
    /// As [`set_frequencies`](Self::set_frequencies).
    ///
    /// # Safety
    /// `stream` is a stream of the rope's context (null is the legacy default stream).
    pub unsafe fn set_frequencies_raw(
        &self,
        stream: RawStream,
        set: usize,
        frequencies: &Frequencies,
    ) -> Result<()> {
        let Words::Owned(words) = &self.words else { return Err(Error::BorrowedWords) };
        self.spec.words.check_write(self.spec.factor(), set, frequencies)?;
        let _current = Current::enter(self.context()).map_err(driver(WRITING))?;
        let stream: CUstream = stream.cast();
        // SAFETY: the caller's promise.
        if unsafe { is_capturing(stream) }? {
            return Err(Error::StreamCapturing { doing: WRITING });
        }
        words.rewrite(stream, self.spec.words, set, frequencies)
    }

    /// Rotates q, k or both by the tokens' positions, in one launch on `stream`. Nothing else is touched:
    /// not the channels outside the rotated range, not what lies between strides.
    ///
    /// # Errors
    /// Any of the [`Error`]s about types, shapes, strides, ranges, lengths and contexts, then nothing was
    /// launched; or [`Error::Driver`].
    pub fn rotate(
        &self,
        stream: &CudaStream,
        mut q: Option<Heads<'_>>,
        mut k: Option<Heads<'_>>,
        positions: Positions<Ids<'_>>,
    ) -> Result<()> {
        let _range = trace::range("condensed_rope::cuda::rotate");
        enter(self.context(), stream)?;
        for (heads, names) in [(&q, Names::Q), (&k, Names::K)] {
            heads.as_ref().map_or(Ok(()), |heads| heads.check_handle(self.context(), names))?;
        }
        positions.check_handle(self.context())?;
        self.ordered(|| {
            let (q, _q_guards) = q.as_mut().map(|q| q.resolve(stream)).unzip();
            let (k, _k_guards) = k.as_mut().map(|k| k.resolve(stream)).unzip();
            let (positions, _position_guards) = positions.resolve(stream);
            let call = Call { q, k, positions }.check(&self.spec)?;
            // SAFETY: views lie in their buffers and in this context; exclusive borrows keep q and k
            // apart, and cudarc's events order the launch with other uses of them.
            unsafe { self.launch(stream, &call) }
        })
    }

    /// Rotates q and k that are views of one buffer, in place: packed QKV.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate), and [`Error::OverlappingTensors`] where the views share memory.
    pub fn rotate_packed<'a, T: DeviceElement>(
        &self,
        stream: &CudaStream,
        buffer: impl Into<ViewMut<'a, T>>,
        q: Layout,
        k: Layout,
        positions: Positions<Ids<'_>>,
    ) -> Result<()> {
        let _range = trace::range("condensed_rope::cuda::rotate_packed");
        let mut buffer: AnyViewMut = any_mut(buffer);
        enter(self.context(), stream)?;
        buffer.check_handle(self.context(), "qkv")?;
        positions.check_handle(self.context())?;
        self.ordered(|| {
            let (address, _guard) = buffer.resolve(stream);
            let [q, k] = [q, k].map(|layout| Some(RawOperand::in_place(T::DTYPE, address, layout)));
            let (positions, _position_guards) = positions.resolve(stream);
            let call = Call { q, k, positions }.check(&self.spec)?;
            // SAFETY: both views lie in the buffer, in this context, and share none of it; the borrow
            // is exclusive, and cudarc's events order the launch with other uses.
            unsafe { self.launch(stream, &call) }
        })
    }

    /// Rotates tensors by address, on a stream that somebody else owns. The same checks, but for the lengths
    /// of buffers that are not given.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate); also [`Error::Null`], [`Error::Alignment`] where an address is not a
    /// multiple of its element size, and [`Error::OverlappingTensors`] where what is written shares memory
    /// with another tensor (a source that *is* its target, by address and layout, is in place).
    ///
    /// # Safety
    /// - `stream` is a stream of the rope's context (null is the legacy default stream).
    /// - Until the launch has run, every row of the layouts is valid device memory of the rope's
    ///   context, readable for sources and writable for targets, and so are the positions.
    /// - Nothing else writes to them meanwhile, nor reads what is written.
    /// - The rope (or a clone of it) is kept until the launch has run, and as long as a graph that
    ///   captured it may run.
    pub unsafe fn rotate_raw(
        &self,
        stream: RawStream,
        q: Option<RawOperand>,
        k: Option<RawOperand>,
        positions: Positions<RawIds>,
    ) -> Result<()> {
        let _range = trace::range("condensed_rope::cuda::rotate_raw");
        let call = Call { q, k, positions }.check(&self.spec)?;
        let _current = Current::enter(self.context()).map_err(driver("binding the context"))?;
        // SAFETY: the caller's promise, and the checks above.
        unsafe { self.kernels.submit(stream.cast(), self.planner().rotation(&call)) }
    }

    /// Normalises query and key heads, rotates them by the tokens' positions, and appends keys and values to a cache, in one
    /// launch on `stream`: as much of that as the call asks for. What is stored is rounded once, to the element type; as
    /// 8-bit floats, from there. Of two tokens with one slot, each vector there is one of theirs.
    ///
    /// ```no_run
    /// use condensed_rope::{
    ///     Frequencies, KvCache, KvLayout, Layout, Pairing, Positions, QkNorm, Rows, SlotMapping, cuda,
    /// };
    /// use half::bf16;
    ///
    /// let context = cuda::context(0)?;
    /// let stream = context.default_stream();
    /// let kernels = cuda::Kernels::load(&context)?;
    /// let rope = cuda::Rope::new(&kernels, &Frequencies::new(128, 1e6)?, Pairing::HalfSplit)?;
    ///
    /// // Qwen3-8B: 7 tokens of 32 query heads and 8 key and value heads, packed, into 1000 pages of 16 slots.
    /// let row = (32 + 8 + 8) * 128;
    /// let view = |heads, at| Layout::thd(7, heads, 128).with_strides([0, row, 128]).at(at);
    /// let mut qkv = stream.alloc_zeros::<bf16>(7 * row)?;
    /// let [q_norm, k_norm] = [stream.alloc_zeros::<bf16>(128)?, stream.alloc_zeros::<bf16>(128)?];
    /// let layout = KvLayout::nhd(1000, 16, 8, 128);
    /// let mut keys = stream.alloc_zeros::<bf16>(1000 * 16 * 8 * 128)?;
    /// let mut values = stream.alloc_zeros::<bf16>(1000 * 16 * 8 * 128)?;
    /// let slots = stream.clone_htod(&(160..167).collect::<Vec<i64>>())?;
    /// let [q, k, v] = [view(32, 0), view(8, 32 * 128), view(8, 40 * 128)];
    /// let call = cuda::Append::packed(&mut qkv, Some(q), Some(k), Some(v))
    ///     .with_norm(QkNorm::rms(1e-6).q(&q_norm).k(&k_norm))
    ///     .with_cache(KvCache::new(&mut keys, layout, &mut values, layout), SlotMapping::ids(&slots));
    /// rope.rotate_append(&stream, call, Positions::consecutive(40))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Any of the [`Error`]s about types, shapes, strides, ranges, lengths, weights, scales, caches and contexts, then nothing
    /// was launched; or [`Error::Driver`]. Slots and positions are right whatever they are: a slot that the cache does not
    /// have stores nothing.
    pub fn rotate_append(
        &self,
        stream: &CudaStream,
        mut call: super::Append<'_>,
        positions: Positions<Ids<'_>>,
    ) -> Result<()> {
        let _range = trace::range("condensed_rope::cuda::rotate_append");
        enter(self.context(), stream)?;
        positions.check_handle(self.context())?;
        self.ordered(|| {
            let mut resolving = Resolving::new(self.context(), stream);
            let raw = call.lower(&mut resolving)?;
            let (positions, _position_guards) = positions.resolve(stream);
            let call = raw.check(&self.spec, positions)?;
            self.check_waits()?;
            let launch = self.planner().append(&call);
            // SAFETY: views lie in their buffers and in this context; exclusive borrows and the checks keep what is written
            // apart, and cudarc's events order the launch with other uses of them.
            unsafe { self.kernels.submit(stream.cu_stream(), launch) }?;
            self.retain(stream)
        })
    }

    /// The same by address, on a stream that somebody else owns: the same checks, but for the lengths of buffers that are
    /// not given.
    ///
    /// # Errors
    /// As [`rotate_append`](Self::rotate_append); also [`Error::Null`], [`Error::Alignment`], and
    /// [`Error::OverlappingTensors`] where what is written shares memory with another tensor.
    ///
    /// # Safety
    /// As of [`rotate_raw`](Self::rotate_raw), of every tensor of the call: rows, weights, scales, caches and slots.
    pub unsafe fn rotate_append_raw(
        &self,
        stream: RawStream,
        call: Append<Raw>,
        positions: Positions<RawIds>,
    ) -> Result<()> {
        let _range = trace::range("condensed_rope::cuda::rotate_append_raw");
        let call = call.raw()?.check(&self.spec, positions)?;
        let _current = Current::enter(self.context()).map_err(driver("binding the context"))?;
        // SAFETY: the caller's promise, and the checks above.
        unsafe { self.kernels.submit(stream.cast(), self.planner().append(&call)) }
    }

    /// Writes cos and sin of `cos.len() / rotary_dim` consecutive positions from `start`, each
    /// `[positions, rotary_dim]`, in one launch: what [`cpu::Rope::cos_sin`](crate::cpu::Rope::cos_sin)
    /// writes, bit for bit. Where there are several sets of frequencies, the first one's.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] where the buffers are not of one length, a multiple of `rotary_dim`;
    /// [`Error::Context`]; [`Error::TooLarge`] from 2^31 rows on; or [`Error::Driver`].
    pub fn cos_sin<'a, T: DeviceElement>(
        &self,
        stream: &CudaStream,
        start: i64,
        cos: impl Into<ViewMut<'a, T>>,
        sin: impl Into<ViewMut<'a, T>>,
    ) -> Result<()> {
        let (mut cos, mut sin) = (any_mut(cos), any_mut(sin));
        enter(self.context(), stream)?;
        cos.check_handle(self.context(), "cos")?;
        sin.check_handle(self.context(), "sin")?;
        self.ordered(|| {
            let (cos, _cos_guard) = cos.resolve(stream);
            let (sin, _sin_guard) = sin.resolve(stream);
            let table = Table::filling(T::DTYPE, cos, sin, start, self.rotary_dim());
            let table = table.check(&self.spec)?;
            self.check_waits()?;
            // SAFETY: the buffers hold the rows and are borrowed exclusively; cudarc's events order the
            // launch with other uses.
            unsafe { self.launch_table(stream.cu_stream(), &table) }?;
            self.retain(stream)
        })
    }

    /// Writes `rows` rows of the table by address, on a stream that somebody else owns.
    ///
    /// # Errors
    /// As [`cos_sin`](Self::cos_sin); also [`Error::Null`], [`Error::Alignment`] and
    /// [`Error::OverlappingTensors`].
    ///
    /// # Safety
    /// As [`rotate_raw`](Self::rotate_raw), of both buffers.
    pub unsafe fn cos_sin_raw(
        &self,
        stream: RawStream,
        dtype: Dtype,
        start: i64,
        rows: usize,
        cos: RawBuffer,
        sin: RawBuffer,
    ) -> Result<()> {
        let table = Table { dtype, cos, sin, start, rows }.check(&self.spec)?;
        let _current = Current::enter(self.context()).map_err(driver("binding the context"))?;
        // SAFETY: the caller's promise.
        unsafe { self.launch_table(stream.cast(), &table) }
    }

    /// A table of `len` elements in device memory from position 0, waited for.
    pub(crate) fn new_table<T: DeviceElement>(
        &self,
        stream: &Arc<CudaStream>,
        len: usize,
    ) -> Result<[CudaSlice<T>; 2]> {
        const DOING: &str = "allocating the table";
        enter(self.context(), stream)?;
        // SAFETY: a stream of this context, which is current.
        if unsafe { is_capturing(stream.cu_stream()) }? {
            return Err(Error::StreamCapturing { doing: DOING });
        }
        let allocate = || -> Result<CudaSlice<T>> {
            // The driver refuses to allocate nothing.
            let refused = allocating(DOING, len * size_of::<T>());
            let slice = stream.alloc_zeros::<T>(len.max(1)).map_err(refused)?;
            if len > 0 {
                return Ok(slice);
            }
            // SAFETY: an allocation of this stream, which nothing else owns any more.
            Ok(unsafe { stream.upgrade_device_ptr(slice.leak(), 0) })
        };
        let (mut cos, mut sin) = (allocate()?, allocate()?);
        self.cos_sin(stream, 0, &mut cos, &mut sin)?;
        stream.synchronize().map_err(driver("waiting for the table"))?;
        Ok([cos, sin])
    }

    /// Runs a safe call, whose guards are dropped at its end, and reports what they could not: a record that
    /// the driver refused behind a launch leaves later work on the buffers unordered with it.
    fn ordered(&self, call: impl FnOnce() -> Result<()>) -> Result<()> {
        let result = call();
        let recorded = self.context().check_err();
        result.and(recorded.map_err(driver("recording the launch behind its buffers")))
    }

    /// cudarc stores the refusal of a wait in the context, and hands out the address all the same.
    fn check_waits(&self) -> Result<()> {
        self.context().check_err().map_err(driver("waiting for earlier work on the buffers"))
    }

    /// # Safety
    /// As of [`Kernels::submit`].
    unsafe fn launch(&self, stream: &CudaStream, call: &Checked) -> Result<()> {
        self.check_waits()?;
        let launch = self.planner().rotation(call);
        // SAFETY: the caller's promise.
        unsafe { self.kernels.submit(stream.cu_stream(), launch) }?;
        self.retain(stream)
    }

    /// Where the launch went into a graph, that shares the rope.
    fn retain(&self, stream: &CudaStream) -> Result<()> {
        let stream = stream.cu_stream();
        // SAFETY: a stream of this context, which is current.
        if unsafe { is_capturing(stream) }? {
            // SAFETY: as above, and it is being captured.
            unsafe { capture::retain(stream, self) }?;
        }
        Ok(())
    }

    /// # Safety
    /// As of [`Kernels::submit`].
    unsafe fn launch_table(&self, stream: CUstream, table: &CheckedTable) -> Result<()> {
        let _range = trace::range("condensed_rope::cuda::cos_sin");
        // SAFETY: the caller's promise.
        unsafe { self.kernels.submit(stream, self.planner().table(table)) }
    }
}
