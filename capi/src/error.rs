use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use condensed_rope::Error;
use condensed_rope::config::ConfigError;

/// An argument that C alone can get wrong: NULL, an unknown number, a struct of another size.
pub const CROPE_BAD_ARGUMENT: i32 = 2001;
/// A defect of the library: report it.
pub const CROPE_PANIC: i32 = 2002;

/// Why an entry failed.
pub(crate) enum Failure {
    Rope(Error),
    Config(ConfigError),
    Argument(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Rope(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

pub(crate) fn argument(what: &str, expected: &str) -> Failure {
    Failure::Argument(format!("{what}: expected {expected}"))
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// The body of an entry: its result as a status, whatever happens in it.
pub(crate) fn status(body: impl FnOnce() -> Result<(), Failure>) -> i32 {
    let (code, message) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return 0,
        Ok(Err(Failure::Rope(error))) => (error.code() as i32, error.to_string()),
        Ok(Err(Failure::Config(error))) => (error.code() as i32, error.to_string()),
        Ok(Err(Failure::Argument(message))) => (CROPE_BAD_ARGUMENT, message),
        Err(_) => (CROPE_PANIC, "a defect of condensed-rope: please report it".to_owned()),
    };
    let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
    LAST.with(|last| *last.borrow_mut() = message);
    code
}

/// What the last status other than 0 on this thread means: valid until the next one. Never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn crope_last_error() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

/// The library's version, "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn crope_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// The version of the format of phase words.
#[unsafe(no_mangle)]
pub extern "C" fn crope_words_format() -> u32 {
    condensed_rope::PhaseWords::FORMAT
}
