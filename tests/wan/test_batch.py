"""Several generations at once: in parts of a chosen size, each item its own, and never parted where they share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, GRID

from dit_lens.address import Address
from dit_lens.errors import AddressError, InterventionError, RecordError, SamplerError
from dit_lens.interventions.ensemble import ensemble
from dit_lens.wan.editing import Context, Edit
from dit_lens.wan.loading import load
from dit_lens.wan.recording import record

FAMILY = FAMILIES["i2v22"]
N = GRID[0] * GRID[1] * GRID[2]
CALL = {k: v for k, v in FAMILY.call.items() if k not in ("prompt", "num_frames")} | {
    "num_inference_steps": 3,
    "guidance_scale": 5.0,
}


class Task:
    def __init__(self, prompt: str, first: int, num_frames: int = 9) -> None:
        self.prompt, self.num_frames = prompt, num_frames
        self.regions = {"part": np.arange(N) >= first}


TASKS = [Task("a red agent", 4), Task("blue", 20), Task("the green goal", 11)]
WANTED = [record("resid_post", layers=1, reduce="region_mean"), record("velocity", steps=2, name="v")]


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load(FAMILY.build()) as lens:
        yield lens


@pytest.fixture
def widths(lens: Any) -> Iterator[list[int]]:
    """The number of items in every denoiser call."""
    seen: list[int] = []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(len(kwargs["hidden_states"]))

    handles = [e.transformer.register_forward_pre_hook(look, with_kwargs=True) for e in lens.experts.values()]
    yield seen
    for handle in handles:
        handle.remove()


def test_one_at_a_time_is_each_alone(lens: Any, widths: list[int]) -> None:
    together = lens.generate(TASKS, seed=[1, 2, 3], record=WANTED, batch=1, **CALL)
    assert set(widths) == {1} and len(widths) == 3 * 2 * 3
    for task, seed, run in zip(TASKS, (1, 2, 3), together, strict=True):
        alone = lens.generate(task, seed=seed, record=WANTED, **CALL)
        assert (run.task, run.seed, run.prompt) == (task, seed, task.prompt)
        assert torch.equal(run.latents, alone.latents) and torch.equal(run.velocity, alone.velocity)
        assert run.activations.keys() == alone.activations.keys() and run.dims == alone.dims
        assert all(torch.equal(value, alone.activations[a]) for a, value in run.activations.items())
        assert torch.equal(lens.generate(resume=run.until(1)).latents, run.latents)


def test_parts_have_the_size_asked_for(lens: Any, widths: list[int]) -> None:
    whole = lens.generate(TASKS, record=WANTED, **CALL)
    assert set(widths) == {3}
    for batch, expected in ((2, [2] * 6 + [1] * 6), (3, [3] * 6), (9, [3] * 6)):
        widths.clear()
        runs = lens.generate(TASKS, record=WANTED, batch=batch, **CALL)
        assert widths == expected
        for run, other in zip(runs, whole, strict=True):
            torch.testing.assert_close(run.final, other.final, atol=1e-4, rtol=1e-4)
    widths.clear()
    assert lens.generate(TASKS[0], batch=2, **CALL).complete and set(widths) == {1}


def test_each_part_has_its_interventions(lens: Any) -> None:
    """Bound anew for each part, with its rows' seeds and regions, and fired in each."""
    bound: list[tuple[int, ...]] = []

    class Louder:
        def bind(self, context: Context) -> Edit:
            bound.append(context.seeds)
            assert context.masks["part"].shape == (len(context.seeds), N)

            class Change(Edit):
                def latents(self, step: int, x: torch.Tensor) -> torch.Tensor:
                    if step != 1:
                        return x
                    self.fired[Address(step, "cond", -1, "latents")] += 1
                    return x * 1.1

            return Change("louder")

    runs = lens.generate(TASKS, seed=[1, 2, 3], interventions=Louder(), batch=2, **CALL)
    assert bound == [(1, 2), (3,)]
    assert all(run.edited == (1,) and run.fired[0].touched for run in runs)
    alone = lens.generate(TASKS[2], seed=3, interventions=Louder(), **CALL)
    assert torch.equal(alone.latents, runs[2].latents)


def test_members_that_share_are_not_parted(lens: Any, widths: list[int]) -> None:
    members = ensemble(step=0, layers=1)
    with pytest.raises(InterventionError, match=r"give batch=3"):
        lens.generate(TASKS[0], seed=[1, 2, 3], interventions=[members], batch=2, **CALL)
    assert not widths
    whole = lens.generate(TASKS[0], seed=[1, 2, 3], interventions=[members], **CALL)
    asked = lens.generate(TASKS[0], seed=[1, 2, 3], interventions=[members], batch=3, **CALL)
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(whole, asked, strict=True))


def test_the_limit_holds_for_all_parts(lens: Any, widths: list[int]) -> None:
    raw = record("resid_post")
    run = lens.generate(TASKS[0], record=raw, **CALL)
    one = sum(value.nbytes for value in run.activations.values())
    widths.clear()
    with pytest.raises(RecordError, match="limit"):
        lens.generate(TASKS, record=raw, batch=1, limit=3 * one - 1, **CALL)
    assert not widths, "refused before anything ran"
    assert len(lens.generate(TASKS, record=raw, batch=1, limit=3 * one, **CALL)) == 3


@pytest.mark.parametrize("batch", [0, -1, 1.5, True, "all"])
def test_a_size_that_is_none(lens: Any, batch: Any) -> None:
    with pytest.raises(SamplerError, match="1 or more, or None"):
        lens.generate(TASKS, batch=batch, **CALL)


def test_a_trace_is_not_parted(lens: Any) -> None:
    with pytest.raises(AddressError, match="leave batch out"):
        lens.trace(TASKS, batch=1, **CALL)


def test_items_of_other_sizes_are_refused(lens: Any) -> None:
    """The second one would have been made in the size of the first."""
    with pytest.raises(SamplerError, match="share their size"):
        lens.generate([TASKS[0], Task("blue", 4, num_frames=5)], **CALL)
    with_size = lens.generate([TASKS[0], Task("blue", 4, num_frames=5)], **CALL, num_frames=9, stop_after=0)
    assert [run.size.num_frames for run in with_size] == [9, 9]


def test_region_means_are_each_items_and_branches_own(lens: Any) -> None:
    wanted = [record("resid_post"), record("resid_post", reduce="region_mean", name="mean")]
    for batch in (None, 2):
        for task, run in zip(TASKS, lens.generate(TASKS, record=wanted, batch=batch, **CALL), strict=True):
            places = [a for a in run.activations if a.hook == "mean"]
            assert {a.branch for a in places} == {"cond", "uncond"} and len(places) == 3 * 2 * lens.n_layers
            for a in places:
                raw = run.activations[Address(a.step, a.branch, a.layer, "resid_post")]
                direct = raw[torch.from_numpy(task.regions["part"])].mean(0, keepdim=True)
                torch.testing.assert_close(run.activations[a], direct, atol=1e-5, rtol=1e-5)
            cond, uncond = (run[f"step=2 layer=1 hook=mean branch={b}"] for b in ("cond", "uncond"))
            assert not torch.allclose(cond, uncond, atol=1e-3)
