//! Norm, rotation and append, from Python.

use condensed_rope::{
    Append, KvCache, KvLayout, Layout, QkNorm, Raw, RawBuffer, RawMemory, RawTensor, Rows, Scale,
    SlotMapping, Stored,
};
use pyo3::prelude::*;

use crate::call::{self, Place, Refusal, Words};
use crate::rope::{Positions, Spec, Tensor, dtype, index_type, placed, strided, turn};

/// q and k, each with whether its rotated rows are written; v.
type Qkv = (Option<Tensor>, Option<(Tensor, bool)>, Option<Tensor>);
/// Weights of q and k, epsilon, whether weights are one less than what they multiply by.
type Norm = (Option<Tensor>, Option<Tensor>, f32, bool);
/// Caches of keys and values, their scales, slots or a page table, whether those are a table, reserved slots.
type Cache = (Tensor, Option<Tensor>, Option<Tensor>, Option<Tensor>, Tensor, bool, usize);

fn stored(name: &str) -> Result<Stored, Refusal> {
    match name {
        "float8_e4m3fn" => Ok(Stored::Fp8E4M3),
        "float8_e5m2" => Ok(Stored::Fp8E5M2),
        other => Ok(Stored::Element(dtype(other)?)),
    }
}

/// `[pages, page_size, heads, head_dim]` of any strides, or `[slots, heads, head_dim]`.
fn pages(
    name: &'static str,
    (address, of, sizes, strides): &Tensor,
) -> Result<(RawMemory, KvLayout), Refusal> {
    let stored = stored(of)?;
    let (sizes, strides) = match sizes.len() {
        3 => ([&[sizes[0], 1], &sizes[1..]].concat(), [&[strides[0], 0], &strides[1..]].concat()),
        _ => (sizes.clone(), strides.clone()),
    };
    // Of the same dimensions as [batch, seq, heads, head_dim], and the same checks.
    let layout =
        Layout::from_sizes_strides(name, condensed_rope::DimOrder::Bshd, &sizes, &strides)?;
    let [number, size, heads, head_dim] = layout.shape();
    let layout = KvLayout::nhd(number, size, heads, head_dim).with_strides(layout.strides());
    Ok((RawMemory::new(stored, RawBuffer::unbounded(*address)), layout))
}

/// A contiguous list.
fn list((address, of, sizes, strides): &Tensor, what: &str) -> Result<RawTensor, Refusal> {
    let contiguous = sizes.len() <= 1 && strides.iter().zip(sizes).all(|(s, n)| *s == 1 || *n <= 1);
    if !contiguous {
        let message = format!(
            "{what}: expected a contiguous list: given sizes {sizes:?}, strides {strides:?}"
        );
        return Err(Refusal::Value(message));
    }
    let len = sizes.first().map_or(1, |n| *n as usize);
    Ok(RawTensor::new(dtype(of)?, RawBuffer::new(*address, len)))
}

fn scale(given: &Option<Tensor>, what: &str) -> Result<Scale<RawTensor>, Refusal> {
    given.as_ref().map_or(Ok(Scale::ONE), |given| Ok(Scale::Tensor(list(given, what)?)))
}

fn slots(
    (address, of, sizes, strides): &Tensor,
    by_table: bool,
) -> Result<SlotMapping<condensed_rope::RawIds>, Refusal> {
    let ids = |len| Ok::<_, Refusal>(condensed_rope::RawIds::new(index_type(of)?, *address, len));
    match (by_table, sizes.as_slice(), strides.as_slice()) {
        (false, &[n], &[s]) if s == 1 || n <= 1 => Ok(SlotMapping::ids(ids(n as usize)?)),
        (true, &[rows, width], &[stride, s]) if (s == 1 || width <= 1) && stride >= 0 => {
            let stride = if rows > 1 { stride as usize } else { width as usize };
            let len = if rows == 0 { 0 } else { (rows as usize - 1) * stride + width as usize };
            Ok(SlotMapping::strided_page_table(ids(len)?, width as usize, stride))
        }
        _ => Err(Refusal::Value(format!(
            "slots: expected [tokens], or a page table [sequences, pages] with contiguous rows: given sizes {sizes:?}, \
             strides {strides:?}"
        ))),
    }
}

