"""The best linear estimate: each step of the image from the patterns around it, solved in closed form."""

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.errors import BadInput
from phaseloom.learning.layers import PIXELS_PER_STEP, PatternIntake
from phaseloom.learning.weight_files import BuilderCall, record_builder

__all__ = ["LinearRecovery", "ScanRecovery", "linear"]

NEIGHBOURHOOD_PROBES = 3  # patterns along an edge of the neighbourhood that an estimate is made of
# Standard deviations, in steps of the scan, to which integrated centres of mass are blurred.
BLUR_WIDTHS = (0.0, 1.0, 2.0)
INTEGRAL_GAIN = 0.3  # factor that brings them to the size of the components
MIN_CONTRAST = 0.03  # contrast of a scan, radian, below which its errors are not blown up further
# The last of the optics' numbers, log10(dose / 1e4) / 3, of patterns without counting noise.
NOISELESS_DOSE_NUMBER = 1.0


class PatternFeatures(nn.Module):
    """Features of patterns: principal components, and centres of mass, integrated over the scan.

    A pattern and its neighbours determine what is near. Differences over longer distances follow from the
    deflections in between: centres of mass are proportional to the gradient of the phase, blurred by the
    probe, so their integral, blurred to several widths, holds the low frequencies of the phase.

    Attributes:
        intake: to amplitudes.
        basis: ``(component, y * x)``, orthonormal rows.
    """

    def __init__(self, patterns: int, components: int):
        super().__init__()
        if not 1 <= components <= patterns**2:
            fix = f"must be 1 to the {patterns**2} pixels of a pattern"
            raise BadInput("model: components", components, fix)
        self.intake = PatternIntake(patterns)
        self.basis = nn.Parameter(torch.zeros(components, patterns**2))

    @property
    def count(self) -> int:
        """Numbers of each probe."""
        return len(self.basis) + len(BLUR_WIDTHS)

    def forward(self, patterns: Float[Tensor, "b rows cols y x"]) -> Float[Tensor, "b k rows cols"]:
        """Each pattern by itself: components, then the centre of mass (y, x)."""
        components = (self.intake(patterns).flatten(-2) @ self.basis.T).movedim(-1, 1)
        return torch.cat([components, compute_centres_of_mass(patterns)], 1)

    def join(self, each: Float[Tensor, "b k rows cols"]) -> Float[Tensor, "b n rows cols"]:
        """Components and integrated centres of mass, from the output of `forward` for a whole scan."""
        components = each[:, :-2]
        centres = each[:, -2:]
        return torch.cat([components, INTEGRAL_GAIN * integrate_slopes(centres, BLUR_WIDTHS)], 1)

    @torch.no_grad()
    def calibrate(self, patterns: Float[Tensor, "*batch y x"]) -> None:
        """Take mean and basis from typical patterns."""
        self.intake.calibrate(patterns)
        self.intake.spread.fill_(1.0)
        rows = self.intake(patterns).reshape(-1, self.basis.shape[1])
        _, vectors = torch.linalg.eigh((rows.T @ rows).double())
        self.basis.copy_(vectors[:, -len(self.basis) :].flip(1).T)


class ScanRecovery(nn.Module):
    """A network that encodes each pattern by itself and decodes the image of a whole scan at once.

    Attributes:
        components: of a pattern.
        recipe: the call that built it.
    """

    recipe: BuilderCall

    def __init__(self, patterns: int, components: int):
        super().__init__()
        self.components = PatternFeatures(patterns, components)

    def forward(
        self,
        patterns: Float[Tensor, "b rows cols y x"],
        optics: Float[Tensor, "b 8"],
        coordinates: Float[Tensor, "b 2"] | None = None,
    ) -> Float[Tensor, "b v u"]:
        """The image of each scan, radian, but for a constant; it is the same wherever the scan lies."""
        return self.draw(self.components(patterns), optics)

    def draw(
        self, each: Float[Tensor, "b k rows cols"], optics: Float[Tensor, "b 8"]
    ) -> Float[Tensor, "b v u"]:
        """The image from what `PatternFeatures` has found of each pattern."""
        raise NotImplementedError


