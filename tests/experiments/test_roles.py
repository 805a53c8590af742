"""The layer table and its cut: planted roles are found, and a model that learned nothing has none."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import dit_lens as dl
from dit_lens.experiments.layer_lens import shuffled_weights
from dit_lens.experiments.roles import EVIDENCE, by_layer, control_evidence, layer_evidence, puzzle_runs, roles

N, L = 8, 12


def evidence(levels: dict[str, list[float]], seed: int) -> xr.Dataset:
    """(puzzle, expert, layer) with the given level in each third of the layers."""
    rng = np.random.default_rng(seed)
    data = {}
    for name in EVIDENCE:
        level = np.repeat(levels.get(name, [0, 0, 0]), L // 3)
        values = level + 0.1 * rng.normal(size=(N, 1, L)) + 0.1 * rng.normal(size=(1, 1, L))
        data[name] = (("puzzle", "expert", "layer"), values)
    return xr.Dataset(data, coords={"expert": ["high"], "layer": range(L)})


def test_planted_roles_are_found_in_their_places() -> None:
    trained = evidence({"attention": [1, 0, 0], "effect": [0, 1, 0], "readout": [0, 0, 1], "writing": [0, 1, 1]}, 0)
    table, found = roles(trained, evidence({}, 1), draws=499)
    assert found.cuts["high"].starts == (0, 4, 8) and found.cuts["high"].found
    assert table["part"].values[0].tolist() == ["early"] * 4 + ["middle"] * 4 + ["late"] * 4
    perceives, decides, consolidates = (found.centres["high"][r][0] for r in ("perceives", "decides", "consolidates"))
    assert perceives < 0.35 < decides < 0.65 < consolidates
    assert "perceives at depth" in found.sentences()[1]


def test_what_the_control_has_too_is_no_role() -> None:
    """A trend over depth that both models share is not found, however strong it is."""
    shared = {"attention": [5.0, 0, 0], "readout": [0, 0, 5.0], "effect": [0, 5.0, 0]}
    hits = [
        roles(evidence(shared, 2 * i), evidence(shared, 2 * i + 1), draws=99, seed=i)[1].cuts["high"].found
        for i in range(40)
    ]
    assert sum(hits) <= 6  # two expected at 5 %; seven have a chance below 1 %


def test_where_nothing_is_found_the_table_says_so() -> None:
    table, found = roles(evidence({}, 3), evidence({}, 4), draws=99)
    if not found.cuts["high"].found:
        assert set(table["part"].values.ravel()) == {"-"}
        assert found.sentences() == [f"Expert high: {found.cuts['high']}."]


@pytest.mark.slow  # two minutes: sixteen puzzles through two models
def test_a_model_with_random_weights_has_no_specialisation() -> None:
    lab = dl.load("lab")
    lab.defaults = replace(lab.defaults, steps=5)
    with lab, shuffled_weights(lab, seed=7) as random:
        tasks = [dl.tasks.load(name, seed=s) for name in dl.tasks.names() for s in range(2)]
        seeds, steps = list(range(len(tasks))), [0, 2, 4]
        runs = [puzzle_runs(random, t, s, steps) for t, s in zip(tasks, seeds, strict=True)]
        trained = by_layer([layer_evidence(random, *r, steps) for r in runs])
        control = by_layer(control_evidence(random, tasks, seeds, steps, seed=8))
    _, found = roles(trained, control)
    assert not any(cut.found for cut in found.cuts.values()), found
    assert all("no specialisation found" in s for s in found.sentences())
