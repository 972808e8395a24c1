"""PtyRAD's parameter files are read as PtyRAD reads them, and mistakes are said in a sentence."""

import copy
import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, mock_open, patch

import pytest

from phaseloom.compat import ptyrad
from phaseloom.compat.ptyrad.legacy import migrate, to_krivanek
from phaseloom.compat.ptyrad.schema import SECTIONS, check_tree, is_ptyrad
from phaseloom.compat.ptyrad.settings import Settings, find_group
from phaseloom.errors import BadInput
from tests import ptyrad as ptyrad_files

LEAST = ptyrad_files.LEAST | {"pos_scan_step_size": 0.4, "obj_Nlayer": 1, "meas_params": {"path": "scan.npy"}}


def tree(**changes: Any) -> dict[str, Any]:
    """The least file, with sections or keys of ``init_params`` changed."""
    sections = {key: value for key, value in changes.items() if key in SECTIONS}
    init = LEAST | {key: value for key, value in changes.items() if key not in SECTIONS}
    return {"init_params": init} | sections


def count_leaves(group: type[Settings]) -> int:
    inner = [find_group(field.annotation) for field in group.model_fields.values()]
    return sum(1 if one is None else count_leaves(one) for one in inner)


def test_the_tables_hold_every_key():
    sizes = {name: len(group.model_fields) for name, group in SECTIONS.items()}
    assert sizes == {
        "init_params": 56,
        "hypertune_params": 12,
        "model_params": 5,
        "loss_params": 5,
        "constraint_params": 16,
        "recon_params": 16,
    }
    assert count_leaves(SECTIONS["constraint_params"]) == 84
    assert count_leaves(SECTIONS["loss_params"]) == 18
    tuned = find_group(SECTIONS["hypertune_params"].model_fields["tune_params"].annotation)
    assert tuned is not None
    assert len(tuned.model_fields) == 34 + 3


def test_the_least_file_gets_all_defaults():
    full, notes = check_tree(tree())
    assert notes == []
    assert full["init_params"]["pos_N_scans"] == 72
    assert full["init_params"]["pos_scan_rand_std"] == 0.15
    assert full["init_params"]["meas_calibration"] == {"mode": "fitRBF", "value": None}
    assert full["init_params"]["meas_pad"] is None
    assert full["model_params"]["update_params"]["probe"]["lr"] == 1e-4
    assert full["constraint_params"]["obj_rblur"]["start_iter"] == 1
    assert full["constraint_params"]["kz_filter"]["start_iter"] is None
    assert full["recon_params"]["NITER"] == 200


def test_reading_twice_changes_nothing():
    given = tree(meas_pad={"target_Npix": 200}, probe_aberrations={"defocus": 20, "A1": 5, "A1phi": 30})
    full, _ = check_tree(given)
    again, notes = check_tree(copy.deepcopy(full) | {"params_path": "params.yaml"})
    assert again == full
    assert notes == []


