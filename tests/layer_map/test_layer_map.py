"""``dl.map``: the same seed gives the same tables, and what it writes can be read."""

import csv
from dataclasses import replace

import numpy as np
import pytest

import dit_lens as dl
from dit_lens.figures.folder_report import write_folder, write_tables
from dit_lens.layer_map.evidence import EVIDENCE
from dit_lens.measures import energy_ratio


@pytest.fixture(scope="module")
def lens():
    lens = dl.load("lab")
    lens.defaults = replace(lens.defaults, num_inference_steps=3)  # a map in seconds
    with lens:
        yield lens


@pytest.fixture(scope="module")
def found(lens):
    seen = []
    found = dl.map(lens, tasks=["choose"], n=2, seed=5, steps=(0, 2), scenes=0, controls=2,
                   progress=lambda *row: seen.append(row))  # fmt: skip
    # trained, then the controls
    assert [(done, total) for done, total, _ in seen] == [(i, 32) for i in (0, 10, 20, 23, 26, 29, 32)]
    return found


def test_same_seed_same_tables(lens, found) -> None:
    again = dl.map(lens, ["choose"], n=2, seed=5, steps=(0, 2), scenes=0, controls=2)
    for name, table in found.tables().items():
        assert table.identical(again.tables()[name]), name
    assert found.roles.sentences() == again.roles.sentences()


def test_every_number_has_its_null_its_n_and_its_interval(found) -> None:
    assert found.effects.sizes == {"step": 2, "layer": 12}
    assert found.layers.sizes == {"expert": 2, "layer": 12}
    assert found.held.sizes == {"layer": 4}
    for table in (found.effects, found.held):
        assert (table["n"] == 2).all() and np.isfinite(table["null"]).all()
        assert np.isnan(table["low"]).all() and np.isnan(table["high"]).all()  # two tasks have no interval
        assert (table["p_corrected"] >= 0.5).all()
    for name in EVIDENCE:
        table = found.layers
        assert np.isfinite(table[f"{name}_null"]).all() and (table[f"{name}_n"] == 2).all()
        assert (table[f"{name}_null_low"] <= table[f"{name}_null"]).all()
        assert (table[f"{name}_null"] <= table[f"{name}_null_high"]).all()
        assert (table[f"{name}_null_low"] < table[f"{name}_null_high"]).any()  # the controls are two
        assert np.isnan(table[f"{name}_low"]).all() and table[f"{name}_p"].isnull().all()
    said = " ".join(found.summary())
    assert "Effects: with 2 tasks no p lies below 0.5" in said
    assert "Layers beside the controls: against 2 control networks there is no p" in said


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


def test_its_tables_keep_what_their_columns_mean(found, tmp_path) -> None:
    """A page made from the CSV files alone says which null it is, and in which units, as the map's own does."""
    write_tables(tmp_path, found.tables())
    page = write_folder(tmp_path, tmp_path / "page.html", load=lambda place: None).read_text(encoding="utf-8")
    assert "shuffled masks" in page and "control" in page and "0 = base, 1 = source" in page
    values = found.effects["value"].values
    largest = values.flat[np.abs(values).argmax()]
    assert f"{largest:.3g}" in page and "placebo" in page
    (tmp_path / "tables.json").unlink()
    bare = write_folder(tmp_path, tmp_path / "page.html", load=lambda place: None).read_text(encoding="utf-8")
    assert "shuffled masks" not in bare


EVIL = '<script>alert("x")</script>'


def test_a_map_says_what_it_found(found) -> None:
    """In words and as HTML: model, puzzles, model of depth with p and power, largest effect with placebo and n."""
    told = repr(found)
    assert told.startswith("Map of lab: 2 tasks of choose\n") and 6 <= len(told.splitlines()) <= 12
    assert "Expert high: " in told and "p = " in told and told.count("placebo") == 2 and "n = 2" in told
    assert "would have been found: of 1 SD in" in told and "order of the centres" in told
    page = replace(found, about={**found.about, "model": EVIL, "controls": EVIL})._repr_html_()
    assert EVIL not in page and page.count("&lt;script&gt;") == 3
    assert page.count("<tr>") == page.count("</tr>") > 24 and "3 steps, UniPCMultistepScheduler, guidance 1.5" in page
    effect = float(found.layers["effect"].sel(expert="high", layer=3))
    assert f'<td style="text-align:left;vertical-align:top">{effect:.2f}, controls ' in page


def test_probes_are_evidence(lens, tmp_path) -> None:
    """Walls are read after the first layers and not before; what was probed stands in the table and on the page.

    Stopped on the way, every scene is kept, and at last only what was read of them.
    """
    told, kept = [], tmp_path / "parts"

    def stop(done, total, what):
        told.append(what)
        if what == "probing the control, features of scene 3":
            raise KeyboardInterrupt

    how = {"tasks": ["choose"], "n": 2, "steps": (0,), "scenes": 12, "controls": 1, "folder": kept}
    with pytest.raises(KeyboardInterrupt, match="stopped with 0 of 6 parts done; run the same map with folder="):
        dl.map(lens, **how, progress=stop)
    assert len(told) == 12 + 4 and len(list((kept / "parts" / "decodable").rglob("control/**/*.safetensors"))) == 3
    told = []
    found = dl.map(lens, **how, progress=lambda *row: told.append(row))
    probed = [f"probing the control, features of scene {i}" for i in range(3, 12)]
    patched = [f"{of}choose {i}" for of in ("", "control 0, ") for i in range(2)]
    assert [what for *_, what in told] == [*probed, *patched, "writing"]
    assert told[-1][:2] == (50, 50)  # 2 puzzles and 12 scenes, in the model and in the control
    assert not (kept / "parts").exists() and len(list((kept / "items").glob("decodable.*.nc"))) == 1
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
    found = dl.map(lens, own, seed=5, steps=(0,), controls=1)
    assert list(found.energy.region.values) == ["object"] and found.about["solved"] == "0 of 0"
    base = lens.generate(own[0], seed=5, record=dl.record("resid_post", reduce="token_norm", branches="cond"))
    first = energy_ratio(base, base.regions["object"]).sel(kind="region", branch="cond")
    again = dl.measures.region_energy(found.runs[0], ["object"]).sel(region="object", kind="region", branch="cond")
    np.testing.assert_array_equal(first, again)
    page = found.write(tmp_path).read_text(encoding="utf-8")
    assert "Map of lab" in page and (tmp_path / "runs" / "01-task-6").is_dir()


def test_one_puzzle_is_not_a_map(lens) -> None:
    with pytest.raises(dl.TaskError, match="give n=2 or more"):
        dl.map(lens, tasks=["choose"], n=1)


def test_a_map_needs_a_control(lens) -> None:
    with pytest.raises(dl.TaskError, match="give 1 or more"):
        dl.map(lens, tasks=["choose"], controls=0)


def test_an_unknown_task_is_refused(lens) -> None:
    with pytest.raises(dl.TaskError, match="maze"):
        dl.map(lens, tasks=["chess"], n=2)


def test_steps_outside_the_plan_are_refused_before_the_work(lens) -> None:
    with pytest.raises(dl.AddressError, match="0 to 2"):
        dl.map(lens, tasks=["choose"], n=2, steps=(7,))
