//! Every check of the call, once.

#![allow(missing_docs, reason = "not part of the interface: for the crate and its tests")]

use super::cache::{KvCache, KvLayout, Scale, Stored};
use super::call::{RawAppend, RawKeys, RawQueries, RawRows};
use super::memory::{Raw, RawMemory, RawTensor};
use super::slots::{PAGES, SLOTS, SlotMapping, Slots};
use crate::call::Names;
use crate::call::operand::{check_address, check_view, disjoint};
use crate::limits::MAX_TOKENS;
use crate::{
    Address, Dtype, Error, Layout, PositionKind, Positions, RawIds, RawOperand, Result, RopeSpec,
};

/// A call that passed every check for a rope.
#[derive(Clone, Copy, Debug)]
pub struct CheckedAppend {
    pub dtype: Dtype,
    pub batch_seq: [usize; 2],
    /// q, k and v.
    pub tensors: [Option<CheckedTensor>; 3],
    pub norm: CheckedNorm,
    pub cache: Option<CheckedCache>,
    pub positions: Positions<RawIds>,
}

/// Rows: where they are read, and where they go besides the cache.
#[derive(Clone, Copy, Debug)]
pub struct CheckedTensor {
    pub source: Address,
    pub layout: Layout,
    pub target: Option<Target>,
}

/// Where heads go.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub address: Address,
    pub layout: Layout,
    /// It is where they are read.
    pub in_place: bool,
    pub stored: Stored,
    pub scale: CheckedScale,
}

#[derive(Clone, Copy, Debug)]
pub struct CheckedNorm {
    pub eps: f32,
    pub unit_offset: bool,
    /// Of q and k.
    pub weights: [Option<Address>; 2],
}

#[derive(Clone, Copy, Debug)]
pub struct CheckedCache {
    /// Of k and v.
    pub pages: [Option<Pages>; 2],
    pub slots: SlotMapping<RawIds>,
}

/// The cache of one tensor.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    pub address: Address,
    pub layout: KvLayout,
    pub stored: Stored,
    pub scale: CheckedScale,
}

#[derive(Clone, Copy, Debug)]
pub enum CheckedScale {
    /// Of all heads.
    Value(f32),
    Tensor {
        address: Address,
        /// One a head; else one for all.
        per_head: bool,
    },
}

impl CheckedAppend {
    pub fn tokens(&self) -> usize {
        self.batch_seq[0] * self.batch_seq[1]
    }

    /// Of q, k and v.
    pub fn heads(&self) -> [usize; 3] {
        self.tensors.map(|tensor| tensor.map_or(0, |tensor| tensor.layout.shape()[2]))
    }

    /// No row is there.
    pub fn is_empty(&self) -> bool {
        self.tokens() == 0 || self.heads() == [0; 3]
    }
}

/// A view that the call reads or writes.
#[derive(Clone, Copy)]
struct Use {
    name: &'static str,
    address: Address,
    layout: Layout,
    size: usize,
}

impl Use {
    /// Both share no memory; or, of elements of two sizes, their extents do not.
    fn check_apart(&self, other: &Self) -> Result<()> {
        let apart = if self.layout.is_empty() || other.layout.is_empty() {
            true
        } else if self.size == other.size {
            disjoint(self.size, (self.address, &self.layout), (other.address, &other.layout))
        } else {
            match (self.extent(), other.extent()) {
                (Some((a, a_end)), Some((b, b_end))) => a_end <= b || b_end <= a,
                _ => false,
            }
        };
        let tensors = [self.name, other.name];
        if apart { Ok(()) } else { Err(Error::OverlappingTensors { tensors }) }
    }

    /// Of bytes. The view has passed its checks.
    fn extent(&self) -> Option<(u64, u64)> {
        let bytes = |elements: usize| u64::try_from(elements.checked_mul(self.size)?).ok();
        let at = |elements| self.address.checked_add(bytes(elements)?);
        Some((at(self.layout.offset())?, at(self.layout.end()?)?))
    }
}

/// All views of the call: what is written, by q, k and the two caches, and what is read besides.
#[derive(Default)]
struct Uses {
    written: [Option<Use>; 4],
    read: [Option<Use>; 3],
}

impl Uses {
    /// What is written shares memory with nothing.
    fn check_apart(&self) -> Result<()> {
        for (i, written) in self.written.iter().enumerate() {
            let Some(written) = written else { continue };
            for other in self.written[i + 1..].iter().chain(&self.read).flatten() {
                written.check_apart(other)?;
            }
        }
        Ok(())
    }
}

