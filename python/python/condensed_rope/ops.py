"""torch operators: `condensed_rope::rotate` (functional, with a gradient) and `condensed_rope::rotate_` (in place).

A rope is a plain int64 tensor of phase words on the tensors' device, and a few numbers: nothing to register, deep copy
or pickle, and a graph reads what the tensor holds. `rotate_ids_` is `rotate_` for ids alone, q and k both: what a decoder
calls a layer. Where torch's stable C interface is there (2.11), its kernel has no Python in it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from . import _core, positions
from ._core import Frequencies
from .positions import Positions

_DTYPES = {
    torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16", torch.int32: "int32",
    torch.int64: "int64", torch.uint32: "uint32",
    **{getattr(torch, name): name for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name)},
}
_POSITIONS = "int kind, Tensor? ids, Tensor? cu_seqlens, Tensor? sets, int[] axis_of_pair, SymInt start"
_SPEC = "int seq_dim, int rotary_dim, int rotary_offset, bool interleaved, bool inverse, float factor"

_library = torch.library.Library("condensed_rope", "DEF")
for _schema in (
    f"rotate(Tensor q, Tensor? k, {_POSITIONS}, Tensor steps, {_SPEC}) -> (Tensor, Tensor)",
    f"rotate_(Tensor(a!) q, Tensor(b!)? k, {_POSITIONS}, Tensor steps, {_SPEC}) -> ()",
    f"rotate_ids_(Tensor(a!) q, Tensor(b!) k, Tensor ids, Tensor steps, {_SPEC}) -> ()",
    "rotate_append_(Tensor(a!)? q, Tensor(b!)? k, Tensor? v, bool writes_k, Tensor? q_weight, Tensor? k_weight, float eps, "
    "bool unit_offset, Tensor(c!)? key_cache, Tensor(d!)? value_cache, Tensor? key_scale, Tensor? value_scale, Tensor? slots, "
    f"bool by_table, int reserved, {_POSITIONS}, Tensor steps, {_SPEC}) -> ()",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def words_len(rotary_dim: int) -> int:
    """Words of one set: a step a pair and a factor, rounded up to even, and two zeros."""
    return (rotary_dim // 2 + 2) // 2 * 2 + 2


def steps_of(*sets: Frequencies) -> torch.Tensor:
    """The words that kernels read, on the CPU whatever the default device is."""
    with torch.device("cpu"):
        return torch.frombuffer(bytearray(_core.words(list(sets))), dtype=torch.int64).clone()


def place(device: torch.device) -> tuple[int, int]:
    """Number and torch's current stream of a device, as calls take them; -1 is the CPU."""
    if device.type == "cpu":
        return -1, 0
    return device.index, torch._C._cuda_getCurrentRawStream(device.index)


def _given(tensor, device):
    if tensor.device != device:
        raise ValueError(f"expected all tensors on {device}: given one on {tensor.device}")
    if tensor.layout is not torch.strided or tensor.is_neg() or tensor.is_conj():
        raise TypeError("expected dense tensors that hold what they say: given a sparse, negated or conjugate view")
    dtype = _DTYPES.get(tensor.dtype) or str(tensor.dtype).removeprefix("torch.")
    return tensor.data_ptr(), dtype, tensor.shape, tensor.stride()


def _launch(q, k, q_out, k_out, kind, ids, cu_seqlens, sets, axis_of_pair, start, steps, seq_dim, rotary_dim,
            rotary_offset, *turn):
    device = q.device
    index, stream = place(device)
    if steps.device != device or steps.dtype is not torch.int64 or not steps.is_contiguous():
        raise ValueError(f"expected steps as contiguous int64 on {device}: given {steps.dtype} on {steps.device}")
    operand = lambda x, out: None if x is None else (_given(x, device), None if out is None else _given(out, device))
    given = lambda x: None if x is None else _given(x, device)
    where = (kind, given(ids), given(cu_seqlens), given(sets), axis_of_pair, start)
    # The tensors are alive and on the device; CUDA's memory is freed in the order of its stream.
    _core.rotate(index, stream, (steps.data_ptr(), steps.numel()), (rotary_dim, *turn), seq_dim, rotary_offset,
                 operand(q, q_out), operand(k, k_out), where)


