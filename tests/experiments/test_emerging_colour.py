"""Colours behind a screen: tokens of a ball's way, chance by other scenes, planted features, models without balls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import dit_lens as dl
from dit_lens import tasks
from dit_lens.errors import MeasureError
from dit_lens.experiments.emerging_colour import KINDS, _decoded, _same, hidden_colour, hidden_colour_used, passages
from dit_lens.wan.token_grid import Grid

GRID = Grid(4, 6, 6)
HARD = tasks.batch("emerge-hard", 8, 0)


@pytest.mark.parametrize("task", HARD, ids=str)
def test_hidden_tokens_are_those_of_the_screen_while_the_ball_is_wholly_behind_it(task: Any) -> None:
    """By the pictures: no pixel frame of a hidden token shows a ball, and seen tokens show the ball's colour."""
    codes = task.scene.codes()[..., 0]  # (F, R, C)
    for lane, way, colour in zip(task.scene.lanes, passages(task, GRID), task.scene.colours, strict=True):
        assert len(way.hidden) >= lane.hides and way.before and way.after
        for kind in ("before", "hidden", "after"):
            for token in getattr(way, kind):
                frame, row, col = np.unravel_index(token, (GRID.frames, GRID.rows, GRID.cols))
                shown = codes[1 + 4 * (frame - 1) : 1 + 4 * frame, row, col]
                if kind == "hidden":
                    assert (shown == task.scene.empty[row, col, 0]).all()
                    assert lane.behind(lane.cells(task.scene.size).index((row, col)))
                else:
                    assert colour in shown
        frames = set(GRID.frame_of(np.array(way.hidden)))
        assert set(GRID.frame_of(np.array(way.elsewhere))) == frames
        assert not set(way.elsewhere) & {*way.before, *way.hidden, *way.after}
        assert len(way.of("random", 3)) == len(way.hidden) and set(way.of("random", 3)) <= set(way.elsewhere)


def test_other_tasks_and_short_screens_are_refused() -> None:
    with pytest.raises(MeasureError, match="give tasks of 'emerge'"):
        passages(tasks.load("maze", 0), GRID)
    with pytest.raises(MeasureError, match=r"take the level 'hard'"):
        passages(tasks.load("emerge-easy", 0), GRID)


def test_chance_is_the_share_of_other_scenes_with_this_colour() -> None:
    seen = xr.Dataset(
        {
            "before": (("task", "ball"), [["red"], ["red"], ["blue"], [""]]),
            "after": (("task", "ball"), [["red"], ["blue"], ["blue"], ["red"]]),
        }
    )
    found = _same(seen)
    assert found["same"].values[:, 0] == pytest.approx([1, 0, 1, np.nan], nan_ok=True)
    # Others came out blue, blue; red, blue; red, blue.
    assert found["by_chance"].values[:, 0] == pytest.approx([0, 0.5, 0.5, np.nan], nan_ok=True)


def test_what_is_planted_in_the_hidden_tokens_is_read_there_alone() -> None:
    rng, n = np.random.default_rng(0), 40
    names = np.array(["red", "green", "blue"])
    code = rng.integers(0, 3, (n, 2))
    colours = names[code]
    colours[3] = ""  # a video without balls
    rows = []
    for scene in range(n):
        x = rng.normal(size=(3, 2, 1, 2, 9))  # (kind, ball, step, layer, channel)
        x[0, :, 0, 1, :3] += 6 * np.eye(3)[code[scene]]  # hidden, the second layer
        x[2, :, 0, :, :3] += 6 * np.eye(3)[code[scene]][:, None]  # before, both
        rows.append(xr.Dataset({"x": (("kind", "ball", "step", "layer", "channel"), x)}))
    accuracy = _decoded(rows, colours, 5, 0)["accuracy"].assign_coords(step=[0], layer=[0, 1]).squeeze("step")
    mean = accuracy.mean("task")
    assert float(mean.sel(kind="hidden", layer=1)) > 0.95 and float(mean.sel(kind="before").min()) > 0.95
    for kind, layer in (("hidden", 0), ("random", 0), ("random", 1), ("shuffled", 1)):
        assert float(mean.sel(kind=kind, layer=layer)) < 0.55, (kind, layer)
    assert accuracy.isel(task=3).isnull().all() and accuracy.isel(task=4).notnull().all()
    assert list(accuracy["kind"].values) == list(KINDS)


def test_a_model_that_shows_no_balls_has_no_numbers() -> None:
    """lab never saw this family."""
    with dl.load("lab") as lab:
        found = hidden_colour(lab, HARD[:2], num_inference_steps=2, folds=5)
        used = hidden_colour_used(lab, HARD[:1], num_inference_steps=2)
        with pytest.raises(MeasureError, match="one level at a time"):
            hidden_colour(lab, [HARD[0], tasks.load("emerge-easy", 0)])
    assert found.attrs["unread"] == 4 and "accuracy" not in found and found["same"].isnull().all()
    assert used["follows"].isnull().all() and list(used["kind"].values) == ["hidden", "random", "before", "after"]
