"""The experiment as one sentence: illuminate, pass through, fly, count."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.physics.adjoint import far_waves
from phaseloom.physics.engine.misfit import can_compile, compiled_misfit
from phaseloom.physics.propagate import illuminate
from phaseloom.ptycho import detectors, illumination, objects, probes, propagators, scans
from phaseloom.ptycho.noise import Divergence, find_compiled_form
from phaseloom.ptycho.scans import Heights, heights_matter, measure_height_sensitivity, project_to_heights

__all__ = ["Ptychography", "change_whole", "evaluate_whole", "gather_model", "hold_windows", "is_in_tiles"]
__all__ += ["scatter_object"]

T = TypeVar("T")


class Ptychography(nn.Module):
    """A differentiable ptychography experiment: scan index in, expected counts out.

    Parts are attributes and may be replaced or frozen (``model.probe.requires_grad_(False)``).

    Attributes:
        scan: `phaseloom.ptycho.scans.Positions`.
        heights: `phaseloom.ptycho.scans.Heights` of a scan along the beam, or ``None``.
        probe: `phaseloom.ptycho.illumination.Illumination`.
        object: `phaseloom.ptycho.objects.PixelObject`.
        propagator: `phaseloom.ptycho.propagators.FreeFlight`.
        detector: `phaseloom.ptycho.detectors.CountingDetector`.
        use_custom_adjoint: take the fast path where it serves; equal to the other to rounding.
        illumination_sum: ``None``, or real ``(slice, y, x)`` to which a batch adds the intensity that falls
            on each slice, summed over its patterns and modes.

    Source:
        Rodenburg & Faulkner 2004, doi 10.1063/1.1823034; with an unknown probe: Thibault et al. 2008,
        doi 10.1126/science.1158573.

    Example:
        >>> from phaseloom.data.scan import Geometry, Scan4D
        >>> geometry = Geometry(wavelength=1.0, shape=(8, 8), angle=(1e-2, 1e-2))
        >>> scan = Scan4D(counts=np.ones((3, 8, 8)), positions=np.eye(3)[:, :2], geometry=geometry)
        >>> Ptychography.of(scan)(torch.tensor([0, 2])).shape
        torch.Size([2, 8, 8])
    """

    illumination_sum: Tensor | None

    def __init__(
        self,
        *,
        object: objects.PixelObject,
        probe: illumination.Illumination,
        scan: scans.Positions,
        propagator: propagators.FreeFlight,
        detector: detectors.CountingDetector,
        heights: Heights | None = None,
    ):
        super().__init__()
        self.heights = heights
        self.object = object
        self.probe = probe
        self.scan = scan
        self.propagator = propagator
        self.detector = detector
        self.use_custom_adjoint = True
        self.illumination_sum = None

    @classmethod
    def of(
        cls,
        scan: Scan4D,
        /,
        *,
        object: objects.PixelObject | None = None,
        probe: illumination.Illumination | None = None,
        flight: propagators.Flight = propagators.exact,
        detector: detectors.CountingDetector | None = None,
        axial: bool | None = None,
        fly: float | None = None,
    ) -> "Ptychography":
        """A model of a scan from the given parts, and first guesses for the others.

        Positions along the beam (``scan.heights``) are modelled if ``axial``, by default where they differ by
        more than a tenth of the depth of focus. In a fly scan, with the shutter open for a share ``fly`` of
        the way to the next position, a pattern is the sum of those of moments along its way.
        """
        if fly and scan.geometry.near:
            raise BadInput("fly", fly, "is not supported in the near field: leave it out")
        part = object if object is not None else objects.pixels(scans.canvas(scan))
        if scan.geometry.has_tilted_sample and part.gaps:
            fix = "slices along a tilted surface are not built: give the object one slice"
            raise BadInput("object: slices", len(part.gaps) + 1, fix)
        beam = probe if probe is not None else probes.auto(scan)
        unit = measure_height_sensitivity(beam.modes(), scan.window)
        along = heights_matter(scan, unit) if axial is None else axial
        heights = Heights.of(scan, unit) if along else None
        if heights is not None and heights.cone_curvature:
            if part.gaps:
                fix = "slices cannot be modelled at heights of a cone beam: give the object one slice"
                raise BadInput("object: slices", len(part.gaps) + 1, fix)
            part.canvas = heights.widen_canvas(part.canvas)
            part.window = part.canvas.window
        return cls(
            object=part,
            probe=beam,
            heights=heights,
            scan=scans.Positions.of(scan, part.canvas, fly),
            propagator=flight(scan, part.gaps),
            detector=detector if detector is not None else detectors.counting(scan),
        )

    def forward(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b y x"]:
        """Expected counts of the patterns of an index, in the detector's own order."""
        index = index.to(self.scan.start.device)
        return self.detector(self.wave(index), index, self.object.occupancy)

    @torch.no_grad()
    def expect_amplitudes(self, index: Int[Tensor, " n"], size: int) -> Float[Tensor, "n y x"]:
        """Roots of the expected counts of patterns, ``size`` at a time; zero where pixels are masked."""
        seen = torch.cat([self(piece) for piece in index.split(size)])
        return seen.clamp(min=0).sqrt() * self.detector.mask

    @torch.no_grad()
    def pattern(self, index: int) -> np.ndarray:
        """Expected counts ``(y, x)`` of one pattern, centred as in files."""
        if not 0 <= index < len(self.scan.start):
            fix = f"is not a pattern of this scan: they are 0 to {len(self.scan.start) - 1}"
            raise BadInput("model.pattern", index, fix)
        expected = self(torch.tensor([index], device=self.scan.start.device))
        return self.detector.display(expected)[0].cpu().numpy()

    def wave(self, index: Int[Tensor, " b"]) -> Complex[Tensor, "b *state mode y x"]:
        """Waves on the detector; with an adjoint of their own where the experiment is a plain one."""
        index = index.to(self.scan.start.device)
        place, rest = self.scan(index)
        if self.supports_fast_path():
            kernels = [one[:, 0] if one.ndim == 5 else one for one in self.propagator.gap_kernels(index)]
            return far_waves(
                self.probe.modes(), rest, self.object.cut_windows(place), kernels, light=self.illumination_sum
            )
        return self.detector_wave(self._cut_windows(place, index), place, rest, index)

    def _cut_windows(
        self, place: Int[Tensor, "b 2"], index: Int[Tensor, " b"]
    ) -> Complex[Tensor, "b state slice v u"]:
        """Windows of the object, at the energies of their patterns."""
        if isinstance(self.propagator, propagators.EnergyFlight):
            return self.propagator.transmit(*self.object.cut_amplitude_phase(place), index)
        return self.object(place)

    def detector_wave(
        self,
        slices: Complex[Tensor, "b state slice v u"],
        place: Int[Tensor, "b 2"],
        rest: Float[Tensor, "b 2"],
        index: Int[Tensor, " b"],
    ) -> Complex[Tensor, "b state mode y x"]:
        """Waves on the detector behind windows of any object, at the places of an index."""
        way = None if self.heights is None else self.heights(index)
        seen = slices
        if self.heights is not None:
            seen, rest = self.heights.resample_windows(slices, rest, index)
        wave = self._illuminate(rest, way, index)[:, None]
        if self.illumination_sum is not None:
            there = wave
            if self.heights is not None:
                there = project_to_heights(self.heights, wave, self.heights.current_heights()[index])
            flights = self.propagator.gap_kernels(index)
            illuminate(self.illumination_sum, place, there, slices, flights, share=self.object.occupancy)
        return self.propagator(wave, seen, rest, index, way)

    def _illuminate(
        self, rest: Float[Tensor, "b 2"], way: Complex[Tensor, "b 1 y x"] | None, index: Int[Tensor, " b"]
    ) -> Complex[Tensor, "b mode y x"]:
        """The modes on the object; of a beam that moves, those of each moment, which add as intensities."""
        motion = self.scan.motion
        if motion is None:
            return self.probe(rest, way, index)
        moments = self.scan.moments()
        waves = [self.probe(rest + at * motion[index], way, index) for at in moments]
        return torch.cat(waves, 1) / math.sqrt(len(moments))

    def misfit(
        self, index: Int[Tensor, " b"], counts: Float[Tensor, "b y x"], divergence: Divergence
    ) -> Float[Tensor, ""]:
        """Divergence between expected and measured counts, summed over the trusted pixels of a batch."""
        found = self._compiled_misfit(index, counts, divergence)
        if found is not None:
            return found
        return self.detector.misfit(self.wave(index), counts, index, divergence, self.object.occupancy)

    def _compiled_misfit(
        self, index: Int[Tensor, " b"], counts: Float[Tensor, "b y x"], divergence: Divergence
    ) -> Float[Tensor, ""] | None:
        """`misfit` in one compiled call, where the experiment is a plain one and the kernels are there."""
        noise = find_compiled_form(divergence)
        if noise is None or self.illumination_sum is not None or not self.detector.counts_plainly():
            return None
        if not self.supports_fast_path() or counts.device.type != "cpu":
            return None
        if not can_compile((counts.shape[-2], counts.shape[-1]), counts.dtype):
            return None
        place, rest = self.scan(index)
        return compiled_misfit(
            self.probe.modes(),
            rest,
            self.object.cut_windows(place),
            self.propagator.gap_kernels(index),
            counts,
            self.detector.weights[index],
            noise,
            **self.detector.fields(),
        )

    def supports_fast_path(self) -> bool:
        """Whether the fast path serves: one state of the object, a far field, flights that are not refined.

        Second derivatives, and the transforms of `torch.func`, need plain autograd: set
        ``use_custom_adjoint`` to False for them.
        """
        return (
            self.use_custom_adjoint
            and self.heights is None
            and self.scan.motion is None
            and len(self.object.occupancy) == 1
            and self.propagator.is_plain_far_field()
            and type(self.probe).forward is illumination.Illumination.forward
            and type(self.probe).modes_of is illumination.Illumination.modes_of
            and type(self.object).forward is objects.PixelObject.forward
            and not _uses_functional_transforms()
        )

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be refined, by the names that rates use; one that this experiment lacks is empty."""
        return {
            **self.object.parts(),
            **self.probe.parts(),
            **self.scan.parts(),
            **({} if self.heights is None else self.heights.parts()),
            **self.propagator.parts(),
            **self.detector.parts(),
        }

    @torch.no_grad()
    def coverage(self) -> np.ndarray:
        """How much beam each object pixel saw: sum of probe intensities ``(y, x)``, in counts."""
        total = np.zeros(self.scan.canvas.shape, np.float32)
        corners, _ = self.scan(torch.arange(len(self.scan.start), device=self.scan.start.device))
        for modes, members in self.incident_modes():
            light = modes.abs().square().sum(0).cpu().numpy()
            height, width = light.shape
            for y, x in corners[members].cpu().numpy():
                total[y : y + height, x : x + width] += light
        return total

    @torch.no_grad()
    def incident_modes(self) -> list[tuple[Complex[Tensor, "mode y x"], Int[Tensor, " _"]]]:
        """The modes on the object, and the patterns that they illuminate; at few heights, if at several."""
        modes = self.probe.modes()
        if self.heights is None:
            return [(modes, torch.arange(len(self.scan.start), device=modes.device))]
        return self.heights.incident_modes(modes)

    @torch.no_grad()
    def median_modulus(self, coverage: np.ndarray | None = None) -> np.ndarray:
        """Median modulus of each slice where it is well lit: a scale that object and probe share at will."""
        coverage = self.coverage() if coverage is None else coverage
        lit = torch.as_tensor(coverage > 0.2 * np.percentile(coverage[coverage > 0], 90))
        states = self.object.transmission().cpu()
        scale = np.median(states[:, :, lit].abs().numpy(), axis=(0, 2))
        return np.where(scale > 0, scale, 1.0).astype(np.float32)


def is_in_tiles(model: Ptychography, /) -> bool:
    """Whether this process holds a part of the object only."""
    return model.object.canvas.tiling is not None


@torch.no_grad()
def gather_model(model: Ptychography, /) -> Ptychography | None:
    """A copy with the whole object on the CPU in the main process; ``None`` in the others.

    All processes have to call it.
    """
    thing = model.object
    tiling = thing.canvas.tiling
    assert tiling is not None
    parts = {name: tiling.gather(value.detach()) for name, value in thing.named_parameters()}
    if not team().is_main:
        return None
    canvas = replace(thing.canvas, tiling=None)
    first = next(iter(parts.values()))
    assert first is not None
    start = first if first.is_complex() else torch.empty(first.shape, dtype=first.dtype.to_complex())
    whole = objects.PixelObject(start, thing.kind, thing.gaps, canvas, thing.occupancy.cpu())
    for name, value in parts.items():
        assert value is not None
        getattr(whole, name).copy_(value)
    scan = deepcopy(model.scan).cpu()
    scan.hold_tiles(None)
    copied = Ptychography(
        object=whole,
        probe=deepcopy(model.probe).cpu(),
        scan=scan,
        propagator=deepcopy(model.propagator).cpu(),
        detector=deepcopy(model.detector).cpu(),
        heights=None if model.heights is None else deepcopy(model.heights).cpu(),
    )
    copied.use_custom_adjoint = model.use_custom_adjoint
    return copied.requires_grad_(False)


@torch.no_grad()
def scatter_object(model: Ptychography, whole: objects.PixelObject | None, /) -> None:
    """Give each process its tile of a whole object, which the main process has.

    Args:
        model: in tiles; its object is overwritten.
        whole: of the same kind and canvas; ``None`` in other processes.
    """
    tiling = model.object.canvas.tiling
    assert tiling is not None
    for name, value in model.object.named_parameters():
        tiling.scatter(None if whole is None else getattr(whole, name).detach(), value)


def change_whole(model: Ptychography, change: Callable[[Ptychography], object], /) -> None:
    """Change the object, and what else all processes have alike, by a function of the whole model."""
    whole = gather_model(model)
    if whole is not None:
        change(whole)
    scatter_object(model, None if whole is None else whole.object)
    found = team().broadcast(None if whole is None else _list_shared(whole))
    assert found is not None
    with torch.no_grad():
        for name, value in _list_shared(model).items():
            value.copy_(found[name])


def _list_shared(model: Ptychography) -> dict[str, Tensor]:
    return {name: one.detach() for name, one in model.named_parameters() if not name.startswith("object.")}


def evaluate_whole(model: Ptychography, function: Callable[[Ptychography], T], /) -> T:
    """What a function finds in a model; with an object in tiles, in the main process for all of them.

    Args:
        model: of the experiment.
        function: of a model with the whole object; what it returns is sent to all processes.
    """
    if not is_in_tiles(model):
        return function(model)
    whole = gather_model(model)
    found = team().broadcast(None if whole is None else [function(whole)])
    assert found is not None
    return found[0]


def hold_windows(model: Ptychography, /) -> Callable[[Tensor], Tensor] | None:
    """Widen the halos of an object in tiles where windows have moved close to their edge.

    Returns:
        How other arrays of the object, such as those of an optimiser, are widened; ``None``: nothing was.
    """
    old = model.object.canvas.tiling
    new = None if old is None else old.grown(model.scan.free_corners())
    if old is None or new is None:
        return None
    model.object.hold_tiles(new)
    model.scan.hold_tiles(new)
    return lambda field: new.moved(field, old)


def _uses_functional_transforms() -> bool:
    """Whether derivatives are taken in a way that only plain operations know."""
    # PyTorch has no public question for either of the two
    forward = torch.autograd.forward_ad._current_level >= 0
    return forward or torch._C._are_functorch_transforms_active()
