"""Self-correction, and perception before action, read from the film of x0_hat; and recovery from a planted mistake.

``watch_answers`` generates and keeps, for every step, the verdict on x0_hat's answer
(:mod:`dit_lens.measures.answers_over_steps`) and three curves from 0 to 1. For a task in which a mover goes to a
place, with ``shown(place, frame)`` how much of the mover x0_hat shows there:

* ``identified``: shown(right end, last frame) minus the largest value of any other possible place. Does x0_hat single
  out the named thing? (In ``occlude``: how far the named ball is gone from its place, minus the other one.)
* ``arrived``: shown(right end, last frame).
* ``motion``: min over frames of shown(where the finished video has it, frame). Does it move as it will, in all frames?

*Perception before action* is the lag onset(motion) - onset(identified), per task and at one level for both. Its
nulls: ``fade-in``, the finished video faded in over the still first frame, in which everything happens at once; and
tasks whose motion is determined (one solution). x0_hat averages the motions that are still possible, so a lag that
exists only where several are possible is uncertainty about the way, not an order of seeing and moving.

*Self-correction* is :func:`dit_lens.measures.answers_over_steps.after_errors` of the verdicts: it is asked where an
error occurs, and blends of several answers are errors of their own kind (``blend``), because the ideal denoiser at the
same states (``ideal_verdict``, ``ideal_blend``) shows them as well and ends right without correcting anything.
``plant_mistakes`` asks for self-correction where the film shows no mistakes: a generation begins under another
instruction (the twin of the same picture) and continues under its own from step k (``planted``), beside the same
without the change (``kept``) and the task's own instruction throughout (``own``).

When not to use: ``identified`` as the time when the model *knows*. It measures the pixels of x0_hat; a probe may read
the same earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.measures.answers_over_steps import fade_in, onset, read_answers
from dit_lens.measures.blends import blends_of
from dit_lens.measures.ideal_denoiser import ideal_denoiser
from dit_lens.runner import Item, Options, over_tasks
from dit_lens.tasks import grid
from dit_lens.tasks import palette as p
from dit_lens.tasks.requirements import needed
from dit_lens.wan.lens import Lens

Curves = Callable[[Any, np.ndarray], Mapping[str, np.ndarray]]
CURVES = ("identified", "arrived", "motion")
FILMS = ("x0_hat", "fade-in")
LEVEL = 0.75  # both curves: above the half that x0_hat shows of each of two ways that are equally open


def shown_curves(task: Any, film: np.ndarray) -> dict[str, np.ndarray]:
    """The three curves of ``maze``, ``choose`` and ``occlude``.

    Args:
        task: The task.
        film: (S, F, H, W, 3); the last entry is the finished video.

    Returns:
        ``identified``, ``arrived`` and ``motion``, (S,) each. ``motion`` is NaN where the final video does not show
        exactly one mover (a ball behind its screen is exempt).

    Raises:
        MeasureError: Another family of tasks.
    """
    name = getattr(task, "name", None)
    if name not in ("maze", "choose", "occlude"):
        raise MeasureError(
            f"{task!r} is not a family with known movers: give maze, choose or occlude, or your own curves="
        )
    discs = np.stack([p.part_means(np.clip(shown, 0, 1)) for shown in film])[..., 0, :]  # (S, F, 6, 6, 3)
    read, scene = p.read(np.clip(film[-1], 0, 1))[..., 0], task.scene
    if name == "occlude":
        named, other = (_share(discs, code) for code in (scene.colour, scene.other_colour))
        end, home = (scene.row, task.truth[2]), (scene.row, 0 if scene.left else p.GRID - 1)
        others_home = (scene.other_row, 0 if scene.other_left else p.GRID - 1)
        identified = _gone(named, home) - _gone(other, others_home)
        mover, code, hides = named, scene.colour, True
    else:
        mover, end, code, hides = _share(discs, p.AGENT, blind_to=p.TRAIL), scene.goal, p.AGENT, False
        enterable = scene.free | grid.bit(end) | (grid.bit(scene.other) if name == "choose" else 0)
        rest = [cell for cell in grid.cells_of(enterable) if cell not in (scene.start, end)]
        identified = _last(mover, end) - np.max([_last(mover, cell) for cell in rest], axis=0)
    return {"identified": identified, "arrived": _last(mover, end), "motion": _motion(mover, read == code, hides)}


def watch_answers(
    lens: Lens,
    tasks: Sequence[Any],
    *,
    curves: Curves | None = shown_curves,
    seed: int = 0,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Verdicts on the answer in every step's x0_hat, and curves of what it shows.

    Args:
        lens: The model.
        tasks: With ``answer`` and ``solutions``.
        curves: ``(task, film) -> {name: (steps + 1,)}``; None for verdicts alone.
        seed: Task i is generated with ``seed + i``.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``verdict``, ``blend`` (task, step), and, of tasks that can draw their answers, ``ideal_verdict``,
        ``ideal_blend``: the same of the ideal denoiser at the run's states, whose end is its last x0_hat. Every curve
        (kind, task, step) for x0_hat (``film``) and for its ``fade-in``. Step n_steps is the finished video.
        ``solutions`` (task): how many right answers the task has.

    Raises:
        MeasureError: No tasks, and as ``curves`` and :func:`dit_lens.measures.answers_over_steps.verdicts` say.
    """
    if not tasks:
        raise MeasureError("no tasks to watch: give some, for example dit_lens.tasks.batch('choose', n=30)")

    def row(item: Item) -> xr.Dataset:
        task, run = item.task, item.clean()
        film = np.concatenate([run.film(), run.video[None]])
        found = read_answers(run, film)
        if all(hasattr(task, name) for name in ("render", "first_frame")):
            best = ideal_denoiser(task, item.lens).film(run)
            of_ideal = read_answers(run, np.concatenate([best, best[-1:]]))
            found = found.assign({f"ideal_{name}": value for name, value in of_ideal.items()})
        if curves is not None:
            both = [curves(task, clip) for clip in (film, fade_in(film, film[-1][0]))]
            for name in both[0]:
                found[name] = (("kind", "step"), np.stack([one[name] for one in both]))
            found = found.assign_coords(kind=list(FILMS))
        return found.assign(solutions=len(task.solutions))

    return over_tasks(lens, tasks, row, seed=seed, options=options, of=watch_answers)


