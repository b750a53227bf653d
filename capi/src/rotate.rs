use std::ffi::c_void;

#[cfg(feature = "cuda")]
use condensed_rope::cuda;
use condensed_rope::{
    AnyRope, Direction, Dtype, IndexType, Layout, Pairing, Pdl, Positions, RawBuffer, RawIds,
    RawOperand, RopeSpec, Sections, cpu,
};

use crate::error::{Failure, argument, status};
use crate::frequencies::CROPE_MAX_PAIRS;
use crate::kernels::{Backend, crope_kernels};
use crate::sized::{Versioned, read_sized};

pub const CROPE_F32: u32 = 0;
pub const CROPE_F16: u32 = 1;
pub const CROPE_BF16: u32 = 2;

pub const CROPE_I32: u32 = 0;
pub const CROPE_I64: u32 = 1;
pub const CROPE_U32: u32 = 2;

/// `start, start + 1, …` in every sequence.
pub const CROPE_CONSECUTIVE: u32 = 0;
/// `ids[b * ids_stride + s]`; a stride of 0 is a row that the batch shares, one of the sequence rows end to end.
pub const CROPE_IDS: u32 = 1;
/// `ids[b] + s`.
pub const CROPE_STARTS: u32 = 2;
/// Sequences end to end: `cu_seqlens` (i32, `sequences + 1` of them), and `ids` their first positions, or NULL for 0.
pub const CROPE_RAGGED: u32 = 3;
/// M-RoPE: `ids[axis * axis_stride + b * ids_stride + s]`, pair `j` by axis `axis_of_pair[j]`.
pub const CROPE_AXES: u32 = 4;

/// The launch waits for the one before it to end.
pub const CROPE_PDL_OFF: u32 = 0;
/// The launch may begin while the one before it on the stream ends, and waits for its results (programmatic dependent
/// launch).
pub const CROPE_PDL_ON: u32 = 1;
/// The same, and positions are older than the launch before it: they are read without waiting.
pub const CROPE_PDL_POSITIONS_READY: u32 = 2;

/// What a rope is.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct crope_rope {
    /// `sizeof(struct crope_rope)`.
    pub size: u64,
    /// By `crope_words_write`, where the kernels are: on the device (16-byte aligned), or on the host.
    pub words: *const u64,
    pub words_len: u64,
    pub rotary_dim: u64,
    /// On cos and sin: `crope_frequencies_factor`.
    pub factor: f32,
    /// A `CROPE_PAIRING_*`.
    pub pairing: u32,
    /// 1 turns backwards.
    pub inverse: u32,
    /// A `CROPE_PDL_*`; the CPU has none.
    pub pdl: u32,
    /// Sets of frequencies in the words; 0 is 1.
    pub sets: u64,
}

/// Heads of q or k; strides in elements, channels contiguous.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct crope_heads {
    /// `sizeof(struct crope_heads)`.
    pub size: u64,
    /// Where they go.
    pub data: *mut c_void,
    /// Where they are read; NULL: in place.
    pub source: *const c_void,
    /// batch, seq, heads, head_dim.
    pub shape: [i64; 4],
    /// Of batch, token and head.
    pub strides: [i64; 3],
    pub source_strides: [i64; 3],
    /// The first channel that rotates.
    pub rotary_offset: u64,
    /// A `CROPE_F32`, `CROPE_F16` or `CROPE_BF16`.
    pub dtype: u32,
    /// 0.
    pub reserved: u32,
}

