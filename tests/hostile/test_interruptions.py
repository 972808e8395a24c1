"""What ends a run before its end: signals of queueing systems, changed seeds, lost snapshots, bad names."""

import json
import signal
import time

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.hostile.verbs import check_files


def start_long_run(server, inputs, folder):
    case = server.start(
        f"reconstruct {inputs.run} --out o -q -s epochs=2000 -s patience=null".split(), folder
    )
    for _ in range(1200):
        if (folder / "o" / "snapshot.h5").exists():
            return case
        time.sleep(0.05)
    raise AssertionError(case.wait())


DESTRUCTOR = """
import os, signal
class Slow:
    def __del__(self):
        os.kill(os.getpid(), {number})
        sum(range(10**6))
from phaseloom.reconstruction import protocol
save = protocol.save_epoch
def save_and_drop(*given, **how):
    save(*given, **how)
    if given[0].epoch == 2:
        one = Slow()
        del one
protocol.save_epoch = save_and_drop
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_within_a_destructor_is_not_lost(server, inputs, tmp_path, number, code):
    words = f"reconstruct {inputs.run} --out o -q -s epochs=2000 -s patience=null".split()
    outcome = server.run(words, tmp_path, before=DESTRUCTOR.format(number=int(number)))
    assert (outcome.code, outcome.err.splitlines()[-1]) == (code, "phaseloom: interrupted")
    assert not outcome.has_traceback


EARLY = """
import os
from phaseloom.data import formats
read = formats.read
def read_and_signal(*given, **how):
    os.kill(os.getpid(), {number})
    return read(*given, **how)
formats.read = read_and_signal
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_before_the_first_epoch_is_told_too(server, inputs, tmp_path, number, code):
    words = f"reconstruct {inputs.run} --out o -q".split()
    outcome = server.run(words, tmp_path, before=EARLY.format(number=int(number)))
    assert (outcome.code, outcome.err.splitlines()[-1]) == (code, "phaseloom: interrupted")
    assert check_files(tmp_path) == 0


@pytest.mark.medium
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_signals_of_queueing_systems_end_a_run_as_ctrl_c_does(server, inputs, tmp_path, number, code):
    case = start_long_run(server, inputs, tmp_path)
    case.kill(number)
    outcome = case.wait()
    assert (outcome.code, outcome.err.splitlines()[-1]) == (code, "phaseloom: interrupted")
    assert not outcome.has_traceback
    assert "go on with: phaseloom reconstruct --resume o" in outcome.out
    check_files(tmp_path)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("probe", {"focused": {"defocus": "61 A"}}, 'probe.focused.defocus: "6.1 nm" was "6 nm"'),
        ("found", {"calibrate": {"rotation": 0.1}}, 'found.calibrate: {"rotation": 0.1} was null'),
        ("object", {"pixels": {"slices": 2}}, "object.pixels.slices: 2 was 1"),
        ("noise", "amplitude", "noise.poisson: null was"),
        ("rates", {"object": 0.5}, ""),
        ("epochs", 4, ""),
    ],
)
def test_a_setting_that_the_snapshot_depends_on_may_not_change(server, inputs, tmp_path, name, change, said):
    """Its state would go on with another model than it was of, and the record would tell the wrong one."""
    assert server.run(f"reconstruct {inputs.run} --out o -q".split(), tmp_path).code == 0
    run = tmp_path / "o" / "run.yaml"
    tree = yaml.safe_load(run.read_text())
    old = tree[name]
    if name in ("probe", "object"):
        ((kind, values),) = change.items()
        change = {kind: {**old[kind], **values}}
    elif name == "found":
        change = {**old, **change}
    run.write_text(yaml.safe_dump({**tree, name: change}))
    other = server.run(["reconstruct", "--resume", "o", "-q"], tmp_path)
    assert other.code == (2 if said else 0), other.err
    if said:
        assert other.sentence.startswith(f"phaseloom: o/run.yaml: {said}")
        run.write_text(yaml.safe_dump(tree))
        assert server.run(["reconstruct", "--resume", "o", "-q"], tmp_path).code == 0


def test_a_folder_in_which_nothing_was_done_is_told_from_one_of_something_else(server, inputs, tmp_path):
    for name in ("lock", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "lock" / ".phaseloom.turn").write_text("")
    (tmp_path / "other" / "notes").write_text("")
    said = {
        name: server.run(["reconstruct", "--resume", name, "-q"], tmp_path).sentence
        for name in ("lock", "other")
    }
    fix = "holds no run.yaml, as nothing was done there yet: begin a run anew, or name its folder"
    assert said["lock"] == f"phaseloom: lock: {fix}"
    assert said["other"] == "phaseloom: other: holds no run.yaml: name the folder of a run"


