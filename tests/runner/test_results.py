"""What a sweep gives: the right number at the right label, beside its placebo, n and interval."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from sweeping import Puzzle, lens_and_puzzle, quiet

import dit_lens as dl
from dit_lens.experiments.local_effects import local_effects
from dit_lens.runner import Sweep, cost
from dit_lens.runner.progress_meter import ProgressMeter, human_size, human_time, progress_bar
from dit_lens.stats import max_statistic, mean_interval
from dit_lens.store.folder import open_store


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    found = lens_and_puzzle("i2v22")
    yield found
    found[0].close()


def make(model: Any, source: Any = "other_answer", **arguments: Any) -> Sweep:
    lens, puzzle, sampling = model
    given = {} if "tasks" in arguments else {"base": puzzle}
    return Sweep(lens, source=source, **{**given, "sampling": sampling, **arguments})


@pytest.mark.filterwarnings("ignore:patching the whole stream")
@pytest.mark.parametrize("metric", ["projection", "own"])
def test_zero_is_the_base_and_one_the_source(metric: str, model: Any) -> None:
    """A patch from the base itself has effect 0; all that leaves the source's blocks, where latents agree, effect 1."""
    lens, puzzle, sampling = model

    def own(run: Any, base: Any, source: Any) -> float:
        """Distance from the base, which is not normalised by itself."""
        n = run.n_steps - 1
        return 7 + float((run.x0_hat(n) - base.x0_hat(n)).double().norm())

    chosen: Any = own if metric == "own" else metric
    base = lens.generate(puzzle, seed=3, **sampling)
    source = lens.generate(puzzle.twin(""), seed=3, **sampling)
    more = {k: sampling[k] for k in ("negative_prompt", "max_sequence_length")}
    common = {"steps": [0], "hooks": "resid_post", "metric": chosen, "sampling": more}
    found = Sweep(lens, base, source, placebo=base, **common).run(progress=quiet)
    assert (found["value"].sel(layer=2) == 1).all() and (found["null"] == 0).all()
    assert (found["value"].sel(layer=[0, 1]) < 1).all()  # later blocks read the base's text
    assert found["value"].attrs["units"] == "0 = base, 1 = source"
    if metric == "own":
        assert (found["raw_base"] == 7).all() and (found["raw_source"] > 7).all()


def test_local_sweeps_agree_with_the_measure(model: Any) -> None:
    """The same numbers by another road: ``local_effects`` replays calls and knows nothing of sweeps."""
    lens, puzzle, sampling = model
    runs = [
        lens.generate(task, seed=seed, **sampling)
        for task, seed in ((puzzle, 0), (puzzle.twin(""), 0), (puzzle, 10_000))
    ]
    expected = local_effects(lens, *runs, steps=[0, 2])
    found = make(model, steps=[0, 2]).run(progress=quiet)
    # At the last step a complete run is read by its final latents, which UniPC makes of the same x0_hat.
    np.testing.assert_allclose(found["value"], expected.sel(kind="effect"), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["null"], expected.sel(kind="placebo"), rtol=1e-4, atol=1e-6)
    assert found.attrs["horizon"] == "local"


def test_labels(model: Any) -> None:
    """Each number stands where its cell is: a metric that tells what was touched."""

    def place(run: Any, base: Any, source: Any) -> float:
        if run is source or not run.fired:
            return 0.0 if run.prompt == base.prompt else 1e-9
        touched = run.fired[-1].touched
        steps, layers = sorted({a.step for a in touched}), sorted({a.layer for a in touched})
        branches = {a.branch for a in touched}
        hooks = {"z": 1, "q": 2}[next(iter(touched)).hook]
        return steps[0] + 10 * steps[-1] + 100 * layers[0] + 1000 * layers[-1] + 1e4 * len(branches) + 1e5 * hooks

    found = make(
        model, steps=[(0, 1), 2], layers=[(0, 2), 1], hooks=["z", "q"], heads=[0, 1], branches=["cond", "all"],
        metric=place, placebo="none",
    ).run(progress=quiet)  # fmt: skip
    assert found["value"].dims == ("step", "layer", "hook", "head", "branch")
    raw = found["raw_effect"].isel(task=0, seed=0)
    for step, s in (("0-1", 10), ("2", 22)):
        for layer, y in (("0,2", 2000), ("1", 1100)):
            for hook, h in (("z", 1e5), ("q", 2e5)):
                for branch, b in (("cond", 1e4), ("all", 2e4)):
                    assert (raw.sel(step=step, layer=layer, hook=hook, branch=branch) == s + y + h + b).all()
    sigmas = model[0].plan(model[2]).sigmas
    assert found["sigma"].values.tolist() == [sigmas[0], sigmas[2]], "of the first step of a group"
    assert list(found["expert"].values) == ["high", "low"]
    assert {"value", "low", "high", "n", "null"} <= set(found.to_dataframe().columns)


