"""Rotary embedding from Python on one GPU, all in one process: time of the launch, time of the call on the host, and tokens
per second of a small Llama in transformers.

    python3 python/benches/peers.py [results.json]

q `[tokens, 32, 128]` and k `[tokens, 8, 128]` of bf16. Each is captured in a CUDA graph over buffers of at least 400 MB
("DRAM-cold"), replayed, rounds interleaved; medians in microseconds. The others read tables of cos and sin; ours makes
them. What is not installed is left out: Liger (liger-kernel), FlashInfer (flashinfer-python), flash-attention's Triton
rotary (flash-attn).
"""

import json
import statistics
import sys
import time

import torch

import condensed_rope
from condensed_rope import ops

Q_HEADS, K_HEADS, DIM = 32, 8, 128
TOKENS = [1, 16, 128, 512, 2048, 8192]
ROUNDS = 15
torch._dynamo.config.recompile_limit = 64


def rotate_half(x):
    return torch.cat((-x[..., DIM // 2:], x[..., :DIM // 2]), dim=-1)


def eager(q, k, cos, sin):
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def peers(tokens):
    """Calls of (q, k), by name."""
    ids = torch.arange(tokens, device="cuda")
    rope = condensed_rope.Rope(condensed_rope.Frequencies(DIM).condensed(8))
    steps, spec = rope.steps(ids.device), rope.spec(1)
    angle = torch.outer(ids / 8, torch.tensor(rope.frequencies.inv_freq, device="cuda") * 8).float().repeat(1, 2)
    cos, sin = angle.cos().bfloat16()[:, None], angle.sin().bfloat16()[:, None]
    compiled = torch.compile(eager, dynamic=False)
    calls = {
        "condensed_rope": lambda q, k: ops.rotate_ids_(q, k, ids, steps, *spec),
        "HF, eager": lambda q, k: eager(q, k, cos, sin),
        "HF, torch.compile": lambda q, k: compiled(q, k, cos, sin),
    }
    try:
        from liger_kernel.ops.rope import rope_forward

        turned = lambda x: x[None].transpose(1, 2)
        calls["Liger"] = lambda q, k: rope_forward(turned(q), turned(k), cos.transpose(0, 1), sin.transpose(0, 1))
    except ImportError:
        pass
    try:
        import flashinfer

        table = torch.cat((angle[:, :DIM // 2].cos(), angle[:, :DIM // 2].sin()), -1)
        calls["FlashInfer, table"] = lambda q, k: flashinfer.apply_rope_with_cos_sin_cache_inplace(
            ids, q.view(tokens, -1), k.view(tokens, -1), DIM, table)
        calls["FlashInfer, on the fly"] = lambda q, k: flashinfer.apply_rope_pos_ids_inplace(q, k, ids, rope_scale=8)
    except ImportError:
        pass
    try:
        from flash_attn.ops.triton.rotary import apply_rotary

        half = cos[:, 0, :DIM // 2].contiguous(), sin[:, 0, :DIM // 2].contiguous()
        calls["flash_attn, 2 launches"] = lambda q, k: [apply_rotary(x[None], *half, inplace=True) for x in (q, k)]
    except ImportError:
        pass
    return calls


def graph_of(call, buffers, launches):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(3):
            call(*buffers[i % len(buffers)])
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for i in range(launches):
                call(*buffers[i % len(buffers)])
    return graph


def launch_times():
    for tokens in TOKENS:
        size = tokens * (Q_HEADS + K_HEADS) * DIM * 2
        slots = min(max(2, (400 << 20) // size + 1), 2048)
        pool = torch.randn(slots, tokens * (Q_HEADS + K_HEADS) * DIM, device="cuda", dtype=torch.bfloat16)
        split = tokens * Q_HEADS * DIM
        buffers = [(row[:split].view(tokens, Q_HEADS, DIM), row[split:].view(tokens, K_HEADS, DIM)) for row in pool]
        graphs = {name: graph_of(call, buffers, slots) for name, call in peers(tokens).items()}
        times = {name: [] for name in graphs}
        for _ in range(ROUNDS):
            for name, graph in graphs.items():
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                graph.replay()
                end.record()
                end.synchronize()
                times[name].append(start.elapsed_time(end) * 1e3 / slots)
        for name, measured in times.items():
            yield dict(what="launch", impl=name, tokens=tokens, median_us=statistics.median(measured[2:]))
        del graphs, buffers, pool
        torch.cuda.empty_cache()


def host_times():
    """The call alone, one token, the launch queue never full."""
    q, k = torch.randn(1, Q_HEADS, DIM, device="cuda").bfloat16(), torch.randn(1, K_HEADS, DIM, device="cuda").bfloat16()
    calls = peers(1)
    # How much of it is torch's own, and anybody's.
    calls["torch's add_"] = lambda q, k: q.add_(1)
    times = {name: [] for name in calls}
    for _ in range(4 * ROUNDS):
        for name, call in calls.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(100):
                call(q, k)
            times[name].append((time.perf_counter() - start) / 100 * 1e6)
    for name, measured in times.items():
        yield dict(what="host", impl=name, tokens=1, median_us=statistics.median(measured[4:]), least_us=min(measured))


def tokens_per_second():
    """A Llama of 16 layers and 1.2e9 parameters, as transformers runs it, with the patch and without."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
                         num_key_value_heads=8, vocab_size=32000, max_position_embeddings=32768)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).bfloat16().eval().cuda()
    ids = torch.randint(1, 32000, (1, 4096), device="cuda")

    def prefill():
        model(ids, use_cache=False)
        return ids.numel()

    def decode():
        model.generate(ids[:, :128], do_sample=False, max_new_tokens=64, min_new_tokens=64, pad_token_id=0)
        return 64

    with torch.no_grad():
        rates = {}
        for _ in range(5):
            for name in ("transformers", "condensed"):
                replaced = condensed_rope.condense(model, 8) if name == "condensed" else None
                for what, call in (("prefill", prefill), ("decode", decode)):
                    call() if not rates.get((what, name)) else None
                    torch.cuda.synchronize()
                    start = time.perf_counter()
                    count = call()
                    torch.cuda.synchronize()
                    rates.setdefault((what, name), []).append(count / (time.perf_counter() - start))
                if replaced:
                    replaced.undo()
    for (what, name), measured in rates.items():
        yield dict(what=what, impl=name, tokens_per_second=statistics.median(measured))


def table(rows, columns, value):
    names = list(dict.fromkeys(row["impl"] for row in rows))
    print(f"{'':26}" + "".join(f"{column:>10}" for column in columns))
    for name in names:
        of = {row.get("tokens", row["what"]): row[value] for row in rows if row["impl"] == name}
        print(f"{name:26}" + "".join(f"{of[column]:>10.2f}" if column in of else f"{'-':>10}" for column in columns))


def main():
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    launches = list(launch_times())
    print("\nmicroseconds of a launch, by tokens")
    table(launches, TOKENS, "median_us")
    host = list(host_times())
    print("\nmicroseconds of a call on the host, one token: the median, and the least")
    table(host, [1], "median_us")
    table(host, [1], "least_us")
    rates = list(tokens_per_second())
    print("\ntokens per second of a Llama of 1.2e9 parameters, batch 1")
    table(rates, ["prefill", "decode"], "tokens_per_second")
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w") as file:
            file.write("[\n" + ",\n".join(map(json.dumps, launches + host + rates)) + "\n]\n")


if __name__ == "__main__":
    main()
