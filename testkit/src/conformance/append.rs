//! Norm, rotation and append.

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::Backend;
use crate::append::{check, random};

/// Everything at random: shapes, strides, types, targets, norms, caches, slots, positions.
pub fn random_calls(backend: &impl Backend) {
    let mut rng = StdRng::seed_from_u64(16);
    for _ in 0..1500 {
        check(backend, &random(&mut rng));
    }
}
