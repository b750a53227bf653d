//! A Llama-family model (Llama, Mistral, Qwen 2 and 3) whose rotary step is this crate's: norms of q and k, their rotation, and
//! k and v into the cache in one launch.

use candle_core::{D, DType, Device, Error, Result, Tensor};
use candle_nn::ops::{rms_norm, silu, softmax_last_dim};
use condensed_rope_candle::{
    Append, DimOrder, KvCache, Norm, Positions, Rope, RotaryEmbedding, Slots,
};

use crate::weights::{Sizes, Weights};

/// Who rotates: this crate, with norms and appends in its launch, or without them, or candle-nn by tables, for comparison.
pub enum Rotation {
    Fused(RotaryEmbedding),
    Ours(RotaryEmbedding),
    CandleNn { cos: Tensor, sin: Tensor, interleaved: bool },
}

pub struct Model {
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Tensor,
    rotation: Rotation,
    pub sizes: Sizes,
    cache: Cache,
}

struct Layer {
    attention_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// Of each head of q and k, before the rotation (Qwen 3).
    q_norm: Option<Tensor>,
    k_norm: Option<Tensor>,
    mlp_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// `x Wᵀ + b`.
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// k and v of every layer, `[1, kv_heads, capacity, head_dim]`.
struct Cache {
    layers: Vec<(Tensor, Tensor)>,
    len: usize,
    capacity: usize,
}

/// Queries, and the keys and values that they look at, `[1, heads, tokens, head_dim]`.
type Qkv = (Tensor, Tensor, Tensor);

impl Linear {
    fn new(weights: &Weights, name: &str) -> Result<Self> {
        let weight = weights.get(&format!("{name}.weight"))?;
        Ok(Self { weight, bias: weights.find(&format!("{name}.bias"))? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, seq, width) = x.dims3()?;
        let y = x.reshape((batch * seq, width))?.matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        y.reshape((batch, seq, ()))
    }
}

impl Cache {
    fn new(sizes: &Sizes, capacity: usize, dtype: DType, device: &Device) -> Result<Self> {
        let shape = (1, sizes.kv_heads, capacity, sizes.head_dim);
        let empty = || Tensor::zeros(shape, dtype, device);
        let layers = (0..sizes.layers).map(|_| Ok((empty()?, empty()?))).collect::<Result<_>>()?;
        Ok(Self { layers, len: 0, capacity })
    }
}

impl Model {
    /// With a cache for `capacity` tokens.
    pub fn new(weights: &Weights, rotation: Rotation, capacity: usize) -> Result<Self> {
        let sizes = weights.sizes.clone();
        let layer = |index: usize| -> Result<Layer> {
            let name = |part: &str| format!("model.layers.{index}.{part}");
            let linear = |part: &str| Linear::new(weights, &name(part));
            Ok(Layer {
                attention_norm: weights.get(&name("input_layernorm.weight"))?,
                q: linear("self_attn.q_proj")?,
                k: linear("self_attn.k_proj")?,
                v: linear("self_attn.v_proj")?,
                o: linear("self_attn.o_proj")?,
                q_norm: weights.find(&name("self_attn.q_norm.weight"))?,
                k_norm: weights.find(&name("self_attn.k_norm.weight"))?,
                mlp_norm: weights.get(&name("post_attention_layernorm.weight"))?,
                gate: linear("mlp.gate_proj")?,
                up: linear("mlp.up_proj")?,
                down: linear("mlp.down_proj")?,
            })
        };
        let embedding = weights.get("model.embed_tokens.weight")?;
        let head = weights.find("lm_head.weight")?.unwrap_or_else(|| embedding.clone());
        let cache = Cache::new(&sizes, capacity, embedding.dtype(), embedding.device())?;
        Ok(Self {
            layers: (0..sizes.layers).map(layer).collect::<Result<_>>()?,
            norm: weights.get("model.norm.weight")?,
            embedding,
            head,
            rotation,
            sizes,
            cache,
        })
    }

    /// Logits of the last of these tokens, which are taken some hundreds at a time.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<Tensor> {
        let (last, before) =
            tokens.split_last().ok_or_else(|| Error::Msg("no tokens".to_owned()))?;
        for chunk in before.chunks(512) {
            self.forward(chunk)?;
        }
        self.forward(&[*last])
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.cache.len = 0;
    }

