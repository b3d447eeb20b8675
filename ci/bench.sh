#!/usr/bin/env bash
# The benchmarks for Python, in an environment of their own. Arguments are passed on: --only TEXT, --rounds N,
# --rivals A,B, --scale; `ci/bench.sh --help` tells all. --python VERSION is the Python that is measured.
# --smoke shows that everything works, in the environment of the tests, Rust's benchmarks included.
source "$(dirname "$0")/environment.sh"
build_wheel

arguments=() version='' smoke=''
while [ $# -gt 0 ]; do
    case $1 in
        --python) version=${2:?--python needs a version, such as 3.13}; shift ;;
        --smoke) smoke=yes; arguments+=("$1") ;;
        *) arguments+=("$1") ;;
    esac
    shift
done

if [ -n "$smoke" ]; then
    install_tools "$default_venv" test
    install_wheel "$default_venv"
    python=$default_venv/bin/python
    "$python" -m benchmarks "${arguments[@]}"
    if [ ${#arguments[@]} -eq 1 ]; then
        "$python" -m benchmarks --smoke --scale
        # Each once, without measuring: built as the tests are.
        cargo test --quiet -p procession-shm -p procession-engine --bench structures --bench pool --bench instructions
    fi
    exit
fi

interpreter=$(if [ -n "$version" ]; then find_python "$version"; else default_python; fi)
[ -n "$interpreter" ] || fail "Python $version was not found."
venv=$venv_parent/.venv-bench-$(python_version "$interpreter")
make_venv "$venv" "$interpreter"
stamp=$venv/.installed-bench
wanted=$(requirements bench)
if [ "$wanted" != "$(cat "$stamp" 2>/dev/null)" ]; then
    for requirement in $wanted; do
        say "Installing into $venv: $requirement"
        "$venv/bin/python" -m pip install --quiet "$requirement" || say "$requirement does not install: it is left out"
    done
    printf '%s\n' "$wanted" >"$stamp"
fi
install_wheel "$venv"
"$venv/bin/python" -m benchmarks "${arguments[@]}"
