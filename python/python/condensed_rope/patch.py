"""transformers' models, condensed: a rotary module hands positions on instead of tables, and `apply_rotary_pos_emb` turns q
and k by them, in one launch.

`rotary_emb.forward` returns `(position_ids, steps)`, two int64 tensors, where `(cos, sin)` is expected; before 4.38 it is
not given positions and returns `(steps, steps)`, since `apply_rotary_pos_emb` is. The modeling module's
`apply_rotary_pos_emb` is wrapped once, and stays wrapped, since models may need it after an undo: where `cos` is of
integers it runs the fused operator, else the original with its arguments untouched, so that no other model is concerned.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
import types

import torch

from . import forms, ops
from ._core import Config, Frequencies
from .forms import Nonconforming, conforming

__all__ = ["Nonconforming", "Replacement", "condense", "conforming", "replace_llama_with_condense", "replace_with_condense"]


def _said_by_config(module, ratio: float) -> Config:
    config = module.config
    said = Config.from_json(json.dumps(config.to_dict(), default=str)).condensed(float(ratio))
    groups = [group for group in said.groups if group["rotates"]]
    if any(group["pairing"] != "half-split" or group["inverse"] for group in groups):
        raise Nonconforming(f"{type(module).__name__}: its channels do not pair as Llama's")
    return said


def _agree(frequencies: Frequencies, own: torch.Tensor, ratio: float) -> bool:
    """Whether frequencies are a module's own, divided by the ratio."""
    if len(frequencies.inv_freq) != own.numel():
        return False
    if own.device.type == "meta":
        return True
    ours = torch.tensor(frequencies.inv_freq, dtype=torch.float64) * ratio
    # A model that was cast whole has them rounded to its own type, some of f16's below its normal numbers.
    kind = torch.finfo(own.dtype)
    return torch.allclose(ours, own.detach().cpu().double(), rtol=max(1e-5, kind.eps), atol=kind.tiny * kind.eps)


def _frequencies_of(module, ratio: float, layer_type: str | None) -> Frequencies:
    """A module's own frequencies, condensed: by its config, or before 4.43 by its base; and held to its inv_freq."""
    name = type(module).__name__
    own = getattr(module, f"{layer_type}_inv_freq" if layer_type else "inv_freq", None)
    if own is None:
        raise Nonconforming(f"{name} has no inv_freq")
    if getattr(module, "config", None) is None:
        base = getattr(module, "base", None)
        if base is None:
            raise Nonconforming(f"{name} has neither a config nor a base")
        if getattr(module, "scaling_factor", 1.0) != 1.0:
            raise Nonconforming(f"{name} is stretched already: a ratio would stretch it twice")
        candidates = [Frequencies(2 * own.numel(), float(base)).condensed(float(ratio))]
    else:
        said = _said_by_config(module, ratio)
        if layer_type is not None:
            candidates = [said.frequencies(layer_type)]
        else:
            # Gemma 3 of transformers 4 has a module of this class for each of two kinds of layers.
            types_ = [type_ for group in said.groups if group["rotates"] for type_ in group["layer_types"] or [None]]
            candidates = [said.frequencies(type_) for type_ in sorted(set(types_), key=str)]
    matching = [frequencies for frequencies in candidates if _agree(frequencies, own, ratio)]
    if not matching:
        expected = sorted({len(frequencies.inv_freq) for frequencies in candidates})
        raise Nonconforming(f"{name}.inv_freq, of {own.numel()}, is not what its config says, of {expected}")
    return matching[0]


def _steps_of(module, kind: int, ratio: float) -> dict[str | None, torch.Tensor]:
    """The words of each layer type of a module (None: of all). No buffers: what from_pretrained makes on "meta" it would
    not put back."""
    types_ = [None]
    if kind == forms.LAYER_TYPE:
        # A type without frequencies does not rotate.
        types_ = [t for t in sorted(set(module.layer_types)) if hasattr(module, f"{t}_inv_freq")]
    return {type_: ops.steps_of(_frequencies_of(module, ratio, type_)) for type_ in types_}


def _steps_on(module, device, layer_type=None) -> torch.Tensor:
    steps = module._condensed_steps[layer_type]
    if steps.device != device:
        steps = module._condensed_steps[layer_type] = steps.to(device)
    return steps


@torch.no_grad()
def _by_length(module, x, seq_len=None):
    steps = _steps_on(module, x.device)
    return steps, steps


@torch.no_grad()
def _by_positions(module, x, position_ids, seq_len=None):
    return position_ids, _steps_on(module, x.device)


@torch.no_grad()
def _by_layer_type(module, x, position_ids, layer_type=None):
    return position_ids, _steps_on(module, x.device, layer_type)


# In place of a rotary module's forward.
_FORWARD = {forms.LENGTH: _by_length, forms.POSITIONS: _by_positions, forms.LAYER_TYPE: _by_layer_type}


