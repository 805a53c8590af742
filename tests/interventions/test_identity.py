"""Interventions that must change nothing change nothing: bit for bit, every family, every scheduler.

A patch from the run itself is the strongest check there is of where a patch reads and writes: a wrong call, branch,
layer, expert or order of hooks would show.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from families import FAMILIES, Family

import dit_lens as dl
from dit_lens.wan.loading import load
from dit_lens.wan.points import BY_NAME, IMAGE_CONTEXT
from dit_lens.wan.run import Run

STEPS, SEED = 3, 3  # of three steps, families with two experts do two with the first


def go(lens: Any, family: Family, **more: Any) -> Any:
    return lens.generate(**family.call, **{"seed": SEED, "num_inference_steps": STEPS, "guidance_scale": 5.0, **more})


def same(a: Run, b: Run) -> bool:
    return torch.equal(a.latents, b.latents) and torch.equal(a.velocity, b.velocity) and torch.equal(a.final, b.final)


@pytest.mark.filterwarnings("ignore:patching the whole stream")
def test_self_patch_is_the_identity(pipe: DiffusionPipeline, family: Family) -> None:
    with load(pipe) as lens:
        base = go(lens, family)
        for hook in ("update", "attn_out", "cross_attn_out", "mlp_out", "resid_post"):
            run = go(lens, family, interventions=[dl.patch(hook=hook, source=base)])
            assert same(run, base), hook
            assert sum(run.fired[0].touched.values()) == lens.n_layers * 2 * STEPS


@pytest.mark.filterwarnings("ignore:patching the whole stream")
def test_self_patch_of_every_point(family: Family) -> None:
    """Every other point there is, at the last step alone."""
    with load(family.build()) as lens:
        base = go(lens, family)
        for hook in BY_NAME:
            edit = dl.patch(step=STEPS - 1, hook=hook, source=base)
            if hook in IMAGE_CONTEXT and not lens.experts["high"].image_context:
                with pytest.raises(dl.AddressError, match="image context"):
                    lens.generate(resume=base.until(STEPS - 1), interventions=[edit])
                continue
            assert same(lens.generate(resume=base.until(STEPS - 1), interventions=[edit]), base), hook


@pytest.mark.parametrize("islands", [True, False], ids=["islands", "all"])
def test_self_patch_in_bf16(family: Family, islands: bool) -> None:
    pipe = family.build()
    for model in {pipe.transformer, getattr(pipe, "transformer_2", None)} - {None}:
        model.to(torch.bfloat16)
        if islands:  # what from_pretrained(dtype=bf16) keeps in fp32
            model.scale_shift_table.data = model.scale_shift_table.data.float()
            model.condition_embedder.time_embedder.float()
            for block in model.blocks:
                block.scale_shift_table.data = block.scale_shift_table.data.float()
                for norm in (block.norm1, block.norm2, block.norm3):
                    norm.float()
    with load(pipe) as lens:
        base = go(lens, family, num_inference_steps=2)
        for hook in ("update", "attn_gated"):
            assert same(
                go(lens, family, num_inference_steps=2, interventions=[dl.patch(hook=hook, source=base)]), base
            ), hook
        skipped = go(
            lens, family, stop_after=0, interventions=[dl.ablate()], record=dl.record("resid_pre", "resid_post")
        )
        for (a, before), after in zip(
            ((a, v) for a, v in skipped.activations.items() if a.hook == "resid_pre"),
            (v for a, v in skipped.activations.items() if a.hook == "resid_post"),
            strict=True,
        ):
            assert before.dtype == torch.bfloat16 and torch.equal(before, after), a


def test_self_patch_of_a_part(family: Family) -> None:
    """Tokens, heads, branches and layers only narrow the identity."""
    with load(family.build()) as lens:
        base = go(lens, family, regions={"left": left()})
        for more in (
            {"tokens": "left"}, {"tokens": [0, 5]}, {"hook": "z", "heads": 1}, {"branches": "uncond"}, {"layers": 1},
            {"hook": "k", "heads": [0], "tokens": [3]},
        ):  # fmt: skip
            run = lens.generate(resume=base.until(2), interventions=[dl.patch(step=2, source=base, **more)])
            assert same(run, base), more


def left() -> Any:
    mask = torch.zeros(3, 2, 4, dtype=torch.bool)
    mask[..., :2] = True
    return mask.flatten().numpy()


def test_a_patch_from_a_run_with_the_same_latents_is_nothing(family: Family) -> None:
    """Not the same object: another generation, one that recorded, and a fork; all have these latents."""
    with load(family.build()) as lens:
        base = go(lens, family)
        others = [go(lens, family, record=dl.record("z")), lens.generate(resume=base.until(1))]
        for other in others:
            assert same(go(lens, family, interventions=[dl.patch(source=other)]), base)


@pytest.mark.parametrize("name", ["t2v21", "i2v22"])
def test_steps_before_the_first_edit_and_other_branches_are_untouched(name: str) -> None:
    family = FAMILIES[name]
    with load(family.build()) as lens:
        base, other = go(lens, family), go(lens, family, seed=SEED + 1)
        run = go(lens, family, interventions=[dl.patch(step=2, source=other)])
        assert torch.equal(run.latents[:3], base.latents[:3]) and torch.equal(run.velocity[:2], base.velocity[:2])
        assert not torch.equal(run.velocity[2], base.velocity[2])
        wanted = dl.record("velocity", steps=2)
        base, run = (
            go(lens, family, record=wanted, stop_after=2, interventions=edits)
            for edits in ((), dl.patch(step=2, branches="cond", source=other))
        )
        assert torch.equal(base["step=2 branch=uncond hook=velocity"], run["step=2 branch=uncond hook=velocity"])
        assert not torch.equal(base["step=2 branch=cond hook=velocity"], run["step=2 branch=cond hook=velocity"])
        assert {a.branch for a in run.fired[0].touched} == {"cond"}


def test_doing_nothing_is_nothing(family: Family) -> None:
    """Edits whose arithmetic is the identity: no distance, a scale of zero, a share that leaves each member alone."""
    with load(family.build()) as lens, warnings.catch_warnings():
        warnings.simplefilter("error")
        base = go(lens, family)
        u = torch.ones(24)
        for edit in (dl.steer(u, 0.0), dl.steer(u, 0.0, hook="update"), dl.steer(u, 0.0, relative=True)):
            assert same(go(lens, family, interventions=[edit]), base)
        assert same(go(lens, family, interventions=[]), base)
