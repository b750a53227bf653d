"""torch operators: `condensed_rope::rotate` (functional, with a gradient) and `condensed_rope::rotate_` (in place).

A rope is a plain int64 tensor of phase words on the tensors' device, and a few numbers: nothing to register, deep copy
or pickle, and a graph reads what the tensor holds.
"""

from __future__ import annotations

import torch

from . import _core
from ._core import Frequencies

_DTYPES = {
    torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16", torch.int32: "int32",
    torch.int64: "int64", torch.uint32: "uint32",
}
_SCHEMA = "Tensor ids, Tensor steps, int seq_dim, int rotary_dim, int rotary_offset, bool interleaved, bool inverse, float factor"

_library = torch.library.Library("condensed_rope", "DEF")
_library.define(f"rotate(Tensor q, Tensor k, {_SCHEMA}) -> (Tensor, Tensor)", tags=(torch.Tag.pt2_compliant_tag,))
_library.define(f"rotate_(Tensor(a!) q, Tensor(b!) k, {_SCHEMA}) -> ()", tags=(torch.Tag.pt2_compliant_tag,))
_library.define(f"rotate_one(Tensor x, {_SCHEMA}) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_library.define(f"rotate_one_(Tensor(a!) x, {_SCHEMA}) -> ()", tags=(torch.Tag.pt2_compliant_tag,))


def words_len(rotary_dim: int) -> int:
    """Words of one set: a step a pair and a factor, rounded up to even, and two zeros."""
    return (rotary_dim // 2 + 2) // 2 * 2 + 2


def steps_of(frequencies: Frequencies) -> torch.Tensor:
    """The words that kernels read, on the CPU whatever the default device is."""
    with torch.device("cpu"):
        return torch.frombuffer(bytearray(frequencies.words()), dtype=torch.int64).clone()


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


def _launch(q, k, q_out, k_out, ids, steps, seq_dim, rotary_dim, rotary_offset, interleaved, inverse, factor):
    device = q.device
    index, stream = place(device)
    if steps.device != device or steps.dtype is not torch.int64 or not steps.is_contiguous():
        raise ValueError(f"expected steps as contiguous int64 on {device}: given {steps.dtype} on {steps.device}")
    count = steps.numel()
    stride = words_len(rotary_dim) - 2
    sets = max(1, (count - 2) // stride) if stride > 0 else 1
    operand = lambda x, out: None if x is None else (_given(x, device), None if out is None else _given(out, device))
    # The tensors are alive and on the device; CUDA's memory is freed in the order of its stream.
    _core.rotate(index, stream, (steps.data_ptr(), count), (rotary_dim, sets, interleaved, inverse, factor), seq_dim,
                 rotary_offset, operand(q, q_out), operand(k, k_out), _given(ids, device), 0)


def _new(x):
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _channels_contiguous(x):
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def _rotate(q, k, *rest):
    q, k = _channels_contiguous(q), _channels_contiguous(k)
    q_out, k_out = _new(q), _new(k)
    _launch(q, k, q_out, k_out, *rest)
    return q_out, k_out


def _rotate_one(x, *rest):
    x = _channels_contiguous(x)
    out = _new(x)
    _launch(x, None, out, None, *rest)
    return out


for _device in ("CPU", "CUDA"):
    _library.impl("rotate", _rotate, _device)
    _library.impl("rotate_", lambda q, k, *rest: _launch(q, k, None, None, *rest), _device)
    _library.impl("rotate_one", _rotate_one, _device)
    _library.impl("rotate_one_", lambda x, *rest: _launch(x, None, None, None, *rest), _device)


@torch.library.register_fake("condensed_rope::rotate", lib=_library)
def _(q, k, *rest):
    return _new(q), _new(k)


@torch.library.register_fake("condensed_rope::rotate_one", lib=_library)
def _(x, *rest):
    return _new(x)


@torch.library.register_fake("condensed_rope::rotate_", lib=_library)
def _(q, k, *rest):
    return None


@torch.library.register_fake("condensed_rope::rotate_one_", lib=_library)
def _(x, *rest):
    return None


def _keep(ctx, inputs, output):
    *tensors, ids, steps, seq_dim, rotary_dim, rotary_offset, interleaved, inverse, factor = inputs
    ctx.save_for_backward(ids, steps)
    # The transpose turns the other way, with the same factor.
    ctx.rest = (seq_dim, rotary_dim, rotary_offset, interleaved, not inverse, factor)


def _backward(ctx, q, k):
    ids, steps = ctx.saved_tensors
    return (*torch.ops.condensed_rope.rotate(q, k, ids, steps, *ctx.rest), *[None] * 8)


def _backward_one(ctx, x):
    ids, steps = ctx.saved_tensors
    return (torch.ops.condensed_rope.rotate_one(x, ids, steps, *ctx.rest), *[None] * 8)


torch.library.register_autograd("condensed_rope::rotate", _backward, setup_context=_keep, lib=_library)
torch.library.register_autograd("condensed_rope::rotate_one", _backward_one, setup_context=_keep, lib=_library)


class Rope:
    """Frequencies, and how channels pair.

    `interleaved`: pairs of neighbours (GPT-J) instead of halves (NeoX). `rotary_offset`: the first channel that rotates.
    """

    def __init__(self, frequencies: Frequencies, interleaved: bool = False, rotary_offset: int = 0):
        self.frequencies = frequencies
        self.interleaved = interleaved
        self.rotary_offset = rotary_offset
        self.is_inverse = False
        self._steps: dict[torch.device, torch.Tensor] = {}

    def steps(self, device) -> torch.Tensor:
        """The words that kernels read, on a device."""
        device = torch.device(device)
        if device not in self._steps:
            self._steps[device] = steps_of(self.frequencies).to(device)
        return self._steps[device]

    def inverse(self) -> "Rope":
        """The same rope turning the other way."""
        other = Rope(self.frequencies, self.interleaved, self.rotary_offset)
        other.is_inverse, other._steps = not self.is_inverse, self._steps
        return other

    def _rest(self, device, ids, seq_dim):
        steps = self.steps(device)
        return (ids, steps, seq_dim, self.frequencies.rotary_dim, self.rotary_offset, self.interleaved, self.is_inverse,
                self.frequencies.factor)


def rotate(q, k, position_ids, rope: Rope, seq_dim: int = 2):
    """q and k rotated, as new contiguous tensors; with a gradient. `k` may be None: then q alone comes back.

    q and k are `[batch, heads, seq, head_dim]` where `seq_dim` is 2, `[batch, seq, heads, head_dim]` where it is 1, or
    `[tokens, heads, head_dim]`. `position_ids`: int32, int64 or uint32, one a token, or one row that the batch shares.
    """
    rest = rope._rest(q.device, position_ids, seq_dim)
    if k is None:
        return torch.ops.condensed_rope.rotate_one(q, *rest)
    return torch.ops.condensed_rope.rotate(q, k, *rest)


def rotate_(q, k, position_ids, rope: Rope, seq_dim: int = 2) -> None:
    """The same where the tensors lie: one launch, no memory. Tensors that require a gradient are an error."""
    for tensor in (q, k):
        if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError("expected tensors without a gradient, as they are written in place: given one that requires it")
    rest = rope._rest(q.device, position_ids, seq_dim)
    if k is None:
        torch.ops.condensed_rope.rotate_one_(q, *rest)
    else:
        torch.ops.condensed_rope.rotate_(q, k, *rest)


def inverse(q, k, position_ids, rope: Rope, seq_dim: int = 2):
    """What undoes `rotate`."""
    return rotate(q, k, position_ids, rope.inverse(), seq_dim)


def prepare(device) -> None:
    """Loads the kernels of a device, so that a first call may be captured into a graph."""
    device = torch.device(device)
    if device.type == "cuda":
        _core.prepare(torch.cuda.current_device() if device.index is None else device.index)
