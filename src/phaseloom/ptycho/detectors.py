"""From the wave on the detector to the counts that are expected there."""

import math
from functools import partial, reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from phaseloom.data.scan import Geometry, Scan4D, wavelength_of
from phaseloom.errors import BadInput
from phaseloom.physics import detect
from phaseloom.physics import tilted_planes as oblique
from phaseloom.physics.adjoint import misfit
from phaseloom.physics.cache import TensorCache, is_constant
from phaseloom.physics.detect import (
    apply_transfer,
    blur_patterns,
    integrate_pixels,
    intensity,
    spread_patterns,
)
from phaseloom.physics.fourier import ramp, shift_to_centre, shift_to_corner, to_real
from phaseloom.ptycho import noise

__all__ = ["counting"]

Collect = Literal["area", "bilinear", "blocks"]


PixelMapping = Literal["flat", "lens", "none"]
"""A flat detector, one in the back focal plane of a lens, or frequencies proportional to places."""

MAX_BANDWIDTH = 0.2
MAX_RATIO = 1.5
"""Of two wavelengths of one beam, at most."""

MAX_MEAN_DEVIATION = 0.05
"""Share by which the mean of a spectrum may differ from the wavelength of the scan."""

SPECTRUM_WIDTHS = 2.5
"""Full widths at half maximum over which a Gaussian spectrum is sampled."""

MAX_WAVELENGTHS = 31

MIN_PIXEL_SHIFT = 0.1
"""Pixels by which a mapping moves some pixel, from which on it is applied without being asked for.

With a known probe 0.16 made the error of an object a quarter larger (docs/geometry.md).
"""


