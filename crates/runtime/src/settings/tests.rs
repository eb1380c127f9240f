use super::*;
use crate::coordinator::CoordinatorAgent;
use crate::participant::ParticipantAgent;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn flags_win_over_the_environment_then_the_file_then_defaults() {
    let (_dir, path) = file(
        "fee_rate = 7\nlabel = \"from the file\"\ndids = [\"did:a:b\"]\nauto_join = true\n\
         [limits]\nmax_dials = 3\nheartbeat_s = 4\n",
    );
    let flags = Options {
        label: Some("from a flag".to_owned()),
        limits: LimitOptions {
            heartbeat_s: Some(5),
            ..LimitOptions::default()
        },
        ..Options::default()
    };
    let environment = Options {
        label: Some("from the environment".to_owned()),
        fee_rate: Some(FeeSetting::Fixed(9)),
        ..Options::default()
    };
    let options = flags.over(&environment, &path, true).unwrap();
    let config = options.resolve().unwrap();
    assert_eq!(config.fee_rate, FeeRate::Fixed(9));
    assert_eq!(config.label.as_deref(), Some("from a flag"));
    assert_eq!(config.auto_join, Some(vec!["did:a:b".to_owned()]));
    assert_eq!(
        config.chain_poll,
        Duration::from_secs(1),
        "regtest's default"
    );
    let limits = Limits {
        max_dials: 3,
        heartbeat_s: 5,
        ..Limits::default()
    };
    assert_eq!(config.limits, limits);
    assert_eq!(config.transport.heartbeat, Duration::from_secs(5));
}

#[test]
fn fee_rates_are_numbers_or_left_to_the_chain_source() {
    let rate = |text: &str| {
        let (_dir, path) = file(text);
        let none = Options::default();
        let options = none.clone().over(&none, &path, true).unwrap();
        options.resolve().map(|config| config.fee_rate)
    };
    let auto = |blocks| FeeRate::Estimated { blocks };
    assert_eq!(rate("").unwrap(), auto(FEE_TARGET_BLOCKS));
    assert_eq!(rate("fee_rate = \"auto\"").unwrap(), auto(6));
    assert_eq!(rate("fee_target_blocks = 144").unwrap(), auto(144));
    assert_eq!(rate("fee_rate = 7").unwrap(), FeeRate::Fixed(7));
    let error = rate("fee_target_blocks = 0").unwrap_err().to_string();
    assert!(error.contains("fee_target_blocks: got 0"), "{error}");
    assert_eq!("auto".parse(), Ok(FeeSetting::Auto));
    assert!("-1".parse::<FeeSetting>().is_err());
}

#[test]
fn the_password_of_a_node_is_for_no_url_that_was_named_elsewhere() {
    let (_dir, path) = file(
        "chain = \"bitcoind\"\nchain_url = \"http://127.0.0.1:8332\"\nchain_cookie_file = \"/cookie\"\n",
    );
    let come_to = |flags: &Options, environment: &Options| {
        let options = flags.clone().over(environment, &path, true).unwrap();
        options.resolve().map(|config| config.chain)
    };
    let none = Options::default();
    let elsewhere = Options {
        chain_url: Some("http://198.51.100.1:8332".to_owned()),
        ..Options::default()
    };
    assert!(matches!(
        come_to(&none, &none),
        Ok(Some(Source::Bitcoind { .. }))
    ));
    for (flags, environment) in [(&elsewhere, &none), (&none, &elsewhere)] {
        let error = come_to(flags, environment).unwrap_err().to_string();
        assert!(
            error.starts_with("chain: got none with chain_cookie_file"),
            "{error}"
        );
    }
    let said = Options {
        chain: Some(SourceKind::Esplora),
        ..elsewhere
    };
    let url = said.chain_url.clone().unwrap();
    assert_eq!(
        come_to(&said, &none).unwrap(),
        Some(Source::Esplora { url })
    );
}

#[test]
fn a_missing_file_matters_only_where_it_was_named() {
    let path = Path::new("/nonexistent/config.toml");
    assert!(
        Options::default()
            .over(&Options::default(), path, false)
            .is_ok()
    );
    let error = Options::default()
        .over(&Options::default(), path, true)
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nonexistent/config.toml"), "{error}");
}

