"""How large a forward pass is: by the values of its states on a CPU, by tokens elsewhere."""

from __future__ import annotations

import torch

from cocoa.model.passes import pass_tokens


def test_a_wide_model_has_shorter_passes_on_a_cpu_and_a_gpu_has_what_it_is_given():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    sizes = [pass_tokens(cpu, hidden_size, 16_384) for hidden_size in (16, 128, 384, 1536)]
    assert sizes == [2048, 1024, 341, 256]
    assert pass_tokens(cpu, 128, 100) == 100
    assert pass_tokens(gpu, 1536, 16_384) == 16_384
