"""Causal check of a probe: steer along it, erase it, and measure how the answer changes.

For a probe with normal u (in the activation's own coordinates) at (step, layer, hook), and each task with its base
run b, these arms:

    steer +s, -s     x <- x + s sd u   sd: standard deviation of x . u over the edited tokens of b, at the probe's place
    pattern +s, -s   x <- x + s sd m   m: how activations differ with the label on average, of the probe or given
    erase            x <- r(x)         LEACE where an eraser is given, else the projection of x - mu off all normals

each ``once`` (at the probe's step) and ``held`` (over many), and each beside ``draws`` random edits of the same size
per token: for steering a random unit vector orthogonal to u (or m), for erasing the removed part in a random
orthonormal basis (left -> V R, with left = Q R and V random). Of an edited run e, with final latents z:

    changed     the video gives another answer than b's         size      |z_e - z_b| / |z_b|
    score       score(e) - score(b)                             cosine    < z_e, z_b > / (|z_e| |z_b|)
    reached     the answer is one of ``target(task)``'s, where a target is given

The effect is what the probe's direction does *more* than random ones do: ``difference`` of :func:`summary`.

A normal is a filter: it is orthogonal to other variation and need not point where activations go when the label
changes. That direction is the pattern, for two classes the difference of their means (Haufe et al. 2014,
:mod:`.label_pattern`). Of four planted networks whose answer depends on the label, a push along the pattern showed it
in all, and one along the normal in one (docs/calibration.md): that a push along a normal does nothing says nothing.

When not to use: as proof that a direction is not used. It may have been pushed too weakly, at a step or layer that no
longer matters, or later layers may restore it from text or image. And an effect of a strong push may only show that the
model breaks there; compare ``size`` and the random arm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import xarray as xr

from dit_lens import checks
from dit_lens.address import ALL, Address
from dit_lens.errors import ProbeError
from dit_lens.interventions.erase import erase
from dit_lens.interventions.steer import steer
from dit_lens.probing.concept_erasure import Eraser
from dit_lens.probing.linear_probe import Probe
from dit_lens.runner import Item, Options, over_tasks
from dit_lens.runner.options import split_options
from dit_lens.stats.summary import summarise
from dit_lens.wan.editing import Intervention
from dit_lens.wan.lens import Lens
from dit_lens.wan.points import point
from dit_lens.wan.recording import record
from dit_lens.wan.reduce import Project
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import NAMES, Sampling, merged
from dit_lens.wan.token_grid import Grid

WHEN = ("once", "held")
MEASURES = {
    "changed": ("the answer is another one", "share"),
    "score": ("change of the score", "points of 0-1"),
    "size": ("change of the final latents", "share of their norm"),
    "cosine": ("final latents like the base's", "cosine"),
    "reached": ("the answer is the target's", "share"),
}
_BOUNDS = {"changed": (0.0, 1.0), "reached": (0.0, 1.0)}
KINDS = ("steer", "pattern", "erase")
NO_PATTERN = "none: only the normal was pushed, and that it does nothing says nothing"
Erasers = Eraser | Mapping[Address, Eraser]


def causal(
    lens: Lens,
    probe: Probe,
    tasks: Sequence[Any],
    *,
    at: str | Address | None = None,
    steps: Any = ALL,
    layers: Any = None,
    branches: Any = ALL,
    strengths: Sequence[float] = (2.0,),
    relative: bool = False,
    signs: Callable[[Any, Grid], np.ndarray] | None = None,
    kinds: Sequence[str] | None = None,
    contrast: tuple[Any, Any] | Callable[[Any], tuple[Any, Any]] | None = None,
    pattern: np.ndarray | Callable[[Any], np.ndarray] | None = None,
    eraser: Erasers | None = None,
    target: Callable[[Any], Any] | None = None,
    draws: int = 3,
    random: Callable[[np.random.Generator], np.ndarray] | None = None,
    seeds: Sequence[int] | None = None,
    regions: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Steer along a probe and erase it in generations of ``tasks``, beside random edits of the same size.

    Costs 1 + 2 (1 + draws) arms generations a task, ``once`` from its step on.

    Args:
        lens: The model that the probe was fitted on.
        probe: The probe to check.
        tasks: Each is generated once without edits.
        at: Where ``once`` acts; the probe's own address by default.
        steps: Where ``held`` acts; all steps by default.
        layers: Where ``held`` acts; the probe's layer by default.
        branches: Branches of both.
        strengths: Strengths of steering, above 0, in sd; each is applied with both signs.
        relative: Take strengths in norms of each token instead.
        signs: ``signs(task, grid)`` gives -1, 0 or 1 per token, (N,), all 1 by default, so that opposite labels can be
            pushed in opposite directions; tokens at 0 are not edited.
        kinds: Which of "steer" (along the normal), "pattern" and "erase" to try; all by default, "pattern" where the
            probe has one (as those of :func:`dit_lens.probe` do) or one is given. Random directions do not depend on
            it.
        contrast: For a probe of several classes the pair (from, to), or a function of the task that returns it; u is
            the normal of their difference, and m the difference of their patterns.
        pattern: m, (d,), or a function of the task; the probe's own by default. Of an eraser of one direction it is
            ``eraser.pattern``.
        eraser: One for all places, or one for each address, which acts in that address's branch: ``once`` takes that
            of ``at``, ``held`` all of them. By default what lies along the probe's normals is replaced by its mean in
            the probe's training data.
        target: Gives the task whose ``solutions`` count as reached.
        draws: Random edits for each arm.
        random: Draws a direction (d,) for the null of steering, such as the pattern of shuffled labels, instead of one
            uniform on the sphere; its component along u is removed.
        seeds: Noise seed of each task; 0, 1, ... by default.
        regions: As ``lens.generate`` takes them.
        **options: Sampling and running (:class:`dit_lens.runner.Options`); by default tasks are sampled as the probe's
            data was.

    Returns:
        Each measure (task, when, kind) and its null ``<name>_null`` (task, when, kind, draw); ``base_score``
        (task,) of the unedited runs, and ``sd`` (task, direction). ``attrs["pattern"]`` says whose pattern was pushed
        along, or that none was.

    Raises:
        ProbeError: A probe of another model, several classes without ``contrast``, a kind that is not there, a hook
            that is not one vector a token, signs of another shape, or tokens that do not differ along u.
    """
    place = _place(lens, probe, at)
    seeds = range(len(tasks)) if seeds is None else seeds
    strengths = [checks.number(s, "strengths", error=ProbeError) for s in strengths]
    if not tasks or len(seeds) != len(tasks) or draws < 1 or not strengths or min(strengths) <= 0:
        raise ProbeError(
            f"{len(tasks)} tasks, {len(seeds)} seeds, {draws} draws, strengths {tuple(strengths)}: give a seed for "
            "each task, at least one draw, and strengths above 0 (each is pushed both ways)"
        )
    how, _ = split_options(options, causal)
    if not how.given():
        how = _sampling(probe)
    asked = _kinds(kinds, probe, pattern)
    steered = tuple(k for k in KINDS[:2] if k == "steer" or pattern is not None or probe.patterns is not None)
    arms = {
        f"{kind} {s:+g}": (kind, s) for kind in steered if kind in asked for one in strengths for s in (one, -one)
    } | ({"erase": ("erase", 0.0)} if "erase" in asked else {})
    where = {"hook": place.hook, "branches": branches}
    spans = {
        "once": {**where, **_span(place.step, None, place.layer)},
        "held": {**where, **_span(steps, layers, place.layer)},
    }
    erasers = _erasers(probe, eraser, place)

    def row(item: Item) -> xr.Dataset:
        task, seed = item.task, seeds[item.index]
        sign, u = _signs(signs, task, item.lens.grid_of(task, how)), {"steer": _direction(probe, contrast, task)}
        if "pattern" in steered:
            u["pattern"] = _pattern(probe, pattern, contrast, task)
        kept = record(
            place.hook, reduce=Project(np.stack(list(u.values()), axis=1)), branches=place.branch, name="along",
            **_span(place.step, None, place.layer),
        )  # fmt: skip
        base = item.generate(seed=seed, record=kept)
        sd = base[replace(place, hook="along")].double().numpy()[sign != 0].std(0)
        if not relative and not all(s > 0 for kind, s in zip(steered, sd, strict=True) if kind in asked):
            raise ProbeError(
                f"the {int((sign != 0).sum())} edited tokens of {task!r} do not differ along the probe's directions, "
                "so that strengths have no unit: edit more tokens, or use relative=True"
            )
        unit = dict(zip(steered, np.ones(len(steered)) if relative else sd, strict=True))
        rng = np.random.default_rng([seed, item.index])
        drawn = [u, *({kind: _random(random, rng, one) for kind, one in u.items()} for _ in range(draws))]

        def edited(draw: int, when: str, kind: str) -> dict[str, float]:
            how_to, s = arms[kind]
            if how_to == "erase":
                turn = None if draw == 0 else [seed, item.index, draw]
                edits = _erase(erasers, turn, sign, place if when == "once" else None, spans[when])
            else:
                edits = _steer(drawn[draw][how_to], s * unit[how_to], sign, {**spans[when], "relative": relative})
            return dict.fromkeys(MEASURES, np.nan) | _read(task, base, _edited(item.lens, base, edits), target)

        found = item.sites(edited, draw=range(1 + draws), when=WHEN, kind=list(arms))
        values = found.transpose("when", "kind", "draw").drop_vars("draw")
        names = {name: f"{name}_null" for name in MEASURES}
        null = values.isel(draw=slice(1, None)).rename(names)
        shown = xr.merge([values.isel(draw=0), null]).assign(base_score=_score(task, base), sd=("direction", sd))
        return shown.assign_coords(direction=list(steered))

    given = {**options, **dict.fromkeys(how.given(), None), "sampling": how}
    found = over_tasks(lens, tasks, row, options=given, of=causal, regions=regions)
    if target is None:
        found = found.drop_vars(["reached", "reached_null"])
    for name, (long_name, units) in MEASURES.items():
        for one in {name, f"{name}_null"} & set(found.data_vars):
            found[one].attrs = {"long_name": long_name, "units": units}
    attrs: dict[str, Any] = {
        "probe": probe.label, "at": str(place), "held": str(spans["held"]), "model": lens.name, "seeds": list(seeds),
        "unit": "norm" if relative else "sd",
        "pattern": NO_PATTERN if "pattern" not in asked else "the probe's" if pattern is None else "given",
        "eraser": "the probe's normals" if eraser is None else "given",
    }  # fmt: skip
    return found.assign_attrs(attrs)


