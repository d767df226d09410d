"""How large a forward pass is: by the values of its states on a CPU, by tokens elsewhere; and whose threads it uses."""

from __future__ import annotations

from threading import Event, Thread

import pytest
import torch

from cocoa.model.passes import pass_tokens, run_passes

CHUNKS = [[[number]] for number in range(4)]


@pytest.fixture
def eight_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


class Passes(Thread):
    """Passes in a thread of their own; each waits until it may go on, and notes how many threads it has."""

    def __init__(self):
        super().__init__()
        self.has_begun, self.may_go_on = Event(), Event()
        self.shares = []
        self.start()
        assert self.has_begun.wait(60)

    def run(self):
        list(run_passes(CHUNKS, lambda chunk: chunk, self.embed, torch.device("cpu")))
        self.left_with = torch.get_num_threads()

    def embed(self, ready):
        self.shares.append(torch.get_num_threads())
        self.has_begun.set()
        assert self.may_go_on.wait(60)
        return torch.zeros(1, 2)

    def end(self):
        self.may_go_on.set()
        self.join()


def threads_of_a_new_thread():
    found = []
    asking = Thread(target=lambda: found.append(torch.get_num_threads()))
    asking.start()
    asking.join()
    return found[0]


def test_passes_that_overlap_share_the_threads_alike_and_leave_their_number_as_it_was(eight_threads):
    first = Passes()
    second = Passes()
    first.end()
    second.end()
    assert set(first.shares) == set(second.shares) == {2}
    assert threads_of_a_new_thread() == first.left_with == second.left_with == torch.get_num_threads() == 8


def test_a_wide_model_has_shorter_passes_on_a_cpu_and_a_gpu_has_what_it_is_given():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    sizes = [pass_tokens(cpu, hidden_size, 16_384) for hidden_size in (16, 128, 384, 1536)]
    assert sizes == [2048, 1024, 341, 256]
    assert pass_tokens(cpu, 128, 100) == 100
    assert pass_tokens(gpu, 1536, 16_384) == 16_384
