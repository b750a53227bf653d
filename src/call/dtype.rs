use half::{bf16, f16};

use crate::{Error, Result};

/// Storage type of query and key. Arithmetic is f32 whatever the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
}

impl Dtype {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// `"f32"`, `"f16"` or `"bf16"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }

    /// By DLPack's codes: 2 is an IEEE float, 4 a bfloat; `tensor` is named in the error.
    ///
    /// # Errors
    /// [`Error::Dtype`] for every other type.
    pub fn from_dlpack(tensor: &'static str, code: u8, bits: u8) -> Result<Self> {
        match (code, bits) {
            (2, 32) => Ok(Self::F32),
            (2, 16) => Ok(Self::F16),
            (4, 16) => Ok(Self::BF16),
            _ => Err(Error::Dtype {
                tensor,
                expected: "f32, f16 or bf16",
                given: format!("DLPack type {code} of {bits} bits"),
            }),
        }
    }
}

/// Type of position ids, starts and choices of sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IndexType {
    /// 32 bits, signed.
    I32,
    /// 64 bits, signed.
    I64,
    /// 32 bits, unsigned.
    U32,
}

impl IndexType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::I32, Self::I64, Self::U32];

    /// Bytes of one index.
    pub const fn size(self) -> usize {
        match self {
            Self::I32 | Self::U32 => 4,
            Self::I64 => 8,
        }
    }

    /// `"i32"`, `"i64"` or `"u32"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U32 => "u32",
        }
    }

    /// By DLPack's codes: 0 is signed, 1 unsigned; `tensor` is named in the error.
    ///
    /// # Errors
    /// [`Error::Dtype`] for every other type.
    pub fn from_dlpack(tensor: &'static str, code: u8, bits: u8) -> Result<Self> {
        match (code, bits) {
            (0, 32) => Ok(Self::I32),
            (0, 64) => Ok(Self::I64),
            (1, 32) => Ok(Self::U32),
            _ => Err(Error::Dtype {
                tensor,
                expected: "i32, i64 or u32",
                given: format!("DLPack type {code} of {bits} bits"),
            }),
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// An element of query and key: `f32`, [`half::f16`] or [`half::bf16`].
///
/// Sealed: the kernels exist for these three.
pub trait Element: sealed::Sealed + Copy + Default + Send + Sync + 'static {
    /// The type's run-time name.
    const DTYPE: Dtype;
    /// The exact value. Written without branches, so that a loop of them vectorises.
    fn widen(self) -> f32;
    /// The nearest value, ties to even; a NaN becomes the canonical one, as on the GPU.
    fn narrow(value: f32) -> Self;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let canonical = Self::from_bits(0x7fff_ffff);
        if value.is_nan() { canonical } else { value }
    }
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::BF16;
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        // The canonical NaN rounds to itself; chosen before, at full width: behind, it cost 8 to 28 % (AVX2).
        let bits = if value.is_nan() { 0x7fff_0000 } else { value.to_bits() };
        Self::from_bits((bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16)
    }
}

impl Element for f16 {
    const DTYPE: Dtype = Dtype::F16;
    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let sign = (bits & 0x8000) << 16;
        let magnitude = (bits & 0x7fff) << 13;
        // 2^112 moves the exponent's bias from 15 to 127, subnormals included.
        let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
        let special = bits & 0x7c00 == 0x7c00;
        f32::from_bits(sign | if special { magnitude | 0x7f80_0000 } else { scaled })
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let sign = (value.to_bits() >> 16) & 0x8000;
        let magnitude = value.to_bits() & 0x7fff_ffff;
        let odd = (magnitude >> 13) & 1;
        let normal = magnitude.wrapping_sub(0x3800_0000).wrapping_add(0xfff + odd) >> 13;
        // Below 2^-14, in units of 2^-24: adding one half rounds there.
        let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
        let mut bits = if magnitude < 0x3880_0000 { small } else { normal };
        bits = if magnitude >= 0x477f_f000 { 0x7c00 } else { bits };
        bits = if magnitude > 0x7f80_0000 { 0x7fff } else { bits | sign };
        Self::from_bits(bits as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_widens_as_half_does() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            let (ours, theirs) = (value.widen(), f32::from(value));
            assert!(
                ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                "{bits:#x}"
            );
        }
    }

    /// Every f16 and bf16 value, the midpoint above it and that midpoint's neighbours.
    #[test]
    fn narrowing_rounds_as_half_does() {
        for bits in 0..=u16::MAX {
            for value in [f16::from_bits(bits).to_f32(), bf16::from_bits(bits).to_f32()] {
                for step in [0, 0x7fff, 0x8000, 0x8001, 0xfff, 0x1000, 0x1001] {
                    let value = f32::from_bits(value.to_bits().wrapping_add(step));
                    if value.is_nan() {
                        assert_eq!(f16::narrow(value).to_bits(), 0x7fff);
                        assert_eq!(bf16::narrow(value).to_bits(), 0x7fff);
                        assert_eq!(f32::narrow(value).to_bits(), 0x7fff_ffff);
                    } else {
                        assert_eq!(
                            f16::narrow(value).to_bits(),
                            f16::from_f32(value).to_bits(),
                            "{value:e}"
                        );
                        assert_eq!(
                            bf16::narrow(value).to_bits(),
                            bf16::from_f32(value).to_bits(),
                            "{value:e}"
                        );
                    }
                }
            }
        }
    }
}
