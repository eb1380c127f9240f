//! Mutations of where, when and by whom: the body is as it should be, or names something else.

use beacon_cohort::coordinator::Session;
use beacon_cohort::ids::PeerId;
use beacon_cohort::message::{Message, TYPE_PREFIX};
use beacon_cohort::statement;
use beacon_cohort::values::{CohortKey, NonceBytes, PartialBytes, StatementSignature, TermsHash};
use serde_json::{Value, json};

use super::{Mutation, Tried, check};
use crate::attempt::{Agent, Outcome};
use crate::common::coordinator_id;
use crate::life::{Scene, life};

/// The whole of a machine's life, as the labels with which it meets one message again and again.
pub(super) const PHASES: &str = "at every moment";

pub(super) fn tried(scene: &Scene) -> Vec<Tried> {
    let mut all = Cells {
        scene,
        tried: Vec::new(),
    };
    all.phases();
    all.ids();
    all.senders();
    all.duplicates();
    all.wrong_role();
    all.tried
}

struct Cells<'a> {
    scene: &'a Scene,
    tried: Vec<Tried>,
}

impl Cells<'_> {
    fn add(&mut self, mutation: Mutation, what: &'static str, label: String) {
        self.tried.push(Tried {
            kind: self.scene.kind,
            mutation,
            place: String::new(),
            what,
            label,
        });
    }

    fn checked(&mut self, mutation: Mutation, what: &'static str, outcome: Outcome) {
        let tried = format!("{} {mutation:?} {what}", self.scene.kind);
        check(&tried, self.scene, &outcome);
        self.add(mutation, what, outcome.label);
    }

    fn hear(&self, agent: &Agent, from: &PeerId, body: &Value) -> Outcome {
        let scene = self.scene;
        agent.hear(from, &scene.to, scene.kind, body, scene.now)
    }

    /// The same message at every event boundary of its recipient's life: signed for once at most, where it is welcome.
    fn phases(&mut self) {
        let scene = self.scene;
        let mut agent = life().unborn(&scene.to);
        let mut labels: Vec<String> = Vec::new();
        for at in 0..=life().log(&scene.to).len() {
            let outcome = self.hear(&agent, &scene.from, &scene.body);
            let signing = outcome.label.contains("partial_authorized");
            assert_eq!(outcome.signs, signing, "{} after {at} events", scene.kind);
            if outcome.label.starts_with("e.") || outcome.events.is_empty() {
                assert!(outcome.after == agent, "{} after {at} events", scene.kind);
            }
            if labels.last() != Some(&outcome.label) {
                labels.push(outcome.label);
            }
            if let Some(line) = life().log(&scene.to).get(at) {
                agent.apply(line);
            }
        }
        self.add(Mutation::WrongPhase, PHASES, labels.join(" > "));
    }

    fn ids(&mut self) {
        let agent = life().right(self.scene);
        let unknown = json!("00000000-0000-0000-0000-000000000404");
        let cases = [
            (
                Mutation::WrongSession,
                "session_id",
                "unknown",
                unknown.clone(),
            ),
            (
                Mutation::WrongSession,
                "session_id",
                "over",
                json!(life().over),
            ),
            (Mutation::WrongCohort, "cohort_id", "unknown", unknown),
            (
                Mutation::WrongCohort,
                "cohort_id",
                "another of ours",
                json!(life().other),
            ),
        ];
        for (mutation, member, what, id) in cases {
            if self.scene.body.get(member).is_none() {
                continue;
            }
            let mut body = self.scene.body.clone();
            body[member] = id;
            let outcome = self.hear(&agent, &self.scene.from, &body);
            self.checked(mutation, what, outcome);
        }
    }

    /// A stranger, and somebody whom the recipient knows, but not in this cohort.
    fn senders(&mut self) {
        let mut agent = life().right(self.scene);
        let stranger = PeerId::new("did:example:stranger");
        let outcome = self.hear(&agent, &stranger, &self.scene.body);
        self.checked(Mutation::NonMember, "a stranger", outcome);
        let known = PeerId::new("did:example:acquaintance");
        let event = match agent {
            Agent::Coordinator(_) => json!({"event": "subscribed", "peer": known, "filter": {}}),
            Agent::Participant(_) => json!({
                "event": "subscribed", "coordinator": known, "own": self.scene.to, "identity": 1, "filter": {},
            }),
        };
        agent.apply(&event.to_string());
        let outcome = self.hear(&agent, &known, &self.scene.body);
        if outcome.label.starts_with("e.") {
            assert!(
                outcome.after == agent,
                "{}: the state changed",
                self.scene.kind
            );
        }
        assert!(!outcome.signs);
        self.add(Mutation::NonMember, "an acquaintance", outcome.label);
    }

    fn duplicates(&mut self) {
        let scene = self.scene;
        let once = self.hear(&life().right(scene), &scene.from, &scene.body);
        let again = self.hear(&once.after, &scene.from, &scene.body);
        assert!(!again.signs, "{} twice: the signer was asked", scene.kind);
        assert!(
            again.after == once.after,
            "{} twice: the state changed",
            scene.kind
        );
        self.add(Mutation::DuplicateIdentical, "again", again.label);
        for (what, body) in different(scene) {
            let uri = format!("{TYPE_PREFIX}{}", scene.kind);
            assert!(
                Message::parse(&uri, &body).is_ok(),
                "{}: {what} is well-formed",
                scene.kind
            );
            let outcome = self.hear(&once.after, &scene.from, &body);
            assert!(
                !outcome.signs,
                "{} {what}: the signer was asked",
                scene.kind
            );
            if outcome.label.starts_with("e.") || outcome.events.is_empty() {
                assert!(
                    outcome.after == once.after,
                    "{} {what}: the state changed",
                    scene.kind
                );
            }
            self.add(Mutation::DuplicateDifferent, what, outcome.label);
        }
    }

    /// What a participant sends, said to a participant by its coordinator; what a coordinator sends, said to it by a member.
    fn wrong_role(&mut self) {
        let member = &life().members[0];
        let (from, to) = if self.scene.to == coordinator_id() {
            (coordinator_id(), member.clone())
        } else {
            (member.clone(), coordinator_id())
        };
        // At the moment of the session that is declined: both have all their cohorts.
        let lines = life().log(&to).len() / 2;
        let agent = life().agent(&to, lines);
        let outcome = agent.hear(
            &from,
            &to,
            self.scene.kind,
            &self.scene.body,
            self.scene.now,
        );
        assert!(outcome.after == agent && !outcome.signs);
        self.add(Mutation::WrongRole, "to the other role", outcome.label);
    }
}

