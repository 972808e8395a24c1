"""One small whole file of every kind that is read, made once: damaged copies of them are the cases."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import OPTICS, electrons
from tests.data import vendor_files
from tests.data.hdf5_files import CASES
from tests.hostile import damage

GRID = (3, 5)
PATTERNS = np.random.default_rng(0).integers(1, 200, (15, 4, 4)).astype(np.uint16)
KNOBS = {"energy": "200 keV", "angle": "1 mrad", "step": "2 A"}
HEADER_BYTES = {"blockfile": 76, "tvips": 400, "seq": 600, "frms6": 1100, "timepix3": 400, "merlin": 384}

Damage = Callable[[Path, np.random.Generator], None]


@dataclass(frozen=True)
class Format:
    """A format of measured data.

    Attributes:
        name: of the case.
        write: a whole file in a folder.
        damage: of that file, or of one beside it.
        reader: name of the format for `phaseloom.data.formats.read`.
        knobs: what the file does not say.
    """

    name: str
    write: Callable[[Path], Path]
    damage: Damage
    reader: str = "auto"
    knobs: dict[str, Any] = field(default_factory=lambda: dict(KNOBS))


def rewrite(change: Callable[[bytes, np.random.Generator], bytes]) -> Damage:
    """A damage of a file of one of its content."""

    def damage_file(path: Path, rng: np.random.Generator) -> None:
        path.write_bytes(change(path.read_bytes(), rng))

    return damage_file


def damage_head(head: int) -> Damage:
    return rewrite(lambda content, rng: damage.damage_bytes(content, rng, head))


def damage_vendor(name: str) -> Damage:
    """Damage a file of a detector, or one of those beside it."""

    def damage_one(path: Path, rng: np.random.Generator) -> None:
        if name == "stempy":
            damage.damage_hdf5(path, rng)
            return
        beside = sorted(one for one in path.parent.iterdir() if one.is_file())
        target = beside[int(rng.integers(0, len(beside)))] if rng.random() < 0.4 else path
        content = target.read_bytes()
        text = target.suffix in (".xml", ".hdr", ".toml")
        change = damage.damage_markup if text else None
        target.write_bytes(
            change(content, rng) if change else damage.damage_bytes(content, rng, HEADER_BYTES.get(name, 64))
        )

    return damage_one


def _save_npy(folder: Path) -> Path:
    np.save(folder / "a.npy", PATTERNS.reshape(*GRID, 4, 4))
    return folder / "a.npy"


def _save_npz(folder: Path) -> Path:
    np.savez(folder / "a.npz", meas=PATTERNS, pos_px=np.ones((15, 2)), dx=0.2, kv=80.0)
    return folder / "a.npz"


def _save_tif(folder: Path) -> Path:
    import tifffile

    tifffile.imwrite(folder / "a.tif", PATTERNS, photometric="minisblack")
    return folder / "a.tif"


def _save_mat(folder: Path) -> Path:
    from scipy.io import savemat

    savemat(folder / "a.mat", {"dp": PATTERNS.reshape(*GRID, 4, 4).astype(float), "p": {"dx": 0.5}})
    return folder / "a.mat"


def _save_mat73(folder: Path) -> Path:
    import h5py

    with h5py.File(folder / "a.mat", "w") as file:
        file["dp"] = PATTERNS.reshape(*GRID, 4, 4).astype(float).T
    return folder / "a.mat"


def _save_zarr(folder: Path) -> Path:
    import zarr

    zarr.save(str(folder / "a.zarr"), PATTERNS.reshape(*GRID, 4, 4))
    return folder / "a.zarr"


def _damage_store(path: Path, rng: np.random.Generator) -> None:
    files = sorted(one for one in path.rglob("*") if one.is_file())
    one = files[int(rng.integers(0, len(files)))]
    change = damage.damage_json if one.suffix == ".json" or one.name.startswith(".z") else None
    content = one.read_bytes()
    if rng.random() < 0.1:
        one.unlink()
    else:
        one.write_bytes(change(content, rng) if change else damage.damage_bytes(content, rng, 64))


def _save_raw(folder: Path) -> Path:
    (folder / "a.raw").write_bytes(PATTERNS.tobytes())
    return folder / "a.raw"


def _save_sidecar(folder: Path) -> Path:
    path = _save_npy(folder)
    lines = "energy: 80 keV\nangle: 1 mrad\nstep: 0.4 A\nnegative: clip\n"
    path.with_name("a.npy.phaseloom.yaml").write_text(lines)
    return path


def _damage_sidecar(path: Path, rng: np.random.Generator) -> None:
    beside = path.with_name("a.npy.phaseloom.yaml")
    beside.write_bytes(damage.damage_settings(beside.read_bytes(), rng))


def _save_positions(ending: str) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        path = folder / "a.npy"
        np.save(path, PATTERNS)
        places = np.indices(GRID).reshape(2, -1).T * 2.0
        if ending == ".csv":
            np.savetxt(folder / "p.csv", places, delimiter=",", header="y,x", comments="")
        else:
            np.savetxt(folder / f"p{ending}", places)
        return path

    return save


def _damage_positions(path: Path, rng: np.random.Generator) -> None:
    one = next(path.parent.glob("p.*"))
    one.write_bytes(damage.damage_markup(one.read_bytes(), rng))


def _cxi(folder: Path) -> Path:
    from phaseloom.data.formats import cxi

    cxi.write(electrons(), folder / "a.cxi")
    return folder / "a.cxi"


def _cxi_metres(folder: Path) -> Path:
    from tests.data.test_malformed_files import ordinary

    return ordinary(folder / "a.cxi")


def _native(folder: Path) -> Path:
    from phaseloom.data.formats import native

    native.write(electrons(), folder / "a.h5")
    return folder / "a.h5"


def make_formats() -> dict[str, Format]:
    """All formats of measured data, by name."""
    grid = {"grid": list(GRID)}
    position_knobs = {"energy": "200 keV", "angle": "1 mrad", "positions_unit": "A"}
    found = [
        Format("native", _native, damage.damage_own_hdf5, knobs={}),
        Format("cxi", _cxi, damage.damage_own_hdf5, knobs={}),
        Format("cxi of a beamline", _cxi_metres, damage.damage_own_hdf5, knobs={}),
        Format("npy", _save_npy, rewrite(damage.damage_npy)),
        Format("npz", _save_npz, damage.damage_archive, knobs={}),
        Format("tif", _save_tif, damage_head(300), knobs=KNOBS | grid),
        Format("mat 5", _save_mat, damage_head(400)),
        Format("mat 7.3", _save_mat73, damage.damage_hdf5),
        Format("zarr", _save_zarr, _damage_store),
        Format(
            "raw", _save_raw, damage_head(480), knobs=KNOBS | {"shape": [15, 4, 4], "dtype": "uint16"} | grid
        ),
        Format("side-car", _save_sidecar, _damage_sidecar, knobs={}),
        Format(
            "positions csv",
            _save_positions(".csv"),
            _damage_positions,
            knobs=position_knobs | {"positions": "p.csv"},
        ),
        Format(
            "positions txt",
            _save_positions(".txt"),
            _damage_positions,
            knobs=position_knobs | {"positions": "p.txt"},
        ),
    ]
    for name, write in vendor_files.WRITERS.items():
        knobs = KNOBS | {"step": "0.5 A"} | (grid if name in ("seq", "timepix3") else {})
        found.append(
            Format(
                f"vendor {name}",
                lambda folder, write=write: write(folder, PATTERNS, GRID),
                damage_vendor(name),
                name,
                knobs,
            )
        )
    for case in CASES:
        if case.file.endswith((".zspy", ".ndata1")):
            continue

        def write_case(folder: Path, case: Any = case) -> Path:
            case.write(folder / case.file, PATTERNS, GRID)
            return folder / case.file

        found.append(Format(f"HDF5 {case.kind}", write_case, damage.damage_hdf5, knobs=KNOBS | grid))
    return {one.name: one for one in found}


def make_own_files(folder: Path) -> None:
    """Everything that this package writes, in one folder: a run, images, an embedding, networks, a sample."""
    from phaseloom.data.formats import cxi, native
    from phaseloom.reconstruction.protocol import Job
    from phaseloom.reconstruction.recipe import Reconstruct

    scan = electrons()
    native.write(scan, folder / "scan.h5")
    cxi.write(scan, folder / "scan.cxi")
    tree = {
        "file": "scan.h5",
        "probe": {"focused": dict(OPTICS)},
        "start": "none",
        "batch": {"random": {"size": 8}},
        "epochs": 2,
    }
    recipe = Reconstruct.of(tree | {"file": str(folder / "scan.h5")})
    job = Job.begin(recipe, folder / "run")
    for _ in job:
        pass
    assert job.directory is not None
    job.result().save(job.directory / "result.h5")
    text = (folder / "run" / "run.yaml").read_text()
    (folder / "run" / "run.yaml").write_text(text.replace(str(folder / "scan.h5"), "../scan.h5"))
    (folder / "run.yaml").write_text(_RUN_YAML)
    _make_networks(folder)
    _make_sample(folder)
    _make_ptyrad(folder)
    np.save(folder / "a.npy", PATTERNS.reshape(*GRID, 4, 4))


_RUN_YAML = """file: scan.h5
prepare: [{crop: {to: [20, 20]}}]
probe: {focused: {semiangle: 40 mrad, defocus: 60 A, modes: 1}}
object: {pixels: {slices: 1}}
noise: {poisson: {floor: 0.1}}
penalties: [{sparse: {weight: 0.1}}]
rates: {object: 0.01, probe: 0.001}
start: none
batch: {random: {size: 8}}
epochs: 1
holdout: 0.2
seed: 1
title: a scan
"""


def _make_networks(folder: Path) -> None:
    from phaseloom.embedding.networks.autoencoder import recommended
    from phaseloom.learning.weight_files import find_network, save_network
    from phaseloom.restoration.networks.phaseformer import narrow
    from phaseloom.retrieval.networks.stitching import residual

    card = {"shape": [24, 24], "highest": 100.0, "halves": False}
    net = recommended(latent_dim=2, out_shape=(24, 24), width=4, head_channels=2)
    save_network(net, folder / "autoencoder.safetensors", card)
    save_network(narrow(), folder / "narrow.safetensors", {"channels": 1, "name": "narrow"})
    save_network(residual(width=4, depth=1), folder / "stitching.safetensors", {})
    shutil.copy(find_network("tiny"), folder / "tiny.safetensors")


def _make_sample(folder: Path) -> None:
    from phaseloom.simulation.experiment import Experiment
    from phaseloom.simulation.samples import write
    from phaseloom.simulation.scan import Sample

    experiment = Experiment(scan=(4, 4), dose=1e4)
    rng = np.random.default_rng(0)
    patterns = rng.poisson(1.0, (4, 4, 24, 24)) / 1e4
    sample = Sample(patterns, rng.random(experiment.image), rng.random((16, 2)), experiment, "a", "b", 10.0)
    (folder / "samples").mkdir()
    write(sample, folder / "samples" / "000000.h5", number=0, seed=0)


def _make_ptyrad(folder: Path) -> None:
    tree = {
        "init_params": {
            "probe_kv": 80.0,
            "probe_conv_angle": 40.0,
            "probe_defocus": 60.0,
            "pos_scan_affine": [1, 0, 0, 0],
            "meas_Npix": 4,
            "meas_params": {"path": "a.npy"},
            "pos_N_scan_slow": 3,
            "pos_N_scan_fast": 5,
            "pos_scan_step_size": 0.4,
            "probe_pmode_max": 2,
            "obj_Nlayer": 1,
            "obj_slice_thickness": 1.0,
        },
        "recon_params": {"NITER": 1, "BATCH_SIZE": {"size": 8}},
    }
    (folder / "ptyrad.json").write_text(json.dumps(tree, indent=1))
    import yaml

    (folder / "ptyrad.yaml").write_text(yaml.safe_dump(tree))
    lines: list[str] = []
    for name, section in tree.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {_to_toml(value)}" for key, value in section.items()]
    (folder / "ptyrad.toml").write_text("\n".join(lines))


def _to_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {json.dumps(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def add_images(folder: Path, run: Callable[[list[str]], Any]) -> None:
    """The files that other verbs write, by a function that runs a command in the folder."""
    from dataclasses import replace

    from phaseloom.data.formats import native
    from phaseloom.simulation import simulate

    raster = replace(electrons(), positions=simulate.raster((5, 5), 0.45), grid=(5, 5))
    native.write(raster, folder / "raster.h5")
    for argv in (
        ["virtual", "raster.h5", "--out", "virtual.h5"],
        ["embed", "scan.h5", "-m", "autoencoder.safetensors", "--out", "embedding.h5"],
        ["embed", "scan.h5", "-m", "autoencoder.safetensors", "--out", "embedding.npz"],
        ["direct", "scan.h5", "--out", "direct.h5"],
    ):
        run(argv)
    import h5py

    with h5py.File(folder / "prediction.h5", "w") as file:
        file.attrs["phaseloom_prediction"] = 1
        file.attrs["model"] = "tiny"
        file["phase"], file["pixel"], file["origin"] = np.zeros((20, 30)), [0.4, 0.4], [0.0, 1.0]
        file["beam"] = json.dumps({"beam": "electron", "energy": 8e4, "wavelength": 0.04})
        file["metadata"], file["provenance"] = json.dumps({"a": "b"}), json.dumps({"file": "scan.h5"})
    from PIL import Image

    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24), np.uint8)).save(picture, "png")
    (folder / "image.png").write_bytes(picture.getvalue())
