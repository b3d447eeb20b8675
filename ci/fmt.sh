#!/usr/bin/env bash
# Formats everything; with --check, only says what isn't.
source "$(dirname "$0")/environment.sh"
find_rust
make_default_venv
install_tools "$default_venv" lint
cargo fmt --all -- "$@"
"$default_venv/bin/ruff" format "$@" .
