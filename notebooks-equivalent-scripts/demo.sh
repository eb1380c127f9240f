#!/usr/bin/env bash
# The whole story with real parts: a chain, a coordinator and N participants, each a process of its own.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: demo.sh [--members N] [--signals K] [--beacon smt|cas] [--flow push|pull] [--chain embedded|bitcoind]
               [--json] [--keep-data]

A coordinator and N participants form a cohort over encrypted DIDComm. Each participant makes a did:btcr2 identifier and
adds the cohort's beacon to its document. They co-sign K beacon signals with MuSig2, each of which announces an update of
one document, and see them mined on a private chain that lives as long as the demo and obeys Bitcoin Core's rules. At last somebody else resolves every identifier, with nothing but the chain and one file for each.

  --members N       participants, 2 to 50 (2)
  --signals K       signals, 1 to 50; each one spends the change of the one before (1)
  --beacon smt|cas  what a signal commits to: a tree of blinded leaves, or a map in the open (smt)
  --flow push|pull  who speaks first in a round: a member that has an update, or the coordinator (push)
  --chain embedded|bitcoind
                    Bitcoin Core's validation code in a small Esplora server, or a whole Bitcoin Core node without wallet,
                    built once from source where BITCOIND_EXE does not name one (embedded)
  --json            end standard output with one line of JSON
  --keep-data       leave keys, states and logs behind, and say where

The first run builds everything, which takes some minutes. BEACON_BIN_DIR names a directory with ready binaries.
Exit codes: 0 every proof of every signal was verified, and every identifier resolved to its newest version; 1 a step
failed; 2 wrong arguments.
TEXT
}

# number NAME VALUE LOW HIGH
number() {
  if [[ ! $2 =~ ^[0-9]{1,4}$ ]] || ((10#$2 < $3 || 10#$2 > $4)); then
    usage_error demo.sh "$1: got '$2', expected a number from $3 to $4"
  fi
}

members=2 signals=1 beacon=smt flow=push chain=embedded json=false
while (($#)); do
  case $1 in
    --members | --signals | --beacon | --flow | --chain) (($# > 1)) || usage_error demo.sh "$1 needs a value" ;;&
    --members) number "$1" "$2" 2 50 && members=$((10#$2)) && shift 2 ;;
    --signals) number "$1" "$2" 1 50 && signals=$((10#$2)) && shift 2 ;;
    --beacon)
      [[ $2 == smt || $2 == cas ]] || usage_error demo.sh "--beacon: got '$2', expected smt or cas"
      beacon=$2 && shift 2
      ;;
    --flow)
      [[ $2 == push || $2 == pull ]] || usage_error demo.sh "--flow: got '$2', expected push or pull"
      flow=$2 && shift 2
      ;;
    --chain)
      [[ $2 == embedded || $2 == bitcoind ]] || usage_error demo.sh "--chain: got '$2', expected embedded or bitcoind"
      chain=$2 && shift 2
      ;;
    --json) json=true && shift ;;
    --keep-data) keep=true && shift ;;
    -h | --help) usage && exit 0 ;;
    *) usage_error demo.sh "unknown argument '$1'" ;;
  esac
done

prepare demo
if [[ $chain == bitcoind ]]; then
  bitcoind=$("$root/scripts/bitcoind") || fail "there is no bitcoind"
fi
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
if [[ $chain == bitcoind ]]; then
  start_node
  say "$("$bitcoind" --version | head -n 1), on regtest and without wallet, answers at $chain_url."
else
  start_chain ""
  say "beacon-regtest validates with Bitcoin Core's own code and serves the chain at" \
    "$chain_url, with the paths of an Esplora server."
fi

step "Start a coordinator"
start_coordinator "" "${poll[@]}"
say "It holds no key and no money. Its identity is a did:peer:2, which says where it listens:" \
  "$(short "$coordinator_did") at ws://$coordinator_listens"

step "Start $members participants"
for ((i = 1; i <= members; i++)); do
  launch "member$i" "$bin/beacon-participant" --data-dir "$work/member$i" --json \
    run "${chain_options[@]}" "${poll[@]}" --auto-sign
done
peer=("")
for ((i = 1; i <= members; i++)); do
  must_be_ready "member$i"
  peer+=("$(tool get did <<<"$ready")")
  ((i > 3)) || say "member $i: $(short "${peer[i]}")"
done
say "Each has a seed of its own, listens on no port, and looks at the chain with its own eyes."

step "Make a did:btcr2 identifier for each"
did=("") own_address=("")
for ((i = 1; i <= members; i++)); do
  { read -r made && read -r endpoint; } < <(agent "member$i" did create --new | tool get did beacons.2.serviceEndpoint)
  did+=("$made") own_address+=("${endpoint#bitcoin:}")
  ((i > 3)) || say "member $i: $made"
done
say "Made from a key of the seed, offline. Its first document has three singleton beacons: addresses of that key."

step "Subscribe to the coordinator"
subscribe() {
  agent "member$1" subscribe "$coordinator_did"
  until_event "$patience" "member$1" "the subscription was not accepted" subscription_accepted
}
everyone subscribe
say "Every message is DIDComm authcrypt over a WebSocket: encrypted, and from a proven sender."

step "Form a cohort"
type=${beacon^^}Beacon
cohort=$(agent coordinator cohort advertise --min-members "$members" --flow "$flow" --term beacon_type="$type" |
  tool get cohort_id)
say "The coordinator advertises cohort $cohort."
join() {
  until_event "$patience" "member$1" "the cohort was not heard of" cohort_advertised "cohort=$cohort"
  agent "member$1" join "$cohort" --did "${did[$1]}"
  until_event "$patience" "member$1" "the address was not agreed to" cohort_agreed "cohort=$cohort"
}
everyone join
for ((i = 1; i <= members; i++)); do
  until_event "$patience" coordinator "member $i did not acknowledge" acknowledged "cohort=$cohort" "peer=${peer[i]}"
