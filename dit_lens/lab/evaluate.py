"""How many unseen puzzles the model solves: quickly while it trains, and properly for the shipped folder.

    python -m dit_lens.lab.evaluate [FOLDER] --n 100 --guidance 2

The proper one runs the stock diffusers pipeline on the saved, rounded weights, one puzzle at a time, and reads the
decoded video.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from dit_lens import tasks
from dit_lens.lab import weights_path
from dit_lens.lab.codec import LabVAE
from dit_lens.lab.config import LabConfig
from dit_lens.lab.data import Puzzles


def to_frames(latents: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> np.ndarray:
    """Normalised latents (B, 16, 4, 12, 12) -> float frames 0-1, (B, 13, 96, 96, 3), numpy."""
    video = LabVAE().decode(latents.float() * std + mean, return_dict=False)[0]
    return (video / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1).numpy()


@torch.no_grad()
def quick(
    state: dict[str, torch.Tensor], config: LabConfig, puzzles: Puzzles, words: Any, n: int = 10, seed: int = 50_000
) -> str:
    """Solved counts of one model on `n` unseen puzzles per task (more mazes), without guidance, for the training
    log."""
    from diffusers import WanTransformer3DModel

    from dit_lens.lab import fast
    from dit_lens.lab.pipeline import sample

    model = WanTransformer3DModel(**config.transformer()).eval()
    model.load_state_dict(state)
    results = []
    for name in tasks.names():
        count = 2 * n if name == "maze" else n
        group = tasks.batch(name, count, seed)
        batch = puzzles.encode([t.scene for t in group], [name] * count)
        z = sample(
            lambda x, t, e: fast.velocity(model, x, t, e), batch, words(batch.prompts), words.empty, config, seed=1
        )  # fmt: skip
        frames = to_frames(z, puzzles.mean, puzzles.std)
        scores = [t.score(f) for t, f in zip(group, frames, strict=True)]
        results.append(
            f"{name} {sum(s.solved for s in scores)}/{count} (value {sum(s.value for s in scores) / count:.2f})"
        )
    return ", ".join(results)


def shipped(
    folder: Path | str,
    n: int = 100,
    seed: int = 0,
    guidance: float | None = None,
    names: Sequence[str] | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:
    """Solved rates of a saved pipeline on unseen puzzles `seed` .. `seed + n - 1` of each task, with 95 % intervals.

    Returns {task: {"solved", "n", "low", "high", "value", "failed": which checks failed how often}}.
    """
    from dit_lens.lab.film import generate, load

    pipe, settings = load(folder)
    guidance = settings["guidance_scale"] if guidance is None else guidance
    out: dict[str, dict[str, Any]] = {}
    for name in names or tasks.names():
        solved, value, begun = 0, 0.0, time.time()
        failed: dict[str, int] = {}
        for task in tasks.batch(name, n, seed):
            video, _ = generate(pipe, settings, task, seed=task.seed, guidance_scale=guidance)
            score = task.score(video)
            solved += score.solved
            value += score.value
            for key, ok in score.details.items():
                if ok is False and key != "other_goal":
                    failed[key] = failed.get(key, 0) + 1
        low, high = binomtest(solved, n).proportion_ci(method="wilson")
        out[name] = {"solved": solved, "n": n, "low": low, "high": high, "value": value / n, "failed": failed}
        log(f"{name}: {solved}/{n} solved, 95 % interval {low:.3f}-{high:.3f}, value {value / n:.3f}, failed {failed}, "
            f"guidance {guidance}, {(time.time() - begun) / n:.2f} s each")  # fmt: skip
    return out


def main(argv: list[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="dit-lens lab evaluate", description="Solved rates on unseen puzzles.")
    parser.add_argument("folder", nargs="?", default=str(weights_path()))
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--task", action="append", choices=tasks.names())
    parser.add_argument("--json", help="also write the numbers here")
    a = parser.parse_args(argv)
    result = shipped(a.folder, a.n, a.seed, a.guidance, a.task)
    if a.json:
        Path(a.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
