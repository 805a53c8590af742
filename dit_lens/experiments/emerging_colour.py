"""Memory where the first frame cannot stand in for it: the colour of a ball of ``emerge``, while it is behind a screen.

Neither prompt nor first frame tell the colour; the model chooses it, and it must come out as it went in. So:

* ``hidden_colour``: does it come out the same (``same``, beside ``by_chance``: the colours with which the other scenes'
  balls came out), and can it be read, by scene-wise cross-validated ridge classifiers, from the tokens of the screen in
  latent frames in which the ball is behind it all the time? Kinds: ``hidden``; ``random``, as many tokens elsewhere in
  the same frames; ``before``, where the ball is in sight (what could be read at most); ``shuffled`` labels.
* ``hidden_colour_used``: the updates of those tokens, held over layers and steps, are taken from the same scene at
  another seed, at which the ball has another colour. ``follows`` is whether the ball comes out in the source's colour.
  Arms: ``hidden``, ``random``, and as positive controls ``before`` and ``after`` (the ball in sight on either side).

A latent frame holds four pixel frames, and a token in which the ball is hidden in some and seen in others shows it.
Such tokens are in no kind, so that levels whose screens hide less than a latent frame have none to read ("hard" has).

When not to use: as evidence of a memory in time. All frames are denoised together, and what is hidden may be held in
the tokens of frames where it is seen: that is what ``random`` and ``before`` are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.experiments.tokens_elsewhere import free_tokens
from dit_lens.interventions.patch import patch
from dit_lens.measures.label_decoding import decode, shuffled
from dit_lens.runner import Item, Options, over_tasks
from dit_lens.runner.options import split_options
from dit_lens.tasks.requirements import needed
from dit_lens.wan.lens import Lens
from dit_lens.wan.recording import record
from dit_lens.wan.reduce import Tokens
from dit_lens.wan.run import Run
from dit_lens.wan.token_grid import Grid

KINDS = ("hidden", "random", "before", "shuffled")
ARMS = ("hidden", "random", "before", "after")


@dataclass(frozen=True)
class Passage:
    """Tokens of one ball's way: where it is seen before its screen, hidden behind it, seen after it, and elsewhere."""

    before: tuple[int, ...]
    hidden: tuple[int, ...]
    after: tuple[int, ...]
    elsewhere: tuple[int, ...]

    def of(self, kind: str, seed: int) -> list[int]:
        """Tokens of a kind; ``random`` are as many of ``elsewhere`` as are hidden."""
        if kind != "random":
            return list(getattr(self, kind))
        chosen = np.random.default_rng(seed).choice(self.elsewhere, len(self.hidden), replace=False)
        return [int(t) for t in chosen]


def passages(task: Any, grid: Grid) -> list[Passage]:
    """The ways of the balls of ``emerge``.

    Args:
        task: A task of that family.
        grid: The token grid.

    Returns:
        One for each ball.

    Raises:
        MeasureError: Another family, or a ball that no latent frame hides as a whole.
    """
    scene: Any = getattr(task, "scene", None)
    if not hasattr(scene, "lanes"):
        raise MeasureError(f"{task!r} has no balls that come in: give tasks of 'emerge'")
    ways = [_way(scene, lane, grid) for lane in scene.lanes]
    used = {token for way in ways for part in way for token in part}
    out = []
    for before, hidden, after in ways:
        if not hidden:
            raise MeasureError(
                f"{task!r} hides a ball for less than a latent frame, so that no token is without it: take the level "
                "'hard', as in dit_lens.tasks.load('emerge-hard')"
            )
        rest = free_tokens(sorted(hidden), sorted(used), grid).tolist()
        if len(rest) < len(hidden):
            raise MeasureError(f"{task!r} has only {len(rest)} tokens elsewhere in these frames: take a larger board")
        seen, dark, again = (tuple(sorted(part)) for part in (before, hidden, after))
        out.append(Passage(seen, dark, again, tuple(rest)))
    return out


