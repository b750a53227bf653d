//! Calls of norm, rotation and append: described, built, run on a backend and compared with a model of them.
//!
//! The model gathers heads into tensors of their own, normalises and rotates them there by the CPU backend, holds that to f64,
//! and does the rest (where rows go, slots, conversions) by definition, one number at a time.

mod model;
mod random;

use condensed_rope::{
    Append, Dtype, Frequencies, KvCache, KvLayout, Layout, Pairing, PhaseWords, Positions, QkNorm,
    Queries, Raw, RawBuffer, RawIds, RawMemory, RawOperand, RawTensor, RopeSpec, Rows, Scale,
    SlotMapping, Stored,
};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::Values;
use crate::call::end;

pub use model::check;
pub use random::random;

/// Bytes at an address that every vector suits, with a margin behind them that belongs to nobody.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    words: Vec<u128>,
    len: usize,
}

impl Memory {
    fn new(bytes: &[u8]) -> Self {
        let mut memory = Self { words: vec![0; bytes.len() / 16 + 3], len: bytes.len() };
        memory.bytes_mut().fill(0xa5);
        memory.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        memory
    }

    /// With the margin.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: integers are bytes.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.words.len() * 16) }
    }

    /// With the margin.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.words.len() * 16;
        // SAFETY: integers are bytes, and any bytes are integers.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), len) }
    }
}

/// Where q's or k's rows go.
#[derive(Clone, Debug)]
pub enum To {
    InPlace,
    Elsewhere(Layout),
    /// k alone.
    Nowhere,
    /// q alone.
    Fp8(Stored, Layout, ScaleOf),
}

/// A scale.
#[derive(Clone, Copy, Debug)]
pub enum ScaleOf {
    Value(f32),
    /// In memory, for all heads.
    Tensor(f32),
    /// In memory, one a head, at random.
    Heads,
}

#[derive(Clone, Debug)]
pub enum SlotsOf {
    Ids(Values),
    Table { pages: Values, width: usize, row_stride: usize },
}

#[derive(Clone, Debug)]
pub struct CacheCase {
    pub stored: Stored,
    pub layouts: [Option<KvLayout>; 2],
    /// K and V in one buffer.
    pub shared: bool,
    pub scales: [ScaleOf; 2],
    pub slots: SlotsOf,
    pub reserved: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct NormCase {
    pub eps: f32,
    pub unit_offset: bool,
    /// Of q and of k.
    pub of: [bool; 2],
}

/// Everything but the numbers, which `seed` decides.
#[derive(Clone, Debug)]
pub struct AppendCase {
    pub dtype: Dtype,
    pub pairing: Pairing,
    pub rotary_dim: usize,
    /// Base and factor of each set of frequencies.
    pub bases: Vec<(f64, f32)>,
    pub inverse: bool,
    pub q: Option<(Layout, To)>,
    pub k: Option<(Layout, To)>,
    pub v: Option<Layout>,
    /// q, k and v are views of one buffer, q and k in place (or k nowhere).
    pub packed: bool,
    pub norm: NormCase,
    pub cache: Option<CacheCase>,
    pub positions: Positions<Values>,
    /// Elements to put among those of q, k and v.
    pub specials: bool,
    pub seed: u64,
}

/// A case with its memory: which buffer is what.
#[derive(Clone, Debug)]
pub struct Built {
    pub case: AppendCase,
    pub words: PhaseWords,
    pub buffers: Vec<Memory>,
    q: [usize; 3],
    k: [usize; 2],
    v: usize,
    weights: [usize; 2],
    caches: [usize; 2],
    scales: [usize; 2],
    slots: usize,
    positions: Positions<(usize, RawIds)>,
}

impl AppendCase {
    pub fn spec(&self) -> RopeSpec {
        let words = PhaseWords::from_sets(&self.sets()).expect("sets of one rotary dimension");
        let spec = RopeSpec::of(&words, self.pairing);
        if self.inverse { spec.inverse() } else { spec }
    }

    pub fn sets(&self) -> Vec<Frequencies> {
        let set = |&(base, factor): &(f64, f32)| {
            Frequencies::new(self.rotary_dim, base)
                .and_then(|frequencies| frequencies.with_factor(factor))
                .expect("cases have valid frequencies")
        };
        self.bases.iter().map(set).collect()
    }

