"""tinyres against PyTorch on this GPU: whole training steps of the paper's networks, and single products.

    python tests/benchmarks/gpu.py             needs a GPU, CuPy and PyTorch with CUDA; about five minutes
    python tests/benchmarks/gpu.py --profile          instead, the GPU's time by kernel in a captured step
    python tests/benchmarks/gpu.py --imagenet         twenty steps of 256 drawn pictures at 224 x 224 instead
    python tests/benchmarks/gpu.py --products         instead of steps, the products in them, one by one

All contenders take turns in one process, at the same precision: tinyres launching kernel by kernel, and
launching the captured step whole; PyTorch (channels_last, fused SGD) as it is, as a CUDA graph of the step,
and compiled. Figures are medians over rounds of several steps; the ratio is that of the best, tinyres /
PyTorch. The first line is what this GPU reaches in a large copy and in large matrix products; "products" and
"memory" are the milliseconds that a step's products and its blocks' memory traffic would take at those rates.
"""
from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy

import tinyres as tr
from tinyres.fast.gpu import block, capture, cublas, loss_scale, passes, precision
from tinyres.models import ResidualNetwork
from tinyres.training import loss_and_error, training_step

cupy = tr.backend.cupy
try:
    import torch
except ImportError:
    torch = None

# Bytes that a residual block moves, counted in images of its output (fast/gpu/block.py): forward, each of its
# two convolutions multiplies 1 into 3 and adds 3 up into 1; backward, it multiplies 3 into 3, adds 3 up into
# 3, and multiplies 1 by 3 for the kernel's gradient; the shortcut, its gradient and relu's are one more each.
IMAGES_PER_BLOCK = 2 * (8 + 12 + 4) + 3
STEPS = 10  # in one measurement
LAUNCHES = 50  # of one product, in one graph
STAGES = (32, 64), (16, 128), (8, 256)  # pixels of a side and channels, in the paper's network for CIFAR
Work = Callable[[], object]


def batch_of(size: int, side: int, drawn: bool) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Images, (size, side, side, 3) float32, of noise or drawn, and labels."""
    if drawn:
        return tr.datasets.shapes(size, 10, size=side).train.evaluation_batch(numpy.arange(size))
    rng = numpy.random.default_rng(0)
    return rng.standard_normal((size, side, side, 3), "float32"), rng.integers(0, 10, size)


def work_of(network: ResidualNetwork, side: int) -> tuple[int, int]:
    """For one image of side x side: multiply-adds forward, and numbers that blocks put out."""
    side //= network.stem.stride
    products, numbers = side**2 * network.stem.weight.size, 0
    for layer in network.blocks:
        side //= layer.stride
        products += side**2 * (layer.conv1.weight.size + layer.conv2.weight.size)
        numbers += side**2 * layer.conv2.weight.shape[3]
    return products, numbers


def tinyres_step(network: ResidualNetwork, batch: tuple[numpy.ndarray, numpy.ndarray], products: str,
                 captured: bool) -> Work:
    block.arrange(network)
    model = precision.Float16(network) if products == "float16" else network
    optimizer = tr.optim.SGD(model.parameters(), 0.05, 0.9, 1e-4)
    if products == "float16":
        optimizer = loss_scale.ScaledOptimizer(optimizer, model)
    images, labels = map(cupy.asarray, batch)
    compute = capture.captured(loss_and_error) if captured else loss_and_error

    def step() -> None:
        training_step(model, optimizer, images, labels, compute=compute)

    return step


def torch_step(network: ResidualNetwork, batch: tuple[numpy.ndarray, numpy.ndarray], products: str,
               compiled: bool = False) -> Work:
    from parity import TorchNetwork
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = products != "float32"
    torch.backends.cudnn.benchmark = True
    twin = TorchNetwork(network).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(twin.parameters(), 0.05, 0.9, weight_decay=1e-4, fused=True)
    images = torch.from_numpy(batch[0].transpose(0, 3, 1, 2)).cuda()
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(batch[1]).cuda()
    forward = torch.compile(twin) if compiled else twin

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16, enabled=products == "float16"):
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()

    return step


def torch_graph(step: Work) -> Work:
    """PyTorch's step recorded as a CUDA graph, and launched whole."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        step()
    return lambda: (graph.replay(), step)  # the graph works on what the step's closure keeps alive


