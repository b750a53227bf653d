"""Norm, rotation and append: against transformers' own norms and rotations, and its errors."""

import pytest
import torch

import condensed_rope
from condensed_rope import Frequencies, KvCache, Norm, Rope

gemma3 = pytest.importorskip("transformers.models.gemma3.modeling_gemma3")
qwen3 = pytest.importorskip("transformers.models.qwen3.modeling_qwen3")
TOKENS, HEADS, KV, DIM, PAGES, PAGE = 7, 4, 2, 64, 5, 4
FREQUENCIES = Frequencies(DIM, 1e6)


def given(dtype=torch.float32, device="cpu"):
    torch.manual_seed(0)
    new = lambda heads: torch.randn(TOKENS, heads, DIM).to(dtype).to(device)
    return new(HEADS), new(KV), new(KV)


def expected(q, k, module, positions):
    """What a layer of transformers does in float32: norm, then rotation."""
    angle = positions[:, None].double() * torch.tensor(list(FREQUENCIES.inv_freq), dtype=torch.float64)
    cos, sin = (torch.cat((f, f), -1).float()[None] for f in (angle.cos(), angle.sin()))
    q, k = (module(x.float()).transpose(0, 1)[None] for x in (q, k))
    return (x[0].transpose(0, 1) for x in qwen3.apply_rotary_pos_emb(q, k, cos, sin))


@pytest.mark.parametrize("norm", [qwen3.Qwen3RMSNorm, gemma3.Gemma3RMSNorm])
@pytest.mark.parametrize("order", ["nhd", "hnd", "flat", "side by side"])
def test_a_layer_of_transformers(norm, order):
    module = norm(DIM, eps=1e-6)
    with torch.no_grad():
        module.weight.uniform_(0.5, 1.5)
    weight = module.weight.detach()
    q, k, v = given()
    positions = torch.tensor([0, 3, 900, 17, 5, 6, 7])
    slots = torch.tensor([3, -1, 19, 0, 20, 7, 1 << 40])
    if order == "hnd":
        keys, values = (torch.zeros(PAGES, KV, PAGE, DIM).transpose(1, 2) for _ in range(2))
    elif order == "flat":
        keys, values = (torch.zeros(PAGES * PAGE, KV, DIM) for _ in range(2))
    elif order == "side by side":
        keys, values = torch.zeros(PAGES, PAGE, KV, 2 * DIM).split(DIM, -1)
    else:
        keys, values = (torch.zeros(PAGES, PAGE, KV, DIM) for _ in range(2))
    with torch.no_grad():
        q_exact, k_exact = expected(q, k, module, positions)
    of = Norm(weight, weight, 1e-6, unit_offset=norm is gemma3.Gemma3RMSNorm)
    rope, untouched = Rope(FREQUENCIES), k.clone()
    condensed_rope.rotate_append_(q, k, v, positions, rope, norm=of, cache=KvCache(keys, values, slots))
    assert torch.allclose(q, q_exact, rtol=0, atol=2e-5) and torch.equal(k, untouched)
    stored = [t for t in range(TOKENS) if 0 <= slots[t] < PAGES * PAGE]
    lines = lambda cache: cache.reshape(PAGES * PAGE, KV, DIM)
    for t in range(TOKENS):
        if t in stored:
            assert torch.allclose(lines(keys)[slots[t]], k_exact[t], rtol=0, atol=2e-5)
            assert torch.equal(lines(values)[slots[t]], v[t])
    others = [s for s in range(PAGES * PAGE) if s not in slots[stored].tolist()]
    assert not lines(keys)[others].any() and not lines(values)[others].any()


def test_it_is_rotate_then_append():
    q, k, v = given(torch.bfloat16)
    rope, positions = Rope(FREQUENCIES), torch.arange(TOKENS) * 1000
    q_exact, k_exact = condensed_rope.rotate(q, k, positions, rope)
    keys, values = (torch.zeros(PAGES, PAGE, KV, DIM).to(torch.float8_e4m3fn) for _ in range(2))
    scale = torch.tensor([0.5, 0.25])
    slots = torch.arange(TOKENS, dtype=torch.int32)
    cache = KvCache(keys, values, slots, key_scale=scale)
    condensed_rope.rotate_append_(q, k, v, positions, rope, cache=cache, writes_k=True)
    assert torch.equal(q, q_exact) and torch.equal(k, k_exact)
    fp8 = lambda x: x.clamp(-448, 448).to(torch.float8_e4m3fn)
    of = fp8(k_exact.float() * (1 / scale)[None, :, None])
    assert torch.equal(keys.view(torch.uint8).flatten(0, 1)[:TOKENS], of.view(torch.uint8))
    assert torch.equal(values.view(torch.uint8).flatten(0, 1)[:TOKENS], fp8(v.float()).view(torch.uint8))


