"""Times HF's flow (eager and compiled), Liger, flash-attention and sglang on the GPU, and merges the rows into a bench file.

    python3 benches/peers.py bench.json

Needs torch with CUDA; transformers' formula is written out below. What is missing is left out with a line:
Liger (liger-kernel of PyPI); flash-attention's Triton rotary (FLASH_ATTN: its source archive, unpacked); sglang's
JIT rope (SGLANG: its wheel, unpacked; apache-tvm-ffi of PyPI, and nvcc, which compiles it), with programmatic
dependent launch and without. This package's own operator, where it is installed, runs beside them as "ours_in_torch", at
consecutive positions, which all but sglang take. Every implementation is captured in a CUDA graph and replayed,
over buffers of at least 400 MB ("rotating"), one that stays in L2 ("hot"), or one that another kernel
writes before every call, whose time is taken off ("written"), as benches/gpu.rs does; their replays take turns.
"""

import ctypes
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import torch
import triton
import triton.language as tl

try:
    from liger_kernel.ops.rope import rope_forward
except ImportError:
    rope_forward = None

# As benches/gpu/cases.rs has them: heads of q and k, channels, tokens.
EVERY = [1, 4, 16, 64, 256, 512, 1024, 2048, 4096, 8192, 32768]
HALF = [1, 16, 256, 1024, 4096, 32768]
MODELS = [
    (32, 8, 128, EVERY), (32, 32, 128, EVERY),
    (64, 8, 128, HALF), (16, 8, 256, HALF), (64, 8, 64, HALF), (24, 8, 128, HALF),
]
HOT = 44 << 20
CUDA = ctypes.CDLL("libcuda.so.1")
# A kernel for each shape: one for all of them takes up to twice as long.
torch._dynamo.config.recompile_limit = 64


def missing(name, why):
    print(f"no rows of {name}: {why}", flush=True)


