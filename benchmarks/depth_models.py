"""How often the map's comparison of models of depth announces stages where there are none, and where there are some.

    python benchmarks/depth_models.py --layers 12 --draws 300     # tables of docs/map.md, on synthetic profiles
    python benchmarks/depth_models.py --controls 20               # on shuffled and re-initialised networks

Noise is AR(1) over layers with correlation rho, four evidences. Heights are in standard deviations of that noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from dit_lens.layer_map.depth_models import Comparison, compare
from dit_lens.layer_map.smooth_models import noise
from dit_lens.stats.shares import share_ends

E = 4
NULLS = [(shape, rho) for shape in ("flat", "ramp", "bow", "humps") for rho in (0.0, 0.3, 0.6)]
PLANTED = [("three", height) for height in (1.0, 1.5, 2.0, 3.0)]
PLANTED += [("two", 2.0), ("two", 3.0), ("one", 4.0), ("one", 6.0)]


def profile(shape: str, n: int, height: float = 3.0) -> np.ndarray:
    """A mean profile (n, 4) of a shape whose ends, tops or stages are ``height`` apart."""
    x = (np.arange(n) + 0.5) / n
    stage = np.searchsorted((0.225, 0.75), x, side="right")
    shapes = {
        "flat": [0 * x] * E,
        "ramp": [1 - x, x, x, x],
        "bow": [1 - x, 4 * x * (1 - x), x**2, x],
        "humps": [np.exp(-0.5 * ((x - c) / 0.2) ** 2) for c in (0.1, 0.5, 0.9, 0.7)],
        "three": [stage == 0, stage == 1, stage == 2, stage == 0],
        "two": [x < 0.5, x >= 0.5, x >= 0.5, x >= 0.5],
        "one": [np.arange(n) == n // 2] * E,
    }
    return height * np.stack(shapes[shape], 1).astype(float)


def announced(
    shape: str, n: int, rho: float, draws: int, height: float = 3.0, seed: int = 0, heavy: bool = False
) -> dict[str, int]:
    """How often what was announced, of ``draws`` profiles, at level .05."""
    rng = np.random.default_rng([seed, n])
    work = Comparison(range(n), n)
    made = profile(shape, n, height) + noise(draws, n, (1 - rho**2) * np.eye(E), rho, rng)
    if heavy:
        made = profile(shape, n, height) + rng.standard_t(3, (draws, n, E)) / np.sqrt(3)
    found = {"one": 0, "two": 0, "three": 0}
    for one in made:
        p, at = work.test((one - one.mean(0)) / one.std(0), 99, rng, 0.05)
        if p <= 0.05:
            found[work.models[at][0]] += 1
    return found


def synthetic(n: int, draws: int, only: Sequence[str] = ()) -> None:
    """Both tables for networks of ``n`` layers; ``only`` some profiles."""
    print(f"{n} layers, {draws} profiles a row, level .05\n")
    print("| profile | rho | stages | one place | either, 95 % interval |\n|---|---|---|---|---|")
    cases = [(s, rho, 3.0, False) for s, rho in NULLS] + [("flat", 0.0, 3.0, True)]
    cases += [(s, 0.0, height, False) for s, height in PLANTED]
    cases = [case for case in cases if not only or case[0] in only]
    for shape, rho, height, heavy in cases:
        found = announced(shape, n, rho, draws, height, heavy=heavy)
        total = sum(found.values())
        low, high = share_ends(np.array(total), np.array(draws), 0.95)
        name = shape + (f", {height:g} SD" if shape in ("one", "two", "three") else "") + (", heavy tails (t3)" * heavy)
        stages = (found["two"] + found["three"]) / draws
        either = f"{total / draws:.3f} [{low:.3f}, {high:.3f}]"
        print(f"| {name} | {rho:g} | {stages:.3f} | {found['one'] / draws:.3f} | {either} |", flush=True)


def controls(count: int, model: str) -> None:
    """Each network that learned nothing against the mean of the others: of a lab model, or of a planted network."""
    import dit_lens as dl

    if model == "planted":
        with dl.planted.plant(dl.planted.WholeMap(shape="three", n_layers=12, rest=0.3)) as made:
            _controls(count, made.lens, made.tasks(4), [0], dl.Sampling())
        return
    with dl.load(model) as lens:
        some = [dl.tasks.load("choose", seed=i) for i in range(3)]
        _controls(count, lens, some, [0, 4, 9], dl.Sampling(num_inference_steps=10))


def _controls(count: int, lens: Any, tasks: Sequence[Any], steps: Sequence[int], how: Any) -> None:
    from dit_lens.layer_map.controls import control_kind, control_model
    from dit_lens.layer_map.evidence import EVIDENCE, by_control, puzzle_evidence

    rows = []
    for c in range(count):
        with control_model(lens, c, 100) as nothing:
            rows.append([puzzle_evidence(nothing, task, i, steps, 0, how) for i, task in enumerate(tasks)])
    found = by_control(rows)[list(EVIDENCE)].mean("task")
    for expert in found["expert"].values:
        for c in range(count):
            of_kind = [i for i in range(count) if i % 2 == c % 2 and i != c]
            one = found.sel(expert=expert)
            above = one.isel(control=c) - one.isel(control=of_kind).mean("control")
            said = compare(above.to_dataarray("evidence"), draws=399, heights=())
            print(expert, c, control_kind(c), said, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="*", default=[])
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--only", nargs="*", default=[], help="profiles")
    parser.add_argument("--controls", type=int, default=0)
    parser.add_argument("--model", default="lab", help="whose controls: a model, or 'planted'")
    given = parser.parse_args()
    for layers in given.layers:
        synthetic(layers, given.draws, given.only)
    if given.controls:
        controls(given.controls, given.model)
