"""transformers' models under the patch, held to transformers' own linear scaling of the same factor."""

import copy

import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

import condensed_rope

SIZES = dict(vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, eos_token_id=None, bos_token_id=None, pad_token_id=0)
FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM), "mistral": (MistralConfig, MistralForCausalLM),
            "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
DEVICE = "cuda" if torch.cuda.is_available() and condensed_rope.HAS_CUDA else "cpu"
CLOSE = 1e-6 if DEVICE == "cpu" else 5e-6
IDS = torch.randint(1, 97, (2, 40), generator=torch.Generator().manual_seed(1)).to(DEVICE)
FIVE = int(transformers.__version__.split(".")[0]) >= 5


def scaled(factor):
    if FIVE:
        return dict(rope_parameters=dict(rope_type="linear", factor=float(factor), rope_theta=10000.0))
    return dict(rope_scaling=dict(rope_type="linear", factor=float(factor)))


def make(family="llama", state=None, **more):
    config, model = FAMILIES[family]
    torch.manual_seed(3)
    model = model(config(**SIZES, **more)).eval().to(DEVICE)
    if state is not None:
        model.load_state_dict(state)
    return model


def logits(model, **more):
    with torch.no_grad():
        return model(IDS, **more).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_ratio_is_linear_scaling(family):
    if not condensed_rope.conforming(family):
        # Earlier each family had a form of its own.
        assert tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 51)
        with pytest.raises(ValueError, match=family):
            condensed_rope.replace_with_condense(8, family)
        return
    plain = make(family)
    linear = make(family, plain.state_dict(), **scaled(8))
    with condensed_rope.replace_with_condense(8, family):
        condensed = make(family, plain.state_dict())
    assert (logits(condensed) - logits(linear)).abs().max() < CLOSE
    assert (logits(linear) - logits(plain)).abs().max() > 1e-3
    # After the undo models are plain, and the condensed one stays what it is.
    assert torch.equal(logits(make(family, plain.state_dict())), logits(plain))
    assert (logits(condensed) - logits(linear)).abs().max() < CLOSE


def test_models_generate_with_caches_and_padding():
    plain = make()
    linear, other = make(state=plain.state_dict(), **scaled(4)), make(state=plain.state_dict())
    condensed_rope.condense(other, 4)
    mask = torch.ones_like(IDS)
    mask[0, :7] = 0
    for more in (dict(), dict(num_beams=2), dict(attention_mask=mask)):
        more = dict(do_sample=False, max_new_tokens=12) | more
        assert torch.equal(other.generate(IDS, **more), linear.generate(IDS, **more))


def test_condense_a_model_and_undo():
    plain, model = make(), make()
    linear = make(state=plain.state_dict(), **scaled(2.7))
    replaced = condensed_rope.condense(model, 2.7)
    assert (logits(model) - logits(linear)).abs().max() < 2 * CLOSE
    with pytest.raises(ValueError, match="condensed already"):
        condensed_rope.condense(model, 2)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), logits(model))
    replaced.undo()
    assert torch.equal(logits(model), logits(plain))


def test_two_ratios_live_side_by_side():
    plain = make()
    models = {}
    for ratio in (2, 8):
        condensed_rope.replace_llama_with_condense(ratio)
        models[ratio] = make(state=plain.state_dict())
    condensed_rope.replace_llama_with_condense(2).undo()
    for ratio, model in models.items():
        linear = make(state=plain.state_dict(), **scaled(ratio))
        assert (logits(model) - logits(linear)).abs().max() < CLOSE


def test_models_train(tmp_path):
    plain = make()
    linear = make(state=plain.state_dict(), **scaled(8))
    with condensed_rope.replace_llama_with_condense(8):
        model = make(state=plain.state_dict())
        model.save_pretrained(tmp_path)
        loaded = LlamaForCausalLM.from_pretrained(tmp_path).eval().to(DEVICE)
    assert torch.equal(logits(loaded), logits(model))
    assert list(loaded.state_dict()) == list(plain.state_dict())
    for checkpointing in (False, True):
        for trained in (model, linear):
            trained.train()
            trained.zero_grad()
            if checkpointing:
                trained.gradient_checkpointing_enable()
            trained(IDS, labels=IDS).loss.backward()
        for (name, ours), (_, theirs) in zip(model.named_parameters(), linear.named_parameters()):
            assert (ours.grad - theirs.grad).abs().max() < CLOSE, name


def test_compile_sees_one_graph():
    plain = make()
    linear = make(state=plain.state_dict(), **scaled(8))
    with condensed_rope.replace_llama_with_condense(8):
        model = make(state=plain.state_dict())
    compiled = torch.compile(lambda ids: model(ids, use_cache=False).logits, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert (compiled(IDS) - logits(linear)).abs().max() < CLOSE


def test_what_does_not_conform_is_named():
    for family, words in [("gpt_neox", "gpt_neox"), ("nowhere", "no such family"), ("gpt2", "gpt2"), ("deepseek_v3", "deepseek_v3"), ("nanochat", "nanochat")]:
        with pytest.raises(ValueError, match=words):
            condensed_rope.replace_with_condense(8, family)
        assert not condensed_rope.conforming(family)
    with pytest.raises(ValueError, match="none"):
        condensed_rope.replace_with_condense(8)
    for ratio in (0, -1, float("nan"), float("inf"), "8", True):
        with pytest.raises(ValueError, match="ratio"):
            condensed_rope.replace_llama_with_condense(ratio)
    with condensed_rope.replace_llama_with_condense(8), pytest.raises(ValueError, match="twice"):
        make(**scaled(4))
    with pytest.raises(ValueError, match="nothing to condense"):
        condensed_rope.condense(torch.nn.Linear(2, 2), 8)
    assert condensed_rope.conforming("llama")
