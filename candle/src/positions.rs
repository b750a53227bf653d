//! Positions over tensors, as positions by address.

use candle_core::{DType, Result};
use condensed_rope::{Error, IndexType, PositionKind, RawIds};

use crate::Positions;
use crate::locks::{Access, Held};
use crate::memory::wrap;

type Raw = condensed_rope::Positions<RawIds>;

/// Positions whose tensors are to be held.
pub(crate) type Accessed<'a> = condensed_rope::Positions<Access<'a>>;

/// Positions to read.
pub(crate) fn accessed(positions: &Positions) -> Accessed<'_> {
    positions.as_ref().map(Access::read)
}

/// By address, for a call of `[batch, seq]` tokens, while their tensors are held.
pub(crate) fn raw(positions: &Accessed, held: Held, batch_seq: [usize; 2]) -> Result<Raw> {
    let flat = |what, access: Access| {
        let (dtype, address) = list(what, access, held)?;
        let tensor = access.tensor;
        if !tensor.is_contiguous() {
            return Err(refused(what, "contiguous", format!("strides {:?}", tensor.stride())));
        }
        Ok(RawIds::new(dtype, address, tensor.elem_count()))
    };
    let raw = match positions.kind() {
        PositionKind::Ids { ids, row_stride: None } => {
            let (dtype, address) = list("position ids", *ids, held)?;
            let signed = |list: &[usize]| list.iter().map(|&n| n as i64).collect::<Vec<_>>();
            let (sizes, strides) = (signed(ids.tensor.dims()), signed(ids.tensor.stride()));
            Raw::of_tensor(dtype, address, &sizes, &strides, batch_seq).map_err(wrap)?
        }
        PositionKind::Axes { ids, sections, row_stride: None, axis_stride: None }
            if ids.tensor.rank() == 3 && ids.tensor.stride()[2] == 1 =>
        {
            let (dtype, address) = list("position ids", *ids, held)?;
            let (axes, rows, n) = ids.tensor.dims3()?;
            let (axis, row) = (ids.tensor.stride()[0], ids.tensor.stride()[1]);
            // An expanded [axes, 1, seq].
            let row = if rows == 1 && batch_seq[0] > 1 { 0 } else { row };
            let steps = |n: usize, stride: usize| n.saturating_sub(1).saturating_mul(stride);
            let len = steps(axes, axis).saturating_add(steps(rows, row)).saturating_add(n);
            let len = if axes * rows * n == 0 { 0 } else { len };
            if [axes, n] != [sections.axes(), batch_seq[1]] || ![1, batch_seq[0]].contains(&rows) {
                let given = format!("{:?}", ids.tensor.dims());
                return Err(refused("position ids", "[axes, batch, seq]", given));
            }
            Raw::strided_axes(RawIds::new(dtype, address, len), *sections, [axis, row])
        }
        _ => condensed_rope::Positions::from(*positions.kind()).try_map(flat)?,
    };
    match positions.sets() {
        Some(sets) => Ok(raw.with_sets(flat("sets", *sets)?)),
        None => Ok(raw),
    }
}

/// What ids may be of.
pub(crate) fn index_type(tensor: &'static str, dtype: DType) -> Result<IndexType> {
    match dtype {
        DType::U32 => Ok(IndexType::U32),
        DType::I32 => Ok(IndexType::I32),
        DType::I64 => Ok(IndexType::I64),
        other => {
            let (expected, given) = ("u32, i32 or i64", other.as_str().to_owned());
            Err(wrap(Error::Dtype { tensor, expected, given }))
        }
    }
}

/// Element type, and the address of the first id.
fn list(what: &'static str, access: Access, held: Held) -> Result<(IndexType, u64)> {
    let tensor = access.tensor;
    let dtype = index_type(what, tensor.dtype())?;
    let offset = tensor.layout().start_offset() * dtype.size();
    Ok((dtype, held.span(access).address + offset as u64))
}

fn refused(tensor: &'static str, expected: &'static str, given: String) -> candle_core::Error {
    wrap(Error::Tensor { tensor, expected, given })
}
