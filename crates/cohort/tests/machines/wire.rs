//! The bodies of all kinds of messages, as they cross the wire: pinned in `examples-of-messages.json`, which a real run
//! writes (the same as the golden logs', see there), and read with all that may be wrong with them.

use std::collections::BTreeMap;

use beacon_cohort::message::{KINDS, Kind, MAX_TEXT, Message, MessageError, TYPE_PREFIX};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::golden;

type Examples = BTreeMap<String, Value>;

fn path() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/examples-of-messages.json")
}

fn examples() -> Examples {
    serde_json::from_str(&std::fs::read_to_string(path()).unwrap()).unwrap()
}

fn parse(kind: &str, body: &Value) -> Result<Message, MessageError> {
    Message::parse(&format!("{TYPE_PREFIX}{kind}"), body)
}

#[test]
fn examples_are_what_a_run_sends_today() {
    let sent: Examples = golden::run()
        .examples
        .into_iter()
        .map(|(kind, body)| (kind.to_owned(), body))
        .collect();
    if golden::is_writing() {
        std::fs::write(path(), serde_json::to_string_pretty(&sent).unwrap() + "\n").unwrap();
    }
    assert_eq!(sent, examples());
    let mut kinds = KINDS.to_vec();
    kinds.sort_unstable();
    assert_eq!(
        sent.keys().map(String::as_str).collect::<Vec<_>>(),
        kinds,
        "an example of every kind"
    );
}

#[test]
fn every_example_survives_a_round_trip_and_unknown_members_are_ignored() {
    for (kind, body) in examples() {
        let message = parse(&kind, &body).unwrap();
        assert_eq!(message.kind(), kind);
        assert_eq!(message.body().unwrap(), body);
        let mut more = body.clone();
        more["from_a_later_version"] = json!({"a": [1, 2, 3]});
        assert_eq!(parse(&kind, &more).unwrap(), message);
        let (cohort, session) = message.thread();
        assert_eq!(cohort.map(|id| json!(id)).as_ref(), body.get("cohort_id"));
        assert_eq!(session.map(|id| json!(id)).as_ref(), body.get("session_id"));
    }
}

/// A body without a member is refused by that member's name, unless the protocol calls the member optional.
#[test]
fn a_missing_member_is_named() {
    const OPTIONAL: [(&str, &str); 6] = [
        ("keygen/did_contest", "sidecar"),
        ("keygen/did_registration", "from_round"),
        ("keygen/registration_result", "signals"),
        ("keygen/subscribe_accept", "label"),
        ("keygen/subscribe_accept", "max_cohorts"),
        ("sign/decline", "comment"),
    ];
    for (kind, body) in examples() {
        for member in body.as_object().unwrap().keys() {
            let mut less = body.clone();
            less.as_object_mut().unwrap().remove(member);
            let read = parse(&kind, &less);
            if OPTIONAL.contains(&(&kind, member)) {
                assert!(read.is_ok(), "{kind} without {member}");
            } else {
                let error = read.unwrap_err().to_string();
                // A status decides which members come with it, so its own absence is told by its name as well.
                assert!(
                    error.contains(member.as_str()),
                    "{kind} without {member}: {error}"
                );
            }
        }
    }
}

#[test]
fn an_unknown_type_is_quoted_in_part() {
    let long = format!("https://example.org/{}", "x".repeat(100_000));
    for type_uri in [
        long.as_str(),
        "keygen/opt_in",
        "https://btc1.tools/musig2/keygen/optin",
        "",
    ] {
        let Err(MessageError::UnknownType(quoted)) = Message::parse(type_uri, &json!({})) else {
            panic!("{type_uri} is no type of this protocol");
        };
        assert!(quoted.len() <= MAX_TEXT && type_uri.starts_with(&quoted));
    }
}

/// A kind of signal from the future is read, so that it can be declined by its own code.
#[test]
fn an_unknown_kind_of_signal_is_kept_by_name() {
    let mut body = examples().remove("sign/authorization_request").unwrap();
    body["kind"] = json!("sweep");
    let Message::AuthorizationRequest(request) =
        parse("sign/authorization_request", &body).unwrap()
    else {
        panic!("an authorization request is one");
    };
    assert_eq!(request.kind, Kind::Other("sweep".to_owned()));
}

/// The paths of all values within a body.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                places(value, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (number, value) in items.iter().enumerate() {
                places(value, &format!("{at}/{number}"), found);
            }
        }
        _ => {}
    }
    found.push(at.to_owned());
}

fn garbage() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,80}".prop_map(Value::from),
        "[0-9a-f]{0,140}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[[[]]]])),
        Just(json!("x".repeat(10_000))),
    ]
}

proptest! {
    /// Garbage anywhere in a body is refused or read, never a panic; the refusal quotes no more than it may, and what is
    /// read survives its own round trip.
    #[test]
    fn garbage_is_refused_or_read(kind in 0..KINDS.len(), place in any::<prop::sample::Index>(), garbage in garbage()) {
        let kind = KINDS[kind];
        let mut body = examples().remove(kind).unwrap();
        let mut found = Vec::new();
        places(&body, "", &mut found);
        let place = place.get(&found);
        *body.pointer_mut(place).unwrap() = garbage;
        match parse(kind, &body) {
            Ok(message) => {
                let again = message.body().unwrap();
                prop_assert_eq!(parse(kind, &again).unwrap(), message);
            }
            Err(error) => prop_assert!(error.to_string().len() <= MAX_TEXT + 64, "{}", error),
        }
    }
}
