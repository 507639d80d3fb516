#!/usr/bin/env bash
# The checks that need a GPU, on a machine that has nothing but a driver, cuBLASLt and a shell: nothing is downloaded or compiled.
# Three commands of less than nine minutes each; each leaves one archive of what it said.
#
#   gpu.sh tests    [BUILD [RESULTS]]   the operators' tests on the GPU, the engine's against the CPU, and reference tensors of stock
#                                       PyTorch: tests/golden/odd, and a folder of more that CREDENCE_FIXTURES names
#   gpu.sh sanitize [BUILD [RESULTS]]   some of them under compute-sanitizer's four tools
#   gpu.sh bench    [BUILD [RESULTS]]   times, cuBLASLt alone and PyTorch's beside them where it is installed
#
#   BUILD     a CMake build of this source (the tests' programs) with libcredence_cuda.so in it; default build
#   RESULTS   where the archive goes; default cuda-results
#
# To build both elsewhere:  cmake -S . -B build && cmake --build build;  npm run build:cuda
# Exit status: 0 passed, 1 something failed, 77 not run, and why.
set -uo pipefail

what=${1:-}
build=$(realpath -m "${2:-build}")
results=$(realpath -m "${3:-cuda-results}")
cd "$(dirname "$0")/../.." || exit 1
[[ $what =~ ^(tests|sanitize|bench)$ ]] || { sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0"; exit 2; }

export CREDENCE_CUDA_LIBRARY=$build/libcredence_cuda.so CREDENCE_TEST_TABLE=cuda
log=$(mktemp -d)
seconds=500 # of the nine minutes; the rest is for starting and packing
status=0
deadline=$((SECONDS + seconds))
left() { echo $((deadline - SECONDS > 1 ? deadline - SECONDS : 1)); }
not_run() { printf 'not run: %s\n' "$*" | tee -a "$log/summary.txt"; status=77; }

finish() {
  mkdir -p "$results"
  { git rev-parse HEAD 2>/dev/null; nvidia-smi --query-gpu=name,driver_version --format=csv 2>&1; } >"$log/machine.txt"
  tar -czf "$results/cuda-$what.tar.gz" -C "$log" .
  rm -rf "$log"
  printf '%s: exit status %d; %s\n' "$what" "$status" "$results/cuda-$what.tar.gz"
  exit "$status"
}

[[ -e $CREDENCE_CUDA_LIBRARY ]] || { not_run "$CREDENCE_CUDA_LIBRARY is not there (npm run build:cuda)"; finish; }
[[ -x $build/norm_test ]] || { not_run "$build has no tests (cmake --build)"; finish; }
"$build/norm_test" norm.is_the_reference >"$log/first.txt" 2>&1
case $? in
  77) not_run "$(grep -o 'skipped.*' "$log/first.txt" | head -n 1)"; finish ;;
esac

case $what in
  tests)
    for program in norm optimizer losses advantage ppo dense linear mlp_input attention_input attention prefix token_logprobs read_outs sample dropout empty \
      cuda_step emulated_engine generation; do
      timeout "$(left)" "$build/${program}_test" >"$log/$program.txt" 2>&1 || status=1
      printf '%-16s %s\n' "$program" "$(tail -n 1 "$log/$program.txt")" | tee -a "$log/summary.txt"
    done
    for dtype in f32 bf16; do
      for folder in tests/golden/odd ${CREDENCE_FIXTURES:-}; do
        name=golden-$(basename "$folder")-$dtype
        timeout "$(left)" "$build/credence_golden" "$folder" --device cuda --dtype "$dtype" >"$log/$name.txt" 2>&1
        case $? in
          0) said=agrees ;;
          *) said=FAILED; status=1 ;;
        esac
        printf '%-28s %s\n' "$name" "$said" | tee -a "$log/summary.txt"
      done
    done
    ;;
  sanitize)
    tool=$(command -v compute-sanitizer || true)
    [[ -n $tool ]] || { not_run "compute-sanitizer is not here"; finish; }
    if ! "$tool" --tool memcheck "$build/optimizer_test" gradient_norm.does_not >"$log/try.txt" 2>&1 &&
      grep -qiE 'not supported|permission|ERR_NVGPUCTRPERM' "$log/try.txt"; then
      not_run "the device does not let compute-sanitizer look: $(grep -iE 'not supported|permission' "$log/try.txt" | head -n 1)"
      finish
    fi
    for check in memcheck racecheck initcheck synccheck; do
      for program in optimizer dense norm sample read_outs mlp_input; do
        name=$check-$program
        timeout "$(left)" "$tool" --tool "$check" --error-exitcode 9 "$build/${program}_test" >"$log/$name.txt" 2>&1
        case $? in
          0) said=clean ;;
          124) said="not finished in time"; status=1 ;;
          *) said=FAILED; status=1 ;;
        esac
        printf '%-24s %s\n' "$name" "$said" | tee -a "$log/summary.txt"
      done
    done
    ;;
  bench)
    timeout "$(left)" "$build/credence_gpu_bench" 2>&1 | tee "$log/bench.txt"
    status=${PIPESTATUS[0]}
    if python3 -c 'import torch' 2>/dev/null; then
      timeout "$(left)" python3 bench/peers/torch_kernels.py 2>&1 | tee "$log/torch.txt"
    else
      printf 'PyTorch is not installed: no figures beside ours\n' | tee "$log/torch.txt"
    fi
    ;;
esac
finish
