# shellcheck shell=bash disable=SC2034 # some variables are for the scripts that source this
# What the scripts of this folder share: narration, processes that never outlive the script, waits. Sourced, not run.
#
# The story goes to standard error; standard output has results only.

set -Eeuo pipefail
# The story, also while a command's standard error goes elsewhere.
exec 3>&2

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
bin=
# A private directory for keys, states and logs; removed at the end unless `keep` is true.
work=
keep=false
step="build"
steps=0
# Process ids and output descriptors of what runs in the background, by name.
declare -A pid_of=() out_of=()
# Where the Bitcoin Core node is and its cookie, if there is one.
node=()

# The system's own Python rather than a version manager's, which starts much slower.
python=/usr/bin/python3
[[ -x $python ]] || python=python3
# The agents' settings come from the scripts alone; their logs go to files.
unset "${!BEACON_COORDINATOR_@}" "${!BEACON_PARTICIPANT_@}"
# Keys that live as long as a demo have no passphrase. In earnest they have one: leave this out, and the agents ask.
export BEACON_COORDINATOR_UNENCRYPTED_KEYS=true BEACON_PARTICIPANT_UNENCRYPTED_KEYS=true
export NO_COLOR=1

tool() { "$python" -I -S "$here/tool.py" "$@"; }

# --- Narration and failure

say() { printf '   %s\n' "$@" >&3; }

# step TITLE: begins a step, which a failure is reported with.
step() {
  step=$1
  steps=$((steps + 1))
  printf '\n%d. %s\n' "$steps" "$step" >&3
}

