//! The kernels' parameters: the structs of `kernels/params/`, field for field. The tests compare names,
//! offsets and sizes with those of the C++ ones.

use crate::call::IdStrides;
use crate::{Address, Dtype, IndexType, Layout, Pdl, RawIds, Sections};

/// A field that crosses to C++: its name, offset and size.
pub type Field = (&'static str, usize, usize);

/// `repr(C)` structs, and lists of their fields.
macro_rules! abi {
    ($(
        $(#[$attribute:meta])*
        pub struct $name:ident {
            $($(#[$field_attribute:meta])* pub $field:ident: $type:ty,)+
        }
    )+) => {
        $(
            $(#[$attribute])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default, PartialEq)]
            pub struct $name {
                $($(#[$field_attribute])* pub $field: $type,)+
            }
        )+

        /// Every struct that crosses to C++: its name, size and fields.
        pub const STRUCTS: &[(&str, usize, &[Field])] = &[$((
            stringify!($name),
            size_of::<$name>(),
            &[$((
                stringify!($field),
                std::mem::offset_of!($name, $field),
                size_of::<$type>(),
            )),+],
        )),+];
    };
}

abi! {
    /// The rows of a tensor, from the first rotated channel of the first one on; strides are bytes.
    pub struct Rows {
        pub first: Address,
        pub batch: i64,
        pub token: i64,
        pub head: i64,
    }

    /// The same of tokens in one run.
    pub struct FlatRows {
        pub first: Address,
        pub token: u32,
        pub head: u32,
    }

    /// Channels on either side of the rotated ones that a rotation out of place copies.
    pub struct PassThrough {
        pub before: u32,
        pub after: u32,
    }

    /// A list of `i32`, `i64` or `u32`.
    pub struct Ids {
        pub first: Address,
        /// Bytes from one to the next.
        pub stride: u32,
        /// Bytes from an id's lower word to its upper one, and a selector.
        pub upper: u32,
    }

    /// Where a token's position comes from.
    pub struct TokenPositions {
        pub ids: Ids,
        /// Bytes from one sequence's ids to the next one's.
        pub row_stride: u64,
        pub start: i64,
        pub cu_seqlens: Address,
        pub sequences: u32,
        pub counts: u32,
    }

    /// How pairs choose among several positions a token.
    pub struct Axes {
        /// 0 where there is one position a token.
        pub count: u32,
        pub reserved: u32,
        /// Bytes from the first axis' ids to the others'; 0 of axes that there are not.
        pub second: u64,
        pub third: u64,
        /// Two bits a pair.
        pub codes: [u32; Sections::WORDS],
        pub fourth: u64,
    }

    /// How sequences choose among sets of frequencies.
    pub struct FrequencySets {
        /// Null: no choice.
        pub ids: Ids,
        pub stride: u32,
        pub last: u32,
    }

    /// Division by a number that the host knows.
    pub struct Divisor {
        pub value: u32,
        pub multiplier: u32,
        pub shift: u32,
    }

    /// Of the rotation in place of one run of tokens.
    pub struct FlatParams {
        pub first: [Address; 2],
        /// Bytes, of q and of k, from one token and from one head to the next.
        pub token: [u32; 2],
        pub head: [u32; 2],
        pub end: [u16; 2],
        pub q_slices: u16,
        pub partner: u16,
        pub heads_per_block: u16,
        pub tokens_per_block: u16,
        pub load_hint: u32,
        pub tokens: u32,
        pub counts: u32,
        pub steps: Address,
        pub ids: Ids,
        pub start: i64,
        pub cos_factor: f32,
        pub sin_factor: f32,
        pub store_hint: u32,
        pub heads_per_round: u32,
    }

    /// Of any other rotation.
    pub struct RotateParams {
        pub steps: Address,
        pub seq: Divisor,
        pub tokens: u32,
        pub pair_stride: u16,
        pub partner: u16,
        pub pdl: Pdl,
        pub load_hint: u32,
        pub heads_per_block: u32,
        pub tokens_per_block: u16,
        pub q_slices: u16,
        pub heads: [u16; 2],
        pub src: [Rows; 2],
        pub positions: TokenPositions,
        pub cos_factor: f32,
        pub sin_factor: f32,
        pub store_hint: u32,
        pub in_place: [u16; 2],
        pub sets: FrequencySets,
        pub axes: Axes,
        pub starts: Ids,
        pub dst: [Rows; 2],
        pub pass_through: [PassThrough; 2],
        pub pairs: u32,
        pub reserved: u32,
    }

    /// Which pairs a head has.
    pub struct HeadShape {
        pub before: u16,
        pub pairs: u16,
        pub rest: u16,
        pub reserved: u16,
    }

    /// A cache of one of k and v; strides are bytes.
    pub struct KvPages {
        pub first: Address,
        pub page: i64,
        pub slot: i64,
        pub head: i64,
    }

    /// The same where strides fit 32 bits.
    pub struct FlatKvPages {
        pub first: Address,
        pub page: u32,
        pub slot: u32,
        pub head: u32,
        pub reserved: u32,
    }

    /// The reciprocal of a scale, or scales in memory.
    pub struct Scale {
        /// Null: the reciprocal holds.
        pub first: Address,
        pub stride: u32,
        pub reciprocal: f32,
    }

    /// Where tokens are stored.
    pub struct SlotMapping {
        pub ids: Ids,
        pub first: u32,
        pub count: u32,
        pub tokens: u32,
        pub page_size: Divisor,
    }

    /// Where tokens are stored, by rows of pages.
    pub struct PageTable {
        pub row_stride: u64,
        /// 0 where there is no table.
        pub width: u32,
        pub reserved: u32,
    }

    /// Of norm, rotation and append of one run of tokens.
    pub struct FlatAppendParams {
        pub tokens: u32,
        pub pairs: u16,
        pub value_pairs: u16,
        pub heads: [u16; 3],
        pub q_slices: u16,
        pub k_slices: u16,
        pub heads_per_block: u16,
        pub tokens_per_block: u16,
        pub normalised: [u8; 2],
        pub key_target: u8,
        pub storage: [u8; 3],
        pub load_hint: [u32; 2],
        pub counts: u16,
        pub waits: u16,
        pub src: [FlatRows; 3],
        pub ids: Ids,
        pub start: i64,
        pub steps: Address,
        pub cos_factor: f32,
        pub sin_factor: f32,
        pub slots: SlotMapping,
        pub store_hint: u32,
        pub eps: f32,
        pub pages: [FlatKvPages; 2],
        pub weight: [Address; 2],
        pub inverse_dim: [f32; 2],
        pub weight_offset: f32,
        pub reserved: u32,
        pub scale: [Scale; 3],
    }

    /// Of any other.
    pub struct AppendParams {
        pub steps: Address,
        pub seq: Divisor,
        pub tokens: u32,
        pub pdl: Pdl,
        pub pairs: u16,
        pub heads_per_block: u16,
        pub tokens_per_block: u16,
        pub q_slices: u16,
        pub k_slices: u16,
        pub pair_step: u16,
        pub load_hint: [u32; 2],
        pub heads: [u16; 3],
        pub target: [u8; 3],
        pub storage: [u8; 3],
        pub normalised: [u8; 2],
        pub value_pairs: u16,
        pub shape: [HeadShape; 2],
        pub src: [Rows; 3],
        pub eps: f32,
        pub inverse_dim: [f32; 2],
        pub weight_offset: f32,
        pub cos_factor: f32,
        pub sin_factor: f32,
        pub store_hint: u32,
        pub reserved: u32,
        pub weight: [Address; 2],
        pub positions: TokenPositions,
        pub slots: SlotMapping,
        pub table: PageTable,
        pub starts: Ids,
        pub sets: FrequencySets,
        pub pages: [KvPages; 2],
        pub scale: [Scale; 3],
        pub dst: [Rows; 2],
        pub axes: Axes,
    }

    /// Of the cos/sin table.
    pub struct CosSinParams {
        pub steps: Address,
        pub start: i64,
        pub rows: u32,
        pub pair_stride: u16,
        pub partner: u16,
        pub cos_factor: f32,
        pub sin_factor: f32,
        pub row_stride: u64,
        pub cos: Address,
        pub sin: Address,
        pub rows_per_block: u32,
        pub reserved: u32,
    }
}

impl Rows {
    /// `base` is the address of the buffer's first element; the layout has passed its checks, and is not
    /// empty.
    pub fn new(dtype: Dtype, base: Address, layout: &Layout) -> Self {
        let size = dtype.size();
        let [batch, seq, heads, _] = layout.shape();
        let strides = layout.strides();
        // A dimension of size one is never stepped along; its stride must not spoil alignment.
        let stride = |i: usize, n: usize| if n > 1 { (strides[i] * size) as i64 } else { 0 };
        Self {
            first: base + ((layout.offset() + layout.rotary_offset()) * size) as u64,
            batch: stride(0, batch),
            token: stride(1, seq),
            head: stride(2, heads),
        }
    }
}

impl Ids {
    /// For the general kernels `upper` holds a selector, too: PTX `prmt`'s, of the id's own upper word, an
    /// i32's sign, or zero.
    pub fn new(ids: &RawIds, general: bool) -> Self {
        let (upper, selector) = match ids.dtype {
            IndexType::I32 => (0, 0xbbbb),
            IndexType::I64 => (4, 0x3210),
            IndexType::U32 => (0, 0x4444),
        };
        let upper = if general { upper | selector << 8 } else { upper };
        Self { first: ids.address, stride: ids.dtype.size() as u32, upper }
    }

    /// The same number, an `i32` at `address`, however many are asked for.
    pub fn one(address: Address, general: bool) -> Self {
        Self { stride: 0, ..Self::new(&RawIds::new(IndexType::I32, address, 1), general) }
    }
}

impl TokenPositions {
    /// One id for each token; `strides` are in values.
    pub(super) fn ids(ids: Ids, strides: IdStrides) -> Self {
        let row_stride = strides.row as u64 * u64::from(ids.stride);
        Self { ids, row_stride, ..Self::default() }
    }
}

impl Axes {
    /// `stride`: ids, of `size` bytes, from one axis' first one to the next one's. Those of axes that there are
    /// have passed the checks.
    pub(super) fn new(stride: usize, size: u32, sections: &Sections) -> Self {
        let axes = sections.axes();
        let bytes = |ids: usize| ids as u64 * u64::from(size);
        let offset = |axis| if axis < axes { bytes(axis * stride) } else { 0 };
        let [second, third, fourth] = [1, 2, 3].map(offset);
        let (count, codes) = (axes as u32, sections.codes());
        Self { count, reserved: 0, second, third, codes, fourth }
    }
}

impl Divisor {
    /// For dividends below 2^31. `value` is 1 to 2^31 - 1.
    pub fn new(value: u32) -> Self {
        let shift = u32::BITS - (value - 1).leading_zeros();
        let multiplier = (1u64 << (31 + shift)).div_ceil(u64::from(value));
        Self { value, multiplier: multiplier as u32, shift }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_divide() {
        for value in (1..2000).chain([4096, 65_535, 65_537, 1 << 30, (1 << 31) - 1]) {
            let divisor = Divisor::new(value);
            let divide = |n: u32| {
                ((u64::from(2 * n) * u64::from(divisor.multiplier)) >> 32) as u32 >> divisor.shift
            };
            let near = [0, 1, value - 1, value, 2 * (value >> 1), 12_345_678, (1 << 31) - 1];
            for n in near {
                assert_eq!(divide(n), n / value, "{n} / {value}");
            }
        }
    }
}
