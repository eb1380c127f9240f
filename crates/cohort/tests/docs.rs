//! `docs/protocol.md` and the code say the same: every code, kind and term is on the page and nothing else, and the page's
//! examples are a real run whose hashes, signatures and proofs verify. The threat model names tests that exist.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use beacon_cohort::DeclineCode;
use beacon_cohort::ids::{PeerId, SessionId, Timestamp};
use beacon_cohort::machine::{Code, Fault};
use beacon_cohort::message::{
    AuthorizationRequest, KINDS, Leaf, Message, NonceContribution, SignatureAuthorization,
    SpentOutput, TYPE_PREFIX,
};
use beacon_cohort::musig::{BeaconKey, aggregate_nonces, sighashes};
use beacon_cohort::psbt::{Contributions, Signing, to_base64};
use beacon_cohort::statement;
use beacon_cohort::terms::{BtcNetwork, ScriptTree, Terms};
use beacon_cohort::values::CohortKey;
use beacon_signal::{Index, LeafValue, Proof, Root, SparseMerkleTree, Strictness, transaction};
use secp256k1::{Keypair, PublicKey, musig};
use serde_json::Value;

fn page() -> String {
    read("docs/protocol.md")
}

/// A file, by its path from the top of the repository.
fn read(path: &str) -> String {
    let top = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    std::fs::read_to_string(format!("{top}/{path}")).unwrap()
}

/// What stands between a heading and the next of the same or a higher level.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = page
        .find(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("no heading {heading:?}"));
    let text = &page[start + heading.len() + 2..];
    let level = heading.bytes().take_while(|b| *b == b'#').count();
    let ends = (2..=level).filter_map(|level| text.find(&format!("\n{} ", "#".repeat(level))));
    &text[..ends.min().unwrap_or(text.len())]
}

/// The cells of the tables in a text, without their headings, code quotes taken off.
fn rows(text: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells = line.trim_matches('|').split('|');
        let cells: Vec<String> = cells
            .map(|cell| cell.trim().replace(['`', '*'], ""))
            .collect();
        if cells[0].starts_with("---") {
            rows.pop();
        } else {
            rows.push(cells);
        }
    }
    rows
}

fn first_column(text: &str) -> Vec<String> {
    rows(text)
        .into_iter()
        .map(|mut row| row.remove(0))
        .collect()
}

/// A message of the page, and the plaintext around it.
struct Example {
    plaintext: Value,
    message: Message,
}

fn examples(page: &str) -> Vec<Example> {
    let blocks = page.split("\n```json\n").skip(1);
    let blocks = blocks.map(|block| block.split("\n```").next().unwrap());
    let plaintexts = blocks.filter_map(|block| serde_json::from_str::<Value>(block).ok());
    let ours = plaintexts.filter(|plaintext| {
        let kind = plaintext["type"].as_str();
        kind.is_some_and(|kind| kind.starts_with(TYPE_PREFIX))
    });
    ours.map(|plaintext| Example {
        message: Message::parse(plaintext["type"].as_str().unwrap(), &plaintext["body"]).unwrap(),
        plaintext,
    })
    .collect()
}

#[test]
fn the_tables_list_every_code_and_no_other() {
    let page = page();
    let fault = |code: &Code| match code.fault() {
        Fault::Unexpected => "unexpected",
        Fault::Misbehaved => "misbehaved",
        Fault::Incompatible => "incompatible",
    };
    let documented: Vec<_> = rows(section(&page, "### Problem codes"))
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    let known: Vec<_> = Code::ALL
        .iter()
        .map(|code| (code.as_str().to_owned(), fault(code).to_owned()))
        .collect();
    assert_eq!(documented, known);

    let known: Vec<_> = DeclineCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(first_column(section(&page, "### Decline codes")), known);
    let set = first_column(section(&page, "### `keygen/cohort_set`"));
    assert_eq!(set[4..], known[..6], "after the four members of the body");
}

#[test]
fn every_kind_has_a_section_and_an_example() {
    let page = page();
    let overview = section(&page, "## 3 Messages");
    assert_eq!(first_column(overview)[..KINDS.len()], *KINDS);
    let shown: BTreeSet<_> = examples(&page)
        .iter()
        .map(|example| example.message.kind())
        .collect();
    for kind in KINDS {
        let section = section(&page, &format!("### `{kind}`"));
        assert!(
            section.contains(&format!("{TYPE_PREFIX}{kind}\"")),
            "{kind}"
        );
        assert!(shown.contains(kind), "{kind}");
    }
}

