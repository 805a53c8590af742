"""The film of a run as files: one clip per step, one picture of step x frame, and the schedule (paper, Chain of Steps).

    film_folder("films/maze-3", run.film(), sigmas=run.sigmas[: run.n_steps], fps=run.meta["fps"])

writes ``step_000.mp4`` and so on (for playing), ``film.png`` (steps from left to right, frames downwards) and
``schedule.json`` (``[{"step": 0, "sigma": 0.99}, ...]``). Clips are taken one at a time, so that a generator serves for
videos whose whole film would not fit into memory: ``(run.decode(run.x0_hat(s)) for s in range(run.n_steps))``.

When not to use: for measuring. H.264 is lossy, and the picture may be reduced; measure on ``run.film()``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dit_lens.errors import FigureError
from dit_lens.figures.frames import as_frames, factor_for, film_strip, mp4, shrink, spread

#: Frames in the picture are reduced until their longer side is at most this.
SIDE = 320


def film_folder(
    folder: str | Path,
    film: Iterable[np.ndarray],
    *,
    sigmas: Sequence[float] | None = None,
    steps: Sequence[int] | None = None,
    frames: Sequence[int] | None = None,
    fps: float = 8,
    most: int = 10,
) -> Path:
    """Write a film, clip by clip in the order of the steps, into a folder.

    Files of the same names are replaced; nothing else in the folder is touched.

    Args:
        folder: The folder.
        film: Clips (F, H, W, 3), one for each step.
        sigmas: Noise level of each clip's step.
        steps: The number of each clip's step (0, 1, ... by default).
        frames: Which frames the picture shows (five, evenly spread, by default), negative from the end.
        fps: Frames per second of the clips.
        most: The picture shows at most so many steps.

    Returns:
        The folder.

    Raises:
        FigureError: An empty film, clips of unlike shapes, or steps or sigmas of another length.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept: list[np.ndarray] = []  # per step, the frames of the picture
    shape: tuple[int, ...] = ()
    chosen: list[int] = []
    for i, clip in enumerate(film):
        clip = as_frames(clip, 4, "clip")
        if shape and clip.shape != shape:
            raise FigureError(f"Clip {i} has shape {clip.shape} and the first {shape}: give clips of one shape.")
        shape = clip.shape
        if steps is not None and i >= len(steps):
            raise FigureError(f"The film has more than {len(steps)} clips, but {len(steps)} steps were given.")
        (folder / f"step_{i if steps is None else steps[i]:03d}.mp4").write_bytes(mp4(clip, fps=fps))
        chosen = spread(len(clip), 5) if frames is None else [f + len(clip) if f < 0 else f for f in frames]
        if not all(0 <= f < len(clip) for f in chosen):
            raise FigureError(f"Frames {list(frames or ())} lie outside clips of {len(clip)} frames.")
        kept.append(shrink(clip[chosen], factor_for(clip, SIDE)))
    if not kept:
        raise FigureError("The film is empty: pass run.film(), or clips of at least one step.")
    numbers = list(range(len(kept))) if steps is None else [int(step) for step in steps]
    for name, given in (("steps", numbers), ("sigmas", sigmas)):
        if given is not None and len(given) != len(kept):
            raise FigureError(f"The film has {len(kept)} clips, but {len(given)} {name} were given.")
    positions = spread(len(kept), most)
    # Frames that the picture leaves out stay zero and take no memory; so the others keep their numbers.
    page = np.zeros((len(positions), shape[0], *kept[0].shape[1:]), np.uint8)
    for row, position in enumerate(positions):
        page[row, chosen] = kept[position]
    some = None if sigmas is None else [sigmas[i] for i in positions]
    strip = film_strip(
        page, sigmas=some, steps=range(len(positions)), frames=chosen, labels=[numbers[i] for i in positions]
    )
    strip.save(folder / "film.png")
    schedule = [{"step": n} | ({} if sigmas is None else {"sigma": float(sigmas[i])}) for i, n in enumerate(numbers)]
    (folder / "schedule.json").write_text(json.dumps(schedule, indent=1) + "\n", encoding="utf-8")
    return folder
