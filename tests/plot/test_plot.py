"""Figures show what they say: units, scales, limits; and they leave nothing behind."""

import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from phaseloom import plot
from phaseloom.data.prepare import affine
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.metrics.resolution import register, ring_correlation
from phaseloom.plot.histories import quantity_histories
from phaseloom.plot.object import ObjectField
from phaseloom.plot.probe import caustic
from phaseloom.plot.scan_maps import distortion
from phaseloom.plot.style import average_blocks, round_length, wave_colours
from phaseloom.ptycho.batches import compact, sparse
from phaseloom.result import Provenance, Result
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
    return Result(
        object=object_.astype(np.complex64),
        probe=np.stack([mode * 0.5**m for m in range(modes)]).astype(np.complex64),
        positions=start + draw.normal(size=start.shape) * 0.02 + 5,
        positions_start=start,
        pixel=geometry.pixel,
        origin=(-3.0, -4.0),
        coverage=covered.astype(float),
        geometry=geometry,
        weights=draw.uniform(0.9, 1.1, 25),
        background=np.full((17, 22), 0.01),
        history=rows,
        stopped="held-out loss rose",
        metrics={"frc": 1.25},
        title="a test",
        examples={"index": np.arange(4), "measured": draw.poisson(expected), "modelled": expected},
        provenance=Provenance({"phaseloom": "0.1.0"}, 3, "abc", "scan.h5", "anything", "today"),
        thickness=11.0 if slices > 1 else 0.0,
        gaps=tuple(10.0 + 2 * gap for gap in range(slices - 1)),
        tilts=np.array([[1e-3, -2e-3]]),
        grid=(5, 5),
    )


def refining(r, epochs=9):
    """The same with all that a run can follow, and advice."""
    powers = np.abs(r.probe) ** 2
    state = {"mode powers": powers.sum((1, 2)).tolist(), "tilt (mrad)": [1.0, -2.0], "thickness (A)": 12.0}
    rows = [
        row
        | {"terms": {"noise": 0.9 * row["loss"], "tv": 0.1 * row["loss"]}, "rates": {"phase": 0.02 / (1 + e)}}
        | {"state": state | {"thickness (A)": 12 - 0.1 * e, "aberrations": {"C12": 30.0 * e, "phi12": 0.4}}}
        for e, row in enumerate(r.history)
    ]
    return replace(r, history=rows, advice=["the loss still falls: give it more epochs " * 9, "look again"])


def stately():
    """An object in two states."""
    r = outcome(modes=4)
    other = r.object * np.exp(0.1j * np.arange(52) ** 0.5)
    return replace(
        r, object_modes=np.stack([r.object, other]).astype(np.complex64), occupancies=np.array([0.7, 0.3])
    )


def leaning():
    """A tilt for each pattern."""
    r = outcome(slices=6)
    return replace(r, tilts=1e-3 * np.sin(r.positions))


def bare():
    """The least a result can hold."""
    r = outcome(slices=1, modes=1)
    one = {"number": 0, "loss": -2.5, "holdout": None, "rates": {}, "seconds": 0.1}
    nothing = {"weights": None, "background": None, "tilts": None, "grid": None, "provenance": None}
    kept = {"examples": {}, "metrics": {}, "positions": r.positions_start, "history": [one]}
    return replace(r, **nothing, **kept)


def untouched():
    """Before the first epoch."""
    return replace(outcome(modes=4, slices=1), history=[])


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
    plot.object_amplitude,
    plot.object_modes,
    plot.slices,
    plot.probe_modes,
    plot.losses,
    plot.refined_parameters,
    plot.positions,
    plot.tilts,
    plot.forward,
    plot.report,
]
RESULTS = {
    "several slices": outcome,
    "the least": bare,
    "near field": lambda: outcome(geometry=HOLOGRAM),
    "no history": untouched,
    "two states": stately,
    "six slices, tilts": leaning,
    "all refined": lambda: refining(outcome(modes=4)),
}


@pytest.mark.parametrize("make", RESULT_FIGURES)
@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
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
    phase = ObjectField.of(r).phase()
    inside = r.coverage_mask[5:33, 7:47]
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
    assert "slice 3 of 3: 22 Å" in texts(plot.object_phase(outcome(), -1))
    with pytest.raises(BadInput, match="has 3"):
        plot.object_phase(outcome(), 3)


