"""Each figure shows its arrays, and none changes the global state of matplotlib."""

import itertools

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from gatecore import Gate
from gatecore.analysis import figures, gradient_bounds, saturation


@pytest.fixture(scope="module")
def theory():
    return figures.theory()


def test_theory_returns_all_figures_by_name(theory):
    assert list(theory) == [
        "figure1_refined_cell", "figure2a_adjustment", "figure2b_band", "figure2c_contours",
        "figure2d_gradient", "table4_tails", "table4_densities", "precision_float32",
        "precision_bfloat16",
    ]  # fmt: skip


def test_every_figure_can_be_saved_without_changing_matplotlibs_settings(theory, tmp_path):
    before = dict(matplotlib.rcParams)
    for name, figure in theory.items():
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.svg").stat().st_size > 5000
    assert dict(matplotlib.rcParams) == before


def test_axes_have_labels(theory):
    for name, figure in theory.items():
        if name != "figure1_refined_cell":
            assert all(axes.get_xlabel() for axes in figure.axes)
            assert figure.axes[0].get_ylabel()


def lines(figure, axes=0):
    return [line.get_xydata() for line in figure.axes[axes].lines]


def test_the_gradient_figure_draws_the_bounds():
    g = np.array([0.01, 0.5, 0.9])
    lower, upper = gradient_bounds(g)
    curves = lines(figures.gradient_ratio(g, lower, upper))
    np.testing.assert_array_equal(curves[0], np.stack([g, upper], axis=1))
    np.testing.assert_array_equal(curves[1], np.stack([g, lower], axis=1))


def test_the_band_is_computed_by_refine():
    curves = lines(figures.adjustment(np.array([0.0, 0.9, 1.0])), axes=1)
    assert {round(curve[1, 1], 12) for curve in curves} == {0.99, 0.81, 0.9}


def test_tails_and_densities_draw_a_panel_for_each_mapping():
    steps = np.array([1.0, 10.0])
    tails = figures.timescale_tails({"a": (steps, 1 / steps)}, {"b": (steps, 1 / steps)})
    assert [len(axes.lines) for axes in tails.axes] == [1, 1]
    masses = figures.timescale_densities({"a": (steps[:1], steps[:1]), "b": (steps, steps)})
    texts = [text.get_text() for text in masses.axes[0].get_legend().get_texts()]
    assert texts == ["a: all units at 1.0", "b"]


def test_an_infinite_error_is_drawn_at_the_top():
    steps = np.array([10.0, 1e12])
    curves = lines(figures.precision(steps, saturation.precision_loss(steps), "float32"))
    assert curves[1][1, 1] == 10
    assert curves[2][1, 1] < 1e-6


def test_histograms_accept_gates_of_any_shape():
    gate = Gate(np.full((1, 8), 0.9), np.full((1, 8), 0.1))
    figure = figures.gate_histograms({"UR": (gate, gate), "U": (None, gate)})
    assert len(figure.axes) == 4


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_neighbouring_lines_differ_in_their_dashes():
    styles = list(zip(figures.COLOURS, figures.DASHES * 2, strict=False))
    assert all(a[1] != b[1] for a, b in itertools.pairwise(styles))
    assert all(luminance(colour) < 0.5 for colour in figures.COLOURS)  # dark enough on white
