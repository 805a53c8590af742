"""Commands that measure by changing: ``map`` and ``sweep``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dit_lens.cli.common import (
    Device,
    DtypeOf,
    Json,
    Model,
    OffloadOf,
    Task,
    folder,
    groups,
    load,
    progress,
    resumable,
    sampled,
    tasks_of,
    tell_json,
)
from dit_lens.cli.sharing import processes, shared


@sampled
def map_(
    model: Model = "lab",
    out: Annotated[Path, typer.Option(help="folder to write; the same command continues there")] = Path("map"),
    n: Annotated[int, typer.Option(help="tasks of each family")] = 2,
    seed: Annotated[int, typer.Option(help="first seed; the same seed gives the same tables")] = 0,
    task: Task = None,
    scenes: Annotated[int, typer.Option(help="further tasks that probes are fitted on; 0 for no probes")] = 24,
    controls: Annotated[int, typer.Option(help="models that learned nothing, to compare with")] = 4,
    ensembles: Annotated[bool, typer.Option("--ensembles", help="score shared latents too; minutes more")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="one patch at a time, to the last bit; minutes more")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="print what it would cost, and stop")] = False,
    jobs: Annotated[int, typer.Option(min=0, help="processes that share it; 0: one a core for the lab's models")] = 0,
    sampling: Any = None,
    device: Device = None,
    dtype: DtypeOf = None,
    offload: OffloadOf = None,
    json: Json = False,
) -> None:
    """Map which layers and steps of a model do what, in a report. Five minutes for lab on two cores; can be stopped."""
    import dit_lens
    from dit_lens.layer_map.measurement import survey

    lens = load(model, device, dtype, offload)
    if plan:
        how = dit_lens.Sampling(**sampling)
        cost = survey(lens, task or None, n, seed, None, scenes, how, controls, exact).cost(timed=True)
        return tell_json({**asdict(cost), "total": cost.total, "folder": out}) if json else typer.echo(str(cost))
    asked: dict[str, Any] = {
        "tasks": task or None, "n": n, "seed": seed, "scenes": scenes, "ensembles": ensembles, "controls": controls,
        "exact": exact, "sampling": sampling, "folder": out / "parts",
    }  # fmt: skip
    opened, jobs = (model, device, dtype, offload), processes(model, device, jobs)
    with folder(out), resumable(out), progress("map") as tell, shared(jobs, _map_parts, opened, asked):
        found = dit_lens.map(lens, **asked, progress=tell)
        report = found.write(out)
    if json:
        tell_json({"report": report, "folder": out, "summary": found.summary(), "about": found.about})
    else:
        typer.echo(f"{report}  (tables and runs beside it; {found.about['seconds']} s)")


def _map_parts(opened: tuple[Any, ...], asked: dict[str, Any]) -> None:
    """Share the parts of a map with the process that combines and writes them."""
    import dit_lens
    from dit_lens.layer_map.measurement import survey
    from dit_lens.store.folder import open_store

    rest = {name: asked[name] for name in ("tasks", "n", "seed", "scenes", "controls", "exact")}
    work = survey(load(*opened), steps=None, how=dit_lens.Sampling(**asked["sampling"]), **rest)
    work.run(open_store(asked["folder"], "map", work.parameters), asked["ensembles"])


@sampled
def sweep(
    model: Model = "lab",
    task: Task = None,
    n: Annotated[int, typer.Option(help="tasks of each family; six in all, for any p below .05")] = 6,
    seed: Annotated[int, typer.Option(help="first seed")] = 0,
    steps: Annotated[str, typer.Option(help="'all', or groups such as 0,5,8-19 (8-19 is held as one)")] = "all",
    layers: Annotated[str, typer.Option(help="'all', or groups such as 1,4,0-5")] = "all",
    hook: Annotated[str, typer.Option(help="what is patched; dit-lens points lists the names")] = "update",
    source: Annotated[str, typer.Option(help="twin that gives the activations: other_answer, same_answer")] = (
        "other_answer"
    ),
    metric: Annotated[str, typer.Option(help="projection, answer or score")] = "projection",
    horizon: Annotated[str, typer.Option(help="local, final, or a number of further steps")] = "local",
    sampling: Any = None,
    out: Annotated[Path, typer.Option(help="folder for finished cells; the same command continues there")] = Path(
        "sweep"
    ),
    shard: Annotated[str, typer.Option(help="this process's part, such as 0/4")] = "0/1",
    budget: Annotated[float | None, typer.Option(help="refuse to run longer than this many minutes")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="print what it would cost, and stop")] = False,
    report: Annotated[bool, typer.Option(help="write report.html, whose largest cells open their clips")] = True,
    device: Device = None,
    dtype: DtypeOf = None,
    offload: OffloadOf = None,
    json: Json = False,
) -> None:
    """Patch at every (step, layer) and measure, beside a placebo; says its cost first, and can be stopped."""
    import dit_lens

    at: dict[str, Any] = {"steps": groups(steps), "layers": groups(layers)}
    tasks = tasks_of(task, n, seed)
    lens = load(model, device, dtype, offload)
    work = dit_lens.Sweep(
        lens,
        None,
        source,
        tasks=tasks,
        seeds=seed,
        **at,
        hooks=hook,
        metric=metric,
        horizon=int(horizon) if horizon.isdecimal() else horizon,  # type: ignore[arg-type]  # Sweep says what it takes
        sampling=sampling,
        folder=out,
        shard=shard,
    )
    cost = work.plan()
    if plan and json:
        return tell_json({**asdict(cost), "total": cost.total, "folder": out})
    typer.echo(f"{work!r}\n{cost}", err=not plan)
    if plan:
        return
    with resumable(out), progress("sweep") as tell:
        found = work.run(tell, budget=None if budget is None else 60 * budget)
    from dit_lens.figures.folder_report import write_tables

    table = found[[v for v in found.data_vars if not str(v).startswith("raw_")]]
    write_tables(out, {"effects": table})
    rows = table["value"].size
    written = {"effects": out / "effects.csv", "rows": rows}
    if report:
        from dit_lens.figures.sweep_report import write_sweep

        written["report"] = write_sweep(work, found, out / "report.html")
    if json:
        return tell_json(written)
    typer.echo(f"{written['effects']}  ({rows} rows)")
    if "no_mark" in found.attrs:
        typer.echo(found.attrs["no_mark"])
    if report:
        typer.echo(str(written["report"]))


#: Commands and their examples.
COMMANDS: Any = (
    (
        map_,
        (
            "dit-lens map",
            "dit-lens map lab --task maze --task choose --n 8 --controls 6 --plan",
            "dit-lens map lab --task maze --task choose --n 8 --out map",
            "dit-lens map path/to/model --device cuda --dtype bfloat16",
        ),
    ),
    (
        sweep,
        (
            "dit-lens sweep lab --task choose --steps 0,0-19 --plan",
            "dit-lens sweep lab --task choose --n 8 --steps 0,5,10 --out sweep --budget 30",
            "dit-lens sweep lab --horizon final --steps 0-19 --layers 0-2,3-5,6-8,9-11 --metric answer --out held",
        ),
    ),
)