def perception_lag(watched: xr.Dataset, level: float = LEVEL) -> xr.Dataset:
    """Onsets of the curves, and ``lag`` = onset(motion) - onset(identified).

    Args:
        watched: From :func:`watch_answers`.
        level: The level of an onset, 0 to 1.

    Returns:
        (kind, task), in steps; NaN where a curve has no onset.
    """
    found = xr.Dataset({name: onset(watched[name], level) for name in CURVES})
    return found.assign(lag=found["motion"] - found["identified"], solutions=watched["solutions"])


def other_instruction(task: Any) -> Any:
    """The twin with another answer, which in ``choose`` is the same picture under another prompt."""
    needed([task], "twin", cure="pass twin=function, which gives the same picture under another instruction")
    return task.twin("other_answer")


def plant_mistakes(
    lens: Lens,
    tasks: Sequence[Any],
    at: Sequence[int],
    *,
    twin: Callable[[Any], Any] = other_instruction,
    seed: int = 0,
    other_seed: int = 1000,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Begin under the twin's instruction, continue under the task's own from step k, and read the final answer.

    Args:
        lens: The model.
        tasks: With answers, and twins that have the task's picture, so that only the instruction changes.
        at: Steps k, from 1.
        twin: Makes the partner.
        seed: Task i is generated with ``seed + i``.
        other_seed: Seed of the runs under the task's own instruction.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``outcome`` (kind, task, step, ending): is the final answer right for the task (``own``), for the twin, or
        neither? A blend of answers is neither. Kinds are ``planted``, ``kept`` and ``own`` (the module docstring).
        ``shows`` (task, step): whether x0_hat of step k - 1 already gave the twin's answer.

    Raises:
        MeasureError: A twin with another picture, or a step with nothing before or after it.
        TaskError: Tasks without answers or twins.
    """
    needed(tasks, "answer", "solutions", cure="a planted mistake is read as an answer, so give your tasks both")
    kinds, endings = ("planted", "kept", "own"), ("own", "twin", "neither")

    def row(item: Item) -> xr.Dataset:
        task, wrong = item.task, twin(item.task)
        if not np.array_equal(np.asarray(wrong.image), np.asarray(task.image)):
            raise MeasureError(
                f"{wrong!r} shows another picture than {task!r}: give a twin that differs only in the instruction"
            )
        own = item.generate(seed=other_seed + item.index)
        if not all(0 < k < own.plan.n_steps for k in at):
            raise MeasureError(f"at={list(at)}: plant at steps from 1 to {own.plan.n_steps - 1}")
        kept = item.generate(wrong)
        blends = blends_of(task, (own.grid.pixel_rows, own.grid.pixel_cols), wrong=wrong.solutions)

        def gives(video: np.ndarray, answers: Sequence[Any]) -> bool:
            return task.answer(video) in answers and not (blends is not None and blends(video))

        def planted(step: int) -> dict[str, Any]:
            # The same latents and sampler history, under the task's own text.
            changed = replace(kept.until(step), conditions=own.conditions, prompt=own.prompt, task=task)
            outcome = np.zeros((len(kinds), len(endings)), bool)
            for k, run in enumerate((item.lens.generate(resume=changed), kept, own)):
                video = run.video
                outcome[k, 0 if gives(video, task.solutions) else (1 if gives(video, wrong.solutions) else 2)] = True
            shows = gives(kept.decode(kept.x0_hat(step - 1)), wrong.solutions)
            return {"outcome": (("kind", "ending"), outcome), "shows": shows}

        return item.sites(planted, step=at).assign_coords(kind=list(kinds), ending=list(endings))

    found = over_tasks(lens, tasks, row, seed=seed, options=options, of=plant_mistakes)
    return found.assign_attrs(other_seed=other_seed)



def _share(discs: np.ndarray, code: int, blind_to: int | None = None) -> np.ndarray:
    """How much of a colour each disc shows over bare floor, (..., 3) -> (...): 0 floor, 1 the colour.

    ``blind_to``: another colour that is ignored (the trail, where the agent is measured).
    """
    floor, colour = (p.PALETTE[c].astype(float) for c in (p.BACKGROUND, code))
    way = colour - floor
    if blind_to is not None:
        off = p.PALETTE[blind_to].astype(float) - floor
        way = way - (way @ off) / (off @ off) * off
    return (discs - floor) @ way / (way @ way)


def _last(shares: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """The shares (S, F, rows, cols) of one cell in the last frame, (S,)."""
    return shares[:, -1, cell[0], cell[1]]


def _gone(shares: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    return 1 - _last(shares, cell)


def _motion(mover: np.ndarray, final: np.ndarray, hides: bool) -> np.ndarray:
    """Min over frames of the mover's share where the final video has it, (S,); ``final``: bool (F, 6, 6)."""
    shares = []
    for f, board in enumerate(final):
        places = np.argwhere(board)
        if len(places) == 0 and hides:
            continue
        if len(places) != 1:
            return np.full(len(mover), np.nan)
        shares.append(mover[:, f][(slice(None), *places[0])])
    return np.min(shares, axis=0)
