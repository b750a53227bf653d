use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, op::BackpropOp};
use condensed_rope::{
    AnyRope, DimOrder, Dtype, Error, Frequencies, Layout, Pairing, RawBuffer, RawOperand, cpu,
};

use crate::Positions;
use crate::gradient;
use crate::locks::{self, Access, Held};
use crate::memory::{Span, Stream, wrap};
use crate::positions::{self, Accessed};

/// A rope over a candle device's tensors: cheap to clone, shared by layers and threads.
///
/// Tensors are f32, f16 or bf16, of any strides with contiguous channels; nothing is copied before a call. `order` says
/// what their dimensions are: `DimOrder::Bhsd` for `[batch, heads, seq, head_dim]`, as candle's models have them. On a
/// GPU each call is one launch on the stream of q's own device handle, and can be captured into a graph where it
/// allocates nothing ([`rotate_in_place`](Self::rotate_in_place)) and positions lie on the device.
#[derive(Clone, Debug)]
pub struct Rope {
    rope: AnyRope,
    device: Device,
    rotary_offset: usize,
}

impl Rope {
    /// Loads the kernels, where this process has not yet, and the frequencies.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a device that is neither the CPU nor a CUDA one that the crate was built for, and the
    /// driver's errors.
    pub fn new(device: &Device, frequencies: &Frequencies, pairing: Pairing) -> Result<Self> {
        Self::with_frequency_sets(device, std::slice::from_ref(frequencies), pairing)
    }