    /// `[batch, seq]`.
    pub fn batch_seq(&self) -> [usize; 2] {
        let first = self.q.as_ref().or(self.k.as_ref()).expect("a case with a tensor");
        let [batch, seq, ..] = first.0.shape();
        [batch, seq]
    }

    pub fn build(&self) -> Built {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut buffers: Vec<Memory> = Vec::new();
        let mut add = |bytes: &[u8]| {
            buffers.push(Memory::new(bytes));
            buffers.len() - 1
        };
        let mut elements = |count: usize, specials: bool| {
            let noise = |rng: &mut StdRng| -> u32 {
                let value = rng.random_range(-2.0f32..2.0);
                if specials && rng.random_bool(0.05) {
                    return special(self.dtype, rng.random_range(0..9));
                }
                narrow(self.dtype, value)
            };
            let size = self.dtype.size();
            (0..count)
                .flat_map(|_| noise(&mut rng).to_le_bytes().into_iter().take(size))
                .collect::<Vec<u8>>()
        };
        let specials = self.specials;
        let packed = self.packed.then(|| {
            let views = [self.q.as_ref().map(|q| q.0), self.k.as_ref().map(|k| k.0), self.v];
            let count = views.into_iter().flatten().map(|view| end(&view)).max().unwrap_or(0);
            add(&elements(count, specials))
        });
        let mut tensor = |tensor: &Option<(Layout, To)>, add: &mut dyn FnMut(&[u8]) -> usize| {
            let Some((layout, to)) = tensor else { return [0, 0] };
            let from = packed.unwrap_or_else(|| add(&elements(end(layout), specials)));
            let to = match to {
                To::Elsewhere(to) => add(&elements(end(to), false)),
                To::Fp8(_, to, _) => add(&vec![0x33; end(to)]),
                To::InPlace | To::Nowhere => from,
            };
            [from, to]
        };
        let q = tensor(&self.q, &mut add);
        let k = tensor(&self.k, &mut add);
        let v = self.v.map_or(0, |v| packed.unwrap_or_else(|| add(&elements(end(&v), specials))));
        let weights = [&self.q, &self.k].map(|tensor| {
            let dim = tensor.as_ref().map_or(0, |(layout, _)| layout.shape()[3]);
            add(&elements(dim, false))
        });
        let mut caches = [0; 2];
        let mut scales = [0; 2];
        let mut scale_rng = StdRng::seed_from_u64(self.seed ^ 0x5ca1e);
        let mut scale = |of: ScaleOf, heads: usize, add: &mut dyn FnMut(&[u8]) -> usize| {
            let values: Vec<f32> = match of {
                ScaleOf::Value(value) | ScaleOf::Tensor(value) => vec![value],
                ScaleOf::Heads => (0..heads).map(|_| scale_rng.random_range(0.01..3.0)).collect(),
            };
            add(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
        };
        let q_scale = match &self.q {
            Some((layout, To::Fp8(_, _, of))) => scale(*of, layout.shape()[2], &mut add),
            _ => 0,
        };
        let mut slots = 0;
        if let Some(cache) = &self.cache {
            let count = |i: usize| cache.layouts[i].map_or(0, |layout| kv_end(&layout));
            let lens =
                if cache.shared { [count(0).max(count(1)), 0] } else { [count(0), count(1)] };
            for i in 0..2 {
                let bytes = vec![0x5b; lens[i] * cache.stored.size()];
                caches[i] = if cache.shared && i == 1 { caches[0] } else { add(&bytes) };
                let heads = cache.layouts[i].map_or(0, |layout| layout.shape()[2]);
                scales[i] = scale(cache.scales[i], heads, &mut add);
            }
            let (SlotsOf::Ids(ids) | SlotsOf::Table { pages: ids, .. }) = &cache.slots;
            slots = add(&id_bytes(ids));
        }
        let positions = self.positions.as_ref().map(|ids| (add(&id_bytes(ids)), id_list(ids, 0)));
        let words = PhaseWords::from_sets(&self.sets()).expect("sets of one rotary dimension");
        let case = self.clone();
        let q = [q[0], q[1], q_scale];
        Built { case, words, buffers, q, k, v, weights, caches, scales, slots, positions }
    }
}

impl Built {
    /// The call, with its buffers at these addresses.
    pub fn call(&self, addresses: &[u64]) -> (Append<Raw>, Positions<RawIds>) {
        let case = &self.case;
        let elements = |buffer: usize, size: usize| {
            RawBuffer::new(addresses[buffer], self.buffers[buffer].len / size)
        };
        let of_dtype = |buffer| elements(buffer, case.dtype.size());
        let tensor = |buffer| RawTensor::new(case.dtype, of_dtype(buffer));
        let scale = |of: ScaleOf, buffer| match of {
            ScaleOf::Value(value) => Scale::Value(value),
            _ => Scale::Tensor(RawTensor::new(Dtype::F32, elements(buffer, 4))),
        };
        let call = if case.packed {
            let layouts = [case.q.as_ref().map(|q| q.0), case.k.as_ref().map(|k| k.0), case.v];
            let [q, k, v] = layouts;
            let buffer = if q.is_some() { self.q[0] } else { self.k[0] };
            let call = Append::packed(RawMemory::new(case.dtype, of_dtype(buffer)), q, k, v);
            let keeps = matches!(case.k, Some((_, To::Nowhere)));
            if keeps { call.keeping_keys() } else { call }
        } else {
            let heads = |layout: &Layout, to: &To, [from, at]: [usize; 2]| match to {
                To::Elsewhere(to) => {
                    RawOperand::out_of_place(case.dtype, of_dtype(from), *layout, of_dtype(at), *to)
                }
                _ => RawOperand::in_place(case.dtype, of_dtype(from), *layout),
            };
            let q = case.q.as_ref().map(|(layout, to)| match to {
                To::Fp8(stored, target, of) => Queries::Converted {
                    rows: Rows::new(tensor(self.q[0]), *layout),
                    target: RawMemory::new(*stored, elements(self.q[1], 1)),
                    layout: *target,
                    scale: scale(*of, self.q[2]),
                },
                to => Queries::Heads(heads(layout, to, [self.q[0], self.q[1]])),
            });
            let k = case.k.as_ref().map(|(layout, to)| match to {
                To::Nowhere => Rows::new(tensor(self.k[0]), *layout).into(),
                to => heads(layout, to, self.k).into(),
            });
            Append::new(q, k, case.v.map(|layout| Rows::new(tensor(self.v), layout)))
        };
        let norm = QkNorm::rms(case.norm.eps);
        let norm = if case.norm.of[0] { norm.q(tensor(self.weights[0])) } else { norm };
        let norm = if case.norm.of[1] { norm.k(tensor(self.weights[1])) } else { norm };
        let norm = if case.norm.unit_offset { norm.unit_offset() } else { norm };
        let call = call.with_norm(norm);
        let call = match &case.cache {
            None => call,
            Some(cache) => {
                let memory = |i: usize| {
                    let buffer = elements(self.caches[i], cache.stored.size());
                    RawMemory::new(cache.stored, buffer)
                };
                let kv = match cache.layouts {
                    [Some(k), Some(v)] if cache.shared => KvCache::shared(memory(0), k, v),
                    [Some(k), Some(v)] => KvCache::new(memory(0), k, memory(1), v),
                    [k, _] => KvCache::keys(memory(0), k.expect("a cache with keys")),
                };
                let [k, v] = [0, 1].map(|i| scale(cache.scales[i], self.scales[i]));
                let kv = kv.with_scales(k, v);
                let slots = match &cache.slots {
                    SlotsOf::Ids(ids) => SlotMapping::ids(id_list(ids, addresses[self.slots])),
                    SlotsOf::Table { pages, width, row_stride } => SlotMapping::strided_page_table(
                        id_list(pages, addresses[self.slots]),
                        *width,
                        *row_stride,
                    ),
                };
                call.with_cache(kv, slots.reserved(cache.reserved))
            }
        };
        let positions = self.positions.as_ref().map(|(buffer, ids)| ids.at(addresses[*buffer]));
        (call, positions)
    }

