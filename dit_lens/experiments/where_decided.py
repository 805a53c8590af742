"""Where is an answer decided? Four questions at every (step, layer), asked of the same tasks.

A task is run twice so that it ends in two answers a and b: under two prompts from one noise (:func:`other_prompt`), or
under one prompt from two noises (:func:`other_noise`). For each of the two runs, at a step s and after a layer l:

    decodable   a linear classifier, fitted on other tasks, tells from the stream which of the two answers is the run's
                own: of the mean over tokens that only a visits and of that over tokens that only b visits, it names
                the own one. Chance is one half; the null is the mean over classifiers fitted on shuffled labels
    readable    the model's own last steps make the same of that stream: the x0_hat of the (translated) layer lens is
                nearer to the run's own end than to the other's. Chance is one half

and, where both start from one noise,

    used        block l's update at step s alone is taken from the other run: how far x0_hat of that step moves to the
                other's, 0 to 1. The placebo takes it from the same scene at another seed
    sufficient  the stream after layer l is taken from the other run at step s *and all before*: share of finished
                videos that give the other answer. Taken from the run itself it changes nothing

They differ by what they mean. What is decodable may be unused; what is used may be undone at the next step, at which
prompt and picture enter again; only what is sufficient has settled the finished video, and what is sufficient at a
layer need not have been computed there, since the stream carries all that came before.

When not to use: the patches, for what the noise decides. Two runs from two noises differ by their noise everywhere, and
a patch would carry it over; ``used`` and ``sufficient`` are NaN there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
import xarray as xr

from dit_lens.address import Indices, groups, indices
from dit_lens.errors import MeasureError, TaskError
from dit_lens.experiments.local_effects import local_effects
from dit_lens.measures.label_decoding import fit_choice, names_true, shuffled
from dit_lens.measures.layer_lens import INPUT, layer_velocity
from dit_lens.measures.tuned_lens import fit_translators, task_key
from dit_lens.progress import silent
from dit_lens.runner import Item, Options, Sweep, over_tasks
from dit_lens.tasks.requirements import needed
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run
from dit_lens.wan.token_grid import Grid

Generate = Callable[[Any, int], Run]  # (task, seed) -> run
TRIES = 8  # other noises, until one gives another right answer
SHUFFLES = 10  # a single one may be right or wrong throughout


def other_prompt(generate: Generate, task: Any, seed: int) -> tuple[Run, Run] | None:
    """The task and its twin with another answer, from one noise."""
    return generate(task, seed), generate(task.twin("other_answer"), seed)


def other_noise(generate: Generate, task: Any, seed: int) -> tuple[Run, Run] | None:
    """The task from two noises that lead to different right answers; None where eight others lead to the same."""
    base = generate(task, seed)
    for number in range(1, TRIES + 1):
        other = generate(task, seed + 1000 * number)
        answer = task.answer(other.video)
        if answer in task.solutions and answer != task.answer(base.video):
            return base, other
    return None


def route_tokens(answer: Any, grid: Grid) -> np.ndarray:
    """Tokens that a route of (row, col) cells visits, in all frames, bool (N,)."""
    mask = np.zeros((grid.rows, grid.cols), bool)
    for row, col in answer:
        mask[row, col] = True
    return np.tile(mask.reshape(-1), grid.frames)


def where_decided(
    lens: Lens,
    tasks: Sequence[Any],
    fit: Sequence[Any],
    *,
    pair: Callable[[Generate, Any, int], tuple[Run, Run] | None] = other_prompt,
    tokens_of: Callable[[Any, Grid], np.ndarray] = route_tokens,
    steps: Indices = "all",
    held_layers: Any = "all",
    seed: int = 0,
    fit_seed: int = 10_000,
    placebo_seed: int = 20_000,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Ask all four questions at every step and layer.

    Args:
        lens: The model.
        tasks: Two or more to measure.
        fit: Others, on which classifiers and translators are fitted.
        pair: Makes the two runs: :func:`other_prompt`, :func:`other_noise`, or your own.
        tokens_of: ``(answer, grid) -> bool (N,)``: the tokens that an answer visits.
        steps: Where to ask.
        held_layers: Layers of ``sufficient``, which finishes a video for each step and layer.
        seed: Task i is generated with ``seed + i``.
        fit_seed: Task i of ``fit`` with ``fit_seed + i``.
        placebo_seed: Added to a task's seed for the placebo of ``used``.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``decodable``, ``decodable_null``, ``readable``, ``used``, ``used_null`` and ``sufficient`` (task, step, layer);
        layer -1 is the stream that enters block 0. The first three are means over the two runs. A task whose runs do
        not give two answers is NaN.

    Raises:
        TaskError: Too few tasks, or tasks without answers.
        MeasureError: A task that is in both lists, or fits without two answers.
    """
    needed([*tasks, *fit], "answer", "solutions", cure="the two runs are told apart by their answers")
    if len(tasks) < 2 or len(fit) < 2:
        raise TaskError(
            f"{len(tasks)} tasks to measure and {len(fit)} to fit on: give two or more of each, for example "
            "tasks.batch('choose', 16) and tasks.batch('choose', 16, split='train')"
        )
    layers = (INPUT, *range(lens.n_layers))
    held = [group[0] for group in groups(held_layers, lens.n_layers, "layer")]
    models: dict[str, Any] = {}

    def prepared(item: Item, at: Sequence[int]) -> dict[str, Any]:
        if not models:
            found = [_pair(item, pair, tokens_of, task, fit_seed + i) for i, task in enumerate(fit)]
            pairs = [one for one in found if one is not None]
            if len(pairs) < 2:
                raise MeasureError(f"{len(pairs)} of {len(fit)} tasks to fit on give two answers: give more of them")
            runs = [run for one in pairs for run in one.runs]
            x = np.concatenate([_features(lens, one, at, layers) for one in pairs])
            true = np.tile([0, 1], len(pairs))
            models["true"] = [_fitted(x, true)]
            models["shuffled"] = [_fitted(x, shuffled(true, fit_seed + i)) for i in range(SHUFFLES)]
            models["translators"] = fit_translators(lens, runs, steps=at)
        return models

    def row(item: Item) -> xr.Dataset:
        at = indices(steps, item.plan.n_steps, "step", "the plan")
        made = prepared(item, at)
        one = _pair(item, pair, tokens_of, item.task, item.seed)
        shape = (len(at), len(layers))
        names = ("decodable", "decodable_null", "readable", "used", "used_null", "sufficient")
        values = {name: np.full(shape, np.nan) for name in names}
        if one is not None:
            if {task_key(run) for run in one.runs} & made["translators"].tasks:
                raise MeasureError(f"{item.task!r} is also fitted on, so its numbers would be too good: give others")
            x = _features(lens, one, at, layers)
            for name, fitted in (("decodable", made["true"]), ("decodable_null", made["shuffled"])):
                for place in np.ndindex(shape):
                    hits = [names_true(one[place], x[:, *place], np.array([0, 1])).mean() for one in fitted]
                    values[name][place] = np.mean(hits)
            values["readable"] = _readable(lens, one, at, made["translators"])
            if torch.equal(*(run.latents[0] for run in one.runs)):
                other = item.generate(seed=item.seed + placebo_seed)
                moved = local_effects(lens, *one.runs, other, list(at)).transpose("kind", "step", "layer").values
                values["used"][:, 1:], values["used_null"][:, 1:] = moved
                values["sufficient"][:, [layer + 1 for layer in held]] = _sufficient(lens, one, at, held)
        return xr.Dataset(
            {name: (("step", "layer"), value) for name, value in values.items()},
            coords={"step": list(at), "layer": list(layers),
                    "depth": ("layer", [layer / lens.n_layers for layer in layers])},
        )  # fmt: skip

    found = over_tasks(lens, tasks, row, seed=seed, options=options, of=where_decided)
    units = {"used": "0 = own, 1 = the other's", "sufficient": "share"}
    for name in map(str, found.data_vars):
        unit = units.get(name.removesuffix("_null"), "share, chance .5")
        found[name].attrs = {"long_name": name.replace("_", ", "), "units": unit}
    return found.assign_attrs(pair=pair.__name__, fitted_on=len(fit))


