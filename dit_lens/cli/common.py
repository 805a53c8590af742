"""Shared by all commands: common options, loading, progress with the time left, and output."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from dit_lens.errors import LoadError, StoreError
from dit_lens.progress import Progress

#: Without a terminal, progress is printed in lines, at most once in this many seconds.
EVERY = 15.0


class Dtype(StrEnum):
    """Values of ``--dtype``."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Offload(StrEnum):
    """Values of ``--offload``."""

    model = "model"
    sequential = "sequential"


Model = Annotated[str, typer.Argument(help="'lab', a hub id, or a folder in diffusers layout")]
Device = Annotated[str | None, typer.Option(help="where to compute, such as cuda (default: the CPU)")]
DtypeOf = Annotated[Dtype | None, typer.Option("--dtype", help="of the weights (default: float32)")]
OffloadOf = Annotated[Offload | None, typer.Option("--offload", help="keep weights off the accelerator when idle")]
Task = Annotated[list[str] | None, typer.Option(help="a task family; repeat for several (default: all)")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON value")]


#: Sampling options, under the names of dit_lens.Sampling.
SAMPLING: dict[str, Any] = {
    "num_inference_steps": Annotated[int | None, typer.Option(help="denoising steps (default: the model's own)")],
    "guidance_scale": Annotated[float | None, typer.Option(help="1 or less makes no uncond calls")],
    "guidance_scale_2": Annotated[float | None, typer.Option(help="of the low-noise expert (default: the same)")],
    "negative_prompt": Annotated[str | None, typer.Option(help="text of the uncond branch")],
    "height": Annotated[int | None, typer.Option(help="pixels (default: the task's or the model's own)")],
    "width": Annotated[int | None, typer.Option(help="pixels")],
    "num_frames": Annotated[int | None, typer.Option(help="frames of the video, 1 + a multiple of 4")],
    "preset": Annotated[str | None, typer.Option(help="a named sampler: paper")],
}


def sampled(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the sampling options; its parameter ``sampling`` gets those that were used."""
    own = signature(command, eval_str=True)

    @wraps(command)
    def run(**given: Any) -> None:
        asked = {name: given.pop(name) for name in SAMPLING}
        command(**given, sampling={name: value for name, value in asked.items() if value is not None})

    options = [Parameter(n, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for n, kind in SAMPLING.items()]
    shown = [
        new
        for old in own.parameters.values()
        for new in (options if old.name == "sampling" else [old.replace(kind=Parameter.KEYWORD_ONLY)])
    ]
    run.__dict__.pop("__wrapped__")  # typer would read the command's own signature
    run.__dict__["__signature__"] = Signature(shown)
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


def examples(*lines: str) -> str:
    """An epilog with each example on a line of its own."""
    return "\n\n".join(["Examples:", *lines])


def load(model: str, device: str | None = None, dtype: str | None = None, offload: str | None = None) -> Any:
    """Load the lens.

    Raises:
        LoadError: The model cannot be loaded; for a device, the message names its option.
    """
    import torch

    import dit_lens

    if device is not None:
        try:
            torch.empty(0, device=device)
        except (AssertionError, RuntimeError, NotImplementedError) as error:
            why = str(error).splitlines()[0]
            raise LoadError(f"--device {device} cannot be used here ({why}): leave it out for the CPU") from error
    kind = None if dtype is None else getattr(torch, dtype)
    return dit_lens.load(model, device=device, dtype=kind, offload=None if offload is None else str(offload))


def groups(text: str) -> Any:
    """``0,5,8-19`` as [0, 5, range(8, 20)]; ``all`` as it is."""
    if text == "all":
        return text
    found: list[Any] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise typer.BadParameter(f"{part!r}: write indices and groups as 0,5,8-19, or 'all'")
        found.append(range(int(first), int(last) + 1) if last else int(first))
    return found


def spelled(text: str) -> Any:
    """``0,5,8-10`` as [0, 5, 8, 9, 10]; ``all`` as it is."""
    found = groups(text)
    return found if found == "all" else [i for part in found for i in (part if isinstance(part, range) else (part,))]


def tasks_of(task: list[str] | None, n: int, seed: int) -> list[Any]:
    """``n`` tasks of each family, seeds from ``seed`` up."""
    from dit_lens import tasks

    if n < 1:
        raise typer.BadParameter(f"--n {n}: give at least one task of each family")
    return [tasks.load(name, seed=seed + i) for name in task or tasks.names() for i in range(n)]


@contextmanager
def folder(out: Path) -> Iterator[Path]:
    """Make the folder before the work, so that a bad path fails early. An empty folder is removed at the end.

    Raises:
        StoreError: It cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write to {out} ({error.strerror}): choose another --out") from error
    if not os.access(out, os.W_OK):
        raise StoreError(f"cannot write to {out}: choose another --out")
    try:
        yield out
    finally:
        with suppress(OSError):  # only an empty folder can be removed so
            out.rmdir()


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Make ctrl-C report how to continue."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        if not str(stopped):  # before anything was done
            raise
        done = str(stopped).partition(";")[0] or "stopped"
        raise KeyboardInterrupt(f"{done}; what is done is kept in {out}: the same command continues there") from None


def say(text: str) -> None:
    """Print a line beside the result, on stderr."""
    typer.echo(text, err=True)


def tell_json(value: Any) -> None:
    """Print one JSON value: NaN becomes null, paths become texts."""
    typer.echo(json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """``tell(done, total, now)``: a bar on a terminal, else a line now and then; both with the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bars

    console, clock = Console(stderr=True), _Clock()
    if not console.is_terminal:
        yield _lines(what, clock)
        return
    text = [TextColumn("{task.description}", markup=False), TextColumn("{task.fields[left]}", markup=False)]
    with Bars(SpinnerColumn(), text[0], BarColumn(), MofNCompleteColumn(), text[1], console=console) as bars:
        row = bars.add_task(what, total=None, left="")

        def tell(done: int, total: int, now: str) -> None:
            now, left = clock.left(done, total, now)
            bars.update(row, completed=done, total=total, description=f"{what}: {now}" if now else what, left=left)

        yield tell


def _lines(what: str, clock: _Clock) -> Progress:
    last = [time.monotonic()]

    def tell(done: int, total: int, now: str) -> None:
        now, left = clock.left(done, total, now)
        if time.monotonic() - last[0] >= EVERY:
            last[0] = time.monotonic()
            say(", ".join(part for part in (f"{what}: {done} of {total}", now, left) if part))

    return tell


class _Clock:
    """The time left: the caller's own estimate, else from the pace so far."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None

    def left(self, done: int, total: int, now: str) -> tuple[str, str]:
        """What is being done, and how long it will take."""
        from dit_lens.runner.progress_meter import human_time

        now, _, known = now.partition("; ")
        if self.first is None:
            self.first = done, time.monotonic()
        before, began = self.first
        if known or done <= before or done >= total:
            return now, known
        return now, f"about {human_time((time.monotonic() - began) / (done - before) * (total - done))} left"
