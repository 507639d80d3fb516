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
# or, where nvcc 13 is:     cmake -S . -B build -DCREDENCE_CUDA=ON && cmake --build build --parallel
# libcublasLt.so.13 is looked for by the loader, in BUILD, in a CUDA toolkit's folder, and among python3's packages. Which source it is
# stands in the archive; where there is no git, CREDENCE_COMMIT says it.
# Exit status: 0 passed, 1 something failed or did not finish, 77 not run, and why.
set -uo pipefail

what=${1:-}
build=$(realpath -m "${2:-build}")
results=$(realpath -m "${3:-cuda-results}")
fixtures=${CREDENCE_FIXTURES:+$(realpath -m "$CREDENCE_FIXTURES")}
cd "$(dirname "$0")/../.." || exit 1
[[ $what =~ ^(tests|sanitize|bench)$ ]] || { sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0"; exit 2; }

export CREDENCE_CUDA_LIBRARY=$build/libcredence_cuda.so CREDENCE_TEST_TABLE=cuda
log=$(mktemp -d)
seconds=500 # of the nine minutes; the rest is for starting and packing
status=0
deadline=$((SECONDS + seconds))
left() { echo $((deadline - SECONDS > 1 ? deadline - SECONDS : 1)); }
say() { printf "$@" | tee -a "$log/summary.txt"; }
not_run() { say 'not run: %s\n' "$*"; status=77; }

finish() {
  mkdir -p "$results"
  {
    printf 'commit %s\n' "${CREDENCE_COMMIT:-$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)}"
    printf 'sources %s\n' "$(find native -type f | LC_ALL=C sort | xargs cat | sha256sum | cut -d' ' -f1)"
    sha256sum "$CREDENCE_CUDA_LIBRARY"
    uname -srm
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
  } >"$log/machine.txt" 2>&1
  tar -czf "$results/cuda-$what.tar.gz" -C "$log" .
  rm -rf "$log"
  printf '%s: exit status %d; %s\n' "$what" "$status" "$results/cuda-$what.tar.gz"
  exit "$status"
}

# Jobs run some at a time: most of a test is the host's. start NAME COMMAND...; then settle tells how each ended, in order.
together=$(($(nproc) / 2 < 6 ? ($(nproc) + 1) / 2 : 6))
names=()
start() {
  local name=$1
  shift
  while (($(jobs -rp | wc -l) >= together)); do wait -n; done
  names+=("$name")
  { timeout "$(left)" "$@" >"$log/$name.txt" 2>&1; echo $? >"$log/$name.status"; } &
}
settle() {
  local name code words
  wait
  for name in "${names[@]}"; do
    code=$(<"$log/$name.status")
    words=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log/$name.txt" | tail -n 1)
    case $code in
      0) words="ok       $words" ;;
      77) words="skipped  $(grep -m 1 -E 'skipped|no ' "$log/$name.txt")" ;;
      124 | 137) words="NOT FINISHED in time"; status=1 ;;
      *) words="FAILED   $words"; status=1 ;;
    esac
    say '%-28s %s\n' "$name" "$words"
    rm "$log/$name.status"
  done
}

# The folder of a library that the loader does not find by itself.
if ! ldconfig -p 2>/dev/null | grep -q 'libcublasLt\.so\.13'; then
  packages=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))' 2>/dev/null)
  for folder in "$build" /usr/local/cuda*/{lib64,targets/x86_64-linux/lib} ${packages:+"$packages"/nvidia/{cu13,cublas}/lib}; do
    [[ -e $folder/libcublasLt.so.13 ]] || continue
    export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    break
  done
fi

[[ -e $CREDENCE_CUDA_LIBRARY ]] || { not_run "$CREDENCE_CUDA_LIBRARY is not there (npm run build:cuda)"; finish; }
[[ -x $build/norm_test ]] || { not_run "$build has no tests (cmake --build)"; finish; }
"$build/norm_test" norm.is_the_reference >"$log/first.txt" 2>&1
case $? in
  0 | 1) ;;
  77) not_run "$(grep -m 1 -o 'skipped.*' "$log/first.txt")"; finish ;;
  *) not_run "$build/norm_test cannot be started here: $(tail -n 1 "$log/first.txt")"; finish ;;
esac
if grep -q 'cuBLASLt cannot' "$log/first.txt"; then
  not_run "$(grep -m 1 -o 'cuBLASLt cannot.*' "$log/first.txt")"
  finish
fi

case $what in
  tests)
    for program in emulated_engine generation trainer ppo_ratio determinism cuda_step linear block attention attention_input mlp_input \
      token_logprobs read_outs prefix norm optimizer losses advantage ppo dense sample dropout empty; do
      start "$program" "$build/${program}_test"
    done
    for dtype in f32 bf16; do
      for folder in tests/golden/odd ${fixtures:+"$fixtures"}; do
        # The repository's own models have every subject: one that is left out there is an error.
        start "golden-$(basename "$folder")-$dtype" "$build/credence_golden" "$folder" --device cuda --dtype "$dtype" \
          $([[ $folder == tests/golden/odd ]] && echo --complete)
      done
    done
    settle
    ;;
  sanitize)
    tool=$(command -v compute-sanitizer || compgen -G '/usr/local/cuda*/bin/compute-sanitizer' | head -n 1)
    [[ -n $tool ]] || { not_run "compute-sanitizer is not here"; finish; }
    if ! timeout "$(left)" "$tool" --tool memcheck "$build/optimizer_test" gradient_norm.does_not >"$log/try.txt" 2>&1 &&
      grep -qiE 'not supported|permission|ERR_NVGPUCTRPERM' "$log/try.txt"; then
      not_run "the device does not let compute-sanitizer look: $(grep -m 1 -iE 'not supported|permission' "$log/try.txt")"
      finish
    fi
    for check in memcheck racecheck initcheck synccheck; do
      for program in attention linear token_logprobs sample optimizer dense norm read_outs mlp_input; do
        start "$check-$program" "$tool" --tool "$check" --error-exitcode 9 "$build/${program}_test"
      done
    done
    settle
    ;;
  bench)
    timeout "$(left)" "$build/credence_gpu_bench" 2>&1 | tee "$log/bench.txt"
    status=${PIPESTATUS[0]}
    if ((status != 0)); then
      say 'without our times PyTorch is not timed\n'
    elif python3 -c 'import torch' 2>/dev/null; then
      timeout "$(left)" python3 bench/peers/torch_kernels.py 2>&1 | tee "$log/torch.txt"
      torch=${PIPESTATUS[0]}
      ((torch == 0)) || say 'PyTorch ended with %d: its figures are not whole\n' "$torch"
    else
      say 'PyTorch is not installed: no figures beside ours\n'
    fi
    ;;
esac
finish
