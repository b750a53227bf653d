"""What each model class of transformers does to q and k: seen by running it, not by reading its config.

    pip install torch==2.11.0 transformers==5.24.0
    python3 tests/golden/model_types.py > src/config/hf/model_types.json     # all types, some minutes
    python3 tests/golden/model_types.py --update llama glm > new.json     # the file, with these types anew
    python3 tests/golden/model_types.py --check llama glm gemma3_text     # a sample, held to the file

A class is made small (few layers, two heads of the class's own size, random weights) and run twice on the same tokens, at
positions that are all zero and at spread ones, with an attention that looks at no position. Which channels of q move, with
which partner and by what angle, is each layer's rotary range, pairing, direction and frequencies; the length of a pair at
position zero is the factor on cos and sin. Where ids have several rows, one row at a time is moved: each pair's axis.
"""

import collections
import contextlib
import importlib
import inspect
import json
import math
import multiprocessing
import pathlib
import resource
import signal
import sys
import warnings

import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

FILE = pathlib.Path(__file__).parents[2] / "src" / "config" / "hf" / "model_types.json"
TOKENS = 6
SPREAD = [1, 2, 5, 40, 1000, 30011]
LAYERS = 12
HEADS = 2
# What makes a class small without changing how it turns q and k.
SMALL = dict(
    num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=HEADS, intermediate_size=32,
    vocab_size=64, num_experts=4, num_local_experts=4, n_routed_experts=4, num_experts_per_tok=2, moe_topk=2,
    moe_intermediate_size=16, shared_expert_intermediate_size=16, moe_num_experts=4, moe_k=2, n_group=1,
    topk_group=1, pad_token_id=0, bos_token_id=1, eos_token_id=2, first_k_dense_replace=1, n_shared_experts=1,
    q_lora_rank=16, kv_lora_rank=16, vocab_size_per_layer_input=64, hidden_size_per_layer_input=8,
    num_kv_shared_layers=0, ffn_hidden_size=32, expert_ffn_hidden_size=16, zero_expert_num=1, num_zero_experts=1,
    n_head=HEADS, n_layer=LAYERS, num_layers=LAYERS, max_position_embeddings=65536,
)


FILL = dict(num_experts_per_tok=2, num_key_value_heads=HEADS, sliding_window=16, n_routed_experts=4, n_shared_experts=1)
# Of single types: without it no layer attends, or the class cannot run.
EXTRA = {
    "bamba": {"attn_layer_indices": [3, 7]},
    "granitemoehybrid": {"layer_types": ["mamba", "mamba", "attention"] * (LAYERS // 3), "position_embedding_type": "rope"},
} | {name: {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
                                "mrope_section": [8, 12, 12]}} for name in ("glm4v", "glm4v_text", "glm4v_moe", "glm4v_moe_text")
} | {name: {"head_dim": 128, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0,
                                                 "mrope_section": [16, 16, 16, 16]}} for name in ("hunyuan_vl", "hunyuan_vl_text")}


class Watch:
    """What attention is given, layer by layer, and what the rotation before it was given."""

    def __init__(self):
        self.queries = collections.OrderedDict()
        self.keys = collections.OrderedDict()
        self.values = []
        self.rotations = []

    def attention(self, module, query, key, value, *args, **kwargs):
        layer = getattr(module, "layer_idx", None)
        layer = layer if isinstance(layer, int) and layer >= 0 else len(self.queries)
        self.queries.setdefault(layer, query.detach().double())
        self.keys.setdefault(layer, key.detach().double())
        self.values.append(value.detach().double())
        # Of v alone: nothing that depends on positions.
        groups = query.shape[1] // value.shape[1]
        return value.repeat_interleave(groups, dim=1).transpose(1, 2).contiguous(), None


WATCH = Watch()
ALL_ATTENTION_FUNCTIONS.register("watch", lambda *args, **kwargs: WATCH.attention(*args, **kwargs))
ALL_MASK_ATTENTION_FUNCTIONS.register("watch", ALL_MASK_ATTENTION_FUNCTIONS["eager"])