#[test]
fn examples_keep_their_form_and_their_members_are_in_the_tables() {
    let page = page();
    for Example { plaintext, message } in examples(&page) {
        let kind = message.kind();
        assert_eq!(message.body().unwrap(), plaintext["body"], "{kind}");
        let text = |id: Option<String>| id.map_or(Value::Null, Value::from);
        let (cohort, session) = message.thread();
        let (cohort, session) = (
            cohort.map(|id| id.to_string()),
            session.map(|id| id.to_string()),
        );
        let parent = session.is_some().then(|| cohort.clone()).flatten();
        assert_eq!(plaintext["thid"], text(session.or(cohort)), "{kind}");
        assert_eq!(plaintext["pthid"], text(parent), "{kind}");
        let documented = first_column(section(&page, &format!("### `{kind}`"))).join(" ");
        for member in plaintext["body"].as_object().unwrap().keys() {
            let mut names = documented.split([' ', ',']);
            assert!(names.any(|name| name == member), "{member} of {kind}");
        }
    }
}

#[test]
fn the_terms_are_those_of_the_code_with_their_defaults() {
    let page = page();
    let mut terms = Terms::new(BtcNetwork::Regtest, 2, Timestamp(1));
    let defaults = terms.to_value().unwrap();
    assert_eq!(
        terms.patience_s, 3_600,
        "not written where it is the default"
    );
    terms.patience_s = 1;
    terms.close_script = Some(bitcoin::ScriptBuf::new());
    terms.script_tree = Some(ScriptTree {
        recovery: None,
        fallback: None,
    });
    let members = serde_json::to_value(&terms).unwrap();
    let members: BTreeSet<_> = members.as_object().unwrap().keys().cloned().collect();
    let rows = rows(section(&page, "## 5 Cohort terms"));
    let documented: BTreeSet<_> = rows.iter().map(|row| row[0].clone()).collect();
    assert_eq!(documented, members);
    for row in rows {
        let default = serde_json::from_str(&row[1]).unwrap_or_else(|_| Value::from(row[1].clone()));
        match row[1].as_str() {
            "required" if row[0] != "proof_of_possession" => {
                let mut without = defaults.clone();
                without.as_object_mut().unwrap().remove(&row[0]);
                assert!(Terms::parse(&without).is_err(), "{}", row[0]);
            }
            "3600" if row[0] == "patience_s" => assert_eq!(defaults[&row[0]], Value::Null),
            "absent" => assert_eq!(defaults[&row[0]], Value::Null, "{}", row[0]),
            _ => assert_eq!(defaults[&row[0]], default, "{}", row[0]),
        }
    }
}

/// The run of the examples, by who sent or got what.
struct Run {
    page: String,
    examples: Vec<Example>,
}

impl Run {
    fn new() -> Self {
        let page = page();
        let examples = examples(&page);
        Self { page, examples }
    }

    fn all<T>(&self, pick: impl Fn(&Message) -> Option<T>) -> Vec<(PeerId, T)> {
        let examples = self.examples.iter();
        let picked = examples.filter_map(|example| {
            let from = PeerId::new(example.plaintext["from"].as_str().unwrap());
            Some((from, pick(&example.message)?))
        });
        picked.collect()
    }

    fn one<T>(&self, pick: impl Fn(&Message) -> Option<T>) -> T {
        self.all(pick).remove(0).1
    }

    /// A value of the table in section 11.
    fn known(&self, name: &str) -> String {
        let rows = rows(section(&self.page, "## 11 Known answers"));
        let row = rows.into_iter().find(|row| row[0] == name);
        row.unwrap_or_else(|| panic!("no row {name:?}")).remove(1)
    }

    fn request(&self) -> AuthorizationRequest {
        self.one(|message| match message {
            Message::AuthorizationRequest(body) => Some(body.clone()),
            _ => None,
        })
    }

    fn beacon(&self) -> BeaconKey {
        let keys = self.keys();
        BeaconKey::aggregate(keys.into_values()).unwrap()
    }

