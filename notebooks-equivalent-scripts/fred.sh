#!/usr/bin/env bash
# Fred: a controller of a DID who has an update to announce.
source "$(dirname "${BASH_SOURCE[0]}")/person.sh"

read_arguments fred "$@"
become_member

step "Request an update"
update=$(printf 'an update of %s' "$did" | sha256sum)
say "Fred's DID document changes. What a signal announces is a hash of that update; here, of a sample text." \
  "The coordinator gets it blinded, so it learns neither the DID nor the update."
shown "$who" request-update "$cohort" --update-hash "${update%% *}" --version-id 2 >/dev/null

verify_signal
