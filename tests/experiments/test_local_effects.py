"""Local effects of a layer's update: cases whose effect is known to be 0 or 1, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import families
import numpy as np
import pytest
import torch
from families import FAMILIES, LAYERS

from dit_lens import tasks
from dit_lens.errors import MeasureError
from dit_lens.experiments.local_effects import local_effects
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run
from dit_lens.wan.sampler import x0_hat

FAMILY = FAMILIES["t2v21"]
OTHER = "a blue agent"


def generate(lens: Lens, prompt: str = "", **more: Any) -> Run:
    call = {**FAMILY.call, "num_inference_steps": 2, "guidance_scale": 5.0, "seed": 3}
    return lens.generate(**{**call, **({"prompt": prompt} if prompt else {}), **more})


@pytest.fixture(scope="module")
def lens() -> Iterator[Lens]:
    with load(FAMILY.build()) as made:
        yield made


def test_a_run_is_no_source_for_itself(lens: Lens) -> None:
    base = generate(lens)
    with pytest.raises(MeasureError, match="agree exactly to their end: choose a source with another answer"):
        local_effects(lens, base, base, base, [0])


def test_its_own_update_changes_nothing(lens: Lens) -> None:
    """The base as its own placebo: every block gets back exactly what it adds."""
    base, source = generate(lens), generate(lens, OTHER)
    found = local_effects(lens, base, source, base, [0, 1])
    assert found.dims == ("step", "layer", "kind") and found["layer"].values.tolist() == list(range(LAYERS))
    assert (found.sel(kind="placebo") == 0).all()
    assert (found.sel(kind="effect") != 0).all()


def test_the_source_as_its_own_placebo_is_the_effect(lens: Lens) -> None:
    base, source = generate(lens), generate(lens, OTHER)
    found = local_effects(lens, base, source, source, [1])
    np.testing.assert_array_equal(found.sel(kind="effect"), found.sel(kind="placebo"))


def test_all_that_a_network_adds_is_the_whole_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block, the same noise, other text: its update holds all the difference there is, so the effect is 1."""
    monkeypatch.setattr(families, "LAYERS", 1)
    with load(FAMILY.build()) as lens:
        base, source = generate(lens), generate(lens, OTHER)
        found = local_effects(lens, base, source, base, [0])
    assert found.shape == (1, 1, 2)
    assert found.sel(kind="effect").item() == pytest.approx(1, abs=1e-4)
    assert found.sel(kind="placebo").item() == 0


@pytest.mark.parametrize("where", range(LAYERS))
def test_the_layer_that_alone_reads_the_text_has_the_whole_effect(where: int) -> None:
    """Text enters at one block only: blocks before it have no effect at all, and its own update is all of it."""
    pipe = FAMILY.build()
    for i, block in enumerate(pipe.transformer.blocks):
        if i != where:
            block.attn2.to_out[0].weight.data.zero_()
    with load(pipe) as lens:
        base, source = generate(lens), generate(lens, OTHER)
        found = local_effects(lens, base, source, base, [0]).sel(kind="effect").values[0]
    np.testing.assert_array_equal(found[:where], 0)
    assert found[where] == pytest.approx(1, abs=1e-3)


def test_the_effect_is_the_projection_that_it_says(lens: Lens) -> None:
    """Against the same number taken from an intervention: replace the update, denoise once, project."""
    base, source = generate(lens), generate(lens, OTHER)
    updates: dict[str, list[torch.Tensor]] = {}
    for call in source.plan.of_step(1):
        seen: list[torch.Tensor] = []
        lens.replay(source, call, [(f"blocks.1.hook_resid_{side}", lambda x, hook, seen=seen: seen.append(x))
                                   for side in ("pre", "post")])  # fmt: skip
        updates[call.branch] = seen
    velocities = {}
    for call in base.plan.of_step(1):
        pre, post = updates[call.branch]
        entering: list[torch.Tensor] = []
        hooks = [
            ("blocks.1.hook_resid_pre", lambda x, hook, entering=entering: entering.append(x)),
            ("blocks.1.hook_resid_post", lambda x, hook, e=entering, pre=pre, post=post: e[0] + (post - pre)),
        ]
        velocities[call.branch] = lens.replay(base, call, hooks)
    g = base.plan.guidance_scale
    v = velocities["uncond"] + g * (velocities["cond"] - velocities["uncond"])
    changed = x0_hat(base.latents[1][None], v, base.sigmas[1])[0] - base.x0_hat(1)
    toward = source.x0_hat(1) - base.x0_hat(1)
    expected = float((changed * toward).sum() / (toward * toward).sum())
    found = local_effects(lens, base, source, base, [1]).sel(step=1, kind="effect", layer=1)
    assert float(found) == pytest.approx(expected, abs=1e-4)


def test_runs_that_cannot_be_compared_are_refused(lens: Lens) -> None:
    base, source = generate(lens), generate(lens, OTHER)
    longer = generate(lens, OTHER, num_inference_steps=3)
    taller = replace(source, grid=replace(source.grid, rows=9))
    for other in (longer, taller):
        for pair in ((other, base), (source, other)):
            with pytest.raises(MeasureError, match="the same size and the same sampling schedule"):
                local_effects(lens, base, *pair, [0])


def test_on_the_lab_model_an_answer_has_an_effect_and_its_own_update_none() -> None:
    task = tasks.load("choose", seed=2)
    with load("lab") as lens:
        base, source = (lens.generate(t, seed=2, num_inference_steps=3) for t in (task, task.twin("other_answer")))
        found = local_effects(lens, base, source, base, [0])
    assert found["expert"].values.tolist() == ["high"] and found["sigma"].values[0] == base.sigmas[0]
    assert (found.sel(kind="placebo") == 0).all()
    assert 0.1 < float(found.sel(kind="effect").max()) < 1.5
