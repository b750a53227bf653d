use tch::{Device, Kind, Tensor};

use crate::{
    AnyRope, DimOrder, Dtype, Error, IndexType, Layout, Positions, RawBuffer, RawIds, RawOperand,
    Result,
};

const IDS: &str = "position ids";

/// Rotates tensors where they lie, on the CPU or on a GPU as the rope is, by position ids (`Int` or `Int64`;
/// `[batch, seq]` with any stride of rows, so that an expanded row serves a batch; or flat, one a token or one
/// row that the batch shares). On a GPU it works on the legacy default stream, where tch does. Autograd does
/// not see it.
///
/// ```no_run
/// # #[cfg(feature = "cuda")] {
/// # use condensed_rope::{DimOrder, Frequencies, Pairing, cuda, tch::rotate};
/// use tch::{Device, Kind, Tensor};
///
/// let kernels = cuda::Kernels::load(&cuda::context(0)?)?;
/// let frequencies = Frequencies::new(128, 10_000.0)?.condensed(8.0)?;
/// let rope = cuda::Rope::new(&kernels, &frequencies, Pairing::HalfSplit)?;
/// let mut q = Tensor::randn([1, 32, 100, 128], (Kind::BFloat16, Device::Cuda(0)));
/// let mut k = Tensor::randn([1, 8, 100, 128], (Kind::BFloat16, Device::Cuda(0)));
/// let ids = Tensor::arange(100, (Kind::Int64, Device::Cuda(0)));
/// rotate(&rope.into(), DimOrder::Bhsd, Some(&mut q), Some(&mut k), &ids)?;
/// # }
/// # Ok::<(), condensed_rope::Error>(())
/// ```
///
/// # Errors
/// [`Error::Tensor`] for a tensor that is not strided memory on the rope's device, or stands for its negative
/// or conjugate; [`Error::Rank`], [`Error::Stride`] and [`Error::Dtype`]; [`Error::OverlappingTensors`] where
/// the ids lie in q's or k's memory; and whatever the rope's `rotate_raw` finds: expanded tensors overlap
/// themselves, and two views of one storage may overlap each other.
pub fn rotate(
    rope: &AnyRope,
    order: DimOrder,
    q: Option<&mut Tensor>,
    k: Option<&mut Tensor>,
    position_ids: &Tensor,
) -> Result<()> {
    check_memory(rope, IDS, position_ids)?;
    let operand = |name, tensor: Option<&mut Tensor>| {
        tensor.map(|tensor| heads(rope, order, name, tensor, position_ids)).transpose()
    };
    let (q, k) = (operand("q", q)?, operand("k", k)?);
    let Some(first) = q.or(k) else { return Err(Error::NoTensors) };
    let [batch, seq, ..] = first.layout().shape();
    let positions = positions(position_ids, [batch, seq])?;
    // SAFETY: the tensors are alive and on the rope's device (on a GPU in its primary context), nobody else's
    // but in q and k themselves, which the checks keep apart; null is the legacy default stream, on which
    // libtorch's own work is ordered with the launch, and which its allocator waits for before memory goes
    // to anybody else.
    unsafe { rope.rotate_raw(std::ptr::null_mut(), q, k, positions) }
}

fn refused(tensor: &'static str, expected: &'static str, given: impl Into<String>) -> Error {
    Error::Tensor { tensor, expected, given: given.into() }
}

/// Strided memory on the rope's device, that holds what the tensor says.
fn check_memory(rope: &AnyRope, name: &'static str, tensor: &Tensor) -> Result<()> {
    const STRIDED: &str = "a dense, strided tensor";
    if !tensor.defined() {
        return Err(refused(name, STRIDED, "an undefined one"));
    }
    // Dense ones have no sparse dimension; libtorch refuses to say so of other layouts.
    if tensor.is_sparse() || !matches!(tensor.f_sparse_dim(), Ok(0)) {
        return Err(refused(name, STRIDED, "a sparse or opaque one"));
    }
    if tensor.is_neg() || tensor.is_conj() {
        return Err(refused(name, "resolved", "one that stands for its negative or conjugate"));
    }
    let device = tensor.device();
    let here = match rope {
        AnyRope::Cpu(_) => device == Device::Cpu,
        #[cfg(feature = "cuda")]
        AnyRope::Cuda(rope) => {
            device == Device::Cuda(rope.context().ordinal()) && rope.context().is_primary()
        }
    };
    let given = || format!("one on {device:?}");
    if here { Ok(()) } else { Err(refused(name, "on the rope's device", given())) }
}

fn heads(
    rope: &AnyRope,
    order: DimOrder,
    name: &'static str,
    tensor: &Tensor,
    position_ids: &Tensor,
) -> Result<RawOperand> {
    check_memory(rope, name, tensor)?;
    let dtype = match tensor.kind() {
        Kind::Float => Dtype::F32,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        other => {
            let (expected, given) = ("f32, f16 or bf16", format!("{other:?}"));
            return Err(Error::Dtype { tensor: name, expected, given });
        }
    };
    let layout = Layout::from_sizes_strides(name, order, &tensor.size(), &tensor.stride())?;
    if shares_memory(tensor, position_ids) {
        return Err(Error::OverlappingTensors { tensors: [name, IDS] });
    }
    let address = RawBuffer::unbounded(tensor.data_ptr() as u64);
    Ok(RawOperand::in_place(dtype, address, layout))
}

/// Whether the memory between the first and the last elements of two tensors overlaps.
fn shares_memory(a: &Tensor, b: &Tensor) -> bool {
    let range = |tensor: &Tensor| -> Option<(u64, u64)> {
        let last = tensor
            .size()
            .iter()
            .zip(tensor.stride())
            .try_fold(0, |sum, (n, s)| if *n == 0 { None } else { Some(sum + (n - 1) * s) });
        let start = tensor.data_ptr() as u64;
        Some((start, start + (last? as u64 + 1) * tensor.kind().elt_size_in_bytes() as u64))
    };
    match (range(a), range(b)) {
        (Some((a, a_end)), Some((b, b_end))) => a < b_end && b < a_end,
        // One is empty.
        _ => false,
    }
}

fn positions(ids: &Tensor, [batch, seq]: [usize; 2]) -> Result<Positions<RawIds>> {
    let dtype = match ids.kind() {
        Kind::Int => IndexType::I32,
        Kind::Int64 => IndexType::I64,
        other => {
            let given = format!("{other:?}");
            return Err(Error::Dtype { tensor: IDS, expected: "i32 or i64", given });
        }
    };
    let address = ids.data_ptr() as u64;
    Positions::of_tensor(dtype, address, &ids.size(), &ids.stride(), [batch, seq])
}
