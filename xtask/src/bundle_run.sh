#!/usr/bin/env bash
# Runs condensed-rope's tests, demo and bench on a machine with a CUDA GPU, a driver and PyTorch.
#
#   bash run.sh             all tests, then the demo
#   bash run.sh tests       all tests, GPU ones included
#   bash run.sh sanitize    the GPU tests but the largest and those that provoke the driver, under
#                           compute-sanitizer's memcheck, those of shapes under its racecheck, and those whose
#                           threads meet under its synccheck
#   bash run.sh demo        LongChat's rotation
#   bash run.sh bench       the GPU benches (rows in bench.json), then peers.py's rows, then the host's
#                           costs, errors against position (errors.json), and the CPU's
set -u
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
if [ -f files.tar.gz ]; then
    tar -xzf files.tar.gz && rm files.tar.gz || exit 1
fi

torch=$(python3 -c 'import torch; print(torch.__path__[0])' 2>/dev/null) ||
    echo "python3 has no torch: the tch tests will not start"
export LD_LIBRARY_PATH="${torch:+$torch/lib}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export CONDENSED_ROPE_CLI="$PWD/rotate"

status=0
run_tests() {
    local log passed failed
    log=$(mktemp)
    for test in tests/*; do
        echo "== $test"
        "$test" --include-ignored --show-output "$@" 2>&1 | tee -a "$log"
        [ "${PIPESTATUS[0]}" -eq 0 ] || status=1
    done
    passed=$(awk '/^test result:/ { for (i = 1; i < NF; i++) if ($(i + 1) == "passed;") n += $i } END { print n + 0 }' "$log")
    failed=$(awk '/^test result:/ { for (i = 1; i < NF; i++) if ($(i + 1) == "failed;") n += $i } END { print n + 0 }' "$log")
    echo "$passed passed, $failed failed"
    rm -f "$log"
}

case "${1:-all}" in
    all) run_tests && ./longchat || status=1 ;;
    tests) run_tests "${@:2}" ;;
    sanitize)
        compute-sanitizer --tool memcheck --error-exitcode 1 tests/cuda --include-ignored \
            --skip flashinfer_grid --skip vllm_grid --skip liger --skip over_2_31 --skip out_of_memory \
            --skip fastchats_table --skip no_device_99 --skip refusals_that_cudarc_keeps --skip every_float \
            --test-threads 1 "${@:2}" || status=1
        compute-sanitizer --tool racecheck --error-exitcode 1 tests/cuda --include-ignored \
            --test-threads 1 shapes_of_real_models every_kind_of_positions q_alone positions_on_three_axes \
            sets_of_frequencies tables_are_exact appends_of_models to_appends || status=1
        compute-sanitizer --tool synccheck --error-exitcode 1 tests/cuda --include-ignored \
            --test-threads 1 appends_of_models to_appends || status=1 ;;
    demo) ./longchat || status=1 ;;
    bench)
        ./gpu --bench "${@:2}" || status=1
        python3 peers.py "${CONDENSED_ROPE_BENCH_JSON:-bench.json}" || status=1
        ./host --bench || status=1
        ./errors --bench || status=1
        ./cpu --bench || status=1 ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0" ;;
esac
exit $status
