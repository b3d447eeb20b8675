#!/usr/bin/env bash
# Random programs by seed, whose processes are killed, stopped and interrupted at random instants; each third round with
# a build whose processes also kill themselves at named places. Arguments are passed on: --rounds N, --seconds S,
# --jobs N, --first-seed N; --seed N runs a round again.
source "$(dirname "$0")/environment.sh"
build_wheel
install_tools "$default_venv" test
install_wheel "$default_venv"
target=${CARGO_TARGET_DIR:-target}
crash=$target/chaos
cargo build --quiet -p procession-python --features crash-points
mkdir -p "$crash"
rm -rf "$crash/procession"
cp -r python/procession "$crash/procession"
cp "$target/debug/lib_procession.so" "$crash/procession/_procession.abi3.so"
PYTHONPATH=tests "$default_venv/bin/python" -m chaos.run --crash-package "$(realpath "$crash")" "$@"
