"""A sheet cut apart is the film; a strip shows each frame where it says; a clip plays and is reproducible."""

import io
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from dit_lens.errors import FigureError
from dit_lens.figures import film_strip, mp4, sprite_sheet
from dit_lens.figures.frames import as_frames, factor_for, shrink, spread


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_sheet_holds_exactly_the_frames(film):
    sheet = sprite_sheet(film)
    picture = pixels(sheet.png)
    for step, frame in np.ndindex(film.shape[:2]):
        left, top, right, bottom = sheet.box(step, frame)
        assert np.array_equal(picture[top:bottom, left:right], film[step, frame])
    assert sheet.uri.startswith("data:image/png;base64,")


def test_sheet_of_a_clip_is_one_row(film):
    sheet = sprite_sheet(film[0])
    assert (sheet.rows, sheet.columns) == (1, film.shape[1])
    assert np.array_equal(pixels(sheet.png), np.concatenate(list(film[0]), axis=1))


def test_sheet_refuses_a_cell_it_does_not_have(film):
    with pytest.raises(FigureError, match="there is no"):
        sprite_sheet(film).box(0, film.shape[1])


def test_strip_shows_each_frame_in_its_place(film):
    strip = film_strip(film, sigmas=np.linspace(1, 0, len(film)), steps=[0, 3, 5], frames=[1, -1], scale=3)
    picture = pixels(strip.png)
    assert sorted(strip.boxes) == [(s, f) for s in (0, 3, 5) for f in (1, 4)]
    for (step, frame), (left, top, right, bottom) in strip.boxes.items():
        shown = picture[top:bottom, left:right]
        assert np.array_equal(shown[::3, ::3], film[step, frame])
        assert np.array_equal(shown[1::3, 2::3], film[step, frame])
    lefts = [strip.boxes[s, 1][0] for s in (0, 3, 5)]
    assert lefts == sorted(lefts)
    assert strip.boxes[0, 1][1] < strip.boxes[0, 4][1]


def test_reprs_hold_no_bytes(film):
    assert repr(film_strip(film, steps=[0, 3, 5], frames=[1, -1])) == "FilmStrip(3 steps x 2 rows)"
    s, f, h, w, _ = film.shape
    assert repr(sprite_sheet(film)) == f"SpriteSheet({s} steps x {f} frames of {h} x {w})"


def test_strip_labels_leave_ink_above_the_frames(film):
    top = min(box[1] for box in film_strip(film, sigmas=[0.5] * len(film)).boxes.values())
    assert (pixels(film_strip(film, sigmas=[0.5] * len(film)).png)[:top] < 128).any()


def test_strip_headings_may_be_words_and_have_room(film):
    numbered, words = (film_strip(film, labels=labels) for labels in (range(6), [f"step {i}" for i in range(6)]))
    assert words.png == numbered.png
    narrow, wide = (film_strip(film, labels=[text, "a", "b", "c", "d", "e"]) for text in ("base", "base " * 9))
    lefts = [[strip.boxes[step, 4][0] for step in range(6)] for strip in (narrow, wide)]
    assert np.diff(lefts[1]).min() > 2 * np.diff(lefts[0]).min() and narrow.png != wide.png


def test_spread_keeps_both_ends():
    assert spread(50, 10)[0] == 0 and spread(50, 10)[-1] == 49 and len(spread(50, 10)) == 10
    assert spread(3, 10) == [0, 1, 2]


def test_shrink_averages_blocks():
    frames = np.zeros((1, 4, 5, 3), np.uint8)
    frames[0, :2, :2] = [[[0], [100]], [[100], [200]]]
    assert shrink(frames, 2).shape == (1, 2, 2, 3)
    assert shrink(frames, 2)[0, 0, 0].tolist() == [100, 100, 100]


def test_frames_are_reduced_by_the_smallest_whole_factor():
    sizes = [(192, 100), (193, 100), (100, 385), (1, 1)]
    assert [factor_for(np.zeros((2, *size, 3), np.uint8), 192) for size in sizes] == [1, 2, 3, 1]


def decoded(video: bytes, tmp_path) -> np.ndarray:
    path = tmp_path / "clip.mp4"
    path.write_bytes(video)
    reader = imageio_ffmpeg.read_frames(str(path), pix_fmt="rgb24")
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def test_clip_decodes_near_the_frames_and_is_reproducible(tmp_path):
    clip = np.zeros((4, 15, 15, 3), np.uint8)  # odd sides, enlarged by 3: 45, padded to 46
    for i in range(4):
        clip[i, :, 3 * i : 3 * i + 6] = (0, 100, 190)
    video = mp4(clip, min_side=45)
    assert video == mp4(clip, min_side=45)
    back = decoded(video, tmp_path)
    assert back.shape == (4, 46, 46, 3)
    assert np.abs(back[:, 1:45:3, 1:45:3].astype(int) - clip).mean() < 4


def test_clip_says_why_ffmpeg_failed(film, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, b"", b"no such codec"))
    with pytest.raises(FigureError, match="no such codec"):
        mp4(film[0])


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((5, 8, 8, 3), np.int32), "uint8"),
        (np.zeros((5, 8, 8)), "RGB"),
        (np.zeros((5, 8, 8, 4), np.uint8), "RGB"),
        (np.zeros((0, 8, 8, 3), np.uint8), "empty"),
        (np.full((1, 8, 8, 3), 1.5), r"\[0, 1\]"),
        (np.full((1, 8, 8, 3), np.nan), r"\[0, 1\]"),
    ],
)
def test_frames_of_another_kind_are_refused(frames, message):
    with pytest.raises(FigureError, match=message):
        as_frames(frames, 4, "clip")


def test_floats_are_rounded_to_bytes():
    assert as_frames(np.full((1, 1, 1, 3), 0.5), 4, "clip").ravel().tolist() == [128, 128, 128]


def test_sheets_beyond_what_browsers_draw_are_refused_with_numbers():
    with pytest.raises(FigureError, match="50 steps x 81 frames"):
        sprite_sheet(np.zeros((50, 81, 120, 208, 3), np.uint8))


@pytest.mark.parametrize("wrong", [{"steps": [9]}, {"frames": [5]}, {"sigmas": [1.0]}, {"scale": 0}, {"labels": [1]}])
def test_strip_refuses_what_the_film_does_not_have(film, wrong):
    with pytest.raises(FigureError):
        film_strip(film, **wrong)
