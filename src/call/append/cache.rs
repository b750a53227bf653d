//! Caches of keys and values: their layouts, element types and scales.

use super::memory::{Lower, Memory, Raw};
use crate::{Dtype, Layout, Result};

/// What a number is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stored {
    /// An element of query and key.
    Element(Dtype),
    /// 8-bit float of 4 exponent and 3 mantissa bits, up to 448, without infinities: OCP's E4M3, NVIDIA's `e4m3`.
    Fp8E4M3,
    /// 8-bit float of 5 exponent and 2 mantissa bits, up to 57344: OCP's E5M2, NVIDIA's `e5m2`.
    Fp8E5M2,
}

impl Stored {
    /// Bytes of one.
    pub const fn size(self) -> usize {
        match self {
            Self::Element(dtype) => dtype.size(),
            Self::Fp8E4M3 | Self::Fp8E5M2 => 1,
        }
    }

    /// `"bf16"`, say, or `"fp8_e4m3"`, `"fp8_e5m2"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Element(dtype) => dtype.name(),
            Self::Fp8E4M3 => "fp8_e4m3",
            Self::Fp8E5M2 => "fp8_e5m2",
        }
    }

    /// Bits of the nearest 8-bit float, of two the even one; beyond the largest, infinity too, that one; of a NaN 0x7f. By
    /// E4M3 where this is no 8-bit float.
    pub fn narrow(self, value: f32) -> u8 {
        // `kernels/fp8.cuh` has the same bits.
        // Mantissa bits of f32 that go, what its exponent exceeds the format's by, bits from which on a number is as
        // good as infinite, and the largest number.
        let (shift, bias, over, largest): (u32, u32, u32, u32) = match self {
            Self::Fp8E5M2 => (21, 112, 0x4770_0000, 0x7b),
            _ => (20, 120, 0x43e8_0000, 0x7e),
        };
        let sign = (value.to_bits() >> 24) & 0x80;
        let magnitude = value.to_bits() & 0x7fff_ffff;
        let odd = (magnitude >> shift) & 1;
        let rounded = magnitude.wrapping_sub(bias << 23).wrapping_add((1 << (shift - 1)) - 1 + odd);
        let units = (bias + 1 + shift) << 23;
        let small =
            (f32::from_bits(magnitude) + f32::from_bits(units)).to_bits().wrapping_sub(units);
        let bits = if magnitude < (bias + 1) << 23 { small } else { rounded >> shift };
        let bits = sign | if magnitude >= over { largest } else { bits };
        if magnitude > 0x7f80_0000 { 0x7f } else { bits as u8 }
    }
}

impl From<Dtype> for Stored {
    fn from(dtype: Dtype) -> Self {
        Self::Element(dtype)
    }
}

/// Where a cache has the heads of a slot: slot `s` is entry `s % page_size` of page `s / page_size`. Channels are
/// contiguous; pages, entries and heads have strides, in elements of the cache.
///
/// ```
/// use condensed_rope::KvLayout;
///
/// // [pages, 16, 8, 128] and [pages, 8, 16, 128].
/// let nhd = KvLayout::nhd(100, 16, 8, 128);
/// let hnd = KvLayout::hnd(100, 16, 8, 128);
/// assert_eq!(nhd.strides(), [16 * 8 * 128, 8 * 128, 128]);
/// assert_eq!(hnd.strides(), [16 * 8 * 128, 128, 16 * 128]);
///
/// // K and V of a slot side by side: [pages, 8, 16, 256].
/// let strides = [8 * 16 * 256, 256, 16 * 256];
/// let k = KvLayout::hnd(100, 16, 8, 128).with_strides(strides);
/// let v = k.at(128);
///
/// // MLA: rows of 576, whose first 512 channels are the latent and the others the rotated key.
/// let latent = KvLayout::flat(1600, 1, 512).with_strides([576, 576, 0]);
/// let key = KvLayout::flat(1600, 1, 64).with_strides([576, 576, 0]).at(512);
/// # let _ = (v, latent, key);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvLayout(pub(crate) Layout);

impl KvLayout {
    /// Contiguous `[pages, page_size, heads, head_dim]`.
    pub const fn nhd(pages: usize, page_size: usize, heads: usize, head_dim: usize) -> Self {
        Self(Layout::bshd(pages, page_size, heads, head_dim))
    }

    /// Contiguous `[pages, heads, page_size, head_dim]`.
    pub const fn hnd(pages: usize, page_size: usize, heads: usize, head_dim: usize) -> Self {
        Self(Layout::bhsd(pages, heads, page_size, head_dim))
    }

    /// Contiguous `[slots, heads, head_dim]`: pages of one slot.
    pub const fn flat(slots: usize, heads: usize, head_dim: usize) -> Self {
        Self::nhd(slots, 1, heads, head_dim)
    }

    /// The same shape with strides of page, entry and head.
    pub const fn with_strides(self, strides: [usize; 3]) -> Self {
        Self(self.0.with_strides(strides))
    }

    /// The same view, starting at element `offset` of its buffer.
    pub const fn at(self, offset: usize) -> Self {
        Self(self.0.at(offset))
    }

    /// `[pages, page_size, heads, head_dim]`.
    pub const fn shape(&self) -> [usize; 4] {
        self.0.shape()
    }

    /// Strides of page, entry and head, in elements.
    pub const fn strides(&self) -> [usize; 3] {
        self.0.strides()
    }

    /// The element of the buffer where the view starts.
    pub const fn offset(&self) -> usize {
        self.0.offset()
    }
}

