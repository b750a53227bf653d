use super::params::{CosSinParams, Divisor, FrequencySets, Ids, PassThrough, RotateParams, Rows};
use super::source::{Source, is_general};
use super::tiling::{Cut, Tiling, Work};
use super::variant::{Kernel, Variant};
use super::{L2Hint, Pdl, Traffic};
use crate::call::{Checked, CheckedTable};
use crate::{Address, Positions, RawIds, RawOperand, RopeSpec};

/// What launches need to know of a device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceProps {
    pub multiprocessors: usize,
    pub l2_bytes: usize,
}

impl DeviceProps {
    pub const H100: Self = Self { multiprocessors: 132, l2_bytes: 50 << 20 };
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
    /// A rotation; `None` where there is nothing to rotate.
    pub fn rotation(&self, call: &Checked) -> Option<Launch<RotateParams>> {
        self.rotation_by(call, Cut::of)
    }

    /// The same, cut otherwise: for sweeps over cuts.
    pub fn rotation_by(
        &self,
        call: &Checked,
        cut: impl FnOnce(&Work, usize) -> Cut,
    ) -> Option<Launch<RotateParams>> {
        if call.is_empty() {
            return None;
        }
        let ([_, seq], tokens, heads) = (call.batch_seq(), call.tokens(), call.heads());
        let pairs = self.spec.rotary_dim() / 2;
        let tensors = call.operands().map(|operand| Tensor::of(operand, 2 * pairs));
        let bits =
            tensors.iter().fold(0, |bits, t| bits | t.src.address_bits() | t.dst.address_bits());
        let (dtype, pairing) = (call.dtype(), self.spec.pairing());
        let (variant, pair_stride, partner) = Variant::widest(dtype, pairing, pairs, bits);

        let general = is_general(call.positions());
        let work = Work {
            width: pairs / variant.pairs(),
            heads,
            tokens,
            tokens_inside: tokens_inside(call),
            general,
            pdl: self.pdl,
        };
        let cut = cut(&work, self.device.multiprocessors);
        let tiling = Tiling::rotation(&work, &cut);
        let pdl = work.pdl(self.device.multiprocessors);
        let hint = L2Hint::of(traffic(call, 2 * pairs), self.device.l2_bytes);

        let source = Source::of(call.positions(), call.batch_seq(), self.zero(), general);
        let sets = self.sets(call.positions(), general);
        // Where sequences choose a set, each has a factor of its own.
        let factor = if call.positions().sets.is_some() { 1.0 } else { self.spec.factor() };
        let (cos_factor, sin_factor) = self.spec.direction().factors(factor);
        let (_, heads_per_block, tokens_per_block) = tiling.block;
        let params = RotateParams {
            steps: self.words,
            seq: Divisor::new(seq as u32),
            tokens: tokens as u32,
            pair_stride,
            partner,
            pdl,
            load_hint: hint.load,
            heads_per_block,
            tokens_per_block: tokens_per_block as u16,
            q_slices: tiling.q_slices as u16,
            heads: heads.map(|heads| heads as u16),
            src: tensors.map(|tensor| tensor.src),
            positions: source.positions,
            cos_factor,
            sin_factor,
            store_hint: hint.store,
            in_place: tensors.map(|tensor| tensor.in_place.into()),
            sets,
            axes: source.axes,
            starts: source.starts,
            dst: tensors.map(|tensor| tensor.dst),
            pass_through: tensors.map(|tensor| tensor.pass_through),
            pairs: pairs as u32,
            reserved: 0,
        };
        Some(Launch { kernel: Kernel::Rotate(cut.entry), variant, tiling, pdl, params })
    }

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

/// Of the first tensor that has heads.
fn tokens_inside(call: &Checked) -> bool {
    let [_, seq] = call.batch_seq();
    let heads = |operand: &&RawOperand| operand.layout.shape()[2] > 0;
    call.operands().into_iter().flatten().find(heads).is_some_and(|operand| {
        let [_, token, head] = operand.layout.strides();
        seq > 1 && token < head
    })
}

fn traffic(call: &Checked, rotary_dim: usize) -> Traffic {
    let given = || call.operands().into_iter().flatten();
    let heads: usize = call.heads().iter().sum();
    Traffic {
        in_place: given().all(|operand| operand.source.is_none()),
        whole_heads: given().all(|operand| operand.layout.shape()[3] == rotary_dim),
        bytes: call.tokens().saturating_mul(heads * rotary_dim * call.dtype().size()),
    }
}

/// One tensor's parameters; zeros where it is not there, or has no heads.
#[derive(Clone, Copy, Default)]
struct Tensor {
    src: Rows,
    dst: Rows,
    pass_through: PassThrough,
    in_place: bool,
}

impl Tensor {
    fn of(operand: Option<&RawOperand>, rotary_dim: usize) -> Self {
        let Some(operand) = operand.filter(|operand| operand.layout.shape()[2] > 0) else {
            return Self::default();
        };
        let RawOperand { dtype, target, layout, source } = operand;
        let (src, from) = source.as_ref().map_or((target, layout), |(src, from)| (src, from));
        let ([.., head_dim], before) = (layout.shape(), layout.rotary_offset());
        let after = head_dim - before - rotary_dim;
        Self {
            src: Rows::new(*dtype, src.address, from),
            dst: Rows::new(*dtype, target.address, layout),
            pass_through: PassThrough { before: before as u32, after: after as u32 },
            in_place: source.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Call;
    use crate::{Dtype, IndexType, Layout, Pairing, Sections};

    fn planner(rotary_dim: usize) -> Planner {
        let spec = RopeSpec::new(rotary_dim, Pairing::HalfSplit).expect("valid");
        Planner { words: 1 << 20, spec, device: DeviceProps::H100, pdl: Pdl::Off }
    }

    fn launch(planner: &Planner, call: Call) -> Launch<RotateParams> {
        let checked = call.check(&planner.spec).expect("a valid call");
        planner.rotation(&checked).expect("something to rotate")
    }

    #[test]
    fn l2_is_asked_by_place_and_bytes() {
        let planner = planner(64);
        let asked = |tokens, head_dim, k: bool, copied: [bool; 2]| {
            let heads = |heads, address: Address, copied| {
                let layout = Layout::thd(tokens, heads, head_dim);
                if copied {
                    let from = address + (1 << 35);
                    RawOperand::out_of_place(Dtype::BF16, from, layout, address, layout)
                } else {
                    RawOperand::in_place(Dtype::BF16, address, layout)
                }
            };
            let q = Some(heads(32, 1 << 30, copied[0]));
            let k = k.then(|| heads(8, 1 << 32, copied[1]));
            launch(&planner, Call { q, k, positions: Positions::consecutive(0) }).params.hint()
        };
        // 40 or 32 heads of 64 rotated channels of two bytes: half of 50 MiB is 5120 or 6400 tokens.
        let [here, away] = [[false; 2], [true; 2]];
        assert_eq!(asked(1, 64, true, here), L2Hint::LAST_THEN_NORMAL);
        assert_eq!(asked(5120, 64, true, here), L2Hint::LAST_THEN_NORMAL);
        assert_eq!(asked(5121, 64, true, here), L2Hint::LAST_THEN_HALF_FIRST);
        assert_eq!(asked(6400, 64, false, here), L2Hint::LAST_THEN_NORMAL);
        assert_eq!(asked(6401, 64, false, here), L2Hint::LAST_THEN_HALF_FIRST);
        assert_eq!(asked(5121, 65, true, here), L2Hint::LAST_THEN_NORMAL);
        for copied in [[true, false], [false, true], away] {
            assert_eq!(asked(5121, 64, true, copied), L2Hint::NONE);
        }
        assert_eq!(asked(1, 64, false, [true, false]), L2Hint::NONE);
    }

    /// What a vector moves is aligned in every tensor that it is read from and written to.
    #[test]
    fn vectors_are_aligned_in_sources_and_in_targets() {
        let planner = planner(64);
        let bytes = |from: Layout, to: Layout| {
            let q = RawOperand::out_of_place(Dtype::BF16, 1 << 30, from, 1 << 32, to);
            let call = Call { q: Some(q), k: None, positions: Positions::consecutive(0) };
            launch(&planner, call).variant.bytes
        };
        let layout = Layout::thd(4, 2, 64);
        let padded = |elements| layout.with_strides([0, 128 + elements, 64]);
        for (elements, width) in [(0, 8), (1, 2), (2, 4), (3, 2), (4, 8), (6, 4), (8, 8)] {
            for moved in [layout.at(elements), padded(elements)] {
                assert_eq!(bytes(moved, layout), width, "a source of {moved:?}");
                assert_eq!(bytes(layout, moved), width, "a target of {moved:?}");
            }
        }
    }

    /// Rows that are shared, or further apart than they are long.
    #[test]
    fn strides_of_ids_are_bytes() {
        let planner = planner(8);
        let q = RawOperand::in_place(Dtype::F32, 1 << 30, Layout::bshd(3, 5, 2, 8));
        let strides = |positions| {
            let params = launch(&planner, Call { q: Some(q), k: None, positions }).params;
            [params.positions.ids.stride as u64, params.positions.row_stride, params.axes.second]
        };
        let ids = |dtype, len| RawIds::new(dtype, 1 << 16, len);
        use IndexType::{I32, I64, U32};
        assert_eq!(strides(Positions::ids(ids(I64, 15))), [8, 40, 0]);
        assert_eq!(strides(Positions::shared_ids(ids(U32, 5))), [4, 0, 0]);
        assert_eq!(strides(Positions::strided_ids(ids(I32, 19), 7)), [4, 28, 0]);
        assert_eq!(strides(Positions::starts(ids(I64, 3))), [0, 8, 0]);
        let sections = Sections::blocks([1, 2, 1]).expect("small");
        assert_eq!(strides(Positions::axes(ids(I64, 45), sections)), [8, 40, 120]);
        let shared = Positions::strided_axes(ids(I32, 15), sections, [5, 0]);
        assert_eq!(strides(shared), [4, 0, 20]);
    }
}
