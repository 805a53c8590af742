"""``LabVAE``: a linear, lossless, causal autoencoder for pictures of discs on squares.

Four frames and 8 x 8 pixels become 16 channels, as Wan2.1's, or 16 x 16 pixels, as Wan2.2-TI2V-5B's. A block of pixels
is a 16 x 16 cell or a quadrant of one; a cell is a disc on a square. With D_f and R_f the mean colours of the block's
disc part and of the rest in the frames f = 0..3 of a group, the 16 channels are, before normalisation,

    channel 3 f + c    D_f[c]                                c = red, green, blue
    channel 12 + c     mean over f of R_f[c]
    channel 15         sum over f of tau_f (R_f . l)         tau = (-3, -1, 1, 3)/sqrt(20), l = (1, 1, 1)/sqrt(3)

so every channel has a known meaning, encoding and decoding are matrices, and x0_hat decodes exactly and for free.
Lossless wherever disc and rest are flat and the rest changes in time only by a linear change of brightness: every
shipped task. Frame 0 is a group of its own, encoded as four copies of itself and decoded as their mean.

Not for natural video: anything finer than a block's two mean colours is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput

from dit_lens.errors import LoadError
from dit_lens.tasks.palette import CELL, DISC

GROUP = 4  # frames
BLOCKS = (8, 16)  # pixels of a side
CHANNELS = 16


@dataclass
class LabLatents:
    """What :meth:`LabVAE.encode` returns: there is no noise, so the distribution is its own mode."""

    latents: torch.Tensor

    @property
    def latent_dist(self) -> LabLatents:
        """Itself."""
        return self

    def mode(self) -> torch.Tensor:
        """The latents."""
        return self.latents

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """The latents, whatever the generator."""
        return self.latents


class LabVAE(ModelMixin, ConfigMixin):
    """A linear codec that takes the place of ``AutoencoderKLWan`` in a Wan pipeline.

    Pixels are in [-1, 1], (B, 3, F, H, W), F = 1 + 4k, H and W multiples of 16.

    Attributes:
        linear: Whether the average of latents decodes to the average of pictures.
    """

    linear: ClassVar[bool] = True

    @register_to_config
    def __init__(
        self,
        z_dim: int = CHANNELS,
        latents_mean: list[float] = [0.0] * CHANNELS,
        latents_std: list[float] = [1.0] * CHANNELS,
        scale_factor_temporal: int = GROUP,
        scale_factor_spatial: int = 8,
        temperal_downsample: list[bool] = [False, True, True],  # noqa: B006 - upstream's spelling
    ):
        super().__init__()
        if len(latents_mean) != z_dim or len(latents_std) != z_dim or z_dim != CHANNELS:
            raise LoadError(f"LabVAE has {CHANNELS} channels; latents_mean and latents_std need as many entries.")
        if scale_factor_spatial not in BLOCKS:
            raise LoadError(f"LabVAE has scale_factor_spatial 8 or 16, not {scale_factor_spatial}; take one of these.")
        self.block = scale_factor_spatial
        self.register_buffer("disc", torch.from_numpy(DISC.astype("float32")))  # (16, 16)
        self.register_buffer("tau", torch.tensor([-3.0, -1.0, 1.0, 3.0]) / 20**0.5)

    def _parts(self, height: int, width: int) -> torch.Tensor:
        """Masks of disc and rest over the whole picture, (2, H, W)."""
        disc = self.disc.tile(height // CELL, width // CELL)
        return torch.stack([disc, 1 - disc])

    def couple(self, z: torch.Tensor) -> torch.Tensor:
        """From the linear codec's latents (B, 16, ...) to this one's: here the same."""
        return z

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> LabLatents | tuple[LabLatents]:
        """Encode pixels.

        Args:
            x: (B, 3, 1 + 4k, H, W), in [-1, 1].
            return_dict: Whether to wrap the latents as diffusers expects; else a tuple.

        Returns:
            Latents (B, 16, 1 + k, H/8, W/8) or (B, 16, 1 + k, H/16, W/16), not normalised.

        Raises:
            LoadError: For other numbers of frames or pixels.
        """
        _b, _, f, h, w = x.shape
        if (f - 1) % GROUP or h % CELL or w % CELL:
            raise LoadError(f"LabVAE encodes 1 + 4k frames of multiples of {CELL} pixels, not {f} frames of {h} x {w}.")
        x = torch.cat([x[:, :, :1].expand(-1, -1, GROUP - 1, -1, -1), x], dim=2)
        parts = self._parts(h, w)
        blocks = (x.unsqueeze(1) * parts[:, None, None]).unflatten(-1, (-1, self.block)).unflatten(-3, (-1, self.block))
        area = parts[:, : self.block, : self.block].sum((1, 2)).view(2, 1, 1, 1, 1)
        means = blocks.sum((-1, -3)) / area  # (B, 2, 3, F + 3, h, w)
        disc, rest = means.unflatten(3, (-1, GROUP)).unbind(1)  # (B, 3, T, 4, h, w)
        slope = torch.einsum("bctfhw,f->bthw", rest, self.tau) / 3**0.5
        z = torch.cat(
            [disc.permute(0, 3, 1, 2, 4, 5).flatten(1, 2), rest.mean(3), slope.unsqueeze(1)], dim=1
        )  # (B, 16, T, h, w)
        return LabLatents(z) if return_dict else (LabLatents(z),)

    def decode(self, z: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        """Decode latents.

        Args:
            z: (B, 16, 1 + k, h, w), not normalised.
            return_dict: Whether to wrap the pixels as diffusers expects; else a tuple.

        Returns:
            Pixels (B, 3, 1 + 4k, H, W), not clamped: decoding is linear.
        """
        disc = z[:, :12].unflatten(1, (GROUP, 3)).permute(0, 2, 3, 1, 4, 5)  # (B, 3, T, 4, h, w)
        slope = torch.einsum("bthw,f->btfhw", z[:, 15], self.tau) / 3**0.5
        rest = z[:, 12:15].unsqueeze(3) + slope.unsqueeze(1)
        means = torch.stack([disc, rest], dim=1)
        first = means[:, :, :, :1].mean(4)
        means = torch.cat([first, means[:, :, :, 1:].flatten(3, 4)], dim=3)  # (B, 2, 3, F, h, w)
        means = means.repeat_interleave(self.block, -1).repeat_interleave(self.block, -2)
        parts = self._parts(means.shape[-2], means.shape[-1])
        x = (means * parts[:, None, None]).sum(1)
        return DecoderOutput(sample=x) if return_dict else (x,)


# diffusers writes a component's module into model_index.json and, loading, looks it up among the modules already
# imported; the package is cheap to import and this module is not, so the package is what gets named.
LabVAE.__module__ = "dit_lens.lab"
