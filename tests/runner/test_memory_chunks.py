"""What cells share, counted by hand on a plan that was made by hand: two steps, two branches, four layers."""

from __future__ import annotations

import pytest

from dit_lens.address import ALL, Call
from dit_lens.runner.cells import Cell
from dit_lens.runner.memory_chunks import chunks, needs_of, paths, size_of
from dit_lens.wan.call_plan import Plan

CALLS = tuple(
    Call(2 * step + i, step, 1.0 - 0.5 * step, 1000.0 - 500 * step, "high", branch)
    for step in range(2)
    for i, branch in enumerate(("cond", "uncond"))
)
PLAN = Plan(CALLS, (1.0, 0.5, 0.0), 5.0, 5.0, "Euler")
LAYERS = 4
TAKES = ("effect",)
CELLS = [Cell(0, (0,), (layer,), "update") for layer in range(LAYERS)]


def one(name: str) -> int:
    """Every activation takes a byte."""
    return 1


def needs(*cells: Cell):
    return needs_of(cells, PLAN, LAYERS, TAKES)


def test_streams_at_the_entries_of_both_branches() -> None:
    found = needs(*CELLS)
    assert found.base_calls == {CALLS[0]: {1, 2, 3}, CALLS[1]: {1, 2, 3}}  # block 0 is entered by the call itself
    assert not found.spared and found.calls() == 2 + 2
    assert set(found.taken) == {("effect", CALLS[0]), ("effect", CALLS[1])}


def test_the_first_block_needs_no_stream() -> None:
    assert needs(CELLS[0]).base_calls == {} and needs(CELLS[0]).calls() == 2


def test_a_branch_that_is_left_alone_is_spared() -> None:
    found = needs(Cell(0, (0,), (0,), "update", branch="cond"))
    assert found.spared and found.base_calls == {CALLS[0]: set(), CALLS[1]: set()}
    assert set(found.taken) == {("effect", CALLS[0])} and found.calls() == 3
    assert not needs(Cell(0, (0,), (0,), "update", branch=ALL)).spared


def test_only_kinds_that_take_from_a_source_hold_it() -> None:
    assert needs(Cell(0, (0,), (2,), "update", kind="placebo")).taken == {}


def test_held_steps_take_at_each_and_share_only_the_first() -> None:
    found = needs(Cell(0, (0, 1), (2,), "attn_out"))
    assert {call for _, call in found.taken} == set(CALLS) and set(found.base_calls) == set(CALLS[:2])


def test_a_stream_between_two_blocks_is_held_once() -> None:
    """Updates of layers 1 and 2 take the streams before 1, between the two, and after 2: three and not four."""
    per_call = 3 + 2  # and two entries
    assert needs(CELLS[1], CELLS[2]).size(one) == 2 * per_call
    assert needs(CELLS[1]).size(one) == 2 * (2 + 1)
    assert needs(CELLS[1], CELLS[2]).size(lambda name: 3) == 3 * 2 * per_call


def test_bytes_of_shapes() -> None:
    def shapes(p):
        return (3, 5)

    assert size_of(shapes, 2)("resid_pre") == 30
    assert size_of(shapes, 2)("attn_gated") == 60  # fp32 whatever the model is


def test_paths_of_a_cell() -> None:
    assert paths(Cell(0, (0,), (), None)) == set()
    assert paths(Cell(0, (0,), (), "velocity")) == {"hook_velocity"}
    assert paths(Cell(0, (0,), (1, 2), "z")) == {"blocks.1.attn.hook_z", "blocks.2.attn.hook_z"}
    assert paths(CELLS[1]) == {"blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"}


@pytest.mark.parametrize(("less", "parts"), [(0, [4]), (1, [2, 2])])
def test_what_fits_exactly_is_not_cut(less: int, parts: list[int]) -> None:
    whole = needs(*CELLS).size(one)
    found = chunks(CELLS, PLAN, LAYERS, TAKES, one, whole - less)
    assert [len(some) for some, _ in found] == parts
    assert [cell for some, _ in found for cell in some] == CELLS
    assert all(shared == needs(*some) for some, shared in found)


def test_one_cell_is_never_refused() -> None:
    assert [len(some) for some, _ in chunks(CELLS, PLAN, LAYERS, TAKES, one, 0)] == [1] * 4
    assert [len(some) for some, _ in chunks(CELLS[:3], PLAN, LAYERS, TAKES, one, 0)] == [1] * 3
