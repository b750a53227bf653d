//! Launches of rotations: of one run of tokens in place, and of any other.

use super::launch::{ByForm, Launch, Planner};
use super::params::{Divisor, FlatParams, FlatRows, PassThrough, RotateParams, Rows};
use super::run::RunIds;
use super::source::{Source, is_general};
use super::tiling::{Cut, Tiling, Work};
use super::variant::{Form, Kernel, Variant};
use super::{L2Hint, Traffic};
use crate::call::Checked;
use crate::{Address, Pairing, RawOperand};

/// Of the kernel that a rotation's launch names.
pub type RotationParams = ByForm<FlatParams, RotateParams>;

impl Planner {
    /// A rotation; `None` where there is nothing to rotate.
    pub fn rotation(&self, call: &Checked) -> Option<Launch<RotationParams>> {
        self.rotation_by(call, Cut::of)
    }

    /// The same, cut otherwise: for sweeps over cuts.
    pub fn rotation_by(
        &self,
        call: &Checked,
        cut: impl FnOnce(&Work, usize) -> Cut,
    ) -> Option<Launch<RotationParams>> {
        if call.is_empty() {
            return None;
        }
        let (batch_seq, tokens, heads) = (call.batch_seq(), call.tokens(), call.heads());
        let pairs = self.spec.rotary_dim() / 2;
        let tensors = call.operands().map(|operand| Tensor::of(operand, 2 * pairs));
        let bits =
            tensors.iter().fold(0, |bits, t| bits | t.src.address_bits() | t.dst.address_bits());
        let (dtype, pairing) = (call.dtype(), self.spec.pairing());
        let (widest, pair_stride, partner) = Variant::widest(dtype, pairing, pairs, bits);
        let general = is_general(call.positions());
        let source = Source::of(call.positions(), batch_seq, self.zero(), general);
        let hint = L2Hint::of(traffic(call, 2 * pairs), self.device.l2_bytes);
        // Where sequences choose a set, each has a factor of its own.
        let factor = if call.positions().sets.is_some() { 1.0 } else { self.spec.factor() };
        let (cos_factor, sin_factor) = self.spec.direction().factors(factor);

        // Interleaved pairs that are not aligned are not vectors' neighbours.
        let neighbours = pairing == Pairing::HalfSplit || widest.joined;
        let run = Run::of(batch_seq, &tensors, &source).filter(|_| neighbours && !general);
        let mut work = Work {
            pairs,
            widest: widest.pairs(),
            heads,
            tokens,
            tokens_inside: tokens_inside(call),
            form: if general { Form::General } else { Form::Strided },
            is_fast: widest.is_fast(),
        };
        let pdl = work.pdl(self.pdl, self.device.multiprocessors);
        if run.is_some() {
            work.form = Form::Flat(pdl);
        }
        let cut = cut(&work, self.device.multiprocessors);
        let variant = widest.narrowed(cut.pairs);
        let tiling = Tiling::rotation(&work, &cut);
        let (_, heads_per_block, tokens_per_block) = tiling.block;
        let [tokens_per_block, q_slices] = [tokens_per_block, tiling.q_slices].map(|n| n as u16);
        let (tokens, heads) = (tokens as u32, heads.map(|heads| heads as u16));
        let (load_hint, store_hint) = (hint.load, hint.store);
        // Heads whose numbers come before k's.
        let before_k = if cut.entry.heads.is_list() { heads[0] } else { 0 };
        let params = match run {
            Some(run) => RotationParams::Flat(FlatParams {
                first: run.first(before_k),
                token: run.rows.map(|rows| rows.token),
                head: run.rows.map(|rows| rows.head),
                end: [heads[0], before_k + heads[1]],
                q_slices,
                partner,
                heads_per_block: heads_per_block as u16,
                tokens_per_block,
                load_hint,
                tokens,
                counts: run.positions.counts,
                steps: self.words,
                ids: run.positions.ids,
                start: source.positions.start,
                cos_factor,
                sin_factor,
                store_hint,
                heads_per_round: tiling.heads_per_round,
            }),
            None => RotationParams::Strided(RotateParams {
                steps: self.words,
                seq: Divisor::new(batch_seq[1] as u32),
                tokens,
                pair_stride,
                partner,
                pdl,
                load_hint,
                heads_per_block,
                tokens_per_block,
                q_slices,
                heads,
                src: tensors.map(|tensor| tensor.src),
                positions: source.positions,
                cos_factor,
                sin_factor,
                store_hint,
                in_place: tensors.map(|tensor| tensor.in_place.into()),
                sets: self.sets(call.positions(), general),
                axes: source.axes,
                starts: source.starts,
                dst: tensors.map(|tensor| tensor.dst),
                pass_through: tensors.map(|tensor| tensor.pass_through),
                pairs: pairs as u32,
                reserved: 0,
            }),
        };
        Some(Launch { kernel: Kernel::Rotate(cut.entry), variant, tiling, pdl, params })
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
    heads: usize,
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
        let ([_, _, heads, head_dim], before) = (layout.shape(), layout.rotary_offset());
        let after = head_dim - before - rotary_dim;
        Self {
            heads,
            src: Rows::new(*dtype, src.address, from),
            dst: Rows::new(*dtype, target.address, layout),
            pass_through: PassThrough { before: before as u32, after: after as u32 },
            in_place: source.is_none(),
        }
    }
}

