#!/usr/bin/env bash
# The unit tests of the crates that have unsafe code, under AddressSanitizer.
#
#   tests/asan.sh              all of them
#   tests/asan.sh NAME…        those with this in their names
#
# Builds with the stable compiler: RUSTC_BOOTSTRAP=1 lets it use sanitizers. `cfg(fkv_asan)` tells tests that they may forbid
# memory around what they test (kvsvr/src/testing.rs). Nothing is optimised: it is built quickly, and all that the
# source reads and writes is left to be checked.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly CRATES=(fkv-kvsvr)

# What is unsafe elsewhere would go unchecked: bench has its own memory for measurements, which serves nobody.
strays=$(grep -rlw --include='*.rs' unsafe formats datasvr kvsvr client tools tests | grep -v -e '^kvsvr/' -e '/target/' || true)
for file in $strays; do
    if grep -qE '^[^/]*\bunsafe (\{|fn|impl|extern)' "$file"; then
        printf 'asan: error: %s has unsafe code, but its crate is not in the list of tests/asan.sh\n' "$file" >&2
        exit 1
    fi
done

host=$(rustc -vV | sed -n 's/^host: //p')
# Would be taken instead of RUSTFLAGS.
unset CARGO_ENCODED_RUSTFLAGS
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address --cfg fkv_asan" CARGO_INCREMENTAL=0
export CARGO_PROFILE_RELEASE_OPT_LEVEL=0
packages=()
for crate in "${CRATES[@]}"; do packages+=(-p "$crate"); done
cargo test --release --locked --target "$host" --target-dir target/asan "${packages[@]}" --lib -- "$@"
