"""How many unseen tasks a lab model solves, by family and level.

    python -m dit_lens.lab.evaluate lab40@1600 --n 200 --guidance 2          # in batches, bfloat16
    python -m dit_lens.lab.evaluate lab --way stock                          # the stock pipeline, one task at a time
    python -m dit_lens.lab.evaluate lab40 --boards varied --out DIR          # kept in DIR, goes on where it was

``--way batched`` is the forward that training uses (:mod:`dit_lens.lab.batched`), several times as quick; it differs
from the stock pipeline by rounding, so that a few tasks in a hundred may come out otherwise. ``--boards usual`` draws
every task at its level's own size, ``varied`` at the sizes that the recipe trains on, in its shares. Task and noise
have the same seed.

Of every generation its score is kept with all checks and the answer that it gives, so that a study of errors needs no
second run.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import torch
import xarray as xr

from dit_lens import tasks
from dit_lens.errors import LoadError
from dit_lens.lab.batched import videos
from dit_lens.lab.film import generate, load
from dit_lens.lab.training.data import sized
from dit_lens.lab.training.spec import SPECS, Spec
from dit_lens.progress import Progress
from dit_lens.runner.options import Running
from dit_lens.runner.work import run
from dit_lens.stats.intervals import mean_interval, share_interval
from dit_lens.store.base import Store
from dit_lens.store.identity import describe
from dit_lens.tasks.task import Task
from dit_lens.wan.fingerprint import digest
from dit_lens.wan.versions import versions

WAYS = ("batched", "stock")
BOARDS = ("usual", "varied")
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Chunk:
    """Tasks of one name and size that are generated together."""

    name: str
    seeds: tuple[int, ...]

    @property
    def key(self) -> str:
        """Its name in a store."""
        return f"{self.name} {self.seeds[0]}-{self.seeds[-1]}"

    @property
    def group(self) -> str:
        """Each is a group of its own."""
        return self.key

    def __str__(self) -> str:
        return self.key

    def drawn(self) -> list[Task]:
        """The tasks."""
        return [tasks.load(self.name, seed) for seed in self.seeds]


@dataclass(frozen=True)
class Question:
    """What is asked of a model.

    Attributes:
        n: Tasks of each name, with seeds ``seed`` to ``seed + n - 1``.
        seed: Of the first of them.
        names: Which tasks, without sizes.
        guidance_scale: Of the sampler; the model's own where it is None.
        way: "batched", or "stock" (the pipeline itself, one task at a time).
        boards: "usual" or "varied".
        dtype: Of the blocks' matrix products where it is batched.
        batch: Most tasks at once.
    """

    n: int
    seed: int
    names: tuple[str, ...]
    guidance_scale: float | None = None
    way: str = "batched"
    boards: str = "usual"
    dtype: str = "bfloat16"
    batch: int = 32

    def __post_init__(self) -> None:
        allowed = (("way", WAYS), ("boards", BOARDS), ("dtype", tuple(DTYPES)))
        for name, choices in allowed:
            if getattr(self, name) not in choices:
                raise LoadError(f"{name}={getattr(self, name)!r} is unknown: choose from {', '.join(choices)}")
        if self.n < 1 or self.batch < 1:
            raise LoadError(f"n={self.n}, batch={self.batch}: both are 1 or more")


@dataclass(eq=False)
class Evaluation:
    """The scores of one model, as work for the runner (:class:`dit_lens.runner.work.Work`)."""

    model: str
    asked: Question
    kind: str = "evaluation"

    @cached_property
    def loaded(self) -> tuple[Any, dict[str, Any]]:
        """Pipeline and settings."""
        return load(self.model)

    @property
    def told(self) -> dict[str, Any]:
        """What is asked, with the numbers that the model's settings fill in."""
        settings, asked = self.loaded[1], asdict(self.asked)
        if asked["guidance_scale"] is None:
            asked["guidance_scale"] = float(settings["guidance_scale"])
        return {**asked, "steps": settings["num_inference_steps"]}

    @cached_property
    def units(self) -> list[Chunk]:
        """See :class:`dit_lens.runner.work.Work`."""
        asked, spec, found = self.asked, recipe_of(self.model), []
        for name in asked.names:
            by_size: dict[str, list[int]] = {}
            for seed in range(asked.seed, asked.seed + asked.n):
                at = name if asked.boards == "usual" else at_a_size(name, seed, spec)
                by_size.setdefault(at, []).append(seed)
            for at, seeds in by_size.items():
                found += [Chunk(at, tuple(seeds[i : i + asked.batch])) for i in range(0, len(seeds), asked.batch)]
        return found

    def cost(self, unit: Chunk) -> float:
        """Cost of a unit: every task counts the same."""
        return float(len(unit.seeds))

    def measure(self, units: Sequence[Chunk], store: Store) -> Generator[tuple[Chunk, Any], None, None]:
        """See :class:`dit_lens.runner.work.Work`: the score of each task."""
        for unit in units:
            drawn = unit.drawn()
            yield unit, [scored(task, frames) for task, frames in zip(drawn, self.generated(drawn), strict=True)]

    def generated(self, drawn: Sequence[Task]) -> Any:
        """The videos of tasks of one size, float 0-1, (B, F, H, W, 3)."""
        (pipe, settings), guidance = self.loaded, self.told["guidance_scale"]
        if self.asked.way == "stock":
            return [generate(pipe, settings, task, seed=task.seed, guidance_scale=guidance)[0] for task in drawn]
        return videos(
            pipe, drawn, steps=settings["num_inference_steps"], guidance=guidance, half=DTYPES[self.asked.dtype],
            negative_prompt=settings["negative_prompt"], max_sequence_length=settings["max_sequence_length"],
        )  # fmt: skip

    def gather(self, results: Mapping[Chunk, Any]) -> xr.Dataset:
        """The scores along ``task``; see :func:`evaluate`."""
        rows = [(unit.name, row) for unit, found in results.items() for row in found]
        whole = {name: unsized(name) for name, _ in rows}
        return xr.Dataset(
            {
                "solved": ("task", [row["solved"] for _, row in rows], {"long_name": "solved", "units": "share"}),
                "value": ("task", [row["value"] for _, row in rows], {"long_name": "partial credit", "units": ""}),
                "details": ("task", [json.dumps(row["details"]) for _, row in rows], {"long_name": "checks, JSON"}),
                "answer": ("task", [row["answer"] for _, row in rows], {"long_name": "answer given"}),
            },
            coords={
                "task": [f"{name} {row['seed']}" for name, row in rows],
                "name": ("task", [whole[name] for name, _ in rows]),
                "puzzle_seed": ("task", [row["seed"] for _, row in rows]),
            },
            attrs={"model": self.model, **self.told},
        )

    def identity(self) -> dict[str, Any]:
        """Everything that can change a number, as plain values."""
        pipe, settings = self.loaded
        parts = ("transformer", "transformer_2", "vae", "text_encoder")
        spec = recipe_of(self.model)
        return {
            "model": digest({part: getattr(pipe, part) for part in parts if getattr(pipe, part, None) is not None}),
            "scheduler": describe(pipe.scheduler),
            "negative_prompt": settings["negative_prompt"],
            "asked": describe(self.told),
            "sizes": dict(spec.sizes) if spec and self.asked.boards == "varied" else {},
            "versions": {k: v for k, v in versions().items() if k in ("dit-lens", "torch", "diffusers")},
        }

    def recipe(self) -> tuple[Callable[..., Evaluation], dict[str, Any]]:
        """See :class:`dit_lens.runner.work.Work`."""
        return lambda lens, **made: Evaluation(**made), {"model": self.model, "asked": self.asked}


