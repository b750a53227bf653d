//! The handle, and its calls.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUstream};
use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, DevicePtrMut, DeviceRepr, ValidAsZeroBits, result,
};

use super::buffers::{Heads, Ids, ViewMut, check_context};
use super::kernels::{Kernels, Steps, allocating, driver};
use crate::heads::{self, Extent};
use crate::kernel::{
    Launch, Overlap, RawHeads, RawIds, SetShape, Sets, Spec, check_raw, write_set,
};
use crate::{
    CondensedRotaryEmbedding, CosSin, Direction, Element, Error, Frequencies, Layout, Pairing,
    Positions, Result, trace,
};

/// Rotates query and key on one device. Cheap to clone; `Send + Sync`; no state but its frequencies.
#[derive(Clone, Debug)]
pub struct Rope {
    kernels: Arc<Kernels>,
    steps: Arc<Steps>,
    sets: SetShape,
    factor: f32,
    pairing: Pairing,
    direction: Direction,
    overlap: Overlap,
}

impl Rope {
    /// Loads the kernels into `context` and uploads the phase steps of `frequencies`. Slow (the
    /// driver may have to compile): do it once. [`with`](Self::with) makes more ropes of it.
    ///
    /// # Errors
    /// [`Error::DeviceTooOld`] below compute capability 7.5; [`Error::OutOfMemory`]; or
    /// [`Error::Driver`].
    pub fn new(
        context: &Arc<CudaContext>,
        frequencies: &Frequencies,
        pairing: Pairing,
    ) -> Result<Self> {
        Self::of(Arc::new(Kernels::load(context)?), Sets::one(frequencies), pairing)
    }

    /// A rope with several sets of frequencies, for batches that mix ratios or lengths: see
    /// [`Positions::with_sets`]. Where a call does not choose, all sequences turn by the first.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Sets`] where there are none, or they differ in rotary
    /// dimension.
    pub fn of_sets(
        context: &Arc<CudaContext>,
        sets: &[Frequencies],
        pairing: Pairing,
    ) -> Result<Self> {
        let sets = Sets::new(sets)?;
        Self::of(Arc::new(Kernels::load(context)?), sets, pairing)
    }

    /// Another rope over the same loaded kernels: for models with several sets of frequencies.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::Driver`].
    pub fn with(&self, frequencies: &Frequencies, pairing: Pairing) -> Result<Self> {
        Self::of(self.kernels.clone(), Sets::one(frequencies), pairing)
    }

    /// Another rope of several sets, over the same loaded kernels.
    ///
    /// # Errors
    /// As [`with`](Self::with); [`Error::Sets`].
    pub fn with_sets(&self, sets: &[Frequencies], pairing: Pairing) -> Result<Self> {
        Self::of(self.kernels.clone(), Sets::new(sets)?, pairing)
    }

    /// Writes other frequencies over set `set` (0, where there is one), on `stream`: launches after it
    /// on that stream turn by them, those of clones of this rope and of graphs that captured one too.
    /// For frequencies that change with the length, such as
    /// [`Scaled::set_length`](crate::Scaled::set_length)'s. Nothing is allocated on the device.
    ///
    /// A rope of one set keeps its factor on cos and sin, which no length changes.
    ///
    /// # Errors
    /// [`Error::Sets`] where the rotary dimension is another one; [`Error::Positions`] where there is no
    /// such set; [`Error::Context`]; or [`Error::Driver`], also where `stream` is being captured.
    pub fn retune(&self, stream: &CudaStream, set: usize, frequencies: &Frequencies) -> Result<()> {
        let (expected, given) = (self.rotary_dim(), frequencies.rotary_dim());
        if expected != given {
            return Err(Error::Sets { expected, given });
        }
        if set >= self.sets.count {
            return Err(Error::Positions { what: "sets", expected: self.sets.count, given: set });
        }
        self.check_stream(stream)?;
        let doing = driver("retuning");
        if stream.capture_status().map_err(&doing)?
            != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE
        {
            let reason = "the stream is being captured".to_owned();
            return Err(Error::Driver { doing: "retuning", reason });
        }
        let range = set * self.sets.stride..(set + 1) * self.sets.stride;
        self.steps.rewrite(stream, range, |words| write_set(frequencies, words)).map_err(doing)
    }

    fn of(kernels: Arc<Kernels>, sets: Sets, pairing: Pairing) -> Result<Self> {
        Ok(Self {
            sets: sets.shape,
            factor: sets.factor,
            steps: Arc::new(Steps::upload(&kernels.context, sets.words)?),
            kernels,
            pairing,
            direction: Direction::Forward,
            overlap: Overlap::None,
        })
    }

    /// The same rope turning the other way: see [`Direction::Inverse`].
    pub fn inverse(&self) -> Self {
        Self { direction: self.direction.reversed(), ..self.clone() }
    }

