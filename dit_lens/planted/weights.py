"""Writing a mechanism into a Wan transformer: the parts of :mod:`dit_lens.planted.mechanism` as weights of its modules.

The transformer keeps the random weights of its construction where nothing is planted, except that every output
projection (of attention, cross-attention and feed-forward) is zero: such a component computes, and adds nothing. A
*rest* gives those components random weights again, which see everything but the constant, and output projections that
are scaled, one after the other, until each adds vectors of a chosen length to the tokens of a reference input.

Attention is written with RoPE's slow pairs: at a few positions' distance they turn by a hundredth of a radian, so that
a key is recognised by what stands at its token and not by where it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dit_lens.planted.directions import CONSTANT, GATED, UNREAD, WIDTH, Directions
from dit_lens.planted.mechanism import COMPONENTS, UNIT, Attend, Component, Part, Tell, parts_at
from dit_lens.planted.pictures import COLS, FRAMES, ROWS

HEADS, HEAD_WIDTH, HIDDEN = 4, 12, 48
LATENTS, MASKS = 16, 4  # channels of the input before the first picture's own
SLOW, OTHER_SLOW = 2, 7  # places in a head: the first of the slow pair of time, the second of that of rows
SHARPNESS = 12.0  # of keys: logits of a region are 29 or more above all others
SOFTNESS = 0.8  # the same at level 1 of heads that attend less than fully, where there are four: logits of 2
#: How far an answer of 1 moves the velocity, in standard deviations of the noise that a generation starts from.
AMPLITUDE = 4.0
RED, GREEN = 0, 1


def tensor(values: Any) -> Tensor:
    """As float32."""
    return torch.as_tensor(np.asarray(values, dtype=np.float32))


@torch.no_grad()
def write(
    model: Any,
    directions: Directions,
    parts: Sequence[Part],
    timesteps: Tensor,
    open_steps: Sequence[int] | None,
    text: Tensor,
    text_features: Sequence[Mapping[str, float]],
    rest: float,
    seed: int,
) -> None:
    """Write a mechanism into a fresh transformer.

    Args:
        model: A ``WanTransformer3DModel`` of width 48.
        directions: Of the plant's features.
        parts: The mechanism.
        timesteps: Those that will be asked for, (steps,).
        open_steps: Steps whose gate is open for the gated channels; all of them by default.
        text: Distinct text embeddings that will be seen, (texts, width).
        text_features: What each of them becomes.
        rest: Root mean square length of what each component outside the mechanism adds to a token; a part writes 1.
        seed: Of the rest.
    """
    rng = np.random.default_rng([seed, 7])
    _write_entry(model, directions, rest, rng)
    _write_time(model, timesteps, open_steps)
    _write_text(model, directions, text, text_features)
    scaled: list[nn.Linear] = []
    for layer, block in enumerate(model.blocks):
        block.scale_shift_table.zero_()
        for component in COMPONENTS:
            mine = parts_at(parts, layer, component)
            _silence(_out(block, component))
            if mine:
                _WRITERS[component](block, directions, mine)
            elif rest:
                _write_rest(block, component, directions, rng)
                scaled.append(_out(block, component))
    _write_read_out(model, directions)
    if rest:
        _scale_rest(model, scaled, text, timesteps, rest, rng)


def _write_entry(model: Any, directions: Directions, rest: float, rng: np.random.Generator) -> None:
    """The picture's colours, averaged over the four latents of a token; ``later`` where there is no picture."""
    weight = np.zeros(tuple(model.patch_embedding.weight.shape))  # (d, channels, 1, 2, 2)
    for colour, name in enumerate(("red", "green", "blue")):
        weight[:, LATENTS + MASKS + 12 + colour] += directions.of(name)[:, None, None, None] / 4
    weight[:, LATENTS : LATENTS + MASKS] -= np.sqrt(3) * directions.of("later")[:, None, None, None, None] / 4 / MASKS
    if rest:  # noise that the network sees, and that its mechanism does not
        seen = rng.standard_normal((WIDTH, LATENTS, 1, 2, 2)) / np.sqrt(LATENTS * 4 * WIDTH)
        basis = directions.basis
        weight[:, :LATENTS] += rest * (seen - np.einsum("fd,fe,ecijk->dcijk", basis, basis, seen))
    bias = CONSTANT * directions.of("constant") + np.sqrt(3) * directions.of("later")
    model.patch_embedding.weight.copy_(tensor(weight))
    model.patch_embedding.bias.copy_(tensor(bias))