def test_labels_are_numbers_unless_a_group_stands_among_them(model: Any) -> None:
    found = make(model, steps=[2, 0], layers=[(0, 1), 2], placebo="none").run(progress=quiet)["value"]
    assert found["step"].dtype.kind == "i" and found["step"].values.tolist() == [2, 0]
    assert found["layer"].values.tolist() == ["0-1", "2"]
    assert found.sel(step=2, layer="2").item() == found.isel(step=0, layer=1).item()
    with pytest.raises(KeyError):
        found.sel(layer=2)


def test_hooks_outside_the_blocks_stand_at_every_layer(model: Any) -> None:
    sweep = make(model, hooks=["text_embed", "update"], steps=[1], placebo="none")
    assert len(sweep.cells) == 1 + 3
    found = sweep.run(progress=quiet)["value"].sel(hook="text_embed")
    assert len(np.unique(found.values)) == 1 and found.size == 3


def test_edits_of_latents_have_steps_alone(model: Any) -> None:
    found = make(
        model, None, edit=dl.noise, hooks=None, steps=[0, (1, 2)], horizon="final", seeds=[0, 1],
        placebo=lambda steps: dl.noise(steps=steps, matched=True),
    ).run(progress=quiet)  # fmt: skip
    assert found["value"].dims == ("step", "layer") and found.sizes["layer"] == 1
    assert (found["value"] > 0).all() and (found["null"] > 0).all()
    assert found["value"].attrs == {"long_name": "effect on change", "units": "change, minus base"}


def test_placebo_takes_from_the_same_scene_and_other_noise(model: Any) -> None:
    sweep = make(model, steps=[0], layers=[0], seeds=7)
    item = sweep.item(0)
    assert item.base.prompt == item.placebo.prompt != item.source.prompt
    assert (item.base.seed, item.source.seed, item.placebo.seed) == (7, 7, 10_007)
    assert not torch.equal(item.base.latents[0], item.placebo.latents[0])


@pytest.mark.parametrize(("tasks", "seeds", "over", "n"), [(6, 1, "task", 6), (1, 6, "seed", 6), (5, 2, "task", 5)])
def test_intervals_are_over_tasks_or_else_seeds(tasks: int, seeds: int, over: str, n: int, model: Any) -> None:
    """Known numbers in, known means out, and an interval that holds the mean."""
    _, puzzle, _ = model
    puzzles = [Puzzle(f"a {'red ' * (i + 1)}agent", puzzle.image) for i in range(tasks)]

    def metric(run: Any, base: Any, source: Any) -> float:
        number = base.prompt.count("red") - 1 + 10 * base.seed
        return 0.0 if run.prompt != source.prompt and not run.fired else (1.0 if not run.fired else float(number))

    sweep = make(model, tasks=puzzles, seeds=list(range(seeds)), metric=metric, steps=[0], layers=[0])
    found = sweep.run(progress=quiet).squeeze()
    numbers = np.array([[i + 10 * s for s in range(seeds)] for i in range(tasks)], float)
    means = numbers.mean(1) if over == "task" else numbers[0]
    assert float(found["value"]) == means.mean() and int(found["n"]) == n
    known = mean_interval(xr.DataArray(means, dims="task"))
    assert (float(found["low"]), float(found["high"])) == pytest.approx((float(known["low"]), float(known["high"])))
    assert means.min() <= float(found["low"]) < means.mean() < float(found["high"]) <= means.max()
    assert np.array_equal(found["raw_effect"].values, numbers.squeeze())
    assert found.attrs["interval_over"] == over and found.attrs.get("averaged_over") == (
        "seed" if tasks > 1 and seeds > 1 else None
    )


