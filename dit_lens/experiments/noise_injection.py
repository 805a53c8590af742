"""Noise at a step, noise at a frame: what it costs, and how far it travels (paper, noise perturbation, Fig. 3).

At one step for all frames, x_{s, all f} <- N(0, I), or in one latent frame at every step, x_{all s, f} <- N(0, I), and
the same with the controls and placebos of :mod:`dit_lens.experiments.noise_kinds`. Read off: the score lost; the
*propagation map*, 1 - linear CKA (:mod:`dit_lens.measures.cka`) of the noised to the clean run's state at each
later step; and its mean over later steps, the *sensitivity curve*. Runs are forked from the clean one where the
injection happens, so that what came before is paid once.

When not to use: the propagation map as a map of damage. Dissimilarity of latents says that the noise is another one,
which another seed also is: read it beside ``renewed``, ``unrelated`` and the score. And noise at all frames of a step
leaves nothing of the steps before, so that noise at one frame is its fair partner only at the same step
(``noise_at_step(frames=...)``): held to the end, a frame is lost by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Unpack

import numpy as np
import xarray as xr

from dit_lens.address import ALL, Indices, indices
from dit_lens.errors import MeasureError
from dit_lens.experiments.noise_kinds import KINDS, SomeTokens, check, injection, latent_frames, pixel_frames, with_next
from dit_lens.measures.cka import ESTIMATORS, dissimilarity
from dit_lens.progress import Progress, silent
from dit_lens.stats.summary import task_names
from dit_lens.tasks.requirements import needed
from dit_lens.wan.lens import Lens
from dit_lens.wan.recording import record
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import SamplingArguments, SamplingLike, merged

Score = Callable[[Run], float]


def _value(run: Run) -> float:
    return float(run.score.value)


def _solved(run: Run) -> float:
    return float(run.score.solved)


#: What is read off every run unless told otherwise: the task's partial credit (0 to 1), and whether it is solved.
SCORES: Mapping[str, Score] = MappingProxyType({"score": _value, "solved": _solved})


def noise_at_step(
    lens: Lens,
    tasks: Sequence[Any],
    steps: Indices = ALL,
    kinds: Sequence[str] = KINDS,
    *,
    frames: Indices = ALL,
    hook: str | None = None,
    layer: int | None = None,
    scores: Mapping[str, Score] = SCORES,
    seed: int = 0,
    noise_seed: int = 1,
    tokens: int = 1024,
    sampling: SamplingLike | None = None,
    progress: Progress = silent,
    **given: Unpack[SamplingArguments],
) -> xr.Dataset:
    """Inject noise at each of ``steps``, once per puzzle and kind; scores and the propagation map.

    ``tasks``: at least two, of one size; puzzle i is generated with ``seed + i``, and puzzle i + 1 is foreign to it.
    ``frames``: latent frames to inject in; all, as in the paper. ``hook``: also compare this hook at ``layer`` (the
    middle one), ``cond`` branch, on at most ``tokens`` tokens. ``scores``: name -> callable(run) -> float.
    ``sampling``, or its arguments flat: see :class:`dit_lens.Sampling`.

    Returns (task, kind, step) for every score, ``clean_<score>`` (task), the propagation map ``dissimilarity``
    (task, kind, step, later, of, estimator), 1 - CKA of the state entering step ``later`` to the clean run's, and
    ``unrelated`` (task, later, of, estimator), the same between the clean runs of two puzzles. ``later`` = number of
    steps stands for the finished latents.

    Errors: :class:`MeasureError` for fewer than two tasks or unknown kinds, :class:`TaskError` for tasks without a
    scorer, :class:`AddressError` for steps outside.
    """
    how = merged(sampling, given, noise_at_step)
    check(tasks, kinds)
    if scores is SCORES:
        needed(tasks, "score", cure="pass scores={'name': function of a run}")
    layer = lens.n_layers // 2 if layer is None else layer
    records = [] if hook is None else [record(hook, reduce=SomeTokens(tokens), layers=layer, branches="cond")]
    of = ["latents", "x0_hat", *([] if hook is None else [hook])]
    found: dict[str, Any] = {}
    for i, base, other in with_next(lens, tasks, seed, how, records):
        progress(i, len(tasks), f"{len(kinds)} kinds of noise at steps, puzzle {i}")
        n_steps = base.plan.n_steps
        at = indices(steps, n_steps, "step", "a plan")
        if not found:
            shape = (len(tasks), len(kinds), len(at))
            found = {name: np.full(shape, np.nan) for name in scores}
            far = np.zeros((*shape, n_steps + 1, len(of), len(ESTIMATORS)))
            unrelated = np.zeros((len(tasks), *far.shape[3:]))
            clean = {f"clean_{name}": np.zeros(len(tasks)) for name in scores}
            first = base
        unrelated[i] = dissimilarity(base, other, of, layer=layer)
        for name, score in scores.items():
            clean[f"clean_{name}"][i] = score(base)
        for k, kind in enumerate(kinds):
            for j, step in enumerate(at):
                edit = injection(kind, step, base, other, noise_seed, frames)
                run = lens.generate(resume=base.until(step), interventions=[edit], record=records)
                for name, score in scores.items():
                    found[name][i, k, j] = score(run)
                later = range(step, n_steps + 1)
                far[i, k, j, step:] = dissimilarity(base, run, of, later, layer=layer)
    sets = {name: (("task", "kind", "step"), value) for name, value in found.items()}
    return xr.Dataset(
        {
            **sets,
            **{name: ("task", value) for name, value in clean.items()},
            "dissimilarity": (("task", "kind", "step", "later", "of", "estimator"), far),
            "unrelated": (("task", "later", "of", "estimator"), unrelated),
        },
        coords={
            "task": task_names(tasks),
            "kind": list(kinds),
            "step": list(at),
            "later": range(first.plan.n_steps + 1),
            "of": of,
            "estimator": list(ESTIMATORS),
            "sigma": ("step", [first.sigmas[s] for s in at]),
            "expert": ("step", [first.plan.at(s).expert for s in at]),
        },
        attrs={
            "n_steps": first.plan.n_steps,
            "seed": seed,
            "noise_seed": noise_seed,
            "layer": layer,
            "model": lens.name,
        },
    )


def sensitivity(found: xr.Dataset) -> xr.DataArray:
    """The paper's sensitivity curve from a propagation map: mean dissimilarity over the states after the injection,

    (task, kind, step, of, estimator). How the paper reduces its map to a curve is not known; this is the plain way.
    The later the injection, the fewer the states and the less the time to recover.
    """
    after = found["later"] > found["step"]
    curve = found["dissimilarity"].where(after).mean("later")
    curve.attrs = {"long_name": "mean 1 - CKA after the injection", "units": "0 = unaffected"}
    return curve


def score_lost(found: xr.Dataset, score: str = "score") -> xr.DataArray:
    """Score lost to the noise, per puzzle: the clean run's minus the noised one's."""
    lost: xr.DataArray = found[f"clean_{score}"] - found[score]
    lost = lost.transpose(*found[score].dims)
    lost.attrs = {"long_name": f"drop in {score}", "units": "clean - noised"}
    return lost


def peak(curve: xr.DataArray, n_steps: int, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """Where a (task, step) curve is highest, as step / n_steps, with a 95 % interval: (value, low, high).

    The mean curve's highest step; puzzles are resampled and the highest step of each mean taken anew, so that picking
    the best of many steps is in the interval. It can fall only on steps that were measured.
    """
    data = curve.transpose("task", "step").values
    if not np.isfinite(data).all() or len(data) < 2:
        raise MeasureError("a peak needs a finite curve (task, step) of at least two puzzles: select kind, of, ...")
    places = curve["step"].values / n_steps
    rng = np.random.default_rng(seed)
    draws = [places[data[rng.integers(0, len(data), len(data))].mean(0).argmax()] for _ in range(resamples)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(places[data.mean(0).argmax()]), float(low), float(high)


def noise_at_frame(
    lens: Lens,
    tasks: Sequence[Any],
    frames: Indices = ALL,
    kinds: Sequence[str] = KINDS,
    *,
    unit: str = "latent",
    steps: Indices = ALL,
    scorer: Callable[[Any, np.ndarray], float] | None = None,
    seed: int = 0,
    noise_seed: int = 1,
    sampling: SamplingLike | None = None,
    progress: Progress = silent,
    **given: Unpack[SamplingArguments],
) -> xr.Dataset:
    """Inject noise in each of ``frames`` (latent, or ``unit="pixel"``) at every step, once per puzzle and kind.

    ``steps``: hold it over these steps only, e.g. ``range(17)``, which leaves the rest to repair the frame. ``scorer``:
    callable(task, video) -> float; the task's own partial credit by default. The others: see :func:`noise_at_step`.

    Returns (task, kind, frame) ``score``; ``elsewhere``, the score when the frame's own pixels are taken from the
    clean run, so that only what it did to the other frames counts; ``damage`` (task, kind, frame, pixel), the root
    mean square pixel difference to the clean run in each pixel frame; ``clean_score`` (task); and ``unrelated``
    (task, pixel), the pixel difference between the clean runs of two puzzles. The last step has noise too, and one
    step cannot repair it: the frame itself is lost by construction.

    Errors: as :func:`noise_at_step`.
    """
    how = merged(sampling, given, noise_at_frame)
    check(tasks, kinds)
    if scorer is None:
        needed(tasks, "score", cure="pass scorer=function of a task and a video")
    judge = (lambda task, video: float(task.score(video).value)) if scorer is None else scorer
    found: dict[str, Any] = {}
    for i, base, other in with_next(lens, tasks, seed, how, ()):
        progress(i, len(tasks), f"{len(kinds)} kinds of noise at frames, puzzle {i}")
        at = latent_frames(base.grid, frames, unit)
        if not found:
            shape = (len(tasks), len(kinds), len(at))
            found = {"score": np.zeros(shape), "elsewhere": np.zeros(shape)}
            damage = np.zeros((*shape, base.grid.n_pixel_frames))
            clean, unrelated = np.zeros(len(tasks)), np.zeros((len(tasks), base.grid.n_pixel_frames))
            grid = base.grid
        clean[i] = judge(tasks[i], base.video)
        unrelated[i] = _rms(base.video, other.video)
        for k, kind in enumerate(kinds):
            run = None
            for j, frame in enumerate(at):
                if run is None or kind != "restart":  # a restart knows no frames
                    edit = injection(kind, steps, base, other, noise_seed, [frame])
                    run = lens.generate(resume=base.until(0), interventions=[edit])
                repaired = run.video.copy()
                own = pixel_frames(base.grid, frame)
                repaired[own] = base.video[own]
                found["score"][i, k, j] = judge(tasks[i], run.video)
                found["elsewhere"][i, k, j] = judge(tasks[i], repaired)
                damage[i, k, j] = _rms(base.video, run.video)
    return xr.Dataset(
        {
            **{name: (("task", "kind", "frame"), value) for name, value in found.items()},
            "damage": (("task", "kind", "frame", "pixel"), damage),
            "clean_score": ("task", clean),
            "clean_elsewhere": ("task", clean),
            "unrelated": (("task", "pixel"), unrelated),
        },
        coords={
            "task": task_names(tasks),
            "kind": list(kinds),
            "frame": list(at),
            "pixel": range(grid.n_pixel_frames),
            "first_pixel": ("frame", [pixel_frames(grid, f).start for f in at]),
            "last_pixel": ("frame", [pixel_frames(grid, f).stop - 1 for f in at]),
        },
        attrs={"seed": seed, "noise_seed": noise_seed, "model": lens.name},
    )


def _rms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root mean square difference of two videos in each frame, (F,)."""
    return np.sqrt(((a - b) ** 2).mean((1, 2, 3)))
