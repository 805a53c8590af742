"""VBVR sample folders as tasks, generations in VBVR-Bench's layout, and its scores beside a still first frame's.

A sample is a folder with ``first_frame.png`` and ``prompt.txt``, and perhaps ``final_frame.png``, ``ground_truth.mp4``
and ``metadata.json``. Two layouts are known: VBVR-Bench's ``{split}/{task}/{index}/`` and the generators' own
``{generator}/{task}_task/{name}_{index}/``, whose task is the generator's name, as in the benchmark.

    sample = vbvr.load("VBVR-Bench/In-Domain_50/O-47_sliding_puzzle_data-generator/00000")
    run = lens.generate(sample, seed=1, preset="paper")
    vbvr.write(run.video, sample, "out")        # out/In-Domain_50/O-47_sliding_puzzle_data-generator/00000.mp4
    run.score                                   # Graded(value=..., static=...), needs VBVR-EvalKit

Sizes follow the paper's tools: the first frame's, rounded up to a multiple of 16, and as many frames as the ground
truth has, rounded up to 1 + 4k (81 without one). diffusers alone would round frames to the nearest below plus one.

When not to use: as a measure of reasoning without its baseline. A video that holds the first frame still scores .366 in
the benchmark's task-specific mode, and the untuned Wan2.2 .371 (VBVR-EvalKit, issue 240).
"""

from __future__ import annotations

import difflib
import importlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from dit_lens.errors import TaskError
from dit_lens.tasks.clips import Clip, as_uint8, open_clip, write_clip

SPLITS = ("In-Domain_50", "Out-of-Domain_50")
FRAMES, FPS = 81, 16
CHANGED = 24  # of 255: more than H.264 moves a flat colour, less than any object differs from its ground
_LARGEST_TEXT = 4 * 2**20  # bytes
_GENERATOR = re.compile(r"[A-Z]+-\d+_\w+_data-generator")
_PART = re.compile(r"[A-Za-z0-9][\w.+-]*")


@dataclass(frozen=True)
class Graded:
    """A benchmark score, 0 to 1, beside the score of the first frame held still for as long (``static``)."""

    value: float
    static: float
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def gain(self) -> float:
        """What the video adds to standing still."""
        return self.value - self.static


@dataclass(frozen=True)
class Sample:
    """One VBVR sample; made by :func:`load`, and given to ``lens.generate`` as it is.

    Attributes:
        folder: Of the sample.
        split: "" where the folder does not tell.
        task: Name of its task.
        index: Its number, as text.
        prompt: What the model is told.
        height: Pixels to generate.
        width: Pixels to generate.
        num_frames: Frames to generate.
        fps: Frames per second.
        image: The first frame.
        final: The last frame, where there is one.
        clip: The ground truth, where there is one.
        regions: In the size to generate; see the property.
    """

    folder: Path
    split: str
    task: str
    index: str
    prompt: str
    height: int
    width: int
    num_frames: int
    fps: int
    image: Image.Image = field(repr=False, compare=False)
    final: Image.Image | None = field(repr=False, compare=False)
    clip: Clip | None = field(repr=False, compare=False)

    @cached_property
    def ground_truth(self) -> np.ndarray | None:
        """The frames of ``ground_truth.mp4``, uint8 (F, H, W, 3) in their own size and number; None without one."""
        return None if self.clip is None else self.clip.frames()

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """``metadata.json`` as data, empty without one. Nothing in it is acted upon."""
        path = self.folder / "metadata.json"
        if not path.is_file():
            return MappingProxyType({})
        content = _text(path)
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{path} is not JSON ({type(error).__name__}): mend it, or remove it") from error
        if not isinstance(found, dict):
            raise TaskError(f"{path} holds a {type(found).__name__}, not named values: mend it, or remove it")
        return MappingProxyType(found)

    @cached_property
    def regions(self) -> Mapping[str, np.ndarray]:
        """``changed`` and ``kept``, bool (height, width): where final and first frame differ. Empty without either.

        The final frame is ``final_frame.png``, else the last of ``ground_truth.mp4``. What moves and comes back is not
        in ``changed``.
        """
        if self.final is not None:
            final = self.final
        elif self.ground_truth is not None:
            final = Image.fromarray(self.ground_truth[-1])
        else:
            return MappingProxyType({})
        first, last = (np.asarray(_fit(i, self.height, self.width), np.int16) for i in (self.image, final))
        changed = np.abs(last - first).max(-1) > CHANGED
        return MappingProxyType({"changed": changed, "kept": ~changed})

    def score(self, video: np.ndarray) -> Graded:
        """Score a video by VBVR-EvalKit, beside the first frame held still.

        Args:
            video: uint8 or float (F, H, W, 3).

        Returns:
            Both scores and what EvalKit says of each.

        Raises:
            TaskError: Without VBVR-EvalKit, for a task it does not know, without a ground truth, and where the scorer
                itself fails (which EvalKit reports as a score of 0).
        """
        frames = as_uint8(video)
        still = np.asarray(_fit(self.image, *frames.shape[1:3]))
        found = {}
        with tempfile.TemporaryDirectory(prefix="dit_lens-vbvr-") as folder:
            for name, shown in (("video", frames), ("static", np.broadcast_to(still, frames.shape))):
                found[name] = evalkit(self, write_clip(Path(folder) / f"{name}.mp4", shown, self.fps))
        value, static = (float(found[name]["score"]) for name in ("video", "static"))
        return Graded(value, static, MappingProxyType(found))


