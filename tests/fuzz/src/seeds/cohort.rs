//! Messages, logs and whole lives of a cohort.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use beacon_cohort::machine::{Effect, Input};
use beacon_cohort::message::{DidRegistration, Message};
use beacon_cohort::psbt::to_base64;
use serde_json::{Value, json};

use crate::common::{Mail, coordinator_id};
use crate::targets::messages::letter;
use crate::targets::situations::{self, Situation, follow};

/// The golden logs of every version, by cohort.
pub(super) fn logs(role: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../crates/cohort/tests/golden"
    ));
    let mut seeds = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !name.starts_with(role) {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        for (number, lines) in (1..).zip(by_cohort(&text).values()) {
            seeds.push((format!("{name}-{number}"), lines.join("\n").into_bytes()));
        }
    }
    // A version that writes what the one before wrote has nothing to add.
    seeds.sort();
    let mut known = BTreeSet::new();
    seeds.retain(|(_, bytes)| known.insert(bytes.clone()));
    seeds
}

fn by_cohort(log: &str) -> BTreeMap<String, Vec<&str>> {
    let mut cohorts: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let cohort = event["cohort"].as_str().unwrap_or_default().to_owned();
        cohorts.entry(cohort).or_default().push(line);
    }
    cohorts
}

/// The first message of each kind, and what was on its way at each moment.
pub(super) fn messages(family: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut add = |name: String, kind: &str, body: &Value| {
        if let (true, Some(letter)) = (kind.starts_with(family), letter(kind)) {
            seeds.push((name, format!("{letter}{body}").into_bytes()));
        }
    };
    situations::with(|situations| {
        for (number, situation) in situations.iter().enumerate() {
            for (kind, body) in &situation.world.examples {
                add(kind.replace('/', "-"), kind, body);
            }
            for mail in &situation.mail {
                if let Mail::Message { message, .. } = mail {
                    let kind = message.kind();
                    add(
                        format!("{}-{number}", kind.replace('/', "-")),
                        kind,
                        &message.body().unwrap(),
                    );
                }
            }
            if let Some(session) = situation.member().state().cohorts[&situation.cohort]
                .session
                .as_ref()
            {
                let ids = json!({ "session_id": session.id, "cohort_id": situation.cohort });
                let with = |member: &str, value: Value| {
                    let mut body = ids.clone();
                    body[member] = value;
                    body
                };
                add(
                    "sign-decline".to_owned(),
                    "sign/decline",
                    &with("code", json!("nonce-lost")),
                );
                add("sign-psbt_request".to_owned(), "sign/psbt_request", &ids);
                let cohort = &situation.coordinator().state().cohorts[&situation.cohort];
                let psbt = cohort.psbt(session.id).and_then(Result::ok);
                if let Some(text) = psbt.and_then(|psbt| to_base64(&psbt).ok()) {
                    let body = with("psbt", json!(text));
                    add("sign-psbt".to_owned(), "sign/psbt", &body);
                }
                let mut aborted = with("code", json!("timeout"));
                aborted["next"] = json!("new_session");
                add(
                    "sign-session_aborted".to_owned(),
                    "sign/session_aborted",
                    &aborted,
                );
            }
            add(
                "keygen-opt_out".to_owned(),
                "keygen/opt_out",
                &json!({ "cohort_id": situation.cohort }),
            );
            let index = beacon_signal::Index::of_did("did:example:more");
            let more = json!({ "cohort_id": situation.cohort, "indexes": [index] });
            add(
                "keygen-did_registration".to_owned(),
                "keygen/did_registration",
                &more,
            );
            let result = json!({ "cohort_id": situation.cohort, "results": [{ "index": index, "accepted": true }] });
            add(
                "keygen-registration_result".to_owned(),
                "keygen/registration_result",
                &result,
            );
            let did = "did:example:more";
            let contest = json!({
                "cohort_id": situation.cohort, "did": did, "sidecar": "{}", "method": format!("{did}#key"), "signature": "11".repeat(64),
            });
            add(
                "keygen-did_contest".to_owned(),
                "keygen/did_contest",
                &contest,
            );
            for (name, message) in history(situation) {
                add(name, message.kind(), &message.body().unwrap());
            }
            add(
                "keygen-unsubscribe".to_owned(),
                "keygen/unsubscribe",
                &json!({}),
            );
        }
    });
    seeds.sort();
    seeds.dedup_by(|one, other| one.1 == other.1);
    seeds
}

