use std::ffi::c_void;

use super::Pdl;
use super::params::{CosSinParams, FrequencySets, Ids};
use super::tiling::Tiling;
use super::variant::{Kernel, Variant};
use crate::call::CheckedTable;
use crate::{Address, Positions, RawIds, RopeSpec};

/// What launches need to know of a device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceProps {
    pub multiprocessors: usize,
    pub l2_bytes: usize,
}

impl DeviceProps {
    pub const H100: Self = Self { multiprocessors: 132, l2_bytes: 50 << 20 };
}

/// What a kernel takes, by value.
pub trait Params {
    /// The struct of `kernels/params/` that the launch's kernel takes.
    fn argument(&self) -> *const c_void;
}

impl Params for CosSinParams {
    fn argument(&self) -> *const c_void {
        (&raw const *self).cast()
    }
}

/// Of a kernel for tokens in one run, or of one for any other call: copied once, to the driver.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ByForm<F, S> {
    Flat(F),
    Strided(S),
}

impl<F, S> Params for ByForm<F, S> {
    fn argument(&self) -> *const c_void {
        match self {
            Self::Flat(params) => (&raw const *params).cast(),
            Self::Strided(params) => (&raw const *params).cast(),
        }
    }
}

/// One launch of one kernel.
#[derive(Clone, Debug)]
pub struct Launch<P> {
    pub kernel: Kernel,
    pub variant: Variant,
    pub tiling: Tiling,
    pub pdl: Pdl,
    pub params: P,
}

impl<P> Launch<P> {
    /// The kernel's name.
    pub fn name(&self) -> String {
        self.kernel.name(self.variant)
    }
}

/// Plans the launches of one rope on one device. Cannot fail: calls have passed their checks.
#[derive(Clone, Copy, Debug)]
pub struct Planner {
    /// Of the phase words, all of them, aligned to 16 bytes.
    pub words: Address,
    pub spec: RopeSpec,
    pub device: DeviceProps,
    pub pdl: Pdl,
}

impl Planner {
    /// A table, by the first set of frequencies; `None` where it has no rows.
    pub fn table(&self, table: &CheckedTable) -> Option<Launch<CosSinParams>> {
        let table = table.table();
        if table.rows == 0 {
            return None;
        }
        let (dim, size) = (self.spec.rotary_dim(), table.dtype.size());
        // Of one row nothing steps along the stride.
        let row_stride = if table.rows > 1 { dim * size } else { 0 } as u64;
        let bits = table.cos.address | table.sin.address | row_stride;
        let (variant, pair_stride, partner) =
            Variant::widest(table.dtype, self.spec.pairing(), dim / 2, bits);
        let tiling = Tiling::table(dim / 2 / variant.pairs(), table.rows);
        let (cos_factor, sin_factor) = self.spec.direction().factors(self.spec.factor());
        let params = CosSinParams {
            steps: self.words,
            start: table.start,
            rows: table.rows as u32,
            pair_stride,
            partner,
            cos_factor,
            sin_factor,
            row_stride,
            cos: table.cos.address,
            sin: table.sin.address,
            rows_per_block: tiling.block.2,
            reserved: 0,
        };
        // Its kernels do not wait for the one before.
        Some(Launch { kernel: Kernel::CosSin, variant, tiling, pdl: Pdl::Off, params })
    }

    /// The address of a word that is zero: the position id of tokens that have none.
    pub(super) fn zero(&self) -> Address {
        self.words + (self.spec.words.zero() * size_of::<u64>()) as u64
    }

    pub(super) fn sets(&self, positions: &Positions<RawIds>, general: bool) -> FrequencySets {
        positions.sets.as_ref().map_or_else(FrequencySets::default, |ids| FrequencySets {
            ids: Ids::new(ids, general),
            stride: self.spec.words.stride() as u32,
            last: (self.spec.words.sets - 1) as u32,
        })
    }
}
