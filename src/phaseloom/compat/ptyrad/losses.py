"""``ptyrad.losses`` of PtyRAD's tutorial."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from phaseloom.compat.ptyrad.schema import check_section
from phaseloom.compat.ptyrad.translation.fit import PENALTIES, translate_loss
from phaseloom.ptycho import penalties

__all__ = ["CombinedLoss"]


class CombinedLoss:
    """PtyRAD's losses as one function: their sum, and each of them."""

    def __init__(self, loss_params: Mapping[str, Any], device: Any = "cuda"):
        self.loss_params = check_section("loss_params", loss_params, [])
        self.device = device

    def __call__(
        self, model_DP: Tensor, measured_DP: Tensor, object_patches: Tensor, omode_occu: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Sum and list, in the order single, poissn, pacbed, sparse, simlar; what is off is zero.

        ``object_patches`` is what `PtychoAD.get_obj_patches` gives.
        """
        amplitude, phase = object_patches.unbind(-1)
        of_object = {"loss_sparse": (phase, omode_occu), "loss_simlar": (amplitude, phase, omode_occu)}
        losses = []
        for name, ours in PENALTIES.items():
            given = self.loss_params[name]
            if not given["state"] or (name == "loss_simlar" and amplitude.shape[1] == 1):
                losses.append(model_DP.new_zeros(()))
                continue
            values = of_object.get(name, (model_DP, measured_DP))
            losses.append(getattr(penalties, ours)(*values, **translate_loss(given)))
        return torch.stack(losses).sum(), losses