def evaluate(
    model: str | Path = "lab",
    n: int = 200,
    seed: int = 0,
    guidance_scale: float | None = None,
    names: Sequence[str] | None = None,
    *,
    way: str = "batched",
    boards: str = "usual",
    dtype: str = "bfloat16",
    batch: int = 32,
    folder: str | Path | None = None,
    progress: Progress | None = None,
    shard: str | tuple[int, int] = (0, 1),
) -> xr.Dataset:
    """The scores of a model on unseen tasks.

    Args:
        model: A model of the lab by name, or a pipeline's folder.
        n: Tasks of each name, with seeds ``seed`` to ``seed + n - 1``.
        seed: Of the first of them.
        guidance_scale: The model's own by default.
        names: Which tasks; those of the model's recipe by default.
        way: "batched", or "stock": the pipeline itself, one task at a time.
        boards: "usual", or "varied" for the sizes that the recipe trains on.
        dtype: Of the blocks' matrix products where it is batched: "bfloat16" or "float32".
        batch: Most tasks at once.
        folder: Keep what is finished there; the same call goes on.
        progress: As in :class:`dit_lens.runner.Running`, and so is ``shard``.
        shard: This process's part, "0/4".

    Returns:
        Over ``task``: ``solved``, ``value``, ``details`` (all checks, as JSON) and ``answer`` (that the video gives, in
        words, "" for none), with ``name`` (family and level) and ``puzzle_seed`` beside them.

    Raises:
        LoadError: There is no such model, or an option is unknown.
        TaskError: A task's name is unknown.
        StoreError: A folder of other parameters.
    """
    chosen, scale = tuple(names or named(model)), None if guidance_scale is None else float(guidance_scale)
    asked = Question(n, seed, chosen, scale, way, boards, dtype, batch)
    return run(Evaluation(str(model), asked), Running(folder=folder, progress=progress, shard=shard))


