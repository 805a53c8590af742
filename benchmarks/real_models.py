"""The published Wan models with random weights: their shapes, their pipelines, and what fits onto a device.

Weights are made in bf16 on the device itself, so a 14 B expert takes seconds and no copy elsewhere. The text encoder is
tiny and as wide as the real one; the autoencoder is the lab's, which has the real factors and takes next to no time.

When not to use: for anything that a video should mean.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import overhead  # noqa: F401  (puts tests/ on the path)
import psutil
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline
from diffusers import WanTransformer3DModel as Denoiser
from families import image, real_configs, tokenizer
from transformers import UMT5Config, UMT5EncoderModel

from dit_lens.lab.codec import LabVAE
from dit_lens.lab.training.spec import LAB
from dit_lens.wan.conditions import Size

GIB = 2**30


@dataclass(frozen=True)
class Setup:
    """One model: the arguments of its denoiser, its sampler, its default size and the length of its text."""

    name: str
    about: str
    denoiser: Mapping[str, Any]
    size: Size
    text: int = 512
    shift: float = 5.0
    boundary: float | None = None  # None: one expert

    @property
    def experts(self) -> int:
        return 1 if self.boundary is None else 2

    @property
    def tokens(self) -> int:
        return ((self.size.num_frames - 1) // 4 + 1) * (self.size.height // 16) * (self.size.width // 16)

    @property
    def call(self) -> dict[str, Any]:
        """What a generation is made from."""
        h, w, f = self.size.height, self.size.width, self.size.num_frames
        picture = {"image": image(h, w)} if self.denoiser["in_channels"] == 36 else {}
        sizes = {"height": h, "width": w, "num_frames": f, "max_sequence_length": self.text}
        return {"prompt": "a red agent goes to the green goal", **sizes, **picture}

    def flops(self) -> float:
        """Of one denoiser call; two for a multiplication with its addition."""
        c, n, m = self.denoiser, self.tokens, self.text
        d = c["num_attention_heads"] * c["attention_head_dim"]
        own, cross = 8 * n * d**2 + 4 * n**2 * d, 4 * n * d**2 + 4 * m * d**2 + 4 * n * m * d
        return c["num_layers"] * (own + cross + 4 * n * d * c["ffn_dim"])

    def expert_bytes(self) -> int:
        """Of one expert's weights."""
        return sum(p.numel() * p.element_size() for p in denoiser(self, "meta").parameters())

    def working_bytes(self) -> int:
        """What a call needs besides weights: twice what its tensors take at their peak, which is 14 bytes for each
        token and channel and 3 for each token and hidden unit of the MLP (counted on the meta device)."""
        c = self.denoiser
        return self.tokens * (28 * c["num_attention_heads"] * c["attention_head_dim"] + 6 * c["ffn_dim"])


def _setups() -> dict[str, Setup]:
    lab, real, wide = LAB, real_configs(), Size(480, 832, 81)
    return {
        "lab": Setup("lab", "lab's size", lab.transformer(), Size(96, 96, 13), 64, lab.shift, lab.boundary),
        "1.3b": Setup("1.3b", "Wan2.1-T2V-1.3B", real["t2v21"], wide),
        "a14b": Setup("a14b", "Wan2.2-I2V-A14B", real["i2v22"], wide, boundary=0.9),
    }


SETUPS = _setups()


# -- building


@contextmanager
def _made_on(device: Any) -> Iterator[None]:
    """New modules are bf16 and arise on the device, without a copy elsewhere."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def denoiser(setup: Setup, device: Any) -> Denoiser:
    """One expert with torch's own initial weights, as small as 1/sqrt(inputs), so that 40 layers stay finite.

    In the dtypes that ``from_pretrained(dtype=torch.bfloat16)`` gives.
    """
    with _made_on(device):
        model = Denoiser(**setup.denoiser)
    kept = set(model._keep_in_fp32_modules)
    for name, weight in model.named_parameters():
        if kept & set(name.split(".")):
            weight.data = weight.data.float()
    return model.eval().requires_grad_(False)


def build(setup: Setup, device: Any, experts: int | None = None) -> Any:
    """The pipeline; weights depend on nothing but the device. ``experts``: 1 leaves the low-noise expert out."""
    device = torch.device(device)
    two = (setup.experts if experts is None else experts) == 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        words = UMT5EncoderModel(
            UMT5Config(vocab_size=16, d_model=setup.denoiser["text_dim"], d_ff=32, d_kv=8, num_heads=2, num_layers=1,
                       feed_forward_proj="gated-gelu", dropout_rate=0.0)
        )  # fmt: skip
        models = [denoiser(setup, device) for _ in range(1 + two)]
    vae = LabVAE()
    for part in (words, vae):
        part.to(device).eval().requires_grad_(False)
    kind = WanImageToVideoPipeline if setup.denoiser["in_channels"] == 36 else WanPipeline
    pipe = kind(
        tokenizer=tokenizer(), text_encoder=words, vae=vae, transformer=models[0],
        transformer_2=models[1] if two else None, boundary_ratio=setup.boundary if two else None,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=setup.shift
        ),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def beside(pipe: Any) -> Any:
    """A pipeline with modules of its own over the same weights: a lens on it leaves ``pipe`` bare."""
    parts = dict(pipe.components)
    for name in ("transformer", "transformer_2"):
        if parts[name] is not None:
            weights = (*parts[name].parameters(), *parts[name].buffers())
            parts[name] = copy.deepcopy(parts[name], {id(w): w for w in weights})
    parts["scheduler"] = copy.deepcopy(parts["scheduler"])
    other = type(pipe)(**parts, boundary_ratio=pipe.config.boundary_ratio)
    other.set_progress_bar_config(disable=True)
    return other


def free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def experts_that_fit(setup: Setup, device: torch.device) -> int:
    """How many experts go onto the device beside one call's activations; an end with numbers where none does."""
    free, one, working = free_bytes(device), setup.expert_bytes(), setup.working_bytes()
    fit = min(setup.experts, max(0, free - working) // one)
    if fit == 0:
        raise SystemExit(
            f"{setup.about} needs {one / GIB:.1f} GiB of weights and about {working / GIB:.1f} GiB of activations for "
            f"{setup.tokens:,} tokens, and {device} has {free / GIB:.1f} GiB free: give a smaller --height, --width or "
            "--num-frames, --config 1.3b or lab, or another --device"
        )
    return int(fit)


def reuse_bytes(setup: Setup, device: torch.device) -> int:
    """What the sweep row may hold between its cells."""
    if device.type != "cuda":
        return 4 * GIB
    torch.cuda.empty_cache()
    return max(GIB, int(0.8 * (free_bytes(device) - setup.working_bytes())))
