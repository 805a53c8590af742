"""Checkpoints, other training seeds and students as files that ``dit_lens.load`` opens by name.

    python -m dit_lens.lab.training.checkpoints RUN --of lab40 --at 100 --at 1600 --at 7600   # lab40@100, ...
    python -m dit_lens.lab.training.checkpoints RUN --of lab40 --pipeline student --name lab40-student

A checkpoint's number counts iterations of the shallow trunk and of the trunk that grew from it. It is one transformer
for both experts; a pipeline has two. What differs from the pipeline that ships goes into the index
(:mod:`dit_lens.lab.models`); text encoder, tokenizer and codec are that pipeline's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dit_lens.errors import LoadError
from dit_lens.lab.models import CHECKPOINTS, INDEX, WEIGHTS
from dit_lens.store.atomic import new_file

_EXPERTS = {"transformer": "high", "transformer_2": "low"}


def snapshots(run: Path) -> dict[int, Path]:
    """The snapshots of a run by iterations in all: those of the trunk come after the shallow ones.

    Args:
        run: Folder of the training.
    """
    spec = json.loads((run / "spec.json").read_text())
    before = spec["shallow_iterations"] if spec["shallow_layers"] else 0
    found = {}
    for path in (run / "snapshots").glob("*.safetensors"):
        phase, _, done = path.stem.rpartition("-")
        found[int(done) + (before if phase == "trunk" else 0)] = path
    return dict(sorted(found.items()))


def keep_snapshots(run: Path, of: str, at: Sequence[int], folder: Path = CHECKPOINTS) -> list[str]:
    """Copy snapshots, and name them in the index.

    Args:
        run: Folder of the training.
        of: The pipeline whose training it is.
        at: Iterations in all.
        folder: Of the checkpoints.

    Returns:
        Their names.

    Raises:
        LoadError: No such snapshot, or no such pipeline.
    """
    there = snapshots(run)
    if unknown := sorted(set(at) - set(there)):
        raise LoadError(f"{run} has no snapshots at {unknown}: choose from {list(there)}")
    entries = {}
    for n in at:
        file = f"{of}@{n}.safetensors"
        shutil.copyfile(there[n], folder / file)
        phase = there[n].stem.rpartition("-")[0]
        about = f"{of} after {n} iterations of training ({phase} phase), one transformer for all noise levels"
        entries[f"{of}@{n}"] = {"of": of, "files": dict.fromkeys(_EXPERTS, file), "about": about}
    _enter(entries, of, folder)
    return list(entries)


def keep_pipeline(pipeline: Path, of: str, name: str, about: str, folder: Path = CHECKPOINTS) -> str:
    """Copy the experts of a pipeline, and name it in the index with its settings and scheduler where they differ.

    Args:
        pipeline: Its folder.
        of: The pipeline that ships.
        name: Its name.
        about: What it is, in a sentence.
        folder: Of the checkpoints.

    Returns:
        The name.

    Raises:
        LoadError: No such pipeline.
    """
    files = {part: f"{name}-{short}.safetensors" for part, short in _EXPERTS.items()}
    for part, file in files.items():
        shutil.copyfile(pipeline / part / "diffusion_pytorch_model.safetensors", folder / file)
    entry: dict[str, Any] = {"of": of, "files": files, "about": about}
    for key, path in (("settings", "lab.json"), ("scheduler", "scheduler/scheduler_config.json")):
        own, shipped = (json.loads((root / path).read_text()) for root in (pipeline, WEIGHTS / of))
        apart = {k: v for k, v in own.items() if not k.startswith("_") and k != "note" and shipped.get(k) != v}
        if apart:
            entry[key] = apart
    _enter({name: entry}, of, folder)
    return name


def _enter(entries: dict[str, Any], of: str, folder: Path) -> None:
    """Add entries with the hashes of their files to the index."""
    if not (WEIGHTS / of / "model_index.json").is_file():
        raise LoadError(f"{of!r} is no pipeline of the package: put it into {WEIGHTS.name}/{of} first")
    for entry in entries.values():
        entry["sha256"] = {
            file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in set(entry["files"].values())
        }
    index = folder / INDEX
    known = json.loads(index.read_text()) if index.exists() else {}
    with new_file(index) as fresh:
        fresh.write_text(json.dumps({**known, **entries}, indent=1, sort_keys=True) + "\n")


def main(argv: list[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m dit_lens.lab.training.checkpoints", description="Keep checkpoints."
    )
    parser.add_argument("run", type=Path, help="folder of the training")
    parser.add_argument("--of", required=True, help="the pipeline in the package that it belongs to")
    parser.add_argument("--at", type=int, action="append", help="iterations of a snapshot (may be repeated)")
    parser.add_argument("--pipeline", default="pipeline", help="folder of a pipeline in the run, with --name")
    parser.add_argument("--name", help="name of the pipeline, such as lab40-student")
    parser.add_argument("--about", default="", help="what it is, in a sentence")
    given = parser.parse_args(argv)
    if bool(given.at) == bool(given.name):
        parser.error("give --at for snapshots, or --name for a pipeline")
    if given.at:
        print(*keep_snapshots(given.run, given.of, given.at), sep="\n")
    else:
        print(keep_pipeline(given.run / given.pipeline, given.of, given.name, given.about))


if __name__ == "__main__":
    main()
