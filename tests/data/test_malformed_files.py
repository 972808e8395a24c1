"""Files as people write them: every variant reads to the same scan, every broken one says one sentence."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from phaseloom.data import formats
from phaseloom.data.formats.header import MissingValues
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

WAVELENGTH, DISTANCE, PIXEL = 1.4e-10, 2.0, 75e-6
JOULE = 1.986445857148929e-25 / WAVELENGTH
EV = JOULE / 1.602176634e-19
N, Y, X = 6, 8, 10
SAMPLE = np.column_stack([np.linspace(1e-6, 3e-6, N), np.linspace(-2e-6, 1e-6, N) ** 1, np.zeros(N)])
COUNTS = np.random.default_rng(3).poisson(20.0, (N, Y, X))

Change = Callable[[h5py.File], None]

DET, SRC, GEO = (
    "entry_1/instrument_1/detector_1",
    "entry_1/instrument_1/source_1",
    "entry_1/sample_1/geometry_1",
)


def ordinary(path: Path) -> Path:
    """The plainest file there is."""
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 160
        file[f"{SRC}/wavelength"] = WAVELENGTH
        file[f"{SRC}/energy"] = JOULE
        detector = file.create_group(DET)
        detector["distance"], detector["x_pixel_size"], detector["y_pixel_size"] = DISTANCE, PIXEL, PIXEL
        detector["basis_vectors"] = np.array([[0, -PIXEL], [-PIXEL, 0], [0, 0]])
        detector["data"] = COUNTS.astype(np.float32)
        detector["mask"] = np.zeros((Y, X), np.uint32)
        file[f"{GEO}/translation"] = SAMPLE
        file["entry_1/data_1/data"] = h5py.SoftLink(f"/{DET}/data")
        file["entry_1/data_1/translation"] = h5py.SoftLink(f"/{GEO}/translation")
    return path


def changed(path: Path, change: Change) -> Path:
    with h5py.File(ordinary(path), "a") as file:
        change(file)
    return path


def put(name: str, value: object, **attrs: object) -> Change:
    """Replace (or, with None, remove) a member."""

    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value
            file[name].attrs.update(attrs)

    return change


def both(*changes: Change) -> Change:
    def change(file: h5py.File) -> None:
        for one in changes:
            one(file)

    return change


def moved(source: str, target: str) -> Change:
    def change(file: h5py.File) -> None:
        values, attrs = file[source][()], dict(file[source].attrs)
        del file[source]
        file[target] = values
        file[target].attrs.update(attrs)

    return change


def data(values: object) -> Change:
    return both(put(f"{DET}/data", values))


no_wavelength = both(put(f"{SRC}/wavelength", None), put(f"{SRC}/energy", None))
no_links = both(put("entry_1/data_1", None))
no_sizes = both(put(f"{DET}/x_pixel_size", None), put(f"{DET}/y_pixel_size", None))
BASIS = np.array([[0, -PIXEL], [-PIXEL, 0], [0, 0]])

VALID: dict[str, Change] = {
    "as it is": both(),
    "energy in J": put(f"{SRC}/wavelength", None),
    "energy in eV": both(no_wavelength, put(f"{SRC}/energy", EV)),
    "energy in keV with units": both(no_wavelength, put(f"{SRC}/energy", EV / 1e3, units="keV")),
    "beam_1/energy in eV": both(
        put(f"{SRC}/wavelength", None),
        put(f"{SRC}/energy", 3e9, units="eV"),
        put("entry_1/instrument_1/beam_1/energy", EV, units="eV"),
    ),
    "incident_beam_energy": both(no_wavelength, put("entry_1/sample_1/beam_1/incident_beam_energy", EV)),
    "incident_wavelength in angstrom": both(
        no_wavelength, put("entry_1/instrument_1/beam_1/incident_wavelength", 1.4, units="angstrom")
    ),
    "wavelength of shape (1,)": put(f"{SRC}/wavelength", np.array([WAVELENGTH])),
    "translation (n, 2)": put(f"{GEO}/translation", SAMPLE[:, :2]),
    "translation in um": put(f"{GEO}/translation", SAMPLE * 1e6, units="um"),
    "geometry without _1": both(
        no_links, moved(f"{GEO}/translation", "entry_1/sample_1/geometry/translations")
    ),
    "translation in the detector": both(no_links, moved(f"{GEO}/translation", f"{DET}/translation")),
    "basis for each pattern": put(f"{DET}/basis_vectors", np.repeat(BASIS.T[None], N, 0)),
    "basis (2, 3)": put(f"{DET}/basis_vectors", BASIS.T),
    "basis in mm": put(f"{DET}/basis_vectors", BASIS * 1e3, units="mm"),
    "pixel sizes only": put(f"{DET}/basis_vectors", None),
    "one pixel size": both(put(f"{DET}/basis_vectors", None), put(f"{DET}/x_pixel_size", None)),
    "basis only": no_sizes,
    "corner only": both(put(f"{DET}/distance", None), put(f"{DET}/corner_position", [1e-4, 2e-4, DISTANCE])),
    "distance in mm": put(f"{DET}/distance", DISTANCE * 1e3, units="mm"),
    "data in the detector only": no_links,
    "data in data_1 only": both(
        put("entry_1/data_1/data", None), moved(f"{DET}/data", "entry_1/data_1/data")
    ),
    "a second detector holds the data": both(no_links, lambda file: file.move(DET, DET[:-1] + "2")),
    "an empty detector first": both(
        no_links,
        lambda file: file.move(DET, DET[:-1] + "2"),
        lambda file: file.create_group(DET),
    ),
    "NeXus names without _1": lambda file: file.move("entry_1", "entry"),
    "raster of 4 axes": data(COUNTS.reshape(2, 3, Y, X)),
    "uint16": data(COUNTS.astype(np.uint16)),
    "uint32": data(COUNTS.astype(np.uint32)),
    "int64": data(COUNTS),
    "big-endian": data(COUNTS.astype(">i4")),
    "title of variable length": put("entry_1/title", "Siemens star"),
    "title as an array": put("entry_1/title", np.array([b"Siemens star"])),
    "mask 0x1000": put(f"{DET}/mask", np.full((Y, X), 0x1000, np.uint32)),
    "mask (1, y, x)": put(f"{DET}/mask", np.zeros((1, Y, X), np.uint32)),
    "boolean mask": put(f"{DET}/mask", np.zeros((Y, X), bool)),
    "no mask": put(f"{DET}/mask", None),
}


@pytest.mark.parametrize("name", VALID)
def test_variants_in_the_wild_read_to_the_same_scan(name: str, tmp_path: Path) -> None:
    scan = formats.read(changed(tmp_path / "scan.cxi", VALID[name]))
    assert scan.geometry.wavelength == pytest.approx(1.4, rel=1e-6)
    assert scan.geometry.angle == pytest.approx((PIXEL / DISTANCE,) * 2)
    assert scan.geometry.distance == pytest.approx(DISTANCE * 1e10)
    np.testing.assert_allclose(scan.positions, SAMPLE[:, 1::-1] * 1e10, atol=1e-4)
    np.testing.assert_array_equal(scan.counts[np.arange(N)], COUNTS)
    assert scan.heights is None
    assert scan.mask.all()
    assert scan.grid == ((2, 3) if "raster" in name else None)
    assert scan.metadata.get("title", "Siemens star") == "Siemens star"


def bad_data(value: object) -> Change:
    return both(no_links, data(value))


def nan_row(file: h5py.File) -> None:
    file[f"{GEO}/translation"][2, 1] = np.nan


STRINGS = np.array([b"many"] * N)

BROKEN_CXI: dict[str, Change] = {
    "no entry": lambda file: file.move("entry_1", "other"),
    "no instrument": put("entry_1/instrument_1", None),
    "no detector": both(no_links, put(DET, None)),
    "no source": put(SRC, None),
    "no wavelength": no_wavelength,
    "no data": both(no_links, put(f"{DET}/data", None)),
    "broken link to data": put(f"{DET}/data", None),
    "no translation": put(GEO, None),
    "no distance": put(f"{DET}/distance", None),
    "no pixel size": both(put(f"{DET}/basis_vectors", None), no_sizes),
    "NaN positions": nan_row,
    "infinite positions": put(f"{GEO}/translation", np.full((N, 3), np.inf)),
    "too few positions": put(f"{GEO}/translation", SAMPLE[:-1]),
    "positions (3, n)": put(f"{GEO}/translation", SAMPLE.T),
    "positions flat": put(f"{GEO}/translation", SAMPLE.ravel()),
    "positions in angstrom": put(f"{GEO}/translation", SAMPLE * 1e10),
    "positions in parsecs": put(f"{GEO}/translation", SAMPLE, units="pc"),
    "positions are text": put(f"{GEO}/translation", STRINGS),
    "complex positions": put(f"{GEO}/translation", SAMPLE + 1j),
    "energy absurd": both(no_wavelength, put(f"{SRC}/energy", 8.8)),
    "energy of a machine": both(no_wavelength, put(f"{SRC}/energy", 3e9)),
    "energy negative": both(no_wavelength, put(f"{SRC}/energy", -1e-15)),
    "energy zero": both(no_wavelength, put(f"{SRC}/energy", 0.0)),
    "energy with a strange unit": both(no_wavelength, put(f"{SRC}/energy", EV, units="furlong")),
    "wavelength in angstrom": put(f"{SRC}/wavelength", 1.4),
    "wavelength zero": put(f"{SRC}/wavelength", 0.0),
    "wavelength NaN": put(f"{SRC}/wavelength", np.nan),
    "wavelength is text": put(f"{SRC}/wavelength", "1.4 A"),
    "two wavelengths": put(f"{SRC}/wavelength", [1e-10, 2e-10]),
    "wavelength empty": put(f"{SRC}/wavelength", h5py.Empty("f8")),
    "distance zero": put(f"{DET}/distance", 0.0),
    "distance negative": put(f"{DET}/distance", -1.0),
    "distance is a group": both(
        put(f"{DET}/distance", None), lambda file: file.create_group(f"{DET}/distance")
    ),
    "pixel size negative": both(put(f"{DET}/basis_vectors", None), put(f"{DET}/x_pixel_size", -PIXEL)),
    "basis zero": put(f"{DET}/basis_vectors", np.zeros((3, 2))),
    "basis NaN": put(f"{DET}/basis_vectors", np.full((3, 2), np.nan)),
    "basis parallel": put(f"{DET}/basis_vectors", np.array([[0, 0], [-PIXEL, -PIXEL], [0, 0]])),
    "basis 2 x 2": put(f"{DET}/basis_vectors", np.eye(2)),
    "corner at the sample": both(
        put(f"{DET}/distance", None), put(f"{DET}/corner_position", [0.0, 0.0, 0.0])
    ),
    "corner of two numbers": both(put(f"{DET}/distance", None), put(f"{DET}/corner_position", [0.0, 1.0])),
    "mask all bad": put(f"{DET}/mask", np.ones((Y, X), np.uint32)),
    "mask of the wrong size": put(f"{DET}/mask", np.zeros((Y, Y), np.uint32)),
    "mask is text": put(f"{DET}/mask", "none"),
    "flat of the wrong size": put(f"{DET}/qe_mask", np.ones((X, Y))),
    "dark of the wrong size": put(f"{DET}/data_dark", np.ones((3, Y, Y))),
    "too many intensities": put(f"{GEO}/intensities", np.ones(N + 1)),
    "negative intensities": put(f"{GEO}/intensities", -np.ones(N)),
    "data 2-D": bad_data(COUNTS[0]),
    "data 5-D": bad_data(np.stack([COUNTS, COUNTS]).reshape(2, 2, 3, Y, X)),
    "data scalar": bad_data(3.0),
    "no patterns": bad_data(np.zeros((0, Y, X))),
    "complex data": bad_data(COUNTS + 1j),
    "data are text": bad_data(STRINGS),
    "data all NaN": bad_data(np.full((N, Y, X), np.nan)),
    "data empty": bad_data(h5py.Empty("f4")),
}


def sentence(caught: pytest.ExceptionInfo[BadInput], place: str) -> None:
    text = str(caught.value)
    assert type(caught.value) in (BadInput, MissingValues)
    assert place in text
    assert "\n" not in text
    assert 20 < len(text) < (400 if type(caught.value) is BadInput else 900)
    assert ": " in text


@pytest.mark.parametrize("name", BROKEN_CXI)
def test_a_broken_cxi_file_is_refused_with_a_sentence(name: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "scan.cxi", BROKEN_CXI[name])
    with pytest.raises(BadInput) as caught:
        formats.read(path)
    sentence(caught, "scan.cxi")


def test_ragged_data_are_refused(tmp_path: Path) -> None:
    path = changed(tmp_path / "scan.cxi", bad_data(None))
    with h5py.File(path, "a") as file:
        ragged = file.create_dataset(f"{DET}/data", (2,), h5py.vlen_dtype(np.int32))
        ragged[0], ragged[1] = [1, 2], [3]
    with pytest.raises(BadInput) as caught:
        formats.read(path)
    sentence(caught, "scan.cxi")


def test_an_inverted_mask_is_turned_round_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inverted, counts = np.ones((Y, X), np.uint32), COUNTS.copy()
    inverted[0, :3], counts[:, 0, :3] = 0, 0
    path = changed(tmp_path / "scan.cxi", both(data(counts), put(f"{DET}/mask", inverted)))
    with caplog.at_level(logging.WARNING):
        scan = formats.read(path)
    np.testing.assert_array_equal(scan.mask, inverted.astype(bool))
    assert "1 = good" in caplog.text


KNOBS = {"energy": "80 keV", "angle": "1 mrad", "step": "0.4 A", "grid": [2, 3]}
SMALL = np.ones((6, 4, 4), np.float32)


class Opened:
    """What a malicious pickle would run."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return exec, ("raise SystemExit('unpickled')",)


