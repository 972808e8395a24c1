"""Verbs of restoration: data, training by our file or by the flags of Phaseformer's guide, use, judgement."""

from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import Set, place, settings_of
from phaseloom.cli.train import File, Out, Quiet, Resume, begun, ran, stopped, train
from phaseloom.compat.phaseformer import Policy
from phaseloom.errors import BadInput
from phaseloom.files import fresh, whole

__all__ = ["apply", "demo_data", "evaluate", "fit", "restorer", "thinned"]

restore = typer.Typer(
    help="Restore images: photographs, phases, images of detectors. Begin with restore demo-data.",
    no_args_is_help=True,
)
app.add_typer(restore, name="restore")

Data = Annotated[
    list[Path] | None,
    typer.Option("--dataset_path", "--data", help="folder with train/input, train/gt, test/...; repeatable"),
]
Model = Annotated[
    str, typer.Option("--model", "-m", help="file or folder of a network, or a name of the package's own")
]
Tile = Annotated[int, typer.Option(help="pixels along an edge that the network is shown at once")]
Overlap = Annotated[
    int, typer.Option(help="pixels that neighbouring tiles share: a multiple of 8, half a tile at most")
]


@restore.command("demo-data")
def demo_data(
    folder: Annotated[Path, typer.Argument(help="new folder")],
    *,
    count: Annotated[int, typer.Option("--train", help="pairs to learn from")] = 240,
    test: Annotated[int, typer.Option(help="pairs of other scenes, to judge by")] = 60,
    size: Annotated[int, typer.Option(help="pixels along an edge")] = 128,
    photographs: Annotated[
        Path | None, typer.Option(help="a folder of photographs; default: those of scikit-image")
    ] = None,
    invented: Annotated[
        float, typer.Option(help="share of the pairs to learn from whose scene is no photograph")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="of all that is drawn")] = 0,
) -> None:
    """Make photographs as they would look under water, in pairs with the photographs, and on finer pixels."""
    from phaseloom.restoration.pairs import underwater

    given = {"size": size, "train": count, "test": test, "invented": invented, "seed": seed}
    made = underwater.save(folder, photographs=photographs, **given)
    typer.echo(f"{count} pairs to learn from and {test} of other scenes: {folder}")
    typer.echo(f"what was drawn: {made}\nlearn with: phaseloom restore train --dataset_path {folder}")


@train.command()
def restorer(
    file: File = None, settings: Set = None, *, out: Out = None, resume: Resume = False, quiet: Quiet = False
) -> None:
    """Learn to restore images from pairs: a file that names data, or --set data=[FOLDER]."""
    if resume:
        _restoring(begun(file, settings, out), quiet=quiet)
        return
    from phaseloom.restoration.train import Restore

    _restoring(Restore.from_path(file, settings_of(settings or [])), out, quiet=quiet)


@restore.command("train")
def fit(  # noqa: PLR0913 - the flags of the guide
    file: File = None,
    settings: Set = None,
    *,
    dataset_path: Data = None,
    batch_size: Annotated[int | None, typer.Option("--batch_size", help="crops of a step")] = None,
    niter: Annotated[
        int | None, typer.Option(help="epochs at the full rate, and one more (guide: 50)")
    ] = None,
    niter_decay: Annotated[
        int | None, typer.Option("--niter_decay", help="epochs while it falls in a line (guide: 500)")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="rate (guide: 0.001)")] = None,
    lr_policy: Annotated[
        Policy | None, typer.Option("--lr_policy", help="how the rate changes (guide: lambda)")
    ] = None,
    beta1: Annotated[float | None, typer.Option(help="momentum of Adam (guide: 0.5)")] = None,
    threads: Annotated[int | None, typer.Option(help="that read files at once")] = None,
    seed: Annotated[int | None, typer.Option(help="of everything that is drawn")] = None,
    cuda: Annotated[bool, typer.Option("--cuda", help="compute on a GPU, or stop without one")] = False,
    resume: Annotated[Path | None, typer.Option(help="folder of a run, to go on with")] = None,
    out: Out = None,
    quiet: Quiet = False,
    epoch_count: Annotated[int | None, typer.Option("--epoch_count", hidden=True)] = None,
    test_batch_size: Annotated[int | None, typer.Option("--test_batch_size", hidden=True)] = None,
    checkpoint_dir: Annotated[Path | None, typer.Option("--checkpoint_dir", hidden=True)] = None,
    output_dir: Annotated[Path | None, typer.Option("--output_dir", hidden=True)] = None,
) -> None:
    """The same by the flags of Phaseformer's training guide; what is left out is as in train restorer."""
    from phaseloom.compat import phaseformer

    given = {
        "dataset_path": dataset_path or None,
        "batch_size": batch_size,
        "niter": niter,
        "niter_decay": niter_decay,
        "lr": lr,
        "lr_policy": lr_policy,
        "beta1": beta1,
        "threads": threads,
        "seed": seed,
        "cuda": cuda or None,
        "epoch_count": epoch_count,
        "test_batch_size": test_batch_size,
        "checkpoint_dir": checkpoint_dir,
        "output_dir": output_dir,
    }
    known, notes = phaseformer.flags(given)
    if resume is not None:
        phaseformer.checkpoint(resume)
        if known or file is not None:
            raise BadInput("restore train", "--resume", "goes on as the run began: give it no other settings")
        _restoring(begun(resume, settings, out), quiet=quiet)
        return
    for note in notes:
        typer.echo(f"  - {note}")
    from phaseloom.restoration.train import Restore

    _restoring(Restore.from_path(file, known | settings_of(settings or [])), out, quiet=quiet)