    fn keys(&self) -> BTreeMap<PeerId, CohortKey> {
        let opt_ins = self.all(|message| match message {
            Message::OptIn(body) => Some(body.participant_pk),
            _ => None,
        });
        opt_ins.into_iter().collect()
    }

    fn sighashes(&self) -> Vec<[u8; 32]> {
        let request = self.request();
        let spent: Vec<_> = request
            .spent_outputs
            .iter()
            .map(SpentOutput::to_txout)
            .collect();
        sighashes(&request.pending_tx, &spent).unwrap()
    }

    fn nonces(&self) -> BTreeMap<PeerId, NonceContribution> {
        let nonces = self.all(|message| match message {
            Message::NonceContribution(body) => Some(body.clone()),
            _ => None,
        });
        nonces.into_iter().collect()
    }

    fn partials(&self) -> Vec<(PeerId, SignatureAuthorization)> {
        self.all(|message| match message {
            Message::SignatureAuthorization(body) => Some(body.clone()),
            _ => None,
        })
    }
}

#[test]
fn the_example_cohort_is_formed_as_the_page_says() {
    let run = Run::new();
    let (terms, terms_hash) = run.one(|message| match message {
        Message::CohortAdvert(body) => Some((body.terms.clone(), body.terms_hash)),
        _ => None,
    });
    assert_eq!(Terms::parse(&terms).unwrap().1, terms_hash);

    let opt_ins = run.all(|message| match message {
        Message::OptIn(body) => Some(body.clone()),
        _ => None,
    });
    assert_eq!(opt_ins.len(), 2);
    let names = ["fred's secret cohort key", "lucia's secret cohort key"];
    for ((did, body), name) in opt_ins.iter().zip(names) {
        let secret = hex::decode(run.known(name)).unwrap().try_into().unwrap();
        let pair = Keypair::from_secret_bytes(secret).unwrap();
        assert_eq!(body.participant_pk, pair.public_key().into(), "{name}");
        let said = statement::possession(body.cohort_id, did, &body.participant_pk, &terms_hash);
        assert!(said.is_signed_by(&body.participant_pk, &body.proof_of_possession));
    }
    let (fred, body) = &opt_ins[0];
    let said = statement::possession(body.cohort_id, fred, &body.participant_pk, &terms_hash);
    let name = "statement of fred's proof of possession";
    assert_eq!(hex::encode(said.digest()), run.known(name));

    let beacon = run.beacon();
    let set = run.one(|message| match message {
        Message::CohortSet(body) => Some(body.clone()),
        _ => None,
    });
    assert_eq!(set.cohort_keys, beacon.keys());
    assert_eq!(
        set.beacon_address,
        beacon.address(bitcoin::Network::Regtest)
    );
    assert_eq!(
        hex::encode(beacon.script().as_bytes()),
        run.known("beacon script")
    );
    let points: Vec<_> = set
        .cohort_keys
        .iter()
        .map(|key| PublicKey::from_byte_array_compressed(key.to_bytes()).unwrap())
        .collect();
    let points: Vec<_> = points.iter().collect();
    let internal = musig::KeyAggCache::new(&points).agg_pk();
    let name = "aggregate key, x-only, before the tweak";
    assert_eq!(hex::encode(internal.to_byte_array()), run.known(name));

    let ack = run.one(|message| match message {
        Message::CohortAck(body) => Some(body.ack_hash),
        _ => None,
    });
    let expected = statement::cohort_ack(&terms_hash, &set.cohort_keys, &set.beacon_address);
    assert_eq!(ack, expected);
}

