"""transformers' models under the patch, held to transformers' own linear scaling of the same factor."""

import copy
import multiprocessing
import os

import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

import condensed_rope

SIZES = dict(vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, eos_token_id=None, bos_token_id=None, pad_token_id=0)
RELEASE = tuple(map(int, transformers.__version__.split(".")[:2]))
FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM)}
for family, name, since in (("mistral", "Mistral", (4, 34)), ("qwen2", "Qwen2", (4, 37))):
    if RELEASE >= since:
        FAMILIES[family] = getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}ForCausalLM")
DEVICE = "cuda" if torch.cuda.is_available() and condensed_rope.HAS_CUDA else "cpu"
CLOSE = 1e-6 if DEVICE == "cpu" else 5e-6
IDS = torch.randint(1, 97, (2, 40), generator=torch.Generator().manual_seed(1)).to(DEVICE)


def scaled(factor):
    if RELEASE >= (5, 0):
        return dict(rope_parameters=dict(rope_type="linear", factor=float(factor), rope_theta=10000.0))
    kind = "rope_type" if RELEASE >= (4, 43) else "type"
    return dict(rope_scaling={kind: "linear", "factor": float(factor)})


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


def divided(model, ratio):
    """Each frequency divided, and tables made anew where there are some."""
    for module in model.modules():
        if type(module).__name__.endswith("RotaryEmbedding"):
            module.inv_freq = module.inv_freq / ratio
            if hasattr(module, "_set_cos_sin_cache"):
                module._set_cos_sin_cache(128, DEVICE, torch.float32)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_ratio_is_linear_scaling(family):
    plain = make(family)
    if family == "llama" or RELEASE >= (4, 51):
        linear = make(family, plain.state_dict(), **scaled(8))
    else:
        # Such configs had no scaling.
        linear = divided(make(family, plain.state_dict()), 8)
    with condensed_rope.replace_with_condense(8, family):
        condensed = make(family, plain.state_dict())
    assert (logits(condensed) - logits(linear)).abs().max() < CLOSE
    assert (logits(linear) - logits(plain)).abs().max() > 1e-3
    # After the undo models are plain, and the condensed one stays what it is.
    assert torch.equal(logits(make(family, plain.state_dict())), logits(plain))
    assert (logits(condensed) - logits(linear)).abs().max() < CLOSE


OTHERS = ["gpt_neox", "persimmon", "falcon", "phi", "stablelm", "mixtral", "starcoder2", "olmo", "qwen2_moe", "gemma", "gemma2",
          "granite", "qwen3", "exaone4", "smollm3"]


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_that_conform(family):
    """Families that slice their heads, or norm them, before they rotate; by divided frequencies."""
    if not condensed_rope.conforming(family):
        pytest.skip(f"{family} does not conform in transformers {transformers.__version__}")
    sizes = SIZES | dict(num_experts=2, num_local_experts=2, num_experts_per_tok=1, moe_intermediate_size=32, head_dim=16,
                         shared_expert_intermediate_size=32, new_decoder_architecture=True, num_kv_heads=2)
    if family == "falcon":
        # Its head_dim is a property.
        sizes.pop("head_dim")
    config = transformers.AutoConfig.for_model(family, **sizes)
    torch.manual_seed(3)
    plain, other = (transformers.AutoModelForCausalLM.from_config(config).float().eval().to(DEVICE) for _ in range(2))
    other.load_state_dict(plain.state_dict())
    divided(other, 8)
    with condensed_rope.replace_with_condense(8, family):
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval().to(DEVICE)
    model.load_state_dict(plain.state_dict())
    assert (logits(model) - logits(other)).abs().max() < CLOSE
    assert (logits(other) - logits(plain)).abs().max() > 1e-4


def test_models_generate_with_caches_and_padding():
    plain = make()
    linear, other = make(state=plain.state_dict(), **scaled(4)), make(state=plain.state_dict())
    condensed_rope.condense(other, 4)
    mask = torch.ones_like(IDS)
    mask[0, :7] = 0
    calls = [dict(), dict(num_beams=2), dict(attention_mask=mask)]
    if RELEASE >= (4, 38):
        calls.append(dict(cache_implementation="static"))
    for more in calls:
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_that_were_cast_are_condensed(dtype):
    """Their frequencies are rounded to their type; ours come from the config. What is no rounding is refused."""
    plain = make()
    linear, cast = make(state=plain.state_dict(), **scaled(8)), make(state=plain.state_dict()).to(dtype)
    condensed_rope.condense(cast, 8)
    assert (logits(cast).float() - logits(linear)).abs().max() < 0.02
    with pytest.raises(ValueError, match="inv_freq"):
        changed = make()
        for module in changed.modules():
            if hasattr(module, "inv_freq"):
                module.inv_freq = module.inv_freq * 1.01
        condensed_rope.condense(changed, 8)


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


def condensed_and_linear(ratio=8):
    plain = make()
    linear = make(state=plain.state_dict(), **scaled(ratio))
    with condensed_rope.replace_llama_with_condense(ratio):
        return make(state=plain.state_dict()), linear


