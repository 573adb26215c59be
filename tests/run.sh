#!/usr/bin/env bash
# The tests of the whole workspace: what they need, the binaries they start, then all of them, then a summary.
#
#   tests/run.sh                      everything
#   tests/run.sh -p fkv-store         what `cargo test` is told instead of --workspace
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests/setup.sh

# The tests talk to servers on the loopback interface, whatever proxy the machine needs for the rest.
export no_proxy="127.0.0.1,localhost${no_proxy:+,$no_proxy}"
export NO_PROXY=$no_proxy

if [[ $# == 0 ]]; then set -- --workspace; fi
# Test and server binaries in one step, so that both are built from the same libraries.
cargo build --release --locked --workspace --bins --tests

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --release --locked --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?

# Lines such as: test result: ok. 17 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
awk '/^test result: / { passed += $4; failed += $6; ignored += $8; suites += 1 }
    /^test .* \.\.\. FAILED/ { names = names "\n  failed: " $2 }
    END { printf "summary: %d passed, %d failed, %d ignored in %d test binaries%s\n", passed, failed, ignored, suites, names }' "$log"
if ! grep -q '^test result: ' "$log"; then
    echo "summary: no test ran" >&2
    [[ $status != 0 ]] || status=1
fi
exit "$status"
