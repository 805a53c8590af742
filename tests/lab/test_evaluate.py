"""Solved rates: kept, resumed, by family and level, with what wrong generations failed at."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dit_lens import stats, tasks
from dit_lens.errors import LoadError, StoreError
from dit_lens.lab import evaluate as e
from dit_lens.lab.training.spec import LAB40


class Answering(e.Evaluation):
    """Every third task is answered by a still picture, the others by the truth; no model runs."""

    loaded = ("pipeline", {"num_inference_steps": 4, "negative_prompt": "", "guidance_scale": 2.0})
    calls: list = []  # noqa: RUF012 - what was generated, for the tests

    def generated(self, drawn):
        self.calls.append([task.seed for task in drawn])
        return [t.frames if t.seed % 3 else np.repeat(t.frames[:1], t.num_frames, 0) for t in drawn]

    def identity(self):
        return {"asked": e.describe(self.told)}


@pytest.fixture
def answering(monkeypatch):
    monkeypatch.setattr(e, "Evaluation", Answering)
    monkeypatch.setattr(Answering, "calls", [])
    return Answering


def test_every_score_is_kept_with_its_checks(answering):
    found = e.evaluate("lab", 9, names=["maze", "choose-hard"], batch=4, progress=silent)
    assert found.sizes == {"task": 18} and answering.calls[:3] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert (found["solved"].values == [s % 3 > 0 for s in [*range(9)] * 2]).all()
    assert found["task"].values[[0, 10]].tolist() == ["maze 0", "choose-hard 1"]
    for i, task in enumerate(tasks.batch("maze", 9)):
        wanted = task.score(np.repeat(task.frames[:1], 13, 0) if i % 3 == 0 else task.frames)
        assert json.loads(found["details"].values[i]) == json.loads(json.dumps(dict(wanted.details)))
        assert found["value"].values[i] == wanted.value
    assert found["answer"].values[0] == "" and found["answer"].values[1] == str(tasks.load("maze", 1).truth)
    assert found.attrs["guidance_scale"] == 2.0 and found.attrs["boards"] == "usual" and found.attrs["steps"] == 4


def test_the_table_has_intervals_of_shares_and_says_what_failed(answering):
    found = e.evaluate("lab", 9, names=["maze"], progress=silent)
    row = e.summary(found)["maze"]
    share = stats.share_interval(found["solved"])
    assert (row["solved"], row["n"], row["share"]) == (6, 9, pytest.approx(2 / 3))
    assert (row["low"], row["high"]) == (float(share["low"]), float(share["high"]))
    assert row["low"] < 2 / 3 < row["high"] < 1
    assert row["failed"]["reached"] == 3 and row["value_low"] < row["value"] < row["value_high"]
    assert "6/9 solved, 0.667 [" in e.line("maze", row)


def test_it_goes_on_where_it_was(answering, tmp_path, monkeypatch):
    real, left = Answering.generated, [2]

    def dying(self, drawn):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(self, drawn)

    asked = dict(n=12, names=["maze"], batch=4, folder=tmp_path / "kept", progress=silent)
    monkeypatch.setattr(Answering, "generated", dying)
    with pytest.raises(KeyboardInterrupt):
        e.evaluate("lab", **asked)
    monkeypatch.setattr(Answering, "generated", real)
    found = e.evaluate("lab", **asked)
    assert answering.calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert found.identical(e.evaluate("lab", **{**asked, "folder": None}))
    with pytest.raises(StoreError, match="other parameters"):
        e.evaluate("lab", **{**asked, "guidance_scale": 1.0})
    parts = [e.evaluate("lab", **{**asked, "folder": None}, shard=(i, 2)) for i in range(2)]
    assert sorted(p.sizes["task"] for p in parts) == [4, 8]


def test_boards_vary_as_the_recipe_says(answering):
    found = e.evaluate("lab40@1600", 40, names=["maze-hard"], boards="varied", progress=silent)
    sizes = {name.rpartition(" ")[0] for name in found["task"].values.tolist()}
    assert len(sizes) > 4 and "maze-hard" in sizes and set(found["name"].values) == {"maze-hard"}
    listed = {str(size) for size in LAB40.boards}
    assert {s.rpartition("-")[2] for s in sizes - {"maze-hard"}} <= listed
    assert len(set(found["puzzle_seed"].values)) == 40
    again = e.evaluate("lab40@1600", 40, names=["maze-hard"], boards="varied", batch=5, progress=silent)
    assert sorted(again["task"].values) == sorted(found["task"].values)


def test_tasks_are_those_of_the_recipe():
    assert set(e.named("lab")) == {"maze", "choose", "occlude", "pattern"}
    assert set(e.named("lab40-seed1")) == set(e.named("lab40@100")) == set(tasks.listed())
    assert e.recipe_of("lab40-nonlinear").codec == "coupled"


def test_a_folder_of_training_tells_its_recipe(tmp_path):
    (tmp_path / "pipeline").mkdir()
    assert e.recipe_of(tmp_path / "pipeline") is None and e.named(tmp_path / "pipeline") == tasks.names()
    (tmp_path / "spec.json").write_text(json.dumps(LAB40.as_dict()))
    assert e.recipe_of(tmp_path / "pipeline") == LAB40


def test_the_shipped_model_by_both_ways():
    """Few steps would not solve; the two ways agree on what is generated, and so on what is kept."""
    ways = [e.evaluate("lab", 2, 7, names=["choose"], way=way, dtype="float32", progress=silent) for way in e.WAYS]
    assert ways[0]["solved"].equals(ways[1]["solved"]) and ways[0]["answer"].equals(ways[1]["answer"])
    np.testing.assert_allclose(ways[0]["value"], ways[1]["value"], atol=1e-6)
    assert ways[0].attrs["guidance_scale"] == 1.5 and ways[1].attrs["way"] == "stock"


def test_the_command(answering, tmp_path, capsys):
    e.main(["lab", "--n", "6", "--task", "maze", "--guidance", "3", "--json", str(tmp_path / "table.json")])
    told = capsys.readouterr().out
    assert "6 unseen puzzles each from seed 0, usual boards, 4 steps, guidance 3, batched bfloat16" in told
    assert "maze: 4/6 solved" in told
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["found"]["maze"]["solved"] == 4 and table["asked"]["n"] == 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"way": "quick"}, "way='quick' is unknown: choose from batched, stock"),
        ({"boards": "all"}, "choose from usual, varied"),
        ({"dtype": "int8"}, "choose from bfloat16, float32"),
        ({"n": 0}, "1 or more"),
    ],
)
def test_mistakes_are_told(change, said):
    with pytest.raises(LoadError, match=said):
        e.evaluate("lab", **{"n": 2, **change})


def test_unknown_models_and_boards_without_a_recipe_are_refused(answering, tmp_path):
    with pytest.raises(LoadError, match="boards='usual'"):
        e.at_a_size("maze", 0, None)
    with pytest.raises(LoadError, match="give a name"):
        e.load("nowhere")


def silent(done, total, what):
    """No bar."""
