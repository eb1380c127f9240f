#!/usr/bin/env bash
# The whole story with real parts: a chain, a coordinator and N participants, each a process of its own.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: demo.sh [--members N] [--signals K] [--flow push|pull] [--json] [--keep-data]

A coordinator and N participants form a cohort over encrypted DIDComm, co-sign K beacon signals with MuSig2 and see
them mined by Bitcoin Core's own validation code, on a private chain that lives as long as the demo.

  --members N       participants, 2 to 50 (2)
  --signals K       signals, 1 to 50; each one spends the change of the one before (1)
  --flow push|pull  who speaks first in a round: a member that has an update, or the coordinator (push)
  --json            end standard output with one line of JSON
  --keep-data       leave keys, states and logs behind, and say where

The first run builds everything, which takes some minutes. BEACON_BIN_DIR names a directory with ready binaries.
Exit codes: 0 every proof of every signal was verified; 1 a step failed; 2 wrong arguments.
TEXT
}

# number NAME VALUE LOW HIGH
number() {
  if [[ ! $2 =~ ^[0-9]{1,4}$ ]] || ((10#$2 < $3 || 10#$2 > $4)); then
    usage_error demo.sh "$1: got '$2', expected a number from $3 to $4"
  fi
}

members=2 signals=1 flow=push json=false
while (($#)); do
  case $1 in
    --members | --signals | --flow) (($# > 1)) || usage_error demo.sh "$1 needs a value" ;;&
    --members) number "$1" "$2" 2 50 && members=$((10#$2)) && shift 2 ;;
    --signals) number "$1" "$2" 1 50 && signals=$((10#$2)) && shift 2 ;;
    --flow)
      [[ $2 == push || $2 == pull ]] || usage_error demo.sh "--flow: got '$2', expected push or pull"
      flow=$2 && shift 2
      ;;
    --json) json=true && shift ;;
    --keep-data) keep=true && shift ;;
    -h | --help) usage && exit 0 ;;
    *) usage_error demo.sh "unknown argument '$1'" ;;
  esac
done

prepare demo
began=${EPOCHREALTIME/[.,]/}
# For how long one thing is waited for, in seconds, and how often the chain is looked at: many processes share few cores.
patience=$((60 + 4 * members))
poll=(--chain-poll-ms $((100 + 20 * members)))

# everyone FUNCTION: runs FUNCTION for each member, all at the same time.
everyone() {
  local i jobs=()
  for ((i = 1; i <= members; i++)); do
    "$1" "$i" >"$work/$1.$i.out" 2>"$work/$1.$i.err" &
    jobs+=($!)
  done
  for ((i = 1; i <= members; i++)); do
    wait "${jobs[i - 1]}" || fail "member $i: $(<"$work/$1.$i.err")" coordinator "member$i"
  done
}

step "Start a Bitcoin chain"
start_chain ""
say "beacon-regtest validates with Bitcoin Core's own code and serves the chain at" \
  "$chain_url, with the paths of an Esplora server."

step "Start a coordinator"
start_coordinator "" "${poll[@]}"
say "It holds no key and no money. Its identity is a did:peer:2, which says where it listens:" \
  "$(short "$coordinator_did") at ws://$coordinator_listens"

step "Start $members participants"
for ((i = 1; i <= members; i++)); do
  launch "member$i" "$bin/beacon-participant" --data-dir "$work/member$i" --json \
    run --chain-url "$chain_url" "${poll[@]}" --auto-sign
done
did=("")
for ((i = 1; i <= members; i++)); do
  must_be_ready "member$i"
  did+=("$(tool get did <<<"$ready")")
  ((i > 3)) || say "member $i: $(short "${did[i]}")"
done
say "Each has a seed of its own, listens on no port, and looks at the chain with its own eyes." \
  "In this demo each member answers for its did:peer; in earnest that would be a did:btcr2."

step "Subscribe to the coordinator"
subscribe() {
  agent "member$1" subscribe "$coordinator_did"
  until_event "$patience" "member$1" "the subscription was not accepted" subscription_accepted
}
everyone subscribe
say "Every message is DIDComm authcrypt over a WebSocket: encrypted, and from a proven sender."

step "Form a cohort"
cohort=$(agent coordinator cohort advertise --min-members "$members" --flow "$flow" | tool get cohort_id)
say "The coordinator advertises cohort $cohort."
join() {
  until_event "$patience" "member$1" "the cohort was not heard of" cohort_advertised "cohort=$cohort"
  agent "member$1" join "$cohort" --did "${did[$1]}"
  until_event "$patience" "member$1" "the address was not agreed to" cohort_agreed "cohort=$cohort"
}
everyone join
for ((i = 1; i <= members; i++)); do
  until_event "$patience" coordinator "member $i did not acknowledge" acknowledged "cohort=$cohort" "peer=${did[i]}"
done
{ read -r phase && read -r address; } < <(agent coordinator cohort show "$cohort" | tool get phase beacon_address)
[[ $phase == acknowledged ]] || fail "the cohort is $phase, expected acknowledged" coordinator
say "Each member gave a fresh key with a proof of possession. All $members keys are aggregated with MuSig2 into one" \
  "taproot address, the beacon. Each member computed it again, and said that it agrees:" "$address"

step "Fund the beacon"
fund "$cohort" "$address" 50000
say "Only now that everybody agrees on the address. At risk:" \
  "$(agent coordinator cohort show "$cohort" | tool get at_risk)."

announced=()
spent=
for ((round = 1; round <= signals; round++)); do
  updater=$(((round - 1) % members + 1))
  step "Signal $round of $signals: member $updater announces an update"
  update=$(printf 'update %d of %s' "$round" "${did[updater]}" | sha256sum)
  agent "member$updater" request-update "$cohort" --update-hash "${update%% *}" \
    --version-id $((round + 1)) >/dev/null
  say "Member $updater has an update, whose hash is $(short "${update%% *}")." \
    "The coordinator gets an index and a blinded leaf: neither the DID nor the update."
  if [[ $flow == pull ]]; then
    agent coordinator session start "$cohort" >/dev/null
    say "The coordinator asks every member for its leaf."
  fi
  until_event "$patience" coordinator "members were not asked to sign" session_started "cohort=$cohort" "round=$round"
  session=$(tool get event.session <<<"$answer")
  say "The others answered \"no update\", with leaves that look the same. All leaves are in a sparse Merkle tree," \
    "whose root is what the signal carries."
  until_event "$patience" coordinator "the signal was not signed" session_signed "cohort=$cohort" "session=$session"
  txid=$(agent coordinator session list "$cohort" | tool get "$((round - 1)).txid")
  say "Every member checked the transaction, the money it spends and the proof of its own leaf; then, and only then," \
    "it made a nonce, and at last a partial signature."
  until_event "$patience" coordinator "the signal was not broadcast" signal_broadcast "txid=$txid"
  say "Signed by all, and accepted by the node: $txid"

  step "Signal $round of $signals: mine it"
  mine 1
  until_event "$patience" coordinator "the coordinator did not see the confirmation" signal_confirmed "txid=$txid"
  confirm() { until_event "$patience" "member$1" "the confirmation was not seen" signal_confirmed "txid=$txid"; }
  everyone confirm
  read -r signal_bytes height parents < <(tool signal "$chain_url" "$txid")
  if [[ -n $spent && " $parents " != *" $spent "* ]]; then
    fail "the signal spends from $parents, expected the change of $spent"
  fi
  say "In block $height. The transaction, read back from the chain, carries" "$signal_bytes." \
    ${spent:+"It spends the change of the signal before."}
  spent=$txid
  announced+=("{\"txid\":\"$txid\",\"signal_bytes\":\"$signal_bytes\",\"block_height\":$height}")

  step "Signal $round of $signals: verify every proof"
  export_proof() { agent "member$1" proof export "$cohort" --txid "$txid" --out "$work/proof.$1.json"; }
  everyone export_proof
  # For tests: an altered proof must make the demo fail.
  if [[ -n ${BEACON_DEMO_TAMPER:-} ]]; then tool alter "$work/proof.$members.json" hashes.0; fi
  verify_proof() {
    "$bin/beacon-participant" proof verify --did "${did[$1]}" --proof "$work/proof.$1.json" --root "$signal_bytes"
  }
  everyone verify_proof
  say "$members proofs, each checked by a process that knows nothing but the DID, the proof and those 32 bytes:" \
    "$(sed "s/${did[updater]}/member $updater/" "$work/verify_proof.$updater.out")"
done

step "Bury the last signal"
mine 5
until_event "$patience" coordinator "the last signal was not buried" signal_buried "txid=$txid"
elapsed_ms=$(((${EPOCHREALTIME/[.,]/} - began) / 1000))
say "Six confirmations, as the cohort's terms want. All of it took $elapsed_ms ms."

if $json; then
  printf '{"cohort_id":"%s","beacon_address":"%s","members":%d,"signals":[%s],"verified":true,"elapsed_ms":%d}\n' \
    "$cohort" "$address" "$members" "$(IFS=, && printf '%s' "${announced[*]}")" "$elapsed_ms"
else
  printf '\n%d signal(s) of %d members in %d ms, every proof verified.\n' "$signals" "$members" "$elapsed_ms"
fi
