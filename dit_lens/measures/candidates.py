"""Candidates: how many answers are alive in x0_hat at a step, side by side or as one mixture (paper, Figs 1 and 2).

Every answer a of a task can be drawn, V_a. A *mark* is a value that an answer shows at a place (one patch of one
frame) where the first frame, held still, shows another. The *contrast* q of each mark in a clip x is fitted at every
place on its own, over the values v_1, v_2, ... that answers have there, by least squares on the simplex::

    x  ~  q_0 still + sum_i q_i v_i,   q >= 0,   q_0 + sum_i q_i = 1

and what the fit leaves over, r = |x - fit|, is taken off: q_i (1 - r / |v_i - still|), not below 0. So 0 is the still
frame, or something that no answer shows, 1 is the answer's own picture, and where answers differ at one place
each has its part. (Of fits that are equally good, as with more colours than channels, the one with the least q_0: any
mixture of answers that all fill the place is then found exactly.)

- An answer is **alive** if each of its marks has a contrast of at least ``seen`` (a quarter).
- Answers that share places can make a further one visible that nothing asked for. So ``alive`` is an upper bound, and
  ``fewest`` a lower one: the smallest set of alive answers that together make every mark that alive answers make.
- The null is wrong answers (``task.decoys``) under the same criterion.

**Multi-path or superposition.** Do the answers that are alive stand at *separate places*, as routes do, or on top of
each other, as shapes and colours of one object do? Of two answers take the places where they differ, and among these
the ones that each marks: their *overlap* is the share of places marked by both, of the fewer places that one of them
marks. ``same_place`` is its mean over all pairs that are alive, weighted by the contrast of the pair's weaker side.
Below a half the kind is ``multi-path``, from there on ``superposition``. With fewer than two alive it is ``one`` or
``none``; a mixture of more than 1 / ``seen`` answers is ``none`` too, and ``blur``, the effective number of values at a
place where right answers differ, tells it from an empty clip (1: every place is sharp). ``undecided``: answers that do
not exclude each other, so that one clip can give both.

**A mixture, or more.** Where two answers stand is no evidence that more is shown than an average. For the pair with
the largest smaller side let p be the mean contrast of the marks that the first makes and the second does not, p' the
reverse. In any *mixture* sum_a w_a V_a, with w >= 0 and sum w = 1, p + p' <= 1 (``bound``: computed for the pair; 1
where answers exclude each other), while two answers that are each drawn at full contrast have p + p' = 2
(``together``). This is about mixtures of *pictures*. Only a linear decoder makes such a mixture of an average of
latents; behind any other one, such as Wan's own or :class:`dit_lens.lab.CoupledLabVAE`, an average may show more than
``bound``, or colours of no answer, which lower every contrast. There ``bound`` says nothing about averages, and the
ideal denoiser's own ``together`` at the same states takes its place.

When not to use: on the number itself as "paths explored". x0_hat of an ideal denoiser is a posterior mean, hence a
mixture, and shows several answers at separate places as well: compare with
:func:`dit_lens.measures.ideal_denoiser`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from scipy.optimize import Bounds, LinearConstraint, milp

from dit_lens.checks import number
from dit_lens.errors import MeasureError
from dit_lens.measures.commitment import clips_of
from dit_lens.measures.marks import Place, distinct, tiles
from dit_lens.wan.run import Run

SEEN = 0.25
#: Overlap of places from which answers are one on top of the other.
OVERLAP = 0.5
KINDS = ("none", "one", "superposition", "multi-path", "undecided")


@dataclass(frozen=True)
class Reading:
    """What one clip shows of a pool's answers.

    Attributes:
        contrast: (K,), the contrast of each mark.
        alive: The answers that are seen.
        strongest: The answer whose deciding marks have the highest mean contrast.
        strength: The contrast of its weakest mark.
        first: p of the strongest pair; NaN where fewer than two answers are alive.
        second: p' of that pair.
        together: Their sum, to be compared with ``bound``.
        bound: The largest sum that a mixture can have.
        same_place: Overlap of the places of answers that are alive, 0 to 1.
        blur: Effective number of values at a place, 1 / sum_i q_i^2 with q_0, averaged.
    """

    contrast: np.ndarray = field(repr=False)
    alive: tuple[Hashable, ...]
    fewest: int
    kind: str
    blur: float
    strongest: Hashable
    strength: float
    first: float = np.nan
    second: float = np.nan
    together: float = np.nan
    bound: float = np.nan
    same_place: float = np.nan


@dataclass(frozen=True, eq=False)
class Pool:
    """Answers, which marks each makes, and how to read a clip for them. Make one with :func:`pool`.

    ``makes``: bool (answers, K), who makes which mark. ``deciding``: bool (K,), not made by all right answers.
    ``right``: bool (K,), made by a right answer. ``contested``: bool (K,), not made by every answer, right or wrong.
    """

    answers: tuple[Hashable, ...]
    makes: np.ndarray = field(repr=False)
    deciding: np.ndarray = field(repr=False)
    right: np.ndarray = field(repr=False)
    contested: np.ndarray = field(repr=False)
    places: tuple[Place, ...] = field(repr=False)
    frames: tuple[int, ...]
    patch: tuple[int, int]
    shape: tuple[int, ...]  # of the videos that it reads, (F, H, W, 3)

    @property
    def place(self) -> np.ndarray:
        """The place of each mark, (K,)."""
        return np.repeat([p.index for p in self.places], [p.values.shape[1] for p in self.places])

    def contrast(self, clip: np.ndarray) -> np.ndarray:
        """The contrast of each mark in a clip.

        Args:
            clip: (F, H, W, 3) in [0, 1].

        Returns:
            (K,), 0 to 1.

        Raises:
            MeasureError: The clip has another size, or holds NaN.
        """
        clip = np.asarray(clip)
        if clip.shape != self.shape:
            raise MeasureError(
                f"a clip of shape {clip.shape} cannot be compared with answers drawn as {self.shape}: generate in the "
                "task's own size and length"
            )
        parts = tiles(clip[list(self.frames)].astype(np.float64), self.patch)
        return np.concatenate([place.contrast(parts[place.index]) for place in self.places])

    def read(self, clip: np.ndarray, seen: float = SEEN) -> Reading:
        """Which answers a clip shows, and how; see the module docstring.

        Args:
            clip: (F, H, W, 3) in [0, 1].
            seen: Least contrast of every mark of an answer that counts as alive.

        Returns:
            The reading.
        """
        q = self.contrast(clip)
        seen = number(seen, "seen", error=MeasureError)
        alive = np.flatnonzero(~(self.makes & (q < seen)).any(1))
        kind, *numbers = self._pair(q, alive) if len(alive) > 1 else (KINDS[len(alive)], *(np.nan,) * 5)
        own = self.makes & self.deciding
        best = int(((own @ q) / np.maximum(own.sum(1), 1)).argmax())
        return Reading(
            q, tuple(self.answers[i] for i in alive), _fewest(self.makes[alive]), kind, self._blur(q),
            self.answers[best], float(q[self.makes[best]].min()), *numbers,
        )  # fmt: skip

    def support(self, q: np.ndarray) -> float:
        """The share of what is shown that right answers show.

        Args:
            q: The contrast of each mark, (K,).

        Returns:
            0 to 1; NaN where nothing is shown.
        """
        shown = q * self.contested
        return float(shown[self.right].sum() / shown.sum()) if shown.sum() > 0 else np.nan

    def _blur(self, q: np.ndarray) -> float:
        """Mean over contested places of 1 / (q_0^2 + sum_i q_i^2)."""
        each = []
        for place in np.unique(self.place[self.deciding]):
            here = q[self.place == place]
            each.append(1 / ((1 - here.sum()) ** 2 + (here**2).sum()))
        return float(np.mean(each))

    def _pair(self, q: np.ndarray, alive: np.ndarray) -> tuple[Any, ...]:
        """(kind, first, second, together, bound, same_place).

        All but kind and same_place are of the pair whose weaker side is strongest.
        """
        own = self.makes
        some = own[alive].astype(float)
        total, same = some @ q, some @ some.T  # same: marks that both make
        apart = some.sum(1)[:, None] - same  # marks of the first that the second does not make
        with np.errstate(invalid="ignore", divide="ignore"):  # one that only repeats another's marks gives 0 / 0
            side = (total[:, None] - (some * q) @ some.T) / apart
        weaker = np.nan_to_num(np.minimum(side, side.T), nan=-1.0)
        np.fill_diagonal(weaker, -1.0)
        i, j = np.unravel_index(weaker.argmax(), weaker.shape)
        a, b = own[alive[i]], own[alive[j]]
        mine, theirs = a & ~b, b & ~a
        if not (mine.any() and theirs.any()):
            return "undecided", *(np.nan,) * 5
        first, second = sorted((float(side[i, j]), float(side[j, i])), reverse=True)
        # The most that one answer, and so any mixture of answers, can show of both at once.
        bound = float((own[:, mine].mean(1) + own[:, theirs].mean(1)).max())
        marked = some @ (self.place[:, None] == np.unique(self.place))  # (alive, places): an answer marks a place once
        overlap = (marked @ marked.T - same) / np.maximum(np.minimum(apart, apart.T), 1)
        weight = np.clip(weaker, 0, None)
        same_place = float((weight * overlap).sum() / weight.sum())
        kind = "undecided" if bound > 1.99 else "multi-path" if same_place < OVERLAP else "superposition"
        return kind, first, second, first + second, bound, same_place


def pool(
    task: Any,
    answers: Sequence[Hashable] | None = None,
    *,
    frames: Sequence[int] = (-1,),
    patch: tuple[int, int] = (16, 16),
    decoys: bool = False,
) -> Pool:
    """The marks of answers, per patch of pixels.

    Args:
        task: Anything with ``solutions``, ``first_frame`` and ``render(answer)``.
        answers: ``task.solutions`` by default.
        frames: Where answers are visible; the last frame by default, which suits tasks whose answer stays visible.
        patch: Rows and columns of pixels of one place.
        decoys: Whether ``answers`` are wrong ones, which are fitted beside the right ones; those that these frames do
            not distinguish from others are left out.

    Returns:
        The pool.

    Raises:
        MeasureError: The task cannot draw its answers, or these frames do not distinguish the right answers.
    """
    if not all(hasattr(task, name) for name in ("solutions", "render", "first_frame")):
        raise MeasureError(
            f"{type(task).__name__} cannot draw its answers: candidates need a task with solutions, render(answer) and "
            "first_frame, such as dit_lens.tasks.load(...)"
        )
    right = tuple(task.solutions)
    given = right if answers is None else tuple(answers)
    listed = (*right, *given) if decoys else given
    if not given:
        raise MeasureError("no answers to look for: pass answers=, e.g. task.solutions or task.decoys(5)")
    shape = task.render(listed[0]).shape
    shown = np.stack([tiles(task.render(a)[list(frames)], patch) for a in listed])  # (answers, places, D) uint8
    still = tiles(np.repeat(task.first_frame[None], len(frames), 0), patch)
    makes, places = [], []
    for where in range(shown.shape[1]):
        first, which = distinct(shown[:, where])
        marked = [i for i, answer in enumerate(first) if not np.array_equal(shown[answer, where], still[where])]
        if marked:
            makes += [which == i for i in marked]
            places.append(Place.of(where, still[where], shown[first[marked], where]))
    if not makes:
        raise MeasureError(f"no answer differs from the first frame in frames {list(frames)}: choose later ones")
    made = np.stack(makes, 1)  # (answers, K)
    reference = made[: len(right)] if decoys else made
    deciding = ~reference.all(0) if len(reference) > 1 or decoys else np.ones(made.shape[1], bool)
    _, group = distinct(made)
    told = made.any(1) & (np.bincount(group)[group] == 1)
    if not decoys and not told.all():
        raise MeasureError(
            f"{int((~told).sum())} of {len(listed)} answers look the same in frames {list(frames)}: choose more "
            "frames, e.g. frames=range(task.num_frames)"
        )
    keep = [i for i, ok in enumerate(told) if ok and (i >= len(right) or not decoys)]
    kept = tuple(listed[i] for i in keep)
    by_right = np.asarray(made[: len(right)].any(0)) if decoys else np.ones(made.shape[1], bool)
    contested = np.asarray(~made.all(0))
    return Pool(
        kept, made[keep], np.asarray(deciding), by_right, contested, tuple(places), tuple(frames), patch, shape
    )


def candidates(
    run: Run,
    *,
    film: np.ndarray | None = None,
    steps: Sequence[int] | None = None,
    frames: Sequence[int] = (-1,),
    seen: float = SEEN,
    decoys: int | None = None,
    task: Any = None,
) -> xr.Dataset:
    """Right answers alive in x0_hat at each step, beside wrong ones.

    Each step is decoded once.

    Args:
        run: The run.
        film: ``run.film(steps)``, if it is at hand.
        steps: All by default.
        frames: Pixel frames where answers are visible.
        seen: Least contrast of every mark of an answer that counts as alive.
        decoys: Number of wrong answers; by default as many as right ones, at most 20.
        task: The run's task by default.

    Returns:
        Variables over ``step``. ``alive``, ``fewest``: upper and lower count of right answers. ``share``: alive / right
        answers; ``null``: alive / decoys, NaN where the task has none; ``wrong``: their count. ``support``: the share
        of the contrast of all marks, of right and wrong answers, that right answers make; NaN without decoys.
        ``strongest``: the
        answer that is shown best, as its position in ``task.solutions``; ``strength``: the contrast of its weakest
        mark. ``kind``: one of :data:`KINDS`; ``first``, ``second``, ``together``, ``bound``, ``blur``, ``same_place``:
        see the module docstring. ``attrs`` hold ``solutions`` and ``decoys``, how many there were.

    Raises:
        MeasureError: As :func:`pool` says; or the run has another size than the task, or holds NaN.
    """
    task = run.task if task is None else task
    chosen, clips = clips_of(run, film, steps)
    patch = (run.grid.pixel_rows, run.grid.pixel_cols)
    right = pool(task, frames=frames, patch=patch)
    wanted = min(len(right.answers), 20) if decoys is None else decoys
    wrong = task.decoys(wanted) if wanted and hasattr(task, "decoys") else ()
    null = pool(task, wrong, frames=frames, patch=patch, decoys=True) if wrong else None
    n, n_wrong = len(right.answers), 0 if null is None else len(null.answers)
    found, noise, support = [], [], []
    for clip in clips:
        found.append(right.read(clip, seen))
        other = null.read(clip, seen) if null and n_wrong else None
        noise.append(np.nan if other is None else len(other.alive))
        support.append(np.nan if null is None or other is None else null.support(other.contrast))
    columns: dict[str, tuple[Any, str, str]] = {
        "alive": ([len(r.alive) for r in found], "right answers visible, at most", "answers"),
        "fewest": ([r.fewest for r in found], "right answers visible, at least", "answers"),
        "share": ([len(r.alive) / n for r in found], "right answers visible", "share"),
        "null": (np.array(noise) / max(n_wrong, 1), "wrong answers visible", "share"),
        "wrong": (noise, "wrong answers visible", "answers"),
        "support": (support, "shown by right answers", "share of what is shown"),
        "strongest": ([right.answers.index(r.strongest) for r in found], "strongest answer", "place in task.solutions"),
        "strength": ([r.strength for r in found], "weakest mark of the strongest answer", "contrast"),
        "kind": ([r.kind for r in found], "how they are shown", ""),
        "first": ([r.first for r in found], "contrast of the pair's stronger answer", "1 = drawn in full"),
        "second": ([r.second for r in found], "contrast of the pair's weaker answer", "1 = drawn in full"),
        "together": ([r.together for r in found], "contrast of the pair, summed", "1 = shared, 2 = each in full"),
        "bound": ([r.bound for r in found], "most that a mixture shows of the pair", "contrast"),
        "blur": ([r.blur for r in found], "values at a contested place", "effective number, 1 = sharp"),
        "same_place": ([r.same_place for r in found], "overlap of the places of rival answers", "share"),
    }
    return xr.Dataset(
        {key: ("step", np.array(v), {"long_name": name, "units": unit}) for key, (v, name, unit) in columns.items()},
        coords={
            "step": ("step", chosen, {"long_name": "denoising step"}),
            "sigma": ("step", [run.sigmas[s] for s in chosen]),
            "expert": ("step", [run.plan.at(s).expert for s in chosen]),
        },
        attrs={"solutions": n, "decoys": n_wrong, "seen": seen, "frames": list(frames)},
    )


def _fewest(own: np.ndarray) -> int:
    """Size of the smallest set of rows of ``own`` (answers, K) that together make every mark: set cover, exactly."""
    if len(own) < 2:
        return len(own)
    needed = own[:, own.any(0)].astype(float).T  # (marks, answers)
    cost = np.ones(needed.shape[1])
    found = milp(cost, constraints=LinearConstraint(needed, lb=1), bounds=Bounds(0, 1), integrality=cost)
    return round(found.fun)