def test_p_is_corrected_over_the_cells(model: Any) -> None:
    """Each cell's paired difference from its placebo, by sign flips over tasks; without a placebo nothing is tested."""
    _, puzzle, _ = model
    some = [Puzzle(f"a {'red ' * (i + 1)}agent", puzzle.image) for i in range(6)]
    found = make(model, tasks=some, steps=[0, 1]).run(progress=quiet)
    scale = found["raw_source"] - found["raw_base"]
    arms = [(found[f"raw_{kind}"] - found["raw_base"]) / scale for kind in ("effect", "placebo")]
    known = max_statistic(*(arm.squeeze().drop_vars("seed") for arm in arms))
    for name in ("p", "p_corrected"):
        np.testing.assert_allclose(found[name], known[name].transpose(*found[name].dims))
    np.testing.assert_allclose(found["difference"], found["value"] - found["null"], atol=1e-9)
    assert (found["p"] <= found["p_corrected"]).all() and found.attrs["cells"] == 6
    without = make(model, tasks=some, steps=[0], layers=[0], placebo="none").run(progress=quiet)
    assert np.isnan(without["p_corrected"]).all() and np.isfinite(without["low"]).all()


def test_one_item_whose_base_and_source_measure_the_same_is_refused(model: Any) -> None:
    """Of several such items some may differ: they are left out of the means instead."""
    sweep = make(model, steps=[0], layers=[0], metric=lambda *_: 1.0, placebo="none")
    with pytest.raises(dl.MeasureError, match="is 1 for both base and source, so effects cannot be normalised: choose"):
        sweep.item(0)
    assert sweep.but(seeds=[0, 1]).item(0).source is not None
    assert make(model, source=None, edit=dl.ablate, steps=[0], layers=[0], placebo="none").item(0).source is None