def test_what_was_given_is_left_alone():
    given = tree(probe_defocus=50, constraint_params={"ortho_pmode": {"freq": 2}})
    before = copy.deepcopy(given)
    check_tree(given)
    assert given == before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"meas_Npx": 1}, "init_params: there is no 'meas_Npx'; did you mean 'meas_Npix'?"),
        (
            {"loss_params": {"loss_singel": {}}},
            "loss_params: there is no 'loss_singel'; did you mean 'loss_single'?",
        ),
        (
            {"constraint_params": {"obj_zblur": {"sdt": 1}}},
            "constraint_params.obj_zblur: there is no 'sdt'; did you mean 'std'?",
        ),
        ({"meas_source": "hdf"}, "init_params.meas_source: hdf is not a choice"),
        ({"meas_Npix": 0}, "init_params.meas_Npix: 0 must be at least 1"),
        ({"meas_Npix": 12.5}, "init_params.meas_Npix: 12.5 must be a whole number"),
        ({"probe_conv_angle": None}, "init_params.probe_conv_angle: is missing"),
        ({"probe_illum_type": "xray"}, "init_params.beam_kev: is missing"),
        ({"meas_flipT": [1, 0]}, "init_params.meas_flipT: [1, 0] has too few values"),
        ({"meas_flipT": [1, 0, 2]}, "init_params.meas_flipT"),
        ({"meas_calibration": {"mode": "dx"}}, "init_params.meas_calibration.value: is missing"),
        (
            {"meas_normalization": {"mode": "divide_const"}},
            "init_params.meas_normalization.value: is missing",
        ),
        ({"pos_N_scans": 71}, "init_params.pos_N_scans: 71 is not"),
        ({"probe_pmode_init_pows": [0.5, 0.5]}, "init_params.probe_pmode_init_pows"),
        ({"probe_pmode_max": 2, "probe_pmode_init_pows": [0.5, 0.4]}, "must add to 1"),
        ({"obj_z_crop": [3, 3]}, "init_params.obj_z_crop"),
        ({"probe_source": "PtyRAD"}, "init_params.probe_params"),
        ({"meas_source": "custom"}, "init_params.meas_source: custom needs an array in memory"),
        ({"meas_params": "scan.npy"}, "init_params.meas_params"),
        ({"obj_params": [1, 2]}, "init_params.obj_params"),
        ({"simu_Npix": 256}, "init_params.simu_match_mode: is missing"),
        ({"probe_aberrations": {"C11": 1}}, "probe_aberrations: C11 is not an aberration"),
        ({"probe_aberrations": {"phi10": 1}}, "probe_aberrations: phi10 is not an aberration"),
        ({"probe_aberrations": {"C10": 1, "defocus": 1}}, "is said twice"),
        ({"probe_aberrations": {"C12": 1, "C12a": 1}}, "is said twice"),
        ({"loss_params": {"loss_single": {"state": False}}}, "loss_params: has no term"),
        (
            {"model_params": {"update_params": {"obja": {"start_iter": 1}}}},
            "update_params.obja.lr: 0 must not",
        ),
        (
            {"model_params": {"optimizer_params": {"name": "Adm"}}},
            "optimizer_params.name: Adm is not a choice",
        ),
        ({"recon_params": {"prefix_time": "daily"}}, "recon_params.prefix_time"),
        ({"recon_params": {"result_modes": {"bit": ["12"]}}}, "recon_params.result_modes.bit"),
        (
            {
                "hypertune_params": {
                    "tune_params": {"C10": {"state": True, "suggest": "float", "kwargs": {"low": 1}}}
                }
            },
            "kwargs.high: is missing",
        ),
        (
            {
                "hypertune_params": {
                    "tune_params": {
                        "defocus": {"state": True, "suggest": "float", "kwargs": {"low": 1, "high": 2}}
                    }
                }
            },
            "is called C10 since 0.1.0b13, and is minus the defocus",
        ),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], sentence: str):
    with pytest.raises(BadInput) as problem:
        check_tree(tree(**changes))
    assert sentence in str(problem.value)


def test_sections_that_nobody_knows_are_refused():
    with pytest.raises(BadInput, match="unknown section 'model_param'; did you mean 'model_params'"):
        check_tree(tree() | {"model_param": {}})
    with pytest.raises(BadInput, match="exp_params: is a section of PtyRAD before"):
        check_tree({"exp_params": {}, "source_params": {}})


def test_files_of_ours_are_not_taken_for_ptyrads():
    assert is_ptyrad(tree())
    assert is_ptyrad({"exp_params": {}, "recon_params": {}})
    assert not is_ptyrad({"file": "scan.h5", "epochs": 20})
    assert not is_ptyrad([1])


def test_old_lens_keys_move_and_the_new_ones_win():
    out, notes = migrate(tree(probe_defocus=50, probe_c3=1e4, probe_c5=2e5))
    assert out["init_params"]["probe_aberrations"] == {"C10": -50.0, "C30": 1e4, "C50": 2e5}
    assert len(notes) == 3
    out, notes = migrate(tree(probe_defocus=50, probe_aberrations={"C1": 20}))
    assert out["init_params"]["probe_aberrations"] == {"C10": 20.0}
    assert "passed over" in notes[0]


def test_old_flags_are_passed_over_with_a_note():
    changes = {"model_params": {"obj_preblur_std": 0.5}, "recon_params": {"if_quiet": True}}
    _, notes = check_tree(tree(**changes))
    assert [note.split(" ")[0] for note in notes] == ["model_params.obj_preblur_std", "recon_params.if_quiet"]


def test_an_inactive_old_search_parameter_is_passed_over():
    off = {"state": False, "suggest": "float", "kwargs": {"low": 1, "high": 2}}
    full, notes = check_tree(tree(hypertune_params={"tune_params": {"defocus": off}}))
    assert "defocus" not in full["hypertune_params"]["tune_params"]
    assert len(notes) == 1


def test_freq_is_a_step_and_a_missing_start_switches_off():
    constraints = {"kz_filter": {"freq": 3}, "obj_rblur": {"std": 0.8}, "obj_zblur": {"start_iter": 4}}
    full, notes = check_tree(tree(constraint_params=constraints))
    found = full["constraint_params"]
    assert (found["kz_filter"]["start_iter"], found["kz_filter"]["step"]) == (1, 3)
    assert found["obj_rblur"]["start_iter"] is None
    assert found["obj_rblur"]["std"] == 0.8
    assert found["obj_zblur"]["start_iter"] == 4
    assert any("obj_rblur is off" in note for note in notes)


def test_a_rate_that_is_written_without_a_start_stays_fixed():
    full, notes = check_tree(tree(model_params={"update_params": {"probe": {"lr": 1e-3}}}))
    assert full["model_params"]["update_params"]["probe"]["start_iter"] is None
    assert any("update_params.probe stays fixed" in note for note in notes)


