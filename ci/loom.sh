#!/usr/bin/env bash
# The protocols of locks, events, semaphores, conditions, reader-writer locks, queues, mailboxes and pools under loom: every order
# in which their threads can run, with at most LOOM_MAX_PREEMPTIONS of them broken off where they need not be: 4, which takes
# minutes; .ci/run has 3, which take half a minute and the build. Arguments are passed on.
source "$(dirname "$0")/environment.sh"
find_rust
export LOOM_MAX_PREEMPTIONS=${LOOM_MAX_PREEMPTIONS:-4}
# A build of its own: everything is compiled with loom's atomics, fast, but not for long.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/loom
export RUSTFLAGS="${RUSTFLAGS:-} --cfg loom" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
cargo build --release --quiet -p procession-shm
timeout 1200 cargo test --release -p procession-shm --test loom_lock --test loom_sync --test loom_queue --test loom_rwlock --test loom_mailbox --test loom_pool "$@"
