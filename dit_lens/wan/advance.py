"""Taking runs further: the steps of a generation, where a stopped run goes on, and one recorded call run again.

``Lens`` prepares and asks; what happens between two of its calls is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dit_lens.address import Call
from dit_lens.checks import is_integer
from dit_lens.errors import SamplerError
from dit_lens.wan import bypass_guards, request, sampler
from dit_lens.wan import conditions as cond
from dit_lens.wan.call_plan import build
from dit_lens.wan.editing import Context, Intervention
from dit_lens.wan.expert import Hook
from dit_lens.wan.gradients import frozen
from dit_lens.wan.points import point
from dit_lens.wan.recording import Record, Recorder, labels
from dit_lens.wan.reuse import Replay, Reuse
from dit_lens.wan.run import HOOKED, Run

if TYPE_CHECKING:
    from dit_lens.wan.lens import Lens


def start_of(lens: Lens, run: Run) -> tuple[Any, Tensor, cond.Conditions, torch.dtype]:
    """Scheduler, latents, conditions and dtype with which a stopped run goes on.

    Args:
        lens: The lens that goes on with it.
        run: The stopped run.

    Returns:
        A scheduler with the run's history, latents (1, C, F, h, w), conditions on the model's device, and the model's
        dtype.

    Raises:
        SamplerError: The plan changed since, or the latents are not finite.
    """
    device = lens.pipe._execution_device
    plan, ready = build(lens.pipe, run.sampling, device)
    if plan != run.plan:
        raise SamplerError(
            "the pipeline's scheduler or experts changed since this run: its plan no longer holds here"
        )
    bypass_guards.check_floats(run.latents)
    ready = sampler.rebuild(ready, run.latents[:-1, None].to(device), run.velocity[:, None].to(device), run.edited)
    return ready, run.latents[-1][None].to(device), run.conditions.to(device), lens.pipe.transformer.dtype


def advance(
    lens: Lens,
    runs: list[Run],
    scheduler: Any,
    conditions: cond.Conditions,
    latents: Tensor,
    edits: Sequence[Intervention],
    records: Sequence[Record],
    limit: int,
    stop_after: int | None,
    dtype: torch.dtype | None = None,
    reuse: Reuse | None = None,
    replay: Replay | None = None,
) -> list[Run]:
    """Take a batch of runs as far as asked, and return them with what was recorded.

    Args:
        lens: The lens that made the runs.
        runs: Runs of one plan and one grid that stand at the same step.
        scheduler: A scheduler of their own, with their history.
        conditions: Those of the batch, on the model's device.
        latents: What enters the next step, (B, C, F, h, w).
        edits: Interventions.
        records: What to keep.
        limit: Bytes that the recordings may hold.
        stop_after: The last step to do; None for all.
        dtype: The model's, where the caller has looked it up already.
        reuse: Kept parts of the next calls.
        replay: What edits replay recorded calls with; ``lens.replay`` by default.

    Returns:
        A run for each, with tensors on the CPU.

    Raises:
        SamplerError: ``stop_after`` is outside the steps that are left, or the latents became NaN or infinite.
        RecordError: The recordings hold more than ``limit``.
        InterventionError: An edit never fired in a complete run.
    """
    plan, grid = runs[0].plan, runs[0].grid
    begin = runs[0].n_steps
    if stop_after is not None and not is_integer(stop_after):
        raise SamplerError(f"stop_after={stop_after!r}: give the last step to do, from {begin} to {plan.n_steps - 1}")
    end = plan.n_steps if stop_after is None else stop_after + 1
    if not begin < end <= plan.n_steps:
        raise SamplerError(f"stop_after={stop_after}: give a step from {begin} to {plan.n_steps - 1}")
    masks = request.stack_regions([run.regions for run in runs])
    extent = lens._extent(conditions, grid)
    recorder = Recorder(records, plan, lens._depths, extent, grid, masks, limit)
    by_hand = [f"{name}: {path}" for name, expert in lens.experts.items() for path in expert.foreign_hooks()]
    context = Context(
        plan,
        lens.experts,
        grid,
        masks,
        tuple(run.seed for run in runs),
        str(runs[0].meta["fingerprint"]),  # of the weights as they are: generate() and fork() have just read it
        replay or lens.replay,
    )
    bound = [edit.bind(context) for edit in edits]
    done: list[sampler.Step] = []
    for step in sampler.sample(
        lens.pipe, lens.experts, plan, scheduler, conditions, latents, range(begin, end), bound, recorder.hooks,
        dtype, reuse,
    ):  # fmt: skip
        done.append(replace(step, latents=step.latents.cpu(), velocity=step.velocity.cpu(), after=step.after.cpu()))
    fired = tuple(edit.finish(complete=end == plan.n_steps) for edit in bound)
    dims = {r.key(h): labels(point(h), r.reduce, extent, grid, masks) for r in records for h in r.hooks}
    return [
        replace(
            run,
            latents=torch.cat([run.latents[:-1], *(s.latents[n][None] for s in done), done[-1].after[n][None]]),
            velocity=torch.cat([run.velocity.reshape(-1, *done[0].velocity.shape[1:]).to(done[0].velocity.dtype),
                                *(s.velocity[n][None] for s in done)]),
            activations={**run.activations, **{a: v[n].clone() for a, v in recorder.kept.items()}},
            dims={**run.dims, **dims},
            edited=(*run.edited, *(s.step for s in done if s.edited)),
            fired=(*run.fired, *fired),
            meta=_with_hooks(run.meta, by_hand),
            _cache={},
        )
        for n, run in enumerate(runs)
    ]  # fmt: skip


def replayed(lens: Lens, runs: list[Run], call: Call, hooks: Sequence[Hook]) -> Tensor:
    """Run one recorded call again; see :meth:`Lens.replay`."""
    bypass_guards.check_ready(lens.pipe, grad=torch.is_grad_enabled())
    device = lens.pipe._execution_device
    plan, scheduler = build(lens.pipe, runs[0].sampling, device)
    if plan != runs[0].plan:
        raise SamplerError(
            "the pipeline's scheduler or experts changed since this run: its plan no longer holds here"
        )
    if call.step >= min(run.n_steps for run in runs):
        raise SamplerError(f"step {call.step} was not run, so it cannot be replayed")
    conditions = cond.stack([run.conditions for run in runs]).to(device)
    latents = torch.stack([run.latents[call.step] for run in runs]).to(device)
    bypass_guards.check_floats(latents)
    expert = lens.experts[call.expert]
    still = frozen(expert.transformer) if torch.is_grad_enabled() else nullcontext()
    with still, expert.running(), expert.listening(hooks):
        return sampler.denoise(lens.pipe, conditions, latents, call, scheduler.timesteps[call.step])


def _with_hooks(meta: Mapping[str, Any], by_hand: Sequence[str]) -> dict[str, Any]:
    """A run's meta, with the points that carried hooks of the user's own."""
    found = [*meta.get(HOOKED, ()), *by_hand]
    return {**meta, HOOKED: list(dict.fromkeys(found))} if found else dict(meta)
