#!/usr/bin/env bash
# The Python tests, with every Python that is found. Arguments are passed on to pytest.
# SIGABRT makes a run that hangs for good show the stacks of all its threads.
source "$(dirname "$0")/environment.sh"
build_wheel
status=0
found=$(venvs)
for venv in $found; do
    install_tools "$venv" test
    install_wheel "$venv"
    section "Python tests, $("$venv/bin/python" --version)" \
        timeout --signal=ABRT --kill-after=10 1200 "$venv/bin/python" -m pytest "$@" || status=1
done
exit "$status"
