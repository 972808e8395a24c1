"""Chapter 3 of docs/tutorial.md: a model of a scan along the beam, written by hand.

python examples/tutorial/a_model.py [--pictures DIR]
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import phaseloom as pl
from phaseloom import batches, noise, optimizers, plot
from phaseloom.fitting.loop import Epoch
from phaseloom.fitting.newton import diagonal
from phaseloom.physics.detect import intensity
from phaseloom.physics.fourier import shift_to_centre
from phaseloom.physics.propagate import angular_spectrum, far_field, fly


class AxialModel(nn.Module):
    """One thin window of an object, seen by a known probe from several heights.

    Attributes:
        object: ``(y, x)`` complex transmission; a parameter.
        moves: ``(n,)`` errors of the heights, in units of ``unit``; a parameter.
        probe: ``(mode, y, x)`` on the object at the mean height, square roots of counts.
        heights: ``(n,)`` less their mean, angstrom.
    """

    probe: Tensor
    heights: Tensor

    def __init__(self, scan: pl.Scan4D, unit: float):
        super().__init__()
        self.grid = scan.geometry.shape, scan.geometry.pixel, scan.geometry.wavelength
        self.unit = unit
        heights = scan.heights - scan.heights.mean()
        self.register_buffer("heights", torch.as_tensor(heights, dtype=torch.float32))
        self.register_buffer("probe", torch.as_tensor(scan.probe, dtype=torch.complex64))
        self.object = nn.Parameter(torch.ones(scan.geometry.shape, dtype=torch.complex64))
        self.moves = nn.Parameter(torch.zeros(len(scan)))

    def forward(self, index: Tensor) -> Tensor:
        """Expected counts ``(b, y, x)`` of some patterns, centred as in files."""
        height = self.heights[index] + self.unit * self.moves[index]
        way = angular_spectrum(*self.grid, -height)[:, None]  # (b, 1, y, x): the same for all modes
        arriving = fly(self.probe[None], way)
        leaving = arriving * self.object
        return shift_to_centre(intensity(far_field(leaving)))

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be refined, by the names that rates use."""
        return {"object": [self.object], "heights": [self.moves]}


def curvature(model: AxialModel, floor: float) -> Tensor:
    """Of the mean loss along each pixel: the light on it, and a tenth of the brightest everywhere."""
    with torch.no_grad():
        way = angular_spectrum(*model.grid, -model.heights)[:, None]
        light = intensity(fly(model.probe[None], way)).mean(0)
    return 2 / floor * (light + 0.1 * light.max())


def fitted(model: AxialModel, misfit: pl.Misfit, rates: dict[str, float], epochs: int) -> Iterator[Epoch]:
    """The epochs of a fit of all planes at once."""
    optimizer = optimizers.gauss_newton(optimizers.groups(model.parts(), rates))
    optimizer.rules = {model.object: diagonal(curvature(model, misfit.floor))}
    count = len(misfit.measured)
    order = batches.random(range(count), size=count)
    return pl.fit(misfit, order, pl.Progress(model, optimizer), epochs=epochs)


def robust(model: Tensor, counts: Tensor, /, *, width: float = 1.0) -> Tensor:
    """Square of the difference of amplitudes up to ``width``, then linear: stray counts pull less."""
    gap = (model + 0.01).sqrt() - (counts + 0.01).sqrt()
    return 2 * width**2 * ((1 + (gap / width).square()).sqrt() - 1)


def bounded(amplitude: Tensor) -> Tensor:
    """A penalty on transmissions above one; its argument's name says what it is given."""
    return 10 * (amplitude - 1).clamp(min=0).square().mean()


N, PIXEL, WAVELENGTH, UM = 64, 560.0, 1.41, 1e4
Y, X = np.mgrid[:N, :N] - N // 2
RADIUS, ANGLE = np.hypot(Y, X), np.arctan2(Y, X)
SPOKES = (np.sin(8 * ANGLE) > 0) & (RADIUS > 4) & (RADIUS < 23)
STAR = (1 - 0.1 * SPOKES) * np.exp(-0.8j * SPOKES)