/// The checks of one call, as far as they have come.
struct Checker<'a> {
    spec: &'a RopeSpec,
    /// Element type and `[batch, seq]`, by the first tensor that is given.
    first: Option<(Dtype, [usize; 2])>,
    uses: Uses,
}

const NAMES: [&str; 3] = ["q", "k", "v"];
const CACHES: [&str; 2] = ["key cache", "value cache"];

impl RawAppend {
    /// Types, shapes, strides, bounds, alignment and ranges of every tensor and of the cache; that what is written shares no
    /// memory; weights, scales, slots and positions.
    pub(crate) fn check(
        self,
        spec: &RopeSpec,
        positions: Positions<RawIds>,
    ) -> Result<CheckedAppend> {
        let mut checker = Checker { spec, first: None, uses: Uses::default() };
        let q = self.q.as_ref().map(|q| checker.queries(q)).transpose()?;
        let k = self.k.as_ref().map(|k| checker.keys(k)).transpose()?;
        let v = self.v.as_ref().map(|v| checker.rows(2, v, 0)).transpose()?;
        let Some((dtype, batch_seq)) = checker.first else { return Err(Error::NoTensors) };
        let tensors = [q, k, v];
        let norm = checker.norm(&self.norm, &tensors, dtype)?;
        let cache = match &self.cache {
            Some((cache, slots)) => {
                Some(checker.cache(cache, slots, &tensors, &positions, dtype, batch_seq)?)
            }
            None => {
                let reads_keys = matches!(self.k, Some(RawKeys::Rows(_)));
                if reads_keys || v.is_some() {
                    let what = if v.is_some() { "v" } else { "k that is only read" };
                    return Err(Error::Cache { what, expected: "a cache for it" });
                }
                None
            }
        };
        for (i, tensor) in tensors.iter().enumerate() {
            let Some(tensor) = tensor else { continue };
            let given = tensor.layout.shape()[3];
            let whole = cache.is_some() && i > 0 || i < 2 && norm.weights[i].is_some();
            let converted = tensor.target.is_some_and(|t| t.stored != Stored::Element(dtype));
            if given % 2 != 0 && (whole || converted || !tensor.is_in_place()) {
                return Err(Error::OddHeadDim { tensor: NAMES[i], given });
            }
        }
        checker.uses.check_apart()?;
        positions.check(batch_seq[0], batch_seq[1], spec.rotary_dim())?;
        Ok(CheckedAppend { dtype, batch_seq, tensors, norm, cache, positions })
    }
}

impl CheckedTensor {
    pub fn is_in_place(&self) -> bool {
        self.target.is_some_and(|target| target.in_place)
    }
}

