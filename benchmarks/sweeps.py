"""What sweeps cost: ours against the same cells as a plain nnsight loop and as plain forward hooks, on the lab model.

    python benchmarks/sweeps.py --write docs/benchmarks.md

The cells: the update of one block at one step, in both branches, taken from the twin with the other answer, for all
steps and layers; the number: the projection of the clean latents on source minus base. A plain cell is a whole
generation by the bare pipeline with the block's output replaced; base and source are generated once, with all updates
kept. For the local number a plain loop may stop after the patched step, and that one is timed, too.

Every way has a pipeline of its own. The ways take turns within each round, and a ratio is taken within its round. All
numbers of all ways are compared: one that differs in a single bit stops the program.

The arithmetic bound is the ratio of denoiser blocks, baselines included (dit_lens/runner/cost.py). Not a test: numbers
depend on the machine. Keep it otherwise idle while this runs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import overhead
import page
import torch
import xarray as xr
from scipy.stats import spearmanr

import dit_lens as dl
from dit_lens.runner import Sweep
from dit_lens.runner.attribution import attribute

Cell = tuple[int, int]  # step, layer
Numbers = dict[Cell, float]
HOOKS = ("update", "attn_gated", "cross_attn_out", "mlp_gated", "z")  # what attribution is timed on
Way = Callable[[], Numbers]


def patched(before: torch.Tensor, after: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    """A block's output with another update, in the arithmetic of ``dit_lens.patch``, so that bits can be compared."""
    old = after.float() - before.float()
    return torch.where(update == old, after, (before.float() + update).type_as(after))


class Stop(Exception):
    """Ends a plain generation after the step that was asked for."""


