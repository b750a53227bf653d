"""Every conforming family of the transformers that is installed: a small random model, condensed, against linear scaling.

    PYTHONPATH=tests/golden python3 python/tests/families.py

Families that cannot be made from their defaults, or that are stretched already, are listed with the reason.
"""

import os

import torch
import transformers
from model_types import small
from transformers import AutoModel, AutoModelForCausalLM

import condensed_rope

RATIO = 8.0
IDS = torch.arange(3, 15)[None]


def made(config):
    auto = AutoModelForCausalLM if type(config) in AutoModelForCausalLM._model_mapping.keys() else AutoModel
    return auto.from_config(config).float().eval()


def output(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False)[0]


def compared(family):
    """How far condensed and plain are from linear scaling, over the largest output."""
    torch.manual_seed(0)
    config, _ = small(family, False)
    rope = dict(config.rope_parameters or {})
    if rope.get("rope_type", "default") != "default":
        raise ValueError("stretched already")
    plain = made(config)
    config.rope_parameters = {**rope, "rope_type": "linear", "factor": RATIO}
    linear = made(config)
    config.rope_parameters = rope
    with condensed_rope.replace_with_condense(RATIO, family):
        condensed = made(config)
    for model in (linear, condensed):
        model.load_state_dict(plain.state_dict())
    expected = output(linear)
    return [((output(model) - expected).abs().max() / expected.abs().max()).item() for model in (condensed, plain)]


def main():
    transformers.logging.set_verbosity_error()
    root = os.path.dirname(transformers.models.__file__)
    families = [f for f in sorted(os.listdir(root)) if os.path.exists(f"{root}/{f}/modeling_{f}.py")]
    families = [f for f in families if condensed_rope.conforming(f)]
    right, wrong = 0, []
    for family in families:
        try:
            off, changed = compared(family)
        except Exception as error:
            print(f"{family:32} not compared: {type(error).__name__}: {error}"[:120])
            continue
        right += off < 2e-5
        if off >= 2e-5:
            wrong.append(family)
        print(f"{family:32} {off:.1e} of {changed:.1e}")
    print(f"transformers {transformers.__version__}: {len(families)} families conform, {right} compared, wrong: {wrong or 'none'}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
