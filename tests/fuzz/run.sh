#!/usr/bin/env bash
# Fuzzes what reads bytes from disk and network, with libFuzzer under AddressSanitizer. Findings go to target/fuzz/findings.
#
#   tests/fuzz/run.sh corpus [TARGET…]           replays the corpora kept here, then fuzzes each target for a few seconds
#   tests/fuzz/run.sh long [MINUTES] [TARGET…]   fuzzes each target for so many minutes of CPU time (20); its corpus grows
#                                                in target/fuzz/corpus
#   tests/fuzz/run.sh keep [TARGET…]             takes what long runs found into the corpora kept here, as few inputs as cover it
#   tests/fuzz/run.sh one TARGET FILE…           runs single inputs, such as a finding
#
# Builds with the stable compiler: RUSTC_BOOTSTRAP=1 lets it use sanitizers. The C++ part of libFuzzer wants a C++ compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly HERE=tests/fuzz
readonly BUILD=target/fuzz
TRIPLE=$(rustc -vV | sed -n 's/^host: //p')
readonly TRIPLE
# What decodes bytes may not take more memory than this, whatever they say: in one piece, and altogether.
readonly MALLOC_LIMIT_MB=64 RSS_LIMIT_MB=1536

# Would be taken instead of RUSTFLAGS.
unset CARGO_ENCODED_RUSTFLAGS

die() { printf 'fuzz: error: %s\n' "$*" >&2; exit 1; }

targets() { sed -n 's/^name = "fuzz-\(.*\)"$/\1/p' "$HERE/Cargo.toml" | grep -vx seeds; }

build() {
    command -v "${CXX:-c++}" >/dev/null || die "libFuzzer wants a C++ compiler: run tests/setup.sh, or install g++"
    local flags=(-Zsanitizer=address -Ccodegen-units=1 -Cpasses=sancov-module)
    local coverage
    for coverage in level=4 inline-8bit-counters pc-table trace-compares; do
        flags+=("-Cllvm-args=-sanitizer-coverage-$coverage")
    done
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="${flags[*]}" CARGO_INCREMENTAL=0 cargo build --quiet --release --locked \
        --manifest-path "$HERE/Cargo.toml" --target "$TRIPLE" --target-dir "$BUILD"
}

# Becomes a target with limits on what one input may take. A pause of the whole machine is no hang.
become() {
    local target=$1
    shift
    mkdir -p "$BUILD/findings"
    exec "$BUILD/$TRIPLE/release/fuzz-$target" -rss_limit_mb="$RSS_LIMIT_MB" -malloc_limit_mb="$MALLOC_LIMIT_MB" \
        -timeout=300 -report_slow_units=300 -artifact_prefix="$BUILD/findings/$target-" -print_final_stats=1 "$@"
}
fuzzer() { (become "$@"); }

# The value of one of libFuzzer's final statistics, or of the last line with a coverage.
stat() { sed -n "s/^stat::$2: *//p" "$1" | tail -n 1; }
coverage() { grep -o 'cov: [0-9]*' "$1" | tail -n 1; }

corpus() {
    local target log status=0
    log=$(mktemp)
    for target in "$@"; do
        local kept=$HERE/corpus/$target
        [[ -n $(find "$kept" -type f 2>/dev/null | head -n 1) ]] || die "$kept is empty"
        # Fresh inputs are of no interest here: only findings are kept.
        local grown
        grown=$(mktemp -d)
        if fuzzer "$target" -runs=0 "$kept" >"$log" 2>&1 &&
            fuzzer "$target" -max_total_time="${FKV_FUZZ_SECONDS:-5}" -seed=1 "$grown" "$kept" >"$log" 2>&1; then
            printf 'fuzz: %-10s %5d inputs kept, %8d runs, %s\n' "$target" "$(find "$kept" -type f | wc -l)" \
                "$(stat "$log" number_of_executed_units)" "$(coverage "$log")"
        else
            tail -n 60 "$log" >&2
            printf 'fuzz: %-10s FAILED; the input is in %s/findings\n' "$target" "$BUILD" >&2
            status=1
        fi
        rm -rf "$grown"
    done
    rm -f "$log"
    return "$status"
}