    /// With several sets of frequencies, of which calls choose by
    /// [`Positions::with_sets`](condensed_rope::Positions::with_sets).
    ///
    /// # Errors
    /// [`new`](Self::new)'s, and those of sets that differ in their rotary dimension.
    pub fn with_frequency_sets(
        device: &Device,
        sets: &[Frequencies],
        pairing: Pairing,
    ) -> Result<Self> {
        let rope = match device {
            Device::Cpu => cpu::Rope::with_frequency_sets(sets, pairing).map_err(wrap)?.into(),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                let kernels = crate::kernels::of(device)?;
                let rope = condensed_rope::cuda::Rope::with_frequency_sets(&kernels, sets, pairing);
                rope.map_err(wrap)?.into()
            }
            other => {
                let (tensor, expected) = ("device", "the CPU, or CUDA with the feature cuda");
                let given = format!("{:?}", other.location());
                return Err(wrap(Error::Tensor { tensor, expected, given }));
            }
        };
        Ok(Self { rope, device: device.clone(), rotary_offset: 0 })
    }

    /// The same rope turning the other way: what undoes a rotation, and its gradient.
    pub fn inverse(&self) -> Self {
        Self { rope: self.rope.inverse(), ..self.clone() }
    }

    /// The same rope for channels from `channel` of each head on: MLA's are the last ones.
    pub fn rotate_from(&self, channel: usize) -> Self {
        Self { rotary_offset: channel, ..self.clone() }
    }

    /// Number of rotated channels.
    pub fn rotary_dim(&self) -> usize {
        self.rope.spec().rotary_dim()
    }

    /// Where its tensors are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Writes other frequencies over a set, in the order of the device's stream: LongRoPE's for a longer text, say.
    /// Every clone of the rope turns by them from then on.
    ///
    /// # Errors
    /// For frequencies of another rotary dimension, and a set that there is not.
    pub fn set_frequencies(&self, set: usize, frequencies: &Frequencies) -> Result<()> {
        let stream = Stream::of(&self.device);
        // SAFETY: the stream is the device's own, which is alive.
        let written = unsafe { self.rope.set_frequencies_raw(stream.raw(), set, frequencies) };
        written.map_err(wrap)
    }

    /// q and k rotated, as new contiguous tensors of their own: one launch. Where a gradient is tracked through q or k,
    /// the two are views of one storage, and `backward` turns their gradients back by the inverse rotation, of the
    /// frequencies and ids that there are by then.
    ///
    /// # Errors
    /// For shapes, strides, element types and positions that do not fit, and tensors on another device.
    pub fn rotate(
        &self,
        order: DimOrder,
        q: &Tensor,
        k: &Tensor,
        positions: &Positions,
    ) -> Result<(Tensor, Tensor)> {
        if q.track_op() || k.track_op() {
            return gradient::rotate(self, order, q, k, positions);
        }
        let call = Call::new(self, order, q, Some(k), positions)?;
        let (mut q_out, mut k_out) = (call.new_like(q)?, call.new_like(k)?);
        call.out_of_place(&mut q_out, Some(&mut k_out))?;
        Ok((untracked_tensor(q_out, q), untracked_tensor(k_out, k)))
    }

    /// One tensor rotated, as a new contiguous one, with a gradient where one is tracked.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate).
    pub fn rotate_one(&self, order: DimOrder, x: &Tensor, positions: &Positions) -> Result<Tensor> {
        if x.track_op() {
            return gradient::rotate_one(self, order, x, positions);
        }
        let call = Call::new(self, order, x, None, positions)?;
        let mut out = call.new_like(x)?;
        call.out_of_place(&mut out, None)?;
        Ok(untracked_tensor(out, x))
    }

    /// Rotates q, and k if there is one, where they lie: one launch, no memory. They may be views of one packed tensor.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate); and for tensors whose gradient is tracked, expanded ones, and views that overlap.
    pub fn rotate_in_place(
        &self,
        order: DimOrder,
        q: &Tensor,
        k: Option<&Tensor>,
        positions: &Positions,
    ) -> Result<()> {
        for (name, tensor) in [("q", Some(q)), ("k", k)] {
            untracked(name, tensor)?;
        }
        let call = Call::new(self, order, q, k, positions)?;
        call.in_place()
    }

    /// q rotated to a new tensor, and k into rows `at_row ..` of a cache, in one launch: k's copy into the cache is not
    /// needed any more. `cache` has k's dimensions, with room for more tokens along the sequence. Returns q and the part
    /// of the cache that is filled, `.. at_row + seq`.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate); for a cache of other dimensions, without room, or whose gradient is tracked.
    pub fn rotate_and_append(
        &self,
        order: DimOrder,
        q: &Tensor,
        k: &Tensor,
        cache: &Tensor,
        at_row: usize,
        positions: &Positions,
    ) -> Result<(Tensor, Tensor)> {
        for (name, tensor) in [("q", q), ("k", k), ("cache", cache)] {
            untracked(name, Some(tensor))?;
        }
        let seq_dim = order.seq_dimension();
        let seq = k.dim(seq_dim)?;
        let call = Call::new(self, order, q, Some(k), positions)?;
        let filled = cache.narrow(seq_dim, 0, at_row.saturating_add(seq))?;
        let rows = cache.narrow(seq_dim, at_row, seq)?;
        let mut q_out = call.new_like(q)?;
        call.append(&mut q_out, order, &rows)?;
        Ok((untracked_tensor(q_out, q), filled))
    }

    /// cos and sin of `rows` positions from `start` on, `[rows, rotary_dim / 2]`, as candle-nn's `rope` and `rope_i`
    /// take them.
    ///
    /// # Errors
    /// For an element type that is not f32, f16 or bf16, and more rows than fit.
    pub fn cos_sin(&self, start: i64, rows: usize, dtype: DType) -> Result<(Tensor, Tensor)> {
        let (pairs, stream) = (self.rotary_dim() / 2, Stream::of(&self.device));
        let kind = element("cos", dtype)?;
        let limit = isize::MAX as usize / 8;
        let len = rows.checked_mul(2 * pairs).filter(|&n| n <= limit);
        let too_large = Error::TooLarge { tensor: "cos", what: "the number of rows", limit };
        let len = len.ok_or_else(|| wrap(too_large))?;
        let (mut cos, mut sin) =
            (new_storage(&self.device, kind, len)?, new_storage(&self.device, kind, len)?);
        {
            let (cos, sin) = (owned(&mut cos, &stream)?, owned(&mut sin, &stream)?);
            // SAFETY: both buffers are this function's own, of `len` elements of that type, and the stream is theirs.
            let written = unsafe {
                self.rope.cos_sin_raw(stream.raw(), kind, start, rows, cos.buffer, sin.buffer)
            };
            written.map_err(wrap)?;
        }
        let half = |storage| -> Result<Tensor> {
            let shape = (rows, 2 * pairs);
            let all = Tensor::from_storage(storage, shape, BackpropOp::none(), false);
            // Each value is there twice, as the pairing has it.
            match self.rope.spec().pairing() {
                Pairing::HalfSplit => all.narrow(1, 0, pairs)?.contiguous(),
                _ => all.reshape((rows, pairs, 2))?.narrow(2, 0, 1)?.squeeze(2)?.contiguous(),
            }
        };
        Ok((half(cos)?, half(sin)?))
    }
}

pub(crate) fn untracked(name: &'static str, tensor: Option<&Tensor>) -> Result<()> {
    match tensor {
        Some(tensor) if tensor.track_op() => {
            let expected = "a tensor without a gradient, as it is written in place";
            let given = "one whose gradient is tracked".to_owned();
            Err(wrap(Error::Tensor { tensor: name, expected, given }))
        }
        _ => Ok(()),
    }
}

