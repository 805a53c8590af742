"""``dit-lens``: parses, calls the library, prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dit_lens.errors import DitLensError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Look inside Wan video diffusion transformers while they reason."
)
lab_app = typer.Typer(no_args_is_help=True, help="The embedded model: train it again, or score it.")
app.add_typer(lab_app, name="lab")


@app.command()
def map(
    model: Annotated[str, typer.Argument(help="'lab', a hub id, or a folder in diffusers layout")] = "lab",
    out: Annotated[Path, typer.Option(help="folder to write")] = Path("map"),
    n: Annotated[int, typer.Option(help="puzzles of each task")] = 2,
    seed: Annotated[int, typer.Option(help="first seed; the same seed gives the same tables")] = 0,
    task: Annotated[list[str] | None, typer.Option(help="a task family; repeat for several (default: all)")] = None,
) -> None:
    """Map which layers and steps of a model do what. Example: dit-lens map lab --n 4 --out map"""
    from rich.progress import Progress, SpinnerColumn, TimeRemainingColumn

    import dit_lens

    with Progress(SpinnerColumn(), *Progress.get_default_columns()[:-1], TimeRemainingColumn()) as bar:
        row = bar.add_task("loading", total=None)
        lens = _load(model)

        def tell(done: int, total: int, what: str) -> None:
            bar.update(row, completed=done, total=total, description=what)

        found = dit_lens.map(lens, task or None, n=n, seed=seed, progress=tell)
        report = found.write(out)
    typer.echo(f"{report}  (tables and runs beside it; {found.about['seconds']} s)")


@app.command()
def sweep(
    model: Annotated[str, typer.Argument(help="'lab', a hub id, or a folder in diffusers layout")] = "lab",
    task: Annotated[list[str] | None, typer.Option(help="a task family; repeat for several (default: all)")] = None,
    n: Annotated[int, typer.Option(help="puzzles of each task")] = 4,
    seed: Annotated[int, typer.Option(help="first seed")] = 0,
    steps: Annotated[str, typer.Option(help="'all', or groups such as 0,5,8-19 (8-19 is held as one)")] = "all",
    layers: Annotated[str, typer.Option(help="'all', or groups such as 1,4,0-5")] = "all",
    hook: Annotated[str, typer.Option(help="what is patched; dit-lens points lists the names")] = "update",
    source: Annotated[str, typer.Option(help="twin that gives the activations: other_answer, same_answer")] = (
        "other_answer"
    ),
    metric: Annotated[str, typer.Option(help="projection, answer or score")] = "projection",
    horizon: Annotated[str, typer.Option(help="local, final, or a number of further steps")] = "local",
    out: Annotated[Path, typer.Option(help="folder for finished cells; the same command goes on there")] = Path(
        "sweep"
    ),
    shard: Annotated[str, typer.Option(help="this process's part, such as 0/4")] = "0/1",
    budget: Annotated[float | None, typer.Option(help="refuse to run longer than this many minutes")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="print what it would cost, and stop")] = False,
    report: Annotated[bool, typer.Option(help="write report.html, whose largest cells open their clips")] = True,
) -> None:
    """Patch at every (step, layer) and measure. Example: dit-lens sweep lab --task choose --steps 0,0-19 --plan"""
    import dit_lens

    lens = _load(model)
    families = task or list(dit_lens.tasks.names())
    work = dit_lens.Sweep(
        lens,
        None,
        source,
        tasks=[dit_lens.tasks.load(name, seed=seed + i) for name in families for i in range(n)],
        seeds=seed,
        steps=_groups(steps),
        layers=_groups(layers),
        hooks=hook,
        metric=metric,
        horizon=int(horizon) if horizon.isdigit() else horizon,  # Sweep says what is allowed
        folder=out,
        shard=shard,
    )
    typer.echo(f"{work!r}\n{work.plan()}")
    if plan:
        return
    found = work.run(budget=None if budget is None else 60 * budget)
    table = found[[v for v in found.data_vars if not str(v).startswith("raw_")]].to_dataframe().reset_index()
    table.to_csv(out / "effects.csv", index=False)
    typer.echo(f"{out / 'effects.csv'}  ({len(table)} rows)")
    if report:
        from dit_lens.figures.sweep import write_sweep

        typer.echo(str(write_sweep(work, found, out / "report.html")))


def _groups(text: str) -> Any:
    """``0,5,8-19`` as [0, 5, range(8, 20)]."""
    if text == "all":
        return text
    found: list[Any] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise typer.BadParameter(f"{part!r}: write indices and groups as 0,5,8-19, or 'all'")
        found.append(range(int(first), int(last) + 1) if last else int(first))
    return found


@app.command()
def points(model: Annotated[str, typer.Argument()] = "lab") -> None:
    """List every named point of a model: path, shape, meaning."""
    typer.echo(str(_load(model)))


@app.command()
def plan(model: Annotated[str, typer.Argument()] = "lab", steps: Annotated[int | None, typer.Option()] = None) -> None:
    """List every denoiser call of a generation before it happens."""
    typer.echo(str(_load(model).plan(steps=steps)))


_QUIET = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
_PASS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@lab_app.command(context_settings=_PASS)
def train(context: typer.Context) -> None:
    """Train the lab model; options as in dit_lens.lab.train (--help lists them)."""
    from dit_lens.lab import train as recipe

    recipe.main(context.args)


@lab_app.command(context_settings=_PASS)
def evaluate(context: typer.Context) -> None:
    """Score the shipped lab model on unseen puzzles; options as in dit_lens.lab.evaluate."""
    from dit_lens.lab import evaluate as scoring

    scoring.main(context.args)


def _load(model: str) -> Any:
    import dit_lens

    if model == "lab":  # loads in a second: a bar would only flicker
        from diffusers.utils.logging import disable_progress_bar
        from transformers.utils.logging import disable_progress_bar as disable_other_bar

        disable_progress_bar()
        disable_other_bar()
    return dit_lens.load(model)


def main() -> None:
    """Run, and turn a user's mistake into one line and exit code 1."""
    # Two libraries talk while they load; on a command line that buries our own words. Read before they are imported.
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        app()
    except DitLensError as error:
        typer.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
