"""x0_hat of the shipped model step by step, and how often several routes are seen in it at once.

    python -m dit_lens.lab.film --picture docs/img/lab-x0hat-film.png    # one maze: the picture in the docs
    python -m dit_lens.lab.film --count 100                             # many mazes with several shortest routes

A *candidate* is a shortest route all of whose deciding cells (those that not every shortest route enters) show at least
``SEEN`` of the trail's colour in the last frame of the decoded x0_hat. Routes that share cells can make a third one
visible, so the count says "at least two", never how many.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from dit_lens import tasks
from dit_lens.errors import LoadError
from dit_lens.lab import models
from dit_lens.tasks import palette
from dit_lens.tasks.grid import Route
from dit_lens.tasks.task import Task

SEEN = 0.25
STEPS = (0, 2, 5, 9, 14, 19)
SHOWN = (1, 3, 6, 9, 12)  # frames


def load(what: Path | str = "lab") -> tuple[Any, dict[str, Any]]:
    """The stock pipeline and the settings of a lab model.

    Args:
        what: A model's name (:mod:`dit_lens.lab.models`), or a folder that training wrote.

    Raises:
        LoadError: There is no such model.
    """
    from diffusers import DiffusionPipeline

    model = models.find(what)
    folder = model.folder if model else Path(what)
    if not (folder / "lab.json").is_file():
        raise LoadError(f"{what!r} is no model of the lab: give a name ({', '.join(models.names())}) or its folder")
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    settings = json.loads((folder / "lab.json").read_text())
    if model:
        model.equip(pipe)
        settings.update(model.settings)
    return pipe, settings


def generate(
    pipe: Any, settings: dict[str, Any], task: Task, seed: int = 0, **changes: Any
) -> tuple[np.ndarray, list[torch.Tensor]]:
    """Run the stock pipeline on a task.

    Args:
        pipe: The pipeline.
        settings: As of :func:`load`.
        task: What is generated.
        seed: Of the noise.
        **changes: Arguments of the pipeline in place of the settings'.

    Returns:
        Frames, float 0-1 (F, H, W, 3), and the x0_hat latents of every step.
    """
    seen: list[torch.Tensor] = []

    def keep(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(pipe.scheduler.model_outputs[-1].clone())  # UniPC holds exactly x - sigma v of the step just done
        return tensors

    options = dict(
        image=task.image,
        prompt=task.prompt,
        negative_prompt=settings["negative_prompt"],
        height=task.height,
        width=task.width,
        num_frames=task.num_frames,
        num_inference_steps=settings["num_inference_steps"],
        guidance_scale=settings["guidance_scale"],
        max_sequence_length=settings["max_sequence_length"],
        output_type="np",
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=keep,
    )
    return pipe(**{**options, **changes}).frames[0], seen


def decode(pipe: Any, latents: torch.Tensor) -> np.ndarray:
    """Decode normalised latents.

    Args:
        pipe: The pipeline.
        latents: (1, 16, T, h, w).

    Returns:
        Frames, float 0-1 (F, H, W, 3).
    """
    mean, std = (
        torch.tensor(getattr(pipe.vae.config, k)).view(1, -1, 1, 1, 1) for k in ("latents_mean", "latents_std")
    )
    video = pipe.vae.decode(latents.float() * std + mean, return_dict=False)[0][0]
    return (video / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0).numpy()


def trail_strength(frames: np.ndarray) -> np.ndarray:
    """How far each disc of the last frame is on the way from floor (0) to trail (1) or agent, (6, 6)."""
    disc = palette.part_means(frames[-1:])[0, :, :, 0]
    floor, trail = (palette.PALETTE[i].astype(float) for i in (palette.BACKGROUND, palette.TRAIL))
    return ((disc - floor) @ (trail - floor)) / ((trail - floor) @ (trail - floor))


def candidates(task: Task, frames: np.ndarray, seen: float = SEEN) -> int:
    """Number of shortest routes that are visible in the last frame."""
    strength = trail_strength(frames)
    routes: tuple[Route, ...] = task.scene.solutions  # type: ignore[assignment]
    common = set(routes[0]).intersection(*routes)
    return sum(all(strength[c] >= seen for c in route if c not in common) for route in routes)


def several(n: int, seed: int = 0, moves: int = 0, routes: int = 2) -> list[Task]:
    """The first mazes of ``tasks.load`` with several shortest routes.

    Args:
        n: How many.
        seed: Where to begin to look.
        moves: Least length of a route.
        routes: Least number of shortest routes.

    Returns:
        Unseen tasks.
    """
    out: list[Task] = []
    while len(out) < n:
        task = tasks.load("maze", seed)
        seed += 1
        if len(task.solutions) >= routes and len(task.scene.truth) > moves:  # type: ignore[arg-type]
            out.append(task)
    return out


def count(
    pipe: Any, settings: dict[str, Any], n: int, seed: int = 0, log: Callable[[str], None] = print
) -> dict[int, int]:
    """Count the mazes in which several routes are visible at once.

    Args:
        pipe: The pipeline.
        settings: As of :func:`load`.
        n: Mazes with several shortest routes.
        seed: Of the first of them.
        log: Takes a line.

    Returns:
        step -> in how many mazes at least two shortest routes are visible in x0_hat.

    Raises:
        LoadError: A codec that is not linear: averages of latents then have colours of their own, which would count.
    """
    if not getattr(pipe.vae, "linear", True):
        raise LoadError(
            "this counts how much of the trail's colour shows, which only says something behind a linear codec: read "
            "runs of this model with dit_lens.measures.candidates"
        )
    totals = dict.fromkeys(STEPS, 0)
    for task in several(n, seed):
        _, hats = generate(pipe, settings, task, seed=task.seed)
        for step in STEPS:
            totals[step] += candidates(task, decode(pipe, hats[step])) >= 2
    log(f"two or more candidates visible, of {n} mazes with several shortest routes, by step: {totals}")
    return totals


def picture(pipe: Any, settings: dict[str, Any], task: Task, seed: int = 0) -> Image.Image:
    """Draw x0_hat of one task, twice enlarged: a row for each of ``STEPS``, a column for each frame of ``SHOWN``."""
    _, hats = generate(pipe, settings, task, seed=seed)
    cell, gap, head, side = 2 * palette.SIZE, 8, 24, 70
    size = (side + len(SHOWN) * (cell + gap), head + len(STEPS) * (cell + gap))
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for column, frame in enumerate(SHOWN):
        draw.text((side + column * (cell + gap) + cell // 2 - 24, 6), f"frame {frame}", fill="black")
    for row, step in enumerate(STEPS):
        frames = decode(pipe, hats[step])
        draw.text((8, head + row * (cell + gap) + cell // 2), f"step {step}", fill="black")
        for column, frame in enumerate(SHOWN):
            shot = Image.fromarray((frames[frame] * 255).round().astype(np.uint8)).resize(
                (cell, cell), Image.Resampling.NEAREST
            )
            page.paste(shot, (side + column * (cell + gap), head + row * (cell + gap)))
    return page


def main(argv: list[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="dit-lens lab film", description="x0_hat of the lab model, step by step.")
    parser.add_argument("model", nargs="?", default="lab", help="a name, such as lab40@1600, or a pipeline's folder")
    parser.add_argument("--picture", help="write the film of one maze here")
    parser.add_argument(
        "--task-seed", type=int, default=0, help="show the first such maze from this seed up that is solved"
    )
    parser.add_argument("--moves", type=int, default=6, help="the picture's maze has routes of at least so many moves")
    parser.add_argument("--routes", type=int, default=4, help="and at least so many shortest ones")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--count", type=int, default=0, help="count visible candidates over so many mazes")
    a = parser.parse_args(argv)
    pipe, settings = load(a.model)
    if a.picture:
        for task in several(20, a.task_seed, a.moves, a.routes):
            solved = task.score(generate(pipe, settings, task, a.seed)[0]).solved
            print(f"{task!r}, {len(task.solutions)} shortest routes, noise seed {a.seed}, solved: {solved}")
            if solved:
                break
        Path(a.picture).parent.mkdir(parents=True, exist_ok=True)
        picture(pipe, settings, task, a.seed).save(a.picture, optimize=True)
    if a.count:
        count(pipe, settings, a.count)


if __name__ == "__main__":
    main()