    /// The call on the buffers as they lie here.
    pub fn addressed(&mut self) -> (Append<Raw>, Positions<RawIds>) {
        let address =
            |memory: &mut Memory| memory.bytes_mut().as_mut_ptr().expose_provenance() as u64;
        let addresses: Vec<u64> = self.buffers.iter_mut().map(address).collect();
        self.call(&addresses)
    }
}

impl Built {
    /// The buffer of q's rows.
    pub fn rows(&self) -> usize {
        self.q[0]
    }

    /// Those of k's and v's caches.
    pub fn caches(&self) -> [usize; 2] {
        self.caches
    }

    /// Buffers that views end in with their last element, and the bytes of one: those that must not be shorter.
    pub fn views(&self) -> Vec<(usize, usize)> {
        let (case, element) = (&self.case, self.case.dtype.size());
        let mut all = Vec::new();
        for (tensor, [from, to]) in [(&case.q, [self.q[0], self.q[1]]), (&case.k, self.k)] {
            let Some((layout, target)) = tensor else { continue };
            // Of a tensor that rotates in place, and in part, nothing is asked but that it is there.
            if layout.shape()[2] > 0 && !case.packed {
                let size = if matches!(target, To::Fp8(..)) { 1 } else { element };
                all.extend([(from, element), (to, size)]);
            }
        }
        if case.v.is_some() && !case.packed {
            all.push((self.v, element));
        }
        if let Some(cache) = case.cache.as_ref().filter(|cache| !cache.shared) {
            let of = |(i, layout): (usize, &Option<KvLayout>)| {
                let [pages, ..] = layout.as_ref()?.shape();
                (pages > 0).then_some((self.caches[i], cache.stored.size()))
            };
            all.extend(cache.layouts.iter().enumerate().filter_map(of));
        }
        all
    }

