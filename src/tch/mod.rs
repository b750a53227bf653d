//! tch (libtorch): reference flows in plain tensor operations, and fused rotation of tensors.
//!
//! The reference flows are what people run today: [`fastchat`] and [`hf_llama`], with the rounding
//! they do, and [`truth`] in f64. They are for tests and comparisons; nothing here is fast.
//!
//! [`rotate`] runs a rope on tensors where they lie.

mod reference;
mod rotate;

pub use reference::{fastchat, hf_llama, rotate_by_table, truth};
pub use rotate::rotate;
