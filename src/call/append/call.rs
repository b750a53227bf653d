//! The call.

use super::cache::{KvCache, Scale};
use super::memory::{Lower, Memory, Raw, RawMemory};
use super::norm::QkNorm;
use super::slots::SlotMapping;
use crate::call::Names;
use crate::{Dtype, Error, Layout, RawBuffer, RawIds, RawOperand, Result};

/// Rows that are only read: v's, or k's that go to the cache and nowhere else.
#[derive(Debug)]
pub struct Rows<M: Memory> {
    pub(crate) tensor: M::Tensor,
    pub(crate) layout: Layout,
}

impl<M: Memory> Rows<M> {
    /// Heads of `layout` in `tensor`.
    pub fn new(tensor: impl Into<M::Tensor>, layout: Layout) -> Self {
        Self { tensor: tensor.into(), layout }
    }
}

/// Query heads, and where they go.
#[derive(Debug)]
#[non_exhaustive]
pub enum Queries<M: Memory> {
    /// As elements: in place, or to another tensor.
    Heads(M::Heads),
    /// As 8-bit floats, to another tensor: rounded to the element type first, times the reciprocal of the scale.
    Converted {
        /// Where they are read.
        rows: Rows<M>,
        /// Where they go.
        target: M::Buffer,
        /// How they lie there.
        layout: Layout,
        /// For all heads, or of each.
        scale: Scale<M::Tensor>,
    },
}

/// Key heads, and where they go besides the cache.
#[derive(Debug)]
#[non_exhaustive]
pub enum Keys<M: Memory> {
    /// The rotated rows go in place, or to another tensor.
    Heads(M::Heads),
    /// Nowhere.
    Rows(Rows<M>),
}

/// Queries, keys and values of one call.
#[derive(Debug)]
enum Qkv<M: Memory> {
    Apart { q: Option<Queries<M>>, k: Option<Keys<M>>, v: Option<Rows<M>> },
    Packed { qkv: M::Buffer, layouts: [Option<Layout>; 3], keeps_keys: bool },
}

/// One call before attention: RMSNorm of query and key heads, their rotation, and keys and values into a cache.
///
/// Each part may be absent: without a norm it is a rotation and an append; without a cache, norm and rotation; with q
/// alone, what a layer does that shares another one's cache.
#[derive(Debug)]
pub struct Append<M: Memory> {
    qkv: Qkv<M>,
    norm: QkNorm<M>,
    cache: Option<(KvCache<M>, SlotMapping<M::Ids>)>,
}

impl<M: Memory> Append<M> {
    /// Of queries, keys and values in tensors of their own.
    pub fn new(q: Option<Queries<M>>, k: Option<Keys<M>>, v: Option<Rows<M>>) -> Self {
        Self { qkv: Qkv::Apart { q, k, v }, norm: QkNorm::none(), cache: None }
    }

    /// Of views of one buffer, q and k in place.
    pub fn packed(
        qkv: impl Into<M::Buffer>,
        q: Option<Layout>,
        k: Option<Layout>,
        v: Option<Layout>,
    ) -> Self {
        let qkv = Qkv::Packed { qkv: qkv.into(), layouts: [q, k, v], keeps_keys: false };
        Self { qkv, norm: QkNorm::none(), cache: None }
    }

    /// Of a packed call: keys stay as they are in the buffer, and go to the cache alone.
    pub fn keeping_keys(mut self) -> Self {
        if let Qkv::Packed { keeps_keys, .. } = &mut self.qkv {
            *keeps_keys = true;
        }
        self
    }

    /// With a norm of query and key heads.
    pub fn with_norm(self, norm: QkNorm<M>) -> Self {
        Self { norm, ..self }
    }

    /// With a cache that keys, and values where there are any, go to.
    pub fn with_cache(self, cache: KvCache<M>, slots: SlotMapping<M::Ids>) -> Self {
        Self { cache: Some((cache, slots)), ..self }
    }

