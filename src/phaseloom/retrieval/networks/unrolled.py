"""A network for any probe: gradients of the likelihood and convolutions in turn (an unrolled iteration).

Each step fits patterns once with the probe of the scan: what patterns of the present phase lack is propagated
back to the object. A small convolutional network, the same in all steps, reads the phase, that update, the
number of electrons that each pixel got and its own memory, and gives the next phase. The probe, the step of
the scan, the detector's pixels, masks and positions enter through physics, so the network needs no others
trained for them.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.learning.weight_files import record_builder

__all__ = ["PIXELS_PER_UNIT", "ThinScans", "UnrolledRecovery", "mean_amplitude", "unrolled"]

PIXELS_PER_UNIT = 5.0
"""Pixels of the object to a wavelength over the semiangle: waves reach to 2.5 semiangles."""

ILLUMINATION_FLOOR = 0.05  # of the brightest illumination, added where updates are divided by it
CHANNELS_READ = 5  # phase, both parts of the update, electrons, illumination
MAX_PIXELS_KEPT = 2**25  # pixels of windows of scans whose shifted probes are kept from step to step
MAX_PIXELS_PER_BATCH = 2**24  # pixels of windows that a GPU computes together
MAX_PIXELS_IN_CACHE = 2**17  # the same of a processor: more fall out of its cache


@dataclass(frozen=True, eq=False)
class ThinScans:
    """Scans of thin objects, all of one size, as the network reads them.

    Attributes:
        patterns: ``(pattern, y, x)`` fractions of the beam, zero frequency in the corner.
        mask: ``(scan, y, x)`` detector pixels that are measured, 1 or 0.
        probes: ``(scan, y, x)`` complex, in the middle of their windows, their powers 1.
        places: ``(pattern, 2)`` of the probes (y, x), pixels of the object.
        scan: ``(pattern,)`` number of the scan of each pattern.
        shape: of the object (y, x), pixels.
        dose: ``(scan,)`` electrons of the beam in a pattern.
        conditions: ``(scan, 4)``: `phaseloom.retrieval.unrolled_input.encode_scan`.
        descan: ``(pattern, 2)`` detector pixels (y, x) by which each pattern is shifted; ``None``: none is.
    """

    patterns: Tensor
    mask: Tensor
    probes: Tensor
    places: Tensor
    scan: Tensor
    shape: tuple[int, int]
    dose: Tensor
    conditions: Tensor
    descan: Tensor | None = None

    def __len__(self) -> int:
        return len(self.probes)

    def to(self, device: torch.device | str) -> "ThinScans":
        """The same on a device."""
        tensors = {name: part.to(device) for name, part in vars(self).items() if isinstance(part, Tensor)}
        return replace(self, **tensors)

    def split(self) -> Iterable[tuple[slice, Tensor, Tensor]]:
        """Parts of the patterns: which, their shifted probes, and the indices of their windows."""
        return self._parts if self.patterns.numel() <= MAX_PIXELS_KEPT else self._cut()

    @cached_property
    def _parts(self) -> list[tuple[slice, Tensor, Tensor]]:
        """All parts of small scans, made once."""
        return list(self._cut())

    def _cut(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        size = tuple(self.probes.shape[-2:])
        ramps = [torch.fft.fftfreq(n, device=self.places.device) for n in size]
        lines = [torch.arange(n, device=self.places.device) - n // 2 for n in size]
        spectra = torch.fft.fft2(self.probes)
        corner = self.places.round()
        rest = self.places - corner
        most = MAX_PIXELS_PER_BATCH if self.places.is_cuda else MAX_PIXELS_IN_CACHE
        many = max(1, most // math.prod(size))
        for start in range(0, len(self.places), many):
            part = slice(start, start + many)
            turn = -2 * math.pi * rest[part]
            angle = turn[:, 0, None, None] * ramps[0][:, None] + turn[:, 1, None, None] * ramps[1]
            moved = torch.fft.ifft2(spectra[self.scan[part]] * torch.polar(torch.ones_like(angle), angle))
            if self.descan is not None:
                y, x = (2 * math.pi / n * line for n, line in zip(size, lines, strict=True))
                angle = self.descan[part, 0, None, None] * y[:, None] + self.descan[part, 1, None, None] * x
                moved = moved * torch.polar(torch.ones_like(angle), angle)
            rows = (corner[part, 0].long()[:, None] + lines[0]) % self.shape[0]
            columns = (corner[part, 1].long()[:, None] + lines[1]) % self.shape[1]
            rows = rows + self.scan[part, None] * self.shape[0]
            yield part, moved, rows[:, :, None] * self.shape[1] + columns[:, None, :]

    def illuminate(self) -> Tensor:
        """Sum of the probes' intensities ``(scan, y, x)``: shares of the beam in pixels of the object."""
        total = self.patterns.new_zeros(len(self) * math.prod(self.shape))
        for _, probes, index in self.split():
            total.index_add_(0, index.reshape(-1), probes.abs().square().reshape(-1))
        return total.reshape(len(self), *self.shape)

    def average(self, values: Tensor) -> Tensor:
        """Means of numbers of the patterns ``(pattern,)``, weighted by the light of each ``(scan, y, x)``."""
        total = self.patterns.new_zeros(len(self) * math.prod(self.shape))
        for part, probes, index in self.split():
            weighted = probes.abs().square() * values[part, None, None]
            total.index_add_(0, index.reshape(-1), weighted.reshape(-1))
        return total.reshape(len(self), *self.shape) / self.illuminate().clamp(min=1e-12)

    def diffract(self, phase: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Parts of the patterns: which, and those of a phase ``(scan, y, x)``, fractions of the beam."""
        wave = torch.polar(torch.ones_like(phase), phase).reshape(-1)
        for part, probes, index in self.split():
            yield part, torch.fft.fft2(probes * wave[index], norm="ortho").abs().square()

    def propagate_back(self, phase: Tensor) -> Tensor:
        """What patterns of a phase ``(scan, y, x)`` lack, in the object: complex, illumination times change.

        Amplitudes are compared with those that counts of these means have on average, so that dark pixels
        with few electrons push nowhere.
        """
        wave = torch.polar(torch.ones_like(phase), phase).reshape(-1)
        total = torch.zeros_like(wave)
        for part, probes, index in self.split():
            beam = probes * wave[index]
            far = torch.fft.fft2(beam, norm="ortho")
            amplitude = far.abs()
            expected = mean_amplitude(amplitude, self.dose[self.scan[part], None, None])
            lack = (self.patterns[part].clamp(min=0).sqrt() - expected) * self.mask[self.scan[part]]
            back = torch.fft.ifft2(far * (lack / amplitude.clamp(min=1e-8)), norm="ortho")
            total.index_add_(0, index.reshape(-1), (back * probes.conj()).reshape(-1))
        return (total * wave.conj()).reshape(phase.shape)


def mean_amplitude(amplitude: Tensor, dose: Tensor) -> Tensor:
    """Mean of the square root of Poisson counts over ``sqrt(dose)``, their mean being ``dose amplitude^2``.

    Within 0.004 at any mean.

    Example:
        >>> few = mean_amplitude(torch.tensor([0.1, 1.0, 10.0]), torch.tensor(1.0))
        >>> [round(float(value), 2) for value in few]
        [0.01, 0.78, 9.99]
    """
    mean = dose * amplitude.square()
    return amplitude * torch.sqrt(mean / (mean + 0.25 + 0.75 * torch.exp(-0.6 * mean)).clamp(min=1e-20))


def _begin_with_zeros(*layers: nn.Module) -> None:
    """Layers that change nothing before they are trained."""
    for layer in layers:
        for weight in layer.parameters():
            nn.init.zeros_(weight)


class _Residual(nn.Module):
    """Two convolutions beside the identity, scaled and shifted by the conditions."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.told = nn.Linear(told, 2 * width)
        _begin_with_zeros(self.second, self.told)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.told(told)[:, :, None, None].chunk(2, 1)
        return x + self.second(functional.silu(self.first(functional.silu(x)) * (1 + scale) + shift))


class _UNet(nn.Module):
    """Convolutions on three scales; sizes are multiples of eight."""

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int], told: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.encode = nn.ModuleList(_Residual(width, told) for width in widths)
        self.decode = nn.ModuleList(_Residual(width, told) for width in widths)
        self.head = nn.Conv2d(widths[0], outputs, 3, padding=1)
        _begin_with_zeros(self.head)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        x = self.stem(x)
        levels = []
        for encode, down in zip(self.encode, [*self.down, None], strict=True):
            x = encode(x, told)
            levels.append(x)
            x = x if down is None else down(x)
        x = self.decode[-1](x, told)
        for decode, up, level in zip(
            reversed(self.decode[:-1]), reversed(self.up), reversed(levels[:-1]), strict=True
        ):
            x = decode(up(x) + level, told)
        return self.head(functional.silu(x))


