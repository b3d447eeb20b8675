#!/usr/bin/env bash
# The crates, their tests and examples as they are for ARM64, read by clippy: that needs no linker and no machine of that
# kind, only the standard library for it, which rustup installs if it is missing (that takes the network).
source "$(dirname "$0")/environment.sh"
find_rust
target=aarch64-unknown-linux-gnu
if [ ! -d "$(rustc --print target-libdir --target "$target")" ]; then
    command -v rustup >/dev/null || fail "rustup was not found: it installs the standard library for $target."
    rustup target add "$target"
fi
cargo clippy --locked --workspace --all-targets --features procession/ndarray,procession/tokio --target "$target" "$@" -- -D warnings
