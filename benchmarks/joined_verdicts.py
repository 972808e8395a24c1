"""Verdicts of joined scans on dense pairs, good and bad ones, of the simulation of `benchmarks.joined_scans`.

    python -m benchmarks.joined_verdicts OUT.json --seeds 500 504

Each scan has 100 or 121 patterns whose probes overlap by 60 to 80 % of their diameter, so that good single
scans are *converged* (``single``, and ``single 1:30`` of either brightness: counted beside the pairs). Good
pairs: two samples, two polarisations, one sample under two probes, and two samples and two probes of 1e3 and
3e4 photons (1:30). Bad ones: positions of the other scan mirrored along x, another sample under share:
object, an offset that is wrong by 10 to 14 pixels. One that is wrong by 3 to 6 is taken up by the probe of
that scan, which moves by as much: it counts by itself, with the correlation of the object with the truth.

Of offsets that are not known (by up to a third of the field along each axis, ``offset: find``) there is the
error, in pixels of the object, and the correlation of the object with the truth (`joined_scans`); ``no common
field``: the scans are of different samples, and ``little in common``: they share a tenth of the field.
"""

import argparse
import json
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import phaseloom as pl
from benchmarks import joined_scans as pairs
from phaseloom.data.formats import native
from phaseloom.errors import BadInput

GOOD = ("two samples", "two polarisations", "two probes", "two samples 1:30", "two probes 1:30")
BAD = (
    "mirrored",
    "mirrored 1:30",
    "mirrored, one object",
    "offset wrong by 10 to 14",
    "offset wrong by 10 to 14 1:30",
    "other sample",
)
ABSORBED = ("offset wrong by 3 to 6", "offset wrong by 3 to 6 1:30")
UNKNOWN = ("unknown offset", "unknown offset 1:30")
LITTLE_IN_COMMON = "little in common"
APART = ("no common field", "no common field 1:30", LITTLE_IN_COMMON)
OTHER_SAMPLE = ("other sample", "no common field")
SHARED_OBJECT = ("two probes", "mirrored, one", "offset wrong", "unknown", LITTLE_IN_COMMON, *OTHER_SAMPLE)
WIDTH_OF_PROBE = 12
SETTINGS: dict[str, Any] = {"epochs": 60, "start": "none", "device": "cpu"}
DOSES = {"1:30": (1e3, 3e4)}
SINGLE = "single"
DOSE = 3e4


def draw_corners(rng: np.random.Generator) -> np.ndarray:
    """Corners of windows of a scan: 10 or 11 positions along each axis, 2.5 to 3.5 pixels apart."""
    places, step = int(rng.integers(10, 12)), rng.uniform(2.5, 3.5)
    raster = np.indices((places, places)).reshape(2, -1).T * step
    return (np.round(raster + rng.uniform(-1, 1, raster.shape)) + pairs.MARGIN).astype(int)


@dataclass(frozen=True)
class Pair:
    """Two scans, of which the second is the faulty one.

    Attributes:
        scans: as their files have them.
        things: transmission of the sample of each.
        corners: of the windows of each on its sample, pixels.
        step: settings of ``join``.
        offset: that is true, pixels, where it is looked for.
        wrong: error of the offset that is stated, pixels.
    """

    scans: list[pl.Scan4D]
    things: list[np.ndarray]
    corners: list[np.ndarray]
    step: dict[str, Any]
    offset: np.ndarray | None = None
    wrong: np.ndarray | None = None

    def score(self, parts: Sequence[Any]) -> list[float]:
        """Correlation of the object of each part with the truth, wherever a wrong offset has moved it."""
        moves = [0.0] if self.wrong is None else [0.0, self.wrong, -self.wrong]
        scores = []
        for part, thing, at in zip(parts, self.things, self.corners, strict=False):
            moved = [replace(part, positions=part.positions + move * np.array(part.pixel)) for move in moves]
            fields = [pairs.cut_field(one, thing, at) for one in moved]
            scores.append(round(max(pairs.align_phase(*field)[1] for field in fields), 4))
        return scores


def make_pair(kind: str, seed: int) -> Pair:
    """The scans of one kind of pair."""
    rng = np.random.default_rng(seed)
    first, second = pairs.draw_object(rng), pairs.draw_object(rng)
    probes = [pairs.draw_probe(rng, defocus) for defocus in pairs.DEFOCUS]
    magnetism = pairs.PHASE_OF_MAGNETISM * pairs.draw_field(rng, 3.0)
    shared = kind.startswith(SHARED_OBJECT)
    things = [first, first if shared and not kind.startswith(OTHER_SAMPLE) else second]
    if kind == "two polarisations":
        things = [first * np.exp(1j * magnetism), first * np.exp(-1j * magnetism)]
    doses = DOSES.get(kind.rsplit(maxsplit=1)[-1], (DOSE, DOSE))
    doses = doses[::-1] if rng.uniform() < 0.5 else doses
    corners = [draw_corners(rng) for _ in range(2)]
    offset = draw_offset(rng, kind, corners) if kind in (*UNKNOWN, *APART) else None
    if offset is not None:
        corners[1] = corners[1] + offset
    scans = [
        pairs.record_at(rng, thing, probes[shared * n], at, dose)
        for n, (thing, at, dose) in enumerate(zip(things, corners, doses, strict=True))
    ]
    step: dict[str, Any] = {"share": "object" if shared else "probe"}
    if offset is not None:
        scans[1] = replace(scans[1], positions=scans[1].positions - offset * pairs.PIXEL)
        step["offset"] = "find"
    if kind.startswith("mirrored"):
        low, high = scans[1].positions.min(0), scans[1].positions.max(0)
        mirrored = scans[1].positions * [1, -1] + [0, low[1] + high[1]]
        scans[1] = replace(scans[1], positions=mirrored)
    if kind.startswith("offset wrong"):
        low, high = (10, 14) if "14" in kind else (3, 6)
        size, angle = rng.uniform(low, high), rng.uniform(0, 2 * np.pi)
        wrong = size * np.array([np.sin(angle), np.cos(angle)])
        step["offset"] = [f"{one:.1f} A" for one in wrong * pairs.PIXEL]
        return Pair(scans, things, corners, step, None, wrong)
    return Pair(scans, things, corners, step, offset)


