"""Near or far field from the geometry: a hologram is never taken for a far field without a word."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import phaseloom as pl
from phaseloom.data import formats
from phaseloom.data.formats.header import MissingValues
from phaseloom.data.formats.quantities.near_field import describe_near_field
from phaseloom.data.scan import Geometry

PLACES = np.indices((9, 9)).reshape(2, -1).T


def hologram(pixel: float, distance: float, *, wavelength: float = 1e-10, shape: int = 256) -> Geometry:
    """A detector, in metres."""
    angle = pixel / distance
    return Geometry(
        wavelength=wavelength * 1e10, shape=(shape, shape), angle=(angle, angle), distance=distance * 1e10
    )


@pytest.mark.parametrize(
    ("pixel", "distance", "wavelength", "step", "near"),
    [
        (0.65e-6, 0.1, 1e-10, 20e-6, True),  # parallel beam, 0.65 um pixels behind a scintillator
        (0.65e-6, 0.1, 1e-10, 5e-6, False),  # the pixels could sample far fields of such beams
        (55e-6, 1.12, 0.98e-10, 1.19e-6, True),  # PETRA III P25: cone beam
        (75e-6, 1.92, 1.41e-10, 0.49e-6, False),  # Velociprobe
        (172e-6, 7.2, 2e-10, 0.8e-6, False),  # cSAXS
        (4.5e-6, 0.03, 632e-9, 2e-4, False),  # a laser on an optical bench
    ],
)
def test_experiments_of_both_kinds(
    pixel: float, distance: float, wavelength: float, step: float, near: bool
) -> None:
    geometry = hologram(pixel, distance, wavelength=wavelength)
    assert (describe_near_field(geometry, PLACES * step * 1e10) is not None) is near


def test_electrons_few_places_and_stated_near_fields_are_not_judged() -> None:
    geometry = hologram(55e-6, 1.0)
    assert describe_near_field(geometry, PLACES * 1e5)
    assert describe_near_field(geometry, PLACES[:3] * 1e5) is None
    for change in ({"focus": 1e7}, {"distance": None}, {"beam": "electron"}):
        other = Geometry(**{**vars(geometry), **change})
        assert describe_near_field(other, PLACES * 1e5) is None


def test_steps_far_wider_than_beams_are_a_wrong_unit_before_they_are_a_near_field() -> None:
    """Positions in millimetres were asked for a focus first, and for their unit in the last clause."""
    geometry = hologram(75e-6, 3.2, wavelength=1.36e-10, shape=128)
    said = {step: describe_near_field(geometry, PLACES * step * 1e10) or "" for step in (230e-6, 9e-6)}
    assert said[230e-6].startswith("check the units of positions, distance and energy in the file first")
    assert said[9e-6].startswith("a near field")


def test_a_file_with_positions_in_millimetres_is_asked_for_the_unit_before_the_focus(tmp_path: Path) -> None:
    knobs = {"beam": "photon", "energy": "9.1 keV", "distance": "3.2 m", "detector_pixel": "75 um"}
    np.save(tmp_path / "a.npy", np.ones((81, 128, 128), np.uint8))
    np.save(tmp_path / "p.npy", PLACES * 230.0)
    stated = knobs | {"positions": "p.npy", "positions_unit": "um"}
    with pytest.raises(
        MissingValues, match=r"check the units.*does not state focus.*inf: parallel beam"
    ) as caught:
        formats.read(tmp_path / "a.npy", knobs=stated)
    assert str(caught.value).startswith("a.npy: check the units of positions, distance and energy")
    assert formats.read(tmp_path / "a.npy", knobs=stated | {"focus": "inf"}).geometry.near
    formats.read(tmp_path / "a.npy", knobs=stated | {"positions_unit": "nm"})


def test_a_hologram_of_petra_asks_for_its_focus() -> None:
    with pytest.raises(MissingValues, match=r"does not state focus.*1.19 um apart.*at most") as caught:
        formats.read(pl.samples.near_field())
    assert list(caught.value.missing) == ["focus"]
    assert len(str(caught.value).split()) < 70  # it had 100 words
    assert formats.read(pl.samples.near_field(), knobs={"focus": "3.65 mm"}).geometry.near
    assert formats.read(pl.samples.near_field(), knobs={"focus": "inf"}).geometry.magnification == 1
    assert not formats.read(pl.samples.near_field(), knobs={"field": "far"}).geometry.near
    assert not formats.read(pl.samples.far_field()).geometry.near


def test_a_side_car_states_the_focus(tmp_path: Path) -> None:
    path = tmp_path / "scan.cxi"
    shutil.copy(pl.samples.near_field(), path)
    (tmp_path / "scan.cxi.phaseloom.yaml").write_text("focus: 3.65 mm\n")
    assert formats.read(path).geometry.focus == pytest.approx(3.65e7)


def test_arrays_with_a_distance_are_judged_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((4, 6, 8, 8)))
    knobs = {"energy": "12 keV", "beam": "photon", "distance": "0.1 m", "detector_pixel": "6.5 um"}
    with pytest.raises(MissingValues) as caught:
        formats.read(tmp_path / "a.npy", knobs={**knobs, "step": "20 um"})
    assert list(caught.value.missing) == ["focus"]
    assert formats.read(tmp_path / "a.npy", knobs={**knobs, "step": "20 um", "focus": "inf"}).geometry.near
    assert not formats.read(tmp_path / "a.npy", knobs={**knobs, "step": "0.5 um"}).geometry.near
