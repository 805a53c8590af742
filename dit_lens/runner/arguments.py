"""Reading and checking the arguments of a sweep: tasks, seeds, sources, placebo, horizon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dit_lens import checks
from dit_lens.errors import AddressError, MeasureError
from dit_lens.wan.lens import Lens
from dit_lens.wan.request import size_for
from dit_lens.wan.run import HOOKED, Run
from dit_lens.wan.sampling import Sampling
from dit_lens.wan.token_grid import Grid, token_regions


def tasks_of(base: Any, tasks: Sequence[Any] | None) -> list[Any]:
    """The tasks of a sweep, from ``base=`` (one task or run) or ``tasks=``.

    Raises:
        MeasureError: Both or neither are given, ``tasks`` is empty or holds runs, or the base has interventions.
    """
    if (base is None) == (tasks is None):
        raise MeasureError("give base= (one task or run) or tasks= (a list of tasks), and not both")
    if tasks is not None:
        found = list(tasks)
        if not found:
            raise MeasureError("tasks= is empty: give at least one, such as [dit_lens.tasks.load('choose', seed=0)]")
        if any(isinstance(task, Run) for task in found):
            raise MeasureError("tasks= takes tasks, which are generated here; one run that you have goes to base=")
        return found
    if isinstance(base, Run) and (base.fired or base.edited or base.meta.get(HOOKED)):
        raise MeasureError(
            "base was generated with interventions or hooks, and a sweep compares with an untouched run: generate the "
            "base without them"
        )
    return [base.task if isinstance(base, Run) else base]


def seeds_of(base: Any, seeds: int | Sequence[int]) -> tuple[int, ...]:
    """The noise seeds; a base that is a run has its own seed.

    Raises:
        MeasureError: No seeds, equal seeds, or seeds beside a base that is a run.
    """
    found, _ = checks.seeds(seeds, "seeds", MeasureError)
    if isinstance(base, Run):
        if found not in ((0,), (base.seed,)):
            raise MeasureError(f"base is a run with seed {base.seed}: leave seeds= out, or give a task as base")
        return (base.seed,)
    if not found or len(set(found)) < len(found):
        raise MeasureError(f"seeds={seeds}: give different seeds, at least one")
    return found


def sampling_of(base: Any, asked: Sampling) -> Sampling:
    """The sampling of a sweep; a base that is a run has its own sampling and size."""
    return base.sampling.but(**asked.given()) if isinstance(base, Run) else asked


def masks_of(base: Any, regions: Any) -> Mapping[str, Any] | None:
    """The masks of ``regions=``, where it is a mapping from names to masks; else None.

    Raises:
        MeasureError: Masks beside a base that is a run, which has its own regions.
    """
    if not isinstance(regions, Mapping):
        return None
    if isinstance(base, Run):
        raise MeasureError(
            f"base is a run with the regions {sorted(base.regions)}: name some of these, or generate it with "
            "regions=... of your own"
        )
    return regions


def horizon_of(horizon: Any) -> int | None:
    """Whole steps after the last patched one; None for the end of the video.

    Raises:
        MeasureError: It is neither ``"local"``, ``"final"`` nor a number of steps.
    """
    if horizon in ("local", "final"):
        return 0 if horizon == "local" else None
    if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 0:
        raise MeasureError(f"horizon={horizon!r}: give 'local', 'final', or a number of further steps")
    return horizon


def placebo_of(placebo: Any, source: Any) -> Any:
    """The placebo: ``"seed"``, ``"none"``, a run or an edit. Leaving the null out must be explicit.

    Raises:
        MeasureError: An unknown placebo, or one that does not fit the edit.
    """
    if callable(placebo) or (isinstance(placebo, str) and placebo == "none"):
        return placebo
    if isinstance(placebo, Run):
        if source is None:
            raise MeasureError(
                "placebo= is a run to take from, which needs a source=: give source=, or leave placebo= out"
            )
        return placebo
    if placebo in (None, "seed"):
        if source is None:
            raise MeasureError(
                "this edit takes from no source, so other noise is no placebo for it: give placebo= an edit that "
                "carries nothing (for example the same size of change at random), or placebo='none'"
            )
        return "seed"
    raise MeasureError(f"placebo={placebo!r}: give 'seed' (same scene, other noise), a run, an edit, or 'none'")


def sources_of(source: Any, tasks: Sequence[Any]) -> list[Any]:
    """For each task its source: a task, a run, a function of the task, or None.

    Raises:
        MeasureError: Tasks without twins, or a list of another length.
    """
    if isinstance(source, str):
        for task in tasks:
            if not hasattr(task, "twin"):
                raise MeasureError(
                    f"source={source!r} needs tasks with twins, and {task!r} has none: give a task, a run or a function"
                )
        return [task.twin(source) for task in tasks]
    if isinstance(source, Sequence):
        if len(source) != len(tasks):
            raise MeasureError(f"source is a list of {len(source)} for {len(tasks)} tasks: give one for each")
        return list(source)
    return [source] * len(tasks)


def grid_of(lens: Lens, tasks: Sequence[Any], sampling: Sampling) -> Grid:
    """The token grid that all tasks share.

    Raises:
        MeasureError: Sizes differ.
    """
    grids = {}
    for task in tasks:
        if callable(task) or task is None:
            continue
        if isinstance(task, Run):
            grids[str(task.grid)] = task.grid
            continue
        grid = lens.grid(size_for(task, sampling, lens.defaults).check(lens.pipe))
        grids[str(grid)] = grid
    if len(grids) != 1:
        raise MeasureError(
            f"base and source need the same size and frame count, found {sorted(grids)}: generate all with the same "
            "height, width and num_frames"
        )
    return next(iter(grids.values()))


def check_run(lens: Lens, base: Any, other: Any, last: int) -> None:
    """Check that a run can be compared with the base.

    Args:
        lens: The model.
        base: A run, or anything with ``plan`` and ``grid``.
        other: The run.
        last: The last step that is read.

    Raises:
        MeasureError: Another size, schedule or model, or fewer steps.
    """
    if other.grid != base.grid or not other.plan.same_schedule(base.plan):
        raise MeasureError(
            "base and source need the same size and the same sampling schedule: generate both with the same "
            "num_inference_steps, scheduler, size and frame count (sampling= says how a sweep generates)"
        )
    if other.n_steps <= last:
        raise MeasureError(
            f"a base or source run stopped after {other.n_steps} steps, and this sweep reads step {last}: finish it "
            "first, lens.generate(resume=run), or sweep fewer steps or horizon='local'"
        )
    if other.meta.get("fingerprint") != lens.fingerprint:
        raise MeasureError("a base or source run was made by other weights: generate it with this lens")


def check_regions(wanted: Sequence[str | None], tasks: Sequence[Any], grid: Grid, given: Any) -> None:
    """Check that every task has the regions, and that they hold tokens.

    Raises:
        AddressError: A task does not have a region, or it holds no token there.
    """
    if wanted == (None,):
        return
    for task in tasks:
        found = token_regions(grid, given if given is not None else getattr(task, "regions", None) or {})
        for name in wanted:
            if name is not None and (name not in found or not found[name].any()):
                raise AddressError(
                    f"region {name!r} holds no token of {task!r}, which has "
                    f"{sorted(k for k, v in found.items() if v.any())}: choose among them, or leave the task out"
                )
