"""``dl.map``: the same seed gives the same tables, and what it writes can be read."""

import csv
from dataclasses import replace

import numpy as np
import pytest

import dit_lens as dl
from dit_lens.experiments.roles import EVIDENCE


@pytest.fixture(scope="module")
def lens():
    lens = dl.load("lab")
    lens.defaults = replace(lens.defaults, steps=3)  # a map in seconds
    with lens:
        yield lens


@pytest.fixture(scope="module")
def found(lens):
    seen = []
    found = dl.map(lens, tasks=["choose"], n=2, seed=5, steps=(0, 2), progress=lambda *row: seen.append(row))
    assert [(done, total) for done, total, _ in seen] == [(i, 4) for i in range(5)]  # trained, then control
    return found


def test_same_seed_same_tables(lens, found) -> None:
    again = dl.map(lens, ["choose"], n=2, seed=5, steps=(0, 2))
    for name, table in found.tables().items():
        assert table.identical(again.tables()[name]), name
    assert found.roles.sentences() == again.roles.sentences()


def test_every_number_has_its_null_its_n_and_its_interval(found) -> None:
    assert found.effects.sizes == {"step": 2, "layer": 12}
    assert found.layers.sizes == {"expert": 2, "layer": 12}
    assert found.held.sizes == {"layers": 4}
    for table in (found.effects, found.held):
        assert (table["n"] == 2).all() and np.isfinite(table["null"]).all()
        assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    for name in EVIDENCE:
        assert np.isfinite(found.layers[f"{name}_null"]).all() and (found.layers[f"{name}_n"] == 2).all()
        assert (found.layers[f"{name}_low"] <= found.layers[name]).all()


def test_the_table_agrees_with_the_heatmap(found) -> None:
    """The effect of the table is the mean of the heatmap's, less the placebo's, over that expert's steps."""
    here = (found.effects["value"] - found.effects["null"]).sel(step=0)
    assert np.allclose(found.layers["effect"].sel(expert="high"), here, atol=1e-5)


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
        dl.map(lens, tasks=["choose"], n=1)


def test_an_unknown_task_is_refused(lens) -> None:
    with pytest.raises(dl.TaskError, match="maze"):
        dl.map(lens, tasks=["chess"], n=2)


def test_steps_outside_the_plan_are_refused_before_the_work(lens) -> None:
    with pytest.raises(dl.AddressError, match="0 to 2"):
        dl.map(lens, tasks=["choose"], n=2, steps=(7,))