/// The position of each token.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct crope_positions {
    /// `sizeof(struct crope_positions)`.
    pub size: u64,
    /// A `CROPE_CONSECUTIVE`, `CROPE_IDS`, `CROPE_STARTS`, `CROPE_RAGGED` or `CROPE_AXES`.
    pub kind: u32,
    /// Of `ids`: a `CROPE_I32`, `CROPE_I64` or `CROPE_U32`.
    pub ids_dtype: u32,
    pub ids: *const c_void,
    /// How many there are.
    pub ids_len: u64,
    /// From one sequence's row to the next one's.
    pub ids_stride: i64,
    pub start: i64,
    pub cu_seqlens: *const i32,
    pub cu_seqlens_len: u64,
    /// By which set of frequencies each sequence turns, one index a sequence; NULL: all by the first.
    pub sets: *const c_void,
    pub sets_len: u64,
    /// A `CROPE_I32`, `CROPE_I64` or `CROPE_U32`.
    pub sets_dtype: u32,
    /// Positions of a token, of `CROPE_AXES`: 1 to 4.
    pub axes: u32,
    /// From one axis' ids to the next one's.
    pub axis_stride: i64,
    /// By which axis each pair turns, on the host: `crope_layer.axis_of_pair`, say.
    pub axis_of_pair: *const u8,
    /// As many as the rope has pairs.
    pub pairs: u64,
}

// SAFETY: each begins with its size, its fields leave no gaps, and are numbers and pointers.
unsafe impl Versioned for crope_rope {}
// SAFETY: as above.
unsafe impl Versioned for crope_heads {}
// SAFETY: as above.
unsafe impl Versioned for crope_positions {}

fn spec(rope: &crope_rope) -> Result<RopeSpec, Failure> {
    let pairing = match rope.pairing {
        0 => Pairing::HalfSplit,
        1 => Pairing::Interleaved,
        _ => return Err(argument("rope->pairing", "a CROPE_PAIRING_*")),
    };
    let direction = match rope.inverse {
        0 => Direction::Forward,
        1 => Direction::Inverse,
        _ => return Err(argument("rope->inverse", "0 or 1")),
    };
    let rotary_dim = usize::try_from(rope.rotary_dim).unwrap_or(usize::MAX);
    let sets = usize::try_from(rope.sets).unwrap_or(usize::MAX).max(1);
    let spec = RopeSpec::new(rotary_dim, pairing)?.with_sets(sets)?.with_factor(rope.factor)?;
    Ok(spec.with_direction(direction))
}

fn pdl(rope: &crope_rope) -> Result<Pdl, Failure> {
    match rope.pdl {
        CROPE_PDL_OFF => Ok(Pdl::Off),
        CROPE_PDL_ON => Ok(Pdl::On),
        CROPE_PDL_POSITIONS_READY => Ok(Pdl::PositionsReady),
        _ => Err(argument("rope->pdl", "a CROPE_PDL_*")),
    }
}

/// A rope over the words that C keeps.
///
/// # Safety
/// Both are NULL or alive; the rope's words are alive until the call, and what it launches, has ended.
pub(crate) unsafe fn borrowing(
    kernels: *const crope_kernels,
    rope: *const crope_rope,
) -> Result<AnyRope, Failure> {
    // SAFETY: the caller's promise.
    let kernels = unsafe { kernels.as_ref() };
    let kernels = kernels.ok_or_else(|| argument("kernels", "an object: given NULL"))?;
    // SAFETY: the caller's promise.
    let rope = unsafe { read_sized("rope", rope) }?;
    let rope = rope.ok_or_else(|| argument("rope", "a struct: given NULL"))?;
    let (address, spec, pdl) = (rope.words.expose_provenance() as u64, spec(&rope)?, pdl(&rope)?);
    let len = usize::try_from(rope.words_len).unwrap_or(usize::MAX);
    let _ = pdl;
    Ok(match &kernels.0 {
        // SAFETY: the caller's promise.
        Backend::Cpu => unsafe { cpu::Rope::borrowing(address, len, spec) }?.into(),
        #[cfg(feature = "cuda")]
        Backend::Cuda(kernels) => {
            // SAFETY: the caller's promise.
            let rope = unsafe { cuda::Rope::borrowing(kernels, address, len, spec) }?;
            rope.with_pdl(pdl).into()
        }
    })
}

