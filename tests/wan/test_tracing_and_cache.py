"""Both engines, TransformerLens hooks and nnsight traces, see and change the same values at the same addresses."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from families import FAMILIES, LAYERS, Family

from dit_lens.address import Address
from dit_lens.errors import AddressError, InterventionError, RecordError, SamplerError
from dit_lens.wan.loading import load
from dit_lens.wan.points import split_path
from dit_lens.wan.recording import record

STEPS, SEED = 4, 3
READ = (
    "hook_patch_embed", "blocks.0.hook_resid_pre", "blocks.1.attn.hook_q", "blocks.1.attn.hook_z",
    "blocks.1.cross_attn.hook_z", "blocks.1.mlp.hook_post", "blocks.2.hook_resid_post", "hook_velocity",
)  # fmt: skip
EXPERTS = {(step, branch): None for step in range(STEPS) for branch in ("cond", "uncond")}


@pytest.fixture
def lens(pipe: DiffusionPipeline) -> Iterator[Any]:
    with load(pipe) as lens:
        yield lens


@pytest.fixture
def two() -> Iterator[tuple[Any, dict[str, Any]]]:
    """The two-expert family, for what does not depend on the family."""
    family = FAMILIES["t2v22"]
    with load(family.build()) as lens:
        yield lens, how(family)


def how(family: Family) -> dict[str, Any]:
    return {**family.call, "seed": SEED, "guidance_scale": 5.0}


def get(expert: Any, path: str) -> Any:
    """A point of a traced expert by its TransformerLens path."""
    for part in path.split("."):
        expert = expert[int(part)] if part.isdigit() else getattr(expert, part)
    return expert


def state(lens: Any) -> list[Any]:
    """Everything that a trace could leave behind in the modules."""
    modules = [m for e in lens.experts.values() for m in e.transformer.modules()]
    return [(id(m), type(m), sorted(m.__dict__), list(m._modules), len(m._forward_hooks)) for m in modules]


# -- the same values


def test_both_engines_read_the_same(lens: Any, family: Family) -> None:
    run, cache = lens.run_with_cache(**how(family), num_inference_steps=STEPS, names_filter=list(READ))
    seen = {}
    with lens.trace(**how(family), num_inference_steps=STEPS) as t:
        for step, branch in EXPERTS:
            for expert in t.at(step, branch):
                for path in READ:
                    seen[path, step, branch] = get(expert, path).output.clone()
        seen.save()
    assert len(seen) == len(cache) == len(READ) * len(EXPERTS)
    assert all(torch.equal(value, cache[key]) for key, value in seen.items())
    assert torch.equal(t.run.latents, run.latents)
    assert t.run.meta["traced"]


def test_both_engines_write_the_same(lens: Any, family: Family) -> None:
    base = lens.generate(**how(family), num_inference_steps=STEPS)
    for path in ("blocks.1.attn.hook_z", "blocks.1.hook_mlp_out", "hook_velocity"):
        for step, branch in ((1, "cond"), (3, "uncond")):
            hooked = lens.run_with_hooks(
                **how(family),
                num_inference_steps=STEPS,
                fwd_hooks=[(path, lambda x, hook: x * 2)],
                steps=step,
                branches=branch,
            )
            with lens.trace(**how(family), num_inference_steps=STEPS) as t:
                for expert in t.at(step, branch):
                    get(expert, path).output = get(expert, path).output * 2
            assert torch.equal(t.run.latents, hooked.latents)
            assert not torch.equal(t.run.final, base.final)
            assert torch.equal(t.run.latents[: step + 1], base.latents[: step + 1])
            place, layer = split_path(path)
            assert dict(hooked.fired[0].touched) == {Address(step, branch, layer, place.name): 1}


def test_nothing_is_left_behind(lens: Any, family: Family, pipe: DiffusionPipeline) -> None:
    def bare() -> Any:
        call = {"num_inference_steps": STEPS, "guidance_scale": 5.0, "output_type": "latent"}
        return pipe(**family.call, **call, generator=torch.Generator().manual_seed(SEED)).frames[0]

    run, latents = lens.generate(**how(family), num_inference_steps=STEPS), bare()
    before = state(lens)  # after a first run: diffusers then has its own registry on the transformer
    lens.run_with_cache(**how(family), num_inference_steps=STEPS, names_filter=lambda path: "mlp" in path)
    lens.run_with_hooks(**how(family), num_inference_steps=STEPS, fwd_hooks=[(lambda path: True, lambda x, hook: None)])
    with lens.trace(**how(family), num_inference_steps=STEPS) as t:
        for expert in t.at(2):
            expert.blocks[0].attn.to_q.output = expert.blocks[0].attn.to_q.output + 1
    assert not torch.equal(t.run.final, run.final)
    assert state(lens) == before
    assert torch.equal(lens.generate(**how(family), num_inference_steps=STEPS).latents, run.latents)
    assert torch.equal(bare(), latents)


def test_a_traced_block_is_its_first_and_last_point(two: Any) -> None:
    lens, call = two
    _, cache = lens.run_with_cache(**call, num_inference_steps=2, names_filter=lambda path: "resid" in path)
    skip = ("blocks.1.hook_resid_post", lambda x, hook: kept[0])
    kept: list[torch.Tensor] = []
    keep = ("blocks.1.hook_resid_pre", lambda x, hook: kept.insert(0, x))
    hooked = lens.run_with_hooks(**call, num_inference_steps=2, steps=1, branches="cond", fwd_hooks=[keep, skip])
    with lens.trace(**call, num_inference_steps=2) as t:
        for expert in t.at(1):
            x, y = expert.blocks[1].input.save(), expert.blocks[1].output.save()
            expert.blocks[1].output = x
    assert torch.equal(x, cache["resid_pre", 1, 1]) and torch.equal(y, cache["resid_post", 1, 1])
    assert torch.equal(t.run.latents, hooked.latents)
    for what in (lambda block: block.source, lambda block: block.inputs, lambda block: block.skip(0)):
        with pytest.raises(AddressError, match="use its points"), lens.trace(**call, num_inference_steps=2) as t:
            for expert in t.at(1):
                what(expert.blocks[1])


# -- the cache


def test_a_cache_keeps_every_step(two: Any) -> None:
    lens, call = two
    run, cache = lens.run_with_cache(**call, num_inference_steps=STEPS, names_filter="blocks.1.hook_resid_post")
    assert [(a.step, a.branch) for a in cache] == list(EXPERTS)
    values = [cache[a] for a in cache]
    assert all(not torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])
    key = "blocks.1.hook_resid_post"
    same = [cache[key, 2], cache["resid_post", 1, 2, "cond"], cache["step=2 layer=1 hook=resid_post"], cache.at(2)[key]]
    assert all(torch.equal(same[0], other) for other in same)
    assert torch.equal(same[0][0], run["step=2 layer=1 hook=resid_post"])
    assert (key, 2) in cache and (key, 9) not in cache and "nonsense" not in cache


def test_a_cache_of_one_call_is_that_of_transformer_lens(two: Any) -> None:
    lens, call = two
    _, cache = lens.run_with_cache(**call, num_inference_steps=STEPS, steps=3, branches="cond")
    assert set(cache.at(3)) == set(lens.experts["low"].hook_dict)
    assert next(iter(cache.at(3))) == "hook_patch_embed"  # in the order of the model, as TransformerLens has it
    acts = cache.to_activation_cache(3)
    assert torch.equal(acts["q", 1], cache["blocks.1.attn.hook_q", 3])
    assert torch.equal(acts["resid_post", -1], cache["resid_post", LAYERS - 1, 3])
    assert acts.stack_activation("resid_post").shape[0] == LAYERS
    _, means = lens.run_with_cache(
        **call, num_inference_steps=1, names_filter="blocks.0.hook_resid_post", reduce="token_norm"
    )
    with pytest.raises(RecordError, match="whole"):
        means.to_activation_cache(0)


def test_a_batch_stands_on_the_batch_axis(two: Any) -> None:
    lens, call = two
    runs, cache = lens.run_with_cache(**{**call, "seed": [1, 2]}, num_inference_steps=2, names_filter="hook_velocity")
    assert cache["hook_velocity", 1].shape[0] == len(runs) == 2
    assert torch.equal(cache["hook_velocity", 1][1], runs[1]["step=1 hook=velocity"])


def test_a_cache_goes_beside_other_recordings_and_resumes(two: Any) -> None:
    lens, call = two
    more = record("resid_mid", layers=0)
    run, cache = lens.run_with_cache(**call, num_inference_steps=STEPS, names_filter="hook_velocity", record=more)
    assert {a.hook for a in cache} == {"velocity"} and {a.hook for a in run.activations} == {"velocity", "resid_mid"}
    again, tail = lens.run_with_cache(resume=run.until(2), names_filter="hook_velocity")
    assert {a.step for a in tail} == {2, 3}
    assert all(torch.equal(tail[a], cache[a]) for a in tail) and torch.equal(again.latents, run.latents)


def test_a_cache_refuses(two: Any) -> None:
    lens, call = two
    with pytest.raises(AddressError, match="filter matches none"):
        lens.run_with_cache(**call, names_filter=lambda path: "mlp.hook_pre" in path)
    with pytest.raises(AddressError, match=r"blocks\.0\.hook_resid_post"):
        lens.run_with_cache(**call, names_filter="resid_post")
    with pytest.raises(AddressError, match="layers 0 to 2"):
        lens.run_with_cache(**call, names_filter=["blocks.7.hook_resid_post"])
    with pytest.raises(AddressError, match="outside"):
        lens.run_with_cache(**call, num_inference_steps=STEPS, steps=9)
    with pytest.raises(RecordError, match="limit"):
        lens.run_with_cache(**call, num_inference_steps=STEPS, limit=1000)
    _, cache = lens.run_with_cache(**call, num_inference_steps=STEPS, steps=[0, 1], names_filter="hook_velocity")
    for key in (("hook_velocity", 3), "step=0 layer=1 hook=q", ("q", 1, 0)):
        with pytest.raises(AddressError, match="not in this cache"):
            cache[key]
    for key in ("hook_velocity", ("hook_velocity",), 3, ("resid_post",)):
        with pytest.raises(AddressError, match="cannot read"):
            cache[key]
    with pytest.raises(AddressError, match="not cached"):
        cache.at(3)


# -- hooks


def test_a_hook_knows_its_call(two: Any) -> None:
    lens, call = two
    seen = []

    def look(x: torch.Tensor, hook: Any) -> None:
        seen.append((hook.name, hook.ctx["call"]))

    lens.run_with_hooks(
        **call, num_inference_steps=STEPS, fwd_hooks=[("blocks.2.attn.hook_q", look)], branches="uncond"
    )
    plan = lens.plan(num_inference_steps=STEPS, guidance_scale=5.0)
    assert seen == [("blocks.2.attn.hook_q", c) for c in plan if c.branch == "uncond"]
    assert all(not point.ctx for e in lens.experts.values() for point in e.hook_dict.values())


def test_hooks_write_in_place_too(two: Any) -> None:
    lens, call = two
    base = lens.generate(**call, num_inference_steps=2)

    def zero(z: torch.Tensor, hook: Any) -> None:
        z[:, :, 0] = 0

    def zeroed(z: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.cat([torch.zeros_like(z[:, :, :1]), z[:, :, 1:]], dim=2)

    ways = [
        lens.run_with_hooks(**call, num_inference_steps=2, fwd_hooks=[("blocks.1.attn.hook_z", f)])
        for f in (zero, zeroed)
    ]
    assert torch.equal(ways[0].latents, ways[1].latents) and not torch.equal(ways[0].latents, base.latents)


def test_hooks_go_when_they_fail(two: Any) -> None:
    lens, call = two
    base, before = lens.generate(**call, num_inference_steps=STEPS), state(lens)

    def fail(x: torch.Tensor, hook: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lens.run_with_hooks(**call, num_inference_steps=STEPS, fwd_hooks=[(lambda path: True, fail)], steps=2)
    with pytest.raises(InterventionError, match="shape"):
        lens.run_with_hooks(**call, num_inference_steps=STEPS, fwd_hooks=[("hook_velocity", lambda x, hook: x[:, :1])])
    with pytest.raises(InterventionError, match="empty"):
        lens.run_with_hooks(**call, num_inference_steps=STEPS, fwd_hooks=[])
    with pytest.raises(AddressError, match="no denoiser call"):
        lens.run_with_hooks(
            **{**call, "guidance_scale": 1.0},
            num_inference_steps=2,
            fwd_hooks=[("hook_velocity", fail)],
            branches="uncond",
        )
    assert state(lens) == before and torch.equal(lens.generate(**call, num_inference_steps=STEPS).latents, base.latents)


# -- traces


def test_a_trace_refuses_what_the_plan_does_not_have(two: Any) -> None:
    lens, call = two
    lens.generate(**call, num_inference_steps=STEPS)
    before = state(lens)
    for place in ((STEPS, "cond"), (0, "neither")):
        with pytest.raises(AddressError, match="no call"), lens.trace(**call, num_inference_steps=STEPS) as t:
            for expert in t.at(*place):
                expert.blocks[0].hook_resid_post.output.save()
    with (
        pytest.raises(AddressError, match="no call"),
        lens.trace(**{**call, "guidance_scale": 1.0}, num_inference_steps=STEPS) as t,
    ):
        for expert in t.at(1, "uncond"):
            expert.blocks[0].hook_resid_post.output.save()
    with pytest.raises(AddressError, match="is over"), lens.trace(**call, num_inference_steps=STEPS) as t:
        for expert in t.at(2):
            expert.blocks[0].hook_resid_post.output.save()
        for expert in t.at(1):
            expert.blocks[0].hook_resid_post.output.save()
    assert state(lens) == before


@pytest.mark.parametrize("step", [1, STEPS - 1])
@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_a_trace_never_slips_into_another_call(two: Any, step: int, branch: str) -> None:
    """nnsight alone would hand out the next call's value, or warn and skip the rest of the body."""
    lens, call = two
    lens.generate(**call, num_inference_steps=STEPS)
    before = state(lens)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AddressError, match="in the order"), lens.trace(**call, num_inference_steps=STEPS) as t:
            for expert in t.at(step, branch):
                expert.blocks[2].hook_resid_post.output.save()
                expert.blocks[0].hook_resid_post.output.save()
        with (
            pytest.raises(AddressError, match="of that expert only"),
            lens.trace(**call, num_inference_steps=STEPS) as t,
        ):
            for _ in t.at(step, branch):
                other = t.low if step < 2 else t.high
                other.blocks[0].hook_resid_post.output.save()
    assert state(lens) == before


