"""Verbs that train networks."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import (
    Set,
    load_recipe,
    new_folder,
    new_run_folder,
    parse_settings,
    warn_of_bad_pixels,
)
from phaseloom.cli.runner import echo_lines, get_resumed_folder, run_training
from phaseloom.errors import BadInput

__all__ = ["File", "Out", "Quiet", "Resume", "autoencoder", "end_to_end", "linear", "patches", "retrieval"]
__all__ += ["stitching", "train"]

train = typer.Typer(
    help="Train networks: on simulated scans, or on the patterns of one.", no_args_is_help=True
)
app.add_typer(train, name="train")

File = Annotated[
    Path | None, typer.Argument(help="a parameter file (train.yaml), or with --resume the folder of a run")
]
Out = Annotated[Path | None, typer.Option(help="run folder; default: runs/DATE-NAME")]
For = Annotated[
    Path | None,
    typer.Option("--for", help="a scan, or its parameter file: for its energy, step and probe"),
]
Resume = Annotated[bool, typer.Option("--resume", help="FILE is a run folder: go on with it")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")]

Stage = Literal["patches", "stitching", "end-to-end"]


@train.command()
def patches(
    file: File = None,
    settings: Set = None,
    *,
    scan: For = None,
    out: Out = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """First step: train a network that predicts the phase of a patch from its patterns."""
    if resume and scan is not None:
        raise BadInput("train patches", "--for", "is for a new run: a run that is resumed has its probe")
    _run_stage("patches", file, settings or [], out, resume=resume, quiet=quiet, scan=scan)


@train.command()
def stitching(
    file: File = None, settings: Set = None, *, out: Out = None, resume: Resume = False, quiet: Quiet = False
) -> None:
    """Second step: train a network that joins patches, the true ones with added errors, to one image."""
    _run_stage("stitching", file, settings or [], out, resume=resume, quiet=quiet)


@train.command("end-to-end")
def end_to_end(
    file: File = None, settings: Set = None, *, out: Out = None, resume: Resume = False, quiet: Quiet = False
) -> None:
    """Third step: train both together, from patterns to image; patches: and stitched: name their weights."""
    _run_stage("end-to-end", file, settings or [], out, resume=resume, quiet=quiet)


@train.command()
def retrieval(
    file: File = None, settings: Set = None, *, out: Out = None, resume: Resume = False, quiet: Quiet = False
) -> None:
    """All three steps one after the other, in folders 1-patches, 2-stitching and 3-end-to-end."""
    from phaseloom.retrieval.recipe import Train
    from phaseloom.retrieval.trainer import open_stages

    recipe = None if resume else Train.from_path(file, parse_settings(settings or []))
    base = get_resumed_folder(file, settings, out) if resume else new_run_folder(out, "retrieval")
    again = f"phaseloom train retrieval --resume {shlex.quote(str(base))}"
    for training in open_stages(recipe, base):
        run_training(training, _finish_stage, again=again, quiet=quiet, describe=_format_losses)


@train.command()
def linear(
    file: File = None,
    settings: Set = None,
    *,
    scan: For = None,
    out: Out = None,
) -> None:
    """Fit the linear estimate: for the default probe, that of a parameter file, or that of a scan."""
    from phaseloom.retrieval import linear_fit as protocol
    from phaseloom.retrieval.recipe import Train

    base = Train.from_path(file)
    changed = ({} if base.model.name == "linear" else {"model": "linear"}) | parse_settings(settings or [])
    if scan is not None:
        few = {
            name: value
            for name, value in protocol.SCANS_FOR_ONE_PROBE.items()
            if name not in base.model_fields_set
        }
        changed = few | _use_microscope(scan, base, changed)
    recipe = Train.from_path(file, changed)
    there = new_folder(out, recipe.title or "linear")
    typer.echo(f"simulating {recipe.scans} scans of {recipe.microscope.name} microscopes")
    path, card = protocol.fit_linear_network(recipe, there, said=typer.echo)
    echo_lines(_format_scores(card))
    command = f"phaseloom predict scan FILE --model {shlex.quote(str(path))}"
    typer.echo(f"network: {path}\npredict with: {command}, and the probe as here")


@train.command()
def autoencoder(
    file: Annotated[
        Path, typer.Argument(help="a scan, its parameter file, or with --resume the folder of a run")
    ],
    settings: Set = None,
    *,
    out: Out = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train an autoencoder: encode each pattern of a scan into a few latents and decode it back."""
    from phaseloom.embedding.train import Autoencode, AutoencoderTraining

    if resume:
        training = AutoencoderTraining.resume(get_resumed_folder(file, settings, out))
    else:
        recipe = Autoencode.from_path(file, parse_settings(settings or []))
        typer.echo(f"reading {recipe.require_file()}")
        training = AutoencoderTraining.begin(
            recipe, new_folder(out, recipe.title or f"{recipe.file.stem}-autoencoder")
        )
        echo_lines(warn_of_bad_pixels(training.scan))
    again = f"phaseloom train autoencoder --resume {shlex.quote(str(training.directory))}"
    run_training(training, _finish_autoencoder, again=again, quiet=quiet, describe=_format_losses)


