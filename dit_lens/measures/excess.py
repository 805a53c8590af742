"""Excess over the ideal denoiser: what a network's x0_hat shows beside what the average over right answers would show.

Network and ideal (:mod:`dit_lens.measures.ideal_denoiser`) are read at the same states by the same measures. Two
questions are kept apart, as only the first takes knowledge of the task:

* **Support.** Are the answers shown right ones? ``support`` of :func:`dit_lens.measures.candidates` is the share of
  what is shown that right answers show. For the ideal it is 1. Its null is ``blind_support``: the same for a denoiser
  that averages over right *and* wrong answers, which knows what the state says and not what the task asks.
* **Weights** among right answers, which follow from the state: ``apart``, the total variation between what the two show
  at a place, and ``agree``, whether both show the same answer best.

``apart`` is computed per place, over the values that answers show there with "still" as one more, and averaged over
contested places: 1/2 sum |q - q'|. Weights of whole answers cannot be told from a clip where routes cross, as two
mixtures of four crossing routes are then the same clip; places can.

When not to use: ``agree`` where the ideal has no favourite. At sigma near 1 its weights differ in the third digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.measures.candidates import SEEN, Pool, candidates, pool
from dit_lens.measures.ideal_denoiser import IdealDenoiser
from dit_lens.wan.run import Run


def excess(
    run: Run,
    ideal: IdealDenoiser,
    blind: IdealDenoiser | None = None,
    *,
    shown: xr.Dataset | None = None,
    film: np.ndarray | None = None,
    ideal_film: np.ndarray | None = None,
    frames: Sequence[int] = (-1,),
    seen: float = SEEN,
) -> xr.Dataset:
    """How the candidates of a network differ from the ideal denoiser's, at every step of a run.

    Args:
        run: A run of a task that draws its answers.
        ideal: The ideal denoiser over the task's right answers.
        blind: The same over right and wrong answers, ``answers=(*task.solutions, *task.decoys(n))``.
        shown: ``candidates(run)`` with the same ``frames`` and ``seen``, if it is at hand.
        film: ``run.film()``, if it is at hand.
        ideal_film: ``ideal.film(run)``, if it is at hand.
        frames: Pixel frames where answers are visible.
        seen: Least contrast of every mark of an answer that counts as alive.

    Returns:
        Over ``step``: every variable of ``candidates`` for the ideal denoiser with the prefix ``ideal_``; ``apart``,
        total variation between network and ideal at contested places, 0 to 1; ``agree``, whether the network shows the
        ideal's best answer best, NaN with one answer; ``blind_support``, NaN without ``blind``. ``ideal_weight`` (step,
        candidate): the posterior.

    Raises:
        MeasureError: Denoisers of another task, and as ``candidates`` says.
    """
    task = run.task
    if ideal.answers != tuple(task.solutions):
        raise MeasureError(
            "this ideal denoiser averages over other answers than the run's task has: make it with "
            "ideal_denoiser(run.task, lens)"
        )
    film = run.film() if film is None else film
    ideal_film = ideal.film(run) if ideal_film is None else ideal_film
    shown = candidates(run, film=film, frames=frames, seen=seen) if shown is None else shown
    best = candidates(run, film=ideal_film, frames=frames, seen=seen)
    reader = pool(task, frames=frames, patch=(run.grid.pixel_rows, run.grid.pixel_cols))
    several = len(ideal.answers) > 1
    apart = [total_variation(reader, a, b) for a, b in zip(film, ideal_film, strict=True)]
    agree = (shown["strongest"] == best["strongest"]).values.astype(float)
    support = np.full(len(apart), np.nan)
    if blind is not None:
        support = candidates(run, film=blind.film(run), frames=frames, seen=seen)["support"].values
    columns: dict[str, tuple[Any, str, str]] = {
        "apart": (apart, "difference to the ideal denoiser", "total variation"),
        "agree": (agree if several else np.full(len(apart), np.nan), "best answer is the ideal denoiser's", "share"),
        "blind_support": (support, "shown by right answers, not knowing the task", "share"),
    }
    names = {name: f"ideal_{name}" for name in best.data_vars}
    found = best.rename(names).assign(
        {key: ("step", values, {"long_name": name, "units": unit}) for key, (values, name, unit) in columns.items()}
    )
    return found.assign(ideal_weight=ideal.weights(run).drop_vars("sigma"))


def total_variation(reader: Pool, clip: np.ndarray, other: np.ndarray) -> float:
    """Total variation between what two clips show at a place, averaged over places where answers differ.

    Args:
        reader: The pool of the task's right answers.
        clip: (F, H, W, 3) in [0, 1].
        other: Likewise.

    Returns:
        0 to 1; with a single answer, over all places that it marks.
    """
    q = np.stack([reader.contrast(clip), reader.contrast(other)])  # (2, K)
    each = []
    for place in np.unique(reader.place[reader.deciding]):
        here = q[:, reader.place == place]
        change = np.append(here[0] - here[1], here[1].sum() - here[0].sum())  # the last is the still frame's part
        each.append(np.abs(change).sum() / 2)
    return float(np.mean(each))
