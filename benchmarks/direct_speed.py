"""CPU seconds and memory of a direct image of 256 x 256 patterns of 128 x 128 pixels, stage by stage.

    python -m benchmarks.direct_speed --out benchmarks/results/direct-speed-DATE.json

80 keV, 20 mrad, steps of 0.8 angstrom, defocus of 20 nm, 1e3 electrons per pattern, counts of one byte in
HDF5 (1.07 GB). Reading is part of ``survey`` and ``measure``; the image itself is ``transform`` and
``reconstruct_image``.
"""

import argparse
import json
import resource
import time
from collections import defaultdict
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from benchmarks.record import machine
from phaseloom.data import formats
from phaseloom.direct import bright_field, reconstruct, survey

WAVELENGTH, PIXEL, STEP = 0.0418, 0.4, 2  # angstrom, angstrom, pixels
PLACES, WINDOW = 256, 128
SEMIANGLE, DEFOCUS = 0.020, 200.0


def write_scan(path, electrons=1e3, seed=0):
    """Patterns of random blobs, 0.05 radian rms; a line of the scan at a time."""
    axis = np.fft.fftfreq(WINDOW, PIXEL)
    q = np.hypot(axis[:, None], axis)
    aperture = (q * WAVELENGTH < SEMIANGLE) * np.exp(1j * np.pi * WAVELENGTH * DEFOCUS * q**2)
    probe = np.fft.fftshift(np.fft.ifft2(aperture))
    probe = torch.as_tensor(probe / np.linalg.norm(probe), dtype=torch.complex64)
    side = PLACES * STEP + WINDOW
    phase = gaussian_filter(np.random.default_rng(seed).standard_normal((side, side)), 1.5)
    windows = torch.polar(torch.ones(side, side), torch.as_tensor(0.05 * phase / phase.std()).float())
    windows = windows.unfold(0, WINDOW, STEP).unfold(1, WINDOW, STEP)
    torch.manual_seed(seed)
    with h5py.File(path, "w") as file:
        shape = (PLACES, PLACES, WINDOW, WINDOW)
        counts = file.create_dataset("data", shape, "u1", chunks=(1, 8, WINDOW, WINDOW))
        for line in range(PLACES):
            waves = torch.fft.fft2(windows[line, :PLACES] * probe, norm="ortho")
            rate = electrons * torch.fft.fftshift(waves, (-2, -1)).abs().square()
            counts[line] = torch.poisson(rate).clamp(max=255).to(torch.uint8).numpy()


def measure_times(scan, *, fit):
    """CPU seconds of each stage, and of all; peak resident memory in MB."""
    seconds = defaultdict(float)
    stages = [
        (reconstruct, "reconstruct_image"),
        (reconstruct, "_survey"),
        (reconstruct, "fit_optics_and_hand"),
    ]
    stages += [(survey.DiskSurvey, "measure"), (bright_field.BrightField, "transform")]
    originals = [(owner, name, getattr(owner, name)) for owner, name in stages]

    def watch(name, function):
        def watched(*given, **named):
            began = time.process_time()
            try:
                return function(*given, **named)
            finally:
                seconds[name.strip("_")] += time.process_time() - began

        return watched

    for owner, name, function in originals:
        setattr(owner, name, watch(name, function))
    began = time.process_time()
    try:
        found = reconstruct.reconstruct_scan(
            scan, semiangle=SEMIANGLE, aberrations={"defocus": DEFOCUS}, fit=fit
        )
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)
    seconds["all"] = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    row = {"seconds": {name: round(value, 2) for name, value in seconds.items()}, "peak MB": round(peak)}
    return row | {
        "defocus": round(-float(found.optics.aberrations.get("C10", 0.0)), 2),
        "explained": round(found.image.explained, 3),
    }


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scan.h5"
        write_scan(path)
        angle = WAVELENGTH / (WINDOW * PIXEL)
        knobs = {"energy": "79.83 keV", "angle": f"{angle} rad", "step": f"{STEP * PIXEL} A"}
        scan = formats.read(path, knobs=knobs)
        found = {"date": str(date.today()), "machine": machine(), "threads": 1}
        found |= {
            "optics given": measure_times(scan, fit=False),
            "optics fitted": measure_times(scan, fit=True),
        }
    text = json.dumps(found, indent=1)
    print(text)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
