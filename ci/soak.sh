#!/usr/bin/env bash
# A mixed load with deaths, in which memory, descriptors and members must stay flat. Arguments are passed on: --minutes M,
# 20 by default.
source "$(dirname "$0")/environment.sh"
build_wheel
install_tools "$default_venv" test
install_wheel "$default_venv"
PYTHONPATH=tests "$default_venv/bin/python" -m chaos.soak "$@"