def _write_time(model: Any, timesteps: Tensor, open_steps: Sequence[int] | None) -> None:
    """Gates of 1 everywhere, but on the gated channels only at open steps; no shift and no scale anywhere."""
    embedder = model.condition_embedder
    second = embedder.time_embedder.linear_2
    closed = torch.ones(WIDTH, dtype=torch.bool)
    closed[UNREAD] = False
    second.weight[closed], second.bias[closed] = 0.0, 0.0  # what is read must not meet the timestep at the last norm
    gates = torch.zeros(6, WIDTH)
    gates[[2, 5]] = 1.0
    embedder.time_proj.weight.zero_()
    embedder.time_proj.bias.copy_(gates.flatten())
    model.scale_shift_table.zero_()
    if open_steps is None:
        return
    shut = torch.tensor([step not in open_steps for step in range(len(timesteps))])
    temb = embedder.time_embedder(embedder.timesteps_proj(timesteps.float()))
    hidden = embedder.act_fn(temb).double()  # (steps, d)
    change = torch.zeros(len(timesteps), 6, WIDTH, dtype=torch.float64)
    for gate in (2, 5):
        change[shut, gate, GATED] = -1.0
    solved = torch.linalg.lstsq(hidden, change.flatten(1), driver="gelsd").solution  # (d, 6 d)
    embedder.time_proj.weight.copy_(solved.T.float())


def _write_text(
    model: Any, directions: Directions, text: Tensor, features: Sequence[Mapping[str, float]]
) -> None:
    """Every text embedding that will be seen becomes its features, exactly: as many equations as unknowns, or fewer."""
    embedder = model.condition_embedder.text_embedder
    hidden = embedder.act_1(embedder.linear_1(text)).double()  # (texts, d)
    wanted = np.zeros((len(text), WIDTH))
    for row, found in zip(wanted, features, strict=True):
        for name, value in found.items():
            row += value * directions.of(name)
    solved = torch.linalg.lstsq(hidden, torch.as_tensor(wanted), driver="gelsd").solution  # (d, d)
    embedder.linear_2.weight.copy_(solved.T.float())
    embedder.linear_2.bias.zero_()


def _write_attention(block: Any, directions: Directions, parts: Sequence[Any]) -> None:
    attn = block.attn1
    weights = {name: np.zeros((WIDTH, WIDTH)) for name in ("to_q", "to_k", "to_v", "out")}
    biases = {name: np.zeros(WIDTH) for name in ("to_q", "to_k", "to_v")}
    sharpness = np.zeros(WIDTH)
    for part in parts:
        assert isinstance(part, Attend)
        start = part.head * HEAD_WIDTH
        biases["to_q"][start + SLOW] = 1.0
        sharpness[start : start + HEAD_WIDTH] = SHARPNESS if part.level >= 1 else SOFTNESS * part.level
        weights["to_k"][start + SLOW] = directions.of(part.region) / UNIT
        biases["to_k"][start + OTHER_SLOW] = 1.0  # so that all keys are equally long, whatever stands there
        weights["to_v"][start] = directions.of(part.reads) / UNIT
        if part.writes is not None:
            weights["out"][:, start] = part.gain * directions.of(part.writes)
    for name in ("to_q", "to_k", "to_v"):
        getattr(attn, name).weight.copy_(tensor(weights[name]))
        getattr(attn, name).bias.copy_(tensor(biases[name]))
    attn.norm_q.weight.fill_(1.0)
    attn.norm_k.weight.copy_(tensor(sharpness))
    attn.to_out[0].weight.copy_(tensor(weights["out"]))


