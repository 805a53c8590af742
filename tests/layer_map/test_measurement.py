"""A map in a folder: killed at any moment it goes on, does nothing twice, and ends as if nobody had disturbed it."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch

import dit_lens as dl
from dit_lens.layer_map import measurement
from dit_lens.layer_map.layer_map import Map
from dit_lens.runner.cell_engine import Engine
from dit_lens.wan.lens import Lens

SAMPLING = {
    "num_inference_steps": 2,
    "guidance_scale": 5.0,
    "height": 32,
    "width": 64,
    "num_frames": 9,
    "max_sequence_length": 16,
}


@dataclass(frozen=True)
class Score:
    value: float
    solved: bool


@dataclass(frozen=True, eq=False)
class Puzzle:
    """The least that a map takes, and a scorer; the size comes from the sampling."""

    seed: int
    prompt: str = "a red agent goes to the green goal"
    name: str = "own"
    image: Any = field(default_factory=lambda: families.image(32, 64))
    regions: Any = field(default_factory=lambda: {"object": np.arange(24) % 4 < 2})

    def twin(self, kind: str) -> Puzzle:
        return Puzzle(self.seed, "a blue agent goes to the goal")

    def score(self, video: np.ndarray) -> Score:
        return Score(float(video.mean()), bool(video.mean() > 0.5))


TASKS = [Puzzle(i) for i in range(8)]
HOW: dict[str, Any] = {"tasks": TASKS[:2], "seed": 5, "steps": (0,), "scenes": 0, "controls": 1, "sampling": SAMPLING}


@pytest.fixture(scope="module")
def lens() -> Iterator[Lens]:
    """A tiny model with as many layers as can be cut in three."""
    with pytest.MonkeyPatch.context() as m:
        m.setattr(families, "LAYERS", 5)
        pipe = families.FAMILIES["i2v22"].build()
    with dl.load(pipe) as lens:
        yield lens


@pytest.fixture(scope="module")
def whole(lens: Lens, tmp_path_factory: pytest.TempPathFactory) -> tuple[Map, Path]:
    """A map that nobody disturbed, and its folder."""
    folder = tmp_path_factory.mktemp("map")
    return dl.map(lens, **HOW, folder=folder), folder


def keys(folder: Path) -> set[str]:
    """The items of a folder, without checksum and ending."""
    return {path.name.rsplit(".", 2)[0] for path in (folder / "items").glob("[!.]*")}


def same(a: Map, b: Map) -> None:
    """Every table, sentence, clip and run is the same, bit for bit."""
    assert a.tables().keys() == b.tables().keys() and a.summary() == b.summary()
    for name, table in a.tables().items():
        assert table.identical(b.tables()[name]), name
    assert a.clips.keys() == b.clips.keys()
    for place, clips in a.clips.items():
        assert list(clips) == list(b.clips[place]) == ["base", "source", "patched", "placebo"]
        assert all(np.array_equal(clip, b.clips[place][name]) for name, clip in clips.items())
    for one, other in zip(a.runs, b.runs, strict=True):
        assert torch.equal(one.latents, other.latents) and torch.equal(one.velocity, other.velocity)
        assert one.activations.keys() == other.activations.keys() and one.task is other.task
        assert all(torch.equal(kept, other.activations[at]) for at, kept in one.activations.items())
        assert np.array_equal(one.video, other.video) and bool(one.score) == bool(other.score)
    told = ("seconds", "parts kept before")  # of this call
    assert {k: v for k, v in a.about.items() if k not in told} == {k: v for k, v in b.about.items() if k not in told}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_killed_three_times(lens: Lens, whole: tuple[Map, Path], tmp_path: Path, monkeypatch: Any) -> None:
    """kill -9 within a puzzle, when one is measured and not yet kept, and when one of the control has just been kept:
    nothing is generated or patched twice."""
    folder, log = tmp_path / "map", tmp_path / "log"

    def note(home: Any, name: str) -> None:
        real = getattr(home, name)

        def noted(*args: Any, **given: Any) -> Any:
            with log.open("a") as out:
                out.write(f"{name}\n")
            return real(*args, **given)

        monkeypatch.setattr(home, name, noted)

    note(Lens, "generate")
    note(Engine, "run")
    note(measurement, "local_effects")

    def killed(target: str, after: bool, left: int = 1) -> None:
        pid = os.fork()
        if pid == 0:
            real, seen = os.replace, []

            def die(source: Any, place: Any) -> None:
                seen.extend([place] if Path(place).match(target) else [])
                if after or len(seen) < left:
                    real(source, place)
                if len(seen) == left:
                    os.kill(os.getpid(), signal.SIGKILL)

            os.replace = die  # type: ignore[assignment]
            dl.map(lens, **HOW, folder=folder)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

    killed("map/parts/puzzle-0/parts/held/items/*.json", after=True, left=3)
    killed("map/items/puzzle-1.*.nc", after=False)
    killed("map/items/control-0-0.*.nc", after=True)
    told: list[tuple[int, int, str]] = []
    found = dl.map(lens, **HOW, folder=folder, progress=lambda *row: told.append(row))
    same(found, whole[0])
    noted = Counter(log.read_text().split())
    # Three runs of two puzzles in the model and in the control; four groups of layers held, and four clips made; local
    # effects share batches.
    assert noted == {"generate": 2 * 2 * 3, "local_effects": 2, "run": 2 * 2 * 4 + 2 * 4}
    assert told == [(23, 26, "control 0, own 6"), (26, 26, "writing")] and found.about["parts kept before"] == 3
    left = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert left == {"manifest.json", "items"}, "what was kept on the way is gone"
    assert keys(folder) == keys(whole[1]) and len(keys(folder)) == len(list((folder / "items").glob("[!.]*")))


def test_a_finished_map_is_read_and_not_made(lens: Lens, whole: tuple[Map, Path], monkeypatch: Any) -> None:
    monkeypatch.setattr(Lens, "generate", lambda *args, **kwargs: pytest.fail("generated again"))
    monkeypatch.setattr(Lens, "fork", lambda *args, **kwargs: pytest.fail("forked again"))
    same(dl.map(lens, **HOW, folder=whole[1]), whole[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 6}, r"seed: 5 -> 6"),
        ({"tasks": TASKS[:3]}, r"n: 2 -> 3"),
        ({"tasks": [TASKS[0], TASKS[1].twin("")]}, r"task.1.base.prompt: .*red.* -> .*blue"),
        (
            {"tasks": ["choose"], "sampling": {"num_inference_steps": 2}},
            r"tasks: \['own'\] -> \['choose'\][\s\S]*and \d+ more",
        ),
        ({"steps": (1,)}, r"steps: \[0\] -> \[1\]"),
        ({"controls": 2}, r"controls: 1 -> 2"),
        ({"tasks": TASKS, "scenes": 8}, r"scenes: 0 -> 8"),
        ({"sampling": {**SAMPLING, "num_inference_steps": 3}}, r"sampling.num_inference_steps: 2 -> 3"),
        ({"sampling": {**SAMPLING, "negative_prompt": "blue"}}, r"sampling.negative_prompt: absent -> 'blue'"),
        ({"sampling": {**SAMPLING, "preset": "paper"}}, r"plan.scheduler"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_parameters_are_refused_with_the_difference(
    changes: dict[str, Any], said: str, lens: Lens, whole: tuple[Map, Path]
) -> None:
    with pytest.raises(dl.StoreError, match=said) as error:
        dl.map(lens, **{**HOW, **changes}, folder=whole[1])
    assert "begun under other parameters" in str(error.value) and "another folder" in str(error.value)


def test_other_weights_and_versions_are_refused(lens: Lens, whole: tuple[Map, Path], monkeypatch: Any) -> None:
    weight = lens.pipe.transformer.blocks[1].ffn.net[2].bias
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1)
    try:
        with pytest.raises(dl.StoreError, match="model: "):
            dl.map(lens, **HOW, folder=whole[1])
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    monkeypatch.setattr(Lens, "about", {**lens.about, "diffusers": "0.0"})
    with pytest.raises(dl.StoreError, match=r"versions.diffusers: .* -> '0.0'"):
        dl.map(lens, **HOW, folder=whole[1])


@pytest.mark.parametrize("name", ["control-0-1.*.nc", "puzzle-0.source.*.safetensors"])
def test_a_damaged_part_is_set_aside_and_made_again(
    name: str, lens: Lens, whole: tuple[Map, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "map"
    shutil.copytree(whole[1], folder)
    (part,) = (folder / "items").glob(name)
    part.write_bytes(part.read_bytes()[:2000])
    if "source" in name:  # needed again for the clips
        next((folder / "items").glob("clips.*")).unlink()
    found = dl.map(lens, **HOW, folder=folder)
    same(found, whole[0])
    (aside,) = (folder / "items").glob("*.damaged-*")
    assert aside.name.startswith(part.name) and aside.stat().st_size == 2000


def test_a_folder_of_something_else(lens: Lens, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(dl.StoreError, match="something else than a map: choose an empty folder"):
        dl.map(lens, **HOW, folder=tmp_path)
    with pytest.raises(dl.StoreError, match="choose a folder that can be written"):
        dl.map(lens, **HOW, folder=tmp_path / "letter.txt")


def test_ctrl_c_says_how_to_go_on(lens: Lens, tmp_path: Path) -> None:
    def stop(*row: Any) -> None:
        raise KeyboardInterrupt

    told = r"stopped with 0 of 5 parts done; run the same map with folder='.*map'"
    with pytest.raises(KeyboardInterrupt, match=told):
        dl.map(lens, **HOW, folder=tmp_path / "map", progress=stop)
    with pytest.raises(KeyboardInterrupt, match="nothing was kept: give folder="):
        dl.map(lens, **HOW, progress=stop)


def test_sampling_reaches_every_generation(lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of probes; and as if the lens had it as its defaults."""
    monkeypatch.setattr("dit_lens.layer_map.measurement.FEWEST", 2)  # the two puzzles are probed, too
    seen, real = [], Lens.generate

    def generate(self: Lens, *args: Any, **given: Any) -> Any:
        seen.append(given["sampling"].given())
        return real(self, *args, **given)

    with monkeypatch.context() as m:
        m.setattr(Lens, "generate", generate)
        found = dl.map(lens, **{**HOW, "scenes": 2})
    assert seen == [SAMPLING] * (2 * 3 + 2 * 3 + 2 + 2)
    monkeypatch.setattr(lens, "defaults", replace(lens.defaults, **SAMPLING))
    same(found, dl.map(lens, **{**HOW, "scenes": 2, "sampling": None}))


def test_ensembles_may_be_asked_for_later(lens: Lens, whole: tuple[Map, Path], tmp_path: Path) -> None:
    folder = tmp_path / "map"
    shutil.copytree(whole[1], folder)
    found, again = (dl.map(lens, **HOW, folder=folder, ensembles=True) for _ in range(2))
    assert "ensembles" in found.tables() and "ensembles" in keys(folder)
    same(found, again)


@pytest.mark.parametrize("name", ["seed", "record", "regions", "colour"])
def test_sampling_takes_what_a_map_does_not_set(name: str, lens: Lens) -> None:
    with pytest.raises(dl.SamplerError, match=rf"unknown argument '{name}'.*guidance_scale"):
        dl.map(lens, **{**HOW, "sampling": {name: 1}})