    /// Makes a buffer so many bytes shorter than it is.
    pub fn shorten(&mut self, buffer: usize, bytes: usize) {
        self.buffers[buffer].len -= bytes;
    }

    /// Writes the first slot, of 32 bits.
    pub fn set_first_slot(&mut self, slot: i32) {
        self.buffers[self.slots].bytes_mut()[..4].copy_from_slice(&slot.to_le_bytes());
    }

    /// Positions from `start` on.
    pub fn set_start(&mut self, start: i64) {
        self.positions = Positions::consecutive(start);
    }

    /// Panics unless these elements of a buffer are those of another call's.
    pub fn assert_same(&self, other: &Self, buffer: usize, elements: std::ops::Range<usize>) {
        let size = self.case.dtype.size();
        let range = elements.start * size..elements.end * size;
        let [a, b] = [self, other].map(|call| &call.buffers[buffer].bytes()[range.clone()]);
        assert!(a == b, "elements {elements:?} of buffer {buffer} differ");
    }
}

fn kv_end(layout: &KvLayout) -> usize {
    let [pages, page_size, heads, head_dim] = layout.shape();
    end(&Layout::bshd(pages, page_size, heads, head_dim)
        .with_strides(layout.strides())
        .at(layout.offset()))
}

fn id_bytes(ids: &Values) -> Vec<u8> {
    match ids {
        Values::I32(ids) => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        Values::I64(ids) => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        Values::U32(ids) => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
    }
}

fn id_list(ids: &Values, address: u64) -> RawIds {
    use condensed_rope::IndexType;
    let dtype = match ids {
        Values::I32(_) => IndexType::I32,
        Values::I64(_) => IndexType::I64,
        Values::U32(_) => IndexType::U32,
    };
    RawIds::new(dtype, address, ids.len())
}

/// Bits of the nearest element.
fn narrow(dtype: Dtype, value: f32) -> u32 {
    match dtype {
        Dtype::F32 => value.to_bits(),
        Dtype::F16 => f16::from_f32(value).to_bits().into(),
        _ => bf16::from_f32(value).to_bits().into(),
    }
}

/// Zeros, infinities, NaNs with payloads, the smallest and the largest.
fn special(dtype: Dtype, which: usize) -> u32 {
    match dtype {
        Dtype::F32 => [
            0,
            0x8000_0000,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_1234,
            0xffa0_0001,
            1,
            0x7f7f_ffff,
            0x8080_0000,
        ][which],
        Dtype::F16 => [0, 0x8000, 0x7c00, 0xfc00, 0x7e12, 0xfd01, 1, 0x7bff, 0x8400][which],
        _ => [0, 0x8000, 0x7f80, 0xff80, 0x7fc5, 0xffa1, 1, 0x7f7f, 0x8080][which],
    }
}
