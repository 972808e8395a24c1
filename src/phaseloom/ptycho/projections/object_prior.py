"""The power of an object as a prior: what few electrons cannot tell is held down, not fitted.

An object whose spectrum has a power ``S(q)``, seen with a noise ``N`` in each component, is most likely
``S / (S + N)`` of what fits the patterns best (Wiener). After every epoch the object is weighted so that
epochs end there: by less where the steps of an epoch were short (`weigh_steps`), as the same weight again and
again, with steps that fall to nothing, would leave nothing of the object. Frequencies that the patterns tell
less of, because of their transfer, advance by less in an epoch and are held down by more. With many electrons
nothing is changed. Where the object under way has far more power than the prior says and than
counting leaves, its own power counts: what a weak object explains may fall short of a strong one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from phaseloom.ptycho.curvature import incident_waves, sum_illumination
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import PixelObject

__all__ = ["ObjectPower", "apply_object_prior"]

MIN_SHARE_OF_LIGHT = 0.1
"""Share of the strongest light above which pixels count as scanned."""

MIN_FALL = -2.0
"""Exponent with which power falls, at least, beyond the last ring that is seen."""

USUAL_FALL = -4.0
"""The same where rings are too few to tell: that of sharp atoms in two dimensions."""

MIN_RINGS_TO_TELL_FALL = 4

RING_WIDTH = 2.0
"""Width of rings of the object's own spectrum, in frequencies of the canvas."""

MAX_SHARE_TOLD = 0.5
"""What patterns tell of the phase of a weak object at most, over the curvature of Newton steps.

``n`` electrons through a pixel tell it to ``1 / (2 n)`` (arXiv 2003.05475), not ``1 / (4 n)``."""

MIN_CLEAR_SIGNAL = 30.0
"""Power over the noise of counting from which the object's own counts; 10 and 100 give the same images."""


@dataclass(frozen=True)
class ObjectPower:
    """Power of the phase of an object by frequency.

    Attributes:
        frequency: cycles per angstrom, ascending.
        density: radian squared times angstrom squared; noise of variance ``v`` on pixels of area ``a`` has
            ``v a``.
        modulus: power of the logarithm of the modulus over that of the phase; of a complex object with one
            below 1 the modulus is held down by more. One material has ``(beta / delta)^2``.

    Example:
        >>> power = ObjectPower((0.1, 0.2), (4.0, 1.0))
        >>> power.evaluate(np.array([0.05, 0.1, 0.4])).round(3).tolist()  # level below, falling beyond
        [4.0, 4.0, 0.062]
    """

    frequency: tuple[float, ...]
    density: tuple[float, ...]
    modulus: float = 1.0

    @classmethod
    def of(cls, table: Mapping[str, Sequence[float]], /) -> "ObjectPower":
        """From `to_table`."""
        (modulus,) = table.get("modulus", (1.0,))
        return cls(tuple(table["frequency"]), tuple(table["density"]), modulus)

    @classmethod
    def of_phase(
        cls,
        phase: Float[np.ndarray, "y x"],
        taper: Float[np.ndarray, "y x"],
        pixel: tuple[float, float],
        /,
        *,
        highest: float | None = None,
    ) -> "ObjectPower":
        """By rings of the spectrum of a phase, which a taper brings to zero at the edges.

        Args:
            phase: radian.
            taper: from one in the middle to zero at the edges.
            pixel: (y, x), angstrom.
            highest: frequency of the last ring, cycles per angstrom; default: that of the pixels.
        """
        tapered = (phase - phase.mean()) * taper
        area = pixel[0] * pixel[1]
        density = abs(np.fft.fft2(tapered)) ** 2 * area / max(float((taper**2).sum()), 1e-30)
        rows, columns = (np.fft.fftfreq(n, p) for n, p in zip(phase.shape, pixel, strict=True))
        width = RING_WIDTH / (max(phase.shape) * max(pixel))
        ring = np.round(np.hypot(rows[:, None], columns[None]) / width).astype(int).ravel()
        last = int(min(highest or math.inf, 0.5 / max(pixel)) / width)
        mean = np.bincount(ring, density.ravel())[1:last] / np.maximum(np.bincount(ring)[1:last], 1)
        frequency = np.arange(1, last) * width
        values = [[float(f"{one:.4g}") for one in column] for column in (frequency, mean.clip(min=1e-30))]
        return cls(tuple(values[0]), tuple(values[1]))

    def to_table(self) -> dict[str, list[float]]:
        """As a parameter file keeps it."""
        table = {"frequency": [*self.frequency], "density": [*self.density]}
        return table if self.modulus == 1 else {**table, "modulus": [self.modulus]}

    def evaluate(self, frequency: Float[np.ndarray, "..."], /) -> Float[np.ndarray, "..."]:
        """The density at some frequencies: between rings on straight lines of logarithms.

        Args:
            frequency: cycles per angstrom.
        """
        known, level = np.log(self.frequency), np.log(self.density)
        last = self.frequency[-1]
        inside = np.exp(np.interp(np.log(np.clip(frequency, self.frequency[0], last)), known, level))
        return inside * (np.maximum(frequency, last) / last) ** self._fall()

    def _fall(self) -> float:
        """Exponent beyond the last ring: that of the outer half of the rings."""
        outer = np.array(self.frequency) > 0.5 * self.frequency[-1]
        if outer.sum() < MIN_RINGS_TO_TELL_FALL:
            return USUAL_FALL
        known, level = np.log(np.array(self.frequency)[outer]), np.log(np.array(self.density)[outer])
        return min(MIN_FALL, float(np.polyfit(known, level, 1)[0]))