pub(crate) fn element(tensor: &'static str, dtype: DType) -> Result<Dtype> {
    match dtype {
        DType::F32 => Ok(Dtype::F32),
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::BF16),
        other => {
            let (expected, given) = ("f32, f16 or bf16", other.as_str().to_owned());
            Err(wrap(Error::Dtype { tensor, expected, given }))
        }
    }
}

/// A storage of `len` elements, whose values are yet to come.
pub(crate) fn new_storage(device: &Device, dtype: Dtype, len: usize) -> Result<Storage> {
    match device {
        Device::Cpu => Ok(Storage::Cpu(match dtype {
            Dtype::F32 => CpuStorage::F32(vec![0.0; len]),
            Dtype::F16 => CpuStorage::F16(vec![half::f16::ZERO; len]),
            _ => CpuStorage::BF16(vec![half::bf16::ZERO; len]),
        })),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::kernels::alloc(device, dtype, len),
        _ => candle_core::bail!("tensors must be on the CPU or a CUDA device"),
    }
}

/// A storage that no tensor has yet.
pub(crate) fn owned<'a>(storage: &'a mut Storage, stream: &'a Stream) -> Result<Span<'a>> {
    match storage {
        Storage::Cpu(storage) => Span::write(storage),
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => Span::write_device(storage, stream),
        _ => {
            let _ = stream;
            candle_core::bail!("tensors must be on the CPU or a CUDA device")
        }
    }
}

fn untracked_tensor(storage: Storage, like: &Tensor) -> Tensor {
    Tensor::from_storage(storage, like.shape().clone(), BackpropOp::none(), false)
}

/// Heads of one tensor, from its storage's first element on.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    pub dtype: Dtype,
    layout: Layout,
    /// What a new tensor of the shape has.
    contiguous: Layout,
}

impl Heads {
    pub fn new(
        rope: &Rope,
        order: DimOrder,
        name: &'static str,
        dtype: DType,
        view: &candle_core::Layout,
    ) -> Result<Self> {
        let signed = |list: &[usize]| list.iter().map(|&n| n as i64).collect::<Vec<_>>();
        let (sizes, strides) = (signed(view.dims()), signed(view.stride()));
        let layout = Layout::from_sizes_strides(name, order, &sizes, &strides).map_err(wrap)?;
        let contiguous = Layout::contiguous(name, order, view.dims()).map_err(wrap)?;
        Ok(Self {
            dtype: element(name, dtype)?,
            layout: layout.at(view.start_offset()).rotate_from(rope.rotary_offset),
            contiguous: contiguous.rotate_from(rope.rotary_offset),
        })
    }