@pytest.mark.skipif(RELEASE < (4, 57), reason="older models break the graph themselves")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_sees_one_graph(backend, tmp_path, monkeypatch):
    # An interrupted compilation leaves half a library in inductor's cache.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, linear = condensed_and_linear()
    compiled = torch.compile(lambda ids: model(ids, use_cache=False).logits, backend=backend, fullgraph=True)
    with torch.no_grad():
        assert (compiled(IDS) - logits(linear)).abs().max() < CLOSE
    compiled(IDS).sum().backward()
    linear(IDS).logits.sum().backward()
    for (name, ours), (_, theirs) in zip(model.named_parameters(), linear.named_parameters()):
        allowed = 30 * CLOSE * max(1, theirs.grad.abs().max())
        assert (ours.grad - theirs.grad).abs().max() < allowed, name


@pytest.mark.skipif(RELEASE < (4, 57), reason="older models cannot be exported")
def test_export_keeps_the_operator():
    model, _ = condensed_and_linear()
    with torch.no_grad():
        exported = torch.export.export(model, (IDS,), dict(use_cache=False), strict=False)
        calls = [str(node.target) for node in exported.graph.nodes if "condensed_rope" in str(node.target)]
        assert len(calls) == SIZES["num_hidden_layers"], calls
        off = exported.module()(IDS, use_cache=False).logits - logits(model, use_cache=False)
        assert off.abs().max() < CLOSE


def test_models_that_accelerate_spreads(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model, linear = condensed_and_linear()
    model.save_pretrained(tmp_path)
    # By device_map, as from_pretrained makes modules on "meta" first; and weights kept elsewhere between the layers' turns.
    with condensed_rope.replace_llama_with_condense(8):
        spread = LlamaForCausalLM.from_pretrained(tmp_path, device_map={"": DEVICE}).eval()
    assert torch.equal(logits(spread), logits(model))
    if DEVICE == "cuda":
        accelerate.cpu_offload(model, DEVICE)
    else:
        accelerate.disk_offload(model, str(tmp_path / "offload"), DEVICE)
    assert (logits(model) - logits(linear)).abs().max() < CLOSE


def _rotate_in_a_child(queue, q, ids):
    rope = condensed_rope.Rope(condensed_rope.Frequencies(64))
    queue.put(condensed_rope.rotate(q, None, ids, rope).numpy())


def test_forked_children_rotate():
    """As a data loader's workers: a thread pool does not survive a fork."""
    q, ids = torch.randn(1, 32, 4096, 64), torch.arange(4096)
    expected = condensed_rope.rotate(q, None, ids, condensed_rope.Rope(condensed_rope.Frequencies(64)))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_rotate_in_a_child, args=(queue, q, ids))
    child.start()
    try:
        assert torch.equal(torch.from_numpy(queue.get(timeout=60)), expected)
    finally:
        child.kill()
        child.join()


LAYERED = dict(vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
               num_key_value_heads=2, head_dim=16, max_position_embeddings=128, sliding_window=16, pad_token_id=0,
               layer_types=["sliding_attention", "full_attention"] * 2)


@pytest.mark.skipif(RELEASE < (4, 57), reason="Gemma 3 came later, or made its layers otherwise")
@pytest.mark.parametrize("existing", [False, True])
def test_layer_types_have_ropes_of_their_own(existing):
    def gemma(**more):
        torch.manual_seed(3)
        return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**LAYERED, **more)).eval().to(DEVICE)

    def by(kind, **more):
        thetas = dict(sliding_attention=1e4, full_attention=1e6)
        return dict(rope_parameters={name: dict(rope_type=kind, rope_theta=theta, **more) for name, theta in thetas.items()})

    if existing:
        model = gemma()
        condensed_rope.condense(model, 8)
    else:
        with condensed_rope.replace_with_condense(8, "gemma3"):
            model = gemma()
    assert (logits(model) - logits(gemma())).abs().max() > 1e-3
    if RELEASE >= (5, 0):
        assert (logits(model) - logits(gemma(**by("linear", factor=8.0)))).abs().max() < CLOSE
        with condensed_rope.replace_with_condense(8, "gemma3"), pytest.raises(ValueError, match="twice"):
            gemma(**by("linear", factor=8.0))
    else:
        # 4.57 cannot stretch the layers with a window: a base by which each frequency is an eighth, but the first, has no
        # like either. So by the bases: layers of both kinds turn by one, and linear scaling is of the other kind alone.
        whole = gemma(rope_scaling=dict(rope_type="linear", factor=8.0), rope_theta=1e4)
        local = whole.model.rotary_emb_local
        local.inv_freq = local.inv_freq / 8
        same = gemma(rope_theta=1e4)
        condensed_rope.condense(same, 8)
        assert (logits(same) - logits(whole)).abs().max() < CLOSE


def test_what_does_not_conform_is_named():
    refused = [("nowhere", "no such family"), ("gpt2", "gpt2")]
    if RELEASE >= (5, 0):
        refused += [(name, name) for name in ("gpt_neox", "deepseek_v3", "nanochat", "phi3", "glm4", "olmo2", "gpt_oss", "gemma3n")]
    for family, words in refused:
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
