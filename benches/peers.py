"""Times HF's flow (eager and compiled) and Liger on the GPU, and merges the rows into a bench file.

    python3 benches/peers.py bench.json

Needs torch with CUDA, transformers' formula is written out below, and liger-kernel from PyPI (left
out with a line where it is missing). Every implementation is captured in a CUDA graph and replayed,
over buffers of at least 400 MB ("rotating"), one that stays in L2 ("hot"), or one that another kernel
writes before every call, whose time is taken off ("written"), as benches/gpu.rs does.
"""

import ctypes
import json
import statistics
import sys

import torch
import triton
import triton.language as tl

try:
    from liger_kernel.ops.rope import rope_forward
except ImportError:
    rope_forward = None

HEAD_DIM, Q_HEADS = 128, 32
TOKENS = [1, 8, 32, 128, 512, 1024, 2048, 4096, 8192, 32768]
HOT = 44 << 20
CUDA = ctypes.CDLL("libcuda.so.1")
# A kernel for each shape: one for all of them takes up to twice as long.
torch._dynamo.config.recompile_limit = 64


def rotate_half(x):
    return torch.cat((-x[..., HEAD_DIM // 2 :], x[..., : HEAD_DIM // 2]), dim=-1)


def apply(q, k, cos, sin):
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def with_angles(q, k, positions, inv_freq):
    emb = torch.outer(positions, inv_freq).repeat(1, 2)
    return apply(q, k, emb.cos().to(q.dtype), emb.sin().to(q.dtype))


def tables(tokens):
    inv_freq = 10000 ** (-torch.arange(0, HEAD_DIM, 2, device="cuda").float() / HEAD_DIM)
    positions = torch.arange(tokens, device="cuda").float()
    emb = torch.outer(positions, inv_freq).repeat(1, 2)
    return positions, inv_freq, emb.cos().bfloat16()[None], emb.sin().bfloat16()[None]


def median_us(call, launches, keep=False):
    """`keep`: what a call returns stays, so that the next one writes to DRAM elsewhere."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(3):
            call(i)
        torch.cuda.synchronize()
        # Inductor's kernels ask L2 to keep what they read, which would then be there for others, too.
        assert CUDA.cuCtxResetPersistingL2Cache() == 0
        graph, kept = torch.cuda.CUDAGraph(), []
        with torch.cuda.graph(graph, stream=stream):
            for i in range(launches):
                kept.append(call(i))
                if not keep:
                    kept.clear()
        times = []
        for _ in range(12):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record(stream)
            graph.replay()
            end.record(stream)
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e3 / launches)
    return statistics.median(times[2:])


@triton.jit
def write_backwards(data, words, TILE: tl.constexpr):
    # As benches/limit.cu's: its blocks meet other tokens than the blocks of the kernel after it.
    at = (tl.num_programs(0) - 1 - tl.program_id(0)) * TILE + tl.arange(0, TILE)
    value = tl.load(data + at, mask=at < words)
    tl.store(data + at, value ^ 1, mask=at < words)


def after(first, call):
    def both(i):
        first(i)
        call(i)

    return both


def rows(kv_heads):
    compiled, compiled_angles = (torch.compile(f, dynamic=False) for f in [apply, with_angles])
    for tokens in TOKENS:
        size = tokens * (Q_HEADS + kv_heads) * HEAD_DIM * 2
        positions, inv_freq, cos, sin = tables(tokens)
        for cache in ["rotating", "hot", "written"]:
            hot = cache != "rotating"
            if hot and size > HOT or cache == "written" and not 512 <= tokens <= 2048:
                continue
            slots = 1 if hot else min(max(2, (400 << 20) // size + 1), 8192)
            launches = max(20, min(200, 20_000_000 // size)) if hot else max(8, slots)
            pool = torch.randn(slots, size // 2, device="cuda", dtype=torch.bfloat16)
            behind_q = tokens * Q_HEADS * HEAD_DIM
            view = lambda part, heads: part.view(slots, 1, tokens, heads, HEAD_DIM).transpose(2, 3)
            q, k = view(pool[:, :behind_q], Q_HEADS), view(pool[:, behind_q:], kv_heads)
            words = pool.view(torch.int32)

            def write(_):
                grid = (triton.cdiv(words.numel(), 4096),)
                write_backwards[grid](words, words.numel(), TILE=4096, num_warps=8)

            before = median_us(write, launches) if cache == "written" else 0
            calls = {
                "hf_eager": lambda i: apply(q[i % slots], k[i % slots], cos, sin),
                "compile": lambda i: compiled(q[i % slots], k[i % slots], cos, sin),
                "compile, angles too": lambda i: compiled_angles(q[i % slots], k[i % slots], positions, inv_freq),
            }
            if rope_forward is not None:
                calls["liger"] = lambda i: rope_forward(q[i % slots], k[i % slots], cos, sin)
            for name, call in calls.items():
                timed = after(write, call) if cache == "written" else call
                us = median_us(timed, launches, keep=not hot) - before
                op = "rotate_with_angles" if name.endswith("angles too") else "rotate"
                yield dict(
                    op=op, impl=name.split(",")[0], dtype="bf16", pairing="half_split", layout="thd",
                    q_heads=Q_HEADS, kv_heads=kv_heads, head_dim=HEAD_DIM, rotary_dim=HEAD_DIM,
                    tokens=tokens, cache=cache, pdl=False, median_us=us,
                    bytes=2 * size,
                )
                print(f"{name:20} {tokens:6} tokens, {Q_HEADS}+{kv_heads} heads, {cache}: {us:.2f} us", flush=True)
            del q, k, pool, words
            torch.cuda.empty_cache()


def main():
    path = sys.argv[1]
    if rope_forward is None:
        print("liger-kernel is not installed: no rows of it")
    with open(path) as file:
        old = json.load(file)
    new = [row for kv_heads in [8, 32] for row in rows(kv_heads)]
    ours = {row["impl"] for row in new}
    merged = [row for row in old if row["impl"] not in ours] + new
    with open(path, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(row) for row in merged) + "\n]\n")
    print(f"{len(new)} rows merged into {path}")


main()
