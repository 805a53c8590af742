"""Layer swapping (paper, Fig. 6b): run one scene with some hidden states of another, and read whose answer it gives.

For a base run b, a source run s (same noise, other answer) and a swap h (some layers, steps, heads, tokens of s in b)::

    flipped = [ answer(h) = answer(s) ]     over tasks with answer(s) != answer(b), both given
    changed = [ answer(h) != answer(b) ]    anything else than before, "no answer" included
    effect  = < x(h) - x(b), x(s) - x(b) > / || x(s) - x(b) ||^2      0 = base, 1 = source
    nearer  = [ || x(h) - x(s) || < || x(h) - x(b) || ] = [ effect > 1/2 ]

each read at two horizons: ``local`` from x0_hat of the last swapped step (for one step this is the local effect), and
``final`` from the finished video; the coordinate ``read_in`` of ``horizon`` says so in the result. Early x0_hat shows
several answers at once and reads as none, so ``flipped`` is often empty there; ``nearer`` is then the flip that can be
counted. The placebo is the same swap from the same scene at another seed, judged against the same source. p is of the
paired difference to it, by sign flips over tasks, and corrected over all cells (layers, steps and hooks) of a horizon
by the largest |t| among them. :func:`by_depth` gives the curve over layers with that difference and its interval.

A whole-stream swap at one layer carries everything computed so far. Where base and source share text and timestep
(other picture, same prompt) it carries the source's velocity, whatever the layer, so its layer axis has no
information: it is run once and filled in for all layers, with a remark in ``attrs["remarks"]``. With another prompt
the later layers still read the base's text, and the layer matters.

When not to use: for what a layer *needs* (``dit_lens.ablate``); and a null effect at one step is no evidence of a null
effect of the layer: the picture enters again at every later step, so a model can undo a change at one step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr

from dit_lens.address import groups, label
from dit_lens.errors import MeasureError, TaskError
from dit_lens.interventions import patch
from dit_lens.interventions.base import STREAM
from dit_lens.runner import Options, Sweep
from dit_lens.runner.metrics import Item, projected
from dit_lens.runner.options import RUNNING
from dit_lens.stats import max_statistic, paired
from dit_lens.stats.summary import summarise
from dit_lens.wan.lens import Lens
from dit_lens.wan.points import point
from dit_lens.wan.run import Run

HORIZONS = ("local", "final")
#: Where answers and states are read at each horizon.
READ_IN = {"local": "x0_hat of the last swapped step", "final": "finished video"}
KINDS = ("effect", "placebo")
METRICS = ("flipped", "changed", "nearer", "effect")
_INVARIANT = (
    "{kind} of the whole stream ({hook}, all tokens): base and donor share text and timestep, so it hands over the "
    "donor's velocity whatever the layer. Run once and filled in for all layers; the layer axis says nothing here"
)
_LAST = (
    "{hook} over several layers: each swap of the whole stream wipes out the one before, so only the last layer counts"
)


def swap(
    lens: Lens,
    tasks: Sequence[Any],
    layers: Any = "all",
    steps: Any = (0,),
    *,
    hooks: str | Sequence[str] = "update",
    twin: str | Callable[[Any], Any] = "other_answer",
    branches: str = "all",
    heads: Any = None,
    tokens: Any = None,
    horizons: Sequence[str] = HORIZONS,
    seed: int = 0,
    placebo_seed: int = 10_000,
    regions: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Swap every group of layers in every window of steps, for every hook, on every task.

    Args:
        lens: The model.
        tasks: At least two.
        layers: ``"all"`` (each by itself), or a list whose entries are a layer or a group held at once (``range(20,
            30)``, ``dl.Depth(.5, .75)``).
        steps: Likewise.
        hooks: ``"update"``, the stream (``"resid_post"``), a component (``"attn_gated"``, ``"cross_attn_out"``,
            ``"mlp_gated"``), a per-head point with ``heads`` (``"z"``); one or a list.
        twin: A kind of ``task.twin``, or a function from a task to its partner.
        branches: Both by default; ``"cond"`` or ``"uncond"`` on request.
        heads: Heads to swap, of hooks that have them.
        tokens: A region or token indices; all by default.
        horizons: ``("local",)`` stops after the swapped steps: far cheaper.
        seed: Task i is generated with ``seed + i``.
        placebo_seed: Added to that seed for the placebo's source.
        regions: Masks of your own, as ``lens.generate`` takes them.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        A Dataset over (hook, layer, step, horizon): ``flipped``, ``changed``, ``nearer``, ``effect``, each with
        ``_low``, ``_high``, ``_n``, the same of its placebo (``_null``, ``_null_low``, ``_null_high``), the paired
        difference of both (``_difference``, ``_difference_low``, ``_difference_high``), ``_p``, and ``_p_corrected``
        over all cells; and ``raw`` (metric, kind, hook, layer, step, horizon, task). The coordinate ``read_in``
        (horizon) says where answers are read. Intervals are 95 %, over tasks (:func:`dit_lens.stats.summarise`).

    Raises:
        TaskError: Tasks without twins or answers.
        MeasureError: Pairs that agree exactly.
        AddressError: Places outside the model or the plan.
    """
    names = tuple(point(name).name for name in ((hooks,) if isinstance(hooks, str) else hooks))
    outside = [name for name in names if not point(name).in_block]
    if outside:
        raise MeasureError(f"{outside} lie outside the blocks, so layers cannot be swapped there: use dit_lens.patch")
    unknown = [h for h in horizons if h not in HORIZONS]
    if unknown or not horizons:
        raise MeasureError(f"horizons {unknown or horizons} are unknown: choose from {list(HORIZONS)}")
    if len(tasks) < 2:
        raise TaskError(f"{len(tasks)} task gives no interval: swap at least two, dit_lens.tasks.batch('maze', n=24)")
    partners = [_partner(task, twin) for task in tasks]
    chosen = groups(layers, lens.n_layers, "layer")
    folder = options.get("folder")
    rest: dict[str, Any] = {k: v for k, v in options.items() if k != "folder"}

    def swapped(part: str, some: Sequence[int], hooks: Sequence[str], layers: Any, placebo: Any) -> xr.DataArray:
        """(metric, kind, hook, layer, step, horizon, task) of some of the tasks."""
        made = Sweep(
            lens, tasks=[tasks[i] for i in some], source=[partners[i] for i in some], seeds=seed, seed_step=1,
            edit=partial(patch, heads=heads, tokens=tokens), steps=steps, layers=layers, hooks=hooks,
            branches=branches, placebo=placebo, placebo_seed=placebo_seed, regions=regions,
            horizon="final" if "final" in horizons else "local", reading=SwapReading(tuple(horizons)),
            folder=None if folder is None else f"{folder}/{part}", **rest,
        )  # fmt: skip
        found = made.raw().squeeze(["seed", "head", "region", "branch"], drop=True)
        metrics = [
            xr.concat([found[f"{metric} {h}"] for h in horizons], "horizon").assign_coords(horizon=list(horizons))
            for metric in METRICS
        ]
        whole = xr.concat(metrics, "metric").assign_coords(metric=list(METRICS), layer=list(map(label, layers)))
        return whole.assign_coords(task=list(some)).transpose(
            "metric", "kind", "hook", "layer", "step", "horizon", "task"
        )

    everyone = range(len(tasks))
    remarks: list[str] = []
    parts = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="patching the whole stream")  # it is in the result's remarks
        streams = [name for name in names if name in STREAM and tokens is None]
        others = [name for name in names if name not in streams]
        if others:
            parts.append(swapped("components", everyone, others, chosen, "seed"))
        if streams:
            first = swapped("stream", everyone, streams, chosen[:1], "seed")
            filled = first.reindex(layer=list(map(label, chosen)), method=None)
            filled = filled.fillna(first.isel(layer=0, drop=True))
            apart = [i for i in everyone if not _shares_text(lens, tasks[i], partners[i])]
            if apart and len(chosen) > 1:
                later = swapped("stream-layers", apart, streams, chosen[1:], "none")
                filled = later.combine_first(filled).transpose(*filled.dims).sel(layer=filled["layer"])
            parts.append(filled)
            for name in streams:
                if len(apart) < len(tasks):
                    remarks.append(_INVARIANT.format(hook=name, kind="swap"))
                remarks.append(_INVARIANT.format(hook=name, kind="placebo"))
                if any(len(group) > 1 for group in chosen):
                    remarks.append(_LAST.format(hook=name))
    cells = xr.concat(parts, "hook").sel(hook=list(names), task=list(everyone)).rename("raw")
    plan = lens.plan(options.get("sampling"), **_flat(options))
    about = {
        "model": lens.name, "weights": lens.fingerprint, "twin": twin if isinstance(twin, str) else "own function",
        "placebo": f"same scene, seed + {placebo_seed}", "branches": str(branches), "heads": str(heads),
        "tokens": str(tokens), "first_seed": seed, "n_layers": lens.n_layers,
        "num_inference_steps": plan.n_steps, "scheduler": plan.scheduler, "remarks": remarks,
    }  # fmt: skip
    return _table(cells).assign_attrs(about)


