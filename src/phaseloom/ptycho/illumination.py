"""What illuminates the object: incoherent modes that are moved to each position."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from phaseloom.data.scan import Geometry
from phaseloom.errors import BadInput
from phaseloom.physics.cache import TensorCache, is_constant
from phaseloom.physics.coherence import mix_beams
from phaseloom.physics.fourier import (
    fit_window,
    frequencies,
    ramp,
    shift,
    shift_to_centre,
    shift_to_corner,
    to_real,
    to_reciprocal,
)
from phaseloom.physics.optics import aberration_phase, aperture, to_cartesian, to_polar
from phaseloom.physics.propagate import angular_spectrum, fly

__all__ = [
    "COHERENCE_NAMES",
    "AberratedProbe",
    "Illumination",
    "LensPupil",
    "Probe",
    "PupilProbe",
    "SquareSlope",
    "Support",
]
__all__ += ["make_weak_modes", "measure_focal_depth"]


class Support(nn.Module):
    """A linear map from a probe's free numbers to its modes, which are what it allows at every step.

    The numbers are pixels, or plane waves (``spectrum``), each of which takes steps of its own; either way
    their power is that of the modes. With a ``band`` there are fewer: the pixels of a coarser grid over
    the same window, or the waves in the middle of the spectrum.

    Args:
        shape: of the modes (y, x).
        radius: of the disk along each axis, pixels (y, x); default: no disk.
        band: see below; default: all.
        spectrum: see below.

    Attributes:
        band: plane waves that are kept on each axis (y, x), around that along the beam.
        spectrum: the free numbers are plane waves, zero frequency in their middle.
        disk: ``(y, x)`` real, one where modes may be bright; it is the last to act, so that a disk and a band
            together let a little light out of the band.

    Example:
        >>> support = Support((8, 8), band=(4, 4))
        >>> wave = torch.randn(1, 8, 8, dtype=torch.complex64)
        >>> support.free(wave).shape, support(support.free(wave)).shape
        (torch.Size([1, 4, 4]), torch.Size([1, 8, 8]))
    """

    disk: Tensor | None

    def __init__(
        self,
        shape: tuple[int, int],
        /,
        *,
        radius: tuple[float, float] | None = None,
        band: tuple[int, int] | None = None,
        spectrum: bool = False,
    ):
        super().__init__()
        self.shape = shape
        self.spectrum = spectrum
        self.band = shape if band is None else band
        self.register_buffer("disk", None if radius is None else _make_disk(shape, radius))

    def forward(self, free: Complex[Tensor, "*b v u"]) -> Complex[Tensor, "*b y x"]:
        """The modes of free numbers."""
        wave = free
        if self.spectrum or self.band != self.shape:
            waves = free if self.spectrum else _to_plane_waves(free)
            wave = _to_pixels(fit_window(waves, self.shape))
        return wave if self.disk is None else wave * self.disk

    def free(self, wave: Complex[Tensor, "*b y x"]) -> Complex[Tensor, "*b v u"]:
        """The free numbers of modes, without what is not allowed: the adjoint of `forward`."""
        wave = wave if self.disk is None else wave * self.disk
        if not self.spectrum and self.band == self.shape:
            return wave
        waves = fit_window(_to_plane_waves(wave), self.band)
        return waves if self.spectrum else _to_pixels(waves)


def _make_disk(shape: tuple[int, int], radius: tuple[float, float]) -> Tensor:
    y, x = ((torch.arange(n, dtype=torch.float32) - n // 2) / r for n, r in zip(shape, radius, strict=True))
    return (torch.hypot(y[:, None], x[None]) < 1).float()


def _to_plane_waves(wave: Tensor) -> Tensor:
    """Plane waves of pixels, the middle of the window at phase zero; no power is lost."""
    return shift_to_centre(to_reciprocal(shift_to_corner(wave)))


def _to_pixels(waves: Tensor) -> Tensor:
    return shift_to_centre(to_real(shift_to_corner(waves)))


PUPIL_PHASE_DAMPING = 10.0
"""How much slower than smooth bends the phases of a pupil's pixels move, which would take their part."""


SquareSlope = Tensor | float | Callable[[Tensor], Tensor]
"""Square slope of the modes along free numbers, which bounds that of detected amplitudes; or what divides a
gradient by it where numbers hang together."""