def test_slices_share_one_scale():
    figure = plot.slices(outcome())
    clims = {image.get_clim() for axes in figure.axes for image in axes.images}
    assert len([axes for axes in figure.axes if axes.images]) == 3
    assert len(clims) == 1


def sections(figure):
    """The meshes of the two sections with their axes."""
    from matplotlib.collections import QuadMesh

    found = [(axes, [c for c in axes.collections if isinstance(c, QuadMesh)]) for axes in figure.axes]
    return [(axes, meshes[0]) for axes, meshes in found if meshes and axes.get_xlabel()]


def test_sections_show_each_slice_at_its_depth_and_as_thick_as_it_is():
    r = outcome()
    (along_x, mesh), (along_y, _) = sections(plot.slices(r))
    places = mesh.get_coordinates()
    np.testing.assert_allclose(places[:, 0, 1], [-5, 5, 16, 28])
    np.testing.assert_allclose(np.diff(places[0, :, 0]), r.pixel[1])
    assert places[0, 0, 0] == pytest.approx(r.origin[1] + 6.5 * r.pixel[1])
    labels = (along_x.get_xlabel(), along_y.get_xlabel(), along_x.get_ylabel())
    assert labels == ("x (Å)", "y (Å)", "depth (Å)")
    assert along_x.get_aspect() == 1
    assert along_x.yaxis_inverted()


def test_a_section_deeper_than_wide_lies_on_its_side():
    (along_x, mesh), _ = sections(plot.slices(replace(outcome(), gaps=(100.0, 120.0))))
    np.testing.assert_allclose(mesh.get_coordinates()[0, :, 0], [-50, 50, 160, 280])
    assert (along_x.get_xlabel(), along_x.get_ylabel()) == ("depth (Å)", "x (Å)")


def test_a_section_holds_the_row_in_the_middle_of_the_scan():
    r = outcome()
    row = round((r.positions.mean(0)[0] - r.origin[0]) / r.pixel[0]) - 5
    wanted = np.stack([ObjectField.of(r).phase(n)[row] for n in range(3)])
    drawn = np.ma.filled(sections(plot.slices(r))[0][1].get_array(), np.nan)
    np.testing.assert_allclose(drawn.reshape(3, 40), wanted)


def test_a_thin_film_is_not_drawn_to_scale_and_says_so():
    film = replace(outcome(), gaps=(0.1, 0.1), thickness=0.1)
    figure = plot.slices(film)
    assert texts(figure).count("depth not to scale") == 2
    assert "not to scale" not in texts(plot.slices(outcome()))


def test_many_slices_are_thinned_out_and_a_single_one_has_no_section():
    r = replace(outcome(), object=np.repeat(outcome().object, 10, 0), gaps=(2.0,) * 29)
    assert len([axes for axes in plot.slices(r).axes if axes.images]) == 24
    assert len([axes for axes in plot.slices(bare()).axes if axes.images]) == 1


def test_states_are_shown_with_their_shares_and_their_spread():
    words = texts(plot.object_modes(stately()))
    for text in ("state 1 of 2: 70 %", "state 2 of 2: 30 %", "spread of the states, rms"):
        assert text in words
    r = stately()
    alike = replace(r, object_modes=np.stack([r.object, r.object]))
    spread = plot.object_modes(alike).axes[2].images[0].get_array()
    np.testing.assert_allclose(spread.compressed() if np.ma.isMaskedArray(spread) else spread, 0, atol=1e-6)


def test_large_images_are_averaged_before_they_are_drawn():
    values = np.arange(35.0).reshape(5, 7)
    np.testing.assert_allclose(average_blocks(values, 2), [[4, 6, 8], [18, 20, 22]])
    wide = replace(
        outcome(slices=1), object=np.ones((1, 20, 3300), np.complex64), coverage=np.ones((20, 3300))
    )
    shown = plot.object_phase(wide).axes[0].images[0]
    assert shown.get_array().shape == (5, 825)
    assert shown.get_extent()[1] == pytest.approx(3300 * wide.pixel[1])


def test_modes_are_drawn_twice_with_powers_that_add_to_a_hundred():
    figure = plot.probe_modes(outcome(modes=3))
    powers = [
        float(t.split(": ")[1].split(" ")[0]) for t in texts(figure).split(" | ") if t.startswith("mode ")
    ]
    assert len([axes for axes in figure.axes if axes.images]) == 8
    assert len(bars(figure)) == 6
    assert sum(powers) == pytest.approx(100, abs=0.2)
    assert "rad" in texts(figure)


