//! DID documents: what conforms, what does not and where, beacons, and genesis documents.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program")]

use beacon_btcr2::beacon::{Announcement, Beacon, BeaconError, BeaconType, parse_endpoint};
use beacon_btcr2::document::{BTCR2_CONTEXT, DID_CONTEXT, DocumentError, MAX_BEACONS};
use beacon_btcr2::{Did, Document, ErrorCode, GenesisBytes, Hash32, Network, initial, json};
use bitcoin::secp256k1::PublicKey;
use serde_json::{Value, json};

const KEY: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
const OTHER_KEY: &str = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5";

fn key() -> PublicKey {
    KEY.parse().unwrap()
}

fn did() -> Did {
    Did::new(Network::Regtest, GenesisBytes::Key(key()))
}

fn document() -> Value {
    let document = initial::from_key(&did()).unwrap().unwrap();
    document.value().clone()
}

/// The document with one change, taken as a document of the DID.
fn changed(change: impl FnOnce(&mut Value)) -> Result<Document, DocumentError> {
    let mut value = document();
    change(&mut value);
    Document::new(&did(), value)
}

/// Where the document with this value at a pointer is refused.
fn refused_at(pointer: &str, value: Value) -> String {
    let error = changed(|document| {
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        match document.pointer_mut(parent).unwrap() {
            Value::Array(items) => items.push(value),
            parent => parent[last] = value,
        }
    });
    match error.unwrap_err() {
        DocumentError::Property { at, .. }
        | DocumentError::RepeatedId { at, .. }
        | DocumentError::Beacon { at, .. } => at,
        other => panic!("{pointer}: {other}"),
    }
}

#[test]
fn the_document_of_a_key_has_the_addresses_of_its_network() {
    for (network, addresses) in [
        (
            Network::Bitcoin,
            [
                "1BgGZ9tcN4rm9KBzDn7KprQz87SZ26SAMH",
                "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
                "bc1pmfr3p9j00pfxjh0zmgp99y8zftmd3s5pmedqhyptwy6lm87hf5sspknck9",
            ],
        ),
        (
            Network::Regtest,
            [
                "mrCDrCybB6J1vRfbwM5hemdJz73FwDBC8r",
                "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080",
                "bcrt1pmfr3p9j00pfxjh0zmgp99y8zftmd3s5pmedqhyptwy6lm87hf5ssm803es",
            ],
        ),
        (
            Network::Mutinynet,
            [
                "mrCDrCybB6J1vRfbwM5hemdJz73FwDBC8r",
                "tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx",
                "tb1pmfr3p9j00pfxjh0zmgp99y8zftmd3s5pmedqhyptwy6lm87hf5ssk79hv2",
            ],
        ),
    ] {
        let did = Did::new(network, GenesisBytes::Key(key()));
        let document = initial::from_key(&did).unwrap().unwrap();
        let beacons = document.beacons();
        let got: Vec<_> = beacons
            .iter()
            .map(|beacon| beacon.address.to_string())
            .collect();
        assert_eq!(got, addresses, "{network}");
        assert!(
            beacons
                .iter()
                .all(|beacon| beacon.kind == BeaconType::Singleton)
        );
        assert_eq!(beacons[0].id, format!("{did}#initialP2PKH"));
    }
}

#[test]
fn what_is_asked_of_a_document() {
    let document = Document::new(&did(), document()).unwrap();
    assert_eq!(document.did(), &did());
    assert_eq!(document.hash(), json::hash(document.value()));
    assert!(!document.is_deactivated());
    let id = format!("{}#initialKey", did());
    let multikey = document.value()["verificationMethod"][0]["publicKeyMultibase"].clone();
    for id in ["#initialKey", &id] {
        assert_eq!(json!(document.update_key(id).unwrap()), multikey);
    }
    assert_eq!(document.update_method_of(&key()), Some(id));
    assert_eq!(document.update_method_of(&OTHER_KEY.parse().unwrap()), None);
    assert_eq!(document.dangling_reference(), None);
}