def npy(values: np.ndarray, **knobs: object) -> Callable[[Path], tuple[Path, dict]]:
    def make(folder: Path) -> tuple[Path, dict]:
        np.save(folder / "s.npy", values, allow_pickle=True)
        return folder / "s.npy", {**KNOBS, **knobs}

    return make


def raw(size: int, **knobs: object) -> Callable[[Path], tuple[Path, dict]]:
    def make(folder: Path) -> tuple[Path, dict]:
        (folder / "s.raw").write_bytes(bytes(size))
        return folder / "s.raw", {**KNOBS, "shape": (6, 4, 4), **knobs}

    return make


def npz(arrays: dict[str, object], **knobs: object) -> Callable[[Path], tuple[Path, dict]]:
    def make(folder: Path) -> tuple[Path, dict]:
        np.savez(folder / "s.npz", **arrays)  # type: ignore[arg-type]
        return folder / "s.npz", knobs

    return make


def h5(members: dict[str, object], **knobs: object) -> Callable[[Path], tuple[Path, dict]]:
    def make(folder: Path) -> tuple[Path, dict]:
        with h5py.File(folder / "s.h5", "w") as file:
            for name, value in members.items():
                file[name] = value
        return folder / "s.h5", {**KNOBS, **knobs}

    return make


def sidecar(text: str | bytes) -> Callable[[Path], tuple[Path, dict]]:
    def make(folder: Path) -> tuple[Path, dict]:
        np.save(folder / "s.npy", SMALL)
        (folder / "s.npy.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return folder / "s.npy", {}

    return make


def file(name: str, content: bytes, **knobs: object) -> Callable[[Path], tuple[Path, dict]]:
    def make(folder: Path) -> tuple[Path, dict]:
        (folder / name).write_bytes(content)
        return folder / name, knobs

    return make


def truncated(name: str, keep: float, maker: Callable[[Path], object]) -> Callable[[Path], tuple[Path, dict]]:
    def make(folder: Path) -> tuple[Path, dict]:
        maker(folder / name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])
        return folder / name, {} if name.endswith("cxi") else dict(KNOBS)

    return make


