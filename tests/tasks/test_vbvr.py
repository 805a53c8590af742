"""VBVR sample folders, made small in code; four real samples are read too where they lie beside the checkout.

VBVR-EvalKit itself is not installed here: scoring is tested against a stand-in with its interface.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, LAYERS
from PIL import Image
from safetensors.torch import save_file

from dit_lens.errors import TaskError
from dit_lens.tasks import clips, vbvr
from dit_lens.wan.loading import load as load_lens
from dit_lens.wan.lora import PAIR

TASK = "O-47_sliding_puzzle_data-generator"
HEIGHT, WIDTH, LENGTH = 32, 64, 9
REAL = Path(__file__).resolve().parents[2].parent / "shared" / "vbvr"


def picture(at: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A grey board with a red block 16 pixels wide, ``at`` pixels from the left."""
    board = np.full((height, width, 3), 200, np.uint8)
    board[8:24, at : at + 16] = (200, 30, 30)
    return board


def film(length: int = LENGTH) -> np.ndarray:
    return np.stack([picture(round(48 * i / (length - 1))) for i in range(length)])


def make(folder: Path, prompt: str = "Slide the red block to the right.\n", length: int = LENGTH) -> Path:
    """A whole sample folder."""
    folder.mkdir(parents=True)
    Image.fromarray(picture(0)).save(folder / "first_frame.png")
    Image.fromarray(picture(48)).save(folder / "final_frame.png")
    (folder / "prompt.txt").write_text(prompt, encoding="utf-8")
    clips.write_clip(folder / "ground_truth.mp4", film(length))
    (folder / "metadata.json").write_text(json.dumps({"task_id": "x", "parameters": {"moves": 1}}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "bench" / "In-Domain_50" / TASK / "00003")


# -- reading


def test_a_sample_says_what_to_generate(folder: Path) -> None:
    sample = vbvr.load(folder)
    assert (sample.split, sample.task, sample.index) == ("In-Domain_50", TASK, "00003")
    assert sample.prompt == "Slide the red block to the right."
    assert (sample.height, sample.width, sample.num_frames, sample.fps) == (HEIGHT, WIDTH, LENGTH, 16)
    assert np.array_equal(np.asarray(sample.image), picture(0))
    assert sample.metadata["parameters"] == {"moves": 1}
    assert sample.ground_truth is not None and sample.ground_truth.shape == (LENGTH, HEIGHT, WIDTH, 3)
    assert np.abs(sample.ground_truth.astype(int) - film()).mean() < 6, "only H.264's own loss"
    assert vbvr.find(folder.parents[2]) == [folder]


def test_regions_are_what_differs_between_first_and_final_frame(folder: Path) -> None:
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[8:24, :16] = expected[8:24, 48:] = True
    for source in ("final_frame.png", "ground_truth.mp4"):
        regions = vbvr.load(folder).regions
        if source == "final_frame.png":
            assert np.array_equal(regions["changed"], expected)
        else:  # from the clip's last frame: H.264 blurs the edges a little
            assert (regions["changed"] != expected).mean() < 0.02
        assert np.array_equal(regions["kept"], ~regions["changed"])
        (folder / source).unlink()
    assert vbvr.load(folder).regions == {}


def test_sizes_are_rounded_up_as_the_papers_tools_do(tmp_path: Path) -> None:
    folder = make(tmp_path / "G-1_a_data-generator" / "a_task" / "a_00000012", length=11)
    Image.fromarray(picture(0, 30, 70)).save(folder / "first_frame.png")
    for name in ("final_frame.png", "ground_truth.mp4"):
        (folder / name).unlink()
    sample = vbvr.load(folder)
    assert (sample.height, sample.width, sample.num_frames) == (32, 80, 81)
    assert (sample.split, sample.task, sample.index) == ("", "G-1_a_data-generator", "00012")
    for length, rounded in ((8, 9), (9, 9), (10, 13)):
        clips.write_clip(folder / "ground_truth.mp4", np.stack([picture(0, 30, 70)] * length))
        assert vbvr.load(folder).num_frames == rounded
    small = vbvr.load(folder, size=(16, 32), num_frames=5, split="Out-of-Domain_50", task="T", index="7")
    assert (small.height, small.width, small.num_frames) == (16, 32, 5)
    assert vbvr.destination(small, "out") == Path("out/Out-of-Domain_50/T/7.mp4")


def spoil(folder: Path, name: str, content: bytes | None) -> Path:
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    return folder


PLAYLIST = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"


@pytest.mark.parametrize(
    ("name", "content", "cure"),
    [
        ("first_frame.png", None, "needs first_frame.png and prompt.txt"),
        ("prompt.txt", None, "needs first_frame.png and prompt.txt"),
        ("prompt.txt", b" \n\t", "is empty"),
        ("prompt.txt", b"\xff\xfe\x00", "save it as UTF-8"),
        ("first_frame.png", b"no picture", "get the file again"),
        ("final_frame.png", b"\x89PNG\r\n\x1a\n cut", "get the file again"),
        ("ground_truth.mp4", b"no video at all, only words", "does not begin as an MP4"),
        ("ground_truth.mp4", PLAYLIST, "does not begin as an MP4"),
        ("ground_truth.mp4", b"", "does not begin as an MP4"),
        ("ground_truth.mp4", b"\x00\x00\x00\x20ftypisom" + b"\x00" * 40, "get the file again, or remove it"),
    ],
)
def test_missing_and_broken_files_are_refused(folder: Path, name: str, content: bytes | None, cure: str) -> None:
    with pytest.raises(TaskError, match=cure):
        vbvr.load(spoil(folder, name, content))


def test_a_clip_that_was_cut_short_is_refused(folder: Path) -> None:
    whole = (folder / "ground_truth.mp4").read_bytes()
    with pytest.raises(TaskError, match="get the file again, or remove it"):
        _ = vbvr.load(spoil(folder, "ground_truth.mp4", whole[: len(whole) * 2 // 3])).ground_truth


def test_pictures_of_different_sizes_are_refused(folder: Path) -> None:
    Image.fromarray(picture(0, 48, 64)).save(folder / "final_frame.png")
    with pytest.raises(TaskError, match=r"final_frame.png is 64 x 48 .* belong to different samples"):
        vbvr.load(folder)
    (folder / "final_frame.png").unlink()
    Image.fromarray(picture(0, 48, 64)).save(folder / "first_frame.png")
    with pytest.raises(TaskError, match=r"ground_truth.mp4 is 64 x 32 .* belong to different samples"):
        vbvr.load(folder)


@pytest.mark.parametrize(
    ("more", "cure"),
    [
        ({"size": (30, 64)}, "multiples of 16"),
        ({"size": (0, 64)}, "multiples of 16"),
        ({"num_frames": 8}, "1 . a multiple of 4"),
        ({"split": "train"}, "choose from"),
        ({"task": "../../etc"}, "letters, digits"),
        ({"task": "a/b"}, "letters, digits"),
        ({"index": ".."}, "letters, digits"),
        ({"index": ""}, "give index="),
    ],
)
def test_what_cannot_be_generated_or_named_is_refused(folder: Path, more: dict[str, Any], cure: str) -> None:
    with pytest.raises(TaskError, match=cure):
        vbvr.load(folder, **more)


def test_a_folder_without_a_number_needs_one(tmp_path: Path) -> None:
    folder = make(tmp_path / "a_task" / "sample")
    with pytest.raises(TaskError, match="does not end in the sample's number: rename it, or give index="):
        vbvr.load(folder)
    assert vbvr.load(folder, index="00000").task == "a_task"


def test_no_folder_and_no_samples(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"vbvr.find"):
        vbvr.load(tmp_path / "nothing")
    with pytest.raises(TaskError, match="no sample"):
        vbvr.find(tmp_path)


@pytest.mark.parametrize(
    ("content", "cure"),
    [
        (b"[" * 100_000, "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "holds a list"),
        (b" " * 5_000_000, "not what its name"),
    ],
)
def test_broken_metadata_is_refused_when_it_is_asked_for(folder: Path, content: bytes, cure: str) -> None:
    sample = vbvr.load(spoil(folder, "metadata.json", content))
    assert sample.regions, "nothing else needs it"
    with pytest.raises(TaskError, match=cure):
        _ = sample.metadata


def test_metadata_is_data_only(folder: Path, tmp_path: Path) -> None:
    """Names in it move no file and change no size."""
    wild = {"task_id": "../../../evil", "split": "/etc", "height": 10**9, "prompt": "rm -rf", "__class__": {"x": 1}}
    sample = vbvr.load(spoil(folder, "metadata.json", json.dumps(wild).encode()))
    assert dict(sample.metadata) == wild
    assert sample.height == HEIGHT and sample.prompt.startswith("Slide")
    assert vbvr.destination(sample, tmp_path) == tmp_path / "In-Domain_50" / TASK / "00003.mp4"
    with pytest.raises(TypeError):
        sample.metadata["task_id"] = "y"  # type: ignore[index]


# -- writing


def test_videos_are_written_in_the_benchmarks_layout(folder: Path, tmp_path: Path) -> None:
    sample = vbvr.load(folder)
    for video in (film(), film() / 255):
        path = vbvr.write(video, sample, tmp_path / "out")
        assert path == tmp_path / "out" / "In-Domain_50" / TASK / "00003.mp4"
        clip = clips.open_clip(path)
        assert (clip.height, clip.width, clip.num_frames, clip.fps) == (HEIGHT, WIDTH, LENGTH, 16)
        assert np.abs(clip.frames().astype(int) - film()).mean() < 6
    assert [p.name for p in path.parent.iterdir()] == ["00003.mp4"], "no half-written file is left"


def test_a_sample_without_a_split_says_how_to_give_one(tmp_path: Path) -> None:
    sample = vbvr.load(make(tmp_path / TASK / "a_task" / "a_00000000"))
    with pytest.raises(TaskError, match="split='In-Domain_50'"):
        vbvr.write(film(), sample, tmp_path)


@pytest.mark.parametrize(
    ("video", "cure"),
    [
        (np.zeros((1, 2, 4, 16, 3)), "not a batch"),
        (np.full((2, 16, 16, 3), 1.5), "floats from 0 to 1"),
        (np.full((2, 16, 16, 3), np.nan), "floats from 0 to 1"),
        (np.zeros((2, 16, 16, 3), int), "floats from 0 to 1"),
        (np.zeros((2, 15, 16, 3)), "must be even"),
    ],
)
def test_what_is_no_video_is_not_written(folder: Path, tmp_path: Path, video: np.ndarray, cure: str) -> None:
    with pytest.raises(TaskError, match=cure):
        vbvr.write(video, vbvr.load(folder), tmp_path / "out")


# -- scoring, against a stand-in with EvalKit's interface


class StandIn:
    """Scores how far the last frame is from the first, and keeps what it was asked."""

    asked: list[tuple[dict[str, Any], dict[str, Any]]]

    def __init__(self, answer: Any = None) -> None:
        self.asked, self.answer, self.shown = [], answer, []

    def evaluate(self, about: dict[str, Any], **more: Any) -> dict[str, Any]:
        self.asked.append((about, more))
        if self.answer is not None:
            return self.answer
        frames = clips.open_clip(Path(about["video_path"])).frames().astype(float)
        self.shown.append(frames)
        return {"score": float(np.abs(frames[-1] - frames[0]).mean() / 255), "details": {"frames": len(frames)}}


@pytest.fixture
def evalkit(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    scorer = StandIn()
    module: Any = ModuleType("vbvr_bench.evaluators")
    module.TASK_EVALUATOR_MAP = {TASK: object}
    module.get_evaluator = lambda task, device: scorer
    monkeypatch.setitem(sys.modules, "vbvr_bench", ModuleType("vbvr_bench"))
    monkeypatch.setitem(sys.modules, "vbvr_bench.evaluators", module)
    return scorer


def test_a_score_stands_beside_the_still_first_frame(folder: Path, evalkit: StandIn) -> None:
    sample = vbvr.load(folder)
    graded = sample.score(film())
    moved = np.abs(picture(48).astype(float) - picture(0)).mean() / 255
    assert graded.value == pytest.approx(moved, abs=0.01)
    assert graded.static == pytest.approx(0, abs=0.002)
    assert graded.gain == graded.value - graded.static
    video, still = evalkit.shown  # what was scored: the video, and the sample's own first frame for as long
    for shown, meant in ((video, film()), (still, np.stack([picture(0)] * LENGTH))):
        assert np.abs(shown - meant).mean() < 3 < np.abs(picture(48).astype(float) - picture(0)).mean()
    assert graded.details["video"]["details"] == {"frames": LENGTH}
    for about, more in evalkit.asked:  # the leaderboard's mode
        assert more == {"task_specific_only": True} and about["no_ssim_fallback"] is True
        assert about["gt_final_frame"] == str(folder / "final_frame.png") and about["task_name"] == TASK
    still = sample.score(np.stack([picture(0)] * LENGTH))
    assert still.value == pytest.approx(still.static, abs=1e-6) and still.gain == pytest.approx(0, abs=1e-6)


def test_a_small_video_has_a_small_still_frame_beside_it(folder: Path, evalkit: StandIn) -> None:
    vbvr.load(folder).score(film()[:, ::2, ::2])
    assert len(evalkit.asked) == 2 and not any(Path(about["video_path"]).exists() for about, _ in evalkit.asked)


def test_a_scorer_that_fails_is_an_error_and_no_zero(folder: Path, evalkit: StandIn) -> None:
    evalkit.answer = {"score": 0.0, "error": "list index out of range"}
    with pytest.raises(TaskError, match=r"EvalKit failed on .* list index out of range"):
        vbvr.load(folder).score(film())


def test_scoring_needs_the_truth_and_a_known_task(folder: Path, evalkit: StandIn) -> None:
    with pytest.raises(TaskError, match="no scorer for 'O-47_sliding_puzzle': .*" + TASK):
        vbvr.load(folder, task="O-47_sliding_puzzle").score(film())
    (folder / "final_frame.png").unlink()
    with pytest.raises(TaskError, match=r"without \['final_frame.png'\]: EvalKit would answer 0"):
        vbvr.load(folder).score(film())


def test_without_evalkit_the_message_says_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vbvr_bench", None)
    with pytest.raises(TaskError, match="Video-Reason/VBVR-EvalKit and run pip install -e"):
        vbvr.load(folder).score(film())


# -- a checkpoint folder as on the hub, holding a tiny model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "VBVR-Wan2.2"
    FAMILIES["i2v22"].build().save_pretrained(folder)
    return folder


def test_the_papers_model_generates_a_sample(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    sample = vbvr.load(folder)
    how: dict[str, Any] = {"seed": 1, "preset": "paper", "num_inference_steps": 4, "max_sequence_length": 16}
    with load_lens(checkpoint) as lens:
        run = lens.generate(sample, **how)
        path = vbvr.write(run.video, sample, tmp_path / "out")
    assert run.plan.scheduler == "ExplicitGridEuler" and run.plan.guidance_scale == run.plan.guidance_scale_2 == 5.0
    assert [call.expert for call in run.plan.calls if call.branch == "cond"] == ["high", "high", "low", "low"]
    clip = clips.open_clip(path)
    assert path.name == "00003.mp4" and (clip.height, clip.width, clip.num_frames) == (HEIGHT, WIDTH, LENGTH)
    assert set(run.regions) == {"changed", "kept"} and run.regions["changed"].any()
    with load_lens(FAMILIES["i2v22"].build()) as lens:
        torch.testing.assert_close(lens.generate(sample, **how).final, run.final, atol=1e-4, rtol=1e-4)


def test_the_diffsynth_pair_on_the_base_folder(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    for name in PAIR:
        state = {}
        for layer in range(LAYERS):
            for half, shape in (("lora_A", (2, 24)), ("lora_B", (24, 2))):
                state[f"blocks.{layer}.self_attn.v.{half}.default.weight"] = torch.randn(*shape, generator=g)
        save_file(state, str(tmp_path / name))
    how: dict[str, Any] = {"seed": 1, "preset": "paper", "num_inference_steps": 3, "max_sequence_length": 16}
    finals = []
    for lora in (None, tmp_path):
        with load_lens(checkpoint, lora=lora) as lens:
            finals.append(lens.generate(vbvr.load(folder), **how).final)
    assert (finals[0] - finals[1]).abs().max() > 1e-3


@pytest.mark.skipif(not REAL.is_dir(), reason="the four real samples are not beside this checkout")
def test_real_samples_are_read() -> None:
    found = [vbvr.load(folder) for folder in vbvr.find(REAL)]
    assert {(s.height, s.width) for s in found} == {(1024, 1024)}
    assert sorted(s.num_frames for s in found) == [41, 49, 81, 85]
    assert all(s.prompt and s.metadata["parameters"] and s.task.endswith("_data-generator") for s in found)
    assert all(0 < s.regions["changed"].mean() < 0.5 for s in found)
