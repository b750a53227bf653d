"""FlashInfer's `apply_rope` family (0.7): q and k `[nnz, heads, head_dim]`. `rope_scale` is the condense ratio."""

from __future__ import annotations

import functools

from .. import ops
from .._core import Frequencies
from ..positions import Positions


@functools.lru_cache(maxsize=64)
def _rope(rotary_dim, interleave, rope_scale, rope_theta, *llama31) -> ops.Rope:
    if llama31:
        low_freq_factor, high_freq_factor, old_context_len = llama31
        frequencies = Frequencies.llama3(rotary_dim, float(rope_theta), float(rope_scale), float(low_freq_factor),
                                         float(high_freq_factor), int(old_context_len))
    else:
        frequencies = Frequencies(rotary_dim, float(rope_theta)).condensed(float(rope_scale))
    return ops.Rope(frequencies, bool(interleave))


def _rotate(call, q, k, positions, rotary_dim, *numbers):
    if q.dim() != 3:
        raise ValueError(f"expected q as [nnz, heads, head_dim]: given {tuple(q.shape)}")
    return call(q, k, positions, _rope(q.shape[-1] if rotary_dim is None else rotary_dim, *numbers), 1)


def apply_rope_pos_ids(q, k, pos_ids, rotary_dim=None, interleave=False, rope_scale=1, rope_theta=1e4):
    """q and k rotated by `pos_ids` `[nnz]`, as new tensors."""
    return _rotate(ops.rotate, q, k, pos_ids, rotary_dim, interleave, rope_scale, rope_theta)


def apply_rope_pos_ids_inplace(q, k, pos_ids, rotary_dim=None, interleave=False, rope_scale=1, rope_theta=1e4):
    """The same in place."""
    _rotate(ops.rotate_, q, k, pos_ids, rotary_dim, interleave, rope_scale, rope_theta)


def apply_rope(q, k, indptr, offsets, rotary_dim=None, interleave=False, rope_scale=1, rope_theta=1e4):
    """Sequence i is tokens `indptr[i]` up to `indptr[i + 1]` (int32), from position `offsets[i]` on; new tensors."""
    return _rotate(ops.rotate, q, k, Positions.ragged(indptr, offsets), rotary_dim, interleave, rope_scale, rope_theta)


def apply_rope_inplace(q, k, indptr, offsets, rotary_dim=None, interleave=False, rope_scale=1, rope_theta=1e4):
    """The same in place."""
    _rotate(ops.rotate_, q, k, Positions.ragged(indptr, offsets), rotary_dim, interleave, rope_scale, rope_theta)


def apply_llama31_rope_pos_ids(q, k, pos_ids, rotary_dim=None, interleave=False, rope_scale=8, rope_theta=5e5,
                               low_freq_factor=1, high_freq_factor=4, old_context_len=8192):
    """As `apply_rope_pos_ids`, by Llama 3.1's scaling."""
    return _rotate(ops.rotate, q, k, pos_ids, rotary_dim, interleave, rope_scale, rope_theta, low_freq_factor,
                   high_freq_factor, old_context_len)


def apply_llama31_rope_pos_ids_inplace(q, k, pos_ids, rotary_dim=None, interleave=False, rope_scale=8, rope_theta=5e5,
                                       low_freq_factor=1, high_freq_factor=4, old_context_len=8192):
    """The same in place."""
    _rotate(ops.rotate_, q, k, pos_ids, rotary_dim, interleave, rope_scale, rope_theta, low_freq_factor, high_freq_factor,
            old_context_len)


def apply_llama31_rope(q, k, indptr, offsets, rotary_dim=None, interleave=False, rope_scale=8, rope_theta=5e5,
                       low_freq_factor=1, high_freq_factor=4, old_context_len=8192):
    """As `apply_rope`, by Llama 3.1's scaling."""
    return _rotate(ops.rotate, q, k, Positions.ragged(indptr, offsets), rotary_dim, interleave, rope_scale, rope_theta,
                   low_freq_factor, high_freq_factor, old_context_len)


def apply_llama31_rope_inplace(q, k, indptr, offsets, rotary_dim=None, interleave=False, rope_scale=8, rope_theta=5e5,
                               low_freq_factor=1, high_freq_factor=4, old_context_len=8192):
    """The same in place."""
    _rotate(ops.rotate_, q, k, Positions.ragged(indptr, offsets), rotary_dim, interleave, rope_scale, rope_theta,
            low_freq_factor, high_freq_factor, old_context_len)


def _by_head(x, head_size):
    if x.dim() != 2 or x.shape[1] % head_size:
        raise ValueError(f"expected [nnz, heads * {head_size}]: given {tuple(x.shape)}")
    return x.unflatten(1, (x.shape[1] // head_size, head_size))


def apply_rope_with_cos_sin_cache(positions, query, key, head_size, cos_sin_cache: ops.Rope, is_neox=True):
    """query and key `[nnz, heads * head_size]`, as new tensors; `cos_sin_cache` is a Rope."""
    q, k = ops.rotate(_by_head(query, head_size), _by_head(key, head_size), positions, cos_sin_cache.paired(not is_neox), 1)
    return q.flatten(1), k.flatten(1)


def apply_rope_with_cos_sin_cache_inplace(positions, query, key, head_size, cos_sin_cache: ops.Rope, is_neox=True):
    """The same in place."""
    ops.rotate_(_by_head(query, head_size), _by_head(key, head_size), positions, cos_sin_cache.paired(not is_neox), 1)
