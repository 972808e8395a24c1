"""Exports say the same to plain readers, and to the programs that they are made for, as the result does."""

import json
import struct
from dataclasses import replace

import h5py
import numpy as np
import pytest

from phaseloom import export
from phaseloom.data.formats import native
from phaseloom.data.formats import read as read_scan
from phaseloom.data.importers import find_program, read
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.data.signals import find_raster_order, signals_of_scan
from phaseloom.errors import BadInput
from phaseloom.export import files as exports
from phaseloom.physics.optics import interaction
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result, Uncertainty
from tests.export.others import ask
from tests.export.test_export import ORIGIN, outcome

METADATA = {"sample": "graphene", "instrument": "Krios 2", "exposure_time": "1.5 ms", "title": "a hole"}


def made(**changes):
    """A result of three slices with everything that an export may have a place for."""
    one = outcome(states=1, slices=3)
    sigma = np.full(one.object.shape, 0.02, np.float32)
    sigma[:, :2] = np.nan
    given = {
        "metadata": METADATA,
        "uncertainty": Uncertainty(sigma, 0.02, 0.01),
        "title": "hole",
        "recipe": "a: 1\n",
    }
    return replace(one, **given | changes)


def raster(grid=(2, 3)):
    """A scan of different patterns on a raster with different steps."""
    rng = np.random.default_rng(3)
    geometry = Geometry(wavelength=0.0197, shape=(5, 4), angle=(1e-3, 2e-3), beam="electron")
    places = np.indices(grid).reshape(2, -1).T * [0.5, 0.4]
    counts = rng.poisson(3, (grid[0] * grid[1], 5, 4)).astype(np.uint16)
    return Scan4D(counts=counts, positions=places, geometry=geometry, grid=grid, metadata=METADATA)


def field_of(result):
    """First coordinate (y, x) of the scanned field, angstrom."""
    return [o + w.start * p for o, w, p in zip(result.origin, result.window, result.pixel, strict=True)]


# NeXus


def test_every_result_leads_a_nexus_viewer_to_its_phase(tmp_path):
    result = made()
    result.save(tmp_path / "result.h5")
    export.nexus(result, tmp_path / "result.nxs")
    for name in ("result.h5", "result.nxs"):
        with h5py.File(tmp_path / name) as file:
            entry = file[file.attrs["default"]]
            data = entry[entry.attrs["default"]]
            classes = [place.attrs["NX_class"] for place in (file, entry, data)]
            assert classes == ["NXroot", "NXentry", "NXdata"]
            assert (data.attrs["signal"], [*data.attrs["axes"]]) == ("phase", ["y", "x"])
            np.testing.assert_allclose(data["phase"], result.phase[result.window], atol=1e-6)
            assert (data["phase"].attrs["units"], data["y"].attrs["units"]) == ("rad", "nm")
            for name_, start, pixel in zip("yx", field_of(result), result.pixel, strict=True):
                size = data["phase"].shape["yx".index(name_)]
                np.testing.assert_allclose(data[name_], (start + pixel * np.arange(size)) / 10)


def test_a_nexus_entry_has_instrument_process_and_metadata(tmp_path):
    with h5py.File(export.nexus(made(), tmp_path)) as file:
        entry = file["entry"]
        kinds = {
            name: group.attrs["NX_class"] for name, group in entry.items() if isinstance(group, h5py.Group)
        }
        plotted = {name for name, kind in kinds.items() if kind == "NXdata"}
        assert plotted == {"phase", "amplitude", "object", "probe", "coverage", "sigma"}
        assert entry["probe"].attrs["x_indices"] == 2
        assert entry["instrument/beam/incident_energy"].attrs["units"] == "eV"
        assert entry["instrument/beam/incident_energy"][()] == pytest.approx(made().geometry.energy)
        assert entry["instrument/source/probe"].asstr()[()] == "electron"
        assert entry["instrument/name"].asstr()[()] == "Krios 2"
        assert entry["sample/name"].asstr()[()] == "graphene"
        assert entry["process/program"].asstr()[()] == "phaseloom"
        assert entry["process/recipe/data"].asstr()[()] == "a: 1\n"
        assert {k: v.asstr()[()] for k, v in entry["metadata"].items()} == METADATA
        assert entry["sigma/sigma"].attrs["units"] == "rad"
        np.testing.assert_array_equal(entry["object/object"], file["object"])


