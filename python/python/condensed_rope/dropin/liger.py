"""Liger's call (0.8), where position ids and a Rope stand for cos and sin."""

from __future__ import annotations

from .. import ops


def liger_rotary_pos_emb(q, k, cos, sin: ops.Rope, position_ids=None, unsqueeze_dim=1, rotary_dim=None):
    """q and k `[batch, heads, seq, head_dim]` rotated, as new tensors with a gradient.

    `cos` is the position ids `[batch, seq]` or `[1, seq]`, or None where `position_ids` are given; `sin` is a Rope.
    `unsqueeze_dim` 2 is for `[batch, seq, heads, head_dim]`.
    """
    ids = position_ids if cos is None else cos
    if ids is None:
        raise TypeError("expected position ids, as cos or position_ids: given None")
    if rotary_dim is not None and rotary_dim != sin.frequencies.rotary_dim:
        raise ValueError(f"expected the rope's rotary_dim {sin.frequencies.rotary_dim}: given {rotary_dim}")
    return ops.rotate(q, k, ids, sin, 3 - unsqueeze_dim)
