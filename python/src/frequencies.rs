use condensed_rope::{FrequencySchedule, Llama3, PhaseWords, RopeScaling};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::raised;

/// How fast each channel pair turns: radians a position, kept in better than f64.
#[pyclass(frozen, module = "condensed_rope")]
pub struct Frequencies(pub condensed_rope::Frequencies);

fn bytes<'py>(py: Python<'py>, words: &PhaseWords) -> Bound<'py, PyBytes> {
    let bytes: Vec<u8> = words.words().iter().flat_map(|word| word.to_ne_bytes()).collect();
    PyBytes::new(py, &bytes)
}

/// The words of several sets of frequencies, of one rotary dimension.
#[pyfunction]
pub fn words<'py>(
    py: Python<'py>,
    sets: Vec<PyRef<'py, Frequencies>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let sets: Vec<_> = sets.iter().map(|set| set.0.clone()).collect();
    Ok(bytes(py, &PhaseWords::from_sets(&sets).map_err(raised)?))
}

#[pymethods]
impl Frequencies {
    /// `base ** (-2 j / rotary_dim)` for every pair j.
    #[new]
    #[pyo3(signature = (rotary_dim, base=10000.0))]
    fn new(rotary_dim: usize, base: f64) -> PyResult<Self> {
        condensed_rope::Frequencies::new(rotary_dim, base).map(Self).map_err(raised)
    }

    /// Llama 3.1's scaling: low frequencies divided by `factor`, high ones kept, those between them in between.
    #[staticmethod]
    #[pyo3(signature = (rotary_dim, base=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192))]
    fn llama3(
        rotary_dim: usize,
        base: f64,
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    ) -> PyResult<Self> {
        let mut scaling = Llama3::new(factor, original_max_position_embeddings);
        scaling.low_freq_factor = low_freq_factor;
        scaling.high_freq_factor = high_freq_factor;
        let schedule = FrequencySchedule::new(rotary_dim, base, RopeScaling::Llama3(scaling));
        Ok(Self(schedule.map_err(raised)?.frequencies().clone()))
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
        bytes(py, &self.0.phase_words())
    }

    fn __repr__(&self) -> String {
        format!("Frequencies(rotary_dim={}, factor={})", self.0.rotary_dim(), self.0.factor())
    }
}
