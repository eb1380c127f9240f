//! What a corpus begins with: honest input of every kind, as the agents write it.

mod cohort;

use beacon_cohort::terms::Terms;
use beacon_didcomm::protocols::{self, Invitation, ProblemReport};
use beacon_didcomm::{Plaintext, Resolver, pack, resolve};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::targets::envelopes::{NOW, alice, bob};
use crate::targets::{btcr2, dids, evidence, psbt, situations, transactions};

/// Name and content of each seed of a target.
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    match target {
        "btcr2_did" => named(&btcr2::did_seeds()),
        "btcr2_resolution" => named(&btcr2::resolution_seeds()),
        "btcr2_sidecar" => named(&btcr2::sidecar_seeds()),
        "btcr2_update" => named(&btcr2::update_seeds()),
        "config" => named(&config()),
        "control" => named(&control()),
        "coordinator_log" => cohort::logs("coordinator"),
        "did" => named(&did()),
        "did_document" => named(&documents()),
        "envelope" => named(&envelopes()),
        "evidence" => named(&evidence::files()),
        "keygen" | "sign" => cohort::messages(target),
        "machines" => cohort::machines(),
        "participant_log" => cohort::logs("participant"),
        "plaintext" => named(&plaintexts()),
        "proof" => proofs(),
        "protocols" => named(&small_protocols()),
        "psbt" => psbt::files(),
        "store" => store(),
        "terms" => named(&terms()),
        "transaction" => vec![("honest".to_owned(), transactions::honest())],
        _ => Vec::new(),
    }
}

fn named(texts: &[(&str, String)]) -> Vec<(String, Vec<u8>)> {
    let owned = |(name, text): &(&str, String)| ((*name).to_owned(), text.clone().into_bytes());
    texts.iter().map(owned).collect()
}

fn config() -> Vec<(&'static str, String)> {
    let all = "listen = \"127.0.0.1:8765\"\npublic_url = \"wss://example.org/x\"\nnetwork = \"signet\"\nchain_url = \"http://127.0.0.1:3002\"\n\
        chain_poll_ms = 1000\nallow_private = true\nlabel = \"a name\"\nmax_message_bytes = 1048576\nheartbeat_s = 20\nmax_connections = 10\n\
        max_connections_per_ip = 5\nfee_rate = 2\nauto_join = true\nauto_sign = true\ndids = [\"did:example:a\"]\n";
    let node = "network = \"signet\"\nchain = \"bitcoind\"\nchain_url = \"http://127.0.0.1:38332\"\n\
        chain_cookie_file = \"/var/lib/bitcoind/signet/.cookie\"\nchain_start_height = 250000\n";
    vec![
        ("all", all.to_owned()),
        ("node", node.to_owned()),
        ("wrong-name", "fee_rat = 2\n".to_owned()),
        ("wrong-value", "[fee_rate]\nx = 1\n".to_owned()),
    ]
}

fn control() -> Vec<(&'static str, String)> {
    let (cohort, session) = situations::with(|situations| {
        let mut sessions = situations.iter().filter_map(|situation| {
            let cohort = situation.member().state().cohorts.get(&situation.cohort)?;
            Some(cohort.session.as_ref()?.id.to_string())
        });
        let session = sessions.next().unwrap_or_default();
        (situations[0].cohort.to_string(), session)
    });
    let line = |letter: char, method: &str, params: Value| {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        format!("{letter}{request}")
    };
    let one = json!({ "cohort_id": cohort });
    let own = json!({ "session_id": session, "comment": "no" });
    let to = bob().did().to_string();
    let update = json!({ "cohort_id": cohort, "did": "did:example:controlled-by-0", "update_hash": "07".repeat(32) });
    let advert = json!({ "terms": { "min_members": 2 }, "expires_in_s": 60, "invited": [to] });
    vec![
        ("advertise", line('i', "cohort.advertise", advert)),
        ("list", line('k', "cohort.list", json!({}))),
        ("show", line('u', "cohort.show", one.clone())),
        ("close", line('a', "cohort.close_admission", one.clone())),
        ("start", line('i', "session.start", one.clone())),
        ("sessions", line('o', "session.list", one.clone())),
        ("subscribers", line('i', "subscribers", json!([]))),
        ("status", line('w', "status", json!({}))),
        ("own", line('i', "did", json!({}))),
        ("cohorts", line('x', "cohorts", json!({}))),
        (
            "join",
            line(
                'j',
                "join",
                json!({ "cohort_id": cohort, "dids": ["did:example:x"] }),
            ),
        ),
        ("leave", line('b', "leave", one.clone())),
        ("update", line('j', "request_update", update)),
        ("approve", line('n', "approve", own.clone())),
        ("decline", line('n', "decline", own)),
        ("export", line('x', "proof.export", one)),
        ("participant", line('r', "status", json!({}))),
        (
            "subscribe",
            line(
                'b',
                "subscribe",
                json!({ "coordinator": to, "networks": ["regtest"] }),
            ),
        ),
        (
            "unsubscribe",
            line('b', "unsubscribe", json!({ "coordinator": to })),
        ),
        (
            "pack",
            line(
                'b',
                "didcomm.pack",
                json!({ "to": to, "type": "https://example.org/1.0/x", "body": {} }),
            ),
        ),
        (
            "unpack",
            line('b', "didcomm.unpack", json!({ "envelope": "{}" })),
        ),
        ("no-request", "a{\"id\": null}".to_owned()),
    ]
}