class LinearRecovery(ScanRecovery):
    """Phase of a scan as a linear function of the amplitudes of its patterns, one function for each dose.

    Between the doses that it was fitted for, coefficients are interpolated over the logarithm of the dose.

    Attributes:
        weight: ``(dose, 25, 1 + component * 9)`` coefficients of the pixels of a step, the constant first.
        doses: what optics hold for the dose at each of them, ascending.
    """

    doses: Tensor

    def __init__(self, patterns: int, components: int, doses: Sequence[float]):
        super().__init__(patterns, components)
        count = 1 + self.components.count * NEIGHBOURHOOD_PROBES**2
        self.weight = nn.Parameter(torch.zeros(len(doses), PIXELS_PER_STEP**2, count))
        self.register_buffer("doses", torch.tensor(list(doses)))

    def draw(
        self, each: Float[Tensor, "b k rows cols"], optics: Float[Tensor, "b 8"]
    ) -> Float[Tensor, "b v u"]:
        """The image from what `PatternFeatures` has found of each pattern."""
        features = _gather_neighbours(self.components.join(each), NEIGHBOURHOOD_PROBES // 2)
        tokens = self._of(optics[:, -1]) @ features
        rows, columns = (n + 2 for n in each.shape[-2:])
        return tokens_to_image(tokens.unflatten(-1, (rows, columns)))

    def _of(self, dose: Float[Tensor, " b"]) -> Float[Tensor, "b 25 n"]:
        """Coefficients at doses."""
        if len(self.doses) == 1:
            return self.weight.expand(len(dose), -1, -1)
        upper = torch.searchsorted(self.doses, dose.contiguous()).clamp(1, len(self.doses) - 1)
        low = self.doses[upper - 1]
        high = self.doses[upper]
        share = ((dose - low) / (high - low)).clamp(0, 1)[:, None, None]
        return (1 - share) * self.weight[upper - 1] + share * self.weight[upper]

    @torch.no_grad()
    def solve(
        self,
        number: int,
        scans: Iterable[tuple[Float[Tensor, "b rows cols y x"], Float[Tensor, "b v u"]]],
        /,
        *,
        ridge: float = 1e-7,
    ) -> None:
        """Fit the coefficients of one dose by least squares over the inner steps of scans.

        Errors count in units of a scan's own contrast, so that light specimens are fitted as heavy ones are.

        Args:
            number: of the dose.
            scans: patterns at that dose, and their phases.
            ridge: added to the normal equations, relative to their mean diagonal.
        """
        normal = 0.0
        right = 0.0
        for patterns, phase in scans:
            features = _gather_inner(self.components.join(self.components(patterns)))
            wanted = _cut_inner_steps(phase - phase.mean((1, 2), keepdim=True), patterns.shape[1:3])
            scale = 1 / math.hypot(float(phase.std()), MIN_CONTRAST)
            features = features * scale
            wanted = wanted * scale
            normal = normal + (features.T @ features).double()
            right = right + (features.T @ wanted).double()
        if not isinstance(normal, Tensor) or not isinstance(right, Tensor):
            raise BadInput("model: linear", None, "cannot be fitted without a scan: give one or more")
        level = ridge * normal.diagonal()[1:].mean()
        damped = normal + level * torch.eye(len(normal), dtype=normal.dtype)
        self.weight[number] = torch.linalg.solve(damped, right).T.float()


def compute_centres_of_mass(patterns: Float[Tensor, "b rows cols y x"], /) -> Float[Tensor, "b 2 rows cols"]:
    """Centre of mass (y, x) of each pattern, pixels from zero frequency at ``[N // 2, N // 2]``.

    Example:
        >>> one = torch.zeros(1, 1, 1, 4, 4)
        >>> one[..., 3, 2] = 0.5
        >>> compute_centres_of_mass(one).flatten().tolist()
        [1.0, 0.0]
    """
    total = patterns.sum((-2, -1)).clamp_min(1e-6)
    found = []
    for axis in (-2, -1):
        size = patterns.shape[axis]
        place = torch.arange(size, device=patterns.device, dtype=patterns.dtype) - size // 2
        found.append((patterns.sum(-3 - axis) * place).sum(-1) / total)
    return torch.stack(found, 1)


def integrate_slopes(
    slope: Float[Tensor, "b 2 rows cols"], widths: Sequence[float], /
) -> Float[Tensor, "b n rows cols"]:
    """The map whose gradient is nearest to a field of slopes (y, x), blurred to several widths in steps.

    The field is continued by its mirror image, so that nothing has to match across the scan.

    Source:
        Frankot & Chellappa 1988, doi 10.1109/34.3909.

    Example:
        >>> ramp = torch.zeros(1, 2, 6, 8)
        >>> ramp[:, 1] = 2.0
        >>> rise = integrate_slopes(ramp, [0.0])[0, 0].diff(dim=1)[:, 2:-2]
        >>> bool((rise > 1.5).all() and (rise < 2.5).all())
        True
    """
    (rows, columns) = slope.shape[-2:]
    parts = []
    for axis, one in ((-2, slope[:, 0]), (-1, slope[:, 1])):
        wide = one.float()
        for flipped in (-2, -1):
            mirror = wide.flip(flipped)
            wide = torch.cat([wide, -mirror if flipped == axis else mirror], flipped)
        parts.append(torch.fft.fft2(wide))
    y = torch.fft.fftfreq(2 * rows, device=slope.device)[:, None]
    x = torch.fft.fftfreq(2 * columns, device=slope.device)
    square = y**2 + x**2
    square[0, 0] = 1.0  # of the mean, which no slope tells: zero over one
    spectrum = (y * parts[0] + x * parts[1]) / (2j * torch.pi * square)
    blurs = [torch.exp(-2 * (torch.pi * width) ** 2 * (y**2 + x**2)) for width in widths]
    return torch.stack([torch.fft.ifft2(spectrum * blur).real[:, :rows, :columns] for blur in blurs], 1)


def tokens_to_image(tokens: Float[Tensor, "b 25 rows cols"], /) -> Float[Tensor, "b v u"]:
    """Tokens, one beyond each edge of the scan included, to the pixels that each of them owns.

    Example:
        >>> tokens_to_image(torch.zeros(1, 25, 16, 16)).shape
        torch.Size([1, 76, 76])
    """
    return functional.pixel_shuffle(tokens, PIXELS_PER_STEP)[:, 0, 2:-2, 2:-2]


def _gather_neighbours(features: Float[Tensor, "b k rows cols"], near: int) -> Float[Tensor, "b n t"]:
    """A one and the components of the neighbours of every token, one token beyond the edges included."""
    wide = functional.pad(features, (near + 1,) * 4, mode="replicate")
    columns = functional.unfold(wide, 2 * near + 1)
    return torch.cat([torch.ones_like(columns[:, :1]), columns], 1)


def _gather_inner(features: Float[Tensor, "b k rows cols"]) -> Float[Tensor, "t n"]:
    """The same for the tokens whose neighbours are all measured, as rows."""
    columns = functional.unfold(features, NEIGHBOURHOOD_PROBES).movedim(1, -1).flatten(0, 1)
    return torch.cat([torch.ones_like(columns[:, :1]), columns], 1)


def _cut_inner_steps(phase: Float[Tensor, "b v u"], scan: Sequence[int]) -> Float[Tensor, "t 25"]:
    """The pixels of the inner steps of images, as rows."""
    edge = 3 + PIXELS_PER_STEP * (NEIGHBOURHOOD_PROBES // 2)
    inner = phase[
        :, edge : edge + PIXELS_PER_STEP * (scan[0] - 2), edge : edge + PIXELS_PER_STEP * (scan[1] - 2)
    ]
    return functional.pixel_unshuffle(inner[:, None], PIXELS_PER_STEP).movedim(1, -1).flatten(0, 2)


@record_builder("linear")
def linear(
    *,
    patterns: int = 24,
    components: int = 72,
    doses: tuple[float, ...] = (-1 / 3, 0.0, 1 / 3, 2 / 3, NOISELESS_DOSE_NUMBER),
) -> LinearRecovery:
    """Ridge regression on principal components of nine patterns: a baseline that is solved in seconds.

    Larger networks should be compared with this one, for the same probe and dose.

    Args:
        patterns: pixels along an edge of a pattern.
        components: kept of a pattern.
        doses: ``log10(dose / 1e4) / 3`` of each fit, ascending.

    Example:
        >>> net = linear(components=4)
        >>> net(torch.full((1, 5, 6, 24, 24), 1 / 576), torch.ones(1, 8)).shape
        torch.Size([1, 31, 36])
    """
    return LinearRecovery(patterns, components, doses)
