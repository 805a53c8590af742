"""Controls: two kinds in turn, the same by seed, one open at a time, and the model left as it was."""

from __future__ import annotations

import families
import pytest
import torch

import dit_lens as dl
from dit_lens.layer_map.controls import OpenControl, control_kind, control_model
from dit_lens.wan.shuffled_weights import reinitialised


@pytest.fixture(scope="module")
def lens():
    with dl.load(families.FAMILIES["i2v22"].build()) as lens:
        yield lens


def weights(lens, name="blocks.1.attn1.to_q.weight"):
    return lens.pipe.transformer.state_dict()[name]


def test_kinds_in_turn(lens) -> None:
    assert [control_kind(i) for i in range(3)] == ["shuffled", "re-initialised", "shuffled"]
    made = [control_model(lens, i, 5) for i in (0, 1, 2, 3)]
    own = weights(lens).flatten().sort().values
    same = [torch.equal(weights(m).flatten().sort().values, own) for m in made]
    assert same == [True, False, True, False]
    assert all(not torch.equal(weights(a), weights(b)) for a, b in ((made[0], made[2]), (made[1], made[3])))
    again = control_model(lens, 1, 5)
    assert torch.equal(weights(again), weights(made[1])) and weights(again).dtype == weights(lens).dtype
    for one in (*made, again):
        one.close()


def test_the_random_state_is_left_alone(lens) -> None:
    torch.manual_seed(1)
    first = torch.rand(2)
    torch.manual_seed(1)
    reinitialised(lens, 3).close()
    assert torch.equal(torch.rand(2), first)


def test_one_is_open_at_a_time(lens) -> None:
    with OpenControl(lens, 0) as nothing:
        first = nothing(0)
        assert nothing(0) is first
        closed = []
        first.close, close = (lambda: closed.append(1) or close()), first.close
        nothing(1)
        assert closed == [1]
