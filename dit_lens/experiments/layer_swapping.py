"""Layer swapping (paper, Fig. 6b): run one scene with some hidden states of another, and see whose answer comes out.

For a base run b, a source run s (same noise, other answer) and a swap h (some layers, steps, heads, tokens of s in b)::

    flipped = [ answer(h) = answer(s) ]     over puzzles with answer(s) != answer(b), both given
    changed = [ answer(h) != answer(b) ]    anything else than before, "no answer" included
    effect  = < x(h) - x(b), x(s) - x(b) > / || x(s) - x(b) ||^2      0 = base, 1 = source
    nearer  = [ || x(h) - x(s) || < || x(h) - x(b) || ] = [ effect > 1/2 ]

each read at two horizons: ``window`` from x0_hat of the last swapped step (for one step this is the local effect), and
``final`` from the finished video. Early x0_hat shows several answers at once and reads as none, so ``flipped`` is
often empty there; ``nearer`` is then the flip that can be counted. The placebo is the same swap from the same scene at
another seed, judged against the same source.

A whole-stream swap at one layer carries everything computed so far. Where base and source share text and timestep
(other picture, same prompt) it hands over the source's velocity, whatever the layer, so its layer axis says nothing: it
is run once, filled in for all layers, and ``attrs["remarks"]`` says so. With another prompt the later layers still read
the base's text, and the layer matters.

When not to use: for what a layer *needs* (``dit_lens.ablate``); and a null for one step is not a null for the layer:
the picture enters again at every later step, so a model can undo what one step was told.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from dit_lens import tasks as puzzles
from dit_lens.address import Depth, Select, indices
from dit_lens.errors import MeasureError, TaskError
from dit_lens.interventions import patch
from dit_lens.interventions.base import STREAM, select
from dit_lens.progress import Progress, silent
from dit_lens.replication.claim import Claim, Verdict, untestable
from dit_lens.stats.summary import share, summarise
from dit_lens.wan.lens import Lens
from dit_lens.wan.points import point
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import SamplingArguments, SamplingLike, merged

HORIZONS = ("window", "final")
KINDS = ("swap", "placebo")
MEASURES = ("flipped", "changed", "nearer", "effect")
PLACEBO_SEED = 10_000  # added to a puzzle's seed: same scene, other noise


def swap(
    lens: Lens,
    tasks: Sequence[Any],
    layers: Any = "each",
    steps: Any = 0,
    *,
    hooks: str | Sequence[str] | None = None,
    hook: str | None = None,
    twin: str | Callable[[Any], Any] = "other_answer",
    branches: Any = "all",
    heads: Any = None,
    tokens: Any = None,
    horizons: Sequence[str] = HORIZONS,
    seed: int = 0,
    placebo_seed: int = PLACEBO_SEED,
    regions: Mapping[str, Any] | None = None,
    sampling: SamplingLike | None = None,
    progress: Progress = silent,
    **given: Unpack[SamplingArguments],
) -> xr.Dataset:
    """Swap every group of layers in every window of steps, for every hook, on every puzzle.

    ``layers``: one group (an int, a range, a :class:`Depth`, ``"all"``), a list of groups, or ``"each"`` layer.
    ``steps``: one window or a list of windows. ``hooks`` (``hook`` for one): ``"update"``, the stream
    (``"resid_post"``), a component (``"attn_gated"``, ``"cross_attn_out"``, ``"mlp_gated"``), a per-head point with
    ``heads`` (``"z"``); one or a list.
    ``tokens``: a region or token indices. ``twin``: a kind of ``task.twin``, or a function from a task to its partner.
    ``branches``: both by default; ``"cond"`` or ``"uncond"`` on request. ``regions``: masks of your own, as
    ``lens.generate`` takes them. ``sampling``, or its arguments flat: see :class:`dit_lens.Sampling`. Puzzle i has seed
    ``seed + i``, its placebo source ``placebo_seed`` more. Asking for ``horizons=("window",)`` only stops after the
    window: far cheaper.

    Returns a Dataset over (hook, layers, steps, horizon): ``flipped``, ``changed``, ``nearer``, ``effect``, each with
    ``_low``, ``_high``, ``_n`` and the same of its placebo (``_null``, ``_null_low``, ``_null_high``), and ``raw`` per
    puzzle.
    Shares have Wilson intervals, effects bootstrap intervals over puzzles, all 95 %.

    Errors: :class:`TaskError` for tasks without twins or answers, :class:`MeasureError` for pairs that agree exactly,
    :class:`AddressError` for places outside the model or the plan.
    """
    named = select(Select(hooks=("update",)), hooks=hooks, hook=hook).hooks
    outside = [name for name in named if not point(name).in_block]
    if outside:
        raise MeasureError(f"{outside} lie outside the blocks, so layers cannot be swapped there: use dit_lens.patch")
    unknown = [h for h in horizons if h not in HORIZONS]
    if unknown or not horizons:
        raise MeasureError(f"horizons {unknown or horizons} are unknown: choose from {list(HORIZONS)}")
    if len(tasks) < 2:
        raise TaskError(f"{len(tasks)} puzzle gives no interval: swap at least two, dit_lens.tasks.batch('maze', n=24)")
    asked = merged(sampling, given, swap)
    plan = lens.plan(asked)
    groups = spans(layers, lens.n_layers, "layer")
    windows = spans(steps, plan.n_steps, "step")
    shape = (len(MEASURES), len(KINDS), len(named), len(groups), len(windows), len(horizons), len(tasks))
    raw = np.full(shape, np.nan)
    where = {"branches": branches, "heads": heads, "tokens": tokens}
    last = None if "final" in horizons else max(window[-1] for window in windows.values())
    how = {"sampling": asked, "regions": regions, "stop_after": last}
    remarks: dict[str, None] = {}
    for p, task in enumerate(tasks):
        progress(p, len(tasks), f"{getattr(task, 'name', task)} {seed + p}")
        trio = _trio(lens, task, twin, seed + p, placebo_seed, how)
        for h, k, w in np.ndindex(len(named), len(KINDS), len(windows)):
            name, donor, window = named[h], (trio.source, trio.placebo)[k], list(windows.values())[w]
            whole = name in STREAM and tokens is None
            same = whole and shared_text(trio.base, donor)
            if same:
                remarks |= dict.fromkeys([_INVARIANT.format(hook=name, kind=KINDS[k])])
            for g, group in enumerate(groups.values()):
                if same and g:
                    raw[:, k, h, g, w, :, p] = raw[:, k, h, 0, w, :, p]
                    continue
                if whole and len(group) > 1:
                    remarks |= dict.fromkeys([_LAST.format(hook=name)])
                raw[:, k, h, g, w, :, p] = trio.judge(lens, donor, name, group, window, horizons, where)
    progress(len(tasks), len(tasks), "done")
    coords = {
        "measure": list(MEASURES), "kind": list(KINDS), "hook": list(named), "layers": list(groups),
        "steps": list(windows), "horizon": list(horizons), "puzzle": np.arange(len(tasks)),
    }  # fmt: skip
    cells = xr.DataArray(raw, dims=tuple(coords), coords=coords, name="raw")
    about = {
        "model": lens.name, "weights": lens.fingerprint, "twin": twin if isinstance(twin, str) else "own function",
        "placebo": f"same scene, seed + {placebo_seed}", "branches": str(branches), "heads": str(heads),
        "tokens": str(tokens), "first_seed": seed, "sampling_steps": plan.n_steps, "scheduler": plan.scheduler,
        "remarks": list(remarks),
    }  # fmt: skip
    return _table(cells).assign_attrs(about)


_INVARIANT = (
    "{kind} of the whole stream ({hook}, all tokens): base and donor share text and timestep, so it hands over the "
    "donor's velocity whatever the layer. Run once and filled in for all layers; the layer axis says nothing here"
)
_LAST = (
    "{hook} over several layers: each swap of the whole stream wipes out the one before, so only the last layer counts"
)


def spans(wanted: Any, size: int, what: str) -> dict[str, tuple[int, ...]]:
    """Groups of indices by label: ``[0, range(4), "all"]`` gives ``{"0": (0,), "0-3": (0, 1, 2, 3), "all": (...)}``."""
    if isinstance(wanted, str) and wanted == "each":
        wanted = list(range(size))
    groups = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    found = {}
    for group in groups:
        chosen = group.layers(size) if isinstance(group, Depth) else indices(group, size, what, "the model or plan")
        run = len(chosen) > 1 and chosen == tuple(range(chosen[0], chosen[-1] + 1))
        label = f"{chosen[0]}-{chosen[-1]}" if run else ",".join(map(str, chosen))
        found["all" if len(chosen) == size > 1 else label] = chosen
    if not found:
        raise MeasureError(f"no group of {what}s to swap: give an int, a range, 'all', or a list of those")
    return found


def shared_text(a: Run, b: Run) -> bool:
    """Whether the two runs read the same text (and CLIP image context), so that only latents and picture differ."""
    mine, other = a.conditions, b.conditions
    pairs = [(mine.prompt, other.prompt), (mine.negative, other.negative), (mine.image_context, other.image_context)]
    return all(x is y or (x is not None and y is not None and torch.equal(x, y)) for x, y in pairs)


@dataclass(frozen=True, eq=False)
class _Trio:
    """One puzzle: base, source and placebo runs, and how a swapped run is judged against them."""

    base: Run
    source: Run
    placebo: Run

    def judge(
        self, lens: Lens, donor: Run, hook: str, group: Sequence[int], window: Sequence[int],
        horizons: Sequence[str], where: Mapping[str, Any],
    ) -> np.ndarray:  # fmt: skip
        """The measures at each horizon, (measure, horizon), of one swap."""
        edit = patch(steps=list(window), layers=list(group), hook=hook, source=donor, **where)
        stop = None if "final" in horizons else window[-1]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="patching the whole stream")  # said in the result's remarks
            # The steps before the window are the base's own, so they are taken from it, not run again.
            run = lens.generate(resume=self.base.until(window[0]), interventions=[edit], stop_after=stop)
        return np.array([self._at(run, window[-1] if h == "window" else None) for h in horizons]).T

    def _at(self, run: Run, step: int | None) -> tuple[float, ...]:
        base, source = self.base, self.source
        x, b, s = (r.final if step is None else r.x0_hat(step) for r in (run, base, source))
        was, aim = _answer(base, step), _answer(source, step)
        now = base.task.answer(run.decode(x))
        asked = aim is not None and was is not None and aim != was
        effect = _projection(x - b, s - b)
        nearer = float(effect > 0.5) if np.isfinite(effect) else np.nan
        return float(now == aim) if asked else np.nan, float(now != was), nearer, effect


def _trio(lens: Lens, task: Any, twin: Any, seed: int, placebo_seed: int, how: Mapping[str, Any]) -> _Trio:
    if not hasattr(task, "answer"):
        raise TaskError(f"{task!r} cannot read an answer from a video: give it answer(video), as dit_lens.tasks have")
    if isinstance(twin, str) and not hasattr(task, "twin"):
        raise TaskError(f"{task!r} has no twins: pass twin=function, which gives the task to swap with")
    other = task.twin(twin) if isinstance(twin, str) else twin(task)
    base, source = lens.generate(task, seed=seed, **how), lens.generate(other, seed=seed, **how)
    if torch.equal(base.latents, source.latents):
        raise MeasureError(
            f"base and source agree exactly ({task!r}): there is no other answer to flip to; choose another twin, or "
            "a task in which what differs reaches the model"
        )
    return _Trio(base, source, lens.generate(task, seed=seed + placebo_seed, **how))


def _answer(run: Run, step: int | None) -> Hashable:
    key = f"answer {step}"
    if key not in run._cache:
        run._cache[key] = run.task.answer(run.video if step is None else run.decode(run.x0_hat(step)))
    return run._cache[key]


def _projection(moved: Tensor, toward: Tensor) -> float:
    size = float((toward * toward).sum())
    return float((moved * toward).sum()) / size if size else np.nan


def _table(cells: xr.DataArray) -> xr.Dataset:
    found: dict[str, xr.DataArray] = {}
    texts = {
        "flipped": ("answers turned into the source's", "share of puzzles"),
        "changed": ("answers that are no longer the base's", "share of puzzles"),
        "nearer": ("states nearer to the source's than to the base's", "share of puzzles"),
        "effect": ("change projected on source minus base", "0 = base, 1 = source"),
    }
    for measure in MEASURES:
        for kind, suffix in zip(KINDS, ("", "_null"), strict=True):
            values = cells.sel(measure=measure, kind=kind, drop=True)
            summary = summarise(values) if measure == "effect" else share(values)
            for part, name in (("value", ""), ("low", "_low"), ("high", "_high"), ("n", "_n")):
                found[f"{measure}{suffix}{name}"] = summary[part]
        found[measure].attrs |= dict(zip(("long_name", "units"), texts[measure], strict=True))
    return xr.Dataset(found | {"raw": cells})


# -- the paper's claims


_FLIP = (
    "Replacing the hidden state of one layer (20 or 21 of 40) by another scene's, in the first step only, flips the "
    "answer completely (Fig. 6b)."
)


def claims(lens: Lens, n: int = 24, seed: int = 0, progress: Progress = silent, **arguments: Any) -> list[Claim]:
    """The paper's two claims on swapping, on ``choose`` (same picture, other prompt) and ``maze`` (the reverse)."""
    found = []
    for name in ("choose", "maze"):
        group = puzzles.batch(name, n, seed)
        middle = Depth(0.5, 0.75)
        first = middle.layers(lens.n_layers)[0]  # layer 20 of 40
        whole = swap(lens, group, first, 0, hook="resid_post", seed=seed, progress=progress, **arguments)
        each = swap(lens, group, "each", 0, horizons=("window",), seed=seed, progress=progress, **arguments)
        found += [_flips(name, first, whole), _middle(name, middle.layers(lens.n_layers), each)]
    return found


