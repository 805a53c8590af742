"""Serial depth: do denoising steps compute, or do they unfold a posterior that one pass already has?

Three questions, of tasks whose answers are chains of known length (``task.serial_length``):

    support_by_step   what x0_hat shows of right and wrong answers at each step, beside an ideal denoiser, which knows
                      the right ones, and a blind one, which does not know the task
    solved_by_steps   the finished videos with 1, 2, 3, ... steps, beside both denoisers *sampled* with the same
                      schedule from the same noise
    solved_by_depth   the finished videos with fewer layers, at few steps and at many

If steps add serial computation, then the model gains more from steps than the ideal denoiser does, long tasks gain more
than short ones, and steps make up for layers (:mod:`dit_lens.measures.step_gains` reads these off the results). If one
pass holds the posterior, then nothing wrong is shown at step 0 whatever the length, and the curves over steps are the
ideal denoiser's.

    short, long = matched_lengths("maze", 16, short=(3, 4), long=(7, 12))
    found = solved_by_steps(lens, [*short, *long], (1, 4, 20))

When not to use: ``solved`` of a few steps alone. Few steps blur, every cell of a long answer has to be drawn, and a
long answer has more of them: ``solved`` then falls with length although nothing serial is wrong. ``right``, the forced
choice among right and wrong answers, does not ask how sharp a cell is; ``pattern``, whose blanks can all be filled at
once, is the control. And skipped layers are nothing that a model was trained with: read ``solved_by_depth`` beside its
random layers, and better still, compare models that were trained at other depths.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.checks import count
from dit_lens.errors import MeasureError
from dit_lens.interventions import ablate
from dit_lens.measures.ideal_sampling import ideal_run
from dit_lens.measures.right_and_wrong import KINDS, Choices, choices, right_and_wrong
from dit_lens.runner import Item, Options, over_tasks
from dit_lens.tasks.requirements import needed
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run

STEPS = (1, 2, 3, 4, 6, 8, 12, 20, 40)
#: Which layers act: evenly spaced ones, the last ones, or any.
WHICH = ("even", "last", "random")
Length = Callable[[Any], int]


def serial_length(task: Any) -> int:
    """Steps of a task's answer that build on one another, as the task says."""
    return int(task.serial_length)