class UnrolledRecovery(nn.Module):
    """Recovers the phases of thin objects from scans with any probe: see `unrolled`."""

    def __init__(self, steps: int, widths: tuple[int, ...], memory: int) -> None:
        super().__init__()
        told = 32
        self.steps = steps
        self.memory = memory
        self.conditions = nn.Sequential(nn.Linear(4 + steps, told), nn.SiLU(), nn.Linear(told, told))
        self.length = nn.Parameter(torch.ones(steps))
        self.unet = _UNet(CHANNELS_READ + memory, 2 + memory, widths, told)

    def iterate(self, scans: ThinScans) -> Iterator[tuple[Tensor, Tensor]]:
        """The phase ``(scan, y, x)`` and the logarithm of its standard error, radian, after each step.

        Gradients flow through the network, not through the propagation.
        """
        light = scans.illuminate()
        brightest = light.amax((-2, -1), keepdim=True)
        electrons = torch.log10(1 + light * scans.dose[:, None, None])
        phase = torch.zeros_like(light)
        memory = light.new_zeros(len(scans), self.memory, *scans.shape)
        for step in range(self.steps):
            with torch.no_grad():
                lack = scans.propagate_back(phase.detach())
                lack = lack / (light + ILLUMINATION_FLOOR * brightest)
            number = functional.one_hot(torch.tensor(step, device=light.device), self.steps).to(light)
            told = self.conditions(torch.cat([scans.conditions, number.expand(len(scans), -1)], 1))
            read = torch.stack([phase, lack.imag, lack.real, electrons / 3 - 1, light / brightest], 1)
            change = self._convolve(torch.cat([read, memory], 1), told)
            phase = phase + self.length[step] * lack.imag + change[:, 0]
            memory = torch.tanh(change[:, 2:])
            yield phase, change[:, 1].clamp(-8, 4)

    def forward(self, scans: ThinScans) -> tuple[Tensor, Tensor]:
        """The phase and its standard error ``(scan, y, x)``, radian."""
        *_, (phase, spread) = self.iterate(scans)
        return phase, spread.exp()

    def _convolve(self, x: Tensor, told: Tensor) -> Tensor:
        """The network on sizes that are no multiples of its coarsest pixel."""
        rows, columns = x.shape[-2:]
        unit = 2 ** len(self.unet.down)
        x = functional.pad(x, (0, -columns % unit, 0, -rows % unit))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.training and x.is_cuda):
            return self.unet(x, told)[..., :rows, :columns].float()


@record_builder("unrolled")
def unrolled(
    *, steps: int = 8, widths: tuple[int, ...] = (32, 64, 96, 128), memory: int = 16, seed: int = 0
) -> UnrolledRecovery:
    """Unrolled iterations for scans with any probe.

    Args:
        steps: fits of all patterns, one after the other.
        widths: channels on each scale, from fine to coarse.
        memory: channels that a step hands to the next.
        seed: of the weights that it begins with.

    Source:
        Putzky & Welling 2017, Recurrent inference machines, doi 10.48550/arXiv.1706.04008;
        Monga, Li & Eldar 2021, Algorithm unrolling, doi 10.1109/MSP.2020.3016905.

    Example:
        >>> sum(weight.numel() for weight in unrolled().parameters()) < 1.4e6
        True
    """
    return UnrolledRecovery(steps, tuple(widths), memory)
