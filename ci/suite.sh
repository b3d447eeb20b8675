#!/usr/bin/env bash
# CPython's own tests of multiprocessing on procession: with each Python from 3.11 to 3.15 that is found and by each
# start method, or with --python VERSION that one. With --ci: the default Python alone, or the first other one that has
# the tests, two classes at a time, with more time for each test; it is no failure then if none has them, since many
# installations come without.
# The other arguments are passed on to tests/cpython_suite/run.py: --start-method METHOD, --jobs N, CLASS or TEST...
source "$(dirname "$0")/environment.sh"

only="" limit=3600 options=()
while [ $# -gt 0 ]; do
    case $1 in
        --ci) only=first limit=1800 options+=(--jobs 2 --limit 240) ;;
        --python) only=$2; shift ;;
        *) options+=("$1") ;;
    esac
    shift
done

# has_suite VENV: the tests are part of an installation that is complete, and are known for some versions.
has_suite() {
    case $(python_version "$1/bin/python") in
        3.11 | 3.12 | 3.13 | 3.14 | 3.15) "$1/bin/python" -c 'import test._test_multiprocessing' 2>/dev/null ;;
        *) return 1 ;;
    esac
}

[ -z "${SECOND_TRY:-}" ] || options+=(--second-try)

build_wheel
status=0 ran=0
found=$(venvs)
for venv in $found; do
    version=$(python_version "$venv/bin/python")
    case $only in
        "" | "$version") ;;
        first) [ "$ran" -eq 0 ] || break ;;
        *) continue ;;
    esac
    if ! has_suite "$venv"; then
        # Said where .ci/run looks for the totals.
        echo "CPython's tests: Python $version ($venv) has none that can be run here"
        continue
    fi
    install_wheel "$venv"
    ran=$((ran + 1))
    section "CPython's tests, Python $version" \
        timeout --kill-after=10 "$limit" "$venv/bin/python" tests/cpython_suite/run.py "${options[@]}" || status=1
done
if [ "$ran" -eq 0 ] && [ "$only" != first ]; then
    fail "No Python with the tests of multiprocessing was found."
fi
exit "$status"
