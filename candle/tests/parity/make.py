"""Writes parity.safetensors and parity.json: tiny random checkpoints, and what transformers makes of them.

    pip install torch==2.11.0 transformers==5.24.0 && python3 candle/tests/parity/make.py

Weights of a model serve all of its ropes. Logits of one prompt, and the tokens that follow greedily.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM)

HERE = Path(__file__).parent
SIZES = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=256, rms_norm_eps=1e-5,
             tie_word_embeddings=False, eos_token_id=None, bos_token_id=None, pad_token_id=None)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
CASES = [
    ("llama", LlamaConfig, LlamaForCausalLM, dict(rope_type="default"), {}),
    ("llama", LlamaConfig, LlamaForCausalLM, dict(rope_type="linear", factor=4.0), {}),
    ("llama", LlamaConfig, LlamaForCausalLM, dict(rope_type="linear", factor=8.0), {}),
    ("llama", LlamaConfig, LlamaForCausalLM, LLAMA3, {}),
    ("llama", LlamaConfig, LlamaForCausalLM, YARN, {}),
    ("qwen3", Qwen3Config, Qwen3ForCausalLM, dict(rope_type="default"), {}),
    ("mistral", MistralConfig, MistralForCausalLM, dict(rope_type="default"), dict(sliding_window=16)),
]

torch.manual_seed(20261126)
tensors, cases = {}, []
prompt = torch.randint(0, SIZES["vocab_size"], (1, 60))
for name, config_class, model_class, rope, extra in CASES:
    config = config_class(**SIZES, rope_parameters=dict(rope_theta=10000.0, **rope), **extra)
    model = model_class._from_config(config, attn_implementation="eager").float().eval()
    prefix = f"{name}."
    known = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if known:
        model.load_state_dict(known)
    else:
        # Weights large enough that attention is not the mean of all values.
        for key, value in model.state_dict().items():
            if value.dim() > 1:
                value.normal_(0, 0.25)
            else:
                value.uniform_(0.5, 1.5)
        tensors |= {prefix + key: value.clone() for key, value in model.state_dict().items()}
    case = len(cases)
    with torch.no_grad():
        logits = model(prompt).logits[0]
        tokens = prompt
        for _ in range(24):
            tokens = torch.cat([tokens, model(tokens).logits[:, -1].argmax(-1, keepdim=True)], 1)
        half = model.bfloat16()(prompt).logits[0].float()
    tensors |= {f"case{case}.logits": logits, f"case{case}.bf16": half}
    cases.append(dict(weights=name, config=config.to_dict(), greedy=tokens[0, prompt.shape[1]:].tolist()))
save_file({key: value.contiguous() for key, value in tensors.items()}, HERE / "parity.safetensors")
keep = {"model_type", "rope_parameters", "sliding_window", *SIZES}
for case in cases:
    case["config"] = {key: value for key, value in case["config"].items() if key in keep}
(HERE / "parity.json").write_text(json.dumps(dict(prompt=prompt[0].tolist(), cases=cases), indent=1) + "\n")