impl Checker<'_> {
    /// The tensor agrees with the first one that was given.
    fn agree(&mut self, name: &'static str, dtype: Dtype, layout: &Layout) -> Result<()> {
        let [batch, seq, ..] = layout.shape();
        let (expected, [b, s]) = *self.first.get_or_insert((dtype, [batch, seq]));
        if expected != dtype {
            return Err(Error::dtype(name, expected, dtype));
        }
        if [b, s] != [batch, seq] {
            return Err(Error::Tokens { tensor: name, expected: [b, s], given: [batch, seq] });
        }
        Ok(())
    }

    fn queries(&mut self, queries: &RawQueries) -> Result<CheckedTensor> {
        match queries {
            RawQueries::Heads(heads) => self.heads(0, Names::Q, heads),
            RawQueries::Converted { rows, target: RawMemory { stored, buffer }, layout, scale } => {
                let tensor = self.rows(0, rows, self.spec.rotary_dim())?;
                let name = NAMES[0];
                if matches!(stored, Stored::Element(_)) {
                    let (expected, given) = ("fp8_e4m3 or fp8_e5m2", stored.name().to_owned());
                    return Err(Error::Dtype { tensor: name, expected, given });
                }
                check_view(name, stored.size(), buffer, layout, 0)?;
                layout.check_rows_disjoint(name)?;
                let (expected, given) = (rows.layout.shape(), layout.shape());
                if expected != given {
                    return Err(Error::Shape { tensor: name, expected, given });
                }
                let scale = check_scale("q scale", scale, given[2])?;
                let (address, layout, stored) = (buffer.address, *layout, *stored);
                self.uses.written[0] = Some(Use { name, address, layout, size: stored.size() });
                let target = Target { address, layout, in_place: false, stored, scale };
                Ok(CheckedTensor { target: Some(target), ..tensor })
            }
        }
    }

    fn keys(&mut self, keys: &RawKeys) -> Result<CheckedTensor> {
        match keys {
            RawKeys::Heads(heads) => self.heads(1, Names::K, heads),
            RawKeys::Rows(rows) => self.rows(1, rows, self.spec.rotary_dim()),
        }
    }

    fn heads(&mut self, i: usize, names: Names, heads: &RawOperand) -> Result<CheckedTensor> {
        heads.check(names, self.spec.rotary_dim())?;
        self.agree(names.target, heads.dtype, &heads.layout)?;
        let size = heads.dtype.size();
        let (address, layout) = (heads.target.address, heads.layout);
        self.uses.written[i] = Some(Use { name: names.target, address, layout, size });
        if let Some((source, layout)) = &heads.source {
            let (name, address) = (names.source, source.address);
            self.uses.read[i] = Some(Use { name, address, layout: *layout, size });
        }
        let in_place = heads.source.is_none();
        let (stored, scale) = (Stored::Element(heads.dtype), CheckedScale::Value(1.0));
        let target = Target { address, layout, in_place, stored, scale };
        let (source, layout) = heads
            .source
            .as_ref()
            .map_or((address, layout), |(source, from)| (source.address, *from));
        Ok(CheckedTensor { source, layout, target: Some(target) })
    }

    fn rows(&mut self, i: usize, rows: &RawRows, rotary_dim: usize) -> Result<CheckedTensor> {
        let RawRows { dtype, buffer, layout } = *rows;
        let (name, size) = (NAMES[i], dtype.size());
        check_view(name, size, &buffer, &layout, rotary_dim)?;
        self.agree(name, dtype, &layout)?;
        self.uses.read[i] = Some(Use { name, address: buffer.address, layout, size });
        Ok(CheckedTensor { source: buffer.address, layout, target: None })
    }

    fn norm(
        &self,
        norm: &super::QkNorm<Raw>,
        tensors: &[Option<CheckedTensor>; 3],
        dtype: Dtype,
    ) -> Result<CheckedNorm> {
        let mut weights = [None; 2];
        for (i, name) in ["q weights", "k weights"].into_iter().enumerate() {
            // Weights of a tensor that is not there are not asked for.
            let (Some(given), Some(tensor)) = (&norm.weights[i], &tensors[i]) else { continue };
            let dim = tensor.layout.shape()[3];
            check_list(name, given, dtype, dim)?;
            weights[i] = Some(given.buffer.address);
        }
        let given = norm.eps;
        // What is smaller has a root that is not the same everywhere.
        let least = f32::from_bits((127 - 101) << 23);
        if weights != [None; 2] && !(given.is_finite() && given >= least) {
            return Err(Error::Epsilon { given });
        }
        Ok(CheckedNorm { eps: given, unit_offset: norm.unit_offset, weights })
    }

    fn cache(
        &mut self,
        cache: &KvCache<Raw>,
        slots: &SlotMapping<RawIds>,
        tensors: &[Option<CheckedTensor>; 3],
        positions: &Positions<RawIds>,
        dtype: Dtype,
        batch_seq: [usize; 2],
    ) -> Result<CheckedCache> {
        let mut pages = [None; 2];
        let mut shape: Option<[usize; 2]> = None;
        for (i, tensor) in CACHES.into_iter().enumerate() {
            let layout = match (tensors[i + 1], cache.layouts[i]) {
                (None, None) => continue,
                (Some(_), Some(layout)) => layout,
                (None, Some(_)) => {
                    return Err(Error::Cache { what: tensor, expected: NAMES[i + 1] });
                }
                (Some(_), None) => {
                    return Err(Error::Cache { what: NAMES[i + 1], expected: tensor });
                }
            };
            let memory = if i == 1 { cache.values.unwrap_or(cache.keys) } else { cache.keys };
            let RawMemory { stored, buffer } = memory;
            if matches!(stored, Stored::Element(given) if given != dtype) {
                let expected = match dtype {
                    Dtype::F32 => "f32, fp8_e4m3 or fp8_e5m2",
                    Dtype::F16 => "f16, fp8_e4m3 or fp8_e5m2",
                    Dtype::BF16 => "bf16, fp8_e4m3 or fp8_e5m2",
                };
                return Err(Error::Dtype { tensor, expected, given: stored.name().to_owned() });
            }
            check_view(tensor, stored.size(), &buffer, &layout.0, 0)?;
            layout.0.check_rows_disjoint(tensor)?;
            let [number, page_size, heads, head_dim] = layout.shape();
            let [.., rows, row_dim] = tensors[i + 1].map_or([0; 4], |rows| rows.layout.shape());
            let first = *shape.get_or_insert([number, page_size]);
            for (what, expected, given) in [
                ("the number of heads", rows, heads),
                ("head_dim", row_dim, head_dim),
                ("the number of pages", first[0], number),
                ("page_size", first[1], page_size),
            ] {
                if expected != given {
                    return Err(Error::CacheShape { tensor, what, expected, given });
                }
            }
            let name = ["key scale", "value scale"][i];
            let scale = check_scale(name, &cache.scales[i], heads)?;
            let (address, size) = (buffer.address, stored.size());
            self.uses.written[2 + i] = Some(Use { name: tensor, address, layout: layout.0, size });
            pages[i] = Some(Pages { address, layout, stored, scale });
        }
        let [number, page_size] = shape.ok_or(Error::Cache { what: "a cache", expected: "k" })?;
        if tensors[1].is_none() {
            return Err(Error::Cache { what: "a cache", expected: "k" });
        }
        check_slots(slots, positions, number * page_size, page_size, batch_seq)?;
        Ok(CheckedCache { pages, slots: *slots })
    }
}