    /// Logits `[seq, vocabulary]` in f32 of the tokens that follow those in the cache.
    pub fn forward(&mut self, tokens: &[u32]) -> Result<Tensor> {
        let (start, seq) = (self.cache.len, tokens.len());
        if start + seq > self.cache.capacity {
            candle_core::bail!("the cache holds {} tokens: given more", self.cache.capacity);
        }
        let ids = Tensor::new(tokens, self.embedding.device())?;
        let mut x = self.embedding.index_select(&ids, 0)?.unsqueeze(0)?;
        let mask = self.mask(start, seq)?;
        // Of a flat cache of one sequence: its tokens, one after the other.
        let slots = Tensor::arange(start as u32, (start + seq) as u32, self.embedding.device())?;
        for index in 0..self.layers.len() {
            let layer = &self.layers[index];
            let h =
                self.attention(index, &self.normed(&x, &layer.attention_norm)?, &mask, &slots)?;
            x = (x + h)?;
            let h = self.normed(&x, &layer.mlp_norm)?;
            let h = (silu(&layer.gate.forward(&h)?)? * layer.up.forward(&h)?)?;
            x = (x + layer.down.forward(&h)?)?;
        }
        self.cache.len += seq;
        let x = self.normed(&x, &self.norm)?.squeeze(0)?;
        x.matmul(&self.head.t()?)?.to_dtype(DType::F32)
    }

    fn normed(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        rms_norm(&x.contiguous()?, weight, self.sizes.epsilon as f32)
    }

    fn attention(
        &self,
        index: usize,
        x: &Tensor,
        mask: &Option<Tensor>,
        slots: &Tensor,
    ) -> Result<Tensor> {
        let Sizes { heads, kv_heads, head_dim, .. } = self.sizes;
        let (start, seq) = (self.cache.len, x.dim(1)?);
        let (q, k, v) = match &self.rotation {
            Rotation::Fused(rotary) => match rotary.layer(index)? {
                Some(rope) => self.fused(index, rope, x, slots)?,
                None => self.apart(index, x)?,
            },
            _ => self.apart(index, x)?,
        };

        // Queries that share a key lie in a row: no copies of keys.
        let group = heads / kv_heads;
        let q = (q.reshape((1, kv_heads, group * seq, head_dim))? / (head_dim as f64).sqrt())?;
        let scores = q.matmul(&k.transpose(2, 3)?)?.to_dtype(DType::F32)?;
        let scores = match mask {
            None => scores,
            Some(mask) => {
                let scores = scores.reshape((kv_heads, group, seq, start + seq))?;
                let scores = scores.broadcast_add(mask)?;
                scores.reshape((1, kv_heads, group * seq, start + seq))?
            }
        };
        let weights = softmax_last_dim(&scores)?.to_dtype(x.dtype())?;
        let h = weights.matmul(&v.contiguous()?)?.reshape((1, heads, seq, head_dim))?;
        let h = h.transpose(1, 2)?.reshape((1, seq, heads * head_dim))?;
        self.layers[index].o.forward(&h)
    }

    /// q normalised and rotated, and what is filled of the caches: one launch behind the projections.
    fn fused(&self, index: usize, rope: &Rope, x: &Tensor, slots: &Tensor) -> Result<Qkv> {
        let Sizes { heads, kv_heads, head_dim, .. } = self.sizes;
        let (layer, (start, seq)) = (&self.layers[index], (self.cache.len, x.dim(1)?));
        let split = |x: Tensor, heads: usize| x.reshape((1, seq, heads, head_dim));
        let q = split(layer.q.forward(x)?, heads)?;
        let k = split(layer.k.forward(x)?, kv_heads)?;
        let v = split(layer.v.forward(x)?, kv_heads)?;
        let (keys, values) = &self.cache.layers[index];
        // [capacity, kv_heads, head_dim]: slots of one entry.
        let flat = |cache: &Tensor| cache.squeeze(0)?.transpose(0, 1);
        let norm = Norm {
            q_weight: layer.q_norm.as_ref(),
            k_weight: layer.k_norm.as_ref(),
            eps: self.sizes.epsilon as f32,
            unit_offset: false,
        };
        let call = Append {
            q: Some(&q),
            k: Some(&k),
            v: Some(&v),
            writes_k: false,
            norm: Some(norm),
            cache: Some(KvCache {
                keys: &flat(keys)?,
                values: Some(&flat(values)?),
                slots: Slots::Ids(slots),
                reserved: 0,
                scales: [None; 2],
            }),
        };
        rope.rotate_append(DimOrder::Bshd, &call, &Positions::consecutive(start as i64))?;
        let filled = |cache: &Tensor| cache.narrow(2, 0, start + seq);
        Ok((q.transpose(1, 2)?.contiguous()?, filled(keys)?, filled(values)?))
    }

