#!/usr/bin/env bash
# Whether the crate's API has changed in a way that its version does not say: beside a commit, by cargo-semver-checks.
#
#   ci/semver.sh            beside the last release (the newest tag), or HEAD where there is none
#   ci/semver.sh main~20    beside that commit
source "$(dirname "$0")/environment.sh"
find_rust
cargo semver-checks --version >/dev/null 2>&1 ||
    fail "cargo-semver-checks was not found: cargo install cargo-semver-checks --locked"
baseline=${1:-$(git describe --tags --abbrev=0 2>/dev/null || echo HEAD)}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/semver
cargo semver-checks --package procession --all-features --baseline-rev "$baseline"