def _flips(name: str, layer: int, found: xr.Dataset) -> Claim:
    cell = found.isel(hook=0, layers=0, steps=0).sel(horizon="final")
    local = found.isel(hook=0, layers=0, steps=0).sel(horizon="window")
    get: Callable[[str], float] = lambda key: float(cell[key])  # noqa: E731
    if not int(cell["flipped_n"]):
        return untestable(_FLIP, f"no video of {name} could be read both in base and in source, so none could flip")
    good = get("flipped_low") > 0.5 and get("flipped_low") > get("flipped_null_high")
    verdict: Verdict = "supported" if good else "not supported"
    same = any(remark.startswith("swap of") for remark in found.attrs["remarks"])
    told = " Base and source share their text here, so this swap is the same at every layer." if same else ""
    return Claim(
        _FLIP,
        f"whole-stream swap at layer {layer}, step 0, both branches, {name}: finished videos with the source's answer",
        "share of puzzles", get("flipped"), get("flipped_low"), get("flipped_high"), int(cell["flipped_n"]),
        get("flipped_null"), get("flipped_null_low"), get("flipped_null_high"), "same scene, other seed",
        "supported when the interval lies above one half and above the placebo's", verdict,
        f"x0_hat of the swapped step moves {float(local['effect']):.2f} of the way to the source's, the finished video "
        f"{get('effect'):.2f}.{told}",
    )  # fmt: skip


