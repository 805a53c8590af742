"""The page of a run, and of what a command wrote into a folder."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import dit_lens as dl
from dit_lens.errors import FigureError, RecordError, StoreError
from dit_lens.figures.folder_report import labelled, runs_in, write_folder
from dit_lens.figures.frames import spread
from dit_lens.figures.run_page import film_of, strip_of, write_run

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def run():
    with dl.load("lab") as lens:
        yield lens.generate(dl.tasks.load("choose", seed=1), num_inference_steps=3)


def test_the_film_is_x0_hat_of_the_steps_it_says(run) -> None:
    film, steps = film_of(run, most=2)
    assert steps == [0, 2] and film.dtype == np.uint8
    assert np.array_equal(film, (run.film([0, 2]) * 255).round().astype(np.uint8))
    assert sorted({step for step, _ in strip_of(run).boxes}) == [0, 1, 2]


def test_films_of_large_videos_show_fewer_steps(run, monkeypatch) -> None:
    """81 frames of 480 x 832 are shown at a fifth: 1.3 million pixels a step, so four steps of fifty."""
    monkeypatch.setattr(type(run), "n_steps", 50)
    monkeypatch.setattr(type(run), "x0_hat", lambda self, step: step)
    monkeypatch.setattr(type(run), "decode", lambda self, step: np.zeros((1, 2, 2, 3)))
    small = film_of(run)[1]
    large = film_of(replace(run, size=type(run.size)(480, 832, 81)))[1]
    assert small == spread(50, 10) and large == spread(50, 4)


def test_a_run_becomes_a_page(run, tmp_path) -> None:
    page = write_run(replace(run, prompt=EVIL, _cache={}), tmp_path / "run.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in page and EVIL not in page
    assert run.meta["fingerprint"] in page and "UniPCMultistepScheduler" in page
    assert ("Solved (score" if run.score else "Failed (score") in page
    stopped = write_run(run.until(2), tmp_path / "stopped.html").read_text(encoding="utf-8")
    assert "Stopped after 2 of 3 steps" in stopped and "solved" not in stopped.lower().split("<script")[0]
    with pytest.raises(RecordError, match="attach"):
        write_run(replace(run, _decode=None, _cache={}), tmp_path / "none.html")
    with pytest.raises(dl.DitLensError, match="did no step"):
        write_run(run.until(0), tmp_path / "none.html")


def test_a_folder_of_tables_and_runs_becomes_a_page(run, effects, tmp_path) -> None:
    effects.to_dataframe().reset_index().to_csv(tmp_path / "effects.csv", index=False)
    pd.DataFrame({"layers": ["0-2", EVIL], "value": [0.5, 0.25]}).to_csv(tmp_path / "held.csv", index=False)
    layers = pd.DataFrame({"layer": [0, 1], "expert": ["high"] * 2, "effect": [1.0, 2.0], "effect_low": [0.0, 1.0]})
    layers["effect_high"] = [2.0, 3.0]
    layers.to_csv(tmp_path / "layers.csv", index=False)
    for i in range(3):
        run.save(tmp_path / "runs" / f"{i:02d}-choose")
    asked = []

    def load(place):
        asked.append(place.name)
        return run

    path = write_folder(tmp_path, tmp_path / "page.html", load=load, films=2)
    page = path.read_text(encoding="utf-8")
    assert asked == ["00-choose", "02-choose"] and len(runs_in(tmp_path)) == 3
    # The fixture's effect is (step - layer) / 10 with a placebo of .01 and n = 32.
    assert "effects: largest at step 5, layer 0: 0.5 [0.45, 0.55], placebo 0.01, n = 32; of 24 cells" in page
    assert "[1.000, 3.000]" in page or "[1.00, 3.00]" in page  # the layer map draws its interval
    assert "0-2" in page and EVIL not in page and "&lt;script&gt;" in page


def test_a_table_keeps_its_order_and_says_when_it_is_no_array(effects) -> None:
    frame = effects.to_dataframe().reset_index()
    frame["step"] = frame["step"].map(lambda s: f"{s}-{s + 10}" if s % 2 else str(s))  # groups, as sweeps name them
    found = labelled(frame)
    assert found["step"].values.tolist() == ["0", "1-11", "2", "3-13", "4", "5-15"]
    xr.testing.assert_allclose(
        found["value"].drop_vars("step"), effects["value"].drop_vars(["step", "sigma", "expert"])
    )
    assert labelled(pd.concat([frame, frame])) is None and labelled(frame[["value"]]) is None


def test_a_folder_of_something_else_is_refused(tmp_path) -> None:
    with pytest.raises(StoreError, match="no saved run and no table"):
        write_folder(tmp_path, tmp_path / "page.html", load=lambda place: None)


@pytest.mark.parametrize(
    "content",
    [b"caf\xe9,b\n1,2\n", b"", b'a,b\n1,2\n3,4,5\n"', b"\xff\xfe\x00x"],
    ids=["latin", "empty", "ragged", "bom"],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, content) -> None:
    (tmp_path / "effects.csv").write_bytes(content)
    with pytest.raises(FigureError, match=r"effects.csv cannot be read as a table .*: save it as CSV in UTF-8"):
        write_folder(tmp_path, tmp_path / "page.html", load=lambda place: None)
    assert [file.name for file in tmp_path.iterdir()] == ["effects.csv"]
