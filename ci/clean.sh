#!/usr/bin/env bash
# Removes whatever the other scripts have made.
source "$(dirname "$0")/environment.sh"
rm -rf "$venv_parent"/.venv "$venv_parent"/.venv-* .mypy_cache .ruff_cache .pytest_cache "$wheel_dir"
find python tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +
if command -v cargo >/dev/null; then
    find_rust
    cargo clean
fi
