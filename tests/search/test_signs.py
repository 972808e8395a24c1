"""What becomes of the trials of processes that have died, by their signs."""

import optuna
from optuna.trial import TrialState

from phaseloom.search.study import Heartbeat, enqueue_tickets, open_study


def read_states(study: optuna.Study) -> list[str]:
    return [one.state.name for one in study.get_trials(deepcopy=False)]


def test_a_trial_without_a_sign_waits_again_at_once(tmp_path):
    """Its process died between the two writes: that it asked, and that it works on it."""
    study = open_study(None, tmp_path, "a")
    enqueue_tickets(study, dict.fromkeys(range(3)))
    heartbeat = Heartbeat(tmp_path, "trials", silence=60)
    lost, alive = study.ask(), study.ask()
    heartbeat.sign(alive.number)
    assert read_states(study) == ["RUNNING", "RUNNING", "WAITING"]
    heartbeat.take_back_trials(study)
    assert read_states(study) == ["WAITING", "RUNNING", "WAITING"]
    assert study.ask().number == lost.number
    assert len(study.get_trials(states=(TrialState.FAIL,))) == 0
