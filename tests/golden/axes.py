"""Writes axes.safetensors: q turned by positions on several axes, by transformers' own modules.

    pip install torch==2.11.0 transformers==5.24.0 safetensors && python3 tests/golden/axes.py

ERNIE-4.5-VL's text model (height and width in turn, then time), and the vision towers of Qwen2-VL, Pixtral and Llama 4.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.models.ernie4_5_vl_moe import modeling_ernie4_5_vl_moe as ernie
from transformers.models.llama4 import modeling_llama4 as llama4
from transformers.models.pixtral import modeling_pixtral as pixtral
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl

torch.manual_seed(20261126)
tensors = {}


def keep(name, ids, q, out):
    """ids [axes, tokens], q and out [tokens, heads, head_dim]."""
    for key, value in dict(ids=ids, q=q, q_out=out).items():
        tensors[f"{name}.{key}"] = value.contiguous()


TOKENS, HEADS = 9, 2
config = ernie.Ernie4_5_VLMoeTextConfig()
ids, q = torch.randint(0, 3000, (3, TOKENS)), torch.randn(TOKENS, HEADS, 128)
batched = q.transpose(0, 1)[None]
cos, sin = ernie.Ernie4_5_VLMoeTextRotaryEmbedding(config)(q, ids[:, None])
out = ernie.apply_rotary_pos_emb(batched, batched, cos, sin)[0][0].transpose(0, 1)
keep("ernie4_5_vl", ids, q, out)

config = qwen2_vl.Qwen2VLVisionConfig()
ids, q = torch.randint(0, 400, (2, TOKENS)), torch.randn(TOKENS, HEADS, config.embed_dim // config.num_heads)
cos, sin = qwen2_vl.Qwen2VLVisionRotaryEmbedding(config)(q, ids.T)
keep("qwen2_vl_vision", ids, q, qwen2_vl.apply_rotary_pos_emb_vision(q, q, cos, sin)[0])

config = pixtral.PixtralVisionConfig()
ids, q = torch.randint(0, 64, (2, TOKENS)), torch.randn(TOKENS, HEADS, config.head_dim)
cos, sin = pixtral.PixtralVisionRotaryEmbedding(config)(q, ids.T)
keep("pixtral_vision", ids, q, pixtral.apply_rotary_pos_emb(q, q, cos, sin)[0])

config = llama4.Llama4VisionConfig(image_size=42, patch_size=14, hidden_size=HEADS * 88, num_attention_heads=HEADS)
angles = llama4.Llama4VisionRotaryEmbedding(config)(q)[:TOKENS]  # three by three patches, counted from 1
ids = torch.stack([torch.arange(TOKENS) % 3 + 1, torch.arange(TOKENS) // 3 + 1])
q = torch.randn(TOKENS, HEADS, 88)
out = llama4.vision_apply_rotary_emb(q[None], q[None], angles)[0][0]
keep("llama4_vision", ids, q, out)

save_file(tensors, Path(__file__).parent / "axes.safetensors")
