//! Calls by address, on the CPU (device -1) or on a CUDA device.

use std::ffi::c_void;

use condensed_rope::{
    AnyRope, DimOrder, Direction, Dtype, IndexType, Layout, Pairing, Positions, RawBuffer, RawIds,
    RawOperand, RopeSpec, cpu,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::raised;

/// Address, element type, sizes and strides of a tensor.
type Tensor = (u64, String, Vec<i64>, Vec<i64>);

fn dtype(name: &str) -> PyResult<Dtype> {
    match name {
        "float32" => Ok(Dtype::F32),
        "float16" => Ok(Dtype::F16),
        "bfloat16" => Ok(Dtype::BF16),
        other => {
            let message =
                format!("element type must be float32, float16 or bfloat16: given {other}");
            Err(PyTypeError::new_err(message))
        }
    }
}

fn index_type(name: &str) -> PyResult<IndexType> {
    match name {
        "int32" => Ok(IndexType::I32),
        "int64" => Ok(IndexType::I64),
        "uint32" => Ok(IndexType::U32),
        other => {
            let message = format!("position ids must be int32, int64 or uint32: given {other}");
            Err(PyTypeError::new_err(message))
        }
    }
}

fn order(seq_dim: i64, rank: usize) -> DimOrder {
    match (seq_dim, rank) {
        (_, 3) => DimOrder::Thd,
        (1, _) => DimOrder::Bshd,
        (0, _) => DimOrder::Sbhd,
        _ => DimOrder::Bhsd,
    }
}

/// What a rope is, apart from its words: rotary_dim, sets, interleaved, inverse, factor.
type Spec = (usize, usize, bool, bool, f32);

fn spec((rotary_dim, sets, interleaved, inverse, factor): Spec) -> PyResult<RopeSpec> {
    let pairing = if interleaved { Pairing::Interleaved } else { Pairing::HalfSplit };
    let direction = if inverse { Direction::Inverse } else { Direction::Forward };
    let spec = RopeSpec::new(rotary_dim, pairing).and_then(|spec| spec.with_sets(sets));
    let spec = spec.and_then(|spec| spec.with_factor(factor)).map_err(raised)?;
    Ok(spec.with_direction(direction))
}

/// A rope over words that the caller keeps.
///
/// # Safety
/// The words are alive and nobody's to write until the call, and what it launches, has ended.
unsafe fn borrowing(device: i32, words: (u64, usize), spec: RopeSpec) -> PyResult<AnyRope> {
    if device < 0 {
        // SAFETY: the caller's promise.
        let rope = unsafe { cpu::Rope::borrowing(words.0, words.1, spec) };
        return rope.map(AnyRope::from).map_err(raised);
    }
    #[cfg(feature = "cuda")]
    {
        let kernels = cuda::kernels(device as usize)?;
        // SAFETY: the caller's promise.
        let rope =
            unsafe { condensed_rope::cuda::Rope::borrowing(&kernels, words.0, words.1, spec) };
        rope.map(AnyRope::from).map_err(raised)
    }
    #[cfg(not(feature = "cuda"))]
    {
        let message = "this build has no CUDA backend: tensors must be on the CPU";
        Err(pyo3::exceptions::PyRuntimeError::new_err(message))
    }
}

/// Rotates q and k from `sources` to `targets`, which may be the same. Every tensor is (address, dtype, sizes, strides);
/// `ids` is (address, dtype, sizes, strides) or a start; words is (address, count).
///
/// The caller keeps every tensor alive, on the device, and out of others' hands until the call has ended in the order of
/// the stream: the Python package does.
#[pyfunction]
#[pyo3(signature = (device, stream, words, spec, seq_dim, rotary_offset, q, k, ids, start))]
#[allow(clippy::too_many_arguments)]
pub fn rotate(
    py: Python<'_>,
    device: i32,
    stream: usize,
    words: (u64, usize),
    spec: Spec,
    seq_dim: i64,
    rotary_offset: usize,
    q: Option<(Tensor, Option<Tensor>)>,
    k: Option<(Tensor, Option<Tensor>)>,
    ids: Option<Tensor>,
    start: i64,
) -> PyResult<()> {
    let operand = |name: &'static str, (source, target): (Tensor, Option<Tensor>)| -> PyResult<_> {
        let kind = dtype(&source.1)?;
        let layout = |tensor: &Tensor| {
            let order = order(seq_dim, tensor.2.len());
            let layout = Layout::from_sizes_strides(name, order, &tensor.2, &tensor.3);
            layout.map(|layout| layout.rotate_from(rotary_offset)).map_err(raised)
        };
        let from = (RawBuffer::unbounded(source.0), layout(&source)?);
        Ok(match target {
            None => RawOperand::in_place(kind, from.0, from.1),
            Some(target) => {
                let to = (RawBuffer::unbounded(target.0), layout(&target)?);
                RawOperand::out_of_place(kind, from.0, from.1, to.0, to.1)
            }
        })
    };
    let q = q.map(|q| operand("q", q)).transpose()?;
    let k = k.map(|k| operand("k", k)).transpose()?;
    let [batch, seq, ..] = q.or(k).map_or([0; 4], |first| first.layout().shape());
    let positions = match ids {
        None => Positions::consecutive(start),
        Some((address, kind, sizes, strides)) => {
            let kind = index_type(&kind)?;
            Positions::<RawIds>::of_tensor(kind, address, &sizes, &strides, [batch, seq])
                .map_err(raised)?
        }
    };
    let spec = self::spec(spec)?;
    py.detach(|| {
        // SAFETY: the Python package keeps tensors and words alive.
        let rope = unsafe { borrowing(device, words, spec) }?;
        // SAFETY: as above; the stream is torch's own of the device.
        let rotated = unsafe { rope.rotate_raw(stream as *mut c_void, q, k, positions) };
        rotated.map_err(raised)
    })
}