def _wrap(module, form: forms.Form) -> None:
    """The module's apply_rotary_pos_emb, once."""
    original = module.apply_rotary_pos_emb
    if getattr(original, "_condensed_rope", False):
        return
    function = original.forward if isinstance(original, torch.nn.Module) else original
    names = list(inspect.signature(function).parameters)[4:]
    at = {name: names.index(name) if name in names else None for name in ("position_ids", "unsqueeze_dim")}

    def given(name, args, kwargs, default):
        place = at[name]
        return args[place] if place is not None and len(args) > place else kwargs.get(name, default)

    @functools.wraps(function)
    def apply_rotary_pos_emb(q, k, cos, sin, *args, **kwargs):
        if cos.dtype is not torch.int64:
            return original(q, k, cos, sin, *args, **kwargs)
        unsqueeze_dim = given("unsqueeze_dim", args, kwargs, 1)
        # cos and sin are positions and words here.
        ids = given("position_ids", args, kwargs, None) if form.indexes else cos
        rotary_dim = q.shape[-1]
        if sin.numel() != ops.words_len(rotary_dim):
            raise ValueError(f"expected heads whose channels all rotate: given {rotary_dim}, other than the rope's")
        spec = (3 - unsqueeze_dim, rotary_dim, 0, False, False, 1.0)
        tracked = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
        if tracked or _overlaps(q) or _overlaps(k):
            return ops.rotate_ids(q, k, ids, sin, *spec)
        ops.rotate_ids_(q, k, ids, sin, *spec)
        return q, k

    apply_rotary_pos_emb._condensed_rope = True
    module.apply_rotary_pos_emb = apply_rotary_pos_emb


def _overlaps(x):
    return any(stride == 0 and size > 1 for size, stride in zip(x.shape, x.stride()))


class Replacement:
    """What was replaced: `undo()`, or the end of a `with`, puts the classes back. Models made meanwhile stay condensed."""

    def __init__(self):
        self._undo = []

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.undo()


def replace_with_condense(ratio: float, *families: str) -> Replacement:
    """Condenses every model of the families that is made or loaded from now on: positions are divided by `ratio`.

    A family is the name of its folder in transformers.models: "llama", "mistral", "qwen2". One whose code is not what the
    patch replaces is an error that says why; a config that is stretched already is an error when its model is made.
    """
    _check_ratio(ratio)
    if not families:
        raise ValueError("expected the name of a family at least: given none")
    modules = [forms.module_of(family) for family in families]
    known = [forms.form_of(module, family) for module, family in zip(modules, families)]
    replacement = Replacement()
    for module, form in zip(modules, known):
        _wrap(module, form)
        made = {name: functools.partial(_condensed_class, kind=kind, ratio=ratio) for name, kind in form.classes.items()}
        made |= {name: _refusing_class for name in form.stretched}
        for name, make in made.items():
            # A second call replaces the first one.
            base = getattr(module, name)
            base = getattr(base, "_condensed_base", base)
            setattr(module, name, make(base))
            replacement._undo.append(functools.partial(setattr, module, name, base))
    return replacement


def _class_like(base, **members):
    """A class of the same name, constructor and buffers, as transformers finds buffers by the name."""
    same = {"_condensed_base": base, "__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), members | same)


def _condensed_class(base, kind, ratio):
    def __init__(self, *args, **kwargs):
        base.__init__(self, *args, **kwargs)
        object.__setattr__(self, "_condensed_steps", _steps_of(self, kind, ratio))

    return _class_like(base, __init__=__init__, forward=_FORWARD[kind])


def _refusing_class(base):
    def __init__(self, *_, **__):
        raise ValueError(f"{base.__name__} is stretched already: a ratio would stretch it twice")

    return _class_like(base, __init__=__init__)


def replace_llama_with_condense(ratio: float) -> Replacement:
    """FastChat's call: one before a Llama is loaded, and it reads `ratio` times its context."""
    return replace_with_condense(ratio, "llama")


def condense(model, ratio: float) -> Replacement:
    """Condenses a model that is there already."""
    _check_ratio(ratio)
    rotary = [m for m in model.modules() if type(m).__name__.endswith("RotaryEmbedding") and "Vision" not in type(m).__name__]
    if not rotary:
        raise ValueError(f"{type(model).__name__}: nothing to condense: it has no rotary embedding")
    if any(hasattr(module, "_condensed_steps") for module in rotary):
        raise ValueError(f"{type(model).__name__} is condensed already")
    files = {type(m).__module__ for m in model.modules() if "apply_rotary_pos_emb" in vars(sys.modules[type(m).__module__])}
    files |= {type(module).__module__ for module in rotary}
    form = {file: forms.form_of(sys.modules[file], file.rsplit(".", 1)[-1].removeprefix("modeling_")) for file in files}
    stretched = [type(m).__name__ for m in rotary if type(m).__name__ in form[type(m).__module__].stretched]
    if stretched:
        raise ValueError(f"{stretched[0]} is stretched already: a ratio would stretch it twice")
    kinds = [form[type(module).__module__].classes[type(module).__name__] for module in rotary]
    steps = [_steps_of(module, kind, ratio) for module, kind in zip(rotary, kinds)]
    for file in files:
        _wrap(sys.modules[file], form[file])
    replacement = Replacement()
    for module, kind, own in zip(rotary, kinds, steps):
        object.__setattr__(module, "_condensed_steps", own)
        object.__setattr__(module, "forward", types.MethodType(_FORWARD[kind], module))
        replacement._undo.append(functools.partial(_restore, module))
    return replacement


def _restore(module):
    for name in ("_condensed_steps", "forward"):
        object.__delattr__(module, name)


def _check_ratio(ratio):
    if not isinstance(ratio, (int, float)) or isinstance(ratio, bool) or not 0 < ratio < float("inf"):
        raise ValueError(f"condense ratio must be a finite number above zero: given {ratio!r}")
