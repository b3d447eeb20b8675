#!/usr/bin/env bash
# CPython's own tests of multiprocessing on procession: with each Python from 3.11 to 3.13 that is found and by each
# start method, or with --ci the default Python alone, two classes at a time, or with --python VERSION that one.
# The other arguments are passed on to tests/cpython_suite/run.py: --start-method METHOD, --jobs N, CLASS or TEST...
source "$(dirname "$0")/environment.sh"

only="" options=()
while [ $# -gt 0 ]; do
    case $1 in
        --ci) only=default options+=(--jobs 2) ;;
        --python) only=$2; shift ;;
        *) options+=("$1") ;;
    esac
    shift
done

# has_suite VENV: the tests are part of an installation that is complete, and are known for some versions.
has_suite() {
    case $(python_version "$1/bin/python") in
        3.11 | 3.12 | 3.13) "$1/bin/python" -c 'import test._test_multiprocessing' 2>/dev/null ;;
        *) return 1 ;;
    esac
}

build_wheel
status=0 ran=0
found=$(venvs)
for venv in $found; do
    version=$(python_version "$venv/bin/python")
    case $only in
        "" | "$version") ;;
        default) [ "$venv" = "$default_venv" ] || continue ;;
        *) continue ;;
    esac
    if ! has_suite "$venv"; then
        say "$venv: Python $version has no tests that can be run here"
        continue
    fi
    install_wheel "$venv"
    ran=$((ran + 1))
    section "CPython's tests, Python $version" \
        timeout --kill-after=10 3600 "$venv/bin/python" tests/cpython_suite/run.py "${options[@]}" || status=1
done
[ "$ran" -gt 0 ] || fail "No Python with the tests of multiprocessing was found."
exit "$status"