/// What 8-bit floats are multiplied by to be the numbers they stand for, as attention does. Other elements have none.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Scale<T> {
    /// One for all. A graph that captured the call keeps it.
    Value(f32),
    /// In memory, `f32`: one for all, or one a head. Read by each launch; what they are is not checked.
    Tensor(T),
}

impl<T> Scale<T> {
    /// One, by value.
    pub const ONE: Self = Self::Value(1.0);
}

/// A cache of keys and values, in memory apart or in one.
#[derive(Debug)]
pub struct KvCache<M: Memory> {
    pub(crate) keys: M::Buffer,
    /// `None`: where the keys are.
    pub(crate) values: Option<M::Buffer>,
    pub(crate) layouts: [Option<KvLayout>; 2],
    pub(crate) scales: [Scale<M::Tensor>; 2],
}

impl<M: Memory> KvCache<M> {
    /// Keys and values in buffers of their own.
    pub fn new(
        keys: impl Into<M::Buffer>,
        key_layout: KvLayout,
        values: impl Into<M::Buffer>,
        value_layout: KvLayout,
    ) -> Self {
        let layouts = [Some(key_layout), Some(value_layout)];
        Self { values: Some(values.into()), layouts, ..Self::keys(keys, key_layout) }
    }

    /// Keys and values as views of one buffer.
    pub fn shared(
        buffer: impl Into<M::Buffer>,
        key_layout: KvLayout,
        value_layout: KvLayout,
    ) -> Self {
        Self { layouts: [Some(key_layout), Some(value_layout)], ..Self::keys(buffer, key_layout) }
    }

    /// Keys alone.
    pub fn keys(keys: impl Into<M::Buffer>, layout: KvLayout) -> Self {
        let (keys, scales) = (keys.into(), [Scale::ONE, Scale::ONE]);
        Self { keys, values: None, layouts: [Some(layout), None], scales }
    }

    /// The same with the scales of keys and values, for 8-bit floats: stored is the number, rounded to the element type
    /// first, times the reciprocal of its scale.
    pub fn with_scales(self, keys: Scale<M::Tensor>, values: Scale<M::Tensor>) -> Self {
        Self { scales: [keys, values], ..self }
    }

    pub(crate) fn lower<'a>(&'a mut self, by: &mut impl Lower<'a, M>) -> Result<KvCache<Raw>> {
        let [k, v] = &self.scales;
        Ok(KvCache {
            keys: by.buffer("key cache", &mut self.keys)?,
            values: self
                .values
                .as_mut()
                .map(|values| by.buffer("value cache", values))
                .transpose()?,
            layouts: self.layouts,
            scales: [k.lower("key scale", by)?, v.lower("value scale", by)?],
        })
    }
}

impl<T> Scale<T> {
    pub(crate) fn lower<'a, M: Memory<Tensor = T>>(
        &'a self,
        name: &'static str,
        by: &mut impl Lower<'a, M>,
    ) -> Result<Scale<super::RawTensor>> {
        Ok(match self {
            Self::Value(value) => Scale::Value(*value),
            Self::Tensor(tensor) => Scale::Tensor(by.tensor(name, tensor)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(stored: Stored, bits: u8) -> f64 {
        let (mantissa, bias) = if stored == Stored::Fp8E4M3 { (3, 7) } else { (2, 15) };
        let fraction = f64::from(bits & ((1 << mantissa) - 1)) / f64::from(1 << mantissa);
        let exponent = i32::from((bits & 0x7f) >> mantissa);
        let magnitude = match exponent {
            0 => fraction * 2f64.powi(1 - bias),
            _ => (1.0 + fraction) * 2f64.powi(exponent - bias),
        };
        if bits & 0x80 == 0 { magnitude } else { -magnitude }
    }

    /// By definition: every number of the format, every midpoint and its neighbours, and what lies beyond.
    #[test]
    fn fp8_is_the_nearest_of_its_format() {
        for (stored, largest) in [(Stored::Fp8E4M3, 0x7e_u8), (Stored::Fp8E5M2, 0x7b)] {
            let narrow = |value: f32| stored.narrow(value);
            for sign in [0, 0x80] {
                for bits in 0..=largest {
                    let this = value(stored, bits | sign);
                    assert_eq!(narrow(this as f32), bits | sign, "{this}");
                    if bits == largest {
                        continue;
                    }
                    let next = value(stored, (bits + 1) | sign);
                    // Exact: two bits more than either has.
                    let middle = ((this + next) / 2.0) as f32;
                    let even = bits + (bits & 1);
                    assert_eq!(narrow(middle), even | sign, "{middle}");
                    let [nearer, further] = [-1i32, 1]
                        .map(|step| f32::from_bits(middle.to_bits().wrapping_add_signed(step)));
                    assert_eq!(narrow(nearer), bits | sign, "{nearer}");
                    assert_eq!(narrow(further), (bits + 1) | sign, "{further}");
                }
                let signed = |value: f32| if sign == 0 { value } else { -value };
                for beyond in [1e5, 1e30, f32::MAX, f32::INFINITY] {
                    assert_eq!(narrow(signed(beyond)), largest | sign);
                }
                assert_eq!(narrow(f32::from_bits(0x7fc0_0000 | u32::from(sign) << 24)), 0x7f);
                assert_eq!(narrow(f32::from_bits(0x7f80_0001 | u32::from(sign) << 24)), 0x7f);
            }
        }
    }
}