def _way(scene: Any, lane: Any, grid: Grid) -> tuple[set[int], set[int], set[int]]:
    """Tokens (before, hidden, after); a token is hidden if its latent frame has the ball behind the screen throughout.

    Tokens of latent frames in which it goes in or comes out are in ``before`` or ``after`` where it is in sight.
    """
    cells = lane.cells(scene.size)
    places = [scene.place(lane, f) for f in range(scene.size.num_frames)]
    before, hidden, after = set(), set(), set()
    for frame in range(1, grid.frames):
        inside = places[1 + grid.stride * (frame - 1) : 1 + grid.stride * frame]
        if all(lane.behind(at) for at in inside):
            hidden |= {grid.index(frame, *cell) for cell in cells[lane.screen : lane.screen + lane.hides]}
        before |= {grid.index(frame, *cells[at]) for at in inside if 0 <= at < lane.screen}
        after |= {grid.index(frame, *cells[at]) for at in inside if at >= lane.screen + lane.hides}
    return before, hidden, after


def hidden_colour(
    lens: Lens,
    tasks: Sequence[Any],
    *,
    at: Sequence[int] | None = None,
    layers: Any = "all",
    hook: str = "resid_post",
    folds: int = 5,
    seed: int = 0,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Colours before and after the screen, and how well they are read while hidden.

    Args:
        lens: The model.
        tasks: Of ``emerge``, with equally many balls.
        at: Steps to read, ``cond`` branch; by default the first and those a quarter, a half and three quarters on.
        layers: Which to read.
        hook: What is read.
        folds: Of the cross-validation, by scene.
        seed: Task i is generated with ``seed + i``.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``before``, ``after`` (task, ball): colours, "" where the video shows no single ball there; ``same`` and
        ``by_chance`` (task, ball), NaN there; ``accuracy`` (kind, task, step, layer), NaN for tasks without a read
        colour, and ``chance``, the share of the most frequent colour. ``attrs["unread"]`` counts balls without colours.
        Where fewer scenes than folds show their balls, there is no ``accuracy``.

    Raises:
        MeasureError: As of :func:`passages`, and for tasks with different numbers of balls.
    """
    n_steps = lens.plan(split_options(options)[0]).n_steps
    steps = sorted({round(q * (n_steps - 1)) for q in (0, 0.25, 0.5, 0.75)}) if at is None else list(at)
    if len({len(getattr(task.scene, "lanes", ())) for task in tasks}) > 1:
        raise MeasureError("these tasks have different numbers of balls: measure one level at a time")

    def row(item: Item) -> xr.Dataset:
        ways = passages(item.task, item.lens.grid_of(item.task, item.sampling))
        tokens = {k: [way.of(k, item.seed) for way in ways] for k in KINDS[:-1]}  # kind -> ball -> tokens
        wanted = sorted({t for balls in tokens.values() for ball in balls for t in ball})
        kept = record(hook, layers=layers, steps=tuple(steps), branches="cond", reduce=Tokens(tuple(wanted)))
        run = item.generate(record=[kept])
        x = run.array(hook, "cond")  # (step, layer, token, channel)
        index = {t: i for i, t in enumerate(wanted)}
        means = [
            [x.values[:, :, [index[t] for t in ball]].mean(2) for ball in tokens[kind]] for kind in KINDS[:-1]
        ]
        colours = {name: ("ball", seen) for name, seen in zip(("before", "after"), _colours(run), strict=True)}
        features = (("kind", "ball", "step", "layer", "channel"), np.array(means))
        return xr.Dataset({**colours, "x": features}, {"kind": list(KINDS[:-1]), "layer": x["layer"].values})

    def join(rows: Sequence[xr.Dataset]) -> xr.Dataset:
        found = _same(xr.concat([row.drop_vars(["x", "kind", "layer"]) for row in rows], "task"))
        if int((found["before"] != "").all("ball").sum()) >= folds:
            read = _decoded(rows, found["before"].values, folds, seed)
            found = found.merge(read.assign_coords(step=steps, layer=rows[0]["layer"].values))
        return found

    found = over_tasks(lens, tasks, row, seed=seed, options=options, of=hidden_colour, join=join)
    return found.assign_attrs(hook=hook, folds=folds, unread=int((found["before"] == "").sum()))


def _colours(run: Run) -> tuple[list[str], list[str]]:
    """Each ball's colour before and after its screen, "" where the video shows none."""
    answer = run.task.answer(run.video)
    balls = len(run.task.scene.lanes)
    return ([""] * balls, [""] * balls) if answer is None else ([b[0] for b in answer], [b[1] for b in answer])


def _same(found: xr.Dataset) -> xr.Dataset:
    """With ``same``, and ``by_chance``: the share of other scenes whose same ball came out in this colour."""
    before, after = found["before"].values, found["after"].values  # (task, ball)
    read = (before != "") & (after != "")
    alike = (before[:, None] == after[None]) & read[None]  # (task, other task, ball)
    others = read[None] & ~np.eye(len(before), dtype=bool)[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = np.where(read, (alike & others).sum(1) / others.sum(1), np.nan)
    dims = ("task", "ball")
    return found.assign(same=(dims, np.where(read, before == after, np.nan)), by_chance=(dims, chance))


def _decoded(rows: Sequence[xr.Dataset], colours: np.ndarray, folds: int, seed: int) -> xr.Dataset:
    """Accuracy by kind, task, step and layer, of tasks all of whose balls have a colour."""
    used = [int(i) for i in np.flatnonzero((colours != "").all(1))]
    balls = colours.shape[1]
    labels, scenes = colours[used].ravel(), np.repeat(used, balls)
    x = np.stack([rows[i]["x"].values for i in used])  # (task, kind, ball, step, layer, channel)
    n_steps, n_layers = x.shape[3:5]
    values = np.full((len(KINDS), len(rows), n_steps, n_layers), np.nan)
    for k, step, layer in np.ndindex(len(KINDS), n_steps, n_layers):
        mixed = KINDS[k] == "shuffled"
        features = x[:, 0 if mixed else k, :, step, layer].reshape(len(labels), -1)
        y = shuffled(labels, seed + step * n_layers + layer) if mixed else labels
        hit = decode(features, y, scenes, folds)
        values[k, used, step, layer] = hit.reshape(len(used), balls).mean(1)
    _, counts = np.unique(labels, return_counts=True)
    return xr.Dataset(
        {"accuracy": (("kind", "task", "step", "layer"), values), "chance": counts.max() / len(labels)},
        coords={"kind": list(KINDS)},
    )


def hidden_colour_used(
    lens: Lens,
    tasks: Sequence[Any],
    *,
    layers: Any = "all",
    steps: Any = "all",
    seed: int = 0,
    other_seed: int = 1000,
    tries: int = 4,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Whether the ball comes out in the colour of the run that its hidden tokens' updates are taken from.

    Args:
        lens: The model.
        tasks: Of ``emerge``; of each the ball ``index % balls`` is asked.
        layers: Where the patch is held.
        steps: Likewise.
        seed: Scene i is generated with ``seed + i``.
        other_seed: Its source with ``other_seed + i``, or the next of ``tries`` seeds, 1,000 apart, at which the ball
            has another colour.
        tries: How many sources to try.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``follows`` (kind, task): 1 where the ball comes out in the source's colour, NaN where base or source do not
        show one colour before and after, or no source has another; ``stays`` (kind, task), in the base's.

    Raises:
        MeasureError: As of :func:`passages`.
        TaskError: Tasks without answers.
    """
    needed(tasks, "answer", "solutions", cure="what comes out is read as an answer, so give your tasks both")

    def row(item: Item) -> xr.Dataset:
        base = item.clean()
        ways = passages(item.task, base.grid)
        ball = item.index % len(ways)
        own = _kept_colour(base, ball)
        source, theirs = None, None
        for number in range(tries if own else 0):
            source = item.generate(seed=other_seed + 1000 * number + item.index)
            theirs = _kept_colour(source, ball)
            if theirs and theirs != own:
                break
        usable = bool(own and theirs and theirs != own)

        def patched(kind: str) -> dict[str, float]:
            if not usable:
                return {"follows": np.nan, "stays": np.nan}
            edit = patch(steps=steps, layers=layers, source=source, tokens=ways[ball].of(kind, item.seed))
            out = _colours(item.generate(interventions=[edit]))[1][ball]
            return {"follows": float(out == theirs), "stays": float(out == own)}

        return item.sites(patched, kind=ARMS)

    found = over_tasks(lens, tasks, row, seed=seed, options=options, of=hidden_colour_used)
    return found.assign_attrs(other_seed=other_seed)


def _kept_colour(run: Run, ball: int) -> str:
    """The colour that a ball has before and after its screen; "" where it has not one."""
    before, after = (colours[ball] for colours in _colours(run))
    return before if before == after else ""
