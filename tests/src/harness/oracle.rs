//! What must hold between the logs of a coordinator and its members, whatever has happened to them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Event;

/// The log of one agent, as far as one cohort is concerned.
#[derive(Debug)]
pub struct Story<'a> {
    name: &'a str,
    events: Vec<&'a Value>,
}

impl<'a> Story<'a> {
    /// The part of this log that is about this cohort.
    pub fn new(name: &'a str, events: &'a [Event], cohort: &str) -> Self {
        let events = events.iter().map(|event| &event.value);
        Self {
            name,
            events: events.filter(|event| event["cohort"] == cohort).collect(),
        }
    }

    /// Its events of this kind, in order.
    pub fn all(&self, kind: &str) -> impl Iterator<Item = &'a Value> {
        self.events
            .iter()
            .copied()
            .filter(move |event| event["event"] == kind)
    }

    fn has(&self, kind: &str, members: &Value) -> bool {
        let members = members.as_object().unwrap();
        self.all(kind)
            .any(|event| members.iter().all(|(name, value)| event[name] == *value))
    }

    fn at_most_one_for_each_session(&self, kind: &str) {
        let mut sessions = BTreeSet::new();
        for event in self.all(kind) {
            let session = event["session"].as_str().unwrap();
            assert!(
                sessions.insert(session),
                "{}: a second {kind} in session {session}",
                self.name
            );
        }
    }
}

/// One public nonce and at most one partial signature for each session, over one aggregated nonce; no public nonce twice.
pub fn signs_once(member: &Story<'_>) {
    for kind in ["nonce_committed", "partial_authorized", "partial_released"] {
        member.at_most_one_for_each_session(kind);
    }
    let mut nonces = BTreeMap::new();
    for event in member.all("nonce_committed") {
        for nonce in event["nonces"].as_array().unwrap() {
            let before = nonces.insert(nonce.to_string(), &event["session"]);
            assert_eq!(before, None, "{}: nonce {nonce} twice", member.name);
        }
    }
    for released in member.all("partial_released") {
        let session = serde_json::json!({ "session": released["session"] });
        for before in ["nonce_committed", "partial_authorized"] {
            assert!(
                member.has(before, &session),
                "{}: no {before} for {released}",
                member.name
            );
        }
    }
}

/// What each of the two knows of the other is in the other's log: nothing was sent that was not committed.
pub fn nothing_uncommitted_was_sent(coordinator: &Story<'_>, member: &Story<'_>, did: &str) {
    let told = |who: &Story<'_>, kind: &str, what: &Value, by: &Value| {
        assert!(
            who.has(kind, what),
            "{} sent what it has not committed: no {kind} {what}, but {by}",
            who.name
        );
    };
    for (heard, said, same) in [
        ("opted_in", "opted_in", ["key", "proof"].as_slice()),
        ("acknowledged", "cohort_agreed", &[]),
        ("leaves_given", "leaves_chosen", &["round"]),
        (
            "nonce_given",
            "nonce_committed",
            &["session", "nonces", "signature"],
        ),
        (
            "partial_given",
            "partial_released",
            &["session", "partials", "signature"],
        ),
    ] {
        for event in coordinator.all(heard).filter(|event| event["peer"] == did) {
            told(member, said, &pick(event, same), event);
        }
    }
    for (heard, said, same) in [
        (
            "cohort_advertised",
            "cohort_advertised",
            ["terms"].as_slice(),
        ),
        ("cohort_agreed", "cohort_set", &[]),
        ("signal_proposed", "session_started", &["session"]),
        (
            "partial_authorized",
            "nonces_aggregated",
            &["session", "nonces"],
        ),
    ] {
        for event in member.all(heard) {
            told(coordinator, said, &pick(event, same), event);
        }
    }
}

/// Every session has ended, and none was begun for a round that had a signed transaction.
pub fn every_session_ended_and_no_signal_was_rebuilt(coordinator: &Story<'_>) {
    for kind in ["session_started", "nonces_aggregated", "session_signed"] {
        coordinator.at_most_one_for_each_session(kind);
    }
    let mut rounds = BTreeMap::new();
    let mut open = BTreeSet::new();
    let mut signed = BTreeSet::new();
    for event in &coordinator.events {
        let session = event["session"].as_str().unwrap_or_default();
        match event["event"].as_str().unwrap() {
            "session_started" => {
                let round = event["round"].as_u64().unwrap();
                assert!(
                    !signed.contains(&round),
                    "round {round} had a signal: {event}"
                );
                rounds.insert(session, round);
                open.insert(session);
            }
            "session_signed" => {
                signed.insert(rounds[session]);
                open.remove(session);
            }
            "session_abandoned" => {
                open.remove(session);
            }
            _ => {}
        }
    }
    assert!(open.is_empty(), "still open: {open:?}");
}

