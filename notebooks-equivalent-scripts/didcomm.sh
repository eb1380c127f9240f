#!/usr/bin/env bash
# DIDComm by hand: create a DID, resolve it, pack, send to a running agent, unpack the answer; and what is refused.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
  '') ;;
  --keep-data) keep=true ;;
  -h | --help)
    printf 'Usage: didcomm.sh [--keep-data]\n\nShows what DIDComm messages are made of, with three identities.\n'
    exit 0
    ;;
  *) usage_error didcomm.sh "unknown argument '$1'" ;;
esac

# refused NAME COMMAND...: shows that a command of this agent fails, and why.
refused() {
  ! shown "$@" >/dev/null 2>"$work/refused" || fail "\`${*:2}\` was accepted"
  say "Refused: $(<"$work/refused")"
}

prepare didcomm

step "Create a DID"
say "Keys for signing and for encryption, and an endpoint, all within the DID. Alice has no endpoint: she dials."
alice=$(shown alice did | tool get did)
say "$alice"

step "Resolve it"
say "No network and no registry: the document is computed from the DID."
"$bin/beacon-participant" resolve "$alice" | tool get didDocument | show_json

step "Run an agent that can be written to"
start_chain ""
start_coordinator ""
say "A coordinator at ws://$coordinator_listens:" "$coordinator_did"

step "Pack a message for it"
ping=https://didcomm.org/trust-ping/2.0/ping
body='{"response_requested":true}'
say "Authcrypt: encrypted for the coordinator's X25519 key, and only Alice's key can have made it. There is no" \
  "plaintext but the keys' ids, in \"protected\":"
shown alice didcomm pack --to "$coordinator_did" --type "$ping" --body "$body" >"$work/packed.json"
tool get envelope <"$work/packed.json" >"$work/envelope.json"
tool pretty <"$work/envelope.json" | cut -c 1-100 | sed 's/^/   /' >&3

step "Send one, and unpack the answer"
say "A trust ping: is somebody there who holds the key? Alice asks for the answer on the same socket."
shown alice didcomm send --to "$coordinator_did" --type "$ping" --body "$body" >"$work/answer.json"
{ read -r kind && read -r sender; } < <(tool get message.type sender <"$work/answer.json")
tool get message <"$work/answer.json" | show_json
[[ $kind == https://didcomm.org/trust-ping/2.0/ping-response && $sender == "$coordinator_did" ]] ||
  fail "got $kind from $sender, expected a ping-response from the coordinator" coordinator
say "The sender is not what the message says, but whose key proved to have made it."

step "Try to read what is for somebody else"
say "Alice packs for Bob."
bob=$(agent bob did | tool get did)
agent alice didcomm pack --to "$bob" --body '{"content":"hello bob"}' | tool get envelope >"$work/for-bob.json"
say "Carol finds it."
agent carol did >/dev/null
refused carol didcomm unpack "$work/for-bob.json"

step "Alter it on its way"
say "One bit of the ciphertext, before Bob gets it."
cp "$work/for-bob.json" "$work/altered.json"
tool alter "$work/altered.json" ciphertext
refused bob didcomm unpack "$work/altered.json"

step "Leave the encryption out"
printf '{"id":"1","type":"%s","from":"%s","to":["%s"],"body":{}}\n' "$ping" "$alice" "$bob" >"$work/plain.json"
say "A plaintext says whom it is from. Anybody could."
refused bob didcomm unpack "$work/plain.json"

step "Read it as the one it is for"
shown bob didcomm unpack "$work/for-bob.json" >"$work/unpacked.json"
{ read -r sender && read -r content; } < <(tool get sender message.body.content <"$work/unpacked.json")
[[ $sender == "$alice" && $content == "hello bob" ]] || fail "got '$content' from $sender, expected Alice's hello"
say "\"$content\", from $(short "$sender"): Alice."
printf 'packed, sent, answered and unpacked; 3 of 3 forgeries refused\n'