@restore.command()
def apply(
    images: Annotated[
        list[Path], typer.Argument(help="images, folders of them, result.h5 or run folders of phases")
    ],
    *,
    model: Model,
    out: Annotated[Path, typer.Option(help="new folder")],
    halves: Annotated[
        bool, typer.Option("--halves", help="two results from half of the counts each: correlate them")
    ] = False,
    tile: Tile = 256,
    overlap: Overlap = 64,
) -> None:
    """Restore images; those of reconstructions are held against their patterns, before and after."""
    from phaseloom.restoration import apply as mend_files
    from phaseloom.restoration import apply_result as mend_result

    results = [path for path in images if mend_result.is_run(path)]
    files = [path for path in images if path not in results]
    if halves and (files or len({path.resolve() for path in results}) != 2 or len(results) != 2):
        raise BadInput(
            "--halves", f"{len(images)} files", "needs two results, one of each half of the counts"
        )
    chosen, tiles = mend_files.listed(files) if files else [], {"tile": tile, "overlap": overlap}
    fresh(out, "--out")
    if results:
        _phases(results, model, out, halves=halves, tiles=tiles)
    for done in mend_files.apply(chosen, model, out, **tiles) if chosen else ():
        finer = "" if done.high is None else f", finer: {done.high}"
        typer.echo(f"{done.source} -> {done.low}{finer} (changed by {100 * done.change:.1f} % of its spread)")
    typer.echo(f"{mend_files.STAMP}: what is finer than the measurement was learned from other images")


def _phases(results: list[Path], model: str, out: Path, *, halves: bool, tiles: dict[str, int]) -> None:
    """Restore the phases of reconstructions."""
    from phaseloom import plot
    from phaseloom.restoration import apply_result as mend_result
    from phaseloom.restoration.apply import restorer as network
    from phaseloom.restoration.figures import before_after

    net, task, _ = network(model)
    found = []
    for number, path in enumerate(results):
        one = mend_result.phase_of(net, task, path, **tiles)
        name = path.name if path.is_dir() else path.stem
        place = one.write(out / f"{number:02d}_{name}.h5", model)
        rows = [{"reconstructed": one.measured, "restored": one.restored}]
        rows.append({"restored": one.restored - one.measured})
        picture = before_after(rows, [name, "change"], pixel=one.pixel, unit="rad")
        plot.save(picture, place.with_suffix(".png"))
        typer.echo(f"{path} -> {place}, and a picture")
        for note in (one.misfits, *one.notes):
            if note is not None:
                typer.echo(f"  {note}")
        found.append(one)
    if halves:
        before, after = mend_result.correlations(*found)
        typer.echo(f"halves: {_resolved(before)} as reconstructed; restored {_resolved(after)}, which is")
        typer.echo("  no resolution: what one network draws twice agrees, whether it is there or not")


def _resolved(curve: Any) -> str:
    """The period at which a ring correlation falls below half a bit."""
    from phaseloom.plot.style import show_length

    return f"correlated down to {show_length(curve.resolution())}"