/// Normalises q and k, rotates them where they lie, and appends k and v to a cache: as much of that as is given.
///
/// The caller keeps tensors alive, as for `rotate`.
#[pyfunction]
#[pyo3(signature = (device, stream, words, spec, seq_dim, rotary_offset, qkv, norm, cache, positions))]
#[allow(clippy::too_many_arguments)]
pub fn rotate_append(
    py: Python<'_>,
    device: i32,
    stream: usize,
    words: (u64, usize),
    spec: Spec,
    seq_dim: i64,
    rotary_offset: usize,
    qkv: Qkv,
    norm: Norm,
    cache: Option<Cache>,
    positions: Positions,
) -> PyResult<()> {
    let rows = |name: &'static str, tensor: &Tensor, first: usize| -> Result<Rows<Raw>, Refusal> {
        let tensor = strided(tensor, dtype)?;
        let layout = call::layout(name, seq_dim, first, &tensor)?;
        Ok(Rows::new(RawTensor::new(tensor.dtype, RawBuffer::unbounded(tensor.address)), layout))
    };
    let (q, k, v) = &qkv;
    let heads = |name, tensor: &Tensor| -> Result<_, Refusal> {
        call::operand(name, seq_dim, rotary_offset, &strided(tensor, dtype)?, None)
    };
    let q = q.as_ref().map(|q| heads("q", q)).transpose()?;
    let mut batch_seq = q.as_ref().map(|q| call::batch_seq(Some(q), None));
    let k = match k {
        Some((k, true)) => {
            let k = heads("k", k)?;
            batch_seq = batch_seq.or(Some(call::batch_seq(Some(&k), None)));
            Some(k.into())
        }
        Some((k, false)) => {
            let tensor = strided(k, dtype)?;
            let [batch, seq, ..] = call::layout("k", seq_dim, rotary_offset, &tensor)?.shape();
            batch_seq = batch_seq.or(Some([batch, seq]));
            Some(rows("k", k, rotary_offset)?.into())
        }
        None => None,
    };
    let v = v.as_ref().map(|v| rows("v", v, 0)).transpose()?;
    let mut of = Append::new(q.map(Into::into), k, v);
    let (q_weights, k_weights, eps, unit_offset) = &norm;
    let mut rms = QkNorm::rms(*eps);
    if let Some(weights) = q_weights {
        rms = rms.q(list(weights, "q weights")?);
    }
    if let Some(weights) = k_weights {
        rms = rms.k(list(weights, "k weights")?);
    }
    of = of.with_norm(if *unit_offset { rms.unit_offset() } else { rms });
    if let Some((keys, values, key_scale, value_scale, ids, by_table, reserved)) = &cache {
        let (key_memory, key_layout) = pages("key cache", keys)?;
        let kv = match values {
            None => KvCache::keys(key_memory, key_layout),
            Some(values) => {
                let (value_memory, value_layout) = pages("value cache", values)?;
                KvCache::new(key_memory, key_layout, value_memory, value_layout)
            }
        };
        let scales = [scale(key_scale, "key scale")?, scale(value_scale, "value scale")?];
        let [key_scale, value_scale] = scales;
        let slots = slots(ids, *by_table)?.reserved(*reserved);
        of = of.with_cache(kv.with_scales(key_scale, value_scale), slots);
    }
    let positions = placed(&positions, batch_seq.unwrap_or_default())?;
    let words = Words { address: words.0, len: words.1 };
    py.detach(|| {
        // SAFETY: the Python package keeps tensors and words alive; the stream is torch's own of the device.
        unsafe { call::rotate_append(Place { device, stream }, words, turn(spec), of, positions) }
    })?;
    Ok(())
}
