"""``calibrate``: every method on every plant that concerns it, and on networks without a mechanism.

    found = dl.planted.calibrate(methods=["patch", "probes"], plants=["head", "unused label"])
    found.plants.sel(approach="patch")     # recall, false findings, AUC, error (plant, seed)

With ``folder`` each measurement is kept as it is finished, and the same call goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.planted import faithfulness, nulls, suite, whole_maps
from dit_lens.planted.judging import judge, score
from dit_lens.planted.methods import Method, chosen
from dit_lens.planted.planting import plant
from dit_lens.planted.specs import Spec
from dit_lens.planted.whole_specs import WholeMap
from dit_lens.progress import Progress, silent
from dit_lens.runner.options import Running
from dit_lens.runner.work import run
from dit_lens.stats import share_interval
from dit_lens.store import open_store
from dit_lens.store.base import Store
from dit_lens.wan.versions import versions

RANKED = ("attention of a layer", "two redundant layers", "two layers that cancel", "and of two layers")
SHAPES = ("three", "two", "ramp", "one", "none")


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a calibration found; tables that were not asked for are empty.

    Attributes:
        plants: ``recall, false, any_false, decoys, auc, error, cells, members, seconds`` (plant, approach, seed), where
            an approach is a method; NaN where it is not tried on a plant.
        graded: The same (plant, rest, approach, seed).
        nulls: ``found``, whether any cell was called, (kind, model, approach).
        untrained: The same of random networks on tasks that they can see.
        faithfulness: ``faithfulness`` (plant, rest, ranking, order, size), ``cpr`` and ``cmd``.
        maps: ``cut, place, p, off`` (shape, layers, seed) and ``correlation`` (shape, layers, seed, evidence).
    """

    plants: xr.Dataset
    graded: xr.Dataset
    nulls: xr.Dataset
    untrained: xr.Dataset
    faithfulness: xr.Dataset
    maps: xr.Dataset

    def false_rate(self) -> xr.Dataset:
        """Share of networks without a mechanism in which a method finds anything, with its interval (Blaker)."""
        found = self.nulls["found"].stack(network=("kind", "model"))
        return share_interval(found.reset_index("network", drop=True), "network")


