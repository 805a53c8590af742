"""Labels: what a probe reads, per unit or per scene, from the task's truth or from the model's answer.

A label is a frozen value with one function: scene -> a value per unit, or one for the whole scene; ``None`` leaves a
unit out. There are two kinds: *perception*, which the first picture and the prompt show (walls, places, named colours),
and *decision*, which the model has to find (its path, its first move, which of several routes).

``path``, ``route`` and ``first_move`` are those of the model's own finished video, right or wrong. Scenes whose video
gives no answer are left out.

When not to use: for a label that is the same in every scene; the ``position`` baseline reads it without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dit_lens.errors import AddressError, ProbeError
from dit_lens.probing.features import Features, Scene
from dit_lens.tasks import palette
from dit_lens.wan.token_grid import Grid, token_regions

OUT = -1  # the code of a unit that is left out
Kind = Literal["perception", "decision", "own"]


@dataclass(frozen=True)
class Label:
    """What a probe reads.

    Attributes:
        name: Its name.
        kind: "perception", "decision" or "own".
        per_token: Whether tokens of a scene differ.
        of: ``of(scene, grid)``: a value per token (N,), or one for the scene; None leaves out the scene or the token.
    """

    name: str
    kind: Kind
    per_token: bool
    of: Callable[[Scene, Grid], Any]


@dataclass(frozen=True, eq=False)
class Labels:
    """A label on features.

    Attributes:
        name: Its name.
        kind: "perception", "decision" or "own".
        codes: (scenes, units), index into ``classes``, or ``OUT`` for units that are left out.
        classes: The classes in order; empty for a regression.
        per_unit: Whether units of one scene differ, so that the score is of their order within a scene.
        values: (scenes, units) of a regression, NaN for units that are left out; None for classes.
    """

    name: str
    kind: Kind
    codes: np.ndarray
    classes: tuple[Any, ...]
    per_unit: bool
    values: np.ndarray | None = None

    @property
    def used(self) -> np.ndarray:
        """Units that count, bool (scenes, units)."""
        return self.codes != OUT if self.values is None else np.isfinite(self.values)

    def relabelled(self, other: np.ndarray) -> Labels:
        """The same label with other codes (or values) on the same units."""
        return replace(self, values=other) if self.regression else replace(self, codes=other)

    @property
    def regression(self) -> bool:
        """Whether the label is a number."""
        return self.values is not None


def label(features: Features, wanted: str | Label | np.ndarray | Sequence[Any], name: str = "own") -> Labels:
    """The label of every unit.

    Args:
        features: The scenes.
        wanted: A name (:data:`NAMES`, or a region of the tasks), a :class:`Label`, or an array (scenes,) or (scenes,
            units): floats make a regression, anything else classes; NaN or None leaves a unit out.
        name: Name of an array.

    Raises:
        ProbeError: An unknown name, an array of another shape, or a label of one class.
    """
    n, u = len(features.scenes), len(features.units)
    if isinstance(wanted, str):
        wanted = _named(wanted, features)
    if isinstance(wanted, Label):
        name, kind = wanted.name, wanted.kind
        raw = np.full((n, u), None, object)
        for i, scene in enumerate(features.scenes):
            raw[i] = _spread(wanted, wanted.of(scene, features.grid), features)
    else:
        kind = "own"
        given = np.asarray(wanted) if not isinstance(wanted, np.ndarray) else wanted
        if given.shape not in ((n,), (n, u)):
            raise ProbeError(
                f"labels of shape {given.shape} do not fit: give one per scene ({n},), or per unit ({n}, {u})"
            )
        raw = np.broadcast_to(given if given.ndim == 2 else given[:, None], (n, u))
        if given.dtype.kind == "f":
            values = np.array(raw, dtype=np.float64)
            if not np.isfinite(values).any() or np.nanstd(values) == 0:
                raise ProbeError(f"label {name!r} does not vary: nothing can be learned from it")
            used = np.isfinite(values)
            return Labels(name, kind, np.where(used, 0, OUT), (), _differ(values, used), values)
    flat = raw.reshape(-1)
    classes = tuple(sorted({_plain(v) for v in flat if v is not None}, key=lambda v: (str(type(v)), v)))
    if len(classes) < 2:
        raise ProbeError(
            f"label {name!r} has {len(classes)} class(es) in these scenes ({', '.join(map(str, classes)) or 'none'}): "
            "give scenes that differ in it, or another label"
        )
    index = {c: i for i, c in enumerate(classes)}
    codes = np.array([OUT if v is None else index[_plain(v)] for v in flat]).reshape(n, u)
    return Labels(name, kind, codes, classes, _differ(codes, codes != OUT))


def _differ(values: np.ndarray, used: np.ndarray) -> bool:
    return any(len(np.unique(row[use])) > 1 for row, use in zip(values, used, strict=True))


def _spread(spec: Label, found: Any, features: Features) -> Any:
    """A scene's value(s) on its units."""
    if found is None:
        return None
    if not spec.per_token:
        return [found] * len(features.units)
    values = np.asarray(found, object)
    if values.shape != (features.grid.n_tokens,):
        raise ProbeError(f"label {spec.name!r} gave shape {values.shape}: give one value for each of {features.grid}")
    if features.unit != "token":
        raise ProbeError(
            f"label {spec.name!r} is one per token, and these features are per {features.unit}: "
            "collect with reduce='raw'"
        )
    return values[list(features.units)]


