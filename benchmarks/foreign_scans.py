"""Scans that judge networks, made without phaseloom: other materials, detectors, faults, and wrong optics.

    python -m benchmarks.foreign_scans FOLDER --set calibrate --seeds 0 120
    python -m benchmarks.foreign_scans FOLDER --set judge --seeds 5000 5100 --frozen COMMIT

To be run where abTEM and ASE are installed (an environment of its own; phaseloom is not needed). 22 x 22
probes of 80 keV, 20 mrad and 90 A of under-focus (up to 6 A off), steps of 2 A, on detectors of 24 to 56
pixels that reach to 1.35 to 3.2 semiangles; 1e4, 1e5, 1e6 or 1e8 electrons. Crystals in low zone axes and a
little tilted, layers, particles on carbon, amorphous films with a hole, 4 to 16 A thick. Of faults, a source
size, descan, an offset centre, bad pixels, a background, a drifting beam, each in some scans, and positions
off by up to 0.12 A. The detector is turned or mirrored in some, known to the user. In two of seven something
is wrong that the user does not know of (`benchmarks.testbed.foreign.WRONG`); with ``--any-probe`` nothing is,
and energy, semiangle, defocus and step are drawn.

A file holds ``counts (slow, fast, ky, kx)``, ``about`` (JSON: what the user knows and what is wrong) and
``truth (y, x)``: the projected phase on five pixels to a step, to 0.83 cycles per angstrom, from one step
before the first probe to one step beyond the last, in the axes of the nominal scan.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import fft

from benchmarks.testbed.draw import electron_wavelength
from benchmarks.testbed.foreign import SEMIANGLE, SETS, ForeignCase, draw_foreign, simulate_foreign
from benchmarks.testbed.scan import Scan
from benchmarks.testbed.scoring import sample

__all__ = ["describe_foreign", "write_foreign"]

BAND = (
    1.73  # semiangles over wavelength, in cycles per angstrom, that the truth keeps: as images of trainings
)
PIXELS_PER_STEP = 5


def describe_foreign(drawn: ForeignCase) -> dict:
    """What the user knows of a case, and what is wrong."""
    case = drawn.case
    return {
        "seed": case.seed,
        "material": drawn.material,
        "thickness": drawn.thickness,
        "wrong": drawn.wrong,
        "kilovolts": case.kilovolts,
        "semiangle": case.semiangle if drawn.wrong != "semiangle" else SEMIANGLE,
        "defocus": case.stated_defocus,
        "step": case.step,
        "angle": case.angle,
        "electrons": case.electrons,
        "orientation": list(drawn.told[0]),
        "rotation": drawn.told[1],
        "faults": {key: value for key, value in vars(case.faults).items() if np.any(value)},
    }


def sample_truth(drawn: ForeignCase, scan: Scan) -> np.ndarray:
    """The projected phase where an image of the scan has its pixels."""
    truth, case = scan.truth, drawn.case
    phase, pixel = truth["phase"], float(truth["pixel"])
    frequencies = [fft.fftfreq(n, pixel) for n in phase.shape]
    band = BAND * case.semiangle / electron_wavelength(case.kilovolts)
    keep = np.hypot(frequencies[0][:, None], frequencies[1]) <= band
    smooth = fft.ifft2(fft.fft2(phase) * keep).real
    line = (np.arange(PIXELS_PER_STEP * (case.scan - 1) + 11) - PIXELS_PER_STEP) / PIXELS_PER_STEP
    places = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    index = np.stack(np.meshgrid(*[np.arange(case.scan)] * 2, indexing="ij"), -1).reshape(-1, 2)
    design = np.column_stack([index, np.ones(len(index))])
    affine = np.linalg.lstsq(design, truth["positions"].reshape(-1, 2), rcond=None)[0]
    at = np.column_stack([places, np.ones(len(places))]) @ affine
    return sample(smooth, pixel, at).reshape(len(line), len(line)).astype(np.float32)


def write_foreign(
    folder: Path,
    name: str,
    seed: int,
    *,
    size: int = 22,
    electrons: float | None = None,
    any_probe: bool = False,
    source: tuple[float, float] | None = None,
) -> Path:
    """Simulate and write a scan.

    Args:
        folder: where it is written.
        name: of the set.
        seed: of the case.
        size: probes along a side.
        electrons: in a pattern, in place of those that were drawn.
        any_probe: draw energy, semiangle, defocus and step.
        source: smallest and largest size of the source, angstrom, in place of that of the case.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{seed}.npz"
    if not path.exists():
        drawn = draw_foreign(name, seed, scan=size, any_probe=any_probe)
        if electrons is not None:
            drawn = replace(drawn, case=replace(drawn.case, electrons=electrons))
        if source is not None:
            wide = float(np.random.default_rng([seed, 37]).uniform(*source))
            faults = replace(drawn.case.faults, source_size=wide)
            drawn = replace(drawn, case=replace(drawn.case, faults=faults))
        scan = simulate_foreign(drawn)
        about = json.dumps(describe_foreign(drawn))
        np.savez_compressed(path, counts=scan.counts, truth=sample_truth(drawn, scan), about=about)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", choices=list(SETS), default="calibrate")
    parser.add_argument("--seeds", type=int, nargs=2, required=True, help="first, and one beyond the last")
    parser.add_argument("--frozen", help="commit that the scans of `judge` are to judge")
    parser.add_argument("--electrons", type=float, help="in a pattern; default: drawn")
    parser.add_argument("--nothing-wrong", action="store_true", help="leave out seeds with wrong optics")
    parser.add_argument("--any-probe", action="store_true", help="draw energy, semiangle, defocus and step")
    parser.add_argument("--source", type=float, nargs=2, help="smallest and largest size, angstrom")
    given = parser.parse_args()
    if given.set == "judge" and not given.frozen:
        parser.error("scans of `judge` are made once the code is frozen: give --frozen COMMIT")
    for seed in range(*given.seeds):
        if given.nothing_wrong and draw_foreign(given.set, seed).wrong:
            continue
        choice = {"electrons": given.electrons, "any_probe": given.any_probe, "source": given.source}
        print(write_foreign(given.folder, given.set, seed, **choice), flush=True)


if __name__ == "__main__":
    main()