@contextlib.contextmanager
def watched(model):
    """The rotation functions of the model's own file, with what they are given and give kept."""
    global WATCH
    WATCH = Watch()
    module = sys.modules[type(model).__module__]
    functions = {
        name: function for name, function in vars(module).items()
        if inspect.isfunction(function) and name.startswith("apply_") and "rot" in name and "vision" not in name
    }

    def keeping(function):
        def call(*args, **kwargs):
            out = function(*args, **kwargs)
            first = out[0] if isinstance(out, tuple) else out
            tensors = [arg for arg in [*args, *kwargs.values()] if isinstance(arg, torch.Tensor)]
            WATCH.rotations.append((tensors[0].detach().double(), first.detach().double()))
            return out
        return call

    for name, function in functions.items():
        setattr(module, name, keeping(function))
    try:
        yield WATCH
    finally:
        for name, function in functions.items():
            setattr(module, name, function)


def permutation(watch):
    """Where a rotation reorders channels: the channel that each one of its output was, at position zero."""
    for given, out in watch.rotations:
        if given.shape != out.shape:
            continue
        a, b = given.reshape(-1, given.shape[-1]), out.reshape(-1, out.shape[-1])
        scale = (b.norm() / a.norm()).item()
        order = [int(((a * scale - b[:, c : c + 1]).abs().sum(0)).argmin()) for c in range(b.shape[1])]
        return None if order == list(range(len(order))) else order
    return None


