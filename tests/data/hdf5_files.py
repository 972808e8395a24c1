"""Files of every kind of `phaseloom.data.formats.kinds`, written from the layouts of their programs."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

GUID = "18d9446f-22bf-4fb1-8d13-338174e75d20"
Patterns = np.ndarray
Grid = tuple[int, int]

HC = 12.398419843320025
"""keV angstrom."""


def _raster(patterns: Patterns, grid: Grid) -> np.ndarray:
    return patterns.reshape(*grid, *patterns.shape[1:])


def _places(grid: Grid, step: float) -> np.ndarray:
    """Positions (row, column) of a raster, in whatever unit the step is in."""
    return np.indices(grid).reshape(2, -1).T * step


def write_emd(path: Path, patterns: Patterns, grid: Grid, *, flipped: bool = False) -> Path:
    """NCEM: ``dim1 ... dimN`` with units in brackets; ``flipped`` puts the detector first."""
    data = _raster(patterns, grid)
    steps = [(0.2, "[n_m]"), (0.3, "[n_m]"), (0.4, "[mrad]"), (0.5, "[mrad]")]
    order = (2, 3, 0, 1) if flipped else (0, 1, 2, 3)
    with h5py.File(path, "w") as file:
        file.attrs.update(version_major=0, version_minor=2)
        group = file.create_group("data/scan")
        group.attrs["emd_group_type"] = 1
        group["data"] = data.transpose(order)
        for number, axis in enumerate(order, 1):
            step, units = steps[axis]
            group[f"dim{number}"] = np.arange(data.shape[axis]) * step
            group[f"dim{number}"].attrs.update(name=np.bytes_(f"a{axis}"), units=np.bytes_(units))
        file.create_group("microscope").attrs.update(voltage=200.0, name="TEAM I")
        file.create_group("sample").attrs["material"] = np.bytes_("gold")
        file.create_group("user").attrs["user"] = "A. Person"
        file.create_group("comments")
    return path


def write_py4dstem(path: Path, patterns: Patterns, grid: Grid, *, calibration: bool = True) -> Path:
    """Version 0.13 and later: emdfile's tree, with the calibration among the metadata of the root."""
    with h5py.File(path, "w") as file:
        file.attrs.update(
            emd_group_type="file", version_major=1, version_minor=0, authoring_program="py4DSTEM"
        )
        root = file.create_group("datacube_root")
        root.attrs.update(emd_group_type="root", python_class="Root")
        cube = root.create_group("datacube")
        cube.attrs.update(emd_group_type="array", python_class="DataCube")
        cube["data"] = _raster(patterns, grid)
        cube["data"].attrs["units"] = "pixel intensity"
        steps = [(2.0, "A"), (3.0, "A"), (0.02, "A^-1"), (0.02, "A^-1")]
        for number, (step, units) in enumerate(steps):
            cube[f"dim{number}"] = np.array([0.0, step])
            cube[f"dim{number}"].attrs.update(name=f"axis {number}", units=units)
        if calibration:
            group = root.create_group("metadatabundle/calibration")
            group.attrs.update(emd_group_type="metadata", python_class="Calibration")
            values = {"Q_pixel_size": 0.02, "Q_pixel_units": "A^-1", "R_pixel_units": "A", "QR_flip": False}
            for name, value in (values | {"QR_rotation_degrees": 12.0}).items():
                group[name] = value
    return path


def write_py4dstem_old(path: Path, patterns: Patterns, grid: Grid) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs.update(version_major=0, version_minor=9)
        cube = file.create_group("4DSTEM_experiment/data/datacubes/datacube_0")
        cube.attrs["emd_group_type"] = 1
        cube["data"] = _raster(patterns, grid)
        for number, (step, units) in enumerate([(2.0, "A"), (3.0, "A"), (0.4, "mrad"), (0.4, "mrad")], 1):
            cube[f"dim{number}"] = np.arange(cube["data"].shape[number - 1]) * step
            cube[f"dim{number}"].attrs["units"] = units
    return path


