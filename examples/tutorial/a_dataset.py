"""Chapter 2 of docs/tutorial.md: a reader for a new file layout, that of a scan along the beam.

python examples/tutorial/a_dataset.py [--show] [--pictures DIR]
"""

import argparse
from dataclasses import replace
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

import phaseloom as pl
from phaseloom import plot
from phaseloom.data.formats import cxi
from phaseloom.data.scan import wavelength_of
from phaseloom.physics.propagate import angular_spectrum, fly
from phaseloom.units import Length

UM, MM = 1e4, 1e7  # angstrom
DEAD = 2**32 - 1


def read(path: Path, /, *, focus: Length, wave: Path | None = None, size: int = 128) -> pl.Scan4D:
    """A scan along the beam as station ZED writes it.

    Args:
        path: the file.
        focus: reading of the z motor with the sample in the focus, angstrom.
        wave: ``.npy`` file with the wave in the focus, complex ``(y, x)``, if it is known.
        size: pixels of the square around the beam that is kept.
    """
    with h5py.File(path) as file:
        row, column = file["detector/beam_centre"][()]
        top, left = row - size // 2, column - size // 2
        frames = file["detector/frames"][:, top : top + size, left : left + size]
        motors = file["sample/motors_mm"][()] * MM  # x, y, z of the sample
        distance = float(file["detector/distance_mm"][()]) * MM
        pitch = float(file["detector/pitch_um"][()]) * UM
        energy = float(file["beam/energy_keV"][()]) * 1e3
        monitor = file["beam/monitor"][()]

    mask = (frames != DEAD).all(axis=0)
    geometry = pl.Geometry(
        wavelength=wavelength_of(energy),
        shape=(size, size),
        angle=(pitch / distance, pitch / distance),
        distance=distance,
        basis=((0, 1), (-1, 0), (0, 0)),  # rows run along -y, columns along +x of the laboratory
    )
    positions, heights = -motors @ np.array(geometry.basis), -motors[:, 2]
    probe = None
    if wave is not None:
        probe = flown(np.load(wave), geometry, motors[:, 2].mean() - focus)[None]
    return pl.Scan4D(
        counts=np.where(mask, frames, 0),
        positions=positions,
        heights=heights,
        geometry=geometry,
        mask=mask,
        weights=monitor / monitor.mean(),
        probe=probe,
        metadata={"title": f"axial scan {path.stem}"},
    )


def flown(wave: np.ndarray, geometry: pl.Geometry, distance: float) -> np.ndarray:
    """A wave further downstream by a distance in angstrom."""
    way = torch.tensor(distance, dtype=torch.float64)
    kernel = angular_spectrum(geometry.shape, geometry.pixel, geometry.wavelength, way)
    return fly(torch.as_tensor(wave), kernel).numpy()


N, PIXEL, ENERGY = 128, 280.0, 8.8e3
Y, X = np.mgrid[:N, :N] - N // 2
RADIUS, ANGLE = np.hypot(Y, X), np.arctan2(Y, X)
SPOKES = (np.sin(16 * ANGLE) > 0) & (RADIUS > 6) & (RADIUS < 45)
STAR = (1 - 0.1 * SPOKES) * np.exp(-0.8j * SPOKES)


