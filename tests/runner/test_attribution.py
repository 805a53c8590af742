"""Attribution patching: exact to first order, close to the truth on lab, refused where it means nothing."""

import numpy as np
import pytest
import torch
from families import FAMILIES

import dit_lens as dl
from dit_lens.experiments.local_effects import local_effects
from dit_lens.runner import attribution
from dit_lens.runner.attribution import attribute, recheck
from dit_lens.wan.loading import load


@pytest.fixture(scope="module")
def lens():
    with dl.load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def pair(lens):
    task = dl.tasks.load("choose", seed=3)
    return tuple(
        lens.generate(t, seed=0, num_inference_steps=4, stop_after=1) for t in (task, task.twin("other_answer"))
    )


def test_the_last_update_is_exact_up_to_the_final_norm(lens, pair) -> None:
    """Only the final norm stands between the last block's update and the velocity: many points integrate it well."""
    base, source = pair
    found = attribute(lens, base, source, steps=[0], layers=[11], path_points=12)
    exact = local_effects(lens, base, source, source, [0]).sel(kind="effect", layer=11).values
    assert found["update"].values.ravel() == pytest.approx(exact.ravel(), abs=0.2)


def test_a_pair_that_hardly_differs_is_exact(lens, pair) -> None:
    """First-order exactness: for a small step from base towards source, estimate and exact effect agree."""
    base, source = pair
    from dataclasses import replace

    def near(a, b):
        return None if a is None else torch.lerp(a.float(), b.float(), 1e-2).to(a)

    mixed = {k: near(v, source.conditions.items()[k]) for k, v in base.conditions.items().items()}
    latents = torch.lerp(base.latents, source.latents, 1e-2)
    close = replace(source, latents=latents, conditions=type(base.conditions)(**mixed), _cache={})
    close = replace(close, velocity=_velocity(lens, close))
    found = attribute(lens, base, close, steps=[0], path_points=1)
    exact = local_effects(lens, base, close, close, [0]).sel(kind="effect").values
    assert np.abs(exact).max() > 0.2  # there is something to find
    assert found["update"].values == pytest.approx(exact, abs=0.03)


def _velocity(lens, run):
    """The guided velocity of step 0 of a run made by hand; later steps are not looked at."""
    from dit_lens.wan.sampler import guided

    with torch.no_grad():
        parts = [lens.replay(run, call) for call in run.plan.of_step(0)]
    return torch.stack([guided(run.plan, run.plan.at(0), *parts)[0], *run.velocity[1:]])


def test_it_finds_the_decisive_layer_that_exact_patching_finds(lens, pair) -> None:
    base, source = pair
    found = attribute(lens, base, source, steps=[0])
    exact = local_effects(lens, base, source, source, [0]).sel(kind="effect").values[0]
    assert int(found["update"].values[0].argmax()) == int(exact.argmax())
    told = recheck(lens, base, source, found, top=3, others=3)
    assert told.n == 6 and told.agreement > 0.5
    assert "Spearman" in str(told)
    for row in told.table.itertuples():
        assert row.exact == pytest.approx(float(exact[row.layer]), abs=1e-4)


def test_checkpointing_changes_memory_and_not_numbers(lens, pair) -> None:
    base, source = pair
    plain = attribute(lens, base, source, steps=[0], path_points=1)
    again = attribute(lens, base, source, steps=[0], path_points=1, checkpoint=True)
    assert np.allclose(plain["update"], again["update"], atol=1e-6)
    assert not lens.pipe.transformer.gradient_checkpointing


def test_heads_sum_to_their_layer(lens, pair) -> None:
    """z feeds a linear projection: the heads' shares add up to the attention's, before its gate."""
    base, source = pair
    found = attribute(lens, base, source, steps=[0], hooks=("z", "attn_out"), path_points=2)
    assert found["z"].dims == ("step", "layer", "head")
    assert np.allclose(found["z"].sum("head"), found["attn_out"], atol=1e-4)


def test_branches_add_up(lens, pair) -> None:
    base, source = pair
    both, cond, uncond = (
        attribute(lens, base, source, steps=[0], path_points=1, branches=b)["update"] for b in ("all", "cond", "uncond")
    )
    assert np.allclose(cond + uncond, both, atol=1e-6)


def test_an_objective_of_ones_own(lens, pair) -> None:
    base, source = pair
    double = attribute(lens, base, source, steps=[0], path_points=1, objective=lambda x0: 2 * x0.mean())["update"]
    single = attribute(lens, base, source, steps=[0], path_points=1, objective=lambda x0: x0.mean())["update"]
    assert np.allclose(double, 2 * single, atol=1e-7) and float(np.abs(double).max()) > 0


@pytest.mark.parametrize("hook", ["resid_post", "resid_pre", "text_embed"])
def test_where_it_means_nothing_it_is_refused(lens, pair, hook) -> None:
    with pytest.raises(dl.InterventionError, match="is not meaningful"):
        attribute(lens, *pair, hooks=hook)


def test_what_cannot_be_compared_is_refused(lens, pair) -> None:
    base, source = pair
    with pytest.raises(dl.MeasureError, match="agree exactly"):
        attribute(lens, base, base)
    with pytest.raises(dl.MeasureError, match="the same size and sampling schedule"):
        attribute(lens, base, lens.generate(base.task, seed=0, num_inference_steps=3, stop_after=0))
    with pytest.raises(dl.MeasureError, match="give an integer of 1 or more"):
        attribute(lens, base, source, path_points=0)
    with pytest.raises(dl.MeasureError, match="one differentiable number"):
        attribute(lens, base, source, steps=[0], objective=lambda x0: x0)


def test_each_branch_weighs_as_guidance_weighs_it() -> None:
    """v = v_u + g (v_c - v_u): g for cond, 1 - g for uncond, of the expert that runs; 1 without guidance."""
    family = FAMILIES["i2v22"]
    how = {**family.call, "num_inference_steps": 3, "guidance_scale": 3.0, "guidance_scale_2": 5.0}
    with load(family.build()) as lens:
        guided = lens.generate(**how)
        alone = lens.generate(**{**how, "guidance_scale": 1.0, "guidance_scale_2": None})
    scales = {"high": 3.0, "low": 5.0}
    assert {call.expert for call in guided.plan} == set(scales)
    for call in guided.plan:
        g = scales[call.expert]
        assert attribution._weight(guided, call) == (g if call.branch == "cond" else 1 - g)
    assert {attribution._weight(alone, call) for call in alone.plan} == {1.0}