@dataclass(frozen=True)
class SwapReading:
    """Reads the metrics of one swap at each horizon, named ``"<metric> <horizon>"``."""

    horizons: tuple[str, ...]

    def __call__(self, run: Run, item: Item, step: int, last: int) -> dict[str, float]:
        """Read the numbers of one swap.

        Raises:
            MeasureError: Base and source agree exactly.
        """
        base, source = item.base, item.source
        assert source is not None
        if torch.equal(base.latents, source.latents):
            raise MeasureError(
                f"base and source agree exactly ({base.task!r}): there is no other answer to flip to: choose another "
                "twin, or a task whose difference the model can see"
            )
        found: dict[str, float] = {}
        for horizon in self.horizons:
            values = _judged(run, base, source, step if horizon == "local" else None)
            found |= {f"{metric} {horizon}": value for metric, value in zip(METRICS, values, strict=True)}
        return found


def _judged(run: Run, base: Run, source: Run, step: int | None) -> tuple[float, ...]:
    """flipped, changed, nearer, effect: by x0_hat of a step, or by the finished video."""
    x, b, s = (r.final if step is None else r.x0_hat(step) for r in (run, base, source))
    was, aim = _answer(base, step), _answer(source, step)
    now = base.task.answer(run.decode(x))
    asked = aim is not None and was is not None and aim != was
    effect = projected(x - b, s - b)
    nearer = float(effect > 0.5) if np.isfinite(effect) else np.nan
    return float(now == aim) if asked else np.nan, float(now != was), nearer, effect