def test_hue_is_phase_and_brightness_is_amplitude():
    colours = wave_colours(np.array([[0, 1, 1j, 0.25]]))[0]
    assert colours[0].max() < 1e-6
    assert abs(colours[1] - colours[2]).max() > 0.2
    assert colours[3].max() < colours[1].max()


def focused(defocus, pixel=0.2, window=64, semiangle=0.025):
    """A result whose probe is focused so far behind the first slice."""
    wavelength = 0.0418
    k = np.fft.fftfreq(window, pixel)
    q = k[:, None] ** 2 + k**2
    spectrum = (q < (semiangle / wavelength) ** 2) * np.exp(1j * np.pi * wavelength * defocus * q)
    wave = np.fft.fftshift(np.fft.ifft2(spectrum))[None]
    geometry = replace(ELECTRONS, wavelength=wavelength, shape=(window, window), angle=(1e-3, 1e-3))
    return replace(outcome(modes=1), probe=wave.astype(np.complex64), pixel=(pixel, pixel), geometry=geometry)


@pytest.mark.parametrize("defocus", [100.0, -60.0])
def test_the_beam_is_densest_at_its_focus(defocus):
    z, cuts = caustic(focused(defocus))
    for cut in cuts:
        assert z[cut.max(1).argmax()] == pytest.approx(defocus, abs=4)
    assert z[0] < min(0, defocus)
    assert z[-1] > max(22, defocus)


def test_the_beam_at_the_first_slice_is_the_probe():
    r = focused(0.0)
    z, (along_y, along_x) = caustic(r)
    here = int(np.abs(z).argmin())
    np.testing.assert_allclose(along_x[here], np.abs(r.probe[0, 32]) ** 2, atol=0.02 * along_x.max())
    np.testing.assert_allclose(along_y[here], np.abs(r.probe[0, :, 32]) ** 2, atol=0.02 * along_y.max())


def test_every_term_of_the_loss_has_its_curve_and_a_faint_one_its_number():
    r = refining(outcome())
    lines = {line.get_label() for line in plot.losses(r).axes[0].lines}
    assert {"training", "held out", "noise", "tv"} <= lines
    faint = [row | {"terms": {"noise": row["loss"], "tv": 1e-6}} for row in r.history]
    axes = plot.losses(replace(r, history=faint)).axes[0]
    assert any("tv: at most 1e-06" in line.get_label() for line in axes.lines)
    assert axes.get_ylim()[0] > 0.05


def test_only_what_moved_is_a_course():
    moved = {
        course.title: course.label
        for course in quantity_histories(refining(outcome()).history)
        if course.moves
    }
    assert moved == {"Distance of slices": "distance of slices (Å)", "Aberration C12": "C12 (Å)"}
    titles = texts(plot.refined_parameters(refining(outcome())))
    assert "Rates" in titles
    assert "Tilt" not in titles
    assert "nothing but the images" in texts(plot.refined_parameters(outcome()))


def test_powers_of_modes_are_shares():
    rows = [{"number": n, "loss": 1.0, "state": {"mode powers": [9.0 + n, 1.0]}} for n in (1, 2)]
    (course,) = quantity_histories(rows)
    np.testing.assert_allclose(course.curves["mode 1"], [100 * 10 / 11, 100 * 11 / 12])
    assert course.label == "power (% of all)"


def test_step_error_rotation_and_shear_are_those_that_prepare_affine_would_correct():
    places = scan().positions
    turn, shear = np.deg2rad(2.0), np.deg2rad(0.7)
    moved = affine(scan(), scale=1.03, asymmetry=0.01, rotation=turn, shear=shear).positions
    fit = distortion(places, moved + np.array([3.0, -1.0]))
    assert (fit.scale, fit.asymmetry) == pytest.approx((1.03, 0.01))
    assert (fit.rotation, fit.shear) == pytest.approx((turn, shear))
    np.testing.assert_allclose(fit.left, 0, atol=1e-9)
    assert fit.in_words() == "step error +3.52 % (y), +2.48 % (x), rotation +2.00°, shear +0.70°"


