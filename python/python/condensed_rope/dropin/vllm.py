"""A plugin of vLLM (entry point `vllm.general_plugins`): its plain rotary embedding, out of tree, over this package's
operator. `CONDENSED_ROPE_RATIO` in the environment divides positions, so that a model reads longer contexts.

vLLM's own class is the base: constructor, table and all that reads them stay. Other ropes (YaRN, Llama 3, M-RoPE) are
classes of their own there, and stay vLLM's; with a ratio, making one is an error, since it would do nothing to them.
"""

from __future__ import annotations

import os

import torch

from .. import ops
from .._core import Frequencies

RATIO = "CONDENSED_ROPE_RATIO"


def _ratio() -> float:
    said = os.environ.get(RATIO, "1")
    try:
        ratio = float(said)
    except ValueError:
        ratio = -1.0
    if not 0 < ratio < float("inf"):
        raise ValueError(f"{RATIO} must be a finite number above zero: given {said!r}")
    return ratio


def register() -> None:
    """Called by vLLM in each of its processes, several times in some."""
    from vllm.model_executor.custom_op import CustomOp
    from vllm.model_executor.layers.rotary_embedding import RotaryEmbedding

    if getattr(RotaryEmbedding, "_condensed_rope", False):
        return
    ratio = _ratio()
    RotaryEmbedding._condensed_rope = True

    @CustomOp.register_oot(name="RotaryEmbedding")
    class CondensedRotaryEmbedding(RotaryEmbedding):
        """vLLM's RotaryEmbedding by exact positions, divided by the ratio."""

        def __init__(self, head_size, rotary_dim, max_position_embeddings, base, is_neox_style, dtype, *args, **kwargs):
            super().__init__(head_size, rotary_dim, max_position_embeddings, base, is_neox_style, dtype, *args, **kwargs)
            self._rope = ops.Rope(Frequencies(rotary_dim, float(base)).condensed(ratio), not is_neox_style)

        def _by_head(self, x, tokens):
            return None if x is None else x.view(tokens, -1, self.head_size)

        def forward_native(self, positions, query, key=None, *_, **__):
            # Compiled code: a functional operator, which inductor may turn into one in place.
            ids = positions.flatten()
            out = ops.rotate(self._by_head(query, ids.shape[0]), self._by_head(key, ids.shape[0]), ids, self._rope, 1)
            if key is None:
                return out.view(query.shape), None
            return out[0].view(query.shape), out[1].view(key.shape)

        def forward_cuda(self, positions, query, key=None, *_, **__):
            ids = positions.flatten()
            with torch.no_grad():
                ops.rotate_(self._by_head(query, ids.shape[0]), self._by_head(key, ids.shape[0]), ids, self._rope, 1)
            return query, key

        forward_cpu = forward_cuda

    if ratio != 1.0:
        plain = RotaryEmbedding.__init__

        def checked(self, *args, **kwargs):
            if not isinstance(self, CondensedRotaryEmbedding):
                raise ValueError(f"{RATIO} is {ratio}, and {type(self).__name__} is stretched, or turns otherwise, already")
            plain(self, *args, **kwargs)

        RotaryEmbedding.__init__ = checked
