"""Directions are the planted ones, alike where the same one was planted, and unlike where nothing was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planting import planted

from dit_lens.cli.probe import _best, _report
from dit_lens.errors import FigureError, ProbeError
from dit_lens.figures import probe_figures as figures
from dit_lens.probing import directions, grid, probe, similarity


@pytest.fixture
def halves() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (40, 24))


def test_one_direction_everywhere_and_another_at_one_place(tmp_path: Path, halves: np.ndarray) -> None:
    u, v = np.eye(6)[:2] * 3

    def add(i: int, step: int, layer: int) -> np.ndarray:
        return halves[i][:, None] * (v if (step, layer) == (1, 1) else u)

    found = directions(planted(tmp_path, 40, steps=(0, 1, 2), add=add), halves)
    assert found.dims == ("part", "step", "layer", "channel")
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)
    assert (np.abs(found.sel(channel=0).values[:, [0, 1, 2], [0, 0, 1]]) > 0.95).all()
    steps = similarity(found, "step").sel(layer=1)
    assert steps.sel(step=0, other_step=2) > 0.9 and abs(steps.sel(step=1, other_step=0)) < 0.2
    assert (np.diag(steps) > 0.9).all()
    np.testing.assert_allclose(steps, steps.T)
    layers = similarity(found, "layer")
    assert layers.sel(step=0, layer=0, other_layer=1) > 0.9


def test_nothing_planted_gives_no_likeness_even_with_itself(tmp_path: Path, halves: np.ndarray) -> None:
    features = planted(tmp_path, 40, d=60)
    cosine = similarity(directions(features, halves), "layer")
    assert (np.abs(cosine) < 0.4).all()


def test_mistakes(tmp_path: Path, halves: np.ndarray) -> None:
    features = planted(tmp_path, 40)
    with pytest.raises(ProbeError, match="no single direction"):
        directions(features, np.arange(40) % 3)
    with pytest.raises(ProbeError, match="'step' or 'layer'"):
        similarity(directions(features, halves), "head")


def test_figures_say_what_they_show(tmp_path: Path, halves: np.ndarray) -> None:
    v = np.array([2.0, 0, 0, 0, 0, 0])
    features = planted(tmp_path, 40, add=lambda i, s, layer: halves[i][:, None] * v if s else 0)
    found = grid(features, {"planted": halves}, permutations=19)
    fig = figures.decodability(found, "planted")
    assert "control task" in fig.layout.annotations[1].text and len(fig.data) >= 3  # two panels and the dots
    dots = [trace for trace in fig.data if trace.type == "scatter"]
    assert len(dots) == 1 and len(dots[0].x) == 2 and set(dots[0].x) == {1}  # both layers of the planted step
    assert "selectivity" in figures.selectivity(found, "planted").layout.coloraxis.colorbar.title.text
    assert len(figures.by_layer(found, 1).data) >= 1
    two = grid(features, {"planted": halves, "odd": np.arange(40) % 2}, permutations=0)
    best = figures.best_places(two)
    point, null = best.data
    assert best.layout.yaxis.ticktext[0].startswith("planted: step 1, layer") and len(point.x) == len(null.x) == 2
    assert point.x[0] == float(found["score"].max()) and best.layout.shapes[0].x0 == 0.5
    rows = [_best(two.sel(label=name)) for name in two["label"].values]
    page = _report(two, rows, tmp_path / "probes.html").read_text(encoding="utf-8")
    assert page.count("<h3>Where each label is read best</h3>") == 1 and page.count("area under the ROC curve") > 2
    figures.similar(similarity(directions(features, halves), "step").sel(layer=0))
    fitted = probe(features, halves, "step=1 layer=0 hook=resid_post", permutations=0)
    table = figures.confusion(fitted)
    assert f"n = {sum(fitted.scores['confusion'][0])}" in table.data[0].hovertext[0][1]  # of the true class
    np.testing.assert_allclose(np.sum(table.data[0].z, axis=1), 1)  # rows are true classes
    with pytest.raises(FigureError, match="no label"):
        figures.decodability(found, "other")
    with pytest.raises(FigureError, match="choose one row"):
        figures.similar(similarity(directions(features, halves), "step"))
    bare = grid(planted(tmp_path, 20, units=1), {"y": np.arange(20) % 2}, permutations=0)
    with pytest.raises(FigureError, match="seeds=2"):
        figures.selectivity(bare, "y")
