"""How losses become one number: what each way does to them, what it collapses onto, what it keeps."""

import copy
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.restoration import weighting
from phaseloom.restoration.weighting import fixed, softmax, softmax_frozen, uncertainty
from phaseloom.spec import call, names

ROOM = "phaseloom.restoration.weighting"
NAMES = ["charbonnier", "perceptual", "gradient", "similarity"]
BRANCHES = ["low", "high"]
SIZES = (0.05, 0.5, 0.03, 0.10)
WAYS = (uncertainty, softmax, softmax_frozen, fixed)


def terms(*sizes: float, branches=BRANCHES, scale: float = 1.0) -> dict[str, dict[str, Tensor]]:
    """Losses of the same sizes in every branch, those of the second twice as large and so on."""
    return {
        branch: {name: torch.tensor(scale * (n + 1) * size) for name, size in zip(NAMES, sizes, strict=False)}
        for n, branch in enumerate(branches)
    }


def learned(weigh, losses, *, steps: int = 120, rate: float = 0.1):
    optimizer = torch.optim.AdamW(weigh.groups(rate))
    for _ in range(steps):
        optimizer.zero_grad()
        weigh(losses).backward()
        optimizer.step()
    return weigh


def within(weigh, branch: str) -> dict[str, float]:
    return {
        name.split(".")[1]: value for name, value in weigh.weights.items() if name.startswith(f"{branch}.")
    }


def test_plain_learned_shares_collapse_onto_the_smallest_loss_and_branch(caplog):
    weigh = learned(softmax(NAMES, BRANCHES, floor=0.0), terms(*SIZES))
    found = within(weigh, "low")
    assert max(found, key=found.get) == "gradient"
    assert found["gradient"] > 0.95
    assert weigh.weights["low"] > 0.95
    assert caplog.text.count("of the weight: the others are all but lost") == 1


def test_which_loss_wins_is_an_accident_of_its_unit():
    sizes = [size * (0.001 if name == "perceptual" else 1) for name, size in zip(NAMES, SIZES, strict=True)]
    found = within(learned(softmax(NAMES, ["low"], floor=0.0), terms(*sizes, branches=["low"])), "low")
    assert max(found, key=found.get) == "perceptual"


def test_shares_move_as_the_replicator_equation_says():
    weigh = softmax(NAMES, ["low"], floor=0.0, seed=2)
    losses = terms(*SIZES, branches=["low"])
    total = weigh(losses)
    total.backward()
    wanted = [within(weigh, "low")[name] * (losses["low"][name] - total).item() for name in NAMES]
    assert weigh.terms.grad.tolist() == pytest.approx(wanted, abs=1e-6)


def test_a_floor_keeps_its_share_for_every_loss(caplog):
    weigh = learned(softmax(NAMES, BRANCHES), terms(*SIZES))
    found = within(weigh, "high")
    assert min(found.values()) == pytest.approx(0.05, abs=2e-3)
    assert max(found.values()) < 0.86
    assert sum(found.values()) == pytest.approx(1)
    assert "low has 0.9" in caplog.text


def test_one_loss_alone_has_all_the_weight_and_no_warning(caplog):
    weigh = softmax(["charbonnier"], ["low"])
    weigh({"low": {"charbonnier": torch.tensor(0.1)}})
    assert weigh.weights == pytest.approx({"low": 1.0, "low.charbonnier": 1.0})
    assert not caplog.text


def test_uncertainty_ends_at_one_over_each_loss():
    weigh = uncertainty(NAMES, BRANCHES)
    weigh(terms(0.1, 0.25, 0.1, 0.1))
    learned(weigh, terms(*SIZES), steps=200)
    assert list(within(weigh, "low").values()) == pytest.approx([1 / size for size in SIZES], rel=0.01)
    assert list(within(weigh, "high").values()) == pytest.approx([0.5 / size for size in SIZES], rel=0.01)


def test_uncertainty_begins_at_its_fixed_point_where_every_loss_counts_one():
    weigh = uncertainty(NAMES, BRANCHES)
    total = weigh(terms(*SIZES))
    wanted = sum(1 + math.log(n * size) for n in (1, 2) for size in SIZES)
    assert total.item() == pytest.approx(wanted, rel=1e-5)
    total.backward()
    assert weigh.sizes.grad.abs().max() < 1e-6


