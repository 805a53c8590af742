"""Selectors: plural names take sets, singular ones exactly one value, by one rule for all."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

import dit_lens as dl
from dit_lens import interventions as edits
from dit_lens.address import PLACES, SINGULAR, MaskIndices, Places, Select, select
from dit_lens.measures.region_attention import watch_attention

ONE: dict[str, Any] = {"step": 5, "layer": 3, "branch": "cond", "expert": "low", "hook": "z", "head": 1}
ALL: dict[str, tuple[Callable[..., Any], frozenset[str]]] = {
    "patch": (dl.patch, frozenset(ONE)),
    "ablate": (dl.ablate, frozenset(ONE)),
    "steer": (lambda **places: dl.steer([1.0, 0.0], **places), frozenset(ONE)),
    "erase": (lambda **places: dl.erase(np.eye(2), **places), frozenset(ONE)),
    "ensemble": (dl.ensemble, frozenset(ONE)),
    "ensemble_mode": (lambda **p: edits.ensemble_mode("updates", **p), frozenset(ONE) - {"hook", "head"}),
    "knockout": (lambda **places: dl.knockout("a", "b", **places), frozenset(ONE) - {"hook"}),
    "noise": (dl.noise, frozenset({"step"})),
    "redraw": (lambda **places: edits.redraw(torch.ones(1, 1, 1, 1), **places), frozenset({"step"})),
    "restart": (edits.restart, frozenset({"step"})),
    "record": (lambda **p: dl.record(**{"hook": "z", **p}), frozenset(ONE) - {"head"}),
    "watch_attention": (watch_attention, frozenset(ONE) - {"hook", "head"}),
}
CASES = [(name, one) for name, (_, taken) in ALL.items() for one in sorted(taken)]


def test_the_sentence_of_the_first_page_to_the_letter() -> None:
    edit = dl.patch(step=5, layers=range(20, 30))
    assert edit == dl.patch(5, range(20, 30)) == dl.patch(steps=5, layers=range(20, 30))
    assert edit.where == Select(steps=5, layers=range(20, 30), hooks=("update",))


def test_names_are_those_of_a_selection() -> None:
    assert set(PLACES) == set(Select.__dataclass_fields__)
    assert set(get_type_hints(Places)) | {"steps", "layers"} == {*SINGULAR, *PLACES}


@pytest.mark.parametrize(("name", "one"), CASES)
def test_one_value_by_the_singular_name_is_a_set_of_it(name: str, one: str) -> None:
    make = ALL[name][0]
    many = SINGULAR[one]
    if name == "record" and one == "hook":
        assert dl.record(hook="z") == dl.record("z") == dl.record(hooks="z")
        return
    assert make(**{one: ONE[one]}).where == make(**{many: ONE[one]}).where
    assert getattr(make(**{one: ONE[one]}).where, many) in (ONE[one], (ONE[one],))


@pytest.mark.parametrize(("name", "one"), CASES)
def test_both_names_at_once_are_an_error(name: str, one: str) -> None:
    with pytest.raises(dl.AddressError, match=f"give {one}= or {SINGULAR[one]}=, not both|given twice"):
        ALL[name][0](**{one: ONE[one], SINGULAR[one]: ONE[one]})


@pytest.mark.parametrize("named", [{"hook": "z"}, {"hooks": "z"}, {"hook": "z", "hooks": ("q",)}], ids=str)
def test_hooks_of_a_recording_in_both_ways_are_an_error(named: dict[str, Any]) -> None:
    with pytest.raises(dl.AddressError, match=r"hooks are given twice, \['update'\] and by name"):
        dl.record("update", **named)


@pytest.mark.parametrize(("name", "one"), CASES)
@pytest.mark.parametrize("wrong", [[1, 2], range(2), "all", True, 1.0, ("cond",)], ids=str)
def test_a_set_by_the_singular_name_is_refused_with_the_plural(name: str, one: str, wrong: Any) -> None:
    with pytest.raises(dl.AddressError, match=f"{one}= takes exactly one (name|integer); .*{SINGULAR[one]}="):
        ALL[name][0](**{one: wrong})


@pytest.mark.parametrize("name", ["patch", "ablate", "steer", "erase", "ensemble", "knockout", "record"])
def test_an_unknown_selector_is_told_the_near_one(name: str) -> None:
    with pytest.raises(dl.AddressError, match="unknown argument 'brunches': did you mean branches"):
        ALL[name][0](brunches="cond")


def test_what_does_not_apply_is_refused() -> None:
    with pytest.raises(dl.RecordError, match=r"reduce=dit_lens.reduce.Tokens"):
        dl.record("z", tokens=[1])
    with pytest.raises(dl.RecordError, match="leave heads= and tokens= out"):
        dl.record("z", head=1)
    with pytest.raises(dl.InterventionError, match="kind= sets the hook"):
        dl.knockout("a", "b", hook="z")
    with pytest.raises(dl.MeasureError, match="all heads are read"):
        watch_attention(head=1)
    with pytest.raises(dl.InterventionError, match=r"dit_lens.ensemble\(hooks="):
        edits.ensemble_mode("updates", hook="z")


def test_numpy_integers_are_integers() -> None:
    assert dl.patch(step=np.int64(5), layers=np.arange(2)).where == dl.patch(step=5, layers=[0, 1]).where


def test_several_hooks_are_kept_in_order_and_once() -> None:
    assert dl.patch(hooks=["mlp_gated", "attn_gated", "hook_mlp_gated"]).where.hooks == ("mlp_gated", "attn_gated")


def test_defaults_give_way_to_what_is_given() -> None:
    default = Select(steps=0, layers=dl.Depth(0.5, 0.75), hooks=("update",))
    assert select(default) == default
    assert select(default, layer=3, hooks=None) == Select(steps=0, layers=3, hooks=("update",))


def test_a_mask_of_tokens_knows_its_length() -> None:
    chosen = select(tokens=np.array([True, False, True])).tokens
    assert isinstance(chosen, MaskIndices) and chosen == (0, 2) and chosen.made_for == 3


def test_no_public_function_takes_a_set_by_a_singular_name() -> None:
    """Sweeps and attributions take sets, so their names are plural; ``steps`` is nowhere a count."""
    for function in (dl.sweep, dl.Sweep.__init__, dl.attribute, dl.map):
        assert not set(inspect.signature(function).parameters) & {*SINGULAR, "points"}, function
    assert "path_points" in inspect.signature(dl.attribute).parameters