def milliseconds(work: Work, steps: int = STEPS) -> float:
    """The time of one call, where several are launched before the GPU is waited for."""
    start = time.perf_counter()
    for _ in range(steps):
        work()
    cupy.cuda.runtime.deviceSynchronize()
    return 1000 * (time.perf_counter() - start) / steps


def median(work: Work, rounds: int) -> float:
    milliseconds(work)
    return statistics.median(milliseconds(work) for _ in range(rounds))


def limits() -> tuple[float, dict[str, float]]:
    """Print and return the rates of this GPU: copies in TB/s, matrix products in TFLOP/s by precision."""
    source, target = (cupy.ones(2**28, cupy.float32) for _ in "st")
    copy = 2 * source.nbytes / median(lambda: cupy.copyto(target, source), 5) / 1e9
    rates = {}
    for products in precision.PRECISIONS:
        precision.use(products)
        a, out = (cupy.ones((8192, 8192), "float16" if products == "float16" else "float32") for _ in "ao")
        rates[products] = 2 * 8192**3 / median(lambda: cublas.matmul(a, a, out), 5) / 1e9  # noqa: B023
    print(f"large copies {copy:.2f} TB/s; large matrix products, TFLOP/s: "
          + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()), flush=True)
    cupy.get_default_memory_pool().free_all_blocks()  # or it would serve what comes next, uncounted
    return copy, rates


def measure(make: Callable[[], ResidualNetwork], batch: tuple[numpy.ndarray, numpy.ndarray], products: str,
            args: argparse.Namespace) -> tuple[float, float]:
    """Print milliseconds and memory of each contender, and return the best of tinyres and of PyTorch. One
    that fails is reported and left out."""
    def step(captured: bool) -> Work:
        return tinyres_step(make(), batch, products, captured)

    def twin(compiled: bool = False) -> Work:
        tr.backend.use("numpy")
        return torch_step(make(), batch, products, compiled)

    makers = {"tinyres": lambda: step(False), "tinyres, captured": lambda: step(True)}
    if torch and torch.cuda.is_available():
        makers |= {"PyTorch": twin, "PyTorch, CUDA graph": lambda: torch_graph(twin())}
        makers |= {} if args.imagenet else {"PyTorch, torch.compile": lambda: twin(True)}
    steps, memory, times = {}, {}, {}
    for name, maker in makers.items():
        try:
            tr.backend.use("cupy")
            precision.use(products)
            free = cupy.cuda.runtime.memGetInfo()[0]
            work = maker()
            tr.backend.use("cupy")
            milliseconds(work)
            memory[name] = (free - cupy.cuda.runtime.memGetInfo()[0]) / 2**30
            steps[name], times[name] = work, []
        except Exception as error:
            print(f"{name} failed: {type(error).__name__}: {str(error)[:300]}", flush=True)
    tr.backend.use("cupy")
    for _ in range(args.rounds):
        for name, work in steps.items():
            times[name].append(milliseconds(work))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print("".join(f"   {name:<28}{value:>9.2f} ms{memory[name]:>9.2f} GiB\n"
                  for name, value in medians.items()), end="", flush=True)
    return tuple(min((value for name, value in medians.items() if name.startswith(library)),
                     default=float("nan")) for library in ("tinyres", "PyTorch"))


def compare_steps(args: argparse.Namespace) -> None:
    copy, rates = limits()
    make, side = (tr.models.imagenet_net, 224) if args.imagenet else (tr.models.cifar_net, 32)
    multiply_adds, numbers = work_of(make(), side)
    for products in args.precisions:
        for size in args.batch_sizes:
            floor = 6 * multiply_adds * size / rates[products] / 1e9  # forward and two gradients
            item = 2 if products == "float16" else 4
            traffic = IMAGES_PER_BLOCK * numbers * size * item / copy / 1e9
            print(f"{make.__name__}, batch {size}, {products}: products {floor:.1f} ms, memory {traffic:.1f}")
            ours, theirs = measure(make, batch_of(size, side, args.imagenet), products, args)
            print(f"   ratio {ours / theirs:.2f}, {1000 * size / ours:.0f} images/s", flush=True)
            cupy.get_default_memory_pool().free_all_blocks()
            if torch:
                torch.cuda.empty_cache()