def _middle(name: str, middle: Sequence[int], found: xr.Dataset) -> Claim:
    effect = found["raw"].sel(measure="effect", horizon="window").isel(hook=0, steps=0)  # (kind, layers, puzzle)
    inside = np.isin(np.arange(effect.sizes["layers"]), middle)
    contrast = effect.isel(layers=inside).mean("layers") - effect.isel(layers=~inside).mean("layers")
    s = {kind: summarise(contrast.sel(kind=kind, drop=True)) for kind in KINDS}
    real, null = s["swap"], s["placebo"]
    good = float(real["low"]) > max(0.0, float(null["high"]))
    verdict: Verdict = "supported" if good else "not supported"
    means = effect.sel(kind="swap").mean("puzzle")
    top = [f"{means['layers'].values[i]} ({float(means[i]):.2f})" for i in np.argsort(-means.values)[:3]]
    return Claim(
        "The middle-to-late layers are the ones that decide the answer (Fig. 6b).",
        f"local effect of one layer's update at step 0, {name}: mean over layers {middle[0]}-{middle[-1]} minus mean "
        "over the others",
        "0 = base, 1 = source", float(real["value"]), float(real["low"]), float(real["high"]), int(real["n"]),
        float(null["value"]), float(null["low"]), float(null["high"]), "same scene, other seed",
        "supported when the interval lies above zero and above the placebo's", verdict,
        f"Largest local effects: layers {', '.join(top)}.",
    )  # fmt: skip
