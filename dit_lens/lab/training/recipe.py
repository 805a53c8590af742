"""A recipe's phases in order: text encoder, trunk on all noise levels, the two experts, and a student of four steps.

The trunk of ``lab40`` grows from a shallow one, its quarter in depth, which is trained first.

    python -m dit_lens.lab.training --spec lab40 --out DIR                # everything, resuming what DIR already holds
    python -m dit_lens.lab.training --spec lab40 --out DIR --phase trunk  # one phase: text, trunk, high, low, save, ...
    python -m dit_lens.lab.training --spec lab40 --out DIR --phase walks --phase student  # after the experts
    python -m dit_lens.lab.training --spec lab40-nonlinear --out DIR --start RUN  # from another run's weights

The trunk's learning rate warms up and then stays; the experts' finetuning is at the same time its decay. So experts
can be branched off any trunk checkpoint, and the trunk itself can always be trained further (give it more iterations
and run it again).

A recipe that starts from another run takes its text encoder, and the weights of its trunk (a training folder) or of its
two experts (a pipeline). Latents may differ: what each channel says is learned anew, what the blocks do with it is not.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from dit_lens import tasks
from dit_lens.errors import LoadError, StoreError
from dit_lens.lab.training import machine, student, text
from dit_lens.lab.training.data import statistics
from dit_lens.lab.training.fit import Log, fit, phase
from dit_lens.lab.training.machine import Way
from dit_lens.lab.training.pipeline import build, save
from dit_lens.lab.training.spec import LAB, SPECS, Spec
from dit_lens.lab.training.state import Training

PHASES = ("text", "shallow", "trunk", "high", "low", "save")
STUDENT = ("walks", "student", "save-student")  # only when they are asked for


def prepare(spec: Spec, out: Path, log: Log) -> None:
    """Phase text: the frozen text encoder and the latent statistics."""
    if (out / "statistics.json").exists():
        return
    if not (out / "text_encoder").exists():  # else it is that of the run it starts from
        tok, enc = text.train(tasks.prompts(spec.mixture), spec.seed, spec.text_iterations, log=log)
        tok.save_pretrained(out / "tokenizer")
        enc.save_pretrained(out / "text_encoder")
    mean, std = statistics(list(spec.mixture), spec.seed, kind=spec.codec)
    (out / "statistics.json").write_text(json.dumps({"mean": mean, "std": std}))


def begin_from(spec: Spec, start: Path, out: Path, log: Log) -> None:
    """Put another run's text encoder and weights into a folder that has none of its own, as iteration 0.

    Args:
        spec: The recipe of the new run.
        start: A training folder, whose trunk's moving average is taken (the newest snapshot, where no checkpoint is
            left), or a pipeline, whose experts are.
        out: Folder of the new run.
        log: Of the new run.

    Raises:
        LoadError: The folder holds neither, or a model of another shape.
    """
    if any((out / f"{name}.pt").exists() for name in ("trunk", "high", "low")):
        return
    states: dict[str, Mapping[str, torch.Tensor]] = {}
    try:
        if (start / "trunk.pt").is_file() or any(start.glob("snapshots/trunk-*.safetensors")):
            states["trunk"] = Training(spec, "trunk", start).ema
        elif (start / "transformer_2").is_dir():
            for name, part in (("high", "transformer"), ("low", "transformer_2")):
                states[name] = load_file(start / part / "diffusion_pytorch_model.safetensors")
        else:
            raise LoadError(f"{start} is no run to start from: give a training folder with trunk.pt, or its pipeline")
        made = [Training(spec, name, out) for name in states]
        for run in made:
            run.model.load_state_dict(states[run.name])
    except RuntimeError as error:  # torch's own
        raise LoadError(f"{start} has a model of another shape than recipe {spec.name!r}") from error
    for part in ("tokenizer", "text_encoder"):
        shutil.copytree(start / part, out / part, dirs_exist_ok=True)
    for run in made:
        run.ema = {k: v.clone() for k, v in run.model.state_dict().items()}
        run.save()
    log(f"starts from the {' and '.join(states)} of {start.name}")


def ship(spec: Spec, out: Path, folder: Path, guidance: float, note: str = "") -> Path:
    """Phase save: build the pipeline from what there is (an expert not yet trained is the trunk) and write it."""
    states = []
    for name in ("high", "low"):
        path = out / f"{name}.pt"
        states.append(torch.load(path if path.exists() else out / "trunk.pt", weights_only=True)["ema"])
    stats = json.loads((out / "statistics.json").read_text())
    return save(build(spec, states[0], states[1], text.load(out), stats), spec, folder, guidance, note)


def ship_student(spec: Spec, out: Path, folder: Path, note: str = "") -> Path:
    """Phase save-student: build the student's pipeline, whose guidance is 1 and whose sampler takes four steps."""
    states = [torch.load(out / f"{p.name}.pt", weights_only=True)["ema"] for p in student.phases(spec)]
    pipe = build(spec, states[0], states[1], text.load(out), json.loads((out / "statistics.json").read_text()))
    pipe.register_modules(scheduler=student.sampler(spec))
    return save(pipe, spec, folder, 1.0, note, steps=student.SEGMENTS)


