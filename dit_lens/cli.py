"""``dit-lens``: parses, calls the library, prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

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
    n: Annotated[int, typer.Option(help="puzzles of each task")] = 3,
    seed: int = 0,
) -> None:
    """Map which layers and steps of a model do what. Example: dit-lens map lab --n 4 --out map"""
    from rich.progress import Progress, SpinnerColumn, TimeRemainingColumn

    import dit_lens

    with Progress(SpinnerColumn(), *Progress.get_default_columns()[:-1], TimeRemainingColumn()) as bar:
        row = bar.add_task("loading", total=None)
        lens = dit_lens.load(model)

        def tell(done: int, total: int, what: str) -> None:
            bar.update(row, completed=done, total=total, description=what)

        found = dit_lens.map(lens, n=n, seed=seed, progress=tell)
        report = found.write(out)
    typer.echo(f"{report}  (tables and runs beside it; {found.about['seconds']} s)")


@app.command()
def points(model: Annotated[str, typer.Argument()] = "lab") -> None:
    """List every named point of a model: path, shape, meaning."""
    import dit_lens

    typer.echo(str(dit_lens.load(model)))


@app.command()
def plan(model: Annotated[str, typer.Argument()] = "lab", steps: Annotated[int | None, typer.Option()] = None) -> None:
    """List every denoiser call of a generation before it happens."""
    import dit_lens

    typer.echo(str(dit_lens.load(model).plan(steps=steps)))


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


def main() -> None:
    """Run, and turn a user's mistake into one line and exit code 1."""
    try:
        app()
    except DitLensError as error:
        typer.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
