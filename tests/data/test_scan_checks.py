"""What cannot be a scan, a place, a rate, a folder or a reader's answer is refused in one sentence."""

import sys
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import phaseloom as pl
from phaseloom import cli, plugins
from phaseloom.data.counts import SelectedCounts
from phaseloom.data.prepare import enlarge
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import pixels
from phaseloom.ptycho.scans import Canvas
from phaseloom.result import Result

GEOMETRY = pl.Geometry(wavelength=1.0, shape=(8, 9), angle=(1e-3, 1e-3))


def scan(**changes: Any) -> pl.Scan4D:
    places = 30.0 * np.arange(6).reshape(3, 2)
    return pl.Scan4D(**({"counts": np.ones((3, 8, 9)), "positions": places, "geometry": GEOMETRY} | changes))


def spoilt(value: Any, *shape: int) -> np.ndarray:
    out = np.ones(shape, np.result_type(value, float))
    out.flat[-1] = value
    return out


REFUSED = {
    "heights nan": ({"heights": spoilt(np.nan, 3)}, "scan.heights[2]: nan is not finite"),
    "heights complex": ({"heights": spoilt(1j, 3)}, "scan.heights: values of complex128 must be real"),
    "weights inf": ({"weights": spoilt(np.inf, 3)}, "scan.weights[2]: inf is not finite"),
    "weights zero": ({"weights": spoilt(0, 3)}, "scan.weights[2]: 0.0 must be above zero"),
    "weights below": ({"weights": [1, 1, -2]}, "scan.weights[2]: -2 must be above zero"),
    "descan nan": ({"descan": spoilt(np.nan, 3, 2)}, "scan.descan[2, 1]: nan is not finite"),
    "positions inf": ({"positions": spoilt(-np.inf, 3, 2)}, "scan.positions[2, 1]: -inf is not finite"),
    "positions complex": ({"positions": spoilt(1j, 3, 2)}, "scan.positions: values of complex128 must be"),
    "positions ragged": ({"positions": [[1, 2], [3], [4, 5]]}, "scan.positions: is not an array"),
    "positions text": ({"positions": [["a", "b"]] * 3}, "is not an array of numbers"),
    "counts complex": ({"counts": np.ones((3, 8, 9), complex)}, "scan.counts: values of complex128 are no"),
    "counts none": ({"counts": np.ones((0, 8, 9)), "positions": np.ones((0, 2))}, "holds no pattern"),
    "counts flat": ({"counts": [[1.0]]}, "scan.counts: (1, 1) must have the axes"),
    "probe shape": ({"probe": np.ones((1, 8, 8)) + 0j}, "scan.probe: (1, 8, 8) must have the shape (mode, 8"),
    "probe 4D": ({"probe": np.ones((1, 1, 8, 9)) + 0j}, "scan.probe: (1, 1, 8, 9) must have the shape"),
    "probe nan": ({"probe": spoilt(np.nan, 1, 8, 9)}, "scan.probe[0, 7, 8]: nan is not finite"),
    "probe text": ({"probe": "wave.npy"}, "scan.probe: wave.npy is not an array of numbers"),
    "heights shape": ({"heights": [1.0, 2.0]}, "scan.heights: (2,) does not fit 3 patterns"),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_part_of_a_scan(changes, said):
    with pytest.raises(pl.BadInput) as caught:
        scan(**changes)
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", ["list", "tensor", "leaf"])
def test_lists_and_tensors_become_arrays(kind):
    parts = {"counts": np.ones((3, 8, 9)), "positions": np.ones((3, 2)), "heights": np.arange(3.0)}
    of = {"list": np.ndarray.tolist, "tensor": torch.tensor}.get(
        kind, partial(torch.tensor, requires_grad=True)
    )
    made = scan(**{name: of(value) for name, value in parts.items()})
    for name, value in parts.items():
        assert isinstance(getattr(made, name), np.ndarray)
        np.testing.assert_array_equal(getattr(made, name), value)
    assert made.digest() == scan(**parts).digest()


def test_counts_are_neither_copied_nor_read():
    class Unread(SelectedCounts):
        def __getitem__(self, index):
            raise AssertionError

    for counts in (np.ones((3, 8, 9), np.uint16), Unread(np.ones((3, 8, 9)), np.arange(3))):
        assert scan(counts=counts).counts is counts


def test_a_probe_is_a_complex_stack_on_the_grid_of_the_detector_or_of_the_model():
    made = scan(probe=np.ones((8, 9), np.float32)).probe
    assert made is not None
    assert made.shape == (1, 8, 9)
    assert made.dtype == np.complex64
    larger = enlarge(scan(), to=(16, 18))
    for shape in (larger.geometry.shape, larger.window.shape):
        kept = replace(larger, probe=np.ones((2, *shape)) + 0j).probe
        assert kept is not None
        assert kept.shape == (2, *shape)


def test_one_angle_is_that_of_both_axes():
    assert replace(GEOMETRY, angle=2e-3).angle == (2e-3, 2e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"angle": -1.0}, "geometry.angle: -1.0 must be a positive number"),
        ({"angle": (1e-3, np.nan)}, "geometry.angle"),
        ({"angle": (1e-3,) * 3}, "geometry.angle"),
        ({"angle": "1 mrad"}, "geometry.angle: 1 mrad must be a positive number"),
        ({"shape": (8, 0)}, "geometry.shape"),
        ({"basis": ((0.0, 0.0), (-1.0, -1.0), (0.0, 0.0))}, "geometry.basis: [[0.0, 0.0], [-1.0, -1.0]"),
        ({"basis": ((0.0, 0.0), (-1.0, 0.0), (0.0, 0.0))}, "has parallel or zero columns"),
        ({"basis": ((0.0, 1.0), (-1.0, 0.0))}, "geometry.basis: (2, 2) must have the shape"),
        ({"basis": ((0.0, np.nan), (-1.0, 0.0), (0.0, 0.0))}, "geometry.basis[0, 1]: nan is not finite"),
    ],
)
def test_what_cannot_be_a_geometry(changes, said):
    with pytest.raises(pl.BadInput) as caught:
        replace(GEOMETRY, **changes)
    assert said in str(caught.value)


