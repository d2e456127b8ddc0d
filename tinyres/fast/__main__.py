"""Print every kernel with its variants, and the variant that each layer of the paper's network takes.

    python -m tinyres.fast
"""
from __future__ import annotations

from .. import backend, models
from ..arithmetic import matrix_product
from ..conv import convolution_gradients, convolve, output_size
from ..kernel import KERNELS, Kernel
from ..nn import Conv2d
from ..ops import rectify, relu_gradient
from ..optim import sgd_update
from ..support.pipes import end_with_reader
from ..tensor import sum_of_two
from .cpu import machine

BATCH_SIZE = 128


def main() -> None:
    for kernel in KERNELS:
        print(f"{kernel.__name__}: {_first_line(kernel)}\n    defined in {kernel.__module__}")
        for applies, function in kernel.variants:
            print(f"    {function.__name__}, for {' '.join(applies.__doc__.split())}\n"
                  f"        why: {_first_line(function)}")
        print()
    print(f"This machine: {machine.describe()}.\n")
    print(f"The paper's network for CIFAR, batch {BATCH_SIZE}, float32, {backend.current().__name__}:")
    lines: dict[str, list[str]] = {}
    for name, kernel, arguments in _layers():
        shapes = " ".join("x".join(map(str, a.shape)) for a in arguments if hasattr(a, "shape"))
        line = f"{kernel.__name__:<21} {shapes:<45} {kernel.choose(*arguments).__name__}"
        lines.setdefault(line, []).append(name)
    for line, names in lines.items():
        print(f"    {len(names):>3} x {line:<88} {names[0]}{f' to {names[-1]}' * (len(names) > 1)}")


def _first_line(function: object) -> str:
    return " ".join(function.__doc__.split("\n\n")[0].split())


def _zeros(*shape: int) -> backend.Array:
    """Zeros that take no memory: only shape, dtype and library count here."""
    xp = backend.current()
    return xp.broadcast_to(xp.zeros((), "float32"), shape)


def _layers() -> list[tuple[str, Kernel, tuple[object, ...]]]:
    """(name, kernel, arguments) of each call in a forward pass, of the gradients of convolutions and ReLU,
    and of SGD's step."""
    network, x, layers = models.cifar_net(), _zeros(BATCH_SIZE, 32, 32, 3), []

    def add(name: str, convolution: Conv2d, x: backend.Array) -> backend.Array:
        w, stride, padding = convolution.weight.data, (convolution.stride,) * 2, (convolution.padding,) * 2
        out = _zeros(len(x), *output_size(x.shape, w.shape, stride, padding), w.shape[3])
        layers.append((name, convolve, (x, w, stride, padding)))
        layers.append((name, convolution_gradients, (out, x, w, stride, padding, (True, True))))
        return out

    x = add("stem", network.stem, x)
    for i, block in enumerate(network.blocks):
        x = add(f"blocks.{i}.conv1", block.conv1, x)
        layers.append((f"blocks.{i} relu", rectify, (x,)))
        x = add(f"blocks.{i}.conv2", block.conv2, x)
        layers.append((f"blocks.{i} x + h", sum_of_two, (x, x)))
    layers.append(("projection", matrix_product, (_zeros(BATCH_SIZE, 256), network.projection.matrix.data)))
    layers.append(("relu's gradient", relu_gradient, (x, x)))
    weights = [parameter.data for parameter in network.parameters()]
    layers.append(("SGD's step", sgd_update, (weights, weights, weights, 0.05, 0.9, 1e-4)))
    return layers


if __name__ == "__main__":
    end_with_reader()
    main()
