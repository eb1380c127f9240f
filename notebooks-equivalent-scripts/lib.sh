# shellcheck shell=bash
# What the scripts of this folder share: narration, processes that never outlive the script, waits. Sourced, not run.
#
# Everything that a script says goes to standard error; standard output has results only.

set -Eeuo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
step="start"
steps=0
work=
keep=false
# Process ids and output descriptors of what runs in the background, by name.
declare -A pid_of=() out_of=()

# The system's own rather than a version manager's, which starts much slower.
python=/usr/bin/python3
[[ -x $python ]] || python=python3
# The agents' settings come from the scripts alone; their logs go to files.
unset "${!BEACON_COORDINATOR_@}" "${!BEACON_PARTICIPANT_@}"
export NO_COLOR=1

# Without the user's packages: starts in a tenth of the time.
tool() { "$python" -I -S "$here/tool.py" "$@"; }

say() { printf '   %s\n' "$@" >&2; }

# step TITLE: begins a step, which a failure is reported with.
step() {
  step=$1
  steps=$((steps + 1))
  printf '\n%d. %s\n' "$steps" "$step" >&2
}

# shown COMMAND...: prints a command as a user would type it, then runs it.
shown() {
  printf '   $' >&2
  local word
  for word in "$@"; do
    ((${#word} <= 60)) || word="${word:0:40}…${word: -8}"
    printf ' %s' "${word/#"$bin/"/}" >&2
  done
  printf '\n' >&2
  "$@"
}

# fail MESSAGE [NAME...]: says which step failed, shows the end of these processes' logs, and ends the script.
fail() {
  trap - ERR
  printf '\nFAILED in step %d, %s: %s\n' "$steps" "$step" "$1" >&2
  shift
  local name
  for name in "$@"; do
    [[ -s $work/$name.log ]] || continue
    printf -- '--- last lines of the log of %s\n' "$name" >&2
    tail -n 15 "$work/$name.log" >&2
  done
  exit 1
}

on_error() {
  local code=$? command=$BASH_COMMAND
  # In a subshell, whoever waits for it reports.
  if [[ $BASHPID == "$$" ]]; then
    fail "\`${command:0:200}\` ended with code $code" "${!pid_of[@]}"
  fi
  exit "$code"
}
trap on_error ERR

stop_everything() {
  local code=$? name
  trap - ERR EXIT
  trap '' INT TERM HUP
  set +e
  for name in "${!pid_of[@]}"; do kill -TERM "${pid_of[$name]}"; done 2>/dev/null
  # A process is gone when its standard output is closed.
  for name in "${!pid_of[@]}"; do
    while read -r -t 10 -u "${out_of[$name]}" _; do :; done
    kill -KILL "${pid_of[$name]}" 2>/dev/null
  done
  # Waits that were cut short: without their agents they have ended already, or do now.
  local jobs
  mapfile -t jobs < <(jobs -p)
  ((${#jobs[@]} == 0)) || kill -TERM "${jobs[@]}" 2>/dev/null
  wait 2>/dev/null
  if [[ -n $work ]]; then
    if $keep; then say "kept: $work"; else rm -rf "$work"; fi
  fi
  exit "$code"
}
trap stop_everything EXIT
trap 'say "" "stopped in step $steps, $step"; exit 130' INT
trap 'say "" "stopped in step $steps, $step"; exit 143' TERM HUP

# make_work NAME: a private directory for keys, states and logs; removed at the end unless `keep` is set.
make_work() { work=$(mktemp -d "${TMPDIR:-/tmp}/beacon-$1.XXXXXX"); }

# find_binaries: builds them, unless BEACON_BIN_DIR says where they are. Sets `bin`.
find_binaries() {
  if [[ -n ${BEACON_BIN_DIR:-} ]]; then
    bin=$BEACON_BIN_DIR
  else
    bin=$("$root/scripts/build")
  fi
  local name
  for name in beacon-regtest beacon-coordinator beacon-participant; do
    [[ -x $bin/$name ]] || fail "$bin/$name is missing: unset BEACON_BIN_DIR, or build it with scripts/build"
  done
}

# launch NAME COMMAND...: runs a command in the background; its log is in $work/NAME.log. It is told to stop when
# this script ends in whatever way, kill -9 included.
launch() {
  local name=$1 descriptor
  shift
  exec {descriptor}< <(exec setpriv --pdeathsig TERM -- "$@" 2>"$work/$name.log")
  pid_of[$name]=$!
  out_of[$name]=$descriptor
}

# try_ready NAME: waits for the line of JSON that a launched process prints when it can be used. Sets `ready`.
try_ready() { IFS= read -r -t 60 -u "${out_of[$1]}" ready; }

must_be_ready() { try_ready "$1" || fail "$1 did not come up" "$1"; }

# await SECONDS WHAT NAME COMMAND...: runs a command that ends when something has happened, and fails when it does
# not in time (0: for ever). NAME is whose log explains it. Sets `answer` to the last line of its output.
await() {
  local seconds=$1 what=$2 name=$3
  shift 3
  # In the background, since bash acts on a signal during `wait`, but not while a command runs in the foreground.
  timeout --foreground "$seconds" "$@" >"$work/await.out" 2>"$work/await.err" &
  wait $! || fail "$what: not within $seconds s. $(tail -n 1 "$work/await.err")" "$name"
  answer=$(tail -n 1 "$work/await.out")
}

start_chain() { # [IP:PORT]
  launch regtest "$bin/beacon-regtest" --json --data-dir "$work/chain" --listen "${1:-127.0.0.1:0}"
  must_be_ready regtest
  chain_url=$(tool get url <<<"$ready")
}

# start_coordinator [IP:PORT]: sets `coordinator_did` and `coordinator_listens`. The port is part of the DID, so a
# free one is chosen before; another one where somebody else was faster.
start_coordinator() {
  local attempt address
  for attempt in 1 2 3 4 5; do
    address=${1:-127.0.0.1:$(tool port)}
    launch coordinator "$bin/beacon-coordinator" --data-dir "$work/coordinator" --json \
      run --listen "$address" --chain-url "$chain_url" --chain-poll-ms "${poll_ms:-200}" --label coordinator
    if try_ready coordinator; then
      { read -r coordinator_did && read -r coordinator_listens; } < <(tool get did listening <<<"$ready")
      return
    fi
    if [[ -n ${1:-} ]] || ! grep -q 'in use' "$work/coordinator.log"; then break; fi
    rm -rf "$work/coordinator"
  done
  fail "coordinator did not come up (attempt $attempt, $address)" coordinator
}

coordinator() { "$bin/beacon-coordinator" --data-dir "$work/coordinator" --json "$@"; }

# until_coordinator SECONDS WHAT KIND [NAME=VALUE...]: waits for an event in the coordinator's log.
until_coordinator() {
  local seconds=$1 what=$2 kind=$3 pair where=()
  shift 3
  for pair in "$@"; do where+=(--where "$pair"); done
  await "$seconds" "$what" coordinator \
    "$bin/beacon-coordinator" --data-dir "$work/coordinator" --json events --until "$kind" "${where[@]}"
}

# fund COHORT ADDRESS SATS: pays to the address, mines, and waits until the coordinator sees it. Sets `at_risk`.
fund() {
  tool post "$chain_url/regtest/fund?address=$2&sats=$3" >/dev/null
  mine 1
  local balance=0 from=1
  while ((balance < $3)); do
    await 60 "the coordinator did not see the funds" coordinator \
      "$bin/beacon-coordinator" --data-dir "$work/coordinator" --json \
      events --from "$from" --until funds_seen --where "cohort=$1"
    from=$(($(tool get seq <<<"$answer") + 1))
    { read -r balance && read -r at_risk; } < <(coordinator cohort show "$1" | tool get balance_sat at_risk)
  done
}

mine() { tool post "$chain_url/regtest/mine?blocks=$1" >/dev/null; }

# short TEXT: enough of a DID or hash to recognise it.
short() { if ((${#1} > 34)); then printf '%s…%s' "${1:0:24}" "${1: -8}"; else printf '%s' "$1"; fi; }
