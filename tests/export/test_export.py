"""What is exported says the same as the result, to PtyRAD, to ImageJ and to ourselves."""

import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest

from phaseloom import export
from phaseloom.data.importers import find_program, read
from phaseloom.data.scan import Geometry
from phaseloom.errors import BadInput, MissingExtra
from phaseloom.result import Provenance, Result
from phaseloom.spec import call
from phaseloom.spec import names as callable_in

GEOMETRY = Geometry(wavelength=0.0417, shape=(8, 8), angle=(9e-3, 9e-3), beam="electron")
ORIGIN = (-3.25, 4.5)


def outcome(states=2, slices=3, window=8):
    """A small result that is nowhere symmetric."""
    rng = np.random.default_rng(5)
    object_ = np.exp(0.2j * rng.normal(size=(states, slices, 21, 26))) * rng.uniform(
        0.9, 1, (states, slices, 21, 26)
    )
    pixels = np.array([[6.2, 7.9], [6.1, 11.6], [9.8, 8.1], [10.3, 12.2], [13.0, 8.0], [13.5, 12.0]])
    probe = rng.normal(size=(2, window, window)) + 1j * rng.normal(size=(2, window, window))
    geometry = replace(GEOMETRY, shape=(window, window), angle=(0.072 / window, 0.072 / window))
    return Result(
        object=object_.mean(0).astype(np.complex64),
        object_modes=object_.astype(np.complex64) if states > 1 else None,
        occupancies=np.array([0.7, 0.3]) if states > 1 else None,
        probe=probe.astype(np.complex64),
        positions=pixels * np.array(geometry.pixel) + ORIGIN,
        positions_start=np.round(pixels),
        pixel=geometry.pixel,
        origin=ORIGIN,
        coverage=np.ones((21, 26)),
        geometry=geometry,
        thickness=7.5 if slices > 1 else 0.0,
        gaps=(7.5,) * (slices - 1),
        tilts=np.array([[1e-3, -2e-3]]),
        grid=(3, 2),
        history=[{"loss": 1.5, "seconds": 0.25}, {"loss": 1.25, "seconds": 0.5}],
        provenance=Provenance.now(seed=3, data="abc", file="x.h5"),
    )


@pytest.mark.parametrize("window", [8, 7])
@pytest.mark.parametrize(("states", "slices"), [(2, 3), (1, 1)])
def test_a_ptyrad_model_reads_back_as_the_result(tmp_path, states, slices, window):
    result = outcome(states, slices, window)
    path = export.ptyrad(result, tmp_path)
    found = read(path)
    assert (path.name, find_program(path)) == ("model_iter0002.hdf5", "ptyrad")
    wanted = result.object[None] if result.object_modes is None else result.object_modes
    np.testing.assert_allclose(found.object, wanted, atol=1e-6)
    np.testing.assert_array_equal(found.probe, result.probe)
    np.testing.assert_allclose(found.positions + ORIGIN, result.positions, atol=1e-5)
    np.testing.assert_allclose(found.tilts, result.tilts, rtol=1e-6)
    np.testing.assert_allclose(found.occupancies, [0.7, 0.3] if states > 1 else [1], rtol=1e-6)
    assert found.pixel == pytest.approx(result.pixel)
    assert (found.thickness, found.grid) == (result.gaps, (3, 2))
    assert found.wavelength == pytest.approx(result.geometry.wavelength)


