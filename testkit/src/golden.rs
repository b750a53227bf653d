//! Golden files: what other people's code gave, by `tests/golden/make.py`, `axes.py` and `norms.py`.

use condensed_rope::Dtype;
use half::{bf16, f16};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::call::TestElement;

/// One golden file, in memory.
pub struct Golden(&'static [u8]);

pub const FASTCHAT: Golden = Golden(include_bytes!("../../tests/golden/fastchat.safetensors"));
pub const LLAMA: Golden = Golden(include_bytes!("../../tests/golden/llama.safetensors"));
pub const MODELS: Golden = Golden(include_bytes!("../../tests/golden/models.safetensors"));
pub const EXACT: Golden = Golden(include_bytes!("../../tests/golden/exact.safetensors"));
pub const NORMS: Golden = Golden(include_bytes!("../../tests/golden/norms.safetensors"));
pub const AXES: Golden = Golden(include_bytes!("../../tests/golden/axes.safetensors"));

impl Golden {
    fn file(&self) -> SafeTensors<'static> {
        SafeTensors::deserialize(self.0).expect("a golden file")
    }

    fn metadata(&self, key: &str) -> Value {
        let (_, header) = SafeTensors::read_metadata(self.0).expect("a golden file");
        let text = &header.metadata().as_ref().expect("metadata")[key];
        serde_json::from_str(text).expect("JSON")
    }

    /// The cases' descriptions.
    pub fn cases(&self) -> Vec<Value> {
        self.metadata("cases").as_array().expect("an array").clone()
    }

    pub fn positions(&self) -> Vec<i64> {
        self.metadata("positions")
            .as_array()
            .expect("an array")
            .iter()
            .map(|p| p.as_i64().expect("i64"))
            .collect()
    }

    /// Raw elements of `case<i>.<name>`, each made of `N` little-endian bytes.
    fn elements<const N: usize>(&self, case: usize, name: &str) -> Vec<[u8; N]> {
        self.named(&format!("case{case}.{name}"))
    }

    fn named<const N: usize>(&self, name: &str) -> Vec<[u8; N]> {
        let file = self.file();
        let tensor = file.tensor(name).expect("a tensor of that name");
        let (elements, rest) = tensor.data().as_chunks::<N>();
        assert!(rest.is_empty());
        elements.to_vec()
    }

    pub fn i64s(&self, case: usize, name: &str) -> Vec<i64> {
        self.elements(case, name).into_iter().map(i64::from_le_bytes).collect()
    }

    pub fn f64s(&self, case: usize, name: &str) -> Vec<f64> {
        self.elements(case, name).into_iter().map(f64::from_le_bytes).collect()
    }

    pub fn f32s(&self, case: usize, name: &str) -> Vec<f32> {
        self.elements(case, name).into_iter().map(f32::from_le_bytes).collect()
    }

    /// Tensors that are of no case.
    pub fn named_i64s(&self, name: &str) -> Vec<i64> {
        self.named(name).into_iter().map(i64::from_le_bytes).collect()
    }

    pub fn named_f32s(&self, name: &str) -> Vec<f32> {
        self.named(name).into_iter().map(f32::from_le_bytes).collect()
    }

    pub fn has(&self, case: usize, name: &str) -> bool {
        self.file().tensor(&format!("case{case}.{name}")).is_ok()
    }

    /// Elements of the type the case was made in.
    pub fn values<T: Stored>(&self, case: usize, name: &str) -> Vec<T> {
        T::read(self, case, name)
    }
}

/// A type that golden tensors come in.
pub trait Stored: TestElement {
    fn read(golden: &Golden, case: usize, name: &str) -> Vec<Self>;
}
impl Stored for f32 {
    fn read(golden: &Golden, case: usize, name: &str) -> Vec<Self> {
        golden.f32s(case, name)
    }
}
impl Stored for f16 {
    fn read(golden: &Golden, case: usize, name: &str) -> Vec<Self> {
        golden.elements(case, name).into_iter().map(Self::from_le_bytes).collect()
    }
}
impl Stored for bf16 {
    fn read(golden: &Golden, case: usize, name: &str) -> Vec<Self> {
        golden.elements(case, name).into_iter().map(Self::from_le_bytes).collect()
    }
}

pub fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().expect("a number")
}

pub fn size(case: &Value, key: &str) -> usize {
    case[key].as_u64().expect("a size") as usize
}

pub fn dtype(case: &Value) -> Dtype {
    match case["dtype"].as_str() {
        Some("float32") => Dtype::F32,
        Some("float16") => Dtype::F16,
        Some("bfloat16") => Dtype::BF16,
        other => panic!("no such element type: {other:?}"),
    }
}

/// How far an angle worked out in f32 may be from the exact one: the position's quotient, the power
/// (two roundings' worth), its reciprocal and the product, each rounded.
pub fn f32_angle_error(angle: f64) -> f64 {
    angle.abs() * 5.0 * 2f64.powi(-24)
}

/// Calls `$run::<T>($($argument),*)` with the type that `$dtype` names.
#[macro_export]
macro_rules! with_dtype {
    ($dtype:expr, $run:ident($($argument:expr),*)) => {
        match $dtype {
            ::condensed_rope::Dtype::F32 => $run::<f32>($($argument),*),
            ::condensed_rope::Dtype::F16 => $run::<::half::f16>($($argument),*),
            ::condensed_rope::Dtype::BF16 => $run::<::half::bf16>($($argument),*),
            other => panic!("a type that the tests do not know: {other:?}"),
        }
    };
}