class EwaldMapping(nn.Module):
    """Waves on a detector's pixels, from those on the regular grid of a Fourier transform.

    They are known between its pixels, for the window ends: they are transformed to a finer grid, and
    interpolated on that (`phaseloom.physics.tilted_planes.interpolation`).

    Attributes:
        shape: pixels (y, x).
        taper: of the window, by which interpolation is exact in it.
        turn: what brings the middle of the window to the corner, on the finer grid.
        pixels, weights: on the finer grid, see `phaseloom.physics.tilted_planes.interpolation`.
    """

    taper: Tensor
    turn: Tensor
    pixels: Tensor
    weights: Tensor

    def __init__(self, places: Float[np.ndarray, "y x 2"], share: Float[np.ndarray, "y x"]):
        super().__init__()
        self.shape = (share.shape[0], share.shape[1])
        pixels, weights, taper = oblique.interpolation(places, share**0.5, self.shape)
        middle = torch.tensor([-(n // 2) for n in self.shape], dtype=torch.float64)
        rows, columns = ramp(middle, self._fine_shape)
        self.register_buffer("taper", taper.float(), persistent=False)
        self.register_buffer("turn", (rows * columns).to(torch.complex64), persistent=False)
        self.register_buffer("pixels", shift_to_corner(pixels), persistent=False)
        self.register_buffer("weights", shift_to_corner(weights).float(), persistent=False)

    @property
    def _fine_shape(self) -> tuple[int, int]:
        return oblique.PIXEL_OVERSAMPLING * self.shape[0], oblique.PIXEL_OVERSAMPLING * self.shape[1]

    def forward(self, wave: Complex[Tensor, "*batch y x"]) -> Complex[Tensor, "*batch y x"]:
        """Waves of which the squared modulus is what pixels see, zero frequency in the corner as before."""
        window = (to_real(wave) * self.taper).reshape(-1, *self.shape)
        between = torch.fft.fft2(window, s=self._fine_shape, norm="ortho") * self.turn.to(wave.dtype)
        seen = oblique.remap_pixels(between, self.pixels, self.weights.to(wave.real.dtype))
        return seen.reshape(wave.shape)


class BeamSpectrum(nn.Module):
    """Patterns of a beam of several wavelengths: those of each, stretched in proportion to it, add up.

    Probe and object are taken to be the same for all wavelengths, as they are in a narrow band.

    Attributes:
        shares: ``(k,)`` of the photons (or electrons) at each wavelength; their sum is one.
        mappings: of the detector's pixels, for each wavelength.
        known: ``(y, x)`` pixels, zero frequency in the corner, of which the modelled grid knows all of them.
    """

    def __init__(self, scan: Scan4D, ratios: np.ndarray, shares: np.ndarray):
        """Map the pixels for each wavelength.

        Args:
            scan: the data.
            ratios: ``(k,)`` of the wavelengths to that of the scan.
            shares: see the attribute.
        """
        super().__init__()
        self.shares = shares
        shape = scan.window.shape
        plain = _list_places(shape)
        self.mappings = nn.ModuleList(
            EwaldMapping(plain / ratio, np.full(shape, ratio**-2.0)) for ratio in ratios
        )
        self.known = shift_to_corner(torch.as_tensor(_find_inside(plain / ratios.min())))

    def forward(self, wave: Complex[Tensor, "*batch y x"]) -> list[tuple[float, Tensor]]:
        """For each wavelength its share and the waves on the detector's pixels."""
        return [(float(n), mapping(wave)) for n, mapping in zip(self.shares, self.mappings, strict=True)]


def make_spectrum(scan: Scan4D, bandwidth: float, table: Path | None, /) -> BeamSpectrum | None:
    """The spectrum of a beam; ``None``: one wavelength.

    Args:
        scan: the data.
        bandwidth: full width at half maximum of a Gaussian spectrum, relative to the wavelength.
        table: of energies in eV and the photons at each, in place of a bandwidth.

    Raises:
        BadInput: both, a near field or a tilted sample, or numbers that are no spectrum.
    """
    place = "detector: counting"
    if table is None and bandwidth == 0.0:
        return None
    if scan.geometry.near or scan.geometry.has_tilted_sample:
        fix = "is modelled for far fields of samples across the beam only: leave it out"
        raise BadInput(f"{place}.bandwidth" if table is None else f"{place}.spectrum", None, fix)
    if table is not None:
        if bandwidth:
            raise BadInput(f"{place}.spectrum", str(table), "and a bandwidth are two spectra: state one")
        return BeamSpectrum(scan, *_read_spectrum(table, scan.geometry))
    if not 0 < bandwidth <= MAX_BANDWIDTH:
        fix = f"must lie between 0 and {MAX_BANDWIDTH:g}, of the wavelength (0.01 is 1 %)"
        raise BadInput(f"{place}.bandwidth", bandwidth, fix)
    reach = max(scan.window.shape) / 2 * SPECTRUM_WIDTHS * bandwidth
    count = min(max(3, 2 * math.ceil(reach / 2) + 1), MAX_WAVELENGTHS)
    offset = np.linspace(-0.5, 0.5, count) * SPECTRUM_WIDTHS
    shares = np.exp(-4 * math.log(2) * offset**2)
    return BeamSpectrum(scan, 1 + offset * bandwidth, shares / shares.sum())


def _read_spectrum(path: Path, one: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Ratios of the wavelengths of a table to the scan's, and their shares."""
    from phaseloom.data.formats.quantities.tables import read_table

    place = "detector: counting.spectrum"
    if not Path(path).is_file():
        raise BadInput(place, str(path), "does not exist")
    table = np.atleast_2d(read_table(Path(path)))
    good = table.ndim == 2 and table.shape[1] == 2 and len(table) > 1 and np.isfinite(table).all()
    if not good or (table[:, 0] <= 0).any() or (table[:, 1] < 0).any() or not table[:, 1].any():
        fix = "must have rows of two numbers: energy in eV, and photons, above zero"
        raise BadInput(place, Path(path).name, fix)
    if len(table) > MAX_WAVELENGTHS:
        fix = f"has more than the {MAX_WAVELENGTHS} that are modelled: put neighbours together"
        raise BadInput(place, f"{len(table)} energies", fix)
    ratios = np.array([wavelength_of(energy, one.beam) for energy in table[:, 0]]) / one.wavelength
    far = int(np.argmax(abs(np.log(ratios))))
    if not 1 / MAX_RATIO <= ratios[far] <= MAX_RATIO:
        unit = ": are these keV?" if table[:, 0].max() < one.energy / 100 else ""
        fix = f"is too far from the energy of the scan, {one.energy:.6g} eV{unit}"
        raise BadInput(place, f"{table[far, 0]:.6g} eV", fix)
    mean = float(ratios @ table[:, 1] / table[:, 1].sum())
    if abs(mean - 1) > MAX_MEAN_DEVIATION:
        fix = f"is the mean of the spectrum, and the energy of the scan is {one.energy:.6g} eV: correct one"
        raise BadInput(place, f"{one.energy / mean:.6g} eV", fix)
    return ratios, table[:, 1] / table[:, 1].sum()


def map_pixels(
    scan: Scan4D, kind: PixelMapping | None, /
) -> tuple[EwaldMapping | None, Bool[Tensor, "v u"] | None]:
    """The mapping of a scan's detector, and the modelled pixels of which it knows the intensity.

    By default a tilted sample has that of a flat detector, where it moves a pixel by `MIN_PIXEL_SHIFT`.
    """
    one = scan.window
    if kind == "none" or one.near or (kind is None and not one.has_tilted_sample):
        return None, None
    places, share = oblique.ewald(one.shape, one.angle, one.basis, one.normal, lens=kind == "lens")
    if kind is None and abs(places - _list_places(one.shape)).max() < MIN_PIXEL_SHIFT:
        return None, None
    known = _find_inside(places) & (share > 0)
    return EwaldMapping(places, share), shift_to_corner(torch.as_tensor(known))


def _list_places(shape: tuple[int, int]) -> Int[np.ndarray, "y x 2"]:
    """Places (y, x) of the pixels of a modelled grid, from zero frequency."""
    return np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij"), -1)


def _find_inside(places: Float[np.ndarray, "y x 2"]) -> Bool[np.ndarray, "y x"]:
    """Which places, one for each pixel of a grid, lie within that grid."""
    shape = np.array(places.shape[:2])
    within = (places >= -(shape // 2) - 1e-9) & (places <= (shape - 1) // 2 + 1e-9)
    return within[..., 0] & within[..., 1]


class CountingDetector(nn.Module):
    """Counts ``weight * sum |wave|^2 * flat + background``, as sharply as the detector sees.

    Attributes:
        weights: ``(n,)`` relative intensity of each shot; a parameter.
        root: ``(y, x)`` square root of the background, so that it stays positive, relative to
            ``scale``; a parameter. At zero its slope is zero: to refine one, start it above.
        scale: square root of the mean counts of a pixel.
        flat: ``(y, x)`` efficiency of each pixel.
        mask: ``(y, x)`` True where a pixel is compared.
        near: patterns are stored as seen; else with zero frequency in the corner.
        response: how the modelled pattern becomes that of the detector; see `DetectorResponse`.
        most: counts at which a pixel is full, or infinity.
        area: pixels of the modelled grid collect over their whole area, not at their middle alone.
        ewald: where pixels lie if not on the modelled grid, for one wavelength or each of several, or
            ``None``.
    """

    flat: Tensor
    mask: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        weights: Float[Tensor, " n"],
        root: Float[Tensor, "y x"],
        flat: Float[Tensor, "y x"],
        mask: Bool[Tensor, "y x"],
        scale: float,
        near: bool,
        response: "DetectorResponse | None" = None,
        most: float = math.inf,
        area: bool = False,
        ewald: "EwaldMapping | BeamSpectrum | None" = None,
    ):
        super().__init__()
        self.saturation = most
        self.area = area
        self.ewald = ewald
        self.weights = nn.Parameter(weights)
        self.root = nn.Parameter(root / scale)
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("flat", flat)
        self.register_buffer("mask", mask)
        self.near = near
        self.response = response
        self.register_load_state_dict_pre_hook(_rename_old_tensors)
        self._fields_cache: TensorCache[tuple[Tensor | None, Tensor | None]] = TensorCache()
        self._background_cache: TensorCache[tuple[Tensor | None]] = TensorCache()

    def forward(
        self,
        wave: Complex[Tensor, "b *state mode v u"],
        index: Int[Tensor, " b"],
        occupancy: Float[Tensor, " state"] | None = None,
    ) -> Float[Tensor, "b y x"]:
        """Expected counts of a batch."""
        weight = self.weights[index, None, None]
        expected = weight * self.collect(wave, occupancy) * self.flat + self.background()
        return expected if math.isinf(self.saturation) else expected.clamp(max=self.saturation)

    def collect(
        self, wave: Complex[Tensor, "b *state mode v u"], occupancy: Float[Tensor, " state"] | None = None
    ) -> Float[Tensor, "b y x"]:
        """What the detector's pixels collect, before efficiency, weight and background."""
        see = partial(integrate_pixels, near=self.near) if self.area else intensity
        if isinstance(self.ewald, BeamSpectrum):
            pattern = reduce(torch.add, (share * see(one, occupancy) for share, one in self.ewald(wave)))
        else:
            pattern = see(wave if self.ewald is None else self.ewald(wave), occupancy)
        return pattern if self.response is None else self.response(pattern)

    def misfit(
        self,
        wave: Complex[Tensor, "b *state mode v u"],
        counts: Float[Tensor, "b y x"],
        index: Int[Tensor, " b"],
        divergence: noise.Divergence,
        occupancy: Float[Tensor, " state"] | None = None,
    ) -> Float[Tensor, ""]:
        """Sum of a divergence over the trusted pixels of a batch, the same as by way of `forward`."""
        if not self.counts_plainly() or wave.shape[1:-3] not in ((), (1,)):
            return (divergence(self(wave, index, occupancy), counts) * self.mask).sum()
        return misfit(
            wave if wave.ndim == 4 else wave[:, 0],
            counts,
            self.weights[index],
            noise.with_slope(divergence),
            **self.fields(),
        )

    def counts_plainly(self) -> bool:
        """Whether a pixel counts the intensity in its middle, however strong that is."""
        return (
            self.response is None
            and not self.area
            and self.ewald is None
            and math.isinf(self.saturation)
            and type(self).forward is CountingDetector.forward
        )

    def fields(self) -> dict[str, Tensor | None]:
        """Background, flat field and mask; ``None`` where they are zero, one and one everywhere."""
        flat, mask = self._fields_cache.get(self._make_optional_fields, self.flat, self.mask)
        return {"background": self._optional_background(), "flat": flat, "mask": mask}

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be refined, by name."""
        spread = None if self.response is None else self.response.spread
        blur = [] if spread is None else [spread]
        return {"weights": [self.weights], "background": [self.root], "blur": blur}

    def start_blur(self) -> None:
        """Let the point spread move from where it is."""
        if self.response is None:
            self.response = DetectorResponse(None, None, 0.0, None, near=self.near)
        self.response.spread = nn.Parameter(self.weights.new_zeros(2))

    @torch.no_grad()
    def blur(self) -> tuple[float, float]:
        """Standard deviation of the point spread along (y, x), pixels of the detector."""
        if self.response is None:
            return 0.0, 0.0
        y, x = self.response.variance().sqrt().cpu().tolist()
        return y, x

    @torch.no_grad()
    def start_background(self, level: float) -> None:
        """Let a background begin at a level in counts, its root at a twentieth to half of `scale`."""
        self.root.fill_(min(max(level**0.5 / float(self.scale), 0.05), 0.5))

    def background(self) -> Float[Tensor, "y x"]:
        """Expected counts without beam."""
        return (self.root * self.scale).square()

    def _optional_background(self) -> Tensor | None:
        """`background`, or ``None`` where there is none and none is looked for."""
        if not is_constant(self.root):
            return self.background()
        make = self.background
        (dark,) = self._background_cache.get(
            lambda: (make() if bool(self.root.any()) else None,), self.root, self.scale
        )
        return dark

    def _make_optional_fields(self) -> tuple[Tensor | None, Tensor | None]:
        """Flat field and mask, ``None`` where they are one everywhere."""
        return None if bool((self.flat == 1).all()) else self.flat, None if bool(
            self.mask.all()
        ) else self.mask

    def arrange(self, counts: Tensor) -> Tensor:
        """Measured patterns, centred as in files, in the order of this detector."""
        return counts if self.near else shift_to_corner(counts)

    def display(self, counts: Tensor) -> Tensor:
        """Inverse of `arrange`."""
        return counts if self.near else shift_to_centre(counts)


def _rename_old_tensors(detector: nn.Module, state_dict: dict[str, Any], prefix: str, *unused: Any) -> None:
    """Checkpoints of earlier versions call the response ``sight``."""
    old = f"{prefix}sight."
    for name in [name for name in state_dict if name.startswith(old)]:
        state_dict[f"{prefix}response.{name.removeprefix(old)}"] = state_dict.pop(name)


class DetectorResponse(nn.Module):
    """From the modelled grid to the detector's pixels, then blur and modulation transfer.

    Attributes:
        rows, columns: for each axis the modelled pixels that are kept, or their shares in the
            detector's; ``None``: the grids are the same.
        blur: standard deviation of a Gaussian point spread, detector pixels.
        transfer: modulation transfer function on the ``rfft2`` grid of a pattern, or ``None``.
        near: patterns are as seen; else with zero frequency in the corner.
        spread: what is added to the variance of the point spread along (y, x), square pixels; a parameter,
            or ``None``. A source of finite size blurs holograms in the same way, so that in a near field it
            stands for both.
    """

    rows: Tensor | None
    columns: Tensor | None
    transfer: Tensor | None
    spread: nn.Parameter | None

    def __init__(
        self,
        rows: Tensor | None,
        columns: Tensor | None,
        blur: float,
        transfer: Float[Tensor, "y half"] | None,
        *,
        near: bool = False,
    ):
        super().__init__()
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        self.register_buffer("transfer", transfer)
        self.blur = blur
        self.near = near
        self.register_parameter("spread", None)

    def variance(self) -> Float[Tensor, "2"]:
        """Of the point spread along (y, x), square pixels.

        Below zero it is taken for zero, with the slope that it has there, so that it comes back.
        """
        if self.spread is None:
            return torch.full((2,), self.blur**2)
        total = self.spread + self.blur**2
        return total - total.detach().clamp(max=0)

    def forward(self, pattern: Float[Tensor, "b v u"]) -> Float[Tensor, "b y x"]:
        """What the detector's pixels collect, zero frequency in the corner."""
        if self.rows is not None and self.columns is not None:
            kept = self.rows.ndim == 1
            pattern = (
                pattern[:, self.rows][:, :, self.columns] if kept else self.rows @ pattern @ self.columns.T
            )
        if self.spread is not None:
            pattern = spread_patterns(pattern, self.variance(), near=self.near)
        elif self.blur:
            pattern = blur_patterns(pattern, self.blur, near=self.near)
        return pattern if self.transfer is None else apply_transfer(pattern, self.transfer)


def counting(
    scan: Scan4D,
    /,
    *,
    blur: float = 0.0,
    transfer: Path | None = None,
    collect: Collect = "area",
    saturation: float | None = None,
    area: bool = False,
    ewald: PixelMapping | None = None,
    bandwidth: float = 0.0,
    spectrum: Path | None = None,
) -> CountingDetector:
    """The detector of a scan: its mask, background, flat field, shot weights and sharpness.

    Args:
        scan: the data.
        blur: standard deviation of the point spread, detector pixels.
        transfer: a table of two columns, the modulation transfer at frequencies in units of Nyquist's.
        collect: how a pixel collects the finer ones of an enlarged grid (`phaseloom.data.prepare.enlarge`):
            what falls on its area; interpolated as when images are resized, or whole blocks of fine
            pixels (a whole number of them), both of which move the pattern by part of a pixel.
        saturation: counts at which a pixel is full: more are modelled as so many, and pull at nothing.
        area: pixels count what falls on their whole area, which blurs speckle finer than them, instead of
            sampling the intensity in their middle.
        ewald: where pixels lie in the Fourier transform of the sample, exactly: of a detector that is
            ``flat``, or behind a ``lens``; ``none``: at frequencies proportional to their places. Default:
            ``flat`` where the sample is tilted so much that it matters. Pixels whose frequencies the
            modelled grid does not reach are not compared.
        bandwidth: of a poly-energetic beam: full width at half maximum of its spectrum, relative to the
            wavelength. Patterns of the wavelengths add up, each stretched in proportion to it.
        spectrum: a table of energies (eV) and photons, in place of a bandwidth.

    Raises:
        BadInput: no spectrum (`make_spectrum`), or one of scans of several energies, a saturation that is not
            a number of counts, a blur wider than the detector, or a table that is none.
    """
    shape = scan.geometry.shape
    near = scan.geometry.near
    if saturation is not None and not saturation > 0:
        raise BadInput("detector: counting.saturation", saturation, "must be a number of counts above zero")

    def of(array: np.ndarray | None, default: float) -> Tensor:
        full = np.full(shape, default) if array is None else array
        tensor = torch.as_tensor(np.ascontiguousarray(full))
        return tensor if near else shift_to_corner(tensor)

    if scan.scan_wavelengths is not None and (ewald not in (None, "none") or bandwidth or spectrum):
        fix = "are not supported with scans of several energies: leave them out"
        raise BadInput("detector: counting", "ewald, bandwidth and spectrum", fix)
    weights = np.ones(len(scan)) if scan.weights is None else scan.weights
    mapping, known = map_pixels(scan, ewald)
    several = make_spectrum(scan, bandwidth, spectrum)
    known = known if several is None else several.known
    return CountingDetector(
        weights=torch.as_tensor(np.asarray(weights), dtype=torch.float32),
        root=of(scan.background, 0.0).clamp(min=0).sqrt().float(),
        flat=of(scan.flat, 1.0).float(),
        mask=of(scan.mask, 1.0).bool() & _reachable_pixels(scan, known),
        scale=float(np.sqrt(max(scan.mean_pattern(most=200)[scan.mask].mean(), 1e-6))),
        near=near,
        response=_make_response(scan, blur, transfer, collect=collect),
        most=math.inf if saturation is None else saturation,
        area=area,
        ewald=mapping if several is None else several,
    )


def _reachable_pixels(scan: Scan4D, known: Tensor | None) -> Tensor | bool:
    """Pixels of the detector that collect nothing of which the modelled grid does not know the intensity."""
    if known is None:
        return True
    return DetectorResponse(*match_grids(scan), 0.0, None)((~known).float()[None])[0] < 1e-6


def _make_response(
    scan: Scan4D, blur: float, transfer: Path | None, *, collect: Collect
) -> DetectorResponse | None:
    if not 0 <= blur < min(scan.geometry.shape) / 7:
        fix = f"must lie between 0 and {min(scan.geometry.shape) / 7:.3g} pixels"
        raise BadInput("detector: counting.blur", blur, fix)
    rows, columns = match_grids(scan, collect)
    table = None if transfer is None else _read_transfer(Path(transfer), scan.geometry.shape)
    if rows is None and not blur and table is None:
        return None
    return DetectorResponse(rows, columns, blur, table, near=scan.geometry.near)


def match_grids(scan: Scan4D, collect: Collect = "area", /) -> tuple[Tensor | None, Tensor | None]:
    """One table per axis from the modelled grid to the detector's; ``None`` where they are the same.

    Whole numbers pick pixels (the same angle per pixel); others are shares of many pixels in few.
    """
    few = scan.geometry
    many = scan.window
    if few.shape == many.shape or scan.scan_wavelengths is not None:  # waves of these are on its pixels
        return None, None
    if np.allclose(few.angle, many.angle):
        picked = [torch.arange(n) + m // 2 - n // 2 for m, n in zip(many.shape, few.shape, strict=True)]
        if not few.near:
            picked = [torch.fft.ifftshift(p - m // 2) % m for p, m in zip(picked, many.shape, strict=True)]
        return picked[0], picked[1]
    weights = {
        "area": detect.area_weights,
        "bilinear": detect.bilinear_weights,
        "blocks": detect.block_weights,
    }[collect]
    found = [weights(m, n) for m, n in zip(many.shape, few.shape, strict=True)]
    if not few.near:
        found = [torch.fft.ifftshift(table, dim=(0, 1)) for table in found]
    return found[0], found[1]


def _read_transfer(path: Path, shape: tuple[int, int]) -> Tensor:
    """A curve over frequency, laid around the origin of an ``rfft2`` grid."""
    if not path.is_file():
        raise BadInput("detector: counting.transfer", str(path), "does not exist")
    try:
        table = np.loadtxt(path, delimiter="," if path.suffix == ".csv" else None, ndmin=2)
    except ValueError:
        table = np.zeros((0, 0))
    if table.ndim != 2 or table.shape[1:] != (2,) or not np.isfinite(table).all() or len(table) < 2:
        fix = "is not a table of two columns of numbers: frequency over Nyquist's, and transfer"
        raise BadInput("detector: counting.transfer", str(path), fix)
    table = table[np.argsort(table[:, 0])]
    if (table[:, 0] < 0).any() or not ((table[:, 1] >= 0) & (table[:, 1] <= 1)).all() or table[0, 1] <= 0:
        fix = "is not a transfer function: frequencies from 0 up, values between 0 and 1"
        raise BadInput("detector: counting.transfer", str(path), fix)
    y = np.fft.fftfreq(shape[0])
    x = np.fft.rfftfreq(shape[1])
    curve = np.interp(2 * np.hypot(y[:, None], x[None]), table[:, 0], table[:, 1])
    return torch.as_tensor(curve / np.interp(0, table[:, 0], table[:, 1]), dtype=torch.float32)
