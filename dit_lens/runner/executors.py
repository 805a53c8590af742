"""Who measures the cells: this process, or Ray actors with a model each. The numbers are the same.

The unit of work is a group of cells with one item and first step, because they share most. Results are stored by the
process that began the sweep, cell by cell as they come, so a dead actor costs the cell that it was at.

When not to use Ray: on one GPU. For job arrays of a scheduler, ``shard="3/16"`` needs nothing but a shared folder.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from dit_lens.errors import DitLensError, LoadError, MeasureError, StoreError
from dit_lens.runner.cells import Cell, grouped
from dit_lens.runner.finished_cells import Result, Tally
from dit_lens.store.base import WAITING
from dit_lens.store.identity import differences
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run

Group = list[Cell]


def executor(wanted: Any) -> Callable[[Any, Tally], None]:
    """``"serial"``, ``"ray"``, or a :class:`Ray`."""
    if wanted in (None, "serial"):
        return serial
    if wanted == "ray":
        return Ray()
    if not callable(wanted):
        raise MeasureError(f"executor={wanted!r}: choose 'serial', 'ray', or dit_lens.runner.Ray(load=..., actors=2)")
    return wanted


def group_name(cells: Group) -> str:
    """What a group of cells is claimed by."""
    return f"{cells[0].item}-{cells[0].steps[0]}"


def serial(sweep: Any, tally: Tally) -> None:
    """Measure here, one after the other; what another process on the same folder is at is left to it."""
    groups = {group_name(members): members for members in grouped(sweep.mine)}
    keys = {name: [cell.key for cell in members] for name, members in groups.items()}

    def waiting() -> None:
        tally.missing(sweep.mine)  # takes in what others measured
        tally.progress(len(tally.results), len(tally.costs), WAITING)

    with tally.store.todo(keys, waiting) as todo:
        for name, _ in todo:
            with closing(sweep.measured(tally.missing(groups[name]))) as measured:  # it holds no_grad and the model
                for cell, found in measured:
                    tally.deliver(cell, found)
    tally.missing(sweep.mine)


@dataclass(frozen=True)
class Ray:
    """Measure on Ray actors.

    ``load``: makes the lens in each actor, ``lambda: dl.load("lab")``; None loads the sweep's model by its name. It has
    to be the same model with the same weights, which is checked. ``actors``: how many. ``options``: Ray's options of
    each, such as ``{"num_gpus": 1}``. ``retries``: how many actors one group may lose before the sweep stops.

    A cluster that is running is used (``ray.init(address="auto")`` before), else a local one is started.
    Equal bits need equal machines: kernels and numbers of threads may round differently.
    """

    load: Callable[[], Any] | None = None
    actors: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 3

    def __call__(self, sweep: Any, tally: Tally) -> None:
        """Errors: :class:`LoadError` without Ray, :class:`MeasureError` when actors keep dying."""
        ray = _ray()
        import torch

        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        recipe = {k: _detached(v) for k, v in sweep.recipe.items() if k != "folder"}
        load = self.load or _by_name(sweep.lens.name)
        # As bytes: an actor reads them when it can find the driver's modules, and says so where it cannot.
        packed = ray.cloudpickle.dumps((load, recipe, sweep.lens.identity(), torch.get_num_threads()))
        given = ray.put((sys.path, packed))
        made = ray.remote(**self.options)(Worker) if self.options else ray.remote(Worker)
        desk = _Desk(grouped(sweep.mine))
        with ThreadPoolExecutor(self.actors) as pool:
            try:
                for done in [
                    pool.submit(self._attend, ray, made, given, sweep, tally, desk) for _ in range(self.actors)
                ]:
                    done.result()
            finally:
                desk.close()  # a failure or ctrl-C: the others stop after their cell

    def _attend(self, ray: Any, made: Any, given: Any, sweep: Any, tally: Tally, desk: _Desk) -> None:
        """One thread of this process for each actor: hand out groups, take in cells, replace the dead."""
        actor: Any = None
        item = -1
        try:
            while (members := desk.take(item)) is not None:
                item, lost = members[0].item, 0
                with tally.store.claim(group_name(members)) as ours:
                    left = tally.missing(members)
                    if left and not ours:
                        desk.put_back(members)
                        time.sleep(1.0)
                        continue
                    while left and desk.is_open():
                        try:
                            actor = actor or made.remote(given)
                            for ref in actor.measure.options(num_returns="streaming").remote(left):
                                tally.deliver(*ray.get(ref))
                                if not desk.is_open():
                                    return
                        except ray.exceptions.RayActorError as error:
                            actor, lost = None, lost + 1
                            if lost > self.retries:
                                raise MeasureError(
                                    f"{lost} actors died at item {item}, step {left[0].steps[0]}: {error} "
                                    "Give each more memory (options={'memory': ...}), or run it in one process"
                                ) from error
                        except ray.exceptions.RayTaskError as error:
                            raise _told(error) from error
                        left = tally.missing(members)
        except BaseException:
            desk.close()
            raise
        finally:
            if actor is not None:
                ray.kill(actor)


class Worker:
    """What runs in an actor: a lens, and the sweep on it, made when the first cells come."""

    def __init__(self, given: tuple[list[str], bytes]) -> None:
        self.given, self.sweep = given, None  # type: Any, Any

    def measure(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Result]]:
        """Measure a group, cell by cell.

        Errors: :class:`StoreError` for another model than the one that began the sweep.
        """
        yield from (self.sweep or self._prepare()).measured(cells)

    def _prepare(self) -> Any:
        import torch

        from dit_lens.runner.sweep import Sweep

        folders, packed = self.given
        sys.path += [folder for folder in folders if folder not in sys.path]
        load, recipe, expected, threads = pickle.loads(packed)  # from our own driver, over Ray, which does the same
        torch.set_num_threads(threads)
        lens = load()
        changed = differences(expected, lens.identity())
        if changed:
            raise StoreError(
                "an actor's model is not the one that began the sweep:\n  " + "\n  ".join(changed) + "\nGive "
                "executor=dit_lens.runner.Ray(load=...) a recipe for the same model, and the actors the same packages"
            )
        self.sweep = Sweep(lens, **{k: _attached(lens, v) for k, v in recipe.items()})
        return self.sweep


class _Desk:
    """Hands out groups, those of the item that one works at first, so that its runs are not made again."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self._groups, self._lock, self._closed = list(groups), Lock(), False

    def take(self, item: int) -> Group | None:
        with self._lock:
            if self._closed or not self._groups:
                return None
            mine = (n for n, group in enumerate(self._groups) if group[0].item == item)
            return self._groups.pop(next(mine, 0))

    def put_back(self, group: Group) -> None:
        with self._lock:
            self._groups.append(group)

    def close(self) -> None:
        self._closed = True

    def is_open(self) -> bool:
        return not self._closed


def _detached(value: Any) -> Any:
    """Runs without their model, so that they can travel; :func:`_attached` gives it back."""
    if isinstance(value, Run):
        return replace(value, _decode=None, _cache={})
    return [_detached(one) for one in value] if isinstance(value, (list, tuple)) else value


def _attached(lens: Lens, value: Any) -> Any:
    """Runs with a model again."""
    if isinstance(value, Run):
        return lens.attach(value)
    return [_attached(lens, one) for one in value] if isinstance(value, (list, tuple)) else value


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise LoadError(
            "executor='ray' needs Ray, an optional extra: pip install 'dit-lens[ray]'; or split the sweep with "
            "shard='0/4', which needs nothing"
        ) from None
    return ray


def _by_name(name: str) -> Callable[[], Any]:
    def load() -> Any:
        import dit_lens

        return dit_lens.load(name)

    return load


def _told(error: Any) -> BaseException:
    """The mistake itself, where an actor raised one of ours."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, DitLensError) else error
