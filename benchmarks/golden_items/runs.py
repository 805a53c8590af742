"""Plans, plain generations, and what a run holds."""

from __future__ import annotations

from typing import Any

from golden_items.table import Numbers, flat, item, puzzle


def of_run(run: Any) -> dict[str, Any]:
    return {"latents": run.latents, "velocity": run.velocity, "final": run.final}


@item
def plain(lens: Any) -> Numbers:
    """Twenty steps with no intervention: latents, velocities, video, score, x0_hat."""
    run = lens.generate(puzzle(), seed=0, steps=20)
    return flat({
        **of_run(run), "video": run.video, "film": run.film([0, 5, 19]), "x0_hat": run.x0_hat(5),
        "score": [run.score.solved, run.score.value], "sigmas": run.sigmas,
    })  # fmt: skip
