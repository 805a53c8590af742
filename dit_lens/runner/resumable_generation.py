"""One generation as long work: finished steps are kept in a folder, and the same call continues from them.

    with resumable_generation(lens, "runs/maze-3", {"task": task, "seed": 3}) as work:
        run = work.finish(progress)

Exact: a run that was stopped and continued has the bits of one that was not (``lens.generate(resume=...)``). Finished
steps are kept on ctrl-C, every five minutes, and before decoding. The finished run is saved as ``run`` in the folder,
and the manifest beside it records its parameters; the same call then reads it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dit_lens.errors import StoreError
from dit_lens.pictures import picture
from dit_lens.progress import Progress, silent
from dit_lens.store import manifest
from dit_lens.store.base import Store
from dit_lens.store.folder import open_store
from dit_lens.store.identity import describe, task_identity
from dit_lens.store.run_files import manifest_of, read_run, write_run
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run

EVERY = 300.0  # seconds between two saves of an unfinished generation
KIND, RUN = "generation", "run"


class Generation:
    """A generation that is run step by step. ``resumed``: a message about steps that were kept; else empty."""

    def __init__(self, lens: Lens, place: Path, store: Store, arguments: Mapping[str, Any]) -> None:
        self.lens, self.place, self.store, self.arguments = lens, place, store, dict(arguments)
        self.kept = 0
        self.run = self._finished()
        self.finished = self.run is not None
        if not self.finished:
            self.run = self._begun()
        self.resumed = f"going on after {self.steps}" if self.run is not None else ""

    def finish(self, progress: Progress = silent) -> Run:
        """The whole run; ``progress`` is called after each step."""
        run, kept_at = self.run, time.monotonic()
        with self.lens._loaded():  # offloaded models stay on the device between the steps
            while run is None or not run.complete:
                begin: dict[str, Any] = self.arguments if run is None else {"resume": run}
                run = self.run = self.lens.generate(**begin, stop_after=0 if run is None else run.n_steps)
                progress(run.n_steps, run.plan.n_steps, "decoding" if run.complete else f"step {run.n_steps}")
                if run.complete or time.monotonic() - kept_at >= EVERY:
                    self.keep()
                    kept_at = time.monotonic()
        return run

    def keep(self) -> None:
        """Keep the steps that are done."""
        if self.run is None or self.run.n_steps == self.kept:
            return
        before, key = self.store.keys(), f"steps-{self.run.n_steps:05d}"
        self.store.put(key, self.run)
        self.kept = self.run.n_steps
        for old in before - {key}:
            self.store.drop(old)

    def end(self) -> None:
        """Save the finished run, and drop the steps."""
        if self.run is None or not self.run.complete:
            return
        if not self.finished:
            write_run(self.run.content(), self.place / RUN, manifest=self.store.manifest.sum)
        for key in sorted(self.store.keys()):
            self.store.drop(key)

    @property
    def steps(self) -> str:
        """How many steps are done, of how many."""
        return "no steps" if self.run is None else f"{self.run.n_steps} of {self.run.plan.n_steps} steps"

    def _finished(self) -> Run | None:
        """The run in the folder, if it was made under this manifest."""
        if manifest_of(self.place / RUN) == self.store.manifest.sum:
            with suppress(StoreError):  # the saved run is damaged: generate it again
                return self._mine(Run.from_content(read_run(self.place / RUN)))
        return None

    def _begun(self) -> Run | None:
        for key in sorted(self.store.keys(), reverse=True):
            content = self.store.get(key)
            if content is not None:
                run = self._mine(Run.from_content(content))
                self.kept = run.n_steps
                return run
        return None

    def _mine(self, run: Run) -> Run:
        return replace(self.lens.attach(run), task=self.arguments.get("task"))


@contextmanager
def resumable_generation(lens: Lens, folder: str | Path, arguments: Mapping[str, Any]) -> Iterator[Generation]:
    """Open a generation in a folder, for one process at a time; others wait.

    Args:
        lens: The lens.
        folder: Where it is kept. One that was finished there under other arguments is replaced.
        arguments: Of ``lens.generate``: a task or prompt, one seed, and how to sample.

    Yields:
        The generation.

    Raises:
        StoreError: The folder holds unfinished steps of other arguments, weights or versions, or something else.
        KeyboardInterrupt: ctrl-C; the message says how to continue.
    """
    place, wanted = Path(folder), identity(lens, arguments)
    _make_room(place, wanted)
    store = open_store(place, KIND, wanted)
    with _alone(store):
        work = Generation(lens, place, store, arguments)
        try:
            yield work
            work.end()
        except KeyboardInterrupt:
            work.keep()
            if work.run is None:
                raise
            raise KeyboardInterrupt(f"stopped after {work.steps}; run the same with folder={str(place)!r}") from None
        finally:
            store.tidy()


def identity(lens: Lens, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that can change the run, as plain values."""
    plain = {k: np.asarray(picture(v)) if k == "image" and v is not None else v for k, v in arguments.items()}
    asked = describe({k: v for k, v in plain.items() if k not in ("task", "scheduler")})
    return {**lens.identity(arguments.get("scheduler")), **asked, "task": task_identity(arguments.get("task"))}


def _make_room(place: Path, wanted: Mapping[str, Any]) -> None:
    """Where the folder holds a finished generation of other arguments, write the new manifest over the old one."""
    if not (place / manifest.FILE).is_file():
        return
    try:
        found, new = manifest.read(place), manifest.Manifest.of(KIND, wanted)
        unfinished = any((place / manifest.ITEMS).glob("[!.]*"))
    except StoreError:
        raise
    except OSError:
        return  # opening it reports the error
    if found.kind == KIND and found.sum != new.sum and manifest_of(place / RUN) == found.sum and not unfinished:
        manifest.write(place, new)


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Claim the folder; wait while another process has it."""
    while True:
        with store.claim(KIND) as ours:
            if ours:
                yield
                return
        time.sleep(0.5)