def _finish_autoencoder(training: Any) -> Iterator[str]:
    from phaseloom.embedding.evaluate import ReconstructionScores, finish_training

    path, card = finish_training(training)
    scores = card["scores"]
    part = "" if card["judged on"] == "test" else ", of the blocks that decided"
    for name, values in scores.items():
        yield f"{name:8s} {ReconstructionScores(**values)}{part}"
    if scores["network"]["explained"] < scores["pca"]["explained"] - 0.002:
        yield "WARN: as many principal components explain more: use --set model=pca, or train longer"
    yield f"network: {path}"


def _use_microscope(scan: Path, base: Any, changed: dict[str, Any]) -> dict[str, Any]:
    """Settings with the microscope of a scan; settings of probe, read and prepare are about the scan."""
    from phaseloom.retrieval.linear_fit import get_microscope

    of_scan = [name for name in changed if name.split(".")[0] in ("probe", "read", "prepare")]
    beside = [f"{name}={changed.pop(name)}" for name in of_scan]
    return {"microscope": get_microscope(load_recipe(scan, beside), base.microscope), **changed}


def _run_stage(
    stage: Stage,
    file: Path | None,
    settings: list[str],
    out: Path | None,
    *,
    resume: bool,
    quiet: bool,
    scan: Path | None = None,
) -> None:
    """Run a training to its end; network, curves and pictures are in its folder."""
    from phaseloom.retrieval.recipe import Train
    from phaseloom.retrieval.trainer import RetrievalTraining

    if resume:
        training = RetrievalTraining.resume(get_resumed_folder(file, settings, out), stage=stage)
    else:
        changed = {**parse_settings(settings), "stage": stage}
        if scan is not None:
            changed = _use_microscope(scan, Train.from_path(file), changed)
        recipe = Train.from_path(file, changed)
        training = RetrievalTraining.begin(
            recipe, new_run_folder(out, recipe.title or f"{stage}-{recipe.model.name}")
        )
    again = f"phaseloom train {stage} --resume {shlex.quote(str(training.directory))}"
    run_training(training, _finish_stage, again=again, quiet=quiet, describe=_format_losses)


def _finish_stage(training: Any) -> Iterator[str]:
    from phaseloom.fitting.distributed import team
    from phaseloom.retrieval.trainer import save_figures

    if not team().is_main:
        return
    path, card = training.finish()
    yield from _format_scores(card)
    for picture in save_figures(training):
        yield f"picture: {picture}"
    yield f"network: {path}"


def _format_losses(epoch: Any) -> str:
    rate = max(epoch.rates.values(), default=0.0)
    return f"loss {epoch.loss:.4f}, unseen {epoch.holdout:.4f}, LR {rate:.2e}"


def _format_scores(card: dict[str, Any]) -> list[str]:
    scores = card.get("scores", {})
    if not scores:
        return []
    first = "patches" if "spoiled" in scores else "dose"
    lines = [f"unseen materials: {first:>10s} {'CC':>8s} {'NMSE':>8s} {'PSNR':>7s} {'SSIM':>6s}"]
    for dose, one in scores.items():
        numbers = (one["correlation"], one["nmse"], one["psnr"], one["ssim"])
        lines.append(f"{'':17s} {dose:>10s} " + "{:8.4f} {:8.4f} {:7.1f} {:6.3f}".format(*numbers))
    if scores.get("noiseless", {}).get("nmse", 0) > 1:
        lines.append("WARN: worse than a flat image: train on more scans, or longer")
    return lines