def test_the_file_has_the_layout_of_ptyrad(tmp_path):
    result = outcome()
    with h5py.File(export.ptyrad(result, tmp_path / "m.hdf5", iteration=9)) as file:
        layout = {
            "optimizable_tensors/obja": ((2, 3, 21, 26), "<f4"),
            "optimizable_tensors/objp": ((2, 3, 21, 26), "<f4"),
            "optimizable_tensors/probe": ((2, 8, 8), "<c8"),
            "optimizable_tensors/probe_pos_shifts": ((6, 2), "<f4"),
            "optimizable_tensors/obj_tilts": ((1, 2), "<f4"),
            "optimizable_tensors/slice_thickness": ((), "<f4"),
            "model_attributes/crop_pos": ((6, 2), "<i4"),
            "model_attributes/H": ((8, 8), "<c8"),
            "model_attributes/omode_occu": ((2,), "<f4"),
            "loss_iters": ((2, 2), "<f8"),
            "iter_times": ((2,), "<f8"),
        }
        assert {k: (file[k].shape, file[k].dtype.str) for k in layout} == layout
        assert file["model_attributes/scan_affine"].asstr()[()] == "__NONE__"
        assert file["niter"][()] == 9
        assert file["model_attributes/dk"][()] == pytest.approx(1 / (8 * result.pixel[0]))
        corner, rest = file["model_attributes/crop_pos"][()], file["optimizable_tensors/probe_pos_shifts"][()]
        assert (corner >= 0).all()
        assert (corner + 8 <= [21, 26]).all()
        assert np.abs(rest).max() <= 0.5
        # the first gap as PtyRAD flies it: exp(i dz kz) with the carrier
        kz = 2 * np.pi * np.sqrt(1 / 0.0417**2 - (1 / (8 * result.pixel[0])) ** 2)
        assert file["model_attributes/H"][0, 1] == pytest.approx(np.exp(7.5j * kz), abs=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pixel": (0.5, 0.6)}, "pixel: .* is not square"),
        ({"probe": np.ones((1, 8, 6))}, "window: .* is not square"),
        ({"gaps": (7.0, 8.0)}, "gaps: .* differ"),
    ],
)
def test_what_ptyrad_cannot_say_is_refused(tmp_path, change, words):
    with pytest.raises(BadInput, match=words):
        export.ptyrad(replace(outcome(), **change), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("states", "slices"), [(2, 3), (1, 1), (1, 4)])
def test_our_own_result_is_a_model_too(tmp_path, states, slices):
    result = outcome(states, slices)
    result.save(tmp_path / "result.h5")
    found = read(tmp_path / "result.h5")
    wanted = result.object[None] if result.object_modes is None else result.object_modes
    np.testing.assert_array_equal(found.object, wanted)
    np.testing.assert_array_equal(found.probe, result.probe)
    np.testing.assert_array_equal(found.positions, result.positions)
    np.testing.assert_array_equal(found.tilts, result.tilts)
    assert (found.origin, found.pixel, found.thickness) == (ORIGIN, result.pixel, result.gaps)
    assert (found.wavelength, found.grid) == (0.0417, (3, 2))
    assert find_program(tmp_path / "result.h5") == "ours"


def test_a_result_of_the_first_release_has_equal_gaps(tmp_path):
    outcome(1, 3).save(tmp_path / "result.h5")
    with h5py.File(tmp_path / "result.h5", "a") as file:
        del file["gaps"], file["grid"], file["tilts"]
    found = read(tmp_path / "result.h5")
    assert (found.thickness, found.grid, found.tilts) == ((7.5, 7.5), None, None)


# TIFF


def opened(path):
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffFile(path) as file:
        return file.asarray(), file.imagej_metadata, file.pages[0].tags, file.series[0].axes


def names(paths):
    return [path.name for path in paths]


def test_names_say_what_is_inside(tmp_path):
    paths = export.stacks(
        outcome(),
        tmp_path,
        of=("phase", "amplitude", "probe"),
        dimensions=(2, 3, 4),
        bits=16,
        suffix="_iter0009",
    )
    assert names(paths) == [
        "phase_sum_crop_16bit_iter0009.tif",
        "phase_slices_crop_16bit_iter0009.tif",
        "phase_modes_crop_16bit_iter0009.tif",
        "amplitude_product_crop_16bit_iter0009.tif",
        "amplitude_slices_crop_16bit_iter0009.tif",
        "amplitude_modes_crop_16bit_iter0009.tif",
        "probe_amplitude_modes_16bit_iter0009.tif",
        "probe_phase_modes_16bit_iter0009.tif",
    ]
    assert all(path.is_file() for path in paths)
    assert sorted(names(tmp_path.iterdir())) == sorted(names(paths))


def test_raw_images_hold_the_values_of_the_result(tmp_path):
    result = outcome()
    paths = export.stacks(result, tmp_path, of=("amplitude",), dimensions=(2, 3, 4), crop=False)
    product, slices, modes = (opened(path) for path in paths)
    amplitude = np.abs(result.object_modes)
    mean = 0.7 * amplitude[0] + 0.3 * amplitude[1]
    np.testing.assert_allclose(modes[0], amplitude, rtol=1e-6)
    np.testing.assert_allclose(slices[0], mean, rtol=1e-6)
    np.testing.assert_allclose(product[0], mean.prod(0), rtol=1e-6)
    assert [axes for *_, axes in (product, slices, modes)] == ["YX", "ZYX", "TZYX"]
    assert modes[0].dtype == np.float32
    (total,) = export.stacks(result, tmp_path, dimensions=(2,), crop=False)
    np.testing.assert_allclose(opened(total)[0], result.phase, atol=1e-6)


