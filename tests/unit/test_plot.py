"""Figures show what they say: units, scales, limits; and they leave nothing behind."""

import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from phaseloom import plot
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.metrics.resolution import register, ring_correlation
from phaseloom.plot.canvas import round_length, wave_colours
from phaseloom.plot.result import flat_phase
from phaseloom.units import LENGTH

ELECTRONS = Geometry(wavelength=0.0418, shape=(17, 22), angle=(2e-3, 1.5e-3), beam="electron")
HOLOGRAM = Geometry(
    wavelength=1.4, shape=(17, 22), angle=(1e-6, 1e-6), distance=2e9, focus=float("inf"), beam="photon"
)


def outcome(slices=3, modes=2, geometry=ELECTRONS, seed=0):
    """A small result: odd, not square, several slices and modes, a ramp that wraps."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:41, :52]
    phase = 0.2 * gaussian_filter(draw.normal(size=(slices, 41, 52)), (0, 2, 2)) * 10
    phase[0] += 0.5 * y - 0.4 * x + 2
    covered = np.zeros((41, 52), bool)
    covered[5:33, 7:47] = True
    covered[5, 7] = False
    object_ = np.where(covered, 0.9 * np.exp(1j * phase), 30 * np.exp(3j * draw.normal(size=(41, 52))))
    k = np.hypot(np.fft.fftfreq(17)[:, None], np.fft.fftfreq(22))
    mode = np.fft.fftshift(np.fft.ifft2(k < 0.2))
    start = draw.uniform(0, 30, (25, 2))
    expected = draw.uniform(0, 20, (4, 17, 22))
    rows = [{"number": e, "loss": 1 / (e + 1), "rates": {}, "seconds": 0.5} for e in range(9)]
    rows = [
        row | {"holdout": 0.2 + 0.1 * abs(row["number"] - 4) if row["number"] % 2 == 0 else None}
        for row in rows
    ]
    return SimpleNamespace(
        object=object_.astype(np.complex64),
        probe=np.stack([mode * 0.5**m for m in range(modes)]).astype(np.complex64),
        positions=start + draw.normal(size=start.shape) * 0.02 + 5,
        positions_start=start,
        pixel=geometry.pixel,
        origin=(-3.0, -4.0),
        covered=covered,
        geometry=geometry,
        weights=draw.uniform(0.9, 1.1, 25),
        background=np.full((17, 22), 0.01),
        history=rows,
        stopped="held-out loss rose",
        metrics={"frc": 1.25},
        title="a test",
        examples={"index": np.arange(4), "measured": draw.poisson(expected), "modelled": expected},
        provenance={"version": "0.1.0", "seed": 3, "note": None},
    )


def bare():
    """The least a result can hold."""
    r = outcome(slices=1, modes=1)
    vars(r).update(weights=None, background=None, examples={}, metrics={}, positions=r.positions_start)
    vars(r).update(history=[{"number": 0, "loss": -2.5, "holdout": None, "rates": {}, "seconds": 0.1}])
    del r.provenance
    return r


def scan(grid=(5, 6), geometry=ELECTRONS):
    draw = np.random.default_rng(1)
    mask = np.ones((17, 22), bool)
    mask[:, 3] = False
    counts = draw.poisson(3, (30, 17, 22)).astype(np.uint16)
    raster = np.stack(np.meshgrid(np.arange(5.0) * 2, np.arange(6.0) * 3, indexing="ij"), -1).reshape(-1, 2)
    return Scan4D(counts=counts, positions=raster, geometry=geometry, mask=mask, grid=grid)


def texts(figure):
    figure.canvas.draw()
    return " | ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))


def bars(figure):
    return [patch for patch in figure.findobj() if patch.get_gid() == "scale bar"]


RESULT_FIGURES = [
    plot.object_phase,
    plot.object_slices,
    plot.object_amplitude,
    plot.probe_modes,
    plot.loss_curves,
    plot.positions,
    plot.patterns,
    plot.report,
]


@pytest.mark.parametrize("make", RESULT_FIGURES)
@pytest.mark.parametrize("result", [outcome, bare, lambda: outcome(geometry=HOLOGRAM)])
def test_every_figure_is_drawn_without_a_warning_or_a_window(make, result):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = make(result())
        figure.canvas.draw()
    assert figure.axes
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


@pytest.mark.parametrize("extent", [0.013, 0.9, 7.0, 33.3, 1e4, 9.99e7])
def test_a_scale_bar_is_a_round_length(extent):
    digit = f"{round_length(extent):e}"[0]
    assert digit in "125"
    assert extent * 0.1 < round_length(extent) <= extent * 0.3001


def test_the_scale_bar_on_the_page_is_as_long_as_its_label():
    figure = plot.object_phase(outcome())
    (bar,) = bars(figure)
    label = next(t for t in texts(figure).split(" | ") if t.split(" ")[-1] in ("pm", "Å", "nm"))
    assert LENGTH.parse(label) == pytest.approx(bar.get_width())


def test_rectangular_pixels_keep_their_shape():
    axes = plot.object_phase(outcome()).axes[0]
    left, right, bottom, top = axes.images[0].get_extent()
    assert axes.get_aspect() == 1
    assert (right - left) / (bottom - top) == pytest.approx(
        40 * ELECTRONS.pixel[1] / (28 * ELECTRONS.pixel[0])
    )


def test_phase_is_flat_cut_to_the_covered_box_and_empty_outside():
    r = outcome()
    phase = flat_phase(r)
    inside = r.covered[5:33, 7:47]
    assert phase.shape == (28, 40)
    np.testing.assert_array_equal(np.isnan(phase), ~inside)
    assert abs(np.nanmedian(phase)) < 0.05
    assert np.nanstd(phase) < 1.5


def test_limits_of_the_phase_ignore_what_lies_outside():
    figure = plot.object_phase(outcome())
    low, high = figure.axes[0].images[0].get_clim()
    assert -3 < low < 0 < high < 3
    assert "phase (rad)" in texts(figure)
    assert "sum of 3 slices" in texts(figure)
    amplitude = plot.object_amplitude(outcome())
    assert amplitude.axes[0].images[0].get_clim()[1] < 1.3
    assert "amplitude" in texts(amplitude)


def test_a_slice_is_chosen_by_number_and_a_wrong_one_refused():
    assert "slice 3 of 3" in texts(plot.object_phase(outcome(), -1))
    with pytest.raises(BadInput, match="has 3"):
        plot.object_phase(outcome(), 3)


def test_slices_share_one_scale():
    figure = plot.object_slices(outcome())
    clims = {image.get_clim() for axes in figure.axes for image in axes.images}
    assert len([axes for axes in figure.axes if axes.images]) == 3
    assert len(clims) == 1


def test_modes_are_drawn_twice_with_powers_that_add_to_a_hundred():
    figure = plot.probe_modes(outcome(modes=3))
    powers = [
        float(t.split(": ")[1].split(" ")[0]) for t in texts(figure).split(" | ") if t.startswith("mode ")
    ]
    assert len(figure.axes) == 6
    assert len(bars(figure)) == 6
    assert sum(powers) == pytest.approx(100, abs=0.2)
    assert "rad" in texts(figure)


def test_hue_is_phase_and_brightness_is_amplitude():
    colours = wave_colours(np.array([[0, 1, 1j, 0.25]]))[0]
    assert colours[0].max() < 1e-6
    assert abs(colours[1] - colours[2]).max() > 0.2
    assert colours[3].max() < colours[1].max()


def test_the_best_held_out_loss_is_marked_on_a_log_scale():
    axes = plot.loss_curves(outcome()).axes[0]
    assert axes.get_yscale() == "log"
    assert any("best 0.2, epoch 4" in t.get_text() for t in axes.get_legend().get_texts())
    assert plot.loss_curves(bare()).axes[0].get_yscale() == "linear"


def test_a_common_move_of_all_positions_is_no_move():
    assert "×" in texts(plot.positions(outcome()))
    r = outcome()
    r.positions = r.positions_start + np.array([3.0, -2.0])
    assert "as measured" in texts(plot.positions(r))
    assert plot.positions(r).axes[0].yaxis_inverted()


def test_measured_and_modelled_patterns_share_one_log_scale():
    figure = plot.patterns(outcome())
    figure.canvas.draw()
    shown = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(shown) == 12
    assert len({image.get_clim() for image in shown[:8]}) == 1
    low, high = shown[-1].get_clim()
    assert low == -high
    assert "no example" in texts(plot.patterns(bare()))


def test_detectors_are_measured_in_angles_far_and_lengths_near():
    assert "mrad" in texts(plot.patterns(outcome()))
    assert "µm" in texts(plot.patterns(outcome(geometry=HOLOGRAM)))


def test_the_report_holds_the_facts():
    words = texts(plot.report(outcome()))
    for fact in ("a test", "held-out loss rose", "frc", "1.25", "25 of 17×22", "0.1.0", "background"):
        assert fact in words
    assert "provenance" not in texts(plot.report(bare()))


def test_two_results_share_a_scale_and_show_their_correlation():
    a, b = outcome(seed=0), outcome(seed=1)
    pair = register(a.object[0, 6:32, 8:46], b.object[0, 6:32, 8:46], margin=2, max_shift=2)
    figure = plot.comparison(a, b, ring_correlation(*pair, pixel=a.pixel))
    clims = {axes.images[0].get_clim() for axes in figure.axes if axes.images}
    assert len(clims) == 1
    assert "half bit" in texts(figure)
    assert "spatial frequency (1/" in texts(figure)
    assert len(plot.comparison(a, b).axes) == 2


@pytest.mark.parametrize(("grid", "geometry"), [((5, 6), ELECTRONS), (None, HOLOGRAM)])
def test_an_overview_shows_pattern_field_and_findings(grid, geometry):
    found = SimpleNamespace(name="dose", value="low", level="warning", advice="count longer " * 20)
    figure = plot.scan_overview(scan(grid, geometry), [found])
    words = texts(figure)
    for text in (
        "17 untrusted pixels",
        "counts per pattern",
        "mean counts per pixel",
        "dose: low",
        "count longer",
    ):
        assert text in words
    assert len(figure.axes) == 4
    assert len(figure.axes[1].images) == (grid is not None)


def test_untrusted_pixels_do_not_count():
    figure = plot.scan_overview(scan())
    trusted = np.delete(scan().counts, 3, axis=2).sum((1, 2))
    drawn = np.asarray(figure.axes[1].images[0].get_array())
    np.testing.assert_allclose(drawn, trusted.reshape(5, 6))


def test_a_figure_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "phase.png"
    plot.save(plot.object_phase(outcome()), target, dpi=50)
    assert target.read_bytes()[:4] == b"\x89PNG"
    broken = SimpleNamespace(savefig=lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plot.save(broken, tmp_path / "other.png")
    assert [path.name for path in tmp_path.iterdir()] == ["phase.png"]
