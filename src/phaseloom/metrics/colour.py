"""How good a colour image under water looks, without a reference, and the light that its values stand for.

Both measures are weighted sums that were fitted to the opinions of observers. They disagree with the distance
to a reference, reward noise and false colours, and published programs differ in scales, windows and weights:
compare only numbers of one program, and rank restorers by `phaseloom.metrics.image` where there is a truth.

The **variants** here, for an image ``(3, y, x)`` in red, green, blue, display values (sRGB) of 0 to 1:

`uiqm` is ``0.0282 UICM + 0.2953 UISM + 3.5753 UIConM``, of values of 0 to 255 and windows of 10 x 10 pixels;
what is left over at the last rows and columns is not looked at.

- UICM: ``-0.0268 sqrt(m1^2 + m2^2) + 0.1586 sqrt(s1 + s2)`` of ``red - green`` and
  ``(red + green) / 2 - blue``: m is the mean without the lowest and the highest tenth, s the mean square
  about it, of all pixels.
- UISM: ``2 log(highest / lowest)``, averaged over windows, of each colour times the length of its Sobel
  gradient; colours count 0.299, 0.587 and 0.114. A window that holds a zero counts none.
- UIConM: ``-r log(r)`` averaged over windows, ``r = (highest - lowest) / (highest + lowest)`` of the mean of
  the three colours, in ordinary arithmetic and not the logarithmic one (PLIP) of the paper, as most published
  tables have it. It has its maximum at r = 1/e: more contrast than that counts less.

`uciqe` is ``0.4680 s + 0.2745 c + 0.2576 m`` in CIELAB (white D65) divided by 100: s is the standard
deviation of the chroma, c the range of lightness between its percentiles 1 and 99, m the mean saturation
``chroma / sqrt(chroma^2 + lightness^2)``.

Source:
    UIQM: Panetta, Gao & Agaian 2016, doi 10.1109/JOE.2015.2469915.
    UCIQE: Yang & Sowmya 2015, doi 10.1109/TIP.2015.2491020.
"""

import numpy as np
from numpy.typing import ArrayLike

from phaseloom.errors import BadInput

__all__ = ["convert_to_cielab", "decode_srgb", "encode_srgb", "uciqe", "uiqm", "underwater_colourfulness"]
__all__ += ["underwater_contrast", "underwater_sharpness"]

WINDOW_PIXELS = 10  # pixels along an edge of the windows of UISM and UIConM
TRIMMED_SHARE = 0.1  # share of pixels that a trimmed mean leaves out at each end
LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # weights of red, green and blue in UISM (ITU-R BT.601)
# Linear sRGB to CIE XYZ; the sums of its rows are the white of D65 (IEC 61966-2-1).
TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)


def decode_srgb(image: ArrayLike, /) -> np.ndarray:
    """Light from display values by the curve of sRGB, both 0 to 1; values beyond are clipped.

    Source:
        IEC 61966-2-1:1999.

    Example:
        >>> decode_srgb([0.0, 0.5, 1.0]).round(4).tolist()
        [0.0, 0.214, 1.0]
    """
    values = np.clip(_as_floats(image), 0, 1)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encode_srgb(light: ArrayLike, /) -> np.ndarray:
    """Display values of light, the inverse of `decode_srgb`.

    Example:
        >>> encode_srgb([0.0, 0.2140, 2.0]).round(3).tolist()
        [0.0, 0.5, 1.0]
    """
    values = np.clip(_as_floats(light), 0, 1)
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)


def convert_to_cielab(image: ArrayLike, /) -> np.ndarray:
    """Lightness ``L*`` (0 to 100), ``a*`` and ``b*`` of a colour image, white D65.

    Args:
        image: ``(3, y, x)`` display values, 0 to 1.

    Source:
        CIE 15:2004.

    Raises:
        BadInput: no three colours, or values beyond 0 to 1.

    Example:
        >>> (abs(convert_to_cielab(np.ones((3, 1, 2)))[:, 0, 0] - [100, 0, 0]) < 1e-4).tolist()
        [True, True, True]
    """
    matrix = np.array(TO_XYZ)
    share = np.tensordot(matrix / matrix.sum(1, keepdims=True), decode_srgb(_check_colours(image)), 1)
    edge = 6 / 29
    x, y, z = np.where(share > edge**3, np.cbrt(share), share / (3 * edge**2) + 4 / 29)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def uiqm(image: ArrayLike, /) -> float:
    """Underwater image quality measure, about 0 to 5, more is better; see the module for its variant.

    Args:
        image: ``(3, y, x)`` display values, 0 to 1.

    Raises:
        BadInput: no three colours, values beyond 0 to 1, or less than a window of 10 x 10 pixels.

    Example:
        >>> uiqm(np.full((3, 20, 20), 0.5))
        0.0
    """
    parts = (underwater_colourfulness(image), underwater_sharpness(image), underwater_contrast(image))
    return float(np.dot((0.0282, 0.2953, 3.5753), parts))


