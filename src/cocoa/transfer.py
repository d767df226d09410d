"""Tensors on their way to the device that computes with them."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor on a device; the copy to a GPU is only begun.

    What is computed on the GPU waits for it there; the thread that asks goes on.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        # Only from pinned memory does a copy go on by itself.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