@pytest.mark.parametrize("index", [[500], [-4], np.ones(4, bool), np.array([0.5])])
def test_patterns_that_a_scan_does_not_have(index):
    with pytest.raises(pl.BadInput, match=r"scan\.select: .* fits no scan of 3 patterns"):
        scan().select(index)


def test_one_pattern_may_be_selected_by_its_number():
    assert len(scan().select(2)) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [3, -1])
def test_a_model_has_no_other_patterns_than_its_scan(index):
    with pytest.raises(pl.BadInput, match="is not a pattern of this scan: they are 0 to 2"):
        Ptychography.of(scan()).pattern(index)


PLACES = {
    "nan place": ({"at": (np.nan, 0.0)}, "object.place_window: at"),
    "three numbers": ({"at": (0.0, 0.0, 0.0)}, "object.place_window: at"),
    "far away": ({"at": (1e4, 0.0)}, "lies off the canvas"),
    "nan wave": (
        {"wave": np.full((3, 3), np.nan)},
        "object.place_window: wave: holds values that are not finite",
    ),
    "empty": ({"wave": np.ones((0, 3))}, "object.place_window: wave"),
}


@pytest.mark.parametrize(("changes", "said"), PLACES.values(), ids=PLACES)
def test_what_cannot_be_laid_onto_an_object(changes, said):
    thing = pixels(Canvas((20, 20), (8, 8), (2.0, 2.0), (-20.0, -20.0)))
    before = thing.transmission().clone()
    given = {"wave": np.ones((3, 3), complex), "at": (0.0, 0.0)} | changes
    with pytest.raises(pl.BadInput) as caught:
        thing.place_window(torch.as_tensor(given["wave"], dtype=torch.complex64), at=given["at"])
    assert said in str(caught.value)
    assert torch.equal(before, thing.transmission())


