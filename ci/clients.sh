#!/usr/bin/env bash
# Libraries and programs that use multiprocessing, unmodified, on this package (tests/clients), in an environment of
# their own, .venv-clients, of about 300 MB. Arguments are passed on to pytest.
# make test runs the same tests, and leaves out those whose library is not installed.
source "$(dirname "$0")/environment.sh"
build_wheel
venv=$venv_parent/.venv-clients
make_venv "$venv" "$(default_python)"
install_tools "$venv" test clients
install_wheel "$venv"
section "clients, $("$venv/bin/python" --version)" \
    timeout --signal=ABRT --kill-after=10 2700 "$venv/bin/python" -m pytest tests/clients "$@"
