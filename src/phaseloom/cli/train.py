"""Verbs that train networks."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import Set, folder, place, recipe_of, settings_of, warn_of_bad_pixels
from phaseloom.errors import BadInput

__all__ = ["File", "Out", "Quiet", "Resume", "begun", "ran", "stopped", "train"]
__all__ += ["autoencoder", "end_to_end", "linear", "patches", "retrieval", "stitching"]

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

NET = "net.safetensors"

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
    """First step: a network that reads the phase under a window of a scan from its patterns."""
    if resume and scan is not None:
        raise BadInput("train patches", "--for", "is for a new run: a run that is resumed has its probe")
    _run("patches", file, settings or [], out, resume=resume, quiet=quiet, scan=scan)


@train.command()
def stitching(
    file: File = None, settings: Set = None, *, out: Out = None, resume: Resume = False, quiet: Quiet = False
) -> None:
    """Second step: a network that puts true patches, spoiled, together to an image."""
    _run("stitching", file, settings or [], out, resume=resume, quiet=quiet)


@train.command("end-to-end")
def end_to_end(
    file: File = None, settings: Set = None, *, out: Out = None, resume: Resume = False, quiet: Quiet = False
) -> None:
    """Third step: both together, from patterns to the image (patches: and stitched: name their weights)."""
    _run("end-to-end", file, settings or [], out, resume=resume, quiet=quiet)


@train.command()
def retrieval(
    file: File = None, settings: Set = None, *, out: Out = None, resume: Resume = False, quiet: Quiet = False
) -> None:
    """All three steps one after the other, in folders 1-patches, 2-stitching and 3-end-to-end."""
    base, joint = _all(file, settings or [], out, resume=resume)
    folders: dict[Stage, Path] = {
        "patches": base / "1-patches",
        "stitching": base / "2-stitching",
        "end-to-end": base / "3-end-to-end",
    }
    weights = {"patches": str(folders["patches"] / NET), "stitched": str(folders["stitching"] / NET)}
    again = f"phaseloom train retrieval --resume {base}"
    for stage, there in folders.items():
        if (there / NET).exists():
            continue
        if (there / "run.yaml").exists():
            _run(stage, there, [], None, resume=True, quiet=quiet, again=again)
            continue
        more = joint | weights if stage == "end-to-end" else None
        _run(stage, base / "train.yaml", [], there, resume=False, quiet=quiet, more=more, again=again)


@train.command()
def linear(
    file: File = None,
    settings: Set = None,
    *,
    scan: For = None,
    out: Out = None,
) -> None:
    """Solve the linear estimate: for the default probe, a parameter file's, or that of a scan at hand."""
    from phaseloom.retrieval import linear_fit as protocol
    from phaseloom.retrieval.recipe import Train

    base = Train.from_path(file)
    changed = ({} if base.model.name == "linear" else {"model": "linear"}) | settings_of(settings or [])
    if scan is not None:
        few = {name: value for name, value in protocol.FEW.items() if name not in base.model_fields_set}
        changed = few | _fitting(scan, base, changed)
    recipe = Train.from_path(file, changed)
    there = folder(out, recipe.title or "linear")
    typer.echo(f"simulating {recipe.scans} scans of {recipe.microscope.name} microscopes")
    path, card = protocol.fitted(recipe, there, said=typer.echo)
    for line in _scores(card):
        typer.echo(line)
    typer.echo(
        f"network: {path}\npredict with: phaseloom predict scan FILE --model {path}, and the probe as here"
    )


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
    """Learn to say each pattern of a scan by a few numbers, and to draw it again from these."""
    from phaseloom.embedding.train import Autoencode, Encoding

    if resume:
        training = Encoding.resume(begun(file, settings, out))
    else:
        recipe = Autoencode.from_path(file, settings_of(settings or []))
        typer.echo(f"reading {recipe.there()}")
        training = Encoding.begin(recipe, folder(out, recipe.title or f"{recipe.file.stem}-autoencoder"))
        for line in warn_of_bad_pixels(training.scan):
            typer.echo(line)
    ran(training, quiet=quiet)
    stopped(training, f"phaseloom train autoencoder --resume {training.directory}")
    _drawn(training)


def _drawn(training: Any) -> None:
    """What came of an autoencoder."""
    from phaseloom.embedding.evaluate import Examined, finished

    path, card = finished(training)
    kept = "" if card["judged on"] == "test" else ", of the blocks that decided"
    for name, scores in card["scores"].items():
        typer.echo(f"{name:8s} {Examined(**scores)}{kept}")
    if card["scores"]["network"]["explained"] < card["scores"]["pca"]["explained"] - 0.002:
        typer.echo("WARN: as many principal components explain more: take --set model=pca, or train longer")
    typer.echo(f"network: {path}")


def begun(file: Path | None, settings: list[str] | None, out: Path | None) -> Path:
    """The folder of a run to go on with."""
    if file is None:
        raise BadInput("train", "--resume", "needs the folder of a run")
    if settings or out:
        raise BadInput("train", "--resume", "takes the folder of a run and nothing else")
    return file


def ran(training: Any, *, quiet: bool, told: Callable[[Any, Any], str] | None = None) -> None:
    """Drive a training until its end or an interruption, its epochs told in words of its own."""
    try:
        _drive(training, told or _losses, quiet=quiet)
    except KeyboardInterrupt:
        from phaseloom.fitting.outcome import Stop

        training.progress.stop = Stop.interrupted_after(training.progress.epoch)


