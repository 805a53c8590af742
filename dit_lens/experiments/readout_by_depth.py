"""The layer lens over tasks: at which depth can the model's velocity, its x0_hat and its answer be read?

Translators are fitted on the runs of some tasks and everything is measured on others. For every task, step and
layer (-1: what enters block 0), raw and translated, against the model's own velocity at the same call: ``cosine``,
``error``, ``x0_cosine``, ``choice`` and ``answer`` (:mod:`dit_lens.measures.layer_lens`).

The null is the same model with the entries of each weight tensor shuffled (``shuffled_weights``), on the same latents,
with translators of its own: the stream of a network of residual blocks approaches its last layer whatever it computes,
and the null measures how much. It is one control network, and any two networks differ on any tasks: the comparison has
no p (:func:`dit_lens.stats.against_controls` takes twenty and more). The raw read-out has the identity as translator,
and layer -1 shows what a linear map of the input gives.

When not to use: see the measure. A read-out that agrees does not show that later layers do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import xarray as xr

from dit_lens.address import Indices, indices
from dit_lens.errors import TaskError
from dit_lens.measures.layer_lens import layer_lens
from dit_lens.measures.tuned_lens import fit_translators
from dit_lens.runner import Item, Options, over_tasks
from dit_lens.tasks.requirements import needed
from dit_lens.wan.lens import Lens
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
    **options: Unpack[Options],
) -> xr.Dataset:
    """Fit translators on the tasks ``fit`` and read every layer out on ``tasks``.

    Args:
        lens: The model.
        tasks: Two or more to measure.
        fit: Others to fit the translators on; task i of these has noise seed ``fit_seed + i``.
        steps: Where to fit and to measure.
        layers: Likewise.
        ridge: As in ``fit_translators``.
        tokens: As in ``fit_translators``.
        null: Also the shuffled-weights model (doubles the replays and the memory of weights).
        answers: Also which answer the read-out shows (decodes every read-out).
        seed: Task i is generated with ``seed + i``.
        fit_seed: Noise seed of the first task of ``fit``.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``cosine``, ``error``, ``x0_cosine``, ``choice`` and ``answer`` (kind, task, step, layer, reading); the last
        two are NaN for shuffled weights, and ``answer`` where the model's own x0_hat gives none.

    Raises:
        TaskError: Too few tasks, or tasks that read no answers.
        MeasureError: A task that is in both lists.
    """
    if len(tasks) < 2 or not fit:
        raise TaskError(
            f"{len(tasks)} tasks to measure and {len(fit)} to fit on: give two or more to measure, and others to fit "
            "on, for example tasks.batch('maze', n=16, split='train')"
        )
    if answers:
        needed(tasks, "answer", cure="pass answers=False")
    models: dict[str, Any] = {}  # weights -> (lens, translators), fitted when the first task needs them

    def fitted(item: Item, chosen: Sequence[int]) -> dict[str, Any]:
        if not models:
            seen = [item.generate(task, seed=fit_seed + i, stop_after=chosen[-1]) for i, task in enumerate(fit)]
            for weights in WEIGHTS if null else WEIGHTS[:1]:
                model = item.lens if weights == "trained" else shuffled_weights(item.lens, seed)
                made = fit_translators(model, seen, layers, chosen, ridge, tokens=tokens, seed=seed)
                models[weights] = (model, made)
        return models

    def row(item: Item) -> xr.Dataset:
        chosen = indices(steps, item.plan.n_steps, "step", "the plan")
        made = fitted(item, chosen)
        run = item.generate(stop_after=chosen[-1])
        found = [
            layer_lens(model, run, chosen, layers, translators, answers=answers and model is item.lens)
            for model, translators in made.values()
        ]
        joined = xr.concat(found, dim="kind", coords="minimal", compat="override")
        return joined.assign_coords(kind=list(made))

    found = over_tasks(lens, tasks, row, seed=seed, options=options, of=layer_readout)
    return found.assign_attrs(
        fingerprint=lens.fingerprint, n_layers=lens.n_layers, fitted_on=len(fit), ridge=ridge, fit_seed=fit_seed
    )