def products_of(size: int, side: int, channels: int, dtype: str) -> Iterator[tuple[str, Work]]:
    """The products of one convolution: forward, for the image's gradient, and for the kernel's."""
    rng = numpy.random.default_rng(0)

    def random(*shape: int) -> tr.backend.Array:
        return cupy.asarray(rng.standard_normal(shape, "float32").astype(dtype))

    def multiply(left: tr.backend.Array, right: tr.backend.Array) -> Work:
        batch, m, _ = left.shape  # pixels stay in their order
        out = (cupy.empty((m, batch, right.shape[1]), dtype).swapaxes(0, 1) if right.ndim == 2 else
               cupy.empty((batch, m, right.shape[2]), "float32"))
        return lambda: cublas.matmul(left, right, out)

    def windows(pixels: passes.Pixels, whole: bool = False) -> tr.backend.Array:
        shape, strides, _ = passes.windows(pixels.image.shape, pixels.image.dtype, pixels.stacked, whole)
        return cupy.lib.stride_tricks.as_strided(pixels.memory, shape, strides)

    x, g = (passes.lay_out(random(size, side, side, channels), stacked) for stacked in (False, True))
    matrix = random(3 * channels, 3 * channels)
    yield "forward", multiply(windows(x), matrix)
    yield "image's gradient", multiply(windows(g, whole=True), matrix.T)
    yield "kernel's gradient", multiply(windows(x).swapaxes(1, 2), windows(g))


def compare_products(args: argparse.Namespace) -> None:
    """Print microseconds of each product, launched many times by one graph: a call takes Python longer."""
    for products in args.precisions:
        precision.use(products)
        for side, channels in STAGES:
            size = args.batch_sizes[0]
            flop = 2 * size * side**2 * 9 * channels**2
            dtype = "float16" if products == "float16" else "float32"
            print(f"one product, {size} x {side} x {side} x {channels}, {products}")
            for name, work in products_of(size, side, channels, dtype):
                graph = capture.CUDAGraph(lambda: [work() for _ in range(LAUNCHES)][0])  # noqa: B023
                taken = median(graph, args.rounds) / LAUNCHES
                print(f"   {name:<44}{1000 * taken:>9.1f} us{flop / taken / 1e9:>7.0f} TFLOP/s", flush=True)


def profile_steps(args: argparse.Namespace) -> None:
    """Print the GPU's milliseconds in a captured step by kernel, as CUPTI tells PyTorch's profiler."""
    from torch.profiler import ProfilerActivity, profile
    for products in args.precisions:
        batch = batch_of(args.batch_sizes[0], 32, False)
        tr.backend.use("numpy")
        theirs = torch_graph(torch_step(tr.models.cifar_net(), batch, products))
        tr.backend.use("cupy")
        precision.use(products)
        ours = tinyres_step(tr.models.cifar_net(), batch, products, True)
        for name, work in ("tinyres", ours), ("PyTorch, CUDA graph", theirs):
            milliseconds(work)
            with profile(activities=[ProfilerActivity.CUDA]) as recorded:
                milliseconds(work)
            times = defaultdict(list)
            for event in recorded.events():
                if event.device_type.name == "CUDA":
                    times[event.name].append(event.device_time / 1000 / STEPS)
            times[f"together, in {products}, {name}"] = sum(times.values(), [])
            for kernel, spent in sorted(times.items(), key=lambda item: -sum(item[1]))[:30]:
                print(f"{sum(spent):9.3f} ms{len(spent) / STEPS:6.0f} x {kernel[:150]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="default: 128 and 512; for ImageNet 256")
    parser.add_argument("--precisions", nargs="+", choices=precision.PRECISIONS, default=["tf32", "float16"])
    parser.add_argument("--rounds", type=int, help="default: 7; for ImageNet 2")
    for instead in "--imagenet", "--products", "--profile":
        parser.add_argument(instead, action="store_true")
    args = parser.parse_args()
    if not tr.backend.gpu_available():
        sys.exit(f"gpu.py needs a GPU: {tr.backend.why_no_gpu()}")
    args.batch_sizes = args.batch_sizes or ([256] if args.imagenet else [128, 512])
    args.rounds = args.rounds or (2 if args.imagenet else 7)
    tr.backend.use("cupy")
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    print(f"{name}, CuPy {cupy.__version__}, CUDA {cupy.cuda.runtime.runtimeGetVersion()}, "
          f"PyTorch {torch.__version__ if torch else 'not installed'}")
    (profile_steps if args.profile else compare_products if args.products else compare_steps)(args)


if __name__ == "__main__":
    main()
