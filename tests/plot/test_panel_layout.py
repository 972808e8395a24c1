"""Panels that are placed by estimated sizes keep apart, whatever they show, and fill their page."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from phaseloom import plot
from phaseloom.data.scan import Scan4D
from phaseloom.plot.style import colour_bar, frame, image, new_page
from tests.plot.test_plot import ELECTRONS, HOLOGRAM, outcome, refining

MARGIN = 3.0
"""Pixels by which an estimated size may be too small."""


def list_boxes(figure):
    """What each panel, and each line of text beside panels, takes of a figure that was drawn."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    parts = [figure]
    for part in parts:
        parts += part.subfigs
    boxes = {f"panel {n}": axes.get_tightbbox(renderer) for n, axes in enumerate(figure.axes)}
    texts = [text for part in parts for text in part.texts if text.get_text()]
    return {name: box for name, box in boxes.items() if box is not None} | {
        text.get_text()[:20]: text.get_window_extent(renderer) for text in texts
    }


def check_places(figure):
    boxes = list_boxes(figure)
    for name, box in ((name, box) for name, box in boxes.items() if name.startswith("panel")):
        assert box.x0 > -MARGIN, name
        assert box.y0 > -MARGIN, name
        assert box.x1 < figure.bbox.x1 + MARGIN, name
        assert box.y1 < figure.bbox.y1 + MARGIN, name
    for (name, one), (other, two) in combinations(boxes.items(), 2):
        width = min(one.x1, two.x1) - max(one.x0, two.x0)
        height = min(one.y1, two.y1) - max(one.y0, two.y0)
        assert min(width, height) < MARGIN, (name, other)


def long_numbers(r):
    """Positions far from zero and losses near each other, whose labels are long."""
    rows = [row | {"loss": 1.0 + 1e-5 * row["number"], "holdout": 1.0} for row in r.history]
    far = {"positions": r.positions + 123456.0, "positions_start": r.positions_start + 123456.0}
    return replace(r, history=rows, **far)


RESULTS = {
    "slices": lambda: refining(outcome()),
    "one of each": lambda: replace(outcome(1, 1), title="", verdict="converged", advice=["Do this. " * 60]),
    "many modes": lambda: outcome(9, 7),
    "near field": lambda: outcome(geometry=HOLOGRAM, slices=1),
    "long numbers": lambda: long_numbers(outcome(2, 1)),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_nothing_on_a_report_lies_on_anything_else(kind):
    check_places(plot.report(RESULTS[kind]()))


@pytest.mark.parametrize("make", [plot.object_phase, plot.object_amplitude])
def test_nothing_leaves_a_picture_of_an_object(make):
    check_places(make(outcome()))


@pytest.mark.parametrize("shape", [(24, 24), (40, 7), (7, 40)])
def test_nothing_on_an_overview_lies_on_anything_else(shape):
    draw = np.random.default_rng(1)
    y, x = np.mgrid[: shape[0], : shape[1]].reshape(2, -1) * 3.0
    counts = draw.poisson(1e4, (len(x), 17, 22)).astype(np.float32)
    positions = np.stack([y, x], 1)
    scan = Scan4D(counts=counts, geometry=ELECTRONS, positions=positions, grid=shape)
    check_places(plot.scan_overview(scan))


@pytest.mark.parametrize("shape", [(9, 9), (30, 5), (5, 30)])
@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (1, 5)])
def test_bars_beside_images_of_any_shape_have_room(shape, grid):
    figure = new_page(2.6 * grid[1], 2.4 * grid[0] + 0.3)
    values = np.linspace(-1e-3, 1e-3, 45).repeat(10)[: shape[0] * shape[1]].reshape(shape)
    for axes in figure.subplots(*grid, squeeze=False).ravel():
        colour_bar(axes, image(axes, values, pixel=(1.0, 1.0), title="An image"), "a unit")
    figure.suptitle("All of them")
    check_places(figure)


def test_diagrams_fill_their_page_and_are_as_large_as_their_ratio_says():
    figure = new_page(8.0, 4.0)
    panels = figure.subplots(2, 2, width_ratios=[1, 2], height_ratios=[3, 1])
    for number, axes in enumerate(panels.ravel()):
        axes.plot([0, 10.0**number], [-(10.0 ** (2 * number)), 1])
        frame(axes, title="A diagram", x="across", y="up")
    check_places(figure)
    width, height = np.array([[one.get_position().size for one in row] for row in panels]).transpose(2, 0, 1)
    np.testing.assert_allclose(width[:, 1], 2 * width[:, 0])
    np.testing.assert_allclose(height[0], 3 * height[1])
    boxes = list_boxes(figure).values()
    assert max(box.x1 for box in boxes) > 0.96 * figure.bbox.x1
    assert min(box.x0 for box in boxes) < 0.04 * figure.bbox.x1


def test_a_page_is_cut_by_a_notebook_to_all_of_its_panels():
    figure = plot.object_phase(outcome())
    figure.draw_without_rendering()
    assert all(axes.get_in_layout() for axes in figure.axes)
    again = [axes.get_position().bounds for axes in figure.axes]
    figure.draw_without_rendering()
    np.testing.assert_allclose([axes.get_position().bounds for axes in figure.axes], again, atol=1e-3)
