"""The torch operators: values against f64, any strides, gradients, compilers, and bad input."""

import math

import pytest
import torch

import condensed_rope
from condensed_rope import Frequencies, Rope

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() and condensed_rope.HAS_CUDA else [])


def truth(x, positions, frequencies, interleaved, seq_dim=2):
    """By the formula, in f64."""
    angles = positions.double()[..., None] * torch.tensor(frequencies.inv_freq, dtype=torch.float64, device=x.device)
    cos, sin = (t if t.dim() == 3 else t[None] for t in (angles.cos(), angles.sin()))
    cos, sin = cos.unsqueeze(3 - seq_dim), sin.unsqueeze(3 - seq_dim)
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    a, b = a.double(), b.double()
    a, b = a * cos - b * sin, b * cos + a * sin
    return torch.stack((a, b), -1).flatten(-2) if interleaved else torch.cat((a, b), -1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype, allowed", [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)])
def test_values_are_the_formulas(device, interleaved, dtype, allowed):
    torch.manual_seed(0)
    frequencies = Frequencies(64).condensed(8)
    rope = Rope(frequencies, interleaved)
    q = torch.randn(2, 7, 6, 64, dtype=dtype, device=device).transpose(1, 2)
    k = torch.randn(2, 7, 2, 64, dtype=dtype, device=device).transpose(1, 2)
    shared = torch.arange(1000, 1007, device=device)
    for ids in (shared, shared[None], shared.int(), shared[None].expand(2, 7), torch.stack((shared, shared + 900))):
        q_out, k_out = condensed_rope.rotate(q, k, ids, rope)
        for given, out in ((q, q_out), (k, k_out)):
            expected = truth(given, ids if ids.dim() == 2 else ids[None], frequencies, interleaved)
            assert (out.double() - expected).abs().max() < allowed * max(1, expected.abs().max())
            assert out.is_contiguous()
        q_copy, k_copy = q.clone(), k.clone()
        condensed_rope.rotate_(q_copy, k_copy, ids, rope)
        assert torch.equal(q_copy, q_out) and torch.equal(k_copy, k_out)
        assert torch.equal(condensed_rope.rotate(q, None, ids, rope), q_out)
        bshd = condensed_rope.rotate(q.transpose(1, 2), k.transpose(1, 2), ids, rope, seq_dim=1)
        assert torch.equal(bshd[0].transpose(1, 2), q_out)
    back = condensed_rope.inverse(q_out, k_out, ids, rope)
    assert (back[0].double() - q.double()).abs().max() < 8 * allowed


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_the_inverse(device):
    rope = Rope(Frequencies(16))
    ids = torch.tensor([3, 900, 7], device=device)
    q = torch.randn(1, 2, 3, 16, device=device, requires_grad=True)
    k = torch.randn(1, 1, 3, 16, device=device, requires_grad=True)
    q_out, k_out = condensed_rope.rotate(q, k, ids, rope)
    weights = torch.randn_like(q_out), torch.randn_like(k_out)
    ((q_out * weights[0]).sum() + (k_out * weights[1]).sum()).backward()
    expected = condensed_rope.inverse(*weights, ids, rope)
    assert torch.equal(q.grad, expected[0]) and torch.equal(k.grad, expected[1])
    # A gradient of stride zero.
    condensed_rope.rotate(q, None, ids, rope).sum().backward()
    with pytest.raises(ValueError, match="without a gradient"):
        condensed_rope.rotate_(q, k, ids, rope)


def test_compilers_see_the_operators():
    rope = Rope(Frequencies(16))
    ids, q, k = torch.arange(5), torch.randn(1, 2, 5, 16), torch.randn(1, 1, 5, 16)
    rest = rope._rest(q.device, ids, 2)
    names = ["test_schema", "test_faketensor"]
    for test in names:
        torch.library.opcheck(torch.ops.condensed_rope.rotate, (q, k, *rest), test_utils=test)
        torch.library.opcheck(torch.ops.condensed_rope.rotate_, (q, k, *rest), test_utils=test)
        torch.library.opcheck(torch.ops.condensed_rope.rotate_one, (q, *rest), test_utils=test)
    compiled = torch.compile(lambda q, k: torch.ops.condensed_rope.rotate(q, k, *rest), backend="aot_eager", fullgraph=True)
    assert all(map(torch.equal, compiled(q, k), condensed_rope.rotate(q, k, ids, rope)))


@pytest.mark.parametrize("change, error, words", [
    (dict(ids=torch.arange(4)), ValueError, "expected 5"),
    (dict(ids=torch.arange(5.0)), TypeError, "position ids"),
    (dict(q=torch.randn(1, 2, 5, 16).double()), TypeError, "float64"),
    (dict(k=torch.randn(1, 2, 6, 16)), ValueError, "batch, seq"),
    (dict(k=torch.randn(1, 2, 5, 16).half()), TypeError, "float16|f16"),
    (dict(q=torch.randn(2, 5)), ValueError, "dimensions"),
    (dict(q=torch.randn(1, 2, 5, 8)), ValueError, "head_dim 8"),
])
def test_bad_input_is_an_error(change, error, words):
    rope = Rope(Frequencies(16))
    given = dict(q=torch.randn(1, 2, 5, 16), k=torch.randn(1, 2, 5, 16), ids=torch.arange(5)) | change
    with pytest.raises(error, match=words):
        condensed_rope.rotate(given["q"], given["k"], given["ids"], rope)


def test_frequencies_and_configs_refuse_by_message():
    for call, words in [
        (lambda: Frequencies(7), "even"), (lambda: Frequencies(8, -1.0), "base"), (lambda: Frequencies(8).condensed(0), "ratio"),
        (lambda: condensed_rope.Config.from_json("{"), "config"), (lambda: condensed_rope.Config.from_json("{}"), "model_type"),
        (lambda: condensed_rope.Config.from_json("{}", pairing="no"), "half-split"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    text = '{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "rope_theta": 1e4}'
    config = condensed_rope.Config.from_json(text)
    assert config.groups[0]["head_dim"] == 16 and config.condensed(4).frequencies().inv_freq[0] == 0.25


def test_fastchats_class():
    rotary = condensed_rope.CondenseRotaryEmbedding(64, 8)
    cos, sin = rotary(torch.zeros(1, dtype=torch.bfloat16), 100)
    assert cos.shape == sin.shape == (1, 1, 100, 64) and cos.dtype == torch.bfloat16
    cos, sin = rotary(torch.zeros(1), 20000)
    angle = 19999 / 8
    assert abs(cos[0, 0, 19999, 0].item() - math.cos(angle)) < 2e-7 and torch.equal(cos[..., :32], cos[..., 32:])
    assert list(dict(rotary.named_buffers())) == ["inv_freq"]
    # 5529.6 rows are 5530, and more where more are asked for.
    fractional = condensed_rope.CondenseRotaryEmbedding(64, 2.7)
    assert fractional.max_seq_len_cached == 2048 * 2.7 and fractional(torch.zeros(1), 5530)[0].shape[2] == 5530
    assert fractional.max_seq_len_cached == 5530 and fractional(torch.zeros(1), 6000)[0].shape[2] == 6000
    with pytest.raises(TypeError, match="seq_len"):
        rotary(torch.zeros(1))


@pytest.mark.skipif("cuda" not in DEVICES, reason="needs a CUDA GPU")
def test_streams_and_graphs():
    condensed_rope.prepare("cuda")
    rope = Rope(Frequencies(64).condensed(8))
    q, k = torch.randn(1, 4, 9, 64, device="cuda"), torch.randn(1, 2, 9, 64, device="cuda")
    ids = torch.arange(9, device="cuda")
    expected = condensed_rope.rotate(q, k, ids, rope)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other = condensed_rope.rotate(q, k, ids, rope)
    torch.cuda.current_stream().wait_stream(stream)
    assert all(map(torch.equal, other, expected))
    assert torch.equal(condensed_rope.rotate(q.cpu(), None, ids.cpu(), rope), expected[0].cpu())
    device = torch.cuda.current_device()
    held, held_k, held_ids = q.clone(), k.clone(), ids.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        condensed_rope.rotate_(held, held_k, held_ids, rope)
    for start in (0, 5000):
        held.copy_(q), held_k.copy_(k), held_ids.copy_(ids + start)
        graph.replay()
        fresh = condensed_rope.rotate(q, k, ids + start, rope)
        assert torch.equal(held, fresh[0]) and torch.equal(held_k, fresh[1])
    assert torch.cuda.current_device() == device
    with pytest.raises(ValueError, match="cuda"):
        condensed_rope.rotate(q, k, ids.cpu(), rope)
