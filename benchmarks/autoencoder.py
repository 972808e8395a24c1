"""Autoencoders of patterns beside principal components, on films whose truth is known: numbers of the docs.

    python -m benchmarks.autoencoder accuracy --pixels 32 --out benchmarks/results/autoencoder-DATE-32.json
    python -m benchmarks.autoencoder halves --out benchmarks/results/autoencoder-DATE-halves.json
    python -m benchmarks.autoencoder throughput --out benchmarks/results/autoencoder-DATE-speed.json
    python -m benchmarks.autoencoder memory
    python -m benchmarks.autoencoder gpu --out benchmarks/results/autoencoder-DATE-gpu.json

``accuracy``: for every seed another film (`phaseloom.embedding.film.polar_film`), another split into blocks
and other first weights. ``explained`` is the share of the variance of patterns without noise, of blocks that
nothing was learned from, on the scale on which the noise of counts is one; clusters are of all patterns.
``plain``: components of counts as they are. ``halves``: patterns of few electrons, learned from whole and
from halves. ``denoised``: ptychography and deflections of measured and of denoised patterns. ``throughput``:
patterns per CPU second of a step of the training, in turns. ``memory``: a scan of 8 GB in a file, learned
from and embedded. ``gpu``: steps at 128 and 256 pixels in both precisions. One thread but for ``gpu``.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import torch

from benchmarks.record import machine
from phaseloom.embedding.block_split import split_blocks
from phaseloom.embedding.embeddings import denoise
from phaseloom.embedding.evaluate import finish_training
from phaseloom.embedding.film import LabelledScan, polar_film
from phaseloom.embedding.networks import autoencoder
from phaseloom.embedding.networks.anscombe import stabilise_counts
from phaseloom.embedding.networks.linear_skip import fit_principal_components
from phaseloom.embedding.objective import AutoencoderObjective, select_few
from phaseloom.embedding.train import Autoencode, AutoencoderTraining
from phaseloom.reconstruction.compare import compare_with_truth
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import simulate
from phaseloom.virtual.annuli import make_annulus
from phaseloom.virtual.images import measure_scan, subtract_plane

LATENTS, SEEDS, EPOCHS = (4, 8, 16, 32), range(5), 8


def explained(drawn: torch.Tensor, expected: np.ndarray) -> float:
    """Share of the variance of what is expected, on the scale on which the noise of counts is one."""
    truth = stabilise_counts(torch.from_numpy(expected).double())
    off = (stabilise_counts(drawn[:, 0].double().cpu()) - truth).square().sum()
    return float(1 - off / (truth - truth.mean(0)).square().sum())


def everything(objective: AutoencoderObjective) -> tuple[np.ndarray, torch.Tensor]:
    """Latents of all patterns, and the counts that they expect."""
    every = np.arange(len(objective.scan))
    parts = [objective.reconstruct(every[start : start + 64]) for start in range(0, len(every), 64)]
    latents, counts = (torch.cat(some) for some in zip(*parts, strict=True))
    return latents.cpu().numpy(), counts


def spread_rank(latents: np.ndarray) -> float:
    """Roy & Vetterli's effective rank: the exponential of the entropy of the singular values."""
    values = np.linalg.svd(latents - latents.mean(0), compute_uv=False)
    share = values / values.sum()
    return float(np.exp(-(share * np.log(np.maximum(share, 1e-300))).sum()))


def factored(film: LabelledScan, train: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, torch.Tensor]:
    """The same of factors that are not negative (NMF), of roots of counts."""
    from sklearn.decomposition import NMF

    roots = np.sqrt(np.asarray(film.scan.counts, np.float32)).reshape(len(film.labels), -1)
    model = NMF(count, init="nndsvda", max_iter=300, tol=1e-3, random_state=seed).fit(roots[train])
    latents = model.transform(roots)
    drawn = torch.from_numpy((latents @ model.components_) ** 2).reshape(-1, 1, *film.expected.shape[1:])
    return latents, drawn


