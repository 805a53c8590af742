"""Noise at a step, noise at a frame: the score lost, and the later states changed (paper, noise perturbation, Fig. 3).

At one step for all frames, x_{s, all f} <- N(0, I), or in one latent frame at every step, x_{all s, f} <- N(0, I), and
the same with the controls and placebos of :mod:`dit_lens.experiments.noise_kinds`. Measured are the score lost; the
*propagation map*, 1 - linear CKA (:mod:`dit_lens.measures.cka`) of the noised to the clean run's state at each
later step; and the *sensitivity curve*, that map at one lag after every injection. Runs are forked from the clean one
where the injection happens, so that earlier steps are computed once.

When not to use: the propagation map as a map of damage. Dissimilarity of latents shows that the noise differs, as it
does for another seed: read it beside ``renewed``, ``unrelated`` and the score. And noise at all frames of a step
removes all content of the steps before, so compare it with noise at one frame at the same step
(``noise_at_step(frames=...)``): a frame that is noised to the last step is lost by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Unpack

import numpy as np
import xarray as xr

from dit_lens.address import ALL, Indices, indices
from dit_lens.errors import MeasureError
from dit_lens.experiments.noise_kinds import KINDS, SomeTokens, check, injection, latent_frames, pixel_frames
from dit_lens.measures.cka import ESTIMATORS, dissimilarity
from dit_lens.runner import Item, Options, over_tasks
from dit_lens.tasks.requirements import needed
from dit_lens.wan.lens import Lens
from dit_lens.wan.recording import record
from dit_lens.wan.run import Run

Score = Callable[[Run], float]


def _value(run: Run) -> float:
    return float(run.score.value)


def _solved(run: Run) -> float:
    return float(run.score.solved)


#: The default scores of every run: the task's partial credit (0 to 1), and whether it is solved.
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
    **options: Unpack[Options],
) -> xr.Dataset:
    """Inject noise at each of ``steps``, once per task and kind; scores and the propagation map.

    Args:
        lens: The model.
        tasks: At least two, of one size; task i + 1 is foreign to task i.
        steps: Where noise is injected, each by itself.
        kinds: Kinds of noise (:data:`~dit_lens.experiments.noise_kinds.KINDS`).
        frames: Latent frames to inject in; all, as in the paper.
        hook: Also compare this hook, ``cond`` branch.
        layer: The layer of ``hook``; the middle one by default.
        scores: name -> function of a run.
        seed: Task i is generated with ``seed + i``.
        noise_seed: Seed of the injected noise.
        tokens: At most so many tokens are compared for ``hook``.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        (task, kind, step) for every score; ``clean_<score>`` (task); the propagation map ``dissimilarity`` (task, kind,
        step, other_step, hook, metric), 1 - CKA of the state that enters ``other_step`` to the clean run's (``n_steps``
        stands for the finished latents; the hooks ``latents`` and ``x0_hat`` are always compared); and
        ``unrelated`` (task, other_step, hook, metric), the same between the clean runs of two tasks.

    Raises:
        MeasureError: Fewer than two tasks, or unknown kinds.
        TaskError: Tasks without a scorer.
        AddressError: Steps outside the plan.
    """
    check(tasks, kinds)
    if scores is SCORES:
        needed(tasks, "score", cure="pass scores={'name': function of a run}")
    layer = lens.n_layers // 2 if layer is None else layer
    records = [] if hook is None else [record(hook, reduce=SomeTokens(tokens), layers=layer, branches="cond")]
    compared = ["latents", "x0_hat", *([] if hook is None else [hook])]

    def row(item: Item) -> xr.Dataset:
        base, other = item.clean(record=records), item.clean(1, record=records)
        n_steps = item.plan.n_steps

        def noised(kind: str, step: int) -> dict[str, Any]:
            run = item.fork(base, step, [injection(kind, step, base, other, noise_seed, frames)], record=records)
            far = np.zeros((n_steps + 1, len(compared), len(ESTIMATORS)))
            far[step:] = dissimilarity(base, run, compared, range(step, n_steps + 1), layer=layer)
            return {
                **{name: score(run) for name, score in scores.items()},
                "dissimilarity": (("other_step", "hook", "metric"), far),
            }

        found = item.sites(noised, kind=kinds, step=indices(steps, n_steps, "step", "a plan"))
        clean = {f"clean_{name}": score(base) for name, score in scores.items()}
        far = dissimilarity(base, other, compared, layer=layer).values
        return found.assign(clean).assign(unrelated=(("other_step", "hook", "metric"), far))

    found = over_tasks(lens, tasks, row, seed=seed, options=options, of=noise_at_step)
    return found.assign_coords(
        other_step=range(found.sizes["other_step"]), hook=compared, metric=list(ESTIMATORS)
    ).assign_attrs(noise_seed=noise_seed, layer=layer)


def sensitivity(found: xr.Dataset, lag: int | None = None) -> xr.DataArray:
    """Sensitivity curve: dissimilarity of the states a fixed number of steps after the injection.

    How the paper reduces its map to a curve is not known. At the end of the generation, or in the mean over all later
    states, an early injection has had more steps to recover than a late one, so that such a curve rises with the step
    whatever the model does. Here all have had the same number.

    Args:
        found: From :func:`noise_at_step`.
        lag: Steps from the injection to the state; a tenth of the schedule by default, at least one.

    Returns:
        (task, kind, step, hook, metric); 0 is unaffected. NaN for injections after which the generation ends sooner.
        The lag is in ``attrs["lag"]``.

    Raises:
        MeasureError: A lag that no injection can have.
    """
    n_steps = int(found["other_step"].max())
    lag = max(1, round(n_steps / 10)) if lag is None else lag
    steps = found["step"].values
    fits = steps + lag <= n_steps
    if lag < 1 or not fits.any():
        raise MeasureError(
            f"lag={lag}: of {n_steps} steps, injected at {steps.tolist()}, give a lag from 1 to {n_steps - min(steps)}"
        )
    far = found["dissimilarity"]
    at = xr.DataArray(np.where(fits, steps + lag, n_steps), dims="step", coords={"step": found["step"]})
    curve = far.sel(other_step=at).drop_vars("other_step").where(xr.DataArray(fits, dims="step"))
    curve = curve.transpose(*(dim for dim in far.dims if dim != "other_step"))
    curve.attrs = {"long_name": f"1 - CKA {lag} steps after the injection", "units": "0 = unaffected", "lag": lag}
    return curve


def score_lost(found: xr.Dataset, score: str = "score") -> xr.DataArray:
    """Score lost to the noise, per task: the clean run's minus the noised one's.

    Args:
        found: From :func:`noise_at_step` or :func:`noise_at_frame`.
        score: The name of the score.

    Returns:
        The dims of that score.
    """
    lost: xr.DataArray = found[f"clean_{score}"] - found[score]
    lost = lost.transpose(*found[score].dims)
    lost.attrs = {"long_name": f"drop in {score}", "units": "clean - noised"}
    return lost


def peak(curve: xr.DataArray, n_steps: int, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """Where a curve is highest, as step / n_steps, with a 95 % interval.

    The highest step of the mean curve. Tasks are resampled and the highest step of each mean is taken anew, so that the
    interval includes the choice of the best of many steps. Only measured steps are candidates.

    Args:
        curve: (task, step), finite.
        n_steps: Steps of a generation.
        resamples: Bootstrap draws over tasks.
        seed: Their seed.

    Returns:
        Value, low and high, 0 to 1.

    Raises:
        MeasureError: The curve is not finite, or has fewer than two tasks.
    """
    data = curve.transpose("task", "step").values
    if not np.isfinite(data).all() or len(data) < 2:
        raise MeasureError("a peak needs a finite curve (task, step) of at least two tasks: select kind, hook, ...")
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
    **options: Unpack[Options],
) -> xr.Dataset:
    """Inject noise in each of ``frames`` at every step, once per task and kind.

    The last step has noise too, and one step cannot repair it: the frame itself is lost by construction.

    Args:
        lens: The model.
        tasks: At least two, of one size; task i + 1 is foreign to task i.
        frames: Each by itself.
        kinds: Kinds of noise.
        unit: ``"latent"`` or ``"pixel"``: what ``frames`` counts.
        steps: Hold the noise over these steps only, e.g. ``range(17)``, which leaves the rest to repair the frame.
        scorer: ``scorer(task, video) -> float``; the task's own partial credit by default.
        seed: Task i is generated with ``seed + i``.
        noise_seed: Seed of the injected noise.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        (task, kind, frame) ``score``; ``elsewhere``, the score when the frame's own pixels are taken from the clean
        run, so that only what it did to the other frames counts; ``damage`` (task, kind, frame, pixel_frame), the root
        mean square pixel difference to the clean run in each pixel frame; ``clean_score`` (task); and ``unrelated``
        (task, pixel_frame), the pixel difference between the clean runs of two tasks.

    Raises:
        MeasureError: Fewer than two tasks, or unknown kinds.
        TaskError: Tasks without a scorer.
        AddressError: Frames outside the video.
    """
    check(tasks, kinds)
    if scorer is None:
        needed(tasks, "score", cure="pass scorer=function of a task and a video")
    judge = partial_credit if scorer is None else scorer

    def row(item: Item) -> xr.Dataset:
        base, other, task = item.clean(), item.clean(1), item.task
        restarted: list[Run] = []  # a restart has no frames, so one run serves all

        def noised(kind: str, frame: int) -> dict[str, Any]:
            if kind != "restart" or not restarted:
                run = item.fork(base, 0, [injection(kind, steps, base, other, noise_seed, [frame])])
                restarted[:] = [run] if kind == "restart" else restarted
            else:
                run = restarted[0]
            repaired, own = run.video.copy(), pixel_frames(base.grid, frame)
            repaired[own] = base.video[own]
            return {
                "score": judge(task, run.video),
                "elsewhere": judge(task, repaired),
                "damage": ("pixel_frame", _rms(base.video, run.video)),
            }

        at = latent_frames(base.grid, frames, unit)
        found = item.sites(noised, kind=kinds, frame=at)
        clean = judge(task, base.video)
        ends = [pixel_frames(base.grid, frame) for frame in at]
        return found.assign(
            clean_score=clean, clean_elsewhere=clean, unrelated=("pixel_frame", _rms(base.video, other.video))
        ).assign_coords(
            first_pixel=("frame", [end.start for end in ends]), last_pixel=("frame", [end.stop - 1 for end in ends])
        )

    found = over_tasks(lens, tasks, row, seed=seed, options=options, of=noise_at_frame)
    return found.assign_coords(pixel_frame=range(found.sizes["pixel_frame"])).assign_attrs(noise_seed=noise_seed)


def partial_credit(task: Any, video: np.ndarray) -> float:
    """The task's own partial credit for a video, 0 to 1."""
    return float(task.score(video).value)


def _rms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root mean square difference of two videos in each frame, (F,)."""
    return np.sqrt(((a - b) ** 2).mean((1, 2, 3))).astype(np.float64)