#[test]
fn what_did_core_leaves_open_is_taken() {
    for (pointer, value) in [
        ("/anything", json!({ "at": ["all"] })),
        ("/alsoKnownAs", json!(["https://example.com/", "urn:a:b"])),
        ("/controller", json!("did:example:a")),
        ("/controller", json!(["did:example:a", did().as_str()])),
        ("/deactivated", json!(true)),
        ("/deactivated", json!(false)),
        ("/authentication", json!([])),
        ("/keyAgreement", json!(["did:other:1#key", "#initialKey"])),
        (
            "/assertionMethod",
            json!([{ "id": "#a", "type": "Multikey", "controller": "did:a:b" }]),
        ),
        ("/verificationMethod/0/anything", json!(1)),
        ("/service", json!([])),
        (
            "/service",
            json!([{ "id": "#a", "type": "LinkedDomains", "serviceEndpoint": "https://bücher.example/" }]),
        ),
        (
            "/service",
            json!([{ "id": "urn:a", "type": ["A", "B"], "serviceEndpoint": { "uri": "x:" } }]),
        ),
        (
            "/service",
            json!([{ "id": "#a", "type": "A", "serviceEndpoint": ["x:y", { "uri": "x:" }] }]),
        ),
    ] {
        let document = changed(|document| {
            let (parent, last) = pointer.rsplit_once('/').unwrap();
            document.pointer_mut(parent).unwrap()[last] = value.clone();
        });
        let document = document.unwrap_or_else(|error| panic!("{pointer} {value}: {error}"));
        assert_eq!(document.is_deactivated(), value == json!(true));
    }
    for removed in [
        "verificationMethod",
        "service",
        "authentication",
        "capabilityInvocation",
    ] {
        changed(|document| drop(document.as_object_mut().unwrap().remove(removed))).unwrap();
    }
    changed(|document| {
        document["@context"] = json!([DID_CONTEXT, { "x": "urn:x" }, BTCR2_CONTEXT]);
    })
    .unwrap();
}

#[test]
fn what_does_not_conform_is_refused_with_its_place() {
    for (pointer, value, at) in [
        ("/@context", json!(null), "/@context"),
        ("/@context", json!(DID_CONTEXT), "/@context"),
        ("/@context", json!([]), "/@context"),
        ("/@context", json!([DID_CONTEXT]), "/@context"),
        (
            "/@context",
            json!([BTCR2_CONTEXT, DID_CONTEXT]),
            "/@context",
        ),
        (
            "/@context",
            json!(["https://www.w3.org/ns/did/v1", BTCR2_CONTEXT]),
            "/@context",
        ),
        (
            "/@context",
            json!([DID_CONTEXT, BTCR2_CONTEXT, 1]),
            "/@context",
        ),
        ("/id", json!("did:btcr2:_"), "/id"),
        ("/id", json!(format!("{}#", did())), "/id"),
        ("/id", json!(null), "/id"),
        ("/deactivated", json!("true"), "/deactivated"),
        ("/deactivated", json!(null), "/deactivated"),
        ("/alsoKnownAs", json!("urn:a:b"), "/alsoKnownAs"),
        ("/alsoKnownAs", json!(["urn:a:b", 1]), "/alsoKnownAs/1"),
        ("/controller", json!("me"), "/controller"),
        (
            "/controller",
            json!(["did:a:b", "did:A:b"]),
            "/controller/1",
        ),
        ("/controller", json!("did:a:b#c"), "/controller"),
        ("/controller", json!("did:a:"), "/controller"),
    ] {
        assert_eq!(refused_at(pointer, value.clone()), at, "{value}");
    }
    for value in [json!(null), json!([]), json!("document")] {
        let error = Document::new(&did(), value).unwrap_err();
        assert!(matches!(error, DocumentError::Property { at, .. } if at == "the document"));
    }
}

