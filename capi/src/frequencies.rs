use std::ffi::{CStr, c_char};

use condensed_rope::config::Config;
use condensed_rope::{Direction, Frequencies, Pairing, PhaseWords};

use crate::error::{Failure, argument, status};
use crate::sized::{Versioned, write_sized};

/// How fast each channel pair turns. Made by `crope_frequencies_*`, freed by `crope_frequencies_free`.
#[allow(non_camel_case_types)]
pub struct crope_frequencies(Frequencies);

/// What a config says of the layers of a type.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct crope_layer {
    /// `sizeof(struct crope_layer)`.
    pub size: u64,
    pub head_dim: u64,
    /// The first channel that rotates.
    pub rotary_offset: u64,
    pub rotary_dim: u64,
    /// A `CROPE_PAIRING_*`.
    pub pairing: u32,
    /// 1 where the class turns backwards.
    pub inverse: u32,
    /// Positions of a token (M-RoPE: 3); 1 in all other models.
    pub axes: u64,
    /// By which of them each pair turns: for `crope_positions.axis_of_pair`.
    pub axis_of_pair: [u8; CROPE_MAX_PAIRS],
}

// SAFETY: it begins with its size, its fields leave no gaps, and are numbers.
unsafe impl Versioned for crope_layer {}

/// The most pairs that a head can have.
pub const CROPE_MAX_PAIRS: usize = 512;
/// No rope has more sets of frequencies, so that no wrong number leads far beyond what is there.
const MAX_SETS: u64 = 1 << 20;

pub const CROPE_PAIRING_HALF_SPLIT: u32 = 0;
pub const CROPE_PAIRING_INTERLEAVED: u32 = 1;

/// Hands an object to C.
///
/// # Safety
/// `out` is NULL or where a pointer may be written.
unsafe fn hand_over<T>(out: *mut *mut T, object: T) -> Result<(), Failure> {
    if out.is_null() {
        return Err(argument("out", "an address: given NULL"));
    }
    // SAFETY: the caller's promise.
    unsafe { out.write(Box::into_raw(Box::new(object))) };
    Ok(())
}

/// A reference to what C gave.
///
/// # Safety
/// `object` is NULL or alive for the call.
unsafe fn given<'a, T>(what: &str, object: *const T) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { object.as_ref() }.ok_or_else(|| argument(what, "an object: given NULL"))
}

/// `base^(-2j / rotary_dim)` radians a position for every pair j.
///
/// # Safety
/// `out` is NULL or where a pointer may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_frequencies_new(
    rotary_dim: u64,
    base: f64,
    out: *mut *mut crope_frequencies,
) -> i32 {
    status(|| {
        let frequencies = Frequencies::new(size(rotary_dim), base)?;
        // SAFETY: the caller's promise.
        unsafe { hand_over(out, crope_frequencies(frequencies)) }
    })
}

/// Radians a position as they are given, one a pair.
///
/// # Safety
/// `inv_freq` is NULL or holds `pairs` numbers; `out` is NULL or where a pointer may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_frequencies_from_inv_freq(
    inv_freq: *const f64,
    pairs: u64,
    out: *mut *mut crope_frequencies,
) -> i32 {
    status(|| {
        if inv_freq.is_null() || !inv_freq.is_aligned() {
            return Err(argument("inv_freq", "an aligned address"));
        }
        // The most there can be, so that no wrong number leads beyond what is there by much.
        if pairs > CROPE_MAX_PAIRS as u64 {
            return Err(argument("pairs", "at most 512"));
        }
        // SAFETY: the caller's promise.
        let list = unsafe { std::slice::from_raw_parts(inv_freq, size(pairs)) };
        let frequencies = Frequencies::from_inv_freq(list)?;
        // SAFETY: the caller's promise.
        unsafe { hand_over(out, crope_frequencies(frequencies)) }
    })
}

