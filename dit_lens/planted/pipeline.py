"""The pipeline around a planted transformer: a tiny text encoder, the lab's linear codec, Euler steps.

A stock ``WanImageToVideoPipeline``, built by code. Text encoder and tokenizer are a real UMT5 of width 16 and three
words; codec and scheduler are linear, so that what a velocity does to the finished video is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from dit_lens.lab.codec import LabVAE
from dit_lens.planted.pictures import WORDS
from dit_lens.planted.weights import HEAD_WIDTH, HEADS, HIDDEN
from dit_lens.wan.call_plan import ExplicitGridEuler

TEXT, TOKENS = 16, 6  # width of the text, and how many tokens of it there are
SHIFT = 2.0


def transformer(n_layers: int) -> Any:
    """A Wan transformer of width 48 with the random weights of its construction."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=HEADS, attention_head_dim=HEAD_WIDTH, in_channels=36,
        out_channels=16, text_dim=TEXT, freq_dim=32, ffn_dim=HIDDEN, num_layers=n_layers, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", eps=1e-6, rope_max_seq_len=16,
    )  # fmt: skip


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer held in memory."""
    words = ["<pad>", "</s>", "<unk>", *WORDS]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def text_encoder() -> UMT5EncoderModel:
    """A UMT5 encoder of one layer."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=8, d_model=TEXT, d_ff=16, d_kv=8, num_heads=2, num_layers=1, feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )  # fmt: skip


def assemble(experts: Mapping[str, Any], encoder: Any, boundary: float | None) -> WanImageToVideoPipeline:
    """The pipeline of these transformers (``high``, and ``low`` where there are two)."""
    pipe = WanImageToVideoPipeline(
        tokenizer=tokenizer(), text_encoder=encoder, vae=LabVAE(), transformer=experts["high"],
        scheduler=ExplicitGridEuler(shift=SHIFT), transformer_2=experts.get("low"),
        boundary_ratio=boundary,
    )  # fmt: skip
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def seen_text(pipe: Any) -> tuple[Tensor, list[dict[str, float]]]:
    """Every distinct text embedding of a token that a generation can meet, and the features it shall have.

    Features of a text are those of its words' mean over all tokens: a word has ``TOKENS`` times what the text has.
    """
    rows: list[Tensor] = []
    features: list[dict[str, float]] = []
    texts = {WORDS[0]: {"word": 1.0, "flag": 1.0}, WORDS[1]: {"word": -1.0, "flag": 1.0}, "": {"flag": -1.0}}
    for prompt, wanted in texts.items():
        embedded = pipe.encode_prompt(
            prompt=prompt, do_classifier_free_guidance=False, max_sequence_length=TOKENS, device="cpu"
        )[0][0]  # (TOKENS, TEXT)
        count = int((embedded.abs().sum(1) > 0).sum())  # padding is zeros
        rows += list(embedded[:count])
        features += [{name: TOKENS * value for name, value in wanted.items()}, *({} for _ in range(count - 1))]
    rows.append(torch.zeros(TEXT))
    features.append({"constant": 1.0})  # padding is told from tokens by what it becomes, which must not be nothing
    return torch.stack(rows), features
