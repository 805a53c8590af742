"""Working memory: what can be read of a hidden thing from the tokens that hide it, and is it used there?

The paper reads working memory off x0_hat: things behind others, or gone, come back as they were (section 5). Here the
hidden thing's *identity* and *place* are read by ridge classifiers from the tokens of its cover, in the latent frames
in which it is hidden, cross-validated by scene (:mod:`dit_lens.measures.label_decoding`); and the updates of those
tokens, all layers and steps held, are taken from a run with another thing (or the same one elsewhere) behind the cover.
With A the tokens where the thing is visible again, in either run,

    effect = < z[patched] - z_base , z_source - z_base >_A / || z_source - z_base ||_A^2        (final latents z)

is 0 for no effect and 1 for the source's outcome; ``flipped`` is whether the finished video gives the source's answer.

The null of both is as many tokens elsewhere (``random``): drawn at random from the same frames, outside the cover in
front of the thing and wherever the thing is seen. For decoding the place these are the same candidates at a random
other column. It shows what any token holds, from the prompt and from what is in sight.

Further controls. Decoding: shuffled labels; the input (``layer`` -1: the patch embedding, which cannot hold the hidden
thing); and ``elsewhere``: for identity the same cover and frames with nothing behind; for place the same rows and
frames at the far edge. Use: the hidden tokens from the same scene at another seed (``placebo``); and the positive
control ``after``: the tokens where the thing is visible again, without which an effect of 0 would not be informative.

When not to use: as evidence of a recurrent memory. A video model sees all frames at once and, here, the first frame and
the prompt at every step: the "remembered" thing is in its input.
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
from dit_lens.experiments.tokens_elsewhere import all_tokens, candidates_aside, tokens_elsewhere
from dit_lens.interventions.patch import patch
from dit_lens.measures.label_decoding import choice, decode, shuffled
from dit_lens.runner import Item, Options, over_tasks
from dit_lens.runner.metrics import projected
from dit_lens.runner.options import split_options
from dit_lens.tasks import palette as p
from dit_lens.tasks.requirements import needed
from dit_lens.tasks.task import Task
from dit_lens.wan.lens import Lens
from dit_lens.wan.recording import record
from dit_lens.wan.reduce import Tokens
from dit_lens.wan.run import Run
from dit_lens.wan.token_grid import Grid

KINDS = ("hidden", "random", "elsewhere", "shuffled")
ARMS = ("hidden", "random", "placebo", "after")
SEEN = ("hidden", "random", "elsewhere", "identity", "choices", "aside", "far", "true")  # kept of a scene
STEPS = 6  # of the sampler: enough for occlude, and a patched run costs two


@dataclass(frozen=True)
class Hiding:
    """One hidden thing in one video, in tokens (indices on the grid). Make one per task for your own videos.

    ``hidden``: the cover, where and when the thing is behind it. ``elsewhere``: the same cover and frames, nothing
    behind. ``after``: the thing, visible again. ``identity``: its label. ``choices`` (items, candidates): for each
    hidden token, its candidate places; ``true`` (items,) the index of the right one; ``far``: the same off the cover.
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

    Raises:
        MeasureError: Another family of tasks.
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
            f"{task!r} has no known hidden thing: give tasks of 'occlude', or your own hiding= and twin="
        )
    return task.scene


def recolour(task: Task) -> Task:
    """``occlude`` with a rolling ball of a third colour; picture and prompt are otherwise the same.

    The colour depends on the task's seed, so that over tasks no colour is more frequent than another.
    """
    scene = _scene(task)
    unused = [c for c in p.BALLS if c not in (scene.colour, scene.other_colour)]
    return replace(task, split=f"{task.split}/recolour", scene=replace(scene, colour=unused[task.seed % len(unused)]))


