#!/usr/bin/env bash
# A first look at speed, beside the standard library. Arguments are passed on: --smoke, --rounds N, NAME...
source "$(dirname "$0")/environment.sh"
build_wheel
install_tools "$default_venv" test
install_wheel "$default_venv"
"$default_venv/bin/python" benchmarks/first_look.py "$@"
