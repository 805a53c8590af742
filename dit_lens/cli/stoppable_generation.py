"""A generation taken a step at a time, so that ctrl-C loses nothing: what is done is kept, and taken up again.

Exact: a run that was stopped and resumed has the bits of one that was not (``lens.generate(resume=...)``).
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dit_lens.cli.common import say
from dit_lens.errors import StoreError
from dit_lens.progress import Progress
from dit_lens.runner.sweep import setting
from dit_lens.store.identity import describe, differences, task_identity
from dit_lens.store.runs import load_run
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run

#: Seconds between two times that a generation at work is kept, for a machine that goes away.
EVERY = 300.0


class Stoppable:
    """``with Stoppable(lens, folder, arguments) as work: run = work.finish(progress)``, and what is made of the run.

    ``folder``: where the stopped run is kept; it goes when the block ends well. ``arguments``: of ``lens.generate``.

    Errors: :class:`StoreError` where a run of other arguments, weights or versions is kept: it is not thrown away
    unasked. KeyboardInterrupt says how to go on.
    """

    def __init__(self, lens: Lens, folder: Path, arguments: dict[str, Any]) -> None:
        self.lens, self.folder, self.arguments = lens, folder, arguments
        plain = {k: np.asarray(v) if k == "image" else v for k, v in arguments.items() if k != "task"}
        self.asked = {**setting(lens), **describe(plain), "task": task_identity(arguments.get("task"))}
        self.run = self._begun() if folder.exists() else None

    def _begun(self) -> Run:
        try:
            run = load_run(self.folder)
        except StoreError as error:
            raise StoreError(f"{error}; to begin anew, remove {self.folder}") from error
        changed = differences(run.meta.get("asked"), self.asked)
        if changed:
            raise StoreError(
                f"{self.folder} holds {run.n_steps} steps of a generation under other parameters:\n  "
                + "\n  ".join(changed)
                + "\nGive the same to go on with it, another --out to begin anew, or remove that folder"
            )
        say(f"going on after {run.n_steps} of {run.plan.n_steps} steps")
        return replace(self.lens.attach(run), task=self.arguments.get("task"), meta=_without(run.meta))

    def finish(self, tell: Progress) -> Run:
        """The whole run."""
        run, saved = self.run, time.monotonic()
        with self.lens._loaded():  # offloaded models stay at work between the steps
            while run is None or not run.complete:
                begin: dict[str, Any] = self.arguments if run is None else {"resume": run}
                run = self.run = self.lens.generate(**begin, stop_after=0 if run is None else run.n_steps)
                tell(run.n_steps, run.plan.n_steps, "decoding" if run.complete else f"step {run.n_steps}")
                if time.monotonic() - saved >= EVERY:
                    self._keep(run)
                    saved = time.monotonic()
        return run

    def _keep(self, run: Run) -> None:
        replace(run, meta={**run.meta, "asked": self.asked}).save(self.folder)

    def __enter__(self) -> Stoppable:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif issubclass(kind, KeyboardInterrupt) and self.run is not None:
            self._keep(self.run)
            raise KeyboardInterrupt(
                f"stopped after {self.run.n_steps} of {self.run.plan.n_steps} steps; they are kept in {self.folder}: "
                "the same command goes on there"
            )


def _without(meta: Any) -> dict[str, Any]:
    return {k: v for k, v in meta.items() if k != "asked"}
