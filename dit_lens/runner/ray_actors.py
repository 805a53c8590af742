"""Long work on Ray actors, each with a model of its own. The numbers are those of one process.

The process that began the work keeps finished units one by one, so a dead actor loses only its current unit.

When not to use: on one GPU. For the job arrays of a scheduler, ``shard="3/16"`` needs only a shared folder.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from dit_lens.errors import DitLensError, LoadError, MeasureError, StoreError
from dit_lens.runner.progress_meter import ProgressMeter
from dit_lens.store.base import Store
from dit_lens.store.folder import open_store
from dit_lens.store.identity import differences
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run


@dataclass(frozen=True)
class Ray:
    """Measure on Ray actors.

    A cluster that is running is used (``ray.init(address="auto")`` before), else a local one is started. Equal bits
    need equal machines: kernels and numbers of threads may round differently.

    Args:
        load: Makes the lens in each actor, ``lambda: dl.load("lab")``; None loads the model by its name. It has to be
            the same model with the same weights, which is checked.
        actors: How many.
        options: Ray's options of each, such as ``{"num_gpus": 1}``.
        retries: How many actors one group of units may lose before the work stops.
    """

    load: Callable[[], Any] | None = None
    actors: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 3

    def __call__(self, work: Any, groups: Mapping[str, Sequence[Any]], store: Store, meter: ProgressMeter) -> None:
        """Measure every group.

        Args:
            work: The work.
            groups: Units by the name of their group.
            store: Where finished units are kept.
            meter: Counts finished units.

        Raises:
            LoadError: Ray is not installed.
            MeasureError: Actors keep dying.
        """
        ray = _ray()
        import torch

        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        make, arguments = work.recipe()
        arguments = {name: _without_model(value) for name, value in arguments.items()}
        load = self.load or _by_name(work.lens.name)
        # As bytes: an actor reads them when it can find the driver's modules, and raises an error where it cannot.
        packed = ray.cloudpickle.dumps((load, make, arguments, work.lens.identity(), torch.get_num_threads()))
        given = ray.put((sys.path, packed))
        actor = ray.remote(**self.options)(Worker) if self.options else ray.remote(Worker)
        queue = Groups(groups)
        with ThreadPoolExecutor(self.actors) as pool:
            try:
                for done in [
                    pool.submit(self._attend, ray, actor, given, store, meter, queue) for _ in range(self.actors)
                ]:
                    done.result()
            finally:
                queue.close()  # a failure or ctrl-C: the others stop after their unit
        meter.complete()

    def _attend(self, ray: Any, make: Any, given: Any, store: Store, meter: ProgressMeter, queue: Groups) -> None:
        """One thread of this process for each actor: hand out groups, take in units, replace the dead."""
        actor: Any = None
        last = ""
        try:
            while (group := queue.take(last)) is not None:
                name, units = group
                last, lost = name, 0
                with store.claim(name) as ours:
                    left = _missing(store, units)
                    if left and not ours:
                        queue.put_back(name, units)
                        time.sleep(1.0)
                        continue
                    while left and queue.is_open():
                        try:
                            actor = actor or make.remote(given)
                            for ref in actor.measure.options(num_returns="streaming").remote(left):
                                unit, value = ray.get(ref)
                                store.put(unit.key, value)
                                meter.finished(unit)
                                if not queue.is_open():
                                    return
                        except ray.exceptions.RayActorError as error:
                            actor, lost = None, lost + 1
                            if lost > self.retries:
                                raise MeasureError(
                                    f"{lost} actors died at {left[0]}: {error} Give each more memory "
                                    "(options={'memory': ...}), or run it in one process"
                                ) from error
                        except ray.exceptions.RayTaskError as error:
                            raise _cause(error) from error
                        left = _missing(store, units)
        except BaseException:
            queue.close()
            raise
        finally:
            if actor is not None:
                ray.kill(actor)


class Worker:
    """Runs in an actor: a lens, and the work on it, made when the first units arrive."""

    def __init__(self, given: tuple[list[str], bytes]) -> None:
        self.given, self.work = given, None  # type: Any, Any

    def measure(self, units: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Measure a group, unit by unit.

        Raises:
            StoreError: The actor's model is not the one that began the work.
        """
        work = self.work or self._prepare()
        yield from work.measure(units, open_store(None, work.kind, {}))

    def _prepare(self) -> Any:
        import torch

        folders, packed = self.given
        sys.path += [folder for folder in folders if folder not in sys.path]
        # Sent by our own driver over Ray, which unpickles as well.
        load, make, arguments, expected, threads = pickle.loads(packed)
        torch.set_num_threads(threads)
        lens = load()
        changed = differences(expected, lens.identity())
        if changed:
            raise StoreError(
                "an actor's model differs from the model that began the work:\n  " + "\n  ".join(changed) + "\nGive "
                "executor=dit_lens.runner.Ray(load=...) a recipe for the same model, and the actors the same packages"
            )
        self.work = make(lens, **{name: _with_model(lens, value) for name, value in arguments.items()})
        return self.work


class Groups:
    """Hands out groups of units; an actor first gets those of its current item, whose runs it already has."""

    def __init__(self, groups: Mapping[str, Sequence[Any]]) -> None:
        self._groups, self._lock, self._closed = list(groups.items()), Lock(), False

    def take(self, last: str) -> tuple[str, Sequence[Any]] | None:
        """The next group, or None.

        Args:
            last: The group that was taken before. Names begin with that of their item and a dash.
        """
        with self._lock:
            if self._closed or not self._groups:
                return None
            item = last.split("-")[0]
            same = (n for n, (name, _) in enumerate(self._groups) if name.split("-")[0] == item)
            return self._groups.pop(next(same, 0))

    def put_back(self, name: str, units: Sequence[Any]) -> None:
        """Return a group that another process is working on."""
        with self._lock:
            self._groups.append((name, units))

    def close(self) -> None:
        """Stop handing out groups."""
        self._closed = True

    def is_open(self) -> bool:
        """Whether groups are handed out."""
        return not self._closed


def _missing(store: Store, units: Sequence[Any]) -> list[Any]:
    missing = set(store.missing([unit.key for unit in units]))
    return [unit for unit in units if unit.key in missing]


def _without_model(value: Any) -> Any:
    """Runs without their decoder, so that they can be sent; :func:`_with_model` restores it."""
    if isinstance(value, Run):
        return replace(value, _decode=None, _cache={})
    return [_without_model(one) for one in value] if isinstance(value, (list, tuple)) else value


def _with_model(lens: Lens, value: Any) -> Any:
    if isinstance(value, Run):
        return lens.attach(value)
    return [_with_model(lens, one) for one in value] if isinstance(value, (list, tuple)) else value


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise LoadError(
            "executor='ray' needs Ray, an optional extra: pip install 'dit-lens[ray]'; or split the work with "
            "shard='0/4', which needs no extra package"
        ) from None
    return ray


def _by_name(name: str) -> Callable[[], Any]:
    def load() -> Any:
        import dit_lens

        return dit_lens.load(name)

    return load


def _cause(error: Any) -> BaseException:
    """The original exception, where an actor raised one of ours."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, DitLensError) else error
