"""``dit-lens``: parses, calls the library, prints.

Exit codes: 0; 1 for a mistake that a user can mend, in one line with its cure; 2 for wrong usage; 130 on ctrl-C, with
how to go on where something was kept. Results go to stdout, or one JSON value with ``--json``; everything else to
stderr.
"""

from __future__ import annotations

import errno
import os
import warnings
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from dit_lens import __version__
from dit_lens.cli import inspect_commands, lab, map_and_sweep, probe
from dit_lens.errors import DitLensError


class Commands(TyperGroup):
    """Turns errors of this package, and ctrl-C, into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command, and exit with a message where it fails."""
        try:
            return super().invoke(ctx)
        except DitLensError as error:
            _fail(f"{type(error).__name__}: {error}", 1, error)
        except KeyboardInterrupt as stopped:
            _fail(str(stopped) or "stopped; nothing was kept", 130, stopped)
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of our output has gone, as `head` does
                raise
            _fail(f"{error}: check the path, and that it can be read and written", 1, error)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Look inside Wan video diffusion transformers while they reason.",
    epilog=inspect_commands.examples(
        "dit-lens map", "dit-lens generate lab --task maze --seed 3", "dit-lens COMMAND --help"
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it, and stop")] = (
        False
    ),
) -> None:
    pass


for made, examples in (*map_and_sweep.COMMANDS, *probe.COMMANDS, *inspect_commands.COMMANDS):
    app.command(name=made.__name__.strip("_"), epilog=inspect_commands.examples(*examples))(made)
app.add_typer(lab.app, name="lab")


def _fail(text: str, code: int, error: BaseException) -> NoReturn:
    typer.secho(text, fg="red", err=True)
    raise typer.Exit(code) from error


def main() -> None:
    """Run the command line."""
    # Two libraries print while they load, which hides our own output. These variables are read when they are imported.
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    warnings.showwarning = lambda message, *_, **__: typer.secho(f"note: {message}", fg="yellow", err=True)
    app()
