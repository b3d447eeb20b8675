#!/usr/bin/env bash
# All that is checked without running the code; a warning is an error here. Goes on after a failure, to show them all.
source "$(dirname "$0")/environment.sh"
build_wheel
install_tools "$default_venv" lint test
install_wheel "$default_venv"
bin=$default_venv/bin
status=0
section "format" ci/fmt.sh --check || status=1
section "clippy" cargo clippy --workspace --all-targets --features procession/ndarray,procession/tokio -- -D warnings || status=1
section "rustdoc" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet --features procession/ndarray,procession/tokio || status=1
section "ruff" "$bin/ruff" check . || status=1
section "mypy --strict" "$bin/mypy" || status=1
section "mypy --strict, a program with every name" "$bin/mypy" tests/typed/every_name.py || status=1
section "stubtest" env -u MYPYPATH "$bin/python" -m mypy.stubtest --mypy-config-file ci/stubtest.ini --allowlist ci/stubtest-allowlist.txt --ignore-unused-allowlist procession._procession || status=1
if cargo deny --version >/dev/null 2>&1; then
    section "cargo deny" cargo deny check || status=1
fi
exit "$status"