/// What a flat kernel takes of a call: q and k, in one run of tokens.
struct Run {
    rows: [FlatRows; 2],
    positions: RunIds,
}

impl Run {
    /// `None` where there is none, or where it does not fit the kernels' numbers.
    fn of(batch_seq: [usize; 2], tensors: &[Tensor; 2], source: &Source) -> Option<Self> {
        if !tensors.iter().all(|tensor| tensor.in_place || tensor.heads == 0) {
            return None;
        }
        let [q, k] = tensors;
        let rows = |tensor: &Tensor| FlatRows::of(batch_seq, &tensor.src);
        let positions = RunIds::of(batch_seq, &source.positions)?;
        Some(Self { rows: [rows(q)?, rows(k)?], positions })
    }

    /// Where head 0 of q and of k lies, k's first one having the number `before_k`.
    fn first(&self, before_k: u16) -> [Address; 2] {
        let [q, k] = self.rows;
        [q.first, k.first.wrapping_sub(u64::from(before_k) * u64::from(k.head))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Call;
    use crate::plan::{DeviceProps, Pdl};
    use crate::{Dtype, IndexType, Layout, Positions, RawIds, RopeSpec, Sections};

    fn planner(rotary_dim: usize) -> Planner {
        let spec = RopeSpec::new(rotary_dim, Pairing::HalfSplit).expect("valid");
        Planner { words: 1 << 20, spec, device: DeviceProps::H100, pdl: Pdl::Off }
    }

    fn launch(planner: &Planner, call: Call) -> Launch<RotationParams> {
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
            let call = Call { q, k, positions: Positions::consecutive(0) };
            let (load, store) = match launch(&planner, call).params {
                RotationParams::Flat(params) => (params.load_hint, params.store_hint),
                RotationParams::Strided(params) => (params.load_hint, params.store_hint),
            };
            L2Hint { load, store }
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
        let spec = RopeSpec::new(8, Pairing::HalfSplit).expect("valid");
        let q = RawOperand::in_place(Dtype::F32, 1 << 30, Layout::bshd(3, 5, 2, 8));
        let strides = |positions| {
            let call = Call { q: Some(q), k: None, positions }.check(&spec).expect("a valid call");
            let general = is_general(call.positions());
            let Source { positions, axes, .. } =
                Source::of(call.positions(), call.batch_seq(), 1 << 20, general);
            [positions.ids.stride as u64, positions.row_stride, axes.second]
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

    /// One run: by layouts, by places of ids, and by what else there is to choose.
    #[test]
    fn runs_of_tokens_are_known() {
        let planner = planner(64);
        // Bytes from one token to the next, of q and of the ids; and whether tokens count.
        let run = |layout: Layout, positions| {
            let q = Some(RawOperand::in_place(Dtype::BF16, 1 << 30, layout));
            match launch(&planner, Call { q, k: None, positions }).params {
                RotationParams::Flat(run) => Some([run.token[0], run.ids.stride, run.counts]),
                RotationParams::Strided(_) => None,
            }
        };
        let ids = |dtype, len| RawIds::new(dtype, 1 << 16, len);
        let next = || Positions::consecutive(0);
        use IndexType::{I32, I64, U32};
        let thd = Layout::thd(6, 2, 64);
        assert_eq!(run(thd, next()), Some([256, 0, 1]));
        assert_eq!(run(thd, Positions::ids(ids(I64, 6))), Some([256, 8, 0]));
        assert_eq!(run(thd, Positions::starts(ids(I32, 1))), Some([256, 0, 1]));
        assert_eq!(run(thd, Positions::ids(ids(U32, 6))), None);
        let cu_seqlens = ids(I32, 3);
        assert_eq!(run(thd, Positions::ragged(cu_seqlens)), None);
        // A batch of sequences is a run where they follow one another, ids too.
        let bshd = Layout::bshd(2, 3, 2, 64);
        assert_eq!(run(bshd, next()), None);
        assert_eq!(run(bshd, Positions::ids(ids(I32, 6))), Some([256, 4, 0]));
        assert_eq!(run(bshd, Positions::shared_ids(ids(I32, 3))), None);
        assert_eq!(run(bshd, Positions::strided_ids(ids(I32, 7), 4)), None);
        assert_eq!(run(bshd, Positions::starts(ids(I32, 2))), None);
        let apart = bshd.with_strides([4 * 128, 128, 64]);
        assert_eq!(run(apart, Positions::ids(ids(I32, 6))), None);
        // Of one token each, whatever lies between them.
        let decode = Layout::bshd(2, 1, 2, 64).with_strides([4096, 17, 64]);
        assert_eq!(run(decode, Positions::starts(ids(I64, 2))), Some([8192, 8, 0]));
        assert_eq!(run(decode, Positions::strided_ids(ids(I64, 6), 5)), Some([8192, 40, 0]));
        assert_eq!(run(decode, next()), Some([8192, 0, 0]));
        // Ids as far as 32 bits tell, of heads of 64 channels a token.
        let many = |tokens| run(Layout::thd(tokens, 1, 64), Positions::ids(ids(I64, tokens)));
        assert_eq!(many((1 << 29) - 1), Some([128, 8, 0]));
        assert_eq!(many(1 << 29), None);
        // Heads apart as far as 32 bits tell.
        let bhsd = |seq| Layout::bhsd(1, 2, seq, 64);
        assert_eq!(run(bhsd((1 << 25) - 1), next()), Some([128, 0, 1]));
        assert_eq!(run(bhsd(1 << 25), next()), None);
    }

    /// Interleaved pairs where no vector holds a whole one have no neighbours.
    #[test]
    fn unaligned_interleaved_pairs_are_no_run() {
        let spec = RopeSpec::new(8, Pairing::Interleaved).expect("valid");
        let planner = Planner { spec, ..planner(8) };
        let is_flat = |address: Address| {
            let q = Some(RawOperand::in_place(Dtype::BF16, address, Layout::thd(2, 1, 8)));
            let call = Call { q, k: None, positions: Positions::consecutive(0) };
            matches!(launch(&planner, call).params, RotationParams::Flat(_))
        };
        assert!(is_flat(1 << 30) && is_flat((1 << 30) + 4));
        assert!(!is_flat((1 << 30) + 2));
    }
}