def _named(name: str, features: Features) -> Label:
    if name in NAMES:
        return NAMES[name]
    known = sorted({r for s in features.scenes for r in getattr(s.task, "regions", None) or {}})
    if name not in known:
        raise ProbeError(f"unknown label {name!r}: choose from {sorted(NAMES)}, a region of the tasks {known}, or pass "
                         "an array or a dit_lens.probing.Label")  # fmt: skip
    return Label(name, "perception", True, lambda scene, grid: _region(scene, grid, name))


def _region(scene: Scene, grid: Grid, *names: str) -> Any:
    regions = getattr(scene.task, "regions", None) or {}
    there = [n for n in names if n in regions]
    if not there:
        return None
    try:
        masks = token_regions(grid, {n: regions[n] for n in there})
    except AddressError as error:
        raise ProbeError(f"{scene.task!r}: {error}") from error
    return np.any([masks[n] for n in there], axis=0)


def _first_frame(scene: Scene, grid: Grid, *names: str) -> Any:
    """A region of the first picture, repeated over all frames."""
    mask = _region(scene, grid, *names)
    return None if mask is None else np.tile(mask[: grid.rows * grid.cols], grid.frames)


def _cells(scene: Scene, grid: Grid, routes: Sequence[Any]) -> np.ndarray | None:
    """Tokens on any of these routes (sequences of (row, col)), in all frames; None where a board has no such cells."""
    mask = np.zeros((grid.rows, grid.cols), bool)
    for route in routes:
        for row, col in route:
            if row >= grid.rows or col >= grid.cols:
                return None
            mask[row, col] = True
    return np.tile(mask.reshape(-1), grid.frames)


def _walked(scene: Scene) -> bool:
    return getattr(scene.task, "name", None) in ("maze", "choose") and bool(scene.answer)


def _path(scene: Scene, grid: Grid) -> Any:
    return _cells(scene, grid, [scene.answer]) if _walked(scene) else None


def _route(scene: Scene, grid: Grid) -> Any:
    """Of the cells that lie on some right route but not on all: is it on the one that the model took?"""
    if not _walked(scene) or scene.answer not in scene.task.solutions or len(scene.task.solutions) < 2:
        return None
    own, *every = [_cells(scene, grid, [route]) for route in (scene.answer, *scene.task.solutions)]
    drawn = [e for e in every if e is not None]
    if own is None or len(drawn) < len(every):
        return None
    some, common = np.any(drawn, axis=0), np.all(drawn, axis=0)
    values = own.astype(object)
    values[~some | common] = None
    return values


def _first_move(scene: Scene, grid: Grid) -> Any:
    if not _walked(scene) or len(scene.answer) < 2:
        return None
    (r0, c0), (r1, c1) = scene.answer[:2]
    return {(-1, 0): "up", (1, 0): "down", (0, -1): "left", (0, 1): "right"}.get((r1 - r0, c1 - c0))


def _colour(scene: Scene, grid: Grid) -> Any:
    """The colour that the prompt names."""
    code = getattr(getattr(scene.task, "scene", None), "colour", None)
    return None if code is None else palette.NAMES[code]


def _hidden(scene: Scene, grid: Grid) -> Any:
    """Of the screen's tokens: is the ball behind this one, in this frame?"""
    hidden, screen = _region(scene, grid, "hidden"), _region(scene, grid, "screen")
    if hidden is None or screen is None:
        return None
    values = hidden.astype(object)
    values[~(screen | hidden)] = None
    return values


_TABLE = (
    Label("wall", "perception", True, lambda s, g: _first_frame(s, g, "walls", "screen")),
    Label("agent", "perception", True, lambda s, g: _first_frame(s, g, "agent", "ball")),
    Label("goal", "perception", True, lambda s, g: _first_frame(s, g, "goal")),
    Label("named_colour", "perception", False, _colour),
    Label("path", "decision", True, _path),
    Label("route", "decision", True, _route),
    Label("first_move", "decision", False, _first_move),
    Label("agent_now", "decision", True, lambda s, g: _region(s, g, "agent", "ball")),
    Label("hidden", "decision", True, _hidden),
)
#: The labels that the lab tasks offer by name.
NAMES = {spec.name: spec for spec in _TABLE}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