def test_a_changed_seed_and_a_lost_snapshot_are_noticed(server, inputs, tmp_path):
    assert server.run(f"reconstruct {inputs.run} --out o -q".split(), tmp_path).code == 0
    run = tmp_path / "o" / "run.yaml"
    events = (tmp_path / "o" / "events.jsonl").read_text()
    tree = yaml.safe_load(run.read_text())
    run.write_text(yaml.safe_dump({**tree, "seed": 5, "epochs": 4}))
    other = server.run(["reconstruct", "--resume", "o", "-q"], tmp_path)
    assert other.code == 2
    assert other.sentence.startswith("phaseloom: o/run.yaml: seed: 5 was 0 when the run began")
    run.write_text(yaml.safe_dump(tree))
    (tmp_path / "o" / "snapshot.h5").rename(tmp_path / "kept.h5")
    lost = server.run(["reconstruct", "--resume", "o", "-q"], tmp_path)
    assert lost.code == 2
    assert lost.sentence.startswith("phaseloom: o: has lost its snapshot.h5: put it back")
    assert (tmp_path / "o" / "events.jsonl").read_text() == events
    (tmp_path / "kept.h5").rename(tmp_path / "o" / "snapshot.h5")
    (tmp_path / "o" / "events.jsonl").write_text("")
    empty = server.run(["reconstruct", "--resume", "o", "-q"], tmp_path)
    assert (empty.code, "events.jsonl: lacks epochs" in empty.sentence) == (2, True)


@pytest.mark.parametrize("suffix", ["/../../../outside", "a/b", "a\\b", "a\0b"])
def test_names_of_outputs_stay_in_the_folder(server, inputs, tmp_path, suffix):
    outcome = server.run(
        [
            "reconstruct",
            inputs.run,
            "--out",
            "in/o",
            "-q",
            "-s",
            f"outputs={json.dumps([{'stacks': {'suffix': suffix}}])}",
        ],
        tmp_path,
    )
    assert (outcome.code, outcome.has_traceback) == (2, False), outcome.err
    assert ("holds a character" if "\0" in suffix else "suffix") in outcome.sentence
    assert not (tmp_path / "in").exists()
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("title", ["a\0b", "\ud800"])
def test_titles_that_no_file_can_hold_are_refused_before_the_run(server, inputs, tmp_path, title):
    run = tmp_path / "run.yaml"
    run.write_text(json.dumps({**yaml.safe_load(inputs.run.read_text()), "title": title}))
    outcome = server.run(["reconstruct", run, "--out", "o", "-q"], tmp_path)
    assert (outcome.code, outcome.has_traceback) == (2, False), outcome.err
    assert "title" in outcome.sentence
    assert not (tmp_path / "o").exists()


@pytest.mark.medium
def test_a_search_folder_runs_no_code(server, inputs, tmp_path):
    class Attack:
        def __reduce__(self):
            import os

            return os.mkdir, ("PWNED",)

    import pickle

    over = {"over": {"rates.object": {"low": 0.5, "high": 1.5}, "rates.probe": {"low": 0.1, "high": 1.0}}}
    over |= {"sampler": {"cmaes": {"popsize": 3}}, "trials": 5, "finals": 0}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(over))
    words = ["search", inputs.run, "s.yaml", "--out", "se", "-q", "-s", "epochs=1"]
    assert server.run(words, tmp_path).code == 0
    journal = tmp_path / "se" / "study.journal"
    assert b"optimizer" not in journal.read_bytes()
    payload = pickle.dumps(Attack()).hex()
    lines = []
    for line in journal.read_text().splitlines():
        lines.append(line)
        log = json.loads(line)
        if "cma:generation" in log.get("system_attr", {}):
            lines.append(json.dumps({**log, "system_attr": {"cma:optimizer:0": payload}}))
    journal.write_text("\n".join(lines) + "\n")
    again = optuna.load_study(study_name="se", storage=JournalStorage(JournalFileBackend(str(journal))))
    tampered = [one for one in again.trials if "cma:optimizer:0" in one.system_attrs]
    outcome = server.run(["search", "se", "--resume", "--trials", "8", "-q"], tmp_path)
    assert (outcome.code, outcome.has_traceback) == (0, False), outcome.err
    assert not (tmp_path / "PWNED").exists()
    assert tampered
