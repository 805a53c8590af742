"""The numbers of the paper's claims, each experiment at the fewest tasks: value, interval, count and null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dit_lens as dl
from golden_items.table import Numbers, flat, item

NUMBERS = ("value", "low", "high", "n", "null", "null_low", "null_high")


def of_rows(name: str, measured: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Every row that was taken, also those that are one number."""
    rows = [(row, row.read(measured)) for row in dl.replication.TABLE[name]]
    claims = [row.claim(found) for row, found in rows if found is not None]
    return {str(i): {part: getattr(claim, part) for part in NUMBERS} for i, claim in enumerate(claims)}


def of(lens: Any, n: int, *names: str) -> Numbers:
    return flat({name: of_rows(name, dl.replication.measure(lens, name, n=n)) for name in names})


@item
def claims_attention(lens: Any) -> Numbers:
    return of(lens, 2, "attention", "energy")


@item
def claims_behaviour(lens: Any) -> Numbers:
    return of(lens, 2, "behaviour")


@item
def claims_branching(lens: Any) -> Numbers:
    return of(lens, 1, "branching") | of(lens, 2, "chain", "ensembles")


@item
def claims_layers(lens: Any) -> Numbers:
    return of(lens, 2, "layer_lens", "roles")


@item
def claims_noise(lens: Any) -> Numbers:
    return of(lens, 2, "noise", "schedules")


@item
def claims_swap(lens: Any) -> Numbers:
    return of(lens, 2, "swap")