class _Pair(NamedTuple):
    """Two runs with different answers, and the tokens that only one of them visits."""

    runs: tuple[Run, Run]
    only: tuple[np.ndarray, np.ndarray]  # token indices of the first run's answer, of the second's
    answers: tuple[Any, Any]


def _pair(item: Item, pair: Any, tokens_of: Any, task: Any, seed: int) -> _Pair | None:
    """The two runs of a task; None where they do not give two answers that visit different tokens."""
    runs = pair(lambda one, number: item.generate(one, seed=number), task, seed)
    answers = () if runs is None else tuple(run.task.answer(run.video) for run in runs)
    if not all(answers) or len(set(answers)) < 2:
        return None
    a, b = (tokens_of(answer, runs[0].grid) for answer in answers)
    only = (np.flatnonzero(a & ~b), np.flatnonzero(b & ~a))
    return _Pair(runs, only, (answers[0], answers[1])) if all(map(len, only)) else None


def _features(lens: Lens, one: _Pair, at: Sequence[int], layers: Sequence[int]) -> np.ndarray:
    """Means of the stream over the tokens of each answer: (2 runs, steps, layers, 2 candidates, channels)."""
    found = np.zeros((2, len(at), len(layers)), object)
    for r, run in enumerate(one.runs):
        for s, step in enumerate(at):

            def keep(x: torch.Tensor, hook: Any, place: tuple[int, ...]) -> None:
                found[place] = torch.stack([x[0, tokens].float().mean(0) for tokens in one.only]).cpu().numpy()

            hooks = [
                ("blocks.0.hook_resid_pre" if layer < 0 else f"blocks.{layer}.hook_resid_post",
                 lambda x, hook, place=(r, s, k): keep(x, hook, place))
                for k, layer in enumerate(layers)
            ]  # fmt: skip
            with torch.no_grad():
                lens.replay(run, run.plan.at(step), hooks)
    return np.stack([x for x in found.ravel()]).reshape(*found.shape, 2, -1)


