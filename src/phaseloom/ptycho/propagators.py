"""How the wave flies: between slices and to the detector."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics import propagate
from phaseloom.physics.cache import TensorCache, is_constant
from phaseloom.physics.detect import deflect
from phaseloom.physics.fourier import ramp, to_real
from phaseloom.physics.propagate import matrix_transform, multislice
from phaseloom.units import Angle

__all__ = ["exact", "fresnel"]

Kernel = Callable[..., Tensor]
Flight = Callable[[Scan4D, tuple[float, ...]], "FreeFlight"]


class FreeFlight(nn.Module):
    """Multislice through the object, then the far field, or a near field of given distance.

    Windows lie on whole pixels and the probe is moved by the rest. A far field does not see such a
    move, a near field does: beam and detector stand still while the sample moves, so on the way to a
    near detector the wave is moved back.

    Attributes:
        tilt: ``(1, 2)`` or, one for each pattern, ``(n, 2)``: how the object's columns lean, milliradian
            (y, x); a parameter.
        stretch: relative change of the distance between slices, one for all or one per gap; a parameter.
        shift: ``(1, 2)`` move of all far-field patterns, pixels of the modelled grid; a parameter.
        descan: ``(n, 2)`` the same for each pattern; a parameter.
        gaps: distances between slices, angstrom.
        onward: kernel of the flight to a near detector; ``None``: far field.

    Source:
        Near field: Stockmar et al. 2013, doi 10.1038/srep01927.
    """

    gaps: Tensor
    onward: Tensor | None

    def __init__(self, scan: Scan4D, gaps: tuple[float, ...], kernel: Kernel, tilt: Float[Tensor, "#n 2"]):
        super().__init__()
        geometry = scan.window
        self.shape = geometry.shape
        self.pixel = geometry.pixel
        self.wavelength = geometry.wavelength
        self.kernel = kernel
        self.has_equal_gaps = len(set(gaps)) <= 1
        self.register_buffer("gaps", torch.tensor(gaps, dtype=torch.float64))
        self.register_buffer("onward", self._make_kernel(geometry.flight) if geometry.near else None)
        self.tilt = nn.Parameter(1e3 * tilt.float())
        self.stretch = nn.Parameter(torch.zeros(1))
        self.shift = nn.Parameter(torch.zeros(1, 2))
        start = np.zeros((len(scan), 2)) if scan.descan is None else scan.descan
        self.descan = nn.Parameter(torch.as_tensor(start, dtype=torch.float32))
        self.has_tilt = bool(tilt.any())
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self._kernel_cache: TensorCache[list[Tensor]] = TensorCache()
        self._deflection_cache: TensorCache[tuple[bool]] = TensorCache()

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be refined, by name; nothing is until it gets a rate."""
        thick = len(self.gaps) > 0
        far = self.onward is None
        return {
            "tilts": [self.tilt] if thick else [],
            "thickness": [self.stretch] if thick else [],
            "shift": [self.shift] if far else [],
            "descan": [self.descan] if far else [],
        }

    def forward(
        self,
        wave: Complex[Tensor, "b *#state mode y x"],
        slices: Complex[Tensor, "b *state slice y x"],
        rest: Float[Tensor, "b 2"],
        index: Int[Tensor, " b"],
        way: Complex[Tensor, "b 1 y x"] | None = None,
    ) -> Complex[Tensor, "b *state mode v u"]:
        """Wave on the detector: corner order in the far field, as seen in the near field.

        ``way``: flights from where the probe is known to the object, which a near detector is nearer by.
        """
        leaving = multislice(wave, slices, self.gap_kernels(index))
        return self.to_detector(leaving, rest, index, way)

    def to_detector(
        self,
        leaving: Complex[Tensor, "b *state mode y x"],
        rest: Float[Tensor, "b 2"],
        index: Int[Tensor, " b"],
        way: Complex[Tensor, "b 1 y x"] | None = None,
    ) -> Complex[Tensor, "b *state mode y x"]:
        """Waves on the detector of waves that leave the object; arguments as of `forward`."""
        if self.onward is not None:
            return propagate.fly(leaving, self._onward_kernel(leaving, rest, way))
        return propagate.far_field(self._deflect(leaving, index, 1.0))

    def from_detector(
        self,
        wave: Complex[Tensor, "b *state mode y x"],
        rest: Float[Tensor, "b 2"],
        index: Int[Tensor, " b"],
    ) -> Complex[Tensor, "b *state mode y x"]:
        """Adjoint of `to_detector`; its inverse where the flight loses no power."""
        if self.onward is not None:
            return propagate.fly(wave, self._onward_kernel(wave, rest, None).conj())
        return self._deflect(to_real(wave), index, -1.0)

    def _deflect(self, wave: Tensor, index: Tensor, sign: float) -> Tensor:
        """The wave with the ramps that move far-field patterns, if there are any."""
        if self.shift.requires_grad or self.descan.requires_grad or self.has_deflection:
            return deflect(wave, sign * (self.shift + self.descan[index]))
        return wave

    def _onward_kernel(self, wave: Tensor, rest: Tensor, way: Tensor | None) -> Tensor:
        """Flight to a near detector, which stands still while windows lie on whole pixels."""
        assert self.onward is not None
        lead = (len(rest),) + (1,) * (wave.ndim - 3)
        rows, columns = ramp(-rest.reshape(*lead, 2), (wave.shape[-2], wave.shape[-1]))
        onward = self.onward.to(wave.dtype) * rows * columns
        return onward if way is None else onward * way.conj().reshape(*lead, *self.shape)

    def gap_kernels(self, index: Int[Tensor, " b"], /) -> list[Tensor]:
        """Kernels of the gaps, each of a shape that goes with waves ``(b, state, mode, y, x)``."""
        if len(self.tilt) > 1:
            return self._kernels(self.tilt[index])
        if not is_constant(self.stretch, self.tilt):
            return self._kernels(self.tilt)
        return self._kernel_cache.get(lambda: self._kernels(self.tilt), self.gaps, self.stretch, self.tilt)

    def distances(self) -> Float[Tensor, " gap"]:
        """Distances between slices as they are now, angstrom."""
        dtype = self.stretch.dtype
        return self.gaps.to(dtype) * (1 + self.stretch)

    def tilts(self) -> Float[Tensor, "#n 2"]:
        """Lean of the object's columns, radian."""
        return 1e-3 * self.tilt

    def deflections(self) -> np.ndarray | None:
        """Shift of each pattern, pixels of the modelled grid; ``None`` when there is none."""
        if not self.has_deflection:
            return None
        return (self.shift + self.descan).detach().cpu().double().numpy()

    @property
    def has_deflection(self) -> bool:
        """Whether patterns have been moved by more than nothing."""
        made = self._deflection_cache.get(
            lambda: (bool(self.shift.any() or self.descan.any()),), self.shift, self.descan
        )
        return made[0]

    def is_plain_far_field(self) -> bool:
        """Whether waves fly to the far field undeflected, and no deflection is looked for."""
        return (
            self.onward is None
            and is_constant(self.shift, self.descan)
            and not self.has_deflection
            and type(self).forward is FreeFlight.forward
        )

    def _kernels(self, tilt: Tensor) -> list[Tensor]:
        few = self.distances()[:1] if self.has_equal_gaps else self.distances()
        kernels = [self.kernel(self.shape, self.pixel, self.wavelength, gap) for gap in few]
        if self.has_tilt or tilt.requires_grad:
            lean = [self._make_tilt_factor(gap, 1e-3 * tilt) for gap in few]
            kernels = [kernel * leaning for kernel, leaning in zip(kernels, lean, strict=True)]
        return kernels * len(self.gaps) if self.has_equal_gaps else kernels

    def _make_tilt_factor(self, gap: Tensor, tilt: Tensor) -> Tensor:
        leaning = propagate.tilt_ramp(self.shape, self.pixel, gap, tilt)
        return leaning[0] if len(tilt) == 1 else leaning[:, None, None]

    def _make_kernel(self, distance: float) -> Tensor:
        z = torch.tensor(distance, dtype=torch.float64)
        return self.kernel(self.shape, self.pixel, self.wavelength, z)


