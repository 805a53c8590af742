"""Who attends to whom: the points of each attention, and named sets of its queries and keys.

Three attentions, all with video tokens as queries::

    kind      keys                        names for sets of keys
    self      video tokens (N)            a region of the video, "frame 3", "all", or indices
    cross     text tokens (M)             "text", "pad", "all", or indices (prompt_words)
    image     CLIP tokens (I), 2.1 I2V    "all", or indices

Sets of queries are named like the keys of ``self``; several names mean their union. Indices may also be given as a
mask, one bool per token. Wan fills a prompt up with zeros to a fixed length and attends to that padding without a mask,
so padding is always a bucket of its own. Which text tokens are padding is read from the call itself: the text
projection maps zeros to one known vector.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dit_lens.address import Branch, Call, MaskIndices, Select, indices
from dit_lens.errors import AddressError, DitLensError
from dit_lens.wan.editing import Context
from dit_lens.wan.expert import Expert, Hook

Kind = Literal["self", "cross", "image"]
#: A name, several names (their union), or token indices on the axis that it selects from.
Tokens = str | Sequence[str | int]

#: Points of an attention: queries, keys, values, and what leaves each head.
PARTS: dict[Kind, tuple[str, str, str, str]] = {
    "self": ("q", "k", "v", "z"),
    "cross": ("cross_q", "cross_k", "cross_v", "cross_z"),
    "image": ("cross_q", "cross_k_img", "cross_v_img", "cross_z_img"),
}
_TEXT = "hook_text_embed"


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by the fused kernel: softmax(q k^T / sqrt(D)) v.

    Args:
        q: Queries (B, N, H, D).
        k: Keys (B, M, H, D).
        v: Values (B, M, H, D).

    Returns:
        Head outputs (B, N, H, D).
    """
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


def frozen(tokens: Any) -> Tokens:
    """Tokens as a value that cannot change; a mask, one bool per token, as the indices that it selects.

    Args:
        tokens: A name, several names, indices, or a mask.

    Raises:
        AddressError: For a mask with more axes.
    """
    if isinstance(tokens, str):
        return tokens
    tokens = tokens.cpu().numpy() if isinstance(tokens, Tensor) else tokens
    if isinstance(tokens, list | np.ndarray) and np.asarray(tokens).dtype == bool:
        if np.ndim(tokens) != 1:
            raise AddressError(
                f"a mask of shape {np.shape(tokens)} is not one bool per token: pass a mask per pixel to "
                "generate(regions={'name': mask}) and give its name here"
            )
        return MaskIndices(tokens)
    return tuple(t if isinstance(t, str) else int(t) for t in tokens)


def by_index(tokens: Tokens) -> bool:
    """Whether token indices are given, and not names."""
    return not all(isinstance(t, str) for t in tokens)


def check_kind(kind: str, context: Context, error: type[DitLensError]) -> None:
    """Refuse an attention that the model does not have.

    Args:
        kind: The name of the attention.
        context: The generation.
        error: The class of the error that is raised.
    """
    if kind not in get_args(Kind):
        raise error(f"kind={kind!r} is unknown: choose from {list(get_args(Kind))}")
    if kind == "image" and not context.experts["high"].image_context:
        raise error(
            "kind='image' is the attention to CLIP tokens of Wan2.1 I2V, and this model has none: its image enters "
            "through the latents, so use kind='self' and the region of the first frame ('frame 0')"
        )


def video_mask(wanted: Tokens, context: Context) -> Tensor:
    """The video tokens that a name or indices mean.

    Args:
        wanted: A region, ``"frame i"``, ``"all"``, several names (their union), or indices.
        context: The generation.

    Returns:
        Bool (B, N).

    Raises:
        AddressError: For an unknown name.
        InterventionError: For a region without tokens.
    """
    if not isinstance(wanted, str) and wanted and not by_index(wanted):
        return torch.stack([video_mask(str(name), context) for name in wanted]).any(0)
    rows, grid = len(context.seeds), context.grid
    if isinstance(wanted, str) and wanted not in context.masks:
        if wanted == "all":
            return torch.ones(rows, grid.n_tokens, dtype=torch.bool)
        if found := re.fullmatch(r"frame (-?\d+)", wanted):
            (frame,) = indices(int(found[1]), grid.frames, "frame", "a video")
            mask = torch.zeros(rows, grid.frames, grid.rows * grid.cols, dtype=torch.bool)
            mask[:, frame] = True
            return mask.flatten(1)
        raise AddressError(
            f"{wanted!r} names no video tokens: this video has the regions {sorted(context.masks)}, and 'all' and "
            f"'frame 0' to 'frame {grid.frames - 1}'; generate from a task, or pass regions={{'name': mask}}"
        )
    chosen = context.token_mask(Select(tokens=wanted))  # type: ignore[arg-type]
    assert chosen is not None
    return chosen


