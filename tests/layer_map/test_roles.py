"""The layer table and its model of depth: planted roles are found, and a model that learned nothing has none."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from planted_results import evidence

import dit_lens as dl
from dit_lens.experiments import shuffled_weights
from dit_lens.layer_map.roles import roles

STAGES = {"attention": [1.0, 0, 0], "effect": [0, 1.0, 0], "readout": [0, 0, 1.0], "writing": [0, 1.0, 1.0]}


def test_planted_roles_are_found_in_their_places() -> None:
    table, found = roles(evidence(STAGES, 0), evidence({}, 1), draws=99, heights=())
    assert found.models["high"].kind == "three" and found.models["high"].starts == (0, 4, 8)
    assert table["part"].values[0].tolist() == ["early"] * 4 + ["middle"] * 4 + ["late"] * 4
    perceives, decides, consolidates = (
        found.centres["high"][r].centre for r in ("perceives", "decides", "consolidates")
    )
    assert perceives.value < 0.35 < decides.value < 0.65 < consolidates.value
    assert all(c.low < c.value < c.high for c in (perceives, decides, consolidates))
    assert [(a, b) for a, b, _ in found.orders["high"]] == [("perceives", "decides"), ("decides", "consolidates")]
    assert all(distance.low > 0.15 for *_, distance in found.orders["high"])
    assert "perceives at 0." in found.sentences()[1] and "perceives to decides 0." in found.sentences()[2]


def test_several_controls_make_a_band() -> None:
    controls = xr.concat([evidence({}, seed) for seed in (1, 2, 3)], dim="control")
    table, _ = roles(evidence(STAGES, 0), controls, draws=39, heights=())
    means = controls["effect"].mean("task").sel(expert="high")
    np.testing.assert_allclose(table["effect_null"].sel(expert="high"), means.mean("control"))
    np.testing.assert_allclose(table["effect_null_low"].sel(expert="high"), means.min("control"))
    np.testing.assert_allclose(table["effect_null_high"].sel(expert="high"), means.max("control"))
    assert table["effect_p"].isnull().all() and table.attrs["controls"] == 3
    assert table.attrs["no_mark"].startswith("Against 3 control networks there is no p")


def test_twenty_controls_give_a_p_over_networks() -> None:
    """Tasks cannot stand in for networks: what the model does beyond all controls has a p, and a control has none."""
    controls = xr.concat([evidence({}, seed) for seed in range(1, 25)], dim="control")
    table, _ = roles(evidence(STAGES, 0), controls, draws=19, heights=())
    p = table["effect_p"].sel(expert="high").values
    assert (p[4:8] <= 0.05).all() and ((p > 0) & (p <= 1)).all() and "no_mark" not in table.attrs
    same, _ = roles(controls.isel(control=0, drop=True), controls.isel(control=slice(1, None)), draws=19, heights=())
    assert sum(bool((same[f"{name}_p"] <= 0.05).any()) for name in ("attention", "effect", "readout", "writing")) <= 1


def test_what_the_control_has_too_is_no_role() -> None:
    """A trend over depth that both models share is not found, however strong it is."""
    shared = {"attention": [5.0, 0, 0], "readout": [0, 0, 5.0], "effect": [0, 5.0, 0]}
    hits = [
        roles(evidence(shared, 2 * i), evidence(shared, 2 * i + 1), draws=39, seed=i, heights=())[1]
        .models["high"]
        .found
        for i in range(30)
    ]
    assert sum(hits) <= 4  # 1.5 expected at 5 %; five have a chance below 2 %


def test_where_nothing_is_found_the_table_says_so() -> None:
    table, found = roles(evidence({}, 3), evidence({}, 4), draws=99, heights=(1.0,))
    assert not found.models["high"].found
    assert set(table["part"].values.ravel()) == {"-"}
    assert found.sentences()[0] == f"Expert high: {found.models['high']}."
    assert "no stages and no single place found" in str(found) and "would have been found: of 1 SD in" in str(found)


def test_one_place_is_not_called_no_specialisation() -> None:
    """One layer does everything: it is named, and stands in the table."""
    one = evidence({}, 3)
    for name in one.data_vars:
        one[name].loc[{"layer": 7}] += 2.0
    table, found = roles(one, evidence({}, 4), draws=99, heights=())
    said = "Expert high: one place, layer 7, in attention, writing, effect, readout (p = "
    assert found.sentences()[0].startswith(said)
    assert table["part"].values[0].tolist() == ["-"] * 7 + ["place"] + ["-"] * 4


@pytest.mark.slow  # three minutes: the whole map, of eight puzzles
def test_a_model_with_random_weights_has_no_specialisation() -> None:
    lab = dl.load("lab")
    lab.defaults = replace(lab.defaults, num_inference_steps=5)
    with lab, shuffled_weights(lab, seed=7) as random:
        found = dl.map(random, n=2, steps=(0, 2, 4), seed=8)
    assert not any(model.found for model in found.roles.models.values()), found.roles
    assert set(found.layers["part"].values.ravel()) == {"-"}
