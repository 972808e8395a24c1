"""What CDTools models do besides being fitted: centre their probes, simulate data, tell intensities."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom.compat.cdtools.datasets.base import METRES_PER_ANGSTROM, to_array, to_positions
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.fourier import shift
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.probes.opr import RelaxedProbe
from phaseloom.ptycho.scans import heights_matter, measure_height_sensitivity

__all__ = ["center_probe", "compute_intensities", "simulate"]


@torch.no_grad()
def center_probe(core: Ptychography, iterations: int, /) -> None:
    """See `ScanModel.center_probes`.

    The object goes with the modes by whole pixels and the positions by the rest, so that patterns stay what
    they are but for light that leaves the window at one edge and comes back at the other.
    """
    if core.propagator.onward is not None:
        fix = "would move the patterns of a near field, which shows where the probe is: leave it out"
        raise BadInput("center_probes", None, fix)
    probe = core.probe
    way = _center_offset(probe.modes(), iterations)
    if isinstance(probe, RelaxedProbe):
        Probe.set_modes(probe, shift(probe.basis(), -way))
    else:
        probe.set_modes(shift(probe.modes(), -way))
    whole = way.round()
    steps = [-int(n) for n in whole.tolist()]
    for parameter in core.object.parameters():
        parameter.copy_(torch.roll(parameter, steps, (-2, -1)))
    core.scan.offsets.add_((way - whole) / core.scan.step)


def _center_offset(modes: Tensor, iterations: int) -> Tensor:
    """From the middle of the window to the centre of mass, pixels (y, x), by the nearest way."""
    light = modes.abs().square().sum(0)
    middle = torch.tensor(modes.shape[-2:], device=modes.device) // 2
    way = torch.stack([_circular_mean(light.sum(1 - axis), int(middle[axis])) for axis in (0, 1)])
    for _ in range(iterations):
        light = shift(modes, -way).abs().square().sum(0)
        way = way + torch.stack([_mean(light.sum(1 - axis), int(middle[axis])) for axis in (0, 1)])
    return way


def _circular_mean(light: Tensor, middle: int) -> Tensor:
    """Centre of mass on a circle, relative to the middle."""
    angle = 2 * torch.pi * (torch.arange(len(light), device=light.device) - middle) / len(light)
    return torch.atan2((light * angle.sin()).sum(), (light * angle.cos()).sum()) * len(light) / (2 * torch.pi)


def _mean(light: Tensor, middle: int) -> Tensor:
    return (light * (torch.arange(len(light), device=light.device) - middle)).sum() / light.sum()


@torch.no_grad()
def compute_intensities(core: Ptychography, /) -> np.ndarray:
    """Relative intensity of the probe in each pattern ``(n,)``."""
    weights = core.detector.weights
    if isinstance(core.probe, RelaxedProbe):
        basis = core.probe.basis().flatten(1)
        mixture = core.probe.mixture
        powers = basis @ basis.mH
        seen = torch.einsum("nmk,kl,nml->n", mixture, powers, mixture.conj()).real
        weights = weights * seen / powers.diagonal().real.sum()
    return weights.cpu().numpy().copy()


@torch.no_grad()
def simulate(
    core: Ptychography, scan: Scan4D, index: np.ndarray, translations: Any, width: int | None, /
) -> Scan4D:
    """See `ScanModel.sim_to_dataset`; ``None`` for translations means those of the model as they are now."""
    if translations is None:
        heights = scan.heights if core.heights is None else core.heights.angstrom()
        positions = core.scan.angstrom()[index]
        heights = None if heights is None else heights[index]
    else:
        parts = to_positions(translations, scan.geometry)
        positions = parts["positions"]
        heights = _heights(core, scan, translations, parts["heights"])
    if len(positions) != len(index):
        raise BadInput(
            "sim_to_dataset: translations", len(positions), f"must be one for each of {len(index)}"
        )
    width = 1 if len(np.unique(index)) < len(index) else width or len(index)
    counts = []
    for some in np.array_split(np.arange(len(index)), -(-len(index) // width)):
        place = torch.as_tensor(index[some], device=core.scan.start.device)
        with _take_elsewhere(core, place, positions[some], None if heights is None else heights[some]):
            counts.append(core.detector.display(core(place)).cpu().numpy())
    weights = core.detector.weights.cpu().numpy()[index]
    return Scan4D(
        counts=np.concatenate(counts),
        positions=positions,
        geometry=scan.geometry,
        mask=scan.mask,
        background=core.detector.display(core.detector.background()).cpu().numpy(),
        flat=scan.flat,
        weights=None if np.ptp(weights) == 0 else weights,
        heights=heights,
        oriented=scan.oriented,
        metadata=dict(scan.metadata),
    )


def _heights(core: Ptychography, scan: Scan4D, given: Any, varied: np.ndarray | None) -> np.ndarray | None:
    """Heights of translations, as far as the model looks at any."""
    if core.heights is not None:
        return to_array(given).astype(float)[:, 2] / METRES_PER_ANGSTROM
    if varied is not None:
        low = varied.min()
        high = varied.max()
        spread = np.full(len(scan), low)
        spread[-1] = high
        unit = measure_height_sensitivity(core.probe.modes(), scan.geometry)
        if heights_matter(replace(scan, heights=spread), unit):
            fix = "differ along the beam, which this model leaves out: make it from a dataset where they do"
            raise BadInput("sim_to_dataset: translations", None, fix)
    return varied


@contextmanager
def _take_elsewhere(
    core: Ptychography, index: Tensor, positions: np.ndarray, heights: np.ndarray | None
) -> Iterator[None]:
    """Have some patterns taken elsewhere, for as long as it lasts."""
    room = core.scan.canvas
    along = core.heights
    pixels = torch.as_tensor((positions - np.array(room.origin)) / np.array(room.pixel)).to(core.scan.start)
    corner = pixels.round() - torch.tensor(room.window, device=pixels.device) // 2
    last = torch.tensor([n - w for n, w in zip(room.shape, room.window, strict=True)], device=pixels.device)
    beyond = int(((corner < 0) | (corner > last)).any(1).sum())
    if beyond:
        fix = "lie beyond the array of the object: make the model with a larger obj_padding"
        raise BadInput("sim_to_dataset: translations", f"{beyond} of {len(pixels)}", fix)
    changed = [(core.scan.start, pixels), (core.scan.offsets, 0.0)]
    if along is not None and heights is not None:
        changed += [
            (along.start, torch.as_tensor(heights - along.middle).to(along.start)),
            (along.offsets, 0.0),
        ]
    before = [tensor.detach().clone() for tensor, _ in changed]
    try:
        for tensor, new in changed:
            tensor[index] = new
        yield
    finally:
        for (tensor, _), old in zip(changed, before, strict=True):
            tensor.copy_(old)
