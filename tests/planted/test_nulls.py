"""Null networks, and tasks that no network can know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dit_lens.errors import MeasureError
from dit_lens.planted import PlantTask
from dit_lens.planted.nulls import KINDS, null_model


def test_unlinked_tasks_show_nothing_of_their_label() -> None:
    assert PlantTask(seed=0, label=-1, asks="text", linked=False).prompt == PlantTask(seed=0, label=1).prompt
    task = PlantTask(seed=0, label=1, scene=5, linked=False)
    for other in (replace(task, label=-1), replace(task, unused=-1)):
        np.testing.assert_array_equal(task.cells, other.cells)
        assert task.prompt == other.prompt
    assert (task.twin("other_answer").cells != task.cells).any() and task.twin("other_answer").label == -1
    assert task.regions["key"].sum() == 4


def test_unlinked_regions_are_no_more_green_than_others() -> None:
    shares = []
    for scene in range(300):
        task = PlantTask(seed=0, label=1, scene=scene, linked=False)
        key = task.places["key"]
        shares.append(task.cells[key, 1].mean() - task.cells[~key, 1].mean())
    assert abs(np.mean(shares)) < 4 * np.std(shares) / np.sqrt(300)


@pytest.mark.parametrize("kind", KINDS)
def test_null_models_answer_and_know_nothing(kind: str) -> None:
    prints = []
    for seed in (0, 1):  # the second shuffled one had its label in the text
        with null_model(kind, seed) as made:  # type: ignore[arg-type]
            prints.append(made.lens.fingerprint)
            task = made.tasks(1, linked=False)[0]
            runs = [made.lens.generate(one, seed=3) for one in (task, replace(task, label=-task.label))]
            assert torch.equal(runs[0].final, runs[1].final) and bool(torch.isfinite(runs[0].final).all())
            blocks = made.lens.pipe.transformer.blocks
            assert all(block.ffn.net[2].weight.any() for block in blocks)  # every component adds something
        assert made.lens.pipe.transformer.blocks[0]._modules.get("hook_resid_pre") is None  # closed
    assert prints[0] != prints[1]


@pytest.mark.parametrize("kind", KINDS)
def test_guided_nulls_have_two_branches(kind: str) -> None:
    with null_model(kind, 0, guided=True) as made:  # type: ignore[arg-type]
        run = made.lens.generate(made.tasks(1, linked=False)[0], seed=0)
        assert [call.branch for call in run.plan.of_step(0)] == ["cond", "uncond"]
        assert bool(torch.isfinite(run.final).all())


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(MeasureError, match="choose from \\['random', 'shuffled'\\]"), null_model("zero", 0):  # type: ignore[arg-type]
        pass
