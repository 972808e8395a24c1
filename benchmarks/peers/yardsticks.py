"""Filters of other packages on the scans of `benchmarks.restoring`: BM3D and wavelets.

    python -m venv ENV; ENV/bin/pip install bm3d==4.0.3 PyWavelets scikit-image
    ENV/bin/python benchmarks/peers/yardsticks.py FOLDER SET OUT

The licence of ``bm3d`` allows non-commercial use only: it is a yardstick in an environment of its own and no
part of this package. Both are given what the halves of the counts say of the noise: BM3D its spectrum, from
their difference (coloured noise), the wavelets (BayesShrink, 10 shifts) its standard deviation. Written are
``OUT/bm3d/NAME.npy`` and ``OUT/wavelet/NAME.npy``.
"""

import sys
from pathlib import Path

import numpy as np
from bm3d import bm3d
from scipy.ndimage import gaussian_filter
from skimage.restoration import cycle_spin, denoise_wavelet

if not hasattr(np, "trapz"):  # bm3d 4.0.3 calls it by its name before NumPy 2.4
    np.trapz = np.trapezoid  # noqa: NPY201


def remove_plane(image):
    """The image without its plane."""
    y, x = np.indices(image.shape)
    design = np.column_stack([np.ones(image.size), y.ravel(), x.ravel()])
    return image - (design @ np.linalg.lstsq(design, image.ravel(), rcond=None)[0]).reshape(image.shape)


def main():
    """Filter all images of a set."""
    folder, name, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    for method in ("bm3d", "wavelet"):
        (out / method).mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob(f"{name}-*.npz")):
        with np.load(path) as file:
            whole, first, second = (
                remove_plane(file[key].astype(float)) for key in ("full", "first", "second")
            )
        noise = (first - second) / 2
        spectrum = gaussian_filter(np.abs(np.fft.fft2(noise)) ** 2, 3.0, mode="wrap")
        np.save(out / "bm3d" / f"{path.stem}.npy", bm3d(whole, spectrum))
        knobs = {"sigma": float(noise.std()), "method": "BayesShrink", "rescale_sigma": False}
        smooth = cycle_spin(whole, func=denoise_wavelet, max_shifts=9, shift_steps=3, func_kw=knobs)
        np.save(out / "wavelet" / f"{path.stem}.npy", smooth)


if __name__ == "__main__":
    main()