class Illumination(nn.Module):
    """Incoherent modes in the middle of their window; ``forward`` moves them by part of a pixel."""

    @abstractmethod
    def modes(self) -> Complex[Tensor, "mode y x"]:
        """The modes in square roots of counts."""

    @abstractmethod
    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be refined, by name."""

    def square_slopes(self) -> dict[nn.Parameter, SquareSlope]:
        """How detected amplitudes bend along free numbers; see `SquareSlope`."""
        return {}

    def fixed_numbers(self) -> dict[nn.Parameter, Bool[Tensor, " _"]]:
        """Numbers of parameters on which the modes do not depend."""
        return {}

    def set_modes(self, modes: Complex[Tensor, "mode y x"]) -> None:
        """Take over other modes.

        Raises:
            BadInput: the illumination is not free to be any wave.
        """
        raise BadInput(
            "projections", type(self).__name__, "follows from optics: only a probe of pixels can be changed"
        )

    def modes_of(self, index: Int[Tensor, " b"] | None) -> Complex[Tensor, "#b mode y x"]:
        """The modes of the patterns of an index; here the same for all."""
        return self.modes()[None]

    def forward(
        self,
        rest: Float[Tensor, "b 2"],
        flight: Complex[Tensor, "b 1 y x"] | None = None,
        index: Int[Tensor, " b"] | None = None,
    ) -> Complex[Tensor, "b mode y x"]:
        """The modes moved by a remaining shift (y, x) in pixels for each pattern, and flown by a kernel."""
        modes = self.modes_of(index)
        if flight is None:
            return shift(modes, rest[:, None])
        rows, columns = ramp(rest[:, None], (modes.shape[-2], modes.shape[-1]))
        return to_real(to_reciprocal(modes) * (rows * columns * flight))


class Probe(Illumination):
    """Modes of free pixels, kept relative to their first peak so that one rate serves every dose.

    Attributes:
        relative: complex ``(mode, y, x)``, modes divided by ``scale``, or what a support makes them of; a
            parameter.
        scale: peak modulus of the first guess in square roots of counts, or one.
        support: where there may be light, and in what grid; ``None``: everywhere.
        focus: defocus of all modes in depths of focus (positive: under-focus), which follows from the
            pixels too, but moves them together; a parameter, frozen until it gets a rate.
        unit: that depth, angstrom.
    """

    scale: Tensor

    def __init__(
        self,
        modes: Complex[Tensor, "mode y x"],
        geometry: Geometry,
        *,
        relative: bool = True,
        support: Support | None = None,
    ):
        super().__init__()
        self.geometry = geometry
        self.unit = measure_focal_depth(modes, geometry)
        self.support = support
        free = modes if support is None else support.free(modes)
        if support is not None and not bool(free.any()):
            raise BadInput("probe: support", None, "leaves the probe no light: make it wider")
        scale = free.abs().max() if relative else free.abs().new_ones(())
        self.register_buffer("scale", scale)
        self.relative = nn.Parameter((free / scale).contiguous())
        self.focus = nn.Parameter(scale.new_zeros(()), requires_grad=False)
        self._has_defocus_cache: TensorCache[tuple[bool]] = TensorCache()

    def modes(self) -> Complex[Tensor, "mode y x"]:
        """The modes in square roots of counts."""
        modes = self._modes_in_focus()
        return self._fly(modes, -1.0) if self.focus.requires_grad or self._has_defocus() else modes

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The pixels, and a common defocus."""
        return {"probe": [self.relative], "defocus": [self.focus]}

    def square_slopes(self) -> dict[nn.Parameter, SquareSlope]:
        """The scale of the pixels, squared."""
        return {self.relative: float(self.scale) ** 2}

    @torch.no_grad()
    def set_modes(self, modes: Complex[Tensor, "mode y x"]) -> None:
        """Take over other modes, given in square roots of counts."""
        modes = self._fly(modes, 1.0) if self._has_defocus() else modes
        self.relative.copy_((modes if self.support is None else self.support.free(modes)) / self.scale)

    def is_plain(self) -> bool:
        """Whether modes are nothing but ``scale`` times ``relative``."""
        return self.support is None and not self.focus.requires_grad and not self._has_defocus()

    def _modes_in_focus(self) -> Tensor:
        """The modes without the common defocus."""
        modes = self.relative * self.scale
        return modes if self.support is None else self.support(modes)

    def _has_defocus(self) -> bool:
        """Whether there is a defocus, read from the device only when it may have changed."""
        return self._has_defocus_cache.get(lambda: (bool(self.focus),), self.focus)[0]

    def _fly(self, modes: Tensor, sign: float) -> Tensor:
        one = self.geometry
        kernel = angular_spectrum(one.shape, one.pixel, one.wavelength, sign * self.focus * self.unit)
        return fly(modes, kernel.to(modes.dtype))


