//! A call by address, on the CPU (device -1) or on a CUDA device: what the Python functions and torch's operators share.

use std::ffi::c_void;

use condensed_rope::{
    AnyRope, Append, DimOrder, Direction, Dtype, Error, IndexType, Layout, Pairing, Positions, Raw,
    RawBuffer, RawIds, RawOperand, RopeSpec, Sections, cpu,
};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::raised;

/// Why a call was not made.
pub enum Refusal {
    Rope(Error),
    Value(String),
    Type(String),
    Machine(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rope(error) => error.fmt(f),
            Self::Value(message) | Self::Type(message) | Self::Machine(message) => {
                f.write_str(message)
            }
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Rope(error)
    }
}

impl From<Refusal> for PyErr {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Rope(error) => raised(error),
            Refusal::Value(message) => PyValueError::new_err(message),
            Refusal::Type(message) => PyTypeError::new_err(message),
            Refusal::Machine(message) => PyRuntimeError::new_err(message),
        }
    }
}

type Result<T> = std::result::Result<T, Refusal>;

/// A tensor of elements or of ids: `D` is its element type.
pub struct Strided<'a, D> {
    pub dtype: D,
    pub address: u64,
    pub sizes: &'a [i64],
    pub strides: &'a [i64],
}

/// What a rope is, apart from its words.
#[derive(Clone, Copy)]
pub struct Turn {
    pub rotary_dim: usize,
    pub interleaved: bool,
    pub inverse: bool,
    pub factor: f32,
}

/// Phase words that somebody else owns, where the call runs.
#[derive(Clone, Copy)]
pub struct Words {
    pub address: u64,
    pub len: usize,
}

/// Where a call runs: a CUDA device, or -1; and its stream.
#[derive(Clone, Copy)]
pub struct Place {
    pub device: i32,
    pub stream: usize,
}

/// A rope over words that the caller keeps; as many sets of frequencies as the words have.
///
/// # Safety
/// The words are alive and nobody's to write until the call, and what it launches, has ended.
unsafe fn borrowing(place: Place, words: Words, turn: Turn) -> Result<AnyRope> {
    let pairing = if turn.interleaved { Pairing::Interleaved } else { Pairing::HalfSplit };
    let direction = if turn.inverse { Direction::Inverse } else { Direction::Forward };
    let spec = RopeSpec::new(turn.rotary_dim, pairing)?.with_factor(turn.factor)?;
    let [one, two] = [1, 2].map(|sets| condensed_rope::PhaseWords::len_of(turn.rotary_dim, sets));
    let [one, two] = [one?, two?];
    let sets = 1 + words.len.saturating_sub(one) / (two - one);
    let spec = spec.with_sets(sets)?.with_direction(direction);
    if place.device < 0 {
        // SAFETY: the caller's promise.
        return Ok(unsafe { cpu::Rope::borrowing(words.address, words.len, spec) }?.into());
    }
    #[cfg(feature = "cuda")]
    {
        let kernels = loaded::kernels(place.device as usize)?;
        // SAFETY: the caller's promise.
        let rope = unsafe {
            condensed_rope::cuda::Rope::borrowing(&kernels, words.address, words.len, spec)
        };
        Ok(rope?.into())
    }
    #[cfg(not(feature = "cuda"))]
    {
        let message = "this build has no CUDA backend: tensors must be on the CPU";
        Err(Refusal::Machine(message.to_owned()))
    }
}

/// The dimensions of a tensor: `[tokens, heads, head_dim]`, or by the place of the sequence.
fn order(seq_dim: i64, rank: usize) -> DimOrder {
    match (seq_dim, rank) {
        (_, 3) => DimOrder::Thd,
        (1, _) => DimOrder::Bshd,
        (0, _) => DimOrder::Sbhd,
        _ => DimOrder::Bhsd,
    }
}

/// How heads lie in a tensor.
pub fn layout(
    name: &'static str,
    seq_dim: i64,
    rotary_offset: usize,
    tensor: &Strided<'_, Dtype>,
) -> Result<Layout> {
    let order = order(seq_dim, tensor.sizes.len());
    let layout = Layout::from_sizes_strides(name, order, tensor.sizes, tensor.strides)?;
    Ok(layout.rotate_from(rotary_offset))
}

/// q or k, in place or to another tensor.
pub fn operand(
    name: &'static str,
    seq_dim: i64,
    rotary_offset: usize,
    source: &Strided<'_, Dtype>,
    target: Option<&Strided<'_, Dtype>>,
) -> Result<RawOperand> {
    let layout = |tensor| layout(name, seq_dim, rotary_offset, tensor);
    let from = (RawBuffer::unbounded(source.address), layout(source)?);
    Ok(match target {
        None => RawOperand::in_place(source.dtype, from.0, from.1),
        Some(target) => {
            let to = (RawBuffer::unbounded(target.address), layout(target)?);
            RawOperand::out_of_place(source.dtype, from.0, from.1, to.0, to.1)
        }
    })
}

/// Where positions come from, as the operators' `kind` says it.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Consecutive,
    Ids,
    Starts,
    Ragged,
    Axes,
}

impl Kind {
    pub fn of(number: i64) -> Result<Self> {
        const ALL: [Kind; 5] =
            [Kind::Consecutive, Kind::Ids, Kind::Starts, Kind::Ragged, Kind::Axes];
        let kind = usize::try_from(number).ok().and_then(|number| ALL.get(number).copied());
        let unknown = || Refusal::Value(format!("a kind of positions is 0 to 4: given {number}"));
        kind.ok_or_else(unknown)
    }
}

type Ids<'a> = Strided<'a, IndexType>;

