"""A model that learned nothing: the null of whatever a network of this size does by its build alone."""

from __future__ import annotations

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
    pipe = lens.pipe
    generator = torch.Generator().manual_seed(seed)
    parts = dict(pipe.components)
    for name in ("transformer", "transformer_2"):
        model = parts.get(name)
        if model is None:
            continue
        twin = type(model).from_config(model.config)
        weights = {k: _shuffle(v, generator) for k, v in model.state_dict().items()}
        twin.load_state_dict(weights, assign=True)
        parts[name] = twin.eval().requires_grad_(False)
    options = {k: pipe.config[k] for k in ("boundary_ratio", "expand_timesteps") if k in pipe.config}
    return Lens(type(pipe)(**parts, **options), lens.defaults, f"{lens.name}, weights shuffled")


def _shuffle(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
    return weight.flatten()[order].reshape(weight.shape)
