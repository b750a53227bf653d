"""Writes gguf/*.gguf: the metadata that llama.cpp's converter writes for known models, by ggml-org's own package.

    pip install gguf==0.19.0 && python3 tests/golden/gguf_files.py
"""

import math
from pathlib import Path

import gguf
import numpy as np

HERE = Path(__file__).parent / "gguf"


def write(name, architecture, layers, width, heads, heads_kv, context, extra, tensors=()):
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", architecture)
    writer.add_name(name)
    writer.add_block_count(layers)
    writer.add_embedding_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads_kv)
    writer.add_context_length(context)
    # What every file has, and a reader of ropes passes over.
    writer.add_token_list(["<s>", "</s>", "\N{LOWER ONE EIGHTH BLOCK}a"])
    writer.add_token_scores([0.0, -1.0, -2.5])
    writer.add_tensor("token_embd.weight", np.zeros((3, 4), np.float16))
    extra(writer)
    for tensor, values in tensors:
        writer.add_tensor(tensor, np.asarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama3(writer):
    writer.add_rope_dimension_count(128)
    writer.add_rope_freq_base(500000.0)


def llama3_factors():
    """As llama.cpp's converter works them out."""
    factors = []
    for freq in 1.0 / (500000.0 ** (np.arange(0, 128, 2, dtype=np.float32) / 128)):
        wavelength = 2 * math.pi / freq
        if wavelength < 8192 / 4.0:
            factors.append(1)
        elif wavelength > 8192 / 1.0:
            factors.append(8.0)
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            factors.append(1 / ((1 - smooth) / 8.0 + smooth))
    return factors


def qwen2_yarn(writer):
    writer.add_rope_freq_base(1000000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(32768)


def phi3(writer):
    writer.add_rope_dimension_count(96)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_scaling_orig_ctx_len(4096)
    writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(32) / math.log(4096)))


def gemma3(writer):
    writer.add_key_length(256)
    writer.add_value_length(256)
    writer.add_sliding_window(1024)
    writer.add_rope_freq_base(1000000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(8.0)


def glm4(writer):
    writer.add_key_length(128)
    writer.add_value_length(128)
    writer.add_rope_dimension_count(64)
    writer.add_rope_freq_base(10000.0)


def qwen2vl(writer):
    writer.add_rope_freq_base(1000000.0)
    writer.add_rope_dimension_sections([16, 24, 24, 0])


def deepseek2(writer):
    writer.add_key_length(576)
    writer.add_key_length_mla(192)
    writer.add_rope_dimension_count(64)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(40.0)
    writer.add_rope_scaling_orig_ctx_len(4096)
    writer.add_rope_scaling_yarn_log_mul(0.1)


write("llama_3_1_8b", "llama", 32, 4096, 32, 8, 131072, llama3, [("rope_freqs.weight", llama3_factors())])
write("qwen2_5_7b", "qwen2", 28, 3584, 28, 4, 131072, qwen2_yarn)
phi3_lists = [("rope_factors_long.weight", np.linspace(1, 60, 48)), ("rope_factors_short.weight", np.linspace(1, 2, 48))]
write("phi_3_5_mini", "phi3", 32, 3072, 32, 32, 131072, phi3, phi3_lists)
write("gemma_3_4b", "gemma3", 34, 2560, 8, 4, 131072, gemma3)
write("glm_4_9b", "glm4", 40, 4096, 32, 2, 32768, glm4)
write("qwen2_vl_7b", "qwen2vl", 28, 3584, 28, 4, 32768, qwen2vl)
write("deepseek_v3", "deepseek2", 61, 7168, 128, 1, 163840, deepseek2)