/// A row of values that lie end to end.
fn row(name: &str, ids: &Ids<'_>) -> Result<RawIds> {
    match (ids.sizes, ids.strides) {
        (&[n], &[stride]) if stride == 1 || n <= 1 => {
            Ok(RawIds::new(ids.dtype, ids.address, n as usize))
        }
        (sizes, _) => Err(Refusal::Type(format!(
            "{name} must be contiguous and of one dimension: given {sizes:?}"
        ))),
    }
}

pub fn positions(
    kind: Kind,
    ids: Option<&Ids<'_>>,
    cu_seqlens: Option<&Ids<'_>>,
    sets: Option<&Ids<'_>>,
    axis_of_pair: &[i64],
    start: i64,
    batch_seq: [usize; 2],
) -> Result<Positions<RawIds>> {
    let missing = |what: &str| Refusal::Type(format!("expected {what}: given None"));
    let needed = |what: &str| ids.ok_or_else(|| missing(what));
    let positions = match kind {
        Kind::Consecutive => Positions::consecutive(start),
        Kind::Ids => {
            let ids = needed("position ids")?;
            let (sizes, strides) = (ids.sizes, ids.strides);
            Positions::of_tensor(ids.dtype, ids.address, sizes, strides, batch_seq)?
        }
        Kind::Starts => Positions::starts(row("starts", needed("starts")?)?),
        Kind::Ragged => {
            let cu_seqlens = cu_seqlens.ok_or_else(|| missing("cu_seqlens"))?;
            let cu_seqlens = row("cu_seqlens", cu_seqlens)?;
            match ids {
                None => Positions::ragged(cu_seqlens),
                Some(starts) => Positions::ragged_from(cu_seqlens, row("starts", starts)?),
            }
        }
        Kind::Axes => {
            let ids = needed("position ids")?;
            let axes = ids.sizes.first().copied().unwrap_or(0);
            let of_pair = axis_of_pair.iter().map(|&axis| usize::try_from(axis));
            let of_pair: std::result::Result<Vec<usize>, _> = of_pair.collect();
            let of_pair =
                of_pair.map_err(|_| Refusal::Type("an axis of a pair is 0 or more".to_owned()))?;
            let sections = Sections::of_pairs(axes as usize, &of_pair)?;
            let (sizes, strides) = (ids.sizes, ids.strides);
            Positions::axes_of_tensor(ids.dtype, ids.address, sizes, strides, batch_seq, sections)?
        }
    };
    Ok(match sets {
        None => positions,
        Some(sets) => positions.with_sets(row("sets", sets)?),
    })
}

/// `[batch, seq]` of the first operand there is.
pub fn batch_seq(q: Option<&RawOperand>, k: Option<&RawOperand>) -> [usize; 2] {
    let [batch, seq, ..] = q.or(k).map_or([0; 4], |first| first.layout().shape());
    [batch, seq]
}

/// Rotates.
///
/// # Safety
/// Operands, positions and words are tensors' of the device (host memory for -1), alive until the call, and what it
/// launches, has ended; the stream is one of the device's primary context.
pub unsafe fn rotate(
    place: Place,
    words: Words,
    turn: Turn,
    q: Option<RawOperand>,
    k: Option<RawOperand>,
    positions: Positions<RawIds>,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let rope = unsafe { borrowing(place, words, turn) }?;
    // SAFETY: the caller's promise.
    Ok(unsafe { rope.rotate_raw(place.stream as *mut c_void, q, k, positions) }?)
}

/// Normalises, rotates and appends.
///
/// # Safety
/// As of [`rotate`], of every tensor of the call.
pub unsafe fn rotate_append(
    place: Place,
    words: Words,
    turn: Turn,
    call: Append<Raw>,
    positions: Positions<RawIds>,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let rope = unsafe { borrowing(place, words, turn) }?;
    // SAFETY: the caller's promise.
    Ok(unsafe { rope.rotate_append_raw(place.stream as *mut c_void, call, positions) }?)
}

/// Writes cos and sin `[rows, rotary_dim]`, positions `start` and on.
///
/// # Safety
/// As of [`rotate`], of both buffers.
pub unsafe fn cos_sin(
    place: Place,
    words: Words,
    turn: Turn,
    dtype: Dtype,
    start: i64,
    rows: usize,
    [cos, sin]: [RawBuffer; 2],
) -> Result<()> {
    // SAFETY: the caller's promise.
    let rope = unsafe { borrowing(place, words, turn) }?;
    // SAFETY: the caller's promise.
    let written =
        unsafe { rope.cos_sin_raw(place.stream as *mut c_void, dtype, start, rows, cos, sin) };
    Ok(written?)
}

/// Loads the kernels of a device, which a capture must not; nothing for the CPU.
pub fn prepare(device: i32) -> Result<()> {
    let _ = device;
    #[cfg(feature = "cuda")]
    if device >= 0 {
        loaded::kernels(device as usize)?;
    }
    Ok(())
}

#[cfg(feature = "cuda")]
mod loaded {
    use std::sync::Mutex;

    use condensed_rope::cuda::Kernels;

    /// Of each device's primary context, which torch uses: loaded at its first tensor, kept for the process.
    static LOADED: Mutex<Vec<Option<Kernels>>> = Mutex::new(Vec::new());

    pub fn kernels(ordinal: usize) -> condensed_rope::Result<Kernels> {
        let mut loaded = LOADED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(Some(kernels)) = loaded.get(ordinal) {
            return Ok(kernels.clone());
        }
        let kernels = Kernels::of_device(ordinal)?;
        if loaded.len() <= ordinal {
            loaded.resize(ordinal + 1, None);
        }
        loaded[ordinal] = Some(kernels.clone());
        Ok(kernels)
    }
}
