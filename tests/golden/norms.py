"""RMSNorm of heads as transformers' Qwen 3 and Gemma 3 have it: their own modules, on rows of random numbers.

    pip install torch==2.11.0 transformers==5.24.0 safetensors
    python3 tests/golden/norms.py tests/golden/norms.safetensors
"""

import sys

import torch
from safetensors.torch import save_file
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

torch.manual_seed(16)
tensors = {}
for name, cls, dim in (("qwen3", Qwen3RMSNorm, 128), ("gemma3", Gemma3RMSNorm, 256)):
    norm = cls(dim, eps=1e-6)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(dim) * 0.3 + (name == "qwen3"))
    # Rows of sizes from tiny to large, and one of zeros.
    x = torch.randn(12, dim) * torch.logspace(-5, 4, 12)[:, None]
    x[7] = 0
    with torch.no_grad():
        tensors |= {f"{name}.x": x, f"{name}.weight": norm.weight.detach().clone(), f"{name}.out": norm(x)}
        half = cls(dim, eps=1e-6).bfloat16()
        half.weight.copy_(norm.weight)
        tensors |= {f"{name}.bf16.weight": half.weight.detach().clone(), f"{name}.bf16.out": half(x.bfloat16())}
        tensors[f"{name}.bf16.x"] = x.bfloat16()
# bf16 as the f32 that it is.
save_file({name: tensor.float() for name, tensor in tensors.items()}, sys.argv[1])