# typed WORD...: prints a command as a user would type it.
typed() {
  local word line=
  for word in "$@"; do
    ((${#word} <= 90)) || word="${word:0:24}…${word: -8}"
    word=${word/#"$bin/"/}
    line+=" ${word/#"$work/"/}"
  done
  say "\$$line"
}

# short TEXT: enough of a DID or hash to recognise it.
short() { if ((${#1} > 34)); then printf '%s…%s' "${1:0:24}" "${1: -8}"; else printf '%s' "$1"; fi; }

# show_json: the JSON on standard input as a part of the story.
show_json() { tool pretty | sed 's/^/   /' >&3; }

# usage_error SCRIPT MESSAGE
usage_error() {
  printf '%s: %s; see --help\n' "$1" "$2" >&2
  exit 2
}

# fail MESSAGE [NAME...]: says which step failed, shows the end of these agents' logs, and ends the script.
fail() {
  trap - ERR
  if [[ $BASHPID != "$$" ]]; then
    # Whoever waits for this subshell reports.
    printf '%s\n' "$1" >&2
    exit 1
  fi
  printf '\nFAILED in step %d, %s: %s\n' "$steps" "$step" "$1" >&2
  local name
  for name in "${@:2}"; do
    [[ -s $work/$name.log ]] || continue
    printf -- '--- last lines of the log of %s\n' "$name" >&2
    tail -n 15 "$work/$name.log" >&2
  done
  exit 1
}

on_error() {
  local code=$? command=$BASH_COMMAND
  fail "\`${command:0:200}\` ended with code $code" "${!pid_of[@]}"
}

stop_everything() {
  local code=$? name jobs deadline=$((SECONDS + 10))
  trap - ERR EXIT
  trap '' INT TERM HUP
  set +e
  for name in "${!pid_of[@]}"; do kill -TERM "${pid_of[$name]}" 2>/dev/null; done
  for name in "${!pid_of[@]}"; do
    # A process that is gone has closed its standard output.
    while ((SECONDS < deadline)) && read -r -t "$((deadline - SECONDS))" -u "${out_of[$name]}" _; do :; done
    kill -KILL "${pid_of[$name]}" 2>/dev/null
  done
  # Waits that were cut short: without their agents they have ended already, or do now.
  mapfile -t jobs < <(jobs -p)
  ((${#jobs[@]} == 0)) || kill -TERM "${jobs[@]}" 2>/dev/null
  wait 2>/dev/null
  if [[ -n $work ]]; then
    if $keep; then say "Kept: $work"; else rm -rf "$work"; fi
  fi
  exit "$code"
}

interrupted() {
  printf '\nStopped in step %d, %s\n' "$steps" "$step" >&2
  exit "$1"
}

trap on_error ERR
trap stop_everything EXIT
trap 'interrupted 130' INT
trap 'interrupted 143' TERM HUP

# --- Processes

# prepare NAME: finds the binaries, which are built unless BEACON_BIN_DIR says where they are, and makes `work`.
prepare() {
  bin=${BEACON_BIN_DIR:-}
  [[ -n $bin ]] || bin=$("$root/scripts/build") || fail "the build failed"
  local name
  for name in beacon-regtest beacon-coordinator beacon-participant; do
    [[ -x $bin/$name ]] || fail "$bin/$name is missing: build it with scripts/build, or unset BEACON_BIN_DIR"
  done
  work=$(mktemp -d "${TMPDIR:-/tmp}/beacon-$1.XXXXXX")
}

# launch NAME COMMAND...: runs a command in the background; its log is in $work/NAME.log. It is told to stop when
# this script ends in whatever way, kill -9 included.
launch() {
  local name=$1 descriptor
  exec {descriptor}< <(exec setpriv --pdeathsig TERM -- "${@:2}" 2>"$work/$name.log" 3>&-)
  pid_of[$name]=$!
  out_of[$name]=$descriptor
}

# is_ready NAME: waits for the line of JSON that a launched process prints when it can be used. Sets `ready`.
is_ready() { IFS= read -r -t 60 -u "${out_of[$1]}" ready; }

must_be_ready() { is_ready "$1" || fail "$1 did not come up" "$1"; }

# agent NAME COMMAND...: a command of the agent whose data directory is $work/NAME.
agent() { "$bin/beacon-$(role "$1")" --data-dir "$work/$1" --json "${@:2}"; }

# shown NAME COMMAND...: the same, and printed.
shown() {
  typed "beacon-$(role "$1")" --data-dir "$1" "${@:2}"
  agent "$@"
}

role() { if [[ $1 == coordinator ]]; then printf 'coordinator'; else printf 'participant'; fi; }

# until_event SECONDS NAME WHAT KIND [MEMBER=VALUE...]: waits until the log of the agent NAME has such an event, from
# sequence number `from` on (1), and fails with WHAT if that takes longer than SECONDS (0: waits for ever). Sets
# `answer` to the event's line.
until_event() {
  local seconds=$1 name=$2 what=$3 pair where=()
  for pair in "${@:5}"; do where+=(--where "$pair"); done
  # In the background, since bash acts on a signal during `wait`, but not while a command runs in the foreground.
  timeout --foreground "$seconds" "$bin/beacon-$(role "$name")" --data-dir "$work/$name" --json \
    events --from "${from:-1}" --until "$4" "${where[@]}" >"$work/$name.events" 2>"$work/$name.error" &
  wait $! || fail "$what (waited for ${*:4}, at most $seconds s) $(<"$work/$name.error")" "$name"
  answer=$(tail -n 1 "$work/$name.events")
}

# --- The chain and the coordinator

# Whichever chain it is, `chain_options` lead an agent to it.

start_chain() { # LISTEN, or nothing for a free port
  launch regtest "$bin/beacon-regtest" --json --data-dir "$work/chain" --listen "${1:-127.0.0.1:0}"
  must_be_ready regtest
  chain_url=$(tool get url <<<"$ready")
  chain_options=(--chain-url "$chain_url")
}

# start_node: the same with a Bitcoin Core node, whose program is in `bitcoind`.
start_node() {
  local rpc attempt code deadline cookie=$work/chain/regtest/.cookie
  mkdir "$work/chain"
  for attempt in 1 2 3; do
    rpc=$(tool port)
    launch bitcoind "$bitcoind" -regtest -datadir="$work/chain" -rpcport="$rpc" -rpcbind=127.0.0.1 -rpcallowip=127.0.0.1 \
      -server=1 -listen=0 -connect=0 -dnsseed=0 -dbcache=4 -printtoconsole=0
    chain_url=http://127.0.0.1:$rpc
    node=("$chain_url" "$cookie")
    deadline=$((SECONDS + 60))
    until node ready 2>>"$work/bitcoind.log"; do
      ((SECONDS < deadline)) || fail "bitcoind did not come up within 60 s" bitcoind
      code=0
      read -r -t 0.1 -u "${out_of[bitcoind]}" _ || code=$?
      # It has closed its output: somebody else was faster at its port, for instance.
      ((code > 128)) || continue 2
    done
    chain_options=(--chain bitcoind --chain-url "$chain_url")
    # For commands that are given nothing but the data directory.
    export BEACON_COORDINATOR_CHAIN=bitcoind BEACON_COORDINATOR_CHAIN_URL=$chain_url BEACON_COORDINATOR_CHAIN_COOKIE_FILE=$cookie
    export BEACON_PARTICIPANT_CHAIN=bitcoind BEACON_PARTICIPANT_CHAIN_URL=$chain_url BEACON_PARTICIPANT_CHAIN_COOKIE_FILE=$cookie
    # The coins of the first blocks can be spent: one for each payment.
    node mine 160
    paid=0
    return
  done
  fail "bitcoind did not come up (attempt $attempt)" bitcoind
}

node() {
  local rpc attempt cookie=$work/chain/regtest/.cookie
  mkdir "$work/chain"
  for attempt in 1 2 3; do
    rpc=$(tool port)
    launch bitcoind "$bitcoind" -regtest -datadir="$work/chain" -rpcport="$rpc" -rpcbind=127.0.0.1 -rpcallowip=127.0.0.1 \
      -server=1 -listen=0 -connect=0 -dnsseed=0 -dbcache=4 -printtoconsole=0
    chain_url=http://127.0.0.1:$rpc
    node=("$chain_url" "$cookie")
    if node ready 2>"$work/bitcoind.error"; then
      chain_options=(--chain bitcoind --chain-url "$chain_url")
      # Every command finds the cookie here.
      export BEACON_COORDINATOR_CHAIN_COOKIE_FILE=$cookie BEACON_PARTICIPANT_CHAIN_COOKIE_FILE=$cookie
      # The coins of the first blocks can be spent: one for each payment.
      node mine 160
      paid=0
      return
    fi
  done
  fail "bitcoind did not come up (attempt $attempt): $(<"$work/bitcoind.error")" bitcoind
}

node() { "$python" -I -S "$here/node.py" "${node[@]}" "$@"; }

mine() {
  if ((${#node[@]})); then node mine "$1"; else tool post "$chain_url/regtest/mine?blocks=$1" >/dev/null; fi
}

# signal_of TXID: a signal's bytes, height and parents, as the chain has it.
signal_of() {
  if ((${#node[@]})); then node signal "$1"; else tool signal "$chain_url" "$1"; fi
}

# start_coordinator LISTEN OPTION...: sets `coordinator_did` and `coordinator_listens`. The port is part of the DID, so
# where LISTEN is empty a free one is chosen before; another one where somebody else was faster.
start_coordinator() {
  local address attempt
  for attempt in 1 2 3 4 5; do
    address=${1:-127.0.0.1:$(tool port)}
    launch coordinator "$bin/beacon-coordinator" --data-dir "$work/coordinator" --json \
      run --listen "$address" "${chain_options[@]}" "${@:2}"
    if is_ready coordinator; then
      coordinator_did=$(tool get did <<<"$ready")
      coordinator_listens=$address
      return
    fi
    if [[ -n $1 ]] || ! grep -q 'in use' "$work/coordinator.log"; then break; fi
    rm -rf "$work/coordinator"
  done
  fail "the coordinator did not come up at $address (attempt $attempt)" coordinator
}

# pay ADDRESS SATS: pays to an address in the next block.
pay() {
  if ((${#node[@]})); then
    paid=$((paid + 1))
    node pay "$paid" "$1" "$2"
  else
    tool post "$chain_url/regtest/fund?address=$1&sats=$2" >/dev/null
  fi
}

# fund COHORT ADDRESS SATS: pays to the address, mines, and waits until the coordinator sees it in a block.
fund() {
  pay "$2" "$3"
  mine 1
  # A look at the chain may have come between the payment and the block.
  local funds='' from=1
  while [[ ! $funds =~ \"height\":\ [0-9]+ ]]; do
    until_event 60 coordinator "the coordinator did not see the funds" funds_seen "cohort=$1"
    from=$(($(tool get seq <<<"$answer") + 1))
    funds=$(tool get event.funds <<<"$answer")
  done
}
