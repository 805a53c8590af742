"""Models that learned nothing: the null of whatever a network of this size does by its build alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dit_lens.wan.lens import Lens


def shuffled_weights(lens: Lens, seed: int = 0) -> Lens:
    """The same model with the entries of every weight tensor of every expert shuffled: same norms, nothing learned.

    Needs the memory of the experts once more.

    Args:
        lens: The lens, which is left as it is.
        seed: Of the permutations.

    Returns:
        A lens of its own with new experts; text encoder, VAE and scheduler are shared.
    """
    generator = torch.Generator().manual_seed(seed)

    def twin(model: Any) -> Any:
        made = type(model).from_config(model.config)
        weights = {k: _shuffle(v, generator) for k, v in model.state_dict().items()}
        made.load_state_dict(weights, assign=True)
        return made

    return _with_experts(lens, twin, "weights shuffled")


def reinitialised(lens: Lens, seed: int = 0) -> Lens:
    """The same architecture with the weights that it has before any training.

    Needs the memory of the experts once more.

    Args:
        lens: The lens, which is left as it is.
        seed: Of the weights; the global random state is left as it is.

    Returns:
        A lens of its own with new experts; text encoder, VAE and scheduler are shared.
    """

    def twin(model: Any) -> Any:
        made = type(model).from_config(model.config)
        new = made.state_dict()
        like = {k: new[k].to(v.device, v.dtype) for k, v in model.state_dict().items() if k in new}
        made.load_state_dict(like, assign=True)
        return made

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _with_experts(lens, twin, "re-initialised")


def _with_experts(lens: Lens, twin: Callable[[Any], Any], what: str) -> Lens:
    pipe = lens.pipe
    parts = dict(pipe.components)
    for name in ("transformer", "transformer_2"):
        if parts.get(name) is not None:
            parts[name] = twin(parts[name]).eval().requires_grad_(False)
    options = {k: pipe.config[k] for k in ("boundary_ratio", "expand_timesteps") if k in pipe.config}
    return Lens(type(pipe)(**parts, **options), lens.defaults, f"{lens.name}, {what}")


def _shuffle(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
    return weight.flatten()[order].reshape(weight.shape)
