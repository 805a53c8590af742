"""The first table of docs/calibration.md: each method in a row, and which targets it misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr
from calibration_tables import number, over, recall, table

from dit_lens.planted import suite
from dit_lens.planted.methods import METHODS, Method
from dit_lens.stats import share_interval

RECALL, FALSE, NULLS = 0.95, 0.05, 40  # targets; false findings are asked of at least so many networks

#: When a method is not to be believed: each is measured below on a plant that was built for it.
BELIEVE: Mapping[str, str] = {
    "patch": "when it finds nothing: of two redundant layers neither has an effect, and an *and* shows its inputs in "
    "half of the tasks only. Two layers that cancel have an effect each, and are no part of the answer",
    "patch components": "as patch",
    "patch heads": "as patch",
    "patch branches": "as patch; a part that writes the same whatever the answer is has no effect in any branch",
    "patch windows": "for one layer of the window; layers that cancel within it are not seen",
    "ablate": "as patch",
    "attribute": "before what it names is patched: a loud update that nothing reads gets a share, since it changes the "
    "length of the tokens",
    "knockout": "as more than \"something of the region arrives\": how far the video moves does not say what moved",
    "causal check, normal": "when it finds nothing: the normal of a probe depends on the scale of the channels, and "
    "can lie far from where the answer lies. Steer along the pattern",
    "causal check, pattern": "as a size: the push is three times as long as what the network itself writes",
    "region attention": "as use: a head whose values are never written attends as sharply",
    "energy": "as use: the loudest update can be one that nothing reads",
    "layer lens": "when a layer shows nothing: what later layers need (the inputs of an *and*) is not in the read-out",
    "layer lens, cosine": "as a finding on what was learned where twenty control networks or more are not at hand: "
    "one network against one other differs whatever the tasks are. Nor as use",
    "probes": "as use: a label that nothing uses is read as well",
}  # fmt: skip

#: Why a target is missed.
WHY: Mapping[tuple[str, str], str] = {
    ("causal check, normal", "recall"): "A probe's normal weighs channels by one over their spread: its cosine with "
    "the direction of the answer was .14 to .42 on two plants, so that the same push moves the answer that much less. "
    "The check along the pattern (the difference of class means) has no such trouble; a null result along the normal "
    "says nothing.",
}


@dataclass(frozen=True)
class Row:
    """A method's numbers: recall on exact plants, networks without a mechanism in which it finds any, decoys called."""

    method: Method
    networks: int
    recall: float
    found: int
    nulls: int
    low: float
    high: float
    decoys: int
    decoyed: int
    noisy: bool = False

    @property
    def false(self) -> float:
        """Share of null networks with any finding."""
        return self.found / self.nulls if self.nulls else float("nan")

    def missed(self) -> tuple[str, ...]:
        """Targets that are not met; recall and decoys are promised of methods that claim use."""
        use = self.method.claims == "use"
        asked = {
            "recall": use and not self.recall >= RECALL, "decoys": use and self.decoys > 0,
            "false": self.false > FALSE, "nulls": self.nulls < NULLS,
        }  # fmt: skip
        return tuple(name for name, bad in asked.items() if bad)


def null_findings(tables: Mapping[str, Any]) -> xr.DataArray | None:
    """Whether each method found anything, (kind, model, approach), of all parts with nulls."""
    there = [tables[n]["nulls"]["found"] for n in ("nulls", "nulls of causal checks") if n in tables]
    return xr.concat(there, "approach", join="outer") if there else None


def rows(tables: Mapping[str, Any]) -> list[Row]:
    """One row for each method; numbers that were not measured are NaN, or counts of 0."""
    plants, nulls = tables["plants"]["plants"], null_findings(tables)
    found = []
    for method in METHODS:
        if method.name not in plants["approach"].values:
            plants = xr.concat([plants, plants.isel(approach=[0]).where(False).assign_coords(approach=[method.name])],
                               "approach")  # fmt: skip
        exact = over(plants, method.name, suite.EXACT)
        noisy = not bool(exact["recall"].notnull().any())  # a method that needs layers which are not silent
        if noisy:
            exact = over(plants, method.name, suite.NOISY)
        decoys = over(plants, method.name, [*suite.DECOYS, "loud update, in noise"])
        n, hits, low, high = 0, 0, float("nan"), float("nan")
        if nulls is not None and method.name in nulls["approach"].values:
            one = nulls.sel(approach=method.name).stack(network=("kind", "model")).reset_index("network", drop=True)
            one = one.dropna("network")
            n, hits = one.size, int(one.sum())
            if n:
                rate = share_interval(one, "network")
                low, high = float(rate["low"]), float(rate["high"])
        found.append(
            Row(method, int(exact["recall"].notnull().sum()), recall(exact), hits, n, low, high,
                int(decoys["decoys"].sum()), int(decoys["cells"].notnull().sum()), noisy)
        )  # fmt: skip
    return found


def summary(tables: Mapping[str, Any]) -> str:
    """The table, and what is missed."""
    there = rows(tables)
    lines = []
    for row in there:
        missed = row.missed()
        ends = f" ({number(row.low)} to {number(row.high)})" if row.low == row.low else ""  # none below n = 5
        nulls = f"{row.found} of {row.nulls}{ends}" if row.nulls else ""
        decoys = f"{row.decoys} ({row.decoyed} networks)" if row.decoyed else ""
        if row.method.claims == "presence":
            decoys = "claims no use"
        lines.append((
            row.method.name, row.method.claims, _bold(_recalled(row), "recall" in missed),
            _bold(nulls, "false" in missed), _bold(decoys, "decoys" in missed),
            BELIEVE[row.method.name],
        ))  # fmt: skip
    head = ("method", "what it claims", "recall", "false findings on nulls", "decoys believed",
            "when not to believe it")  # fmt: skip
    return f"""{table(head, lines, left=(0, 1, 5))}

Recall: share of the mechanism's cells that are found, on exact plants (how many networks). False findings: networks
without a mechanism in which anything is called, after correction (95 % interval by Blaker). Decoys believed: called
cells that hold a decoy. **Bold**: a target is missed. Targets: recall of at least {number(RECALL)} and no decoy for
methods that claim use, false findings in at most {number(FALSE)} of {NULLS} nulls or more for all.

{_missed(there)}
"""


def _missed(there: Sequence[Row]) -> str:
    lines = [
        f"- **{row.method.name}**, {what}: {_said(row, what)}. {WHY.get((row.method.name, what), 'Not explained.')}"
        for row in there
        for what in row.missed()
        if what != "nulls"
    ]
    few = [f"{row.method.name} ({row.nulls})" for row in there if "nulls" in row.missed()]
    if few:
        lines.append(
            f"- False findings are measured on fewer than {NULLS} networks, too few for the target, for "
            f"{', '.join(few)}. Their rate is open until "
            '`python benchmarks/calibration.py nulls "nulls of causal checks"` has gone through.'
        )
    return "\n".join(["Missed:", "", *lines]) if lines else "All targets are met."


def _said(row: Row, what: str) -> str:
    return {
        "recall": f"recall {number(row.recall)}",
        "decoys": f"{row.decoys} decoys believed",
        "false": f"something is called in {row.found} of {row.nulls} null networks",
    }[what]


def _recalled(row: Row) -> str:
    return f"{number(row.recall)} ({row.networks}{', in noise' if row.noisy else ''})" if row.networks else ""


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text
