"""Commands of restoration: data, training (also by the flags of Phaseformer's guide), use, evaluation."""

import math
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import Set, lock_output, new_run_folder, parse_settings
from phaseloom.cli.runner import echo_lines, get_resumed_folder, run_epochs, run_training
from phaseloom.cli.train import File, Out, Quiet, Resume, train
from phaseloom.compat.phaseformer import Policy
from phaseloom.errors import BadInput
from phaseloom.files import fresh, write_text

__all__ = ["apply", "demo_data", "evaluate", "filter_runs", "fit", "make_pairs", "restorer"]

restore = typer.Typer(
    help="Restore images: photographs, phases, virtual detector images. Start with restore demo-data.",
    no_args_is_help=True,
)
app.add_typer(restore, name="restore")

Data = Annotated[
    list[Path] | None,
    typer.Option(
        "--dataset_path",
        "--data",
        help="folder with train/input, train/gt, test/..., or of LSUI or UIEB; repeatable",
    ),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="file or run folder of a network, or the name of one in the package"),
]
Tile = Annotated[int, typer.Option(help="edge of the tiles, pixels")]
Overlap = Annotated[
    int, typer.Option(help="overlap of neighbouring tiles, pixels: a multiple of 8, half a tile at most")
]


@restore.command("demo-data")
def demo_data(
    folder: Annotated[Path, typer.Argument(help="new folder")],
    *,
    count: Annotated[int, typer.Option("--train", help="training pairs")] = 240,
    test: Annotated[int, typer.Option(help="test pairs, of other scenes")] = 60,
    size: Annotated[int, typer.Option(help="pixels along an edge")] = 128,
    photographs: Annotated[
        Path | None, typer.Option(help="a folder of photographs; default: those of scikit-image")
    ] = None,
    invented: Annotated[float, typer.Option(help="share of the training pairs with a generated scene")] = 0.5,
    seed: Annotated[int, typer.Option(help="random seed")] = 0,
) -> None:
    """Simulate photographs under water, in pairs with the photographs themselves, also at finer pixels."""
    from phaseloom.restoration.pairs import underwater

    made = underwater.save_pairs(
        lock_output(folder),
        photographs=photographs,
        size=size,
        train=count,
        test=test,
        invented=invented,
        seed=seed,
    )
    typer.echo(f"{count} training pairs and {test} test pairs of other scenes: {folder}")
    typer.echo(f"what was drawn: {made}\ntrain with: phaseloom restore train --dataset_path {folder}")


@train.command()
def restorer(
    file: File = None, settings: Set = None, *, out: Out = None, resume: Resume = False, quiet: Quiet = False
) -> None:
    """Train a network to restore images from pairs: give a file with data, or --set data=[FOLDER]."""
    if resume:
        _resume(get_resumed_folder(file, settings, out), quiet=quiet)
    else:
        _begin(file, parse_settings(settings or []), out, quiet=quiet)