def train(
    spec: Spec | None = None,
    out: Path | str = "lab",
    resume: bool = True,
    phases: Sequence[str] = PHASES,
    workers: int = 2,
    guidance: float = 2.0,
    minutes: float | None = None,
    compiled: bool = True,
    start: Path | str | None = None,
) -> Path:
    """Run a recipe.

    Args:
        spec: The recipe, ``LAB`` by default.
        out: Folder of the run.
        resume: Go on from the checkpoints in ``out``; False refuses a folder that holds any.
        phases: Which of ``PHASES`` and ``STUDENT``.
        workers: Processes for the trunk, one thread each (the experts always take one each, side by side).
        guidance: Scale written into the saved settings; a student's teacher has it, too.
        minutes: Stop every fitting phase after so long and keep its checkpoint.
        compiled: Whether the blocks may be compiled, which needs a C++ compiler.
        start: Begin with the weights of this run (:func:`begin_from`); from a pipeline leave out the phase trunk.

    Returns:
        The folder of the pipeline, ``out/pipeline`` or ``out/student``; without a phase that saves, ``out``.

    Raises:
        LoadError: Where the folder holds a run of another recipe, or ``start`` none that fits.
    """
    spec = spec or LAB
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out)
    _claim(spec, out, resume)
    if start is not None:
        begin_from(spec, Path(start), out, log)
        if "trunk" in phases and not (out / "trunk.pt").exists():
            raise LoadError(f"{start} has experts and no trunk: leave the trunk out (--phase text --phase high ...)")
    if "text" in phases:
        prepare(spec, out, log)
    experts = [(name, 0, 1) for name in ("high", "low") if name in phases]
    if experts or {"shallow", "trunk", "walks", "student"} & {*phases}:
        torch.set_num_threads(1)
        way = machine.choose(spec, log, compiled)
        for name in ("shallow", "trunk") if spec.shallow_layers else ("trunk",):
            if name in phases:
                _processes([(name, rank, workers) for rank in range(workers)], spec, out, minutes, way)
        if experts:
            _processes(experts, spec, out, minutes, way)
        if "walks" in phases:
            student.walk(spec, out, log, guidance, way)
        if "student" in phases:
            _processes([(p.name, 0, 1) for p in student.phases(spec)], spec, out, minutes, way)
    if "save-student" in phases:
        return ship_student(spec, out, out / "student")
    return ship(spec, out, out / "pipeline", guidance) if "save" in phases else out


def _claim(spec: Spec, out: Path, resume: bool) -> None:
    """Write the recipe beside its checkpoints, or check that it is the one they were made with (lengths may differ)."""
    path = out / "spec.json"
    if path.exists():
        if not resume:
            raise LoadError(f"{out} already holds a training run; resume it, or choose another folder.")
        kept = Spec(**json.loads(path.read_text()))
        if _of_no_length(kept) != _of_no_length(spec):
            raise LoadError(f"{out} was made with another recipe ({path.name}); choose another folder.")
    path.write_text(json.dumps(spec.as_dict(), indent=2) + "\n")


def _of_no_length(spec: Spec) -> Spec:
    return replace(spec, shallow_iterations=0, trunk_iterations=0, expert_iterations=0, student_iterations=0)


def _processes(tasks: list[tuple[str, int, int]], spec: Spec, out: Path, minutes: float | None, way: Way) -> None:
    """Run (phase, rank, world) side by side, one thread each, and fail if one fails. One alone runs in this process."""
    if len(tasks) == 1:
        _worker(*tasks[0], spec, out, minutes, way)
        return
    meeting = out / "meeting"
    meeting.unlink(missing_ok=True)
    context = torch.multiprocessing.get_context("spawn")
    running = [context.Process(target=_worker, args=(*t, spec, out, minutes, way)) for t in tasks]
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


def _worker(name: str, rank: int, world: int, spec: Spec, out: Path, minutes: float | None, way: Way) -> None:
    torch.set_num_threads(1)
    if world > 1:
        where = f"file://{out / 'meeting'}"
        torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=world)
    taught = {what.name: what for what in student.phases(spec)}
    inputs = partial(student.draw, out / "walks") if name in taught else None
    fit(spec, taught.get(name) or phase(name, spec), out, Log(out), rank, world, minutes, way, inputs)


def main(argv: list[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="dit-lens lab train", description="Train a lab model.")
    parser.add_argument("--out", required=True, help="folder for checkpoints, log and pipeline")
    parser.add_argument("--spec", default=LAB.name, choices=SPECS, help="the recipe")
    parser.add_argument(
        "--phase", action="append", choices=(*PHASES, *STUDENT), help="only this phase (may be repeated)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes for the trunk, one thread each")
    parser.add_argument("--minutes", type=float, help="stop each fitting phase after so many minutes")
    parser.add_argument("--guidance", type=float, default=2.0, help="guidance scale written into the saved settings")
    parser.add_argument("--eager", action="store_true", help="do not compile (no C++ compiler needed)")
    parser.add_argument("--start", help="begin with the weights of this run: its training folder, or its pipeline")
    parser.add_argument("--fresh", action="store_true", help="refuse to resume")
    lengths = [f"{name}_iterations" for name in ("text", "shallow", "trunk", "expert", "student")] + ["student_walks"]
    numbers = ("seed", *lengths)
    for name in numbers:
        parser.add_argument("--" + name.replace("_", "-"), type=int, help="instead of the recipe's")
    a = parser.parse_args(argv)
    spec = replace(SPECS[a.spec], **{n: getattr(a, n) for n in numbers if getattr(a, n) is not None})
    phases = a.phase or PHASES
    train(spec, a.out, not a.fresh, phases, a.workers, a.guidance, a.minutes, not a.eager, a.start)
