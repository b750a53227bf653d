//! Rotations that autograd sees: the gradient is turned back by the inverse rotation, which is the transpose.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Storage, Tensor};
use condensed_rope::DimOrder;

use crate::locks::{self, Access};
use crate::memory::{Span, Stream};
use crate::rope::{Heads, new_storage, owned};
use crate::{Positions, Rope, positions};

/// q and k, as views of one storage `[q | k]`.
pub(crate) fn rotate(
    rope: &Rope,
    order: DimOrder,
    q: &Tensor,
    k: &Tensor,
    positions: &Positions,
) -> Result<(Tensor, Tensor)> {
    let rotation = Rotation::new(rope, order, positions)?;
    // candle locks in the order of arguments: the lower address first, as everywhere here.
    let swapped = Access::read(q).key > Access::read(k).key;
    let operation = Both { rotation, swapped };
    let both = if swapped { k.apply_op2(q, operation)? } else { q.apply_op2(k, operation)? };
    split(&both, q, k)
}

pub(crate) fn rotate_one(
    rope: &Rope,
    order: DimOrder,
    x: &Tensor,
    positions: &Positions,
) -> Result<Tensor> {
    x.apply_op1(Rotation::new(rope, order, positions)?)
}

fn split(both: &Tensor, q: &Tensor, k: &Tensor) -> Result<(Tensor, Tensor)> {
    let (q_len, k_len) = (q.elem_count(), k.elem_count());
    let q = both.narrow(0, 0, q_len)?.reshape(q.shape())?;
    Ok((q, both.narrow(0, q_len, k_len)?.reshape(k.shape())?))
}

struct Rotation {
    rope: Rope,
    order: DimOrder,
    positions: Positions,
}

/// Of q and k, given the other way round where `swapped`.
struct Both {
    rotation: Rotation,
    swapped: bool,
}

/// What an operation is given of a tensor.
struct Given<'a> {
    span: Span<'a>,
    dtype: candle_core::DType,
    layout: &'a Layout,
}

impl Rotation {
    fn new(rope: &Rope, order: DimOrder, positions: &Positions) -> Result<Self> {
        rope.check_positions(positions)?;
        Ok(Self { rope: rope.clone(), order, positions: positions.clone() })
    }

    /// A new storage of q's elements, and k's behind them.
    fn forward(&self, q: Given, k: Option<Given>, stream: &Stream) -> Result<Storage> {
        let heads = |name, given: &Given| {
            Heads::new(&self.rope, self.order, name, given.dtype, given.layout)
        };
        let q_heads = heads("q", &q)?;
        let k_heads = k.as_ref().map(|k| heads("k", k)).transpose()?;
        let len = |given: &Given| given.layout.shape().elem_count();
        let (q_len, k_len) = (len(&q), k.as_ref().map_or(0, len));
        let mut out = new_storage(self.rope.device(), q_heads.dtype, q_len + k_len)?;
        {
            let to = owned(&mut out, stream)?;
            let accessed = positions::accessed(&self.positions);
            let mut accesses = Vec::new();
            accessed.as_ref().map(|access| accesses.push(*access));
            let q = q_heads.to_new(q.span.buffer, to.buffer, 0);
            let k = k_heads.zip(k.as_ref());
            let k = k.map(|(heads, k)| heads.to_new(k.span.buffer, to.buffer, q_len));
            locks::with_all(&accesses, stream, &mut |held| {
                // SAFETY: candle holds q and k for the operation; the result is this function's own.
                unsafe { self.rope.launch(held, stream, q, k, &accessed) }
            })?;
        }
        Ok(out)
    }

    fn inverse(&self) -> Rope {
        self.rope.inverse()
    }
}

fn on_host(storage: Storage, layout: &[&Layout]) -> Result<(CpuStorage, Shape)> {
    let len = layout.iter().map(|layout| layout.shape().elem_count()).sum::<usize>();
    match storage {
        Storage::Cpu(storage) => Ok((storage, shape(layout, len))),
        _ => candle_core::bail!("the rope is of another device"),
    }
}

/// One tensor keeps its shape; two lie end to end.
fn shape(layout: &[&Layout], len: usize) -> Shape {
    match layout {
        [one] => one.shape().clone(),
        _ => Shape::from(len),
    }
}

fn host<'a>(storage: &'a CpuStorage, layout: &'a Layout) -> Result<Given<'a>> {
    Ok(Given { span: Span::read_host(storage)?, dtype: storage.dtype(), layout })
}

#[cfg(feature = "cuda")]
fn device<'a>(
    storage: &'a CudaStorage,
    layout: &'a Layout,
    stream: &'a Stream,
) -> Result<Given<'a>> {
    Ok(Given { span: Span::read_device(storage, stream)?, dtype: storage.dtype(), layout })
}

#[cfg(feature = "cuda")]
fn on_device(storage: Storage, layout: &[&Layout]) -> Result<(CudaStorage, Shape)> {
    let len = layout.iter().map(|layout| layout.shape().elem_count()).sum::<usize>();
    match storage {
        Storage::Cuda(storage) => Ok((storage, shape(layout, len))),
        _ => candle_core::bail!("the rope is of another device"),
    }
}

impl CustomOp1 for Rotation {
    fn name(&self) -> &'static str {
        "condensed-rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let stream = Stream::of(self.rope.device());
        on_host(self.forward(host(storage, layout)?, None, &stream)?, &[layout])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let stream = Stream::of(&candle_core::Device::Cuda(storage.device.clone()));
        on_device(self.forward(device(storage, layout, &stream)?, None, &stream)?, &[layout])
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        self.inverse().rotate_one(self.order, gradient, &self.positions).map(Some)
    }
}

impl CustomOp2 for Both {
    fn name(&self) -> &'static str {
        "condensed-rope"
    }

    fn cpu_fwd(
        &self,
        first: &CpuStorage,
        first_layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (mut q, mut k) = (host(first, first_layout)?, host(second, second_layout)?);
        if self.swapped {
            std::mem::swap(&mut q, &mut k);
        }
        let stream = Stream::of(self.rotation.rope.device());
        on_host(self.rotation.forward(q, Some(k), &stream)?, &[first_layout, second_layout])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        first: &CudaStorage,
        first_layout: &Layout,
        second: &CudaStorage,
        second_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let stream = Stream::of(&candle_core::Device::Cuda(first.device.clone()));
        let (mut q, mut k) =
            (device(first, first_layout, &stream)?, device(second, second_layout, &stream)?);
        if self.swapped {
            std::mem::swap(&mut q, &mut k);
        }
        on_device(self.rotation.forward(q, Some(k), &stream)?, &[first_layout, second_layout])
    }

    fn bwd(
        &self,
        first: &Tensor,
        second: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (q, k) = if self.swapped { (second, first) } else { (first, second) };
        let (q, k) = split(gradient, q, k)?;
        let Rotation { order, positions, .. } = &self.rotation;
        let (q, k) = self.rotation.inverse().rotate(*order, &q, &k, positions)?;
        Ok(if self.swapped { (Some(k), Some(q)) } else { (Some(q), Some(k)) })
    }
}
