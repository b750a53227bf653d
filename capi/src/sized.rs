//! Structs that begin with their size, as the caller's compiler knew it: fields are only ever appended, so that a program
//! and a library of different versions understand each other.

use std::mem::MaybeUninit;

use crate::error::{Failure, argument};

/// No version's struct is larger, so that no wrong size leads far beyond what is there.
const LARGEST: usize = 4096;

/// A plain struct of C.
///
/// # Safety
/// `#[repr(C)]`, begins with `size: u64`, has no padding, and every pattern of bits is a value of it.
pub(crate) unsafe trait Versioned: Copy {
    /// Of the first version that was released.
    const FIRST: usize = size_of::<Self>();
}

fn check(what: &str, size: u64, first: usize) -> Result<usize, Failure> {
    let known = usize::try_from(size).ok().filter(|size| (first..=LARGEST).contains(size));
    known.ok_or_else(|| argument(what, &format!("a size of {first} or more: given {size}")))
}

/// A struct that C filled in; `None` for NULL. What an older version does not have is zero; what a newer one has beyond
/// this version's must be zero, since it would be passed over.
///
/// # Safety
/// `given` is NULL or holds as many bytes as its first field says.
pub(crate) unsafe fn read_sized<T: Versioned>(
    what: &str,
    given: *const T,
) -> Result<Option<T>, Failure> {
    if given.is_null() {
        return Ok(None);
    }
    if !given.is_aligned() {
        return Err(argument(what, "an aligned address"));
    }
    // SAFETY: the caller's promise: it begins with its size.
    let size = check(what, unsafe { given.cast::<u64>().read() }, T::FIRST)?;
    let own = size_of::<T>();
    if size > own {
        // SAFETY: the caller's promise.
        let all = unsafe { std::slice::from_raw_parts(given.cast::<u8>(), size) };
        if all[own..].iter().any(|&byte| byte != 0) {
            return Err(argument(what, "only fields that this version of the library has"));
        }
    }
    let mut out = MaybeUninit::<T>::zeroed();
    let to = out.as_mut_ptr().cast::<u8>();
    // SAFETY: both hold as many bytes.
    unsafe { to.copy_from_nonoverlapping(given.cast(), size.min(own)) };
    // SAFETY: every pattern of bits is a value.
    Ok(Some(unsafe { out.assume_init() }))
}

/// Fills in a struct whose size C has set, as far as C knows it.
///
/// # Safety
/// `out` holds as many bytes as its first field says, and they are the caller's.
pub(crate) unsafe fn write_sized<T: Versioned>(
    what: &str,
    out: *mut T,
    value: T,
) -> Result<(), Failure> {
    if !out.is_aligned() {
        return Err(argument(what, "an aligned address"));
    }
    // SAFETY: the caller's promise: it begins with its size.
    let size = check(what, unsafe { out.cast::<u64>().read() }, T::FIRST)?;
    let mut own = value;
    // SAFETY: it begins with its size, which stays what the caller said.
    unsafe { (&raw mut own).cast::<u64>().write(size as u64) };
    let known = size_of::<T>().min(size);
    // SAFETY: both hold as many bytes.
    unsafe { out.cast::<u8>().copy_from_nonoverlapping((&raw const own).cast(), known) };
    Ok(())
}