#[test]
fn verification_methods_that_do_not_conform_are_refused_with_their_place() {
    let method = |change: (&str, Value)| {
        let mut method = json!({ "id": "#a", "type": "Multikey", "controller": "did:a:b" });
        method[change.0] = change.1;
        method
    };
    for (pointer, value, at) in [
        ("/verificationMethod", json!({}), "/verificationMethod"),
        (
            "/verificationMethod/-",
            json!("#initialKey"),
            "/verificationMethod/1",
        ),
        (
            "/verificationMethod/-",
            method(("id", json!(null))),
            "/verificationMethod/1/id",
        ),
        (
            "/verificationMethod/-",
            method(("id", json!(""))),
            "/verificationMethod/1/id",
        ),
        (
            "/verificationMethod/-",
            method(("id", json!("#initialKey"))),
            "/verificationMethod/1",
        ),
        (
            "/verificationMethod/-",
            method(("type", json!("JsonWebKey2020"))),
            "/verificationMethod/1/type",
        ),
        (
            "/verificationMethod/-",
            method(("type", json!(["Multikey"]))),
            "/verificationMethod/1/type",
        ),
        (
            "/verificationMethod/-",
            method(("controller", json!(null))),
            "/verificationMethod/1/controller",
        ),
        (
            "/verificationMethod/-",
            method(("controller", json!("did:a"))),
            "/verificationMethod/1/controller",
        ),
        (
            "/verificationMethod/-",
            method(("publicKeyMultibase", json!(1))),
            "/verificationMethod/1/publicKeyMultibase",
        ),
        ("/authentication", json!("#initialKey"), "/authentication"),
        ("/authentication/-", json!(1), "/authentication/1"),
        ("/authentication/-", json!(""), "/authentication/1"),
        (
            "/capabilityInvocation/-",
            method(("id", json!("#initialKey"))),
            "/capabilityInvocation/1",
        ),
        (
            "/keyAgreement",
            json!([method(("type", json!(1)))]),
            "/keyAgreement/0/type",
        ),
        (
            "/capabilityDelegation",
            json!(null),
            "/capabilityDelegation",
        ),
    ] {
        assert_eq!(refused_at(pointer, value.clone()), at, "{value}");
    }
}

#[test]
fn services_that_do_not_conform_are_refused_with_their_place() {
    let service = |change: (&str, Value)| {
        let mut service = json!({ "id": "#a", "type": "A", "serviceEndpoint": "x:y" });
        service[change.0] = change.1;
        service
    };
    for (pointer, value, at) in [
        ("/service", json!({}), "/service"),
        ("/service/-", json!("#a"), "/service/3"),
        ("/service/-", service(("id", json!(null))), "/service/3/id"),
        (
            "/service/-",
            service(("id", json!("#initialP2TR"))),
            "/service/3",
        ),
        (
            "/service/-",
            service(("type", json!(null))),
            "/service/3/type",
        ),
        (
            "/service/-",
            service(("type", json!([]))),
            "/service/3/type",
        ),
        (
            "/service/-",
            service(("type", json!(["A", 1]))),
            "/service/3/type",
        ),
        (
            "/service/-",
            service(("type", json!(["A", "SMTBeacon"]))),
            "/service/3/type",
        ),
        (
            "/service/-",
            service(("serviceEndpoint", json!(null))),
            "/service/3/serviceEndpoint",
        ),
        (
            "/service/-",
            service(("serviceEndpoint", json!(""))),
            "/service/3/serviceEndpoint",
        ),
        (
            "/service/-",
            service(("serviceEndpoint", json!([1]))),
            "/service/3/serviceEndpoint/0",
        ),
        (
            "/service/-",
            service(("type", json!("SMTBeacon"))),
            "/service/3/serviceEndpoint",
        ),
    ] {
        assert_eq!(refused_at(pointer, value.clone()), at, "{value}");
    }
}

#[test]
fn one_id_in_two_forms_is_one_id() {
    let absolute = json!({ "id": format!("{}#initialKey", did()), "type": "Multikey", "controller": "did:a:b" });
    let relative = json!({ "id": "#initialKey", "type": "Multikey", "controller": "did:a:b" });
    for (first, second) in [(&absolute, &relative), (&relative, &absolute)] {
        let error = changed(|document| document["verificationMethod"] = json!([first, second]));
        let id = format!("{}#initialKey", did());
        let at = "/verificationMethod/1".into();
        assert_eq!(error.unwrap_err(), DocumentError::RepeatedId { at, id });
    }
}

#[test]
fn documents_beyond_the_limits_are_refused() {
    let too_large = |change: &dyn Fn(&mut Value)| {
        matches!(changed(change), Err(DocumentError::TooLarge { .. }))
    };
    assert!(too_large(&|document| document["a"] = json!(vec![0; 8192])));
    assert!(too_large(
        &|document| document["a"] = json!("x".repeat(128 << 10))
    ));
    let mut deep = json!([]);
    for _ in 0..20 {
        deep = json!([deep]);
    }
    assert!(too_large(&|document| document["a"] = deep.clone()));

    let service = &document()["service"][1];
    let beacons = |count: usize| -> Vec<Value> {
        let with_id = |i: usize| {
            let mut service = service.clone();
            service["id"] = json!(format!("#{i}"));
            service
        };
        (0..count).map(with_id).collect()
    };
    let document = changed(|document| document["service"] = json!(beacons(MAX_BEACONS)));
    assert_eq!(document.unwrap().beacons().len(), MAX_BEACONS);
    let got = MAX_BEACONS + 1;
    let error = changed(|document| document["service"] = json!(beacons(got)));
    assert_eq!(error.unwrap_err(), DocumentError::TooManyBeacons { got });
}

