"""Simulated 4D-STEM scans with real instruments' faults, independent of phaseloom.

    python -m benchmarks.faulty_scans FOLDER --set development --faults all
    python -m benchmarks.faulty_scans FOLDER --seeds 1000 1003 --faults rotation,descan

Seeds of the set ``held_back`` judge code that is frozen: do not simulate them before (the program asks
for ``--frozen COMMIT``). `draw_case` has the distributions, `simulate_case` a scan, `score_image` and
`score_geometry` compare results with the truth. Potentials are abTEM's independent atoms; everything
else is numpy and SciPy. Thermal diffuse scattering is not simulated (static displacements are).

Files of a case
---------------

``NAME.npy``: counts ``(slow, fast, ky, kx)``, uint16 or uint32. ``NAME.yaml``: energy, nominal angle per
pixel, nominal step, grid; in comments the nominal semi-angle and the defocus that the microscopist
believes (wrong by up to 30 %). ``NAME-truth.npz``: everything below.

Signs and units
---------------

Lengths in angstrom, angles in radian, frequencies in cycles per angstrom, vectors ``(row, column)``.

* ``F(k) = sum exp(-2 pi i k r) psi(r)``. A pattern is ``|F psi_exit|^2``, its centre on pixel ``n // 2``.
* The probe at ``r0`` is ``F^-1 {A exp(-i chi) exp(-2 pi i k r0)}``, with a hard aperture ``|k| <= semiangle
  / wavelength`` and, theta = wavelength |k|, ``chi = 2 pi / wavelength (theta^2 / 2 (C10 + C12 cos 2(phi -
  phi12)) + theta^3 / 3 (C21 cos(phi - phi21) + C23 cos 3(phi - phi23)) + theta^4 / 4 C30)``, phi =
  arctan2(k_row, k_column), of frequencies before the ``orientation``. C10 is minus the ``defocus``;
  defocus is positive for under-focus (the crossover lies behind the entrance face) and holds at the
  entrance face, the plane of slice 0.
* A slice multiplies by ``exp(+i phase)``, phase = interaction parameter times projected potential, positive
  on atoms; between slices the wave is multiplied by ``exp(-i pi wavelength spacing |k|^2)``; there is no
  flight after the last slice. ``phase`` of the truth is the sum of the slices on pixels of ``pixel``
  angstrom; pixel ``[i, j]`` lies at ``(i, j) pixel``.

Scan and detector
-----------------

The pattern of index ``(a, b)`` (slow, fast) has the nominal place ``step (a, b)``. The beam's place on the
specimen is ``positions[a, b]``, in the coordinates of ``phase``::

    positions = true_step R (a, b) + constant + drift + jitter,   R = [[cos, -sin], [sin, cos]](rotation)

so that a positive ``rotation`` turns the scan's row axis towards the column axis of patterns before
``orientation``; there, and in ``phase``, rows and columns of patterns and specimen are parallel.
``orientation = (transpose, flip_rows, flip_columns)`` is applied to each pattern in this order before it is
recorded: ``p.T``, ``p[::-1]``, ``p[:, ::-1]``. To undo it: flip columns, flip rows, transpose. In the axes of
recorded patterns the scan is ``matrix (a, b) nominal step``, ``matrix = (1 + step_error) flips transpose R``:
a program that takes patterns as they are must find ``matrix`` (or its twin ``-matrix`` with the sign of phase
and C10 reversed).

``pattern_shifts``: where the undiffracted beam lies, in pixels as recorded, off ``n // 2``: a plane of the
scan, a shift of each line and a constant. The true angle per pixel is ``true_angle``; ``semiangle`` is true,
and so the microscopist states it. ``source_size`` and ``focal_spread`` are standard deviations; they are
simulated by averaging patterns of displaced and defocused beams (`testbed.scan.beam_states`).
``hot_pixels`` and ``dead_pixels`` are ``(row, column)`` as recorded.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.testbed.draw import (
    DEVELOPMENT,
    FAULTS,
    HELD_BACK,
    SPECIMENS,
    Case,
    Faults,
    choose_faults,
    draw_case,
)
from benchmarks.testbed.scan import Scan, simulate_case, simulate_scan
from benchmarks.testbed.scoring import geometry_matrix, score_geometry, score_image

__all__ = [
    "DEVELOPMENT",
    "FAULTS",
    "HELD_BACK",
    "SPECIMENS",
    "Case",
    "Faults",
    "Scan",
    "choose_faults",
    "draw_case",
]
__all__ += [
    "geometry_matrix",
    "load_truth",
    "score_geometry",
    "score_image",
    "simulate_case",
    "simulate_scan",
]
__all__ += ["write_scan"]

SETS = {"development": DEVELOPMENT, "held_back": HELD_BACK}


def write_scan(scan: Scan, folder: Path, name: str) -> Path:
    """Write counts, side-car and truth; returns the path of the counts."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.npy"
    np.save(path, scan.counts)
    known = scan.known
    lines = [f"{key}: {known[key]}" for key in ("energy", "angle", "step", "grid")]
    lines += [f"# {key}, as the microscopist believes: {known[key]}" for key in ("semiangle", "defocus")]
    path.with_suffix(".yaml").write_text("\n".join(lines) + "\n")
    np.savez_compressed(folder / f"{name}-truth.npz", **scan.truth)
    return path


def load_truth(path) -> dict:
    """The arrays of a ``-truth.npz``, numbers and text as such."""
    with np.load(path) as file:
        return {key: file[key].item() if file[key].ndim == 0 else file[key] for key in file.files}


def main() -> None:
    """Write the scans of a set, or of some seeds, into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", choices=list(SETS), default="development")
    parser.add_argument("--seeds", type=int, nargs="*", help="instead of a whole set")
    parser.add_argument("--first", type=int, help="only so many of the set")
    parser.add_argument("--faults", default="all", help=f"all, none, or some of {', '.join(FAULTS)}")
    parser.add_argument("--frozen", help="commit of the frozen code that held_back scans will judge")
    given = parser.parse_args()
    seeds = given.seeds or list(SETS[given.set])[: given.first]
    if any(seed in HELD_BACK for seed in seeds) and not given.frozen:
        parser.error("held_back: freeze the code first, then give its commit by --frozen")
    for seed in seeds:
        began = time.process_time()
        scan = simulate_case(seed, given.faults)
        path = write_scan(scan, given.folder, draw_case(seed).name)
        print(f"{path}  {scan.counts.shape}  {time.process_time() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
