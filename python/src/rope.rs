//! Calls by address, from Python: `ops.py` hands over addresses, element types, sizes and strides.

use condensed_rope::{Dtype, IndexType, RawBuffer, RawIds};
use pyo3::prelude::*;

use crate::call::{self, Kind, Place, Refusal, Strided, Turn, Words};

/// Address, element type, sizes and strides of a tensor.
pub(crate) type Tensor = (u64, String, Vec<i64>, Vec<i64>);
/// `kind` of the operators, ids or starts, cu_seqlens, sets, the axis of each pair, a start.
pub(crate) type Positions = (i64, Option<Tensor>, Option<Tensor>, Option<Tensor>, Vec<i64>, i64);
/// rotary_dim, interleaved, inverse, factor.
pub(crate) type Spec = (usize, bool, bool, f32);

pub(crate) fn dtype(name: &str) -> Result<Dtype, Refusal> {
    match name {
        "float32" => Ok(Dtype::F32),
        "float16" => Ok(Dtype::F16),
        "bfloat16" => Ok(Dtype::BF16),
        other => Err(Refusal::Type(format!(
            "element type must be float32, float16 or bfloat16: given {other}"
        ))),
    }
}

pub(crate) fn index_type(name: &str) -> Result<IndexType, Refusal> {
    match name {
        "int32" => Ok(IndexType::I32),
        "int64" => Ok(IndexType::I64),
        "uint32" => Ok(IndexType::U32),
        other => Err(Refusal::Type(format!(
            "position ids must be int32, int64 or uint32: given {other}"
        ))),
    }
}

pub(crate) fn strided<D>(
    tensor: &Tensor,
    dtype: impl FnOnce(&str) -> Result<D, Refusal>,
) -> Result<Strided<'_, D>, Refusal> {
    let (address, name, sizes, strides) = tensor;
    Ok(Strided { dtype: dtype(name)?, address: *address, sizes, strides })
}

fn indices(ids: &Option<Tensor>) -> Result<Option<Strided<'_, IndexType>>, Refusal> {
    ids.as_ref().map(|ids| strided(ids, index_type)).transpose()
}

/// Positions by address, for a call of `[batch, seq]` tokens.
pub(crate) fn placed(
    given: &Positions,
    batch_seq: [usize; 2],
) -> Result<condensed_rope::Positions<RawIds>, Refusal> {
    let (kind, ids, cu_seqlens, sets, axis_of_pair, start) = given;
    let (ids, cu_seqlens, sets) = (indices(ids)?, indices(cu_seqlens)?, indices(sets)?);
    call::positions(
        Kind::of(*kind)?,
        ids.as_ref(),
        cu_seqlens.as_ref(),
        sets.as_ref(),
        axis_of_pair,
        *start,
        batch_seq,
    )
}

pub(crate) fn turn((rotary_dim, interleaved, inverse, factor): Spec) -> Turn {
    Turn { rotary_dim, interleaved, inverse, factor }
}

/// Rotates q and k from sources to targets; `None` for a target is in place. `words` is (address, count).
///
/// The caller keeps every tensor alive, on the device, and out of others' hands until the call has ended in the order of
/// the stream: the Python package does.
#[pyfunction]
#[pyo3(signature = (device, stream, words, spec, seq_dim, rotary_offset, q, k, positions))]
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
    positions: Positions,
) -> PyResult<()> {
    let operand = |name, given: &Option<(Tensor, Option<Tensor>)>| {
        let Some((source, target)) = given else { return Ok(None) };
        let source = strided(source, dtype)?;
        let target = target.as_ref().map(|target| strided(target, dtype)).transpose()?;
        call::operand(name, seq_dim, rotary_offset, &source, target.as_ref()).map(Some)
    };
    let (q, k) = (operand("q", &q)?, operand("k", &k)?);
    let positions = placed(&positions, call::batch_seq(q.as_ref(), k.as_ref()))?;
    let words = Words { address: words.0, len: words.1 };
    py.detach(|| {
        // SAFETY: the Python package keeps tensors and words alive; the stream is torch's own of the device.
        unsafe { call::rotate(Place { device, stream }, words, turn(spec), q, k, positions) }
    })?;
    Ok(())
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
    let kind = dtype(dtype_name)?;
    let buffers = [cos, sin].map(|(address, len)| RawBuffer::new(address, len));
    let (place, words) = (Place { device, stream }, Words { address: words.0, len: words.1 });
    py.detach(|| {
        // SAFETY: as above.
        unsafe { call::cos_sin(place, words, turn(spec), kind, start, rows, buffers) }
    })?;
    Ok(())
}

/// Loads the kernels of a device, which a capture must not.
#[pyfunction]
pub fn prepare(device: i32) -> PyResult<()> {
    Ok(call::prepare(device)?)
}