/// Writes cos and sin `[rows, rotary_dim]` at two addresses, positions `start` and on.
#[pyfunction]
#[pyo3(signature = (device, stream, words, spec, dtype_name, start, rows, cos, sin))]
#[allow(clippy::too_many_arguments)]
pub fn cos_sin(
    py: Python<'_>,
    device: i32,
    stream: usize,
    words: (u64, usize),
    spec: Spec,
    dtype_name: &str,
    start: i64,
    rows: usize,
    cos: (u64, usize),
    sin: (u64, usize),
) -> PyResult<()> {
    let (kind, spec) = (dtype(dtype_name)?, self::spec(spec)?);
    let (cos, sin) = (RawBuffer::new(cos.0, cos.1), RawBuffer::new(sin.0, sin.1));
    py.detach(|| {
        // SAFETY: the Python package keeps tensors and words alive.
        let rope = unsafe { borrowing(device, words, spec) }?;
        // SAFETY: as above; the stream is torch's own of the device.
        let written =
            unsafe { rope.cos_sin_raw(stream as *mut c_void, kind, start, rows, cos, sin) };
        written.map_err(raised)
    })
}

/// Loads the kernels of a device, which a capture must not.
#[pyfunction]
pub fn prepare(device: i32) -> PyResult<()> {
    let _ = device;
    #[cfg(feature = "cuda")]
    if device >= 0 {
        cuda::kernels(device as usize)?;
    }
    Ok(())
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::sync::Mutex;

    use condensed_rope::cuda::Kernels;
    use pyo3::PyResult;

    use crate::raised;

    /// Of each device's primary context, which torch uses: loaded at its first tensor, kept for the process.
    static LOADED: Mutex<Vec<Option<Kernels>>> = Mutex::new(Vec::new());

    pub fn kernels(ordinal: usize) -> PyResult<Kernels> {
        let mut loaded = LOADED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(Some(kernels)) = loaded.get(ordinal) {
            return Ok(kernels.clone());
        }
        let kernels = Kernels::of_device(ordinal).map_err(raised)?;
        if loaded.len() <= ordinal {
            loaded.resize(ordinal + 1, None);
        }
        loaded[ordinal] = Some(kernels.clone());
        Ok(kernels)
    }
}