    pub fn of(rope: &Rope, order: DimOrder, name: &'static str, tensor: &Tensor) -> Result<Self> {
        same_device(rope, name, tensor)?;
        Self::new(rope, order, name, tensor.dtype(), tensor.layout())
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Of a tensor that does not rotate.
    pub fn unrotated(self) -> Self {
        Self { layout: self.layout.rotate_from(0), ..self }
    }

    /// To contiguous elements from `first` on.
    pub fn to_new(self, from: RawBuffer, to: RawBuffer, first: usize) -> RawOperand {
        let layout = self.contiguous.at(first);
        RawOperand::out_of_place(self.dtype, from, self.layout, to, layout)
    }
}

/// A call whose tensors were looked at.
struct Call<'a> {
    rope: &'a Rope,
    q: (Heads, &'a Tensor),
    k: Option<(Heads, &'a Tensor)>,
    positions: Accessed<'a>,
    stream: Stream,
}

impl<'a> Call<'a> {
    fn new(
        rope: &'a Rope,
        order: DimOrder,
        q: &'a Tensor,
        k: Option<&'a Tensor>,
        positions: &'a Positions,
    ) -> Result<Self> {
        let heads =
            |name, tensor| -> Result<_> { Ok((Heads::of(rope, order, name, tensor)?, tensor)) };
        let (q, k) = (heads("q", q)?, k.map(|k| heads("k", k)).transpose()?);
        rope.check_positions(positions)?;
        let stream = Stream::of(q.1.device());
        Ok(Self { rope, q, k, positions: positions::accessed(positions), stream })
    }

    /// Room for a result, of a tensor's shape.
    fn new_like(&self, tensor: &Tensor) -> Result<Storage> {
        new_storage(tensor.device(), self.q.0.dtype, tensor.elem_count())
    }

    /// Into storages of the call's own.
    fn out_of_place(&self, q: &mut Storage, k: Option<&mut Storage>) -> Result<()> {
        let q_to = owned(q, &self.stream)?;
        let k_to = k.map(|k| owned(k, &self.stream)).transpose()?;
        let q_in = Access::read(self.q.1);
        let k_in = self.k.map(|(heads, tensor)| (heads, Access::read(tensor)));
        self.hold(&[Some(q_in), k_in.map(|(_, access)| access)], &mut |held| {
            let q = self.q.0.to_new(held.span(q_in).buffer, q_to.buffer, 0);
            let k = k_in.zip(k_to.as_ref()).map(|((heads, access), k_to)| {
                heads.to_new(held.span(access).buffer, k_to.buffer, 0)
            });
            self.launch(held, q, k)
        })
    }

    fn in_place(&self) -> Result<()> {
        let q = (self.q.0, Access::write(self.q.1));
        let k = self.k.map(|(heads, tensor)| (heads, Access::write(tensor)));
        self.hold(&[Some(q.1), k.map(|(_, access)| access)], &mut |held| {
            let operand = |(heads, access): (Heads, Access)| {
                RawOperand::in_place(heads.dtype, held.span(access).buffer, heads.layout)
            };
            self.launch(held, operand(q), k.map(operand))
        })
    }

    /// q to a storage of the call's own, k into rows of a cache.
    fn append(&self, q: &mut Storage, order: DimOrder, rows: &Tensor) -> Result<()> {
        let (k, k_tensor) = self.k.ok_or_else(|| wrap(Error::NoTensors))?;
        let target = Heads::of(self.rope, order, "cache", rows)?;
        if target.dtype != k.dtype {
            let (expected, given) = (k.dtype.name(), target.dtype.name().to_owned());
            return Err(wrap(Error::Dtype { tensor: "cache", expected, given }));
        }
        let q_to = owned(q, &self.stream)?;
        let (q_in, k_in) = (Access::read(self.q.1), Access::read(k_tensor));
        let cache = Access::write(rows);
        self.hold(&[Some(q_in), Some(k_in), Some(cache)], &mut |held| {
            let q = self.q.0.to_new(held.span(q_in).buffer, q_to.buffer, 0);
            let (from, to) = (held.span(k_in).buffer, held.span(cache).buffer);
            let k = RawOperand::out_of_place(k.dtype, from, k.layout, to, target.layout);
            self.launch(held, q, Some(k))
        })
    }

    /// Calls `body` with all storages held, those of the positions too.
    fn hold(
        &self,
        tensors: &[Option<Access>],
        body: &mut dyn FnMut(Held) -> Result<()>,
    ) -> Result<()> {
        let mut accesses: Vec<Access> = tensors.iter().flatten().copied().collect();
        self.positions.as_ref().map(|access| accesses.push(*access));
        locks::with_all(&accesses, &self.stream, body)
    }

    fn launch(&self, held: Held, q: RawOperand, k: Option<RawOperand>) -> Result<()> {
        // SAFETY: every buffer is held until the call returns, what is written exclusively.
        unsafe { self.rope.launch(held, &self.stream, q, k, &self.positions) }
    }
}

impl Rope {
    pub(crate) fn any(&self) -> &AnyRope {
        &self.rope
    }

    pub(crate) fn check_positions(&self, positions: &Positions) -> Result<()> {
        positions.as_ref().try_map(|what, tensor| {
            same_device(self, what, tensor)?;
            positions::index_type(what, tensor.dtype())
        })?;
        Ok(())
    }

    /// One launch.
    ///
    /// # Safety
    /// The operands' buffers are alive until the call returns (on a GPU, until what it launches has ended, in the
    /// stream's order), and what is written is nobody else's meanwhile.
    pub(crate) unsafe fn launch(
        &self,
        held: Held,
        stream: &Stream,
        q: RawOperand,
        k: Option<RawOperand>,
        positions: &Accessed,
    ) -> Result<()> {
        let [batch, seq, ..] = q.layout().shape();
        let positions = positions::raw(positions, held, [batch, seq])?;
        // SAFETY: the caller's promise; buffers' lengths are known, so that the checks keep to them; on a GPU the
        // stream is of the tensors' own device handle, on which candle orders the work on their memory, and their
        // freeing. The ids are held.
        unsafe { self.rope.rotate_raw(stream.raw(), Some(q), k, positions) }.map_err(wrap)
    }
}

pub(crate) fn same_device(rope: &Rope, name: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.device().location() == rope.device.location() {
        return Ok(());
    }
    let given = format!("one on {:?}", tensor.device().location());
    Err(wrap(Error::Tensor { tensor: name, expected: "on the rope's device", given }))
}
