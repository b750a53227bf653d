use tch::{Device, Kind, Tensor};

use crate::cuda::{RawHeads, RawIds, Rope};
use crate::{Dtype, Error, Layout, Positions, Result};

/// What a tensor's dimensions are. Any strides will do, as long as channels are contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dims {
    /// `[tokens, heads, head_dim]`.
    Thd,
    /// `[batch, seq, heads, head_dim]`.
    Bshd,
    /// `[batch, heads, seq, head_dim]`: transformers' order.
    Bhsd,
}

/// Rotates CUDA tensors where they lie, by position ids (`Int` or `Int64`, contiguous, one a token or
/// one row that the batch shares), on the legacy default stream, where tch works. Autograd does not
/// see it.
///
/// ```no_run
/// # use condensed_rope::{Frequencies, Pairing, cuda, tch::{Dims, rotate}};
/// use tch::{Device, Kind, Tensor};
///
/// let rope = cuda::Rope::new(
///     &cuda::context(0)?,
///     &Frequencies::new(128, 10_000.0)?.condensed(8.0)?,
///     Pairing::HalfSplit,
/// )?;
/// let mut q = Tensor::randn([1, 32, 100, 128], (Kind::BFloat16, Device::Cuda(0)));
/// let mut k = Tensor::randn([1, 8, 100, 128], (Kind::BFloat16, Device::Cuda(0)));
/// let ids = Tensor::arange(100, (Kind::Int64, Device::Cuda(0)));
/// rotate(&rope, Dims::Bhsd, &mut q, Some(&mut k), &ids)?;
/// # Ok::<(), condensed_rope::Error>(())
/// ```
///
/// # Errors
/// [`Error::Tensor`] for a tensor with the wrong number of dimensions, with channels that are not
/// contiguous, or not on the rope's device; [`Error::Dtype`]; [`Error::Positions`] for ids of
/// another length; and whatever [`Rope::rotate_raw`] finds: expanded tensors overlap themselves, and
/// two views of one storage may overlap each other.
pub fn rotate(
    rope: &Rope,
    dims: Dims,
    q: &mut Tensor,
    k: Option<&mut Tensor>,
    position_ids: &Tensor,
) -> Result<()> {
    let q = heads(rope, dims, "q", q)?;
    let k = k.map(|k| heads(rope, dims, "k", k)).transpose()?;
    on_device(rope, "position ids", position_ids)?;
    if !position_ids.is_contiguous() {
        return Err(refused(
            "position ids",
            "contiguous",
            format!("strides {:?}", position_ids.stride()),
        ));
    }
    let wide = match position_ids.kind() {
        Kind::Int => false,
        Kind::Int64 => true,
        other => {
            return Err(Error::Dtype {
                tensor: "position ids",
                expected: "i32 or i64",
                given: format!("{other:?}"),
            });
        }
    };
    let ids = RawIds { address: position_ids.data_ptr() as u64, len: position_ids.numel(), wide };
    let [batch, seq, ..] = q.layout().shape();
    let shared = batch > 1 && ids.len == seq;
    let positions = if shared { Positions::shared_ids(ids) } else { Positions::ids(ids) };
    // SAFETY: the tensors are alive and on the rope's device, in its primary context; null is the
    // legacy default stream, on which libtorch's own work is ordered with the launch, and which its
    // allocator waits for before memory goes to anybody else.
    unsafe { rope.rotate_raw(std::ptr::null_mut(), q, k, positions) }
}

fn refused(tensor: &'static str, expected: &'static str, given: String) -> Error {
    Error::Tensor { tensor, expected, given }
}

fn on_device(rope: &Rope, name: &'static str, tensor: &Tensor) -> Result<()> {
    let device = tensor.device();
    if device == Device::Cuda(rope.context().ordinal()) && rope.context().is_primary() {
        Ok(())
    } else {
        Err(refused(name, "on the rope's device, in its primary context", format!("on {device:?}")))
    }
}

fn heads(rope: &Rope, dims: Dims, name: &'static str, tensor: &Tensor) -> Result<RawHeads> {
    on_device(rope, name, tensor)?;
    let dtype = match tensor.kind() {
        Kind::Float => Dtype::F32,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        other => {
            return Err(Error::Dtype {
                tensor: name,
                expected: "f32, f16 or bf16",
                given: format!("{other:?}"),
            });
        }
    };
    let sizes: Vec<usize> = tensor.size().into_iter().map(|n| n as usize).collect();
    let strides: Vec<usize> = tensor.stride().into_iter().map(|n| n as usize).collect();
    let ([batch, seq, heads, head_dim], [batch_stride, token_stride, head_stride, channel]) =
        match (dims, sizes.as_slice(), strides.as_slice()) {
            (Dims::Thd, &[t, h, d], &[ts, hs, ds]) => ([1, t, h, d], [0, ts, hs, ds]),
            (Dims::Bshd, &[b, s, h, d], &[bs, ss, hs, ds]) => ([b, s, h, d], [bs, ss, hs, ds]),
            (Dims::Bhsd, &[b, h, s, d], &[bs, hs, ss, ds]) => ([b, s, h, d], [bs, ss, hs, ds]),
            (Dims::Thd, ..) => return Err(refused(name, "of 3 dimensions", format!("{sizes:?}"))),
            _ => return Err(refused(name, "of 4 dimensions", format!("{sizes:?}"))),
        };
    if channel != 1 && head_dim > 1 {
        return Err(refused(
            name,
            "contiguous in its last dimension",
            format!("strides {strides:?}"),
        ));
    }
    let layout = Layout::bshd(batch, seq, heads, head_dim).with_strides([
        batch_stride,
        token_stride,
        head_stride,
    ]);
    Ok(RawHeads::in_place(dtype, tensor.data_ptr() as u64, layout))
}