def write_velox(path: Path, patterns: Patterns, grid: Grid, *, unit: str = "1/m") -> Path:
    """A series of diffraction patterns ``(y, x, n)``, with JSON as bytes in a column for each."""
    notes = {
        "Optics": {"AccelerationVoltage": "200000", "CameraLength": "0.3", "BeamConvergence": "0.02"},
        "BinaryResult": {
            "PixelSize": {"width": "2e8", "height": "2e8"},
            "PixelUnitX": unit,
            "Detector": "Ceta",
        },
        "Scan": {"ScanSize": {"width": str(grid[1]), "height": str(grid[0])}, "DwellTime": "1e-05"},
        "Instrument": {"InstrumentModel": "Titan"},
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1700000000"}},
    }
    text = np.frombuffer(json.dumps(notes).encode().ljust(2000, b"\0"), np.uint8)
    with h5py.File(path, "w") as file:
        file["Version"] = np.bytes_(json.dumps({"format": "Velox", "version": "1.10"}))
        group = file.create_group("Data/Image/0123456789abcdef")
        group["Data"] = patterns.transpose(1, 2, 0)
        group["Metadata"] = np.repeat(text[:, None], len(patterns), 1)
    return path


def write_hspy(path: Path, patterns: Patterns, grid: Grid) -> Path:
    with h5py.File(path, "w") as file:
        fill_hspy(file, _raster(patterns, grid))
    return path


def fill_hspy(file: Any, data: np.ndarray) -> None:
    """HyperSpy's tree, of HDF5 or of Zarr."""
    file.attrs["file_format"] = "HyperSpy"
    file.attrs["file_format_version"] = "3.3"
    group = file.create_group("Experiments/scan")
    if isinstance(file, h5py.File):
        group["data"] = data
    else:
        group.create_array("data", data=data, chunks=data.shape)
    steps = [(0.2, "nm", True), (0.3, "nm", True), (0.4, "mrad", False), (0.5, "mrad", False)]
    for number, (step, units, navigate) in enumerate(steps):
        axis = group.create_group(f"axis-{number}")
        axis.attrs["_type"] = "UniformDataAxis"
        for name, value in {"scale": step, "offset": 0.0, "size": data.shape[number]}.items():
            axis.attrs[name] = value
        axis.attrs["units"], axis.attrs["navigate"], axis.attrs["name"] = units, navigate, f"a{number}"
        axis.attrs["is_binned"] = False
    microscope = group.create_group("metadata/Acquisition_instrument/TEM")
    for name, value in {"beam_energy": 200.0, "camera_length": 80.0, "convergence_angle": 20.0}.items():
        microscope.attrs[name] = value
    general = group.create_group("metadata/General")
    general.attrs["title"], general.attrs["date"] = "two µm of gold", "2024-05-06"
    group.create_group("metadata/Signal").attrs["signal_type"] = "electron_diffraction"
    group.create_group("original_metadata")
    group.create_group("learning_results")


def write_zspy(path: Path, patterns: Patterns, grid: Grid) -> Path:
    import zarr

    fill_hspy(zarr.open_group(path, mode="w", zarr_format=2), _raster(patterns, grid))
    return path


