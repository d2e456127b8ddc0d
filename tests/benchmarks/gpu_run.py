"""Everything that needs a GPU, in stages that may be cut off: run it again and it goes on where it stopped.

    python tests/benchmarks/gpu_run.py                                  all stages, 9 minutes at most
    python tests/benchmarks/gpu_run.py --stages preflight train --steps 10000 --copy-to results

preflight   a minute: library, driver, memory; one small step, eager and captured, at each precision, against
            NumPy. The other stages wait until it has passed.
benchmark   gpu.py: steps of batch 128 beside PyTorch's
profile     gpu.py: the GPU's time in such a step and in PyTorch's, kernel by kernel
train       run_cifar.py on CIFAR-10, from data/, where --prepare may write it. With --steps N the paper's
            schedule is scaled to N; --options has more, in one word.
imagenet    gpu.py: steps of the ImageNet network beside PyTorch's, and their memory
tests       all tests that need a GPU, in several processes where pytest-xdist is installed
products    gpu.py: single products, captured
twin        gpu_twin.py: the same run in PyTorch

A stage is marked as done, by a file in --out, only if it ran to its end without an error. After every stage,
all results except checkpoints are copied to --copy-to.
"""
from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = "*.txt", "*.json", "*.jsonl", "*.png", "*.done"  # small files; checkpoints are not copied
PAPER_STEPS, PAPER_DROP = 50_000, 30_000
RESERVE = 20  # seconds reserved for a run to save, and for the copies

# Prints what it finds, then one line for each check; ends with status 1 at the first check that fails.
PREFLIGHT = """
import sys, numpy
import tinyres as tr
if why := tr.backend.why_no_gpu():
    sys.exit(f"PREFLIGHT FAILED: {why}")
import cupy
from tinyres.cli.launch import in_precision
from tinyres.fast.gpu import capture, loss_scale, precision
from tinyres.training import loss_and_error, training_step
runtime = cupy.cuda.runtime
free, total = runtime.memGetInfo()
print(f"{runtime.getDeviceProperties(0)['name'].decode()}, CuPy {cupy.__version__}, CUDA "
      f"{runtime.runtimeGetVersion()}, driver {runtime.driverGetVersion()}, {free / 2**30:.1f} of "
      f"{total / 2**30:.1f} GiB free", flush=True)

def steps(backend, products="float32", captured=False):
    xp = tr.backend.use(backend)
    precision.use(products)
    network = tr.models.cifar_net(blocks=1, widths=(16, 32, 64))
    for block in network.blocks:  # larger than the paper's, so that what the blocks add shows
        for layer in block.conv1, block.conv2:
            layer.weight.data *= 8
    model = in_precision(products, network)
    optimizer = tr.optim.SGD(model.parameters(), 0.02, 0.9, 1e-4)
    if products == "float16":
        optimizer = loss_scale.ScaledOptimizer(optimizer, model)
    rng = numpy.random.default_rng(0)
    images = xp.asarray(rng.standard_normal((16, 32, 32, 3), dtype="float32"))
    labels = xp.asarray(rng.integers(0, 10, 16))
    compute = capture.captured(loss_and_error) if captured else loss_and_error
    start = numpy.concatenate([p.numpy().ravel() for p in model.parameters()])
    for _ in range(6):
        loss, _ = training_step(model, optimizer, images, labels, compute=compute)
    moved = numpy.concatenate([p.numpy().ravel() for p in model.parameters()]) - start
    return moved, float(tr.backend.to_numpy(loss))

expected, expected_loss = steps("numpy")
for products, tolerance in ("float32", 1e-4), ("tf32", 1e-2), ("float16", 5e-2):
    for captured in False, True:
        what = f"six steps, {products}, {'captured' if captured else 'eager'}"
        try:
            got, loss = steps("cupy", products, captured)
        except Exception as error:
            sys.exit(f"PREFLIGHT FAILED: {what}: {type(error).__name__}: {error}")
        off = float(numpy.linalg.norm(got - expected) / numpy.linalg.norm(expected))
        if not max(off, abs(loss - expected_loss)) < tolerance:
            sys.exit(f"PREFLIGHT FAILED: {what}: loss {loss}, NumPy's {expected_loss}; the weights moved "
                     f"differently by {off:.1e}, more than {tolerance:.0e}")
        print(f"ok: {what}: loss {loss:.6f}, weights moved as NumPy's to {off:.1e}", flush=True)
print("PREFLIGHT PASSED: this GPU can train")
"""


