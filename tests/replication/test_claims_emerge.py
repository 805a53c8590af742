"""Claims of memory where the first frame cannot help: keeping, holding and using are judged apart."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from planted_results import every_row

from dit_lens.experiments.emerging_colour import ARMS, KINDS
from dit_lens.replication import Claim


def found(kept: float = 1.0, held: float = 0.2, used: float = 0.0, n: int = 60) -> dict[str, Claim]:
    """Shares of scenes, evenly spread; colours elsewhere, by chance, are read in a fifth."""
    ranks = (np.arange(n) + 0.5) / n

    def share(p: float) -> np.ndarray:
        return (ranks < p).astype(float)

    accuracy = np.full((len(KINDS), n, 2, 8), 0.2)
    accuracy[0] = share(held)[:, None, None]
    accuracy[2] = 1
    read = xr.Dataset(
        {
            "before": (("task", "ball"), np.full((n, 2), "red")),
            "same": (("task", "ball"), np.stack([share(kept)] * 2, 1)),
            "by_chance": (("task", "ball"), np.full((n, 2), 0.2)),
            "accuracy": (("kind", "task", "step", "layer"), accuracy),
            "chance": 0.2,
        },
        {"kind": list(KINDS), "step": [0, 9], "layer": range(8)},
    )
    follows = np.stack([share(used), share(0.0), share(0.0), share(1.0)])
    use = xr.Dataset(
        {name: (("kind", "task"), values) for name, values in (("follows", follows), ("stays", 1 - follows))},
        {"kind": list(ARMS)},
    )
    return {claim.id.split("/")[1]: claim for claim in every_row("emerge", {"read": read, "use": use})}


def test_kept_held_and_used_are_three_questions() -> None:
    claims = found(kept=0.9, held=0.9, used=0.0)
    assert {name: claim.verdict for name, claim in claims.items()} == {
        "kept": "supported", "held-against-shuffled": "supported", "held-against-random": "supported",
        "used": "contradicted",
    }  # fmt: skip
    assert claims["kept"].value == pytest.approx(0.9) and claims["kept"].null == pytest.approx(0.2)
    held = claims["held-against-random"]
    assert "layers 2-5" in held.measure and "before 1.000" in held.remark
    assert "after 1.000" in claims["used"].remark and "keeps its own colour 1.000" in claims["used"].remark
    assert found(used=0.8)["used"].verdict == "supported"


def test_nothing_kept_or_held_is_said_so() -> None:
    claims = found(kept=0.2, held=0.2)
    assert {claims[name].verdict for name in ("kept", "held-against-shuffled", "held-against-random")} <= {
        "contradicted", "undecided"
    }  # fmt: skip


def test_videos_that_show_no_balls_decide_nothing() -> None:
    n = 6
    read = xr.Dataset(
        {name: (("task", "ball"), np.full((n, 2), np.nan)) for name in ("same", "by_chance")}
        | {"before": (("task", "ball"), np.full((n, 2), ""))}
    )
    use = xr.Dataset(
        {name: (("kind", "task"), np.full((4, n), np.nan)) for name in ("follows", "stays")}, {"kind": list(ARMS)}
    )
    claims = every_row("emerge", {"read": read, "use": use})
    assert {claim.verdict for claim in claims} == {"cannot be tested on this model"}
    assert "In 0 of 6 videos both sides" in claims[0].remark and "too few to patch" in claims[-1].remark