    /// The same rope, whose launches overlap the kernels before them: see [`Overlap`] for what that
    /// asks of the caller. [`Overlap::None`] at first; ignored below compute capability 9.0.
    pub fn overlapping(&self, overlap: Overlap) -> Self {
        let overlap = if self.kernels.overlaps { overlap } else { Overlap::None };
        Self { overlap, ..self.clone() }
    }

    /// Number of rotated channels.
    pub fn rotary_dim(&self) -> usize {
        self.sets.rotary_dim
    }

    /// The context the rope lives in.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.kernels.context
    }

    fn spec(&self) -> Spec {
        Spec {
            steps: self.steps.address,
            sets: self.sets,
            pairing: self.pairing,
            direction: self.direction,
            factor: self.factor,
            device: self.kernels.device,
            overlap: self.overlap,
        }
    }

    /// # Safety
    /// The context is current and `stream` is one of it; until the launch has run, all memory that
    /// it names is valid for what it does there, and nothing else writes to it.
    unsafe fn submit(&self, stream: CUstream, launch: Option<Launch>) -> Result<()> {
        let Some(mut launch) = launch else { return Ok(()) };
        let function = self.kernels.function(launch.geometry.entry, launch.variant).cu_function();
        let (grid, block) = (launch.geometry.grid, launch.geometry.block);
        let mut arguments = [(&raw mut launch.request).cast::<c_void>()];
        if launch.request.overlap == Overlap::None {
            // SAFETY: the kernel takes one `Request` by value; checks and geometry keep its threads
            // within the tensors, which the caller promised are valid.
            return unsafe {
                result::launch_kernel(function, grid, block, 0, stream, &mut arguments)
            }
            .map_err(driver("launching"));
        }
        let mut early = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid.0,
            gridDimY: grid.1,
            gridDimZ: grid.2,
            blockDimX: block.0,
            blockDimY: block.1,
            blockDimZ: block.2,
            sharedMemBytes: 0,
            hStream: stream,
            attrs: &raw mut early,
            numAttrs: 1,
        };
        let (arguments, extra) = (arguments.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: as above; and the kernel waits for the one before it.
        unsafe { sys::cuLaunchKernelEx(&config, function, arguments, extra) }
            .result()
            .map_err(driver("launching"))
    }

    /// Rotates q and, where given, k by the tokens' positions, in one launch on `stream`. Nothing
    /// else is touched: not the channels outside the rotated range, not what lies between strides.
    ///
    /// # Errors
    /// Any of the [`Error`]s about shapes, strides, ranges, lengths and contexts, then nothing was
    /// launched; or [`Error::Driver`].
    pub fn rotate<T: Element>(
        &self,
        stream: &CudaStream,
        mut q: Heads<'_, T>,
        mut k: Option<Heads<'_, T>>,
        positions: Positions<Ids<'_>>,
    ) -> Result<()> {
        let _range = trace::range("condensed_rope::cuda::rotate");
        let q_extent = q.extent(Extent::q);
        let k_extent = k.as_ref().map(|k| k.extent(Extent::k));
        heads::check(&q_extent, k_extent.as_ref(), self.rotary_dim())?;
        q.check_context(self.context(), &q_extent)?;
        if let (Some(k), Some(extent)) = (&k, &k_extent) {
            k.check_context(self.context(), extent)?;
        }
        self.prepare(stream, &positions, &q_extent.layout)?;

        let (q, _q_guards) = q.resolve(stream);
        let (k, _k_guards) = k.as_mut().map(|k| k.resolve(stream)).unzip();
        let (positions, _position_guards) = positions.resolve(stream);
        let launch = Launch::rotation(&self.spec(), &q, k.as_ref(), &positions)?;
        // SAFETY: views lie in their buffers and in this context; exclusive borrows keep q and k
        // apart, and cudarc's events order the launch with other uses of them.
        unsafe { self.submit(stream.cu_stream(), launch) }
    }

    /// Rotates q and k that are views of one buffer, in place: packed QKV.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate), and [`Error::OverlappingTensors`] where the views share memory.
    pub fn rotate_packed<'a, T: Element>(
        &self,
        stream: &CudaStream,
        buffer: impl Into<ViewMut<'a, T>>,
        q: Layout,
        k: Layout,
        positions: Positions<Ids<'_>>,
    ) -> Result<()> {
        let _range = trace::range("condensed_rope::cuda::rotate_packed");
        let ViewMut(mut buffer) = buffer.into();
        let len = buffer.len();
        let (q_extent, k_extent) = (Extent::q(q, len, None), Extent::k(k, len, None));
        heads::check_packed(&q_extent, &k_extent, self.rotary_dim())?;
        check_context(self.context(), "qkv", &buffer)?;
        self.prepare(stream, &positions, &q)?;

        let (address, _guard) = buffer.device_ptr_mut(stream);
        let [q, k] = [q, k].map(|layout| RawHeads::in_place(T::DTYPE, address, layout));
        let (positions, _position_guards) = positions.resolve(stream);
        let launch = Launch::rotation(&self.spec(), &q, Some(&k), &positions)?;
        // SAFETY: both views lie in the buffer, in this context, and share none of it; the borrow
        // is exclusive, and cudarc's events order the launch with other uses.
        unsafe { self.submit(stream.cu_stream(), launch) }
    }

    /// Rotates tensors by address, on a stream that somebody else owns. The same checks of shapes,
    /// strides and overlap, but for the lengths of buffers, which an address does not tell.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate); also [`Error::Dtype`] where q and k differ in element type,
    /// [`Error::Alignment`] where an address is not a multiple of its element size, and
    /// [`Error::OverlappingTensors`] where what is written shares memory with another tensor (a
    /// source that *is* its target, by address and layout, is in place).
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
        stream: CUstream,
        q: RawHeads,
        k: Option<RawHeads>,
        positions: Positions<RawIds>,
    ) -> Result<()> {
        let _range = trace::range("condensed_rope::cuda::rotate_raw");
        let (q, k) = (q.without_own_source(), k.map(RawHeads::without_own_source));
        check_raw(&q, k.as_ref(), &positions, self.rotary_dim())?;
        let launch = Launch::rotation(&self.spec(), &q, k.as_ref(), &positions)?;
        self.context().bind_to_thread().map_err(driver("binding the context"))?;
        // SAFETY: the caller's promise, and the checks above.
        unsafe { self.submit(stream, launch) }
    }

    /// Writes cos and sin of `cos.len() / rotary_dim` consecutive positions from `start`, each
    /// `[positions, rotary_dim]`, in one launch: what [`cpu::Rope::cos_sin`](crate::cpu::Rope::cos_sin)
    /// writes, bit for bit. Where there are several sets of frequencies, the first one's.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] where the buffers are not of one length, a multiple of `rotary_dim`;
    /// [`Error::Context`]; [`Error::TooLarge`] from 2^31 rows on; or [`Error::Driver`].
    pub fn cos_sin<'a, T: Element>(
        &self,
        stream: &CudaStream,
        start: i64,
        cos: impl Into<ViewMut<'a, T>>,
        sin: impl Into<ViewMut<'a, T>>,
    ) -> Result<()> {
        let _range = trace::range("condensed_rope::cuda::cos_sin");
        let (ViewMut(mut cos), ViewMut(mut sin)) = (cos.into(), sin.into());
        let rows = heads::check_table(cos.len(), sin.len(), self.rotary_dim())?;
        check_context(self.context(), "cos", &cos)?;
        check_context(self.context(), "sin", &sin)?;
        self.check_stream(stream)?;
        let (cos, _cos_guard) = cos.device_ptr_mut(stream);
        let (sin, _sin_guard) = sin.device_ptr_mut(stream);
        let launch = Launch::table(&self.spec(), T::DTYPE, [cos, sin], start, rows)?;
        // SAFETY: the buffers hold `rows` rows and are borrowed exclusively; cudarc's events order
        // the launch with other uses.
        unsafe { self.submit(stream.cu_stream(), launch) }
    }

    /// The last checks before buffers are asked for their addresses.
    fn prepare(
        &self,
        stream: &CudaStream,
        positions: &Positions<Ids<'_>>,
        q: &Layout,
    ) -> Result<()> {
        let [batch, seq, ..] = q.shape();
        positions.check(batch, seq, self.rotary_dim())?;
        positions.check_context(self.context())?;
        self.check_stream(stream)
    }

    fn check_stream(&self, stream: &CudaStream) -> Result<()> {
        if stream.context() != self.context() {
            return Err(Error::Context { what: "stream" });
        }
        self.context().bind_to_thread().map_err(driver("binding the context"))
    }
}

impl CondensedRotaryEmbedding {
    /// Cos and sin of positions `0..seq_len` in device memory, made by one launch of `rope`'s
    /// kernels on `stream`, and waited for. `rope` says where, not what: the frequencies are this
    /// embedding's.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or as [`Rope::cos_sin`].
    pub fn forward_cuda<T: Element + DeviceRepr + ValidAsZeroBits>(
        &mut self,
        rope: &Rope,
        stream: &Arc<CudaStream>,
        seq_len: usize,
    ) -> Result<CosSin<CudaSlice<T>>> {
        let (len, shape) = self.table(seq_len)?;
        rope.check_stream(stream)?;
        let allocate = || {
            let refused = driver("allocating the table");
            stream.alloc_zeros::<T>(len).map_err(allocating(len * size_of::<T>(), &refused))
        };
        let (mut cos, mut sin) = (allocate()?, allocate()?);
        let own = rope.with(self.frequencies(), Pairing::HalfSplit)?;
        own.cos_sin(stream, 0, &mut cos, &mut sin)?;
        self.grow(seq_len);
        Ok(CosSin { cos, sin, shape })
    }
}
