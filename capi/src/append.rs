//! Norm, rotation and append.

use std::ffi::c_void;

use condensed_rope::{
    Append, Dtype, KvCache, KvLayout, QkNorm, Raw, RawBuffer, RawMemory, RawTensor, Rows, Scale,
    SlotMapping, Stored,
};

use crate::error::{Failure, argument, status};
use crate::kernels::crope_kernels;
use crate::rotate::{
    borrowing, crope_heads, crope_positions, crope_rope, dtype, ids, layout, operand, positions,
};
use crate::sized::{Versioned, read_sized};

/// 8-bit floats of 4 exponent and 3 mantissa bits, in a cache.
pub const CROPE_FP8_E4M3: u32 = 3;
/// 8-bit floats of 5 exponent and 2 mantissa bits, in a cache.
pub const CROPE_FP8_E5M2: u32 = 4;

/// RMSNorm of query and key heads, before they rotate.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct crope_norm {
    /// `sizeof(struct crope_norm)`.
    pub size: u64,
    /// `head_dim` of them, of q's type; NULL: q is not normalised.
    pub q_weights: *const c_void,
    /// The same of k.
    pub k_weights: *const c_void,
    /// 2^-101 or more.
    pub eps: f32,
    /// 1: weights are one less than what they multiply by (Gemma 3).
    pub unit_offset: u32,
}

/// A cache of keys and values, and the slots of this call's tokens. Slot `s` is entry `s % page_size` of page
/// `s / page_size`; one that the cache does not have stores nothing.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct crope_cache {
    /// `sizeof(struct crope_cache)`.
    pub size: u64,
    /// Page 0, entry 0, head 0.
    pub keys: *mut c_void,
    /// The same of values; NULL without v.
    pub values: *mut c_void,
    /// pages, page_size, heads, head_dim.
    pub key_shape: [i64; 4],
    pub value_shape: [i64; 4],
    /// Of page, entry and head, in elements of the cache; channels are contiguous.
    pub key_strides: [i64; 3],
    pub value_strides: [i64; 3],
    /// q's type, `CROPE_FP8_E4M3` or `CROPE_FP8_E5M2`.
    pub dtype: u32,
    /// Of `slots`: a `CROPE_I32`, `CROPE_I64` or `CROPE_U32`.
    pub slots_dtype: u32,
    /// One slot a token; or, with a `table_width`, pages: `slots[i * table_stride + p]` is page `p` of sequence `i`.
    pub slots: *const c_void,
    /// How many there are. Tokens beyond the last one are not stored.
    pub slots_len: u64,
    /// Pages of a row of a page table; 0: no table.
    pub table_width: u64,
    /// From one sequence's row to the next one's.
    pub table_stride: i64,
    /// First slots that nothing is stored in.
    pub reserved_slots: u64,
    /// What 8-bit floats are multiplied by to be what they stand for, where there is no list; 0 is 1.
    pub key_scale: f32,
    pub value_scale: f32,
    /// f32 where the kernels are: one for all heads, or one a head; NULL: by value.
    pub key_scales: *const f32,
    pub value_scales: *const f32,
    /// 1, or the number of heads.
    pub key_scales_len: u64,
    pub value_scales_len: u64,
}

// SAFETY: each begins with its size, its fields leave no gaps, and are numbers and pointers.
unsafe impl Versioned for crope_norm {}
// SAFETY: as above.
unsafe impl Versioned for crope_cache {}

fn rows(name: &'static str, heads: &crope_heads) -> Result<Rows<Raw>, Failure> {
    let dtype = dtype("heads->dtype", heads.dtype)?;
    let layout = layout(name, heads, heads.source_strides)?;
    let address = heads.source.expose_provenance() as u64;
    Ok(Rows::new(RawTensor::new(dtype, RawBuffer::unbounded(address)), layout))
}

fn norm(given: &crope_norm, dtype: Dtype) -> Result<QkNorm<Raw>, Failure> {
    let weights = |at: *const c_void| {
        RawTensor::new(dtype, RawBuffer::unbounded(at.expose_provenance() as u64))
    };
    let norm = QkNorm::rms(given.eps);
    let norm = if given.q_weights.is_null() { norm } else { norm.q(weights(given.q_weights)) };
    let norm = if given.k_weights.is_null() { norm } else { norm.k(weights(given.k_weights)) };
    match given.unit_offset {
        0 => Ok(norm),
        1 => Ok(norm.unit_offset()),
        _ => Err(argument("norm->unit_offset", "0 or 1")),
    }
}