def test_a_trace_goes_with_hooks_and_recordings(two: Any) -> None:
    """At one point nnsight comes first: it sees the value before a hook changes it, and the recording sees both."""
    lens, call = two
    path = "blocks.1.hook_resid_post"
    _, cache = lens.run_with_cache(**call, num_inference_steps=STEPS, names_filter=path, steps=1)
    from dit_lens.wan.activation_cache import Hooks

    both = {"interventions": Hooks(((path, lambda x, hook: x * 2),)), "record": record("resid_post", layers=1, steps=1)}
    with lens.trace(**call, num_inference_steps=STEPS, stop_after=1, **both) as t:
        for expert in t.at(1):
            h = expert.blocks[1].hook_resid_post.output.save()
            expert.blocks[1].hook_resid_post.output = h + 1
    assert not torch.equal(h, cache[path, 1])  # the hook changed step 0
    assert torch.equal((h[0] + 1) * 2, t.run["step=1 layer=1 hook=resid_post"])


def test_a_trace_stops_forks_and_fails_cleanly(two: Any) -> None:
    lens, call = two
    base, before = lens.generate(**call, num_inference_steps=STEPS), state(lens)
    with lens.trace(resume=base.until(2)) as t:
        for expert in t.at(3, "uncond"):
            v = expert.hook_velocity.output.save()
    _, cache = lens.run_with_cache(**call, num_inference_steps=STEPS, names_filter="hook_velocity")
    assert torch.equal(v, cache["hook_velocity", 3, "uncond"])
    assert torch.equal(t.run.latents, base.latents)
    with pytest.raises(AddressError, match="no call"), lens.trace(resume=base.until(2)) as t:
        for expert in t.at(1):
            expert.hook_velocity.output.save()
    with pytest.raises(ZeroDivisionError), lens.trace(**call, num_inference_steps=STEPS) as t:
        for expert in t.at(1):
            expert.hook_velocity.output = expert.hook_velocity.output * (1 // 0)
    with lens.trace(**call, num_inference_steps=STEPS) as t:
        for expert in t.at(1):
            w = expert.blocks[0].attn.hook_q.output.save()
        t.stop()
    assert t.run is None and w.ndim == 4
    with pytest.raises(SamplerError, match="ambiguous"), lens.trace("a prompt") as t:
        t.high.blocks[0].hook_resid_post.output.save()
    assert state(lens) == before and torch.equal(lens.generate(**call, num_inference_steps=STEPS).latents, base.latents)


def test_one_recorded_call_can_be_traced(two: Any) -> None:
    lens, call = two
    run, cache = lens.run_with_cache(**call, num_inference_steps=STEPS, names_filter="blocks.1.attn.hook_z")
    with lens.trace(run, step=3, branch="uncond") as t:
        for expert in t.at(3, "uncond"):
            z = expert.blocks[1].attn.hook_z.output.save()
            expert.blocks[1].attn.hook_z.output = z * 0
    assert torch.equal(z, cache["z", 1, 3, "uncond"])
    place = run.plan.at(3, "uncond")
    assert torch.equal(t.run, lens.replay(run, place, [("blocks.1.attn.hook_z", lambda x, hook: x * 0)]))
    assert not torch.equal(t.run, lens.replay(run, place))
    for wrong in ({}, {"step": 1, "seed": 4}, {"step": 7}):
        with pytest.raises(AddressError):
            lens.trace(run, **wrong)
    with pytest.raises(AddressError, match="recorded run"):
        lens.trace(**call, step=3)


def test_calls_replayed_by_an_intervention_are_not_counted(two: Any) -> None:
    lens, call = two
    source, cache = lens.run_with_cache(**{**call, "seed": 9}, num_inference_steps=STEPS, names_filter="hook_velocity")

    class Replays:
        def bind(self, context: Any) -> Any:
            from dit_lens.wan.editing import Edit

            class Peek(Edit):
                def hooks(self, call: Any, latents: torch.Tensor) -> tuple[Any, ...]:
                    assert torch.isfinite(context.replay([source], call, [])).all()
                    self.fired[Address(call.step, call.branch, -1, "velocity")] += 1
                    return ()

            return Peek("peek")

    _, own = lens.run_with_cache(**call, num_inference_steps=STEPS, names_filter="hook_velocity")
    with lens.trace(**call, num_inference_steps=STEPS, interventions=Replays()) as t:
        for expert in t.at(1, "uncond"):
            v = expert.hook_velocity.output.save()
    assert torch.equal(v, own["hook_velocity", 1, "uncond"])
    assert not torch.equal(v, cache["hook_velocity", 1, "uncond"])


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloaded_modules_get_their_forward_back(offload: str) -> None:
    """accelerate keeps its wrapper in the slot that nnsight takes."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    family = FAMILIES["t2v22"]
    with load(family.build()) as lens:
        base = lens.generate(**how(family), num_inference_steps=2)
        for model in (e.transformer for e in lens.experts.values()):
            for module in model.blocks[0].modules() if offload == "sequential" else [model]:
                add_hook_to_module(module, ModelHook())
        before = state(lens)
        with lens.trace(**how(family), num_inference_steps=2) as t:
            for expert in t.at(1):
                h = expert.blocks[0].hook_resid_post.output.save()
        _, cache = lens.run_with_cache(**how(family), num_inference_steps=2, names_filter="blocks.0.hook_resid_post")
        assert torch.equal(h, cache["resid_post", 0, 1])
        assert state(lens) == before and torch.equal(t.run.latents, base.latents)


def test_engines_are_imported_when_used() -> None:
    code = "import sys, dit_lens.wan.loading, dit_lens.wan.lens; dit_lens.load; print('nnsight' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
