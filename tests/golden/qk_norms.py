"""How each model class of transformers normalises query and key heads: from its attention's own source and its norm's numbers.

    pip install torch==2.11.0 transformers==5.24.0
    python3 tests/golden/qk_norms.py > tests/golden/qk_norms.json

For each model type: the norm's size (a head, or all heads), whether it comes before or behind the rotation, what its weights
are (`weight`, `1 + weight`, or none), whether it is RMSNorm at all, the key of its epsilon and the class's default, and the
key that turns it on, where there is one. Weights and kind are seen by running the norm on numbers.
"""

import ast
import importlib
import inspect
import json
import textwrap
import warnings

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

warnings.filterwarnings("ignore")
NAMES = ("q_norm", "q_layernorm", "query_layernorm")
OTHER = ("Vision", "Audio", "Index", "Encoder", "Cross", "Vit", "Speech", "Code", "Assistant")


def behaviour(norm):
    """RMS or not, and what it makes of its weights, on one row of numbers."""
    x = torch.tensor([[1.0, -2.0, 3.0, 0.5, 4.0, -1.0, 2.0, 7.0]])
    weight = getattr(norm, "weight", None)
    rms = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True))
    if weight is None:
        return ("rms" if torch.allclose(norm(x), rms, atol=1e-4) else "other"), "none"
    with torch.no_grad():
        weight.fill_(0.25)
    got = norm(x)
    for kind, factor in (("weight", 0.25), ("1 + weight", 1.25)):
        if torch.allclose(got, rms * factor, atol=1e-4):
            return "rms", kind
    return "other", "weight"


def assigned(init):
    """The call that makes the norm, and the condition that it is under."""
    for node in ast.walk(init):
        body = getattr(node, "body", None)
        conditions = [(node.test, node.body)] if isinstance(node, ast.If) else [(None, body)] if isinstance(body, list) else []
        for test, statements in conditions:
            for statement in statements:
                if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
                    if statement.targets[0].attr in NAMES and isinstance(statement.value, ast.Call):
                        yield statement.targets[0].attr, statement.value, test


def described(module, cls, config):
    source = textwrap.dedent(inspect.getsource(cls))
    tree = ast.parse(source)
    forward = source[source.index("def forward") :]
    for name, call, test in assigned(tree):
        # The last one found is the innermost: its condition counts.
        found = (name, call, test)
    if not any(True for _ in assigned(tree)):
        return None
    conditions = [test for _, _, test in assigned(tree) if test is not None]
    name, call, _ = found
    size = ast.unparse(call.args[0]) if call.args else next((ast.unparse(k.value) for k in call.keywords if k.arg == "dim"), "")
    eps = [ast.unparse(a) for a in call.args[1:]] + [ast.unparse(k.value) for k in call.keywords if k.arg == "eps"]
    key = eps[0].split(".")[-1] if eps and eps[0].startswith("config.") else None
    norm_class = getattr(module, ast.unparse(call.func).split(".")[-1], None) or torch.nn.LayerNorm
    try:
        norm = norm_class(dim=8) if "dim" in inspect.signature(norm_class.__init__).parameters else norm_class(8)
        kind, weight = behaviour(norm)
    except Exception:
        try:
            kind, weight = behaviour(norm_class())
        except Exception:
            kind, weight = "other", "weight"
    at = forward.find(f"self.{name}(")
    turn = min((i for i in (forward.find(w) for w in ("apply_rotary", "apply_multimodal", "rotary_fn(")) if i >= 0), default=len(forward))
    return {
        "norm": kind,
        "weight": weight,
        "over": "head" if "head_dim" in size and "*" not in size and "," not in size else "all heads" if size else "head",
        "order": "before" if 0 <= at < turn else "after",
        "eps_key": key,
        "eps": getattr(config, key, None) if key else None,
        "condition": ast.unparse(conditions[0]).split(".")[-1] if conditions else None,
    }


def main():
    result = {}
    for model_type in CONFIG_MAPPING_NAMES:
        try:
            config = CONFIG_MAPPING[model_type]()
            text = config.get_text_config() if hasattr(config, "get_text_config") else config
            package = type(text).__module__.rsplit(".", 1)[0]
            modeling = importlib.import_module(package + ".modeling_" + package.split(".")[-1])
        except Exception:
            continue
        found = []
        for _, cls in inspect.getmembers(modeling, inspect.isclass):
            if cls.__module__ != modeling.__name__ or "Attention" not in cls.__name__:
                continue
            if any(word in cls.__name__ for word in OTHER):
                continue
            try:
                one = described(modeling, cls, text)
            except Exception:
                continue
            if one and one not in found:
                found.append(one)
        if found:
            result[model_type] = found
    print(json.dumps(result, indent=0, sort_keys=True))


main()
