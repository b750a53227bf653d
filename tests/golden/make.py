"""Writes the golden files beside this script, from the code they hold us to.

    python -m venv golden && golden/bin/pip install -r tests/golden/requirements.txt
    golden/bin/python tests/golden/make.py

fastchat.safetensors   fschat's CondenseRotaryEmbedding: rows of its tables, their shapes and lengths
llama.safetensors      transformers' LlamaRotaryEmbedding and apply_rotary_pos_emb, linear scaling
exact.safetensors      phase steps and cos/sin from mpmath, 60 digits
models.safetensors     for every config of models/: transformers' inv_freq, attention factor and rotated q,
                       and inv_freq from mpmath
"""

import importlib
import json
from pathlib import Path

import mpmath
import numpy as np
import torch
from fastchat.model.llama_condense_monkey_patch import CondenseRotaryEmbedding
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

HERE = Path(__file__).parent
mpmath.mp.dps = 60


def fastchat():
    tensors, cases = {}, []
    # dim, ratio, max_position_embeddings, base, seq_len asked for, dtype
    for dim, ratio, length, base, seq_len, dtype in [
        (128, 8, 2048, 10000, 16384, torch.float32),
        (128, 8, 2048, 10000, 16384, torch.bfloat16),
        (128, 8, 2048, 10000, 16384, torch.float16),
        (128, 4, 4096, 10000, 300, torch.float32),
        (64, 2.5, 7, 10000, 18, torch.float32),
        (64, 2.5, 7, 10000, 17, torch.float32),
        (96, 3, 100, 500000, 301, torch.float32),
        (20, 0.5, 64, 10000, 200, torch.float32),
    ]:
        embedding = CondenseRotaryEmbedding(dim, ratio, length, base)
        capacity = float(embedding.max_seq_len_cached)
        cos, sin = embedding.forward(torch.zeros(1, dtype=dtype), seq_len)
        rows = sorted({*range(0, seq_len, max(1, seq_len // 37)), seq_len - 1})
        name = f"case{len(cases)}"
        tensors[f"{name}.rows"] = torch.tensor(rows)
        tensors[f"{name}.cos"] = cos[0, 0, rows].contiguous()
        tensors[f"{name}.sin"] = sin[0, 0, rows].contiguous()
        cases.append(
            dict(
                dim=dim, ratio=ratio, max_position_embeddings=length, base=base, seq_len=seq_len,
                dtype=str(dtype).removeprefix("torch."), shape=list(cos.shape),
                capacity=capacity, grown=float(embedding.max_seq_len_cached),
            )
        )
    save_file(tensors, HERE / "fastchat.safetensors", {"cases": json.dumps(cases)})


def llama():
    tensors, cases = {}, []
    torch.manual_seed(0)
    for head_dim, heads, kv_heads, factor, base, dtype in [
        (128, 4, 2, 8.0, 10000.0, torch.float32),
        (128, 4, 2, 8.0, 10000.0, torch.bfloat16),
        (64, 3, 1, 4.0, 500000.0, torch.float16),
    ]:
        config = LlamaConfig(
            hidden_size=head_dim * heads, num_attention_heads=heads, num_key_value_heads=kv_heads,
            head_dim=head_dim, max_position_embeddings=int(2048 * factor),
            rope_parameters=dict(rope_type="linear", factor=factor, rope_theta=base),
        )
        embedding = LlamaRotaryEmbedding(config)
        ids = torch.tensor([[0, 1, 2, 77, 2047], [2048, 8191, 9000, 12345, 16383]])
        q = torch.randn(2, heads, 5, head_dim).to(dtype)
        k = torch.randn(2, kv_heads, 5, head_dim).to(dtype)
        cos, sin = embedding(q, ids)
        q_out, k_out = apply_rotary_pos_emb(q, k, cos, sin)
        name = f"case{len(cases)}"
        for key, value in dict(ids=ids, q=q, k=k, q_out=q_out, k_out=k_out, inv_freq=embedding.inv_freq).items():
            tensors[f"{name}.{key}"] = value.contiguous()
        cases.append(
            dict(
                head_dim=head_dim, heads=heads, kv_heads=kv_heads, factor=factor, base=base,
                dtype=str(dtype).removeprefix("torch."),
            )
        )
    save_file(tensors, HERE / "llama.safetensors", {"cases": json.dumps(cases)})


def exact():
    tensors, cases = {}, []
    positions = [0, 1, 2, 2047, 4095, 16383, 32767, 131071, 2**20, 2**24 + 1, 2**31 - 1, 2**31, -1, -(2**31)]
    for dim, base, ratio in [
        (128, "10000", "8"), (128, "10000", "1"), (128, "500000", "1"), (64, "10000", "2.5"),
        (20, "10000", "1"), (256, "1000000", "3"), (96, "10000", "0.7"), (576, "150000", "16"),
        (2, "10000", "4"),
    ]:
        # The ratio and the base are the f64 that a caller gives.
        turns = [
            mpmath.mpf(float(base)) ** (mpmath.mpf(-2 * j) / dim) / mpmath.mpf(float(ratio)) / (2 * mpmath.pi)
            for j in range(dim // 2)
        ]
        steps = [int(mpmath.nint((t - mpmath.floor(t)) * 2**64)) % 2**64 for t in turns]
        angles = [[2 * mpmath.pi * t * p for t in turns] for p in positions]
        name = f"case{len(cases)}"
        tensors[f"{name}.steps"] = torch.from_numpy(np.array(steps, dtype=np.uint64).view(np.int64).copy())
        tensors[f"{name}.cos"] = torch.tensor([[float(mpmath.cos(a)) for a in row] for row in angles], dtype=torch.float64)
        tensors[f"{name}.sin"] = torch.tensor([[float(mpmath.sin(a)) for a in row] for row in angles], dtype=torch.float64)
        cases.append(dict(dim=dim, base=float(base), ratio=float(ratio)))
    metadata = {"cases": json.dumps(cases), "positions": json.dumps(positions)}
    save_file(tensors, HERE / "exact.safetensors", metadata)


def exact_inv_freq(rope, dim, length, max_position_embeddings):
    """The formulas, written out once more and worked out to 60 digits."""
    mp = mpmath.mpf
    kind, base = rope["rope_type"], mp(float(rope["rope_theta"]))
    factor = mp(float(rope.get("factor") or 1))
    pairs = dim // 2
    theta = [base ** (mp(-2 * j) / dim) for j in range(pairs)]
    if kind == "default":
        return theta
    if kind == "linear":
        return [t / factor for t in theta]
    if kind == "proportional":
        turning = int(rope["partial_rotary_factor"] * dim // 2)
        return [t / factor if j < turning else mp(0) for j, t in enumerate(theta)]
    if kind == "dynamic":
        stretch = factor * max(length, max_position_embeddings) / max_position_embeddings - (factor - 1)
        base *= stretch ** (mp(dim) / (dim - 2))
        return [base ** (mp(-2 * j) / dim) for j in range(pairs)]
    original = mp(rope["original_max_position_embeddings"])
    if kind == "longrope":
        ext = rope["long_factor"] if length > original else rope["short_factor"]
        return [t / mp(float(e)) for t, e in zip(theta, ext)]
    if kind == "llama3":
        low, high = mp(rope["low_freq_factor"]), mp(rope["high_freq_factor"])
        out = []
        for t in theta:
            wavelength = 2 * mpmath.pi / t
            if wavelength < original / high:
                out.append(t)
            elif wavelength > original / low:
                out.append(t / factor)
            else:
                smooth = (original / wavelength - low) / (high - low)
                out.append((1 - smooth) * t / factor + smooth * t)
        return out
    assert kind == "yarn"
    end = lambda beta: dim * mpmath.log(original / (mp(beta) * 2 * mpmath.pi)) / (2 * mpmath.log(base))
    low, high = end(rope.get("beta_fast") or 32), end(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = mpmath.floor(low), mpmath.ceil(high)
    low, high = max(low, mp(0)), min(high, mp(dim - 1))
    ramp = [min(max((j - low) / (high - low), mp(0)), mp(1)) for j in range(pairs)]
    return [t / factor * r + t * (1 - r) for t, r in zip(theta, ramp)]


def models():
    tensors, cases = {}, []
    torch.manual_seed(0)
    positions = [0, 1, 77, 2047, 4096, 16383, 131071]
    for path in sorted((HERE / "models").glob("*.json")):
        raw = json.loads(path.read_text())
        config = CONFIG_MAPPING[raw["model_type"]].from_dict(raw).get_text_config()
        family = importlib.import_module(f"transformers.models.{raw['model_type']}.modeling_{raw['model_type']}")
        rotary = [value for name, value in vars(family).items() if name.endswith("RotaryEmbedding") and "Vision" not in name]
        layered = getattr(config, "rope_parameters", None) or {}
        nested = [name for name in layered if isinstance(layered[name], dict)]
        for layer_type in nested or [None]:
            if raw["model_type"] == "gptj":
                rope = dict(rope_type="default", rope_theta=10000.0)
                dim = config.rotary_dim
                table = family.create_sinusoidal_positions(max(positions) + 1, dim)[positions]
                lengths, sin, cos = [1], *table.chunk(2, dim=-1)
                inv_freqs, attention = {}, 1.0
            else:
                rope = layered[layer_type] if layer_type else layered
                kind = rope["rope_type"]
                lengths = {"dynamic": [2048, 5000, 20000], "longrope": [4096, 4097]}.get(kind, [1])
                module = rotary[0](config)
                inv_freqs = {}
                for length in lengths:
                    if kind == "default":
                        name = f"{layer_type}_inv_freq" if layer_type else "inv_freq"
                        inv_freqs[length] = getattr(module, name)
                        attention = 1.0
                    else:
                        kwargs = dict(layer_type=layer_type) if layer_type else {}
                        inv_freqs[length], attention = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length, **kwargs)
                dim = 2 * len(inv_freqs[lengths[0]])
                angles = torch.tensor(positions).float()[:, None] * inv_freqs[lengths[0]][None]
                cos, sin = angles.cos() * attention, angles.sin() * attention
            name = f"case{len(cases)}"
            # The model's own pairing, by its own function where it takes q, k, cos and sin as most do.
            q = torch.randn(1, 2, len(positions), dim)
            if raw["model_type"] in ["gptj", "deepseek_v3"]:
                x, y = q[..., 0::2], q[..., 1::2]
                out = torch.stack((x * cos - y * sin, y * cos + x * sin), dim=-1).flatten(-2)
                if raw["model_type"] == "gptj":
                    theirs = family.apply_rotary_pos_emb(q.transpose(1, 2), sin[None], cos[None]).transpose(1, 2)
                else:
                    # Reads interleaved pairs and writes them half-split.
                    emb = [torch.cat((t, t), -1)[None] for t in (cos, sin)]
                    theirs = family.apply_rotary_pos_emb_interleave(q, q, *emb)[0]
                    theirs = torch.stack(theirs.chunk(2, dim=-1), dim=-1).flatten(-2)
                assert torch.equal(out, theirs), raw["model_type"]
            elif raw["model_type"] == "gpt_oss":
                out = family.apply_rotary_pos_emb(q, q, cos[None], sin[None])[0]
            else:
                apply = getattr(family, "apply_rotary_pos_emb", None) or apply_rotary_pos_emb
                out = apply(q, q, *[torch.cat((t, t), -1)[None] for t in (cos, sin)])[0]
            tensors[f"{name}.q"], tensors[f"{name}.q_out"] = q, out.contiguous()
            for length in lengths:
                if length in inv_freqs:
                    tensors[f"{name}.inv_freq.{length}"] = inv_freqs[length].contiguous().clone()
                exact = exact_inv_freq(rope, dim, length, getattr(config, "max_position_embeddings", 0))
                tensors[f"{name}.exact.{length}"] = torch.tensor([float(f) for f in exact], dtype=torch.float64)
            cases.append(
                dict(
                    model=path.stem, layer_type=layer_type, lengths=lengths, dim=dim,
                    attention_factor=float(attention), rope_theta=float(rope["rope_theta"]),
                )
            )
    # Three positions a token, through the modules that know sections.
    for model, family in [("qwen2_vl_7b", "qwen2_vl"), ("qwen3_vl_8b", "qwen3_vl")]:
        raw = json.loads((HERE / "models" / f"{model}.json").read_text())
        config = CONFIG_MAPPING[family].from_dict(raw).get_text_config()
        module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        rotary = next(v for k, v in vars(module).items() if k.endswith("RotaryEmbedding") and "Vision" not in k)
        ids = torch.randint(0, 5000, (3, 1, 6))
        q = torch.randn(1, 2, 6, 128)
        out = module.apply_rotary_pos_emb(q, q, *rotary(config)(q, ids))[0]
        for key, value in dict(ids=ids, q=q, q_out=out).items():
            tensors[f"{model}.mrope.{key}"] = value.contiguous()
    metadata = {"cases": json.dumps(cases), "positions": json.dumps(positions)}
    save_file(tensors, HERE / "models.safetensors", metadata)


fastchat()
llama()
exact()
models()
for path in sorted(HERE.glob("*.safetensors")):
    print(f"{path.name:24} {path.stat().st_size:8} bytes")
