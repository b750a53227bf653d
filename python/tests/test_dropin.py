"""Other libraries' call shapes: FlashInfer's definition in f64, and the same calls by this package's own names."""

import inspect
import math
import sys
import types

import pytest
import torch

import condensed_rope
from condensed_rope import Frequencies, Rope
from condensed_rope.dropin import flash_attn, flashinfer, liger
from condensed_rope.dropin import vllm as plugin

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() and condensed_rope.HAS_CUDA else [])


def by_definition(x, positions, rotary_dim, interleave, scale, theta, llama31=None):
    """FlashInfer's, in f64: frequencies, the smooth step of Llama 3.1, pairs, and channels that pass."""
    j = torch.arange(rotary_dim // 2, dtype=torch.float64)
    freq = theta ** (-2 * j / rotary_dim)
    if llama31 is None:
        freq = freq / scale
    else:
        low, high, old = llama31
        smooth = (freq * old / (2 * math.pi * (high - low)) - 1 / (high / low - 1)).clamp(0, 1)
        freq = (1 - smooth) * (freq / scale) + smooth * freq
    angle = positions.cpu().double()[:, None, None] * freq
    y = x.cpu().double().clone()
    a, b = (y[..., 0:rotary_dim:2], y[..., 1:rotary_dim:2]) if interleave else (y[..., :rotary_dim // 2], y[..., rotary_dim // 2:rotary_dim])
    rotated = a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()
    a.copy_(rotated[0]), b.copy_(rotated[1])
    return y


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("rotary_dim", [None, 32])
@pytest.mark.parametrize("llama31", [False, True])
@pytest.mark.parametrize("id_type", [torch.int32, torch.int64])
def test_flashinfers_calls(device, interleave, rotary_dim, llama31, id_type):
    torch.manual_seed(0)
    q, k = torch.randn(9, 6, 64, device=device), torch.randn(9, 2, 64, device=device)
    indptr = torch.tensor([0, 4, 4, 9], dtype=torch.int32, device=device)
    offsets = torch.tensor([700, 3, 100000], dtype=id_type, device=device)
    ids = torch.cat((torch.arange(700, 704), torch.arange(100000, 100005))).to(device, id_type)
    more = dict(rotary_dim=rotary_dim, interleave=interleave, rope_scale=4, rope_theta=2e4)
    name = "apply_llama31_rope" if llama31 else "apply_rope"
    if llama31:
        more |= dict(low_freq_factor=1, high_freq_factor=3, old_context_len=500)
    expected = [by_definition(x, ids, rotary_dim or 64, interleave, 4.0, 2e4, (1, 3, 500) if llama31 else None) for x in (q, k)]
    for call, where in ((f"{name}_pos_ids", (ids,)), (name, (indptr, offsets))):
        out = getattr(flashinfer, call)(q, k, *where, **more)
        assert all((o.cpu().double() - e).abs().max() < 2e-6 for o, e in zip(out, expected)), call
        in_place = q.clone(), k.clone()
        assert getattr(flashinfer, f"{call}_inplace")(*in_place, *where, **more) is None
        assert all(map(torch.equal, in_place, out)), call


def test_flashinfers_defaults():
    # Of flashinfer 0.7.2.
    plain = ["q", "k", "pos_ids", "rotary_dim", "interleave", "rope_scale", "rope_theta"]
    llama31 = [*plain, "low_freq_factor", "high_freq_factor", "old_context_len"]
    for suffix in ("", "_inplace"):
        for name, names, defaults in (("apply_rope", plain, (None, False, 1, 1e4)), ("apply_llama31_rope", llama31, (None, False, 8, 5e5, 1, 4, 8192))):
            by_ids = inspect.signature(getattr(flashinfer, f"{name}_pos_ids{suffix}")).parameters
            assert list(by_ids) == names and tuple(p.default for p in by_ids.values())[3:] == defaults
            ragged = inspect.signature(getattr(flashinfer, f"{name}{suffix}")).parameters
            assert list(ragged) == ["q", "k", "indptr", "offsets", *names[3:]]
            assert tuple(p.default for p in ragged.values())[4:] == defaults


def test_flashinfers_call_with_a_cache():
    q, k, ids = torch.randn(5, 4 * 16), torch.randn(5, 2 * 16), torch.tensor([3, 9, 1, 70000, 0])
    rope = Rope(Frequencies(16).condensed(2))
    for is_neox in (True, False):
        expected = condensed_rope.rotate(q.view(5, 4, 16), k.view(5, 2, 16), ids, Rope(rope.frequencies, not is_neox))
        out = flashinfer.apply_rope_with_cos_sin_cache(ids, q, k, 16, rope, is_neox)
        assert all(torch.equal(o, e.flatten(1)) for o, e in zip(out, expected))
        in_place = q.clone(), k.clone()
        flashinfer.apply_rope_with_cos_sin_cache_inplace(ids, *in_place, 16, rope, is_neox)
        assert all(map(torch.equal, in_place, out))
    with pytest.raises(ValueError, match="heads"):
        flashinfer.apply_rope_with_cos_sin_cache(ids, q, k, 15, rope)


def test_ligers_call():
    q, k, ids = torch.randn(2, 4, 5, 16), torch.randn(2, 2, 5, 16), torch.arange(10).view(2, 5)
    rope = Rope(Frequencies(16))
    expected = condensed_rope.rotate(q, k, ids, rope)
    assert all(map(torch.equal, liger.liger_rotary_pos_emb(q, k, ids, rope), expected))
    assert all(map(torch.equal, liger.liger_rotary_pos_emb(q, k, None, rope, position_ids=ids), expected))
    bshd = liger.liger_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), ids, rope, unsqueeze_dim=2)
    assert all(torch.equal(b.transpose(1, 2), e) for b, e in zip(bshd, expected))
    with pytest.raises(ValueError, match="rotary_dim 16"):
        liger.liger_rotary_pos_emb(q, k, ids, rope, rotary_dim=8)
    with pytest.raises(TypeError, match="None"):
        liger.liger_rotary_pos_emb(q, k, None, rope)


@pytest.mark.parametrize("interleaved", [False, True])
def test_flash_attns_calls(interleaved):
    x, rope = torch.randn(2, 5, 4, 24), Rope(Frequencies(16).condensed(2))
    own = Rope(rope.frequencies, interleaved)
    offsets = torch.tensor([7, 900], dtype=torch.int32)
    for seqlen_offsets, ids in ((0, torch.arange(5)), (70, torch.arange(70, 75)), (offsets, torch.arange(5) + offsets[:, None])):
        expected = condensed_rope.rotate(x, None, ids, own, 1)
        more = dict(interleaved=interleaved, seqlen_offsets=seqlen_offsets)
        assert torch.equal(flash_attn.apply_rotary_emb(x, rope, None, **more), expected)
        in_place = x.clone()
        assert flash_attn.apply_rotary_emb(in_place, rope, None, inplace=True, **more) is in_place
        assert torch.equal(in_place, expected)
        # Sequences end to end.
        cu_seqlens = torch.tensor([0, 5, 10], dtype=torch.int32)
        flat = flash_attn.apply_rotary_emb(x.flatten(0, 1), rope, None, cu_seqlens=cu_seqlens, max_seqlen=5, **more)
        assert torch.equal(flat.view_as(x), expected)
        # Packed, of equal heads and of grouped ones.
        v = torch.randn_like(x)
        qkv = torch.stack((x, x * 2, v), 2)
        assert flash_attn.apply_rotary_emb_qkv_(qkv, rope, None, **more) is qkv
        assert torch.equal(qkv[:, :, 0], expected) and torch.equal(qkv[:, :, 2], v)
        assert torch.equal(qkv[:, :, 1], condensed_rope.rotate(x * 2, None, ids, own, 1))
        grouped = torch.cat((x, x[:, :, :2], v[:, :, :2]), 2)
        flash_attn.apply_rotary_emb_qkv_(grouped, rope, None, num_heads_q=4, **more)
        assert torch.equal(grouped, torch.cat((expected, expected[:, :, :2], v[:, :, :2]), 2))
    tracked = x.clone().requires_grad_()
    flash_attn.apply_rotary_emb(tracked, rope, None).sum().backward()
    assert tracked.grad is not None
    for call in (lambda: flash_attn.apply_rotary_emb(x, torch.ones(5, 8), torch.ones(5, 8)),
                 lambda: flash_attn.apply_rotary_emb(x, rope, torch.ones(5, 8))):
        with pytest.raises(TypeError, match="Rope"):
            call()
    with pytest.raises(ValueError, match="num_heads_q"):
        flash_attn.apply_rotary_emb_qkv_(torch.randn(1, 2, 7, 16), rope, num_heads_q=4)
    with pytest.raises(ValueError, match="k"):
        flash_attn.apply_rotary_emb_qkv_(torch.randn(1, 2, 3, 4, 16), rope, None, rope)


@pytest.fixture
def vllm(monkeypatch):
    """vLLM's published interface of out-of-tree operators (0.11 and newer): a registry by class name, asked by `__new__`."""
    registered = {}

    class CustomOp(torch.nn.Module):
        def __new__(cls, *args, **kwargs):
            return super().__new__(registered.get(cls.__name__, cls))

        def __init__(self, enforce_enable=False):
            super().__init__()
            self._forward_method = self.forward_cuda

        def forward(self, *args, **kwargs):
            return self._forward_method(*args, **kwargs)

        @classmethod
        def register_oot(cls, _decorated_op_cls=None, name=None):
            def decorator(op):
                assert name not in registered, f"Duplicate op name: {name}"
                registered[name] = op
                return op

            return decorator

    class RotaryEmbedding(CustomOp):
        def __init__(self, head_size, rotary_dim, max_position_embeddings, base, is_neox_style, dtype, init_cache=True):
            super().__init__()
            self.head_size, self.rotary_dim = head_size, rotary_dim
            if init_cache:
                self.register_buffer("cos_sin_cache", torch.zeros(max_position_embeddings, rotary_dim, dtype=dtype), persistent=False)

        def forward_cuda(self, positions, query, key=None):
            raise NotImplementedError

    class YaRNScalingRotaryEmbedding(RotaryEmbedding):
        pass

    modules = {name: types.ModuleType(name) for name in (
        "vllm", "vllm.model_executor", "vllm.model_executor.custom_op", "vllm.model_executor.layers",
        "vllm.model_executor.layers.rotary_embedding")}
    modules["vllm.model_executor.custom_op"].CustomOp = CustomOp
    rotary = modules["vllm.model_executor.layers.rotary_embedding"]
    rotary.RotaryEmbedding, rotary.YaRNScalingRotaryEmbedding = RotaryEmbedding, YaRNScalingRotaryEmbedding
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return rotary


@pytest.mark.parametrize("ratio", ["1", "8"])
def test_vllms_plugin(vllm, monkeypatch, ratio):
    monkeypatch.setenv("CONDENSED_ROPE_RATIO", ratio)
    plugin.register()
    plugin.register()
    for is_neox in (True, False):
        made = vllm.RotaryEmbedding(32, 16, 64, 10000, is_neox, torch.float32, init_cache=False)
        assert type(made).__name__ == "CondensedRotaryEmbedding" and not hasattr(made, "cos_sin_cache")
        rope = Rope(Frequencies(16).condensed(float(ratio)), not is_neox)
        # Views of packed QKV, flat and by head; ids of one dimension and of two.
        qkv, ids = torch.randn(7, (4 + 2 + 2) * 32), torch.tensor([5, 9, 1, 0, 2, 100000, 3])
        q, k, _ = qkv.split([128, 64, 64], 1)
        expected = condensed_rope.rotate(q.reshape(7, 4, 32), k.reshape(7, 2, 32), ids, rope)
        for positions in (ids, ids[None], ids.int()):
            native = made.forward_native(positions, q, k)
            assert all(torch.equal(n, e.flatten(1)) for n, e in zip(native, expected))
            mine = qkv.clone()
            q_mine, k_mine, v_mine = mine.split([128, 64, 64], 1)
            out = made(positions, q_mine, k_mine)
            assert out[0] is q_mine and all(torch.equal(o, n) for o, n in zip(out, native))
            assert torch.equal(v_mine, qkv[:, 192:])
        alone = made.forward_native(ids, q.reshape(7, 4, 32))
        assert torch.equal(alone[0], expected[0]) and alone[1] is None
        assert made(ids, q.clone())[1] is None
    if ratio == "1":
        assert type(vllm.YaRNScalingRotaryEmbedding(32, 16, 64, 10000, True, torch.float32)).__name__ == "YaRNScalingRotaryEmbedding"
    else:
        with pytest.raises(ValueError, match="YaRNScalingRotaryEmbedding"):
            vllm.YaRNScalingRotaryEmbedding(32, 16, 64, 10000, True, torch.float32)


@pytest.mark.parametrize("ratio", ["0", "-1", "nan", "inf", "eight", ""])
def test_vllms_plugin_refuses_a_wrong_ratio(vllm, monkeypatch, ratio):
    monkeypatch.setenv("CONDENSED_ROPE_RATIO", ratio)
    with pytest.raises(ValueError, match="CONDENSED_ROPE_RATIO"):
        plugin.register()
