use condensed_rope::PhaseWords;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::raised;

/// How fast each channel pair turns: radians a position, kept in better than f64.
#[pyclass(frozen, module = "condensed_rope")]
pub struct Frequencies(pub condensed_rope::Frequencies);

#[pymethods]
impl Frequencies {
    /// `base ** (-2 j / rotary_dim)` for every pair j.
    #[new]
    #[pyo3(signature = (rotary_dim, base=10000.0))]
    fn new(rotary_dim: usize, base: f64) -> PyResult<Self> {
        condensed_rope::Frequencies::new(rotary_dim, base).map(Self).map_err(raised)
    }

    /// As they are given, one a pair.
    #[staticmethod]
    fn from_inv_freq(inv_freq: Vec<f64>) -> PyResult<Self> {
        condensed_rope::Frequencies::from_inv_freq(&inv_freq).map(Self).map_err(raised)
    }

    /// Every position divided by `ratio`.
    fn condensed(&self, ratio: f64) -> PyResult<Self> {
        self.0.clone().condensed(ratio).map(Self).map_err(raised)
    }

    /// cos and sin multiplied by `factor`.
    fn with_factor(&self, factor: f32) -> PyResult<Self> {
        self.0.clone().with_factor(factor).map(Self).map_err(raised)
    }

    /// Number of rotated channels.
    #[getter]
    fn rotary_dim(&self) -> usize {
        self.0.rotary_dim()
    }

    /// The factor on cos and sin.
    #[getter]
    fn factor(&self) -> f32 {
        self.0.factor()
    }

    /// Radians a position, one a pair.
    #[getter]
    fn inv_freq(&self) -> Vec<f64> {
        self.0.inv_freq().collect()
    }

    /// What kernels read: 64-bit words, native byte order.
    fn words<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let words = PhaseWords::new(&self.0);
        let bytes: Vec<u8> = words.words().iter().flat_map(|word| word.to_ne_bytes()).collect();
        PyBytes::new(py, &bytes)
    }

    fn __repr__(&self) -> String {
        format!("Frequencies(rotary_dim={}, factor={})", self.0.rotary_dim(), self.0.factor())
    }
}