#[test]
fn a_key_updates_only_by_capability_invocation() {
    let other = beacon_btcr2::proof::multikey(&OTHER_KEY.parse().unwrap());
    let method = |id: &str| json!({ "id": id, "type": "Multikey", "controller": "did:a:b", "publicKeyMultibase": other });
    // In the document and used for something else.
    let document = changed(|document| {
        document["verificationMethod"]
            .as_array_mut()
            .unwrap()
            .push(method("#other"));
        document["authentication"] = json!(["#other"]);
    });
    let id = format!("{}#other", did());
    let error = document.unwrap().update_key("#other").unwrap_err();
    assert_eq!(error, DocumentError::NoCapability { id: id.clone() });
    // Referred to and not there; there is no way around it through another relationship's embedded method.
    let document = changed(|document| {
        document["authentication"] = json!([method("#other")]);
        document["capabilityInvocation"] = json!(["#other"]);
    });
    let document = document.unwrap();
    assert_eq!(
        document.update_key(&id).unwrap_err(),
        DocumentError::NoSuchMethod { id: id.clone() }
    );
    let at = "/capabilityInvocation/0".into();
    assert_eq!(
        document.dangling_reference(),
        Some(DocumentError::Dangling { at, id: id.clone() })
    );
    // Embedded.
    let document = changed(|document| document["capabilityInvocation"] = json!([method("#other")]));
    let document = document.unwrap();
    assert_eq!(document.update_key(&id), Ok(&*other));
    assert_eq!(
        document.update_method_of(&OTHER_KEY.parse().unwrap()),
        Some(id.clone())
    );
    // Without a key.
    let document = changed(|document| {
        document["capabilityInvocation"] =
            json!([{ "id": "#other", "type": "Multikey", "controller": "did:a:b" }]);
    });
    assert_eq!(
        document.unwrap().update_key(&id).unwrap_err(),
        DocumentError::NoKey { id }
    );
}

#[test]
fn an_endpoint_is_an_address_of_the_network() {
    let address = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";
    for endpoint in [
        format!("bitcoin:{address}"),
        format!("BITCOIN:{}", address.to_uppercase()),
        format!("bitcoin:{address}?label=beacon&amount=1"),
        format!("bitcoin:{address}?"),
    ] {
        let parsed = parse_endpoint(&endpoint, Network::Regtest).unwrap();
        assert_eq!(parsed.to_string(), address, "{endpoint}");
    }
    for endpoint in [
        "",
        "bitcoin",
        address,
        "litecoin:x",
        "bitcoin",
        "http://bitcoin:x",
        "bitcöin:x",
    ] {
        let refused = parse_endpoint(endpoint, Network::Regtest).unwrap_err();
        assert_eq!(
            refused,
            BeaconError::NotBitcoinUri {
                got: endpoint.into()
            }
        );
    }
    for endpoint in [
        "bitcoin:",
        "bitcoin:?x",
        "bitcoin://bcrt1q",
        "bitcoin: bcrt1q",
        &format!("bitcoin:{address}x"),
    ] {
        let refused = parse_endpoint(endpoint, Network::Regtest).unwrap_err();
        assert!(
            matches!(refused, BeaconError::Address { .. }),
            "{endpoint}: {refused}"
        );
    }
    for network in [Network::Bitcoin, Network::Signet, Network::Testnet4] {
        let refused = parse_endpoint(&format!("bitcoin:{address}"), network).unwrap_err();
        assert!(matches!(refused, BeaconError::Address { network: of, .. } if of == network));
    }
    let required = parse_endpoint(&format!("bitcoin:{address}?a=1&req-b=2"), Network::Regtest);
    assert_eq!(
        required.unwrap_err(),
        BeaconError::RequiredParameter {
            got: "req-b=2".into()
        }
    );
}

#[test]
fn a_beacon_is_written_as_it_is_read() {
    for kind in BeaconType::ALL {
        let address = parse_endpoint(
            "bitcoin:bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080",
            Network::Regtest,
        );
        let beacon = Beacon {
            id: did().absolute("#b"),
            kind,
            address: address.unwrap(),
        };
        let document = changed(|document| document["service"] = json!([beacon.service()])).unwrap();
        assert_eq!(document.beacons(), [beacon]);
        assert_eq!(BeaconType::of_service_type(kind.service_type()), Some(kind));
    }
    // Names of older specifications are services like any other.
    for old in [
        "MapBeacon",
        "SMTAggregateBeacon",
        "CIDAggregateBeacon",
        "singletonbeacon",
    ] {
        assert_eq!(BeaconType::of_service_type(old), None);
    }
}