class PupilProbe(Illumination):
    """What comes from a pupil of known amplitude: only its phase is free; one mode.

    The phase is that of pixels and, since these move slowly together, that of eight smooth bends: defocus,
    and twice each astigmatism, coma and trefoil, and spherical aberration.

    Attributes:
        amplitude: ``(y, x)`` in the pupil, zero frequency in the corner, square roots of counts.
        phase: ``(y, x)`` there, radian; a parameter.
        bend: ``(8,)`` smooth bends, radian at the rim that holds 95 % of the power; a parameter.
        power: change of the amplitude's scale; a parameter.
    """

    amplitude: Tensor
    bends: Tensor

    def __init__(self, pupil: Complex[Tensor, "y x"]):
        super().__init__()
        self.register_buffer("amplitude", pupil.abs())
        self.register_buffer("bends", _smooth_polynomials(self.amplitude))
        self.phase = nn.Parameter(pupil.angle())
        self.bend = nn.Parameter(self.amplitude.new_zeros(len(self.bends)))
        self.power = nn.Parameter(self.amplitude.new_zeros(()))

    def modes(self) -> Complex[Tensor, "1 y x"]:
        """The mode in square roots of counts."""
        phase = self.phase + torch.tensordot(self.bend, self.bends, 1)
        return shift_to_centre(to_real(torch.polar((1 + self.power) * self.amplitude, phase)))[None]

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Phase and power together."""
        return {"probe": [self.phase, self.bend, self.power]}

    def square_slopes(self) -> dict[nn.Parameter, SquareSlope]:
        """The amplitude squared, no less than a tenth of the strongest, and times `PUPIL_PHASE_DAMPING`."""
        square = self.amplitude.square()
        return {self.phase: PUPIL_PHASE_DAMPING * square.clamp(min=0.1 * float(square.max()))}


class LensPupil(NamedTuple):
    """The spectrum of the only mode of a lens: ``root amplitude exp(-i sum (start + unit bend) bases)``.

    Attributes:
        amplitude: ``(y, x)``, zero frequency in the corner; square roots of counts.
        bases: ``(name, y, x)`` phase of an angstrom of each coefficient.
        start: ``(name,)`` coefficients before they were refined, angstrom.
        unit: ``(name,)`` natural sizes of their changes, angstrom; zero: not refined.
    """

    amplitude: Float[Tensor, "y x"]
    bases: Float[Tensor, "name y x"]
    start: Float[Tensor, " name"]
    unit: Float[Tensor, " name"]


COHERENCE_NAMES = ("source_size", "focal_spread")
COHERENCE_UNITS = (0.1, 0.2)
"""Natural sizes, in ``wavelength / semiangle`` and depths of focus ``wavelength / semiangle^2``."""


class AberratedProbe(Illumination):
    """What a lens makes: an aperture with aberrations; weak modes are derivatives of the strong one.

    A source of finite size and a spread of focus make it partly coherent: its modes are then the strongest
    ones of a Gaussian mixture of displaced and defocused beams (`phaseloom.physics.coherence`).

    Parameters are in natural sizes: a coefficient in the radians that it adds at the aperture's edge,
    the semiangle in pixels of the modelled pattern, powers relative to the first guess.

    Attributes:
        stop: half-angle of a central stop, radian.
        bend: change of each refined coefficient; a parameter.
        edge: change of the semiangle; a parameter.
        roots: square roots of the modes' powers, relative; a parameter. Of a partly coherent beam only the
            first counts: the powers of its modes follow from the mixture.
        blur: change of source size and focal spread; a parameter, ``None`` of a coherent beam.
        names: cartesian names of the coefficients (``C10``, ``C12a``, ``C12b`` ...).
    """

    start: Tensor
    unit: Tensor
    share: Tensor
    blur_start: Tensor
    blur_unit: Tensor
    blur: nn.Parameter | None

    def __init__(
        self,
        geometry: Geometry,
        semiangle: float,
        polar: Mapping[str, float],
        *,
        refine: Sequence[str],
        shares: Tensor,
        power: float,
        soft: bool = True,
        stop: float = 0.0,
        coherence: tuple[float, float] = (0.0, 0.0),
    ):
        super().__init__()
        self.geometry = geometry
        self.semiangle = semiangle
        self.power = power
        self.soft = soft
        self.stop = stop
        coefficients = [name for name in refine if name not in COHERENCE_NAMES]
        given = to_cartesian({**dict.fromkeys(coefficients, 0.0), **polar})
        self.names = tuple(given)
        order = torch.tensor([int(name[1]) for name in self.names], dtype=torch.float64)
        unit = geometry.wavelength * (order + 1) / (2 * math.pi * semiangle ** (order + 1))
        free = torch.tensor([name[:3] in refine for name in self.names])
        self.register_buffer("start", torch.tensor(list(given.values()), dtype=torch.float32))
        self.register_buffer("unit", (unit * free).float())
        self.register_buffer("share", shares.float())
        self.bend = nn.Parameter(torch.zeros(len(self.names)))
        self.edge = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.roots = nn.Parameter(torch.ones(len(shares)))
        natural = (geometry.wavelength / semiangle, geometry.wavelength / semiangle**2)
        blur_unit = torch.tensor(COHERENCE_UNITS) * torch.tensor(natural)
        moving = torch.tensor([name in refine for name in COHERENCE_NAMES])
        first = torch.maximum(torch.tensor(coherence), moving * blur_unit)  # at zero nothing slopes
        self.register_buffer("blur_start", first, persistent=False)
        self.register_buffer("blur_unit", blur_unit * moving, persistent=False)
        self.blur = nn.Parameter(torch.zeros(2)) if bool(first.any()) else None
        self._modes_cache: TensorCache[Tensor] = TensorCache()
        self._aperture_cache: TensorCache[Tensor] = TensorCache()
        self._basis_cache: TensorCache[Tensor] = TensorCache()

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Coefficients and powers together as ``probe``; the semiangle, if its edge is soft, by itself."""
        blur = [] if self.blur is None else [self.blur]
        return {"probe": [self.bend, self.roots, *blur], "semiangle": [self.edge] if self.soft else []}

    def fixed_numbers(self) -> dict[nn.Parameter, Bool[Tensor, " name"]]:
        """Coefficients that are not refined."""
        return {self.bend: self.unit == 0}

    def coherence(self) -> tuple[float, float]:
        """Source size and focal spread as they are now: standard deviations, angstrom."""
        if self.blur is None:
            return 0.0, 0.0
        source, spread = (self.blur_start + self.blur_unit * self.blur).detach().abs().cpu().tolist()
        return source, spread

    def aberrations(self) -> dict[str, float]:
        """The coefficients as they are now, polar, angstrom and radian."""
        now = (self.start + self.unit * self.bend).detach().cpu().tolist()
        return to_polar(dict(zip(self.names, now, strict=True)))

    def angle(self) -> Tensor:
        """The semiangle as it is now, radian."""
        return self.semiangle + self.edge * max(self.geometry.angle)

    def modes(self) -> Complex[Tensor, "mode y x"]:
        """The modes in square roots of counts; made once while no number changes."""
        blur = () if self.blur is None else (self.blur,)
        sources = (self.bend, self.edge, self.roots, *blur, self.start, self.unit, self.share)
        return (
            self._modes_cache.get(self._make_modes, *sources) if is_constant(*sources) else self._make_modes()
        )

    def _make_modes(self) -> Complex[Tensor, "mode y x"]:
        bases = self._basis_cache.get(self._make_basis, self.start)
        chi = torch.tensordot(self.start + self.unit * self.bend, bases, 1)
        sharp = is_constant(self.edge)
        disk = (
            self._aperture_cache.get(self._make_aperture, self.edge, self.start)
            if sharp
            else self._make_aperture()
        )
        pupil = torch.polar(disk.expand_as(chi), -chi)
        if self.blur is not None:
            return self._mix_beams(pupil, self.blur_start + self.blur_unit * self.blur)
        wave = shift_to_centre(to_real(pupil))
        stack = wave[None]
        if len(self.share) > 1:
            stack = torch.cat([stack, make_weak_modes(wave, len(self.share) - 1)])
        each = stack.abs().square().sum((-2, -1)).sqrt()
        return stack * (torch.sqrt(self.share * self.power) * self.roots / each)[:, None, None]

    @torch.no_grad()
    def split_pupil(self) -> LensPupil | None:
        """What the mode is made of, but for ``bend`` and ``roots``; ``None`` where there are several."""
        if self.blur is not None or len(self.share) > 1:
            return None
        bases = self._basis_cache.get(self._make_basis, self.start)
        disk = self._aperture_cache.get(self._make_aperture, self.edge, self.start)
        amplitude = disk * (torch.sqrt(self.share[0] * self.power) / disk.square().sum().sqrt())
        return LensPupil(amplitude, bases, self.start, self.unit)

    def _mix_beams(
        self, pupil: Complex[Tensor, "y x"], blur: Float[Tensor, "2"]
    ) -> Complex[Tensor, "mode y x"]:
        one = self.geometry
        sizes = {"source_size": blur[0], "focal_spread": blur[1], "count": len(self.share)}
        modes = mix_beams(pupil, one.pixel, wavelength=one.wavelength, **sizes)
        return shift_to_centre(to_real(modes * (math.sqrt(self.power) * self.roots[0] / pupil.norm())))

    def _make_aperture(self) -> Float[Tensor, "y x"]:
        one = self.geometry
        angle = self.angle()
        y, x = frequencies(one.shape, one.pixel, like=self.start)
        disk = aperture(y, x, one.wavelength, angle, soft=self.soft)
        stop = angle.new_tensor(self.stop)
        return disk - aperture(y, x, one.wavelength, stop, soft=self.soft) if self.stop else disk

    def _make_basis(self) -> Float[Tensor, "name y x"]:
        """Phase of an angstrom of each coefficient."""
        one = self.geometry
        single = self.start.new_ones(())
        y, x = frequencies(one.shape, one.pixel, like=self.start)
        return torch.stack([_cartesian_phase(y, x, one.wavelength, {name: single}) for name in self.names])


