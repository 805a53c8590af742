"""Puzzles, their truth and twins, VBVR folders, and the lab model's codec."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import dit_lens as dl
from dit_lens.lab import LabVAE
from golden_items.table import Numbers, flat, item


@item
def tasks(lens: Any) -> Numbers:
    """Three puzzles of each family: pictures, regions, codes, scores, twins, rendered answers and decoys."""
    found: dict[str, Any] = {}
    for name in dl.tasks.names():
        for task in dl.tasks.batch(name, 3, seed=11):
            blurred = 0.7 * task.frames / 255 + 0.3 * task.first_frame / 255
            twins = {kind: task.twin(kind, 1).frames for kind in dl.tasks.KINDS}
            decoys = task.decoys(3)
            score, weak = task.score(task.frames), task.score(blurred)
            found[f"{name}-{task.seed}"] = {
                "frames": task.frames, "regions": task.regions, "codes": task.codes, "twins": twins,
                "score": [score.solved, score.value, weak.solved, weak.value], "solutions": len(task.solutions),
                "render": task.render(task.solutions[-1]), "decoys": [task.render(decoy) for decoy in decoys],
            }  # fmt: skip
    train = dl.tasks.load("maze", 4, split="train")
    return flat({**found, "train": train.frames, "scene": dl.tasks.scene("choose", 5).codes()})


@item
def vbvr(lens: Any) -> Numbers:
    """A sample folder read, generated from and written."""
    task = dl.tasks.load("maze", 6)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "In-Domain_50" / "maze_data-generator" / "00003"
        folder.mkdir(parents=True)
        task.image.save(folder / "first_frame.png")
        Image.fromarray(task.frames[-1]).save(folder / "final_frame.png")
        (folder / "prompt.txt").write_text(task.prompt)
        sample = dl.tasks.vbvr.load(dl.tasks.vbvr.find(root)[0], num_frames=13)
        run = lens.generate(sample, seed=1)
    return flat({"image": np.asarray(sample.image), "regions": sample.regions, "final": run.final, "grid": run.regions})


@item
def codec(lens: Any) -> Numbers:
    """The lab model's codec, there and back."""
    video = torch.from_numpy(dl.tasks.load("occlude", 2).frames.copy()).permute(3, 0, 1, 2)[None] / 127.5 - 1
    vae = LabVAE()
    latents = vae.encode(video).latent_dist.mode()
    return flat({"latents": latents, "video": vae.decode(latents, return_dict=False)[0]})
