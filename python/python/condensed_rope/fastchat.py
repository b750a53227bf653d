"""FastChat's class: its arguments, shapes and growth, with exact values."""

from __future__ import annotations

import math

import torch

from . import _core, ops
from ._core import Frequencies


class CondenseRotaryEmbedding(torch.nn.Module):
    """`CondenseRotaryEmbedding(dim, ratio)` of FastChat's `llama_condense_monkey_patch`.

    `forward(x, seq_len)` returns cos and sin `[1, 1, seq_len, dim]` of x's type and device, of positions divided by
    `ratio`; it holds `max_position_embeddings * ratio` rows at first, and more where more are asked for.
    """

    def __init__(self, dim, ratio, max_position_embeddings=2048, base=10000, device=None):
        super().__init__()
        self.ratio = ratio
        self._frequencies = Frequencies(dim, float(base)).condensed(float(ratio))
        plain = Frequencies(dim, float(base)).inv_freq
        self.register_buffer("inv_freq", torch.tensor(plain, dtype=torch.float32, device=device))
        self.max_seq_len_cached = max_position_embeddings * ratio
        self._words = ops.steps_of(self._frequencies)

    def forward(self, x, seq_len=None):
        if seq_len is None:
            raise TypeError("seq_len is needed: the number of rows")
        if seq_len < 0:
            raise ValueError(f"seq_len must be 0 or more: given {seq_len}")
        self.max_seq_len_cached = max(self.max_seq_len_cached, seq_len)
        # FastChat's tables hold one row for every begun position.
        rows = min(int(seq_len), math.ceil(self.max_seq_len_cached))
        dim = self._frequencies.rotary_dim
        dtype = x.dtype if x.dtype in (torch.float32, torch.float16, torch.bfloat16) else torch.float32
        table = torch.empty(2, rows, dim, dtype=dtype, device=x.device)
        words = self._words.to(x.device)
        index, stream = ops.place(x.device)
        count = rows * dim
        _core.cos_sin(index, stream, (words.data_ptr(), words.numel()), (dim, False, False, 1.0),
                      str(dtype).removeprefix("torch."), 0, rows, (table[0].data_ptr(), count), (table[1].data_ptr(), count))
        cos, sin = table.to(x.dtype)[:, None, None]
        return cos, sin
