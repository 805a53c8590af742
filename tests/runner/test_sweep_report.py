"""The report of a sweep: the cells it opens are the runs that were measured."""

import numpy as np
import pytest

import dit_lens as dl
from dit_lens.figures.sweep_report import write_sweep


@pytest.fixture(scope="module")
def swept():
    with dl.load("lab") as lens:
        task = dl.tasks.load("choose", seed=3)
        sweep = dl.Sweep(
            lens,
            task,
            "other_answer",
            steps=[0, range(0, 3)],
            layers=[4, 11],
            horizon="final",
            sampling={"num_inference_steps": 3},
        )
        yield sweep, sweep.run(progress=lambda done, total, what: None)


def test_the_page_holds_the_heatmap_and_the_clips_of_its_largest_cells(swept, tmp_path) -> None:
    sweep, effects = swept
    page = write_sweep(sweep, effects, tmp_path / "report.html", cells=2).read_text(encoding="utf-8")
    assert "Effect by step and layer" in page and "other_answer" in page
    best = effects["value"].stack(at=("step", "layer"))
    step, layer = best["at"].values[int(np.argmax(np.abs(best.values)))]
    assert f"step {step}, layer {layer}" in page
    for pane in ("base", "source", "patched", "placebo"):
        assert f'"name": "{pane}"' in page or f'"name":"{pane}"' in page


def test_more_axes_are_refused(swept, tmp_path) -> None:
    sweep, effects = swept
    with pytest.raises(dl.DitLensError, match="select from the others first"):
        write_sweep(sweep, effects.expand_dims(hook=["update", "z"]), tmp_path / "report.html")