def test_uncertainty_does_not_feel_the_unit_of_a_loss():
    losses = [torch.tensor(0.2, requires_grad=True) for _ in range(2)]
    pushes = []
    for loss, unit in zip(losses, (1.0, 250.0), strict=True):
        uncertainty(["charbonnier"], ["low"])({"low": {"charbonnier": unit * loss}}).backward()
        pushes.append(loss.grad.item())
    assert pushes[0] == pytest.approx(pushes[1])
    assert pushes[0] == pytest.approx(1 / 0.2)


def test_sizes_stay_within_bounds_and_come_back():
    weigh, end = uncertainty(["charbonnier"], ["low"]), torch.tensor(0.0)
    learned(weigh, {"low": {"charbonnier": end}}, steps=30)
    weigh({"low": {"charbonnier": end}})
    assert weigh.weights["low.charbonnier"] == pytest.approx(math.exp(8))
    learned(weigh, {"low": {"charbonnier": torch.tensor(0.01)}}, steps=100)
    assert weigh.weights["low.charbonnier"] == pytest.approx(100, rel=0.3)
    huge = uncertainty(["charbonnier"], ["low"])
    huge({"low": {"charbonnier": torch.tensor(1e30)}})
    assert huge.weights["low.charbonnier"] == pytest.approx(math.exp(-8))


def test_a_first_batch_that_is_looked_at_or_not_finite_sets_no_size():
    weigh = uncertainty(NAMES, BRANCHES)
    with torch.no_grad():
        assert weigh(terms(*SIZES)).item() == pytest.approx(3 * sum(SIZES))
    assert not weigh(terms(math.nan, 0.5, math.inf, 0.1)).isfinite()
    assert weigh.begun.tolist() == [[False, True, False, True]] * 2
    assert weigh(terms(*SIZES)).isfinite()
    assert weigh.begun.all()


def test_losses_below_zero_are_refused_where_they_have_no_size():
    with pytest.raises(BadInput, match=r"-0.5 is below zero, for a first loss: 'uncertainty' needs"):
        uncertainty(["poisson"], ["low"])({"low": {"poisson": torch.tensor(-0.5)}})


def test_frozen_shares_are_the_seeds_and_never_change():
    weigh, same, other = (softmax_frozen(NAMES, BRANCHES, seed=seed) for seed in (1, 1, 2))
    before = weigh.weights
    assert before == same.weights != other.weights
    for branch in BRANCHES:
        assert sum(within(weigh, branch).values()) == pytest.approx(1)
    assert weigh.weights["low"] + weigh.weights["high"] == pytest.approx(1)
    losses = {b: {n: value.requires_grad_() for n, value in row.items()} for b, row in terms(*SIZES).items()}
    optimizer = torch.optim.Adam([*weigh.parameters(), *losses["low"].values()], lr=0.1)
    weigh(losses).backward()
    optimizer.step()
    assert weigh.weights == before
    assert weigh.groups(0.1) == []


def test_frozen_shares_are_within_what_the_first_design_can_draw():
    drawn = [softmax_frozen(NAMES, BRANCHES, seed=seed).weights for seed in range(50)]
    inner = [value for weights in drawn for name, value in weights.items() if "." in name]
    outer = [value for weights in drawn for name, value in weights.items() if "." not in name]
    assert 1 / (1 + 3 * math.e) < min(inner) < 0.2
    assert 0.3 < max(inner) < math.e / (math.e + 3)
    assert 1 / (1 + math.e) < min(outer) < 0.4
    assert 0.6 < max(outer) < math.e / (1 + math.e)


@pytest.mark.parametrize("way", WAYS[1:])
def test_the_number_is_the_sum_over_branches_and_losses_of_weights_times_losses(way):
    weigh, losses = way(NAMES, BRANCHES), terms(*SIZES)
    total, weights = weigh(losses).item(), weigh.weights
    wanted = sum(
        weights[b] * weights[f"{b}.{n}"] * value.item()
        for b, row in losses.items()
        for n, value in row.items()
    )
    assert total == pytest.approx(wanted, rel=1e-5)


def test_fixed_numbers_are_the_users():
    weigh = fixed(NAMES, BRANCHES, parts=(1.0, 0.5))
    assert weigh.weights == pytest.approx(
        {"low": 1.0, "high": 0.5}
        | {f"{b}.{n}": w for b in BRANCHES for n, w in zip(NAMES, (0.03, 0.025, 0.02, 0.01), strict=True)}
    )
    assert weigh.groups(0.1) == []


