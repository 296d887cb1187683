#!/usr/bin/env bash
# All that docs/gpu.md wants measured on a GPU, in one go of at most ten minutes, alone on the card:
#   tests/benchmarks/gpu.sh PHOTOS OUT [ARTIFACT VIDEO]
# PHOTOS: a folder of good parts. OUT: where rows and words go. ARTIFACT with its graphs, and a VIDEO, for ONNX Runtime.
set -uo pipefail
photos=$1 out=$2 artifact=${3:-} video=${4:-}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
part() {  # NAME SECONDS COMMAND ...: what one part says goes to OUT/NAME.txt
  local name=$1 limit=$2 code=0 began=$SECONDS
  shift 2
  timeout "$limit" "$@" >"$out/$name.txt" 2>&1 || code=$?
  echo "$name: exit $code in $((SECONDS - began)) s$([ $code = 124 ] && echo ', time was up: its rows are kept')"
}
nvidia-smi -L
edgead doctor >"$out/doctor.txt" 2>&1
kernels=(edgead bench kernels --device cuda --seconds 0.1 --csv "$out/kernels_gpu.csv")
part kernels_triton 120 "${kernels[@]}" --only triton
part kernels_compile 60 "${kernels[@]}" --only compile
for engine in torch numpy; do
  part "paper_$engine" 45 edgead bench train "$photos" --preset paper --batch-size 64 --engine "$engine" --out "$out/training_gpu.csv"
done
part paper_8 35 edgead bench train "$photos" --preset paper --out "$out/training_gpu.csv"
part edge 40 edgead bench train "$photos" --preset edge --out "$out/training_gpu.csv"
for batch in 16 64; do
  part "diffusion_$batch" 35 edgead bench train "$photos" --diffusion 128 --batch-size "$batch" --precision bf16 --out "$out/training_gpu.csv"
done
part triton_cases 110 env TRITON_INTERPRET=0 python -m pytest -q -p no:cacheprovider "$here/../kernels/triton_cases.py"
[ -z "$artifact" ] || part onnxruntime 60 python "$here/onnxruntime_cuda.py" "$artifact" ${video:+--video "$video"} --out "$out/onnxruntime_gpu.csv"
