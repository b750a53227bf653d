"""transformers' models, condensed: a rotary module hands positions on instead of tables, and `apply_rotary_pos_emb` turns q
and k by them, in one launch.

`rotary_emb.forward` returns `(position_ids, steps)`, two int64 tensors, where `(cos, sin)` is expected. The modeling
module's `apply_rotary_pos_emb` is wrapped once, and stays wrapped, since models may need it after an undo: where `cos` is
of integers it runs the fused operator, else the original with its arguments untouched, so that no other model is
concerned.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import json
import sys
import types

import torch

from . import ops
from ._core import Config

# Llama's two functions, in the releases whose forms are known: what a family must have for the patch to be its like.
# `python -m condensed_rope.patch` prints those of the transformers that is installed.
KNOWN_APPLY = {
    "bc6680d4a77c1be9": "4.43 to 4.57: (q, k, cos, sin, position_ids=None, unsqueeze_dim=1)",
    "4a8f8b85ee37bd3f": "5.0 to 5.24: (q, k, cos, sin, unsqueeze_dim=1)",
}
KNOWN_FORWARD = {
    "8c6f55ca408588d0": "4.43 to 4.49",
    "a97d82f5ee64e30b": "4.50",
    "ddb4b4b78156100b": "4.51 to 4.57",
    "735deb9920dba9d4": "5.0 to 5.14",
    "4eddbbbe63e2ef48": "5.15 to 5.17",
    "25e93363c8e3094f": "5.18",
    "8851abe280f0d9fa": "5.19 to 5.24",
}
KNOWN_HALF = {"7b6c9b425ca04287"}
_FAMILY = "transformers.models.{0}.modeling_{0}"


class Nonconforming(ValueError):
    """A model family whose code is not what the patch replaces; the message says why."""


def _form(node: ast.FunctionDef) -> str:
    """A function's code without docstring, annotations and decorators, as sixteen digits."""
    node = ast.parse(ast.unparse(node)).body[0]
    node.decorator_list, node.returns = [], None
    for argument in [*node.args.args, *node.args.kwonlyargs]:
        argument.annotation = None
    if isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
        node.body = node.body[1:]
    return hashlib.sha256(ast.unparse(node).encode()).hexdigest()[:16]


def _parts(module):
    """The apply function, and the rotary classes of text models with their forward, of a module's source."""
    tree = ast.parse(inspect.getsource(module))
    apply = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "apply_rotary_pos_emb"), None)
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name.endswith("RotaryEmbedding")
               and "Vision" not in n.name]
    forwards = {c.name: next((f for f in c.body if isinstance(f, ast.FunctionDef) and f.name == "forward"), None)
                for c in classes}
    return tree, apply, forwards


def _tables_used(tree, apply, forwards):
    """Whoever else takes cos, sin or an element of position_embeddings, which would meet integers."""
    known = {id(apply), *(id(f) for f in forwards.values())}

    def visit(node):
        if id(node) in known:
            return None
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            if name != "apply_rotary_pos_emb" and any(getattr(g, "id", None) in ("cos", "sin") for g in given):
                return f"{name}(…, cos, sin)"
        if isinstance(node, (ast.Attribute, ast.Subscript)):
            if getattr(node.value, "id", None) in ("cos", "sin", "position_embeddings"):
                return ast.unparse(node)
        return next((found for child in ast.iter_child_nodes(node) if (found := visit(child))), None)

    return visit(tree)


def _check(module, family: str) -> list[str]:
    """The names of the family's rotary classes; or an error that says why they cannot be replaced."""
    tree, apply, forwards = _parts(module)
    if apply is None or not forwards:
        raise Nonconforming(f"{family}: it has no apply_rotary_pos_emb and RotaryEmbedding of its own")
    if _form(apply) not in KNOWN_APPLY:
        raise Nonconforming(f"{family}: its apply_rotary_pos_emb is not Llama's")
    half = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "rotate_half"), None)
    if half is None or _form(half) not in KNOWN_HALF:
        raise Nonconforming(f"{family}: its rotate_half is not Llama's")
    found = []
    for name, forward in forwards.items():
        if forward is None:
            continue  # inherits one that was looked at
        if _form(forward) not in KNOWN_FORWARD:
            raise Nonconforming(f"{family}: {name}.forward is not Llama's")
        found.append(name)
    if user := _tables_used(tree, apply, forwards):
        raise Nonconforming(f"{family}: cos and sin are used elsewhere, in {user}")
    return found


def conforming(family: str) -> bool:
    """Whether `replace_with_condense` takes the family (the name of its folder in transformers.models)."""
    try:
        _check(importlib.import_module(_FAMILY.format(family)), family)
    except (Nonconforming, ImportError):
        return False
    return True