def test_the_common_part_of_moves_is_told_apart_from_the_rest():
    r = outcome()
    draw = np.random.default_rng(3)
    turned = affine(replace(scan(), positions=r.positions_start, counts=np.ones((25, 17, 22))), rotation=0.03)
    r = replace(r, positions=turned.positions + 0.01 * draw.normal(size=(25, 2)), grid=None)
    words = texts(plot.positions(r))
    assert "rms left without the common part" in words
    assert distortion(r.positions_start, r.positions).rotation == pytest.approx(0.03, abs=1e-3)
    assert "rotation" in texts(plot.report(r))
    assert "rotation" not in texts(plot.positions(outcome()))
    assert distortion(np.arange(8.0).reshape(4, 2), np.zeros((4, 2))) is None


def test_tilts_of_each_pattern_are_mapped_in_milliradian():
    r = leaning()
    words = texts(plot.tilts(r))
    for text in ("tilt along y (mrad)", "tilt along x (mrad)", "Tilt of the object, mean"):
        assert text in words
    shown = plot.tilts(r).axes[1].images[0].get_array()
    np.testing.assert_allclose(shown, 1e3 * r.tilts[:, 0].reshape(5, 5))
    assert "y 1, x -2 mrad" in texts(plot.tilts(outcome()))
    assert "y (Å)" in texts(plot.tilts(replace(r, grid=None)))


def test_batches_are_drawn_where_they_are():
    places = scan().positions
    compacts = plot.groups(compact(np.arange(30), 0, places, size=6)(1), places)
    assert "5 batches" in texts(compacts)
    assert "first batch: 6 patterns" in texts(compacts)
    pieces = plot.groups(sparse(np.arange(30), 0, places, size=3, accumulate=2)(1), places)
    assert "in 2 pieces" in texts(pieces)
    assert len(pieces.axes[0].collections) == 5


@pytest.mark.parametrize(
    "make", [plot.refined_parameters, plot.losses, plot.positions, plot.tilts, plot.slices, plot.probe_modes]
)
def test_every_axis_is_labelled_with_its_unit(make):
    figure = make(replace(refining(leaning()), grid=None))
    figure.canvas.draw()
    bare_of_units = {"epoch", "loss"}
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes if axes.axison]
    drawn = [label for pair in labels for label in pair if label]
    assert drawn
    assert all("(" in label or label in bare_of_units for label in drawn)


def test_the_best_held_out_loss_is_marked_on_a_log_scale():
    axes = plot.losses(outcome()).axes[0]
    assert axes.get_yscale() == "log"
    assert any("best 0.2, epoch 4" in t.get_text() for t in axes.get_legend().get_texts())
    assert plot.losses(bare()).axes[0].get_yscale() == "linear"


def test_a_common_move_of_all_positions_is_no_move():
    assert "×" in texts(plot.positions(outcome()))
    r = outcome()
    r = replace(r, positions=r.positions_start + np.array([3.0, -2.0]))
    assert "not moved" in texts(plot.positions(r))
    assert plot.positions(r).axes[0].yaxis_inverted()


def test_positions_that_moved_by_rounding_are_not_moved():
    """Positions in single precision had arrows, magnified a million times."""
    r = outcome()
    rounded = replace(r, positions=(r.positions_start / 0.2).astype(np.float32).astype(float) * 0.2)
    assert (rounded.positions != r.positions_start).any()
    words = texts(plot.positions(rounded))
    assert "not moved" in words
    assert "arrows" not in words
    assert "Moves in the order" not in texts(plot.report(rounded))


@pytest.mark.parametrize(("low", "high"), [(1.011, 1.048), (0.97, 1.4), (0.96, 3.9), (0.9, 40.0), (1.0, 5e4)])
def test_the_axis_of_losses_has_three_ticks_at_least(low, high):
    """Of a run from 1.05 down to 1.01 no round number of a decade was within the axis, of others one."""
    rows = [{"number": e + 1, "loss": low + (high - low) / 2**e, "terms": {"noise": 1.0}} for e in range(9)]
    figure = plot.losses(replace(outcome(), history=rows))
    figure.canvas.draw()
    axes = figure.axes[0]
    bottom, top = axes.get_ylim()
    inside = [tick for tick in axes.yaxis.get_major_ticks() if bottom <= tick.get_loc() <= top]
    assert len([tick for tick in inside if tick.label1.get_text()]) >= 3


