"""Which modeling files of transformers the patch fits: their rotary code is Llama's, in a form that is known.

Forms are compared without docstrings, annotations and decorators. The list is of forms, not "whatever Llama is here", so
that a later release is looked at before it is taken.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import inspect

_FAMILY = "transformers.models.{0}.modeling_{0}"

# apply_rotary_pos_emb, and whether it must be told the positions, by which it indexes tables.
APPLY = {
    "47f49d081e2ac365": True,  # 4.31 to 4.34: (q, k, cos, sin, position_ids)
    "b6140b3fb32f71e9": True,  # 4.35 to 4.37: (q, k, cos, sin, position_ids, unsqueeze_dim=1)
    "bc6680d4a77c1be9": False,  # 4.38 to 4.57: (q, k, cos, sin, position_ids=None, unsqueeze_dim=1)
    "4a8f8b85ee37bd3f": False,  # 5.0 to 5.24: (q, k, cos, sin, unsqueeze_dim=1)
}
HALF = {"7b6c9b425ca04287"}  # 4.31 to 5.24
# A rotary class's forward, and what it is given beside the hidden states.
LENGTH, POSITIONS, LAYER_TYPE = range(3)
FORWARD = {
    "499ef878eb83ca2a": LENGTH,  # 4.31 to 4.34
    "131ed05a7bad119a": LENGTH,  # 4.35 to 4.37
    "bb34939c7a151b19": POSITIONS,  # 4.38
    "700c7b5ffbc62b9a": POSITIONS,  # 4.39 to 4.42
    "8c6f55ca408588d0": POSITIONS,  # 4.43 to 4.49
    "a97d82f5ee64e30b": POSITIONS,  # 4.50
    "ddb4b4b78156100b": POSITIONS,  # 4.51 to 4.57
    "735deb9920dba9d4": POSITIONS,  # 5.0 to 5.14
    "4eddbbbe63e2ef48": POSITIONS,  # 5.15 to 5.17
    "25e93363c8e3094f": POSITIONS,  # 5.18
    "8851abe280f0d9fa": POSITIONS,  # 5.19 to 5.24
    # Gemma 3, Mellum, Dory
    "9129bd1585000598": LAYER_TYPE,  # 5.0 to 5.14
    "6aca2915f88fbb67": LAYER_TYPE,  # 5.15 to 5.17
    "6977c8975a6457f8": LAYER_TYPE,  # 5.18
    "dbd87b9c973f19c8": LAYER_TYPE,  # 5.19 to 5.24
}


class Nonconforming(ValueError):
    """A model family whose code is not what the patch replaces; the message says why."""


@dataclasses.dataclass(frozen=True)
class Form:
    """How a modeling file makes and applies rotary embedding."""

    # Whether apply_rotary_pos_emb is told the positions.
    indexes: bool
    # Each rotary class's forward: LENGTH, POSITIONS or LAYER_TYPE.
    classes: dict[str, int]
    # Classes of older releases for models that are stretched already.
    stretched: tuple[str, ...]


def module_of(family: str):
    """The modeling file of a family."""
    try:
        return importlib.import_module(_FAMILY.format(family))
    except ImportError as error:
        raise ValueError(f"{family}: transformers has no such family: {error}") from error


def digest(node: ast.FunctionDef) -> str:
    """A function's code without docstring, annotations and decorators, as sixteen digits."""
    node = ast.parse(ast.unparse(node)).body[0]
    node.decorator_list, node.returns = [], None
    for argument in [*node.args.args, *node.args.kwonlyargs]:
        argument.annotation = None
    if isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
        node.body = node.body[1:]
    return hashlib.sha256(ast.unparse(node).encode()).hexdigest()[:16]


def parts(module):
    """A module's source, its apply function, and the rotary classes of text models with their forward, inherited ones too."""
    tree = ast.parse(inspect.getsource(module))
    apply = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "apply_rotary_pos_emb"), None)
    classes = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef) and n.name.endswith("RotaryEmbedding")
               and "Vision" not in n.name}

    def forward_of(node):
        own = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "forward"), None)
        bases = [classes[base.id] for base in node.bases if getattr(base, "id", None) in classes]
        return own or next(filter(None, map(forward_of, bases)), None)

    return tree, apply, {name: forward_of(node) for name, node in classes.items()}


def _tables_used(tree, apply, forwards, by_layer_type):
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
            name = getattr(node.value, "id", None)
            # A dictionary by layer type is handed on whole; an element by number is a table.
            by_type = by_layer_type and isinstance(node, ast.Subscript) and not isinstance(node.slice, (ast.Constant, ast.Slice))
            if name in ("cos", "sin") or (name == "position_embeddings" and not by_type):
                return ast.unparse(node)
        return next((found for child in ast.iter_child_nodes(node) if (found := visit(child))), None)

    return visit(tree)


def form_of(module, family: str) -> Form:
    """A module's form; or an error that says why its rotary embedding cannot be replaced."""
    tree, apply, forwards = parts(module)
    if apply is None or not forwards:
        raise Nonconforming(f"{family}: it has no apply_rotary_pos_emb and RotaryEmbedding of its own")
    indexes = APPLY.get(digest(apply))
    if indexes is None:
        raise Nonconforming(f"{family}: its apply_rotary_pos_emb is not Llama's")
    half = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "rotate_half"), None)
    if half is None or digest(half) not in HALF:
        raise Nonconforming(f"{family}: its rotate_half is not Llama's")
    stretched = tuple(name for name in forwards if "Scaling" in name)
    classes = {}
    for name, forward in forwards.items():
        if name in stretched:
            continue
        kind = None if forward is None else FORWARD.get(digest(forward))
        if kind is None or indexes != (kind == LENGTH):
            raise Nonconforming(f"{family}: {name}.forward is not Llama's")
        classes[name] = kind
    if user := _tables_used(tree, apply, forwards, LAYER_TYPE in classes.values()):
        raise Nonconforming(f"{family}: cos and sin are used elsewhere, in {user}")
    return Form(indexes, classes, stretched)


def conforming(family: str) -> bool:
    """Whether `replace_with_condense` takes the family (the name of its folder in transformers.models)."""
    try:
        form_of(module_of(family), family)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    import sys

    # The forms of a family of the transformers that is installed: python -m condensed_rope.forms llama
    _, _apply, _forwards = parts(module_of(sys.argv[1]))
    print("apply  ", digest(_apply))
    print("forward", {name: digest(forward) for name, forward in _forwards.items() if forward})