@restore.command("train")
def fit(  # noqa: PLR0913 - the flags of the guide
    file: File = None,
    settings: Set = None,
    *,
    dataset_path: Data = None,
    batch_size: Annotated[int | None, typer.Option("--batch_size", help="crops in a batch")] = None,
    niter: Annotated[int | None, typer.Option(help="epochs at the full rate, plus one (guide: 50)")] = None,
    niter_decay: Annotated[
        int | None, typer.Option("--niter_decay", help="epochs of linear decay (guide: 500)")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="learning rate (guide: 0.001)")] = None,
    lr_policy: Annotated[
        Policy | None, typer.Option("--lr_policy", help="learning rate schedule (guide: lambda)")
    ] = None,
    beta1: Annotated[float | None, typer.Option(help="beta 1 of Adam (guide: 0.5)")] = None,
    threads: Annotated[int | None, typer.Option(help="threads that read files")] = None,
    seed: Annotated[int | None, typer.Option(help="random seed")] = None,
    cuda: Annotated[bool, typer.Option("--cuda", help="compute on a GPU, or stop without one")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="folder of a run to continue, or a kept epoch of it (snapshots/000050.h5); with "
            "--dataset_path where its data are now"
        ),
    ] = None,
    out: Out = None,
    quiet: Quiet = False,
    epoch_count: Annotated[int | None, typer.Option("--epoch_count", hidden=True)] = None,
    test_batch_size: Annotated[int | None, typer.Option("--test_batch_size", hidden=True)] = None,
    checkpoint_dir: Annotated[Path | None, typer.Option("--checkpoint_dir", hidden=True)] = None,
    output_dir: Annotated[Path | None, typer.Option("--output_dir", hidden=True)] = None,
) -> None:
    """Train with the flags of Phaseformer's training guide; defaults are those of train restorer."""
    from phaseloom.compat import phaseformer

    known, notes = phaseformer.translate_flags(
        {
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
    )
    if resume is not None:
        phaseformer.refuse_checkpoint(resume)
        if set(known) - {"data"} or file is not None:
            fix = "goes on as the run began: give it no other settings than --dataset_path"
            raise BadInput("restore train", "--resume", fix)
        _resume(get_resumed_folder(resume, settings, out), quiet=quiet, changes=known)
        return
    changed = parse_settings(settings or [])
    if file is not None or any(name.split(".")[0] == "model" for name in changed):
        known.pop("model", None)  # another network is named
        notes = [note for note in notes if note != phaseformer.NOTE_ON_NETWORK]
    echo_lines(notes, "  - ")
    _begin(file, known | changed, out, quiet=quiet)


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
    quiet: Quiet = False,
) -> None:
    """Restore images; phases of reconstructions are compared with their patterns, before and after."""
    from phaseloom.restoration import apply as apply_files
    from phaseloom.restoration import apply_result

    results = [path for path in images if apply_result.is_run(path)]
    files = [path for path in images if path not in results]
    if halves and (files or len({path.resolve() for path in results}) != 2 or len(results) != 2):
        fix = "needs two results, one of each half of the counts"
        raise BadInput("--halves", f"{len(images)} files", fix)
    if halves:
        apply_result.check_halves(*results)
    chosen = apply_files.list_images(files) if files else []
    tiles = {"tile": tile, "overlap": overlap}
    fresh(lock_output(out), "--out")
    if results:
        _restore_phases(results, model, out, halves=halves, quiet=quiet, tiles=tiles)
    for done in apply_files.restore_files(chosen, model, out, **tiles) if chosen else ():
        finer = "" if done.high is None else f", finer: {done.high}"
        typer.echo(f"{done.source} -> {done.low}{finer} (changed by {100 * done.change:.1f} % of its spread)")
    typer.echo(f"{apply_files.STAMP}: detail finer than the measurement comes from the training images")


@restore.command("filter")
def filter_runs(
    runs: Annotated[list[Path], typer.Argument(help="run folders of phases")],
    *,
    out: Annotated[Path, typer.Option(help="new folder")],
    method: Annotated[
        str, typer.Option(help="wiener, wiener_rings, gaussian, total_variation or nonlocal_means")
    ] = "wiener",
    spread: Annotated[
        float, typer.Option(help="of wiener: 1.5 for the least error, 6 or more to keep defects of crystals")
    ] = 6.0,
    quiet: Quiet = False,
) -> None:
    """Filter phases by what two more runs, on half of the counts each, agree on: no network, no truth."""
    from phaseloom.restoration import filter_result

    fresh(lock_output(out), "--out")
    for number, path in enumerate(runs):
        found = filter_result.filter_phase(
            path, method=method, spread=spread, drive=_announce_halves(path, quiet=quiet)
        )
        _write_phase(found, path, out / _phase_name(number, path), method, "filtered")
    typer.echo(f"{filter_result.FILTER_STAMP}: nothing was added that is not in the reconstruction")


def _announce_halves(path: Path, *, quiet: bool) -> Callable[[Any], Any]:
    """Runs halves of the counts; says so before the first, which is after all that may be refused."""
    notes = [] if quiet else [f"{path}: two more runs, on half of the counts each"]

    def drive(half: Any) -> None:
        while notes:
            typer.echo(notes.pop())
        if not run_epochs(half, quiet=quiet):
            raise KeyboardInterrupt

    return drive


def _restore_phases(
    results: list[Path], model: str, out: Path, *, halves: bool, quiet: bool, tiles: dict[str, Any]
) -> None:
    from phaseloom.plot.style import show_length
    from phaseloom.restoration import apply_result
    from phaseloom.restoration.apply import load_restorer as load_network

    net, task, card = load_network(model)
    restored = []
    for number, path in enumerate(results):
        drive = _announce_halves(path, quiet=quiet)
        one = apply_result.restore_phase(net, task, path, by_halves="input" in card, drive=drive, **tiles)
        _write_phase(one, path, out / _phase_name(number, path), model, "restored")
        restored.append(one)
    if halves:
        curves = apply_result.correlate_halves(*restored)
        before, after = (f"correlated down to {show_length(curve.resolution())}" for curve in curves)
        typer.echo(f"halves: {before} as reconstructed; restored {after}, which is")
        typer.echo("  not a resolution: the errors of one network agree between the halves")
        if not math.isfinite(curves[0].resolution()):
            typer.echo("  they have nothing in common as reconstructed: are they of one place?")


def _phase_name(number: int, path: Path) -> str:
    """File for the phase of a run, or of a result."""
    return f"{number:02d}_{path.name if path.is_dir() else path.stem}.h5"