#[test]
fn unknown_names_and_wrong_values_are_refused_by_name() {
    for (text, wording) in [
        ("fee_rat = 7", "fee_rat"),
        ("[limits]\nmax_dial = 7", "max_dial"),
        ("fee_rate = \"much\"", "fee_rate"),
        ("network = \"moon\"", "moon"),
        (
            "listen = \"nowhere\"",
            "got \"nowhere\", expected an address",
        ),
        ("fee_rate = ", "config.toml: TOML parse error at line 1"),
    ] {
        let (_dir, path) = file(text);
        let error = Options::default()
            .over(&Options::default(), &path, true)
            .unwrap_err()
            .to_string();
        assert!(error.contains(wording), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{text}: {error}");
    }
}

#[test]
fn without_a_chain_an_agent_can_say_who_it_is_but_not_run() {
    let config = Options::default().resolve().unwrap();
    let error = config.to_run::<ParticipantAgent>().unwrap_err().to_string();
    assert!(error.starts_with("chain_url: got none"), "{error}");
    let named = Options {
        chain_url: Some("http://127.0.0.1:3002".to_owned()),
        ..Options::default()
    };
    assert!(
        named
            .resolve()
            .unwrap()
            .to_run::<ParticipantAgent>()
            .is_ok()
    );
}

#[test]
fn values_out_of_range_name_the_range() {
    let cases = [
        (
            Options {
                fee_rate: Some(FeeSetting::Fixed(0)),
                ..Options::default()
            },
            "fee_rate: got 0, expected 1 to 100000",
        ),
        (
            Options {
                limits: LimitOptions {
                    max_message_bytes: Some(1),
                    ..LimitOptions::default()
                },
                ..Options::default()
            },
            "max_message_bytes: got 1, expected 4096 to 67108864",
        ),
        (
            Options {
                network: Some(BtcNetwork::Mainnet),
                ..Options::default()
            },
            "network: got mainnet, expected a test network, or accept_mainnet_risk = true",
        ),
        (
            Options {
                chain_url: Some("ftp://example.org".to_owned()),
                ..Options::default()
            },
            "chain_url: got \"ftp://example.org\", expected http://",
        ),
        (
            Options {
                auto_join: Some(true),
                ..Options::default()
            },
            "at least one --did",
        ),
        (
            Options {
                listen: Some(([0, 0, 0, 0], 80).into()),
                ..Options::default()
            },
            "--public-url",
        ),
        (
            Options {
                listen: Some(([127, 0, 0, 1], 0).into()),
                ..Options::default()
            },
            "--public-url",
        ),
    ];
    for (options, wording) in cases {
        let error = options.resolve().unwrap_err().to_string();
        assert!(error.contains(wording), "{error}");
    }
}

#[test]
fn a_coordinator_must_be_reachable_and_a_participant_need_not_be() {
    let chain_url = Some("http://127.0.0.1:3002".to_owned());
    let options = Options {
        chain_url,
        ..Options::default()
    };
    let config = options.resolve().unwrap();
    assert!(config.clone().to_run::<ParticipantAgent>().is_ok());
    let error = config.to_run::<CoordinatorAgent>().unwrap_err().to_string();
    assert!(error.contains("--public-url"), "{error}");
}

#[test]
fn mainnet_wants_consent_and_keys_under_a_passphrase() {
    let options = Options {
        network: Some(BtcNetwork::Mainnet),
        accept_mainnet_risk: Some(true),
        ..Options::default()
    };
    let refused = Options {
        accept_mainnet_risk: Some(false),
        ..options.clone()
    };
    let error = refused.resolve().unwrap_err().to_string();
    for risk in ["one lost seed", "keeps its proofs", "nobody has audited it"] {
        assert!(error.contains(risk), "{error}");
    }
    let config = options.clone().resolve().unwrap();
    assert!(!config.unencrypted_keys(false).unwrap());
    let in_the_file = Options {
        unencrypted_keys: Some(true),
        ..options
    };
    let in_the_file = in_the_file.resolve().unwrap();
    for answer in [
        config.unencrypted_keys(true),
        in_the_file.unencrypted_keys(false),
    ] {
        let error = answer.unwrap_err().to_string();
        assert!(
            error.contains("unencrypted_keys: got true on mainnet"),
            "{error}"
        );
    }
    let elsewhere = Options::default().resolve().unwrap();
    assert!(elsewhere.unencrypted_keys(true).unwrap());
}
