"""How many unseen tasks a saved model solves.

    python -m dit_lens.lab.evaluate [FOLDER] --n 100 --guidance 2

It runs the stock diffusers pipeline on the saved, rounded weights, one task at a time, and reads the decoded video.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from dit_lens import tasks
from dit_lens.lab import weights_path


def shipped(
    folder: Path | str,
    n: int = 100,
    seed: int = 0,
    guidance: float | None = None,
    names: Sequence[str] | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:
    """Solved rates of a saved pipeline on unseen tasks, with 95 % intervals (Wilson).

    Args:
        folder: Of the pipeline.
        n: Tasks of each name, with seeds ``seed`` to ``seed + n - 1``.
        seed: Of the first of them.
        guidance: Guidance scale; the saved settings' by default.
        names: Which tasks; those that the lab model was trained on by default.
        log: Takes a line for each name.

    Returns:
        name -> "solved", "n", "low", "high", "value" (mean partial credit), and "failed": which checks failed how
        often.
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