def relocate(task: Task) -> Task:
    """``occlude`` with the rolling ball in another row, the one with the least scenery, which is removed."""
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
    **options: Unpack[Options],
) -> xr.Dataset:
    """How well identity and place are read while hidden.

    Each scene gives two runs, the task and its ``twin`` with another identity, at one seed (its own); folds never split
    a scene. Six sampling steps by default.

    Args:
        lens: The model.
        tasks: As many as there are folds, or more.
        hiding: Says where and when something is hidden.
        twin: Makes the partner.
        at: Steps to read, ``cond`` branch.
        layers: Which to read, beside -1, the input.
        hook: What is read.
        folds: As in :func:`dit_lens.measures.label_decoding.decode`.
        seed: Task i is generated with ``seed + i``.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``accuracy`` (label, kind, task, step, layer), labels ``identity`` and ``place``; ``chance`` (label): the share
        of the most frequent label.

    Raises:
        MeasureError: Fewer scenes than folds.
    """
    if len(tasks) < folds:
        raise MeasureError(f"{len(tasks)} scenes cannot be split in {folds} folds: give more tasks, or fewer folds")

    def row(item: Item) -> xr.Dataset:
        return _seen_while_hidden(item, (item.task, twin(item.task)), hiding, at, layers, hook)

    def join(rows: Sequence[xr.Dataset]) -> xr.Dataset:
        found = _decoded(rows, seed, folds)
        return found.assign_coords(step=list(at), layer=rows[0]["layer"].values)

    found = over_tasks(
        lens, tasks, row, seed=seed, options=_six_steps(options), of=decodable_while_hidden, join=join
    )
    return found.assign_attrs(hook=hook, folds=folds)


def _decoded(rows: Sequence[xr.Dataset], seed: int, folds: int) -> xr.Dataset:
    """Cross-validated accuracies from the kept activations of every scene."""

    def stacked(name: str) -> np.ndarray:
        return np.concatenate([row[name].values for row in rows])

    def scenes(name: str) -> np.ndarray:
        return np.concatenate([np.full(row.sizes[name], i) for i, row in enumerate(rows)])

    data = {name: stacked(name) for name in SEEN}
    asked = (
        (decode, data["identity"], scenes("run"), ("hidden", "random", "elsewhere")),
        (choice, data["true"], scenes("place"), ("choices", "aside", "far")),
    )
    n_steps, n_layers = data["hidden"].shape[1:3]
    values = np.full((2, len(KINDS), len(rows), n_steps, n_layers), np.nan)
    for s, layer in np.ndindex(n_steps, n_layers):
        for w, (asks, y, groups, sides) in enumerate(asked):
            for k, side in enumerate((*sides, sides[0])):
                labels = shuffled(y, seed + s * n_layers + layer) if KINDS[k] == "shuffled" else y
                hit = asks(data[side][:, s, layer], labels, groups, folds)
                values[w, k, :, s, layer] = [hit[groups == g].mean() for g in range(len(rows))]
    chance = [max(Counter(y.tolist()).values()) / len(y) for _, y, _, _ in asked]
    return xr.Dataset(
        {"accuracy": (("label", "kind", "task", "step", "layer"), values), "chance": ("label", chance)},
        coords={"label": ["identity", "place"], "kind": list(KINDS)},
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
    **options: Unpack[Options],
) -> xr.Dataset:
    """What the hidden tokens' updates do when they come from a twin.

    Six sampling steps by default.

    Args:
        lens: The model.
        tasks: With answers.
        hiding: Says where and when something is hidden.
        twins: What is asked -> the partner that differs in just that.
        layers: Where the patch is held.
        steps: Likewise.
        seed: Scene i is generated with ``seed + i``.
        other_seed: Its placebo with ``other_seed + i``.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``effect`` and ``flipped`` (label, kind, task), and ``kept`` (task): whether the base run itself gives the right
        answer.

    Raises:
        MeasureError: Twins that end alike, or scenes that never show the thing again.
        TaskError: Tasks without answers.
    """
    needed(tasks, "answer", "solutions", cure="what comes out is read as an answer, so give your tasks both")

    def row(item: Item) -> xr.Dataset:
        task, base = item.task, item.clean()
        other = item.generate(seed=other_seed + item.index)
        arms = {name: _arms(item, base, other, make(task), hiding) for name, make in twins.items()}

        def patched(label: str, kind: str) -> dict[str, Any]:
            pair, after, toward, givers = arms[label]
            tokens, giver = givers[kind]
            edit = patch(steps=steps, layers=layers, source=giver, tokens=[int(t) for t in tokens])
            run = item.generate(interventions=[edit])
            moved = _at(run.final - base.final, base.grid, after)
            return {"effect": projected(moved, toward), "flipped": task.answer(run.video) in pair.solutions}

        found = item.sites(patched, label=list(twins), kind=ARMS)
        return found.assign(kept=task.answer(base.video) in task.solutions)

    found = over_tasks(lens, tasks, row, seed=seed, options=_six_steps(options), of=used_while_hidden)
    found["effect"].attrs = {"long_name": "effect of a patch", "units": "0 base, 1 source"}
    return found.assign_attrs(other_seed=other_seed)


