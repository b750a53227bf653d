//! How far a result may be from the exact one. The only place that says so.

use condensed_rope::Dtype;

/// Largest error of cos and sin that the crate promises, at any position.
pub const COS_SIN: f64 = 1e-7;

/// Half a unit in the last place of 1.0: the relative error of one rounding.
pub fn unit_roundoff(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 2f64.powi(-24),
        Dtype::F16 => 2f64.powi(-11),
        Dtype::BF16 => 2f64.powi(-8),
        _ => panic!("a type that the oracle does not know"),
    }
}

/// Half the distance between the smallest numbers of the type.
fn underflow(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 | Dtype::BF16 => 2f64.powi(-134),
        Dtype::F16 => 2f64.powi(-25),
        _ => panic!("a type that the oracle does not know"),
    }
}

/// The exact value `exact` of `value`, stored as `dtype` after an error of at most `before`.
pub fn stored(dtype: Dtype, exact: f64, before: f64) -> f64 {
    before + (exact.abs() + before) * unit_roundoff(dtype) + underflow(dtype)
}

/// A rotated channel: `x cos - y sin` with cos and sin off by `cos_sin`, a product and an fma in
/// f32, and one rounding to `dtype`. `size` is `(|x| + |y|) * |factor|`.
pub fn rotated(dtype: Dtype, exact: f64, size: f64, cos_sin: f64) -> f64 {
    // The factor's product, y * sin, and the fma: three roundings of at most `size`.
    let arithmetic = 3.0 * unit_roundoff(Dtype::F32) * size;
    stored(dtype, exact, size * cos_sin + arithmetic)
}
