"""How does a PyTorch model compute its 1-D convolutions with clconv?

`convert(model)` exchanges a model's layers and `revert` undoes it, `patched` redirects calls of
torch.nn.functional, `report` says where each convolution is computed, `warm_up` builds their
kernels before the first call, `tune` finds the fastest ones, `stream` takes a signal in chunks;
`Conv1d` and `ConvTranspose1d` are torch.nn's layers, `conv1d` and `conv_transpose1d`
torch.nn.functional's functions, with derivatives in both modes, of any order. `causal_conv1d_fn`
and `causal_conv1d_update` are those of the package causal-conv1d; `use_in_transformers` lets the
models of transformers call them. All are operators of PyTorch's dispatcher, so that torch.compile
and torch.export keep them in their graphs.

Tensors are CPU tensors. Where the device shares the host's memory (PoCL, integrated GPUs) kernels
read and write it in place; elsewhere every call copies tensors to the device and results back. A
call runs on the default runtime of its thread and returns when the result is there. Sums of
float16 and bfloat16 are float32's, rounded once; bfloat16 needs ml_dtypes. Errors are clconv's:
ProblemError for impossible shapes and parameters, where PyTorch has a RuntimeError; TypeError for
tensors on other devices.
"""

from clconv.errors import missing

try:
    from clconv.torch.conversion import convert, revert
    from clconv.torch.expanded import register
    from clconv.torch.functions import conv1d, conv_transpose1d
    from clconv.torch.in_transformers import use_in_transformers
    from clconv.torch.layers import Conv1d, ConvTranspose1d
    from clconv.torch.patching import patched
    from clconv.torch.reporting import Convolution, Report, report
    from clconv.torch.sequences import causal_conv1d_fn, causal_conv1d_update
    from clconv.torch.streaming import TorchStream, stream
    from clconv.torch.tuning import Tuned, tune
    from clconv.torch.warming import warm_up
except ModuleNotFoundError as error:
    raise missing(error, "clconv.torch", torch="torch") from None

register()

__all__ = [
    "Conv1d",
    "ConvTranspose1d",
    "Convolution",
    "Report",
    "TorchStream",
    "Tuned",
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "conv1d",
    "conv_transpose1d",
    "convert",
    "patched",
    "report",
    "revert",
    "stream",
    "tune",
    "use_in_transformers",
    "warm_up",
]
