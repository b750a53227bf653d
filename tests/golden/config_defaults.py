"""What transformers' config classes take where a config.json is silent: base, part of the head, head_dim.

    pip install transformers==5.24.0 && python3 tests/golden/config_defaults.py > src/config/hf/class_defaults.json

Every class is made without arguments. Needs no torch. `src/config/hf/models.rs` is held to the result.
"""

import json

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

PLAIN = "default"


def field(config, name):
    try:
        return getattr(config, name, None)
    except Exception:  # a class whose layers differ refuses to say
        return None


def defaults(config):
    rope = field(config, "rope_parameters")
    if not rope or any(isinstance(value, dict) for value in rope.values()):
        return None
    if "rope_theta" not in rope or rope.get("rope_type", PLAIN) == "axial":
        return None
    return {
        "rope_theta": rope["rope_theta"],
        "has_default_scaling": rope.get("rope_type", PLAIN) != PLAIN,
        "partial_rotary_factor": rope.get("partial_rotary_factor", 1.0),
        "head_dim": field(config, "head_dim"),
        "hidden_size": field(config, "hidden_size"),
        "num_attention_heads": field(config, "num_attention_heads"),
        "is_mla": field(config, "qk_rope_head_dim") is not None,
    }


def main():
    types = {}
    for name in sorted(CONFIG_MAPPING):
        try:
            config = CONFIG_MAPPING[name]()
        except Exception:  # needs arguments, or a package
            continue
        if found := defaults(config):
            types[name] = found
    rows = ",\n".join(f'  "{name}": {json.dumps(row)}' for name, row in types.items())
    print(f'{{"transformers": "{transformers.__version__}", "types": {{\n{rows}\n}}}}')


main()