def measure_focal_depth(
    modes: Complex[Tensor, "mode y x"], geometry: Geometry, /, share: float = 0.95
) -> float:
    """``wavelength / angle^2`` for the cone that holds a share of the power, angstrom."""
    power = to_reciprocal(modes.detach()).abs().square().sum(0).double().cpu().numpy()
    sizes = zip(geometry.shape, geometry.pixel, strict=True)
    y, x = (geometry.wavelength * np.fft.fftfreq(n, p) for n, p in sizes)
    angle = np.hypot(y[:, None], x[None])
    order = np.argsort(angle, axis=None)
    inside = np.cumsum(power.flat[order])
    cone = angle.flat[order][min(np.searchsorted(inside, share * inside[-1]), angle.size - 1)]
    return float(geometry.wavelength / max(cone, angle[angle > 0].min()) ** 2)


def make_weak_modes(
    wave: Complex[Tensor, "y x"], count: int, share: float = 0.02
) -> Complex[Tensor, "mode y x"]:
    """Weak copies of a mode, bent by Hermite-like polynomials and made orthogonal to it."""
    real = wave.real.dtype
    axes = [torch.linspace(-1, 1, n, dtype=real, device=wave.device) for n in wave.shape]
    intensity = wave.abs().square()
    power = intensity.sum()
    y, x = torch.meshgrid(*axes, indexing="ij")
    y = y - (y * intensity).sum() / power
    x = x - (x * intensity).sum() / power
    spread = torch.sqrt(((y**2 + x**2) * intensity).sum() / power) + 1e-9
    orders = [(i - j, j) for i in range(1, 1 + count) for j in range(i + 1)][:count]
    window = torch.exp(-(y**2 + x**2) / (2 * spread**2))
    extra = [wave * window * (y / spread) ** a * (x / spread) ** b for a, b in orders]
    stack = torch.stack([wave, *extra])
    q, _ = torch.linalg.qr(stack.flatten(1).T)
    return (q.T[1:] * torch.sqrt(share * power)).reshape(count, *wave.shape)


