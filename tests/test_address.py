"""Groups of steps and layers: what they hold and how they are labelled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dit_lens as dl
from dit_lens.address import groups, label
from dit_lens.errors import AddressError


@given(st.lists(st.integers(0, 11), min_size=1, max_size=12))
def test_a_group_is_labelled_by_what_it_holds(group: list[int]) -> None:
    (chosen,) = groups([group], 12, "layer")
    assert chosen == tuple(sorted(set(group)))
    text = label(chosen)
    if "," in text:
        assert tuple(map(int, text.split(","))) == chosen
    else:
        ends = text.split("-")
        assert chosen == tuple(range(int(ends[0]), int(ends[-1]) + 1))


def test_entries_are_indices_or_groups() -> None:
    assert groups([0, range(4), (5, 7)], 8, "step") == ((0,), (0, 1, 2, 3), (5, 7))
    assert groups(dl.Depth(0.5, 0.75), 40, "layer") == (tuple(range(20, 30)),)
    assert groups("all", 3, "layer") == ((0,), (1,), (2,)) == groups(range(3), 3, "layer")
    assert groups(-1, 3, "layer") == ((2,),)


@pytest.mark.parametrize("wanted", [[], [9], "some", 1.5, [range(0)]])
def test_what_selects_nothing_is_refused(wanted: object) -> None:
    with pytest.raises(AddressError, match=r"give|use"):
        groups(wanted, 8, "layer")