def _append(q, k, v, writes_k, q_weight, k_weight, eps, unit_offset, key_cache, value_cache, key_scale, value_scale, slots,
            by_table, reserved, kind, ids, cu_seqlens, sets, axis_of_pair, start, steps, seq_dim, rotary_dim, rotary_offset, *turn):
    device = steps.device
    index, stream = place(device)
    if steps.dtype is not torch.int64 or not steps.is_contiguous():
        raise ValueError(f"expected steps as contiguous int64: given {steps.dtype}")
    given = lambda x: None if x is None else _given(x, device)
    cache = None
    if key_cache is not None:
        if slots is None:
            raise ValueError("expected slots for a cache: given none")
        cache = (given(key_cache), given(value_cache), given(key_scale), given(value_scale), given(slots), by_table, reserved)
    _core.rotate_append(index, stream, (steps.data_ptr(), steps.numel()), (rotary_dim, *turn), seq_dim, rotary_offset,
                        (given(q), None if k is None else (given(k), writes_k), given(v)),
                        (given(q_weight), given(k_weight), eps, unit_offset), cache,
                        (kind, given(ids), given(cu_seqlens), given(sets), axis_of_pair, start))


def _new(x):
    # What there is not is a tensor of nothing: an operator's results are not optional.
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _channels_contiguous(x):
    # A scalar is refused with all other shapes that are wrong.
    return x if x is None or x.dim() == 0 or x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def _rotate(q, k, *rest):
    q, k = _channels_contiguous(q), _channels_contiguous(k)
    q_out, k_out = _new(q), q.new_empty(0) if k is None else _new(k)
    _launch(q, k, q_out, None if k is None else k_out, *rest)
    return q_out, k_out


def _by_ids(ids):
    """One id a token, as the general operators take positions."""
    return positions.IDS, ids, None, None, (), 0


def _rotate_ids_(q, k, ids, *rest):
    _launch(q, k, None, None, *_by_ids(ids), *rest)


def _register_stable() -> bool:
    """The kernel of `rotate_ids_` over torch's stable C interface, which is tried on 2.11."""
    if tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < (2, 11) or not hasattr(_core, "register_torch"):
        return False
    folder = os.path.join(torch.__path__[0], "lib")
    cuda = os.path.join(folder, "libtorch_cuda.so")
    try:
        _core.register_torch(os.path.join(folder, "libtorch_cpu.so"), cuda if os.path.exists(cuda) else None)
    except RuntimeError:
        return False
    return True


STABLE_ABI = _register_stable()
for _device in ("CPU", "CUDA"):
    _library.impl("rotate", _rotate, _device)
    _library.impl("rotate_", lambda q, k, *rest: _launch(q, k, None, None, *rest), _device)
    _library.impl("rotate_append_", _append, _device)
    if not STABLE_ABI:
        _library.impl("rotate_ids_", _rotate_ids_, _device)


@torch.library.register_fake("condensed_rope::rotate", lib=_library)
def _(q, k, *rest):
    return _new(q), q.new_empty(0) if k is None else _new(k)


@torch.library.register_fake("condensed_rope::rotate_", lib=_library)
def _(q, k, *rest):
    return None


@torch.library.register_fake("condensed_rope::rotate_ids_", lib=_library)
def _(q, k, *rest):
    return None


@torch.library.register_fake("condensed_rope::rotate_append_", lib=_library)
def _(*arguments):
    return None


def _keep(ctx, inputs, output):
    _, k, kind, ids, cu_seqlens, sets, axis_of_pair, start, steps, *spec, inverse, factor = inputs
    ctx.save_for_backward(ids, cu_seqlens, sets, steps)
    ctx.has_k = k is not None
    # The transpose turns the other way, with the same factor.
    ctx.positions, ctx.spec = (kind, axis_of_pair, start), (*spec, not inverse, factor)