def measured() -> pl.Scan4D:
    """Twelve planes of a star behind the focus of a zone plate with astigmatism and trefoil."""
    bend = 1.5 * np.cos(2 * ANGLE) * (RADIUS / 17) ** 2 + np.cos(3 * ANGLE) * (RADIUS / 17) ** 3
    pupil = ((RADIUS > 6) & (RADIUS < 17)) * np.exp(1j * bend)
    focus = torch.as_tensor(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(pupil))))
    behind = np.linspace(500, 1700, 12) * UM
    way = torch.tensor(behind.mean())
    probe = fly(focus, angular_spectrum((N, N), (PIXEL, PIXEL), WAVELENGTH, way)).numpy()
    places = np.full((len(behind), 2), N // 2 * PIXEL)
    return pl.simulate.axial_scan(STAR, PIXEL, places, -behind, probe, wavelength=WAVELENGTH, dose=1e6)


def error(found: Tensor, scan: pl.Scan4D) -> float:
    """Of the object where the probe at the mean height is bright, relative, but for a factor."""
    light = np.abs(scan.probe[0]) ** 2
    light = light * (light > 0.02 * light.max())
    found = found.detach().numpy()
    factor = (light * found.conj() * STAR).sum() / (light * np.abs(found) ** 2).sum()
    gap = (light * np.abs(factor * found - STAR) ** 2).sum()
    return float(np.sqrt(gap / (light * np.abs(STAR) ** 2).sum()))


def main(*, pictures: Path | None) -> None:
    """Fit by hand and with the loop, beside the built-in; with wrong heights; with stray counts."""
    scan = measured()
    builtin = pl.Ptychography.of(scan, probe=pl.probes.stored(scan, modes=1))
    unit = pl.depth_of_focus(scan)
    scan = replace(scan, probe=builtin.probe.modes().detach().numpy())

    model = AxialModel(scan, unit)
    misfit = pl.Misfit(model, scan)
    every = torch.arange(len(scan))
    optimizer = torch.optim.Adam([model.object], lr=0.05)
    losses = []
    for _ in range(240):
        optimizer.zero_grad()
        loss = misfit(every)["noise"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"by hand, Adam: loss {losses[-1]:.3f}, error of the object {error(model.object, scan):.3f}")

    model = AxialModel(scan, unit)
    newton = list(fitted(model, pl.Misfit(model, scan), {"object": 1.0}, 240))
    print(f"Newton steps: loss {newton[-1].loss:.3f}, error of the object {error(model.object, scan):.3f}")

    compare(model, builtin, scan)
    found = wrong_heights(scan, unit)
    told_by = stray_counts(scan, unit)
    if pictures:
        picture(losses, [epoch.loss for epoch in newton], found, told_by, pictures / "tutorial-model.png")


def compare(model: AxialModel, builtin: pl.Ptychography, scan: pl.Scan4D) -> None:
    """Patterns and losses of the model and of the built-in with the same object."""
    every = torch.arange(len(scan))
    builtin.object.place_window(model.object, at=scan.positions[0])
    with torch.no_grad():
        ours, theirs = model(every), builtin.detector.display(builtin(every))
    print(f"brightest pixel {theirs.max():.0f} counts, largest difference {(ours - theirs).abs().max():.4f}")
    terms = pl.Likelihood(builtin, scan, robust, {"bounded": bounded})(every)
    print("built-in:", ", ".join(f"{name} {value.item():.3f}" for name, value in terms.items()))
    print(f"ours: noise {pl.Misfit(model, scan, robust)(every)['noise'].item():.3f}")

    pl.register("noise", robust)
    pl.register("penalties", bounded)
    tree = {"start": "none", "noise": {"robust": {"width": 2.0}}, "penalties": ["bounded"], "epochs": 1}
    (epoch,) = pl.Job.begin(pl.Reconstruct.of(tree), scan=scan)
    print("in a recipe:", ", ".join(epoch.terms))


def wrong_heights(scan: pl.Scan4D, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Errors of heights in um, as told and as found."""
    errors = np.random.default_rng(1).normal(size=len(scan)) * 0.15 * unit
    errors -= errors.mean()
    told = replace(scan, heights=scan.heights + errors)
    for name, rates in {"left": {"object": 1.0}, "refined": {"object": 1.0, "heights": 0.01}}.items():
        model = AxialModel(told, unit)
        *_, last = fitted(model, pl.Misfit(model, told), rates, 240)
        left = errors + unit * model.moves.detach().numpy()
        print(f"heights {name}: wrong by {left.std() / UM:.2f} um rms, loss {last.loss:.3f}", end="")
        print(f", error of the object {error(model.object, scan):.3f}")
    return errors / UM, left / UM


def stray_counts(scan: pl.Scan4D, unit: float) -> list[Tensor]:
    """Objects found from data in which one pixel of a thousand has stray counts."""
    rng = np.random.default_rng(2)
    counts = scan.counts.astype(np.int64)
    hit = rng.random(counts.shape) < 0.001
    counts[hit] += rng.integers(200, 5000, hit.sum())
    told = replace(scan, counts=counts)
    found = []
    for divergence in (noise.amplitude, robust):
        model = AxialModel(told, unit)
        for judge in (noise.amplitude, divergence):
            *_, last = fitted(model, pl.Misfit(model, told, judge), {"object": 1.0}, 240)
        print(f"stray counts, {judge.__name__}: loss {last.loss:.3f}", end="")
        print(f", error of the object {error(model.object, scan):.3f}")
        found.append(model.object.detach())
    return found


def picture(adam: list, newton: list, heights: tuple, objects: list[Tensor], path: Path) -> None:
    """Losses, heights and phases."""
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    axes[0].semilogy(adam, label="by hand, Adam")
    axes[0].semilogy(newton, label="Newton steps")
    axes[0].set(xlabel="epoch", title="loss")
    for values, label in zip(heights, ("as told", "as found"), strict=True):
        axes[1].plot(values, "o-", label=label)
    axes[1].set(xlabel="plane", ylabel="um", title="error of the heights")
    for panel, wave, name in zip(axes[2:], objects, ("amplitude", "robust"), strict=True):
        panel.imshow(wave.angle().numpy(), vmin=-1, vmax=0.3)
        panel.set_title(f"phase, stray counts: {name}")
        panel.set_axis_off()
    for panel in axes[:2]:
        panel.legend()
    plot.save(figure, path, dpi=60)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=Path, help="write pictures to this folder")
    main(**vars(parser.parse_args()))
