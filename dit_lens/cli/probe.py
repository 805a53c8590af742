"""The command ``probe``: what can be read where, beside its controls; and one probe to keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from dit_lens.cli.common import (
    Device,
    DtypeOf,
    Json,
    Model,
    OffloadOf,
    Task,
    folder,
    load,
    progress,
    resumable,
    sampled,
    say,
    spelled,
    tasks_of,
    tell_json,
)
from dit_lens.errors import ProbeError

if TYPE_CHECKING:
    import xarray as xr

COLUMNS = ("score", "low", "high", "n", "null", "p", "p_corrected", "control", "selectivity", "input")


@sampled
def probe(
    label: Annotated[list[str], typer.Option(help="what to read, such as wall, path, first_move; repeat for several")],
    model: Model = "lab",
    task: Task = None,
    n: Annotated[int, typer.Option(help="tasks of each family")] = 40,
    seed: Annotated[int, typer.Option(help="first seed")] = 0,
    at: Annotated[
        str | None, typer.Option(help="one place, 'layer=7 step=5 hook=resid_post': fit and keep a probe of it")
    ] = None,
    steps: Annotated[str, typer.Option(help="'all', or such as 0,5,10-14 (default: six, spread)")] = "",
    layers: Annotated[str, typer.Option(help="'all', or such as 0,4,8-11")] = "all",
    hook: Annotated[list[str] | None, typer.Option(help="repeat for several (default: resid_post)")] = None,
    branch: Annotated[str, typer.Option(help="cond or uncond")] = "cond",
    reduce: Annotated[str, typer.Option(help="rows: raw (tokens), frame_mean, region_mean, video_mean")] = "raw",
    folds: Annotated[int, typer.Option(help="number of parts that scenes are held out in")] = 5,
    permutations: Annotated[
        int | None, typer.Option(help="shuffles for the null (default: 49, more for many labels; 199 with --at)")
    ] = None,
    sampling: Any = None,
    out: Annotated[Path, typer.Option(help="folder for features, scores, probes; the same command continues there")] = (
        Path("probe")
    ),
    report: Annotated[bool, typer.Option(help="write report.html")] = True,
    device: Device = None,
    dtype: DtypeOf = None,
    offload: OffloadOf = None,
    json: Json = False,
) -> None:
    """Read a label with linear probes at every (step, layer), or at one place; scenes are held out whole."""
    from dit_lens import probing
    from dit_lens.address import Address, Select
    from dit_lens.wan.points import point

    tasks = tasks_of(task, n, seed)
    _check(tasks, label, folds)
    place = None if at is None else Address.parse(at)
    lens = load(model, device, dtype, offload)
    plan = lens.plan(sampling)
    last = plan.n_steps - 1
    chosen = sorted({round(q * last) for q in (0, 0.1, 0.25, 0.5, 0.75, 1)}) if not steps else spelled(steps)
    where: dict[str, Any] = {"steps": chosen, "layers": spelled(layers), "branch": branch}
    hooks, kept = hook or ["resid_post"], out / "features"
    if place is not None and not kept.exists():  # without a grid before it: no more than is asked for
        where = {"steps": [place.step], "layers": [place.layer], "branch": place.branch}
        hooks, kept = [place.hook], out / f"features-{_name(place)}"
    selected = Select(where["steps"], where["layers"], where["branch"])  # refused now, before a folder is begun
    _ = selected.calls_of(plan.calls), selected.layers_of(lens.n_layers), [point(name) for name in hooks]
    with folder(out), resumable(out):
        with progress("features") as tell:
            features = probing.collect(
                lens, tasks, *hooks, **where, reduce=reduce, seed=seed, folder=kept, progress=tell,
                sampling=sampling,
            )  # fmt: skip
        say(repr(features))
        if place is not None:
            return _one(features, label, place, out, folds, 199 if permutations is None else permutations, seed, json)
        with progress("probes") as tell:
            found = probing.grid(
                features, label, folds=folds, permutations=permutations, seed=seed,
                folder=out / f"grid-{quote('-'.join(label), safe=' ')}", progress=tell,
            )  # fmt: skip
    table = found[[*(c for c in COLUMNS if c in found), "metric", "chance"]].to_dataframe().reset_index()
    table.to_csv(out / "scores.csv", index=False)
    best = [_best(found.sel(label=name)) for name in found["label"].values]
    written = {"scores": out / "scores.csv"} | ({"report": _report(found, best, out / "report.html")} if report else {})
    if json:
        return tell_json({**written, "best": best})
    for row in best:
        typer.echo(_sentence(row))
    if "no_mark" in found.attrs:
        typer.echo(found.attrs["no_mark"])
    typer.echo("\n".join(map(str, written.values())))
    say(f'to keep the probe of a place: the same command with --at "{best[0]["at"]}"')


def _check(tasks: list[Any], labels: list[str], folds: int) -> None:
    """Check now what would otherwise fail after minutes."""
    from dit_lens.probing.labels import NAMES

    known = {*NAMES, *(region for task in tasks for region in getattr(task, "regions", {}))}
    unknown = [name for name in labels if name not in known]
    if unknown:
        raise ProbeError(f"unknown label {unknown[0]!r}: choose from {', '.join(sorted(known))}")
    if len(tasks) < folds:
        raise ProbeError(
            f"{len(tasks)} scenes cannot be held out in {folds} parts: give a larger --n, or smaller --folds"
        )


def _one(
    features: Any, labels: list[str], place: Any, out: Path, folds: int, permutations: int, seed: int, json: bool
) -> None:
    from dit_lens import probing

    made = []
    for name in labels:
        fitted = probing.probe(features, name, place, folds=folds, permutations=permutations, seed=seed)
        kept = fitted.save(out / f"{name}-{_name(place)}")
        made.append({"label": name, "at": str(place), "folder": kept, "scores": dict(fitted.scores)})
        if not json:
            typer.echo(f"{fitted!r}\n{kept}  (dit_lens.load_probe({str(kept)!r}))")
    if json:
        tell_json({"probes": made})


def _name(place: Any) -> str:
    return f"{place.hook}-step-{place.step}-layer-{place.layer}-{place.branch}"


def _best(found: xr.Dataset) -> dict[str, Any]:
    """The best place of one label, with its controls."""
    top = found["score"].argmax(("hook", "step", "layer"))
    cell = found.isel({dim: int(i.item()) for dim, i in top.items()})
    place = f"layer={cell['layer'].item()} step={cell['step'].item()} hook={cell['hook'].item()}"
    numbers = {name: cell[name].item() for name in COLUMNS if name in cell}
    about = {"metric": cell["metric"].item(), "chance": cell["chance"].item()}
    branch = f" branch={found.attrs['branch']}" if found.attrs.get("branch", "cond") != "cond" else ""
    return {"label": cell["label"].item(), "at": place + branch, **about, **numbers}


def _sentence(row: dict[str, Any]) -> str:
    beside = {"input": row.get("input"), "control": row.get("control"), "chance": row["chance"]}
    said = ", ".join(f"{name} {value:.3f}" for name, value in beside.items() if value is not None and value == value)
    p = f", p = {row['p_corrected']:.3f} (corrected over all places and labels)" if "p_corrected" in row else ""
    return (
        f"{row['label']}: best at {row['at']}: {row['metric']} {row['score']:.3f} "
        f"[{row['low']:.3f}, {row['high']:.3f}], n = {row['n']:.0f}; {said}{p}"
    )


def _report(found: xr.Dataset, best: list[dict[str, Any]], path: Path) -> Path:
    from dit_lens.figures import Report
    from dit_lens.figures.probe_figures import best_places, decodability

    methods = {k: v for k, v in found.attrs.items() if isinstance(v, str | int | float)}
    said = [*map(_sentence, best), *([found.attrs["no_mark"]] if "no_mark" in found.attrs else [])]
    page = Report(f"Probes on {found.attrs.get('model', 'a model')}", summary=said, methods=methods)
    if len(best) > 1:
        page.figure(best_places(found), caption="Best of many places: high by selection, too; p corrects for it.")
    for name in found["label"].values:
        for hook in found["hook"].values:
            caption = f"Linear probes of {name} on {hook}, whole scenes held out, beside their memory of scenes."
            page.figure(decodability(found, str(name), str(hook)), caption=caption)
    return page.write(path)


#: Commands and their examples.
COMMANDS: Any = (
    (
        probe,
        (
            "dit-lens probe lab --task maze --label wall --label path --out probe",
            'dit-lens probe lab --task maze --label path --at "layer=7 step=5 hook=resid_post" --out probe',
        ),
    ),
)
