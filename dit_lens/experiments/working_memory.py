"""Working memory: what of a thing that is out of sight can be read from the tokens that hide it, and is it used there?

The paper reads working memory off x0_hat: things behind others, or gone, come back as they were (section 5). Here the
hidden thing's *identity* and *place* are read by ridge classifiers from the tokens of its cover, in the latent frames
in which it is hidden, cross-validated by scene (:mod:`dit_lens.measures.label_decoding`); and the updates of those
tokens,
all layers and steps held, are taken from a run with another thing (or the same one elsewhere) behind the cover. With A
the tokens where the thing is in sight again, in either run,

    effect = < z[patched] - z_base , z_source - z_base >_A / || z_source - z_base ||_A^2        (final latents z)

is 0 for no effect and 1 for the source's outcome; ``flipped`` is whether the finished video gives the source's answer.

Controls. Decoding: shuffled labels; the input (``layer`` -1: the patch embedding, where nothing of the hidden thing can
be); and ``elsewhere``: for identity the same cover and frames with nothing behind, which shows what the prompt tells
every token; for place the same rows and frames at the far edge. Use: as many random tokens of the same frames, from the
same source; the hidden tokens from the same scene at another seed (``placebo``); and the positive control ``after``:
the tokens where the thing is in sight again, without which an effect of 0 would say nothing.

When not to use: as evidence of a recurrent memory. A video model sees all frames at once and, here, the first frame and
the prompt at every step: what is "remembered" stands in its input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.interventions.patch import patch
from dit_lens.measures.label_decoding import choice, decode, shuffled
from dit_lens.progress import Progress, silent
from dit_lens.stats.summary import task_names
from dit_lens.tasks import palette as p
from dit_lens.tasks.requirements import needed
from dit_lens.tasks.task import Task
from dit_lens.wan.lens import Lens
from dit_lens.wan.recording import record
from dit_lens.wan.reduce import Tokens
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import Sampling, SamplingArguments, SamplingLike, merged
from dit_lens.wan.token_grid import Grid

KINDS = ("hidden", "elsewhere", "shuffled")
ARMS = ("hidden", "random", "placebo", "after")
STEPS = 6  # of the sampler: enough for occlude, and a patched run costs two


@dataclass(frozen=True)
class Hiding:
    """One thing out of sight in one video, in tokens (indices on the grid). Make one per task for your own videos.

    ``hidden``: the cover, where and when the thing is behind it. ``elsewhere``: the same cover and frames, nothing
    behind. ``after``: the thing, in sight again. ``identity``: what it is. ``choices`` (items, candidates): for each
    hidden token, the tokens it is to be told from; ``true`` (items,) which it is; ``far``: the same off the cover.
    """

    hidden: tuple[int, ...]
    elsewhere: tuple[int, ...]
    after: tuple[int, ...]
    identity: Hashable
    choices: np.ndarray
    true: np.ndarray
    far: np.ndarray


def occluded(task: Any, grid: Grid) -> Hiding:
    """The rolling ball of ``occlude``: candidates for its place are the six rows.

    Errors: :class:`MeasureError` for another task.
    """
    scene = _scene(task)
    places = {
        name: np.argwhere(grid.tokens(task.regions[name]).reshape(grid.frames, grid.rows, grid.cols))
        for name in ("hidden", "ball")
    }
    spots = sorted({(int(f), int(c)) for f, _, c in places["hidden"]})
    out = [
        tuple(map(int, at))
        for at in places["ball"]
        if (at[2] > scene.screen + 1 if scene.left else at[2] < scene.screen)
    ]
    rows = range(grid.rows)
    empty = [r for r in rows if r not in (scene.row, scene.other_row)]
    edge = grid.cols - 1 if scene.left else 0
    return Hiding(
        hidden=tuple(grid.index(f, scene.row, c) for f, c in spots),
        elsewhere=tuple(grid.index(f, r, c) for f, c in spots for r in empty),
        after=tuple(grid.index(*at) for at in out),
        identity=p.NAMES[scene.colour],
        choices=np.array([[grid.index(f, r, c) for r in rows] for f, c in spots]),
        true=np.full(len(spots), scene.row),
        far=np.array([[grid.index(f, r, edge) for r in rows] for f, _ in spots]),
    )


def _scene(task: Any) -> Any:
    if getattr(task, "name", None) != "occlude":
        raise MeasureError(
            f"{task!r} hides nothing that is known here: give tasks of 'occlude', or your own hiding= and twin="
        )
    return task.scene


def recolour(task: Task) -> Task:
    """``occlude`` with a rolling ball of a third colour: the same but for that colour, in picture and prompt.

    Which one goes by the puzzle's seed, so that over puzzles no colour is more frequent than another.
    """
    scene = _scene(task)
    unused = [c for c in p.BALLS if c not in (scene.colour, scene.other_colour)]
    return replace(task, split=f"{task.split}/recolour", scene=replace(scene, colour=unused[task.seed % len(unused)]))


def relocate(task: Task) -> Task:
    """``occlude`` with the rolling ball in another row, the one with the least scenery, which makes way."""
    scene = _scene(task)
    rows = [r for r in range(p.GRID) if r not in (scene.row, scene.other_row)]
    row = min(rows, key=lambda r: sum(wall[0] == r for wall in scene.walls))
    walls = tuple(wall for wall in scene.walls if wall[0] != row)
    return replace(task, split=f"{task.split}/relocate", scene=replace(scene, row=row, walls=walls))


#: What is asked of a hidden thing, and the twin that differs in just that.
TWINS: Mapping[str, Callable[[Any], Any]] = MappingProxyType({"identity": recolour, "place": relocate})


def decodable_while_hidden(
    lens: Lens,
    tasks: Sequence[Any],
    *,
    hiding: Callable[[Any, Grid], Hiding] = occluded,
    twin: Callable[[Any], Any] = recolour,
    at: Sequence[int] = (0, 2, 4),
    layers: Any = "all",
    hook: str = "resid_post",
    folds: int = 5,
    seed: int = 0,
    sampling: SamplingLike | None = None,
    progress: Progress = silent,
    **given: Unpack[SamplingArguments],
) -> xr.Dataset:
    """How well identity and place are read while hidden: ``accuracy`` (what, kind, task, step, layer).

    Each scene gives two runs, the task and its ``twin`` with another identity, at one seed (its own); folds never split
    a scene. ``at``: steps, ``cond`` branch. ``layers``: which to read, beside -1, the input. ``chance`` (what,): the
    share of the most frequent label. ``folds``: as in :func:`dit_lens.measures.label_decoding.decode`.
    ``sampling``, or its arguments flat (:class:`dit_lens.Sampling`): six steps unless told otherwise.

    Errors: :class:`MeasureError` for fewer scenes than folds.
    """
    how = _sampled(merged(sampling, given, decodable_while_hidden))
    if len(tasks) < folds:
        raise MeasureError(f"{len(tasks)} scenes cannot be split in {folds} folds: give more tasks, or fewer folds")
    rows: dict[str, list[Any]] = {
        k: [] for k in ("hidden", "elsewhere", "label", "scene", "choices", "far", "true", "item")
    }
    for i, task in enumerate(tasks):
        progress(i, len(tasks), f"reading what is hidden, scene {i}")
        for one in (task, twin(task)):
            run, about, x, index = _features(lens, one, hiding, at, layers, hook, seed + i, how)
            rows["label"].append(about.identity)
            rows["scene"].append(i)
            for name in ("hidden", "elsewhere"):
                rows[name].append(x[:, :, [index[t] for t in getattr(about, name)]].mean(2))  # (steps, layers, d)
            for true, near, far in zip(about.true, about.choices, about.far, strict=True):
                rows["true"].append(int(true))
                rows["item"].append(i)
                rows["choices"].append(x[:, :, [index[int(t)] for t in near]])  # (steps, layers, candidates, d)
                rows["far"].append(x[:, :, [index[int(t)] for t in far]])
    data = {k: np.stack(v) if k in ("hidden", "elsewhere", "choices", "far") else np.array(v) for k, v in rows.items()}
    n_layers = data["hidden"].shape[2]
    values = np.full((2, len(KINDS), len(tasks), len(at), n_layers), np.nan)
    for s in range(len(at)):
        for layer in range(n_layers):
            mixed = seed + s * n_layers + layer
            for w, (asks, y, groups, sides) in enumerate(
                (
                    (decode, data["label"], data["scene"], ("hidden", "elsewhere")),
                    (choice, data["true"], data["item"], ("choices", "far")),
                )
            ):
                for k, side in enumerate((*sides, sides[0])):
                    labels = shuffled(y, mixed) if KINDS[k] == "shuffled" else y
                    hit = asks(data[side][:, s, layer], labels, groups, folds)
                    values[w, k, :, s, layer] = [hit[groups == g].mean() for g in range(len(tasks))]
    return xr.Dataset(
        {
            "accuracy": (("what", "kind", "task", "step", "layer"), values),
            "chance": ("what", [max(Counter(rows[name]).values()) / len(rows[name]) for name in ("label", "true")]),
        },
        coords={
            "what": ["identity", "place"],
            "kind": list(KINDS),
            "task": task_names(tasks),
            "step": list(at),
            "sigma": ("step", [run.sigmas[s] for s in at]),
            "layer": [-1, *run.array(hook, "cond")["layer"].values],
        },
        attrs={"hook": hook, "folds": folds, "seed": seed, "model": lens.name, "n_steps": run.plan.n_steps},
    )


def used_while_hidden(
    lens: Lens,
    tasks: Sequence[Any],
    *,
    hiding: Callable[[Any, Grid], Hiding] = occluded,
    twins: Mapping[str, Callable[[Any], Any]] = TWINS,
    layers: Any = "all",
    steps: Any = "all",
    seed: int = 0,
    other_seed: int = 1000,
    sampling: SamplingLike | None = None,
    progress: Progress = silent,
    **given: Unpack[SamplingArguments],
) -> xr.Dataset:
    """What the hidden tokens' updates do when they come from a twin: ``effect`` and ``flipped`` (what, arm, task).

    ``kept`` (task): whether the base run itself gives the right answer. ``layers``, ``steps``: where the patch is
    held. Scene i is generated with ``seed + i``; its placebo with ``other_seed + i``.
    ``sampling``, or its arguments flat (:class:`dit_lens.Sampling`): six steps unless told otherwise.

    Errors: :class:`MeasureError` for twins that end alike, or scenes that never show the thing again;
    :class:`TaskError` for tasks without answers.
    """
    how = _sampled(merged(sampling, given, used_while_hidden))
    needed(tasks, "answer", "solutions", cure="what comes out is read as an answer, so give your tasks both")
    effect = np.full((len(twins), len(ARMS), len(tasks)), np.nan)
    flipped, kept = np.zeros(effect.shape, bool), np.zeros(len(tasks), bool)
    for i, task in enumerate(tasks):
        progress(i, len(tasks), f"changing what is hidden, scene {i}")
        base = lens.generate(task, seed=seed + i, sampling=how)
        other = lens.generate(task, seed=other_seed + i, sampling=how)
        kept[i] = task.answer(base.video) in task.solutions
        for w, make in enumerate(twins.values()):
            pair = (task, make(task))
            source = lens.generate(pair[1], seed=seed + i, sampling=how)
            both = [hiding(one, base.grid) for one in pair]
            hidden, after = (sorted({t for h in both for t in getattr(h, name)}) for name in ("hidden", "after"))
            if not after:
                raise MeasureError(
                    f"{task!r} never shows the hidden thing again, so nothing can tell what became of it"
                )
            rest = _others(
                base, [one.regions.get("ball", np.zeros(base.grid.size, bool)) for one in pair], hidden, after
            )
            random = np.random.default_rng(seed + i).choice(rest, len(hidden), replace=False)
            toward = _at(source.final - base.final, base.grid, after)
            size = float((toward * toward).sum())
            if size == 0:
                raise MeasureError(f"{pair[1]!r} ends as {task!r} does: choose a twin that makes a difference")
            arms: dict[str, tuple[Any, Run]] = {
                "hidden": (hidden, source),
                "random": (random, source),
                "placebo": (hidden, other),
                "after": (after, source),
            }
            for a, arm in enumerate(ARMS):
                tokens, giver = arms[arm]
                edit = patch(steps=steps, layers=layers, source=giver, tokens=[int(t) for t in tokens])
                run = lens.generate(task, seed=seed + i, interventions=[edit], sampling=how)
                effect[w, a, i] = float((_at(run.final - base.final, base.grid, after) * toward).sum()) / size
                flipped[w, a, i] = task.answer(run.video) in pair[1].solutions
    return xr.Dataset(
        {
            "effect": (
                ("what", "arm", "task"),
                effect,
                {"long_name": "effect of a patch", "units": "0 base, 1 source"},
            ),
            "flipped": (("what", "arm", "task"), flipped),
            "kept": ("task", kept),
        },
        coords={"what": list(twins), "arm": list(ARMS), "task": task_names(tasks)},
        attrs={"seed": seed, "other_seed": other_seed, "model": lens.name, "n_steps": base.plan.n_steps},
    )


def _sampled(how: Sampling) -> Sampling:
    """Six steps unless told otherwise."""
    told = how.num_inference_steps is not None or how.preset is not None
    return how if told else how.but(num_inference_steps=STEPS)


def _features(
    lens: Lens,
    task: Any,
    hiding: Any,
    at: Sequence[int],
    layers: Any,
    hook: str,
    seed: int,
    how: Sampling,
) -> tuple[Run, Hiding, np.ndarray, dict[int, int]]:
    """(run, hiding, activations (steps, 1 + layers, tokens, d), token -> its index there)."""
    grid = lens.grid_of(task, how)
    about = hiding(task, grid)
    wanted = sorted({*about.hidden, *about.elsewhere, *map(int, about.choices.flat), *map(int, about.far.flat)})
    keep: Any = {"reduce": Tokens(tuple(wanted)), "steps": tuple(at), "branches": "cond"}
    records = [record("patch_embed", **keep), record(hook, layers=layers, **keep)]
    run = lens.generate(task, seed=seed, record=records, stop_after=max(at), sampling=how)
    first = run.array("patch_embed", "cond").values[:, None]
    x = np.concatenate([first, run.array(hook, "cond").values], axis=1)
    return run, about, x, {t: i for i, t in enumerate(wanted)}


def _at(x: torch.Tensor, grid: Grid, tokens: Sequence[int]) -> torch.Tensor:
    """Latents (C, F, h, w) at some tokens, zero elsewhere."""
    mask = torch.zeros(grid.n_tokens)
    mask[list(tokens)] = 1
    tall, wide = x.shape[-2] // grid.rows, x.shape[-1] // grid.cols
    board = mask.reshape(grid.frames, grid.rows, grid.cols)
    board = board.repeat_interleave(tall, 1).repeat_interleave(wide, 2)
    return x * board.repeat_interleave(x.shape[1] // grid.frames, 0)


def _others(run: Run, seen: Sequence[np.ndarray], hidden: Sequence[int], after: Sequence[int]) -> np.ndarray:
    """Tokens of the hidden frames that show neither cover in front of the thing nor the thing."""
    grid = run.grid
    frames = grid.frame_of(np.arange(grid.n_tokens))
    free = np.isin(frames, frames[list(hidden)])
    for mask in seen:
        free &= ~grid.tokens(mask)
    free[[*hidden, *after]] = False
    return np.flatnonzero(free)