def calibrate(
    methods: Sequence[str] | None = None,
    plants: Sequence[str] | Mapping[str, Spec] | None = None,
    *,
    seeds: Sequence[int] = (0,),
    tasks: int = 8,
    rests: Sequence[float] = (),
    models: int = 0,
    untrained: int = 0,
    ranked: Sequence[str] = (),
    maps: Sequence[WholeMap] = (),
    folder: str | Path | Store | None = None,
    kept: bool = False,
    progress: Progress = silent,
) -> Calibration:
    """Run methods on plants and on nulls.

    Args:
        methods: Names of ``METHODS``; all of them by default.
        plants: Names of ``suite.PLANTS``, or specs of your own by name; all of the suite by default.
        seeds: Networks of each plant.
        tasks: Tasks of each measurement; probes get four times as many.
        rests: Strengths of the rest for the graded table.
        models: Null networks of each kind, of :attr:`Method.nulls`; of one kind alone, so many more.
        untrained: Random networks that are asked what they can see.
        ranked: Plants whose circuits are measured.
        maps: Whole maps.
        folder: Finished measurements are kept there.
        kept: Measure nothing, and tabulate what the folder holds of this.
        progress: Called with the number of finished measurements.

    Returns:
        The tables.

    Raises:
        MeasureError: For names that do not exist, or ``kept`` without a folder.
        StoreError: For a folder of other versions.
    """
    some = chosen(methods)
    specs = _plants(plants)
    unknown = [name for name in ranked if name not in suite.PLANTS]
    if unknown:
        raise MeasureError(f"unknown plants {unknown}: choose from {list(suite.PLANTS)}")
    work = _Work(tasks)
    for name, spec in specs.items():
        for seed in seeds:
            for method in some:
                if method.concerns(spec):
                    place = {"plant": name, "approach": method.name, "seed": seed}
                    work.add("plants", place, _scored(method, spec), spec)
    for name, spec in suite.GRADED.items() if rests else ():
        for rest in rests:
            for seed in seeds:
                for method in some:
                    noisy = replace(spec, rest=rest)
                    if method.concerns(noisy):
                        place = {"plant": name, "rest": rest, "approach": method.name, "seed": seed}
                        work.add("graded", place, _scored(method, noisy), noisy)
    for kind in nulls.KINDS:
        for method in some:
            # As many networks for every method, also for one whose null holds in one kind of them.
            for model in range(models * len(nulls.KINDS) // len(method.nulls) if kind in method.nulls else 0):
                place = {"kind": kind, "model": model, "approach": method.name}
                work.add("nulls", place, _found(method, kind, linked=False))
    for model in range(untrained):
        for method in some:
            work.add("untrained", {"model": model, "approach": method.name}, _found(method, "random", linked=True))
    for name in ranked:
        for rest in rests or (0.0,):
            spec = suite.PLANTS[name]
            work.add("faithfulness", {"plant": name, "rest": rest}, _curves(spec, rest), spec)
    for spec in maps:
        place = {"shape": spec.shape, "layers": spec.n_layers, "seed": spec.drawn}
        work.add("maps", place, _mapped(spec), spec)
    if kept:
        if folder is None:
            raise MeasureError("kept=True tabulates what a folder holds: give folder=, or leave kept out")
        there = open_store(folder, work.kind, work.identity()).keys()
        work.items = {key: item for key, item in work.items.items() if key in there}
    run(work, Running(folder=folder, progress=progress))
    return Calibration(**{name: work.table(name) for name in Calibration.__dataclass_fields__})


Make = Callable[[Mapping[str, Any], int], xr.Dataset]  # place, tasks -> numbers


@dataclass(frozen=True)
class _Unit:
    """A measurement of one table; ``key`` names it in a store."""

    key: str

    @property
    def group(self) -> str:
        return self.key

    def __str__(self) -> str:
        return self.key


class _Work:
    """Measurements by the table that they belong to, as :func:`dit_lens.runner.work.run` takes them."""

    kind = "calibration"

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.items: dict[str, tuple[str, Mapping[str, Any], Make]] = {}
        self.rows: Mapping[str, xr.Dataset] = {}

    def add(self, table: str, place: Mapping[str, Any], make: Make, spec: Spec | None = None) -> None:
        """Add a measurement; one of a spec is kept under its contents, since names of specs are the caller's."""
        parts = [table, *map(str, place.values())]
        if spec is not None:
            parts.append(sha256(repr(spec).encode()).hexdigest()[:8])
        self.items["-".join(parts)] = table, place, make

    @property
    def units(self) -> list[_Unit]:
        return [_Unit(key) for key in self.items]

    def identity(self) -> dict[str, Any]:
        return {"versions": versions(), "tasks": self.tasks}

    def cost(self, unit: _Unit) -> float:
        return 1.0

    def measure(self, units: Sequence[_Unit], store: Store) -> Generator[tuple[_Unit, Any], None, None]:
        for unit in units:
            _, place, make = self.items[unit.key]
            yield unit, {"row": make(place, self.tasks)}

    def gather(self, results: Mapping[_Unit, Any]) -> xr.Dataset:
        self.rows = {unit.key: found["row"] for unit, found in results.items()}
        return xr.Dataset()

    def recipe(self) -> Any:
        raise MeasureError("a calibration runs in this process: leave executor out")

    def table(self, name: str) -> xr.Dataset:
        """The measurements of a table, side by side along the dims of their places."""
        rows: list[xr.Dataset] = []
        for key, (table, place, _) in self.items.items():
            if table == name:
                row = self.rows[key]
                rows.append(row.expand_dims({dim: [label] for dim, label in place.items()}))
        if not rows:
            return xr.Dataset()
        joined = xr.combine_by_coords(rows, join="outer", combine_attrs="drop")
        assert isinstance(joined, xr.Dataset)
        return joined


def _plants(wanted: Sequence[str] | Mapping[str, Spec] | None) -> Mapping[str, Spec]:
    if isinstance(wanted, Mapping):
        return wanted
    unknown = [name for name in wanted or () if name not in suite.PLANTS]
    if unknown:
        raise MeasureError(f"unknown plants {unknown}: choose from {list(suite.PLANTS)}, or give specs by name")
    return suite.PLANTS if wanted is None else {name: suite.PLANTS[name] for name in wanted}


def _scored(method: Method, spec: Spec) -> Make:
    def make(place: Mapping[str, Any], tasks: int) -> xr.Dataset:
        with plant(spec, place["seed"]) as made:
            return score(method, made, made.tasks(tasks * method.tasks, place["seed"]))

    return make


def _found(method: Method, kind: nulls.Kind, linked: bool) -> Make:
    def make(place: Mapping[str, Any], tasks: int) -> xr.Dataset:
        with nulls.null_model(kind, place["model"], method.guided) as made:
            found = method.measure(made, made.tasks(tasks * method.tasks, place["model"], linked))
        called = judge(found, method.smallest, method.one_sided)["called"]
        return xr.Dataset({"found": float(called.any()), "share": float(called.mean()), "cells": float(called.size)})

    return make


def _curves(spec: Spec, rest: float) -> Make:
    def make(place: Mapping[str, Any], tasks: int) -> xr.Dataset:
        with plant(replace(spec, rest=rest), 0) as made:
            scores = faithfulness.rankings(made, made.tasks(tasks, 0))
            return faithfulness.curves(made, made.tasks(2, 1), scores)

    return make


def _mapped(spec: WholeMap) -> Make:
    def make(place: Mapping[str, Any], tasks: int) -> xr.Dataset:
        return whole_maps.measure(spec, spec.drawn)[["cut", "place", "p", "off", "correlation"]]

    return make
