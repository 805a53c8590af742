"""Commands of the embedded model. Their options are those of the modules, which read them themselves."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="The embedded model: train it again, score it, or film it.")
_PASS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_PASS)
def train(context: typer.Context) -> None:
    """Train the lab model; options as in dit_lens.lab.training (--help lists them)."""
    from dit_lens.lab.training import recipe

    try:
        recipe.main(context.args)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command continues from the last checkpoint in --out") from None


@app.command(context_settings=_PASS)
def evaluate(context: typer.Context) -> None:
    """Score the shipped lab model on unseen tasks; options as in dit_lens.lab.evaluate."""
    from dit_lens.lab import evaluate as scoring

    scoring.main(context.args)


@app.command(context_settings=_PASS)
def film(context: typer.Context) -> None:
    """Draw what the lab model expects at each step; options as in dit_lens.lab.film."""
    from dit_lens.lab import film as filming

    filming.main(context.args)