def _steps_of(module, ratio: float) -> torch.Tensor:
    """The words of the module's own frequencies, condensed: by its config, and held to its inv_freq. No buffer: what
    from_pretrained makes on "meta" it would not put back."""
    config = getattr(module, "config", None)
    if config is None:
        raise Nonconforming(f"{type(module).__name__} has no config")
    said = Config.from_json(json.dumps(config.to_dict(), default=str)).condensed(float(ratio))
    frequencies = said.frequencies()
    groups = [group for group in said.groups if group["rotates"]]
    if any(group["pairing"] != "half-split" or group["inverse"] for group in groups):
        raise Nonconforming(f"{type(module).__name__}: its channels do not pair as Llama's")
    own = getattr(module, "inv_freq", None)
    if own is None:
        raise Nonconforming(f"{type(module).__name__} has no inv_freq")
    if len(frequencies.inv_freq) != own.numel():
        raise Nonconforming(f"expected {own.numel()} frequencies: the config says {len(frequencies.inv_freq)}")
    if own.device.type != "meta":
        ours = torch.tensor(frequencies.inv_freq, dtype=torch.float64) * ratio
        if not torch.allclose(ours, own.detach().cpu().double(), rtol=1e-5, atol=0.0):
            raise Nonconforming(f"{type(module).__name__}.inv_freq is not what its config says")
    return ops.steps_of(frequencies)


def _forward(module, x, position_ids):
    """In place of a rotary module's forward: positions and words."""
    steps = module._condensed_steps
    if steps.device != x.device:
        steps = steps.to(x.device)
        object.__setattr__(module, "_condensed_steps", steps)
    return position_ids, steps


def _wrap(module):
    """The module's apply_rotary_pos_emb, once."""
    original = module.apply_rotary_pos_emb
    if getattr(original, "_condensed_rope", False):
        return
    function = original.forward if isinstance(original, torch.nn.Module) else original
    names = list(inspect.signature(function).parameters)
    fifth_is_positions = len(names) > 4 and names[4] == "position_ids"

    @functools.wraps(function)
    def apply_rotary_pos_emb(q, k, cos, sin, *args, **kwargs):
        if cos.dtype is not torch.int64:
            return original(q, k, cos, sin, *args, **kwargs)
        at = 1 if fifth_is_positions else 0
        unsqueeze_dim = args[at] if len(args) > at else kwargs.get("unsqueeze_dim", 1)
        # cos and sin are positions and words here.
        if sin.numel() != ops.words_len(q.shape[-1]):
            raise ValueError(f"expected heads whose channels all rotate: given {q.shape[-1]}, other than the rope's")
        rest = (cos, sin, 3 - unsqueeze_dim, q.shape[-1], 0, False, False, 1.0)
        tracked = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
        if tracked or _overlaps(q) or _overlaps(k):
            return torch.ops.condensed_rope.rotate(q, k, *rest)
        torch.ops.condensed_rope.rotate_(q, k, *rest)
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
    modules = []
    for family in families:
        try:
            module = importlib.import_module(_FAMILY.format(family))
        except ImportError as error:
            raise ValueError(f"{family}: transformers has no such family: {error}") from error
        modules.append((module, _check(module, family)))
    replacement = Replacement()
    for module, names in modules:
        _wrap(module)
        for name in names:
            # A second call replaces the first one.
            base = getattr(module, name)
            base = getattr(base, "_condensed_base", base)
            setattr(module, name, _condensed_class(base, ratio))
            replacement._undo.append(functools.partial(setattr, module, name, base))
    return replacement


def _condensed_class(base, ratio):
    """A class of the same name, constructor and buffers, as transformers finds buffers by the name."""

    def __init__(self, *args, **kwargs):
        base.__init__(self, *args, **kwargs)
        object.__setattr__(self, "_condensed_steps", _steps_of(self, ratio))

    members = {"__init__": __init__, "forward": torch.no_grad()(_forward), "_condensed_base": base,
               "__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), members)


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
    for file in files:
        _check(sys.modules[file], file.rsplit(".", 1)[-1].removeprefix("modeling_"))
    steps = [_steps_of(module, ratio) for module in rotary]
    for file in files:
        _wrap(sys.modules[file])
    replacement = Replacement()
    for module, own in zip(rotary, steps):
        object.__setattr__(module, "_condensed_steps", own)
        object.__setattr__(module, "forward", types.MethodType(torch.no_grad()(_forward), module))
        replacement._undo.append(functools.partial(_restore, module))
    return replacement


def _restore(module):
    for name in ("_condensed_steps", "forward"):
        object.__delattr__(module, name)


def _check_ratio(ratio):
    if not isinstance(ratio, (int, float)) or isinstance(ratio, bool) or not 0 < ratio < float("inf"):
        raise ValueError(f"condense ratio must be a finite number above zero: given {ratio!r}")


if __name__ == "__main__":
    _, _apply, _forwards = _parts(importlib.import_module(_FAMILY.format("llama")))
    print("apply  ", _form(_apply))
    print("forward", {name: _form(forward) for name, forward in _forwards.items() if forward})