class EnergyFlight(FreeFlight):
    """Far fields of one object at several energies, which scans that were joined have.

    Of an object of one material the logarithm of the transmission at an energy is a complex number times
    that at another one, whatever edges lie between: ``log T_e = r_e log|T| + i p_e arg T``. Away from
    absorption edges a phase is proportional to the wavelength, also of several materials; ``p_e`` begins
    with the ratio of the wavelengths and ``r_e``, the least certain number, with its third power. Both are
    refined (``rates: {energies: 0}`` keeps them). The object is that of the highest energy.

    All scans are modelled on the pixels of the shortest wavelength, in windows as wide as those of the
    longest one (`phaseloom.data.scan.Scan4D.window`). Nothing is interpolated: the patterns of each are a
    Fourier transform to the angles of the detector's pixels (`phaseloom.physics.propagate.matrix_transform`),
    which costs more than fast ones.

    Attributes:
        wavelengths: one for each energy, angstrom, shortest first.
        numbers: ``(n,)`` which of them each pattern has.
        ratios: ``(energy - 1, 2)`` of phase and absorption, of all energies but the first; a parameter.

    Raises:
        BadInput: several slices, a sample that is tilted, or patterns that are enlarged or shifted.
    """

    numbers: Tensor

    def __init__(self, scan: Scan4D, gaps: tuple[float, ...], kernel: Kernel, tilt: Float[Tensor, "#n 2"]):
        if gaps:
            fix = "cannot be fitted at several energies: give the object one slice, or reconstruct one by one"
            raise BadInput("object: slices", len(gaps) + 1, fix)
        if scan.modelled is not None or scan.descan is not None or scan.geometry.has_tilted_sample:
            fix = "are not supported with scans of several energies: remove that step of prepare"
            raise BadInput("prepare", "enlarge, descan and tilt_sample", fix)
        super().__init__(scan, gaps, kernel, tilt)
        assert scan.scan_wavelengths is not None
        assert scan.scan_numbers is not None
        known, numbers = np.unique(scan.scan_wavelengths, return_inverse=True)
        self.wavelengths = known.tolist()
        self.register_buffer("numbers", torch.from_numpy(numbers[scan.scan_numbers]))
        stretch = torch.tensor(self.wavelengths, dtype=torch.float32)[1:] / self.wavelengths[0]
        self.ratios = nn.Parameter(torch.stack([stretch, stretch**3], 1), requires_grad=False)
        sides = [*zip(scan.geometry.shape, self.shape, strict=True)]
        for number, longer in enumerate(self.wavelengths):
            for axis, (count, places) in enumerate(sides):
                matrix = matrix_transform(count, places, longer / self.wavelengths[0])
                self.register_buffer(
                    f"transform_{number}_{axis}", matrix.to(torch.complex64), persistent=False
                )

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The ratios."""
        return {"energies": [self.ratios]}

    def is_plain_far_field(self) -> bool:
        """It is not."""
        return False

    def all_ratios(self) -> Float[Tensor, "energy 2"]:
        """Of phase and absorption, at each energy to the highest."""
        return torch.cat([self.ratios.new_ones(1, 2), self.ratios])

    def transmit(
        self,
        amplitude: Float[Tensor, "b state slice y x"],
        phase: Float[Tensor, "b state slice y x"],
        index: Int[Tensor, " b"],
    ) -> Complex[Tensor, "b state slice y x"]:
        """Windows at the energies of patterns, of the amplitude and phase at the highest."""
        powers = self.all_ratios()[self.numbers[index]].to(phase.dtype)
        of_phase, of_absorption = powers[(...,) + 4 * (None,)].unbind(1)
        known = amplitude + (MIN_AMPLITUDE - amplitude).detach().clamp(min=0)  # with its slope, to come back
        modulus = torch.exp(of_absorption * known.log())
        return torch.polar(modulus, of_phase * phase)

    def to_detector(
        self,
        leaving: Complex[Tensor, "b *state mode v u"],
        rest: Float[Tensor, "b 2"],
        index: Int[Tensor, " b"],
        way: Complex[Tensor, "b 1 v u"] | None = None,
    ) -> Complex[Tensor, "b *state mode y x"]:
        """Waves on the detector, zero frequency in the corner."""
        numbers = self.numbers[index]
        parts, places = [], []
        for number in torch.unique(numbers).tolist():
            own = torch.nonzero(numbers == number)[:, 0]
            rows, columns = (self.get_buffer(f"transform_{number}_{axis}") for axis in (0, 1))
            parts.append(rows.to(leaving.dtype) @ leaving[own] @ columns.to(leaving.dtype).mT)
            places.append(own)
        return torch.cat(parts)[torch.cat(places).argsort()]


MIN_AMPLITUDE = 0.02
"""Of which a power is taken: a logarithm of less would take the steps of a few dark pixels for all."""


def _make_flight(
    scan: Scan4D, gaps: tuple[float, ...], kernel: Kernel, tilt: Float[Tensor, "#n 2"]
) -> FreeFlight:
    kind = FreeFlight if scan.scan_wavelengths is None else EnergyFlight
    return kind(scan, gaps, kernel, tilt)


def exact(
    scan: Scan4D,
    gaps: tuple[float, ...],
    /,
    *,
    tilt: tuple[Angle, Angle] = (0.0, 0.0),
    each: bool = False,
    tilts: Path | None = None,
) -> FreeFlight:
    """Flight by the angular spectrum, exact for scalar waves.

    Args:
        scan: the data.
        gaps: distances between slices, angstrom.
        tilt: how the object's columns lean against the beam, (y, x), radian: the next slice lies
            ``z tan(tilt)`` further along the axis.
        each: a tilt for each pattern, which ``rates: {tilts: ...}`` then refines one by one.
        tilts: file of tilts of an earlier run, or a table ``(n, 2)`` in milliradian; added to ``tilt``.
    """
    return _make_flight(
        scan, gaps, propagate.angular_spectrum, _read_tilt_table(scan, gaps, tilt, each, tilts)
    )


def fresnel(
    scan: Scan4D,
    gaps: tuple[float, ...],
    /,
    *,
    tilt: tuple[Angle, Angle] = (0.0, 0.0),
    each: bool = False,
    tilts: Path | None = None,
) -> FreeFlight:
    """Flight by the paraxial kernel ``exp(-i pi wavelength z f^2)``, as most of the literature has it.

    Against `exact` the phase of a slice is off by ``pi wavelength^3 z f^4 / 4``: at the corner of the
    grid 0.03 rad per slice of 10 angstrom at 300 kV and 0.15 angstrom pixels.

    Args:
        scan: the data.
        gaps: distances between slices, angstrom.
        tilt: see `exact`.
        each: see `exact`.
        tilts: see `exact`.
    """
    return _make_flight(scan, gaps, propagate.fresnel, _read_tilt_table(scan, gaps, tilt, each, tilts))


def _read_tilt_table(
    scan: Scan4D, gaps: tuple[float, ...], tilt: tuple[float, float], each: bool, file: Path | None
) -> Tensor:
    """Tilts in radian: one for all patterns, or one for each."""
    if not gaps and (any(tilt) or each):
        raise BadInput("propagator: tilt", list(tilt), "is not felt by an object of one slice: leave it out")
    if not all(math.isfinite(value) and abs(value) < 1 for value in tilt):
        raise BadInput("propagator: tilt", tilt, "must be two angles below 1 rad")
    table = torch.tensor([tilt], dtype=torch.float64)
    if file is not None:
        from phaseloom.ptycho import import_parts

        table = table + torch.as_tensor(import_parts.read_tilts(file))
        if len(table) not in (1, len(scan)):
            fix = f"holds {len(table)} tilts for {len(scan)} patterns: give one, or one for each"
            raise BadInput("propagator: tilts", str(file), fix)
    return table.expand(len(scan), 2).contiguous() if each and np.ndim(table) and len(table) == 1 else table