fn did() -> Vec<(&'static str, String)> {
    let document = json!({ "verificationMethod": [], "service": [] }).to_string();
    let peer4 = dids::peer4(document.as_bytes())
        .map(|did| did.to_string())
        .unwrap_or_default();
    let short = peer4
        .rsplit_once(':')
        .map_or(String::new(), |(short, _)| short.to_owned());
    let key = "z6MkpTHR8VNsBxYAAWHut2Geadd9jSwuBV8xRoAnwWsdvktH";
    vec![
        ("peer2", alice().did().to_string()),
        ("peer2-endpoint", bob().did().to_string()),
        (
            "peer2-services",
            dids::peer2(
                r#"{"t":"dm","s":"https://x","r":["did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc#z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc"]}"#,
            ),
        ),
        ("peer0", format!("did:peer:0{key}")),
        ("key", format!("did:key:{key}")),
        (
            "key-x25519",
            "did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc".to_owned(),
        ),
        (
            "key-p256",
            "did:key:zDnaerx9CtbPJ1q36T5Ln5wYt3MQYeGRG5ehnPAmxcf5mDZpv".to_owned(),
        ),
        ("peer4", peer4),
        ("peer4-short", short),
        ("web", "did:web:example.com:user%20one".to_owned()),
    ]
}

fn documents() -> Vec<(&'static str, String)> {
    let document = serde_json::to_string(&resolve(bob().did()).unwrap()).unwrap();
    let embedded = json!({
        "@context": ["https://www.w3.org/ns/did/v1"],
        "id": "did:example:a",
        "alsoKnownAs": ["did:example:b"],
        "keyAgreement": [
            "#key-1",
            { "id": "did:example:a#key-2", "type": "JsonWebKey2020", "controller": "did:example:a",
              "publicKeyJwk": { "kty": "OKP", "crv": "X25519", "x": "avH0O2Y4tqLAq8y9zpianr8ajii5m4F_mICrzNlatXs" } },
        ],
        "service": [{ "id": "#s", "type": "DIDCommMessaging", "serviceEndpoint": [
            { "uri": "https://example.org", "accept": ["didcomm/v2"], "routingKeys": ["did:example:m#key-1"] }] }],
    });
    let plain = json!({
        "service": [{ "id": "#s", "type": "DIDCommMessaging", "serviceEndpoint": "https://example.org", "accept": ["didcomm/v2"] }],
        "verificationMethod": [{ "id": "#k", "type": "Multikey", "publicKeyMultibase": "z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc" }],
        "keyAgreement": ["#k"], "authentication": ["#k"],
    });
    vec![
        ("resolved", document),
        ("embedded", embedded.to_string()),
        ("peer4", plain.to_string()),
    ]
}

fn envelopes() -> Vec<(&'static str, String)> {
    let message = Plaintext::new(Uuid::nil(), protocols::PING, NOW);
    let packed = pack(&alice(), bob().did(), &message, &Resolver::default()).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let packed = text(packed.frame());
    let mut anonymous: Value = serde_json::from_str(&packed).unwrap();
    anonymous["recipients"] = json!([]);
    vec![
        ("authcrypt", packed),
        ("no-recipient", anonymous.to_string()),
        ("plaintext", serde_json::to_string(&message).unwrap()),
        (
            "signed",
            json!({ "payload": "e30", "signatures": [] }).to_string(),
        ),
    ]
}

