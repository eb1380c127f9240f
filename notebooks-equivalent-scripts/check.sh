#!/usr/bin/env bash
# Tests of the scripts: each one runs, verifies what it shows, fails where it must, and leaves nothing behind.
set -uo pipefail
[[ -n ${BEACON_BIN_DIR:-} ]] || BEACON_BIN_DIR=$("$(dirname "${BASH_SOURCE[0]}")/../scripts/build") || exit
BEACON_BIN_DIR=$(realpath "$BEACON_BIN_DIR") || exit
export BEACON_BIN_DIR
cd "$(dirname "${BASH_SOURCE[0]}")" || exit
# All temporary directories are made in here.
TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/beacon-check.XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

# result EXPRESSION: Python, where d is the demo's last line.
result() { tail -n 1 "$TMPDIR/out" | /usr/bin/env python3 -c "import json, sys; d = json.load(sys.stdin); print($1)"; }

expect() { # WHAT GOT EXPECTED
  [[ $2 == "$3" ]] || { printf '%s: got %s, expected %s\n' "$1" "$2" "$3" && false; }
}

# processes: ids of those that have our temporary directory in their command line.
processes() {
  local file words
  for file in /proc/[0-9]*/cmdline; do
    mapfile -d '' words <"$file" || continue
    [[ ${words[*]} != *"$TMPDIR"* ]] || basename "$(dirname "$file")"
  done 2>/dev/null
}

# Nothing may be left of a script: neither its directory nor a process that works in it.
nothing_left() { expect "left behind" "$(find "$TMPDIR" -mindepth 1 -maxdepth 1 -type d)$(processes)" ""; }

demo() { timeout 300 ./demo.sh "$@" >"$TMPDIR/out" 2>"$TMPDIR/err"; }

two_members_and_two_signals() {
  demo --json --signals 2 || return
  expect "last line" "$(result 'd["verified"], d["members"], len(d["signals"])')" "True 2 2" &&
    expect "address" "$(result 'd["beacon_address"][:6]')" "bcrt1p" &&
    expect "bytes" "$(result '[len(s["signal_bytes"]) for s in d["signals"]]')" "[64, 64]" &&
    expect "versions" "$(result '[x["version_id"] for x in d["dids"]]')" "['3', '3']" &&
    nothing_left
}

pull_flow_with_three_members() {
  demo --json --flow pull --members 3 && expect "last line" "$(result 'd["verified"], d["members"]')" "True 3" &&
    expect "versions" "$(result '[x["version_id"] for x in d["dids"]]')" "['3', '2', '2']"
}

a_cas_beacon() {
  demo --json --beacon cas && expect "versions" "$(result '[x["version_id"] for x in d["dids"]]')" "['3', '2']"
}

a_real_node() {
  demo --json --chain bitcoind --signals 2 && expect "last line" "$(result 'd["verified"], len(d["signals"])')" "True 2" &&
    expect "versions" "$(result '[x["version_id"] for x in d["dids"]]')" "['3', '3']" && nothing_left
}

two_demos_at_once() {
  local first
  timeout 300 ./demo.sh >/dev/null 2>"$TMPDIR/err.first" &
  first=$!
  demo && wait "$first" && nothing_left
}

an_altered_proof_fails_the_demo() {
  BEACON_DEMO_TAMPER=proof demo --json
  expect "exit code" "$?" 1 && expect "standard output" "$(<"$TMPDIR/out")" "" || return
  grep -q 'FAILED in step 11, Signal 1 of 1: verify every proof: member 2: .*invalid proof' "$TMPDIR/err" || return
  nothing_left
}

an_altered_update_fails_the_demo() {
  BEACON_DEMO_TAMPER=sidecar demo --json
  expect "exit code" "$?" 1 && expect "standard output" "$(<"$TMPDIR/out")" "" || return
  grep -q 'FAILED in step 13, Resolve every identifier: member 1: .*does not resolve' "$TMPDIR/err"
}

wrong_arguments_are_refused() {
  local arguments
  for arguments in "--members 1" "--members 51" "--members x" "--members" "--flow sideways" "--beacon lamp" "--chain of-command" "--signals 0" "--what"; do
    # shellcheck disable=SC2086 # words are wanted
    demo $arguments
    expect "exit code of $arguments" "$?" 2 && expect "lines" "$(wc -l <"$TMPDIR/err")" 1 || return
  done
}