def stopped(training: Any, again: str) -> None:
    """Say why a training ended, and after an interruption how to go on."""
    stopped = training.progress.stopped or f"all {training.progress.epoch} epochs were done before"
    typer.echo(f"stopped: {stopped}")
    if training.progress.stop.interrupted:
        typer.echo(f"go on with: {again}")
        raise typer.Abort


def _all(
    file: Path | None, settings: list[str], out: Path | None, *, resume: bool
) -> tuple[Path, dict[str, Any]]:
    """The folder of all three steps, with their recipe in it, and settings of the third."""
    from phaseloom.fitting.distributed import team
    from phaseloom.retrieval.recipe import Train
    from phaseloom.runs.folder import keep_recipe

    if resume:
        base = begun(file, settings, out)
        if not (base / "train.yaml").is_file():
            raise BadInput(str(base), None, "holds no train.yaml: name the folder of train retrieval")
        return base, Train.from_path(base / "train.yaml").joint
    recipe = Train.from_path(file, settings_of(settings))
    joint, base = _joint(recipe), place(out, "retrieval")
    if (base / "train.yaml").exists() and team().first:
        raise BadInput(
            "--out", str(base), "exists already: name a new folder, or use --resume to go on with it"
        )
    if team().first:
        keep_recipe(recipe, base, name="train.yaml")
    team().wait()
    return base, joint


def _joint(recipe: Any) -> dict[str, Any]:
    """Settings of the third step; what it would refuse is refused before the first is done."""
    if recipe.model.name in ("tiny", "linear"):
        fix = "reads whole scans and needs no stitching: choose small, base or seed, or train patches"
        raise BadInput("train retrieval: model", recipe.model.name, fix)
    for name in recipe.joint:
        if name.partition(".")[0] in ("stage", "model", "stitching", "patches", "stitched", "joint"):
            raise BadInput("joint", name, "is the same in all steps: remove it")
    recipe.put(recipe.joint)
    return recipe.joint


def _fitting(scan: Path, base: Any, changed: dict[str, Any]) -> dict[str, Any]:
    """Settings with the microscope that a scan was made by; what the user says of it holds."""
    from phaseloom.retrieval.linear_fit import microscope_of

    beside = [f"{path}={value}" for path, value in _probe(changed).items()]
    return {"microscope": microscope_of(recipe_of(scan, beside), base.microscope), **changed}


def _probe(changed: dict[str, Any]) -> dict[str, Any]:
    """Settings of a reconstruction among those that were given: they are about the scan."""
    named = [path for path in changed if path.split(".")[0] in ("probe", "read", "prepare")]
    return {path: changed.pop(path) for path in named}


def _run(
    stage: Stage,
    file: Path | None,
    settings: list[str],
    out: Path | None,
    *,
    resume: bool,
    quiet: bool,
    more: dict[str, Any] | None = None,
    scan: Path | None = None,
    again: str = "",
) -> None:
    """Drive a training to its end, and leave network, curves and pictures in its folder."""
    from phaseloom.fitting.distributed import team
    from phaseloom.retrieval.recipe import Train
    from phaseloom.retrieval.trainer import Training

    if resume:
        training = Training.resume(begun(file, settings, out), stage=stage)
    else:
        changed = {**settings_of(settings), "stage": stage, **(more or {})}
        changed = changed if scan is None else _fitting(scan, Train.from_path(file), changed)
        recipe = Train.from_path(file, changed)
        training = Training.begin(recipe, place(out, recipe.title or f"{stage}-{recipe.model.name}"))
    ran(training, quiet=quiet or not team().first)
    if team().first:
        _told(training, again or f"phaseloom train {stage} --resume {training.directory}")
    team().wait()


def _losses(training: Any, epoch: Any) -> str:
    return f"loss {epoch.loss:.4f}, unseen {epoch.holdout:.4f}"


def _drive(training: Any, told: Callable[[Any, Any], str], *, quiet: bool) -> None:
    """All epochs behind a progress bar."""
    from tqdm import tqdm

    total, done = training.recipe.epochs, training.progress.epoch
    with tqdm(
        total=total, initial=done, disable=True if quiet else None, unit="epoch", file=sys.stderr
    ) as bar:
        for epoch in training:
            bar.set_postfix_str(told(training, epoch))
            bar.update()


def _told(training: Any, again: str) -> None:
    """What came of a training."""
    from phaseloom.retrieval.trainer import pictures

    stopped(training, again)
    path, card = training.finish()
    for line in _scores(card):
        typer.echo(line)
    for picture in pictures(training):
        typer.echo(f"picture: {picture}")
    typer.echo(f"network: {path}")


def _scores(card: dict[str, Any]) -> list[str]:
    lines = [f"unseen materials: {'dose':>10s} {'CC':>8s} {'NMSE':>8s} {'PSNR':>7s} {'SSIM':>6s}"]
    for dose, one in card.get("scores", {}).items():
        numbers = (one["correlation"], one["nmse"], one["psnr"], one["ssim"])
        lines.append(f"{'':17s} {dose:>10s} " + "{:8.4f} {:8.4f} {:7.1f} {:6.3f}".format(*numbers))
    if card.get("scores", {}).get("noiseless", {}).get("nmse", 0) > 1:
        lines.append("WARN: worse than a flat image: learn from more scans, or longer")
    return lines if len(lines) > 1 else []