@pytest.mark.parametrize("way", WAYS)
def test_what_is_absent_takes_no_part_in_it(way):
    weigh = way(NAMES, BRANCHES)
    few = {"low": {"similarity": torch.tensor(0.3), "charbonnier": torch.tensor(0.2)}, "high": {}}
    total = weigh(few)
    assert set(weigh.weights) == {"low", "low.charbonnier", "low.similarity"}
    if way in (softmax, softmax_frozen):
        assert sum(within(weigh, "low").values()) == pytest.approx(1)
        assert weigh.weights["low"] == pytest.approx(1)
        assert 0.2 < total.item() < 0.3
    if way is uncertainty:
        assert total.item() == pytest.approx(2 + math.log(0.2) + math.log(0.3))
        total.backward()
        assert not weigh.sizes.grad[:, 1:3].any()


@pytest.mark.parametrize("way", WAYS)
def test_a_state_goes_through_a_file_and_weighs_as_before(way):
    weigh = way(NAMES, BRANCHES)
    weigh(terms(*SIZES))
    save_file(weigh.state_dict(), "weights.safetensors")
    again = way(NAMES, BRANCHES)
    again.load_state_dict(load_file("weights.safetensors"))
    later = terms(0.1, 0.2, 0.3, 0.4)
    assert again(later).item() == weigh(later).item()
    assert again.weights == weigh.weights
    assert copy.deepcopy(weigh)(later).item() == weigh(later).item()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("others", [NAMES[::-1], [*NAMES[:3], "perceptual_random"]])
def test_a_state_of_other_losses_is_refused(way, others):
    with pytest.raises(BadInput, match=r"cannot be continued with .* list the same losses"):
        way(others, BRANCHES).load_state_dict(way(NAMES, BRANCHES).state_dict())


@pytest.mark.parametrize("way", WAYS)
def test_half_precision_and_autocast_keep_the_number_finite(way):
    losses = {b: {n: value.bfloat16() for n, value in row.items()} for b, row in terms(*SIZES).items()}
    weigh = way(NAMES, BRANCHES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = weigh(losses)
    assert total.dtype == torch.float32
    assert total.isfinite()


def test_weights_have_a_group_of_their_own_without_decay():
    (group,) = uncertainty(NAMES, BRANCHES).groups(0.02)
    assert group["lr"] == 0.02
    assert group["weight_decay"] == 0
    assert [value.shape for value in group["params"]] == [(2, 4)]
    assert len(softmax(NAMES, BRANCHES).groups(0.02)[0]["params"]) == 2


def test_what_cannot_be_meant_is_refused():
    weigh, one = uncertainty(NAMES, ["low"]), {"charbonnier": torch.tensor(1.0)}
    with pytest.raises(BadInput, match="no branch 'hihg'"):
        uncertainty(NAMES, BRANCHES)({"hihg": one})
    with pytest.raises(BadInput, match="no loss 'gradent'; did you mean 'gradient'"):
        weigh({"low": {"gradent": torch.tensor(1.0)}})
    with pytest.raises(BadInput, match="no losses to weigh"):
        weigh({"low": {}})
    with pytest.raises(BadInput, match="one or more different names"):
        softmax(["gradient", "gradient"], BRANCHES)
    with pytest.raises(BadInput, match="leaves nothing for 4 terms to share"):
        softmax(NAMES, BRANCHES, floor=0.25)
    with pytest.raises(BadInput, match="one number for each of charbonnier, perceptual"):
        fixed(NAMES, BRANCHES, numbers=(1.0, 2.0))
    with pytest.raises(BadInput, match="finite numbers from zero up"):
        fixed(NAMES, BRANCHES, numbers=(1.0, -2.0, 0.0, 0.0))


def test_a_training_file_names_them():
    assert names(ROOM) == ["fixed", "softmax", "softmax_frozen", "uncertainty"]
    weigh = call(ROOM, {"fixed": {"numbers": [1, 2, 3, 4]}}, "weighting")(NAMES, ["low"])
    assert within(weigh, "low") == pytest.approx(dict(zip(NAMES, (1, 2, 3, 4), strict=True)))
    assert isinstance(call(ROOM, "uncertainty", "weighting")(NAMES, BRANCHES), weighting.UncertaintyWeighting)
