"""Emergent behaviours: curves on films drawn in code, and the lab model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dit_lens import load, tasks
from dit_lens.errors import MeasureError
from dit_lens.experiments import self_correction, working_memory
from dit_lens.experiments.tokens_elsewhere import candidates_aside, tokens_elsewhere
from dit_lens.measures.answers_over_steps import RIGHT, judged
from dit_lens.measures.blends import blends_of
from dit_lens.measures.ideal_denoiser import ideal_denoiser
from dit_lens.tasks import palette as p
from dit_lens.wan.token_grid import Grid

MOVERS = ("maze", "choose", "occlude")
GRID = Grid(frames=4, rows=6, cols=6)


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load("lab") as lens:
        yield lens


def drawn(*videos: np.ndarray) -> np.ndarray:
    return np.stack([video / 255 for video in videos])


def still(task: Any) -> np.ndarray:
    return np.broadcast_to(task.first_frame, task.frames.shape)


def planted_lag(task: Any, film: np.ndarray) -> float:
    """The lag of a film, as ``lags`` has it."""
    curves = self_correction.shown_curves(task, film)
    seen = xr.Dataset({k: (("task", "step"), v[None]) for k, v in curves.items()}, coords={"step": range(len(film))})
    return float(self_correction.perception_lag(seen.assign(solutions=("task", [1])))["lag"][0])


# -- perception before action


@pytest.mark.parametrize("name", MOVERS)
@pytest.mark.parametrize("seed", range(4))
def test_curves_are_nought_when_still_and_one_when_done(name: str, seed: int) -> None:
    task = tasks.load(name, seed)
    film = drawn(still(task), 0.5 * still(task) + 0.5 * task.frames, task.frames)
    found = self_correction.shown_curves(task, film)
    for curve, expected in (("identified", (0, 0.5, 1)), ("arrived", (0, 0.5, 1)), ("motion", (0, 0.5, 1))):
        np.testing.assert_allclose(found[curve], expected, atol=0.02, err_msg=curve)
    assert planted_lag(task, film) == 0, "a film that only fades in has no order"


@pytest.mark.parametrize("name", ["choose", "occlude"])
def test_the_other_answer_identifies_the_other_thing(name: str) -> None:
    task = tasks.load(name, 1)
    found = self_correction.shown_curves(task, drawn(task.twin("other_answer").frames, task.frames))
    np.testing.assert_allclose(found["identified"], [-1, 1], atol=0.02)
    np.testing.assert_allclose(found["arrived"][0], 0, atol=0.02)


def test_seeing_first_and_moving_first_are_told_apart() -> None:
    task = tasks.load("choose", 0)
    unsure = task.frames.copy()  # the end is there, the way is not: all frames but the last show the start
    unsure[1:-1] = task.first_frame
    assert planted_lag(task, drawn(still(task), unsure, unsure, task.frames)) == 2
    blind = task.frames.copy()  # the way is there, and the end is in two places at once
    other = task.twin("other_answer").frames[-1]
    blind[-1] = np.where((other == p.PALETTE[p.AGENT]).all(-1, keepdims=True), other, blind[-1])
    assert planted_lag(task, drawn(still(task), blind, blind, task.frames)) == -2


def test_a_final_video_without_one_mover_has_no_motion() -> None:
    task = tasks.load("maze", 0)
    gone = task.frames.copy()
    gone[5] = still(task)[0]
    gone[5][(gone[5] == p.PALETTE[p.AGENT]).all(-1)] = p.PALETTE[p.BACKGROUND]
    assert np.isnan(self_correction.shown_curves(task, drawn(still(task), gone))["motion"]).all()


def test_tasks_without_a_mover_are_refused() -> None:
    with pytest.raises(MeasureError, match="your own curves="):
        self_correction.shown_curves(tasks.load("pattern", 0), np.zeros((2, 13, 96, 96, 3)))


def test_watching_keeps_verdicts_and_curves(lens: Any) -> None:
    batch = [tasks.load("choose", 3), tasks.load("occlude", 0)]
    found = self_correction.watch_answers(lens, batch, num_inference_steps=3)
    assert found["verdict"].sizes == {"task": 2, "step": 4}
    assert found["motion"].sizes == {"task": 2, "kind": 2, "step": 4}
    assert found["kind"].values.tolist() == ["x0_hat", "fade-in"]
    assert found["solutions"].values.tolist() == [len(task.solutions) for task in batch]
    for i, task in enumerate(batch):
        run = lens.generate(task, seed=i, num_inference_steps=3)
        film = [*run.film(), run.video]
        blends = blends_of(task)
        assert blends is not None
        right = [task.answer(video) in task.solutions and not blends(video) for video in film]
        assert (found["verdict"][i] == RIGHT).values.tolist() == right
        assert found["blend"][i].values.tolist() == [judged(task, video, blends)[1] for video in film]
        best = ideal_denoiser(task, lens).film(run)
        ideal = [judged(task, video, blends)[0] for video in (*best, best[-1])]
        assert found["ideal_verdict"][i].values.tolist() == ideal and ideal[-1] == RIGHT
        np.testing.assert_allclose(
            found["motion"][i].sel(kind="x0_hat"), self_correction.shown_curves(task, np.stack(film))["motion"]
        )
        np.testing.assert_allclose(found["motion"][i][:, -1], found["motion"][i, 0, -1], atol=1e-6)
    alone = self_correction.watch_answers(lens, batch[:1], curves=None, num_inference_steps=3)
    assert list(alone.data_vars) == ["verdict", "blend", "ideal_verdict", "ideal_blend", "solutions"]
    with pytest.raises(MeasureError, match="no tasks to watch"):
        self_correction.watch_answers(lens, [])


# -- planted mistakes


def test_planting_nothing_changes_nothing(lens: Any) -> None:
    task = tasks.load("choose", 3)
    found = self_correction.plant_mistakes(lens, [task], [1, 3], twin=lambda task: task, num_inference_steps=4)
    outcome = found["outcome"]
    assert (outcome.sel(kind="planted") == outcome.sel(kind="kept")).all(), "the resumed run is the kept one"
    assert found["shows"].all(), "its twin is itself, so its own answer counts as the twin's"


def test_planted_mistakes_are_put_right_early_and_kept_late(lens: Any) -> None:
    found = self_correction.plant_mistakes(lens, [tasks.load("choose", 3)], [1, 3], num_inference_steps=4)
    found = found["outcome"].isel(task=0).transpose("kind", "step", "ending")
    assert found.sum("ending").values.tolist() == [[1, 1]] * 3
    assert found.sel(kind="own", ending="own").all() and found.sel(kind="kept", ending="twin").all()
    assert found.sel(kind="planted", step=1, ending="own") and found.sel(kind="planted", step=3, ending="twin")


def test_what_cannot_be_planted_is_refused(lens: Any) -> None:
    task = tasks.load("choose", 0)
    with pytest.raises(MeasureError, match="give a twin that differs only in the instruction"):
        self_correction.plant_mistakes(lens, [task], [1], twin=lambda t: t.twin("same_answer"), num_inference_steps=2)
    for at in ([0], [2]):
        with pytest.raises(MeasureError, match="plant at steps from 1 to 1"):
            self_correction.plant_mistakes(lens, [task], at, num_inference_steps=2)


# -- working memory


def test_hidden_tokens_show_the_screen_and_hold_the_ball() -> None:
    for seed in range(12):
        task = tasks.load("occlude", seed)
        about = working_memory.occluded(task, GRID)
        for token in (*about.hidden, *about.elsewhere):
            frame, row, col = np.unravel_index(token, (4, 6, 6))
            shown = [0] if frame == 0 else range(4 * frame - 3, 4 * frame + 1)
            assert (task.codes[list(shown), row, col, 0] == p.SCREEN).all(), "never the ball itself"
            assert (row == task.scene.row) == (token in about.hidden)
        assert about.elsewhere and not set(about.hidden) & set(about.elsewhere)
        assert about.hidden and about.after and about.identity == p.NAMES[task.scene.colour]
        picked = np.take_along_axis(about.choices, about.true[:, None], 1)[:, 0]
        assert sorted(picked) == sorted(about.hidden)
        last = [t for t in about.after if t >= 3 * 36]
        assert last == [3 * 36 + task.scene.row * 6 + task.truth[2]] or len(last) > 1
    with pytest.raises(MeasureError, match="your own hiding="):
        working_memory.occluded(tasks.load("maze", 0), GRID)


def test_twins_differ_in_the_ball_alone() -> None:
    for seed in range(12):
        task = tasks.load("occlude", seed)
        other, moved = working_memory.recolour(task), working_memory.relocate(task)
        changed = (other.codes != task.codes).any(-1)
        assert changed.any() and (changed <= (task.codes[..., 0] == task.scene.colour)).all()
        assert other.truth[0] != task.truth[0] and other.truth[1:] == task.truth[1:]
        assert other.scene.colour != task.scene.other_colour
        rows = {int(r) for r in np.argwhere((moved.codes != task.codes).any((0, 2, 3)))[:, 0]}
        assert rows == {task.scene.row, moved.scene.row} and moved.truth[0] == task.truth[0]
        assert moved.prompt == task.prompt and other.prompt != task.prompt


def in_sight(task: Any, grid: Grid) -> working_memory.Hiding:
    """The same questions of the first frame, where the ball is in plain sight: the input itself answers them."""
    scene, col = task.scene, 0 if task.scene.left else 5
    column = np.array([[grid.index(0, r, col) for r in range(6)]])
    token = (grid.index(0, scene.row, col),)
    nothing = (grid.index(0, scene.row, scene.screen),)
    return working_memory.Hiding(token, nothing, token, p.NAMES[scene.colour], column, np.array([scene.row]), column +
    36)


def test_what_stands_in_the_input_is_read_from_it_and_what_is_hidden_is_not(lens: Any) -> None:
    some = [tasks.load("occlude", i) for i in range(12)]
    how: dict[str, Any] = {"at": (0,), "layers": 5, "folds": 4, "sampling": {"num_inference_steps": 3}}
    plain = working_memory.decodable_while_hidden(lens, some, hiding=in_sight, **how)["accuracy"]
    plain = plain.mean("task").sel(layer=-1, step=0)
    assert plain.sel(label="identity", kind="hidden") > 0.8 and plain.sel(label="identity", kind="elsewhere") < 0.5
    assert plain.sel(label="identity", kind="shuffled") < 0.5
    found = working_memory.decodable_while_hidden(lens, some, **how)
    hidden = found["accuracy"].mean("task").sel(layer=-1, step=0, kind="hidden")
    assert hidden.sel(label="identity") < 0.55 and hidden.sel(label="place") < 0.45
    assert found["accuracy"].sizes == {"label": 2, "kind": 4, "task": 12, "step": 1, "layer": 2}
    assert found["layer"].values.tolist() == [-1, 5]
    named = Counter(p.NAMES[one.scene.colour] for task in some for one in (task, working_memory.recolour(task)))
    assert float(found["chance"].sel(label="identity")) == max(named.values()) / 24
    with pytest.raises(MeasureError, match="more tasks, or fewer folds"):
        working_memory.decodable_while_hidden(lens, some[:2])


def test_tokens_elsewhere_are_as_many_and_hide_and_show_nothing() -> None:
    frames = GRID.frame_of(np.arange(GRID.n_tokens))
    draws = set()
    for seed in range(12):
        task = tasks.load("occlude", seed)
        for pair in ((task, working_memory.recolour(task)), (task, working_memory.relocate(task))):
            about = [working_memory.occluded(one, GRID) for one in pair]
            hidden = {t for one in about for t in one.hidden}
            ball = {int(t) for one in pair for t in np.flatnonzero(GRID.tokens(one.regions["ball"]))}
            taken = hidden | ball | {t for one in about for t in one.after}
            random = tokens_elsewhere(pair, about, GRID, seed)
            assert len(random) == len(set(random.tolist())) == len(hidden) and not taken & set(random.tolist())
            assert set(frames[random]) <= set(frames[list(hidden)])
            draws.add(tuple(random.tolist()))
            for one in about:
                aside = candidates_aside(one, pair, about, GRID, seed)
                assert aside.shape == one.choices.shape and not (taken | set(one.choices.flat)) & set(aside.flat)
                assert (aside // GRID.cols == one.choices // GRID.cols).all(), "the same frames and rows"
                assert (np.ptp(aside % GRID.cols, axis=1) == 0).all() and (aside % GRID.cols != one.choices % 6).all()
    assert len(draws) > 12


def test_where_there_is_no_elsewhere_the_null_is_refused() -> None:
    task = tasks.load("occlude", 0)
    about = working_memory.occluded(task, GRID)
    everything = replace(about, hidden=tuple(range(GRID.n_tokens)))
    with pytest.raises(MeasureError, match="hiding= with fewer tokens"):
        tokens_elsewhere([task], [everything], GRID, 0)
    with pytest.raises(MeasureError, match="hiding= with fewer choices"):
        candidates_aside(about, [task], [everything], GRID, 0)


def test_what_the_prompt_tells_every_token_is_read_from_random_ones_as_well() -> None:
    """Planted activations: in one scene the label is in every token, in the other in the hidden ones alone."""
    rng = np.random.default_rng(0)

    def row(number: int, everywhere: bool) -> xr.Dataset:
        label = number % 2
        shape = ("run", "step", "layer", "channel")
        sign = (2 * label - 1) * np.eye(8)[0]
        one = {name: 0.15 * rng.standard_normal((2, 1, 1, 8)) for name in ("hidden", "random", "elsewhere")}
        one["hidden"] += sign
        one["random"] += sign * everywhere
        wide = {name: 0.15 * rng.standard_normal((2, 1, 1, 3, 8)) for name in ("choices", "aside", "far")}
        wide["choices"][..., label, :] += np.eye(8)[1]
        wide["aside"][..., label, :] += np.eye(8)[1] * everywhere
        return xr.Dataset(
            {name: (shape, x) for name, x in one.items()}
            | {name: (("place", "step", "layer", "candidate", "channel"), x) for name, x in wide.items()}
            | {"identity": ("run", [str(label)] * 2), "true": ("place", [label] * 2)}
        )

    for everywhere in (True, False):
        found = working_memory._decoded([row(i, everywhere) for i in range(20)], seed=0, folds=5)
        read = found["accuracy"].mean(("task", "step", "layer"))
        assert (read.sel(kind="hidden") > 0.9).all()
        assert (read.sel(kind="random") > 0.9).all() if everywhere else (read.sel(kind="random") < 0.75).all()


def test_the_positive_control_gives_the_sources_outcome(lens: Any) -> None:
    how: dict[str, Any] = {"twins": {"identity": working_memory.recolour}, "sampling": {"num_inference_steps": 2}}
    found = working_memory.used_while_hidden(lens, [tasks.load("occlude", 0)], **how).isel(label=0, task=0)
    assert float(found["effect"].sel(kind="after")) == pytest.approx(1, abs=0.01)
    assert found["flipped"].sel(kind="after") and found["kept"]
    assert np.isfinite(found["effect"]).all() and found["effect"].dims == ("kind",)
    # At the first step alone, the second, with the base's own text and picture, undoes it.
    once = working_memory.used_while_hidden(lens, [tasks.load("occlude", 0)], steps=0, **how).isel(label=0, task=0)
    assert float(once["effect"].sel(kind="after")) < 0.9


def test_each_arm_takes_from_where_it_says(lens: Any) -> None:
    """With the ball in sight as the "hidden" tokens: from the twin all comes over, from the same scene nothing does."""

    def seen(task: Any, grid: Grid) -> working_memory.Hiding:
        about = working_memory.occluded(task, grid)
        return replace(about, hidden=about.after)

    how: dict[str, Any] = {"twins": {"identity": working_memory.recolour}, "sampling": {"num_inference_steps": 2}}
    found = working_memory.used_while_hidden(lens, [tasks.load("occlude", 0)], hiding=seen, **how)
    found = found.isel(label=0, task=0)
    arms = working_memory.ARMS
    effect, flipped = (dict(zip(arms, found[name].values, strict=True)) for name in ("effect", "flipped"))
    assert effect["hidden"] == effect["after"] == pytest.approx(1, abs=0.01)
    assert abs(effect["placebo"]) < 0.1 and abs(effect["random"]) < 0.1
    assert [arm for arm in working_memory.ARMS if flipped[arm]] == ["hidden", "after"]


def test_a_twin_that_makes_no_difference_is_refused(lens: Any) -> None:
    with pytest.raises(MeasureError, match="choose a twin that makes a difference"):
        same = {"nothing": lambda task: task}
        working_memory.used_while_hidden(lens, [tasks.load("occlude", 0)], twins=same, num_inference_steps=2)