pub(crate) fn dtype(what: &str, given: u32) -> Result<Dtype, Failure> {
    match given {
        CROPE_F32 => Ok(Dtype::F32),
        CROPE_F16 => Ok(Dtype::F16),
        CROPE_BF16 => Ok(Dtype::BF16),
        _ => Err(argument(what, "CROPE_F32, CROPE_F16 or CROPE_BF16")),
    }
}

pub(crate) fn layout(
    name: &'static str,
    heads: &crope_heads,
    strides: [i64; 3],
) -> Result<Layout, Failure> {
    let strides = [strides[0], strides[1], strides[2], 1];
    let order = condensed_rope::DimOrder::Bshd;
    let layout = Layout::from_sizes_strides(name, order, &heads.shape, &strides)?;
    let first = usize::try_from(heads.rotary_offset).unwrap_or(usize::MAX);
    Ok(layout.rotate_from(first))
}

pub(crate) fn operand(name: &'static str, heads: &crope_heads) -> Result<RawOperand, Failure> {
    let dtype = dtype("heads->dtype", heads.dtype)?;
    let address = |at: *const c_void| RawBuffer::unbounded(at.expose_provenance() as u64);
    let (to, target) = (address(heads.data), layout(name, heads, heads.strides)?);
    if heads.source.is_null() {
        return Ok(RawOperand::in_place(dtype, to, target));
    }
    let from = layout(name, heads, heads.source_strides)?;
    Ok(RawOperand::out_of_place(dtype, address(heads.source), from, to, target))
}

pub(crate) fn ids(what: &str, dtype: u32, at: *const c_void, len: u64) -> Result<RawIds, Failure> {
    let dtype = match dtype {
        CROPE_I32 => IndexType::I32,
        CROPE_I64 => IndexType::I64,
        CROPE_U32 => IndexType::U32,
        _ => return Err(argument(what, "CROPE_I32, CROPE_I64 or CROPE_U32")),
    };
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    Ok(RawIds::new(dtype, at.expose_provenance() as u64, len))
}

fn stride(what: &str, given: i64) -> Result<usize, Failure> {
    usize::try_from(given).map_err(|_| argument(what, &format!("0 or more: given {given}")))
}

/// # Safety
/// `axis_of_pair` is NULL or holds as many numbers as the struct says.
unsafe fn sections(given: &crope_positions) -> Result<Sections, Failure> {
    if given.axis_of_pair.is_null() || given.pairs > CROPE_MAX_PAIRS as u64 {
        return Err(argument("positions->axis_of_pair", "an axis for each of at most 512 pairs"));
    }
    // SAFETY: the caller's promise.
    let list = unsafe { std::slice::from_raw_parts(given.axis_of_pair, given.pairs as usize) };
    let list: Vec<usize> = list.iter().map(|&axis| axis.into()).collect();
    Ok(Sections::of_pairs(given.axes as usize, &list)?)
}

/// # Safety
/// NULL, or a struct that begins with its size; as of [`sections`].
pub(crate) unsafe fn positions(
    given: *const crope_positions,
) -> Result<Positions<RawIds>, Failure> {
    // SAFETY: the caller's promise.
    let given = unsafe { read_sized("positions", given) }?;
    let given = &given.ok_or_else(|| argument("positions", "a struct: given NULL"))?;
    let ids = ids("positions->ids_dtype", given.ids_dtype, given.ids, given.ids_len)?;
    let row = || stride("positions->ids_stride", given.ids_stride);
    let positions = match given.kind {
        CROPE_CONSECUTIVE => Positions::consecutive(given.start),
        CROPE_IDS => Positions::strided_ids(ids, row()?),
        CROPE_STARTS => Positions::starts(ids),
        CROPE_RAGGED => {
            let at = given.cu_seqlens.cast();
            let cu_seqlens = self::ids("cu_seqlens", CROPE_I32, at, given.cu_seqlens_len)?;
            match given.ids.is_null() {
                true => Positions::ragged(cu_seqlens),
                false => Positions::ragged_from(cu_seqlens, ids),
            }
        }
        CROPE_AXES => {
            let axis = stride("positions->axis_stride", given.axis_stride)?;
            // SAFETY: the caller's promise.
            let sections = unsafe { sections(given) }?;
            Positions::strided_axes(ids, sections, [axis, row()?])
        }
        _ => return Err(argument("positions->kind", "CROPE_CONSECUTIVE to CROPE_AXES")),
    };
    if given.sets.is_null() {
        return Ok(positions);
    }
    let sets = self::ids("positions->sets_dtype", given.sets_dtype, given.sets, given.sets_len)?;
    Ok(positions.with_sets(sets))
}