def underwater_colourfulness(image: ArrayLike, /) -> float:
    """UICM, the first term of `uiqm`: a cast lowers it, differences of colour raise it.

    Example:
        >>> cast = np.zeros((3, 4, 4)); cast[2] = 1.0
        >>> underwater_colourfulness(cast).__round__(4)
        -6.834
    """
    red, green, blue = 255 * _check_colours(image)
    means = []
    squares = []
    for opponent in (red - green, (red + green) / 2 - blue):
        ordered = np.sort(opponent, axis=None)
        left = int(TRIMMED_SHARE * ordered.size)
        means.append(ordered[left : ordered.size - left].mean())
        squares.append(((opponent - means[-1]) ** 2).mean())
    return float(-0.0268 * np.hypot(*means) + 0.1586 * np.sqrt(sum(squares)))


def underwater_sharpness(image: ArrayLike, /) -> float:
    """UISM, the second term of `uiqm`: ranges of edges in windows; not changed by a factor of any colour.

    Example:
        >>> underwater_sharpness(np.full((3, 10, 10), 0.25))
        0.0
    """
    from scipy.ndimage import sobel

    values = _check_colours(image)
    edges = np.hypot(sobel(values, 1), sobel(values, 2)) * values
    highest, lowest = _find_window_extremes(edges)
    counted = lowest > 1e-12  # below: rounding of a flat window
    ratio = np.divide(highest, lowest, out=np.ones_like(highest), where=counted)
    return float(np.dot(LUMA_WEIGHTS, 2 * np.log(ratio).mean((1, 2))))


def underwater_contrast(image: ArrayLike, /) -> float:
    """UIConM, the third term of `uiqm`; not changed by a factor of the whole image.

    Example:
        >>> stripes = np.broadcast_to([0.2, 0.6], (3, 10, 5, 2)).reshape(3, 10, 10)
        >>> underwater_contrast(stripes).__round__(4)
        0.3466
    """
    highest, lowest = _find_window_extremes(_check_colours(image).mean(0, keepdims=True))
    total = highest + lowest
    span = highest - lowest
    share = np.divide(span, total, out=np.zeros_like(span), where=total > 0)
    logs = np.log(share, out=np.zeros_like(share), where=share > 1e-12)
    return float(abs((share * logs).mean()))


def uciqe(image: ArrayLike, /) -> float:
    """Underwater colour image quality evaluation, about 0 to 1, more is better; see the module.

    Args:
        image: ``(3, y, x)`` display values, 0 to 1.

    Raises:
        BadInput: no three colours, or values beyond 0 to 1.

    Example:
        >>> uciqe(np.full((3, 4, 4), 0.5)) < 1e-4
        True
    """
    lightness, a, b = convert_to_cielab(image) / 100
    chroma = np.hypot(a, b)
    length = np.hypot(chroma, lightness)
    saturation = np.divide(chroma, length, out=np.zeros_like(chroma), where=length > 0)
    low, high = np.percentile(lightness, (1, 99))
    return float(0.4680 * chroma.std() + 0.2745 * (high - low) + 0.2576 * saturation.mean())


def _as_floats(image: ArrayLike) -> np.ndarray:
    values = np.asarray(image)
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)


def _check_colours(image: ArrayLike) -> np.ndarray:
    """The image in double precision, if it is one of red, green and blue."""
    values = np.asarray(image, np.float64)
    if values.ndim != 3 or len(values) != 3 or not values.size:
        raise BadInput("metrics.colour", values.shape, "must be red, green and blue (3, y, x)")
    low = float(values.min())
    high = float(values.max())
    if not (low >= 0 and high <= 1):
        fix = "must be display values of 0 to 1: divide by the largest grey value, or clip"
        raise BadInput("metrics.colour", f"values of {low:.3g} to {high:.3g}", fix)
    return values


def _find_window_extremes(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Highest and lowest value of each window ``(c, rows, columns)``."""
    rows, columns = (size // WINDOW_PIXELS for size in images.shape[1:])
    if not rows * columns:
        raise BadInput(
            "metrics.colour", images.shape, f"must hold {WINDOW_PIXELS} x {WINDOW_PIXELS} pixels at least"
        )
    whole = images[:, : rows * WINDOW_PIXELS, : columns * WINDOW_PIXELS]
    windows = whole.reshape(len(images), rows, WINDOW_PIXELS, columns, WINDOW_PIXELS)
    return windows.max((2, 4)), windows.min((2, 4))
