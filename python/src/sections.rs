use condensed_rope::Error;
use pyo3::prelude::*;

use crate::raised;

/// Which of a token's positions turns which pairs: time, height and width in M-RoPE.
#[pyclass(frozen, eq, module = "condensed_rope")]
#[derive(PartialEq)]
pub struct Sections(pub condensed_rope::Sections);

fn made(sections: Result<condensed_rope::Sections, Error>) -> PyResult<Sections> {
    sections.map(Sections).map_err(raised)
}

#[pymethods]
impl Sections {
    /// So many pairs by each axis, one axis after the other (Qwen2-VL).
    #[staticmethod]
    fn blocks(sizes: Vec<usize>) -> PyResult<Self> {
        made(condensed_rope::Sections::blocks(sizes))
    }

    /// The axes in turn, for as many pairs as each has; what is left goes by the first (Qwen3-VL).
    #[staticmethod]
    fn interleaved(sizes: Vec<usize>) -> PyResult<Self> {
        made(condensed_rope::Sections::interleaved(sizes))
    }

    /// Height and width in turn, then time, of `[time, height, width]` (ERNIE-4.5-VL).
    #[staticmethod]
    fn height_width_then_time(sizes: [usize; 3]) -> PyResult<Self> {
        made(condensed_rope::Sections::height_width_then_time(sizes))
    }

    /// An axis for each pair.
    #[staticmethod]
    fn of_pairs(axes: usize, axis_of_pair: Vec<usize>) -> PyResult<Self> {
        made(condensed_rope::Sections::of_pairs(axes, &axis_of_pair))
    }

    /// How many positions a token has.
    #[getter]
    fn axes(&self) -> usize {
        self.0.axes()
    }

    /// The axis of each pair.
    #[getter]
    fn axis_of_pair(&self) -> Vec<usize> {
        (0..self.0.pairs()).map(|pair| self.0.axis(pair)).collect()
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}