def flash_attn():
    """The file alone: its package wants the whole of it compiled."""
    path = pathlib.Path(os.environ.get("FLASH_ATTN", "")) / "flash_attn/ops/triton/rotary.py"
    if not path.is_file():
        return missing("flash_attn", "FLASH_ATTN names no unpacked source archive")
    spec = importlib.util.spec_from_file_location("flash_attn_rotary", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.apply_rotary


def sglang():
    """Functions by head dimension and overlap."""
    root = pathlib.Path(os.environ.get("SGLANG", "")) / "sglang/kernels/jit"
    if not (root / "csrc/elementwise/rope.cuh").is_file():
        return missing("sglang", "SGLANG names no unpacked wheel")
    try:
        import tvm_ffi
    except ImportError as error:
        return missing("sglang", error)
    major, minor = torch.cuda.get_device_capability()
    library = pathlib.Path(tempfile.mkdtemp()) / "libsglang_rope.so"
    includes = [root / "include", root / "csrc", pathlib.Path(tvm_ffi.__file__).parent / "include"]
    # As its own loader compiles it.
    command = [
        os.environ.get("NVCC", "nvcc"), "-std=c++20", "-O3", "--expt-relaxed-constexpr", "-shared", "-Xcompiler", "-fPIC",
        f"-DSGL_CUDA_ARCH={major}{minor}0", f"-gencode=arch=compute_{major}{minor}a,code=sm_{major}{minor}a",
        *(f"-I{folder}" for folder in includes), "-o", library, pathlib.Path(__file__).parent / "sglang_rope.cu",
    ]
    if subprocess.run(command).returncode:
        return missing("sglang", "nvcc could not compile it")
    module = tvm_ffi.load_module(str(library))
    return {(dim, pdl): module[f"rope_{'pdl_' if pdl else ''}{dim}"] for dim in [64, 128, 256] for pdl in [False, True]}


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def apply(q, k, cos, sin):
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def with_angles(q, k, positions, inv_freq):
    emb = torch.outer(positions, inv_freq).repeat(1, 2)
    return apply(q, k, emb.cos().to(q.dtype), emb.sin().to(q.dtype))


def tables(tokens, dim):
    inv_freq = 10000 ** (-torch.arange(0, dim, 2, device="cuda").float() / dim)
    positions = torch.arange(tokens, device="cuda").float()
    emb = torch.outer(positions, inv_freq).repeat(1, 2)
    return positions, inv_freq, emb.cos().bfloat16()[None], emb.sin().bfloat16()[None]


def graph_of(call, launches, keep, stream):
    """Of so many calls. `keep`: what they return stays, so that the next one writes to DRAM elsewhere."""
    with torch.cuda.stream(stream):
        for i in range(3):
            call(i)
        torch.cuda.synchronize()
        graph, kept = torch.cuda.CUDAGraph(), []
        with torch.cuda.graph(graph, stream=stream):
            for i in range(launches):
                kept.append(call(i))
                if not keep:
                    kept.clear()
    return graph, kept


def medians_us(calls, launches, keep=False):
    """Microseconds a call, by name: one replay of each after the other, in as many rounds as there are samples."""
    stream = torch.cuda.Stream()
    graphs = {name: graph_of(call, launches, keep, stream) for name, call in calls.items()}
    # Inductor's kernels ask L2 to keep what they read, which would then be there for others, too.
    assert CUDA.cuCtxResetPersistingL2Cache() == 0
    times = {name: [] for name in calls}
    with torch.cuda.stream(stream):
        for _ in range(12):
            for name, (graph, _) in graphs.items():
                graph.replay()  # finds in L2 what its own kind has left there
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record(stream)
                graph.replay()
                end.record(stream)
                end.synchronize()
                times[name].append(start.elapsed_time(end) * 1e3 / launches)
    return {name: statistics.median(of[2:]) for name, of in times.items()}


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


def rows(q_heads, kv_heads, dim, sizes, flash, sgl, ours):
    compiled, compiled_angles = (torch.compile(f, dynamic=False) for f in [apply, with_angles])
    for tokens in sizes:
        size = tokens * (q_heads + kv_heads) * dim * 2
        positions, inv_freq, cos, sin = tables(tokens, dim)
        for cache in ["rotating", "hot", "written"]:
            hot = cache != "rotating"
            if hot and size > HOT or cache == "written" and not 512 <= tokens <= 2048:
                continue
            slots = 1 if hot else min(max(2, (400 << 20) // size + 1), 8192)
            launches = max(20, min(200, 20_000_000 // size)) if hot else max(8, slots)
            pool = torch.randn(slots, size // 2, device="cuda", dtype=torch.bfloat16)
            behind_q = tokens * q_heads * dim
            view = lambda part, heads: part.view(slots, 1, tokens, heads, dim).transpose(2, 3)
            q, k = view(pool[:, :behind_q], q_heads), view(pool[:, behind_q:], kv_heads)
            words = pool.view(torch.int32)

            def write(_):
                grid = (triton.cdiv(words.numel(), 4096),)
                write_backwards[grid](words, words.numel(), TILE=4096, num_warps=8)

            calls = {}
            if (q_heads, dim) == (32, 128) and cache == "rotating":
                calls = {
                    "hf_eager": lambda i: apply(q[i % slots], k[i % slots], cos, sin),
                    "compile": lambda i: compiled(q[i % slots], k[i % slots], cos, sin),
                    "compile, angles too": lambda i: compiled_angles(q[i % slots], k[i % slots], positions, inv_freq),
                }
            if rope_forward is not None:
                calls["liger"] = lambda i: rope_forward(q[i % slots], k[i % slots], cos, sin)
            if flash:
                # One tensor a launch: q and k as heads of one, which is kinder to it than two launches.
                half = cos[0, :, : dim // 2].contiguous(), sin[0, :, : dim // 2].contiguous()
                both = pool.view(slots, 1, tokens, q_heads + kv_heads, dim)
                calls["flash_attn"] = lambda i: flash(both[i % slots], *half, inplace=True)
            flat = lambda x, i: x[i % slots, 0].transpose(0, 1)
            for pdl in [False, True] if sgl else []:
                ids, rope = positions.long(), sgl[dim, pdl]
                table = torch.cat((torch.outer(positions, inv_freq).cos(), torch.outer(positions, inv_freq).sin()), -1)
                calls["sglang, pdl" if pdl else "sglang"] = (
                    lambda i, rope=rope, table=table, ids=ids: rope(flat(q, i), flat(k, i), table, ids)
                )
            if ours:
                rope = ours.Rope(ours.Frequencies(dim))
                calls["ours_in_torch"] = lambda i: ours.ops.rotate_(flat(q, i), flat(k, i), 0, rope, 1)
            if cache == "written":
                calls = {"write": write, **{name: after(write, call) for name, call in calls.items()}}
            times = medians_us(calls, launches, keep=not hot)
            before = times.pop("write", 0)
            for name, us in times.items():
                us -= before
                op = "rotate_with_angles" if name.endswith("angles too") else "rotate"
                yield dict(
                    op=op, impl=name.split(",")[0], dtype="bf16", pairing="half_split", layout="thd",
                    q_heads=q_heads, kv_heads=kv_heads, head_dim=dim, rotary_dim=dim,
                    tokens=tokens, cache=cache, pdl=name.endswith("pdl"), median_us=us,
                    bytes=2 * size,
                )
                print(f"{name:20} {tokens:6} tokens, {q_heads}+{kv_heads} heads of {dim}, {cache}: {us:.2f} us", flush=True)
            del q, k, pool, words
            torch.cuda.empty_cache()


def main():
    path = sys.argv[1]
    if rope_forward is None:
        missing("liger", "liger-kernel is not installed")
    flash, sgl = flash_attn(), sglang()
    with open(path) as file:
        old = json.load(file)
    try:
        import condensed_rope as ours
        import condensed_rope.ops
    except ImportError as error:
        ours = missing("ours_in_torch", error)
    new = [row for model in MODELS for row in rows(*model, flash, sgl, ours)]
    ours = {row["impl"] for row in new}
    merged = [row for row in old if row["impl"] not in ours] + new
    with open(path, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(row) for row in merged) + "\n]\n")
    print(f"{len(new)} rows merged into {path}")


main()
