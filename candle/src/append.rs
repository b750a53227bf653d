//! Norm, rotation and append over tensors.

use candle_core::{DType, Result, Tensor};
use condensed_rope::{
    DimOrder, Error, KvLayout, Layout, QkNorm, Raw, RawIds, RawMemory, RawOperand, RawTensor, Rows,
    Scale, SlotMapping, Stored,
};

use crate::locks::{self, Access, Held};
use crate::memory::{Stream, wrap};
use crate::rope::{Heads, element, same_device, untracked};
use crate::{Positions, Rope, positions};

/// RMSNorm of query and key heads, before they rotate. Weights are `head_dim` elements of q's type, contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Of q; `None`: it is not normalised.
    pub q_weight: Option<&'a Tensor>,
    /// Of k.
    pub k_weight: Option<&'a Tensor>,
    /// Added to the mean of the squares.
    pub eps: f32,
    /// Weights are one less than what they multiply by (Gemma 3).
    pub unit_offset: bool,
}

/// Which slot each token goes to.
#[derive(Clone, Copy, Debug)]
pub enum Slots<'a> {
    /// `[tokens]` of u32, i32 or i64; those that the cache does not have store nothing.
    Ids(&'a Tensor),
    /// `[sequences, pages]`, contiguous: a token at position `p` goes to entry `p % page_size` of its page `p / page_size`.
    PageTable(&'a Tensor),
}

/// Where keys and values go: `[pages, page_size, heads, head_dim]` of any strides (a transposed `[pages, heads, page_size,
/// head_dim]`, say), or `[slots, heads, head_dim]`; of q's type, or F8E4M3.
#[derive(Clone, Copy, Debug)]
pub struct KvCache<'a> {
    /// Of keys.
    pub keys: &'a Tensor,
    /// Of values, if there are any. A view of the same tensor is one.
    pub values: Option<&'a Tensor>,
    /// The tokens' slots.
    pub slots: Slots<'a>,
    /// First slots that nothing is stored in.
    pub reserved: usize,
    /// What 8-bit floats are multiplied by to be what they stand for: f32 tensors of one, or of one a head.
    pub scales: [Option<&'a Tensor>; 2],
}

/// Queries, keys and values of one call, as much of it as there is.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// Rotated where it lies.
    pub q: Option<&'a Tensor>,
    /// Rotated where it lies, where `writes_k`; into the cache, where there is one.
    pub k: Option<&'a Tensor>,
    /// Into the cache.
    pub v: Option<&'a Tensor>,
    /// Whether k's own rows are written.
    pub writes_k: bool,
    /// Without one nothing is normalised.
    pub norm: Option<Norm<'a>>,
    /// Without one nothing is appended.
    pub cache: Option<KvCache<'a>>,
}

impl Rope {
    /// Normalises q and k, rotates them, and appends k and v to a cache, in one launch. Nothing is allocated.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use condensed_rope::{DimOrder, Frequencies, Pairing, Positions};
    /// use condensed_rope_candle::{Append, KvCache, Norm, Rope, Slots};
    ///
    /// let device = Device::Cpu;
    /// let rope = Rope::new(&device, &Frequencies::new(64, 1e6)?, Pairing::HalfSplit)?;
    /// // One token of 4 query heads and 2 key and value heads, into slot 35 of pages of 16.
    /// let new = |heads| Tensor::rand(-1f32, 1f32, (1, heads, 1, 64), &device);
    /// let (q, k, v) = (new(4)?, new(2)?, new(2)?);
    /// let [keys, values] = [0, 1].map(|_| Tensor::zeros((10, 16, 2, 64), DType::F32, &device));
    /// let (keys, values) = (keys?, values?);
    /// let weight = Tensor::ones(64, DType::F32, &device)?;
    /// let slots = Tensor::new(&[35i64], &device)?;
    /// let call = Append {
    ///     q: Some(&q),
    ///     k: Some(&k),
    ///     v: Some(&v),
    ///     writes_k: false,
    ///     norm: Some(Norm { q_weight: Some(&weight), k_weight: Some(&weight), eps: 1e-6, unit_offset: false }),
    ///     cache: Some(KvCache {
    ///         keys: &keys,
    ///         values: Some(&values),
    ///         slots: Slots::Ids(&slots),
    ///         reserved: 0,
    ///         scales: [None; 2],
    ///     }),
    /// };
    /// rope.rotate_append(DimOrder::Bhsd, &call, &Positions::consecutive(35))?;
    /// let stored = values.get(2)?.get(3)?;
    /// assert_eq!(stored.to_vec2::<f32>()?, v.squeeze(2)?.squeeze(0)?.to_vec2::<f32>()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`rotate_in_place`](Self::rotate_in_place), and the core's of weights, caches, scales and slots; for tensors whose
    /// gradient is tracked.
    pub fn rotate_append(
        &self,
        order: DimOrder,
        call: &Append,
        positions: &Positions,
    ) -> Result<()> {
        let call = Call::new(self, order, call)?;
        self.check_positions(positions)?;
        let accessed = positions::accessed(positions);
        let mut accesses = call.accesses();
        accessed.as_ref().map(|access| accesses.push(*access));
        let stream = Stream::of(call.first.device());
        locks::with_all(&accesses, &stream, &mut |held| {
            let positions = positions::raw(&accessed, held, call.batch_seq)?;
            let raw = call.raw(held)?;
            // SAFETY: every buffer is held until the call returns, what is written exclusively, and their lengths are known, so
            // that the checks keep to them; on a GPU the stream is of the tensors' own device handle.
            unsafe { self.any().rotate_append_raw(stream.raw(), raw, positions) }.map_err(wrap)
        })
    }
}

