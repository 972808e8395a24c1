"""The objective of a fit: measured counts against the model, and penalties."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phaseloom.data.counts import get_present, list_own_patterns, load_counts
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.physics.cache import TensorCache
from phaseloom.physics.patches import Box
from phaseloom.ptycho import noise
from phaseloom.ptycho.model import Ptychography

__all__ = ["CountLoader", "Likelihood", "Misfit"]

MAX_FLOAT_BYTES = 32_000_000
"""Bytes of float patterns that are kept in the detector's order; larger scans would not notice."""

MAX_GPU_MEMORY_SHARE = 0.4
"""Of a GPU's free memory that patterns may take to lie there from the first batch on."""


class CountLoader:
    """Counts of a scan as float batches in the detector's order.

    On a CPU, patterns are read, made float and arranged once, when first asked for, unless they take more
    than ``MAX_FLOAT_BYTES`` bytes. Those of larger scans are read, made float and arranged batch by batch.

    On another device patterns lie as they were counted, in their own integers, if there is room
    (`MAX_GPU_MEMORY_SHARE`).
    Otherwise a batch is read and sent while the device works on the one before, if it was announced
    (`prefetch`); to a GPU from pinned memory, beside its work.
    """

    def __init__(self, scan: Scan4D, arrange: Callable[[Tensor], Tensor]):
        self.counts = scan.counts
        self.arrange = arrange
        self.rows, self.place = get_present(scan.counts)
        self.in_memory: DevicePatterns | None = None
        self.on_device: dict[torch.device, DevicePatterns | None] = {}
        self.in_transfer: dict[int, tuple[Tensor, TensorTransfer]] = {}

    def __len__(self) -> int:
        """Number of patterns."""
        return self.counts.shape[0]

    def __getitem__(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b y x"]:
        """The patterns of an index, arranged on its device."""
        if index.device.type != "cpu":
            here = self._find_on_device(index.device)
            found = (
                self._read_stored(index.cpu().numpy()).to(index.device)
                if here is None
                else here.select(index)
            )
            return self._to_float(found)
        kept = self.list_kept()
        return self._read(index.numpy(), np.float32) if kept is None else kept.select(index)

    def list_kept(self) -> "DevicePatterns | None":
        """All patterns as floats, made when first asked for; ``None`` where they are too many."""
        if 4 * int(np.prod(self.rows.shape)) > MAX_FLOAT_BYTES:
            return None
        if self.in_memory is None:
            all_rows = self._arrange(load_counts(self.rows), np.float32)
            self.in_memory = DevicePatterns.locate(torch.device("cpu"), all_rows, self.place)
        return self.in_memory

    def list_on_device(self, device: torch.device, /) -> "tuple[DevicePatterns, np.dtype] | None":
        """All patterns on a device other than the CPU, and the type that their bits mean.

        ``None`` where there is no room for them.
        """
        here = self._find_on_device(device)
        return None if here is None else (here, _stored_dtype(self.rows.dtype))

    def prefetch(self, pieces: Sequence[Tensor], device: torch.device, /) -> None:
        """Begin to send what `load` will be asked for next, and forget what it was not asked for."""
        if device.type != "cpu":
            self.in_transfer = {id(piece): (piece, self._start_transfer(piece, device)) for piece in pieces}

    def load(self, index: Int[Tensor, " b"], device: torch.device, /) -> tuple[Tensor, Tensor]:
        """An index and its patterns on a device."""
        if index.device == device:
            return index, self[index]
        _, sent = self.in_transfer.pop(id(index), (index, None))
        there, counts = (sent or self._start_transfer(index, device)).wait()
        return there, self[there] if counts is None else self._to_float(counts)

    def _start_transfer(self, index: Tensor, device: torch.device) -> "TensorTransfer":
        """An index, and its patterns unless they are there already."""
        if self._find_on_device(device) is not None:
            return TensorTransfer.start(device, index)
        return TensorTransfer.start(device, index, self._read_stored(index.numpy()))

    def _find_on_device(self, device: torch.device) -> "DevicePatterns | None":
        """All patterns that are here on a device, if there was room for them when first asked."""
        if device not in self.on_device:
            size = _stored_dtype(self.rows.dtype).itemsize * int(np.prod(self.rows.shape))
            self.on_device[device] = self._send_all(device) if size <= _free_bytes(device) else None
        return self.on_device[device]

    def _send_all(self, device: torch.device) -> "DevicePatterns":
        """All patterns that are here, sent bit by bit."""
        pieces = max(1, 4 * int(np.prod(self.rows.shape)) // MAX_FLOAT_BYTES)
        parts = [part for part in np.array_split(np.arange(self.rows.shape[0]), pieces) if len(part)]
        kept = _stored_dtype(self.rows.dtype)
        sent = [self._arrange(np.asarray(self.rows[part]), kept).to(device) for part in parts]
        return DevicePatterns.locate(device, torch.cat(sent), self.place)

    def _read(self, index: np.ndarray, dtype: Any) -> Tensor:
        """Patterns as numbers of some kind."""
        return self._arrange(np.asarray(self.counts[index]), dtype)

    def _arrange(self, patterns: np.ndarray, dtype: Any) -> Tensor:
        """Patterns in the detector's order."""
        read = patterns.astype(dtype)
        return self.arrange(torch.from_numpy(read.view(np.int16) if read.dtype == np.uint16 else read))

    def _read_stored(self, index: np.ndarray) -> Tensor:
        """Patterns as they are kept; two bytes without a sign as if they had one, for torch's sake."""
        return self._read(index, _stored_dtype(self.counts.dtype))

    def _to_float(self, counts: Tensor) -> Tensor:
        """Stored patterns as numbers of single precision."""
        numbers = counts.to(torch.float32)
        return numbers.remainder_(65536) if _stored_dtype(self.counts.dtype) == np.uint16 else numbers


class DevicePatterns(NamedTuple):
    """Patterns on a device, and where among them each one of the scan is; ``None``: at its own number."""

    patterns: Tensor
    place: Tensor | None

    @classmethod
    def locate(cls, device: torch.device, patterns: Tensor, place: np.ndarray | None) -> "DevicePatterns":
        """Patterns that are on a device already, and their places, sent there."""
        return cls(patterns, None if place is None else torch.from_numpy(place).to(device))

    def select(self, index: Tensor) -> Tensor:
        """The patterns of an index of the scan."""
        return self.patterns.index_select(0, index if self.place is None else self.place[index])


@dataclass(frozen=True)
class TensorTransfer:
    """Tensors on their way to a device; to a GPU from pinned memory on a stream of their own."""

    tensors: tuple[Tensor, ...]
    stream: torch.cuda.Stream | None = None

    @classmethod
    def start(cls, device: torch.device, *tensors: Tensor) -> "TensorTransfer":
        """Send, and do not wait."""
        if device.type != "cuda":
            return cls(tuple(one.to(device, non_blocking=True) for one in tensors))
        stream = _copy_stream(device)
        with torch.cuda.stream(stream):
            return cls(tuple(one.pin_memory().to(device, non_blocking=True) for one in tensors), stream)

    def wait(self) -> tuple[Tensor, Tensor | None]:
        """The first tensor, and the second if there is one; what the device does next waits for them."""
        if self.stream is not None:
            now = torch.cuda.current_stream(self.tensors[0].device)
            now.wait_stream(self.stream)
            for one in self.tensors:
                one.record_stream(now)
        return self.tensors[0], self.tensors[1] if len(self.tensors) > 1 else None


@lru_cache(maxsize=8)
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which patterns are sent."""
    return torch.cuda.Stream(device)


def _free_bytes(device: torch.device) -> int:
    """Bytes that patterns may take on a device."""
    return (
        int(MAX_GPU_MEMORY_SHARE * torch.cuda.mem_get_info(device)[0])
        if device.type == "cuda"
        else MAX_FLOAT_BYTES
    )


def _stored_dtype(dtype: np.dtype) -> np.dtype:
    """Integers of one or two bytes as they are, all else in single precision."""
    return dtype.newbyteorder("=") if dtype.kind in "iu" and dtype.itemsize <= 2 else np.dtype(np.float32)


Penalty = Callable[..., Tensor]

PENALTY_ARGUMENTS = ("model", "counts", "amplitude", "phase", "occupancy")
"""What a penalty may ask for by the names of its first parameters."""


PATTERNS_FOR_NOISE_FLOOR = 400
"""Patterns, spread over the scan, from which losses are estimated that belong to the data alone."""

WAVE_BYTES_AT_ONCE = 4_194_304
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
        self.model = model
        self.divergence = divergence
        self.measured = CountLoader(scan, lambda counts: counts)
        self.mask = torch.as_tensor(scan.mask)
        self.floor = _shot_noise_floor(divergence, self.measured, self.mask)

    def __call__(self, index: Int[Tensor, " b"]) -> dict[str, Tensor]:
        """Mean loss over the patterns of a batch."""
        index, counts = self.measured.load(index, self._device())
        expected = self.model(index)
        if expected.shape != counts.shape or expected.is_complex():
            wanted = tuple(counts.shape)
            fix = f"does not have one pattern for each index: let forward give real counts {wanted}"
            raise BadInput("Misfit: model", f"{expected.dtype} {tuple(expected.shape)}", fix)
        self.mask = self.mask.to(expected.device)
        each = self.divergence(expected, counts.to(expected.dtype)) * self.mask
        return {"noise": each.sum() / (len(index) * self.floor)}

    def prefetch(self, pieces: Sequence[Tensor]) -> None:
        """Begin to send the patterns of the batch that comes next."""
        self.measured.prefetch(pieces, self._device())

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

    Args:
        model: of the experiment.
        scan: the measured patterns.
        divergence: of a pixel.
        penalties: by name.
        measured: the patterns of another likelihood of this scan, which may have them on the device already.

    Attributes:
        judging: names of the terms that compare with counts, and so may judge patterns held out.
        recordable: whether a GPU may record a batch and replay it: what users add may not be the same twice.
    """

    def __init__(
        self,
        model: Ptychography,
        scan: Scan4D,
        divergence: noise.Divergence = noise.amplitude,
        penalties: Mapping[str, Penalty] | None = None,
        *,
        measured: CountLoader | None = None,
    ):
        self.model = model
        self.divergence = divergence
        self.measured = measured or CountLoader(scan, model.detector.arrange)
        self.penalties = {
            name: (_read_arguments(call, name), call) for name, call in (penalties or {}).items()
        }
        self.recordable = all(
            _is_own(call) for call in (divergence, *(penalties or {}).values(), type(model))
        )
        self.nothing_masked = bool(model.detector.mask.all())
        self._unmasked_pixels: TensorCache[tuple[Tensor, ...]] = TensorCache()
        self.has_noise_model = _function_name(divergence) != "none"
        self.floor = 1.0
        if self.has_noise_model:
            self.floor = _shot_noise_floor(divergence, self.measured, model.detector.mask)
        asked = {name for names, _ in self.penalties.values() for name in names}
        self.needs_patterns = not self.has_noise_model or bool(asked & {"model", "counts"})
        self.data_terms = ["noise"] if self.has_noise_model else []
        self.data_terms += [name for name, (asked, _) in self.penalties.items() if "counts" in asked]

    def __call__(self, index: Int[Tensor, " b"]) -> dict[str, Tensor]:
        """Mean loss over the patterns of a batch, and every penalty."""
        index, counts = self.measured.load(index, self.model.scan.start.device)
        counts = counts.to(self.model.scan.start.dtype)
        terms = {}
        if not self.needs_patterns:
            terms["noise"] = self.model.misfit(index, counts, self.divergence) / (len(index) * self.floor)
            expected = counts
        else:
            expected = self.model(index)
            mask = self.model.detector.mask
            if self.has_noise_model:
                terms["noise"] = (self.divergence(expected, counts) * mask).sum() / (len(index) * self.floor)
        if self.penalties:
            given = self._penalty_inputs(index, *self._select_unmasked(expected, counts))
            terms |= {
                name: _require_one_number(call(*(given[a] for a in asked)), name)
                for name, (asked, call) in self.penalties.items()
            }
        return terms

    def set_noise(self, divergence: noise.Divergence) -> None:
        """Compare by another noise model from now on."""
        known = noise.find_compiled_form(divergence)
        if known is not None and known == noise.find_compiled_form(self.divergence):
            return
        self.divergence = divergence
        self.floor = _shot_noise_floor(divergence, self.measured, self.model.detector.mask)

    @cached_property
    def counts_are_whole(self) -> bool:
        """Whether counts are numbers of quanta, by some patterns."""
        counts = self.measured[_spread_indices(len(self.measured), PATTERNS_FOR_NOISE_FLOOR)]
        return bool((counts == counts.round()).all())

    def prefetch(self, pieces: Sequence[Tensor]) -> None:
        """Begin to send the patterns of the batch that comes next."""
        self.measured.prefetch(pieces, self.model.scan.start.device)

    def boxes(self, index: Int[Tensor, " b"]) -> list[Box]:
        """Rectangles of the object that hold the windows of a batch."""
        place = self.model.scan(index.to(self.model.scan.start.device))[0]
        return self.model.object.window_boxes(place)

    @property
    def owners(self) -> Int[np.ndarray, " n"] | None:
        """The process that models each pattern, where the object is in tiles."""
        tiling = self.model.scan.canvas.tiling
        return None if tiling is None else tiling.owners

    def select_own(self, index: Int[Tensor, " b"]) -> Int[Tensor, " m"]:
        """Those patterns of an index that this process can model: all of them, without tiles."""
        return index if self.owners is None else index[team().owns(index, self.owners)]

    def sum_over_tiles(self, found: Tensor) -> Tensor:
        """The sum, in place, of what all processes found for their patterns (`select_own`)."""
        return found if self.owners is None else team().all_reduce(found)

    @property
    def best_piece_size(self) -> int:
        """Patterns that are best modelled together: their waves fill the caches of a CPU and no more.

        A larger batch is the same step, and a quicker one, in pieces of this size. On a GPU, which wants all
        the work it can get, pieces are a matter of memory alone.
        """
        start = self.model.scan.start
        if start.device.type != "cpu":
            return 2**31
        height, width = self.model.object.window
        modes = self.model.probe.modes().shape[0] * len(self.model.object.occupancy)
        modes *= len(self.model.scan.moments())
        wave = 2 * start.element_size() * height * width * modes
        return max(1, WAVE_BYTES_AT_ONCE // wave)

    def measure_residuals(self, over: Callable[[Tensor], Tensor] = lambda sums: sums, /) -> dict[str, float]:
        """What is left over all patterns, in the units that are compared between programs.

        ``amplitude``: mean over trusted pixels of ``(sqrt(model) - sqrt(counts))^2``, about 0.25 at the
        shot-noise limit of bright data. ``poisson``: twice the Poisson deviance's half per pixel with
        at least one count, 1 at the limit.

        Args:
            over: makes sums over all patterns of those over the patterns that are kept here.
        """
        amplitude, deviance, lit = over(self._sum_residuals()).tolist()
        pixels = len(self.measured) * float(self.model.detector.mask.sum())
        return {"amplitude": amplitude / pixels, "poisson": 2 * deviance / max(lit, 1.0)}

    @torch.no_grad()
    def _sum_residuals(self) -> Float[Tensor, "3"]:
        """Sums over the patterns that are kept here: of both, and of pixels with a count."""
        mask = self.model.detector.mask
        device = self.model.scan.start.device
        sums = torch.zeros(3, dtype=torch.float64)
        kept = torch.from_numpy(list_own_patterns(self.measured.counts))
        for index in kept.to(device).split(min(self.best_piece_size, 256)):
            counts = self.measured[index].to(device)
            expected = self.model(index)
            amplitude = (noise.amplitude(expected, counts, floor=0.0) * mask).sum()
            deviance = (noise.poisson(expected, counts) * mask).sum()
            sums += torch.stack([amplitude, deviance, ((counts >= 1) & mask).sum()]).double().cpu()
        return sums

    @cached_property
    @torch.no_grad()
    def mean_pattern_loss(self) -> float:
        """Loss of a model that knows the mean pattern alone; zero without a noise model."""
        if not self.has_noise_model:
            return 0.0
        some = torch.linspace(
            0, len(self.measured) - 1, min(len(self.measured), PATTERNS_FOR_NOISE_FLOOR)
        ).long()
        mask = self.model.detector.mask.cpu()
        mean = torch.stack([self.measured[part].sum(0) for part in some.split(64)]).sum(0) / len(some)
        known = (self.measured[part] for part in some.split(64))
        left = sum(float((self.divergence(mean.expand_as(part), part) * mask).sum()) for part in known)
        return left / (len(some) * self.floor)

    @torch.no_grad()
    def measure_losses(self, index: Int[Tensor, " b"], scan: Int[Tensor, " n"], /) -> tuple[float, float]:
        """Loss of some patterns, and of their mean pattern, in units of the shot noise of their own scan.

        Args:
            index: of the patterns.
            scan: of all patterns of the scan that they are from.
        """
        mask = self.model.detector.mask
        device = self.model.scan.start.device
        some = scan[_spread_indices(len(scan), PATTERNS_FOR_NOISE_FLOOR)]
        counts = self.measured[some]
        floor = max(noise.shot_noise(self.divergence, counts, mask.cpu()), 1e-12)
        mean = counts.mean(0, keepdim=True).expand_as(counts)
        mean_loss = float((self.divergence(mean, counts) * mask.cpu()).sum()) / len(counts)
        left = sum(
            float((self.divergence(self.model(part), self.measured[part].to(device)) * mask).sum())
            for part in index.to(device).split(min(self.best_piece_size, 256))
        )
        return left / (len(index) * floor), mean_loss / floor

    def _select_unmasked(self, *patterns: Tensor) -> list[Tensor]:
        """Patterns without their masked pixels, so that means are over what was measured."""
        if self.nothing_masked:
            return list(patterns)
        mask = self.model.detector.mask
        (rows, columns) = self._unmasked_pixels.get(lambda: torch.nonzero(mask, as_tuple=True), mask)
        return [pattern[:, rows, columns][:, None] for pattern in patterns]

    def _penalty_inputs(self, index: Tensor, expected: Tensor, counts: Tensor) -> dict[str, Tensor]:
        given = {"model": expected, "counts": counts, "occupancy": self.model.object.occupancy}
        if any({"amplitude", "phase"} & set(asked) for asked, _ in self.penalties.values()):
            given["amplitude"], given["phase"] = self.model.object.cut_amplitude_phase(
                self.model.scan(index)[0]
            )
        return given


def _shot_noise_floor(divergence: noise.Divergence, measured: CountLoader, mask: Tensor) -> float:
    """What shot noise leaves of a pattern, from `PATTERNS_FOR_NOISE_FLOOR` of them."""
    counts = measured[_spread_indices(len(measured), PATTERNS_FOR_NOISE_FLOOR)]
    form = noise.find_compiled_form(divergence)
    if form is None:
        noise.check_divergence(divergence)
        return max(noise.shot_noise(divergence, counts, mask.cpu()), 1e-12)
    key = form, tuple(counts.shape), _hash_bits(counts), _hash_bits(mask)
    if key not in _KNOWN_FLOORS:
        _KNOWN_FLOORS[key] = max(noise.shot_noise(divergence, counts, mask.cpu()), 1e-12)
    return _KNOWN_FLOORS[key]


def _spread_indices(count: int, most: int) -> Tensor:
    """So many indices at most, evenly spread."""
    return torch.as_tensor(np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)))


_KNOWN_FLOORS: dict[tuple[Any, ...], float] = {}
"""What `_shot_noise_floor` has found: short runs of a calibration ask for the same patterns many times."""


def _hash_bits(values: Tensor) -> bytes:
    return hashlib.blake2b(values.cpu().numpy().tobytes(), digest_size=16).digest()


def _read_arguments(call: Penalty, name: str) -> Sequence[str]:
    """What a penalty wants, by the names of its positional parameters."""
    parameters = inspect.signature(call).parameters.values()
    asked = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for one in asked:
        if one not in PENALTY_ARGUMENTS:
            raise BadInput(
                f"penalties: {name}",
                one,
                f"is nothing a penalty can ask for: use {', '.join(PENALTY_ARGUMENTS)}",
            )
    return asked


def _require_one_number(value: Any, name: str) -> Tensor:
    """What a penalty returned, if it can be added to a loss."""
    if not isinstance(value, Tensor) or value.ndim or value.is_complex():
        found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        fix = f"returns {found}: return one real number, such as the mean over all pixels"
        raise BadInput("penalties", name, fix)
    return value


def _is_own(function: Any) -> bool:
    """Whether a function, or what it is a part of, is one of this package's."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__module__", "")).startswith("phaseloom.")


def _function_name(call: Callable[..., Tensor]) -> str:
    return getattr(getattr(call, "func", call), "__name__", "")
