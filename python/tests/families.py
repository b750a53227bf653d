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
    """How far condensed and plain are from linear scaling, over the largest output; and how far condensed may be."""
    torch.manual_seed(0)
    config, _ = small(family, False)
    rope = dict(config.rope_parameters or {})
    # One rope, or one a layer type.
    by_type = {name: one for name, one in rope.items() if isinstance(one, dict)}
    if any(one.get("rope_type", "default") != "default" for one in by_type.values() or [rope]):
        raise ValueError("stretched already")
    linear = dict(rope_type="linear", factor=RATIO)
    plain = made(config)
    config.rope_parameters = {name: {**one, **linear} for name, one in by_type.items()} if by_type else {**rope, **linear}
    linear = made(config)
    config.rope_parameters = rope
    with condensed_rope.replace_with_condense(RATIO, family):
        condensed = made(config)
    for model in (linear, condensed):
        model.load_state_dict(plain.state_dict())
    expected = output(linear)
    off = lambda given: ((given - expected).abs().max() / expected.abs().max()).item()
    changed = off(output(plain)), off(output(condensed))
    # f32's own rounding, which some random models blow up.
    return changed[1], changed[0], max(2e-5, 4 * off(output(linear.double())))


def main():
    transformers.logging.set_verbosity_error()
    root = os.path.dirname(transformers.models.__file__)
    families = [f for f in sorted(os.listdir(root)) if os.path.exists(f"{root}/{f}/modeling_{f}.py")]
    families = [f for f in families if condensed_rope.conforming(f)]
    right, wrong = 0, []
    for family in families:
        try:
            off, changed, allowed = compared(family)
        except Exception as error:
            print(f"{family:32} not compared: {type(error).__name__}: {error}"[:120])
            continue
        if changed == 0.0:
            print(f"{family:32} not compared: positions change nothing")
            continue
        right += off < allowed
        if off >= allowed:
            wrong.append(family)
        print(f"{family:32} {off:.1e} of {changed:.1e}, allowed {allowed:.1e}")
    print(f"transformers {transformers.__version__}: {len(families)} families conform, {right} compared, wrong: {wrong or 'none'}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
