"""Small labelled arrays and films whose right drawing is known."""

import numpy as np
import pytest
import xarray as xr

STEPS, LAYERS, FRAMES, SIDE = 6, 4, 5, 12


@pytest.fixture
def effects() -> xr.Dataset:
    """(step, layer) with interval, n and placebo; effect of (s, l) is s - l, over tenths, so that zero is crossed."""
    coords = {
        "step": ("step", np.arange(STEPS), {"long_name": "denoising step"}),
        "layer": ("layer", np.arange(LAYERS)),
        "sigma": ("step", np.linspace(1, 0.2, STEPS)),
        "expert": ("step", np.array(["high"] * 2 + ["low"] * 4)),
    }
    value = (np.arange(STEPS)[:, None] - np.arange(LAYERS)[None]) / 10
    data = xr.Dataset({"value": (("step", "layer"), value)}, coords=coords)
    data["value"].attrs = {"long_name": "local effect", "units": "share"}
    data["low"], data["high"] = data["value"] - 0.05, data["value"] + 0.05
    data["n"] = xr.full_like(data["value"], 32, dtype=int)
    data["null"] = data["value"] * 0 + 0.01
    return data


@pytest.fixture
def film() -> np.ndarray:
    """(S, F, H, W, 3) of noise: no two frames are alike."""
    return np.random.default_rng(0).integers(0, 256, (STEPS, FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