def _write_phase(found: Any, path: Path, target: Path, by: str, word: str) -> None:
    """Write a phase as measured and as changed, with a picture, and say what was done."""
    from phaseloom import plot
    from phaseloom.restoration.figures import before_after

    found.write(target, by)
    rows = [{"reconstructed": found.measured, word: found.restored}]
    rows.append({word: found.restored - found.measured})
    picture = before_after(rows, [target.stem[3:], "change"], pixel=found.pixel, unit="rad")
    plot.save(picture, target.with_suffix(".png"))
    typer.echo(f"{path} -> {target}, and a picture")
    echo_lines((note for note in (found.misfits, *found.notes) if note is not None), "  ")


@restore.command("pairs")
def make_pairs(
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
    by: Annotated[
        str | None, typer.Option(help="how phases are made: reconstruct, predict or integrate")
    ] = None,
    share: Annotated[float | None, typer.Option(help="share of the counts in the input")] = None,
    draws: Annotated[int | None, typer.Option(help="pairs per scan")] = None,
) -> None:
    """Make training pairs from scans by splitting their counts: a noisy image and one of the other counts."""
    from phaseloom.restoration.pairs.noise2noise import PairRecipe, save_pairs

    given = {"task": task, "by": by, "share": share, "draws": draws}
    changed = {name: value for name, value in given.items() if value is not None}
    changed |= parse_settings(settings or [])
    recipe = PairRecipe.from_path(None, {"files": [str(path) for path in files], **changed})
    made = save_pairs(recipe, lock_output(out), each=lambda one: typer.echo(f"{one.part}: {one.pair.name}"))
    typer.echo(f"what was drawn: {made}\ntrain with: phaseloom restore train --dataset_path {out}")


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
    """Evaluate a network on pairs: PSNR, SSIM and more, beside methods without a network."""
    import json

    from phaseloom import plot
    from phaseloom.restoration import evaluate as evaluation_report
    from phaseloom.restoration.apply import load_restorer as load_network
    from phaseloom.restoration.evaluate import evaluate_restorer
    from phaseloom.restoration.pairs.folders import ImagePairs
    from phaseloom.restoration.pairs.layouts import has_side

    if part not in ("test", "train"):
        raise BadInput("--part", part, "is not a part: choose test or train")
    if out is not None:
        fresh(lock_output(out), "--out")
    net, task, _ = load_network(model)
    folders = dataset_path or []
    pairs = ImagePairs.of(folders, part=part)
    learned = ImagePairs.of(folders, part="train") if all(has_side(one, "train") for one in folders) else ()
    rating = evaluate_restorer(net, task, pairs, learned=learned, tile=tile, overlap=overlap)
    echo_lines(rating.lines())
    if out is not None:
        write_text(out / "scores.json", json.dumps(rating.as_dict(), indent=1))
        plot.save(evaluation_report.plot_pairs(net, task, pairs), out / "before_after.png")
        typer.echo(f"written: {out / 'scores.json'} and before_after.png")


def _begin(file: Path | None, settings: dict[str, Any], out: Path | None, *, quiet: bool) -> None:
    from phaseloom.fitting.distributed import team
    from phaseloom.restoration.train import Restore, RestorerTraining

    recipe = Restore.from_path(file, settings)
    recipe.list_test_pairs()  # what is missing there is reported before the training, not after it
    training = RestorerTraining.begin(recipe, new_run_folder(out, recipe.title or "restorer"))
    if team().is_main:
        count = sum(value.numel() for value in training.net.parameters())
        learned, judges = (len(side) for side in training.pairs)
        scenes = f"{learned} training pairs, {judges} validation pairs"
        typer.echo(f"{recipe.model.name}, {count:,} parameters; {scenes}: {training.directory}")
    _run(training, quiet=quiet)


def _resume(folder: Path, *, quiet: bool, changes: dict[str, Any] | None = None) -> None:
    from phaseloom.restoration.train import RestorerTraining

    _run(RestorerTraining.resume(folder, changes=changes), quiet=quiet)


def _run(training: Any, *, quiet: bool) -> None:
    from phaseloom.restoration.train import describe_epoch

    run_training(
        training,
        _finish,
        again=f"phaseloom train restorer --resume {shlex.quote(str(training.directory))}",
        quiet=quiet,
        describe=lambda epoch: describe_epoch(training, epoch),
    )


def _finish(training: Any) -> Iterator[str]:
    from phaseloom.fitting.distributed import team
    from phaseloom.restoration import evaluate as evaluation_report

    if not team().is_main:
        return
    path, _, rating = evaluation_report.evaluate_training(training)
    if rating is not None:
        yield from rating.lines()
    for picture in evaluation_report.save_figures(training):
        yield f"picture: {picture}"
    yield f"network: {path}"
