"""The package of docs/howto-plugins.md, installed as it stands, on a scan made with plain numpy."""

import shlex
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import phaseloom as pl
from phaseloom import plugins
from tests.docs.pages import ROOT, list_blocks

PAGE = ROOT / "docs" / "howto-plugins.md"


@pytest.fixture
def mylab(tmp_path, monkeypatch):
    """What `pip install` makes of the two files of the page."""
    blocks = {block.language: block.text for block in list_blocks(PAGE)}
    project = tomllib.loads(blocks["toml"])
    site = tmp_path / "site"
    info = site / f"{project['project']['name']}-{project['project']['version']}.dist-info"
    info.mkdir(parents=True)
    groups = project["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "\n".join(f"{a} = {b}" for a, b in some.items()) for group, some in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 0.1\n")
    (site / "mylab.py").write_text(blocks["python"])
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"] == ["mylab.py"]
    monkeypatch.syspath_prepend(str(site))
    plugins._list_entry_points.cache_clear()
    plugins._load_entry_point.cache_clear()
    yield blocks["sh"]
    plugins._list_entry_points.cache_clear()
    plugins._load_entry_point.cache_clear()
    sys.modules.pop("mylab", None)


def write_scope_file(path: Path) -> None:
    """Sixty-four patterns of a phase of two waves, 80 keV, 25 mrad, 100 A of under-focus."""
    size, pixel, step, wavelength = 32, 0.35, 1.4, 0.041757
    y, x = np.indices((96, 96)) * pixel
    wave = np.exp(0.3j * (np.cos(2 * np.pi * (y + 0.4 * x) / 4.1) + np.cos(2 * np.pi * (x - 0.3 * y) / 3.3)))
    frequency = np.fft.fftfreq(size, pixel)
    square = frequency[:, None] ** 2 + frequency**2
    aperture = (square < (0.025 / wavelength) ** 2) * np.exp(1j * np.pi * wavelength * 100.0 * square)
    probe = np.fft.fftshift(np.fft.ifft2(aperture))
    counts = np.zeros((8, 8, size, size), np.uint16)
    for row, column in np.ndindex(8, 8):
        top, left = (round(4 + step * index / pixel) for index in (row, column))
        pattern = np.fft.fft2(probe * wave[top : top + size, left : left + size])
        rate = np.fft.fftshift(np.abs(pattern) ** 2)
        counts[row, column] = np.random.default_rng(8 * row + column).poisson(2e4 * rate / rate.sum())
    facts = {"volts": 80e3, "radian_per_pixel": wavelength / (size * pixel), "step_nm": step / 10}
    with path.open("wb") as file:
        np.savez(file, counts=counts, **facts)


@pytest.mark.medium
def test_the_package_of_the_page_works(mylab, phaseloom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_scope_file(tmp_path / "monday.scope")
    _, *lines = mylab.strip().splitlines()  # the first is pip's
    fast = {"reconstruct": ["--set", "epochs=3", "--set", "preset=none", "--out", "run", "-q"]}
    beam = ["--set", "probe={focused: {semiangle: 25 mrad, defocus: 100 A}}"]
    said = {}
    for line in lines:
        _, verb, *words = shlex.split(line)
        ended = phaseloom(verb, *words, *(beam + fast[verb] if verb in fast else []))
        assert ended.code == 0, ended.err
        said[verb] = ended.out
    assert "default 2.0" in said["describe"]
    assert "64 patterns of 32 x 32 pixels" in said["look"]
    assert "orientation            unknown" in said["look"]
    result = pl.load("run/result.h5")
    assert "robust: {width: 3.0}" in result.recipe
    assert "above_background: {keep: 0.3}" in result.recipe
    assert result.history[-1]["loss"] < 0.7 * result.history[0]["loss"]


def test_the_groups_of_the_page_are_rooms():
    rooms = {room.rpartition(".")[2] for room in plugins.ROOMS}
    text = PAGE.read_text()
    named = {word.removeprefix("phaseloom.") for word in text.split("`") if word.startswith("phaseloom.")}
    assert {word for word in text.split("`") if word in rooms} | named >= rooms
    assert named <= rooms