    pub(crate) fn lower<'a>(&'a mut self, by: &mut impl Lower<'a, M>) -> Result<RawAppend> {
        let (q, k, v) = match &mut self.qkv {
            Qkv::Apart { q, k, v } => (
                q.as_mut().map(|q| q.lower(by)).transpose()?,
                k.as_mut().map(|k| k.lower(by)).transpose()?,
                v.as_ref().map(|v| v.lower("v", by)).transpose()?,
            ),
            Qkv::Packed { qkv, layouts, keeps_keys } => {
                let RawMemory { stored, buffer } = by.buffer("qkv", qkv)?;
                let crate::Stored::Element(dtype) = stored else {
                    let (expected, given) = ("f32, f16 or bf16", stored.name().to_owned());
                    return Err(Error::Dtype { tensor: "qkv", expected, given });
                };
                let [q, k, v] = *layouts;
                let in_place = |layout| RawOperand::in_place(dtype, buffer, layout);
                let rows = |layout| RawRows { dtype, buffer, layout };
                let keeps_keys = *keeps_keys;
                let k = k.map(|k| {
                    if keeps_keys { RawKeys::Rows(rows(k)) } else { RawKeys::Heads(in_place(k)) }
                });
                (q.map(|q| RawQueries::Heads(in_place(q))), k, v.map(rows))
            }
        };
        let norm = self.norm.lower(by)?;
        let cache = match &mut self.cache {
            None => None,
            Some((cache, slots)) => Some((cache.lower(by)?, slots.lower(by)?)),
        };
        Ok(RawAppend { q, k, v, norm, cache })
    }
}

impl<M: Memory> Rows<M> {
    fn lower<'a>(&'a self, name: &'static str, by: &mut impl Lower<'a, M>) -> Result<RawRows> {
        let tensor = by.tensor(name, &self.tensor)?;
        Ok(RawRows { dtype: tensor.dtype, buffer: tensor.buffer, layout: self.layout })
    }
}

impl<M: Memory> Queries<M> {
    fn lower<'a>(&'a mut self, by: &mut impl Lower<'a, M>) -> Result<RawQueries> {
        Ok(match self {
            Self::Heads(heads) => RawQueries::Heads(by.heads(Names::Q, heads)?),
            Self::Converted { rows, target, layout, scale } => RawQueries::Converted {
                rows: rows.lower("q source", by)?,
                target: by.buffer("q", target)?,
                layout: *layout,
                scale: scale.lower("q scale", by)?,
            },
        })
    }
}

impl<M: Memory> Keys<M> {
    fn lower<'a>(&'a mut self, by: &mut impl Lower<'a, M>) -> Result<RawKeys> {
        Ok(match self {
            Self::Heads(heads) => RawKeys::Heads(by.heads(Names::K, heads)?),
            Self::Rows(rows) => RawKeys::Rows(rows.lower("k", by)?),
        })
    }
}

impl From<RawOperand> for Queries<Raw> {
    fn from(heads: RawOperand) -> Self {
        Self::Heads(heads)
    }
}

impl From<RawOperand> for Keys<Raw> {
    fn from(heads: RawOperand) -> Self {
        Self::Heads(heads)
    }
}

impl<M: Memory> From<Rows<M>> for Keys<M> {
    fn from(rows: Rows<M>) -> Self {
        Self::Rows(rows)
    }
}

/// The call by address, whatever it was made of.
#[derive(Debug)]
pub(crate) struct RawAppend {
    pub q: Option<RawQueries>,
    pub k: Option<RawKeys>,
    pub v: Option<RawRows>,
    pub norm: QkNorm<Raw>,
    pub cache: Option<(KvCache<Raw>, SlotMapping<RawIds>)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct RawRows {
    pub dtype: Dtype,
    pub buffer: RawBuffer,
    pub layout: Layout,
}

#[derive(Debug)]
pub(crate) enum RawQueries {
    Heads(RawOperand),
    Converted { rows: RawRows, target: RawMemory, layout: Layout, scale: Scale<super::RawTensor> },
}

#[derive(Debug)]
pub(crate) enum RawKeys {
    Heads(RawOperand),
    Rows(RawRows),
}

/// By address, as it is.
struct AsItIs;

impl<'a> Lower<'a, Raw> for AsItIs {
    fn heads(&mut self, _: Names, heads: &'a mut RawOperand) -> Result<RawOperand> {
        Ok(*heads)
    }
    fn tensor(
        &mut self,
        _: &'static str,
        tensor: &'a super::RawTensor,
    ) -> Result<super::RawTensor> {
        Ok(*tensor)
    }
    fn buffer(&mut self, _: &'static str, buffer: &'a mut RawMemory) -> Result<RawMemory> {
        Ok(*buffer)
    }
    fn ids(&mut self, _: &'static str, ids: &'a RawIds) -> Result<RawIds> {
        Ok(*ids)
    }
}

impl Append<Raw> {
    /// Every check, for planners.
    ///
    /// # Errors
    /// Those of [`cpu::Rope::rotate_append_raw`](crate::cpu::Rope::rotate_append_raw).
    #[doc(hidden)]
    pub fn checked(
        self,
        spec: &crate::RopeSpec,
        positions: crate::Positions<RawIds>,
    ) -> Result<super::CheckedAppend> {
        self.raw()?.check(spec, positions)
    }

    pub(crate) fn raw(mut self) -> Result<RawAppend> {
        self.lower(&mut AsItIs)
    }
}
