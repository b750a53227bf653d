"""The README's examples, run as they stand there."""

import pathlib
import re
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import condensed_rope

README = pathlib.Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
MODEL = "lmsys/vicuna-7b-v1.5"


def test_longer_contexts(tmp_path):
    sizes = dict(vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(tmp_path)
    assert MODEL in BLOCKS[0]
    if not all(map(condensed_rope.conforming, ("mistral", "qwen2"))):
        pytest.skip("the families of the example are not all there")
    # A small model in the place of the one that is not here, and a fresh one where the example has another.
    patched, existing = BLOCKS[0].replace(MODEL, str(tmp_path)).split("\n\n", 2)[1:]
    names = {}
    exec(BLOCKS[0].split("\n\n")[0] + "\n" + patched, names)
    with pytest.raises(ValueError, match="condensed already"):
        exec(existing, names)
    names["model"] = LlamaForCausalLM.from_pretrained(tmp_path)
    exec(existing, names)
    # Its last line replaces classes for good.
    condensed_rope.replace_with_condense(8, "mistral", "qwen2").undo()


def test_operators():
    names = dict(condensed_rope=condensed_rope, q=torch.randn(1, 4, 5, 128), k=torch.randn(1, 2, 5, 128), position_ids=torch.arange(5))
    before = names["q"].clone()
    exec(BLOCKS[1], names)
    # Rotated, rotated again in place, and back once: rotated once.
    expected = condensed_rope.rotate(before, None, names["position_ids"], names["rope"])
    assert (names["q"] - expected).abs().max() < 1e-5


def test_one_launch_before_attention():
    q, k, v = (torch.randn(1, heads, 5, 128) for heads in (4, 2, 2))
    keys, values = (torch.zeros(3, 4, 2, 128) for _ in range(2))
    layer = SimpleNamespace(q_norm=torch.nn.RMSNorm(128), k_norm=torch.nn.RMSNorm(128))
    rope = condensed_rope.Rope(condensed_rope.Frequencies(128, 1e6))
    names = dict(q=q, k=k, v=v, keys=keys, values=values, slots=torch.arange(5), position_ids=torch.arange(5), rope=rope, layer=layer)
    with torch.no_grad():
        exec(BLOCKS[2], names)
    assert torch.equal(values.flatten(0, 1)[:5], v[0].transpose(0, 1))
