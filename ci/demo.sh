#!/usr/bin/env bash
# The five programs of examples/, first in Rust on the crate, then in Python on the package.
source "$(dirname "$0")/environment.sh"
find_rust
say "Setting up; the first time takes a few minutes."
build_wheel
install_wheel "$default_venv"
cargo build --release --quiet -p procession --examples

unset PYTHONUNBUFFERED  # it tears lines that several processes print at the same time
bold="" plain=""
if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; fi
failed=0

# show TITLE COMMAND...
show() {
    local title=$1 status=0
    shift
    printf '\n%s--- %s%s\n    %s\n\n' "$bold" "$title" "$plain" "$*"
    timeout 120 "$@" || status=$?
    if [ "$status" -ne 0 ]; then
        printf '*** exit code %d\n' "$status"
        failed=$((failed + 1))
    fi
}

run_rust() { show "$1" cargo run --release --quiet -p procession --example "$2"; }
run_python() { show "$1" "$default_venv/bin/python" "examples/$2"; }

printf '\n%s=== In Rust, on the crate procession%s\n' "$bold" "$plain"
run_rust "Processes" process
run_rust "A type of one's own in the place of a process" process_trait
run_rust "A pool" pool
run_rust "A lock" lock
run_rust "A lock that may be taken again" rlock

printf '\n%s=== In Python, on the package procession%s\n' "$bold" "$plain"
run_python "Processes" process_direct.py
run_python "A subclass of Process" process_subclass.py
run_python "A pool" pool_apply_async.py
run_python "A lock" lock.py
run_python "A lock that may be taken again" rlock.py

if [ "$failed" -ne 0 ]; then
    fail $'\n'"$failed of the ten programs failed."
fi
printf '\n%sThe demo succeeded: ten programs, five in Rust and five in Python, all ended well.%s\n' "$bold" "$plain"