done
{ read -r phase && read -r address; } < <(agent coordinator cohort show "$cohort" | tool get phase beacon_address)
[[ $phase == acknowledged ]] || fail "the cohort is $phase, expected acknowledged" coordinator
say "Each member gave a fresh key with a proof of possession. All $members keys are aggregated with MuSig2 into one" \
  "taproot address, the beacon. Each member computed it again, and said that it agrees:" "$address"

step "Put the cohort's beacon into every document"
for ((i = 1; i <= members; i++)); do pay "${own_address[i]}" 20000; done
mine 1
add_beacon() { agent "member$1" did add-beacon --cohort "$cohort" --did "${did[$1]}"; }
everyone add_beacon
added=("")
for ((i = 1; i <= members; i++)); do added+=("$(tool get txid <"$work/add_beacon.$i.out")"); done
mine 1
see_it() {
  until_event "$patience" "member$1" "the update was not confirmed" singleton_confirmed "txid=${added[$1]}"
}
everyone see_it
say "An update is announced by a beacon that the document has already: here by a spend of the identifier's own address," \
  "which its controller pays for alone. From version 2 on, the cohort announces what changes, for all at once."

step "Fund the beacon"
fund "$cohort" "$address" 50000
say "Only now that everybody agrees on the address. At risk:" \
  "$(agent coordinator cohort show "$cohort" | tool get at_risk)."

told_to_coordinator() {
  if [[ $beacon == smt ]]; then
    printf 'The coordinator gets an index and a blinded leaf: neither the DID nor the update.'
  else
    printf 'The coordinator and all members learn which DID is updated: a CAS beacon announces in the open.'
  fi
}
what_is_signed() {
  if [[ $beacon == smt ]]; then
    printf '%s' 'The others answered "no update", with leaves that look the same. All leaves are in a sparse Merkle tree,' \
      ' whose root is what the signal carries.'
  else
    printf '%s' 'The others have no update. The map of all updates is what they sign, and its hash what the signal carries.'
  fi
}

announced=()
version=("")
for ((i = 1; i <= members; i++)); do version+=(2); done
spent=
for ((round = 1; round <= signals; round++)); do
  updater=$(((round - 1) % members + 1))
  step "Signal $round of $signals: member $updater announces an update"
  printf '[{"op":"add","path":"/service/-","value":{"id":"#site-%d","type":"LinkedDomains","serviceEndpoint":"%s"}}]' \
    "$round" "https://example.com/$round" >"$work/patch.json"
  { read -r version[updater] && read -r update; } < <(
    agent "member$updater" request-update "$cohort" --did "${did[updater]}" --patch "$work/patch.json" --min-conf 1 |
      tool get version update_id
  )
  say "Member $updater adds a service to its document, signs the update to version ${version[updater]}," \
    "and keeps it: $(short "$update")." "$(told_to_coordinator)"
  if [[ $flow == pull ]]; then
    agent coordinator session start "$cohort" >/dev/null
    say "The coordinator asks every member for its leaf."
  fi
  until_event "$patience" coordinator "members were not asked to sign" session_started "cohort=$cohort" "round=$round"
  session=$(tool get event.session <<<"$answer")
  say "$(what_is_signed)"
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
  read -r signal_bytes height parents < <(signal_of "$txid")
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
  if [[ ${BEACON_DEMO_TAMPER:-} == proof ]]; then tool alter "$work/proof.$members.json" hashes.0; fi
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
say "Six confirmations, as the cohort's terms want, and as who resolves waits for."

step "Resolve every identifier"
resolve() {
  agent "member$1" sidecar export --did "${did[$1]}" --out "$work/sidecar.$1.json"
  # For tests: an altered update must make the demo fail.
  if [[ ${BEACON_DEMO_TAMPER:-} == sidecar && $1 == 1 ]]; then tool alter "$work/sidecar.1.json" updates.0.targetHash; fi
  local found
  "$bin/beacon-participant" --data-dir "$work/nobody" resolve "${did[$1]}" --sidecar "$work/sidecar.$1.json" \
    "${chain_options[@]}" >"$work/resolved.$1.json" || return
  found=$(tool get didDocumentMetadata.versionId <"$work/resolved.$1.json")
  [[ $found == "${version[$1]}" ]] || { printf 'got version %s, expected %s\n' "$found" "${version[$1]}" >&2 && false; }
}
everyone resolve
resolved=()
for ((i = 1; i <= members; i++)); do
  resolved+=("{\"did\":\"${did[i]}\",\"version_id\":\"${version[i]}\"}")
  ((i > 3)) || say "$(short "${did[i]}"): version ${version[i]}"
done
elapsed_ms=$(((${EPOCHREALTIME/[.,]/} - began) / 1000))
say "Each by a process that has one exported file and the chain: genesis key, updates, and what proves for every signal" \
  "that it announces an update, or none. All of it took $elapsed_ms ms."

if $json; then
  printf '{"cohort_id":"%s","beacon_address":"%s","members":%d,"signals":[%s],"dids":[%s],"verified":true,"elapsed_ms":%d}\n' \
    "$cohort" "$address" "$members" "$(IFS=, && printf '%s' "${announced[*]}")" \
    "$(IFS=, && printf '%s' "${resolved[*]}")" "$elapsed_ms"
else
  printf '\n%d signal(s) of %d members in %d ms, every proof verified, every identifier resolved.\n' \
    "$signals" "$members" "$elapsed_ms"
fi