/// Other messages of the same type and place, each of which could have been the first.
fn different(scene: &Scene) -> Vec<(&'static str, Value)> {
    let change = |member: &str, value: Value| {
        let mut body = scene.body.clone();
        *body.pointer_mut(member).unwrap() = value;
        body
    };
    let hash = json!("q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA");
    match scene.kind {
        "keygen/subscribe" => vec![("another filter", change("/networks", json!(["signet"])))],
        "keygen/subscribe_accept" => vec![("another label", change("/label", json!("another")))],
        "keygen/cohort_advert" => {
            let mut terms = scene.body["terms"].clone();
            terms["max_strikes"] = json!(9);
            let agreed = beacon_cohort::terms::AgreedTerms::parse(terms.clone()).unwrap();
            let mut body = change("/terms", terms);
            body["terms_hash"] = json!(agreed.hash());
            vec![("other terms", body)]
        }
        "keygen/opt_in" => vec![("another key", other_opt_in(scene))],
        "keygen/cohort_set" => {
            let mut keys = scene.body["cohort_keys"].clone();
            keys[1] = json!(pair(99).public_key().to_string());
            vec![("another key", change("/cohort_keys", keys))]
        }
        "keygen/cohort_ack" => vec![("another hash", change("/ack_hash", hash))],
        "keygen/did_registration" => vec![("another index", change("/indexes", json!([hash])))],
        "keygen/registration_result" => {
            vec![(
                "refused after all",
                change("/results/0/accepted", json!(false)),
            )]
        }
        "keygen/did_contest" => vec![("other sidecar data", change("/sidecar", json!("[]")))],
        "sign/update_opportunity" => vec![("another deadline", change("/deadline", json!(1)))],
        "sign/request_signature" => {
            let mut body = change("/leaves/0/value", hash.clone());
            body["data"] = hash;
            vec![("another leaf", body)]
        }
        "sign/no_update" => vec![("another leaf", change("/leaves/0/value", hash))],
        "sign/authorization_request" => {
            vec![(
                "another amount",
                change("/spent_outputs/0/value", json!(49_999)),
            )]
        }
        "sign/nonce_contribution" => vec![("other nonces, signed", other_nonces(scene))],
        "sign/aggregated_nonce" => {
            let point = pair(99).public_key().to_string();
            let nonce = json!([point, point]);
            let mut body = change("/aggregated_nonce", nonce.clone());
            body["aggregated_nonces"] = json!([nonce]);
            vec![("other nonces", body)]
        }
        "sign/signature_authorization" => vec![("others, signed", other_partials(scene))],
        "sign/decline" => vec![("another code", change("/code", json!("user")))],
        "sign/session_aborted" => vec![("another code", change("/code", json!("timeout")))],
        "sign/signal_published" => {
            let mut gone = scene.body.clone();
            for member in ["block_hash", "height", "confirmations"] {
                gone.as_object_mut().unwrap().remove(member);
            }
            gone["status"] = json!("gone");
            vec![
                ("gone", gone),
                (
                    "another transaction id",
                    change("/txid", json!("11".repeat(32))),
                ),
            ]
        }
        _ => Vec::new(),
    }
}

