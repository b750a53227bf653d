"""Thousands of calls of random shapes, types, layouts and numbers: each is made or refused by an error of Python's own kinds.
PyO3's PanicException derives from BaseException, and would end the test."""

import math
import random

import torch

import condensed_rope
from condensed_rope import Frequencies, Positions, Rope, Sections
from condensed_rope.dropin import flash_attn, flashinfer, liger

NUMBERS = [0, 1, -1, 2, 3, 7, 8, 64, 1024, 1025, 1 << 31, 1 << 63, -(1 << 63), 1 << 70, -0.0, 0.5, math.nan, math.inf, 1e308, 5e-324,
           True, None, "8"]
# torch's own: of what an operator's schema or a dispatch key refuses.
REFUSALS = (ValueError, TypeError, OverflowError, RuntimeError, NotImplementedError)


def counted(calls, draws):
    made = refused = 0
    for _ in range(draws):
        try:
            random.choice(calls)()
            made += 1
        except REFUSALS:
            refused += 1
    return made, refused


def test_numbers():
    random.seed(1)
    n = lambda: random.choice(NUMBERS)
    several = lambda: [n() for _ in range(random.choice([0, 1, 3, 4, 600]))]
    made, refused = counted([
        lambda: Frequencies(n(), n()), lambda: Frequencies.llama3(64, 5e5, n(), n(), n(), n()), lambda: Frequencies.from_inv_freq(several()),
        lambda: Frequencies(8).condensed(n()), lambda: Frequencies(8).with_factor(n()), lambda: Sections.blocks(several()),
        lambda: Sections.interleaved(several()), lambda: Sections.height_width_then_time(several()), lambda: Sections.of_pairs(n(), several()),
        lambda: condensed_rope.Config.from_json(random.choice(["", "[]", "null", '{"model_type": "llama", "hidden_size": %s}' % n()])),
        lambda: condensed_rope.CondenseRotaryEmbedding(n(), n()),
    ], 8000)
    assert made > 300 and refused > 3000


def tensor(dtypes, last):
    shape = [random.choice([0, 1, 2, 3, 5, 8]) for _ in range(random.choice([0, 1, 2, 3, 4, 4, 4, 5]))]
    if shape and random.random() < 0.7:
        shape[-1] = last
    x = torch.zeros(shape, dtype=random.choice(dtypes) if random.random() < 0.3 else dtypes[0])
    change = random.random()
    if change < 0.1 and x.dim() > 1:
        x = x.transpose(0, -1)
    elif change < 0.2 and x.dim() and x.shape[0]:
        x = x[:1].expand(*x.shape)
    elif change < 0.25:
        x = x.to("meta")
    elif change < 0.3 and x.dim():
        x = x[..., ::2]
    elif change < 0.35 and x.is_floating_point():
        x = torch._neg_view(x)
    elif change < 0.4 and x.is_floating_point():
        x.requires_grad_()
    return x


def test_calls():
    random.seed(2)
    heads = lambda: tensor([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.complex64, torch.bool], 16)
    ids = lambda: tensor([torch.int64, torch.int32, torch.uint32, torch.float32, torch.int16, torch.bool], 5)
    ropes = [Rope(Frequencies(16)), Rope(Frequencies(8), True, 4), Rope([Frequencies(16), Frequencies(16).condensed(2)]), Rope(Frequencies(16), False, 1 << 40)]
    kinds = [ids, lambda: random.choice(NUMBERS), lambda: Positions.starts(ids()), lambda: Positions.axes(ids(), Sections.blocks([4, 2, 2])),
             lambda: Positions.ragged(torch.tensor([-5, 1, 1 << 30][:random.choice([0, 1, 2, 3])], dtype=torch.int32)),
             lambda: Positions.ids(ids()).with_sets(ids()), lambda: Positions(random.choice([-1, 1, 3, 4, 9]))]
    where = lambda: random.choice(kinds)()

    def pair():
        q = heads()
        return q, random.choice([None, heads(), q.clone()])

    seq_dim = lambda: random.choice([2, 2, 2, 1, 0, -1, 7])
    rope = lambda: random.choice(ropes)
    made, refused = counted([
        lambda: condensed_rope.rotate(*pair(), where(), rope(), seq_dim()), lambda: condensed_rope.rotate_(*pair(), where(), rope(), seq_dim()),
        lambda: flashinfer.apply_rope_pos_ids(*pair(), ids()), lambda: liger.liger_rotary_pos_emb(*pair(), ids(), rope()),
        lambda: flash_attn.apply_rotary_emb(heads(), rope(), seqlen_offsets=random.choice([0, ids()])),
        lambda: flash_attn.apply_rotary_emb_qkv_(heads(), rope(), num_heads_q=random.choice([None, 1, 2])),
    ], 12000)
    assert made > 1000 and refused > 3000
