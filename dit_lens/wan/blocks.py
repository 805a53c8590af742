"""Wan's block, attention and feed-forward with TransformerLens HookPoints inside, in our own words.

Each class takes the place of its upstream class on the *same* module objects (``module.__class__ = ...``): weights,
state-dict keys, offload hooks and LoRA layers stay where they are. Two rules keep this safe:

* A module none of whose points is watched runs the upstream code itself, so an idle lens costs a few dictionary
  look-ups and cannot drift.
* A watched module runs the forward below. ``selfcheck`` compares it with upstream at load, bit for bit. (A block of
  which only the two ends are watched still runs upstream's code between them.)

The classes carry the upstream *names*, because diffusers and accelerate match blocks by class name
(``_no_split_modules``, ``compile_repeated_blocks``).

When not to use: never instantiate these; ``Expert`` swaps them in and out.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.transformers import transformer_wan as upstream
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformerBlock
from torch import Tensor, nn

from dit_lens.wan.points import IMAGE_CONTEXT, POINTS

WATCHED = "_dit_lens_watched"  # set by the tracing engine, which reads points without torch hooks
PASSED = "_dit_lens_passed"  # set on blocks that a call skips, because their result was kept: what they return instead
HELD = "_dit_lens_points"  # the points directly below a module, in order, where they are found without a search
INSIDE = slice(1, -1)  # of a block's points: all but its two ends


def points_below(prefix: str, image: bool = True) -> tuple[str, ...]:
    """Attribute names of the HookPoints directly below a module of the block.

    Args:
        prefix: The module's path in the block: ``""``, ``"attn."``, ...
        image: Whether the points of an image context are among them.
    """
    found = []
    for p in POINTS:
        tail = p.path.removeprefix("blocks.{i}.") if p.in_block else ""
        if (
            tail.startswith(prefix)
            and "." not in tail.removeprefix(prefix)
            and tail
            and (image or p.name not in IMAGE_CONTEXT)
        ):
            found.append(tail.removeprefix(prefix))
    return tuple(found)


BLOCK_POINTS = points_below("")
ATTN_POINTS = points_below("attn.")
CROSS_POINTS = points_below("cross_attn.")
MLP_POINTS = points_below("mlp.")


def watched(module: nn.Module, which: slice = slice(None)) -> bool:
    """Whether anything listens at the points directly below a module.

    Args:
        module: A module that may hold points.
        which: Of these points, those that are asked for, in order.
    """
    state = module.__dict__
    if WATCHED in state:
        return True
    for point in state.get(HELD, ())[which]:  # noqa: SIM110  (any() is slower, and this runs for every module)
        if point._forward_hooks or point._backward_hooks:
            return True
    return False


def modulate(norm: nn.Module, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """AdaLN: normalise in fp32, scale and shift, and return to the dtype of the stream, (B, N, d)."""
    return (norm(x.float()) * (1 + scale) + shift).type_as(x)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply 3-D RoPE to interleaved pairs.

    Args:
        x: Queries or keys (B, N, H, D).
        cos: (1, N, 1, D) with repeated pairs.
        sin: Likewise.

    Returns:
        (B, N, H, D), in the dtype of ``x``.
    """
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)  # (B, N, H, D/2) each
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    out = torch.empty_like(x)  # written in halves: stacking them costs a third more
    out[..., 0::2], out[..., 1::2] = even * cos - odd * sin, even * sin + odd * cos
    return out


