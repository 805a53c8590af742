"""``lab``: a small trained Wan2.2-style image-to-video pipeline that ships with the package and runs on a laptop.

    import dit_lens.lab
    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(dit_lens.lab.weights_path())

Importing this package is cheap: torch and diffusers are loaded by the modules that need them (``codec``, ``film``,
...). It must come before ``from_pretrained``, though: diffusers (0.42) takes a component's class only from modules that
the process has imported itself. So the saved pipeline names its codec as ``dit_lens.lab.LabVAE``, which is looked up
here and loaded then. The model card is docs/lab-model.md.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = ["CoupledLabVAE", "LabVAE", "settings", "weights_path"]


def weights_path(name: str = "lab") -> Path:
    """Folder of a shipped pipeline, in diffusers layout."""
    return Path(__file__).parent / "weights" / name


@cache
def _settings() -> MappingProxyType:
    return MappingProxyType(json.loads((weights_path() / "lab.json").read_text()))


def __getattr__(name: str) -> Any:
    """Look up what is loaded only when it is asked for.

    Args:
        name: ``settings``: the generation defaults that the model was trained for (height, width, num_frames, steps,
            guidance_scale, ...). ``LabVAE``: the codec. ``CoupledLabVAE``: a nonlinear one. ``ModelMixin``: their base,
            which diffusers' loader looks for beside them.

    Returns:
        What has that name.

    Raises:
        AttributeError: For any other name.
    """
    if name == "settings":
        return _settings()
    if name in ("LabVAE", "ModelMixin"):
        from dit_lens.lab import codec

        return getattr(codec, name)
    if name == "CoupledLabVAE":
        from dit_lens.lab.coupled_codec import CoupledLabVAE

        return CoupledLabVAE
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