def _fitted(x: np.ndarray, true: np.ndarray) -> dict[tuple[int, ...], Any]:
    """A classifier for each (step, layer), by index."""
    return {place: fit_choice(x[:, *place], true) for place in np.ndindex(*x.shape[1:3])}


def _readable(lens: Lens, one: _Pair, at: Sequence[int], translators: Any) -> np.ndarray:
    """Share of the two runs whose read-out is nearer to the own end, (steps, layers)."""
    ends = [run.final.float() for run in one.runs]
    rows = []
    for run, own, other in zip(one.runs, ends, reversed(ends), strict=True):
        read = []
        for step in at:
            velocity = layer_velocity(lens, run, step, "all", translators, entry=True)  # (layers, C, F, h, w)
            clean = run.latents[step].float() - run.sigmas[step] * velocity.float()
            near, far = (((clean - end) ** 2).flatten(1).sum(1) for end in (own, other))
            read.append((near < far).numpy())
        rows.append(read)
    return np.mean(np.array(rows, float), axis=0)


def _sufficient(lens: Lens, one: _Pair, at: Sequence[int], held: Sequence[int]) -> np.ndarray:
    """Whether the finished video gives the other answer, the stream held from the other run up to a step."""
    right = {one.answers[1], *one.runs[1].task.solutions}

    def other_answer(run: Run, base: Run, source: Run) -> float:
        return float(base.task.answer(run.video) in right)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="patching the whole stream")
        windows = [range(0, step + 1) for step in at]
        sweep = Sweep(
            lens, *one.runs, steps=windows, layers=list(held), hooks="resid_post", horizon="final",
            metric=other_answer, placebo="none", progress=silent,
        )  # fmt: skip
        found = sweep.raw()["value"].squeeze(["kind", "task", "seed", "hook", "head", "region", "branch"], drop=True)
    return np.asarray(found.transpose("step", "layer").values)
