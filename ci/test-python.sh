#!/usr/bin/env bash
# The Python tests, with every Python that is found, three at a time: they wait more than they work. Arguments are passed
# on to pytest. SIGABRT makes a run that hangs for good show the stacks of all its threads. With SECOND_TRY set, what
# failed is tried once more by itself; .ci/run lists it then. With FEWER_BETWEEN set, the versions between the oldest and the
# newest run only what depends on the interpreter: starting, forking, importing, pickling, signals, private parts.
source "$(dirname "$0")/environment.sh"
build_wheel
found=$(venvs)
for venv in $found; do
    install_tools "$venv" test
    install_wheel "$venv"
done

between=() oldest_and_newest=
if [ -n "${FEWER_BETWEEN:-}" ] && [ $# -eq 0 ]; then
    for name in census connection context dummy executor guide imports insides install native package process reduction \
        resource_tracker security seed_programs signals spares; do
        between+=("tests/test_$name.py")
    done
    oldest_and_newest=$(for venv in $found; do echo "$(python_version "$venv/bin/python") $venv"; done |
        sort -V | sed -n '1p;$p' | cut -d' ' -f2)
fi

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
tests() {
    local venv=$1
    shift
    timeout --signal=ABRT --kill-after=10 2700 "$venv/bin/python" -m pytest \
        -o cache_dir=".pytest_cache/$(basename "$venv")" "$@"
}
run() {
    local python status=0
    python=$("$1/bin/python" --version)
    section "Python tests, $python" tests "$@" || status=$?
    [ "$status" -eq 0 ] && return
    # Of a run that was ended before its end nobody knows what failed: only 1 says that tests did.
    [ -n "${SECOND_TRY:-}" ] && [ "$status" -eq 1 ] && section "Second try, $python" tests "$@" --last-failed --last-failed-no-failures none
}

status=0
for venv in $found; do
    # The first to be done makes room for the next.
    while [ "$(jobs -rp | wc -l)" -ge 3 ]; do wait -n || true; done
    log=$logs/$(basename "$venv")
    chosen=("$@")
    grep -qxF "$venv" <<<"$oldest_and_newest" || chosen+=("${between[@]}")
    { run "$venv" "${chosen[@]}" && touch "$log.passed"; } >"$log" 2>&1 &
done
wait
for venv in $found; do
    log=$logs/$(basename "$venv")
    cat "$log"
    [ -e "$log.passed" ] || status=1
done
exit "$status"