def key_mask(kind: Kind, wanted: Tokens, context: Context, size: int, padding: Tensor | None = None) -> Tensor:
    """The keys that a name or indices mean.

    Args:
        kind: The attention.
        wanted: A name, several names (their union), or indices.
        context: The generation.
        size: How many keys there are, M.
        padding: Bool (B, M): text tokens that are padding; needed for ``"text"`` and ``"pad"``.

    Returns:
        Bool (B, M).

    Raises:
        AddressError: For an unknown name, or an index outside.
    """
    if kind == "self":
        return video_mask(wanted, context)
    rows = len(context.seeds)
    if not isinstance(wanted, str) and wanted and not by_index(wanted):
        return torch.stack([key_mask(kind, str(name), context, size, padding) for name in wanted]).any(0)
    if isinstance(wanted, str):
        everything = torch.ones(rows, size, dtype=torch.bool)
        sets = {"all": everything} if padding is None else {"text": ~padding, "pad": padding, "all": everything}
        if wanted not in sets:
            raise AddressError(
                f"{wanted!r} names no keys of kind={kind!r}: choose from {list(sets)}, or give token indices"
                + ("" if kind == "image" else ", for example from prompt_words(lens, prompt)")
            )
        return sets[wanted].expand(rows, -1)
    mask = torch.zeros(rows, size, dtype=torch.bool)
    mask[:, list(indices(wanted, size, "token", "a text" if kind == "cross" else "an image context"))] = True
    return mask


def padding_of(text: Tensor, expert: Expert) -> Tensor:
    """Which projected text tokens came from zeros.

    Args:
        text: Text tokens after the projection, (B, M, d).
        expert: The expert that projected them.

    Returns:
        Bool (B, M), on the CPU.
    """
    transformer: Any = expert.transformer
    zeros = text.new_zeros(1, 1, transformer.config.text_dim)
    with torch.no_grad():
        blank = transformer.condition_embedder.text_embedder(zeros).float()  # (1, 1, d)
        # Rows of one product may differ by rounding from a product of one row: 2 % covers bf16 and no token.
        off = torch.linalg.vector_norm(text.detach().float() - blank, dim=-1)  # (B, M)
        return (off <= 0.02 * torch.linalg.vector_norm(blank)).cpu()


class TextSeen:
    """Notes, once per branch, which text tokens of a generation are padding.

    Attributes:
        padding: Branch -> bool (B, M).
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.padding: dict[Branch, Tensor] = {}  # bool (B, M)

    def hooks(self, call: Call) -> list[Hook]:
        """The hooks to hold during a call; none where its branch was seen."""
        if call.branch in self.padding:
            return []

        def see(x: Tensor, hook: Any) -> None:
            self.padding[call.branch] = padding_of(x, self.context.experts[call.expert])

        return [(_TEXT, see)]


def prompt_words(lens: Any, prompt: str) -> dict[str, tuple[int, ...]]:
    """Text-token indices of each word of a prompt, in order, and of the end mark (``"</s>"``).

    Words are cut at white space; a repeated one is numbered (``"the"``, ``"the 2"``). The indices hold for the ``cond``
    branch of a generation with that prompt.

    Args:
        lens: A lens whose tokenizer tells offsets, as all of Wan's do.
        prompt: The prompt, which is cleaned as the pipeline cleans it.

    Returns:
        Word -> token indices.
    """
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    text = prompt_clean(prompt)
    tokenizer = lens.pipe.tokenizer
    coded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=True)
    found: dict[str, tuple[int, ...]] = {}
    for word in re.finditer(r"\S+", text):
        name, copies = word[0], 1
        while name in found:
            copies += 1
            name = f"{word[0]} {copies}"
        found[name] = tuple(
            i for i, (a, b) in enumerate(coded["offset_mapping"]) if a < b and a < word.end() and b > word.start()
        )
    ends = tuple(i for i, token in enumerate(coded["input_ids"]) if token == tokenizer.eos_token_id)
    return {**{k: v for k, v in found.items() if v}, **({"</s>": ends} if ends else {})}


def named(wanted: Any, context: Context, frames: bool = True) -> tuple[tuple[str, Tokens], ...]:
    """Pairs of a name and the tokens that it means.

    Args:
        wanted: A name, several names, or a mapping from names to tokens.
        context: The generation.
        frames: Whether ``"frames"`` stands for every single frame.

    Returns:
        (name, tokens) pairs, in the order given.
    """
    if isinstance(wanted, Mapping):
        pairs = [(str(k), v) for k, v in wanted.items()]
    else:
        pairs = [(w, w) for w in ((wanted,) if isinstance(wanted, str) else wanted)]
    spelled: list[tuple[str, Tokens]] = []
    for name, tokens in pairs:
        if frames and tokens == "frames" and "frames" not in context.masks:
            spelled += [(f"frame {i}", f"frame {i}") for i in range(context.grid.frames)]
        else:
            spelled.append((name, tokens))
    return tuple(spelled)