/// A call whose tensors were looked at.
struct Call<'a> {
    given: &'a Append<'a>,
    first: &'a Tensor,
    batch_seq: [usize; 2],
    q: Option<(Heads, Access<'a>)>,
    k: Option<(Heads, Access<'a>)>,
    v: Option<(Heads, Access<'a>)>,
    weights: [Option<Access<'a>>; 2],
    cache: Option<Cache<'a>>,
}

struct Cache<'a> {
    pages: [Option<(Stored, KvLayout, Access<'a>)>; 2],
    scales: [Option<Access<'a>>; 2],
    slots: Access<'a>,
}

impl<'a> Call<'a> {
    fn new(rope: &Rope, order: DimOrder, given: &'a Append<'a>) -> Result<Self> {
        let Append { q, k, v, writes_k, norm, cache } = given;
        let first = q.or(*k).or(*v).ok_or_else(|| wrap(Error::NoTensors))?;
        let writes = |tensor: &'a Tensor, writes| match writes {
            true => Access::write(tensor),
            false => Access::read(tensor),
        };
        let heads = |name, tensor: &Option<&'a Tensor>, written: bool| -> Result<_> {
            let Some(tensor) = *tensor else { return Ok(None) };
            untracked(name, Some(tensor))?;
            let heads = Heads::of(rope, order, name, tensor)?;
            Ok(Some((heads, writes(tensor, written))))
        };
        let (q, k) = (heads("q", q, true)?, heads("k", k, *writes_k)?);
        let v = heads("v", v, false)?.map(|(heads, access)| (heads.unrotated(), access));
        let list = |name, tensor: Option<&'a Tensor>| -> Result<Option<Access<'a>>> {
            let Some(tensor) = tensor else { return Ok(None) };
            same_device(rope, name, tensor)?;
            if tensor.is_contiguous() {
                return Ok(Some(Access::read(tensor)));
            }
            let given = format!("strides {:?}", tensor.stride());
            Err(wrap(Error::Tensor { tensor: name, expected: "contiguous", given }))
        };
        let weights = match norm {
            Some(norm) => [list("q weights", norm.q_weight)?, list("k weights", norm.k_weight)?],
            None => [None; 2],
        };
        let cache = match cache {
            None => None,
            Some(cache) => {
                let (Slots::Ids(slots) | Slots::PageTable(slots)) = cache.slots;
                positions::index_type("slot_mapping", slots.dtype())?;
                let of = |name, tensor: Option<&'a Tensor>| -> Result<_> {
                    let Some(tensor) = tensor else { return Ok(None) };
                    same_device(rope, name, tensor)?;
                    untracked(name, Some(tensor))?;
                    let (stored, layout) = pages(name, tensor)?;
                    Ok(Some((stored, layout, Access::write(tensor))))
                };
                let slots = list("slot_mapping", Some(slots))?.unwrap_or(Access::read(slots));
                Some(Cache {
                    pages: [of("key cache", Some(cache.keys))?, of("value cache", cache.values)?],
                    scales: [
                        list("key scale", cache.scales[0])?,
                        list("value scale", cache.scales[1])?,
                    ],
                    slots,
                })
            }
        };
        let (heads, _) = q.or(k).or(v).ok_or_else(|| wrap(Error::NoTensors))?;
        let [batch, seq, ..] = heads.layout().shape();
        Ok(Self { given, first, batch_seq: [batch, seq], q, k, v, weights, cache })
    }

    fn accesses(&self) -> Vec<Access<'a>> {
        let rows = [self.q, self.k, self.v].into_iter().flatten().map(|(_, access)| access);
        let mut all: Vec<_> = rows.chain(self.weights.into_iter().flatten()).collect();
        if let Some(cache) = &self.cache {
            all.extend(cache.pages.into_iter().flatten().map(|(_, _, access)| access));
            all.extend(cache.scales.into_iter().flatten());
            all.push(cache.slots);
        }
        all
    }

    /// By address, while all tensors are held.
    fn raw(&self, held: Held) -> Result<condensed_rope::Append<Raw>> {
        let in_place = |(heads, access): (Heads, Access)| {
            RawOperand::in_place(heads.dtype, held.span(access).buffer, *heads.layout())
        };
        let rows = |(heads, access): (Heads, Access)| {
            let tensor = RawTensor::new(heads.dtype, held.span(access).buffer);
            Rows::new(tensor, *heads.layout())
        };
        let k = self.k.map(|k| match self.given.writes_k {
            true => in_place(k).into(),
            false => rows(k).into(),
        });
        let q = self.q.map(|q| in_place(q).into());
        let mut call = condensed_rope::Append::new(q, k, self.v.map(rows));
        if let Some(norm) = self.given.norm {
            let mut of = QkNorm::rms(norm.eps);
            if let Some(weights) = self.weights[0] {
                of = of.q(list(held, "q weights", weights)?);
            }
            if let Some(weights) = self.weights[1] {
                of = of.k(list(held, "k weights", weights)?);
            }
            call = call.with_norm(if norm.unit_offset { of.unit_offset() } else { of });
        }
        let (Some(cache), Some(given)) = (&self.cache, self.given.cache) else { return Ok(call) };
        let memory = |(stored, layout, access): (Stored, KvLayout, Access)| {
            (RawMemory::new(stored, held.span(access).buffer), layout)
        };
        let scale = |name, scale: Option<Access>| -> Result<Scale<RawTensor>> {
            scale.map_or(Ok(Scale::ONE), |scale| Ok(Scale::Tensor(list(held, name, scale)?)))
        };
        let [Some(keys), values] = cache.pages else { return Ok(call) };
        let (keys, key_layout) = memory(keys);
        let kv = match values.map(memory) {
            Some((values, layout)) => {
                condensed_rope::KvCache::new(keys, key_layout, values, layout)
            }
            None => condensed_rope::KvCache::keys(keys, key_layout),
        };
        let [k, v] = cache.scales;
        let kv = kv.with_scales(scale("key scale", k)?, scale("value scale", v)?);
        let tensor = cache.slots.tensor;
        let dtype = positions::index_type("slot_mapping", tensor.dtype())?;
        let address =
            held.span(cache.slots).address + (tensor.layout().start_offset() * dtype.size()) as u64;
        let ids = RawIds::new(dtype, address, tensor.elem_count());
        let slots = match given.slots {
            Slots::Ids(_) => SlotMapping::ids(ids),
            Slots::PageTable(table) => SlotMapping::page_table(ids, table.dims2()?.1),
        };
        Ok(call.with_cache(kv, slots.reserved(given.reserved)))
    }
}

/// A contiguous tensor's elements.
fn list(held: Held, name: &'static str, access: Access) -> Result<RawTensor> {
    let tensor = access.tensor;
    let dtype = element(name, tensor.dtype())?;
    let first = (tensor.layout().start_offset() * dtype.size()) as u64;
    let buffer =
        condensed_rope::RawBuffer::new(held.span(access).address + first, tensor.elem_count());
    Ok(RawTensor::new(dtype, buffer))
}

fn pages(name: &'static str, tensor: &Tensor) -> Result<(Stored, KvLayout)> {
    let stored = match tensor.dtype() {
        DType::F8E4M3 => Stored::Fp8E4M3,
        other => element(name, other)?.into(),
    };
    let view = tensor.layout();
    let (mut sizes, mut strides) = (view.dims().to_vec(), view.stride().to_vec());
    if sizes.len() == 3 {
        sizes.insert(1, 1);
        strides.insert(1, 0);
    }
    let signed = |list: &[usize]| list.iter().map(|&n| n as i64).collect::<Vec<_>>();
    let (sizes, strides) = (signed(&sizes), signed(&strides));
    let layout =
        Layout::from_sizes_strides(name, DimOrder::Bshd, &sizes, &strides).map_err(wrap)?;
    let [number, size, heads, head_dim] = layout.shape();
    let pages = KvLayout::nhd(number, size, heads, head_dim).with_strides(layout.strides());
    Ok((stored, pages.at(view.start_offset())))
}
