"""The experiment as one sentence: illuminate, pass through, fly, count."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phaseloom.data.scan import Scan4D
from phaseloom.ptycho import detectors, noise, objects, probes, propagators, scans
from phaseloom.ptycho.batches import Measured

__all__ = ["Likelihood", "Ptychography"]


class Ptychography(nn.Module):
    """A differentiable ptychography experiment: scan index in, expected counts out.

    Parts are attributes and may be replaced or frozen (``model.probe.requires_grad_(False)``).

    Attributes:
        scan: `phaseloom.ptycho.scans.Positions`.
        probe: `phaseloom.ptycho.probes.Probe`.
        object: `phaseloom.ptycho.objects.PixelObject`.
        propagator: `phaseloom.ptycho.propagators.FreeFlight`.
        detector: `phaseloom.ptycho.detectors.Detector`.

    Example:
        >>> from phaseloom.data.scan import Geometry, Scan4D
        >>> geometry = Geometry(wavelength=1.0, shape=(8, 8), angle=(1e-2, 1e-2))
        >>> scan = Scan4D(counts=np.ones((3, 8, 8)), positions=np.eye(3)[:, :2], geometry=geometry)
        >>> Ptychography.of(scan)(torch.tensor([0, 2])).shape
        torch.Size([2, 8, 8])
    """

    def __init__(
        self,
        *,
        object: objects.PixelObject,
        probe: probes.Probe,
        scan: scans.Positions,
        propagator: propagators.FreeFlight,
        detector: detectors.Detector,
    ):
        super().__init__()
        self.object, self.probe, self.scan = object, probe, scan
        self.propagator, self.detector = propagator, detector

    @classmethod
    def of(
        cls,
        scan: Scan4D,
        /,
        *,
        object: objects.PixelObject | None = None,
        probe: probes.Probe | None = None,
        flight: Callable[..., propagators.FreeFlight] = propagators.exact,
    ) -> "Ptychography":
        """A model of a scan from the given parts, and first guesses for the others."""
        room = scans.canvas(scan)
        thing = object if object is not None else objects.pixels(room)
        return cls(
            object=thing,
            probe=probe if probe is not None else probes.auto(scan),
            scan=scans.Positions.of(scan, room),
            propagator=flight(scan.geometry, thing.thickness),
            detector=detectors.counting(scan),
        )

    def forward(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b y x"]:
        """Expected counts of the patterns of an index, in the detector's own order."""
        place, rest = self.scan(index)
        wave = self.propagator(self.probe(rest), self.object(place), rest)
        return self.detector(wave, index)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be refined, by the names that rates use."""
        return {
            "object": list(self.object.parameters()),
            "probe": list(self.probe.parameters()),
            "positions": [self.scan.offsets],
            "affine": [self.scan.affine],
            "weights": [self.detector.weights],
            "background": [self.detector.root],
        }

    @torch.no_grad()
    def coverage(self) -> np.ndarray:
        """How much beam each object pixel saw: sum of probe intensities ``(y, x)``, in counts."""
        light = self.probe.modes().abs().square().sum(0).cpu().numpy()
        total = np.zeros(self.scan.canvas.shape, np.float32)
        height, width = light.shape
        corners, _ = self.scan(torch.arange(len(self.scan.start), device=self.scan.start.device))
        for y, x in corners.cpu().numpy():
            total[y : y + height, x : x + width] += light
        return total


class Likelihood:
    """The objective of a fit: how far the modelled patterns of a batch are from the measured ones.

    Calling it with a batch of indices gives ``{"noise": loss}``, a loss of 1 meaning that nothing but
    shot noise is left.
    """

    def __init__(self, model: Ptychography, scan: Scan4D, divergence: noise.Divergence = noise.amplitude):
        self.model, self.divergence = model, divergence
        self.measured = Measured(scan, model.detector.arrange)
        some = np.unique(np.linspace(0, len(scan) - 1, min(len(scan), 400)).astype(int))
        mask = model.detector.mask.cpu()
        self.floor = noise.shot_noise(divergence, self.measured[torch.as_tensor(some)], mask)
        self.floor = max(self.floor, 1e-12)

    def __call__(self, index: Int[Tensor, " b"]) -> dict[str, Tensor]:
        """Mean loss over the patterns of a batch."""
        device = self.model.scan.start.device
        index = index.to(device)
        counts = self.measured[index].to(device, self.model.scan.start.dtype)
        left = self.divergence(self.model(index), counts) * self.model.detector.mask
        return {"noise": left.sum() / (len(index) * self.floor)}

    @torch.no_grad()
    def remaining(self, size: int = 32) -> dict[str, float]:
        """What is left over all patterns, in the units that are compared between programs.

        ``amplitude``: mean over trusted pixels of ``(sqrt(model) - sqrt(counts))^2``, about 0.25 at the
        shot-noise limit of bright data. ``poisson``: twice the Poisson deviance's half per pixel with
        at least one count, 1 at the limit.
        """
        mask, device = self.model.detector.mask, self.model.scan.start.device
        amplitude = deviance = lit = 0.0
        for index in torch.arange(len(self.measured), device=device).split(size):
            counts, expected = self.measured[index].to(device), self.model(index)
            amplitude += float((noise.amplitude(expected, counts, floor=0.0) * mask).sum())
            deviance += float((noise.poisson(expected, counts) * mask).sum())
            lit += float(((counts >= 1) & mask).sum())
        pixels = len(self.measured) * float(mask.sum())
        return {"amplitude": amplitude / pixels, "poisson": 2 * deviance / max(lit, 1.0)}