#[test]
fn the_example_proofs_lead_from_the_leaves_to_the_transaction() {
    let run = Run::new();
    let request = run.request();
    let leaves: Vec<Leaf> = run
        .all(|message| match message {
            Message::RequestSignature(body) => Some(body.leaves[0].clone()),
            Message::NoUpdate(body) => Some(body.leaves[0].clone()),
            _ => None,
        })
        .into_iter()
        .map(|(_, leaf)| leaf)
        .collect();
    let tree = SparseMerkleTree::new(leaves.iter().map(|leaf| (leaf.index, leaf.value))).unwrap();
    let root = Root(transaction::signal_bytes(&request.pending_tx).unwrap());
    assert_eq!(tree.root(), root);

    let dids: Vec<_> = rows(section(&run.page, "## 11 Known answers"))
        .into_iter()
        .filter_map(|row| row.into_iter().nth(3))
        .filter(|did| did.starts_with("did:"))
        .collect();
    assert_eq!(Index::of_did(&dids[0]), leaves[0].index);
    assert_eq!(Index::of_did(&dids[1]), leaves[1].index);
    let proof = &request.proofs[0];
    proof
        .proof
        .verify(&proof.index, &leaves[0].value, &root, Strictness::Member)
        .unwrap();

    let complete = run.page.split("as he keeps it").nth(1).unwrap();
    let complete = complete.split("```json\n").nth(1).unwrap();
    let complete = Proof::from_json(complete.split("\n```").next().unwrap()).unwrap();
    complete
        .verify(
            &Index::of_did(&dids[0]),
            &complete.leaf_value(),
            &root,
            Strictness::Resolver,
        )
        .unwrap();
    let nonce = |name| serde_json::from_value(Value::from(run.known(name))).unwrap();
    assert_eq!(complete.nonce, Some(nonce("fred's leaf nonce")));
    assert_eq!(
        LeafValue::no_update(&nonce("lucia's leaf nonce")),
        leaves[1].value
    );
}

#[test]
fn the_example_of_a_late_did_proves_the_empty_leaf() {
    let run = Run::new();
    let told = run.one(|message| match message {
        Message::RegistrationResult(body) => Some(body.clone()),
        _ => None,
    });
    let (result, signal) = (&told.results[0], &told.signals[0]);
    let proof = &result.proofs[0];
    assert_eq!(
        (proof.session_id, proof.round),
        (signal.session_id, signal.round)
    );
    let root = Root(transaction::signal_bytes(&signal.transaction).unwrap());
    let proof = &proof.proof;
    proof
        .verify(&result.index, &LeafValue::EMPTY, &root, Strictness::Member)
        .unwrap();
    assert_eq!(
        signal.transaction.compute_txid(),
        run.request().pending_tx.compute_txid()
    );
}

/// Fred's DID is made of the generator, the public key of the secret key 1.
#[test]
fn the_example_of_a_contest_is_signed_by_the_key_of_the_did() {
    let run = Run::new();
    let contests = run.all(|message| match message {
        Message::DidContest(body) => Some(body.clone()),
        _ => None,
    });
    let (sender, contest) = &contests[0];
    let mut secret = [0; 32];
    secret[31] = 1;
    let pair = Keypair::from_secret_bytes(secret).unwrap();
    let said = statement::control(contest.cohort_id, sender, &contest.did);
    let signature = secp256k1::schnorr::sign_with_aux_rand(said.digest(), &pair, &[0; 32]);
    assert_eq!(contest.signature.to_string(), signature.to_string());
    assert!(said.is_signed_by(&pair.public_key().into(), &contest.signature));
}

/// The PSBT of the example is of the example's session, with the nonces of both and no partial signature yet.
#[test]
fn the_example_psbt_is_of_the_example_session() {
    let run = Run::new();
    let (beacon, request, keys) = (run.beacon(), run.request(), run.keys());
    let nonces = run.nonces().into_iter().map(|(peer, body)| {
        let points = body.nonce_contributions.iter();
        let points = points.map(|nonce| nonce.points().unwrap());
        (keys[&peer], points.collect())
    });
    let given = Contributions {
        nonces: nonces.collect(),
        partials: BTreeMap::new(),
    };
    let signing = Signing {
        beacon: &beacon,
        tx: &request.pending_tx,
        spent: &request.spent_outputs,
    };
    let expected = signing.psbt(&given, None).unwrap();
    let shown = run.one(|message| match message {
        Message::SessionPsbt(body) => Some(body.clone()),
        _ => None,
    });
    let texts = [&shown.psbt, &expected].map(|psbt| to_base64(psbt).unwrap());
    assert_eq!(texts[0], texts[1]);
    assert_eq!(shown.session_id, request.session_id);
}

