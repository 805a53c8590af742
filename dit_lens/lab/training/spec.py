"""All numbers of a recipe in one place, and the recipes: ``LAB``, ``LAB40`` and ``LAB40_NONLINEAR``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from dit_lens.tasks.grid import Size


@dataclass(frozen=True)
class Spec:
    """A recipe. The defaults are those of ``lab``; another number gives another model (docs/lab-model.md).

    Attributes:
        name: Of the model.
        seed: Of weights, tasks, noise and noise levels.
        layers: Blocks of the transformer.
        heads: Attention heads of a block.
        head_dim: Width of a head; the transformer's width is ``heads * head_dim``.
        ffn: Width of the feed-forward layers.
        pixels: Side of a latent in pixels, 8 or 16.
        patch: Side of a token in latents; ``pixels * patch`` is one cell of the board, 16 pixels.
        max_length: Bytes of a prompt, with its end.
        shift: Of the sampler and of the noise levels trained on.
        boundary: Noise level that parts the two experts.
        overlap: How far each expert also learns the other's side.
        tokens: Of a batch; the number of videos in it is as many as fit.
        sizes: Board and frames as "RxCxF" -> share of the batches.
        mixture: Task name without size -> weight among the names that a batch's size allows.
        drop_prompt: Share of the prompts replaced by the empty one.
        gentle: Below this noise level the loss is weighed down as (sigma / gentle)^2.
        muon_lr: Peak learning rate of the blocks' matrices.
        adam_lr: Peak learning rate of everything else.
        warmup: Iterations of linear warm-up.
        ema: Decay of the moving average.
        shallow_layers: Blocks of a first trunk, from which the trunk grows; 0 for none, else a divisor of ``layers``.
        shallow_iterations: Of that first trunk, at a constant rate.
        text_iterations: Of the text encoder.
        trunk_iterations: Of the transformer on all noise levels, at a constant rate.
        expert_iterations: Of each expert, with the rate falling linearly.
        final_lr: Share of the peak rate at the end of an expert.
        student_walks: Batches of the teacher's paths that a student learns from.
        student_iterations: Of each of the student's experts.
        codec: What makes the latents: "linear" (``LabVAE``) or "coupled" (``CoupledLabVAE``, which is nonlinear).
    """

    name: str = "lab"
    seed: int = 0
    layers: int = 12
    heads: int = 4
    head_dim: int = 32
    ffn: int = 384
    pixels: int = 8
    patch: int = 2
    max_length: int = 64
    shift: float = 5.0
    boundary: float = 0.9
    overlap: float = 0.03
    tokens: int = 32 * 144
    sizes: Mapping[str, float] = field(default_factory=lambda: {"6x6x13": 1.0})
    mixture: Mapping[str, float] = field(
        default_factory=lambda: {"maze": 0.45, "choose": 0.25, "occlude": 0.12, "pattern": 0.18}
    )
    drop_prompt: float = 0.12
    gentle: float = 0.25
    muon_lr: float = 0.02
    adam_lr: float = 1.5e-3
    warmup: int = 150
    ema: float = 0.999
    shallow_layers: int = 0
    shallow_iterations: int = 0
    text_iterations: int = 600
    trunk_iterations: int = 5500
    expert_iterations: int = 2000
    final_lr: float = 0.02
    student_walks: int = 400
    student_iterations: int = 2000
    codec: str = "linear"

    @property
    def boards(self) -> tuple[Size, ...]:
        """The sizes of batches."""
        return tuple(Size(*map(int, text.split("x"))) for text in self.sizes)

    @property
    def usual(self) -> Size:
        """The most frequent size."""
        return max(zip(self.sizes.values(), self.boards, strict=True), key=lambda pair: pair[0])[1]

    def videos(self, size: Size) -> int:
        """How many videos of a size make a batch."""
        return max(1, self.tokens // tokens_of(size))

    def transformer(self, layers: int | None = None) -> dict:
        """Keyword arguments of ``WanTransformer3DModel``, of the recipe's depth or another."""
        return dict(
            patch_size=(1, self.patch, self.patch), num_attention_heads=self.heads, attention_head_dim=self.head_dim,
            in_channels=36, out_channels=16, text_dim=64, freq_dim=256, ffn_dim=self.ffn,
            num_layers=layers or self.layers, cross_attn_norm=True, qk_norm="rms_norm_across_heads", eps=1e-6,
            rope_max_seq_len=1024,
        )  # fmt: skip

    def as_dict(self) -> dict:
        """The numbers for JSON; ``Spec(**that)`` gives the recipe again."""
        return asdict(self)


def tokens_of(size: Size) -> int:
    """Tokens of a video: one for each cell and group of four frames, and the first frame is a group of its own."""
    return (size.num_frames + 3) // 4 * size.rows * size.cols


LAB = Spec()
LAB40 = Spec(
    name="lab40",
    layers=40,
    heads=2,
    ffn=192,
    pixels=16,
    patch=1,
    max_length=48,
    sizes={
        "6x6x13": 0.22, "6x6x17": 0.24, "7x7x17": 0.14, "7x7x13": 0.09, "6x6x21": 0.06, "7x7x21": 0.05, "6x6x9": 0.04,
        "5x5x13": 0.04, "5x5x9": 0.02, "5x5x17": 0.02, "8x8x17": 0.03, "8x8x21": 0.02, "7x6x13": 0.02, "5x8x17": 0.01,
    },
    mixture={
        "maze-easy": 0.08, "maze-hard": 0.36, "maze": 0.04, "choose-easy": 0.06, "choose-hard": 0.12, "choose": 0.03,
        "order-easy": 0.06, "order-hard": 0.13, "emerge-easy": 0.04, "emerge-hard": 0.08, "slide-easy": 0.05,
        "slide-hard": 0.10, "bounce-easy": 0.04, "bounce-hard": 0.09, "pattern": 0.05, "occlude": 0.04,
    },
    shallow_layers=10,
    shallow_iterations=6000,
    trunk_iterations=4000,
    expert_iterations=3000,
    text_iterations=3000,
)  # fmt: skip
#: ``LAB40`` in nonlinear latents. Made to begin with the weights of a ``LAB40`` run (``--start``), hence its lengths.
LAB40_NONLINEAR = replace(
    LAB40, name="lab40-nonlinear", codec="coupled", shallow_layers=0, shallow_iterations=0,
    trunk_iterations=3000, expert_iterations=2000,
)  # fmt: skip
SPECS = {spec.name: spec for spec in (LAB, LAB40, LAB40_NONLINEAR)}
