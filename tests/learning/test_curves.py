"""Figures of a training show what they say: every term, the unseen views, and true beside predicted."""

import numpy as np
import pytest

from phaseloom import plot
from phaseloom.learning.figures import plot_losses, plot_predictions


def event(number: int, holdout: float | None = 0.5, **terms: float) -> dict:
    return {"number": number, "terms": terms, "holdout": holdout, "rates": {"net": 0.1 / number}}


def test_every_term_and_the_unseen_views_have_a_line():
    history = [
        event(1, contrast=1.0, edges=0.2),
        event(2, contrast=0.5, edges=0.1),
        event(3, contrast=0.4, edges=0.1),
    ]
    upper, lower = plot_losses(history).axes
    lines = {line.get_label(): line for line in upper.get_lines()}
    assert set(lines) == {"contrast", "edges", "held out"}
    np.testing.assert_allclose(lines["contrast"].get_ydata(), [1.0, 0.5, 0.4])
    np.testing.assert_allclose(lines["contrast"].get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(lower.get_lines()[0].get_ydata(), [0.1, 0.05, 0.1 / 3])
    styles = {(line.get_color(), line.get_linestyle()) for line in upper.get_lines()}
    assert len(styles) == 3


def test_a_term_that_came_later_and_a_loss_that_was_not_judged_leave_gaps(tmp_path):
    figure = plot_losses([event(1, None, contrast=1.0), event(2, 0.3, contrast=0.5, physics=0.1)])
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in figure.axes[0].get_lines()}
    assert np.isnan(lines["physics"][0])
    assert np.isnan(lines["held out"][0])
    assert lines["held out"][1] == 0.3
    plot.save(figure, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_training_without_any_finite_loss_has_a_figure(tmp_path):
    figure = plot_losses([event(1, np.nan, loss=np.nan)])
    plot.save(figure, tmp_path / "curves.png")
    assert figure.axes[0].get_yscale() == "linear"


def test_a_single_epoch_is_drawn(tmp_path):
    plot.save(plot_losses([event(1, contrast=1.0)]), tmp_path / "one.png")


def test_many_terms_are_drawn():
    names = {f"term {number}": 0.1 for number in range(9)}
    assert len(plot_losses([event(1, **names), event(2, **names)]).axes[0].get_lines()) == 10


@pytest.fixture
def pairs() -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    true = [rng.normal(size=shape) for shape in ((20, 30), (25, 15))]
    return [0.5 * phase + 7.0 for phase in true], true


def test_predicted_and_true_share_a_scale_and_no_constant(pairs, tmp_path):
    images, phases = pairs
    figure = plot_predictions(images, phases, ["a:Fe", "b:Au"], pixel=0.4)
    panels = [axes for axes in figure.axes if axes.get_images() and axes.get_title()]
    assert [axes.get_title() for axes in panels[:3]] == ["a:Fe: true", "predicted", "difference"]
    assert len(panels) == 6
    for row, (image, phase) in enumerate(zip(images, phases, strict=True)):
        true, found, off = (axes.get_images()[0] for axes in panels[3 * row : 3 * row + 3])
        assert true.get_clim() == found.get_clim()
        assert off.get_clim()[0] == -off.get_clim()[1]
        np.testing.assert_allclose(true.get_array(), phase - phase.mean(), atol=1e-6)
        np.testing.assert_allclose(found.get_array(), image - image.mean(), atol=1e-6)
        np.testing.assert_allclose(off.get_array(), -0.5 * (phase - phase.mean()), atol=1e-6)
    plot.save(figure, tmp_path / "unseen.png")
    assert (tmp_path / "unseen.png").stat().st_size > 1000


def test_rows_that_do_not_go_together_are_refused(pairs):
    with pytest.raises(ValueError, match="zip"):
        plot_predictions(*pairs, ["one name"], pixel=0.4)