#[test]
fn an_announcement_map_has_one_entry_for_a_did_and_none_disturbs_another() {
    let (mine, yours) = (
        did(),
        Did::new(Network::Regtest, GenesisBytes::Document(Hash32([1; 32]))),
    );
    let map = Announcement::new([(mine.clone(), Hash32([7; 32]))]);
    assert_eq!(
        map.value(),
        &json!({ mine.as_str(): Hash32([7; 32]).to_string() })
    );
    assert_eq!(map.hash(), json::hash(map.value()));
    assert_eq!(map.update_of(&mine), Ok(Some(Hash32([7; 32]))));
    assert_eq!(map.update_of(&yours), Ok(None));
    assert_eq!(Announcement::from_value(map.value().clone()), Ok(map));

    for entry in [
        json!(null),
        json!(1),
        json!("AAAA"),
        json!({}),
        json!(Hash32([0; 32]).to_hex()),
    ] {
        let value = json!({ mine.as_str(): Hash32([7; 32]), yours.as_str(): entry, "other": [] });
        let map = Announcement::from_value(value.clone()).unwrap();
        assert_eq!(map.hash(), json::hash(&value));
        assert_eq!(map.update_of(&mine), Ok(Some(Hash32([7; 32]))));
        assert!(
            matches!(map.update_of(&yours), Err(BeaconError::Entry { .. })),
            "{entry}"
        );
    }
    assert!(matches!(
        Announcement::from_value(json!([])),
        Err(BeaconError::NotAMap { .. })
    ));
}

/// The document as a genesis document: the placeholder for the DID.
fn genesis() -> Value {
    let text = document()
        .to_string()
        .replace(did().as_str(), initial::PLACEHOLDER);
    json::parse(text.as_bytes(), &json::Limits::DOCUMENT).unwrap()
}

#[test]
fn a_genesis_document_makes_a_did_and_its_first_document() {
    let genesis = genesis();
    let (did, document) = initial::create_from_genesis(Network::Regtest, &genesis).unwrap();
    assert_eq!(*did.genesis(), GenesisBytes::Document(json::hash(&genesis)));
    let expected = genesis
        .to_string()
        .replace(initial::PLACEHOLDER, did.as_str());
    assert_eq!(
        document.value(),
        &json::parse(expected.as_bytes(), &json::Limits::DOCUMENT).unwrap()
    );
    assert_eq!(initial::from_genesis(&did, &genesis).unwrap(), document);
    assert_eq!(initial::from_key(&did).unwrap(), None);
}

#[test]
fn the_placeholder_is_replaced_wherever_it_stands() {
    let mut genesis = genesis();
    genesis["did:btcr2:_#member"] =
        json!(["a did:btcr2:_ and did:btcr2:_x", 1, { "a": "did:btcr2:_" }]);
    let (did, document) = initial::create_from_genesis(Network::Regtest, &genesis).unwrap();
    let expected = json!([format!("a {did} and {did}x"), 1, { "a": did.as_str() }]);
    assert_eq!(document.value()[format!("{did}#member")], expected);
}

#[test]
fn another_genesis_document_or_none_that_conforms_is_refused() {
    let good = genesis();
    let (did, _) = initial::create_from_genesis(Network::Regtest, &good).unwrap();
    let mut other = good.clone();
    other["added"] = json!(null);
    assert_eq!(
        initial::from_genesis(&did, &other).unwrap_err().code,
        ErrorCode::InvalidDid
    );
    // A DID of a key has no genesis document.
    assert_eq!(
        initial::from_genesis(&self::did(), &good).unwrap_err().code,
        ErrorCode::InvalidDid
    );

    for (pointer, value) in [
        ("/id", json!(did.as_str())),
        ("/id", json!("did:btcr2:__")),
        ("/@context", json!([])),
        (
            "/service/0/serviceEndpoint",
            json!("bitcoin:bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"),
        ),
    ] {
        let mut genesis = good.clone();
        *genesis.pointer_mut(pointer).unwrap() = value;
        let error = initial::create_from_genesis(Network::Regtest, &genesis).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidDidDocument);
        assert!(error.to_string().contains(pointer), "{error}");
    }
}
