//! Tensors in safetensors files.

use std::borrow::Cow;
use std::fs::{self, OpenOptions};
use std::path::Path;

use condensed_rope::{Dtype, Layout, cpu};
use half::{bf16, f16};
use safetensors::{Dtype as Stored, SafeTensors, View};

use crate::Result;

/// A tensor of a type that rotates.
pub struct Tensor {
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    /// Its elements, in memory that is aligned for any of the types.
    words: Vec<u64>,
    bytes: usize,
}

impl Tensor {
    /// Zeros, where there is memory for them.
    pub fn zeros(shape: Vec<usize>, dtype: Dtype) -> Result<Self> {
        let elements = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
        let bytes = elements.and_then(|n| n.checked_mul(dtype.size()));
        let too_large = || format!("no memory for a tensor of {shape:?}");
        let bytes = bytes.ok_or_else(too_large)?;
        // Linux promises memory that it does not have, and kills the process that uses it.
        if available_memory().is_some_and(|available| bytes as u64 > available) {
            return Err(too_large().into());
        }
        let mut words = Vec::new();
        words.try_reserve_exact(bytes.div_ceil(8)).map_err(|_| too_large())?;
        words.resize(bytes.div_ceil(8), 0);
        Ok(Self { shape, dtype, words, bytes })
    }

    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.bytes]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.bytes]
    }

    /// The tensor as the CPU backend takes it.
    pub fn heads(&mut self, layout: Layout) -> Result<cpu::Heads<'_>> {
        let dtype = self.dtype;
        let bytes = self.bytes_mut();
        Ok(match dtype {
            Dtype::F32 => cpu::Heads::in_place::<f32>(bytemuck::cast_slice_mut(bytes), layout),
            Dtype::F16 => cpu::Heads::in_place::<f16>(bytemuck::cast_slice_mut(bytes), layout),
            Dtype::BF16 => cpu::Heads::in_place::<bf16>(bytemuck::cast_slice_mut(bytes), layout),
            other => return Err(format!("{} is not written to files", other.name()).into()),
        })
    }
}

/// Bytes, where the system says it: of the machine, or of the cgroup if that is less.
fn available_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let machine = machine.saturating_mul(1024);
    let cgroup = fs::read_to_string("/sys/fs/cgroup/memory.max");
    let cgroup: Option<u64> = cgroup.ok().and_then(|max| max.trim().parse().ok());
    Some(cgroup.map_or(machine, |max| max.min(machine)))
}

/// Token positions.
pub struct Ids {
    pub shape: Vec<usize>,
    pub values: Vec<i64>,
}

/// What a file holds.
pub struct Input {
    pub q: Option<Tensor>,
    pub k: Option<Tensor>,
    pub positions: Option<Ids>,
}

pub fn read(path: &Path) -> Result<Input> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = fs::read(path).map_err(|error| named(&error))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| named(&error))?;
    let tensor = |name: &str| -> Result<Option<Tensor>> {
        let Ok(view) = file.tensor(name) else { return Ok(None) };
        let dtype = match view.dtype() {
            Stored::F32 => Dtype::F32,
            Stored::F16 => Dtype::F16,
            Stored::BF16 => Dtype::BF16,
            other => {
                return Err(
                    named(&format!("{name} must be f32, f16 or bf16: given {other:?}")).into()
                );
            }
        };
        let mut tensor = Tensor::zeros(view.shape().to_vec(), dtype)?;
        tensor.bytes_mut().copy_from_slice(view.data());
        Ok(Some(tensor))
    };
    let positions = match file.tensor("positions") {
        Err(_) => None,
        Ok(view) => {
            let values = match view.dtype() {
                Stored::I64 => elements(view.data(), i64::from_le_bytes),
                Stored::I32 => elements(view.data(), |bytes| i32::from_le_bytes(bytes).into()),
                Stored::U32 => elements(view.data(), |bytes| u32::from_le_bytes(bytes).into()),
                other => {
                    let message = format!("positions must be i32, i64 or u32: given {other:?}");
                    return Err(named(&message).into());
                }
            };
            Some(Ids { shape: view.shape().to_vec(), values })
        }
    };
    let (q, k) = (tensor("q")?, tensor("k")?);
    if q.is_none() && k.is_none() {
        return Err(named(&"there is no tensor q and no tensor k").into());
    }
    Ok(Input { q, k, positions })
}

fn elements<const N: usize>(bytes: &[u8], read: fn([u8; N]) -> i64) -> Vec<i64> {
    bytes.as_chunks().0.iter().map(|&bytes| read(bytes)).collect()
}

/// Writes all tensors, or nothing: into a file of this process's own, which is then renamed.
pub fn write(path: &Path, tensors: &[(&str, &Tensor)]) -> Result<()> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let name = path.file_name().ok_or_else(|| named(&"not the name of a file"))?;
    let part = format!(".{}.{}.part", name.to_string_lossy(), std::process::id());
    let part = path.with_file_name(part);
    OpenOptions::new().write(true).create_new(true).open(&part).map_err(|e| named(&e))?;
    let written = safetensors::serialize_to_file(tensors.iter().copied(), None, &part);
    let written = written.map_err(|error| named(&error));
    written.and_then(|()| fs::rename(&part, path).map_err(|e| named(&e))).map_err(|error| {
        let _ = fs::remove_file(&part);
        error.into()
    })
}

impl View for &Tensor {
    fn dtype(&self) -> Stored {
        match self.dtype {
            Dtype::F16 => Stored::F16,
            Dtype::BF16 => Stored::BF16,
            _ => Stored::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.bytes())
    }

    fn data_len(&self) -> usize {
        self.bytes
    }
}
