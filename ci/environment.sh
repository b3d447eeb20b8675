# Sourced by the other scripts. Sets up, from nothing, whatever they ask for; what is there already is kept.
#
#   virtual environments   .venv with the default Python, and .venv-3.12 etc. for each further one that is found
#   tools                  the dependency groups of pyproject.toml
#   the package            one abi3 release wheel, installed into every environment; rebuilt only when a source changed
#
# Settings from outside: PYTHON (the default interpreter), VENV_PARENT (where the environments stand),
# CARGO_TARGET_DIR (what cargo understands by it), and pip's own.

set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export PIP_DISABLE_PIP_VERSION_CHECK=1
venv_parent=${VENV_PARENT:-.}
wheel_dir=${CARGO_TARGET_DIR:-target}/wheels
default_venv=$venv_parent/.venv
supported_pythons="3.11 3.12 3.13 3.14 3.15"

say() { printf '%s\n' "$*" >&2; }

fail() { say "$*"; exit 1; }

# --- Rust -------------------------------------------------------------------------------------------

# rustup looks for its toolchains in HOME. Where HOME is another than the one it was installed in, they stand beside it.
find_rust() {
    command -v cargo >/dev/null || fail "cargo was not found: install Rust 1.88 or later."
    cargo --version >/dev/null 2>&1 && return
    local beside
    beside=$(dirname "$(command -v cargo)")/../../.rustup
    if [ -z "${RUSTUP_HOME:-}" ] && [ -d "$beside" ]; then
        RUSTUP_HOME=$(realpath "$beside")
        export RUSTUP_HOME
    fi
    cargo --version >/dev/null || fail "cargo does not run: see above."
}

# --- Python -----------------------------------------------------------------------------------------

# python_version INTERPRETER: such as 3.12, if it runs and can make virtual environments.
python_version() {
    "$1" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

# find_python VERSION: an interpreter of that version, from PATH, from pyenv, or from beside the installation of python3;
# nothing if there is none.
find_python() {
    local candidate beside
    beside=$(python3 -c 'import os, sys; print(os.path.dirname(sys.base_prefix))' 2>/dev/null || true)
    for candidate in "python$1" {"${PYENV_ROOT:-$HOME/.pyenv}/versions","$beside"}/"$1".*/bin/python; do
        if [ "$(python_version "$candidate")" = "$1" ]; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

# default_python: $PYTHON, python3, or the first supported version that is found.
default_python() {
    local candidate version
    for candidate in ${PYTHON:-python3}; do
        version=$(python_version "$candidate")
        case " $supported_pythons " in
            *" ${version:-none} "*) printf '%s\n' "$candidate"; return ;;
        esac
    done
    for version in $supported_pythons; do
        candidate=$(find_python "$version")
        if [ -n "$candidate" ]; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "No Python from 3.11 on with venv and ensurepip was found; PYTHON=... names one."
}

is_venv() { "$1/bin/python" -c 'import pip' 2>/dev/null; }

# make_venv DIRECTORY INTERPRETER
make_venv() {
    if ! is_venv "$1"; then
        say "Making $1 with $("$2" --version)"
        rm -rf "$1"
        "$2" -m venv "$1"
    fi
}

make_default_venv() {
    # What exists is kept without asking which interpreter it came from.
    is_venv "$default_venv" || make_venv "$default_venv" "$(default_python)"
}

# venvs: the default environment, then one for each further version that is found. Made when missing.
venvs() {
    local version interpreter default_version
    make_default_venv
    printf '%s\n' "$default_venv"
    default_version=$(python_version "$default_venv/bin/python")
    for version in $supported_pythons; do
        [ "$version" = "$default_version" ] && continue
        interpreter=$(find_python "$version")
        [ -n "$interpreter" ] || continue
        make_venv "$venv_parent/.venv-$version" "$interpreter" >&2
        printf '%s\n' "$venv_parent/.venv-$version"
    done
}

# --- tools ------------------------------------------------------------------------------------------

# requirements GROUP...: of pyproject.toml; "runtime" is the package's own dependencies.
requirements() {
    "$default_venv/bin/python" - "$@" <<'PY'
import sys, tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
for group in sys.argv[1:]:
    print(*(project["project"]["dependencies"] if group == "runtime" else project["dependency-groups"][group]), sep="\n")
PY
}

# install_tools VENV GROUP...: once, and again when the requirements change.
install_tools() {
    local venv=$1 group wanted stamp
    shift
    for group in "$@"; do
        wanted=$(requirements "$group")
        stamp=$venv/.installed-$group
        [ "$wanted" = "$(cat "$stamp" 2>/dev/null)" ] && continue
        say "Installing into $venv:" $wanted
        # shellcheck disable=SC2086  # one requirement a word
        "$venv/bin/python" -m pip install --quiet $wanted
        printf '%s\n' "$wanted" >"$stamp"
    done
}

# --- the package ------------------------------------------------------------------------------------

# sources_digest: of everything that goes into the wheel.
sources_digest() {
    {
        cargo --version
        find crates python Cargo.toml Cargo.lock pyproject.toml README.md -type f \
            -not -path '*/target/*' -not -path '*/__pycache__/*' -not -path '*/tests/*' -not -path '*/examples/*' \
            -not -path '*/benches/*' -not -name '*.so' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum | cut -d ' ' -f 1
}

# build_wheel: sets `wheel` and `digest`.
build_wheel() {
    find_rust
    make_default_venv
    install_tools "$default_venv" build
    digest=$(sources_digest)
    if [ "$digest" != "$(cat "$wheel_dir/.built-from" 2>/dev/null)" ] || ! ls "$wheel_dir"/procession-*.whl >/dev/null 2>&1; then
        say "Building the wheel"
        mkdir -p "$wheel_dir"
        rm -f "$wheel_dir"/procession-*.whl "$wheel_dir/.built-from"
        "$default_venv/bin/maturin" build --release --quiet --out "$wheel_dir" \
            --interpreter "$default_venv/bin/python" --auditwheel skip
        printf '%s\n' "$digest" >"$wheel_dir/.built-from"
    fi
    wheel=$(ls "$wheel_dir"/procession-*.whl)
}

# install_wheel VENV: after build_wheel; nothing is done if this very wheel is there.
install_wheel() {
    local venv=$1
    install_tools "$venv" runtime
    [ "$digest" = "$(cat "$venv/.installed-procession" 2>/dev/null)" ] && return
    rm -f "$venv/.installed-procession"
    "$venv/bin/python" -m pip install --quiet --no-index --no-deps --force-reinstall "$wheel"
    printf '%s\n' "$digest" >"$venv/.installed-procession"
}

# --- telling what is going on -----------------------------------------------------------------------

# section TITLE COMMAND...: runs it under a heading, and says how long it took.
section() {
    local title=$1 began=$SECONDS status=0
    shift
    printf '\n=== %s\n' "$title"
    "$@" || status=$?
    if [ "$status" -eq 0 ]; then
        printf '=== %s: ok, %d s\n' "$title" $((SECONDS - began))
    else
        printf '=== %s: FAILED (exit code %d), %d s\n' "$title" "$status" $((SECONDS - began))
    fi
    return "$status"
}