@restore.command("pairs")
def thinned(
    files: Annotated[list[Path], typer.Argument(help="scans, or their parameter files")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", metavar="PATH=VALUE", help="a setting, e.g. scan.probe.focused.defocus='9 nm'"
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="new folder")],
    task: Annotated[str | None, typer.Option(help="phase or virtual_detector")] = None,
    by: Annotated[str | None, typer.Option(help="of phases: reconstruct, predict or integrate")] = None,
    share: Annotated[float | None, typer.Option(help="share of the counts in the input")] = None,
    draws: Annotated[int | None, typer.Option(help="pairs of each scan")] = None,
) -> None:
    """Make pairs of images from scans: one of a few of the counts, one of the rest of them."""
    from phaseloom.restoration.pairs.noise2noise import Thin, save

    given = {"task": task, "by": by, "share": share, "draws": draws}
    told = {name: value for name, value in given.items() if value is not None} | settings_of(settings or [])
    recipe = Thin.from_path(None, {"files": [str(path) for path in files], **told})
    made = save(recipe, out, each=lambda one: typer.echo(f"{one.part}: {one.pair.name}"))
    typer.echo(f"what was drawn: {made}\nlearn with: phaseloom restore train --dataset_path {out}")


@restore.command("eval")
def evaluate(
    *,
    dataset_path: Data = None,
    model: Model,
    part: Annotated[str, typer.Option(help="test or train")] = "test",
    out: Annotated[Path | None, typer.Option(help="new folder for scores.json and before_after.png")] = None,
    tile: Tile = 256,
    overlap: Overlap = 64,
) -> None:
    """Judge a network by pairs: PSNR, SSIM and more, beside what needs no network."""
    import json

    from phaseloom import plot
    from phaseloom.restoration import evaluate as restored
    from phaseloom.restoration.apply import restorer as network
    from phaseloom.restoration.evaluate import rated
    from phaseloom.restoration.pairs.folders import ImagePairs

    if part not in ("test", "train"):
        raise BadInput("--part", part, "is none: choose test or train")
    if out is not None and out.exists():
        raise BadInput("--out", str(out), "exists already: name a new folder")
    net, task, _ = network(model)
    folders = dataset_path or []
    pairs = ImagePairs.of(folders, part=part)
    learned = ImagePairs.of(folders, part="train") if all((one / "train").is_dir() for one in folders) else ()
    found = rated(net, task, pairs, learned=learned, tile=tile, overlap=overlap)
    for line in found.lines():
        typer.echo(line)
    if out is not None:
        with whole(out / "scores.json") as path:
            path.write_text(json.dumps(found.as_dict(), indent=1), encoding="utf-8")
        plot.save(restored.figure(net, task, pairs), out / "before_after.png")
        typer.echo(f"written: {out / 'scores.json'} and before_after.png")


def _restoring(what: Any, out: Path | None = None, *, quiet: bool) -> None:
    """Train a restorer, from a recipe, or go on with the run of a folder; then judge and keep it."""
    from phaseloom.fitting.distributed import team
    from phaseloom.restoration import evaluate as restored
    from phaseloom.restoration.train import Restoring

    if isinstance(what, Path):
        training = Restoring.resume(what)
    else:
        what.tests()  # what lacks there is said now
        training = Restoring.begin(what, place(out, what.title or "restorer"))
        _begins(training)
    ran(training, quiet=quiet or not team().first, told=restored.told)
    if team().first:
        stopped(training, f"phaseloom train restorer --resume {training.directory}")
        path, _, rating = restored.finished(training)
        for line in () if rating is None else rating.lines():
            typer.echo(line)
        for picture in restored.pictures(training):
            typer.echo(f"picture: {picture}")
        typer.echo(f"network: {path}")
    team().wait()


def _begins(training: Any) -> None:
    """What will be done, in a line."""
    from phaseloom.fitting.distributed import team

    if not team().first:
        return
    count = sum(value.numel() for value in training.net.parameters())
    learned, judges = (len(side) for side in training.pairs)
    scenes = f"{learned} pairs to learn from, {judges} to choose by"
    typer.echo(f"{training.recipe.model.name}, {count:,} parameters; {scenes}: {training.directory}")
