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

import xarray as xr

from dit_lens.address import Indices, indices
from dit_lens.errors import TaskError
from dit_lens.measures.layer_lens import layer_lens
from dit_lens.measures.tuned_lens import fit_translators
from dit_lens.progress import Progress, silent
from dit_lens.tasks.requirements import needed
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

    Returns ``cosine``, ``error``, ``x0_cosine``, ``choice`` and ``answer`` (weights, task, step, layer, readout);
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
        found.append(xr.concat(rows, dim="task", coords="minimal", compat="override"))
    progress(total, total, "done")
    names = [str(getattr(task, "name", i)) for i, task in enumerate(tasks)]
    joined = xr.concat(found, dim="weights", coords="minimal", compat="override")
    return joined.assign_coords(weights=list(WEIGHTS[: len(found)]), family=("task", names)).assign_attrs(
        model=lens.name, fingerprint=lens.fingerprint, n_layers=lens.n_layers, fitted_on=len(fit), ridge=ridge,
        first_seed=seed, fit_seed=fit_seed,
    )  # fmt: skip
