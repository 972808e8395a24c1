"""Objectives of the three stages, for `phaseloom.fitting.loop.fit`: selected views to losses.

One for each of the three steps: patches from patterns, images from patches, images from patterns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.fitting import device
from phaseloom.learning import weight_files as pretrained
from phaseloom.learning.layers import use_precision
from phaseloom.retrieval.losses import PredictedBatch
from phaseloom.retrieval.networks import stitching
from phaseloom.retrieval.networks.end_to_end import EndToEnd
from phaseloom.retrieval.networks.linear import ScanRecovery
from phaseloom.retrieval.networks.recovery import PatchRecoveryNet
from phaseloom.retrieval.networks.stitching import PhaseStitchingNet
from phaseloom.retrieval.training_samples import ViewBatch, ViewSelection, cut_views
from phaseloom.simulation.experiment import PIXELS_PER_STEP

__all__ = ["EndToEndObjective", "PatchDegradation", "PatchObjective", "RetrievalObjective"]
__all__ += ["StitchingObjective", "load_stage_network"]

Loss = Callable[[PredictedBatch], Tensor]

# The networks of each step.
STAGE_NETWORKS: dict[str, tuple[type[nn.Module], ...]] = {
    "patches": (PatchRecoveryNet, ScanRecovery),
    "stitching": (PhaseStitchingNet,),
    "end-to-end": (EndToEnd,),
}


class RetrievalObjective:
    """Selected views, through a network, to losses by name.

    With gradients enabled the network is in training mode, otherwise in evaluation mode. Losses are computed
    in single precision, also where the network is not.

    Attributes:
        net: on the device.
        scenes: looked up by their numbers.
        losses: by name.
        precision: of the network's arithmetic.
    """

    def __init__(
        self,
        net: nn.Module,
        scenes: Any,
        losses: Mapping[str, Loss],
        *,
        precision: Literal["float32", "bfloat16"] = "float32",
    ):
        self.net = net
        self.scenes = scenes
        self.losses = dict(losses)
        self.precision: Literal["float32", "bfloat16"] = precision

    def __call__(self, these: ViewSelection) -> dict[str, Tensor]:
        """Losses of a batch."""
        self.net.train(torch.is_grad_enabled())
        where = device.device_of(self.net)
        batch = cut_views(self.scenes, these).to(where)
        terms = self.terms(batch, these)
        return {name: value.float() for name, value in terms.items()}

    def terms(self, batch: ViewBatch, these: ViewSelection) -> dict[str, Tensor]:
        """Losses by name."""
        raise NotImplementedError

    def compute_losses(self, image: Tensor, batch: ViewBatch) -> dict[str, Tensor]:
        """Every loss of an image."""
        predicted = PredictedBatch(image.float(), batch.phase, batch.patterns, batch.experiments)
        return {name: loss(predicted) for name, loss in self.losses.items()}


class PatchObjective(RetrievalObjective):
    """First stage: the patterns of a window to the phase under it."""

    def terms(self, batch: ViewBatch, these: ViewSelection) -> dict[str, Tensor]:
        """Losses of the patch."""
        with use_precision(self.net, self.precision):
            image = self.net(batch.patterns, batch.optics, batch.coordinates)
        return self.compute_losses(image, batch)


class EndToEndObjective(RetrievalObjective):
    """Third stage: the patterns of a scan to its image; intermediate patches have a loss too.

    Attributes:
        share: weight of the patches' own losses.
    """

    share = 0.5

    def terms(self, batch: ViewBatch, these: ViewSelection) -> dict[str, Tensor]:
        """Losses of the image, and of its patches together."""
        net = self.net
        assert isinstance(net, EndToEnd)
        with use_precision(self.net, self.precision):
            patches, places = net.patches(batch.patterns, batch.optics)
            image = net.stitching(patches, places, (batch.phase.shape[-2], batch.phase.shape[-1]))
        wanted = _cut_patches(batch.phase, places, patches.shape[-1])
        few = PredictedBatch(patches.flatten(0, 1).float(), wanted.flatten(0, 1), batch.patterns, ())
        own = [loss(few) for name, loss in self.losses.items() if name != "physics"]
        return self.compute_losses(image, batch) | {"patches": self.share * torch.stack(own).sum()}


@dataclass(frozen=True)
class PatchDegradation:
    """How true patches are degraded, as those of a network are; each number is drawn from zero up to it.

    Attributes:
        noise: standard deviation, over that of the patch.
        blur: standard deviation, pixels.
        constant: standard deviation, radian.
        lost: share of patches that hold nothing.
    """

    noise: float = 0.3
    blur: float = 0.8
    constant: float = 1.0
    lost: float = 0.05

    def __call__(self, patches: Tensor, generator: torch.Generator) -> Tensor:
        """Degrade patches ``(b, k, y, x)``."""

        def random(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator).to(patches)

        count = patches.shape[:2]
        spread = patches.std((-2, -1), keepdim=True)
        wander = torch.randn(patches.shape, generator=generator).to(patches)
        soft = self.blur * random(*count, 1, 1)
        out = _blur_patches(patches, soft) + self.noise * random(*count, 1, 1) * spread * _blur_patches(
            wander, 0.7 + soft
        )
        out = out + self.constant * torch.randn(*count, 1, 1, generator=generator).to(patches)
        return torch.where(random(*count, 1, 1) < self.lost, torch.zeros_like(out), out)


class StitchingObjective(RetrievalObjective):
    """Second stage: true patches, degraded, to the image that they were cut from.

    Attributes:
        probes: along an edge of a window.
        stride: probes from a window to the next.
        degradation: see `PatchDegradation`.
    """

    probes = 14
    stride = 9
    degradation = PatchDegradation()

    def terms(self, batch: ViewBatch, these: ViewSelection) -> dict[str, Tensor]:
        """Losses of the image."""
        rows, columns = batch.patterns.shape[1:3]
        return self.compute_losses(self.stitch(batch.phase, (rows, columns), these.seeds), batch)

    def stitch(
        self, phase: Float[Tensor, "b y x"], scan: tuple[int, int], seeds: Iterable[int] | None
    ) -> Float[Tensor, "b y x"]:
        """Images that are joined from the true patches of phases.

        Args:
            phase: of scans, five pixels to a step.
            scan: their probes (rows, columns).
            seeds: of the errors of each scan's patches; ``None``: without errors.
        """
        first = stitching.list_windows(*scan, self.probes, self.stride)
        places = torch.tensor(first, dtype=torch.float32, device=phase.device)[None] * PIXELS_PER_STEP
        patches = _cut_patches(phase, places, PIXELS_PER_STEP * (self.probes + 1) + 1)
        if seeds is not None:
            patches = torch.stack([self._degrade(*one) for one in zip(patches, seeds, strict=True)])
        with use_precision(self.net, self.precision):
            return self.net(patches, places, (phase.shape[-2], phase.shape[-1]))

    def _degrade(self, patches: Tensor, seed: int) -> Tensor:
        return self.degradation(patches[None], torch.Generator().manual_seed(int(seed)))[0]


def load_stage_network(path: Path, knob: str, stage: str, /) -> nn.Module:
    """The network of a file, for a step.

    Args:
        path: of the file.
        knob: of the recipe that names it.
        stage: the step.

    Raises:
        BadInput: one of another step.
    """
    net = pretrained.load_network(path)
    kinds = STAGE_NETWORKS[stage]
    if not isinstance(net, kinds):
        fix = f"holds a {type(net).__name__}, here a {kinds[0].__name__} is wanted: name its file"
        raise BadInput(f"train: {knob}", str(path), fix)
    return net


def _cut_patches(phase: Tensor, places: Tensor, size: int) -> Tensor:
    """Patches ``(b, k, y, x)`` of images at whole places, those of one scan for all."""
    corners: Sequence[Sequence[int]] = places[0].round().long().tolist()
    return torch.stack([phase[:, y : y + size, x : x + size] for y, x in corners], 1)


def _blur_patches(patches: Tensor, width: Tensor) -> Tensor:
    """Patches after a Gaussian blur of a width each, pixels, by way of their transforms."""
    y = torch.fft.fftfreq(patches.shape[-2], device=patches.device)[:, None]
    x = torch.fft.rfftfreq(patches.shape[-1], device=patches.device)
    fall = torch.exp(-2 * (torch.pi * width) ** 2 * (y**2 + x**2))
    return torch.fft.irfft2(torch.fft.rfft2(patches) * fall, s=patches.shape[-2:])
