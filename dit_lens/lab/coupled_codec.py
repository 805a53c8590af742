"""``CoupledLabVAE``: an exact, nonlinear codec, which is :class:`~dit_lens.lab.codec.LabVAE` behind coupling layers.

With a linear decoder the average of two latents is the average of two pictures, so that a posterior mean can show
nothing but a mixture. Here it can: the average of two latents decodes to something else. Everything else stays: no
learned parameters, lossless on the tasks, and each latent depends on its own place and group of frames alone.

The 16 channels of one latent, z, pass four additive couplings (NICE, Dinh et al. 2014; RealNVP without its scales).
Each parts the channels into halves a and b by a fixed permutation, and shifts the one by a wave of the other::

    b  <-  b + t(a),        t(a) = strength W2 sin(W1 a + phase)

Decoding subtracts the same t(a) in the reverse order, so it is exact up to the rounding of one sum in any dtype, and
the map keeps volumes. W1, W2 and the phases are drawn once from ``seed`` and saved with the model. At strength 0 it is
``LabVAE``.

When not to use: to read a direction in latent space as a colour. Channels have no meaning of their own here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput

from dit_lens.errors import LoadError
from dit_lens.lab.codec import CHANNELS, GROUP, LabLatents, LabVAE

HALF = CHANNELS // 2


class CoupledLabVAE(LabVAE):
    """A nonlinear codec that takes the place of ``AutoencoderKLWan`` in a Wan pipeline; see the module.

    Pixels are in [-1, 1], (B, 3, F, H, W), F = 1 + 4k, H and W multiples of 16.
    """

    linear = False
    order: torch.Tensor
    reverse: torch.Tensor
    inner: torch.Tensor
    phase: torch.Tensor
    outer: torch.Tensor

    @register_to_config
    def __init__(
        self,
        z_dim: int = CHANNELS,
        latents_mean: list[float] = [0.0] * CHANNELS,
        latents_std: list[float] = [1.0] * CHANNELS,
        scale_factor_temporal: int = GROUP,
        scale_factor_spatial: int = 8,
        temperal_downsample: list[bool] = [False, True, True],  # noqa: B006 - upstream's spelling
        couplings: int = 4,
        width: int = 16,
        gain: float = 3.5,
        strength: float = 0.22,
        seed: int = 5,
    ):
        super().__init__(
            z_dim, latents_mean, latents_std, scale_factor_temporal, scale_factor_spatial, temperal_downsample
        )
        if couplings < 1 or width < 1:
            raise LoadError(f"CoupledLabVAE has couplings={couplings} of width={width}; both are 1 or more")
        rng = np.random.RandomState(seed)  # its stream never changes from version to version
        drawn: dict[str, list[np.ndarray]] = {"order": [], "inner": [], "phase": [], "outer": []}
        for _ in range(couplings):
            drawn["order"].append(rng.permutation(CHANNELS))
            drawn["inner"].append(rng.standard_normal((width, HALF)) * gain / HALF**0.5)
            drawn["phase"].append(rng.uniform(-np.pi, np.pi, width))
            drawn["outer"].append(rng.standard_normal((HALF, width)) * strength * (2 / width) ** 0.5)
        for name, parts in drawn.items():
            made = torch.from_numpy(np.stack(parts))
            self.register_buffer(name, made if name == "order" else made.float())
        self.register_buffer("reverse", self.order.argsort(1))

    def couple(self, z: torch.Tensor) -> torch.Tensor:
        """From the linear codec's latents to this one's.

        Args:
            z: (B, 16, ...), not normalised.

        Returns:
            Of the same shape.
        """
        x = z.movedim(1, -1)  # (B, ..., 16)
        for k in range(len(self.order)):
            a, b = x[..., self.order[k]].chunk(2, -1)
            x = torch.cat([a, b + self._shift(k, a)], -1)[..., self.reverse[k]]
        return x.movedim(-1, 1).contiguous()

    def uncouple(self, z: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`couple`, with the same arguments."""
        x = z.movedim(1, -1)
        for k in reversed(range(len(self.order))):
            a, b = x[..., self.order[k]].chunk(2, -1)
            x = torch.cat([a, b - self._shift(k, a)], -1)[..., self.reverse[k]]
        return x.movedim(-1, 1).contiguous()

    def _shift(self, k: int, a: torch.Tensor) -> torch.Tensor:
        """t(a) of coupling k, (..., 8) from (..., 8)."""
        wave = torch.sin(a @ self.inner[k].T.to(a) + self.phase[k].to(a))
        return wave @ self.outer[k].T.to(a)

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> LabLatents | tuple[LabLatents]:
        """Encode pixels; see :meth:`dit_lens.lab.codec.LabVAE.encode`."""
        found: Any = super().encode(x)
        z = LabLatents(self.couple(found.latents))
        return z if return_dict else (z,)

    def decode(self, z: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        """Decode latents; see :meth:`dit_lens.lab.codec.LabVAE.decode`. It is not linear."""
        return super().decode(self.uncouple(z), return_dict)


CoupledLabVAE.__module__ = "dit_lens.lab"  # as LabVAE's: what a saved pipeline names

CODECS: dict[str, type[LabVAE]] = {"linear": LabVAE, "coupled": CoupledLabVAE}


def codec(kind: str, **config: Any) -> LabVAE:
    """The codec of a kind.

    Args:
        kind: One of ``CODECS``.
        **config: Of the codec, such as ``latents_mean``.

    Raises:
        LoadError: An unknown kind.
    """
    if kind not in CODECS:
        raise LoadError(f"codec {kind!r} is unknown: choose from {', '.join(CODECS)}")
    return CODECS[kind](**config)
