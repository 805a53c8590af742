"""A small calibration from end to end: what CI holds every method to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dit_lens as dl
from dit_lens.errors import MeasureError
from dit_lens.planted import (
    HeadPlant,
    LayerPlant,
    LoudUpdate,
    RegionPlant,
    StepPlant,
    UnusedLabel,
    WholeMap,
    calibrate,
)
from dit_lens.planted.reading import BITS

SMALL = {"n_layers": 2, "n_steps": 1}
PLANTS = {
    "attention": LayerPlant(layer=1, **SMALL),
    "feed-forward": LayerPlant(layer=0, component="mlp", **SMALL),
    "text": LayerPlant(layer=1, component="cross_attention", **SMALL),
}


def test_methods_find_what_is_planted_and_nothing_else() -> None:
    found = calibrate(["patch", "ablate", "attribute"], PLANTS, tasks=6).plants
    assert float(found["recall"].min()) == 1 and float(found["any_false"].max()) == 0
    assert float(found["auc"].min()) == 1 and float(found["error"].max()) < 1e-3
    assert found["recall"].dims == ("plant", "approach", "seed") and int(found["members"].sum()) == 9


def test_a_head_a_step_and_a_region() -> None:
    plants = {"head": HeadPlant(layer=1, head=2, n_layers=2, n_steps=1)}
    found = calibrate(["patch heads", "region attention"], plants, tasks=6).plants
    assert float(found["recall"].min()) == 1 and float(found["any_false"].max()) == 0
    plants = {"step": StepPlant(step=1, layer=1, **{**SMALL, "n_steps": 2})}
    found = calibrate(["patch"], plants, tasks=6).plants
    assert (found["recall"].item(), found["any_false"].item(), found["members"].item()) == (1, 0, 1)
    plants = {"region": RegionPlant(layer=1, decoy=0, n_layers=2, n_steps=1)}
    found = calibrate(["knockout"], plants, tasks=6).plants
    assert (found["recall"].item(), found["any_false"].item(), found["decoys"].item()) == (1, 0, 0)


def test_a_read_out_shows_the_answer_where_it_is_written() -> None:
    found = calibrate(["layer lens", "layer lens, cosine"], PLANTS, tasks=6).plants
    assert float(found["recall"].min()) == 1 and float(found["any_false"].max()) == 0
    assert float(found["error"].sel(approach="layer lens").max()) < 1e-5


def test_another_network_is_no_null_by_itself() -> None:
    """The cosine is tested over networks: p is a rank among them, and its nulls are networks that are shuffled."""
    from dit_lens.planted import reading
    from dit_lens.planted.methods import BY_NAME
    from dit_lens.planted.nulls import null_model

    with null_model("shuffled", 0) as made:
        found = reading.lens_gain(made, made.tasks(6, linked=False))
    assert found.p is not None and found.effect.sizes == {"task": reading.CONTROLLED, "layer": 3}
    ranks = found.p.values * (1 + reading.CONTROLS)
    np.testing.assert_allclose(ranks, ranks.round())
    assert (ranks >= 1 - 1e-9).all() and reading.CONTROLS >= 20
    assert BY_NAME["layer lens, cosine"].nulls == ("shuffled",) and BY_NAME["patch"].nulls == ("random", "shuffled")


def test_a_method_with_one_kind_of_null_gets_as_many_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def told(method: Any, kind: str, linked: bool) -> Any:
        asked.append(f"{method.name}, {kind}")
        return lambda place, tasks: xr.Dataset({"found": 0.0})

    monkeypatch.setattr("dit_lens.planted.calibration._found", told)
    found = calibrate(["patch", "layer lens, cosine"], (), models=3)
    assert {what: asked.count(what) for what in asked} == {
        "patch, random": 3, "patch, shuffled": 3, "layer lens, cosine, shuffled": 6
    }  # fmt: skip
    assert found.false_rate()["n"].sel(approach="layer lens, cosine") == 6


def test_layers_that_answer_to_a_loud_one_are_not_false() -> None:
    """In a rest, what comes after a layer that writes in the region writes there as well: cells without a truth."""
    plants = {"loud": LoudUpdate(layer=1, decoy=0, rest=0.05, n_layers=4, n_steps=1)}
    found = calibrate(["energy"], plants, tasks=6).plants
    assert (found["cells"].item(), found["members"].item(), found["recall"].item()) == (2, 2, 1)


def test_a_probe_that_reads_an_unused_label_is_a_decoy_believed_where_use_is_claimed() -> None:
    """Cells of a causal check are labels and lie in no layer: what is called falsely there counts as a decoy."""
    from dit_lens.planted.judging import score
    from dit_lens.planted.measuring import Found
    from dit_lens.planted.methods import BY_NAME
    from dit_lens.planted.planting import plant

    both = xr.DataArray(np.ones((6, 2)), dims=("task", "label"), coords={"task": range(6), "label": list(BITS)})
    believes = replace(BY_NAME["causal check, pattern"], measure=lambda made, tasks: Found(both))
    with plant(UnusedLabel(layer=1, decoy=0, n_layers=2, n_steps=1)) as made:
        assert score(believes, made, made.tasks(6))["decoys"] == 1


def test_another_spec_of_the_same_name_is_measured_anew(tmp_path: Path) -> None:
    members = []
    for layer in (0, 1):
        spec = {"mine": LayerPlant(layer=layer, component="mlp", rest=0.0, n_layers=2, n_steps=1 + layer)}
        members.append(calibrate(["patch"], spec, tasks=6, folder=tmp_path).plants["members"].item())
    assert members == [1, 2]


def test_a_label_that_nothing_uses_is_decoded_and_not_believed() -> None:
    plants = {"unused": UnusedLabel(layer=1, decoy=0, n_layers=2, n_steps=1)}
    found = calibrate(["probes", "causal check, pattern"], plants, tasks=6).plants
    assert float(found["recall"].min()) == 1 and float(found["any_false"].max()) == 0


def test_nulls_are_asked_and_kept(tmp_path: Path) -> None:
    told: list[str] = []

    def tell(done: int, total: int, what: str) -> None:
        told.append(what)

    asked = {"methods": ["patch"], "plants": (), "models": 2, "tasks": 6, "folder": tmp_path, "progress": tell}
    first = calibrate(**asked)
    assert told[0] == "begun" and len(told) == 5 and dict(first.nulls.sizes) == {"kind": 2, "model": 2, "approach": 1}
    assert not first.plants and float(first.nulls["found"].sum()) == 0
    again = calibrate(**asked)
    assert not any("nulls" in what for what in told[5:]) and again.nulls.equals(first.nulls)
    assert first.false_rate()["n"].item() == 4
    more = calibrate(**{**asked, "models": 3, "methods": ["patch", "ablate"], "kept": True})
    assert more.nulls.equals(first.nulls)  # nothing is measured, and nothing else is there
    with pytest.raises(MeasureError, match="give folder="):
        calibrate(["patch"], [], kept=True)
    with pytest.raises(dl.StoreError, match="tasks"):
        calibrate(**{**asked, "tasks": 5})


def test_names_that_do_not_exist_are_told() -> None:
    with pytest.raises(MeasureError, match="unknown plants \\['rose'\\]: choose from"):
        calibrate(["patch"], ["rose"])
    with pytest.raises(MeasureError, match="unknown plants \\['rose'\\]"):
        calibrate(["patch"], [], ranked=["rose"])
    with pytest.raises(MeasureError, match="unknown methods"):
        calibrate(["guess"], [])


@pytest.mark.slow
def test_all_tables() -> None:
    found = calibrate(
        ["patch", "energy", "layer lens"], {"text": PLANTS["text"]}, tasks=6, rests=(0.0, 0.5), untrained=1,
        ranked=("two redundant layers",), maps=[WholeMap(shape="one", n_layers=8)],
    )  # fmt: skip
    assert found.graded["recall"].dims == ("plant", "rest", "approach", "seed")
    assert set(found.faithfulness.dims) == {"plant", "rest", "ranking", "order", "size"}
    assert found.maps["cut"].dims == ("shape", "layers", "seed")
    assert found.untrained["found"].dims == ("model", "approach")
