//! The rotation as its definition says, in f64 and one number at a time.

pub mod tolerance;

use condensed_rope::{Frequencies, Pairing};

/// cos and sin of one pair at one position, and the error bound of working it out in f64.
#[derive(Clone, Copy, Debug)]
pub struct Angle {
    pub cos: f64,
    pub sin: f64,
    pub error: f64,
}

/// `inv_freq` in radians per position.
pub fn angle(inv_freq: f64, position: i64) -> Angle {
    let angle = position as f64 * inv_freq;
    // The frequency, the position and their product are each rounded once.
    Angle { cos: angle.cos(), sin: angle.sin(), error: angle.abs() * 3.0 * 2f64.powi(-53) }
}

/// All pairs' angles, each at its position, turned backwards where `inverse`.
pub fn angles(
    frequencies: &Frequencies,
    position: impl Fn(usize) -> i64,
    inverse: bool,
) -> Vec<Angle> {
    let sign = if inverse { -1.0 } else { 1.0 };
    let pairs = frequencies.inv_freq().enumerate();
    pairs.map(|(pair, inv_freq)| angle(sign * inv_freq, position(pair))).collect()
}

/// The channels of pair `j` of `pairs`, counted from the first rotated one.
pub fn channels(pairing: Pairing, pairs: usize, j: usize) -> [usize; 2] {
    match pairing {
        Pairing::HalfSplit => [j, j + pairs],
        Pairing::Interleaved => [2 * j, 2 * j + 1],
        _ => panic!("a pairing that the oracle does not know"),
    }
}

/// `(x, y)` rotated.
pub fn rotate(x: f64, y: f64, angle: Angle, factor: f64) -> [f64; 2] {
    let (cos, sin) = (angle.cos * factor, angle.sin * factor);
    [x * cos - y * sin, y * cos + x * sin]
}
