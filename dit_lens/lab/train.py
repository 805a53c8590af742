"""The recipe that makes the lab model: text encoder, trunk on all noise levels, then the two experts.

    python -m dit_lens.lab.train --out DIR                # everything, resuming what DIR already holds
    python -m dit_lens.lab.train --out DIR --phase trunk  # one phase: text, trunk, high, low, save

The trunk's learning rate warms up and then stays; the experts' finetuning is at the same time its decay. So experts
can be branched off any trunk checkpoint, and the trunk itself can always be trained further (give it more iterations
and run it again).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dit_lens.errors import LoadError, StoreError
from dit_lens.lab import text
from dit_lens.lab.config import LabConfig
from dit_lens.lab.data import statistics
from dit_lens.lab.fit import Log, fit, phase

PHASES = ("text", "trunk", "high", "low", "save")


def prepare(config: LabConfig, out: Path, log: Log) -> None:
    """Phase text: the frozen text encoder and the latent statistics."""
    if (out / "statistics.json").exists():
        return
    tok, enc = text.train(config.seed, config.text_iterations, log=log)
    tok.save_pretrained(out / "tokenizer")
    enc.save_pretrained(out / "text_encoder")
    mean, std = statistics(config.seed)
    (out / "statistics.json").write_text(json.dumps({"mean": mean, "std": std}))


def ship(config: LabConfig, out: Path, folder: Path, guidance: float, note: str = "") -> Path:
    """Phase save: build the pipeline from what there is (an expert not yet trained is the trunk) and write it."""
    from dit_lens.lab.pipeline import build, save

    states = []
    for name in ("high", "low"):
        path = out / f"{name}.pt"
        states.append(torch.load(path if path.exists() else out / "trunk.pt", weights_only=True)["ema"])
    stats = json.loads((out / "statistics.json").read_text())
    return save(build(config, states[0], states[1], text.load(out), stats), folder, guidance, note)


def train(
    config: LabConfig | None = None,
    out: Path | str = "lab",
    resume: bool = True,
    phases: Sequence[str] = PHASES,
    workers: int = 2,
    guidance: float = 2.0,
    minutes: float | None = None,
    compiled: bool = True,
) -> Path:
    """Run the recipe and return the folder of the pipeline, `out/pipeline` (without phase save, `out`).

    resume: go on from the checkpoints in `out`; False refuses a folder that holds any. workers: processes for the
    trunk, one thread each (the experts always take one each, side by side). minutes: stop every fitting phase after so
    long and keep its checkpoint. compiled: torch.compile the block (a sixth faster, needs a C++ compiler).
    Raises `LoadError` where the folder holds a run of another recipe.
    """
    config = config or LabConfig()
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out / "log.txt")
    _claim(config, out, resume)
    if "text" in phases:
        prepare(config, out, log)
    if "trunk" in phases:
        _processes([("trunk", rank, workers) for rank in range(workers)], config, out, minutes, compiled)
    experts = [(name, 0, 1) for name in ("high", "low") if name in phases]
    if experts:
        _processes(experts, config, out, minutes, compiled)
    return ship(config, out, out / "pipeline", guidance) if "save" in phases else out


def _claim(config: LabConfig, out: Path, resume: bool) -> None:
    """Write the recipe beside its checkpoints, or check that it is the one they were made with (lengths may differ)."""
    path = out / "config.json"
    if path.exists():
        if not resume:
            raise LoadError(f"{out} already holds a training run; resume it, or choose another folder.")
        kept = LabConfig(**json.loads(path.read_text()))
        if replace(kept, trunk_iterations=0, expert_iterations=0) != replace(
            config, trunk_iterations=0, expert_iterations=0
        ):
            raise LoadError(f"{out} was made with another recipe ({path.name}); choose another folder.")
    path.write_text(json.dumps(config.as_dict(), indent=2) + "\n")


def _processes(
    tasks: list[tuple[str, int, int]], config: LabConfig, out: Path, minutes: float | None, compiled: bool
) -> None:
    """Run (phase, rank, world) side by side, one thread each, and fail if one fails."""
    meeting = out / "meeting"
    meeting.unlink(missing_ok=True)
    context = torch.multiprocessing.get_context("spawn")
    running = [context.Process(target=_worker, args=(*t, config, out, minutes, compiled)) for t in tasks]
    for process in running:
        process.start()
    while any(p.is_alive() for p in running) and not any(p.exitcode for p in running):
        for process in running:
            process.join(timeout=1)
    failed = [p.exitcode for p in running if p.exitcode]
    for process in running:
        process.terminate()
        process.join()
    if failed:
        raise StoreError(f"a training process ended with code {failed[0]}; see the lines above and {out / 'log.txt'}.")


def _worker(
    name: str, rank: int, world: int, config: LabConfig, out: Path, minutes: float | None, compiled: bool
) -> None:
    torch.set_num_threads(1)
    if world > 1:
        where = f"file://{out / 'meeting'}"
        torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=world)
    fit(config, phase(name, config), out, Log(out / "log.txt"), rank, world, minutes, compiled)


def main(argv: list[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="dit-lens lab train", description="Train the lab model.")
    parser.add_argument("--out", required=True, help="folder for checkpoints, log and pipeline")
    parser.add_argument("--phase", action="append", choices=PHASES, help="only this phase (may be repeated)")
    parser.add_argument("--workers", type=int, default=2, help="processes for the trunk, one thread each")
    parser.add_argument("--minutes", type=float, help="stop each fitting phase after so many minutes")
    parser.add_argument("--guidance", type=float, default=2.0, help="guidance scale written into the shipped settings")
    parser.add_argument("--eager", action="store_true", help="do not compile (no C++ compiler needed)")
    parser.add_argument("--fresh", action="store_true", help="refuse to resume")
    for name in ("trunk_iterations", "expert_iterations", "seed", "text_iterations"):
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=getattr(LabConfig(), name))
    a = parser.parse_args(argv)
    config = LabConfig(
        seed=a.seed,
        trunk_iterations=a.trunk_iterations,
        expert_iterations=a.expert_iterations,
        text_iterations=a.text_iterations,
    )
    train(config, a.out, not a.fresh, a.phase or PHASES, a.workers, a.guidance, a.minutes, not a.eager)


if __name__ == "__main__":
    main()
