"""Heatmaps, lines and tables say what was measured: value, interval, n, placebo, units."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import dit_lens as dl
from dit_lens.errors import FigureError
from dit_lens.figures import forest, heatmap, layer_table, lines, template, theme
from dit_lens.figures.labelled_arrays import folded, number
from dit_lens.figures.tables import plain_table
from dit_lens.stats.smallest_p import of_tasks


def test_heatmap_hover_says_where_value_interval_placebo_and_n(effects):
    trace = heatmap(effects).data[0]
    text = trace.hovertext[1][3]  # row: layer 1, column: step 3
    assert "denoising step 3" in text and "layer 1" in text and "sigma 0.520" in text
    assert "<b>0.200</b> [0.150, 0.250]" in text
    assert "placebo: 0.010" in text
    assert "n = 32" in text


@pytest.mark.parametrize("order", [("step", "layer"), ("layer", "step")])
def test_heatmap_puts_steps_right_and_layers_up_whatever_the_order(effects, order):
    fig = heatmap(effects.transpose(*order))
    z = np.asarray(fig.data[0].z, dtype=float)
    assert np.allclose(z, effects["value"].transpose("layer", "step").values)
    assert list(fig.data[0].x) == list(range(6)) and list(fig.data[0].y) == list(range(4))
    assert fig.layout.xaxis.title.text == "denoising step" and fig.layout.yaxis.title.text == "layer"
    assert fig.layout.coloraxis.colorbar.title.text == "local effect [share]"
    assert fig.layout.meta["key"] == list(order)


def test_heatmap_scale_is_symmetric_around_zero_and_shared_with_the_placebo(effects):
    fig = heatmap(effects)
    assert fig.layout.coloraxis.cmax == -fig.layout.coloraxis.cmin == pytest.approx(0.5)
    assert [trace.coloraxis for trace in fig.data] == ["coloraxis", "coloraxis"]
    assert [note.text for note in fig.layout.annotations] == ["effect", "placebo"]


def test_heatmap_of_one_sign_uses_its_own_range(effects):
    axis = heatmap(abs(effects["value"]) + 1).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (1.0, 1.5)
    assert axis.autocolorscale and template("dark").layout.colorscale.diverging[4][1] != "#eeece7"


def test_heatmap_leaves_unmeasured_cells_blank_and_says_so(effects):
    effects["value"][2, 1] = np.nan
    fig = heatmap(effects)
    assert np.isnan(np.asarray(fig.data[0].z, dtype=float)[1, 2])
    assert "not measured" in fig.data[0].hovertext[1][2]
    assert "Blank cells were not measured." in fig.layout.meta["notes"]


def with_p(effects: xr.Dataset) -> xr.Dataset:
    """One cell of the fixture stands out after correction, another only by itself."""
    alone, corrected = (xr.full_like(effects["value"], 0.5) for _ in range(2))
    alone[2, 1], alone[3, 1], corrected[2, 1], corrected[3, 1] = 0.001, 0.01, 0.02, 0.2
    return effects.assign(p=alone, p_corrected=corrected)


def test_heatmap_marks_the_cells_that_stand_out_after_correction(effects):
    fig = heatmap(with_p(effects).transpose("step", "layer"))
    dots = [trace for trace in fig.data if trace.type == "scatter"]
    assert len(dots) == 1 and (list(dots[0].x), list(dots[0].y)) == ([2], [1])
    notes = " ".join(fig.layout.meta["notes"])
    assert "Dots: differs from the placebo, p ≤ .05 corrected over all cells." in notes
    assert "1 of 24 cells differs from the placebo (p ≤ .05, corrected over all)." in notes
    assert "corrected p = 0.020 (alone 0.001" in fig.data[0].hovertext[1][2]
    nothing = heatmap(with_p(effects).assign(p_corrected=xr.full_like(effects["value"], 1.0)))
    assert "0 of 24 cells differ from the placebo" in " ".join(nothing.layout.meta["notes"])
    assert not any(trace.x for trace in nothing.data if trace.type == "scatter")
    assert not any(trace.type == "scatter" for trace in heatmap(effects).data), "nothing was tested"


def test_figures_say_why_nothing_can_stand_out(effects):
    """With five tasks no p of sign flips lies below .0625, however clear the effects are."""
    few = with_p(effects).assign_attrs(no_mark=str(of_tasks(5))).assign(p_corrected=effects["value"] * 0 + 0.0625)
    part = few.sel(layer=1).drop_vars("sigma").assign_coords(step=[f"arm {i}" for i in range(6)])
    for fig in (heatmap(few.transpose("step", "layer")), lines(few, x="step", by="layer"), forest(part, rows="step")):
        notes = " ".join(fig.layout.meta["notes"])
        assert "With 5 tasks no p lies below 0.0625, so that nothing can stand out" in notes
    assert "With 5 tasks" not in " ".join(heatmap(with_p(effects)).layout.meta["notes"])


def test_points_that_do_not_stand_out_are_hollow(effects):
    fig = lines(with_p(effects), x="step", by="layer")
    curves = {trace.name: trace.marker.symbol for trace in fig.data if "markers" in (trace.mode or "")}
    hollow = {name: [symbol.endswith("-open") for symbol in symbols] for name, symbols in curves.items()}
    assert [i for i, open in enumerate(hollow["layer 1"]) if not open] == [2]
    assert all(all(row) for name, row in hollow.items() if name != "layer 1")
    assert "The others are hollow." in " ".join(fig.layout.meta["notes"])
    plain = lines(effects, x="step", by="layer")
    assert all(isinstance(t.marker.symbol, str) for t in plain.data if "markers" in (t.mode or ""))


def test_rows_that_stand_out_have_a_star(effects):
    part = with_p(effects).sel(layer=1).drop_vars("sigma").assign_coords(step=[f"arm {i}" for i in range(6)])
    fig = forest(part, rows="step")
    assert [list(trace.text) for trace in fig.data if trace.text is not None] == [["", "", "*", "", "", ""]]
    assert "Star: 1 of 6 points differs from the placebo" in " ".join(fig.layout.meta["notes"])


def test_without_an_interval_the_note_says_why(effects):
    bare = effects.assign(low=effects["low"] * np.nan, high=effects["high"] * np.nan)
    assert "fewer than five tasks" in " ".join(lines(bare, x="step", by="layer").layout.meta["notes"])
    assert "no interval" in heatmap(bare).data[0].hovertext[1][3]


def test_heatmap_marks_the_cells_it_is_given(effects):
    fig = heatmap(effects, mark=effects["value"] > 0.35, mark_label="p < .05")
    dots = fig.data[-1]
    assert set(zip(dots.x, dots.y, strict=True)) == {(4, 0), (5, 0), (5, 1)}
    assert any("p < .05" in note for note in fig.layout.meta["notes"])


def test_heatmap_draws_where_the_expert_changes(effects):
    assert {shape.x0 for shape in heatmap(effects).layout.shapes} == {1.5}


def test_alt_text_names_the_largest_cell(effects):
    assert "0.500 at step 5, layer 0" in heatmap(effects).layout.meta["alt"]


def test_labels_from_outside_are_not_markup(effects):
    effects["value"].attrs["long_name"] = "<a href='http://x'>effect</a>"
    fig = heatmap(effects, title="<b>t</b>")
    assert "<a" not in fig.to_json() and "<b>t" not in fig.to_json()


def test_lines_draw_a_band_per_curve_and_say_n(effects):
    fig = lines(effects.drop_vars("null"), x="step", by="layer")
    bands = [t for t in fig.data if t.fill == "toself"]
    curves = [t for t in fig.data if t.fill is None]
    assert len(bands) == len(curves) == 4
    assert np.allclose(curves[2].y, effects["value"].sel(layer=2))
    assert np.allclose(bands[2].y[:6], effects["high"].sel(layer=2))
    assert np.allclose(bands[2].y[6:][::-1], effects["low"].sel(layer=2))
    assert "[−0.250, −0.150]" in curves[2].hovertext[0] and "n = 32" in curves[2].hovertext[0]


def test_lines_do_not_fill_bands_across_gaps(effects):
    one = effects.sel(layer=0)
    one["low"][3] = np.nan
    bands = [t for t in lines(one, x="step").data if t.fill == "toself"]
    assert [len(band.x) for band in bands] == [6, 4]


def test_lines_take_interval_and_placebo_apart(effects):
    value = effects["value"]
    fig = lines(value, x="step", by="layer", low=value - 1, high=value + 1, null=effects["null"].mean("layer"))
    assert [t.name for t in fig.data].count("placebo") == 1
    with pytest.raises(FigureError, match="both ends"):
        lines(value, x="step", by="layer", low=value)


def test_many_ordered_curves_have_distinct_colours():
    many = xr.DataArray(np.ones((3, 40)), dims=("step", "layer"))
    colors = {t.line.color for t in lines(many, x="step", by="layer").data}
    assert len(colors) == 40


@pytest.fixture
def arms() -> xr.Dataset:
    """(arm, when) in [0, 1]: each value differs, each interval is lopsided, the placebo is one number per arm."""
    coords = {"arm": ["pushed", "steered", "<b>left</b>"], "when": ["once", "held"]}
    data = xr.Dataset({"value": (("when", "arm"), np.arange(6).reshape(2, 3) / 10)}, coords=coords)
    data["value"].attrs = {"long_name": "answers changed", "units": "share"}
    data["low"], data["high"] = data["value"] - 0.2, data["value"] + 0.1
    data["n"] = ("arm", [8, 8, 7])
    data["null"] = ("arm", [0.5, 0.6, 0.7])
    return data


def test_forest_draws_each_point_with_its_interval_and_its_placebo_below(arms):
    fig = forest(arms, rows="arm", by="when", chance=0.5)
    once, null, held, _ = fig.data
    assert (once.name, held.name, null.name) == ("once", "held", "placebo")
    assert np.allclose(once.x, [0, 0.1, 0.2]) and np.allclose(held.x, [0.3, 0.4, 0.5])
    assert np.allclose(held.error_x.array, 0.1) and np.allclose(held.error_x.arrayminus, 0.2)
    assert np.allclose(null.x, [0.5, 0.6, 0.7]) and null.marker.symbol.endswith("-open") and null.error_x.array is None
    order = np.array([once.y, null.y, held.y, fig.data[3].y])
    assert (np.diff(order, axis=0) > 0).all() and (np.abs(order - np.arange(3)) < 0.5).all()  # in their own row
    assert fig.layout.yaxis.range == (2.5, -0.5)  # the first row on top
    assert list(fig.layout.yaxis.ticktext) == ["pushed", "steered", "&lt;b&gt;left&lt;/b&gt;"]
    assert [shape.x0 for shape in fig.layout.shapes] == [0.5]
    assert "<b>0.300</b> [0.100, 0.400]<br>placebo: 0.500<br>n = 8" in held.hovertext[0]
    assert fig.layout.meta["notes"] == [
        "Bars are intervals.", "n = 7 to 8 per point.", "Hollow: placebo.", "Dashed: chance, 0.500."
    ]  # fmt: skip


def test_forest_of_one_dim_needs_no_names_and_draws_the_interval_of_the_placebo(arms):
    one = arms.sel(when="once", drop=True).assign(null_low=arms["null"] - 0.3, null_high=arms["null"] + 0.05)
    point, null = forest(one.assign_attrs(null_name="random <i>arm</i>")).data
    assert np.allclose(null.error_x.arrayminus, 0.3) and np.allclose(null.error_x.array, 0.05)
    assert "<i>" not in null.name and "<i>" not in null.hovertext[0] and not point.showlegend
    assert len(forest(one["value"], null=one["null"]).data) == 2 and len(forest(one["value"]).data) == 1


def test_forest_leaves_out_what_was_not_measured(arms):
    arms["value"][0, 1] = np.nan
    fig = forest(arms, rows="arm", by="when")
    assert "not measured" in fig.data[0].hovertext[1] and np.isnan(fig.data[0].x[1])
    assert "0.200 to" not in fig.layout.meta["alt"] and "range 0.000 to 0.500" in fig.layout.meta["alt"]


def test_forest_refuses_other_dims_and_other_cells(arms):
    with pytest.raises(FigureError, match="rows= and by="):
        forest(arms)
    with pytest.raises(FigureError, match="'arm' labels"):
        forest(arms, rows="arm", by="when", null=arms["null"].assign_coords(arm=["a", "b", "c"]))


def test_curves_over_words_are_refused_and_the_remedy_draws_them(arms):
    with pytest.raises(FigureError, match=r"forest\(array, rows='arm', by='when'\)"):
        lines(arms, x="arm", by="when")
    with pytest.raises(FigureError, match=r"forest\(array, rows='arm'\)\."):
        lines(arms["value"].sel(when="once"), x="arm")
    assert forest(arms["value"].sel(when="once"), rows="arm").data


def test_every_figure_brings_its_numbers_as_a_table(arms, effects):
    head, rows = heatmap(effects).layout.meta["table"].values()
    assert head == ["layer ↓ step →", "0", "1", "2", "3", "4", "5"]
    assert [row[0] for row in rows] == [["3"], ["2"], ["1"], ["0"]]  # as drawn
    assert rows[2][1 + 3] == ["0.200", "[0.150, 0.250]", "placebo 0.010"]
    head, rows = lines(effects, x="step", by="layer").layout.meta["table"].values()
    assert head[0] == "step ↓ layer →" and rows[3][1 + 1] == ["0.200", "[0.150, 0.250]", "placebo 0.010"]
    head, rows = forest(arms.sel(when="held", drop=True)).layout.meta["table"].values()
    assert head == ["arm", "answers changed [share]"]
    assert rows[2] == [["<b>left</b>"], ["0.500", "[0.300, 0.600]", "placebo 0.700", "n = 7"]]
    report = dl.figures.Report("t").figure(forest(arms, rows="arm", by="when"))
    page = report.html()
    assert "<small>[0.300, 0.600]</small><small>placebo 0.700</small><small>n = 7</small>" in page
    assert '<th scope="row">&lt;b&gt;left&lt;/b&gt;</th>' in page
    assert "table" not in report._sections[0]["items"][0]["spec"]["layout"]["meta"]  # not twice in the page


def test_a_placebo_that_all_columns_share_is_drawn_in_each(effects):
    shared = effects.assign(null=effects["null"].isel(step=0, drop=True))
    assert np.asarray(heatmap(shared).data[1].z).shape == (4, 6)


@pytest.mark.parametrize("draw", [heatmap, lambda data: lines(data, x="step", by="layer")])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (xr.DataArray(np.zeros((2, 3, 4)), dims=("step", "layer", "region")), "dims"),
        (xr.DataArray(np.zeros(3), dims="step"), "dims"),
        (xr.DataArray(np.full((2, 3), np.nan), dims=("step", "layer")), "no finite value"),
        (xr.DataArray([[0.0, np.inf]], dims=("step", "layer")), "infinite"),
        (xr.DataArray([["a", "b"]], dims=("step", "layer")), "not numbers"),
        (np.zeros((2, 3)), "xarray"),
        (xr.Dataset({"a": ("step", [1.0]), "b": ("step", [1.0])}), "value=NAME"),
        (xr.Dataset({"a": ("step", [1.0]), "low": ("step", [1.0])}), "both ends"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, data, message):
    with pytest.raises(FigureError, match=message):
        draw(data)


def test_a_placebo_of_other_cells_is_refused(effects):
    with pytest.raises(FigureError, match="'step' labels"):
        heatmap(effects["value"], null=effects["null"].assign_coords(step=range(1, 7)))
    with pytest.raises(FigureError, match="boolean"):
        heatmap(effects, mark=effects["value"])


def layer_map() -> xr.Dataset:
    data = xr.Dataset(coords={"layer": [0, 1], "depth": ("layer", [0.0, 0.5])})
    data["patch"] = ("layer", [0.1, -0.4], {"long_name": "patch effect", "units": "share", "n": 8})
    data["patch_low"], data["patch_high"] = data["patch"] - 0.1, data["patch"] + 0.1
    data["patch_null"] = ("layer", [0.0, 0.02])
    data["verdict"] = ("layer", ["<script>alert(1)</script>", "writes"])
    return data


def test_layer_table_has_one_row_per_layer_with_evidence_and_verdict():
    html = layer_table(layer_map())
    assert html.count("<tr>") == 3
    assert "<b>−0.400</b>" in html and "[−0.500, −0.300]" in html and "placebo 0.020 · n = 8" in html
    assert "patch effect" in html and "share" in html
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "patch low" not in html


def test_layer_table_over_experts_has_a_row_for_each():
    both = xr.concat([layer_map(), layer_map()], pd.Index(["high", "low"], name="expert"))
    html = layer_table(both)
    assert html.count("<tr>") == 5 and ">high<" in html and ">low<" in html


def test_layer_table_refuses_other_dims_and_half_intervals(effects):
    with pytest.raises(FigureError, match="dims"):
        layer_table(effects)
    with pytest.raises(FigureError, match="one end"):
        layer_table(layer_map().drop_vars("patch_low"))


def test_plain_table_escapes_and_flattens(effects):
    frame = pd.DataFrame({"<i>": ["<b>x</b>", "y"], "v": [0.25, np.nan]})
    assert "<b>" not in plain_table(frame) and "&lt;i&gt;" in plain_table(frame)
    assert plain_table(effects["value"]).count("<tr>") == 25


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (0.12345, "0.123"),
        (-2.5, "−2.50"),
        (123.456, "123.5"),
        (1e-5, "1.00e−05"),
        (np.nan, "–"),
        (12345, "12,345"),
    ],
)
def test_numbers_read_alike_everywhere(value, text):
    assert number(value) == text


def test_long_labels_break_before_their_units():
    assert folded("a long name of a quantity that is measured [unit]").split("<br>")[1] == "[unit]"
    assert folded("short [unit]") == "short [unit]"


def test_what_users_call_is_exported():
    from dit_lens.figures import probe_figures

    assert all(hasattr(dl.figures, name) for name in dl.figures.__all__)
    assert dl.figures.FigureError is dl.FigureError is FigureError
    assert (dl.figures.decodability, dl.figures.confusion) == (probe_figures.decodability, probe_figures.confusion)


def test_importing_figures_does_not_import_plotly():
    code = "import sys, dit_lens.figures; assert not {'plotly', 'jinja2', 'PIL', 'imageio_ffmpeg'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_lines_and_text_stand_out_from_the_page(mode):
    """3:1 for lines and marks, 4.5:1 for text (WCAG 2.2)."""

    def light(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    def contrast(color: str) -> float:
        dark, bright = sorted((light(color), light(theme.INK[mode]["page"])))
        return (bright + 0.05) / (dark + 0.05)

    assert min(map(contrast, (*theme.SERIES[:5], *theme.ORDERED, theme.GREY))) >= 3
    assert min(contrast(theme.INK[mode][name]) for name in ("text", "muted")) >= 4.5


def test_templates_refuse_another_mode():
    with pytest.raises(FigureError, match="sepia"):
        template("sepia")
