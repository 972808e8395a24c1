"""Groups of hostile cases: each makes the case of a number and judges what comes of it."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.errors import BadInput
from tests.hostile import damage
from tests.hostile.fork_server import ForkServer
from tests.hostile.oracle import MAX_SECONDS, Verdict, is_sentence, judge_command
from tests.hostile.readers import known_formats, make_case, read_case

Judged = tuple[Verdict, str]


@dataclass(frozen=True)
class Group:
    """Cases of a kind, judged in process.

    Attributes:
        name: of the group, a row of the table.
        run: judges the case of a number; its folder for it is empty.
    """

    name: str
    run: Callable[[int, Path], Judged]


def judge_call(call: Callable[[], Any]) -> Judged:
    """What a call comes to; whatever is not `BadInput` is raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except BadInput as problem:
        return (Verdict.REFUSED if is_sentence(str(problem)) else Verdict.WORDS), str(problem)
    return Verdict.ACCEPTED, ""


def reader_groups(whole: Path) -> list[Group]:
    """A group for each format of measured data."""

    def make(name: str) -> Group:
        def run(number: int, folder: Path) -> Judged:
            case = folder / "case"
            try:
                path = make_case(name, number, whole / name.replace("/", "-"), case)
                return read_case(name, path)
            finally:
                shutil.rmtree(case, ignore_errors=True)

        return Group(f"reader: {name}", run)

    return [make(name) for name in known_formats()]


