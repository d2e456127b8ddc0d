"""What to write instead of names that users of PyTorch and NumPy type, for functions, tensors and modules."""
from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

KEYWORDS = {"dim": "axis", "dims": "axes", "dim0": "axes", "keepdim": "keepdims", "start_dim": "start_axis",
            "end_dim": "end_axis", "kernel_size": "size", "ddof": "correction", "dtype": "x.astype(dtype)",
            "min": "low", "max": "high", "inplace": "x = tr.relu(x) instead",
            "split_size_or_sections": "size", "unbiased": "correction=1 or correction=0"}

_IN_SEQUENTIAL = ", as a layer of tr.nn.Sequential too"
OTHER_NAMES = {
    "view": "x.reshape(...)", "reshape_as": "x.reshape(other.shape)", "permute": "x.transpose(0, 2, 1)",
    "swapaxes": "x.transpose(0, 2, 1)", "movedim": "x.transpose(0, 2, 1)", "t": "x.T", "ravel": "x.flatten()",
    "clamp": "tr.clip(x, low, high)", "cat": "tr.concatenate([a, b], axis)",
    "expand_dims": "x.unsqueeze(axis)", "pow": "x ** 2", "power": "x ** 2", "square": "x ** 2",
    "add": "a + b", "sub": "a - b", "mul": "a * b", "div": "a / b", "neg": "-x", "mm": "a @ b",
    "bmm": "a @ b", "mv": "a @ b", "dot": "a @ b", "amax": "x.max(axis)", "amin": "x.min(axis)",
    "norm": "(x * x).sum() ** 0.5", "to": "x.astype('float32'), or tr.backend.use('cupy')",
    "cuda": "tr.backend.use('cupy')", "cpu": "x.numpy()", "tolist": "x.numpy().tolist()",
    "half": "x.astype('float16')", "float": "x.astype('float32')", "double": "x.astype('float64')",
    "copy": "tr.Tensor(x.numpy().copy())", "clone": "x * 1, or tr.Tensor(x.numpy().copy()) outside the graph",
    "contiguous": "x itself", "as_tensor": "tr.Tensor(...)",
    "from_numpy": "tr.Tensor(array)", "zeros": "tr.Tensor(numpy.zeros(shape))",
    "ones": "tr.Tensor(numpy.ones(shape))", "randn": "tr.Tensor(rng.standard_normal(shape))",
    "Parameter": "tr.Tensor(array, requires_grad=True)", "grad": "loss.backward(), and then w.grad",
    "functional": "the functions of tinyres, as tr.relu", "ReLU": "tr.relu" + _IN_SEQUENTIAL,
    "Sigmoid": "tr.sigmoid" + _IN_SEQUENTIAL, "Tanh": "tr.tanh" + _IN_SEQUENTIAL,
    "Softmax": "tr.softmax" + _IN_SEQUENTIAL, "LogSoftmax": "tr.log_softmax" + _IN_SEQUENTIAL,
    "Flatten": "lambda x: tr.flatten(x, 1)" + _IN_SEQUENTIAL,
    "MaxPool2d": "lambda x: tr.max_pool2d(x, 2)" + _IN_SEQUENTIAL,
    "AvgPool2d": "lambda x: tr.avg_pool2d(x, 2)" + _IN_SEQUENTIAL,
    "AdaptiveAvgPool2d": "tr.global_avg_pool2d" + _IN_SEQUENTIAL, "Identity": "lambda x: x" + _IN_SEQUENTIAL,
    "ZeroPad2d": "tr.pad", "ModuleList": "a Python list of modules", "ModuleDict": "a Python dict of modules",
    "BatchNorm1d": "tr.nn.BatchNorm2d, on (N, 1, 1, C)", "Conv1d": "tr.nn.Conv2d, with a kernel of (1, k)",
    "Embedding": "weight[indices]", "LeakyReLU": "lambda x: tr.maximum(x, 0.01 * x)" + _IN_SEQUENTIAL,
    "CrossEntropyLoss": "tr.cross_entropy", "NLLLoss": "tr.cross_entropy, of logits",
    "MSELoss": "tr.mse_loss", "utils": "tr.optim.clip_grad_norm_",
    "clip_grad_norm": "tr.optim.clip_grad_norm_",
    "lr_scheduler": "optimizer.lr = schedule(step), with tr.optim.step_decay or another",
    "StepLR": "tr.optim.step_decay", "MultiStepLR": "tr.optim.step_decay",
    "ExponentialLR": "tr.optim.exponential_decay", "OneCycleLR": "tr.optim.one_cycle",
    "AdamW": "tr.optim.Adam, with weight_decay in the gradient",
}


def function_of(name: str) -> str:
    """"tr.name", if that is a function on tensors, else ""."""
    function = getattr(sys.modules.get("tinyres"), "__dict__", {}).get(name)
    home = getattr(function, "__module__", "")
    return f"tr.{name}" if home.startswith(("tinyres.extras.", "tinyres.ops", "tinyres.conv")) else ""


def missing(place: str, name: str, argument: str = "") -> AttributeError:
    """The error for a name that `place` does not have; argument: what a function would be given there."""
    function = function_of(name)
    hint = f"{function}{argument}" if function else OTHER_NAMES.get(name, "")
    return AttributeError(f"{place} has no {name!r}{hint and f': {hint}'}")


def of_module(module: str, public: Iterable[str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A module's `__getattr__`, for names that it lacks, and its `__dir__`, which shows what is public."""
    def getattribute(name: str) -> Any:
        raise missing(module, name)

    shown = sorted(public)
    return getattribute, lambda: shown


def keywords(function: Callable[..., Any], named: Iterable[str]) -> None:
    """That no argument is called as in another library."""
    for name in named:
        if name in KEYWORDS and name not in inspect.signature(function).parameters:
            raise TypeError(f"{function.__name__} has no argument {name!r}: {KEYWORDS[name]}")


def explained(function: Function) -> Function:
    """A function that says what its arguments are called, if it is given another library's name."""
    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        keywords(function, named)
        return function(*arguments, **named)
    return call  # type: ignore[return-value]