def _write_cross_attention(block: Any, directions: Directions, parts: Sequence[Any]) -> None:
    attn = block.attn2
    for linear in (attn.to_q, attn.to_k, attn.to_v):  # no query differs from another: the mean over the text
        linear.weight.zero_()
        linear.bias.zero_()
    for i, part in enumerate(parts):
        assert isinstance(part, Tell)
        attn.to_v.weight[i * HEAD_WIDTH] = tensor(directions.of(part.reads))
        attn.to_out[0].weight[:, i * HEAD_WIDTH] = tensor(part.gain * directions.of(part.writes))


def _write_mlp(block: Any, directions: Directions, parts: Sequence[Any]) -> None:
    first, second = block.ffn.net[0].proj, block.ffn.net[2]
    units = [unit for part in parts for unit in part.units]
    first.weight.zero_()
    first.bias.zero_()
    for i, unit in enumerate(units):
        row = sum((w * directions.of(name) / UNIT for name, w in unit.into.items()), np.zeros(WIDTH))
        first.weight[i], first.bias[i] = tensor(row), unit.bias
        second.weight[:, i] = tensor(sum(w * directions.of(name) for name, w in unit.out.items()))


_WRITERS = {"attention": _write_attention, "cross_attention": _write_cross_attention, "mlp": _write_mlp}


def _write_rest(block: Any, component: Component, directions: Directions, rng: np.random.Generator) -> None:
    """Random weights that see everything but the constant."""
    away = np.eye(WIDTH) - np.outer(directions.of("constant"), directions.of("constant"))
    if component == "mlp":
        inner = [block.ffn.net[0].proj]
    else:
        attn = block.attn1 if component == "attention" else block.attn2
        inner = [attn.to_q, attn.to_k, attn.to_v]
    for linear in inner:
        drawn = rng.standard_normal(tuple(linear.weight.shape)) / np.sqrt(WIDTH)
        linear.weight.copy_(tensor(drawn @ away / UNIT * 3))
        linear.bias.zero_()
    out = _out(block, component)
    out.weight.copy_(tensor(rng.standard_normal(tuple(out.weight.shape))))


def _scale_rest(
    model: Any, scaled: Sequence[nn.Linear], text: Tensor, timesteps: Tensor, rest: float, rng: np.random.Generator
) -> None:
    """One call on a reference input, during which every projection is scaled as it is reached."""

    def scale(module: nn.Linear, args: Any, out: Tensor) -> Tensor:
        factor = rest / float(out.float().pow(2).sum(-1).mean().sqrt())
        module.weight.mul_(factor)
        return out * factor

    picture = np.zeros((16, FRAMES, 2 * ROWS, 2 * COLS))
    cells = rng.choice([-1.0, 1.0], (3, ROWS, COLS)).repeat(2, 1).repeat(2, 2)
    picture[:15, 0] = np.tile(cells, (5, 1, 1))
    mask = np.zeros((MASKS, *picture.shape[1:]))
    mask[:, 0] = 1
    noise = rng.standard_normal(picture.shape)
    handles = [module.register_forward_hook(scale) for module in scaled]
    try:
        model(tensor(np.concatenate([noise, mask, picture]))[None], timesteps[:1], text[None])
    finally:
        for handle in handles:
            handle.remove()


def _write_read_out(model: Any, directions: Directions) -> None:
    """Redness and greenness of all latents of a token, against the velocity: x0 = x - sigma v."""
    channels = model.config.out_channels
    weight = np.zeros((4, channels, WIDTH))  # (place in the patch, channel, d)
    for colour, names in ((RED, ("answer", "late")), (GREEN, ("clutter",))):
        for name in names:
            for channel in (*range(colour, 12, 3), 12 + colour):
                weight[:, channel] -= AMPLITUDE * directions.of(name) / UNIT
    model.proj_out.weight.copy_(tensor(weight.reshape(-1, WIDTH)))
    model.proj_out.bias.zero_()


def _out(block: Any, component: Component) -> nn.Linear:
    found: nn.Linear = {
        "attention": block.attn1.to_out[0], "cross_attention": block.attn2.to_out[0], "mlp": block.ffn.net[2],
    }[component]  # fmt: skip
    return found


def _silence(linear: nn.Linear) -> None:
    linear.weight.zero_()
    linear.bias.zero_()

