"""The processes of a run: which one this is, and what all of them know together.

One process needs no process group: then every sum is its own. Several are started by `torchrun`; they talk by gloo on
CPUs and by nccl on GPUs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed
from torch.nn import Parameter

from cocoa.errors import UsageError

LARGEST_MESSAGE = 2**26
"""Numbers of gradients that are copied and sent at once; a larger weight goes alone."""


@dataclass(frozen=True)
class Ranks:
    """`number` of `count` processes, computing on `device`."""

    number: int
    count: int
    device: torch.device

    @classmethod
    def join(cls, timeout: float = 600) -> Ranks:
        """Returns this process among those that `torchrun` started, or as the only one; uses a GPU if there is one.

        One that waits for another for more than `timeout` seconds ends with an error. Raises `E_USAGE_RANKS` where a
        machine has fewer GPUs than ranks.
        """
        has_gpu = torch.cuda.is_available()
        if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(0, 1, torch.device("cuda" if has_gpu else "cpu"))
        device = torch.device("cpu")
        if has_gpu:
            number, num_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if number >= num_gpus:
                message = f"rank {number} of a machine has no GPU of its own: {num_gpus} are seen; start as many ranks"
                raise UsageError("E_USAGE_RANKS", message)
            device = torch.device("cuda", number)
            torch.cuda.set_device(device)
        if not distributed.is_initialized():
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if has_gpu else "gloo", timeout=timedelta(seconds=timeout)
            )
        return cls(distributed.get_rank(), distributed.get_world_size(), device)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.number == 0

    def leave(self) -> None:
        """Ends the process group, if there is one."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def share(self, size: int) -> range:
        """Returns this process's places of `size` things: neighbours, so that all shares in order are all things."""
        return range(size * self.number // self.count, size * (self.number + 1) // self.count)

    def total(self, values: Tensor) -> Tensor:
        """Returns the sum over all processes of a tensor of equal shape, where the tensor is."""
        if self.count == 1:
            return values
        summed = values.clone()
        distributed.all_reduce(summed)
        return summed

    def most(self, value: int) -> int:
        """Returns the largest of all processes' numbers."""
        if self.count == 1:
            return value
        largest = torch.tensor([value])
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def agree(self, text: str) -> bool:
        """Returns whether all processes gave the same text."""
        digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        return self.most(digest) == -self.most(-digest)

    def lines(self, own: Iterable[str]) -> list[str]:
        """Returns the lines of text of all processes, in their order; none may hold a line break."""
        text = "".join(f"{line}\n" for line in own).encode()
        every, _ = self.gather(torch.tensor(list(text), dtype=torch.uint8))
        return bytes(every.tolist()).decode().split("\n")[:-1]

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        """Returns the rows [any number, ...] of all processes, in their order, and where this process's begin."""
        if self.count == 1:
            return rows, 0
        rows = rows.detach()
        sizes = torch.zeros(self.count, dtype=torch.int64)
        sizes[self.number] = len(rows)
        counts = self.total(sizes).tolist()
        if not any(counts):
            return rows, 0
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(gathered, padded)
        whole = torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])
        return whole, sum(counts[: self.number])

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.count > 1:
            distributed.barrier()

    def add_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Replaces every gradient by its sum over all processes, in messages of up to `LARGEST_MESSAGE` numbers.

        A parameter without a gradient anywhere stays without; one that has it somewhere counts as 0 elsewhere.
        """
        if self.count == 1:
            return
        trained = list(parameters)
        has = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.int32)
        distributed.all_reduce(has, distributed.ReduceOp.MAX)
        used = [parameter for parameter, anywhere in zip(trained, has.tolist(), strict=True) if anywhere]
        for dtype in sorted({parameter.dtype for parameter in used}, key=str):
            for group in _messages([parameter for parameter in used if parameter.dtype == dtype]):
                flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in group])
                distributed.all_reduce(flat)
                parts = torch.split(flat, [parameter.numel() for parameter in group])
                for parameter, part in zip(group, parts, strict=True):
                    parameter.grad = part.view_as(parameter)


def _messages(parameters: Sequence[Parameter]) -> Iterator[list[Parameter]]:
    """Neighbours that are sent together: a copy of all gradients at once would be as large as the weights."""
    group: list[Parameter] = []
    size = 0
    for parameter in parameters:
        if group and size + parameter.numel() > LARGEST_MESSAGE:
            yield group
            group, size = [], 0
        group.append(parameter)
        size += parameter.numel()
    if group:
        yield group
