//! Tensors in safetensors files.

use std::fs;
use std::path::Path;

use condensed_rope::Dtype;
use half::{bf16, f16};
use safetensors::{Dtype as Stored, SafeTensors, View};

use crate::Result;

/// A tensor of a type that rotates.
#[derive(Clone)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Values,
}

#[derive(Clone)]
pub enum Values {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
}

/// Token positions.
pub struct Positions {
    pub shape: Vec<usize>,
    pub ids: Vec<i64>,
}

/// What a file holds.
pub struct Input {
    pub q: Tensor,
    pub k: Option<Tensor>,
    pub positions: Option<Positions>,
}

pub fn read(path: &Path) -> Result<Input> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = fs::read(path).map_err(|error| named(&error))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| named(&error))?;
    let tensor = |name: &str| -> Result<Option<Tensor>> {
        let Ok(view) = file.tensor(name) else { return Ok(None) };
        let values = match view.dtype() {
            Stored::F32 => Values::F32(elements(view.data(), f32::from_le_bytes)),
            Stored::F16 => Values::F16(elements(view.data(), f16::from_le_bytes)),
            Stored::BF16 => Values::BF16(elements(view.data(), bf16::from_le_bytes)),
            other => {
                return Err(
                    named(&format!("{name} must be f32, f16 or bf16: given {other:?}")).into()
                );
            }
        };
        Ok(Some(Tensor { shape: view.shape().to_vec(), values }))
    };
    let positions = match file.tensor("positions") {
        Err(_) => None,
        Ok(view) => {
            let ids = match view.dtype() {
                Stored::I64 => elements(view.data(), i64::from_le_bytes),
                Stored::I32 => elements(view.data(), |bytes| i32::from_le_bytes(bytes).into()),
                other => {
                    let message = format!("positions must be i32 or i64: given {other:?}");
                    return Err(named(&message).into());
                }
            };
            Some(Positions { shape: view.shape().to_vec(), ids })
        }
    };
    let q = tensor("q")?.ok_or_else(|| named(&"there is no tensor q"))?;
    Ok(Input { q, k: tensor("k")?, positions })
}

fn elements<T, const N: usize>(bytes: &[u8], read: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&bytes| read(bytes)).collect()
}

/// Writes all tensors, or nothing.
pub fn write(path: &Path, tensors: &[(&str, &Tensor)]) -> Result<()> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = safetensors::serialize(tensors.iter().copied(), None).map_err(|e| named(&e))?;
    let part = path.with_extension("part");
    let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&part);
        named(&error).into()
    })
}

impl Tensor {
    pub fn dtype(&self) -> Dtype {
        match self.values {
            Values::F32(_) => Dtype::F32,
            Values::F16(_) => Dtype::F16,
            Values::BF16(_) => Dtype::BF16,
        }
    }
}

impl View for &Tensor {
    fn dtype(&self) -> Stored {
        match self.values {
            Values::F32(_) => Stored::F32,
            Values::F16(_) => Stored::F16,
            Values::BF16(_) => Stored::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        match &self.values {
            Values::F32(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::F16(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::BF16(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * Tensor::dtype(self).size()
    }
}
