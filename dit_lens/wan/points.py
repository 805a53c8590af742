"""The named points of a Wan denoiser: one flat table, which is also their documentation.

Names follow TransformerLens (``blocks.7.hook_resid_post``, ``blocks.7.attn.hook_q``; the T5 precedent for
``cross_attn`` and ``resid_mid2``). Shapes: B batch, N video tokens (frame-major, then row, then column), M text tokens,
I image-context tokens (Wan2.1 I2V only), d model width, H heads, D head width, f feed-forward width, p patch volume
times output channels.

In one block, with modulation (shift, scale, gate) from the timestep::

    resid_mid  = resid_pre  + attn_gated        attn_gated = gate_a * attn_out
    resid_mid2 = resid_mid  + cross_attn_out    (no gate)
    resid_post = resid_mid2 + mlp_gated         mlp_gated = gate_m * mlp_out
"""

from __future__ import annotations

from dataclasses import dataclass

from dit_lens.errors import AddressError


@dataclass(frozen=True)
class Point:
    """One named place.

    Attributes:
        name: Its short name.
        path: Its path below an expert, with ``{i}`` for the layer.
        shape: Its axes, as letters of the module docstring.
        meaning: What it holds.
    """

    name: str
    path: str
    shape: str
    meaning: str

    @property
    def in_block(self) -> bool:
        """Whether every layer has one."""
        return "{i}" in self.path

    @property
    def per_head(self) -> bool:
        """Whether it has a head axis."""
        return self.shape.endswith("H D")

    @property
    def axis(self) -> str:
        """What the second axis counts: N video tokens, M text tokens, I image tokens; '' where there is none."""
        axes = self.shape.split()
        return axes[1] if len(axes) > 1 and axes[1] in ("N", "M", "I") else ""

    def at(self, layer: int) -> str:
        """The full path at a layer (ignored outside the blocks)."""
        return self.path.format(i=layer) if self.in_block else self.path


_B = "blocks.{i}."
POINTS: tuple[Point, ...] = (
    # --- before the blocks
    Point("patch_embed", "hook_patch_embed", "B N d", "video tokens after the patch embedding"),
    Point("time_embed", "hook_time_embed", "B d", "timestep embedding (B N d when timesteps are per token)"),
    Point(
        "modulation", "hook_modulation", "B 6d", "timestep projection: shifts, scales and gates shared by all blocks"
    ),
    Point("text_embed", "hook_text_embed", "B M d", "text tokens after the projection; padding is attended too"),
    Point("image_embed", "hook_image_embed", "B I d", "CLIP image tokens after the projection (Wan2.1 I2V)"),
    # --- the stream of a block
    Point("resid_pre", _B + "hook_resid_pre", "B N d", "residual stream entering the block"),
    Point("attn_out", _B + "hook_attn_out", "B N d", "self-attention output, before its gate"),
    Point("attn_gated", _B + "hook_attn_gated", "B N d", "what self-attention adds to the stream (fp32)"),
    Point("resid_mid", _B + "hook_resid_mid", "B N d", "stream after self-attention"),
    Point("cross_attn_out", _B + "hook_cross_attn_out", "B N d", "what cross-attention adds to the stream (no gate)"),
    Point("resid_mid2", _B + "hook_resid_mid2", "B N d", "stream after cross-attention"),
    Point("mlp_in", _B + "hook_mlp_in", "B N d", "feed-forward input, normalised and modulated"),
    Point("mlp_post", _B + "mlp.hook_post", "B N f", "feed-forward hidden units after GELU"),
    Point("mlp_out", _B + "hook_mlp_out", "B N d", "feed-forward output, before its gate"),
    Point("mlp_gated", _B + "hook_mlp_gated", "B N d", "what the feed-forward adds to the stream (fp32)"),
    Point("resid_post", _B + "hook_resid_post", "B N d", "residual stream leaving the block"),
    # --- heads
    Point("q", _B + "attn.hook_q", "B N H D", "self-attention queries after norm and RoPE"),
    Point("k", _B + "attn.hook_k", "B N H D", "self-attention keys after norm and RoPE"),
    Point("v", _B + "attn.hook_v", "B N H D", "self-attention values"),
    Point("z", _B + "attn.hook_z", "B N H D", "self-attention head outputs, before the output projection"),
    Point("cross_q", _B + "cross_attn.hook_q", "B N H D", "cross-attention queries (video) after norm"),
    Point("cross_k", _B + "cross_attn.hook_k", "B M H D", "cross-attention keys (text) after norm"),
    Point("cross_v", _B + "cross_attn.hook_v", "B M H D", "cross-attention values (text)"),
    Point("cross_z", _B + "cross_attn.hook_z", "B N H D", "cross-attention head outputs from text"),
    Point("cross_k_img", _B + "cross_attn.hook_k_img", "B I H D", "cross-attention keys (image, Wan2.1 I2V)"),
    Point("cross_v_img", _B + "cross_attn.hook_v_img", "B I H D", "cross-attention values (image, Wan2.1 I2V)"),
    Point("cross_z_img", _B + "cross_attn.hook_z_img", "B N H D", "cross-attention head outputs from the image"),
    # --- after the blocks
    Point("final_norm", "hook_final_norm", "B N d", "stream after the last norm and modulation, before projection"),
    Point("velocity", "hook_velocity", "B N p", "the call's velocity, one row of patch values per token"),
)

