"""The layer table and its cut: planted roles are found, and a model that learned nothing has none."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import dit_lens as dl
from dit_lens.experiments import shuffled_weights
from dit_lens.layer_map.roles import EVIDENCE, centre, read_claims, roles

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


@pytest.mark.parametrize(
    ("levels", "verdicts"),
    [
        ({"attention": [1, 0, 0], "effect": [0, 1, 0], "readout": [0, 0, 1]}, [True, True]),
        ({"attention": [0, 0, 1], "effect": [0, 1, 0], "readout": [1, 0, 0]}, [True, False]),
        ({"attention": [1, 0, 0], "effect": [0, 0, 1], "readout": [0, 0, 1]}, [True, False]),
        ({}, [False, False]),
    ],
)
def test_verdicts_follow_the_profiles(levels: dict[str, list[float]], verdicts: list[bool]) -> None:
    rows = read_claims(evidence(levels, 0), evidence({}, 1), resamples=200)
    assert [row.verdict == "supported" for row in rows] == verdicts
    assert rows[1].low <= rows[1].value <= rows[1].high and {row.n for row in rows} == {N}
    assert rows[1].null < 0 and ("no specialisation" in rows[0].remark) == (not verdicts[0])
    if all(verdicts):
        assert rows[1].value == pytest.approx(1 / 3, abs=0.1)  # from third to third; noise draws to the middle


def test_the_centre_of_a_profile() -> None:
    profile = np.zeros((4, 2))
    profile[1, 0], profile[[0, 3], 1] = 5, (1, -9)  # what is below zero does not pull
    np.testing.assert_allclose(centre(profile), [0.375, 0.125])
    assert np.isnan(centre(-np.ones(4)))


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
    assert not found.cuts["high"].found
    assert set(table["part"].values.ravel()) == {"-"}
    assert found.sentences() == [f"Expert high: {found.cuts['high']}."]
    assert "no specialisation found" in str(found)


@pytest.mark.slow  # three minutes: the whole map, of eight puzzles
def test_a_model_with_random_weights_has_no_specialisation() -> None:
    lab = dl.load("lab")
    lab.defaults = replace(lab.defaults, num_inference_steps=5)
    with lab, shuffled_weights(lab, seed=7) as random:
        found = dl.map(random, n=2, steps=(0, 2, 4), seed=8)
    assert not any(cut.found for cut in found.roles.cuts.values()), found.roles
    assert all("no specialisation found" in said for said in found.roles.sentences())
    assert set(found.layers["part"].values.ravel()) == {"-"}
