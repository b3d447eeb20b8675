#!/usr/bin/env bash
# Builds the wheel and installs it into every environment.
source "$(dirname "$0")/environment.sh"
build_wheel
found=$(venvs)
for venv in $found; do
    install_wheel "$venv"
    say "$venv: $("$venv/bin/python" --version), procession $("$venv/bin/python" -c \
        'import importlib.metadata as m; print(m.version("procession"))')"
done