def main() -> None:
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes - RESERVE
    for stage in args.stages:
        if stage != "preflight" and not (args.out / "preflight.done").exists():
            print("no preflight has passed yet: start with --stages preflight")
            break
        status = run_stage(stage, args, end)
        if args.copy_to:
            copy_results(args.out, args.copy_to)
        if stage == "preflight" and status != 0:
            sys.exit(f"the preflight failed: see {args.out / 'preflight.txt'}; no other stage was started")
    missing = [stage for stage in args.stages if not done_file(stage, args).exists()]
    print(f"not finished: {', '.join(missing)}; run this again" if missing else "all stages are done")
    sys.exit(bool(missing))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="default: runs/gpu")
    parser.add_argument("--copy-to", type=Path, metavar="DIR", help="where small results are copied to")
    parser.add_argument("--minutes", type=float, default=9, help="how long this call may take; default: 9")
    parser.add_argument("--precision", choices=["float32", "tf32", "float16"], default="float16")
    parser.add_argument("--options", default="", help="more options of run_cifar.py, in one word")
    parser.add_argument("--no-capture", dest="capture", action="store_false")
    parser.add_argument("--steps", type=int, default=PAPER_STEPS)
    parser.add_argument("--prepare", metavar="COMMAND",
                        help="writes CIFAR-10 into data/; is run if it is not there")
    return parser.parse_args()


def done_file(stage: str, args: argparse.Namespace) -> Path:
    """The file that marks a stage as done; training is one stage for each precision."""
    return args.out / (f"train-{args.precision}.done" if stage == "train" else f"{stage}.done")


def run_stage(stage: str, args: argparse.Namespace, end: float) -> int | None:
    """Run a stage unless it is done; its status, or None if there was not enough time left."""
    done = done_file(stage, args)
    log = done.with_suffix(".txt")
    if done.exists():
        print(f"{stage}: done before")
        return 0
    if time.monotonic() > end:
        print(f"{stage}: no time left")
        return None
    print(f"{stage}: see {log}", flush=True)
    status = 0
    with open(log, "a") as file:
        for command in STAGES[stage](args):
            status = run(command, file, end)
            if status != 0:
                break
    if status == 0:
        done.touch()
    print("".join(log.read_text().splitlines(keepends=True)[-6:]), end="")
    print(f"{stage}: {'cut off' if status is None else 'done' if status == 0 else f'ended with {status}'}")
    return status


def run(command: list[str], file: object, end: float) -> int | None:
    """Run a command; its status, or None if its time was up and SIGTERM, on which a run saves, ended it."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
                               env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"})
    try:
        return process.wait(max(1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(RESERVE - 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None


def python(*arguments: object) -> list[str]:
    return [sys.executable, *map(str, arguments)]


def train(args: argparse.Namespace) -> list[list[str]]:
    commands, folder = [], (args.out / f"cifar10-{args.precision}").resolve()
    present = [ROOT / "data" / name for name in ("cifar-10-batches-py", "cifar-10-python.tar.gz")]
    if args.prepare and not any(path.exists() for path in present):
        commands.append(shlex.split(args.prepare))
    drops = [PAPER_DROP * args.steps // PAPER_STEPS, args.steps]
    command = python("run_cifar.py", "--backend", "cupy", "--precision", args.precision, "--out", folder,
                     "--evaluate-every", max(1, args.steps // 50))
    if (folder / "checkpoint.npz").exists():
        command.append("--resume")
    else:
        command += ["--steps", str(args.steps), *shlex.split(args.options)]
        if "--schedule" not in args.options:
            command += ["--lr-drops", *map(str, drops)]
    return [*commands, command + ["--no-capture"] * (not args.capture)]


STAGES = {  # in the order of running: the most valuable first
    "preflight": lambda args: [python("-c", PREFLIGHT)],
    "benchmark": lambda args: [python("tests/benchmarks/gpu.py", "--batch-sizes", 128)],
    "profile": lambda args: [python("tests/benchmarks/gpu.py", "--profile", "--batch-sizes", 128)],
    "train": train,
    "imagenet": lambda args: [python("tests/benchmarks/gpu.py", "--imagenet")],
    # warnings of a library that is met for the first time are shown, and fail no test
    "tests": lambda args: [python("-m", "pytest", "-q", "-W", "default", "--maxfail=25", "-rfE",
                                  *["-n8"] * bool(importlib.util.find_spec("xdist")),
                                  "tests/test_gpu.py", "tests", "-k", "cupy or gpu")],
    "products": lambda args: [python("tests/benchmarks/gpu.py", "--products")],
    "twin": lambda args: [python("tests/benchmarks/gpu_twin.py", "--steps", args.steps, "--out",
                                 (args.out / "twin").resolve())],
}


def copy_results(out: Path, target: Path) -> None:
    """Copy all small results, in their folders."""
    for pattern in RESULTS:
        for path in out.rglob(pattern):
            place = target / path.relative_to(out)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)


if __name__ == "__main__":
    main()
