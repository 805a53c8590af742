"""``plant(spec, seed)``: a Wan pipeline with a known mechanism, made in a moment.

A plant opens as any model does, and tells the truth of it::

    made = dl.planted.plant(dl.planted.LayerPlant(layer=3, component="mlp"), seed=0)
    tasks = made.tasks(8)
    effects = dl.sweep(made.lens, tasks=tasks, source="other_answer")
    made.truth.patch()                                  # what that sweep has to find
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dit_lens.planted import directions, pipeline, weights
from dit_lens.planted.directions import Directions
from dit_lens.planted.mechanism import Network
from dit_lens.planted.pictures import FRAMES, PlantTask, draw
from dit_lens.planted.specs import Spec
from dit_lens.planted.truth import Truth
from dit_lens.wan.lens import Defaults, Lens

BOUNDARY = 0.8  # noise level at which the second expert takes over, where there are two


@dataclass(frozen=True, eq=False)
class Planted:
    """A planted network.

    Attributes:
        spec: What was planted.
        seed: Where its random directions and weights come from.
        lens: The model, opened.
        truth: What is causal, and how much.
        directions: Where each feature lies in the stream.
    """

    spec: Spec
    seed: int
    lens: Lens
    truth: Truth
    directions: Directions

    def tasks(self, n: int, seed: int = 0, linked: bool = True) -> Sequence[PlantTask]:
        """``n`` pictures that this network answers; or, not linked, as many that no network can answer."""
        return draw(n, seed, self.spec.asks, self.spec.shown, linked)

    def __enter__(self) -> Planted:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.lens.close()


def plant(spec: Spec, seed: int = 0) -> Planted:
    """Make a network with a known mechanism.

    Args:
        spec: What is planted.
        seed: Of directions, of weights that the mechanism leaves alone, and of the rest.

    Returns:
        The opened model with its truth.
    """
    axes = directions.draw(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = pipeline.text_encoder()
        models = {expert: pipeline.transformer(spec.n_layers) for expert in spec.experts}
    pipe = pipeline.assemble(models, encoder, BOUNDARY if len(models) > 1 else None)
    text, features = pipeline.seen_text(pipe)
    scheduler = pipe.scheduler
    scheduler.set_timesteps(spec.n_steps)
    timesteps = scheduler.timesteps.clone()
    for i, (expert, model) in enumerate(models.items()):
        weights.write(
            model, axes, spec.parts(expert), timesteps, spec.open, text, features, spec.rest, 2 * seed + i
        )  # fmt: skip
    lens = Lens(pipe, _defaults(spec), f"{spec}, seed {seed}")
    plan = lens.plan()
    network = Network(
        spec.n_layers, {expert: spec.parts(expert) for expert in models}, tuple(plan.sigmas),
        tuple(plan.at(step).expert for step in range(plan.n_steps)), spec.guidance, spec.open,
    )  # fmt: skip
    return Planted(spec, seed, lens, Truth(spec, network), axes)


def _defaults(spec: Spec) -> Defaults:
    size = PlantTask
    return Defaults(
        size.height, size.width, size.num_frames, spec.n_steps, spec.guidance, pipeline.TOKENS, "", 4 * (FRAMES - 1)
    )
