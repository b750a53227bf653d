//! Numbers of about 106 bits, as the sum of two f64: what it takes to round a phase step correctly.
//!
//! A step is 64 bits of a frequency, so f64 is not enough to make one. The algorithms are the
//! textbook error-free transformations (Dekker 1971; Hida, Li and Bailey 2001).

use std::f64::consts;

/// `high + low`, with `|low|` at most half a unit in the last place of `high`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct DoubleDouble {
    pub high: f64,
    pub low: f64,
}

/// 2π.
pub(super) const TAU: DoubleDouble =
    DoubleDouble { high: consts::TAU, low: 2.449_293_598_294_706_4e-16 };
const LN_2: DoubleDouble = DoubleDouble { high: consts::LN_2, low: 2.319_046_813_846_299_6e-17 };

/// The exact sum of two f64, rounded part first.
fn two_sum(a: f64, b: f64) -> DoubleDouble {
    let high = a + b;
    let from_b = high - a;
    DoubleDouble { high, low: (a - (high - from_b)) + (b - from_b) }
}

/// The same where `|a| >= |b|`.
fn quick_two_sum(a: f64, b: f64) -> DoubleDouble {
    let high = a + b;
    DoubleDouble { high, low: b - (high - a) }
}

impl From<f64> for DoubleDouble {
    fn from(high: f64) -> Self {
        Self { high, low: 0.0 }
    }
}

impl DoubleDouble {
    pub fn add(self, other: Self) -> Self {
        let high = two_sum(self.high, other.high);
        let low = two_sum(self.low, other.low);
        let sum = quick_two_sum(high.high, high.low + low.high);
        quick_two_sum(sum.high, sum.low + low.low)
    }

    pub fn mul(self, other: Self) -> Self {
        let high = self.high * other.high;
        let error = self.high.mul_add(other.high, -high);
        let cross = self.high.mul_add(other.low, self.low * other.high);
        quick_two_sum(high, error + cross)
    }

    pub fn div(self, other: Self) -> Self {
        // Long division: each quotient digit is an f64, each remainder exact enough for the next.
        let first = self.high / other.high;
        let rest = self.add(other.mul((-first).into()));
        let second = rest.high / other.high;
        let rest = rest.add(other.mul((-second).into()));
        let third = rest.high / other.high;
        quick_two_sum(first, second).add(third.into())
    }

    pub fn negated(self) -> Self {
        Self { high: -self.high, low: -self.low }
    }

    fn scale(self, power_of_two: f64) -> Self {
        Self { high: self.high * power_of_two, low: self.low * power_of_two }
    }

    /// e to the self. Exact to 2^-100 where neither the result nor its low part is subnormal.
    pub fn exp(self) -> Self {
        // self = n ln 2 + 2^9 r, so that a short Taylor series and nine squarings do.
        const SQUARINGS: i32 = 9;
        let n = (self.high / consts::LN_2).round();
        let r = self.add(LN_2.mul((-n).into())).scale(0.5f64.powi(SQUARINGS));
        // expm1(r), |r| < 7e-4: the twelfth term is below 2^-150.
        let (mut sum, mut term) = (Self::from(0.0), Self::from(1.0));
        for k in 1..=12 {
            term = term.mul(r).div(f64::from(k).into());
            sum = sum.add(term);
        }
        // expm1 doubles its argument without losing small values: m -> m (2 + m).
        for _ in 0..SQUARINGS {
            sum = sum.mul(sum.add(2.0.into()));
        }
        sum.add(1.0.into()).scale(2f64.powi(n as i32))
    }

    /// The natural logarithm of a normal number above zero.
    pub fn ln(self) -> Self {
        // Two Newton steps on exp(y) = self, from f64's own logarithm.
        let mut y = Self::from(self.high.ln());
        for _ in 0..2 {
            let ratio = self.mul(y.negated().exp());
            y = y.add(ratio.add((-1.0).into()));
        }
        y
    }

    /// The fraction of a turn, to the nearest 2^-64, of `self` turns. Wraps; `|self| < 2^53`.
    pub fn turns_to_phase(self) -> u64 {
        let fraction = quick_two_sum(self.high - self.high.round(), self.low);
        let scaled = fraction.scale(18_446_744_073_709_551_616.0);
        // Both parts are now whole or small enough for i128; the tie cannot matter at 106 bits.
        let whole = scaled.high.floor();
        let rest = (scaled.high - whole) + scaled.low;
        (whole as i128).wrapping_add(rest.round() as i128) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: DoubleDouble, b: DoubleDouble) {
        let error = (a.high - b.high) + (a.low - b.low);
        // 2^-100: six bits of rounding in the longest chain, exp's squarings.
        assert!((error / b.high).abs() < 2f64.powi(-100), "{a:?} is not {b:?}: off by {error:e}");
    }

    #[test]
    fn exp_and_ln_undo_each_other() {
        for x in [1e-200, 1e-9, 0.3, 0.999_999, 1.0, 1.5, 2.0, 10_000.0, 5e5, 1e6, 1e200] {
            close(DoubleDouble::from(x).ln().exp(), x.into());
        }
    }

    #[test]
    fn powers_of_ten_are_exact() {
        // ln(10^n) = n ln 10.
        let ln_10 = DoubleDouble::from(10.0).ln();
        for n in 1..=20 {
            close(DoubleDouble::from(10f64.powi(n)).ln(), ln_10.mul(f64::from(n).into()));
        }
    }

    #[test]
    fn division_undoes_multiplication() {
        for (a, b) in [(1.0, 3.0), (std::f64::consts::PI, 8.0), (1e-9, 7e8), (-5.0, 0.1)] {
            let b = DoubleDouble::from(b);
            close(DoubleDouble::from(a).div(b).mul(b), a.into());
        }
    }

    #[test]
    fn phases_wrap_and_round() {
        let phase = |high: f64, low: f64| DoubleDouble { high, low }.turns_to_phase();
        assert_eq!(phase(0.0, 0.0), 0);
        assert_eq!(phase(0.25, 0.0), 1 << 62);
        assert_eq!(phase(1.25, 0.0), 1 << 62);
        assert_eq!(phase(-0.25, 0.0), 3 << 62);
        assert_eq!(phase(1.0, -0.5f64.powi(64)), u64::MAX);
        assert_eq!(phase(1.0, -0.5f64.powi(66)), 0);
        assert_eq!(phase(0.5f64.powi(64), 0.0), 1);
        assert_eq!(phase(-0.5f64.powi(64), 0.0), u64::MAX);
    }
}