def test_numbers_that_yaml_takes_for_text_are_numbers():
    updates = {"probe": {"start_iter": 1, "lr": "1e-4"}}
    full, _ = check_tree(tree(probe_kv="80", model_params={"update_params": updates}))
    assert full["init_params"]["probe_kv"] == 80
    assert full["model_params"]["update_params"]["probe"]["lr"] == 1e-4


@pytest.mark.parametrize(
    ("given", "polar"),
    [
        ({"C21a": 30, "C21b": 40}, {"C21": 50.0, "phi21": 53.13}),
        ({"C12b": -10}, {"C12": 10.0, "phi12": -45.0}),
        ({"A1": 20, "A1phi": 15}, {"C12": 20.0, "phi12": 15.0}),
        (
            {"B2": 10, "S3": 10, "D4": 10, "R5": 10},
            {"C21": 30, "phi21": 0, "C32": 40, "phi32": 0, "C43": 40, "phi43": 0, "C54": 60, "phi54": 0},
        ),
        ({"Cs": 1e4, "defocus": -30}, {"C10": 30.0, "C30": 1e4}),
        ({"C70": 5, "C10": 0, "C23": 0}, {"C70": 5.0}),
    ],
)
def test_every_notation_of_aberrations(given: dict[str, float], polar: dict[str, float]):
    assert to_krivanek(given) == polar


def test_files_are_read_in_three_notations_and_never_run(tmp_path: Path):
    given = tree()
    (tmp_path / "p.json").write_text(json.dumps(given))
    lines = [f"{key} = {json.dumps(value)}" for key, value in LEAST.items() if not isinstance(value, dict)]
    text = "\n".join(["[init_params]", *lines, "[init_params.meas_params]", 'path = "scan.npy"'])
    (tmp_path / "p.toml").write_text(text)
    (tmp_path / "p.yml").write_text(json.dumps(given))
    assert ptyrad.load(tmp_path / "p.json") == ptyrad.load(tmp_path / "p.toml") == given
    assert ptyrad.load(tmp_path / "p.yml") == given
    for name, sentence in {
        "p.py": "must not run code",
        "p.txt": "must end in",
        "none.yaml": "cannot be read",
    }.items():
        with pytest.raises(BadInput, match=sentence):
            ptyrad.load(tmp_path / name)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BadInput, match="is not JSON"):
        ptyrad.load(tmp_path / "bad.json")


class TestPreprocessing:
    """The checks that the tutorial prints, on our module."""

    def test_normalize_constraint_params(self):
        given = {"tv_constraint": {"freq": 10, "alpha": 0.1}, "positivity": {"start_iter": 5, "step": 2}}
        wanted = {
            "tv_constraint": {"start_iter": 1, "step": 10, "end_iter": None, "alpha": 0.1},
            "positivity": {"start_iter": 5, "step": 2, "end_iter": None},
        }
        assert ptyrad._normalize_constraint_params(given) == wanted

    @patch("phaseloom.compat.ptyrad.PtyRADParams")
    @patch("phaseloom.compat.ptyrad.Initializer")
    @patch("phaseloom.compat.ptyrad.CombinedLoss")
    @patch("phaseloom.compat.ptyrad.CombinedConstraint")
    @patch("phaseloom.compat.ptyrad.CustomLogger")
    @patch("phaseloom.compat.ptyrad.set_gpu_device")
    @patch("phaseloom.compat.ptyrad.print_system_info")
    def test_load_and_preprocess_flow(self, info, gpu, logger, constraint, loss, init, params):
        gpu.return_value = "cpu"
        dumped = {"init_params": {}, "loss_params": {}, "constraint_params": {}}
        params.return_value = MagicMock(**{"model_dump.return_value": dumped})
        begun = MagicMock(init_variables="mock_variables")
        begun.init_all.return_value = begun
        init.return_value = begun
        text = """
        init_params: {}
        loss_params: {}
        constraint_params:
            test_const: {freq: 5}
        """
        with patch("builtins.open", mock_open(read_data=text)), patch("os.path.exists", return_value=True):
            context = ptyrad.load_and_preprocess_data("dummy_config.yaml", gpuid=0)
        assert "params" in context
        assert context["device"] == "cpu"
        assert context["init_variables"] == "mock_variables"
        assert params.call_args[1]["constraint_params"]["test_const"]["step"] == 5


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_evaluation_closes_the_log_and_lets_processes_go(flush: bool, together: bool):
    logger = MagicMock(flush_file=flush)
    with (
        patch("torch.distributed.is_initialized", return_value=together),
        patch("torch.distributed.destroy_process_group") as destroy,
    ):
        ptyrad.evaluate_results({"model": None, "logger": logger})
    assert logger.close.called == flush
    assert destroy.called == together