fn pair(number: u8) -> secp256k1::Keypair {
    secp256k1::Keypair::from_secret_bytes([number; 32]).unwrap()
}

fn signature(statement: statement::Statement, pair: &secp256k1::Keypair) -> StatementSignature {
    let signature = secp256k1::schnorr::sign_with_aux_rand(statement.digest(), pair, &[0; 32]);
    StatementSignature::from_bytes(&signature.to_byte_array()).unwrap()
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn other_opt_in(scene: &Scene) -> Value {
    let (pair, mut body) = (pair(98), scene.body.clone());
    let key: CohortKey = pair.public_key().into();
    let terms: TermsHash = read(&body["terms_hash"]);
    let statement = statement::possession(read(&body["cohort_id"]), &scene.from, &key, &terms);
    body["participant_pk"] = json!(key);
    body["proof_of_possession"] = json!(signature(statement, &pair));
    body
}

/// The session under way at the coordinator, and the key of the member that speaks.
fn session(scene: &Scene) -> (Session, secp256k1::Keypair) {
    let Agent::Coordinator(coordinator) = life().right(scene) else {
        panic!("{} goes to the coordinator", scene.kind);
    };
    let cohort = &coordinator.state().cohorts[&life().cohort];
    (cohort.session.clone().unwrap(), life().key(&scene.from))
}

fn other_nonces(scene: &Scene) -> Value {
    let (session, key) = session(scene);
    let mut body = scene.body.clone();
    let point = pair(97).public_key().to_string();
    let nonces = json!([[point, point]]);
    let bytes: Vec<NonceBytes> = read(&nonces);
    let statement = statement::nonces(session.id, &session.sighashes, &bytes);
    body["nonce_contribution"] = nonces[0].clone();
    body["nonce_contributions"] = nonces;
    body["signature"] = json!(signature(statement, &key));
    body
}

fn other_partials(scene: &Scene) -> Value {
    let (session, key) = session(scene);
    let mut body = scene.body.clone();
    let partials = json!(["11".repeat(32)]);
    let bytes: Vec<PartialBytes> = read(&partials);
    let aggregated = session.aggregated.unwrap();
    let statement = statement::partials(session.id, &session.sighashes, &aggregated, &bytes);
    body["partial_signature"] = partials[0].clone();
    body["partial_signatures"] = partials;
    body["signature"] = json!(signature(statement, &key));
    body
}