def small(model_type, fill):
    """The config class's own defaults, made small; and what was said to make it so."""
    default = CONFIG_MAPPING[model_type]()
    default = default.get_text_config(decoder=True)
    cls = type(default)
    heads, width = field(default, "num_attention_heads"), field(default, "hidden_size")
    head_dim = field(default, "head_dim") or (width // heads if width and heads else None)
    if not head_dim:
        raise ValueError("no head size")
    said = {name: value for name, value in SMALL.items() if field(default, name) is not None}
    if fill:  # what every checkpoint says, though the class has no default for it
        said |= {name: value for name, value in (FILL | {"head_dim": head_dim}).items() if name_without_value(default, name)}
    said["hidden_size"] = HEADS * head_dim
    said |= EXTRA.get(model_type, {})
    # GPT-J's names are another spelling of the same.
    for name, alias in getattr(cls, "attribute_map", {}).items():
        if name in said and alias in said:
            said.pop(alias)
    while True:
        try:
            return cls(**said), said
        except Exception as error:  # a field of another type or shape in this class: left as the class has it
            named = [name for name in said if name in str(error)]
            if not named:
                raise
            said.pop(max(named, key=len))


def name_without_value(config, name):
    return hasattr(config, name) and field(config, name) is None


def field(config, name):
    try:
        return getattr(config, name, None)
    except Exception:  # a class whose layers differ refuses to say
        return None


def run(model, positions, axes):
    with watched(model) as watch, torch.no_grad():
        ids = torch.full((1, TOKENS), 3)
        positions = torch.tensor([positions] if axes is None else positions)
        positions = positions if axes is None else positions[:, None, :]
        model(input_ids=ids, position_ids=positions, use_cache=False)
        return watch


def turns(still, moved, order):
    """One layer: its range, pairing, direction and radians a position, by q at position zero and at SPREAD."""
    dim = still.shape[-1]
    still, moved = (q.transpose(1, 2).reshape(TOKENS, -1, dim) for q in (still, moved))
    size = still.abs().mean()
    moves = ((moved - still).abs().amax((0, 1)) > 2e-5 * size).nonzero().flatten().tolist()
    if not moves:
        return None
    first, last = moves[0], moves[-1] + 1
    for count in sorted({last - first, dim - first, *range(last - first, dim - first + 1)}):
        if count % 2:
            continue
        for pairing, pairs in (
            ("half-split", [(first + i, first + i + count // 2) for i in range(count // 2)]),
            ("interleaved", [(first + 2 * i, first + 2 * i + 1) for i in range(count // 2)]),
        ):
            angles = angles_of(still, moved, pairs)
            if angles is not None:
                return first, count, pairing, pairs, angles
    raise ValueError(f"channels {first} to {last} of {dim} move, but not as pairs")


def angles_of(still, moved, pairs):
    """Radians a position of each pair, where each is a rotation about the same angle in all heads."""
    found = []
    for a, b in pairs:
        z, w = torch.complex(still[..., a], still[..., b]), torch.complex(moved[..., a], moved[..., b])
        ratio = (w * z.conj()).sum(-1) / (z * z.conj()).sum(-1).real
        if ((w - ratio[:, None] * z).abs().max() > 1e-3 * z.abs().max()) or ((ratio.abs() - 1).abs() > 1e-3).any():
            return None
        # From the shortest distance on, each angle says how often the next one went round.
        rate = math.atan2(ratio[0].imag, ratio[0].real) / SPREAD[0]
        for position, r in zip(SPREAD[1:], ratio[1:]):
            angle = math.atan2(r.imag, r.real)
            rounds = round((rate * position - angle) / math.tau)
            better = (angle + rounds * math.tau) / position
            if abs(better - rate) > 0.02 * abs(rate) + 1e-5:
                return None
            rate = better
        found.append(rate)
    return found


def derive(model_type):
    try:
        return derived(model_type, False)
    except Exception as error:
        try:
            return derived(model_type, True)
        except Exception:
            raise error


def derived(model_type, fill):
    torch.manual_seed(0)
    config, said = small(model_type, fill)
    model = made(config)
    sections = (getattr(config, "rope_parameters", None) or {}).get("mrope_section")
    axes = len(sections) if sections else 3 if "mrope_section" in inspect.getsource(modeling(config)) else None
    zeros = [0] * TOKENS
    try:
        still = run(model, zeros, None)
        moved = run(model, SPREAD, None)
    except Exception:
        if axes is None:
            raise
        still = run(model, [zeros] * axes, axes)
        moved = run(model, [SPREAD] * axes, axes)
    order = permutation(still)
    if not still.queries:
        # An attention of its own: what goes into the rotation and comes out of it, then.
        still.queries = {i: given for i, (given, _) in enumerate(moved.rotations)}
        moved.queries = {i: out for i, (_, out) in enumerate(moved.rotations)}
        axes = None
    if not still.queries:
        raise ValueError("neither its attention nor its rotation was seen")
    learned = any((a - b).abs().max() > 1e-4 * a.abs().max() for a, b in zip(still.values, moved.values))
    source = inspect.getsource(modeling(config))
    if learned and "apply_rotary" in source:
        raise ValueError("positions move values, too")
    turned = any(a.shape != b.shape or (a - b).abs().max() > 1e-4 for a, b in moved.rotations)
    types = field(config, "layer_types")
    layers = []
    for layer, query in still.queries.items():
        row = {"layer_type": types[layer] if types and len(types) > layer else None, "head_dim": query.shape[-1]}
        # Positions that move v are not rotary.
        found = None
        if not learned:
            try:
                found = turns(query, moved.queries[layer], order)
            except ValueError:  # q multiplied by something of its position (Llama 4's scaling): k is not
                query = still.keys[layer]
                found = turns(query, moved.keys[layer], order)
        if found:
            first, count, pairing, pairs, rates = found
            if order is not None and len(order) == count:
                partner = order[count // 2] if pairing == "half-split" else order[1]
                pairing = "interleaved" if partner - order[0] == 1 else "half-split"
            direction = "forward" if sum(rates) > 0 else "inverse"
            factor = factor_of(model, config, row["layer_type"])
            row |= dict(rotary_offset=first, rotary_dim=count, pairing=pairing, direction=direction,
                        attention_factor=factor,
                        inv_freq={str(i): float(f"{abs(rates[i]):.5g}") for i in some(len(rates))})
            if axes:
                row["axes"] = "".join(map(str, axes_of(model, layer, query, pairs, axes)))
        layers.append(row)
    if turned and not any("pairing" in row for row in layers):
        raise ValueError("it rotates by positions of its own")
    groups = []
    for layer, row in zip(still.queries, layers):
        same = next((group for group in groups if alike(group, row)), None)
        if same is None:
            groups.append(row | {"indices": [layer]})
        else:
            same["indices"].append(layer)
    sizes = {k: v for k, v in said.items() if k in KEPT or k in EXTRA.get(model_type, {})}
    sizes |= {k: field(config, k) for k in MLA if field(config, k) is not None}
    rope = field(config, "rope_parameters") or {}
    if rope.get("rope_type", "default") != "default" or any(isinstance(value, dict) for value in rope.values()):
        sizes["rope_parameters"] = rope
        if field(config, "layer_types"):
            sizes["layer_types"] = config.layer_types
    return {"config": {"model_type": config.model_type, **sizes}, "groups": groups}


def alike(group, row):
    """But for the last digits of angles."""
    same = all(group.get(key) == value for key, value in row.items() if key != "inv_freq")
    near = all(math.isclose(group["inv_freq"][pair], rate, rel_tol=1e-3)
               for pair, rate in row.get("inv_freq", {}).items() if "inv_freq" in group)
    return same and near and ("inv_freq" in group) == ("inv_freq" in row)


def some(pairs):
    return sorted({0, 1 % pairs, pairs // 4, pairs // 2, pairs - 1})


def made(config):
    failure = None
    ways = [AutoModelForCausalLM.from_config, AutoModel.from_config, *(cls._from_config for cls in classes_of(config))]
    for implementation in ("watch", "eager"):
        for way in ways:
            try:
                return way(config, attn_implementation=implementation).float().eval()
            except Exception as error:
                failure = error
    raise failure


def modeling(config):
    return importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))


def classes_of(config):
    """Classes of the config's own file that are made of it, those without a head first."""
    found = [cls for cls in vars(modeling(config)).values()
             if inspect.isclass(cls) and getattr(cls, "config_class", None) is type(config)
             and not cls.__name__.endswith("PreTrainedModel")]
    return sorted(found, key=lambda cls: "For" in cls.__name__)


# What a config.json says in any case: the rest is the class's.
KEPT = ("num_hidden_layers", "num_attention_heads", "hidden_size", "max_position_embeddings", "n_head", "n_layer",
        "num_layers", "head_dim")


MLA = ("qk_rope_head_dim", "qk_nope_head_dim")


def factor_of(model, config, layer_type):
    for name, module in model.named_modules():
        for key in (f"{layer_type}_attention_scaling", "attention_scaling"):
            if "vision" not in name and isinstance(getattr(module, key, None), (int, float)):
                return round(float(getattr(module, key)), 6)
    return 1.0


def axes_of(model, layer, still, pairs, axes):
    zeros = [0] * TOKENS
    found = [None] * len(pairs)
    for axis in range(axes):
        rows = [SPREAD if row == axis else zeros for row in range(axes)]
        moved = run(model, rows, axes).queries[layer]
        for pair, (a, _) in enumerate(pairs):
            if ((moved - still)[..., a].abs().max() > 2e-5 * still.abs().mean()):
                if found[pair] is not None:
                    raise ValueError(f"pair {pair} turns by several axes")
                found[pair] = axis
    return found


def apart(name):
    """In a process of its own, which may not take all memory or for ever."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    signal.alarm(120)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("more than two minutes")))
    try:
        return derive(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}".split("\n")[0][:160]


def main():
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    arguments = sys.argv[1:]
    mode = arguments.pop(0) if arguments[:1] in (["--check"], ["--update"]) else None
    names = arguments or sorted(CONFIG_MAPPING_NAMES)
    types, not_run = {}, {}
    with multiprocessing.get_context("fork").Pool(maxtasksperchild=1) as pool:
        for i, (name, found) in enumerate(zip(names, pool.imap(apart, names))):
            print(f"{i + 1:4} of {len(names)}  {name}", file=sys.stderr)
            (types if isinstance(found, dict) else not_run)[name] = found
    known = json.loads(FILE.read_text()) if mode else None
    if mode == "--update":
        types, not_run = ({k: v for k, v in sorted((known[key] | found).items()) if k in found or k not in names}
                          for key, found in (("types", types), ("not_run", not_run)))
    if mode == "--check":
        assert known["transformers"] == transformers.__version__, "another version of transformers"
        for name in names:
            ours, theirs = types.get(name, {}), known["types"][name]
            same = len(ours.get("groups", [])) == len(theirs["groups"]) and ours["config"] == theirs["config"]
            assert same and all(map(alike, ours["groups"], theirs["groups"])), f"{name}: {ours or not_run[name]}"
        print(f"{len(names)} types are as src/config/hf/model_types.json says")
        return
    rows = lambda found: ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in found.items())
    print(f'{{"transformers": "{transformers.__version__}", "types": {{\n{rows(types)}\n}}, '
          f'"not_run": {{\n{rows(not_run)}\n}}}}')


if __name__ == "__main__":
    main()
