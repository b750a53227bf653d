"""The torch operators: values against f64, any strides, gradients, compilers, and bad input."""

import math

import pytest
import torch

import condensed_rope
from condensed_rope import Frequencies, Positions, Rope, Sections
from condensed_rope.positions import of as positions_of

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


def arguments(rope, ids, device, seq_dim=2):
    """As the general operators take them, from the positions on."""
    return *positions_of(ids).arguments(), rope.steps(torch.device(device)), *rope.spec(seq_dim)


@pytest.mark.parametrize("device", DEVICES)
def test_compilers_see_the_operators(device):
    rope = Rope(Frequencies(16))
    ids, q, k = (t.to(device) for t in (torch.arange(5), torch.randn(1, 2, 5, 16), torch.randn(1, 1, 5, 16)))
    ops, rest = torch.ops.condensed_rope, arguments(rope, ids, q.device)
    plain = (ids, rope.steps(q.device), *rope.spec(2))
    for given in ((q, k), (q, None)):
        tracked = [None if x is None else x.clone().requires_grad_() for x in given]
        torch.library.opcheck(ops.rotate, (*tracked, *rest))
        torch.library.opcheck(ops.rotate_, (*given, *rest))
    torch.library.opcheck(ops.rotate_ids_, (q, k, *plain))
    for positions in (7, Positions.starts(ids[3:4]), Positions.axes(ids.expand(3, 5), Sections.blocks([4, 2, 2]))):
        torch.library.opcheck(ops.rotate, (q, k, *arguments(rope, positions, q.device)))
    compiled = torch.compile(lambda q, k: ops.rotate(q, k, *rest), backend="aot_eager", fullgraph=True)
    expected = condensed_rope.rotate(q, k, ids, rope)
    assert all(map(torch.equal, compiled(q, k), expected))

    def in_place(q, k):
        q, k = q + 0, k + 0
        condensed_rope.rotate_(q, k, ids, rope)
        return q, k

    assert all(map(torch.equal, torch.compile(in_place, backend="aot_eager", fullgraph=True)(q, k), expected))


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_right_numerically(device):
    rope = Rope(Frequencies(8).condensed(2.7).with_factor(1.25), interleaved=True, rotary_offset=2)
    q, k = torch.randn(2, 3, 2, 12, device=device).transpose(1, 2), torch.randn(2, 1, 3, 12, device=device)
    ids = torch.tensor([[5, 9, 1], [70, 2, 3]], device=device)
    # A rotation is linear: f32's rounding is all that a difference quotient of steps of 1 is off by.
    call = lambda q, k: condensed_rope.rotate(q, k, ids, rope)
    assert torch.autograd.gradcheck(call, (q.requires_grad_(), k.requires_grad_()), eps=1.0, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_positions_of_every_kind(device):
    rope = Rope(Frequencies(16).condensed(3))
    q, k = torch.randn(2, 4, 5, 16, device=device), torch.randn(2, 2, 5, 16, device=device)
    by = lambda positions, rope=rope, q=q, k=k: condensed_rope.rotate(q, k, positions, rope)
    same = lambda a, b: all(map(torch.equal, a, b))
    tensor = lambda *values, dtype=torch.int64: torch.tensor(values, dtype=dtype, device=device)
    ids = tensor([3, 4, 5, 6, 7], [90, 91, 92, 93, 94])
    for dtype in (torch.int32, torch.int64, torch.uint32):
        assert same(by(Positions.starts(tensor(3, 90).to(dtype))), by(ids))
    assert same(by(Positions.consecutive(3)), by(3)) and same(by(3), by(ids[0]))
    # Sequences end to end.
    flat = [t.transpose(1, 2).flatten(0, 1) for t in (q, k)]
    cu_seqlens = tensor(0, 5, 10, dtype=torch.int32)
    ragged = condensed_rope.rotate(*flat, Positions.ragged(cu_seqlens, tensor(3, 90)), rope)
    assert same([t.view(2, 5, -1, 16).transpose(1, 2) for t in ragged], by(ids))
    from_zero = condensed_rope.rotate(*flat, Positions.ragged(cu_seqlens), rope)
    assert same([t.view(2, 5, -1, 16).transpose(1, 2) for t in from_zero], by(0))
    # Three axes that are one, and three that are not: by the pairs of each.
    sections = Sections.interleaved([4, 2, 2])
    three = torch.stack((ids, ids + 1000, ids * 7))
    assert same(by(Positions.axes(ids.expand(3, 2, 5), sections)), by(ids))
    mixed = by(Positions.axes(three, sections))
    for axis in range(3):
        alone = by(three[axis])
        pairs = [j for j, of in enumerate(sections.axis_of_pair) if of == axis]
        channels = pairs + [j + 8 for j in pairs]
        assert all(torch.equal(m[..., channels], a[..., channels]) for m, a in zip(mixed, alone))
    # Two sets of frequencies: each sequence by its own, and its own factor.
    sets = [Frequencies(16), Frequencies(16).condensed(8).with_factor(1.5)]
    two = by(Positions.ids(ids).with_sets(tensor(1, 0)), Rope(sets))
    for row, of in ((0, 1), (1, 0)):
        alone = by(ids, Rope(sets[of]))
        assert all(torch.equal(t[row], a[row]) for t, a in zip(two, alone))
    # In place, with and without k; and the gradient of each kind.
    for positions in (Positions.starts(tensor(3, 90)), Positions.axes(three, sections), 3):
        in_place = q.clone(), k.clone()
        condensed_rope.rotate_(*in_place, positions, rope)
        assert same(in_place, by(positions))
        alone = q.clone()
        condensed_rope.rotate_(alone, None, positions, rope)
        assert torch.equal(alone, by(positions)[0])
        tracked = q.clone().requires_grad_()
        condensed_rope.rotate(tracked, None, positions, rope).backward(q)
        assert torch.equal(tracked.grad, condensed_rope.inverse(q, None, positions, rope))


@pytest.mark.parametrize("positions, error, words", [
    (Positions.starts(torch.arange(3)), ValueError, "expected 1"),
    (Positions.ragged(torch.arange(3)), TypeError, "cu_seqlens"),
    (Positions.ragged(torch.tensor([0], dtype=torch.int32)), ValueError, "cu_seqlens"),
    (Positions.axes(torch.zeros(3, 5).long(), Sections.blocks([3, 2, 2])), ValueError, "8"),
    (Positions.axes(torch.zeros(2, 5).long(), Sections.blocks([4, 2, 2])), ValueError, "axis of pair 6"),
    (Positions.axes(torch.zeros(5).long(), Sections.blocks([4, 2, 2])), ValueError, "axes|dimensions"),
    (Positions.ids(torch.arange(5)).with_sets(torch.zeros(2).long()), ValueError, "sets"),
    (Positions.starts(torch.arange(2)[::2]), TypeError, "x"),
    (Positions.starts(torch.zeros(1, 1).long()), TypeError, "one dimension"),
    (Positions(9), ValueError, "kind"), (Positions(1), TypeError, "None"),
    ("7", TypeError, "str"), (True, TypeError, "bool"), (None, TypeError, "NoneType"), (1 << 70, ValueError, "64 bits"),
])
def test_bad_positions_are_errors(positions, error, words):
    if words == "x":
        positions, words = Positions.starts(torch.arange(4)[::2]), "contiguous"
    with pytest.raises(error, match=words):
        condensed_rope.rotate(torch.randn(1, 2, 5, 16), torch.randn(1, 1, 5, 16), positions, Rope(Frequencies(16)))


@pytest.mark.parametrize("change, error, words", [
    (dict(ids=torch.arange(4)), ValueError, "expected 5"),
    (dict(ids=torch.arange(5.0)), TypeError, "position ids"),
    (dict(q=torch.randn(1, 2, 5, 16).double()), TypeError, "element type"),
    (dict(k=torch.randn(1, 2, 6, 16)), ValueError, "batch, seq"),
    (dict(k=torch.randn(1, 2, 5, 16).half()), TypeError, "float16|f16"),
    (dict(q=torch.randn(2, 5)), ValueError, "dimensions"),
    (dict(q=torch.tensor(1.0)), ValueError, "dimensions"),
    (dict(q=torch.randn(1, 2, 5, 8)), ValueError, "head_dim 8"),
])
def test_bad_input_is_an_error(change, error, words):
    rope = Rope(Frequencies(16))
    given = dict(q=torch.randn(1, 2, 5, 16), k=torch.randn(1, 2, 5, 16), ids=torch.arange(5)) | change
    for call in (condensed_rope.rotate, condensed_rope.rotate_):
        with pytest.raises(error, match=words):
            call(given["q"], given["k"], given["ids"], rope)
    # A refusal is told once, and to whom it belongs.
    condensed_rope.rotate_(torch.randn(1, 2, 5, 16), torch.randn(1, 2, 5, 16), torch.arange(5), rope)


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