fn pick(event: &Value, members: &[&str]) -> Value {
    members
        .iter()
        .map(|name| ((*name).to_owned(), event[*name].clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use serde_json::json;

    use super::*;

    fn log(events: &[Value]) -> Vec<Event> {
        let events = events.iter().zip(1..);
        let events = events.map(|(event, seq)| {
            let mut value = event.clone();
            value["cohort"] = "c".into();
            Event { seq, value }
        });
        events.collect()
    }

    fn refuses(check: impl FnOnce()) -> bool {
        catch_unwind(AssertUnwindSafe(check)).is_err()
    }

    fn committed(session: &str, nonce: &str) -> Value {
        json!({ "event": "nonce_committed", "session": session, "nonces": [nonce] })
    }

    #[test]
    fn the_oracle_sees_nonces_and_signatures_that_are_given_twice() {
        let signed = |session: &str| {
            let authorized = json!({ "event": "partial_authorized", "session": session });
            let released = json!({ "event": "partial_released", "session": session });
            [authorized, released]
        };
        let [authorized, released] = signed("s");
        let honest = [
            committed("s", "n"),
            authorized,
            released,
            committed("t", "m"),
        ];
        let check = |events: &[Value]| {
            let log = log(events);
            refuses(|| signs_once(&Story::new("member", &log, "c")))
        };
        assert!(!check(&honest));
        let [authorized, released] = signed("s");
        for bad in [
            committed("u", "n"),
            committed("s", "o"),
            authorized,
            released,
        ] {
            let mut events = honest.to_vec();
            events.push(bad);
            assert!(check(&events), "{events:?}");
        }
        assert!(check(&signed("s")), "a signature without a nonce");
    }

    #[test]
    fn the_oracle_sees_what_was_sent_and_not_committed() {
        let given = json!({ "event": "nonce_given", "peer": "did", "session": "s", "nonces": ["n"], "signature": "x" });
        let started = json!({ "event": "session_started", "session": "s", "round": 1 });
        let mut kept = committed("s", "n");
        kept["signature"] = "x".into();
        let proposed = json!({ "event": "signal_proposed", "session": "s" });
        let check = |coordinator: &[Value], member: &[Value]| {
            let (coordinator, member) = (log(coordinator), log(member));
            refuses(|| {
                nothing_uncommitted_was_sent(
                    &Story::new("coordinator", &coordinator, "c"),
                    &Story::new("member", &member, "c"),
                    "did",
                );
            })
        };
        let all = [started.clone(), given.clone()];
        assert!(!check(&all, &[proposed.clone(), kept.clone()]));
        assert!(
            check(&all, std::slice::from_ref(&proposed)),
            "a nonce that the member knows nothing of"
        );
        assert!(check(&all, &[proposed.clone(), committed("s", "other")]));
        assert!(
            check(&[given], &[proposed, kept]),
            "a session that the coordinator knows nothing of"
        );
    }

    #[test]
    fn the_oracle_sees_stuck_sessions_and_signals_that_are_built_again() {
        let event =
            |kind: &str, session: &str| json!({ "event": kind, "session": session, "round": 1 });
        let check = |events: &[Value]| {
            let log = log(events);
            refuses(|| {
                every_session_ended_and_no_signal_was_rebuilt(&Story::new(
                    "coordinator",
                    &log,
                    "c",
                ));
            })
        };
        let start = event("session_started", "s");
        let sign = event("session_signed", "s");
        assert!(!check(&[start.clone(), sign.clone()]));
        assert!(!check(&[start.clone(), event("session_abandoned", "s")]));
        assert!(check(std::slice::from_ref(&start)));
        let again = [
            start,
            sign,
            event("session_started", "t"),
            event("session_signed", "t"),
        ];
        assert!(check(&again));
    }
}
