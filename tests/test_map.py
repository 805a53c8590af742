"""``dl.map``: the same seed gives the same tables, and what it writes can be read."""

import csv
from dataclasses import replace

import numpy as np
import pytest

import dit_lens as dl


@pytest.fixture(scope="module")
def lens():
    lens = dl.load("lab")
    lens.defaults = replace(lens.defaults, steps=3)  # a map in seconds
    with lens:
        yield lens


@pytest.fixture(scope="module")
def found(lens):
    seen = []
    found = dl.map(lens, names=["choose"], n=2, seed=5, steps=(0, 2), progress=lambda *row: seen.append(row))
    assert [(done, total) for done, total, _ in seen] == [(0, 2), (1, 2), (2, 2)]
    return found


def test_same_seed_same_tables(lens, found) -> None:
    again = dl.map(lens, names=["choose"], n=2, seed=5, steps=(0, 2))
    for name in ("effects", "energy", "layers"):
        assert getattr(found, name).identical(getattr(again, name)), name


def test_every_number_has_its_null_its_n_and_its_interval(found) -> None:
    assert found.effects.sizes == {"step": 2, "layer": 12}
    assert (found.effects["n"] == 2).all()
    assert np.isfinite(found.effects["null"]).all()
    assert (found.effects["low"] <= found.effects["value"]).all()
    assert (found.effects["value"] <= found.effects["high"]).all()
    assert found.layers.sizes == {"expert": 2, "layer": 12}
    told = (found.layers["effect_low"] > 0).values
    assert ((found.layers["verdict"].values == "above placebo") == told).all()


def test_it_writes_a_report_tables_and_runs(found, tmp_path) -> None:
    report = found.write(tmp_path / "map")
    page = report.read_text(encoding="utf-8")
    assert report == tmp_path / "map" / "report.html"
    assert "Map of lab" in page and "np.str_" not in page
    with (tmp_path / "map" / "effects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert float(rows[0]["value"]) == pytest.approx(float(found.effects["value"][0, 0]), rel=1e-6)
    folders = sorted((tmp_path / "map" / "runs").iterdir())
    assert [f.name for f in folders] == ["00-choose-5", "01-choose-6"]
    loaded = dl.load_run(folders[0])
    assert np.array_equal(loaded.latents.numpy(), found.runs[0].latents.numpy())


def test_one_puzzle_is_not_a_map(lens) -> None:
    with pytest.raises(dl.TaskError, match="n >= 2"):
        dl.map(lens, names=["choose"], n=1)


def test_an_unknown_task_is_refused(lens) -> None:
    with pytest.raises(dl.TaskError, match="maze"):
        dl.map(lens, names=["chess"], n=2)


def test_steps_outside_the_plan_are_refused_before_the_work(lens) -> None:
    with pytest.raises(dl.AddressError, match="0 to 2"):
        dl.map(lens, names=["choose"], n=2, steps=(7,))
