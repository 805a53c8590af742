"""docs/calibration.md is what its command writes from docs/calibration.json."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

HOUSE = Path(__file__).resolve().parent.parent
KEPT = json.loads((HOUSE / "docs" / "calibration.json").read_text(encoding="utf-8"))


def module() -> Any:
    spec = importlib.util.spec_from_file_location("calibration_page", HOUSE / "benchmarks" / "calibration_page.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_page_is_made_of_the_numbers() -> None:
    assert (HOUSE / "docs" / "calibration.md").read_text(encoding="utf-8") == module().page(KEPT)


def test_tables_survive_json() -> None:
    made = xr.Dataset(
        {"recall": (("plant", "method"), [[1.0, np.nan], [0.25, 1e-9]]), "cut": ("plant", [0.0, 1.0])},
        coords={"plant": ["a", "b"], "method": ["patch", "probes"]},
    )
    page = module()
    back = page.unpacked(json.loads(json.dumps(page.packed(made), allow_nan=False)))
    xr.testing.assert_equal(made, back)


def table(part: str, name: str) -> xr.Dataset:
    return module().unpacked(KEPT[part]["tables"][name])


def test_what_was_promised_of_exact_plants_holds() -> None:
    """Recall of .95 on plants with one truth, by every method that claims use; no decoy believed by one."""
    from dit_lens.planted import METHODS, suite

    found = table("plants", "plants")
    for method in METHODS:
        if method.claims == "use":
            one = found.sel(approach=method.name)
            exact = one.sel(plant=[p for p in suite.EXACT])
            if bool(exact["recall"].notnull().any()):
                members = exact["members"].where(exact["recall"].notnull())
                assert float((exact["recall"] * members).sum() / members.sum()) >= 0.95, method.name
            assert float(one["decoys"].sel(plant=[p for p in suite.DECOYS]).sum()) == 0, method.name


@pytest.mark.parametrize("part", ["nulls", "nulls of causal checks"])
def test_what_was_promised_of_nulls_holds(part: str) -> None:
    """At most one network in twenty, of forty and more."""
    found = table(part, "nulls")["found"]
    assert found.sizes["kind"] * found.sizes["model"] >= 40
    from dit_lens.planted import METHODS

    for method in METHODS:
        if method.name in found["approach"].values and method.name != "layer lens":
            one = found.sel(approach=method.name)
            assert float(one.mean()) <= 0.05 + 1e-9, method.name