def draw_offset(rng: np.random.Generator, kind: str, corners: list[np.ndarray]) -> np.ndarray:
    """What the stage does not say, whole pixels: up to a third of the field, or all of it but a tenth."""
    field = np.ptp(corners[0], axis=0)
    if kind != LITTLE_IN_COMMON:
        return np.round(rng.uniform(-1 / 3, 1 / 3, 2) * field).astype(int)
    return np.array([0, round(0.9 * field[1]) + WIDTH_OF_PROBE])


def judge(kind: str, seed: int, folder: Path) -> dict[str, Any]:
    """The verdict of one pair, or of its first scan alone."""
    pair = make_pair(kind.replace(SINGLE, "two samples").strip(), seed)
    files = [folder / f"{n}.h5" for n in range(2)]
    for scan, file in zip(pair.scans, files, strict=True):
        native.write(scan, file)
    row: dict[str, Any] = {"kind": kind, "seed": seed, "patterns": [len(one) for one in pair.scans]}
    if pair.offset is not None:
        row["true offset"] = pair.offset.tolist()
    try:
        job = pl.Job.begin(pl.Reconstruct.of(SETTINGS | list_settings(kind, pair, files)))
    except BadInput as refused:
        return row | {"verdict": "refused", "sentence": str(refused)}
    for _ in job:
        pass
    result = job.result()
    row |= {"verdict": result.verdict_code, "sentence": result.verdict, "loss": result.metrics.get("loss")}
    row["scans"] = [{k: v for k, v in one.items() if k != "verdict"} for one in result.scans]
    if pair.offset is not None:
        found = np.array(job.recorded.prepare[0].values["offset"]) / pairs.PIXEL
        row["found offset"] = found.round(2).tolist()
        row["error"] = round(float(np.hypot(*(found - pair.offset))), 2)
    row["correlation"] = pair.score([result] if kind.startswith(SINGLE) else result.split())
    return row


def list_settings(kind: str, pair: Pair, files: list[Path]) -> dict[str, Any]:
    """Settings of a run."""
    shared = pair.step["share"] == "object"
    begin = [f"{pairs.DEFOCUS[shared * n]} um" for n in range(2)]
    probe: dict[str, Any] = {"from_patterns": {"defocus": begin[0], "modes": 1}}
    if kind.startswith(SINGLE):
        return {"file": str(files[0]), "probe": probe}
    if shared:
        probe = {"of_each_scan": {"defocus_values": begin, "modes": 1}}
    steps = [{"join": {"path": str(files[1]), **pair.step}}]
    return {"file": str(files[0]), "probe": probe, "prepare": steps}


def count_verdicts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many pairs there are, and how many have which verdict; *doubted*: doubtful or a wrong start."""
    found = [row["verdict"] for row in rows]
    codes = {code: found.count(code) for code in sorted(set(found))}
    return {"count": len(found), "doubted": sum(one in ("doubtful", "wrong_start") for one in found)} | codes


def main() -> None:
    """Run all kinds and seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON; rows are added to those that it holds already")
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "END"), default=(500, 504))
    parser.add_argument(
        "--kinds", nargs="+", default=[SINGLE, f"{SINGLE} 1:30", *GOOD, *BAD, *ABSORBED, *UNKNOWN, *APART]
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    rows = json.loads(given.out.read_text())["rows"] if given.out.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        for kind in given.kinds:
            for seed in range(*given.seeds):
                rows.append(judge(kind, seed, Path(folder)))
                print(rows[-1], flush=True)
            tree = {"commit": commit, "machine": f"{platform.machine()}, one thread, shared"}
            given.out.write_text(json.dumps(tree | summarise(rows) | {"rows": rows}, indent=1) + "\n")


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Verdicts of each kind, and of good and bad ones together; errors of offsets that were found."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    groups = {kind: (kind,) for kind in kinds} | {
        "good": GOOD,
        "bad": BAD,
        "unknown": UNKNOWN,
        "apart": APART,
    }
    tree = {}
    for name, group in groups.items():
        own = [row for row in rows if row["kind"] in group]
        tree[name] = count_verdicts(own)
        scores = [min(row["correlation"]) for row in own if "correlation" in row]
        tree[name] |= {"lowest correlation": min(scores)} if scores else {}
        errors = [row["error"] for row in own if "error" in row]
        tree[name] |= (
            {"largest error": max(errors), "median error": round(float(np.median(errors)), 2)}
            if errors
            else {}
        )
    return tree


if __name__ == "__main__":
    main()