def test_the_time_of_a_block_and_of_a_video(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of our own: a call takes 6 seconds, the first one 60 more, and decoding half a second."""
    lens, puzzle, _ = model
    now, calls = [0.0], [0]

    def replay(*_: Any) -> None:
        now[0] += 6 if calls[0] else 66
        calls[0] += 1

    def decode(*_: Any) -> None:
        now[0] += 0.5

    class Judged(Puzzle):
        def score(self, video: Any) -> None: ...

    monkeypatch.setattr(type(lens), "replay", replay)
    monkeypatch.setattr("dit_lens.wan.run.Run.decode", decode)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    assert cost.calibrated(make(model)) == (6 / lens.n_layers, 0.0)
    assert cost.calibrated(make(model, tasks=[Judged(image=puzzle.image)], metric="score")) == (6 / lens.n_layers, 0.5)


def test_one_item_has_no_interval(model: Any) -> None:
    found = make(model, steps=[0], layers=[0]).run(progress=quiet).squeeze()
    assert int(found["n"]) == 1 and np.isnan(found["low"]) and np.isnan(found["high"])


def test_items_that_the_metric_cannot_tell_apart_are_left_out(model: Any) -> None:
    _, puzzle, _ = model
    puzzles = [Puzzle(p, puzzle.image) for p in ("a red agent", "the goal", "a blue agent")]

    def metric(run: Any, base: Any, source: Any) -> float:
        same = base.prompt == "the goal"
        return 0.0 if same or (run.prompt == base.prompt and not run.fired) else 1.0 if not run.fired else 0.25

    with pytest.warns(UserWarning, match="does not tell base from source in 1 of 3 cells"):
        found = make(model, tasks=puzzles, metric=metric, steps=[0], layers=[0], placebo="none").run(progress=quiet)
    assert float(found["value"].squeeze()) == 0.25 and int(found["n"].squeeze()) == 2


def test_change_is_nothing_for_nothing_and_one_for_all(model: Any) -> None:
    lens, puzzle, sampling = model
    from dit_lens.runner.metrics import change

    run = lens.generate(puzzle, seed=0, **sampling)
    assert change(run, run, run) == 0
    gone = lens.generate(
        puzzle, seed=0, **sampling, stop_after=0, interventions=[dl.ablate(hook="velocity", layers="all")]
    )
    assert change(gone, run, run) > 0


def test_answers_and_scores_of_the_lab_model() -> None:
    """Named metrics on puzzles with known answers: the final step decides, and a patch of everything gives it all."""
    lens = dl.load("lab")
    with lens, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = dl.tasks.load("choose", seed=0)
        sampling = {"num_inference_steps": 4}
        base, source = (lens.generate(t, seed=0, **sampling) for t in (task, task.twin("other_answer")))
        common = {"steps": [(0, 1, 2, 3)], "layers": ["all"], "hooks": "resid_post", "horizon": "final"}
        common["layers"] = [11]
        found = Sweep(lens, base, source, metric="answer", placebo=base, **common).run(progress=quiet).squeeze()
        said = [task.answer(run.video) for run in (base, source)]
        assert said[0] != said[1] is not None
        assert (float(found["value"]), float(found["null"])) == (1, 0)
        score = Sweep(lens, base, source, metric="score", placebo="none", **common).run(progress=quiet).squeeze()
        assert (
            float(score["raw_base"]) == base.score.value
            and float(score["raw_source"]) == task.score(source.video).value
        )


# -- plan, progress, clips


def test_plan_text(model: Any) -> None:
    sweep = make(model, steps="all", horizon="final")
    plan = sweep.plan()
    L, S = 3, 3
    assert plan.blocks == 2 * S * L * (S * L + 1) and plan.cells == 2 * S * L
    assert plan.baselines == 3 * 2 * S * L + S * 3 * 2 * L  # generations; base, source and placebo once more each step
    assert plan.seconds > 0 and plan.disk == 18 * 4096
    assert "18 cells, 288 block evaluations (180 of cells + 108 of baselines; 1.1 times fewer" in str(plan)
    assert "not calibrated" in str(sweep.plan(calibrate=False))


@pytest.mark.parametrize("shape", [(50, 40), (20, 30)])
def test_formulas_of_real_sizes(shape: tuple[int, int]) -> None:
    """The table of costs in the literature of this package, from the same code that plans."""
    from types import SimpleNamespace

    from dit_lens.runner.cells import Cell

    S, L = shape
    calls = {step: [SimpleNamespace(branch=b) for b in ("cond", "uncond")] for step in range(S)}
    plan: Any = SimpleNamespace(n_steps=S, of_step=calls.__getitem__)
    cells = [Cell(0, (s,), (y,), "update") for s in range(S) for y in range(L)]
    total = lambda horizon, some=cells: sum(cost.cell_blocks(c, plan, L, horizon) for c in some)  # noqa: E731
    assert total(None) == S * L * (S * L + 1)
    assert total(0) == S * L * (L + 1)
    assert total(3) == S * L * (L + 1) + 2 * L**2 * (3 * S - 6)
    cond = [Cell(0, (s,), (y,), "update", "cond") for s in range(S) for y in range(L)]
    assert total(0, cond) == S * L * (L + 1) // 2
    assert total(None, cond) == S * L * (L + 1) // 2 + L * L * S * (S - 1)


def test_progress_tells_the_time_left(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dit_lens.runner import progress_meter
    from dit_lens.runner.cells import Cell

    now = [0.0]
    monkeypatch.setattr(progress_meter.time, "perf_counter", lambda: now[0])
    cells = [Cell(0, (0,), (layer,), "update") for layer in range(3)]
    told: list[Any] = []
    costs = {cell.key: cost for cell, cost in zip(cells, (10, 20, 70), strict=True)}
    meter = ProgressMeter(lambda *what: told.append(what), costs, open_store(None, "sweep", {}))
    for cell, seconds in zip(cells, (100, 200, 700), strict=True):
        now[0] += seconds
        meter.finished(cell)
    assert told[0] == (0, 3, "begun")
    assert told[1][:2] == (1, 3) and told[1][2].endswith("; about 15 min left")  # 90 units at 10 s
    assert told[2][2].endswith("; about 12 min left") and "left" not in told[3][2]


def test_a_bar_for_terminals_and_notebooks(capsys: pytest.CaptureFixture[str]) -> None:
    tell = progress_bar("sweep")
    tell(2, 4, "resumed")
    tell(3, 4, "a cell; about 5 s left")
    tell(4, 4, "a cell")
    shown = capsys.readouterr().err
    assert "2/4" in shown and "4/4" in shown and "sweep" in shown


def test_time_and_size_as_people_say_them() -> None:
    assert [human_time(s) for s in (3, 300, 9000, 1e6)] == ["3 s", "5 min", "2.5 h", "11.6 days"]
    assert [human_size(b) for b in (10, 2048, 5 * 2**30, 2**42)] == ["10 B", "2.0 KiB", "5.0 GiB", "4.0 TiB"]


def test_clips_of_a_cell(model: Any) -> None:
    sweep = make(model, steps=[0, (1, 2)], layers=[1, 2])
    clips = sweep.clips(step="1-2", layer="2")
    assert list(clips) == ["base", "source", "patched", "placebo"]
    assert {run.n_steps for run in clips.values()} == {3}
    assert {a.step for a in clips["patched"].fired[0].touched} == {1, 2}
    assert sweep.cell(step="0", layer="1") == sweep.cells[0]
    with pytest.raises(dl.MeasureError, match=r"step=5 is not in this sweep: choose from \['0', '1-2'\]"):
        sweep.cell(step=5, layer="1")
    with pytest.raises(dl.MeasureError, match="are not axes of this sweep"):
        sweep.cell(step="0", layer="1", neuron=3)
    assert "8 cells" in repr(sweep)