def test_a_nexus_file_is_a_result_for_everything_that_reads_one(tmp_path):
    path = export.nexus(made(), tmp_path / "all.nxs")
    found = Result.load(path)
    assert (found.metadata, found.recipe) == (METADATA, "a: 1\n")
    np.testing.assert_array_equal(found.object, made().object)
    assert find_program(path) == "ours"


def test_a_result_without_a_phase_is_kept_all_the_same(tmp_path, caplog):
    dark = made(coverage=np.zeros((21, 26)))
    dark.save(tmp_path / "dark.h5")
    np.testing.assert_array_equal(Result.load(tmp_path / "dark.h5").object, dark.object)
    assert "no phase to show" in caplog.text


def test_a_scan_in_nexus_is_read_back_whole(tmp_path):
    scan = raster()
    path = export.nexus(scan, tmp_path / "scan.nxs")
    found = read_scan(path)
    np.testing.assert_array_equal(found.counts[np.arange(6)], scan.counts)
    assert (found.geometry, found.grid, dict(found.metadata)) == (scan.geometry, (2, 3), METADATA)
    with h5py.File(path) as file:
        total = file["entry/total"]
        np.testing.assert_array_equal(total["total"], scan.counts.sum((1, 2)).reshape(2, 3))
        np.testing.assert_allclose(total["scan_x"], [0, 0.04, 0.08])
        np.testing.assert_array_equal(file["entry/patterns/patterns"], scan.counts)
        np.testing.assert_allclose(file["entry/patterns/angle_x"], [-4, -2, 0, 2])


@pytest.mark.medium
def test_silx_and_nexpy_plot_the_phase(tmp_path):
    program = (
        "import sys, json, h5py, nexusformat.nexus as nx\n"
        "from silx.io.nxdata import get_default\n"
        "out = []\n"
        "for path in sys.argv[1:]:\n"
        "    with h5py.File(path) as file:\n"
        "        data = get_default(file)\n"
        "        out.append([data.signal_dataset_name, bool(data.is_image), list(data.signal.shape)])\n"
        "    shown = nx.nxload(path).plottable_data\n"
        "    out[-1] += [shown.nxsignal.nxname, [axis.nxname for axis in shown.nxaxes]]\n"
        "print(json.dumps(out))\n"
    )
    result = made()
    result.save(tmp_path / "result.h5")
    names = [tmp_path / "result.h5", export.nexus(raster(), tmp_path / "scan.nxs")]
    names.append(export.cxi(result, tmp_path / "result.cxi"))
    shape = list(result.phase[result.window].shape)
    assert ask("silx", program, *names) == [
        ["phase", True, shape, "phase", ["y", "x"]],
        ["total", True, [2, 3], "total", ["scan_y", "scan_x"]],
        ["data", True, shape, "data", ["y", "x"]],
    ]


# ptychodus


@pytest.mark.parametrize("window", [8, 7])
def test_a_product_of_ptychodus_reads_back_as_the_result(tmp_path, window):
    result = replace(outcome(1, 3, window), metadata=METADATA, gaps=(7.0, 8.0))
    path = export.ptychodus(result, tmp_path)
    found = read(path)
    assert (path.name, find_program(path)) == ("product.h5", "ptychodus")
    np.testing.assert_array_equal(found.object[0], result.object)
    np.testing.assert_array_equal(found.probe, result.probe)
    np.testing.assert_allclose(found.positions, result.positions, rtol=1e-12)
    np.testing.assert_allclose(found.origin, ORIGIN, atol=1e-9)
    np.testing.assert_allclose(found.pixel, result.pixel)
    np.testing.assert_allclose(found.thickness, [7.0, 8.0])
    assert found.wavelength == pytest.approx(result.geometry.wavelength, rel=1e-7)