def load(
    folder: str | Path,
    *,
    size: tuple[int, int] | None = None,
    num_frames: int | None = None,
    split: str | None = None,
    task: str | None = None,
    index: str | None = None,
) -> Sample:
    """Read one sample folder.

    Args:
        folder: Of the sample.
        size: (height, width) in place of the sample's own.
        num_frames: In place of the sample's own.
        split: In place of what the folder's place says.
        task: Likewise.
        index: Likewise.

    Returns:
        The sample.

    Raises:
        TaskError: For a missing, empty or unreadable file, pictures and clip of different sizes, a size or length that
            no Wan model makes, and names that cannot be part of a path.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TaskError(f"there is no folder {str(folder)!r}: give a VBVR sample folder (vbvr.find(root) lists them)")
    for name in ("first_frame.png", "prompt.txt"):
        if not (folder / name).is_file():
            raise TaskError(f"{str(folder)!r} has no {name}: a VBVR sample needs first_frame.png and prompt.txt")
    image = _picture(folder / "first_frame.png")
    prompt = _text(folder / "prompt.txt").strip()
    if not prompt:
        raise TaskError(f"{folder / 'prompt.txt'} is empty: a sample without an instruction asks for nothing")
    final = _picture(folder / "final_frame.png") if (folder / "final_frame.png").exists() else None
    clip = open_clip(folder / "ground_truth.mp4") if (folder / "ground_truth.mp4").exists() else None
    for name, wide in (
        ("final_frame.png", final and final.size),
        ("ground_truth.mp4", clip and (clip.width, clip.height)),
    ):
        if wide and wide != image.size:
            raise TaskError(
                f"{folder / name} is {wide[0]} x {wide[1]} and first_frame.png is {image.size[0]} x {image.size[1]}: "
                "the files belong to different samples"
            )
    height, width = (_up(image.height, 16), _up(image.width, 16)) if size is None else size
    length = 1 + _up((clip.num_frames if clip else FRAMES) - 1, 4) if num_frames is None else num_frames
    if height % 16 or width % 16 or min(height, width) < 16 or length < 1 or (length - 1) % 4:
        raise TaskError(
            f"{height} x {width} and {length} frames: give size= in multiples of 16, num_frames= as 1 + a multiple of 4"
        )
    place = _place(folder.resolve())
    split, task, index = (a if a is not None else b for a, b in zip((split, task, index), place, strict=True))
    if split and split not in SPLITS:
        raise TaskError(f"split {split!r} is not VBVR-Bench's: choose from {list(SPLITS)}")
    if not index:
        raise TaskError(
            f"the folder name {folder.name!r} does not end in the sample's number: rename it, or give index="
        )
    for part in (task, index):
        if not _PART.fullmatch(part):
            raise TaskError(f"{part!r} cannot name a task or sample: use letters, digits and . _ + -")
    return Sample(folder, split, task, index, prompt, height, width, length, FPS, image, final, clip)


def find(root: str | Path) -> list[Path]:
    """All sample folders below ``root``, sorted.

    Args:
        root: Folder to search.

    Returns:
        Every folder that holds a ``first_frame.png``.

    Raises:
        TaskError: There is none.
    """
    found = sorted(path.parent for path in Path(root).rglob("first_frame.png"))
    if not found:
        raise TaskError(f"no sample (a folder with first_frame.png) lies below {str(root)!r}")
    return found


def destination(sample: Sample, root: str | Path) -> Path:
    """Where VBVR-Bench looks for a sample's video.

    Args:
        sample: The sample.
        root: Folder of all videos.

    Returns:
        ``root/{split}/{task}/{index}.mp4``.

    Raises:
        TaskError: The sample's split is not known.
    """
    if not sample.split:
        raise TaskError(
            f"{str(sample.folder)!r} does not tell its split: vbvr.load(folder, split={SPLITS[0]!r}) or {SPLITS[1]!r}"
        )
    return Path(root) / sample.split / sample.task / f"{sample.index}.mp4"


def write(video: np.ndarray, sample: Sample, root: str | Path) -> Path:
    """Write a generated video where VBVR-Bench looks for it.

    Args:
        video: uint8 0-255 or float 0-1, (F, H, W, 3).
        sample: What it was generated for.
        root: Folder of all videos.

    Returns:
        The path, as of :func:`destination`.

    Raises:
        TaskError: As of :func:`destination` and :func:`dit_lens.tasks.clips.write_clip`.
    """
    return write_clip(destination(sample, root), video, sample.fps)


def evalkit(sample: Sample, clip: Path) -> dict[str, Any]:
    """What VBVR-EvalKit says of a clip, in the leaderboard's mode: the task's own rules, no SSIM in their place."""
    try:
        module = importlib.import_module("vbvr_bench.evaluators")
    except ImportError as error:
        raise TaskError(
            f"scoring VBVR samples needs VBVR-EvalKit ({error}): clone github.com/Video-Reason/VBVR-EvalKit and run "
            "pip install -e on it; score lab puzzles or write the videos with vbvr.write meanwhile"
        ) from error
    known = list(module.TASK_EVALUATOR_MAP)
    if sample.task not in known:
        near = difflib.get_close_matches(sample.task, known, 3, 0.3)
        raise TaskError(f"VBVR-EvalKit has no scorer for {sample.task!r}: load the sample with task= one of {near}")
    truth = {
        "gt_video_path": "ground_truth.mp4",
        "gt_first_frame": "first_frame.png",
        "gt_final_frame": "final_frame.png",
    }
    missing = [name for name in truth.values() if not (sample.folder / name).is_file()]
    if missing:
        raise TaskError(f"{str(sample.folder)!r} cannot be scored without {missing}: EvalKit would answer 0")
    about = {key: str(sample.folder / name) for key, name in truth.items()}
    about |= {"video_path": str(clip), "gt_path": str(sample.folder), "task_name": sample.task, "prompt": sample.prompt}
    result = module.get_evaluator(sample.task, "cpu").evaluate(
        {**about, "no_ssim_fallback": True}, task_specific_only=True
    )
    if result.get("error"):
        raise TaskError(f"VBVR-EvalKit failed on {sample.task} {sample.index}: {result['error']}")
    return dict(result)


def _place(folder: Path) -> tuple[str, str, str]:
    """(split, task, index) from where a sample folder lies."""
    parent, grand = folder.parent.name, folder.parent.parent.name
    digits = re.search(r"(\d+)$", folder.name)
    task = grand if _GENERATOR.fullmatch(grand) else parent
    return grand if grand in SPLITS else "", task, f"{int(digits.group(1)):05d}" if digits else ""


def _text(path: Path) -> str:
    if path.stat().st_size > _LARGEST_TEXT:
        raise TaskError(f"{path} has {path.stat().st_size} bytes, more than any sample's: it is not what its name says")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8 text: save it as UTF-8") from error


def _picture(path: Path) -> Image.Image:
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise TaskError(f"{path} cannot be read as a PNG picture ({error}): get the file again") from error


def _fit(image: Image.Image, height: int, width: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
