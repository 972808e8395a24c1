"""The experiment as one sentence: illuminate, pass through, fly, count."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phaseloom.data.scan import Scan4D
from phaseloom.ptycho import detectors, illumination, objects, probes, propagators, scans

__all__ = ["Ptychography"]


class Ptychography(nn.Module):
    """A differentiable ptychography experiment: scan index in, expected counts out.

    Parts are attributes and may be replaced or frozen (``model.probe.requires_grad_(False)``).

    Attributes:
        scan: `phaseloom.ptycho.scans.Positions`.
        probe: `phaseloom.ptycho.illumination.Illumination`.
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
        probe: illumination.Illumination,
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
        probe: illumination.Illumination | None = None,
        flight: propagators.Flight = propagators.exact,
        detector: detectors.Detector | None = None,
    ) -> "Ptychography":
        """A model of a scan from the given parts, and first guesses for the others."""
        thing = object if object is not None else objects.pixels(scans.canvas(scan))
        return cls(
            object=thing,
            probe=probe if probe is not None else probes.auto(scan),
            scan=scans.Positions.of(scan, thing.canvas),
            propagator=flight(scan, thing.gaps),
            detector=detector if detector is not None else detectors.counting(scan),
        )

    def forward(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b y x"]:
        """Expected counts of the patterns of an index, in the detector's own order."""
        place, rest = self.scan(index)
        wave = self.propagator(self.probe(rest)[:, None], self.object(place), rest, index)
        return self.detector(wave, index, self.object.occupancy)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be refined, by the names that rates use; one that this experiment lacks is empty."""
        return {
            **self.object.parts(),
            **self.probe.parts(),
            **self.scan.parts(),
            **self.propagator.parts(),
            **self.detector.parts(),
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