@torch.no_grad()
def apply_object_prior(
    model: Ptychography,
    /,
    power: ObjectPower,
    *,
    excess: float = 1.0,
    advance: float = math.inf,
    told: float = MAX_SHARE_TOLD,
) -> None:
    """Weight the spectrum of an object by what counting noise leaves of its power.

    Args:
        model: whose object is changed: its phase and amplitude, or the complex transmission.
        power: of the phase of the whole object; each slice is weighted alike.
        excess: noise in the patterns over that of counting.
        advance: Newton steps that the object was moved by since the prior was applied last.
        told: see `weigh_steps`.
    """
    light = sum_illumination(model, incident_waves(model))[0]
    scanned = light > MIN_SHARE_OF_LIGHT * light.max()
    noise = excess / (4 * float(light[scanned].mean()))
    thing = model.object
    parts = [thing.wave] if thing.kind == "complex" else [thing.phase]
    parts += [thing.amplitude] if thing.kind == "amplitude and phase" else []
    pixel = model.scan.canvas.pixel
    rows, columns = (np.fft.fftfreq(n, p) for n, p in zip(light.shape, pixel, strict=True))
    density = power.evaluate(np.hypot(rows[:, None], columns[None]))
    signal = torch.as_tensor(density / (pixel[0] * pixel[1]), dtype=light.dtype, device=light.device)
    signal = torch.maximum(signal, _measure_clear_power(thing, scanned, noise))
    weight = weigh_steps(signal / noise, advance, told=told)
    for part in parts:
        mean = part[..., scanned].mean(-1)[..., None, None]
        smooth = torch.fft.ifft2(torch.fft.fft2(part - mean) * weight)
        part.copy_((smooth if part.is_complex() else smooth.real) + mean)
    if thing.kind == "complex" and power.modulus < 1:
        held = power.modulus * torch.as_tensor(density / (pixel[0] * pixel[1])).to(signal)
        _smooth_modulus(thing.wave, weigh_steps(held / noise, advance, told=told), scanned)


def weigh_steps(
    ratio: Float[Tensor, "*any"], advance: float, /, *, told: float = MAX_SHARE_TOLD
) -> Float[Tensor, "*any"]:
    """Factor on each frequency of an object after some steps; repeated, it leaves the most likely object.

    Steps leave ``c = exp(-advance / 2)`` of what an object is off the one ``m`` that fits the patterns best,
    where these tell as much of it as they can: half of what the curvature of the steps allows, for waves that
    interfere with the light of the probe show by amplitude, not by phase. The factor ``w`` is that with which
    ``w (m + c (r m - m))`` is ``r m`` again, ``r = S / (S + 2 N)``. Of short steps it is
    ``1 / (1 + advance N / S)``, and the object is the most likely one where patterns tell less, too.

    Args:
        ratio: power ``S`` over the noise ``N`` of counting, ``1 / (4 n)``.
        advance: Newton steps since the factor was applied last.
        told: what patterns tell at most, over the curvature of the steps.

    Example:
        >>> ratio = torch.tensor([2.0])
        >>> float(weigh_steps(ratio, math.inf))
        0.5
        >>> wave = torch.zeros(1)
        >>> for _ in range(100):
        ...     wave = (1 + math.exp(-0.05) * (wave - 1)) * weigh_steps(ratio, 0.1)
        >>> round(float(wave), 3)
        0.5
    """
    share = ratio / (ratio + 1 / told)
    return share / (1 - math.exp(-told * advance) * (1 - share))


def _smooth_modulus(wave: Tensor, weight: Float[Tensor, "y x"], scanned: Bool[Tensor, "y x"]) -> None:
    """Weight the spectrum of the logarithm of the modulus; the phase stays."""
    logs = torch.log(wave.abs().clamp(min=1e-3))
    mean = logs[..., scanned].mean(-1)[..., None, None]
    smooth = torch.fft.ifft2(torch.fft.fft2((logs - mean) * scanned) * weight).real + mean
    wave.mul_(torch.where(scanned, torch.exp(smooth - logs), 1.0))


def _measure_clear_power(
    thing: PixelObject, scanned: Bool[Tensor, "y x"], noise: float
) -> Float[Tensor, "y x"]:
    """Power of an object by rings of its spectrum, where it is far above counting noise; 0 elsewhere."""
    whole = thing.wave.prod(-3) if thing.kind == "complex" else thing.phase.sum(-3)
    mean = whole[..., scanned].mean(-1)[..., None, None]
    square = (torch.fft.fft2((whole - mean) * scanned).abs().square() / scanned.sum()).mean(0)
    pixel = thing.canvas.pixel
    rows, columns = (torch.fft.fftfreq(n, p) for n, p in zip(square.shape, pixel, strict=True))
    width = RING_WIDTH / min(n * p for n, p in zip(square.shape, pixel, strict=True))
    ring = (torch.hypot(rows[:, None], columns[None]) / width).long().to(square.device)
    power = torch.bincount(ring.flatten(), square.flatten()) / torch.bincount(ring.flatten()).clamp_min(1)
    return torch.where(power > MIN_CLEAR_SIGNAL * noise, power, 0.0)[ring].to(square.dtype)
