"""Claims on read-outs by layer: verdicts on planted depths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from planted_results import every_row, supported

from dit_lens.experiments.readout_by_depth import WEIGHTS
from dit_lens.replication import TABLE


def planted_read(settle: float, null: float, answer: float, n: int = 12) -> xr.Dataset:
    """A measured dataset in which the velocity settles at known depths and the answer is there from another.

    Tasks settle one layer before, at, or one layer after: the depths are their means.
    """
    layers = np.arange(-1, 40)
    depth = layers / 40
    own = np.array([settle, null])[:, None] + (np.arange(n) % 3 - 1) / 40 * np.array([1, 0])[:, None]
    above = (depth >= own[..., None] - 1e-9)[:, :, None, :, None]
    cosine = np.broadcast_to(np.where(above, 0.95, 0.2), (2, n, 3, len(layers), 2)).copy()
    shares = np.broadcast_to((depth >= answer)[None, None, None, :, None], cosine.shape).astype(float).copy()
    shares[1] = np.nan
    dims = ("kind", "task", "step", "layer", "reading")
    return xr.Dataset(
        {
            "cosine": (dims, cosine), "x0_cosine": (dims, cosine),
            "choice": (dims, shares), "answer": (dims, shares.copy()),
        },
        coords={
            "kind": list(WEIGHTS), "reading": ["raw", "translated"], "layer": layers,
            "depth": ("layer", depth), "family": ("task", ["maze"] * n),
        },
        attrs={"n_layers": 40},
    )  # fmt: skip


def test_verdicts_on_planted_read_outs() -> None:
    found = every_row("layer_lens", {"readout": planted_read(settle=0.5, null=0.0, answer=0.5)})
    assert supported(found) == [False, True, True], "one control network gives no p"
    assert found[0].verdict == "undecided" and found[0].judged is not None
    assert found[0].judged.why.endswith(
        "against 1 control network there is no p, so that nothing can stand out: take 20 or more"
    )
    assert [(c.value, c.null) for c in found] == [pytest.approx(p) for p in ((0.5, 0.0), (1.0, 0.0), (1.0, 0.0))]
    found = every_row("layer_lens", {"readout": planted_read(settle=0.9, null=0.0, answer=0.9)})
    assert not any(supported(found)) and found[0].verdict == "contradicted", "outside the range, over tasks"
    mute = planted_read(settle=0.5, null=0.0, answer=0.5)
    mute["answer"][:] = np.nan
    assert [c.verdict for c in every_row("layer_lens", {"readout": mute})] == [
        "undecided",
        "supported",
        "cannot be tested on this model",
    ]
    # As early as a model that has learned nothing: no evidence of anything.
    same = every_row("layer_lens", {"readout": planted_read(settle=0.5, null=0.5, answer=0.5)})[0]
    assert same.verdict == "undecided"


def test_twenty_control_networks_decide_by_rank() -> None:
    row = next(row for row in TABLE["layer_lens"] if row.id == "layer_lens/velocity")
    reading = row.read({"readout": planted_read(settle=0.5, null=0.0, answer=0.5)})
    depths = xr.DataArray(np.linspace(-0.1, 0.1, 20), dims="control")
    assert row.judged(replace(reading, controls=depths)).outcome == "supported"
    assert row.judged(replace(reading, controls=-depths + 1)).outcome == "undecided", "on the other side"
    above = replace(reading, controls=depths + 0.5)
    assert row.judged(above).p > 0.5 and row.judged(above).no_p == ""
    assert "by its rank among 20 or more and the effect itself lies below 0.75" in row.decides
