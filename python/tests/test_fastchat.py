"""FastChat's class, its own code run beside ours, on every edge: rows, growth, dtypes, devices, buffers, bad arguments."""

import importlib.util

import pytest
import torch

import condensed_rope


def theirs():
    """The one file: the package around it wants a server's dependencies."""
    spec = importlib.util.find_spec("fastchat")
    if spec is None:
        pytest.skip("FastChat is not installed")
    path = f"{spec.submodule_search_locations[0]}/model/llama_condense_monkey_patch.py"
    spec = importlib.util.spec_from_file_location("fastchats_patch", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        pytest.skip(f"FastChat's patch does not load with this transformers: {error}")
    return module.CondenseRotaryEmbedding


# A dividend of f32 is off by up to 2^-24 of itself: the angle by that of the position.
def allowed(rows, ratio, dtype):
    return rows / ratio * 2.0**-23 + {torch.float32: 2e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]


@pytest.mark.parametrize("dim, ratio, length, base", [(64, 8, 128, 10000), (128, 4.0, 64, 10000), (16, 2.7, 2048, 10000),
                                                     (8, 1, 16, 500000), (32, 0.5, 100, 10000), (64, 3, 33, 1000.0)])
def test_calls_in_a_row(dim, ratio, length, base):
    ours, its = condensed_rope.CondenseRotaryEmbedding(dim, ratio, length, base), theirs()(dim, ratio, length, base)
    assert ours.max_seq_len_cached == its.max_seq_len_cached
    assert list(ours.state_dict()) == list(its.state_dict()) == ["inv_freq"]
    assert torch.allclose(ours.inv_freq, its.inv_freq, rtol=1e-6)
    held = int(length * ratio)
    for seq_len in (0, 1, 2, held - 1, held, held + 1, held + 57, 3, 2 * held + 1):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            x = torch.zeros(1, dtype=dtype)
            mine, other = ours(x, seq_len), its(x, seq_len=seq_len)
            for m, o in zip(mine, other):
                assert m.shape == o.shape and m.dtype == o.dtype == dtype, seq_len
                assert seq_len == 0 or (m.double() - o.double()).abs().max() < allowed(max(held, seq_len), ratio, dtype)
            assert ours.max_seq_len_cached == its.max_seq_len_cached, seq_len


def test_fractions_of_rows():
    ours, its = condensed_rope.CondenseRotaryEmbedding(16, 2.7), theirs()(16, 2.7)
    assert ours.max_seq_len_cached == its.max_seq_len_cached == 2048 * 2.7
    for seq_len in (5529, 5530, 5531):
        assert ours(torch.zeros(1), seq_len)[0].shape == its(torch.zeros(1), seq_len)[0].shape
        assert ours.max_seq_len_cached == its.max_seq_len_cached


def test_casts_keep_what_they_keep():
    ours = condensed_rope.CondenseRotaryEmbedding(16, 4).to(torch.bfloat16)
    assert torch.equal(ours(torch.zeros(1), 9)[0], condensed_rope.CondenseRotaryEmbedding(16, 4)(torch.zeros(1), 9)[0])
    cos, _ = ours(torch.zeros(1, dtype=torch.float64), 9)
    assert cos.dtype == torch.float64


@pytest.mark.parametrize("arguments", [(7, 2), (0, 2), (16, 0), (16, -1), (16, float("nan")), (16, 2, 2048, -1.0)])
def test_what_cannot_be_is_an_error(arguments):
    with pytest.raises(ValueError):
        condensed_rope.CondenseRotaryEmbedding(*arguments)


def test_negative_lengths_are_errors():
    with pytest.raises(ValueError, match="seq_len"):
        condensed_rope.CondenseRotaryEmbedding(16, 2)(torch.zeros(1), -1)