def knob_groups() -> list[Group]:
    """A group for each recipe: parameter files of one to four junk fields, by hypothesis."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    from tests.hostile import strategies

    def make(name: str, recipe: Any) -> Group:
        tree_strategy = strategies.trees(recipe)

        def run(number: int, folder: Path) -> Judged:
            found: list[Judged] = []

            @seed(number)
            @settings(
                max_examples=2,  # the first one is always the simplest
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(tree_strategy)
            def one(tree: dict[str, Any]) -> None:
                found.append(judge_call(lambda: _use_recipe(recipe, tree)))

            one()
            return found[-1]

        return Group(f"knobs: {name}", run)

    return [make(name, recipe) for name, recipe in strategies.recipes().items()]


def _use_recipe(recipe: Any, tree: dict[str, Any]) -> None:
    """Read a tree, write it and read it again: what is accepted repeats itself."""
    from phaseloom.documents import parse_yaml

    made = recipe.of(tree)
    recipe.of(parse_yaml(made.to_text(), "written"))


def text_groups(materials: Path) -> list[Group]:
    """Parameter files as text: of ours, and of PtyRAD in three formats."""

    def make(file: str, read: Callable[[Path], Any], change: Any) -> Group:
        content = (materials / file).read_bytes()

        def run(number: int, folder: Path) -> Judged:
            path = folder / file
            path.write_bytes(change(content, np.random.default_rng([number, len(file)])))
            return judge_call(lambda: read(path))

        return Group(f"text: {file}", run)

    def read_ours(path: Path) -> Any:
        from phaseloom.cli.files import load_recipe

        return load_recipe(path, None)

    def read_ptyrad(path: Path) -> Any:
        from phaseloom.compat import ptyrad
        from phaseloom.reconstruction.recipe import Reconstruct

        tree = ptyrad.load(path)
        return Reconstruct.of(ptyrad.translate_project(tree, path.parent)[0])

    return [
        make("run.yaml", read_ours, damage.damage_settings),
        make("ptyrad.yaml", read_ptyrad, damage.damage_settings),
        make("ptyrad.toml", read_ptyrad, damage.damage_settings),
        make("ptyrad.json", read_ptyrad, damage.damage_json),
    ]


def own_file_groups(materials: Path) -> list[Group]:
    """Our own files, damaged and read by the functions that the verbs read them with."""

    def make(file: str, read: Callable[[Path], Any], change: Callable[[Path, Any], None]) -> Group:
        def run(number: int, folder: Path) -> Judged:
            path = folder / Path(file).name
            shutil.copy(materials / file, path)
            change(path, np.random.default_rng([number, len(file)]))
            return judge_call(lambda: read(path))

        return Group(f"own: {file}", run)

    def change_safetensors(path: Path, rng: np.random.Generator) -> None:
        path.write_bytes(damage.damage_safetensors(path.read_bytes(), rng))

    hdf5 = damage.damage_own_hdf5
    found = [
        make("run/result.h5", _read_result, hdf5),
        make("run/snapshot.h5", _read_snapshot, hdf5),
        make("embedding.h5", _read_embedding, hdf5),
        make("embedding.npz", _read_embedding, damage.damage_archive),
        make("samples/000000.h5", _read_sample, hdf5),
        make("prediction.h5", _read_images, hdf5),
        make("direct.h5", _read_images, hdf5),
        make("virtual.h5", _read_images, hdf5),
    ]
    for name in ("tiny", "autoencoder", "narrow", "stitching"):
        found.append(make(f"{name}.safetensors", _read_network, change_safetensors))
    return [one for one in found if (materials / one.name.removeprefix("own: ")).exists()]


def _read_result(path: Path) -> None:
    from phaseloom.result import Result

    found = Result.load(path)
    for value in (found.object, found.probe, found.positions):
        assert np.isfinite(value).all()


def _read_snapshot(path: Path) -> None:
    from phaseloom.fitting.checkpoint import read_level

    read_level(path)


def _read_embedding(path: Path) -> None:
    from phaseloom.embedding.embeddings import ScanEmbedding

    ScanEmbedding.load(path).unusual()


def _read_sample(path: Path) -> None:
    from phaseloom.simulation.samples import read_scan

    read_scan(path)


def _read_images(path: Path) -> None:
    from phaseloom.export.files import load

    load(path)


def _read_network(path: Path) -> None:
    from phaseloom.learning.weight_files import load_card, load_network

    net = load_network(path)
    load_card(path)
    assert all(
        bool(value.isfinite().all()) for value in net.state_dict().values() if value.is_floating_point()
    )


LIMIT_PROCESSOR = f"import resource; resource.setrlimit(resource.RLIMIT_CPU, ({int(MAX_SECONDS)}, 60))"
"""Run first in a command: a signal after so many seconds of processor time."""


@dataclass(frozen=True)
class CommandGroup:
    """Cases that run a command in a child of the fork server.

    Attributes:
        name: of the group.
        prepare: damages files of a folder that has what ``needs`` names, and gives the arguments.
        needs: of the materials; folders are copied whole.
    """

    name: str
    prepare: Callable[[Path, np.random.Generator], list[str]]
    needs: tuple[str, ...]

    def run(self, number: int, folder: Path, materials: Path, server: ForkServer) -> Judged:
        """Make the case of a number deep below ``folder``, run and judge it."""
        outer = folder / "outer"
        inner = outer / "a" / "b" / "c" / "case"
        shutil.rmtree(outer, ignore_errors=True)
        inner.mkdir(parents=True)
        for name in self.needs:
            source = materials / name
            if source.is_dir():
                shutil.copytree(source, inner / name)
            else:
                shutil.copy(source, inner / name)
        argv = self.prepare(inner, np.random.default_rng([number, len(self.name)]))
        outcome = server.run(argv, inner, seconds=180, memory=3 * 2**29, before=LIMIT_PROCESSOR)
        verdict, why = judge_command(outcome, inner, outer)
        return verdict, f"{' '.join(argv)[:300]}: {why}" if why else ""


SHORT = ["-s", "epochs=1", "-s", "start=none", "-q"]
OPTICS = ["-s", "probe.focused={semiangle: 40 mrad, defocus: 60 A, modes: 1}"]


def command_groups() -> list[CommandGroup]:
    """A group for each verb with a file that it reads."""

    def damaged(
        file: str, change: Callable[[Path, Any], None], *argvs: list[str]
    ) -> Callable[..., list[str]]:
        def prepare(folder: Path, rng: np.random.Generator) -> list[str]:
            change(folder / file, rng)
            return argvs[int(rng.integers(0, len(argvs)))]

        return prepare

    def content(change: Callable[[bytes, Any], bytes]) -> Callable[[Path, Any], None]:
        return lambda path, rng: path.write_bytes(change(path.read_bytes(), rng)) and None

    hdf5 = damage.damage_own_hdf5
    run = ["reconstruct", "a.h5", "--out", "out", *SHORT, *OPTICS]
    result = (
        ["look", "run/result.h5"],
        ["compare", "run/result.h5", "run/result.h5"],
        ["export", "run/result.h5", "out/a.nxs"],
        ["export", "run/result.h5", "out/a.mrc"],
        ["reconstruct", "run/result.h5", "--out", "out", *SHORT],
        [*run[:1], "scan.h5", *run[2:], "-s", "object.from_file.path=run/result.h5"],
    )

    def damage_run(folder: Path, rng: np.random.Generator) -> list[str]:
        names = ["run.yaml", "snapshot.h5", "events.jsonl"]
        name = names[int(rng.integers(0, 3))]
        path = folder / "run" / name
        if rng.random() < 0.1:
            path.unlink(missing_ok=True)
        elif name == "snapshot.h5":
            hdf5(path, rng)
        elif path.exists():
            change = damage.damage_settings if name == "run.yaml" else damage.damage_markup
            path.write_bytes(change(path.read_bytes(), rng))
        (folder / "run" / "result.h5").unlink(missing_ok=True)
        return ["reconstruct", "run", "--resume", "-q"]

    scan = (
        ["look", "scan.h5"],
        ["check", "scan.h5"],
        [*run[:1], "scan.h5", *run[2:]],
        ["direct", "scan.h5", "--out", "out/d.h5"],
    )
    cxi = tuple([one.replace("scan.h5", "scan.cxi") for one in argv] for argv in scan[:3])
    safetensors = content(damage.damage_safetensors)
    picture = content(lambda data, rng: damage.damage_bytes(data, rng, 60))
    groups = [
        CommandGroup("verbs: result.h5", damaged("run/result.h5", hdf5, *result), ("run", "scan.h5")),
        CommandGroup("verbs: --resume", damage_run, ("run", "scan.h5")),
        CommandGroup("verbs: scan.h5", damaged("scan.h5", hdf5, *scan), ("scan.h5",)),
        CommandGroup("verbs: scan.cxi", damaged("scan.cxi", hdf5, *cxi), ("scan.cxi",)),
        CommandGroup(
            "verbs: run.yaml",
            damaged(
                "run.yaml",
                content(damage.damage_settings),
                ["check", "run.yaml"],
                ["reconstruct", "run.yaml", "--out", "out", "-q"],
            ),
            ("run.yaml", "scan.h5"),
        ),
        CommandGroup(
            "verbs: networks",
            _damage_network(safetensors),
            ("autoencoder.safetensors", "narrow.safetensors", "tiny.safetensors", "scan.h5", "image.png"),
        ),
        CommandGroup(
            "verbs: embedding",
            damaged("embedding.h5", hdf5, ["latents", "embedding.h5", "--out", "out"]),
            ("embedding.h5",),
        ),
        CommandGroup(
            "verbs: images",
            damaged(
                "image.png", picture, ["restore", "image.png", "--out", "out", "-m", "narrow.safetensors"]
            ),
            ("image.png", "narrow.safetensors"),
        ),
        CommandGroup(
            "verbs: sample",
            damaged(
                "samples/000000.h5",
                hdf5,
                ["look", "samples/000000.h5"],
                ["train", "patches", "-s", "samples=samples", "--out", "out", "-q", "-s", "epochs=1"],
            ),
            ("samples",),
        ),
        CommandGroup("verbs: command lines", draw_command_line, ("scan.h5", "run.yaml", "run")),
    ]
    return groups


def _damage_network(change: Callable[[Path, Any], None]) -> Callable[[Path, np.random.Generator], list[str]]:
    def prepare(folder: Path, rng: np.random.Generator) -> list[str]:
        name = ["autoencoder", "narrow", "tiny"][int(rng.integers(0, 3))]
        change(folder / f"{name}.safetensors", rng)
        return {
            "autoencoder": ["embed", "scan.h5", "-m", "autoencoder.safetensors", "--out", "out/e.h5"],
            "narrow": ["restore", "image.png", "--out", "out", "-m", "narrow.safetensors"],
            "tiny": ["predict", "scan", "scan.h5", "-m", "tiny.safetensors", "--out", "out"],
        }[name]

    return prepare


FLAGS = (
    "--out",
    "--set",
    "-s",
    "-m",
    "--model",
    "--workers",
    "--count",
    "--picture",
    "--seed",
    "--dose",
    "--html",
)
FLAGS += (
    "--resume",
    "-q",
    "--to",
    "--figure",
    "--semiangle",
    "--defocus",
    "--centre",
    "--ring",
    "--segments",
)
JUNK_WORDS = (
    "",
    "-1",
    "nan",
    "1e400",
    "scan.h5",
    "none.h5",
    "../../x.h5",
    "/dev/null/x",
    "a=b",
    "epochs=nan",
    "\u212b",
)
JUNK_WORDS += (
    "epochs=1",
    "probe=1",
    "probe.focused.modes=1000000",
    "x" * 300,
    "{",
    "=",
    "run",
    "0",
    "9" * 30,
)
JUNK_WORDS += ("object.pixels.slices=1000000000", "prepare=[{pad: {to: [20000, 20000]}}]", "title='\ud800'")
VERBS = (
    "look",
    "check",
    "compare",
    "describe",
    "virtual",
    "direct",
    "calibrate",
    "export",
    "latents",
    "embed",
)
VERBS += (
    "reconstruct",
    "search",
    "simulate",
    "get",
    "predict scan",
    "train patches",
    "train autoencoder",
    "restore",
)


def draw_command_line(folder: Path, rng: np.random.Generator) -> list[str]:
    """A verb, mostly with a file, and up to three flags with junk."""

    def pick(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(0, len(words)))]

    argv = pick(VERBS).split()
    if rng.random() < 0.8:
        argv.append(pick(("scan.h5", "run.yaml", "run", "run/result.h5", "none.h5", "scan.h5")))
    for _ in range(int(rng.integers(1, 4))):
        argv += [pick(FLAGS), *([pick(JUNK_WORDS)] if rng.random() < 0.85 else [])]
    word = [one.encode("utf-8", "replace").decode() for one in argv]
    if word[0] in ("get",):  # nothing is fetched from the network
        word = ["get", "none"]
    if word[0] == "reconstruct":
        word += SHORT
    return word


def iterate_numbers(start: int = 0) -> Iterator[int]:
    number = start
    while True:
        yield number
        number += 1


def empty(folder: Path) -> None:
    """Remove everything in a folder."""
    for one in folder.iterdir():
        shutil.rmtree(one, ignore_errors=True) if one.is_dir() and not one.is_symlink() else os.unlink(one)