def _backward(ctx, q, k):
    ids, cu_seqlens, sets, steps = ctx.saved_tensors
    kind, axis_of_pair, start = ctx.positions
    where = (kind, ids, cu_seqlens, sets, axis_of_pair, start)
    q, k = torch.ops.condensed_rope.rotate(q, k if ctx.has_k else None, *where, steps, *ctx.spec)
    return (q, k if ctx.has_k else None, *[None] * 13)


torch.library.register_autograd("condensed_rope::rotate", _backward, setup_context=_keep, lib=_library)

_functional = torch.ops.condensed_rope.rotate.default
_in_place = torch.ops.condensed_rope.rotate_.default
_ids_in_place = torch.ops.condensed_rope.rotate_ids_.default


def rotate_ids(q, k, ids, steps, *spec):
    """The functional operator for ids."""
    return _functional(q, k, *_by_ids(ids), steps, *spec)


def rotate_ids_(q, k, ids, steps, *spec) -> None:
    """The operator of that name, whose refusals are this package's errors: a kernel without Python in it can throw nothing
    but torch's RuntimeError."""
    if torch.compiler.is_compiling():
        return _ids_in_place(q, k, ids, steps, *spec)
    try:
        _ids_in_place(q, k, ids, steps, *spec)
    except RuntimeError as error:
        _core.raise_refused(str(error))
        raise


class Rope:
    """Frequencies, and how channels pair.

    `frequencies`: one set, or several for batches that mix them (`Positions.with_sets`). `interleaved`: pairs of neighbours
    (GPT-J) instead of halves (NeoX). `rotary_offset`: the first channel that rotates.
    """

    def __init__(self, frequencies: Frequencies | Sequence[Frequencies], interleaved: bool = False, rotary_offset: int = 0):
        self.sets = (frequencies,) if isinstance(frequencies, Frequencies) else tuple(frequencies)
        if not self.sets:
            raise ValueError("a rope needs at least one set of frequencies: given none")
        self.interleaved = interleaved
        self.rotary_offset = rotary_offset
        self.is_inverse = False
        self._steps: dict[torch.device, torch.Tensor] = {}
        # Asked once, not at each call.
        first = self.sets[0]
        self._numbers = first.rotary_dim, first.factor

    @property
    def frequencies(self) -> Frequencies:
        """The first set."""
        return self.sets[0]

    def steps(self, device) -> torch.Tensor:
        """The words that kernels read, on a device."""
        steps = self._steps.get(device)
        if steps is None:
            steps = self._steps[device] = steps_of(*self.sets).to(device)
        return steps

    def _like(self, interleaved: bool, is_inverse: bool) -> Rope:
        other = Rope(self.sets, interleaved, self.rotary_offset)
        # The words are the same, whatever the pairs.
        other.is_inverse, other._steps = is_inverse, self._steps
        return other

    def inverse(self) -> Rope:
        """The same rope turning the other way."""
        return self._like(self.interleaved, not self.is_inverse)

    def paired(self, interleaved: bool) -> Rope:
        """The same rope with channels paired one way or the other."""
        return self if self.interleaved == bool(interleaved) else self._like(bool(interleaved), self.is_inverse)

    def spec(self, seq_dim: int):
        """As the operators take it, from `seq_dim` on."""
        rotary_dim, factor = self._numbers
        return (seq_dim, rotary_dim, self.rotary_offset, self.interleaved, self.is_inverse, factor)


def rotate(q, k, position_ids: torch.Tensor | int | Positions, rope: Rope, seq_dim: int = 2):
    """q and k rotated, as new contiguous tensors; with a gradient. `k` may be None: then q alone comes back.

    q and k are `[batch, heads, seq, head_dim]` where `seq_dim` is 2, `[batch, seq, heads, head_dim]` where it is 1, or
    `[tokens, heads, head_dim]`. `position_ids`: int32, int64 or uint32, one a token, or one row that the batch shares; the
    first of consecutive positions; or `Positions`.
    """
    where = positions.of(position_ids).arguments()
    q_out, k_out = _functional(q, k, *where, rope.steps(q.device), *rope.spec(seq_dim))
    return q_out if k is None else (q_out, k_out)


