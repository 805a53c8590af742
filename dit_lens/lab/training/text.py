"""Words for the lab: a byte tokenizer, a two-layer UMT5 encoder, its short training, and the table of known prompts.

As in the real Wan the text encoder is trained apart from the video model and then frozen. Here its only lesson is to
say, from the mean over a prompt's bytes, which task it is about and which colours it names, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn

from dit_lens.tasks.palette import BALLS, NAMES

MAX_LENGTH = 64
WIDTH = 64
COLOURS = tuple(NAMES[c] for c in BALLS)
_PREFIXES = ("", "", "", "please ", "now ", "video: ", "you ")
_SUFFIXES = ("", "", "", ".", " now", " please", "!")


def tokenizer() -> Any:
    """Byte-level tokenizer, 259 ids: 0 pad, 1 end, 2 unknown, 3.. bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    for char in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[char] = len(vocab)
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tok, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=MAX_LENGTH
    )


def encoder() -> Any:
    """An untrained UMT5 encoder, 99,072 parameters."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=259,
            d_model=WIDTH,
            d_ff=128,
            d_kv=16,
            num_heads=4,
            num_layers=2,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )


@torch.no_grad()
def embed(texts: Sequence[str], tok: Any, enc: Any) -> torch.Tensor:
    """Prompt embeddings exactly as ``WanImageToVideoPipeline.encode_prompt`` makes them.

    Args:
        texts: The n prompts.
        tok: Tokenizer.
        enc: Text encoder.

    Returns:
        (n, 64 bytes, 64), zero beyond each text's end.
    """
    batch = tok(
        list(texts), padding="max_length", max_length=MAX_LENGTH, truncation=True, add_special_tokens=True,
        return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    states = enc(batch.input_ids, batch.attention_mask).last_hidden_state
    return states * batch.attention_mask.unsqueeze(-1).to(states.dtype)


def load(folder: Path) -> tuple[Any, Any]:
    """(tokenizer, frozen encoder) from a training folder."""
    from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

    enc = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    return PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer"), enc.eval().requires_grad_(False)


class Words:
    """Prompt embeddings by lookup: the encoder is frozen and the prompts are few.

    Attributes:
        empty: Embedding of the empty prompt, (64, 64).
    """

    def __init__(self, prompts: Sequence[str], folder: Path):
        known = [*prompts, ""]
        self.table = embed(known, *load(folder))
        self.index = {prompt: i for i, prompt in enumerate(known)}
        self.empty = self.table[-1]

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """The embeddings of n known prompts, (n, 64, 64), a copy."""
        return self.table[[self.index[p] for p in prompts]]


def train(
    prompts: Mapping[str, tuple[str, tuple[str, ...]]],
    seed: int = 0,
    iterations: int = 600,
    batch: int = 48,
    log: Callable[[str], None] = print,
) -> tuple[Any, Any]:
    """Teach a fresh encoder to tell task and named colours, first and second apart.

    Wordings are varied (prefix, suffix, capitals) so that the encoder must find the words and not count bytes.

    Args:
        prompts: Prompt -> (task, colours named in order), as ``tasks.prompts`` gives them.
        seed: Of weights and draws.
        iterations: About 25 a second on one core.
        batch: Prompts of an iteration.
        log: Takes a line now and then.

    Returns:
        (tokenizer, frozen encoder).
    """
    torch.manual_seed(seed)
    rng = Random(seed)
    tok, enc = tokenizer(), encoder()
    known = list(prompts.items())
    tasks = sorted({task for task, _ in prompts.values()})
    most = max(len(named) for _, named in prompts.values())
    heads = nn.ModuleDict({"task": nn.Linear(WIDTH, len(tasks))})
    for i in range(most):
        heads[f"colour{i}"] = nn.Linear(WIDTH, len(COLOURS) + 1)
    parameters = [*enc.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=iterations)
    for it in range(iterations):
        picked = [known[rng.randrange(len(known))] for _ in range(batch)]
        texts = [_reworded(text, rng) for text, _ in picked]
        inputs = tok(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        states = enc(inputs.input_ids, inputs.attention_mask).last_hidden_state
        mask = inputs.attention_mask.unsqueeze(-1)
        pooled = (states * mask).sum(1) / mask.sum(1)
        loss = nn.functional.cross_entropy(
            heads["task"](pooled), torch.tensor([tasks.index(t) for _, (t, _) in picked])
        )
        right = torch.ones(batch, dtype=torch.bool)
        for i in range(most):
            wanted = torch.tensor([COLOURS.index(c[i]) if i < len(c) else len(COLOURS) for _, (_, c) in picked])
            scores = heads[f"colour{i}"](pooled)
            loss = loss + nn.functional.cross_entropy(scores, wanted)
            right &= scores.argmax(-1) == wanted
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if it % 100 == 0 or it == iterations - 1:
            log(f"text {it} colours right {right.float().mean():.2f} loss {loss.item():.4f}")
    return tok, enc.eval().requires_grad_(False)


def _reworded(text: str, rng: Random) -> str:
    text = rng.choice(_PREFIXES) + text + rng.choice(_SUFFIXES)
    return text.capitalize() if rng.random() < 0.2 else text