def nion_properties(shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    calibrations = [(0.2, "nm"), (0.3, "nm"), (0.0004, "rad"), (0.0005, "rad")]
    return {
        "data_shape": shape,
        "data_dtype": dtype,
        "is_sequence": False,
        "collection_dimension_count": 2,
        "datum_dimension_count": 2,
        "dimensional_calibrations": [
            {"offset": 0.0, "scale": scale, "units": units} for scale, units in calibrations
        ],
        "metadata": {
            "instrument": {"high_tension": 80000.0, "defocus": 1e-8},
            "hardware_source": {"hardware_source_name": "Ronchigram", "exposure": 0.001},
        },
        "title": "Spectrum image",
        "created": "2024-05-06T07:08:09",
    }


def write_nion(path: Path, patterns: Patterns, grid: Grid) -> Path:
    data = _raster(patterns, grid)
    with h5py.File(path, "w") as file:
        file["data"] = data
        item = {"type": "data-item", "data_sources": [nion_properties(data.shape, str(data.dtype))]}
        file["data"].attrs["properties"] = json.dumps(item)
    return path


def write_nhdf(path: Path, patterns: Patterns, grid: Grid) -> Path:
    data = _raster(patterns, grid)
    with h5py.File(path, "w") as file:
        file["data/1a2b"] = data
        file["data/1a2b"].attrs["properties"] = json.dumps(nion_properties(data.shape, str(data.dtype)))
    return path


def write_ndata(path: Path, patterns: Patterns, grid: Grid, *, compressed: bool = False) -> Path:
    data = _raster(patterns, grid)
    np.save(path.with_suffix(".npy"), data)
    properties = nion_properties(data.shape, str(data.dtype))
    properties["spatial_calibrations"] = properties.pop("dimensional_calibrations")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.write(path.with_suffix(".npy"), "data.npy")
        archive.writestr("metadata.json", json.dumps(properties))
    path.with_suffix(".npy").unlink()
    return path


FRAME_XML = """<Metadata><Calibration><X><Offset>-1</Offset><Scale>0.5</Scale><Unit><Name>milliradian</Name>
<Symbol>mrad</Symbol></Unit></X><Y><Offset>-1</Offset><Scale>0.4</Scale><Unit><Name>milliradian</Name>
<Symbol>mrad</Symbol></Unit></Y></Calibration><Values><Value><Name>Beam</Name><Position><X>{x}</X><Y>{y}</Y>
</Position></Value></Values></Metadata>"""
SESSION_XML = """<Metadata><Id>id</Id><Title>SPED</Title></Metadata>"""


def write_topspin(path: Path, patterns: Patterns, grid: Grid, *, session: bool = False) -> Path:
    """A data set and an XML text for each pattern, numbered in raster order."""
    with h5py.File(path, "w") as file:
        top = file.create_group("0f000000-0000-0000-0000-000000000001") if session else file
        top["Metadata"] = np.bytes_(SESSION_XML)
        for number, pattern in enumerate(patterns):
            row, column = divmod(number, grid[1])
            group = top.create_group(f"{GUID}/{number}")
            group["Data"] = pattern
            group["Metadata"] = np.bytes_(FRAME_XML.format(x=column * 3e-10, y=row * 2e-10))
    return path


def write_master(
    path: Path,
    patterns: Patterns,
    *,
    per_file: int = 4,
    electrons: bool = False,
    filters: bool = False,
    bits: int | None = None,
) -> Path:
    """A master file of DECTRIS that links to files of some patterns each."""
    stem = path.name.removesuffix("_master.h5")
    mask = np.zeros(patterns.shape[1:], np.uint32)
    mask[0, -1] = 8
    with h5py.File(path, "w") as file:
        file["entry/definition"] = "NXmx"
        detector = file.create_group("entry/instrument/detector")
        detector["description"] = "Dectris ARINA Si" if electrons else "Dectris EIGER2 Si 1M"
        detector["bit_depth_image"] = bits or 8 * patterns.dtype.itemsize
        values = {"count_time": (1e-5, "s"), "frame_time": (2e-5, "s"), "x_pixel_size": (75e-6, "m")}
        values |= {"y_pixel_size": (75e-6, "m"), "detector_distance": (2.0, "m")}
        values |= {"beam_center_x": (2.0, "pixel"), "beam_center_y": (2.0, "pixel")}
        for name, (value, units) in values.items():
            detector[name] = np.float32(value)
            detector[name].attrs["units"] = np.bytes_(units)
        specific = detector.create_group("detectorSpecific")
        specific["photon_energy"] = np.float32(300000.0 if electrons else 8800.0)
        specific["photon_energy"].attrs["units"] = np.bytes_("eV")
        specific["nimages"], specific["ntrigger"] = 1, len(patterns)
        specific["pixel_mask"] = mask
        specific["data_collection_date"] = "2024-05-06T07:08:09.000"
        file["entry/instrument/beam/incident_wavelength"] = np.float32(HC / (300 if electrons else 8.8))
        file["entry/instrument/beam/incident_wavelength"].attrs["units"] = "angstrom"
        group = file.create_group("entry/data")
        for number, start in enumerate(range(0, len(patterns), per_file), 1):
            linked = path.with_name(f"{stem}_data_{number:06d}.h5")
            some = patterns[start : start + per_file]
            with h5py.File(linked, "w") as other:
                if filters:
                    import hdf5plugin

                    how = hdf5plugin.Bitshuffle(cname="lz4")
                    other.create_dataset("entry/data/data", data=some, chunks=(1, *some.shape[1:]), **how)
                else:
                    other["entry/data/data"] = some
            group[f"data_{number:06d}"] = h5py.ExternalLink(linked.name, "/entry/data/data")
    return path


def write_arina(path: Path, patterns: Patterns, grid: Grid) -> Path:
    return write_master(path, patterns, electrons=True)


def write_nxmx(path: Path, patterns: Patterns, grid: Grid) -> Path:
    return write_master(path, patterns)


def write_ptyd(path: Path, patterns: Patterns, grid: Grid, *, propagation: str = "farfield") -> Path:
    places = _places(grid, 2e-7)
    with h5py.File(path, "w") as file:
        meta = {"energy": 8.8, "distance": 2.0, "psize": np.array([75e-6, 75e-6]), "label": "star"}
        for name, value in (meta | {"propagation": propagation}).items():
            file[f"meta/{name}"] = value
        file["info/num_frames"] = len(patterns)
        for number, start in enumerate(range(0, len(patterns), 4)):
            part = slice(start, start + 4)
            weights = np.ones(patterns[part].shape, np.float32)
            weights[:, 0, -1] = 0
            file[f"chunks/{number}/data"] = patterns[part]
            file[f"chunks/{number}/weights"] = weights
            file[f"chunks/{number}/positions"] = places[part]
            file[f"chunks/{number}/indices"] = np.arange(len(patterns))[part]
    return path


def write_ptylab(path: Path, patterns: Patterns, grid: Grid) -> Path:
    with h5py.File(path, "w") as file:
        file["ptychogram"], file["encoder"] = patterns, _places(grid, 2e-7)
        file["wavelength"], file["zo"], file["dxd"] = HC / 8.8 * 1e-10, 2.0, 75e-6
        file["entrancePupilDiameter"] = 1e-6
    return path


def write_diffamp(path: Path, patterns: Patterns, grid: Grid) -> Path:
    with h5py.File(path, "w") as file:
        file["diffamp"] = np.sqrt(patterns.astype(np.float64))
        file["points"] = _places(grid, 0.2)[:, ::-1].T
        file["lambda_nm"], file["z_m"], file["ccd_pixel_um"] = HC / 88, 2.0, 75.0
        file["angle"] = 15.0
    return path


def write_nsls2(path: Path, patterns: Patterns, grid: Grid) -> Path:
    with h5py.File(path, "w") as file:
        file["diff_data/merlin1/det_images"] = patterns
        file["scan/energy"], file["scan/exposure_time"] = 8.8, 0.01
        file["scan/scan_positions"] = _places(grid, 0.2)[:, ::-1].T
    return path


def write_nsls2_matlab(path: Path, patterns: Patterns, grid: Grid) -> Path:
    with h5py.File(path, "w") as file:
        file["det_data"], file["pos_xy"] = patterns, _places(grid, 0.2)[:, ::-1].T
        file["det_pixel_size"], file["det_dist"], file["energy"] = [[75.0]], [[2e6]], [[8.8]]
    return path


def write_csaxs(path: Path, patterns: Patterns, grid: Grid) -> Path:
    with h5py.File(path, "w") as file:
        file["entry/data/data"] = patterns
        file["entry/instrument/monochromator/energy"] = 8.8
        file["entry/instrument/monochromator/distance"] = -2000.0
        file["entry/instrument/eiger_4/x_pixel_size"] = 75.0
        file["entry/instrument/eiger_4/y_pixel_size"] = 75.0
    return path


def write_nanomax(path: Path, patterns: Patterns, grid: Grid) -> Path:
    places = _places(grid, 0.2)
    with h5py.File(path, "w") as file:
        file["entry/measurement/eiger1m/frames"] = patterns
        file["entry/measurement/pseudo/y"], file["entry/measurement/pseudo/x"] = places.T
        file["entry/snapshots/pre_scan/energy"] = [8800.0]
    return path


def write_lynx(path: Path, patterns: Patterns, grid: Grid) -> Path:
    with h5py.File(path, "w") as file:
        file["entry/data/eiger_4"] = patterns
        notes = {"Photon_energy_kev": 8.8, "Detector_distance_m": 2.0, "Pixel_size": 75e-6}
        file["entry/data/eiger_4"].attrs.update(
            {name: np.array([value]) for name, value in notes.items()}
            | {"Center_x_pixel": 2, "Center_y_pixel": 2, "Exposure_time": 0.1}
        )
    return path


def write_isn(path: Path, patterns: Patterns, grid: Grid) -> Path:
    with h5py.File(path, "w") as file:
        for number, start in enumerate(range(0, len(patterns), 4)):
            linked = path.with_name(f"{path.stem}_{number:04d}.h5")
            with h5py.File(linked, "w") as other:
                other["entry/data/data"] = patterns[start : start + 4]
            file[f"PTYCHO/file_{number:04d}"] = h5py.ExternalLink(linked.name, "/")
        values = {"photon_energy_eV": 8800.0, "det_dist_mm": 2.0, "pix_size_x": 75e-6, "pix_size_y": 75e-6}
        for name, value in values.items():
            file[f"configs/{name}"] = value
    return path


def write_cssi(path: Path, patterns: Patterns, grid: Grid) -> Path:
    with h5py.File(path, "w") as file:
        file["exchange/data"] = patterns
        file["exchange/motor_pos"] = _places(grid, 2e-4)[:, ::-1]
    return path


def write_polar(path: Path, patterns: Patterns, grid: Grid) -> Path:
    with h5py.File(path.with_name("eiger.h5"), "w") as other:
        other["entry/data/data"] = patterns
    with h5py.File(path, "w") as file:
        file["entry/externals/eiger"] = h5py.ExternalLink("eiger.h5", "/entry/data/data")
        places = _places(grid, 0.2)
        file["entry/instrument/NDAttributes/Ypos"] = places[:, 0]
        file["entry/instrument/NDAttributes/Xpos"] = places[:, 1]
    return path


def write_xpp(path: Path, patterns: Patterns, grid: Grid) -> Path:
    places = -_places(grid, 0.2)
    with h5py.File(path, "w") as file:
        file["jungfrau1M/image_img"] = patterns
        file["lmc/ch05"], file["lmc/ch03"], file["lmc/ch04"] = places[:, 0], places[:, 1], places[:, 1]
        file["ipm2/sum"] = np.linspace(2000, 3000, len(patterns))
    return path


def write_i13(path: Path, patterns: Patterns, grid: Grid) -> Path:
    places = -_places(grid, 0.2).reshape(*grid, 2)
    with h5py.File(path, "w") as file:
        file["entry1/merlin_sw_hdf/data"] = _raster(patterns, grid)
        file["entry1/instrument/lab_sxy/lab_sy"] = places[..., 0]
        file["entry1/instrument/lab_sxy/lab_sx"] = places[..., 1]
        file["entry1/title"] = "star"
    return path


def write_nxptycho(path: Path, patterns: Patterns, grid: Grid) -> Path:
    places = -_places(grid, 2e-7)
    with h5py.File(path, "w") as file:
        file["entry/definition"] = "NXptycho"
        file["entry/instrument/detector/data"] = patterns
        numbers = {"detector/distance": (2000.0, "mm"), "detector/x_pixel_size": (75.0, "micron")}
        numbers |= {"detector/y_pixel_size": (75.0, "µm"), "monochromator/energy": (8.8, "keV")}
        for name, (value, units) in numbers.items():
            file[f"entry/instrument/{name}"] = value
            file[f"entry/instrument/{name}"].attrs["units"] = units
        for axis, name in enumerate("yx"):
            file[f"entry/data/{name}"] = places[:, axis] * 1e3
            file[f"entry/data/{name}"].attrs["units"] = "mm"
    return path


def write_fold_slice(path: Path, patterns: Patterns, grid: Grid) -> Path:
    with h5py.File(path, "w") as file:
        file["dp"] = patterns
    return path


def write_areadetector(path: Path, patterns: Patterns, grid: Grid) -> Path:
    with h5py.File(path, "w") as file:
        file["entry/data/data"] = patterns
        file["entry/title"] = "star"
    return path


Writer = Callable[[Path, Patterns, Grid], Path]


@dataclass(frozen=True)
class Case:
    """A kind, its file, and what it states; ``knobs`` are what it does not.

    Attributes:
        kind: name of the kind.
        file: name of the file.
        write: writes it.
        energy: eV.
        angle: radian per pixel (y, x).
        step: angstrom (slow, fast), the step between the first and the second place of each axis.
        missing: what a user has to state.
    """

    kind: str
    file: str
    write: Writer
    energy: float | None = None
    angle: tuple[float, float] | None = None
    step: tuple[float, float] | None = None
    missing: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)