def test_images_are_cut_to_the_scanned_field(tmp_path):
    result = outcome()
    whole, cut = (export.stacks(result, tmp_path, dimensions=(3,), crop=crop)[0] for crop in (False, True))
    assert opened(whole)[0].shape == (3, 21, 26)
    np.testing.assert_array_equal(opened(cut)[0], opened(whole)[0][(slice(None), *result.window)])
    assert opened(cut)[0].shape == (3, 9, 7)


@pytest.mark.parametrize(("bits", "dtype", "top"), [(8, np.uint8, 255), (16, np.uint16, 65535)])
def test_integers_lead_back_to_radians(tmp_path, bits, dtype, top):
    result = outcome()
    (path,) = export.stacks(result, tmp_path, dimensions=(4,), bits=bits, crop=False)
    values, metadata, _, _ = opened(path)
    (raw,) = export.stacks(result, tmp_path, dimensions=(4,), crop=False)
    truth = opened(raw)[0]
    assert (values.dtype, values.min(), values.max()) == (dtype, 0, top)
    assert (metadata["cf"], metadata["vunit"]) == (0, "rad")
    found = metadata["c0"] + metadata["c1"] * values
    np.testing.assert_allclose(found, truth, atol=0.51 * metadata["c1"])


def test_thirty_two_bits_run_from_0_to_1_and_flat_images_do_not_divide_by_zero(tmp_path):
    result = outcome()
    (path,) = export.stacks(result, tmp_path, dimensions=(3,), bits=32)
    values = opened(path)[0]
    assert (values.dtype, values.min(), values.max()) == (np.float32, 0, 1)
    flat = replace(result, object=np.ones((1, 21, 26)) + 0j, object_modes=None, occupancies=None)
    (path,) = export.stacks(flat, tmp_path, of=("amplitude",), dimensions=(2,), bits=8)
    assert not opened(path)[0].any()


def test_imagej_knows_pixel_and_spacing(tmp_path):
    result = outcome()
    (path,) = export.stacks(result, tmp_path, dimensions=(3,))
    _, metadata, tags, _ = opened(path)
    assert (metadata["unit"], metadata["spacing"], metadata["slices"]) == ("nm", 0.75, 3)
    for axis, pixel in (("YResolution", result.pixel[0]), ("XResolution", result.pixel[1])):
        number, parts = tags[axis].value
        assert number / parts == pytest.approx(10 / pixel, rel=1e-4)


def test_probe_modes_are_frames(tmp_path):
    result = outcome()
    amplitude, phase = export.stacks(result, tmp_path, of=("probe",))
    np.testing.assert_allclose(opened(amplitude)[0], np.abs(result.probe), rtol=1e-6)
    np.testing.assert_allclose(opened(phase)[0], np.angle(result.probe), rtol=1e-6)
    assert opened(amplitude)[3] == "TYX"


def test_wrong_dimensions_and_a_missing_library_are_sentences(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="choose from 2, 3 and 4"):
        export.stacks(outcome(), tmp_path, dimensions=(1,))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MissingExtra, match="formats"):
        export.stacks(outcome(), tmp_path)


def test_a_parameter_file_can_ask_for_exports(tmp_path):
    assert {"figures", "ptyrad", "stacks", "nexus", "mrc"} <= set(callable_in("phaseloom.export"))
    node = {"stacks": {"of": ["phase", "probe"], "dimensions": [2], "bits": 8, "crop": False}}
    paths = call("phaseloom.export", node, "outputs")(outcome(), tmp_path)
    assert names(paths)[0] == "phase_sum_08bit.tif"
    assert call("phaseloom.export", "ptyrad", "outputs")(outcome(), tmp_path).is_file()
    with pytest.raises(BadInput, match="bits"):
        call("phaseloom.export", {"stacks": {"bits": 12}}, "outputs")
