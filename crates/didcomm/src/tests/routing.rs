//! Recipients behind mediators: the independent implementation plays the mediators.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use didcomm::protocols::routing::try_parse_forward;
use serde_json::json;

use super::oracle::Oracle;
use super::*;

/// Bob's keys with another service.
fn behind(uri: &str, routing_keys: &[&str]) -> Did {
    let service = json!({ "t": "dm", "s": { "uri": uri, "a": ["didcomm/v2"], "r": routing_keys } });
    let own = bob();
    let keys = own.did().as_str().rsplit_once(".S").unwrap().0;
    format!(
        "{keys}.S{}",
        BASE64_URL_SAFE_NO_PAD.encode(service.to_string())
    )
    .parse()
    .unwrap()
}

/// The mediator opens its forward and says what is inside and who is next.
fn passed_on(mediator: (&Identity, u8), frame: &[u8]) -> (String, Vec<u8>) {
    let oracle = Oracle::new(&[mediator.0.did()], &[mediator]);
    let (message, metadata) = oracle.unpack(frame).unwrap();
    assert!(
        metadata.encrypted && !metadata.authenticated,
        "a forward hides the sender from the mediator"
    );
    assert_eq!(message.type_, FORWARD);
    assert_eq!(message.expires_time, Some(NOW + DEFAULT_LIFETIME));
    let forward = try_parse_forward(&message).unwrap();
    (forward.next, forward.forwarded_msg.to_string().into_bytes())
}

#[test]
fn one_routing_key_means_one_forward() {
    let mediator = identity(5, "wss://mediator.example");
    let recipient = behind("wss://mediator.example", &[mediator.agreement_kid()]);
    let packed = pack(&alice(), &recipient, &greeting(), &Resolver::default()).unwrap();
    assert!(packed.is_forwarded());
    assert_eq!(
        packed.endpoint(),
        Some(&"wss://mediator.example".parse().unwrap())
    );
    let (next, inner) = passed_on((&mediator, 5), packed.frame());
    assert_eq!(next, recipient.as_str());
    let inner: serde_json::Value = serde_json::from_slice(&inner).unwrap();
    assert_eq!(
        inner,
        serde_json::from_slice::<serde_json::Value>(packed.envelope()).unwrap()
    );
    // The recipient opens the envelope itself; on its own connection it gets it without the forward.
    let envelope = crate::envelope::Envelope::parse(packed.envelope()).unwrap();
    assert_eq!(envelope.kids, [format!("{recipient}#key-2")]);
    // No two forwards have one id, and retries of the same envelope keep theirs.
    let again = pack(&alice(), &recipient, &greeting(), &Resolver::default()).unwrap();
    assert_ne!(packed.frame(), again.frame());
}

#[test]
fn routing_keys_are_passed_in_order() {
    let (first, second) = (
        identity(5, "wss://first.example"),
        identity(6, "wss://second.example"),
    );
    let recipient = behind(
        "wss://first.example",
        &[first.did().as_str(), second.agreement_kid()],
    );
    let packed = pack(&alice(), &recipient, &greeting(), &Resolver::default()).unwrap();
    let (next, inner) = passed_on((&first, 5), packed.frame());
    assert_eq!(next, second.agreement_kid());
    let (next, inner) = passed_on((&second, 6), &inner);
    assert_eq!(next, recipient.as_str());
    assert!(crate::envelope::Envelope::parse(&inner).is_ok());
}

#[test]
fn a_mediators_did_as_endpoint_is_followed_once() {
    let mediator = identity(5, "wss://mediator.example");
    let recipient = behind(mediator.did().as_str(), &[]);
    let packed = pack(&alice(), &recipient, &greeting(), &Resolver::default()).unwrap();
    assert_eq!(packed.endpoint(), Some(mediator.endpoint()));
    let (next, _) = passed_on((&mediator, 5), packed.frame());
    assert_eq!(next, recipient.as_str());

    let hidden = behind(recipient.as_str(), &[]);
    let error = pack(&alice(), &hidden, &greeting(), &Resolver::default()).unwrap_err();
    assert!(matches!(error, PackError::Route), "{error}");
}

#[test]
fn impossible_routes_are_refused() {
    let mediator = identity(5, "wss://mediator.example");
    let try_route = |keys: &[&str]| {
        pack(
            &alice(),
            &behind("wss://m.example", keys),
            &greeting(),
            &Resolver::default(),
        )
    };
    assert!(matches!(
        try_route(&[mediator.agreement_kid(); 5]),
        Err(PackError::Route)
    ));
    assert!(matches!(
        try_route(&["did:web:example.com#k"]),
        Err(PackError::Resolve {
            whose: "mediator",
            ..
        })
    ));
    assert!(matches!(
        try_route(&["no did"]),
        Err(PackError::Resolve {
            whose: "mediator",
            ..
        })
    ));
    let wrong = format!("{}#key-1", mediator.did());
    assert!(matches!(
        try_route(&[&wrong]),
        Err(PackError::Keys { got: 0, .. })
    ));
}

#[test]
fn an_endpoint_that_nobody_can_dial_is_no_endpoint() {
    let packed = pack(
        &alice(),
        &behind("carrier-pigeon:loft-7", &[]),
        &greeting(),
        &Resolver::default(),
    )
    .unwrap();
    assert_eq!((packed.endpoint(), packed.is_forwarded()), (None, false));
    assert_eq!(packed.frame(), packed.envelope());
}