def test_a_product_has_the_layout_of_ptychodus(tmp_path):
    result = replace(outcome(1, 3), metadata=METADATA)
    with h5py.File(export.ptychodus(result, tmp_path)) as file:
        assert file["probe"].shape == (1, 2, 8, 8)
        assert file["object"].shape == (3, 21, 26)
        assert file["object"].attrs["pixel_width_m"] == pytest.approx(result.pixel[1] * 1e-10)
        # a window of eight begins at (position - center) / pixel + (size - 8) / 2; its pixel 4 is the middle
        image = file["object"].attrs
        column = (file["probe_position_x_m"][2] - image["center_x_m"]) / image["pixel_width_m"] + 13
        assert column == pytest.approx((result.positions[2, 1] - ORIGIN[1]) / result.pixel[1])
        assert file.attrs["exposure_time_s"] == pytest.approx(1.5e-3)
        assert json.loads(file.attrs["comments"])["sample"] == "graphene"
        np.testing.assert_array_equal(file["loss_values"], [1.5, 1.25])
        assert file.attrs["probe_photon_count"] == pytest.approx((np.abs(result.probe) ** 2).sum())


@pytest.mark.parametrize("modes", [1, 2])
def test_a_probe_that_changes_keeps_its_changes_in_the_first_mode(tmp_path, modes):
    rng = np.random.default_rng(1)
    mixed = (rng.normal(size=(6, modes, 2)) + 1j * rng.normal(size=(6, modes, 2))).astype(np.complex64)
    result = replace(outcome(1, 1), opr_weights=mixed)
    path = export.ptychodus(result, tmp_path)
    found = read(path)
    own = np.einsum("nmb,byx->nmyx", found.opr_weights, found.probe)
    wanted = np.einsum("nmb,byx->nmyx", mixed, result.probe)
    np.testing.assert_allclose(own[:, 0], wanted[:, 0], atol=1e-5)
    with h5py.File(path) as file:
        assert file["opr_weights"].dtype.kind == "f"
        first = np.tensordot(file["opr_weights"][3], file["probe"][:, 0], axes=1)
        np.testing.assert_allclose(first, wanted[3, 0], atol=1e-5)


@pytest.mark.medium
@pytest.mark.parametrize("window", [8, 7])
def test_ptychodus_places_the_beam_where_we_do(tmp_path, window):
    program = (
        "import sys, json, numpy as np\n"
        "from ptychodus.api.io import load_product\n"
        "product = load_product(sys.argv[1])\n"
        "geometry = product.object_.get_geometry()\n"
        "points = [geometry.map_coordinates_probe_to_object(p) for p in product.probe_positions]\n"
        "half = (product.probes.width_px - 1) / 2\n"
        "middle = product.probes.width_px // 2\n"
        "print(json.dumps({'at': [[p.y_px - half + middle, p.x_px - half + middle] for p in points],\n"
        "    'layers': product.object_.num_layers, 'modes': product.probes.num_incoherent_modes,\n"
        "    'wavelength': product.metadata.photon_wavelength_m,\n"
        "    'phase': float(np.angle(product.object_.get_array()[1, 3, 4])),\n"
        "    'losses': len(product.losses)}))\n"
    )
    result = outcome(1, 3, window)
    found = ask("ptychodus.api.io", program, export.ptychodus(result, tmp_path))
    pixels = (result.positions - result.origin) / np.array(result.pixel)
    np.testing.assert_allclose(found["at"], pixels, atol=1e-6)
    assert (found["layers"], found["modes"], found["losses"]) == (3, 2, 2)
    assert found["wavelength"] == pytest.approx(result.geometry.wavelength * 1e-10, rel=1e-6)
    assert found["phase"] == pytest.approx(np.angle(result.object[1, 3, 4]), abs=1e-6)