# First inputs, made of golden files.
seeds() {
    rm -rf "$BUILD/seeds"
    "$BUILD/$TRIPLE/release/fuzz-seeds" "$BUILD/seeds"
}

# Seconds of CPU time a process has used.
cpu_seconds() { awk -v hz="$(getconf CLK_TCK)" '{ print int(($14 + $15) / hz) }' "/proc/$1/stat" 2>/dev/null; }

long() {
    local minutes=$1 target status=0
    shift
    seeds
    for target in "$@"; do
        local corpus=$BUILD/corpus/$target log=$BUILD/$target.log used=0 now pid
        mkdir -p "$corpus" "$HERE/corpus/$target"
        become "$target" "$corpus" "$HERE/corpus/$target" "$BUILD/seeds/$target" >"$log" 2>&1 &
        pid=$!
        while now=$(cpu_seconds "$pid") && [[ -n $now ]]; do
            used=$now
            if ((used >= minutes * 60)); then kill -INT "$pid" 2>/dev/null || true; fi
            sleep 2
        done
        local code=0
        wait "$pid" || code=$?
        # 72 is libFuzzer's own status for an interrupt.
        if [[ $code == 72 ]]; then
            printf 'fuzz: %-10s %4d CPU s, %s runs, %s, %s new inputs\n' "$target" "$used" \
                "$(stat "$log" number_of_executed_units)" "$(coverage "$log")" "$(stat "$log" new_units_added)"
        else
            tail -n 60 "$log" >&2
            printf 'fuzz: %-10s FAILED after %d CPU s; the input is in %s/findings\n' "$target" "$used" "$BUILD" >&2
            status=1
        fi
    done
    return "$status"
}

keep() {
    local target
    seeds
    for target in "$@"; do
        local kept=$HERE/corpus/$target merged
        merged=$(mktemp -d)
        mkdir -p "$kept" "$BUILD/corpus/$target"
        # By edges alone: how often each was taken would keep several times as many inputs.
        fuzzer "$target" -set_cover_merge=1 -use_counters=0 "$merged" "$kept" "$BUILD/corpus/$target" "$BUILD/seeds/$target" \
            >"$BUILD/$target-merge.log" 2>&1
        # Inputs that found something stay, whatever they cover by now.
        [[ -n $(find "$merged" -type f | head -n 1) ]] || die "nothing covers anything of $target"
        find "$kept" -type f ! -name 'finding-*' -delete
        cp -n "$merged"/* "$kept"/
        rm -rf "$merged"
        printf 'fuzz: %-10s %5d inputs, %s bytes\n' "$target" "$(find "$kept" -type f | wc -l)" "$(du -sb "$kept" | cut -f1)"
    done
}

mode=${1:-}
[[ $# == 0 ]] || shift
minutes=20
if [[ $mode == long && ${1:-} =~ ^[0-9]+$ ]]; then
    minutes=$1
    shift
fi
case $mode in
corpus | long | keep)
    if [[ $# == 0 ]]; then mapfile -t chosen < <(targets); else chosen=("$@"); fi
    for target in "${chosen[@]}"; do
        targets | grep -qx "$target" || die "there is no target $target, but $(targets | paste -sd' ')"
    done
    build
    if [[ $mode == long ]]; then long "$minutes" "${chosen[@]}"; else "$mode" "${chosen[@]}"; fi
    ;;
one)
    [[ $# -ge 2 ]] || die "name a target and a file"
    build
    fuzzer "$@"
    ;;
*) die "say corpus, long, keep or one; the first lines of $HERE/run.sh say more" ;;
esac