class HookedAttnProcessor(WanAttnProcessor):
    """Upstream's attention with points on q, k (after norm and RoPE), v and z, for video, text and image context."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Upstream's arguments and result; the points fire where they are watched."""
        if not watched(attn):
            return WanAttnProcessor.__call__(
                self, attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb
            )
        image = None
        if attn.add_k_proj is not None and encoder_hidden_states is not None:
            # Upstream fixes the text length at 512; whatever stands before it is image context.
            image = encoder_hidden_states[:, : encoder_hidden_states.shape[1] - 512]
            encoder_hidden_states = encoder_hidden_states[:, encoder_hidden_states.shape[1] - 512 :]

        q, k, v = upstream._get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        q, k, v = (t.unflatten(2, (attn.heads, -1)) for t in (attn.norm_q(q), attn.norm_k(k), v))  # (B, N, H, D)
        if rotary_emb is not None:
            q, k = rotate(q, *rotary_emb), rotate(k, *rotary_emb)
        q, k, v = attn.hook_q(q), attn.hook_k(k), attn.hook_v(v)

        from_image = None
        if image is not None:
            k_img, v_img = upstream._get_added_kv_projections(attn, image)
            k_img = attn.hook_k_img(attn.norm_added_k(k_img).unflatten(2, (attn.heads, -1)))  # (B, I, H, D)
            v_img = attn.hook_v_img(v_img.unflatten(2, (attn.heads, -1)))
            from_image = attn.hook_z_img(self._attend(q, k_img, v_img, None, None)).flatten(2).type_as(q)

        # Context parallelism splits video tokens only, so cross-attention never uses it (as upstream).
        parallel = self._parallel_config if encoder_hidden_states is None else None
        z = attn.hook_z(self._attend(q, k, v, attention_mask, parallel)).flatten(2).type_as(q)  # (B, N, d)
        if from_image is not None:
            z = z + from_image
        return attn.to_out[1](attn.to_out[0](z))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, parallel: Any) -> Tensor:
        # Through upstream's module namespace, so that a backend chosen or patched there holds here too.
        return upstream.dispatch_attention_fn(
            q, k, v, attn_mask=mask, dropout_p=0.0, is_causal=False,
            backend=self._attention_backend, parallel_config=parallel,
        )  # fmt: skip


class HookedFeedForward(FeedForward):
    """Upstream's feed-forward with a point on its hidden units."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Upstream's arguments and result; the point fires where it is watched."""
        if not watched(self):
            return FeedForward.forward(self, hidden_states, *args, **kwargs)
        hidden = self.hook_post(self.net[0](hidden_states))  # (B, N, f)
        for layer in self.net[1:]:
            hidden = layer(hidden)
        return hidden


class HookedBlock(WanTransformerBlock):
    """Upstream's block with points on the stream, on each part's output and on its gated contribution."""

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any) -> Tensor:
        """Upstream's arguments and result, or the kept stream where the call skips this block."""
        kept = self.__dict__.get(PASSED)
        if kept is not None:
            return kept.to(hidden_states.device)
        if not watched(self):
            return WanTransformerBlock.forward(self, hidden_states, encoder_hidden_states, temb, rotary_emb)
        if not watched(self, INSIDE):  # upstream's own code between the two ends: the common case costs least
            x = self.hook_resid_pre(hidden_states)
            return self.hook_resid_post(WanTransformerBlock.forward(self, x, encoder_hidden_states, temb, rotary_emb))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self._modulation(temb)

        x = self.hook_resid_pre(hidden_states)  # (B, N, d)
        out = self.hook_attn_out(self.attn1(modulate(self.norm1, x, shift_a, scale_a), None, None, rotary_emb))
        x = self.hook_resid_mid((x.float() + self.hook_attn_gated(out * gate_a)).type_as(x))

        out = self.attn2(self.norm2(x.float()).type_as(x), encoder_hidden_states, None, None)
        x = self.hook_resid_mid2(x + self.hook_cross_attn_out(out))

        out = self.hook_mlp_out(self.ffn(self.hook_mlp_in(modulate(self.norm3, x, shift_m, scale_m))))
        return self.hook_resid_post((x.float() + self.hook_mlp_gated(out.float() * gate_m)).type_as(x))

    def _modulation(self, temb: Tensor) -> tuple[Tensor, ...]:
        """Six (B, 1, d) tensors from one timestep, or six (B, N, d) where each token has its own (Wan2.2 TI2V)."""
        if temb.ndim == 4:  # (B, N, 6, d)
            parts = (self.scale_shift_table.unsqueeze(0) + temb.float()).chunk(6, dim=2)
            return tuple(part.squeeze(2) for part in parts)
        return (self.scale_shift_table + temb.float()).chunk(6, dim=1)  # (B, 6, d)


for _hooked, _original in (
    (HookedAttnProcessor, WanAttnProcessor),
    (HookedFeedForward, FeedForward),
    (HookedBlock, WanTransformerBlock),
):
    _hooked.__name__, _hooked.__qualname__ = _original.__name__, _original.__qualname__