#[test]
fn the_example_session_is_signed_by_everybody() {
    let run = Run::new();
    let (beacon, request, sighashes) = (run.beacon(), run.request(), run.sighashes());
    let (keys, nonces, partials) = (run.keys(), run.nonces(), run.partials());
    let session: SessionId = request.session_id;
    let name = "sighash of input 0, second session";
    assert_eq!(hex::encode(sighashes[0]), run.known(name));
    let fee = transaction::max_fee(&request.pending_tx, beacon.script(), 50);
    let spent: Vec<_> = request
        .spent_outputs
        .iter()
        .map(SpentOutput::to_txout)
        .collect();
    assert!(transaction::fee(&request.pending_tx, &spent).unwrap() <= fee);

    for (did, body) in &nonces {
        let said = statement::nonces(session, &sighashes, &body.nonce_contributions);
        assert!(said.is_signed_by(&keys[did], &body.signature));
    }
    let points = |body: &NonceContribution| body.nonce_contribution.points().unwrap();
    let given: Vec<_> = nonces.values().map(points).collect();
    let summed = aggregate_nonces(&given).unwrap();
    let aggregated = run.one(|message| match message {
        Message::AggregatedNonces(body) => Some(body.aggregated_nonce),
        _ => None,
    });
    assert_eq!(summed, aggregated);

    let input = beacon.input(sighashes[0], aggregated);
    for (did, body) in &partials {
        let said =
            statement::partials(session, &sighashes, &[aggregated], &body.partial_signatures);
        assert!(said.is_signed_by(&keys[did], &body.signature));
        let partial = body.partial_signature.scalar().unwrap();
        assert!(input.verify_partial(&keys[did], &points(&nonces[did]), &partial));
    }
    let signature: Vec<_> = partials
        .iter()
        .map(|(_, body)| body.partial_signature.scalar().unwrap())
        .collect();
    let signature = input.aggregate(&signature).unwrap();
    let published = run.one(|message| match message {
        Message::SignalPublished(body) => Some(body.transaction.clone()),
        _ => None,
    });
    assert_eq!(published.compute_txid(), request.pending_tx.compute_txid());
    assert_eq!(published.input[0].witness.to_vec(), [signature.to_vec()]);

    let fred = &partials[0].0;
    let said = [
        (
            "statement of fred's nonces, second session",
            statement::nonces(session, &sighashes, &nonces[fred].nonce_contributions),
        ),
        (
            "statement of fred's partial signature",
            statement::partials(
                session,
                &sighashes,
                &[aggregated],
                &partials[0].1.partial_signatures,
            ),
        ),
    ];
    for (name, said) in said {
        assert_eq!(hex::encode(said.digest()), run.known(name), "{name}");
    }
}

/// All Rust sources below a folder.
fn sources(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn the_threat_model_names_tests_that_exist() {
    let mut code = String::new();
    for folder in ["crates", "agents", "tests"] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../").to_owned() + folder;
        sources(Path::new(&folder), &mut code);
    }
    let mut named = 0;
    for line in read("docs/threat-model.md")
        .lines()
        .filter(|line| line.starts_with('|'))
    {
        let tests = line.trim_matches('|').rsplit('|').next().unwrap();
        let quoted = tests.split('`').skip(1).step_by(2);
        for test in quoted.filter(|test| !test.contains(['.', '/'])) {
            assert!(code.contains(&format!("fn {test}(")), "{test}");
            named += 1;
        }
    }
    assert!(named > 100, "{named} tests are named");
}

/// Of the attacks that were known from the start each has its row, an answer, an issue and a test.
#[test]
fn the_threat_model_lists_every_known_attack() {
    let page = read("docs/threat-model.md");
    let list = section(&page, "## The list");
    let (known, _) = list.split_once("\nFound since:").unwrap();
    let rows = rows(known);
    assert_eq!(rows.len(), 28);
    for row in rows {
        let [attack, answer, issue, tests] = &row[..] else {
            panic!("{row:?}");
        };
        assert!(answer.len() > 20 && tests.contains('_'), "{attack}");
        for issue in issue.split(", ") {
            assert!(["2", "3", "4", "5"].contains(&issue), "{attack}");
            let later = answer.contains(&format!("issue {issue}"));
            assert!(!later || issue > "4", "{attack}: issue {issue} is over");
        }
    }
}
