"""A film as files: a clip for every step, a labelled picture, the schedule."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from dit_lens.errors import FigureError
from dit_lens.figures.film_folder import SIDE, film_folder
from dit_lens.figures.frames import film_strip, mp4

SIGMAS = [0.99, 0.9, 0.8, 0.6, 0.4, 0.2]


def test_every_step_has_its_clip_and_its_noise_level(film, tmp_path):
    folder = film_folder(tmp_path / "films" / "one", film, sigmas=SIGMAS, fps=4)
    assert sorted(p.name for p in folder.iterdir()) == [
        "film.png", "schedule.json", *(f"step_00{i}.mp4" for i in range(6)),
    ]  # fmt: skip
    for i in range(6):
        assert (folder / f"step_00{i}.mp4").read_bytes() == mp4(film[i], fps=4)
    assert json.loads((folder / "schedule.json").read_text())[3] == {"step": 3, "sigma": 0.6}


def test_the_picture_is_the_strip_of_the_film(film, tmp_path):
    film_folder(tmp_path, film, sigmas=SIGMAS, frames=[1, -1])
    strip = film_strip(film, sigmas=SIGMAS, frames=[1, 4])
    shown, wanted = (np.asarray(Image.open(f)) for f in (tmp_path / "film.png", io.BytesIO(strip.png)))
    assert np.array_equal(shown, wanted)


def test_steps_keep_their_numbers_and_the_picture_its_limit(film, tmp_path):
    film_folder(tmp_path, film, steps=[0, 2, 4, 9, 14, 19], most=2, frames=[2])
    assert (tmp_path / "step_019.mp4").exists()
    assert [row["step"] for row in json.loads((tmp_path / "schedule.json").read_text())] == [0, 2, 4, 9, 14, 19]
    wanted = film_strip(film[[0, 5]], labels=[0, 19], frames=[2])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "film.png")), np.asarray(Image.open(io.BytesIO(wanted.png))))


def test_a_generator_and_large_frames_will_do(tmp_path):
    clips = (np.full((5, 64, 2 * SIDE, 3), 40 * i, np.uint8) for i in range(3))
    film_folder(tmp_path, clips)
    assert (tmp_path / "step_002.mp4").exists()
    assert Image.open(tmp_path / "film.png").width < 3 * (SIDE + 10) + 100


def test_mistakes_are_told_with_a_cure(film, tmp_path):
    with pytest.raises(FigureError, match=r"run.film\(\)"):
        film_folder(tmp_path, [])
    with pytest.raises(FigureError, match="of one shape"):
        film_folder(tmp_path, [film[0], film[1][:3]])
    with pytest.raises(FigureError, match="more than 2"):
        film_folder(tmp_path, film, steps=[0, 1])
    with pytest.raises(FigureError, match="5 sigmas"):
        film_folder(tmp_path, film, sigmas=SIGMAS[:5])
    with pytest.raises(FigureError, match="outside"):
        film_folder(tmp_path, film, frames=[9])
