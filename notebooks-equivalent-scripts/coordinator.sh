#!/usr/bin/env bash
# The coordinator, with a private chain beside it. In two more terminals: fred.sh and lucia.sh.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: coordinator.sh [--listen IP:PORT] [--chain-listen IP:PORT] [--keep-data]

Runs a private chain and a coordinator until Ctrl-C, and prints what to type in two more terminals for fred and lucia.

  --listen IP:PORT        where the coordinator listens; part of its DID (a free port of 127.0.0.1)
  --chain-listen IP:PORT  where the chain is served, on the loopback interface (a free port of 127.0.0.1)
  --keep-data             leave keys, states and logs behind, and say where
TEXT
}

listen='' chain_listen=''
while (($#)); do
  case $1 in
    --listen | --chain-listen) (($# > 1)) || usage_error coordinator.sh "$1 needs a value" ;;&
    --listen) listen=$2 && shift 2 ;;
    --chain-listen) chain_listen=$2 && shift 2 ;;
    --keep-data) keep=true && shift ;;
    -h | --help) usage && exit 0 ;;
    *) usage_error coordinator.sh "unknown argument '$1'" ;;
  esac
done

prepare coordinator

step "Start a Bitcoin chain"
start_chain "$chain_listen"
say "A regtest chain, validated by Bitcoin Core's own code, at $chain_url"

step "Create the coordinator's DID, and listen"
start_coordinator "$listen" --label coordinator
say "A coordinator does not have to be a participant: it holds no key of the beacon, and no money." \
  "Its DID has its keys and its endpoint, ws://$coordinator_listens:"
"$bin/beacon-participant" resolve "$coordinator_did" | tool get didDocument | show_json

step "Share the DID with participants"
say "On a website, say. Here: type this in two more terminals." ""
printf '%s %s --chain-url %s\n' "$here/fred.sh" "$coordinator_did" "$chain_url" \
  "$here/lucia.sh" "$coordinator_did" "$chain_url"

# next WHAT KIND [MEMBER=VALUE...]: waits, however long it takes, for the next such event.
from=1
next() {
  until_event 0 coordinator "$@"
  from=$(($(tool get seq <<<"$answer") + 1))
}

step "Wait for two subscribers"
for number in first second; do
  next "nobody subscribed" subscribed
  say "$number: $(short "$(tool get event.peer <<<"$answer")")"
done

step "Announce a new cohort"
cohort=$(shown coordinator cohort advertise --min-members 2 | tool get cohort_id)
next "the cohort was not set" cohort_set "cohort=$cohort"
say "Two members opted in, so the cohort is set: their keys are aggregated into one address."
for number in first second; do
  next "a member did not acknowledge" acknowledged "cohort=$cohort"
  say "$number acknowledgement: $(short "$(tool get event.peer <<<"$answer")") computed the same address"
done

step "Fund the beacon"
address=$(agent coordinator cohort show "$cohort" | tool get beacon_address)
fund "$cohort" "$address" 50000
say "50000 sat to" "$address" \
  "No more than can be lost: without either member's key, nobody can spend it."

while true; do
  step "Collect updates, and have the signal signed"
  say "Waiting for a member's update; fred.sh requests one."
  next "no session was started" session_started "cohort=$cohort"
  say "Every member answered. The tree's root is in a transaction, and every member is asked to sign it."
  next "the signal was not signed" session_signed "cohort=$cohort"
  say "All partial signatures are in, each verified on arrival, and make one signature."
  next "the signal was not broadcast" signal_broadcast "cohort=$cohort"
  txid=$(tool get event.txid <<<"$answer")

  step "Publish it"
  mine 6
  next "the signal was not buried" signal_buried "txid=$txid"
  read -r signal_bytes height _ < <(tool signal "$chain_url" "$txid")
  say "Transaction $txid in block $height," "six blocks deep, carries $signal_bytes" \
    "This coordinator goes on until Ctrl-C; its state, in yet another terminal:"
  printf '%q --data-dir %q status\n' "$bin/beacon-coordinator" "$work/coordinator"
done
