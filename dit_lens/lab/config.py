"""All numbers of the recipe in one place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class LabConfig:
    """The recipe. Changing a number gives another model; the shipped one has the defaults (docs/lab-model.md)."""

    seed: int = 0
    layers: int = 12
    heads: int = 4
    head_dim: int = 32
    ffn: int = 384
    shift: float = 5.0  # of the sampler and of the noise levels trained on
    boundary: float = 0.9
    overlap: float = 0.03  # each expert also learns so much of the other's side
    batch: int = 32
    drop_prompt: float = 0.12
    gentle: float = 0.25  # below this noise level the loss is weighed down as (sigma / gentle)^2
    mixture: dict[str, float] = field(
        default_factory=lambda: {"maze": 0.45, "choose": 0.25, "occlude": 0.12, "pattern": 0.18}
    )
    muon_lr: float = 0.02
    adam_lr: float = 1.5e-3
    warmup: int = 150
    ema: float = 0.999
    text_iterations: int = 600
    trunk_iterations: int = 5500
    expert_iterations: int = 2000
    final_lr: float = 0.02  # of the peak, at the end of the experts' linear decay

    def transformer(self) -> dict:
        """Keyword arguments of `WanTransformer3DModel`."""
        return dict(
            patch_size=(1, 2, 2), num_attention_heads=self.heads, attention_head_dim=self.head_dim, in_channels=36,
            out_channels=16, text_dim=64, freq_dim=256, ffn_dim=self.ffn, num_layers=self.layers, cross_attn_norm=True,
            qk_norm="rms_norm_across_heads", eps=1e-6, rope_max_seq_len=1024,
        )  # fmt: skip

    def as_dict(self) -> dict:
        return asdict(self)