def summary(found: xr.Dataset, seed: int = 0) -> xr.Dataset:
    """Average a causal check over tasks, beside its null.

    Args:
        found: Result of :func:`causal`.
        seed: Of the random sign flips that stand in for all of them above twelve tasks.

    Returns:
        :func:`dit_lens.stats.summarise` of every metric, (metric, when, kind): the null of a task is the mean over its
        draws, and ``p_corrected`` is corrected over all kinds of edit by that metric.
    """
    parts = {
        name: summarise(found[name], found[f"{name}_null"].mean("draw"), bounds=_BOUNDS.get(name), seed=seed)
        for name in MEASURES
        if name in found
    }
    whole = xr.concat(parts.values(), xr.Variable("metric", list(parts)), combine_attrs="drop_conflicts")
    whole = whole.assign_coords(metric=list(parts))
    return xr.Dataset({k: v.drop_attrs() for k, v in whole.items()}, attrs={**found.attrs, **whole.attrs})


def _place(lens: Lens, probe: Probe, at: str | Address | None) -> Address:
    probe.check_model(lens.about)
    place = probe.address if at is None else Address.parse(at) if isinstance(at, str) else at
    where = point(place.hook)
    if where.axis != "N" or where.per_head:
        raise ProbeError(
            f"{place.hook!r} is {where.shape}, not one vector for each video token, so there is nothing to push along: "
            "probe resid_post, update, attn_out, cross_attn_out, mlp_out or another of shape B N d"
        )
    return place