class Plain:
    """The bare lab pipeline with two hooks of its own: one counts calls, one replaces a block's output."""

    def __init__(self, steps: int, seed: int) -> None:
        lens = dl.load("lab")
        lens.close()
        self.pipe, self.steps, self.d = lens.pipe, steps, lens.defaults
        task = dl.tasks.load("choose", seed=seed)
        self.base, self.source = task, task.twin("other_answer")
        self.experts = [self.pipe.transformer, self.pipe.transformer_2]
        self.n_layers = len(self.experts[0].blocks)
        self.call = -1
        self.stop_after: int | None = None
        self.x: dict[int, torch.Tensor] = {}  # step -> latents
        self.v: dict[int, torch.Tensor] = {}  # call -> velocity
        for expert in self.experts:
            expert.register_forward_pre_hook(self._count, with_kwargs=True)
            expert.register_forward_hook(self._keep)

    def _count(self, module: Any, args: Any, kwargs: Any) -> None:
        if self.stop_after is not None and self.call == 2 * self.stop_after + 1:
            raise Stop
        self.call += 1
        self.x[self.call // 2] = kwargs["hidden_states"][:, : self.pipe.vae.config.z_dim]

    def _keep(self, module: Any, args: Any, output: Any) -> None:
        self.v[self.call] = output[0]

    def arguments(self, task: Any) -> dict[str, Any]:
        """What the pipeline is called with."""
        d = self.d
        return {
            "prompt": task.prompt, "negative_prompt": d.negative_prompt, "image": task.image, "height": d.height,
            "width": d.width, "num_frames": d.num_frames, "max_sequence_length": d.max_sequence_length,
            "num_inference_steps": self.steps, "guidance_scale": d.guidance_scale, "output_type": "latent",
            "generator": torch.Generator().manual_seed(0),
        }  # fmt: skip

    def generate(self, task: Any) -> torch.Tensor | None:
        """The final latents, or nothing when stopped."""
        self.call = -1
        try:
            return self.pipe(**self.arguments(task)).frames
        except Stop:
            return None

    def updates(self) -> dict[tuple[int, int], torch.Tensor]:
        """(call, layer) -> what each block adds in the source; and its final latents and x0_hat are kept."""
        found: dict[tuple[int, int], torch.Tensor] = {}

        def keep(layer: int) -> Any:
            return lambda module, args, out: found.__setitem__((self.call, layer), out.float() - args[0].float())

        handles = [b.register_forward_hook(keep(i)) for e in self.experts for i, b in enumerate(e.blocks)]
        self.ends = [self.read(self.base)]
        found.clear()
        self.ends.append(self.read(self.source))
        for handle in handles:
            handle.remove()
        return found

    def read(self, task: Any) -> tuple[torch.Tensor | None, dict[int, torch.Tensor]]:
        """Final latents, and x0_hat of every step done."""
        final = self.generate(task)
        sigmas, g, found = self.pipe.scheduler.sigmas, self.d.guidance_scale, {}
        for step, x in self.x.items():
            if 2 * step + 1 <= self.call:
                cond, uncond = self.v[2 * step], self.v[2 * step + 1]
                found[step] = x - float(sigmas[step]) * (uncond + g * (cond - uncond))
        return final, found

    def projection(self, now: torch.Tensor, step: int | None) -> float:
        """Of final latents, or of x0_hat of a step, as ``dit_lens`` writes it."""
        base, source = (final if step is None else early[step] for final, early in self.ends)
        origin = base[0].float()
        toward = source[0].float() - origin
        return float(((now[0].float() - origin) * toward).sum()) / float((toward * toward).sum())

    def cells(self) -> list[Cell]:
        return [(step, layer) for step in range(self.steps) for layer in range(self.n_layers)]


def plain_hooks(steps: int, seed: int, local: bool, stop: bool = False) -> Way:
    plain = Plain(steps, seed)

    def way() -> Numbers:
        plain.stop_after = None
        updates, found = plain.updates(), {}
        for step, layer in plain.cells():
            plain.stop_after = step if stop else None

            def replace(module: Any, args: Any, out: torch.Tensor, step: int = step, layer: int = layer) -> Any:
                return patched(args[0], out, updates[plain.call, layer]) if plain.call // 2 == step else out

            handles = [expert.blocks[layer].register_forward_hook(replace) for expert in plain.experts]
            final, early = plain.read(plain.base)
            for handle in handles:
                handle.remove()
            now = early[step] if local else final
            assert now is not None
            found[step, layer] = plain.projection(now, step if local else None)
        return found

    return way


def plain_nnsight(steps: int, seed: int) -> Way:
    from nnsight import NNsight

    plain = Plain(steps, seed)
    model = NNsight(overhead.Root(plain.pipe))

    def way() -> Numbers:
        plain.stop_after = None
        updates, found = plain.updates(), {}
        boundary = plain.pipe.config.boundary_ratio * plain.pipe.scheduler.config.num_train_timesteps
        high = int((plain.pipe.scheduler.timesteps >= boundary).sum())
        for step, layer in plain.cells():
            name, first = ("transformer", 0) if step < high else ("transformer_2", high)
            at = 2 * (step - first)
            cond, uncond = updates[2 * step, layer], updates[2 * step + 1, layer]
            plain.call = -1
            with model.trace(**plain.arguments(plain.base)) as tracer:
                block = model.get(name).blocks[layer]
                for _ in tracer.iter[at : at + 1]:
                    block.output = patched(block.input, block.output, cond)
                for _ in tracer.iter[at + 1 : at + 2]:
                    block.output = patched(block.input, block.output, uncond)
                final = model.output.frames.save()
            found[step, layer] = plain.projection(final, None)
        return found

    return way


def ours(steps: int, seed: int, horizon: str, some: Sequence[int] | None = None) -> tuple[Way, Sweep]:
    lens = dl.load("lab")
    task = dl.tasks.load("choose", seed=seed)
    sweep = Sweep(
        lens, task, "other_answer", steps="all" if some is None else list(some), horizon=horizon, placebo="none",
        sampling={"num_inference_steps": steps},
    )  # fmt: skip

    def way() -> Numbers:
        found = sweep.run(progress=lambda done, total, what: None)["raw_effect"].squeeze(["task", "seed"])
        return numbers(found.transpose("step", "layer"))

    return way, sweep


def numbers(found: xr.DataArray) -> Numbers:
    """(step, layer) as a dictionary."""
    rows = zip(map(int, found["step"].values), found.values.tolist(), strict=True)
    return {(step, layer): value for step, row in rows for layer, value in enumerate(row)}


def attribution(lens: dl.Lens, steps: int, seed: int, hooks: Sequence[str]) -> xr.Dataset:
    task = dl.tasks.load("choose", seed=seed)
    runs = [lens.generate(t, seed=0, num_inference_steps=steps) for t in (task, task.twin("other_answer"))]
    return attribute(lens, *runs, hooks=hooks)


def agreement(steps: int, seeds: Sequence[int]) -> xr.Dataset:
    """Over tasks: Spearman's rho of a task's estimates and its exact effects (``own``), of its estimates and the
    next task's exact effects (``next``, the null), and whether its strongest cell is among its first five estimates.
    """
    lens, estimates, exact = dl.load("lab"), [], []
    for seed in seeds:
        estimates.append(list(numbers(attribution(lens, steps, seed, ["update"])["update"]).values()))
        exact.append(list(ours(steps, seed, "local")[0]().values()))
    own = [spearmanr(e, x).statistic for e, x in zip(estimates, exact, strict=True)]
    following = [spearmanr(e, x).statistic for e, x in zip(estimates, [*exact[1:], exact[0]], strict=True)]
    first = [np.abs(x).argmax() in np.abs(e).argsort()[-5:] for e, x in zip(estimates, exact, strict=True)]
    rows = xr.DataArray([own, following], dims=("what", "task"), coords={"what": ["own", "next"]})
    shares = dl.stats.share_interval(xr.DataArray(first, dims="task")).expand_dims(what=["first"])
    return xr.concat([dl.stats.mean_interval(rows, bounds=(-1, 1)), shares], "what", combine_attrs="drop")


def same(name: str, got: Numbers, expected: Numbers, but_last: int | None = None) -> None:
    """Stops the program where a way measures something else. ``but_last``: the last step, whose local number a
    complete run reads from its final latents, which are x0_hat up to the sampler's rounding."""
    for cell, value in expected.items():
        close = abs(got[cell] - value) < 1e-4 if cell[0] == but_last else got[cell] == value
        if not close:
            raise SystemExit(f"{name!r} measures {got[cell]!r} at step, layer {cell}, and plain hooks {value!r}")


PAGE = """## Sweeps

Written by `python benchmarks/sweeps.py --write docs/benchmarks.md`; its docstring says how it measures. Aims: our time
is at least .95 of what arithmetic allows, and it grows no faster than the cells.

{machine}

The lab model, {steps} steps, {layers} layers: {cells} cells of one update each, {repeats} rounds. All ways that measure
the same thing give the same numbers, bit for bit (at the last step the local one is read from the final latents, which
equal x0_hat within rounding).

| way | blocks | median seconds | times faster than plain hooks | arithmetic bound | share of the bound |
|---|---|---|---|---|---|
{rows}

The bound counts blocks. What it leaves out weighs most where a cell runs few of them: a local cell is half a call's
blocks in each branch and pays embedding, text and output projection in full, beside some milliseconds for the sweep
itself.

Attribution patching (integrated gradients, 6 points) of {sites} sites (updates, three components, heads; {steps} steps)
took {atp:.2f} of the time of our exact local sweep of the {cells} updates alone, so {each:.2f} of its time a site. Rank
agreement of estimated and exact effects of updates over the {cells} cells of a task, Spearman: {own}. Beside it, the
same estimates with the exact effects of the *next* task: {next}; so most of the agreement is about places that matter
in any task. Share of tasks whose strongest cell is among the first five estimates: {first} (five at random:
{chance:.2f}). It finds where to look, and is no measurement.

Growth of our local sweep with the number of cells, baselines included:

| cells | median seconds | seconds a cell | blocks a cell |
|---|---|---|---|
{growth}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-inference-steps", type=int, default=4, help="sampling steps, all of which are swept")
    parser.add_argument("--seed", type=int, default=0, help="the puzzle")
    parser.add_argument("--tasks", type=int, default=8, help="tasks of the rank agreement")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; one is the steadiest")
    parser.add_argument("--write", type=Path, help="write the section into this page, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine, steps, seed = overhead.machine(), options.num_inference_steps, options.seed

    final, final_sweep = ours(steps, seed, "final")
    local, local_sweep = ours(steps, seed, "local")
    ways: dict[str, Way] = {
        "plain hooks, whole videos": plain_hooks(steps, seed, local=False),
        "plain nnsight, whole videos": plain_nnsight(steps, seed),
        "dit_lens, final": final,
        "plain hooks, stopped after the step": plain_hooks(steps, seed, local=True, stop=True),
        "dit_lens, local": local,
    }
    shares = {n: ours(steps, seed, "local", range(n)) for n in sorted({1, (steps + 1) // 2})}
    lens = dl.load("lab")
    sites = sum(found.size for found in attribution(lens, steps, seed, HOOKS).values())
    more: dict[str, Any] = {"attribution": lambda: attribution(lens, steps, seed, HOOKS)}
    more |= {f"{n} steps": w for n, (w, _) in shares.items()}
    found = {name: way() for name, way in ways.items()}  # also the warm-up
    whole, stopped = found["plain hooks, whole videos"], found["plain hooks, stopped after the step"]
    same("plain nnsight", found["plain nnsight, whole videos"], whole)
    same("dit_lens, final", found["dit_lens, final"], whole)
    same("dit_lens, local", found["dit_lens, local"], stopped, steps - 1)
    seconds = overhead.rounds(ways | more, options.repeats)

    L, S, both = final_sweep.lens.n_layers, steps, 2 * 2 * steps * final_sweep.lens.n_layers
    blocks = {
        "plain hooks, whole videos": 2 * S * S * L * L + both,
        "plain nnsight, whole videos": 2 * S * S * L * L + both,
        "dit_lens, final": final_sweep.plan(calibrate=False).total,
        "plain hooks, stopped after the step": L * L * S * (S + 1) + both,
        "dit_lens, local": local_sweep.plan(calibrate=False).total,
    }
    rows, one = [], "plain hooks, whole videos"
    for name in ways:
        faster = statistics.median(a / b for a, b in zip(seconds[one], seconds[name], strict=True))
        bound = blocks[one] / blocks[name]
        rows.append(
            f"| {name} | {blocks[name]:,} | {statistics.median(seconds[name]):.2f} | {faster:.2f} | {bound:.2f} | "
            f"{faster / bound:.2f} |"
        )
    growth = []
    for name, sweep in [(f"{n} steps", s) for n, (_, s) in shares.items()] + [("dit_lens, local", local_sweep)]:
        spent, n = statistics.median(seconds[name]), len(sweep.cells)
        growth.append(f"| {n} | {spent:.2f} | {spent / n:.4f} | {sweep.plan(calibrate=False).total / n:.1f} |")
    pairs = zip(seconds["attribution"], seconds["dit_lens, local"], strict=True)
    atp, ranks = statistics.median(a / b for a, b in pairs), agreement(steps, range(seed, seed + options.tasks))
    said = {}
    for what, row in ranks.to_dataframe().iterrows():
        said[str(what)] = f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}], n = {row['n']:.0f}"
    text = PAGE.format(
        machine=machine, steps=S, layers=L, cells=S * L, repeats=options.repeats, rows="\n".join(rows),
        growth="\n".join(growth), sites=sites, atp=atp, each=atp * S * L / sites, chance=5 / (S * L), **said,
    )  # fmt: skip
    print(text)
    if options.write:
        page.write(options.write, "sweeps", text)


if __name__ == "__main__":
    main()