def _arms(item: Item, base: Run, other: Run, pair: Any, hiding: Any) -> tuple[Any, list[int], torch.Tensor, Any]:
    """(twin, tokens where the thing is in sight again, direction to the twin's end there, kind -> (tokens, source))."""
    task = item.task
    source = item.generate(pair)
    both = [hiding(one, base.grid) for one in (task, pair)]
    hidden, after = (all_tokens(both, name) for name in ("hidden", "after"))
    if not after:
        raise MeasureError(
            f"{task!r} never shows the hidden thing again, so its outcome cannot be read: leave this task out"
        )
    random = tokens_elsewhere((task, pair), both, base.grid, item.seed)
    toward = _at(source.final - base.final, base.grid, after)
    if float((toward * toward).sum()) == 0:
        raise MeasureError(f"{pair!r} ends as {task!r} does: choose a twin that makes a difference")
    givers = {
        "hidden": (hidden, source), "random": (random, source), "placebo": (hidden, other), "after": (after, source),
    }  # fmt: skip
    return pair, after, toward, givers


def _six_steps(options: Mapping[str, Any]) -> dict[str, Any]:
    """Six sampling steps by default."""
    sampling = split_options(options)[0]
    told = sampling.num_inference_steps is not None or sampling.preset is not None
    return dict(options) if told else {**options, "num_inference_steps": STEPS}


def _seen_while_hidden(
    item: Item, pair: Sequence[Any], hiding: Any, at: Sequence[int], layers: Any, hook: str
) -> xr.Dataset:
    """Activations of one scene and its twin.

    ``hidden``, ``random`` and ``elsewhere`` (run, step, layer, channel), ``identity`` (run); ``choices``, ``aside`` and
    ``far`` (place, step, layer, candidate, channel), ``true`` (place). Layer -1 is the input.
    """
    rows: dict[str, list[Any]] = {k: [] for k in SEEN}
    grid = item.lens.grid_of(pair[0], item.sampling)
    abouts = [hiding(one, grid) for one in pair]
    others = tokens_elsewhere(pair, abouts, grid, item.seed)
    for one, about in zip(pair, abouts, strict=True):
        places = (about.choices, candidates_aside(about, pair, abouts, grid, item.seed), about.far)
        means = {"hidden": about.hidden, "random": others[: len(about.hidden)], "elsewhere": about.elsewhere}
        wanted = sorted({int(t) for tokens in (*means.values(), *(at.flat for at in places)) for t in tokens})
        keep: Any = {"reduce": Tokens(tuple(wanted)), "steps": tuple(at), "branches": "cond"}
        records = [record("patch_embed", **keep), record(hook, layers=layers, **keep)]
        run = item.generate(one, record=records, stop_after=max(at))
        first = run.array("patch_embed", "cond").values[:, None]
        x = np.concatenate([first, run.array(hook, "cond").values], axis=1)  # (steps, 1 + layers, tokens, d)
        index = {t: i for i, t in enumerate(wanted)}
        rows["identity"].append(str(about.identity))
        for name, tokens in means.items():
            rows[name].append(x[:, :, [index[int(t)] for t in tokens]].mean(2))
        rows["true"] += [int(true) for true in about.true]
        for name, table in zip(("choices", "aside", "far"), places, strict=True):
            rows[name] += [x[:, :, [index[int(t)] for t in candidates]] for candidates in table]
    shape, wide = ("run", "step", "layer", "channel"), ("place", "step", "layer", "candidate", "channel")
    dims: dict[str, tuple[str, ...]] = {"identity": ("run",), "true": ("place",)}
    dims |= {"hidden": shape, "random": shape, "elsewhere": shape, "choices": wide, "aside": wide, "far": wide}
    found = xr.Dataset({name: (dims[name], np.stack(values)) for name, values in rows.items()})
    return found.assign_coords(layer=[-1, *run.array(hook, "cond")["layer"].values])


def _at(x: torch.Tensor, grid: Grid, tokens: Sequence[int]) -> torch.Tensor:
    """Latents (C, F, h, w) at some tokens, zero elsewhere."""
    mask = torch.zeros(grid.n_tokens)
    mask[list(tokens)] = 1
    tall, wide = x.shape[-2] // grid.rows, x.shape[-1] // grid.cols
    board = mask.reshape(grid.frames, grid.rows, grid.cols)
    board = board.repeat_interleave(tall, 1).repeat_interleave(wide, 2)
    return x * board.repeat_interleave(x.shape[1] // grid.frames, 0)