def _sampling(probe: Probe) -> Sampling:
    """How the probe's data was sampled, as far as it is plain values."""
    recipe = probe.about.get("recipe", {})
    given = recipe.get("sampling", {}) if isinstance(recipe, Mapping) else {}
    plain = {k: v for k, v in given.items() if k in NAMES and k != "scheduler" and isinstance(v, (int, float, str))}
    return merged(plain, {})


def _kinds(asked: Sequence[str] | None, probe: Probe, pattern: Any) -> tuple[str, ...]:
    """The kinds to try, checked."""
    known = KINDS if pattern is not None or probe.patterns is not None else ("steer", "erase")
    if asked is None:
        return known
    if isinstance(asked, str) or not asked or any(kind not in known for kind in asked):
        more = "" if "pattern" in known else " (for \"pattern\" give pattern=, or fit the probe with dit_lens.probe)"
        raise ProbeError(f"kinds={asked!r}: give one or more of {list(known)} as a list{more}")
    if pattern is not None and "pattern" not in asked:
        raise ProbeError(f"pattern= is given and kinds={list(asked)} leave it out: leave out one of the two arguments")
    return tuple(asked)


def _direction(probe: Probe, contrast: Any, task: Any) -> np.ndarray:
    """The unit vector to push along, (d,)."""
    v = _contrasted(probe.normals, probe, contrast, task)
    size = np.linalg.norm(v)
    if not size > 0:
        raise ProbeError("the probe's direction is zero: it learned nothing, so there is nothing to push along")
    return v / size