def _partner(task: Any, twin: Any) -> Any:
    if not hasattr(task, "answer"):
        raise TaskError(f"{task!r} cannot read an answer from a video: give it answer(video), as dit_lens.tasks have")
    if isinstance(twin, str) and not hasattr(task, "twin"):
        raise TaskError(f"{task!r} has no twins: pass twin=function, which gives the task to swap with")
    return task.twin(twin) if isinstance(twin, str) else twin(task)


def _shares_text(lens: Lens, a: Any, b: Any) -> bool:
    """Whether two tasks give the blocks the same text and CLIP image, so that only latents and picture differ."""
    same_image = np.array_equal(np.asarray(a.image), np.asarray(b.image))
    return bool(a.prompt == b.prompt) and (not lens.experts["high"].image_context or same_image)


def _answer(run: Run, step: int | None) -> Hashable:
    key = f"answer {step}"
    if key not in run._cache:
        run._cache[key] = run.task.answer(run.video if step is None else run.decode(run.x0_hat(step)))
    return run._cache[key]


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in options.items() if k not in (*RUNNING, "sampling")}


def _table(cells: xr.DataArray) -> xr.Dataset:
    cells = cells.drop_vars("read_in", errors="ignore")  # of a result that is tabled again
    found: dict[str, xr.DataArray] = {}
    texts = {
        "flipped": ("answers turned into the source's", "share of tasks"),
        "changed": ("answers that are no longer the base's", "share of tasks"),
        "nearer": ("states nearer to the source's than to the base's", "share of tasks"),
        "effect": ("change projected on source minus base", "0 = base, 1 = source"),
    }
    for metric in METRICS:
        own, null = (cells.sel(metric=metric, kind=kind, drop=True) for kind in KINDS)
        summary = summarise(own, null, bounds=None if metric == "effect" else (0, 1))
        found |= {metric if part == "value" else f"{metric}_{part}": summary[part] for part in summary.data_vars}
        found[metric].attrs |= dict(zip(("long_name", "units"), texts[metric], strict=True))
    read_in = [READ_IN[str(h)] for h in cells["horizon"].values]
    return xr.Dataset(found | {"raw": cells}).assign_coords(read_in=("horizon", read_in))