@pytest.mark.medium
def test_a_run_starts_from_a_product_as_from_a_model_of_ptyrad(finished, tree, tmp_path):
    result = finished.result()
    losses = []
    for path in (export.ptychodus(result, tmp_path), export.ptyrad(result, tmp_path)):
        parts = {name: {"from_file": {"path": str(path)}} for name in ("object", "probe")}
        job = Job.begin(Reconstruct.of({**tree, **parts, "epochs": 1}))
        losses += [epoch.loss for epoch in job]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0] < finished.progress.history[0]["loss"] / 1.2


@pytest.mark.parametrize("name", ["probe", "object", "probe_position_y_m", "opr_weights"])
def test_a_damaged_product_is_a_sentence(tmp_path, name):
    path = export.ptychodus(replace(outcome(1, 1), opr_weights=np.ones((6, 1, 2), np.complex64)), tmp_path)
    with h5py.File(path, "a") as file:
        del file[name]
        if name == "opr_weights":
            file[name] = np.ones((6, 3))
    with pytest.raises(BadInput, match=f"lacks {name}|is not a known|does not fit 4 coherent"):
        read(path)


# EMD


def test_an_emd_file_has_arrays_with_linear_axes(tmp_path):
    result = made()
    with h5py.File(export.emd(result, tmp_path)) as file:
        assert (file.attrs["emd_group_type"], file.attrs["version_major"], file.attrs["version_minor"]) == (
            "file",
            1,
            0,
        )
        root = file["phaseloom"]
        assert root.attrs["emd_group_type"] == "root"
        phase = root["phase"]
        assert (phase.attrs["emd_group_type"], phase.attrs["python_class"]) == ("array", "Array")
        start, pixel = field_of(result)[0], result.pixel[0]
        np.testing.assert_allclose(phase["dim0"], [start, start + pixel])
        assert (phase["dim0"].attrs["name"], phase["dim0"].attrs["units"]) == ("y", "A")
        np.testing.assert_allclose(root["object/dim0"], [0, 7.5])
        assert root["metadatabundle/scan/sample"][()] == b"graphene"
        assert root["metadatabundle/scan/sample"].attrs["type"] == b"string"


@pytest.mark.medium
def test_py4dstem_opens_a_scan_as_a_calibrated_datacube(tmp_path):
    program = (
        "import sys, json, py4DSTEM\n"
        "cube = py4DSTEM.read(sys.argv[1])\n"
        "cal = cube.calibration\n"
        "print(json.dumps([type(cube).__name__, list(cube.shape), cube.data[1, 2].tolist(),\n"
        "    cal.get_R_pixel_size(), cal.get_R_pixel_units(),\n"
        "    cal.get_Q_pixel_size(), cal.get_Q_pixel_units()]))\n"
    )
    scan = raster()
    kind, shape, pattern, step, unit, frequency, frequency_unit = ask(
        "py4DSTEM", program, export.emd(scan, tmp_path / "cube.emd")
    )
    assert (kind, shape, pattern) == ("DataCube", [2, 3, 5, 4], scan.counts[5].tolist())
    assert (step, unit, frequency_unit) == (pytest.approx(0.4), "A", "A^-1")
    assert frequency == pytest.approx(2e-3 / 0.0197)


@pytest.mark.medium
def test_emdfile_opens_the_images_of_a_result(tmp_path):
    program = (
        "import sys, json, emdfile, numpy as np\n"
        "root = emdfile.read(sys.argv[1])\n"
        "phase, wave = root.tree('phase'), root.tree('object')\n"
        "print(json.dumps([float(phase.data[1, 2]), phase.units, phase.dim_units, phase.dim_names,\n"
        "    [float(d[1] - d[0]) for d in phase.dims], float(np.angle(wave.data[2, 3, 4])),\n"
        "    root.metadata['scan']['sample'], root.metadata['beam']['energy_eV']]))\n"
    )
    result = made()
    value, unit, units, names, steps, phase, sample, energy = ask(
        "emdfile", program, export.emd(result, tmp_path)
    )
    assert value == pytest.approx(result.phase[result.window][1, 2], abs=1e-6)
    assert (unit, units, names, sample) == ("rad", ["A", "A"], ["y", "x"], "graphene")
    np.testing.assert_allclose(steps, result.pixel)
    assert phase == pytest.approx(np.angle(result.object[2, 3, 4]), abs=1e-6)
    assert energy == pytest.approx(result.geometry.energy)