# stop_under_way SIGNAL: sends a signal to a demo that has just begun with its first signal; sets `code`.
stop_under_way() {
  local line script story
  mkfifo "$TMPDIR/story"
  # Job control: otherwise a background job ignores SIGINT for ever.
  set -m
  ./demo.sh --signals 50 >"$TMPDIR/out" 2>"$TMPDIR/story" &
  script=$!
  set +m
  exec {story}<"$TMPDIR/story"
  while read -r -t 120 -u "$story" line && [[ $line != 9.* ]]; do :; done
  kill "-$1" "$script"
  cat <&"$story" >"$TMPDIR/err"
  exec {story}<&-
  wait "$script"
  code=$?
  rm "$TMPDIR/story"
}

ctrl_c_stops_everything() { stop_under_way INT && expect "exit code" "$code" 130 && nothing_left; }

sigterm_stops_everything() { stop_under_way TERM && expect "exit code" "$code" 143 && nothing_left; }

no_process_survives_kill_9() {
  local pid
  stop_under_way KILL
  expect "exit code" "$code" 137 || return
  # The agents have been told to stop; tail waits until they have.
  for pid in $(processes); do timeout 30 tail --pid="$pid" -f /dev/null; done
  # Nobody was there any more to remove the directory.
  rm -rf "$TMPDIR"/beacon-demo.*
  nothing_left
}

three_terminals() {
  local fred lucia coordinator commands
  mkfifo "$TMPDIR/commands"
  set -m
  ./coordinator.sh >"$TMPDIR/commands" 2>"$TMPDIR/err" &
  coordinator=$!
  set +m
  exec {commands}<"$TMPDIR/commands"
  read -r -t 120 -u "$commands" fred && read -r -t 120 -u "$commands" lucia || return
  timeout 120 bash -c "$fred" >"$TMPDIR/out.fred" 2>"$TMPDIR/err.fred" &
  timeout 120 bash -c "$lucia" >"$TMPDIR/out.lucia" 2>"$TMPDIR/err.lucia" || return
  wait $! || return
  kill -INT "$coordinator"
  # Whoever started this with SIGINT ignored shall see a failure, and not wait for ever.
  timeout 60 tail --pid="$coordinator" -f /dev/null || kill -TERM "$coordinator"
  wait "$coordinator"
  expect "exit code" "$?" 130 && exec {commands}<&- && rm "$TMPDIR/commands" &&
    grep -q '^valid: root .* announces update ' "$TMPDIR/out.fred" &&
    grep -q '^valid: root .* announces no update ' "$TMPDIR/out.lucia" && nothing_left
}

didcomm_by_hand() {
  timeout 120 ./didcomm.sh >"$TMPDIR/out" 2>"$TMPDIR/err" &&
    expect "result" "$(<"$TMPDIR/out")" "packed, sent, answered and unpacked; 3 of 3 forgeries refused" && nothing_left
}

passed=0 failed=0
for check in two_members_and_two_signals pull_flow_with_three_members a_cas_beacon a_real_node two_demos_at_once \
  an_altered_proof_fails_the_demo an_altered_update_fails_the_demo wrong_arguments_are_refused ctrl_c_stops_everything sigterm_stops_everything no_process_survives_kill_9 \
  three_terminals didcomm_by_hand; do
  # What one check has left behind is not the next one's fault.
  rm -rf "${TMPDIR:?}"/*
  if "$check" >"$TMPDIR/why" 2>&1; then
    printf 'script check %s ... ok\n' "$check"
    passed=$((passed + 1))
  else
    printf 'script check %s ... FAILED\n' "$check"
    tail -n 25 "$TMPDIR/why" "$TMPDIR"/err* | sed 's/^/  | /'
    failed=$((failed + 1))
  fi
done
# In the words of Rust's test runner, whose results are summed up with these.
printf '\ntest result: %s. %d passed; %d failed; 0 ignored\n' "$( ((failed)) && echo FAILED || echo ok)" "$passed" "$failed"
((failed == 0))