def _contrasted(rows: np.ndarray, probe: Probe, contrast: Any, task: Any) -> np.ndarray:
    """One row (k, d) of a probe, or the difference of two classes' rows, (d,)."""
    known, pair = list(probe.classes), contrast(task) if callable(contrast) else contrast
    if len(rows) == 1:
        if pair is not None:
            raise ProbeError("contrast= chooses among several classes, and this probe has one direction: leave it out")
        return rows[0]
    if pair is None or len(pair) != 2 or any(c not in known for c in pair) or pair[0] == pair[1]:
        raise ProbeError(
            f"this probe has {len(rows)} directions and contrast={pair!r}: name two of its classes, (from, to), "
            f"or give a function of the task that does; the classes are {known}"
        )
    return rows[known.index(pair[1])] - rows[known.index(pair[0])]


def _pattern(probe: Probe, given: Any, contrast: Any, task: Any) -> np.ndarray:
    """The unit vector of how activations differ with the label, given or of the probe, (d,)."""
    if given is None and probe.patterns is not None:
        v = _contrasted(probe.patterns, probe, contrast, task)
        if not v.any():
            raise ProbeError(
                "the probe's pattern is zero, so that there is nothing to push along: give pattern=, or a probe "
                "without, dataclasses.replace(probe, patterns=None)"
            )
        return v / np.linalg.norm(v)
    v, d = np.asarray(given(task) if callable(given) else given, float), probe.n_features
    if v.shape != (d,) or not np.isfinite(v).all() or not v.any():
        raise ProbeError(f"pattern has shape {v.shape}: give one finite, non-zero vector ({d},), as probe.pattern is")
    return v / np.linalg.norm(v)


def _erasers(probe: Probe, eraser: Erasers | None, place: Address) -> Erasers:
    if eraser is None:
        _, s, basis = np.linalg.svd(probe.normals, full_matrices=False)
        basis = basis[s > s[0] * 1e-6]  # (k, d): the normals of several classes depend on each other
        mean = getattr(probe.pipeline[0], "mean_", None)
        return Eraser(basis.T, basis, np.zeros(basis.shape[1]) if mean is None else mean)
    if isinstance(eraser, Mapping) and place not in eraser:
        raise ProbeError(f"no eraser for {place}, where the probe is; there are those for {[str(a) for a in eraser]}")
    return eraser


