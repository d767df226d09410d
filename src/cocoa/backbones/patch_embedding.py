"""The first layer of the vision tower as one matrix product.

Stock towers write it as a 3-D convolution whose kernel is as large as a patch. A patch then meets each filter once:
a product of [P, F] patches with an [F, W] matrix, for which convolution routines take longer.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PatchEmbedding(nn.Module):
    """Stands where the stock module stood; its weights have the same names and shapes."""

    def __init__(self, stock: nn.Module) -> None:
        super().__init__()
        assert isinstance(stock.proj, nn.Conv3d)
        self.proj = stock.proj

    def forward(self, patches: Tensor) -> Tensor:
        """Returns [P, W], the tower's width, of patches [P, F]."""
        weight = self.proj.weight
        return functional.linear(patches.to(weight.dtype), weight.flatten(1), self.proj.bias)
