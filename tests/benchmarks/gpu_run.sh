#!/bin/sh
# Everything that wants a GPU, in stretches that may be cut off: run it again and it goes on where it stopped.
#
#     sh tests/benchmarks/gpu_run.sh [FOLDER]        FOLDER keeps results; default: runs/gpu
#
# MINUTES=9 is how long one call may take. The training run needs CIFAR-10 in data/ (data/README.md).
# Set PRECISION=float32, tf32 (default) or float16, and CAPTURE= to launch kernel by kernel.
set -u
cd "$(dirname "$0")/../.."
out=${1:-runs/gpu}
minutes=${MINUTES:-9}
precision=${PRECISION:-tf32}
capture=${CAPTURE---capture}
run=$out/cifar10-$precision
python=$(command -v python3 || command -v python)
mkdir -p "$out"
end=$(($(date +%s) + 60 * minutes))
left() { echo $((end - $(date +%s) - 20)); }
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

if [ ! -e "$out/tests.done" ]; then
    timeout "$(left)" "$python" -m pytest -q --maxfail=25 -rfE tests/test_gpu.py tests -k "cupy or gpu" > "$out/tests.txt" 2>&1
    status=$?
    echo "status $status" >> "$out/tests.txt"
    [ $status = 124 ] || touch "$out/tests.done"
fi
if [ ! -e "$out/benchmark.done" ] && [ "$(left)" -gt 60 ]; then
    timeout "$(left)" "$python" tests/benchmarks/gpu.py > "$out/benchmark.txt" 2>&1 && touch "$out/benchmark.done"
fi
if [ -e data/cifar-10-batches-py ] || [ -e data/cifar-10-python.tar.gz ]; then
    resume=
    [ -e "$run/checkpoint.npz" ] && resume=--resume
    if [ ! -e "$run.done" ] && [ "$(left)" -gt 60 ]; then
        # TERM lets the run save before it stops
        timeout -s TERM "$(left)" "$python" run_cifar.py --backend cupy --precision "$precision" $capture \
            --evaluate-every 1000 --out "$run" $resume >> "$run.txt" 2>&1
        tail -n 12 "$run.txt" | grep -q "this run" && touch "$run.done"  # the table of a finished run
    fi
    if [ -e "$run.done" ] && [ ! -e "$out/twin.done" ] && [ "$(left)" -gt 60 ]; then
        timeout -s TERM "$(left)" "$python" tests/benchmarks/gpu_twin.py --out "$out/twin" >> "$out/twin.txt" 2>&1 \
            && touch "$out/twin.done"
    fi
    [ -e "$out/twin.done" ] || echo "training is not finished: run this again"
else
    echo "no training: data/cifar-10-batches-py is absent"
fi
echo "== tests"; tail -n 3 "$out/tests.txt"
echo "== benchmark"; cat "$out/benchmark.txt"
echo "== training"; tail -n 12 "$run.txt" 2> /dev/null
echo "== the same in PyTorch"; tail -n 3 "$out/twin.txt" 2> /dev/null