def groups(latents: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    """Mean and spread over five seeds of the adjusted Rand index against the labels, of ways to group."""
    from phaseloom.metrics import clusters

    found = {}
    for name, rows in {"raw": latents, "whitened": clusters.standardise_columns(latents)}.items():
        for way in (clusters.fit_kmeans, clusters.fit_mixture):
            agreement = way(rows, 5, truth=labels).agreement
            found[f"{way.__name__} {name}"] = [agreement.mean, agreement.spread]
    return found


def trained(
    film: LabelledScan, count: int, seed: int, epochs: int, *, batch: int = 32, rate: float = 1e-3
) -> tuple[AutoencoderTraining, AutoencoderObjective]:
    """A training on a film, and the components that it began with."""
    model = {"recommended": {"latent_dim": count}}
    recipe = {"model": model, "epochs": epochs, "batch": batch, "rate": rate, "seed": seed, "device": "cpu"}
    training = AutoencoderTraining.begin(Autoencode.of(recipe), scan=film.scan)
    beside = AutoencoderObjective(autoencoder.pca(latent_dim=count), film.scan, {}, training.objective.few)
    beside.begin()
    for _ in training:
        pass
    return training, beside


def accuracy(pixels: int, count: int, seed: int, epochs: int) -> dict:
    """One film, three ways to say a pattern by so many numbers."""
    film = polar_film(pixels=pixels, seed=seed)
    began = time.process_time()
    training, beside = trained(film, count, seed, epochs)
    seconds, test = time.process_time() - began, training.parts.test
    ways = {"network": everything(training.objective), "pca": everything(beside)}
    ways["nmf"] = factored(film, training.parts.train, count, seed)
    out = {"pixels": pixels, "latents": count, "seed": seed, "epochs": epochs, "cpu_seconds": seconds}
    for name, (latents, drawn) in ways.items():
        out[name] = {
            "explained": explained(drawn[test], film.expected[test]),
            "deviance": float(_deviance(drawn[test], film.scan.counts[test])),
            "psnr": _psnr(drawn[test], film.expected[test]),
            "matrix_rank": int(np.linalg.matrix_rank(latents - latents.mean(0), rtol=1e-3)),
            "spread_rank": spread_rank(latents),
            "ari": groups(latents, film.labels),
        }
    return out


def plain(pixels: int, count: int, seed: int) -> dict:
    """Components of counts as they are, beside those of stabilised counts."""
    film = polar_film(pixels=pixels, seed=seed)
    parts = split_blocks(film.scan, seed=seed)
    rows = torch.from_numpy(np.asarray(film.scan.counts, np.float32))[:, None]
    mean, basis = fit_principal_components(rows[parts.train].flatten(1), count)
    away = rows[parts.test].flatten(1) - mean
    drawn = (mean + away @ basis.T @ basis).clamp_min(0).view(-1, 1, pixels, pixels)
    stable = AutoencoderObjective(
        autoencoder.pca(latent_dim=count), film.scan, {}, select_few(parts.train, film.scan)
    )
    stable.begin()
    other = everything(stable)[1][parts.test]
    named = {"counts": drawn, "stabilised": other}
    out = {name: explained(one, film.expected[parts.test]) for name, one in named.items()}
    return {"pixels": pixels, "latents": count, "seed": seed, **out}


def _deviance(drawn: torch.Tensor, counts: np.ndarray) -> torch.Tensor:
    from phaseloom.embedding.losses import poisson_deviance

    return poisson_deviance(drawn[:, 0].float(), torch.from_numpy(counts.astype(np.float32)))


def _psnr(drawn: torch.Tensor, expected: np.ndarray) -> float:
    """Of counts, the largest expected one as peak."""
    off = float((drawn[:, 0] - torch.from_numpy(expected)).square().mean())
    return float(10 * np.log10(expected.max() ** 2 / off))


def halves(count: int, seed: int, dose: float, epochs: int) -> dict:
    """How near to the truth patterns of few electrons are drawn, learned from whole ones or from halves."""
    film = polar_film(pixels=32, seed=seed, dose=dose)
    out: dict = {"latents": count, "seed": seed, "dose": dose, "epochs": epochs}
    for name, knobs in {"whole": {}, "halves": {"halves": True}, "pca": {"model": {"pca": {}}}}.items():
        model = {next(iter(knobs.get("model", {"recommended": {}}))): {"latent_dim": count}}
        more = {key: value for key, value in knobs.items() if key != "model"}
        recipe = {"model": model, "epochs": epochs, "seed": seed, "device": "cpu", **more}
        training = AutoencoderTraining.begin(Autoencode.of(recipe), scan=film.scan)
        for _ in training if name != "pca" else ():
            pass
        test = training.parts.test
        drawn = torch.cat(
            [training.objective.reconstruct(test[at : at + 64])[1] for at in range(0, len(test), 64)]
        )
        out[name] = explained(drawn, film.expected[test])
    noisy = torch.from_numpy(film.scan.counts[test].astype(np.float32))[:, None]
    return out | {"counts": explained(noisy, film.expected[test])}


def denoised(dose: float, seed: int, epochs: int) -> dict:
    """Ptychography, and deflections, of measured and of denoised patterns of overlapping probes."""
    pixel, window, count = 0.25, 48, 32
    margin = (window // 2 + 6) * pixel
    positions = simulate.raster((count, count), 1.2, seed=seed)
    positions += margin - positions.min(0)
    size = [int(n) for n in np.ceil((positions.max(0) + margin) / pixel)]
    truth = simulate.atoms((size[0], size[1]), pixel, peak=0.4, spacing=3.0, seed=seed)
    optics = {"energy": 80e3, "semiangle": 0.025, "defocus": 80.0, "window": window}
    knobs = {"dose": dose, "seed": seed}
    scan, _ = simulate.electron_scan(truth, pixel, positions, **optics, **knobs)
    clean, _ = simulate.electron_scan(truth, pixel, positions, **optics, dose=1e7)
    scan, clean = (replace(one, grid=(count, count)) for one in (scan, clean))
    ways = {"measured": scan}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("pca", "recommended", "halves"):
            model = {"pca" if name == "pca" else "recommended": {"latent_dim": 16}}
            recipe = {"model": model, "epochs": epochs, "seed": seed, "device": "cpu"}
            recipe = Autoencode.of(recipe | ({"halves": True} if name == "halves" else {}))
            training = AutoencoderTraining.begin(recipe, Path(folder) / name, scan=scan)
            for _ in training if name != "pca" else ():
                pass
            ways[name] = denoise(scan, model=finish_training(training)[0])
    bent = _bent(clean)
    out: dict = {"dose": dose, "seed": seed, "epochs": epochs}
    for name, one in ways.items():
        probe = {"focused": {"semiangle": "25 mrad", "defocus": "80 A"}}
        job = Job.begin(Reconstruct.of({"probe": probe, "epochs": 20, "device": "cpu"}), scan=one)
        for _ in job:
            pass
        off = float(np.square(_bent(one) - bent).sum() / np.square(bent).sum())
        out[name] = {"phase": compare_with_truth(job.result(), truth).error.nrmse, "deflection_nmse": off}
    return out


def _bent(scan) -> np.ndarray:
    found = measure_scan(scan, (make_annulus(scan.geometry, 0, 0.025, name="BF"),)).deflection
    return np.nan_to_num(subtract_plane(found, scan.positions))


def throughput(pixels: int, device: str, batch: int, precision: str, turns: int) -> dict:
    """Patterns per second of a step, of the documented network, its twin in target size, and ours."""
    torch.set_num_threads(1)
    film = polar_film(grid=(8, 8), step=16.0, pixels=min(pixels, 64))
    counts = torch.from_numpy(film.scan.counts.astype(np.float32))[:, None]
    counts = torch.nn.functional.interpolate(counts, (pixels, pixels)).repeat(max(1, batch // 64), 1, 1, 1)
    nets = {
        "documented": autoencoder.Autoencoder(32, (pixels, pixels)),
        "documented, target-sized": autoencoder.Autoencoder(32, (pixels, pixels), decoder_sizes="target"),
        "recommended": autoencoder.recommended(latent_dim=32, out_shape=(pixels, pixels)),
    }
    counts = counts.to(device)
    steps = {name: _stepper(net.to(device), counts, batch, precision) for name, net in nets.items()}
    found: dict[str, list[float]] = {name: [] for name in nets}
    for _ in range(turns):
        for name, step in steps.items():
            found[name].append(batch / step())
    return {name: statistics.median(rates) for name, rates in found.items()}


def _stepper(net, counts: torch.Tensor, batch: int, precision: str):
    net.train()
    highest = counts.max()
    if net.scale is not None:
        net.scale.calibrate(counts)
        net.begin(net.scale(counts))
    counts = counts[:batch]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    clock = time.process_time if counts.device.type == "cpu" else time.perf_counter

    def step() -> float:
        began = clock()
        x = counts / highest if net.scale is None else net.scale(counts)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            again = net(x)
        optimizer.zero_grad()
        (again.float() - x).square().mean().backward()
        optimizer.step()
        if counts.device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - began

    step()
    return step


def memory(gigabytes: float) -> dict:
    """Largest memory of a process that embeds a scan in a file."""
    with tempfile.TemporaryDirectory() as folder:
        path, side = Path(folder) / "scan.h5", 128
        rows = int(np.sqrt(gigabytes * 1e9 / (2 * side * side)))
        rng = np.random.default_rng(0)
        few = rng.poisson(3.0, (64, side, side)).astype(np.uint16)
        with h5py.File(path, "w") as file:
            data = file.create_dataset("data", (rows, rows, side, side), "uint16", chunks=(1, 8, side, side))
            for row in range(rows):
                data[row] = np.roll(few[rng.integers(0, 64, rows)], row, 2)
        size = path.stat().st_size
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.autoencoder", "embedded", "--file", str(path)],
            check=True,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
        )
    return {"bytes": size} | json.loads(done.stdout.splitlines()[-1])


def embedded(path: Path) -> dict:
    """Learn from a few hundredths of a file, then embed all of it by components: in a process of its own."""
    from phaseloom.embedding import embeddings as protocol

    torch.set_num_threads(1)
    read = {"hdf5": {"energy": "200 keV", "angle": "0.5 mrad", "step": "2 A"}}
    setting = {"file": str(path), "read": read}
    began = time.process_time()
    few = {"model": {"recommended": {"latent_dim": 8, "width": 8}}, "validation": 0.01, "test": 0.95}
    for _ in AutoencoderTraining.begin(Autoencode.of({**setting, **few, "epochs": 1, "device": "cpu"})):
        pass
    with tempfile.TemporaryDirectory() as folder:
        knobs = {"model": {"pca": {"latent_dim": 8}}, "validation": 0.01, "test": 0.0, "device": "cpu"}
        recipe = Autoencode.of({**setting, **knobs})
        finish_training(AutoencoderTraining.begin(recipe, Path(folder) / "run"))
        found = protocol.embed(recipe, Path(folder) / "run")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = time.process_time() - began
    return {"peak_bytes": peak, "patterns": len(found.latents), "cpu_seconds": seconds}


def _runs(asked: argparse.Namespace) -> list[tuple]:
    """What is measured: a function and its arguments each."""
    seeds, epochs, every = asked.seeds, asked.epochs, asked.latents
    runs = {
        "accuracy": [(accuracy, asked.pixels, k, seed, epochs) for k in every for seed in seeds],
        "plain": [(plain, asked.pixels, k, seed) for k in every for seed in seeds],
        "halves": [(halves, k, seed, dose, epochs) for dose in asked.dose for k in every for seed in seeds],
        "denoised": [(denoised, dose, seed, epochs) for dose in asked.dose for seed in seeds],
        "throughput": [(throughput, asked.pixels, "cpu", 8, "float32", 3)],
        "gpu": [
            (throughput, n, "cuda", 256, kind, 20) for n in (128, 256) for kind in ("float32", "bfloat16")
        ],
        "memory": [(memory, asked.gigabytes)],
        "embedded": [(embedded, asked.file)],
    }
    return runs[asked.what]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    what = ("accuracy", "plain", "halves", "denoised", "throughput", "memory", "embedded", "gpu")
    parser.add_argument("what", choices=what)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--latents", type=int, nargs="+", default=LATENTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--dose", type=float, nargs="+", default=(300.0, 3000.0))
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.what != "gpu":
        torch.set_num_threads(1)
    kept = []
    for function, *knobs in _runs(asked):
        kept.append({"asked": [function.__name__, *map(str, knobs)], **function(*knobs)})
        print(json.dumps(kept[-1]), flush=True)
        if asked.out is not None:
            asked.out.write_text(json.dumps({"machine": machine(), "runs": kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
