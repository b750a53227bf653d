//! `condensed_rope._core`: frequencies and configs as objects, and calls by address. torch is not known here: the
//! Python side hands over addresses, sizes and strides.

mod append;
mod call;
mod config;
mod frequencies;
mod rope;
mod sections;
#[cfg(target_os = "linux")]
mod torch_abi;

use condensed_rope::Error;
use condensed_rope::config::ConfigError;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;

/// Ours as Python's: a wrong type, what the machine has not, or a wrong value.
fn raised(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Dtype { .. } => PyTypeError::new_err(message),
        Error::OutOfMemory { .. } => PyMemoryError::new_err(message),
        Error::NoDriver
        | Error::NoDevice { .. }
        | Error::DeviceTooOld { .. }
        | Error::DriverTooOld { .. }
        | Error::Driver { .. }
        | Error::StreamCapturing { .. } => PyRuntimeError::new_err(message),
        _ => PyValueError::new_err(message),
    }
}

fn raised_config(error: ConfigError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("WORDS_FORMAT", condensed_rope::PhaseWords::FORMAT)?;
    module.add("HAS_CUDA", cfg!(feature = "cuda"))?;
    module.add_class::<frequencies::Frequencies>()?;
    module.add_class::<config::Config>()?;
    module.add_function(wrap_pyfunction!(rope::rotate, module)?)?;
    module.add_function(wrap_pyfunction!(append::rotate_append, module)?)?;
    module.add_function(wrap_pyfunction!(rope::cos_sin, module)?)?;
    module.add_function(wrap_pyfunction!(rope::prepare, module)?)?;
    module.add_function(wrap_pyfunction!(frequencies::words, module)?)?;
    module.add_class::<sections::Sections>()?;
    #[cfg(target_os = "linux")]
    {
        module.add_function(wrap_pyfunction!(torch_abi::register_torch, module)?)?;
        module.add_function(wrap_pyfunction!(torch_abi::raise_refused, module)?)?;
    }
    Ok(())
}