/// The frequencies of the layers of a type (NULL: of all that rotate) by the text of a config.json, condensed by `ratio`
/// (1: as it says), and what else the config says of them (`layer` may be NULL).
///
/// # Safety
/// `json` is a C string; `layer_type` is NULL or one; `layer` is NULL or a struct whose `size` is set; `out` is NULL or
/// where a pointer may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_frequencies_from_config(
    json: *const c_char,
    layer_type: *const c_char,
    ratio: f64,
    layer: *mut crope_layer,
    out: *mut *mut crope_frequencies,
) -> i32 {
    status(|| {
        // SAFETY: the caller's promise.
        let json = unsafe { text("json", json) }?.ok_or_else(|| argument("json", "a text"))?;
        // SAFETY: the caller's promise.
        let layer_type = unsafe { text("layer_type", layer_type) }?;
        let config = Config::from_json(json)?;
        let config = if ratio == 1.0 { config } else { config.condensed(ratio)? };
        let rotary = config.rotary(layer_type)?;
        if !layer.is_null() {
            let mut axis_of_pair = [0; CROPE_MAX_PAIRS];
            if let Some(sections) = &rotary.sections {
                for (pair, axis) in axis_of_pair.iter_mut().take(sections.pairs()).enumerate() {
                    *axis = sections.axis(pair) as u8;
                }
            }
            let said = crope_layer {
                size: 0,
                head_dim: rotary.head_dim as u64,
                rotary_offset: rotary.rotary_offset as u64,
                rotary_dim: rotary.rotary_dim as u64,
                pairing: u32::from(rotary.pairing == Pairing::Interleaved),
                inverse: u32::from(rotary.direction == Direction::Inverse),
                axes: rotary.sections.as_ref().map_or(1, |sections| sections.axes() as u64),
                axis_of_pair,
            };
            // SAFETY: the caller's promise.
            unsafe { write_sized("layer", layer, said) }?;
        }
        let frequencies = rotary.schedule.frequencies().clone();
        // SAFETY: the caller's promise.
        unsafe { hand_over(out, crope_frequencies(frequencies)) }
    })
}

/// Divides every position by `ratio`.
///
/// # Safety
/// `frequencies` is NULL or alive, and used by nobody else meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_frequencies_condense(
    frequencies: *mut crope_frequencies,
    ratio: f64,
) -> i32 {
    status(|| {
        // SAFETY: the caller's promise.
        let own = unsafe { frequencies.as_mut() };
        let own = own.ok_or_else(|| argument("frequencies", "an object: given NULL"))?;
        own.0 = own.0.clone().condensed(ratio)?;
        Ok(())
    })
}

/// Frees them; NULL is nothing.
///
/// # Safety
/// `frequencies` is NULL or came from this library, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_frequencies_free(frequencies: *mut crope_frequencies) {
    if !frequencies.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(frequencies) });
    }
}

/// Number of 64-bit words of a rope of `sets` sets of frequencies.
///
/// # Safety
/// `out` is NULL or where a number may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_words_len(rotary_dim: u64, sets: u64, out: *mut u64) -> i32 {
    status(|| {
        let len = PhaseWords::len_of(size(rotary_dim), size(sets))?;
        if out.is_null() {
            return Err(argument("out", "an address: given NULL"));
        }
        // SAFETY: the caller's promise.
        unsafe { out.write(len as u64) };
        Ok(())
    })
}

/// Writes the words that kernels read, of one set of frequencies or of several of one rotary dimension: the engine owns
/// them, uploads them once, and rewrites them by a copy.
///
/// # Safety
/// `frequencies` is NULL or holds `sets` pointers, each NULL or alive; `words` is NULL or has room for `len` words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_words_write(
    frequencies: *const *const crope_frequencies,
    sets: u64,
    words: *mut u64,
    len: u64,
) -> i32 {
    status(|| {
        if frequencies.is_null() || !frequencies.is_aligned() {
            return Err(argument("frequencies", "an aligned address"));
        }
        if sets == 0 || sets > MAX_SETS {
            return Err(argument("sets", &format!("1 to {MAX_SETS}: given {sets}")));
        }
        // SAFETY: the caller's promise.
        let list = unsafe { std::slice::from_raw_parts(frequencies, size(sets)) };
        // SAFETY: the caller's promise.
        let each = list.iter().map(|&one| Ok(unsafe { given("frequencies", one) }?.0.clone()));
        let own = PhaseWords::from_sets(&each.collect::<Result<Vec<_>, Failure>>()?)?;
        if words.is_null() || !words.is_aligned() || len != own.words().len() as u64 {
            let expected = format!("room for {} words, aligned", own.words().len());
            return Err(argument("words", &expected));
        }
        // SAFETY: the caller's promise; the lengths are equal.
        unsafe { words.copy_from_nonoverlapping(own.words().as_ptr(), own.words().len()) };
        Ok(())
    })
}

/// The factor on cos and sin, for `crope_rope.factor`; 0 for NULL.
///
/// # Safety
/// `frequencies` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crope_frequencies_factor(frequencies: *const crope_frequencies) -> f32 {
    // SAFETY: the caller's promise.
    unsafe { frequencies.as_ref() }.map_or(0.0, |frequencies| frequencies.0.factor())
}

/// A C string; `None` for NULL.
///
/// # Safety
/// `text` is NULL or a C string that lives for the call.
unsafe fn text<'a>(what: &str, text: *const c_char) -> Result<Option<&'a str>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|_| argument(what, "UTF-8"))
}

/// What does not fit is too large for any check.
fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
