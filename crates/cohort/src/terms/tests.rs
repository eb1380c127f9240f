use super::*;

#[test]
fn the_hash_covers_the_object_as_sent_in_canonical_form() {
    let terms = Terms::new(BtcNetwork::Regtest, 2, Timestamp(1_900_000_000));
    let value = terms.to_value().unwrap();
    let (parsed, hash) = Terms::parse(&value).unwrap();
    assert_eq!(parsed, terms);
    let reordered: Value = serde_json::from_str(
        r#"{"max_members":2,"min_members":2,"version":1,"advert_expires":1900000000,
            "btc_network":"regtest","beacon_type":"SMTBeacon"}"#,
    )
    .unwrap();
    let (defaulted, other_hash) = Terms::parse(&reordered).unwrap();
    assert_eq!(defaulted, terms, "absent members have their defaults");
    assert_ne!(other_hash, hash, "but the hash is over what was sent");
    // sha256 of {"advert_expires":1900000000,"beacon_type":"SMTBeacon","btc_network":"regtest",
    // "max_members":2,"min_members":2,"version":1}, computed with Python's hashlib.
    assert_eq!(
        hex::encode(other_hash.0),
        "18f1b59190d9c3e09ef1c8e271e2dcc8e5dc53d76b2b6d5390faa747fa269c44"
    );
}

#[test]
fn what_cannot_be_agreed_to_is_refused_by_name() {
    let base = Terms::new(BtcNetwork::Regtest, 2, Timestamp(1))
        .to_value()
        .unwrap();
    for (member, value, wording) in [
        ("version", Value::from(2), "version: got 2"),
        ("beacon_type", Value::from("OddBeacon"), "OddBeacon"),
        ("script_tree", Value::from("00"), "ScriptTree"),
        (
            "close_script",
            Value::from("51"),
            "close_script is not supported",
        ),
        (
            "close_script",
            Value::from(format!("6a20{}", "00".repeat(32))),
            "close_script is not supported",
        ),
        ("close_script", Value::from("zz"), "terms cannot be read"),
        ("min_members", Value::from(3), "min_members: got 3"),
        ("max_members", Value::from(0), "max_members: got 0"),
        ("trigger_updates", Value::from(0), "trigger_updates"),
        ("response_deadline_s", Value::from(0), "response_deadline_s"),
        ("max_fee_rate_sat_vb", Value::from(0), "max_fee_rate_sat_vb"),
        ("patience_s", Value::from(0), "patience_s: got 0"),
        ("patience_s", Value::from(1_209_601), "patience_s"),
        ("proof_of_possession", Value::from("none"), "none"),
        ("surprise", Value::from(1), "surprise"),
    ] {
        let mut terms = base.clone();
        terms[member] = value;
        let error = Terms::parse(&terms).unwrap_err().to_string();
        assert!(error.contains(wording), "{member}: {error}");
    }
}

#[test]
fn a_map_of_all_that_a_cas_cohort_may_announce_fits_one_message() {
    let mut terms = Terms::new(BtcNetwork::Regtest, 1_000, Timestamp(1));
    terms.beacon_type = BeaconType::Cas;
    let error = terms.to_value().unwrap_err().to_string();
    assert!(
        error.starts_with("max_indexes_per_member: got 16"),
        "{error}"
    );
    terms.max_indexes_per_member = 4;
    assert!(Terms::parse(&terms.to_value().unwrap()).is_ok());
    terms.max_indexes_per_member = 5;
    assert!(terms.to_value().is_err());
    terms.beacon_type = BeaconType::Smt;
    assert!(terms.to_value().is_ok());
}

/// Terms of a cohort that does not care are readable for members of versions that know no patience.
#[test]
fn patience_is_written_only_where_it_is_not_the_default() {
    let mut terms = Terms::new(BtcNetwork::Regtest, 2, Timestamp(1));
    assert_eq!(terms.patience_s, 3_600);
    assert!(terms.to_value().unwrap().get("patience_s").is_none());
    terms.patience_s = 60;
    let (read, _) = Terms::parse(&terms.to_value().unwrap()).unwrap();
    assert_eq!(read.patience_s, 60);
}

#[test]
fn a_close_script_is_of_a_kind_that_addresses_pay() {
    let mut terms = Terms::new(BtcNetwork::Regtest, 2, Timestamp(1));
    let hash = |prefix: &str, bytes: usize, suffix: &str| {
        ScriptBuf::from_hex(&format!("{prefix}{}{suffix}", "07".repeat(bytes))).unwrap()
    };
    for script in [
        hash("5120", 32, ""),
        hash("0014", 20, ""),
        hash("0020", 32, ""),
        hash("76a914", 20, "88ac"),
        hash("a914", 20, "87"),
    ] {
        terms.close_script = Some(script.clone());
        let value = terms.to_value().unwrap();
        assert_eq!(value["close_script"], script.to_hex_string());
        assert_eq!(Terms::parse(&value).unwrap().0, terms);
    }
    terms.close_script = Some(hash("5220", 32, ""));
    assert!(terms.to_value().is_err(), "a witness version of the future");
}

#[test]
fn deadlines_grow_with_the_cohort() {
    let mut terms = Terms::new(BtcNetwork::Regtest, 2, Timestamp(1));
    let deadlines = [1, 2, 100, 1_000].map(|members| terms.phase_deadline_s(members));
    assert_eq!(deadlines, [61, 62, 120, 660], "of 60 s, rounded up");
    assert_eq!(terms.seat_deadline_s(), 600);
    terms.response_deadline_s = 86_400;
    assert_eq!(terms.phase_deadline_s(1_000), 950_400);
    assert_eq!(terms.seat_deadline_s(), 864_000);
}

#[test]
fn older_names_are_read() {
    assert_eq!("bitcoin".parse(), Ok(BtcNetwork::Mainnet));
    let cas: BeaconType = serde_json::from_value("CIDAggregateBeacon".into()).unwrap();
    assert_eq!(cas, BeaconType::Cas);
}
