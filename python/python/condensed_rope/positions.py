"""Where the position of each token comes from."""

from __future__ import annotations

import dataclasses

import torch

from ._core import Sections

# The operators' `kind`.
CONSECUTIVE, IDS, STARTS, RAGGED, AXES = range(5)


@dataclasses.dataclass(frozen=True, eq=False)
class Positions:
    """The position of each token: made by one of the functions below. Every integer is a valid position."""

    kind: int
    values: torch.Tensor | None = None
    cu_seqlens: torch.Tensor | None = None
    sets: torch.Tensor | None = None
    axis_of_pair: tuple[int, ...] = ()
    start: int = 0

    @staticmethod
    def ids(ids: torch.Tensor) -> Positions:
        """int32, int64 or uint32, one a token, or one row that the batch shares."""
        return Positions(IDS, ids)

    @staticmethod
    def consecutive(start: int = 0) -> Positions:
        """`start, start + 1, …` in every sequence of the batch."""
        if isinstance(start, int) and not -(1 << 63) <= start < 1 << 63:
            raise ValueError(f"a start must fit 64 bits: given {start}")
        return Positions(CONSECUTIVE, start=start)

    @staticmethod
    def starts(starts: torch.Tensor) -> Positions:
        """`starts[b], starts[b] + 1, …` in sequence b."""
        return Positions(STARTS, starts)

    @staticmethod
    def ragged(cu_seqlens: torch.Tensor, starts: torch.Tensor | None = None) -> Positions:
        """Sequences end to end in `[tokens, heads, head_dim]`: sequence i is tokens `cu_seqlens[i]` (int32) up to
        `cu_seqlens[i + 1]`, and its first position is `starts[i]`, or 0."""
        return Positions(RAGGED, starts, cu_seqlens)

    @staticmethod
    def axes(ids: torch.Tensor, sections: Sections) -> Positions:
        """M-RoPE: ids `[axes, tokens]` or `[axes, batch, seq]`, and which of them turns which pairs."""
        return Positions(AXES, ids, axis_of_pair=tuple(sections.axis_of_pair))

    def with_sets(self, sets: torch.Tensor) -> Positions:
        """The same, where sequence i turns by set `sets[i]` of the rope's frequencies."""
        return dataclasses.replace(self, sets=sets)

    def arguments(self):
        """As the operators take them."""
        return (self.kind, self.values, self.cu_seqlens, self.sets, self.axis_of_pair, self.start)


def of(given: torch.Tensor | int | Positions) -> Positions:
    """Ids, the first of consecutive positions, or positions as they are."""
    if isinstance(given, Positions):
        return given
    if isinstance(given, torch.Tensor):
        return Positions(IDS, given)
    if isinstance(given, int) and not isinstance(given, bool):
        return Positions.consecutive(given)
    raise TypeError(f"expected position ids as a tensor, a start or Positions: given {type(given).__name__}")