/// A rope, q, k and positions.
type Call = (AnyRope, Option<RawOperand>, Option<RawOperand>, Positions<RawIds>);

/// # Safety
/// Pointers are NULL or as [`crope_rotate`] says; the words are not read.
unsafe fn call(
    kernels: *const crope_kernels,
    rope: *const crope_rope,
    q: *const crope_heads,
    k: *const crope_heads,
    positions: *const crope_positions,
) -> Result<Call, Failure> {
    // SAFETY: the caller's promise.
    let rope = unsafe { borrowing(kernels, rope) }?;
    // SAFETY: the caller's promise.
    let q = unsafe { read_sized("q", q) }?.map(|q| operand("q", &q)).transpose()?;
    // SAFETY: the caller's promise.
    let k = unsafe { read_sized("k", k) }?.map(|k| operand("k", &k)).transpose()?;
    // SAFETY: the caller's promise.
    Ok((rope, q, k, unsafe { self::positions(positions) }?))
}

/// Rotates q and k (either may be NULL) on a stream (a `CUstream` or `cudaStream_t`; NULL on the CPU) in one launch.
///
/// # Safety
/// Structs are alive and begin with their sizes. Every address holds, on the kernels' device, what the structs say, until
/// the call, and on a GPU what it launches, has ended; what is written is nobody else's meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_rotate(
    kernels: *const crope_kernels,
    stream: *mut c_void,
    rope: *const crope_rope,
    q: *const crope_heads,
    k: *const crope_heads,
    positions: *const crope_positions,
) -> i32 {
    status(|| {
        // SAFETY: the caller's promise.
        let (rope, q, k, positions) = unsafe { call(kernels, rope, q, k, positions) }?;
        // SAFETY: the caller's promise.
        Ok(unsafe { rope.rotate_raw(stream, q, k, positions) }?)
    })
}

/// Every check of `crope_rotate`, and nothing else: no address is read or written but those of the structs and of
/// `axis_of_pair`, and nothing is launched.
///
/// # Safety
/// Structs are alive and begin with their sizes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_check(
    kernels: *const crope_kernels,
    rope: *const crope_rope,
    q: *const crope_heads,
    k: *const crope_heads,
    positions: *const crope_positions,
) -> i32 {
    status(|| {
        // SAFETY: the caller's promise.
        let (rope, q, k, positions) = unsafe { call(kernels, rope, q, k, positions) }?;
        Ok(rope.spec().check(q, k, positions)?)
    })
}

/// Writes cos and sin `[rows, rotary_dim]` of the positions from `start` on.
///
/// # Safety
/// As of [`crope_rotate`]; `cos` and `sin` have room for `rows * rotary_dim` elements each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_cos_sin(
    kernels: *const crope_kernels,
    stream: *mut c_void,
    rope: *const crope_rope,
    dtype: u32,
    start: i64,
    rows: u64,
    cos: *mut c_void,
    sin: *mut c_void,
) -> i32 {
    status(|| {
        // SAFETY: the caller's promise.
        let rope = unsafe { borrowing(kernels, rope) }?;
        let dtype = self::dtype("dtype", dtype)?;
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let address = |at: *mut c_void| RawBuffer::unbounded(at.expose_provenance() as u64);
        // SAFETY: the caller's promise.
        let written =
            unsafe { rope.cos_sin_raw(stream, dtype, start, rows, address(cos), address(sin)) };
        Ok(written?)
    })
}