def missing(folder: Path) -> tuple[Path, dict]:
    return folder / "s.nothing.npy", {}


def a_folder(folder: Path) -> tuple[Path, dict]:
    return folder, {}


SIM = {"meas": SMALL, "pos_px": np.ones((6, 2)), "dx": 0.2, "kv": 80.0}
YAML = "energy: 80 keV\nangle: 1 mrad\nstep: 0.4 A\ngrid: [2, 3]\n"

BROKEN: dict[str, Callable[[Path], tuple[Path, dict]]] = {
    "a missing file": missing,
    "a folder": a_folder,
    "an empty cxi": file("s.cxi", b""),
    "an empty npy": file("s.npy", b""),
    "text renamed to cxi": file("s.cxi", b"wavelength 1.4\n" * 50),
    "text renamed to h5": file("s.h5", b"x"),
    "text renamed to npy": file("s.npy", b"1 2 3\n" * 9, **KNOBS),
    "text renamed to npz": file("s.npz", b"1 2 3\n" * 9, **KNOBS),
    "an unknown kind": file("s.docx", b"PK"),
    "a signature and no more": file("s.cxi", b"\x89HDF\r\n\x1a\n"),
    "half a cxi": truncated("s.cxi", 0.5, ordinary),
    "a cxi without its end": truncated("s.cxi", 0.98, ordinary),
    "half an npy": truncated("s.npy", 0.5, lambda path: np.save(path, SMALL)),
    "the head of an npy": truncated("s.npy", 0.1, lambda path: np.save(path, SMALL)),
    "half an npz": truncated("s.npz", 0.5, lambda path: np.savez(path, meas=SMALL)),
    "a pickle renamed to npy": file("s.npy", pickle.dumps(Opened()), **KNOBS),
    "objects in an npy": npy(np.array([Opened(), None], object)),
    "objects in an npz": npz({**SIM, "meas": np.array([Opened()], object)}),
    "npy 2-D": npy(SMALL[0]),
    "npy scalar": npy(np.float32(3)),
    "npy complex": npy(SMALL + 1j),
    "npy of text": npy(np.array([["a"]])),
    "npy of nothing": npy(SMALL[:0]),
    "npy structured": npy(np.zeros((6, 4, 4), [("a", "f4"), ("b", "f4")])),
    "npy all NaN": npy(SMALL * np.nan),
    "npy with a wrong grid": npy(SMALL, grid=(2, 2)),
    "npy with no grid": npy(SMALL, grid=None),
    "npy with no step": npy(SMALL, step=None),
    "npy with a negative step": npy(SMALL, step=-1.0),
    "npy with a zero angle": npy(SMALL, angle=0.0),
    "npy with no sampling": npy(SMALL, angle=None),
    "npy with two samplings": npy(SMALL, pixel="0.2 A"),
    "npy with an absurd energy": npy(SMALL, energy=1e-15),
    "npy with a bare energy": npy(SMALL, energy="80"),
    "npy with positions nowhere": npy(SMALL, positions="nowhere.csv"),
    "npy with a mask of the wrong size": npy(SMALL, mask="s.npy"),
    "npy with patterns for positions": npy(SMALL, positions="s.npy"),
    "npy with an unknown knob": npy(SMALL, enrgy="80 keV"),
    "raw too short": raw(100),
    "raw too long": raw(400),
    "raw with a wrong dtype": raw(384, dtype="uint17"),
    "raw of objects": raw(768, dtype="O"),
    "raw of one axis": raw(384, shape=(96,)),
    "raw with a negative offset": raw(384, offset=-8),
    "raw with an offset beyond its end": raw(384, offset=10000),
    "raw without a shape": raw(384, shape=None),
    "npz without patterns": npz({"a": SMALL}),
    "npz with a wrong key": npz(SIM, key="mess"),
    "npz with wrong positions": npz({**SIM, "pos_px": np.ones((5, 2))}),
    "npz with NaN positions": npz({**SIM, "pos_px": np.full((6, 2), np.nan)}),
    "npz with positions of text": npz({**SIM, "pos_px": np.array(["a"])}),
    "npz with a negative dx": npz({**SIM, "dx": -0.2}),
    "npz with dx of text": npz({**SIM, "dx": "small"}),
    "npz without energy": npz({"meas": SMALL, "pos_px": np.ones((6, 2)), "dx": 0.2}),
    "h5 without stacks": h5({"a": np.ones(3)}),
    "h5 with two stacks": h5({"a": SMALL, "b": SMALL}),
    "h5 with a misspelt data set": h5({"frames": SMALL}, dataset="frame"),
    "h5 with a group for data": h5({"g/frames": SMALL}, dataset="g"),
    "h5 with a 2-D data set": h5({"frames": SMALL[0]}, dataset="frames"),
    "h5 with positions of text": h5({"frames": SMALL, "where": "here"}, positions="where"),
    "h5 that lacks its positions": h5({"frames": SMALL}, positions="where"),
    "side-car with an unknown key": sidecar(YAML + "enrgy: 80 keV\n"),
    "side-car with a bare length": sidecar(YAML.replace("0.4 A", "0.4")),
    "side-car with a wrong unit": sidecar(YAML.replace("80 keV", "80 kg")),
    "side-car that is not YAML": sidecar("energy: [80 keV\n:"),
    "side-car that is a list": sidecar("- energy\n"),
    "side-car of bytes": sidecar(b"\xff\xfe\x00energy"),
    "side-car with a word for a grid": sidecar(YAML.replace("[2, 3]", "wide")),
    "side-car with an unknown beam": sidecar(YAML + "beam: neutron\n"),
    "side-car without energy": sidecar(YAML.replace("energy: 80 keV\n", "")),
    "side-car with a code tag": sidecar("energy: !!python/object/apply:os.getcwd []\n"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_a_sentence(name: str, tmp_path: Path) -> None:
    path, knobs = BROKEN[name](tmp_path)
    with pytest.raises(BadInput) as caught:
        formats.read(path, knobs=knobs)
    energy = "energy" in str(caught.value)
    sentence(
        caught, "energy" if energy else "" if name.startswith("npy with positions nowhere") else path.name
    )


def test_a_good_file_beside_the_broken_ones_is_read(tmp_path: Path) -> None:
    path, knobs = sidecar(YAML)(tmp_path)
    assert isinstance(formats.read(path, knobs=knobs), Scan4D)
    assert formats.read(path, knobs={"step": "0.5 A"}).positions[1, 1] == 0.5


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'hdf5'"):
        formats.read(ordinary(tmp_path / "a.cxi"), format="hdf")
