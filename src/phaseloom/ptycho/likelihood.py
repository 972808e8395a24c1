"""The objective of a fit: what the counts say against the model, and what is asked of it besides."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phaseloom.data.counts import own
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.cache import Kept
from phaseloom.physics.patches import Box
from phaseloom.ptycho import noise
from phaseloom.ptycho.count_loader import Measured
from phaseloom.ptycho.model import Ptychography

__all__ = ["Likelihood", "Misfit"]

Penalty = Callable[..., Tensor]

GIVEN = ("model", "counts", "amplitude", "phase", "occupancy")
"""What a penalty may ask for by the names of its first parameters."""


WORKING = 4_194_304
"""Bytes of waves that are worked on together. Half as many, or twice, cost a few per cent more."""


class Misfit:
    """How far the patterns of any module are from the measured ones: an objective for `phaseloom.fit`.

    The module's ``forward(index)`` gives expected counts ``(b, y, x)``, centred as in files. Calling the
    misfit with a batch of indices gives ``{"noise": loss}`` in the units of `Likelihood`: 1 is what shot
    noise leaves. A penalty of one's own is one more entry: ``lambda index: {**misfit(index), "mine": ...}``.

    Args:
        model: the module; its parameters say on which device.
        scan: the measured patterns; lazy ones are read batch by batch.
        divergence: of a pixel, such as `phaseloom.noise.poisson`, ``partial`` for its knobs.

    Attributes:
        floor: sum of the divergence over a pattern that shot noise alone would leave (`noise.shot_noise`).

    Raises:
        BadInput: when called, patterns that do not fit those of the scan.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=1.0, shape=(8, 8), angle=(1e-3, 1e-3))
        >>> counts = np.random.default_rng(0).poisson(9.0, (200, 8, 8))
        >>> scan = Scan4D(counts=counts, positions=np.zeros((200, 2)), geometry=geometry)
        >>> class Even(nn.Module):
        ...     def forward(self, index):
        ...         return torch.full((len(index), 8, 8), 9.0)
        >>> round(Misfit(Even(), scan)(torch.arange(200))["noise"].item(), 1)
        1.0
    """

    def __init__(self, model: nn.Module, scan: Scan4D, divergence: noise.Divergence = noise.amplitude):
        self.model, self.divergence = model, divergence
        self.measured, self.mask = Measured(scan, lambda counts: counts), torch.as_tensor(scan.mask)
        self.floor = _floor(divergence, self.measured, self.mask)

    def __call__(self, index: Int[Tensor, " b"]) -> dict[str, Tensor]:
        """Mean loss over the patterns of a batch."""
        index, counts = self.measured.take(index, self._device())
        expected = self.model(index)
        if expected.shape != counts.shape or expected.is_complex():
            fix = f"is no pattern for each index: let forward give real counts {tuple(counts.shape)}"
            raise BadInput("Misfit: model", f"{expected.dtype} {tuple(expected.shape)}", fix)
        self.mask = self.mask.to(expected.device)
        each = self.divergence(expected, counts.to(expected.dtype)) * self.mask
        return {"noise": each.sum() / (len(index) * self.floor)}

    def expect(self, pieces: Sequence[Tensor]) -> None:
        """Begin to send the patterns of the batch that comes next."""
        self.measured.expect(pieces, self._device())

    def _device(self) -> torch.device:
        every = (*self.model.parameters(), *self.model.buffers())
        return every[0].device if every else torch.device("cpu")


class Likelihood:
    """How far the modelled patterns of a batch are from the measured ones, and penalties by name.

    Calling it with a batch of indices gives ``{"noise": loss, ...}``, a loss of 1 meaning that nothing
    but shot noise is left. A penalty is a function of what its parameters name: ``model`` and
    ``counts``, patterns ``(b, y, x)``, or ``(b, 1, pixel)`` where some pixels are masked;
    ``amplitude`` and ``phase``, windows ``(b, state, slice, y, x)`` of the object; ``occupancy``, the
    share of each state.

    Attributes:
        judging: names of the terms that compare with counts, and so may judge patterns held out.
    """

    def __init__(
        self,
        model: Ptychography,
        scan: Scan4D,
        divergence: noise.Divergence = noise.amplitude,
        penalties: Mapping[str, Penalty] | None = None,
    ):
        self.model, self.divergence = model, divergence
        self.measured = Measured(scan, model.detector.arrange)
        self.penalties = {name: (_asked(call, name), call) for name, call in (penalties or {}).items()}
        self.whole = bool(model.detector.mask.all())
        self._seen: Kept[tuple[Tensor, ...]] = Kept()
        self.silent = _name(divergence) == "none"
        self.floor = 1.0 if self.silent else _floor(divergence, self.measured, model.detector.mask)
        asked = {name for names, _ in self.penalties.values() for name in names}
        self.looking = self.silent or bool(asked & {"model", "counts"})
        self.judging = [] if self.silent else ["noise"]
        self.judging += [name for name, (asked, _) in self.penalties.items() if "counts" in asked]

    def __call__(self, index: Int[Tensor, " b"]) -> dict[str, Tensor]:
        """Mean loss over the patterns of a batch, and every penalty."""
        index, counts = self.measured.take(index, self.model.scan.start.device)
        counts, terms = counts.to(self.model.scan.start.dtype), {}
        if not self.looking:
            terms["noise"] = self.model.misfit(index, counts, self.divergence) / (len(index) * self.floor)
            expected = counts
        else:
            expected, mask = self.model(index), self.model.detector.mask
            if not self.silent:
                terms["noise"] = (self.divergence(expected, counts) * mask).sum() / (len(index) * self.floor)
        if self.penalties:
            given = self._given(index, *self._trusted(expected, counts))
            terms |= {
                name: call(*(given[a] for a in asked)) for name, (asked, call) in self.penalties.items()
            }
        return terms

    def expect(self, pieces: Sequence[Tensor]) -> None:
        """Begin to send the patterns of the batch that comes next."""
        self.measured.expect(pieces, self.model.scan.start.device)

    def boxes(self, index: Int[Tensor, " b"]) -> list[Box]:
        """Rectangles of the object that hold the windows of a batch."""
        place = self.model.scan(index.to(self.model.scan.start.device))[0]
        return self.model.object.mosaic(place).boxes()

    @property
    def at_once(self) -> int:
        """Patterns that are best modelled together: their waves fill the caches of a CPU and no more.

        A larger batch is the same step, and a quicker one, in pieces of this size. On a GPU, which wants all
        the work it can get, pieces are a matter of memory alone.
        """
        start = self.model.scan.start
        if start.device.type != "cpu":
            return 2**31
        height, width = self.model.object.window
        modes = self.model.probe.modes().shape[0] * len(self.model.object.occupancy)
        wave = 2 * start.element_size() * height * width * modes
        return max(1, WORKING // wave)

    def remaining(self, over: Callable[[Tensor], Tensor] = lambda sums: sums, /) -> dict[str, float]:
        """What is left over all patterns, in the units that are compared between programs.

        ``amplitude``: mean over trusted pixels of ``(sqrt(model) - sqrt(counts))^2``, about 0.25 at the
        shot-noise limit of bright data. ``poisson``: twice the Poisson deviance's half per pixel with
        at least one count, 1 at the limit.

        Args:
            over: makes sums over all patterns of those over the patterns that are kept here.
        """
        amplitude, deviance, lit = over(self._left()).tolist()
        pixels = len(self.measured) * float(self.model.detector.mask.sum())
        return {"amplitude": amplitude / pixels, "poisson": 2 * deviance / max(lit, 1.0)}

    @torch.no_grad()
    def _left(self) -> Float[Tensor, "3"]:
        """Sums over the patterns that are kept here: of both, and of pixels with a count."""
        mask, device = self.model.detector.mask, self.model.scan.start.device
        sums, kept = torch.zeros(3, dtype=torch.float64), torch.from_numpy(own(self.measured.counts))
        for index in kept.to(device).split(min(self.at_once, 256)):
            counts, expected = self.measured[index].to(device), self.model(index)
            amplitude = (noise.amplitude(expected, counts, floor=0.0) * mask).sum()
            deviance = (noise.poisson(expected, counts) * mask).sum()
            sums += torch.stack([amplitude, deviance, ((counts >= 1) & mask).sum()]).double().cpu()
        return sums

    @cached_property
    @torch.no_grad()
    def blind(self) -> float:
        """Loss of a model that knows the mean pattern alone; zero without a noise model."""
        if self.silent:
            return 0.0
        some = torch.linspace(0, len(self.measured) - 1, min(len(self.measured), 400)).long()
        mask = self.model.detector.mask.cpu()
        mean = torch.stack([self.measured[part].sum(0) for part in some.split(64)]).sum(0) / len(some)
        known = (self.measured[part] for part in some.split(64))
        left = sum(float((self.divergence(mean.expand_as(part), part) * mask).sum()) for part in known)
        return left / (len(some) * self.floor)

    def _trusted(self, *patterns: Tensor) -> list[Tensor]:
        """Patterns without their masked pixels, so that means are over what was measured."""
        if self.whole:
            return list(patterns)
        mask = self.model.detector.mask
        (rows, columns) = self._seen.of(lambda: torch.nonzero(mask, as_tuple=True), mask)
        return [pattern[:, rows, columns][:, None] for pattern in patterns]

    def _given(self, index: Tensor, expected: Tensor, counts: Tensor) -> dict[str, Tensor]:
        given = {"model": expected, "counts": counts, "occupancy": self.model.object.occupancy}
        if any({"amplitude", "phase"} & set(asked) for asked, _ in self.penalties.values()):
            given["amplitude"], given["phase"] = self.model.object.cut(self.model.scan(index)[0])
        return given


def _floor(divergence: noise.Divergence, measured: Measured, mask: Tensor) -> float:
    """What shot noise leaves of a pattern, from 400 of them."""
    some = np.unique(np.linspace(0, len(measured) - 1, min(len(measured), 400)).astype(int))
    return max(noise.shot_noise(divergence, measured[torch.as_tensor(some)], mask.cpu()), 1e-12)


def _asked(call: Penalty, name: str) -> Sequence[str]:
    """What a penalty wants, by the names of its positional parameters."""
    parameters = inspect.signature(call).parameters.values()
    asked = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for one in asked:
        if one not in GIVEN:
            raise BadInput(
                f"penalties: {name}", one, f"is nothing a penalty can ask for: use {', '.join(GIVEN)}"
            )
    return asked


def _name(call: Callable[..., Tensor]) -> str:
    return getattr(getattr(call, "func", call), "__name__", "")