def measure(path: Path) -> None:
    """Eight planes, 0.3 to 0.8 mm behind the focus of a zone plate, in the layout of station ZED."""
    bend = 1.5 * np.cos(2 * ANGLE) * (RADIUS / 35) ** 2 + np.cos(3 * ANGLE) * (RADIUS / 35) ** 3
    pupil = ((RADIUS > 12) & (RADIUS < 35)) * np.exp(1j * bend)
    focus = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(pupil)))
    wavelength = wavelength_of(ENERGY)
    angle, behind = wavelength / (N * PIXEL), np.linspace(300, 800, 8) * UM
    geometry = pl.Geometry(wavelength=wavelength, shape=(N, N), angle=(angle, angle))
    probe = flown(focus, geometry, behind.mean())
    places = np.full((8, 2), N // 2 * PIXEL)
    optics = {"wavelength": wavelength, "dose": 1e6, "distance": 2e10}
    scan = pl.simulate.axial_scan(STAR, PIXEL, places, -behind, probe, **optics)
    np.save(path.with_name("focus.npy"), focus)
    frames = np.zeros((8, 140, 136), np.uint32)
    frames[:, 5 : 5 + N, 2 : 2 + N] = scan.counts
    frames[:, 80, :] = DEAD  # a row that does not count
    motors = np.stack([np.full(8, 12.5), np.full(8, -3.0), 40 + behind / MM], axis=1)
    with h5py.File(path, "w") as file:
        file["detector/frames"], file["detector/beam_centre"] = frames, [5 + N // 2, 2 + N // 2]
        file["detector/distance_mm"], file["detector/pitch_um"] = 2e10 / MM, angle * 2e10 / UM
        file["sample/motors_mm"], file["beam/monitor"] = motors, np.full(8, 1.3e5)
        file["beam/energy_keV"] = ENERGY / 1e3


def reconstructed(scan: pl.Scan4D, *, epochs: int) -> pl.Result:
    """The object of a scan with a known probe and one place to the side."""
    rates = {"object": 1.0, "probe": 0, "positions": 0, "affine": 0}
    tree = {"start": "none", "probe": {"stored": {"modes": 1}}, "rates": rates, "epochs": epochs}
    job = pl.Job.begin(pl.Reconstruct.of(tree), scan=scan)
    for _ in job:
        pass
    return job.result()


def main(*, show: bool, pictures: Path | None) -> None:
    """Measure, read, look, store, and find the sign of the z motor."""
    measure(Path("zscan_0042.h5"))

    scan = read(Path("zscan_0042.h5"), focus=40 * MM, wave=Path("focus.npy"))
    for finding in pl.inspect(scan):
        if finding.name in ("beam", "object pixel", "heights", "window", "masked"):
            print(finding.level, finding.name, finding.value)

    def draw(panel, number):
        image = panel.subplots().imshow(np.log1p(scan.counts[number]), cmap="magma")
        image.axes.set_title(f"plane {number}: height {scan.heights[number] / MM:.2f} mm")

    plot.slide(range(len(scan)), draw, label="plane")

    cxi.write(scan, "zscan_0042.cxi")
    back = pl.read("zscan_0042.cxi")
    for name in ("counts", "positions", "heights", "mask", "weights", "probe"):
        before, after = getattr(scan, name), getattr(back, name)
        print(name, before.shape, "differs by at most", np.abs(1.0 * after - before).max())

    pl.register("formats", read, name="zed")
    tree = {"file": "zscan_0042.h5", "read": {"zed": {"focus": "40 mm", "wave": "focus.npy"}}}
    same = pl.Reconstruct.of(tree).scan()
    print("by its name in a parameter file:", same.digest() == scan.digest())

    turned = replace(scan, heights=-scan.heights)
    results = [reconstructed(one, epochs=40) for one in (scan, turned)]
    for sign, result in zip(("as read", "turned"), results, strict=True):
        print(f"heights {sign}: loss {result.metrics['loss']:.2f}")

    if pictures:
        picture(scan, results, pictures / "tutorial-axial.png")
    if show:
        plt.show()
    plt.close("all")


def picture(scan: pl.Scan4D, results: list[pl.Result], path: Path) -> None:
    """The first and the last pattern, and the phase with the heights as read and turned."""
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
    for panel, number in zip(axes, (0, len(scan) - 1), strict=False):
        panel.imshow(np.log1p(scan.counts[number]), cmap="magma")
        panel.set_title(f"pattern at height {scan.heights[number] / MM:.2f} mm")
    for panel, sign, result in zip(axes[2:], ("as read", "turned"), results, strict=True):
        shown = panel.imshow(result.phase, vmin=-1, vmax=0.3)
        panel.set_title(f"heights {sign}: loss {result.metrics['loss']:.2f}")
    figure.colorbar(shown, ax=axes[3], label="phase (rad)")
    for panel in axes:
        panel.set_axis_off()
    plot.save(figure, path, dpi=60)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--show", action="store_true", help="open windows")
    parser.add_argument("--pictures", type=Path, help="write pictures to this folder")
    main(**vars(parser.parse_args()))
