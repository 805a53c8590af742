"""The page on development: tables and figure are those of the numbers they are made from."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

HOUSE = Path(__file__).resolve().parent.parent


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(HOUSE / "benchmarks"))
    known = set(sys.modules)
    yield importlib.import_module("development")
    for name in set(sys.modules) - known:
        if name in ("development", "page", "where_decided"):
            del sys.modules[name]


def planted() -> xr.Dataset:
    """Three models, six puzzles of two kinds, three layers; the last model solves the mazes."""
    rng = np.random.default_rng(0)
    solved = np.zeros((3, 12))
    solved[2, :6] = 1
    writing = np.zeros((3, 12, 2, 4))
    writing[2, :, :, 3] = 1  # all of it in the last layer
    writing[1, :, :, 0] = 1
    return xr.Dataset(
        {
            "solved": (("model", "task"), solved),
            "support": (("model", "task", "step"), 0.5 + 0.4 * rng.random((3, 12, 2))),
            "blind_support": (("model", "task", "step"), 0.3 * rng.random((3, 12, 2))),
            "writing": (("model", "task", "step", "layer"), writing),
            "readout": (("model", "task", "step", "layer"), rng.random((3, 12, 2, 4))),
        },
        coords={
            "model": ["m@100", "m@400", "m"], "iteration": ("model", [100.0, 400.0, 900.0]), "step": [0, 5],
            "layer": range(4), "depth": (("model", "layer"), [[0, 0.25, 0.5, 0.75]] * 3), "task": range(12),
            "n_layers": ("model", [4, 4, 4]),
            "family": ("task", ["maze-hard"] * 6 + ["pattern"] * 6),
        },
    )  # fmt: skip


def test_tables_hold_shares_with_intervals(bench: Any) -> None:
    rows = bench.solved_table(planted()).splitlines()
    assert rows[0] == "| model | iteration | maze-hard | pattern |" and len(rows) == 5
    assert rows[2].startswith("| `m@100` | 100 | 0.00 [0.00, 0.") and rows[4].startswith("| `m` | 900 | 1.00 [0.5")
    shown = bench.shown_table(planted()).splitlines()
    assert shown[0].count("step") == 4 and "0.75" in shown[4] and "–" in shown[2]


def test_a_profile_has_its_centre_where_it_is(bench: Any) -> None:
    found = bench.centre(planted()["writing"])
    assert np.isnan(found[0]).all() and (found[1] == 0).all() and (found[2] == 0.75).all()


def test_the_figure_has_three_panels(bench: Any) -> None:
    fig = bench.picture(planted(), "writing")
    assert [trace.type for trace in fig.data] == ["scatter"] * 6 + ["heatmap"]
    assert [a.text for a in fig.layout.annotations][:2] == ["solved", "shown by right answers"]
    assert fig.data[0].y.tolist() == [0, 0, 1] and fig.data[0].x.tolist() == [100, 400, 900]
    assert fig.data[-1].z[3].tolist() == [0, 0, 1] and fig.layout.xaxis.type == "log"


def test_checkpoints_come_by_iteration_and_the_model_last(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("lab", "lab40", "lab40@1600", "lab40@200", "lab40-seed1", "lab40@12800")
    monkeypatch.setattr(bench.models, "names", lambda: names)
    assert bench.checkpoints("lab40") == ["lab40@200", "lab40@1600", "lab40@12800", "lab40"]


def test_the_section_says_what_was_measured(bench: Any) -> None:
    text = bench.section(planted(), "made today")
    assert "../img/development.png" in text and text.endswith("made today") and text.count("| `m` |") == 2


def test_models_of_other_depths_are_drawn_by_depth(bench: Any) -> None:
    profile = xr.DataArray(
        [[1.0, 2.0, np.nan, np.nan], [1.0, 2.0, 3.0, 4.0]], dims=("model", "layer"),
        coords={"n_layers": ("model", [2, 4])},
    )  # fmt: skip
    depths, values = bench.by_depth(profile)
    assert depths.tolist() == [0, 0.25, 0.5, 0.75] and values.tolist() == [[1, 1, 2, 2], [1, 2, 3, 4]]