def test_a_page_table():
    q, k, v = given()
    table = torch.tensor([[4, 1, 2]])
    keys, values = (torch.zeros(PAGES, PAGE, KV, DIM) for _ in range(2))
    cache = KvCache(keys, values, page_table=table)
    condensed_rope.rotate_append_(None, k, v, 2, Rope(FREQUENCIES), cache=cache)
    for t in range(TOKENS):
        page, entry = divmod(2 + t, PAGE)
        assert torch.equal(values[table[0, page], entry], v[t])


def test_q_alone():
    q, _, _ = given()
    exact = condensed_rope.rotate(q, None, 5, Rope(FREQUENCIES))
    condensed_rope.rotate_append_(q, None, None, 5, Rope(FREQUENCIES))
    assert torch.equal(q, exact)


def test_it_compiles():
    q, k, v = given()
    keys, values = (torch.zeros(PAGES, PAGE, KV, DIM) for _ in range(2))
    rope, slots, weight = Rope(FREQUENCIES), torch.arange(TOKENS), torch.ones(DIM)
    rope.steps(q.device)

    def step(q, k, v, keys, values, positions):
        cache, norm = KvCache(keys, values, slots), Norm(weight, weight)
        condensed_rope.rotate_append_(q, k, v, positions, rope, norm=norm, cache=cache)
        return q.sum() + keys.sum() + values.sum()

    positions = torch.arange(TOKENS)
    eager = step(q.clone(), k, v, keys.clone(), values.clone(), positions)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)(q, k, v, keys, values, positions)
    assert torch.equal(eager, compiled)


def test_what_is_refused():
    q, k, v = given()
    keys, values = (torch.zeros(PAGES, PAGE, KV, DIM) for _ in range(2))
    slots, rope = torch.arange(TOKENS), Rope(FREQUENCIES)
    call = lambda *tensors, **named: condensed_rope.rotate_append_(*tensors, 0, rope, **named)
    cache = lambda **named: KvCache(**{"keys": keys, "values": values, "slots": slots} | named)
    for tensors, named, word in [
        ((q, k, v), {}, "cache"),
        ((q, k, v), {"cache": cache(slots=None)}, "page table"),
        ((q, k, v), {"cache": cache(keys=keys[:, :, :1])}, "heads"),
        ((q, k, v), {"cache": cache(keys=keys.half())}, "element type"),
        ((q, k, v), {"cache": cache(slots=torch.arange(TOKENS + 1))}, "slot_mapping"),
        ((q, k, v), {"cache": cache(reserved=PAGES * PAGE + 1)}, "reserved"),
        ((q, k, v), {"cache": cache(values=keys)}, "share"),
        ((q, k, v), {"cache": cache(), "norm": Norm(torch.ones(DIM - 1), None)}, "weights"),
        ((q, k, v), {"cache": cache(), "norm": Norm(torch.ones(DIM), None, eps=0.0)}, "epsilon"),
        ((q, k, v), {"cache": cache(key_scale=torch.ones(3))}, "scale"),
        ((None, None, None), {}, "neither"),
    ]:
        before = [x.clone() for x in (q, k, v, keys, values)]
        with pytest.raises((ValueError, TypeError), match=word):
            call(*tensors, **named)
        assert all(torch.equal(a, b) for a, b in zip(before, (q, k, v, keys, values)))


@pytest.mark.skipif(not torch.cuda.is_available() or not condensed_rope.HAS_CUDA, reason="needs a CUDA GPU")
def test_on_a_gpu():
    weight = torch.rand(DIM).bfloat16()
    run = {}
    for device in ("cpu", "cuda"):
        q, k, v = given(torch.bfloat16, device)
        keys, values = (torch.zeros(PAGES, PAGE, KV, DIM, dtype=torch.bfloat16, device=device) for _ in range(2))
        slots, positions = (torch.arange(TOKENS, device=device) for _ in range(2))
        norm = Norm(weight.to(device), weight.to(device))
        condensed_rope.rotate_append_(q, k, v, positions, Rope(FREQUENCIES), norm=norm, cache=KvCache(keys, values, slots))
        run[device] = [x.cpu() for x in (q, keys, values)]
    assert all(torch.equal(a, b) for a, b in zip(run["cpu"], run["cuda"]))
