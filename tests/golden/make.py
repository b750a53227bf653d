"""Writes the golden files beside this script, from the code they hold us to.

    python -m venv golden && golden/bin/pip install -r tests/golden/requirements.txt
    golden/bin/python tests/golden/make.py

fastchat.safetensors   fschat's CondenseRotaryEmbedding: rows of its tables, their shapes and lengths
llama.safetensors      transformers' LlamaRotaryEmbedding and apply_rotary_pos_emb, linear scaling
exact.safetensors      phase steps and cos/sin from mpmath, 60 digits
"""

import json
from pathlib import Path

import mpmath
import numpy as np
import torch
from fastchat.model.llama_condense_monkey_patch import CondenseRotaryEmbedding
from safetensors.torch import save_file
from transformers import LlamaConfig
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


fastchat()
llama()
exact()
for path in sorted(HERE.glob("*.safetensors")):
    print(f"{path.name:24} {path.stat().st_size:8} bytes")