#: A derived point: what a block adds to the stream. It has no module; recording and patching know it.
UPDATE = Point("update", _B + "hook_resid_post", "B N d", "what the whole block adds: resid_post - resid_pre")

BY_NAME: dict[str, Point] = {p.name: p for p in (*POINTS, UPDATE)}
IMAGE_CONTEXT = ("image_embed", "cross_k_img", "cross_v_img", "cross_z_img")


def point(name: str) -> Point:
    """Look a point up.

    Args:
        name: Its short name (``resid_post``) or its path (``hook_resid_post``, ``attn.hook_q``).

    Raises:
        AddressError: There is none of that name.
    """
    if name in BY_NAME:
        return BY_NAME[name]
    for p in POINTS:
        if name in (p.path, p.path.removeprefix(_B)):
            return p
    raise AddressError(f"unknown hook {name!r}: choose from {', '.join(BY_NAME)} (lens.points() explains each)")


def split_path(path: str) -> tuple[Point, int]:
    """From a full path (``blocks.7.attn.hook_q``) to its point and layer (-1 outside the blocks).

    Raises:
        AddressError: No point has this path.
    """
    parts = path.split(".")
    if parts[0] == "blocks" and len(parts) > 2 and parts[1].isdecimal():
        return point(_B + ".".join(parts[2:])), int(parts[1])
    return point(path), -1


def there(image_context: bool = True) -> list[Point]:
    """The points that a model has, with or without an image context."""
    return [p for p in (*POINTS, UPDATE) if image_context or p.name not in IMAGE_CONTEXT]


def table(image_context: bool = True, n_layers: int | None = None) -> str:
    """The table as text, as ``print(lens)`` shows it.

    Args:
        image_context: Whether the model has one.
        n_layers: Its layers, named in the head of the table.
    """
    rows = there(image_context)
    last = "" if n_layers is None else f"   (i = 0 to {n_layers - 1})"
    width = max(len(p.name) for p in rows), max(len(p.path) for p in rows), max(len(p.shape) for p in rows)
    head = f"{'name':{width[0]}}  {'path':{width[1]}}  {'shape':{width[2]}}  meaning{last}"
    body = [f"{p.name:{width[0]}}  {p.path:{width[1]}}  {p.shape:{width[2]}}  {p.meaning}" for p in rows]
    return "\n".join([head, *body])
