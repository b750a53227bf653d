"""flash_attn.layers.rotary's calls (2.8), where a Rope stands for cos, and None for sin."""

from __future__ import annotations

import torch

from .. import ops
from ..positions import Positions


def _rope(cos, sin, interleaved) -> ops.Rope:
    if not isinstance(cos, ops.Rope) or sin is not None:
        raise TypeError("expected a Rope in the place of cos, and None in that of sin: there are no tables")
    return cos.paired(interleaved)


def _positions(seqlen_offsets, cu_seqlens=None):
    if cu_seqlens is None:
        return Positions.starts(seqlen_offsets) if isinstance(seqlen_offsets, torch.Tensor) else int(seqlen_offsets)
    if isinstance(seqlen_offsets, torch.Tensor):
        return Positions.ragged(cu_seqlens, seqlen_offsets)
    starts = torch.full((cu_seqlens.shape[0] - 1,), int(seqlen_offsets), dtype=torch.int32, device=cu_seqlens.device)
    return Positions.ragged(cu_seqlens, starts if seqlen_offsets else None)


def apply_rotary_emb(x, cos: ops.Rope, sin=None, interleaved=False, inplace=False, seqlen_offsets=0, cu_seqlens=None,
                     max_seqlen=None):
    """x `[batch, seq, heads, head_dim]`, or `[tokens, heads, head_dim]` with `cu_seqlens`, rotated by positions from
    `seqlen_offsets` (one for all, or one a sequence) on. With a gradient, unless in place."""
    rope, positions = _rope(cos, sin, interleaved), _positions(seqlen_offsets, cu_seqlens)
    if not inplace:
        return ops.rotate(x, None, positions, rope, 1)
    ops.rotate_(x, None, positions, rope, 1)
    return x


def apply_rotary_emb_qkv_(qkv, cos: ops.Rope, sin=None, cos_k=None, sin_k=None, interleaved=False, seqlen_offsets=0,
                          num_heads_q=None):
    """q and k of `[batch, seq, 3, heads, head_dim]`, or of `[batch, seq, heads_q + 2 * heads_k, head_dim]` with
    `num_heads_q`, rotated in place; returns qkv."""
    if cos_k is not None or sin_k is not None:
        raise ValueError("expected one rope for q and k: given tables of their own for k")
    if qkv.dim() == 5:
        if qkv.shape[2] != 3:
            raise ValueError(f"expected [batch, seq, 3, heads, head_dim]: given {tuple(qkv.shape)}")
        q, k = qkv[:, :, 0], qkv[:, :, 1]
    else:
        if num_heads_q is None or qkv.dim() != 4 or (qkv.shape[2] - num_heads_q) % 2 or not 0 <= num_heads_q <= qkv.shape[2]:
            raise ValueError(f"expected [batch, seq, num_heads_q + 2 * heads_k, head_dim]: given {tuple(qkv.shape)} and num_heads_q {num_heads_q}")
        heads_k = (qkv.shape[2] - num_heads_q) // 2
        q, k = qkv[:, :, :num_heads_q], qkv[:, :, num_heads_q:num_heads_q + heads_k]
    ops.rotate_(q, k, _positions(seqlen_offsets), _rope(cos, sin, interleaved), 1)
    return qkv
