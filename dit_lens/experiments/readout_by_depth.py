"""The layer lens over tasks: at which depth can the model's velocity, its x0_hat and its answer be read?

Translators are fitted on the runs of some puzzles and everything is measured on others. For every puzzle, step and
layer (-1: what enters block 0), raw and translated, against the model's own velocity at the same call: ``cosine``,
``error``, ``x0_cosine``, ``choice`` and ``answer`` (:mod:`dit_lens.measures.layer_lens`).

The null is the same model with the entries of each weight tensor shuffled (``shuffled_weights``), on the same latents,
with translators of its own: a network of residual blocks drifts towards its last layer whatever it computes, and this
is how much. Identity as translator is the raw read-out, and layer -1 says what a linear map of the input already knows.

When not to use: see the measure. A read-out that agrees does not show that the layer's successors do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.address import Indices, indices
from dit_lens.errors import TaskError
from dit_lens.measures.layer_lens import layer_lens, settles
from dit_lens.measures.tuned_lens import fit_translators
from dit_lens.progress import Progress, silent
from dit_lens.replication.claim import Claim, Verdict, untestable
from dit_lens.replication.rows import needed, numbers
from dit_lens.stats.summary import summarise
from dit_lens.wan.lens import Lens
from dit_lens.wan.sampling import SamplingArguments, SamplingLike, merged
from dit_lens.wan.shuffled_weights import shuffled_weights

WEIGHTS = ("trained", "shuffled")


def layer_readout(
    lens: Lens,
    tasks: Sequence[Any],
    fit: Sequence[Any],
    *,
    steps: Indices = "all",
    layers: Any = "all",
    ridge: float = 1e-3,
    tokens: int = 1024,
    null: bool = True,
    answers: bool = True,
    seed: int = 0,
    fit_seed: int = 10_000,
    sampling: SamplingLike | None = None,
    progress: Progress = silent,
    **given: Unpack[SamplingArguments],
) -> xr.Dataset:
    """Fit translators on the puzzles ``fit`` and read every layer out on ``tasks``.

    ``steps``, ``layers``: where to fit and to measure. ``ridge``, ``tokens``: as in ``fit_translators``. ``null``: also
    the shuffled-weights model (doubles the replays and the memory of weights). ``answers``: also which answer the
    read-out shows (decodes every read-out). ``sampling``, or its arguments flat: see
    :class:`dit_lens.Sampling`. Task i has seed ``seed + i``, puzzle i of ``fit`` has ``fit_seed + i``.

    Returns ``cosine``, ``error``, ``x0_cosine``, ``choice`` and ``answer`` (weights, puzzle, step, layer, readout);
    the last two are NaN for shuffled weights, and ``answer`` where the model's own x0_hat gives none.

    Errors: :class:`TaskError` for too few puzzles, or puzzles that read no answers; :class:`MeasureError` for a puzzle
    that is in both lists.
    """
    if len(tasks) < 2 or not fit:
        raise TaskError(
            f"{len(tasks)} puzzles to measure and {len(fit)} to fit on: give two or more to measure, and others to fit "
            "on, for example tasks.batch('maze', n=16, split='train')"
        )
    if answers:
        needed(tasks, "answer", cure="pass answers=False")
    how = merged(sampling, given, layer_readout)
    chosen = indices(steps, lens.plan(how).n_steps, "step", "the plan")
    total = len(fit) + len(tasks)

    def generate(task: Any, number: int, done: int) -> Any:
        progress(done, total, f"{getattr(task, 'name', task)} {number}")
        return lens.generate(task, seed=number, sampling=how, stop_after=chosen[-1])

    seen = [generate(task, fit_seed + i, i) for i, task in enumerate(fit)]
    runs = [generate(task, seed + i, len(fit) + i) for i, task in enumerate(tasks)]
    found = []
    for weights in WEIGHTS if null else WEIGHTS[:1]:
        model = lens if weights == "trained" else shuffled_weights(lens, seed)
        translators = fit_translators(model, seen, layers, chosen, ridge, tokens=tokens, seed=seed)
        rows = []
        for i, run in enumerate(runs):
            progress(i, len(runs), f"reading {weights} layers")
            rows.append(layer_lens(model, run, chosen, layers, translators, answers=answers and model is lens))
        found.append(xr.concat(rows, dim="puzzle", coords="minimal", compat="override"))
    progress(total, total, "done")
    names = [str(getattr(task, "name", i)) for i, task in enumerate(tasks)]
    joined = xr.concat(found, dim="weights", coords="minimal", compat="override")
    return joined.assign_coords(weights=list(WEIGHTS[: len(found)]), task=("puzzle", names)).assign_attrs(
        model=lens.name, fingerprint=lens.fingerprint, n_layers=lens.n_layers, fitted_on=len(fit), ridge=ridge,
        first_seed=seed, fit_seed=fit_seed,
    )  # fmt: skip


# -- the paper's claims


def claims(lens: Lens, n: int = 16, seed: int = 0, progress: Progress = silent, **arguments: Any) -> list[Claim]:
    """What "late layers consolidate" means for a read-out, on ``n`` unseen puzzles of all families; seven steps.

    Translators are fitted on ``n`` other puzzles of the training split; see :func:`read_claims`.
    """
    last = lens.plan_of(**arguments).n_steps - 1
    at = sorted({round(q * last) for q in (0, 0.15, 0.3, 0.5, 0.7, 0.85, 1)})
    fit = puzzles.batch(puzzles.names(), n, seed, split="train")
    tasks = puzzles.batch(puzzles.names(), n, seed)
    return read_claims(layer_readout(lens, tasks, fit, steps=at, seed=seed, progress=progress, **arguments))


def read_claims(found: xr.Dataset) -> list[Claim]:
    """The claims from what :func:`layer_readout` measured with its null; "late" is the last quarter of the blocks."""
    depth = {m: settles(found[m].sel(readout="translated", drop=True)).mean("step") for m in ("cosine", "x0_cosine")}
    raw = settles(found["cosine"].sel(readout="raw", drop=True)).mean("step")
    a, b = (numbers(depth["cosine"].sel(weights=w, drop=True)) for w in WEIGHTS)
    rows = [
        Claim(
            "Late layers only consolidate: what the network will predict stands before them.",
            "depth from which on the translated read-out's velocity has a cosine above .9 with the model's, mean over "
            f"{found.sizes['step']} steps",
            "layer / layers", *_four(a), *_three(b), "the same model with shuffled weights",
            "supported when the interval lies below .75 and above the null's (idle layers settle at once)",
            _verdict(b["high"] < a["low"] and a["high"] < 0.75),
            f"Raw read-out: {_text(raw.sel(weights='trained'))}. By x0_hat instead of velocity: "
            f"{_text(depth['x0_cosine'].sel(weights='trained'))} "
            f"(null {_text(depth['x0_cosine'].sel(weights='shuffled'))}). Negative: before any layer.",
        )
    ]  # fmt: skip
    for name, claim, what in (
        ("choice", "which answer is given stands before them", "is nearest to the same drawn answer as the model's"),
        ("answer", "the finished answer stands before them", "gives the same answer, every cell right, as the model's"),
    ):
        if name in found:
            rows.append(_before_late(found, name, claim, what))
    return rows


def _before_late(found: xr.Dataset, name: str, claim: str, what: str) -> Claim:
    at = int(0.75 * found.attrs["n_layers"]) - 1  # the last of the first three quarters
    layer = found["layer"].values[found["layer"].values <= at].max()
    shares = found[name].sel(weights="trained", readout="translated", drop=True).mean("step")  # (puzzle, layer)
    a, b = (numbers(shares.sel(layer=i)) for i in (layer, -1))
    if not np.isfinite(a["value"]):
        return untestable(
            f"Late layers only consolidate: {claim}.",
            "at no measured step does the model's own x0_hat give an answer that this task can read or draw",
        )
    raw = found[name].sel(weights="trained", readout="raw", layer=layer).mean("step")
    means, families = summarise(shares)["value"], shares.sel(layer=layer).groupby("task").mean()
    by_layer = ", ".join(f"{int(i)}: {float(v):.2f}" for i, v in zip(means["layer"], means, strict=True))
    by_task = ", ".join(f"{task} {float(families.sel(task=task)):.2f}" for task in families["task"].values)
    return Claim(
        f"Late layers only consolidate: {claim}.",
        f"share of translated read-outs after layer {layer} (three quarters of the blocks) whose x0_hat {what} at "
        "that step",
        "share", *_four(a), *_three(b), "the same read-out of what enters block 0",
        "supported when the interval lies above one half and above the null's",
        _verdict(a["low"] > max(0.5, b["high"])),
        f"By layer: {by_layer}. After layer {layer} by task: {by_task}; raw: {_text(raw)}.",
    )  # fmt: skip


def _verdict(holds: bool) -> Verdict:
    return "supported" if holds else "not supported"


def _four(s: dict[str, float]) -> tuple[float, float, float, int]:
    return s["value"], s["low"], s["high"], int(s["n"])


def _three(s: dict[str, float]) -> tuple[float, float, float]:
    return s["value"], s["low"], s["high"]


def _text(values: xr.DataArray) -> str:
    s = numbers(values)
    return f"{s['value']:.2f} [{s['low']:.2f}, {s['high']:.2f}]" if np.isfinite(s["value"]) else "never"
