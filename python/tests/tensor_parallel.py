"""A condensed Llama under tensor parallelism: two processes against one, by torch.distributed's own engine.

    torchrun --nproc-per-node 2 python/tests/tensor_parallel.py      # two GPUs by NCCL, or two processes of the CPU by gloo

Held: logits of the shards equal the whole model's within the type's rounding; each rank's rotated q and k are, bit for
bit, the whole's; each process uses its own device and leaves it current. Results go to a file a rank: launchers and old
transformers swallow the output of ranks above 0.
"""

import os
import pathlib
import sys
import tempfile

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

import condensed_rope
from condensed_rope import ops

SIZES = dict(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128)
IDS = torch.randint(1, 96, (2, 40), generator=torch.Generator().manual_seed(1))


def logits(model, device):
    with torch.no_grad():
        out = model(IDS.to(device), use_cache=False).logits
    return (out.full_tensor() if hasattr(out, "full_tensor") else out).float().cpu()


def watched(rotations):
    """What each layer hands to the rotation, and what comes back."""
    apply = modeling_llama.apply_rotary_pos_emb

    def watching(q, k, ids, steps, *rest, **more):
        before = q.clone(), k.clone()
        after = apply(q, k, ids, steps, *rest, **more)
        rotations.append((before, [x.clone() for x in after], ids, steps))
        return after

    modeling_llama.apply_rotary_pos_emb = watching
    return lambda: setattr(modeling_llama, "apply_rotary_pos_emb", apply)


def gathered(x):
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts, 1)


def check(rank, folder):
    cuda = torch.cuda.is_available() and condensed_rope.HAS_CUDA
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    types = (torch.float32, torch.bfloat16)
    if rank == 0:
        torch.manual_seed(3)
        LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    dist.barrier()
    replaced = condensed_rope.replace_llama_with_condense(8)
    exact = logits(LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device), device)
    for dtype in types:
        one = logits(LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(device), device)
        model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, tp_plan="auto").eval()
        rotations = []
        unwatch = watched(rotations)
        parallel = logits(model, device)
        unwatch()
        off, allowed = (parallel - one).abs().max().item(), max(2 * (one - exact).abs().max().item(), 1e-5)
        assert off <= allowed, f"{dtype}: logits differ by {off}, allowed {allowed}"
        assert len(rotations) == SIZES["num_hidden_layers"]
        for (q, k), after, ids, steps in rotations:
            assert q.shape[1] == SIZES["num_attention_heads"] // dist.get_world_size() and type(q) is torch.Tensor
            spec = (2, q.shape[-1], 0, False, False, 1.0)
            whole = ops.rotate_ids(gathered(q), gathered(k), ids, steps, *spec)
            for all_heads, own in zip(whole, after):
                heads = own.shape[1]
                assert torch.equal(all_heads[:, rank * heads:(rank + 1) * heads], own), "another shard's bits"
        print(f"rank {rank} of {dist.get_world_size()} on {device}, {dtype}: logits within {off:.1e} of {allowed:.1e}, {len(rotations)} layers' bits equal")
        # Training: a gradient comes back through the shards.
        model.train()
        model(IDS.to(device), labels=IDS.to(device), use_cache=False).loss.backward()
        assert all(p.grad is not None for p in model.parameters())
    if cuda:
        assert torch.cuda.current_device() == rank
        # No process made a context on another one's device.
        from ctypes import CDLL, byref, c_int, c_uint

        for other in range(torch.cuda.device_count()):
            flags, active = c_uint(), c_int()
            assert CDLL("libcuda.so.1").cuDevicePrimaryCtxGetState(other, byref(flags), byref(active)) == 0
            assert bool(active.value) == (other == rank), f"rank {rank}: device {other} active: {active.value}"
    replaced.undo()


def main():
    rank = int(os.environ["RANK"])
    cuda = torch.cuda.is_available() and condensed_rope.HAS_CUDA
    if cuda:
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if cuda else "gloo")
    folder = pathlib.Path(os.environ.get("CONDENSED_ROPE_RESULTS") or tempfile.gettempdir())
    shared = [tempfile.mkdtemp() if rank == 0 else None]
    dist.broadcast_object_list(shared, 0)
    report = folder / f"tensor_parallel.{rank}"
    with open(report, "w") as sys.stdout:
        check(rank, shared[0])
        print("ok")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