def _cartesian_phase(y: Tensor, x: Tensor, wavelength: float, named: Mapping[str, Tensor]) -> Tensor:
    """``chi`` of cartesian coefficients: a polar one of angle zero, and one turned by a quarter period."""
    plain = {name[:3]: value for name, value in named.items() if not name.endswith("b")}
    turned: dict[str, float | Tensor] = {name[:3]: v for name, v in named.items() if name.endswith("b")}
    turned |= {f"phi{key[1:]}": math.pi / (2 * int(key[2])) for key in list(turned)}
    chi = aberration_phase(y, x, wavelength, plain)
    return chi + aberration_phase(y, x, wavelength, turned) if turned else chi


def _smooth_polynomials(amplitude: Float[Tensor, "y x"]) -> Float[Tensor, "8 y x"]:
    """Polynomials of the pupil's radius and angle up to fourth order, one at its rim, flat beyond."""
    y, x = (torch.fft.fftfreq(n, dtype=amplitude.dtype, device=amplitude.device) for n in amplitude.shape)
    radius = torch.hypot(y[:, None], x)
    order = radius.flatten().argsort()
    inside = amplitude.square().flatten()[order].cumsum(0)
    rim = radius.flatten()[order][inside >= 0.95 * inside[-1]][0].clamp(min=radius[radius > 0].min())
    wide = radius.clamp(min=float(rim))
    y = y[:, None] / wide
    x = x / wide
    r = y**2 + x**2
    odd = [r * y, r * x, y**3 - 3 * y * x**2, x**3 - 3 * x * y**2]
    return torch.stack([r, y**2 - x**2, 2 * y * x, *odd, r**2])