# HyperSpy


def test_a_hyperspy_file_has_axes_with_scale_and_offset(tmp_path):
    result = made()
    with h5py.File(export.hspy(result, tmp_path)) as file:
        assert (file.attrs["file_format"], file.attrs["file_format_version"]) == ("HyperSpy", "3.3")
        axis = dict(file["Experiments/phase/axis-0"].attrs)
        assert (axis["name"], axis["units"], axis["_type"]) == ("y", "nm", "UniformDataAxis")
        assert (axis["scale"], axis["offset"]) == pytest.approx(
            (result.pixel[0] / 10, field_of(result)[0] / 10)
        )
        assert file["Experiments/object/axis-0"].attrs["navigate"]
        assert file["Experiments/phase/original_metadata/scan"].attrs["instrument"] == "Krios 2"


@pytest.mark.medium
def test_rosettasciio_opens_result_and_scan(tmp_path):
    program = (
        "import sys, json\n"
        "from rsciio.hspy import file_reader\n"
        "out = []\n"
        "for path in sys.argv[1:]:\n"
        "    for s in file_reader(path):\n"
        "        axes = [[a['name'], float(a['scale']), a['units'], bool(a['navigate'])]\n"
        "                for a in s['axes']]\n"
        "        title = s['metadata']['General']['title']\n"
        "        out.append([title, list(s['data'].shape), axes, str(s['data'].ravel()[5])])\n"
        "print(json.dumps(out))\n"
    )
    result, scan = made(), raster()
    paths = [export.hspy(result, tmp_path / "r.hspy"), export.hspy(scan, tmp_path / "s.hspy")]
    found = {title: rest for title, *rest in ask("rsciio.hspy", program, *paths)}
    shape, axes, value = found["hole: phase"]
    assert shape == list(result.phase[result.window].shape)
    assert axes[1] == ["x", pytest.approx(result.pixel[1] / 10), "nm", False]
    assert float(value) == pytest.approx(result.phase[result.window].ravel()[5], abs=1e-6)
    shape, axes, value = found["a hole: patterns"]
    assert (shape, value) == ([2, 3, 5, 4], str(scan.counts.ravel()[5]))
    assert axes[0] == ["scan_y", pytest.approx(0.05), "nm", True]
    assert axes[3] == ["angle_x", pytest.approx(2.0), "mrad", False]


# MRC


def header_of(path):
    """The fields of an MRC header, read by their words."""
    start = path.read_bytes()[:1024]
    names = ("nx", "ny", "nz", "mode", "x0", "y0", "z0", "mx", "my", "mz")
    fields = dict(zip(names, struct.unpack("<10i", start[:40]), strict=True))
    fields["cell"] = struct.unpack("<6f", start[40:64])
    fields["maps"] = struct.unpack("<3i", start[64:76])
    fields["range"] = struct.unpack("<3f", start[76:88])
    fields["group"], fields["extended"] = struct.unpack("<2i", start[88:96])
    fields["version"] = struct.unpack("<i", start[108:112])[0]
    fields["origin"] = struct.unpack("<3f", start[196:208])
    fields["map"], fields["stamp"] = start[208:212], start[212:216]
    fields["rms"], fields["labels"] = struct.unpack("<fi", start[216:224])
    fields["text"] = start[224:304].decode().strip()
    return fields


