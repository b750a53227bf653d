use tch::{Device, Kind, Tensor};

use crate::Pairing;

/// FastChat's `CondenseRotaryEmbedding.forward`, operation for operation: f32 angles, then a cast.
/// cos and sin of `[1, 1, seq_len, dim]` in `kind`.
pub fn fastchat(dim: i64, ratio: f64, base: f64, seq_len: i64, kind: Kind) -> (Tensor, Tensor) {
    let options = (Kind::Float, Device::Cpu);
    let exponent = Tensor::arange_start_step(0, dim, 2, options) / dim as f64;
    let inv_freq = Tensor::from(base).to_kind(Kind::Float).pow(&exponent).reciprocal();
    let t = Tensor::arange(seq_len, options) / ratio;
    let freqs = t.outer(&inv_freq);
    let emb = Tensor::cat(&[&freqs, &freqs], -1);
    let table = |values: Tensor| values.unsqueeze(0).unsqueeze(0).to_kind(kind);
    (table(emb.cos()), table(emb.sin()))
}

/// transformers' Llama flow: f32 angles of `position_ids` `[batch, seq]` by `inv_freq` `[dim / 2]`,
/// cos and sin cast to the tensor's type, then `x * cos + rotate_half(x) * sin` in that type. `x` is
/// `[batch, heads, seq, dim]`, and so is what comes back.
pub fn hf_llama(x: &Tensor, position_ids: &Tensor, inv_freq: &Tensor) -> Tensor {
    let inv_freq = inv_freq.to_kind(Kind::Float).to_device(x.device());
    let positions = position_ids.to_kind(Kind::Float).to_device(x.device());
    let freqs = positions.unsqueeze(-1) * inv_freq;
    let emb = Tensor::cat(&[&freqs, &freqs], -1);
    let table = |values: Tensor| values.to_kind(x.kind()).unsqueeze(1);
    rotate_by_table(x, &table(emb.cos()), &table(emb.sin()))
}

/// `x * cos + rotate_half(x) * sin`, by tables that broadcast to `x`.
pub fn rotate_by_table(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let halves = x.chunk(2, -1);
    let rotated = Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1);
    x * cos + rotated * sin
}

/// The rotation in f64: `x` `[batch, heads, seq, head_dim]` by `position_ids` `[batch, seq]`, of the
/// first `2 * inv_freq.len()` channels, in f64 whatever `x` is in.
///
/// Exact to `|position * inv_freq| * 2^-51` radians: enough for truth up to a million positions.
pub fn truth(x: &Tensor, position_ids: &Tensor, inv_freq: &[f64], pairing: Pairing) -> Tensor {
    let pairs = inv_freq.len() as i64;
    let (x, device) = (x.to_kind(Kind::Double), x.device());
    let inv_freq = Tensor::from_slice(inv_freq).to_device(device);
    let positions = position_ids.to_kind(Kind::Double).to_device(device);
    let freqs = (positions.unsqueeze(-1) * inv_freq).unsqueeze(1); // [batch, 1, seq, pairs]
    let (cos, sin) = (freqs.cos(), freqs.sin());
    let head_dim = x.size()[3];
    let rest = x.narrow(-1, 2 * pairs, head_dim - 2 * pairs);
    let rotary = x.narrow(-1, 0, 2 * pairs);
    let (first, second) = match pairing {
        Pairing::HalfSplit => (rotary.narrow(-1, 0, pairs), rotary.narrow(-1, pairs, pairs)),
        Pairing::Interleaved => {
            (rotary.slice(-1, 0, 2 * pairs, 2), rotary.slice(-1, 1, 2 * pairs, 2))
        }
    };
    let turned = [&first * &cos - &second * &sin, &second * &cos + &first * &sin];
    let rotary = match pairing {
        Pairing::HalfSplit => Tensor::cat(&turned, -1),
        Pairing::Interleaved => Tensor::stack(&turned, -1).flatten(-2, -1),
    };
    Tensor::cat(&[rotary, rest], -1)
}
