//! Turns in, cosine and sine out: `kernels/phase.cuh`, operation for operation, and bit for bit.

/// Cosine and sine of `phase`, in units of 2^-64 turns.
#[inline(always)]
pub(super) fn cos_sin(phase: u64) -> (f32, f32) {
    let turns = (phase >> 32) as u32;
    // Bits 31 and 30 are the nearest quadrant, the other 30 bits of `turns` the distance to it.
    let nearest = turns.wrapping_add(0x2000_0000);
    let rest = (turns << 2) as i32;
    let u = rest as f32 * (1.0 / 4_294_967_296.0); // quarter turns, in [-1/2, 1/2]

    // The coefficients are explained where the kernel has them.
    let v = u * u;
    let s = v.mul_add(-0.004_622_953, 0.079_689_88);
    let s = v.mul_add(s, -0.645_964_8);
    let s = u.mul_add(std::f32::consts::FRAC_PI_2, (u * v) * s);
    let c = v.mul_add(0.000_893_572_5, -0.020_855_254);
    let c = v.mul_add(c, 0.253_668_52);
    let c = v.mul_add(c, -1.233_700_5);
    let c = v.mul_add(c, 1.0);

    let odd = nearest & 0x4000_0000 != 0;
    let (cos, sin) = if odd { (s, c) } else { (c, s) };
    let sin_sign = nearest & 0x8000_0000;
    let cos_sign = nearest.wrapping_add(0x4000_0000) & 0x8000_0000;
    (f32::from_bits(cos.to_bits() ^ cos_sign), f32::from_bits(sin.to_bits() ^ sin_sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sweep of the whole turn, both sides of each quadrant's edges, and the worst of all phases
    /// (found by going through every one of them once).
    #[test]
    fn cos_and_sin_are_within_7e_8_all_around() {
        let edges = (0..8).flat_map(|eighth: u64| {
            (0..2048).map(move |i| (eighth << 61).wrapping_add(i << 32).wrapping_sub(1024 << 32))
        });
        let sweep = (0..1u64 << 22).map(|i| i << 42);
        let mut worst = 0.0f64;
        for phase in sweep.chain(edges).chain([0xe007_5a50 << 32]) {
            let angle = (phase as f64 / 2f64.powi(64)) * std::f64::consts::TAU;
            let (cos, sin) = cos_sin(phase);
            let error =
                (f64::from(cos) - angle.cos()).abs().max((f64::from(sin) - angle.sin()).abs());
            assert!(error < 7e-8, "{error:e} at {phase:#x}");
            worst = worst.max(error);
        }
        println!("largest error of cos and sin: {worst:e}");
    }

    #[test]
    fn quarter_turns_are_exact() {
        let exact = [0, 1, 2, 3].map(|q| cos_sin(q << 62));
        assert_eq!(exact, [(1.0, 0.0), (-0.0, 1.0), (-1.0, -0.0), (0.0, -1.0)]);
    }
}