fn pages(name: &'static str, shape: [i64; 4], strides: [i64; 3]) -> Result<KvLayout, Failure> {
    let size = |given: i64| {
        usize::try_from(given).map_err(|_| argument(name, &format!("0 or more: given {given}")))
    };
    let [pages, page_size, heads, head_dim] = shape;
    let layout = KvLayout::nhd(size(pages)?, size(page_size)?, size(heads)?, size(head_dim)?);
    let [page, entry, head] = strides;
    Ok(layout.with_strides([size(page)?, size(entry)?, size(head)?]))
}

fn scale(value: f32, list: *const f32, len: u64) -> Scale<RawTensor> {
    if list.is_null() {
        return Scale::Value(if value == 0.0 { 1.0 } else { value });
    }
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let buffer = RawBuffer::new(list.expose_provenance() as u64, len);
    Scale::Tensor(RawTensor::new(Dtype::F32, buffer))
}

fn with_cache(call: Append<Raw>, given: &crope_cache) -> Result<Append<Raw>, Failure> {
    let stored = match given.dtype {
        CROPE_FP8_E4M3 => Stored::Fp8E4M3,
        CROPE_FP8_E5M2 => Stored::Fp8E5M2,
        element => Stored::Element(dtype("cache->dtype", element)?),
    };
    let memory = |at: *mut c_void| {
        RawMemory::new(stored, RawBuffer::unbounded(at.expose_provenance() as u64))
    };
    let keys = pages("cache->key_shape", given.key_shape, given.key_strides)?;
    let cache = if given.values.is_null() {
        KvCache::keys(memory(given.keys), keys)
    } else {
        let values = pages("cache->value_shape", given.value_shape, given.value_strides)?;
        KvCache::new(memory(given.keys), keys, memory(given.values), values)
    };
    let cache = cache.with_scales(
        scale(given.key_scale, given.key_scales, given.key_scales_len),
        scale(given.value_scale, given.value_scales, given.value_scales_len),
    );
    let size = |given: u64| usize::try_from(given).unwrap_or(usize::MAX);
    let list = ids("cache->slots_dtype", given.slots_dtype, given.slots, given.slots_len)?;
    let slots = match given.table_width {
        0 => SlotMapping::ids(list),
        width => {
            let stride = usize::try_from(given.table_stride).map_err(|_| {
                argument("cache->table_stride", &format!("0 or more: given {}", given.table_stride))
            })?;
            SlotMapping::strided_page_table(list, size(width), stride)
        }
    };
    Ok(call.with_cache(cache, slots.reserved(size(given.reserved_slots))))
}

/// Normalises q and k, rotates them, and appends k and v to a cache, in one launch on a stream: as much of that as is given.
/// `v` is read from its `source`; so is a `k` without `data`, which goes to the cache alone. `norm` and `cache` may be NULL,
/// and so may q, k and v.
///
/// # Safety
/// As of `crope_rotate`, of weights, caches, slots and scales, too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_rotate_append(
    kernels: *const crope_kernels,
    stream: *mut c_void,
    rope: *const crope_rope,
    q: *const crope_heads,
    k: *const crope_heads,
    v: *const crope_heads,
    norm: *const crope_norm,
    cache: *const crope_cache,
    positions: *const crope_positions,
) -> i32 {
    status(|| {
        // SAFETY: the caller's promise.
        let rope = unsafe { borrowing(kernels, rope) }?;
        // SAFETY: the caller's promise.
        let heads = |name, heads| unsafe { read_sized::<crope_heads>(name, heads) };
        let (q, k, v) = (heads("q", q)?, heads("k", k)?, heads("v", v)?);
        let dtype = q.or(k).or(v).map_or(Ok(Dtype::F32), |first| dtype("q->dtype", first.dtype))?;
        let q = q.map(|q| operand("q", &q)).transpose()?.map(Into::into);
        let k = k
            .map(|k| match k.data.is_null() && !k.source.is_null() {
                true => Ok::<_, Failure>(rows("k", &k)?.into()),
                false => Ok(operand("k", &k)?.into()),
            })
            .transpose()?;
        let v = v.map(|v| rows("v", &v)).transpose()?;
        let mut call = Append::new(q, k, v);
        // SAFETY: the caller's promise.
        if let Some(given) = unsafe { read_sized("norm", norm) }? {
            call = call.with_norm(self::norm(&given, dtype)?);
        }
        // SAFETY: the caller's promise.
        if let Some(given) = unsafe { read_sized("cache", cache) }? {
            call = with_cache(call, &given)?;
        }
        // SAFETY: the caller's promise.
        let positions = unsafe { self::positions(positions) }?;
        // SAFETY: the caller's promise.
        Ok(unsafe { rope.rotate_append_raw(stream, call, positions) }?)
    })
}
