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

/// The relative error of a normalised channel before it is rounded. The sum of `dim` squares is a tree: a pair's two
/// roundings and one a level. Then the mean (two and the epsilon's), its root and reciprocal (both halve or keep what came
/// before), and two products; and `1 / dim` and a weight's unit, each rounded.
pub fn norm(dim: usize) -> f64 {
    let levels = (dim.max(2) / 2).next_power_of_two().ilog2();
    (f64::from(levels + 2 + 3) / 2.0 + 6.0) * unit_roundoff(Dtype::F32)
}
