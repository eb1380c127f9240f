#!/usr/bin/env bash
# Shows that every check of the review matters: removes each line of the two tables in turn, in a copy of the sources,
# and demands that exactly that check's test fails.
#
# usage: tests/checks-matter.sh [CODE...]     codes as on the wire, such as fee-too-high; without any, all of them
#
# Prints a line for each check and a summary "N passed, M failed"; exit code 1 if any check deviates, 2 if it cannot run.
set -euo pipefail

crate=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
workspace=$(cd "$crate/../.." && pwd)
copy=$(mktemp -d "${TMPDIR:-/tmp}/checks-matter.XXXXXX")
trap 'rm -rf "$copy"' EXIT

mkdir "$copy/crates"
cp "$workspace/Cargo.lock" "$copy/"
sed 's|^members = .*|members = ["crates/cohort", "crates/signal"]|' "$workspace/Cargo.toml" > "$copy/Cargo.toml"
for member in cohort signal; do
    cp -r "$workspace/crates/$member" "$copy/crates/"
done
export CARGO_TARGET_DIR=$workspace/target/checks-matter
review=$copy/crates/cohort/src/review

# The tables' lines: file, variant and, from the list of codes, the name on the wire.
checks=()
for file in cohort signal; do
    for variant in $(sed -n 's/^ *check(DeclineCode::\([A-Za-z]*\), .*/\1/p' "$review/$file.rs"); do
        code=$(sed -n "s/^    $variant = \"\([a-z-]*\)\";/\1/p" "$review/codes.rs")
        checks+=("$file $variant $code")
    done
done
tables=$(cat "$review/cohort.rs" "$review/signal.rs" | grep -c '^ *check(')
if [ "$tables" -eq 0 ] || [ ${#checks[@]} -ne "$tables" ]; then
    echo "the tables have $tables checks, ${#checks[@]} of them on one line with a known code" >&2
    exit 2
fi

# The names of the tests that fail, one to a line. Fails itself if the copy does not build.
failing_tests() {
    local output
    output=$(cd "$copy" && cargo test --quiet --offline -p beacon-cohort --test review 2>&1) && return 0
    grep -q '^test result: FAILED' <<<"$output" || { echo "$output" >&2; return 1; }
    sed -n 's/^    \([a-z_]*::\)*\([a-z_]*\)$/\2/p' <<<"$output" | sort -u
}

baseline=$(failing_tests) || { echo "the review tests do not build" >&2; exit 2; }
[ -z "$baseline" ] || { echo "these tests fail with every check in place: $baseline" >&2; exit 2; }

wanted=" $* "
passed=0 failed=0
for check in "${checks[@]}"; do
    read -r file variant code <<<"$check"
    if [ $# -gt 0 ] && [[ $wanted != *" $code "* ]]; then
        continue
    fi
    wanted=${wanted/ $code / }
    table=$review/$file.rs
    cp "$table" "$copy/kept.rs"
    sed -i "/^ *check(DeclineCode::$variant, /d" "$table"
    failing=$(failing_tests | tr '\n' ' ') || failing="(does not build)"
    cp "$copy/kept.rs" "$table"
    expected="declines_${code//-/_} "
    if [ "$failing" = "$expected" ]; then
        passed=$((passed + 1))
        echo "ok      $code: without it, $expected"
    else
        failed=$((failed + 1))
        echo "FAILED  $code: expected $expected, got ${failing:-no failing test}"
    fi
done
for unknown in $wanted; do
    failed=$((failed + 1))
    echo "FAILED  $unknown: no check of this name"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
