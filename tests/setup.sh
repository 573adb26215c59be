#!/usr/bin/env bash
# Installs what the tests need beyond Rust, Python and apt. Does nothing, quickly, where all is there already.
#
#   c++       for libFuzzer, which is C++              apt (g++), or CXX
#   etcd      the metadata store of the etcd tests     apt (etcd-server), or FKV_TEST_ETCD
#   s3s-fs    the S3 server of the store tests         cargo, into target/tools, or FKV_TEST_S3
#   python    pyarrow, grpcio and others               PyPI, into target/venv, or FKV_TEST_PYTHON
#
# Each line it prints says what is used and whether it had to be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly S3S_FS_VERSION=0.14.1
readonly REQUIREMENTS=tests/requirements.txt
readonly TOOLS=target/tools
readonly VENV=target/venv

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

# Runs a command with its output kept, and shown only if it fails.
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

as_root() {
    if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi
}

apt_install() {
    command -v apt-get >/dev/null || return 1
    [[ $(id -u) == 0 ]] || command -v sudo >/dev/null || return 1
    export DEBIAN_FRONTEND=noninteractive
    # Package lists may be absent or old: fetch them only if installing fails.
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" 2>/dev/null && return
    quietly as_root apt-get update
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

setup_cxx() {
    local how="was there" compiler=${CXX:-c++}
    if ! command -v "$compiler" >/dev/null; then
        [[ -z ${CXX:-} ]] || die "CXX is no compiler: $CXX"
        say "c++: installing g++ with apt"
        apt_install g++ || die "g++ cannot be installed; install it by hand, or name a compiler in CXX"
        how="installed"
    fi
    say "c++: $(command -v "$compiler") $("$compiler" -dumpversion) ($how)"
}

setup_etcd() {
    if [[ -n ${FKV_TEST_ETCD:-} ]]; then
        [[ -x $FKV_TEST_ETCD ]] || die "FKV_TEST_ETCD is no executable: $FKV_TEST_ETCD"
        say "etcd: $FKV_TEST_ETCD (FKV_TEST_ETCD)"
        return
    fi
    local how="was there"
    if ! command -v etcd >/dev/null; then
        say "etcd: installing etcd-server with apt"
        apt_install etcd-server || die "etcd cannot be installed; install it by hand, or name a binary in FKV_TEST_ETCD"
        # The package starts a service of its own; the tests start their own servers on other ports.
        if [[ -d /run/systemd/system ]]; then
            as_root systemctl disable --now etcd >/dev/null 2>&1 || true
        else
            as_root service etcd stop >/dev/null 2>&1 || true
        fi
        command -v etcd >/dev/null || die "apt installed etcd-server, but there is no etcd on the PATH"
        how="installed"
    fi
    say "etcd: $(command -v etcd) $(etcd --version | sed -n 's/^etcd Version: //p') ($how)"
}

setup_s3() {
    if [[ -n ${FKV_TEST_S3:-} ]]; then
        [[ -x $FKV_TEST_S3 ]] || die "FKV_TEST_S3 is no executable: $FKV_TEST_S3"
        say "s3s-fs: $FKV_TEST_S3 (FKV_TEST_S3)"
        return
    fi
    local how="was there"
    if ! { [[ -x $TOOLS/bin/s3s-fs ]] && grep -q "\"s3s-fs $S3S_FS_VERSION " "$TOOLS/.crates.toml" 2>/dev/null; }; then
        say "s3s-fs: compiling $S3S_FS_VERSION, which takes a few minutes"
        quietly cargo install s3s-fs --version "$S3S_FS_VERSION" --locked --features binary --root "$TOOLS" --force ||
            die "s3s-fs cannot be installed; name a binary in FKV_TEST_S3 instead"
        how="installed"
    fi
    say "s3s-fs: $TOOLS/bin/s3s-fs $S3S_FS_VERSION ($how)"
}

# What the environment was made from: another Python or other pins make it anew.
venv_stamp() {
    python3 -c 'import sys; print(sys.version, sys.executable)'
    cat "$REQUIREMENTS"
}

setup_python() {
    if [[ -n ${FKV_TEST_PYTHON:-} ]]; then
        [[ -x $FKV_TEST_PYTHON ]] || die "FKV_TEST_PYTHON is no executable: $FKV_TEST_PYTHON"
        say "python: $FKV_TEST_PYTHON (FKV_TEST_PYTHON)"
        return
    fi
    command -v python3 >/dev/null || die "there is no python3"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || die "python3 is older than 3.10"
    local how="was there" stamp
    stamp=$(venv_stamp)
    if ! { [[ $(cat "$VENV/.stamp" 2>/dev/null) == "$stamp" ]] && "$VENV/bin/python" -c '' 2>/dev/null; }; then
        say "python: installing $REQUIREMENTS"
        rm -rf "$VENV"
        if python3 -c 'import ensurepip, venv' 2>/dev/null && quietly python3 -m venv "$VENV"; then
            quietly "$VENV/bin/python" -m pip install --disable-pip-version-check --only-binary :all: -r "$REQUIREMENTS" ||
                die "the Python packages cannot be installed"
        else
            # Debian keeps the module that makes environments in a package of its own: do without.
            rm -rf "$VENV"
            python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip ||
                die "there is neither venv nor pip for $(command -v python3); install python3-venv"
            quietly python3 -m pip install --disable-pip-version-check --only-binary :all: \
                --target "$VENV/packages" -r "$REQUIREMENTS" || die "the Python packages cannot be installed"
            mkdir -p "$VENV/bin"
            cat >"$VENV/bin/python" <<EOF
#!/bin/sh
PYTHONPATH='$PWD/$VENV/packages' exec '$(python3 -c 'import sys; print(sys.executable)')' "\$@"
EOF
            chmod +x "$VENV/bin/python"
        fi
        "$VENV/bin/python" -c 'import google.protobuf, grpc, grpc_reflection, numpy, pyarrow.parquet, xxhash' ||
            die "the Python packages are installed but cannot be imported"
        printf '%s\n' "$stamp" >"$VENV/.stamp"
        how="installed"
    fi
    say "python: $VENV/bin/python $("$VENV/bin/python" -c 'import sys; print(sys.version.split()[0])') ($how)"
}

mkdir -p target
# Two runs at once would install over each other.
exec 9>target/.setup.lock
if command -v flock >/dev/null; then flock 9; fi
setup_cxx
setup_etcd
setup_s3
setup_python
