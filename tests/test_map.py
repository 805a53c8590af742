"""``dl.map``: the same seed gives the same tables, and what it writes can be read."""

import csv
from dataclasses import replace

import numpy as np
import pytest

import dit_lens as dl
from dit_lens.experiments.roles import EVIDENCE
from dit_lens.measures import energy_ratio


@pytest.fixture(scope="module")
def lens():
    lens = dl.load("lab")
    lens.defaults = replace(lens.defaults, steps=3)  # a map in seconds
    with lens:
        yield lens


@pytest.fixture(scope="module")
def found(lens):
    seen = []
    found = dl.map(lens, tasks=["choose"], n=2, seed=5, steps=(0, 2), scenes=0, progress=lambda *row: seen.append(row))
    assert [(done, total) for done, total, _ in seen] == [(i, 4) for i in range(5)]  # trained, then control
    return found


def test_same_seed_same_tables(lens, found) -> None:
    again = dl.map(lens, ["choose"], n=2, seed=5, steps=(0, 2), scenes=0)
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


def test_probes_are_evidence(lens, tmp_path) -> None:
    """Walls are read after the first layers and not before; what was probed stands in the table and on the page."""
    told = []
    found = dl.map(lens, ["choose"], n=2, steps=(0,), scenes=12, progress=lambda *row: told.append(row[:2]))
    assert told[-1] == (28, 28)  # 2 puzzles and 12 scenes, in the model and in the control
    wall = found.decodable.sel(label="wall", step=0)
    assert wall["value"].sel(layer=slice(2, None)).min() > 0.95 > wall["input"] + 0.1
    assert (wall["null"] < 0.9).all() and (wall["n"] <= 12).all()
    assert {"scene", "scene_low", "scene_null", "choice"} <= set(found.layers.data_vars)
    assert (found.layers["scene_n"].sel(expert="high") > 2).all()  # scenes, not the patched puzzles
    assert (found.layers["effect_n"] == 2).all()
    gain = found.layers["scene"].sel(expert="high")
    assert gain.sum() == pytest.approx(
        float((found.decodable["value"].sel(step=0, layer=11) - found.decodable["input"].sel(step=0))
              .sel(label=["wall", "goal"]).mean()), abs=0.05,
    )  # fmt: skip
    assert int(np.argmax(gain.values)) <= 2
    page = found.write(tmp_path).read_text(encoding="utf-8")
    assert "Decodability: wall" in page and (tmp_path / "decodable.csv").exists()


class Own:
    """A user's task: a prompt, a picture, one region and a twin; no scorer, no name and no seed."""

    height, width, num_frames = 96, 96, 13

    def __init__(self, task) -> None:
        self.task, self.prompt, self.image = task, task.prompt, task.image
        self.regions = {"object": task.regions["agent"]}

    def twin(self, kind: str) -> "Own":
        return Own(self.task.twin(kind))


def test_tasks_of_ones_own(lens, tmp_path) -> None:
    """They get the same map; their one region is the foreground, and nobody asks for a score."""
    own = [Own(dl.tasks.load("choose", seed=s)) for s in (5, 6)]
    found = dl.map(lens, own, seed=5, steps=(0,))
    assert list(found.energy.region.values) == ["object"] and found.about["solved"] == "0 of 0"
    base = lens.generate(own[0], seed=5, record=dl.record("resid_post", reduce="token_norm", branches="cond"))
    first = energy_ratio(base, base.regions["object"]).sel(kind="region", branch="cond")
    again = dl.measures.region_energy(found.runs[0], ["object"]).sel(region="object", kind="region", branch="cond")
    np.testing.assert_array_equal(first, again)
    page = found.write(tmp_path).read_text(encoding="utf-8")
    assert "Map of lab" in page and (tmp_path / "runs" / "01-task-6").is_dir()


def test_one_puzzle_is_not_a_map(lens) -> None:
    with pytest.raises(dl.TaskError, match="n >= 2"):
        dl.map(lens, tasks=["choose"], n=1)


def test_an_unknown_task_is_refused(lens) -> None:
    with pytest.raises(dl.TaskError, match="maze"):
        dl.map(lens, tasks=["chess"], n=2)


def test_steps_outside_the_plan_are_refused_before_the_work(lens) -> None:
    with pytest.raises(dl.AddressError, match="0 to 2"):
        dl.map(lens, tasks=["choose"], n=2, steps=(7,))