def by_depth(found: xr.Dataset, metric: str = "effect", *, horizon: str = "local") -> xr.Dataset:
    """The curve of one metric over layers: the paired difference to the placebo, layer by layer.

    Args:
        found: From :func:`swap` with ``layers="all"``, or a part of it (``found.sel(step="0")``).
        metric: One of ``METRICS``.
        horizon: ``"local"`` or ``"final"``.

    Returns:
        ``value``, ``low``, ``high``, ``p``, ``n``, ``sd``, ``detectable`` (of :func:`dit_lens.stats.paired`) and
        ``p_corrected`` over (layer) and what else ``found`` has more than one of (hook, step), corrected over all of
        these cells; ``null``, the placebo itself; and the coordinates ``depth`` (layer / layers) and ``read_in``.

    Raises:
        MeasureError: Groups of layers, which have no depth of their own, or another metric or horizon.
    """
    raw = found["raw"]
    if metric not in raw["metric"] or horizon not in raw["horizon"]:
        raise MeasureError(
            f"metric={metric!r} horizon={horizon!r}: this swap has {raw['metric'].values.tolist()} at "
            f"{raw['horizon'].values.tolist()}"
        )
    labels = [str(one) for one in raw["layer"].values]
    if not all(one.isdigit() for one in labels):
        raise MeasureError(f"layers {labels} are not single ones, so there is no curve over depth: swap(layers='all')")
    n_layers = int(found.attrs.get("n_layers", len(labels)))
    cells = raw.sel(metric=metric, horizon=horizon, drop=True)
    cells = cells.squeeze([d for d in ("hook", "step") if d in cells.dims and cells.sizes[d] == 1], drop=True)
    effect, placebo = (cells.sel(kind=kind, drop=True) for kind in KINDS)
    curve = paired(effect, placebo, bounds=None if metric == "effect" else (0, 1))
    curve["p_corrected"] = max_statistic(effect, placebo)["p_corrected"]
    curve["null"] = placebo.mean("task")
    numbers = [int(one) for one in labels]
    told = found[metric].attrs
    curve["value"].attrs = {**told, "long_name": f"{told['long_name']}, above the placebo"}
    depth = ("layer", [one / n_layers for one in numbers])
    return curve.assign_coords(layer=numbers, depth=depth, read_in=READ_IN[horizon])


def strongest(found: xr.Dataset, metric: str = "effect", *, horizon: str = "local") -> xr.DataArray:
    """Depth of the layer whose swap does most, task by task, of the swap and of its placebo.

    A curve over layers may have several heights, so that its centre can lie where nothing happens. This does not.

    Args:
        found: As for :func:`by_depth`, at one step and hook.
        metric: One of ``METRICS``.
        horizon: ``"local"`` or ``"final"``.

    Returns:
        (kind, task), layer / layers; of equal layers the first, NaN where a task has no number.
    """
    depth = by_depth(found, metric, horizon=horizon)["depth"].values
    cells = found["raw"].sel(metric=metric, horizon=horizon, drop=True).squeeze(["hook", "step"], drop=True)
    values = cells.transpose("kind", "task", "layer")
    best = depth[values.fillna(-np.inf).values.argmax(-1)]
    return values.isel(layer=0, drop=True).copy(data=np.where(values.isnull().all("layer"), np.nan, best))