/// A member asks for what was signed, and is told.
fn history(situation: &Situation) -> Vec<(String, Message)> {
    let Some(cohort) = situation.member().state().cohorts.get(&situation.cohort) else {
        return Vec::new();
    };
    let question = DidRegistration {
        cohort_id: cohort.id,
        indexes: cohort.dids.keys().copied().collect(),
        from_round: Some(1),
    };
    let input = Input::Message {
        from: situation.world.peers[0].id.clone(),
        to: coordinator_id(),
        message: question.clone().into(),
    };
    let now = situation.world.now;
    let told = follow(situation.coordinator(), input, now, |_| Vec::new());
    let answer = told.ok().and_then(|told| {
        told.effects.into_iter().find_map(|effect| match effect {
            Effect::Send {
                message: Message::RegistrationResult(mut result),
                ..
            } if !result.signals.is_empty() => {
                result.next_round = Some(2);
                Some(Message::from(result))
            }
            _ => None,
        })
    });
    let answer = answer.map(|answer| ("keygen-registration_result-history".to_owned(), answer));
    let question = (
        "keygen-did_registration-history".to_owned(),
        question.into(),
    );
    std::iter::once(question).chain(answer).collect()
}

/// Lives of a cohort: one in which all goes well, and some in which it does not.
pub(super) fn machines() -> Vec<(String, Vec<u8>)> {
    let good = [
        17, 50, 13, 0, 12, 0, 4, 0, 18, 0xff, 4, 0, 13, 0, 12, 0, 4, 0,
    ];
    let bad = [
        17, 50, 13, 0, 12, 0, 4, 0, 18, 0xfe, 0, 1, 8, 2, 0, 0, 0, 1, 15, 0, 0, 0, 14, 60, 0, 0, 5,
        3, 4, 0, 19, 0, 20, 5, 21, 1, 22, 3, 23, 9, 16, 0, 4, 0,
    ];
    let forming = [
        0, 0, 0, 1, 0, 2, 8, 1, 9, 0, 10, 3, 7, 1, 7, 8, 18, 0, 18, 0x20, 6, 0, 4, 0, 14, 90, 4, 0,
    ];
    // A signal in a block, then an older copy of a member: what is asked for, told and done about it, and the next signal.
    let restored = [
        15, 0xa0, 4, 0, 12, 0, 13, 0, 12, 0, 4, 0, 18, 0x9f, 4, 0, 18, 0xa1, 18, 0xfd, 4, 0, 13, 0,
        12, 0, 4, 0,
    ];
    // Seats are taken and wait: they are kept, given up and free again.
    let seats = [
        0, 0, 0, 0, 0, 0, 4, 0, 14, 0xff, 14, 0x40, 4, 0, 6, 0, 14, 0xff, 14, 0xff, 14, 0xff, 4, 0,
        18, 0x20, 4, 0,
    ];
    vec![
        (
            "restored".to_owned(),
            [&[1, 1, 0][..], &good, &restored].concat(),
        ),
        ("seats".to_owned(), [&[2, 5, 0x02][..], &seats].concat()),
        ("good".to_owned(), [&[1, 1, 0][..], &good].concat()),
        (
            "good-three".to_owned(),
            [&[2, 7, 0xfd][..], &good, &good].concat(),
        ),
        ("bad".to_owned(), [&[1, 2, 0xf1][..], &bad].concat()),
        (
            "forming".to_owned(),
            [&[0x81, 3, 0xf2][..], &forming].concat(),
        ),
    ]
}
