"""The layer table and its cut: planted roles are found, and a model that learned nothing has none."""

from dataclasses import replace

import numpy as np
import pytest
from planted_results import evidence

import dit_lens as dl
from dit_lens.experiments import shuffled_weights
from dit_lens.layer_map.roles import centre, roles


def test_planted_roles_are_found_in_their_places() -> None:
    trained = evidence({"attention": [1, 0, 0], "effect": [0, 1, 0], "readout": [0, 0, 1], "writing": [0, 1, 1]}, 0)
    table, found = roles(trained, evidence({}, 1), draws=499)
    assert found.cuts["high"].starts == (0, 4, 8) and found.cuts["high"].found
    assert table["part"].values[0].tolist() == ["early"] * 4 + ["middle"] * 4 + ["late"] * 4
    perceives, decides, consolidates = (found.centres["high"][r][0] for r in ("perceives", "decides", "consolidates"))
    assert perceives < 0.35 < decides < 0.65 < consolidates
    assert "perceives at depth" in found.sentences()[1]


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