def rotate_(q, k, position_ids: torch.Tensor | int | Positions, rope: Rope, seq_dim: int = 2) -> None:
    """The same where the tensors lie: one launch, no memory. Tensors that require a gradient are an error."""
    if torch.is_grad_enabled() and (q.requires_grad or (k is not None and k.requires_grad)):
        raise ValueError("expected tensors without a gradient, as they are written in place: given one that requires it")
    if k is not None and isinstance(position_ids, torch.Tensor):
        return rotate_ids_(q, k, position_ids, rope.steps(q.device), *rope.spec(seq_dim))
    where = positions.of(position_ids).arguments()
    _in_place(q, k, *where, rope.steps(q.device), *rope.spec(seq_dim))


@dataclass(frozen=True)
class Norm:
    """RMSNorm of query and key heads before they rotate: weights of a head's channels, of q's type; None: not normalised."""

    q_weight: torch.Tensor | None
    k_weight: torch.Tensor | None
    eps: float = 1e-6
    #: Weights are one less than what they multiply by (Gemma 3).
    unit_offset: bool = False


@dataclass(frozen=True)
class KvCache:
    """Where keys and values go: `[pages, page_size, heads, head_dim]` of any strides (a permuted `[pages, heads, page_size,
    head_dim]`, views of one tensor), or `[slots, heads, head_dim]`; of q's type, float8_e4m3fn or float8_e5m2.

    `slots`: one a token, int32, int64 or uint32; tokens beyond its end, and slots that the cache does not have, are not stored.
    `page_table` instead: `[sequences, pages]`, and slots follow positions. Scales (float32, one or one a head) are what 8-bit
    floats are multiplied by to be what they stand for. `reserved`: first slots that nothing is stored in.
    """

    keys: torch.Tensor
    values: torch.Tensor | None
    slots: torch.Tensor | None = None
    page_table: torch.Tensor | None = None
    key_scale: torch.Tensor | None = None
    value_scale: torch.Tensor | None = None
    reserved: int = 0


_append_in_place = torch.ops.condensed_rope.rotate_append_.default


def rotate_append_(q, k, v, position_ids: torch.Tensor | int | Positions, rope: Rope, *, norm: Norm | None = None,
                   cache: KvCache | None = None, writes_k: bool | None = None, seq_dim: int = 2) -> None:
    """Normalises q and k, rotates them, and appends k and v to a cache, in one launch: as much of that as is given.

    q is written where it lies; k too where `writes_k`, which is so without a cache, and not with one. Any of q, k and v may be
    None: a layer that shares another one's cache has q alone. Shapes and positions as in `rotate`.
    """
    given = [x for x in (q, k, v) if x is not None]
    if not given:
        raise ValueError("expected q, k or both: given neither")
    if torch.is_grad_enabled() and any(x.requires_grad for x in given):
        raise ValueError("expected tensors without a gradient, as they are written in place: given one that requires it")
    writes_k = cache is None if writes_k is None else writes_k
    norm = norm or Norm(None, None, 1.0)
    of = (None,) * 5 + (False, 0)
    if cache is not None:
        if (cache.slots is None) == (cache.page_table is None):
            raise ValueError("expected slots or a page table for a cache: given both or neither")
        by_table = cache.page_table is not None
        of = (cache.keys, cache.values, cache.key_scale, cache.value_scale,
              cache.page_table if by_table else cache.slots, by_table, cache.reserved)
    _append_in_place(q, k, v, writes_k, norm.q_weight, norm.k_weight, norm.eps, norm.unit_offset, *of,
                     *positions.of(position_ids).arguments(), rope.steps(given[0].device), *rope.spec(seq_dim))


def inverse(q, k, position_ids, rope: Rope, seq_dim: int = 2):
    """What undoes `rotate`."""
    return rotate(q, k, position_ids, rope.inverse(), seq_dim)


def prepare(device) -> None:
    """Loads the kernels of a device, so that a first call may be captured into a graph."""
    device = torch.device(device)
    if device.type == "cuda":
        _core.prepare(torch.cuda.current_device() if device.index is None else device.index)