/// `len` elements of `dtype`.
fn check_list(name: &'static str, given: &RawTensor, dtype: Dtype, len: usize) -> Result<()> {
    if given.dtype != dtype {
        return Err(Error::dtype(name, dtype, given.dtype));
    }
    if let Some(given) = given.buffer.len.filter(|&given| given != len) {
        return Err(Error::Positions { what: name, expected: len, given });
    }
    check_address(name, given.buffer.address, dtype.size(), len * dtype.size())
}

fn check_scale(
    tensor: &'static str,
    scale: &Scale<RawTensor>,
    heads: usize,
) -> Result<CheckedScale> {
    match *scale {
        Scale::Value(given) => {
            // Of a smaller one the reciprocal is infinite.
            if given.is_normal() && given > 0.0 {
                Ok(CheckedScale::Value(given))
            } else {
                Err(Error::Scale { tensor, given })
            }
        }
        Scale::Tensor(given) => {
            // Without a length it is one for all.
            let len = given.buffer.len.unwrap_or(1);
            let per_head = len != 1;
            check_list(tensor, &given, Dtype::F32, if per_head { heads } else { 1 })?;
            Ok(CheckedScale::Tensor { address: given.buffer.address, per_head })
        }
    }
}

fn check_slots(
    slots: &SlotMapping<RawIds>,
    positions: &Positions<RawIds>,
    count: usize,
    page_size: usize,
    [batch, seq]: [usize; 2],
) -> Result<()> {
    if slots.reserved > count {
        let what = "the number of reserved slots";
        return Err(Error::TooLarge { tensor: SLOTS, what, limit: count });
    }
    match &slots.slots {
        Slots::Ids(ids) => {
            let (expected, given) = (batch * seq, ids.len);
            if given > expected {
                return Err(Error::Positions { what: SLOTS, expected, given });
            }
            ids.check(SLOTS)
        }
        Slots::PageTable { pages, width, row_stride } => {
            let sequences = match &positions.kind {
                PositionKind::Ragged { cu_seqlens, .. } => cu_seqlens.len.saturating_sub(1),
                PositionKind::Axes { .. } => {
                    let (expected, given) = ("with one position a token", "several".to_owned());
                    return Err(Error::Tensor { tensor: PAGES, expected, given });
                }
                _ => batch,
            };
            let limit = MAX_TOKENS / page_size.max(1);
            if *width > limit {
                return Err(Error::TooLarge { tensor: PAGES, what: "its width in pages", limit });
            }
            let expected = if sequences == 0 || *width == 0 {
                0
            } else {
                (sequences - 1)
                    .checked_mul(*row_stride)
                    .and_then(|rows| rows.checked_add(*width))
                    .unwrap_or(usize::MAX)
            };
            let given = pages.len;
            if given < expected {
                return Err(Error::Positions { what: PAGES, expected, given });
            }
            pages.check(PAGES)
        }
    }
}