def test_an_mrc_image_has_its_cell_in_angstrom(tmp_path):
    result = made()
    path = export.mrc(result, tmp_path)
    phase = result.phase[result.window].astype(np.float32)
    rows, columns = phase.shape
    head = header_of(path)
    assert path.name == "phase.mrc"
    assert [head[name] for name in ("nx", "ny", "nz", "mode", "mz")] == [columns, rows, 1, 2, 1]
    height, width = result.pixel
    np.testing.assert_allclose(head["cell"], [columns * width, rows * height, 1, 90, 90, 90], rtol=1e-6)
    np.testing.assert_allclose(head["origin"], [*field_of(result)[::-1], 0], rtol=1e-6)
    np.testing.assert_allclose(head["range"], [phase.min(), phase.max(), phase.mean()], atol=1e-6)
    assert (head["map"], head["stamp"], head["version"]) == (b"MAP ", b"\x44\x44\x00\x00", 20141)
    assert (head["maps"], head["group"], head["extended"]) == ((1, 2, 3), 0, 0)
    assert head["text"].endswith("phase (rad)")
    np.testing.assert_array_equal(np.fromfile(path, "<f4", offset=1024).reshape(rows, columns), phase)


def test_slices_are_a_volume_and_waves_are_complex(tmp_path):
    result = made()
    path = export.mrc(result, tmp_path, of="phase_slices")
    slices = np.fromfile(path, "<f4", offset=1024).reshape(3, *result.phase[result.window].shape)
    np.testing.assert_allclose(
        slices / interaction(result.geometry.energy), result.potential[:, *result.window], rtol=1e-4
    )
    volume = header_of(export.mrc(result, tmp_path, of="sigma"))
    assert (volume["nz"], volume["mz"], volume["group"], volume["mode"]) == (3, 3, 1, 2)
    assert volume["cell"][2] == pytest.approx(22.5)
    assert np.isfinite(volume["range"]).all()
    path = export.mrc(result, tmp_path, of="probe")
    assert (header_of(path)["mode"], header_of(path)["group"]) == (4, 0)
    np.testing.assert_array_equal(np.fromfile(path, "<c8", offset=1024).reshape(2, 8, 8), result.probe)


@pytest.mark.medium
def test_mrcfile_finds_nothing_wrong(tmp_path):
    program = (
        "import sys, json, io, mrcfile\n"
        "out = []\n"
        "for path in sys.argv[1:]:\n"
        "    words = io.StringIO()\n"
        "    good = mrcfile.validate(path, words)\n"
        "    with mrcfile.open(path) as m:\n"
        "        out.append([good, list(m.data.shape), float(m.voxel_size.x)])\n"
        "        out[-1] += [bool(m.is_volume()), words.getvalue()]\n"
        "print(json.dumps(out))\n"
    )
    result = made(uncertainty=Uncertainty(np.full((3, 21, 26), 0.02, np.float32), 0.02, 0.01))
    paths = [export.mrc(result, tmp_path / f"{of}.mrc", of=of) for of in ("phase", "sigma", "coverage")]
    for (good, shape, pixel, volume, words), of in zip(
        ask("mrcfile", program, *paths), ("phase", "sigma", ""), strict=True
    ):
        assert good, words
        assert pixel == pytest.approx(result.pixel[1], rel=1e-5)
        assert (len(shape) == 3, volume) == (of == "sigma", of == "sigma")


# TIFF