def summary(scores: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Shares by family and level.

    Args:
        scores: From :func:`evaluate`.

    Returns:
        Name -> ``solved`` (count), ``n``, ``share`` with ``low`` and ``high`` (95 %, ``dl.stats.share_interval``),
        ``value`` with ``value_low`` and ``value_high``, and ``failed``: which checks failed how often.
    """
    found = {}
    for name in dict.fromkeys(scores["name"].values.tolist()):
        part = scores.isel(task=scores["name"].values == name)
        share = share_interval(part["solved"])
        value = mean_interval(part["value"], bounds=(0, 1))
        checks = [json.loads(text) for text in part["details"].values]
        failed = Counter(k for check in checks for k, ok in check.items() if ok is False and k != "other_goal")
        found[name] = {
            "solved": int(part["solved"].sum()), "n": part.sizes["task"], "share": float(share["value"]),
            "low": float(share["low"]), "high": float(share["high"]), "value": float(value["value"]),
            "value_low": float(value["low"]), "value_high": float(value["high"]), "failed": dict(failed),
        }  # fmt: skip
    return found


def scored(task: Task, frames: Any) -> dict[str, Any]:
    """What is kept of a generation, as plain values."""
    score, said = task.score(frames), task.answer(frames)
    checks = json.loads(json.dumps(dict(score.details), default=str))
    answer = "" if said is None else str(said)
    return {
        "seed": task.seed, "solved": bool(score.solved), "value": float(score.value), "details": checks,
        "answer": answer,
    }  # fmt: skip


def recipe_of(model: str | Path) -> Spec | None:
    """The recipe that a model was trained by, as far as its name or its folder tells."""
    kept = Path(model).parent / "spec.json"
    if Path(model).is_dir():
        return Spec(**json.loads(kept.read_text())) if kept.is_file() else None
    return SPECS.get(str(model)) or SPECS.get(re.split("[@-]", str(model))[0])


def named(model: str | Path) -> tuple[str, ...]:
    """The tasks that a model was trained on, without sizes; the four usual families where that is not known."""
    spec = recipe_of(model)
    return tuple(spec.mixture) if spec else tasks.names()


def at_a_size(name: str, seed: int, spec: Spec | None) -> str:
    """A task's name at one of the sizes that a recipe trains on, drawn by their shares.

    Raises:
        LoadError: No recipe.
    """
    if spec is None:
        raise LoadError("boards='varied' needs the recipe of the model, and none is known: take boards='usual'")
    fits = {s: w for s, w in zip(spec.boards, spec.sizes.values(), strict=True)
            if tasks.fits(name, s.rows, s.cols, s.num_frames)}  # fmt: skip
    return sized(name, Random(f"size/{name}/{seed}").choices(list(fits), list(fits.values()))[0])


def unsized(name: str) -> str:
    """A task's name without its size."""
    return re.sub(r"-\d+x\d+x\d+$", "", name)


def line(name: str, row: Mapping[str, Any]) -> str:
    """One name's result in words."""
    return (
        f"{name}: {row['solved']}/{row['n']} solved, {row['share']:.3f} [{row['low']:.3f}, {row['high']:.3f}], "
        f"value {row['value']:.3f} [{row['value_low']:.3f}, {row['value_high']:.3f}], failed {row['failed']}"
    )


def main(argv: list[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="dit-lens lab evaluate", description="Solved rates on unseen puzzles.")
    parser.add_argument("model", nargs="?", default="lab", help="a name, such as lab40@1600, or a pipeline's folder")
    parser.add_argument("--n", type=int, default=200, help="puzzles of each family and level")
    parser.add_argument("--seed", type=int, default=0, help="of the first of them")
    parser.add_argument("--guidance", type=float, help="guidance scale, the model's own by default")
    parser.add_argument("--task", action="append", choices=tasks.listed(), help="only this one (may be repeated)")
    parser.add_argument("--way", choices=WAYS, default=WAYS[0], help="the quick forward, or the stock pipeline")
    parser.add_argument("--boards", choices=BOARDS, default=BOARDS[0], help="each level's own size, or the recipe's")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16", help="of the quick forward's products")
    parser.add_argument("--batch", type=int, default=32, help="most puzzles at once")
    parser.add_argument("--out", help="keep every score in this folder; the same command goes on there")
    parser.add_argument("--shard", default="0/1", help="this process's part, as 0/2")
    parser.add_argument("--json", help="also write the table here")
    a = parser.parse_args(argv)
    found = evaluate(
        a.model, a.n, a.seed, a.guidance, a.task, way=a.way, boards=a.boards, dtype=a.dtype, batch=a.batch,
        folder=a.out, shard=a.shard,
    )  # fmt: skip
    table = summary(found)
    told = found.attrs
    print(
        f"{a.model}: {told['n']} unseen puzzles each from seed {told['seed']}, {told['boards']} boards, "
        f"{told['steps']} steps, guidance {told['guidance_scale']:g}, {told['way']}"
        f"{' ' + told['dtype'] if told['way'] == 'batched' else ''}; 95 % intervals"
    )
    for name, row in table.items():
        print(line(name, row))
    if a.json:
        Path(a.json).write_text(json.dumps({"asked": dict(told), "found": table}, indent=2, default=list) + "\n")


if __name__ == "__main__":
    main()