def test_no_point_is_under_the_legend_of_the_moves():
    r = outcome()
    draw = np.random.default_rng(1)
    places = np.indices((10, 10)).reshape(2, -1).T * 5.0
    for size in (0.02, 3.0):
        moved = replace(r, positions=places + draw.uniform(-size, size, places.shape), positions_start=places)
        figure = plot.report(moved)
        figure.canvas.draw()
        axes = next(axes for axes in figure.axes if axes.get_title().startswith("Moves in the"))
        assert count_under_legend(axes) == 0


def count_under_legend(axes):
    box = axes.get_legend().get_window_extent()
    drawn = [line.get_transform().transform(line.get_xydata()) for line in axes.get_lines()]
    return sum(box.contains(x, y) for places in drawn for x, y in places)


@pytest.mark.parametrize("shape", ["falling", "flat", "rising", "scattered"])
def test_the_legend_of_losses_hides_no_curve(shape):
    count = 30
    x = np.arange(count) / count
    draw = np.random.default_rng(0)
    loss = {"falling": 1 + 9 * 0.8 ** (30 * x), "flat": 2 + 0 * x, "rising": 1 + x}
    loss["scattered"] = np.exp(draw.uniform(0, 3, count))
    rows = [{"number": e + 1, "loss": v, "holdout": 1.02 * v} for e, v in enumerate(loss[shape])]
    figure = plot.losses(replace(outcome(), history=rows))
    figure.canvas.draw()
    assert count_under_legend(figure.axes[0]) == 0


def test_measured_and_modelled_patterns_share_one_log_scale():
    figure = plot.forward(outcome())
    figure.canvas.draw()
    shown = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(shown) == 12
    assert len({image.get_clim() for image in shown[:8]}) == 1
    low, high = shown[-1].get_clim()
    assert low == -high
    assert "no example" in texts(plot.forward(bare()))


def test_masked_pixels_are_grey_and_set_no_scale():
    """Gaps of a detector were blue in the difference, as an error, and black as no counts."""
    plain = outcome()
    good = np.ones(plain.examples["measured"].shape[1:], np.uint8)
    good[3:5] = 0
    measured = np.where(good, plain.examples["measured"], 0)
    modelled = np.where(good, plain.examples["modelled"], 1e9)
    some = plain.examples | {"measured": measured, "modelled": modelled}
    figure = plot.forward(replace(plain, examples=some | {"good": good}))
    figure.canvas.draw()
    shown = [axes.images[0] for axes in figure.axes if axes.images]
    for picture in (*shown[:4], *shown[8:]):
        hidden = np.ma.getmaskarray(picture.get_array())
        np.testing.assert_array_equal(hidden, good == 0)
        red, green, blue, _ = picture.to_rgba(np.array([np.nan]))[0]
        assert red == green == blue
        assert 0.4 < red < 0.8
    whole = plot.forward(replace(plain, examples=some)).axes[8].images[0]
    assert shown[8].get_clim()[1] < 1e-2 * whole.get_clim()[1]


def test_detectors_are_measured_in_angles_far_and_lengths_near():
    assert "mrad" in texts(plot.forward(outcome()))
    assert "µm" in texts(plot.forward(outcome(geometry=HOLOGRAM)))


def test_the_report_holds_the_facts():
    words = texts(plot.report(outcome()))
    for fact in ("a test", "held-out loss rose", "frc", "1.25", "25 of 17×22", "0.1.0", "background"):
        assert fact in words
    assert "finished" not in texts(plot.report(bare()))


@pytest.mark.medium
def test_the_report_gives_advice_in_whole_sentences_and_a_row_to_what_moved():
    words = texts(plot.report(refining(outcome()))).replace("\n    ", " ")
    assert "▲ the loss still falls: give it more epochs" in words
    assert "▲ look again" in words
    assert "Distance of slices" in words
    assert "▲" not in texts(plot.report(outcome()))
    assert "Distance of slices" not in texts(plot.report(outcome()))


def test_the_report_shows_states_beside_the_slices():
    words = texts(plot.report(stately()))
    assert "state 2 of 2" in words
    assert "slice 3 of 3" in words
    assert "70, 30 %" in words


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
    broken = plot.object_phase(outcome())
    broken.draw = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        plot.save(broken, tmp_path / "other.png")
    assert [path.name for path in tmp_path.iterdir()] == ["phase.png"]