def test_imagej_knows_scale_origin_and_metadata(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    result = made()
    with tifffile.TiffFile(export.tiff(result, tmp_path)) as file:
        described = file.imagej_metadata
        np.testing.assert_allclose(file.asarray(), result.phase[result.window], atol=1e-6)
        assert (file.asarray().dtype, described["unit"]) == (np.float32, "nm")
        assert "sample: graphene" in described["Info"]
        number, parts = file.pages[0].tags["XResolution"].value
        assert number / parts == pytest.approx(10 / result.pixel[1], rel=1e-4)
        column = -field_of(result)[1] / result.pixel[1]
        assert float(described["xorigin"]) == pytest.approx(column, rel=1e-4)
    with tifffile.TiffFile(export.tiff(result, tmp_path, of="sigma")) as file:
        assert (file.imagej_metadata["slices"], file.imagej_metadata["spacing"]) == (3, 0.75)
        assert np.isfinite(file.asarray()).all()


# CXI


def test_a_cxi_file_of_a_result_has_object_probe_and_metadata(tmp_path):
    result = made()
    with h5py.File(export.cxi(result, tmp_path)) as file:
        entry = file["entry_1"]
        np.testing.assert_array_equal(entry["image_1/data"], result.object)
        np.testing.assert_array_equal(entry["image_2/data"], result.probe)
        assert entry["sample_1/name"].asstr()[()] == "graphene"
        assert json.loads(entry["note_1/data"].asstr()[()])["instrument"] == "Krios 2"
        np.testing.assert_allclose(entry["data_1/x"][0], field_of(result)[1] * 1e-10)


def test_metadata_of_a_scan_survive_cxi(tmp_path):
    path = export.cxi(raster(), tmp_path / "scan.cxi")
    assert dict(read_scan(path).metadata) == METADATA


@pytest.mark.parametrize("is_snake", [False, True])
def test_a_cxi_scan_on_a_raster_becomes_a_raster_of_four_axes(tmp_path, is_snake):
    """CXI states positions only; motors are a few percent off, the raster is turned and may be a snake."""
    scan = raster((4, 5))
    order = np.arange(20).reshape(4, 5)
    order[1::2] = order[1::2, ::-1] if is_snake else order[1::2]
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    noise = np.random.default_rng(1).normal(0, 0.01, (20, 2))
    moved = replace(
        scan.select(order.ravel()), positions=scan.positions[order.ravel()] @ turn + noise, grid=None
    )
    path = export.cxi(moved, tmp_path / "scan.cxi")
    read_back = read_scan(path)
    assert read_back.grid is None
    with h5py.File(export.emd(read_back, tmp_path)) as file:
        assert file["phaseloom/datacube/data"].shape == (4, 5, 5, 4)
        np.testing.assert_array_equal(file["phaseloom/datacube/data"][()], scan.counts.reshape(4, 5, 5, 4))
        np.testing.assert_allclose(np.diff(file["phaseloom/datacube/dim0"]), 0.5, rtol=0.1)
    with h5py.File(export.hspy(read_back, tmp_path)) as file:
        assert file["Experiments/patterns/data"].shape == (4, 5, 5, 4)
    for name in ("phaseloom.emd", "phaseloom.hspy"):
        found = read_scan(tmp_path / name)
        np.testing.assert_allclose(found.positions, scan.positions @ turn, atol=0.05)
        assert found.grid == (4, 5)


@pytest.mark.parametrize(
    "positions",
    [
        np.random.default_rng(0).random((20, 2)),
        np.indices((4, 5)).reshape(2, -1).T[:-1],
        np.column_stack([np.arange(20.0), np.zeros(20)]),
        np.zeros((20, 2)),
        np.indices((4, 5)).reshape(2, -1).T @ [[0.0, 1.0], [0.05, 1.0]],
    ],
    ids=["random", "cut", "line", "still", "flat"],
)
def test_positions_off_a_raster_stay_a_list(positions):
    assert find_raster_order(positions.astype(float)) is None


@pytest.mark.parametrize("name", ["scan.nxs", "scan.cxi", "scan.emd", "scan.hspy"])
@pytest.mark.parametrize("grid", [(2, 3), None])
def test_an_exported_scan_is_read_back_whole(tmp_path, name, grid):
    scan = replace(raster(), grid=grid, mask=np.arange(20).reshape(5, 4) > 2, oriented=False)
    exports.write(scan, tmp_path / name)
    found = read_scan(tmp_path / name)
    np.testing.assert_array_equal(found.counts[np.arange(6)], scan.counts)
    np.testing.assert_array_equal(found.mask, scan.mask)
    np.testing.assert_allclose(found.positions, scan.positions, atol=1e-9)
    # these two hold four axes where positions are a raster, and then say so
    wanted = (2, 3) if name in ("scan.emd", "scan.hspy") else grid
    assert (found.grid, found.oriented, dict(found.metadata)) == (wanted, False, METADATA)
    np.testing.assert_allclose(found.geometry.angle, scan.geometry.angle)
    assert found.geometry.wavelength == pytest.approx(scan.geometry.wavelength)


@pytest.mark.parametrize("name", ["scan.nxs", "scan.cxi", "scan.emd", "scan.hspy"])
def test_odd_and_long_metadata_are_kept(tmp_path, name):
    odd = {"a/b": "1", "a_b": "2", "..": "3", "": "4", "header": "é\n" * 60_000, "zero": "5"}
    scan = replace(raster(), metadata=odd)
    exports.write(scan, tmp_path / name)
    assert dict(read_scan(tmp_path / name).metadata) == odd
    for format in ("nexus", "cxi", "emd", "hspy", "ptychodus", "mrc"):
        exports.write(made(metadata=odd | {"nul\0": "a\0b"}), tmp_path / f"result.{format}", format=format)


# all of them


@pytest.mark.parametrize("name", ["a.nxs", "a.h5", "a.cxi", "a.emd", "a.hspy", "a.mrc", "a.tif"])
def test_the_ending_chooses_the_format(tmp_path, name):
    if name.endswith("tif"):
        pytest.importorskip("tifffile")
    (path,) = exports.write(made(), tmp_path / name)
    assert path == tmp_path / name
    assert path.stat().st_size > 500
    made().save(tmp_path / "saved" / name)
    assert (tmp_path / "saved" / name).is_file()


@pytest.mark.parametrize(
    ("name", "format", "knobs", "words"),
    [
        ("a.xyz", "auto", {}, "a.xyz has no known ending: use one of .h5"),
        ("a.nxs", "nexuss", {}, "did you mean 'nexus'"),
        ("a.mrc", "auto", {"of": "fase"}, "fase is not there: did you mean 'phase'"),
        ("a.mrc", "auto", {"off": "phase"}, "there is no 'off'; did you mean 'of'"),
        ("a.tif", "auto", {"of": "probe"}, "probe is not a real image"),
    ],
)
def test_a_wrong_format_or_knob_is_a_sentence(tmp_path, name, format, knobs, words):
    with pytest.raises(BadInput, match=words):
        exports.write(made(), tmp_path / name, format=format, knobs=knobs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["mrc", "tiff", "ptychodus", "ptyrad", "stacks", "figures"])
def test_what_a_format_cannot_hold_is_a_sentence(tmp_path, format):
    with pytest.raises(BadInput, match="is a scan"):
        exports.write(raster(), tmp_path / "a.x", format=format)


@pytest.mark.parametrize("format", ["cxi", "emd", "hspy", "mrc", "nexus", "ptychodus"])
def test_a_scan_off_a_raster_and_a_small_result_are_written_too(tmp_path, format):
    scan = replace(raster(), grid=None)
    result = replace(outcome(1, 1), provenance=None, history=[])
    exports.write(result, tmp_path / "r.x", format=format)
    if format not in ("mrc", "ptychodus"):
        exports.write(scan, tmp_path / "s.x", format=format)


def test_patterns_are_copied_from_their_file_in_blocks(tmp_path, monkeypatch):
    scan = raster((4, 5))
    spread = np.random.default_rng(0).random((20, 2))
    native.write(scan, tmp_path / "scan.h5")
    lazy = native.read(tmp_path / "scan.h5")
    monkeypatch.setattr("phaseloom.data.signals.MAX_BYTES_OF_BLOCK", 2 * 5 * 4 * 2)
    for grid in ((4, 5), None):
        one = lazy if grid else replace(lazy, grid=None, positions=spread)
        with h5py.File(export.emd(one, tmp_path / f"{grid}.emd")) as file:
            data = file["phaseloom/datacube/data" if grid else "phaseloom/patterns/data"][()]
        np.testing.assert_array_equal(data.reshape(20, 5, 4), scan.counts)
    assert signals_of_scan(lazy).signals[0].shape == (4, 5, 5, 4)
