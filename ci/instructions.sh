#!/usr/bin/env bash
# Instructions of the hot paths, counted by callgrind: no noise, on a machine however busy. Each path is run with two
# counts, so that what happens once is left out. Compared with ci/instructions.txt, which --update writes anew.
# Another compiler or another kind of processor has other numbers: compare like with like.
source "$(dirname "$0")/environment.sh"
find_rust
command -v valgrind >/dev/null || fail "valgrind was not found: install it."

baseline=ci/instructions.txt
tolerance=3 # percent
few=1000 many=3000
update=''
[ "${1:-}" = --update ] && update=yes

program=$(cargo bench --quiet --no-run -p procession-engine --bench instructions --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\/instructions-[^"]*\)".*/\1/p' | tail -n 1)
[ -n "$program" ] || fail "the bench was not built."

# counted PATH COUNT: instructions of the whole run, of the first process alone.
counted() {
    local log
    log=$(mktemp)
    # Valgrind has no room for the whole range of addresses; a limit on the size of files makes the engine take less.
    (ulimit -f 2097152; exec valgrind --tool=callgrind --callgrind-out-file=/dev/null --log-file="$log.%p" "$program" "$1" "$2" >/dev/null) &
    local pid=$!
    wait "$pid" || { cat "$log.$pid" >&2; rm -f "$log" "$log".*; fail "$1 failed under valgrind."; }
    sed -n 's/.*Collected *: *\([0-9]*\).*/\1/p' "$log.$pid"
    rm -f "$log" "$log".*
}

found=$(mktemp)
trap 'rm -f "$found"' EXIT
printf '%-16s %10s %10s %8s\n' path now before change
status=0
for path in lock rlock queue-8-bytes queue-1-KiB pool-submit; do
    # Two statements each: a failure ends the script.
    least=$(counted "$path" "$few")
    most=$(counted "$path" "$many")
    now=$(((most - least + (many - few) / 2) / (many - few)))
    echo "$path $now" >>"$found"
    before=$(sed -n "s/^$path //p" "$baseline" 2>/dev/null || true)
    if [ -z "$before" ]; then
        printf '%-16s %10d %10s\n' "$path" "$now" -
        continue
    fi
    change=$(((now - before) * 100 / before))
    note=''
    if [ "$change" -gt "$tolerance" ]; then
        note='  MORE' status=1
    elif [ "$change" -lt -"$tolerance" ]; then
        note='  less: --update keeps it'
    fi
    printf '%-16s %10d %10d %+7d%%%s\n' "$path" "$now" "$before" "$change" "$note"
done
if [ -n "$update" ]; then
    { printf '# Instructions an operation; Rust %s, %s. Written by ci/instructions.sh --update.\n' \
        "$(rustc --version | cut -d ' ' -f 2)" "$(uname -m)"; cat "$found"; } >"$baseline"
    exit
fi
exit "$status"
