"""Commands that look at one model or one generation: ``points``, ``plan``, ``generate``, ``report``."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dit_lens.cli.common import (
    Device,
    DtypeOf,
    Json,
    Model,
    OffloadOf,
    examples,
    folder,
    load,
    progress,
    resumable,
    sampled,
    say,
    tell_json,
)
from dit_lens.errors import LoadError, SamplerError, StoreError
from dit_lens.pictures import picture

if TYPE_CHECKING:
    from dit_lens.wan.run import Run

__all__ = ["COMMANDS", "examples"]


def points(model: Model = "lab", json: Json = False) -> None:
    """List every named point of a model: name, path, shape, meaning. Reads its configuration; no weights."""
    from dit_lens.display import lens_and_run
    from dit_lens.wan.loading import outline

    lens = outline(model)
    if not json:
        return typer.echo(str(lens))
    layers = {name: expert.n_layers for name, expert in lens.experts.items()}
    tell_json({"model": lens.name, "layers": layers, "points": lens_and_run.points(lens)})


@sampled
def plan(
    model: Model = "lab",
    sampling: Any = None,
    json: Json = False,
) -> None:
    """List every denoiser call of a generation before it happens: step, branch, expert, noise level. No weights."""
    from dit_lens.wan.loading import outline

    found = outline(model).plan(sampling)
    if json:
        tell_json({"num_inference_steps": found.n_steps, **asdict(found)})
    else:
        typer.echo(str(found))


@sampled
def generate(
    model: Model = "lab",
    task: Annotated[str | None, typer.Option(help="a task of this family, with its prompt, picture and scorer")] = (
        None
    ),
    seed: Annotated[int, typer.Option(help="seed of the noise, and of the task unless --task-seed is given")] = 0,
    task_seed: Annotated[int | None, typer.Option(help="seed of the task, to see it with other noise")] = None,
    prompt: Annotated[str | None, typer.Option(help="what to generate, in place of --task")] = None,
    image: Annotated[
        Path | None, typer.Option(help="first frame, for image-to-video", exists=True, dir_okay=False)
    ] = None,
    sampling: Any = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="folder to write (default: runs/TASK-SEED); a run there is replaced, and a stopped one is continued"
        ),
    ] = None,
    device: Device = None,
    dtype: DtypeOf = None,
    offload: OffloadOf = None,
    json: Json = False,
) -> None:
    """Generate one video; keep the run, the video, and a film of what the model expected at each step.

    Stopped with ctrl-C, it keeps the steps that are done, and the same command continues from there.
    """
    import dit_lens
    from dit_lens.figures.frames import mp4
    from dit_lens.figures.run_page import fps_of, score_of, strip_of
    from dit_lens.runner.resumable_generation import resumable_generation
    from dit_lens.store.atomic import new_file
    from dit_lens.wan.loading import index_of

    if (task is None) == (prompt is None):
        raise typer.BadParameter("give --task, or --prompt (and --image for image-to-video): one of the two")
    number = seed if task_seed is None else task_seed
    given: Any = {} if task is None else {"task": dit_lens.tasks.load(task, seed=number)}
    if prompt is not None:
        given["prompt"] = prompt
    if image is not None:
        given["image"] = picture(image, LoadError)
    elif task is None and index_of(model)["_class_name"] == "WanImageToVideoPipeline":  # said before weights are read
        raise SamplerError(
            f"{model} makes video from an image: give --image beside --prompt, or a --task, which has one"
        )
    given |= {"seed": seed, **sampling}
    with folder(Path("runs") / _named(task, prompt, number, seed) if out is None else out) as place:
        lens = load(model, device, dtype, offload)
        with resumable(place), resumable_generation(lens, place, given) as work:
            if work.resumed:
                say(work.resumed)
            with progress("generate") as tell:
                run = work.finish(tell)
            with new_file(place / "video.mp4") as scratch:
                scratch.write_bytes(mp4(run.video, fps=fps_of(run)))
            with new_file(place / "film.png") as scratch:
                scratch.write_bytes(strip_of(run).png)
    score = score_of(run)
    if json:
        files = {"folder": place, "run": place / "run", "video": place / "video.mp4", "film": place / "film.png"}
        made = {"model": lens.name, "fingerprint": lens.fingerprint, "prompt": run.prompt, "seed": seed}
        used: dict[str, Any] = {"num_inference_steps": run.n_steps, "guidance_scale": run.plan.guidance_scale}
        used |= {"scheduler": run.plan.scheduler, "score": asdict(score) if task is not None else None}
        return tell_json({**files, **made, **used})
    typer.echo(f"{place}  (video.mp4, film.png, and the run: dit_lens.load_run({str(place / 'run')!r}))")
    if score is not None:
        typer.echo(f"{task} {number}: {'solved' if score.solved else 'failed'}, score {score.value:.2f}")
    say(f"to look at it: dit-lens report {place}")


def report(
    folder: Annotated[Path, typer.Argument(help="what generate, map or sweep wrote, or a saved run")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write (default: report.html in the folder)")] = None,
    model: Annotated[str | None, typer.Option(help="where the model of the runs is now (default: as recorded)")] = None,
    films: Annotated[int, typer.Option(help="show at most so many runs with their film")] = 6,
    device: Device = None,
    dtype: DtypeOf = None,
    offload: OffloadOf = None,
) -> None:
    """Make the HTML report of a saved run, or of the tables and runs that map or sweep wrote."""
    from dit_lens.figures.folder_report import runs_in, write_folder

    if not folder.is_dir():
        raise StoreError(f"{folder} is not a folder: give one that generate, map or sweep wrote, or a saved run")
    # A saved run's folder holds nothing but the run, so its page is written beside the folder.
    page = out or (folder.parent / f"{folder.name}.html" if (folder / "run.json").is_file() else folder / "report.html")
    if out is None and page.exists() and any(folder.glob("*.csv")):
        raise StoreError(
            f"{page} exists already: open it, or give --out for a page made from the tables and runs alone"
        )
    lenses: dict[str, Any] = {}

    def attached(place: Path) -> Run:
        import dit_lens

        run = dit_lens.load_run(place)
        name = model or str(run.meta.get("model", ""))
        if name not in lenses:
            lenses[name] = load(name, device, dtype, offload)
        if run.meta.get("fingerprint") != lenses[name].fingerprint:
            raise LoadError(
                f"{place} was made by other weights than {name!r} has: give --model, the place of the right ones"
            )
        return lenses[name].attach(run)

    if runs_in(folder):
        say(f"decoding the films of {min(films, len(runs_in(folder)))} run(s)")
    typer.echo(str(write_folder(folder, page, load=attached, films=films)))


def _named(task: str | None, prompt: str | None, number: int, seed: int) -> str:
    """A folder's name, unique to a run."""
    words = re.sub(r"[^a-z0-9]+", "-", (prompt or "").lower()).strip("-")[:40].strip("-")
    name = f"{task}-{number}" if task is not None else words or "run"
    return name if task is not None and number == seed else f"{name}-seed-{seed}"


#: Commands and their examples.
COMMANDS: Any = (
    (
        generate,
        (
            "dit-lens generate lab --task maze --seed 3",
            "dit-lens generate lab --task maze --seed 7 --task-seed 3 --json",
            'dit-lens generate Wan-AI/Wan2.2-I2V-A14B-Diffusers --prompt "the ball rolls left" --image first.png '
            "--preset paper --device cuda --dtype bfloat16 --offload model",
        ),
    ),
    (report, ("dit-lens report runs/maze-3", "dit-lens report map --out map/again.html --films 12")),
    (points, ("dit-lens points lab", "dit-lens points lab --json")),
    (plan, ("dit-lens plan lab --num-inference-steps 20", "dit-lens plan lab --guidance-scale 1 --json")),
)
