"""Claims about forks: when do branches of a run still end in other answers (Figs 1, 2; 2603.30043)?"""

from __future__ import annotations

import xarray as xr

from dit_lens.experiments.branching import branching, several
from dit_lens.progress import Progress, prefixed, silent
from dit_lens.replication.row import DIFFERENCE, SHARE, SMALLEST, Measured, Reading, Row, text
from dit_lens.wan.lens import Lens

#: Parts of the schedule at which a claim forks; the second is where the related work has runs committed.
FORKS = (0.05, 0.15, 0.4, 0.6, 0.8)


def measured(lens: Lens, n: int = 20, seed: int = 0, progress: Progress = silent) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen tasks each of ``maze`` and ``pattern``, with several answers.
        seed: Where the search for them begins.
        progress: Called as ``progress(done, total, what)``.

    Returns:
        ``branches`` of both families.
    """
    parts = []
    for name in ("maze", "pattern"):
        tell = prefixed(progress, name)
        n_steps = lens.plan().n_steps
        steps = sorted({round(part * n_steps) for part in FORKS})
        parts.append(branching(lens, several(name, n, seed), steps, progress=tell))
    return {"branches": xr.concat(parts, "task", combine_attrs="drop_conflicts")}


def _words(found: xr.Dataset) -> dict[str, object]:
    early, late = (int(found["step"][i]) for i in (1, -1))
    return {"part": early / found.attrs["n_steps"], "early": early, "late": late}


def _fewer(m: Measured) -> Reading:
    found = m["branches"]
    early = found.isel(step=1)
    curve = "; ".join(f"step {int(s)}: {text(found['differ'].sel(step=s), SHARE)}" for s in found["step"])
    remark = (
        "fresh seeds minus branches, puzzle by puzzle: "
        f"{text(found['fresh_differ'] - early['differ'], DIFFERENCE)}. "
        f"Branches by step: {curve}"
    )
    return Reading(found["fresh_differ"], early["differ"], remark, _words(found))


def _undecided(m: Measured) -> Reading:
    early = m["branches"].isel(step=1)
    return Reading(early["changed"], early["placebo_changed"], words=_words(m["branches"]))


def _pruned(m: Measured) -> Reading:
    changed = m["branches"]["changed"]
    return Reading(changed.isel(step=1), changed.isel(step=-1), words=_words(m["branches"]))


ROWS = (
    Row(
        "branching/fewer",
        "Re-noised branches hold fewer different answers than fresh seeds do (2603.30043: 25 % and 68 %)",
        "share of pairs of fresh seeds whose answers differ",
        "share", "branches forked at {part:.0%} of the schedule", _fewer,
        smallest=SMALLEST["share"], bounds=SHARE,
    ),
    Row(
        "branching/undecided",
        "An early step has not decided yet: its branches end in other answers",
        "share of branches forked at {part:.0%} of the schedule with another answer than the run's",
        "share", "the run's own noise, sampler restarted", _undecided,
        smallest=SMALLEST["share"], zero_null=True, bounds=SHARE,
    ),
    Row(
        "branching/pruned",
        "The choice among answers is pruned along the steps, not made at once (Figs 1, 2)",
        "share of branches forked at step {early} with another answer than the run's",
        "share", "forked at step {late}", _pruned,
        smallest=SMALLEST["share"], bounds=SHARE,
    ),
)  # fmt: skip