def _span(steps: Any, layers: Any, layer: int) -> dict[str, Any]:
    """Steps and layers of an edit, the probe's ``layer`` for None; points outside the blocks (-1) have no layer."""
    return {"steps": steps} if layer < 0 else {"steps": steps, "layers": layer if layers is None else layers}


def _steer(v: np.ndarray, scale: float, sign: np.ndarray, span: Mapping[str, Any]) -> list[Intervention]:
    return [steer(v, s * scale, tokens=_tokens(sign == s), **span) for s in (1, -1) if (sign == s).any()]


def _erase(
    erasers: Erasers, turn: Sequence[int] | None, sign: np.ndarray, place: Address | None, span: Mapping[str, Any]
) -> list[Intervention]:
    """``turn``: a seed to turn the erasers with, or None; ``place``: of several erasers, that one alone."""
    tokens = _tokens(sign != 0)
    if isinstance(erasers, Eraser):
        return [erase(_turned(erasers, turn), tokens=tokens, **span)]
    return [
        erase(_turned(one, turn), tokens=tokens, hook=a.hook, branches=a.branch, **_span(a.step, None, a.layer))
        for a, one in erasers.items()
        if place in (None, a)
    ]


def _turned(eraser: Eraser, seed: Sequence[int] | None) -> Eraser:
    """An eraser that removes the same amounts from each token, in random directions; one seed gives one rotation."""
    if seed is None:
        return eraser
    v, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=eraser.left.shape))
    return replace(eraser, left=v @ np.linalg.qr(eraser.left)[1])


def _random(draw: Callable[[np.random.Generator], np.ndarray] | None, rng: np.random.Generator, u: np.ndarray) -> Any:
    """A unit vector orthogonal to u, (d,)."""
    for _ in range(10):
        v = rng.normal(size=len(u)) if draw is None else np.asarray(draw(rng), float)
        if v.shape != u.shape or not np.isfinite(v).all():
            raise ProbeError(
                f"random= gave shape {v.shape}: give a function of a generator that draws finite {u.shape}"
            )
        rest = v - (v @ u) * u
        size = np.linalg.norm(rest)
        if size > 1e-6 * np.linalg.norm(v):  # else it drew u: a user may well have drawn u by the same seed
            return rest / size
    raise ProbeError("random= draws only the direction that it is to be compared with: draw from more directions")


def _signs(signs: Callable[[Any, Grid], np.ndarray] | None, task: Any, grid: Grid) -> np.ndarray:
    sign = np.ones(grid.n_tokens) if signs is None else np.asarray(signs(task, grid), float)
    if sign.shape != (grid.n_tokens,) or not np.isin(sign, (-1, 0, 1)).all() or not sign.any():
        raise ProbeError(
            f"signs gave shape {sign.shape} for {task!r}: give -1, 0 or 1 for each of the {grid.n_tokens} tokens, not "
            "all of them 0"
        )
    return sign


def _tokens(mask: np.ndarray) -> tuple[int, ...] | None:
    return None if mask.all() else tuple(int(t) for t in np.flatnonzero(mask))


def _edited(lens: Lens, base: Run, edits: Sequence[Any]) -> Run:
    """The base run again with edits, resumed at the first edited step."""
    first = min(min(edit.where.steps_of(base.plan.n_steps)) for edit in edits)
    return lens.generate(resume=base.until(first), interventions=edits)


def _answer(task: Any, run: Run) -> Any:
    return task.answer(run.video) if hasattr(task, "answer") else None


def _score(task: Any, run: Run) -> float:
    return float(task.score(run.video).value) if hasattr(task, "score") else np.nan


def _read(task: Any, base: Run, run: Run, target: Callable[[Any], Any] | None) -> dict[str, float]:
    z, origin, said = run.final.double(), base.final.double(), _answer(task, run)
    return {
        "changed": float(said != _answer(task, base)) if hasattr(task, "answer") else np.nan,
        "score": _score(task, run) - _score(task, base),
        "size": float((z - origin).norm() / origin.norm()),
        "cosine": float((z * origin).sum() / (z.norm() * origin.norm())),
        "reached": np.nan if target is None else float(said in target(task).solutions),
    }
