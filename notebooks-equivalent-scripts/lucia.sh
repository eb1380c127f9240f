#!/usr/bin/env bash
# Lucia: a controller of a DID who has nothing to announce this time, and must sign all the same.
source "$(dirname "${BASH_SOURCE[0]}")/person.sh"

read_arguments lucia "$@"
become_member

step "Have nothing to announce"
say "Every signal speaks for every DID of the cohort. So when somebody has an update, Lucia's agent is asked, and" \
  "answers \"no update\" with a leaf that looks like any other."
until_event 0 "$who" "no round was opened" leaves_chosen "cohort=$cohort"

verify_signal