fn plaintexts() -> Vec<(&'static str, String)> {
    let base = json!({
        "id": "1", "typ": "application/didcomm-plain+json", "type": protocols::PING, "from": alice().did(),
        "to": [bob().did()], "thid": "2", "pthid": "3", "created_time": NOW, "expires_time": NOW + 60,
        "return_route": "all", "please_ack": [""], "ack": ["4"], "body": {}, "attachments": [{ "data": { "json": {} } }],
    });
    let mut short = base.clone();
    short["to"] = json!(bob().did());
    let (queries, report) = (
        json!({ "queries": [{ "feature-type": "protocol", "match": "https://didcomm.org/*" }] }),
        json!({ "code": "e.m.limit", "comment": "no", "args": ["1"] }),
    );
    let with = |kind: &str, body: &Value| {
        let mut message = short.clone();
        (message["type"], message["body"]) = (json!(kind), body.clone());
        message.to_string()
    };
    vec![
        ("everything", base.to_string()),
        ("queries", with(protocols::QUERIES, &queries)),
        ("report", with(protocols::PROBLEM_REPORT, &report)),
        (
            "subscribe",
            with(
                "https://btc1.tools/musig2/keygen/subscribe",
                &json!({ "networks": ["regtest"], "label": "x" }),
            ),
        ),
    ]
}

fn small_protocols() -> Vec<(&'static str, String)> {
    let invitation =
        Invitation::new(Uuid::nil(), bob().did().clone()).with_goal("cohort.join", "join");
    let page = "https://example.org/join?lang=en".parse().unwrap();
    let report =
        serde_json::to_string(&ProblemReport::new("e.m.limit", "too many").unwrap()).unwrap();
    vec![
        ("ping", r#"a{"response_requested":true}"#.to_owned()),
        ("pong", "b{}".to_owned()),
        ("queries", r#"c{"queries":[{"feature-type":"protocol","match":"https://didcomm.org/*"},{"feature-type":"constraint","match":"*"}]}"#.to_owned()),
        ("disclose", r#"d{"disclosures":[]}"#.to_owned()),
        ("report", format!("e{report}")),
        ("empty", "f{}".to_owned()),
        ("link", format!("g{}", invitation.to_deep_link())),
        ("url", format!("g{}", invitation.to_url(&page))),
        ("endpoint", "gwss://example.org:8765/path?x=1".to_owned()),
    ]
}

/// Complete proofs, as a member stores them, and one as the coordinator sends it.
fn proofs() -> Vec<(String, Vec<u8>)> {
    let tree = beacon_signal::SparseMerkleTree::new((0..40_u8).map(|number| {
        let index = beacon_signal::Index::of_did(&format!("did:example:{number}"));
        (index, beacon_signal::LeafValue([number; 32]))
    }));
    let fuzzed = beacon_signal::Index::of_did("did:example:fuzz");
    let empty = tree.unwrap().proof(&fuzzed);
    let mut seeds = vec![("empty".to_owned(), serde_json::to_vec(&empty).unwrap())];
    for (name, update) in [("update", true), ("no-update", false)] {
        let nonce = beacon_signal::LeafNonce::new([7; 32]);
        let update = update.then_some(beacon_signal::UpdateId([9; 32]));
        let leaf = match &update {
            Some(update) => beacon_signal::LeafValue::update(&nonce, update),
            None => beacon_signal::LeafValue::no_update(&nonce),
        };
        let other = beacon_signal::Index::of_did("did:example:other");
        let leaves = [(fuzzed, leaf), (other, beacon_signal::LeafValue([1; 32]))];
        let mut proof = beacon_signal::SparseMerkleTree::new(leaves)
            .unwrap()
            .proof(&fuzzed);
        (proof.nonce, proof.update_id) = (Some(nonce), update);
        seeds.push((name.to_owned(), serde_json::to_vec(&proof).unwrap()));
    }
    seeds
}

fn terms() -> Vec<(&'static str, String)> {
    let network = beacon_cohort::terms::BtcNetwork::Regtest;
    let terms = Terms::new(network, 3, beacon_cohort::ids::Timestamp(1_900_000_000));
    let least = json!({ "version": 1, "beacon_type": "SMTBeacon", "btc_network": "signet", "min_members": 2,
        "max_members": 1000, "advert_expires": 1_900_000_000 });
    vec![
        ("all", terms.to_value().unwrap().to_string()),
        ("least", least.to_string()),
    ]
}

fn store() -> Vec<(String, Vec<u8>)> {
    let changes: [(&str, &[u8]); 4] = [
        ("whole", &[]),
        ("one", &[0, 5, 0, 0]),
        ("some", &[0, 0, 40, 1, 0, 1, 0, 200, 0, 2, 0, 7]),
        ("truncated", &[255, 1, 0, 1]),
    ];
    changes
        .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
        .to_vec()
}
