# shellcheck shell=bash
# What fred.sh and lucia.sh share: the way of a participant from its first key to a member of a cohort. Sourced.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# read_arguments NAME ARGUMENT...: sets `who`, `coordinator_did`, `chain_url` and `listens`.
read_arguments() {
  who=$1 coordinator_did='' chain_url='' listens=()
  shift
  local usage="Usage: $who.sh COORDINATOR_DID --chain-url URL [--listen IP:PORT] [--keep-data]

Runs the participant $who until the first signal of its cohort is verified. coordinator.sh prints the DID and the URL.

  --chain-url URL   an Esplora server: $who looks at the chain with its own eyes
  --listen IP:PORT  be reachable there (without it, $who dials the coordinator and is answered on the same socket)
  --keep-data       leave keys, state and log behind, and say where"
  while (($#)); do
    case $1 in
      --chain-url | --listen) (($# > 1)) || usage_error "$who.sh" "$1 needs a value" ;;&
      --chain-url) chain_url=$2 && shift 2 ;;
      --listen) listens=(--listen "$2") && shift 2 ;;
      --keep-data) keep=true && shift ;;
      -h | --help) printf '%s\n' "$usage" && exit 0 ;;
      did:*) coordinator_did=$1 && shift ;;
      *) usage_error "$who.sh" "unknown argument '$1'" ;;
    esac
  done
  [[ -n $coordinator_did ]] || usage_error "$who.sh" "the coordinator's DID is missing"
  [[ -n $chain_url ]] || usage_error "$who.sh" "--chain-url is missing"
}

# become_member: sets `did`, `cohort` and `address`.
become_member() {
  prepare "$who"

  step "Create a DID"
  say "A seed is drawn, and two keys from it: Ed25519 to prove who we are, X25519 to encrypt. Both are in the DID," \
    "and so is where we can be reached: that is all there is to a did:peer:2, no registry is asked." \
    "These keys are gone with the demo, so they have no passphrase (--unencrypted-keys); in earnest the agent asks for one."
  did=$(shown "$who" did "${listens[@]}" | tool get did)
  say "$did"

  step "Resolve it"
  say "So anybody can read the DID document off the DID:"
  "$bin/beacon-participant" resolve "$did" | tool get didDocument | show_json

  step "Run the agent"
  say "It keeps a WebSocket to its coordinators, checks what it is asked to sign, and signs what passes every check."
  launch "$who" "$bin/beacon-participant" --data-dir "$work/$who" --json \
    run --chain-url "$chain_url" --label "$who" --auto-sign "${listens[@]}"
  must_be_ready "$who"

  step "Subscribe to the coordinator"
  say "The message is packed for the coordinator's key and authenticated with ours (authcrypt)."
  shown "$who" subscribe "$coordinator_did" --label "$who" >/dev/null
  until_event 0 "$who" "the subscription was not accepted" subscription_accepted
  say "Accepted: we will hear of cohorts."

  step "Wait for a cohort"
  until_event 0 "$who" "no cohort was advertised" cohort_advertised
  cohort=$(tool get event.cohort <<<"$answer")
  say "Cohort $cohort, under these terms:"
  tool get event.terms <<<"$answer" | show_json

  step "Join it"
  say "We opt in with a fresh key, a proof that we hold it, and the hash of the DID that we will answer for:" \
    "here the did:peer that we have; the demo does it with did:btcr2 identifiers."
  shown "$who" join "$cohort" --did "$did" >/dev/null
  until_event 0 "$who" "we did not agree to the cohort" cohort_agreed "cohort=$cohort"
  address=$(tool get event.address <<<"$answer")
  say "The cohort is set. We aggregated all members' keys ourselves, and come to the same beacon address:" "$address"
}

# verify_signal: waits for the first signal and verifies its proof as somebody else would.
verify_signal() {
  step "Sign the signal"
  until_event 0 "$who" "we were not asked to sign" signal_proposed "cohort=$cohort"
  say "We are asked to sign a transaction. The agent checks its form, what it spends, where the change goes, the fee," \
    "and that its root has our own leaf; then it makes a nonce, and once it has everybody's, a partial signature."
  until_event 0 "$who" "we did not sign" partial_released "cohort=$cohort"
  say "Signed: our part, with one nonce that is destroyed by now."

  step "See it on the chain"
  until_event 0 "$who" "the signal was not confirmed" signal_confirmed "cohort=$cohort"
  txid=$(tool get event.txid <<<"$answer")
  local signal_bytes height
  read -r signal_bytes height _ < <(tool signal "$chain_url" "$txid")
  say "Transaction $txid" "is in block $height and carries $signal_bytes"

  step "Verify the proof"
  say "What we give to whoever resolves our DID: the path from our leaf to that root."
  shown "$who" proof export "$cohort" --txid "$txid" --out "$work/proof.json"
  typed beacon-participant proof verify --did "$did" --proof "$work/proof.json" --root "$signal_bytes"
  "$bin/beacon-participant" proof verify --did "$did" --proof "$work/proof.json" --root "$signal_bytes"
}
