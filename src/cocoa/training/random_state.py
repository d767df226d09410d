"""Torch's random streams: kept, replayed, and written into checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cocoa.training.ranks import Ranks


@dataclass(frozen=True)
class RandomState:
    """Where torch's random streams stand, on the CPU and on this process's GPU."""

    cpu: Tensor
    gpu: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """Returns the state as it is."""
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore(self) -> None:
        """Makes torch draw again what it drew from here."""
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu)

    @classmethod
    def read(cls, text: dict[str, str], device: torch.device) -> RandomState:
        """Returns the state that `random_states` wrote of a process; without a GPU's where `device` is none."""
        cpu, gpu = (torch.tensor(list(bytes.fromhex(text[kind])), dtype=torch.uint8) for kind in ("cpu", "gpu"))
        return cls(cpu, gpu if device.type == "cuda" and len(gpu) else None)


def random_states(ranks: Ranks) -> list[dict[str, str]]:
    """Returns every rank's random state as it is, as hexadecimal text; every rank must call this."""
    state = RandomState.now(ranks.device)
    cpu, _ = ranks.gather(state.cpu[None])
    gpu, _ = ranks.gather((state.gpu if state.gpu is not None else torch.empty(0, dtype=torch.uint8))[None])
    return [
        {"cpu": bytes(one.tolist()).hex(), "gpu": bytes(other.tolist()).hex()}
        for one, other in zip(cpu, gpu, strict=True)
    ]