def drawn_cells(task: Any) -> int:
    """Patches of the board that the answer changes at any time: how much there is to draw, serial or not."""
    frames = task.frames.astype(np.int16)
    changed = (frames != frames[:1]).any((0, 3))  # (H, W)
    rows, cols = (size // 16 for size in changed.shape)
    return int(changed[: rows * 16, : cols * 16].reshape(rows, 16, cols, 16).any((1, 3)).sum())


def matched_lengths(
    name: str,
    n: int,
    short: tuple[int, int],
    long: tuple[int, int],
    *,
    length: Length = serial_length,
    seed: int = 0,
    most: int = 20_000,
) -> tuple[list[Any], list[Any]]:
    """Short and long unseen tasks in pairs, of which one half has one right answer and the other several.

    Both of a pair have one right answer, or both have several: with several the ideal denoiser has something to choose
    along the steps, with one it has not.

    Args:
        name: The family.
        n: How many pairs.
        short: The least and the greatest length of the short ones.
        long: Likewise.
        length: What is called length.
        seed: The first seed that is tried.
        most: How many seeds are tried.

    Returns:
        (short, long), the first of each a pair, and so on. Where a family has tasks of one sort only, all are of it.

    Raises:
        MeasureError: Ranges that meet, or too few such tasks.
    """
    if not short[0] <= short[1] < long[0] <= long[1]:
        raise MeasureError(f"short={short} and long={long}: give two ranges, the first below the second")
    sorts: dict[bool, tuple[list[Any], list[Any]]] = {False: ([], []), True: ([], [])}
    for number in range(seed, seed + most):
        task = puzzles.load(name, number)
        side = next((i for i, (low, high) in enumerate((short, long)) if low <= length(task) <= high), None)
        if side is not None:
            sorts[len(task.solutions) > 1][side].append(task)
        full = {several: min(map(len, both)) for several, both in sorts.items()}
        if min(full.values()) >= (n + 1) // 2 or (number - seed > 200 + 20 * n and max(full.values()) >= n):
            break
    few, many = full[False], full[True]
    one = min(few, max(n // 2, n - many))
    if one + min(many, n - one) < n:
        raise MeasureError(
            f"{few} pairs with one right answer and {many} with several were found among {most} tasks of {name!r}: "
            f"ask for fewer than {n}, or for other lengths"
        )
    return tuple([*sorts[False][i][:one], *sorts[True][i][: n - one]] for i in (0, 1))  # type: ignore[return-value]


def support_by_step(
    lens: Lens,
    tasks: Sequence[Any],
    seeds: Sequence[int] = (0,),
    *,
    steps: Sequence[int] | None = None,
    wrong: int = 8,
    frames: Sequence[int] = (-1,),
    length: Length = serial_length,
    **options: Unpack[Options],
) -> xr.Dataset:
    """What is shown of right and wrong answers at each step of a run, for the model, an ideal and a blind denoiser.

    Args:
        lens: The model.
        tasks: Tasks that draw their answers.
        seeds: Noise seeds of each task (:func:`dit_lens.runner.noise_seed`).
        steps: All by default.
        wrong: Wrong answers beside which the right ones are read.
        frames: Pixel frames in which ``wrong`` is read (:func:`dit_lens.measures.right_and_wrong`).
        length: What is called length.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``wrong``, the share that wrong answers make of what is shown, and ``nearest``, whether the nearest answer is a
        right one (task, seed, kind, step); coordinates ``length`` and ``solutions`` (task). The null of the network is
        kind ``ideal`` (its difference is the excess), and ``blind`` is what not knowing the task shows.

    Raises:
        TaskError: Tasks that cannot draw their answers.
        MeasureError: No tasks or seeds.
    """
    _checked(tasks, seeds, length)

    def row(item: Item) -> xr.Dataset:
        both = choices(item.task, item.lens, wrong)

        def shown(seed: int) -> Any:
            run = item.clean(seed=item.noise_seed(seed))
            return right_and_wrong(run, both, steps=steps, frames=frames).drop_vars("sigma")

        return _told(item.sites(shown, seed=seeds), item.task, both, length)

    found = over_tasks(lens, tasks, row, options=options, of=support_by_step)
    return _finished(found, lens)


def solved_by_steps(
    lens: Lens,
    tasks: Sequence[Any],
    num_inference_steps: Sequence[int] = STEPS,
    seeds: Sequence[int] = (0, 1),
    *,
    wrong: int = 8,
    length: Length = serial_length,
    **options: Any,
) -> xr.Dataset:
    """Finished videos at every number of steps: the model's, and those that an ideal and a blind denoiser sample.

    A task starts from the same noise at every number of steps and for every kind.

    Args:
        lens: The model.
        tasks: Tasks with a score that draw their answers.
        num_inference_steps: Numbers of steps.
        seeds: Noise seeds of each task; two or more say what redrawing alone does.
        wrong: Wrong answers beside which the right ones are read.
        length: What is called length.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``solved``, the task's own verdict, and ``right``, whether the nearest answer is a right one (task, seed,
        num_inference_steps, kind); coordinates ``length`` and ``solutions`` (task). The null of the network is kind
        ``ideal``, which has the same steps and all knowledge; the same at another ``seed`` is what redrawing does.

    Raises:
        TaskError: Tasks that cannot draw their answers, or have no score.
        MeasureError: No tasks, steps or seeds.
    """
    _checked(tasks, seeds, length, "score")

    def row(item: Item) -> xr.Dataset:
        both = choices(item.task, item.lens, wrong)

        def sampled(seed: int, num_inference_steps: int) -> dict[str, xr.DataArray]:
            run = item.generate(seed=item.noise_seed(seed), num_inference_steps=num_inference_steps)
            made = (run, *(ideal_run(item.lens, run, one) for one in (both.right, both.blind)))
            return _ends(made, both, "kind", KINDS)

        found = item.sites(sampled, seed=seeds, num_inference_steps=num_inference_steps)
        return _told(found, item.task, both, length)

    found = over_tasks(lens, tasks, row, options=options, of=solved_by_steps)
    return _finished(found, lens)


def solved_by_depth(
    lens: Lens,
    tasks: Sequence[Any],
    n_layers: Sequence[int],
    num_inference_steps: Sequence[int] = (4, 20),
    seeds: Sequence[int] = (0,),
    *,
    which: Sequence[str] = WHICH,
    draws: int = 2,
    wrong: int = 8,
    length: Length = serial_length,
    **options: Any,
) -> xr.Dataset:
    """Finished videos with some of the layers only, at few steps and at many; all others are skipped in every call.

    A skipped layer adds nothing to the stream (:func:`dit_lens.ablate`). That is out of distribution: the control is as
    many layers drawn at random (kind ``random``), which does the same harm to the stream and keeps no order of layers.

    Args:
        lens: The model.
        tasks: Tasks with a score that draw their answers.
        n_layers: How many layers act, from 1 to all.
        num_inference_steps: Numbers of steps.
        seeds: Noise seeds of each task.
        which: Of :data:`WHICH`: evenly spaced layers, both ends kept; the last ones; drawn ones.
        draws: Of the random layers, the same for every task.
        wrong: Wrong answers beside which the right ones are read.
        length: What is called length.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``solved`` and ``right`` (task, seed, num_inference_steps, n_layers, kind, draw), kinds as ``which``; those that
        are not drawn are equal in every draw. ``layers`` (n_layers, kind, draw) names the layers that act.

    Raises:
        TaskError: Tasks that cannot draw their answers, or have no score.
        MeasureError: No tasks, steps or seeds, or numbers of layers outside the model.
    """
    _checked(tasks, seeds, length, "score")
    count(draws, "draws", 1, error=MeasureError)
    if unknown := [one for one in which if one not in WHICH]:
        raise MeasureError(f"which={unknown} are unknown: choose from {list(WHICH)}")
    kept = acting_layers(lens.n_layers, n_layers, which, draws)

    def row(item: Item) -> xr.Dataset:
        both = choices(item.task, item.lens, wrong)

        def sampled(seed: int, num_inference_steps: int, n_layers: int) -> Any:
            once: dict[tuple[int, ...], dict[str, float]] = {}
            values = {name: np.zeros((len(which), draws)) for name in ("solved", "right")}
            for (k, kind), draw in itertools.product(enumerate(which), range(draws)):
                layers = kept[n_layers, kind, draw]
                if layers not in once:
                    skipped = [layer for layer in range(item.lens.n_layers) if layer not in layers]
                    run = item.generate(
                        seed=item.noise_seed(seed),
                        num_inference_steps=num_inference_steps,
                        interventions=[ablate(layers=skipped)] if skipped else [],
                    )
                    once[layers] = {"solved": float(run.score.solved), "right": both.nearest_right(run.final)}
                for name, array in values.items():
                    array[k, draw] = once[layers][name]
            dims = ("kind", "draw")
            coords = {"kind": list(which), "draw": range(draws)}
            return xr.Dataset({name: (dims, array) for name, array in values.items()}, coords)

        found = item.sites(sampled, seed=seeds, num_inference_steps=num_inference_steps, n_layers=n_layers)
        return _told(found, item.task, both, length)

    found = over_tasks(lens, tasks, row, options=options, of=solved_by_depth)
    shape = (len(n_layers), len(which), draws)
    names = [" ".join(map(str, kept[place])) for place in itertools.product(n_layers, which, range(draws))]
    found = found.assign_coords(layers=(("n_layers", "kind", "draw"), np.array(names).reshape(shape)))
    return _finished(found, lens)


def acting_layers(
    of: int, n_layers: Sequence[int], which: Sequence[str] = WHICH, draws: int = 2
) -> dict[tuple[int, str, int], tuple[int, ...]]:
    """Which layers act, by (number, kind, draw).

    Args:
        of: Layers of the model.
        n_layers: How many of them act.
        which: Of :data:`WHICH`.
        draws: Of the random ones.

    Raises:
        MeasureError: A number below 1 or above ``of``.
    """
    found: dict[tuple[int, str, int], tuple[int, ...]] = {}
    for n in n_layers:
        count(n, "n_layers", 1, of, error=MeasureError)
        for kind, draw in itertools.product(which, range(draws)):
            chosen = {
                "even": np.linspace(0, of - 1, n).round() if n > 1 else np.array([0]),
                "last": np.arange(of - n, of),
                "random": np.random.default_rng((draw, n)).choice(of, n, replace=False),
            }[kind]
            found[n, kind, draw] = tuple(sorted(int(layer) for layer in chosen))
    return found


def side_by_side_models(found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Results of several models on the same tasks, along ``model``: other depths, other training seeds, checkpoints.

    ``stats.mean_interval(joined["right"], over=("model", "task", "seed"))`` is then an interval over *trainings*, and
    there is none below five of them; over ("task", "seed") it is an interval over tasks for each model.

    Args:
        found: Name of a model -> what one of these experiments gave for it.

    Returns:
        All variables with the dim ``model`` in front, and the coordinate ``blocks`` (model), the layers of each.

    Raises:
        MeasureError: No results, or results of different tasks.
    """
    if not found:
        raise MeasureError("no model's results to put side by side: give name -> result")
    first = next(iter(found.values()))
    for name, one in found.items():
        if list(one["task"].values) != list(first["task"].values):
            raise MeasureError(f"{name!r} was measured on other tasks than {next(iter(found))!r}: give all the same")
    joined = xr.concat(
        list(found.values()), "model", join="outer", coords="minimal", compat="override", combine_attrs="drop_conflicts"
    )
    blocks = [int(one.attrs["n_layers"]) for one in found.values()]
    return joined.assign_coords(model=list(found), blocks=("model", blocks))


def _checked(tasks: Sequence[Any], seeds: Sequence[int], length: Length, *more: str) -> None:
    if not (len(tasks) and len(seeds)):
        raise MeasureError("serial depth needs at least one task and one seed, e.g. dit_lens.tasks.batch('maze', 16)")
    own = ("serial_length",) if length is serial_length else ()
    needed(tasks, "solutions", "render", "first_frame", *own, *more, cure="pass length= and tasks that have the others")


def _ends(made: Sequence[Run], both: Choices, dim: str, names: Sequence[str]) -> dict[str, xr.DataArray]:
    """Verdicts on finished runs, along ``dim``."""
    values = {
        "solved": [float(run.score.solved) for run in made],
        "right": [both.nearest_right(run.final) for run in made],
    }
    return {name: xr.DataArray(list(v), dims=(dim,), coords={dim: list(names)}) for name, v in values.items()}


def _told(found: xr.Dataset, task: Any, both: Choices, length: Length) -> xr.Dataset:
    return found.assign(length=length(task), solutions=len(both.right.answers), decoys=len(both.wrong))


def _finished(found: xr.Dataset, lens: Lens) -> xr.Dataset:
    names = {
        "wrong": ("shown by wrong answers only", "share"), "nearest": ("nearest answer is a right one", "share"),
        "solved": ("solved", "share"), "right": ("nearest answer is a right one", "share"),
    }  # fmt: skip
    found = found.set_coords(["length", "solutions", "decoys"])
    for name in map(str, found.data_vars):
        found[name].attrs = dict(zip(("long_name", "units"), names[name], strict=True))
    about = {
        "n_layers": lens.n_layers, "n": found.sizes["task"],
        "null": "kind 'ideal': the average over the right answers; kind 'blind': over right and wrong ones",
        "interval": "stats.mean_interval(..., over=('task', 'seed')): over tasks",
    }  # fmt: skip
    if "draw" in found.dims:
        about["null"] = "kind 'random': as many layers, drawn"
    return found.assign_attrs(about)