    /// The same by norms, a rotation and appends of their own.
    fn apart(&self, index: usize, x: &Tensor) -> Result<Qkv> {
        let Sizes { heads, kv_heads, head_dim, .. } = self.sizes;
        let (layer, (start, seq)) = (&self.layers[index], (self.cache.len, x.dim(1)?));
        let split = |x: Tensor, heads: usize, norm: &Option<Tensor>| -> Result<Tensor> {
            let x = x.reshape((1, seq, heads, head_dim))?;
            let x = norm.as_ref().map_or(Ok(x.clone()), |norm| self.normed(&x, norm))?;
            x.transpose(1, 2)
        };
        let q = split(layer.q.forward(x)?, heads, &layer.q_norm)?;
        let k = split(layer.k.forward(x)?, kv_heads, &layer.k_norm)?;
        let v = split(layer.v.forward(x)?, kv_heads, &None)?;
        let (k_cache, v_cache) = &self.cache.layers[index];
        let (q, k) = self.rotate(index, &q, &k, k_cache, start)?;
        v_cache.slice_set(&v.contiguous()?, 2, start)?;
        Ok((q, k, v_cache.narrow(2, 0, start + seq)?))
    }

    /// q rotated; k rotated, in the cache, and all of the cache that is filled.
    fn rotate(
        &self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        cache: &Tensor,
        start: usize,
    ) -> Result<(Tensor, Tensor)> {
        let seq = q.dim(2)?;
        let append = |k: &Tensor| -> Result<Tensor> {
            cache.slice_set(&k.contiguous()?, 2, start)?;
            cache.narrow(2, 0, start + seq)
        };
        match &self.rotation {
            Rotation::Ours(rotary) | Rotation::Fused(rotary) => match rotary.layer(layer)? {
                Some(rope) => {
                    let positions = Positions::consecutive(start as i64);
                    rope.rotate_and_append(DimOrder::Bhsd, q, k, cache, start, &positions)
                }
                None => Ok((q.contiguous()?, append(k)?)),
            },
            Rotation::CandleNn { cos, sin, interleaved } => {
                let (cos, sin) = (cos.narrow(0, start, seq)?, sin.narrow(0, start, seq)?);
                let rope = match interleaved {
                    true => candle_nn::rotary_emb::rope_i,
                    false => candle_nn::rotary_emb::rope,
                };
                let q = rope(&q.contiguous()?, &cos, &sin)?;
                Ok((q, append(&rope(&k.contiguous()?, &cos, &sin)?)?))
            }
        }
    }

    /// What each of `seq` tokens must not see, `[seq, start + seq]`; `None` where a single one sees all.
    fn mask(&self, start: usize, seq: usize) -> Result<Option<Tensor>> {
        let window = self.sizes.sliding_window.unwrap_or(usize::MAX);
        if seq == 1 && start < window {
            return Ok(None);
        }
        let device = self.embedding.device();
        let queries = Tensor::arange(start as u32, (start + seq) as u32, device)?.unsqueeze(1)?;
        let keys = Tensor::arange(0, (start + seq) as u32, device)?.unsqueeze(0)?;
        let shape = (seq, start + seq);
        let (queries, keys) = (queries.broadcast_as(shape)?, keys.broadcast_as(shape)?);
        let mut hidden = keys.gt(&queries)?;
        if window < start + seq {
            let first = (&queries.to_dtype(DType::F32)? - window as f64)?;
            hidden = hidden.maximum(&keys.to_dtype(DType::F32)?.le(&first)?)?;
        }
        let never = Tensor::full(f32::NEG_INFINITY, shape, device)?;
        let zero = Tensor::zeros(shape, DType::F32, device)?;
        hidden.where_cond(&never, &zero).map(Some)
    }
}

/// The likeliest token of the last row.
pub fn likeliest(logits: &Tensor) -> Result<u32> {
    let last = logits.dim(0)? - 1;
    logits.get(last)?.argmax(D::Minus1)?.to_scalar()
}
