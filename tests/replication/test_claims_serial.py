"""Claims on serial depth: verdicts follow planted tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from planted_results import every_row

from dit_lens.replication.serial import ROWS

N = 60
KINDS = ["network", "ideal", "blind"]
LENGTH = {"length": ("task", [3] * N + [8] * N)}


def shown(first: tuple[float, float], last: float = 0.0, seed: int = 0) -> xr.Dataset:
    """Wrong answers at step 0 of short and long puzzles, and at the last; the ideal shows none."""
    noise = 0.02 * np.random.default_rng(seed).random((2 * N, 2))
    network = np.repeat(first, N)[:, None] * [[1, 0]] + [[0, last]] + noise
    values = np.stack([network, 0 * network, 0.5 + 0 * network], 1)[:, None]
    dims = ("task", "seed", "kind", "step")
    return xr.Dataset({"wrong": (dims, values)}, {"kind": KINDS, "step": [0, 19], **LENGTH})


def videos(short: tuple[float, ...], long: tuple[float, ...], ideal: tuple[float, ...] = (1, 1, 1, 1)) -> xr.Dataset:
    """Shares by number of steps, as so many of ten puzzles; two seeds alike."""
    ranks = (np.arange(N) + 0.5)[:, None] / N
    network = np.concatenate([ranks < np.array(side) for side in (short, long)])
    perfect = np.concatenate([ranks < np.array(ideal)] * 2)
    values = np.stack([network, perfect, 0 * network], -1).astype(float)[:, None].repeat(2, 1)
    dims = ("task", "seed", "num_inference_steps", "kind")
    coords = {"kind": KINDS, "num_inference_steps": [1, 2, 10, 20], **LENGTH}
    return xr.Dataset({name: (dims, values) for name in ("right", "solved")}, coords, {"n_steps": 20})


def layers(short: tuple[tuple[float, float], ...], long: tuple[tuple[float, float], ...]) -> xr.Dataset:
    """Shares at few and many steps, with nine layers and with twelve."""
    ranks = (np.arange(N) + 0.5)[:, None, None] / N
    right = np.concatenate([ranks < np.array(side) for side in (short, long)]).astype(float)  # (task, layers, steps)
    values = np.stack([right, right], -1)[:, None, ..., None].repeat(2, -1)
    dims = ("task", "seed", "n_layers", "num_inference_steps", "kind", "draw")
    coords = {"n_layers": [9, 12], "num_inference_steps": [2, 20], "kind": ["even", "random"], **LENGTH}
    return xr.Dataset({"right": (dims, values)}, coords)


def verdicts(support: xr.Dataset, steps: xr.Dataset, depth: xr.Dataset) -> dict[str, Any]:
    claims = every_row("serial", {"support": support, "steps": steps, "depth": depth})
    return {row.id.split("/")[1]: claim for row, claim in zip(ROWS, claims, strict=True)}


def test_steps_that_compute() -> None:
    """Long puzzles begin wrong, are solved with many steps only, and steps make up for layers."""
    found = verdicts(
        shown((0.0, 0.6)),
        videos((1, 1, 1, 1), (0, 0, 0.2, 1)),
        layers(((1, 1), (1, 1)), ((0, 1), (1, 1))),
    )
    said = {name: claim.verdict for name, claim in found.items()}
    assert said.pop("layers-for-length") != "supported"
    assert set(said.values()) == {"supported"}, said
    assert found["gain-right"].measure.startswith("nearest answer is a right one, 20 steps minus 1")
    assert "20 steps minus 2" in found["gain-solved"].measure and "best of 2 videos of 10" in found["series"].null_name
    assert "with 9 of 12 layers" in found["steps-for-layers"].measure


def test_one_pass_that_holds_the_posterior() -> None:
    """Nothing wrong at step 0; the curves over steps are the ideal denoiser's; depth is what long puzzles need."""
    found = verdicts(
        shown((0.01, 0.01), 0.01),
        videos((0.5, 0.9, 0.95, 1), (0.5, 0.9, 0.95, 1), ideal=(0.5, 0.9, 0.95, 1)),
        layers(((1, 1), (1, 1)), ((0.2, 0.2), (1, 1))),
    )
    assert found["wrong-first"].verdict == found["wrong-longer"].verdict == "contradicted"
    assert not {found[name].verdict for name in ("gain-right", "gain-solved", "series", "steps-for-layers")} & {
        "supported"
    }
    assert found["gain-right"].value == found["gain-right"].null == 0
    assert found["layers-for-length"].verdict == "supported"


def test_a_blurred_long_answer_is_a_gain_of_solved_and_not_of_right() -> None:
    """What the remark warns of: few steps leave long answers unreadable, and the right one is nearest all the same."""
    steps = videos((1, 1, 1, 1), (1, 1, 1, 1))
    steps["solved"] = videos((1, 1, 1, 1), (0, 0.2, 1, 1))["solved"]
    found = verdicts(shown((0.0, 0.0)), steps, layers(((1, 1), (1, 1)), ((1, 1), (1, 1))))
    assert found["gain-solved"].verdict == "supported" and found["gain-right"].verdict != "supported"
    assert "more cells to draw" in found["gain-solved"].remark
