"""What simulated holograms can tell of their distance: Cramer-Rao bounds; NumPy, SciPy and PyTorch alone.

    python -m benchmarks.near_field_information OUT.json --seeds 9500 9506

The counts of a scan depend on the logarithm of the distance and on all that is not known: object,
illumination and positions. To first order a wrong distance changes the amplitudes on the detector (in units
of their noise) by ``J``; what the unknowns make up for is projected out by least squares, and the norm of the
rest is the Fisher information. An iteration of LSQR projects out more than the one before: each is an upper
bound of the information, and its root, inverted, a lower bound of the error of any unbiased estimate of the
distance.

The object is free (phase and absorption of each pixel), or of one material, whose ratio of absorption to
phase is one more unknown. Positions are known to the errors that were simulated. Source, point spread, flat
field and background are left out, so that bounds are those of an ideal instrument.

Beside it the one transformation under which no hologram of a scan changes at all (`check_scale`).
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, lsqr
from torch import Tensor

from benchmarks.near_field_scans import FINE, NearFieldCase, _illuminations, draw_case, draw_specimen

ITERATIONS = (15, 45)
KINDS = ("free", "one material")


def measure_information(case: NearFieldCase, kind: str) -> dict[int, float]:
    """Lower bounds of the standard error of the logarithm of the distance, by the iterations of LSQR."""
    model = _Holograms(case, kind)
    ones = torch.zeros(())
    slope = torch.func.jvp(lambda z: model.predict(model.zero, z), (ones,), (ones + 1,))[1]
    _, back = torch.func.vjp(lambda flat: model.predict(flat, ones), model.zero)

    def forward(flat: np.ndarray) -> np.ndarray:
        step = torch.as_tensor(flat, dtype=torch.float32)
        moved = torch.func.jvp(lambda one: model.predict(one, ones), (model.zero,), (step,))[1]
        return moved.numpy().astype(float)

    def adjoint(rest: np.ndarray) -> np.ndarray:
        return back(torch.as_tensor(rest, dtype=torch.float32))[0].numpy().astype(float)

    shape = (len(slope), len(model.zero))
    operator = LinearOperator(shape, matvec=forward, rmatvec=adjoint, dtype=float)  # type: ignore[call-arg]
    out = {0: 1 / float(slope.norm())}
    for count in ITERATIONS:
        left = lsqr(operator, slope.numpy().astype(float), atol=0, btol=0, iter_lim=count)[3]
        out[count] = 1 / float(left)
    return out


class _Holograms:
    """Amplitudes on the detector over their noise (a half), by unknowns that have about unit effect."""

    def __init__(self, case: NearFieldCase, kind: str):
        rng = np.random.default_rng((case.seed, 21))
        self.case = case
        self.kind = kind
        margin = 2 * math.ceil(min(40, 0.7 / case.fresnel)) + 8
        self.size = size = case.side + margin
        beams = _illuminations(case, FINE * size, case.pixel / FINE)
        _, beam = max(beams, key=lambda one: one[0])
        self.beam = torch.as_tensor(_coarsen(beam), dtype=torch.complex64)
        grid = np.indices((case.places, case.places)).reshape(2, -1).T - (case.places - 1) / 2
        places = np.round(case.step * (grid + rng.uniform(-0.25, 0.25, grid.shape))).astype(int)
        self.places = places - places.min(0)
        room = [size + n for n in self.places.max(0)]
        thick = _coarsen(draw_specimen(case, (FINE * room[0], FINE * room[1]))).real
        self.phase = torch.as_tensor(-case.phase * thick, dtype=torch.float32)
        frequency = torch.fft.fftfreq(size)
        self.frequency = frequency
        self.chi = torch.pi / case.fresnel * (frequency[:, None] ** 2 + frequency[None] ** 2)
        self.margin = margin // 2
        light = self._fly(self.beam, torch.zeros(())).abs().square()
        mid = slice(size // 2 - case.side // 4, size // 2 + case.side // 4)
        self.beam = self.beam * math.sqrt(case.counts / float(light[mid, mid].mean()))
        lit = torch.zeros(*room)
        for y, x in self.places:
            lit[y : y + size, x : x + size] += self.beam.abs().square()
        self.unit = 1 / torch.sqrt(4 * (lit + 0.01 * lit.max()))
        count = len(self.places)
        pixels = room[0] * room[1]
        sizes = [pixels, pixels if kind == "free" else 1, size**2, size**2, 2 * count]
        self.sizes = sizes
        self.zero = torch.zeros(sum(sizes))

    def _fly(self, wave: Tensor, log: Tensor) -> Tensor:
        chi = self.chi * torch.exp(log)
        return torch.fft.ifft2(torch.fft.fft2(wave) * torch.complex(torch.cos(chi), -torch.sin(chi)))

    def predict(self, flat: Tensor, log: Tensor) -> Tensor:
        """Amplitudes of all pixels, and the moves of positions over their errors."""
        case, size, count = self.case, self.size, len(self.places)
        first, second, real, imaginary, moves = flat.split(self.sizes)
        phase = self.phase + self.unit * first.reshape(self.phase.shape)
        if self.kind == "free":
            fade = case.absorption * self.phase + self.unit * second.reshape(self.phase.shape)
        else:
            fade = (case.absorption + 0.01 * second) * phase
        wave = torch.exp(torch.complex(fade, phase))
        step = torch.complex(real, imaginary).reshape(size, size) / math.sqrt(4 * count)
        beam = self.beam + step
        windows = torch.stack([wave[y : y + size, x : x + size] for y, x in self.places])
        moves = moves.reshape(count, 2) * 0.01
        turn = moves[:, 0, None, None] * self.frequency[:, None] + moves[:, 1, None, None] * self.frequency
        turn = torch.polar(torch.ones_like(turn), 2 * torch.pi * turn)
        windows = torch.fft.ifft2(torch.fft.fft2(windows) * turn)
        cut = slice(self.margin, self.margin + case.side)
        intensity = self._fly(beam * windows, log)[:, cut, cut].abs().square()
        seen = 2 * torch.sqrt(intensity + 0.1)
        return torch.cat([seen.flatten(), (moves / case.position_error).flatten()])


def _coarsen(image: np.ndarray) -> np.ndarray:
    """On pixels twice as wide, by cutting the spectrum."""
    spectrum = np.fft.fftshift(np.fft.fft2(image))
    cut = tuple(slice(n // 4, n // 4 + n // 2) for n in image.shape)
    return np.fft.ifft2(np.fft.ifftshift(spectrum[cut])) / FINE**2


def check_scale(factor: float = 1.1, size: int = 512) -> float:
    """Largest difference of holograms of one scan at two distances, over their mean: none but by the grid.

    A wave ``M psi(M x) exp(i pi x^2 / (wavelength R))`` behind the object that flies by ``z / M``, with
    ``M = 1 + z / (M R)``, makes the intensity that ``psi`` makes after ``z``: a lens and a scale. With
    ``psi(x) = probe(x) object(x - p)`` that is an object smaller by ``M`` at positions ``p / M`` in a curved
    beam, the same for all positions. So a scan tells its distance only as far as it tells the scale of its
    positions.
    """
    pixel, reach = 0.5, 30.0  # reach: wavelength times distance; the lens needs fine pixels
    half = size // 2
    y, x = (np.indices((size, size)) - half) * pixel
    rng = np.random.default_rng(0)
    blobs = [(rng.uniform(-20, 20, 2), rng.uniform(3, 6), rng.uniform(0.2, 1)) for _ in range(12)]

    def draw(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return sum(h * np.exp(-((y - c[0]) ** 2 + (x - c[1]) ** 2) / (2 * w**2)) for c, w, h in blobs)

    def shine(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.exp(-(y**2 + x**2) / (2 * 16.0**2) + 1j * np.sin(0.2 * y + 0.1 * x))

    def see(wave: np.ndarray, reach: float) -> np.ndarray:
        f = np.fft.fftfreq(size, pixel)
        flight = np.exp(-1j * np.pi * reach * (f[:, None] ** 2 + f[None] ** 2))
        return abs(np.fft.ifft2(np.fft.fft2(wave) * flight)) ** 2

    worst = 0.0
    shorter = reach / factor
    curvature = (factor - 1) / shorter  # of the lens: 1 / (wavelength R)
    lens = factor * np.exp(1j * np.pi * curvature * (y**2 + x**2))
    for p in ((0.0, 0.0), (7.3, -4.1), (-9.0, 12.6)):
        far = see(shine(y, x) * np.exp(-1j * (1 - 0.05j) * draw(y - p[0], x - p[1])), reach)
        small = tuple(factor * (axis - one / factor) for axis, one in zip((y, x), p, strict=True))
        near = see(lens * shine(factor * y, factor * x) * np.exp(-1j * (1 - 0.05j) * draw(*small)), shorter)
        worst = max(worst, float(abs(far - near).max() / far.max()))
    return worst


def main() -> None:
    """Write the bounds of cases."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in given.seeds:
        case = draw_case(seed)
        row = {"seed": seed, "specimen": case.specimen, "fresnel": round(case.fresnel, 3)}
        row |= {"counts": round(case.counts), "phase": round(case.phase, 2), "fills": case.fills}
        for kind in KINDS:
            found = measure_information(case, kind)
            row[kind] = {str(count): float(f"{error:.3g}") for count, error in found.items()}
        rows.append(row)
        print(json.dumps(row), flush=True)
        given.out.write_text(json.dumps({"scale": check_scale(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