@pytest.mark.parametrize(
    ("at", "shape"),
    [((np.nan, 0.0), None), ((0.0,), None), ((1e4, 0.0), None), ((0.0, 0.0), (0, 4))],
)
def test_what_cannot_be_looked_at_in_an_object(at, shape):
    thing = pixels(Canvas((20, 20), (8, 8), (2.0, 2.0), (-20.0, -20.0)))
    with pytest.raises(pl.BadInput, match=r"object\.read_window"):
        thing.read_window(at, shape=shape)


def test_a_result_that_cannot_be_written(tmp_path):
    some = np.ones((1, 4, 4), complex)
    places = np.zeros((2, 2))
    known = {"positions": places, "positions_start": places, "pixel": (1.0, 1.0), "origin": (0.0, 0.0)}
    done = Result(object=some, probe=some, coverage=np.ones((4, 4)), geometry=GEOMETRY, **known)
    done.save(tmp_path / "new" / "result.h5")
    (tmp_path / "file").write_text("")
    for ending in ("h5", "cxi"):
        with pytest.raises(pl.BadInput, match=r"result\.\w+: cannot be written \("):
            done.save(tmp_path / "file" / f"result.{ending}")


def told(monkeypatch, capsys, *argv: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["phaseloom", *map(str, argv)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    return end.value.code, said.out, said.err  # type: ignore[return-value]


def failing(path, /):
    raise KeyError("detector")


def empty(path, /):
    return {}


def explaining(path, /):
    raise pl.BadInput("a.zed", None, "has no detector: name one")


@pytest.mark.parametrize(
    ("reader", "code", "said"),
    [
        (failing, 1, "plugin formats: failing, of {here}: failed (KeyError: 'detector'): tell its author"),
        (empty, 1, "plugin formats: empty, of {here}: returned dict, which is not a Scan4D"),
        (explaining, 2, "a.zed: has no detector: name one"),
    ],
)
def test_a_reader_of_others_that_fails(reader, code, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(plugins, "_registered", {})
    plugins.register("formats", reader)
    (tmp_path / "a.zed").write_text("ZED")
    (tmp_path / "run.yaml").write_text(f"{{file: a.zed, read: {reader.__name__}}}")
    ended, _, line = told(monkeypatch, capsys, "check", tmp_path / "run.yaml")
    assert line.startswith("phaseloom: " + said.format(here=__name__))
    assert line.count("\n") == 1
    assert ended == code


def test_a_run_on_a_scan_in_memory_is_not_said_to_be_read(monkeypatch, capsys, tmp_path):
    (tmp_path / "run.yaml").write_text("{file: in memory, start: none}")
    code, out, line = told(monkeypatch, capsys, "reconstruct", tmp_path / "run.yaml")
    assert (code, out) == (2, "")
    assert "file: in memory is where a program had the data" in line


def test_the_text_of_a_scan_is_short_and_reads_few_patterns():
    class Files:
        """Patterns in a file, which counts how many are read."""

        shape, dtype, read = (12 * 4000, 8, 6), np.dtype(np.uint16), 0

        def __getitem__(self, index):
            Files.read += len(np.atleast_1d(index))
            return np.ones((len(index), 8, 6), np.uint16)

    geometry = Geometry(wavelength=1.4, shape=(8, 6), angle=(1e-4, 1e-4), beam="photon")
    places = np.indices((12, 4000)).reshape(2, -1).T * [7.0, 5.0]
    scan = Scan4D(counts=Files(), positions=places, geometry=geometry, grid=(12, 4000))
    assert repr(scan) == (
        "Scan4D(12 x 4000 patterns of 8 x 6 pixels, uint16; photons of 8.86 keV, far field; "
        "object pixel 175 nm x 233 nm; step 7 A x 5 A)"
    )
    assert Files.read == 0
    assert str(scan).splitlines()[-1] == "  48 counts per pattern"
    assert Files.read == 16
    loose = Scan4D(counts=np.ones((3, 8, 6)), positions=places[:3], geometry=geometry)
    assert repr(loose).endswith("positions over 0 x 1 nm)")
    assert len(str(loose).splitlines()) == 5
