"""A small calibration from end to end: what CI holds every method to."""

from __future__ import annotations

from pathlib import Path

import pytest

import dit_lens as dl
from dit_lens.errors import MeasureError
from dit_lens.planted import HeadPlant, LayerPlant, RegionPlant, StepPlant, UnusedLabel, WholeMap, calibrate

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
