"""How do convolutions that no layer shows, such as calls of F.conv1d, compute on clconv?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from clconv.torch.functions import conv1d, conv_transpose1d
from clconv.torch.memory import DTYPES

# torch.nn.functional's are the same objects.
OURS: dict[Any, Callable[..., Tensor]] = {
    torch.conv1d: conv1d,
    torch.conv_transpose1d: conv_transpose1d,
}


def patched() -> AbstractContextManager[Any]:
    """In a `with` block, torch.nn.functional's conv1d and conv_transpose1d compute on clconv.

    For what `convert` cannot see: functional models, transforms such as torchaudio's Resample, and
    julius. It serves the calls of this thread, those of layers too, and their backward passes
    wherever these run. Tensors that clconv does not take (complex and whole numbers, other devices,
    other layouts) go to PyTorch as before; so does what TorchScript compiled.

    Returns:
        A context manager.

    Examples:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> x, weight = torch.ones(1, 1, 4), torch.ones(1, 1, 3)
        >>> with patched():
        ...     y = F.conv1d(x, weight, padding=1)
        >>> y
        tensor([[[2., 3., 3., 2.]]])
    """
    return _Redirecting()


class _Redirecting(TorchFunctionMode):
    """Takes PyTorch's calls; while it answers one, PyTorch asks it nothing."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        ours = OURS.get(func)
        if ours is not None and _takes(*args[:3], *map(named.get, ("input", "weight", "bias"))):
            return ours(*args, **named)
        return func(*args, **named)


def _takes(*tensors: Any) -> bool:
    """Whether clconv computes with such tensors."""
    return all(
        one.device.type == "cpu"
        and one.layout is torch.strided
        and one.dtype in DTYPES
        and not one.is_nested
        for one in tensors
        if isinstance(one, Tensor)
    )