MRAD = (4e-4, 5e-4)
NM = (2.0, 3.0)
X_ANGLE = (37.5e-6, 37.5e-6)
X_STEP = (2000.0, 2000.0)

ELECTRON_CASES = (
    Case("emd", "a.emd", write_emd, 200e3, MRAD, NM, (), {"sample": "gold", "instrument": "TEAM I"}),
    Case(
        "py4dstem", "a.h5", write_py4dstem, None, None, NM, ("energy",), {"flip of the calibration": "False"}
    ),
    Case("py4dstem_old", "a.h5", write_py4dstem_old, None, (4e-4, 4e-4), NM, ("energy",)),
    Case("velox", "a.emd", write_velox, 200e3, (5.0158e-4, 5.0158e-4), None, ("step",), {"detector": "Ceta"}),
    Case(
        "hspy", "a.hspy", write_hspy, 200e3, MRAD, NM, (), {"camera length": "80.0 mm", "date": "2024-05-06"}
    ),
    Case("hspy", "a.zspy", write_zspy, 200e3, MRAD, NM, (), {"title": "two µm of gold"}),
    Case("nion", "a.h5", write_nion, 80e3, MRAD, NM, (), {"dwell time": "0.001 s"}),
    Case("nion", "a.nhdf", write_nhdf, 80e3, MRAD, NM, (), {"title": "Spectrum image"}),
    Case("nion", "a.ndata1", write_ndata, 80e3, MRAD, NM, (), {"defocus": "1e-08 m"}),
    Case("topspin", "a.app5", write_topspin, None, MRAD, NM, ("energy",)),
    Case("arina", "a_master.h5", write_arina, 300e3, None, None, ("angle", "grid", "step")),
)
PHOTON_CASES = (
    Case(
        "nxmx", "b_master.h5", write_nxmx, 8.8e3, X_ANGLE, None, ("grid", "step"), {"dwell time": "2e-05 s"}
    ),
    Case("ptyd", "a.ptyd", write_ptyd, 8.8e3, X_ANGLE, X_STEP),
    Case("ptylab", "a.hdf5", write_ptylab, 8.8e3, X_ANGLE, X_STEP),
    Case("nsls2_amplitudes", "a.h5", write_diffamp, 8.8e3, X_ANGLE, X_STEP),
    Case("nsls2", "a.h5", write_nsls2, 8.8e3, None, X_STEP, ("angle",), {"dwell time": "0.01 s"}),
    Case("nsls2_matlab", "a.mat", write_nsls2_matlab, 8.8e3, X_ANGLE, X_STEP),
    Case("csaxs", "a.h5", write_csaxs, 8.8e3, X_ANGLE, None, ("grid", "step")),
    Case("nanomax", "a.h5", write_nanomax, 8.8e3, None, X_STEP, ("angle",)),
    Case("lynx", "a.h5", write_lynx, 8.8e3, X_ANGLE, None, ("grid", "step")),
    Case("isn", "a.h5", write_isn, 8.8e3, X_ANGLE, None, ("grid", "step")),
    Case("cssi", "a.h5", write_cssi, None, None, X_STEP, ("energy", "angle")),
    Case("polar", "a.hdf", write_polar, None, None, X_STEP, ("energy", "angle")),
    Case("xpp", "a.h5", write_xpp, None, None, X_STEP, ("energy", "angle")),
    Case("diamond_i13", "a.nxs", write_i13, None, None, X_STEP, ("energy", "angle"), {"title": "star"}),
    Case("nxptycho", "a.nxs", write_nxptycho, 8.8e3, X_ANGLE, X_STEP),
    Case("fold_slice", "a.hdf5", write_fold_slice, None, None, None, ("energy", "angle", "grid", "step")),
    Case("areadetector", "a.h5", write_areadetector, None, None, None, ("energy", "angle", "grid", "step")),
)
CASES = (*ELECTRON_CASES, *PHOTON_CASES)
