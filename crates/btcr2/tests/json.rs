//! JSON with one meaning: what is refused, and the canonical form by the cases of RFC 8785.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program")]

use beacon_btcr2::Hash32;
use beacon_btcr2::json::{self, JsonError, Limits, canonical};
use proptest::prelude::*;
use serde_json::{Map, Number, Value, json};

fn parse(text: &str) -> Result<Value, JsonError> {
    json::parse(text.as_bytes(), &Limits::DOCUMENT)
}

/// RFC 8785, appendix B: the bits of a double and its text.
const NUMBERS: [(u64, &str); 24] = [
    (0x0000_0000_0000_0000, "0"),
    (0x8000_0000_0000_0000, "0"),
    (0x0000_0000_0000_0001, "5e-324"),
    (0x8000_0000_0000_0001, "-5e-324"),
    (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
    (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
    (0x4340_0000_0000_0000, "9007199254740992"),
    (0xc340_0000_0000_0000, "-9007199254740992"),
    (0x4430_0000_0000_0000, "295147905179352830000"),
    (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
    (0x44b5_2d02_c7e1_4af6, "1e+23"),
    (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
    (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
    (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
    (0x444b_1ae4_d6e2_ef50, "1e+21"),
    (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
    (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
    (0x41b3_de43_5555_5553, "333333333.3333332"),
    (0x41b3_de43_5555_5554, "333333333.33333325"),
    (0x41b3_de43_5555_5555, "333333333.3333333"),
    (0x41b3_de43_5555_5556, "333333333.3333334"),
    (0x41b3_de43_5555_5557, "333333333.33333343"),
    (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
    (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
];

#[test]
fn numbers_are_written_and_read_as_rfc_8785_says() {
    for (bits, text) in NUMBERS {
        let double = f64::from_bits(bits);
        let value = Value::Number(Number::from_f64(double).unwrap());
        assert_eq!(canonical(&value), text, "{bits:x}");
        let read = parse(text).unwrap();
        assert_eq!(canonical(&read), text, "{bits:x}");
        let expected = if double == 0.0 { 0.0 } else { double };
        assert_eq!(
            read.as_f64().unwrap().to_bits(),
            expected.to_bits(),
            "{text}"
        );
    }
    // Whole numbers that are not exact become the double that every other reader hashes.
    assert_eq!(canonical(&json!(u64::MAX)), "18446744073709552000");
    assert_eq!(
        canonical(&parse("18446744073709551615").unwrap()),
        "18446744073709552000"
    );
    assert_eq!(
        canonical(&parse("9007199254740993").unwrap()),
        "9007199254740992"
    );
}

#[test]
fn one_number_has_one_value_however_it_is_written() {
    for text in [
        "2",
        "2.0",
        "2e0",
        "0.2e1",
        "20E-1",
        "2.000000000000000000001",
    ] {
        assert_eq!(parse(text).unwrap(), json!(2), "{text}");
    }
    for text in ["0", "-0", "0.0", "-0e5", "1e-400"] {
        assert_eq!(parse(text).unwrap(), json!(0), "{text}");
    }
    for text in ["1e309", "-1e309", "1e999999999999"] {
        let error = parse(text).unwrap_err();
        assert!(
            matches!(error, JsonError::NumberTooLarge { at: 0, .. }),
            "{text}: {error}"
        );
    }
}

#[test]
fn texts_and_literals_are_written_as_rfc_8785_says() {
    let input = r#"{
        "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]
    }"#;
    let expected = r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
    assert_eq!(canonical(&parse(input).unwrap()), expected);

    let controls: String = (0..0x20_u8)
        .map(char::from)
        .chain(['\u{7f}', '\u{2028}'])
        .collect();
    let expected = concat!(
        r#""\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f"#,
        r"\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f",
        "\u{7f}\u{2028}\""
    );
    assert_eq!(canonical(&Value::String(controls)), expected);
}

#[test]
fn members_are_sorted_by_utf_16_units() {
    // RFC 8785, section 3.2.3. In UTF-8 order the emoji would come last.
    let input = r#"{
        "\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One",
        "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis"
    }"#;
    let expected = concat!(
        r#"{"\r":"Carriage Return","1":"One",""#,
        "\u{80}",
        r#"":"Control","ö":"Latin Small Letter O With Diaeresis","#,
        r#""€":"Euro Sign","😀":"Emoji: Grinning Face",""#,
        "\u{fb33}",
        r#"":"Hebrew Letter Dalet With Dagesh"}"#
    );
    assert_eq!(canonical(&parse(input).unwrap()), expected);
}

#[test]
fn a_hash_is_that_of_the_canonical_form() {
    let got = json::hash(&parse("{\"b\" : [ ], \"a\" : 1.0}").unwrap());
    assert_eq!(
        got,
        Hash32::from_hex(&sha256_hex(b"{\"a\":1,\"b\":[]}")).unwrap()
    );
    assert_eq!(got.to_string().parse::<Hash32>().unwrap(), got);
    assert_eq!(serde_json::to_value(got).unwrap(), json!(got.to_string()));
}

fn sha256_hex(bytes: &[u8]) -> String {
    use bitcoin::hashes::{Hash as _, sha256};
    sha256::Hash::hash(bytes).to_string()
}

#[test]
fn a_member_named_twice_is_refused() {
    let error = parse(r#"{"a": {"b": 1, "c": 2, "\u0062": 1}}"#).unwrap_err();
    assert_eq!(
        error,
        JsonError::RepeatedMember {
            at: 23,
            key: "b".into()
        }
    );
    parse(r#"[{"b": 1}, {"b": 1}]"#).unwrap();
}

#[test]
fn what_is_no_json_is_refused_with_its_place() {
    for (text, at) in [
        ("", 0),
        (" ", 1),
        ("nul", 0),
        ("True", 0),
        ("NaN", 0),
        ("Infinity", 0),
        ("'a'", 0),
        ("01", 1),
        ("+1", 0),
        ("-", 1),
        (".5", 0),
        ("5.", 2),
        ("1e", 2),
        ("1e+", 3),
        ("0x10", 1),
        ("-Infinity", 1),
        ("[1,]", 3),
        ("[1 2]", 3),
        ("[", 1),
        ("[1", 2),
        ("{", 1),
        ("{\"a\"}", 4),
        ("{\"a\" 1}", 5),
        ("{\"a\":}", 5),
        ("{\"a\":1,}", 7),
        ("{a:1}", 1),
        ("{1:1}", 1),
        ("[1]]", 3),
        ("1 // comment", 2),
        ("/**/1", 0),
        ("\u{feff}1", 0),
        ("\u{a0}1", 0),
        ("\"", 1),
        ("\"a", 2),
        ("\"\t\"", 1),
        ("\"\n\"", 1),
        ("\"\\x\"", 2),
        ("\"\\u12\"", 3),
        ("\"\\u12G4\"", 3),
        ("\"\\u+123\"", 3),
        ("\"\\", 2),
    ] {
        match parse(text) {
            Err(JsonError::Syntax { at: got, .. }) => assert_eq!(got, at, "{text:?}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }
    let error = json::parse(b"[\"\xff\"]", &Limits::DOCUMENT).unwrap_err();
    assert_eq!(error, JsonError::NotUtf8 { at: 2 });
}

#[test]
fn half_a_surrogate_pair_is_refused() {
    for text in [
        r#""\ud83d""#,
        r#""\ude00""#,
        r#""\ud83d\ud83d""#,
        r#""\ud83d\u0041""#,
        r#""\ud83dA""#,
    ] {
        assert_eq!(
            parse(text),
            Err(JsonError::LoneSurrogate { at: 1 }),
            "{text}"
        );
    }
    assert_eq!(parse(r#""\ud83d\ude00""#).unwrap(), json!("😀"));
}

#[test]
fn every_limit_holds_and_the_value_at_it_is_read() {
    let limits = Limits {
        bytes: 20,
        depth: 2,
        nodes: 4,
    };
    let read = |text: &str| json::parse(text.as_bytes(), &limits);
    read("[[1]]").unwrap();
    assert_eq!(read("[[[]]]"), Err(JsonError::TooDeep { at: 2, max: 2 }));
    assert_eq!(
        read("[{\"a\":{}}]"),
        Err(JsonError::TooDeep { at: 6, max: 2 })
    );
    read("[1,2,3]").unwrap();
    assert_eq!(read("[1,2,3,4]"), Err(JsonError::TooManyNodes { max: 4 }));
    read("\"123456789012345678\"").unwrap();
    assert_eq!(
        read("\"1234567890123456789\""),
        Err(JsonError::TooLong { got: 21, max: 20 })
    );
    // Depth that is left again does not add up.
    read("[[],[],[]]").unwrap();
}

/// Any JSON value of a few levels, with numbers as the parser gives them.
fn value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        (-(1_i64 << 53)..=1 << 53).prop_map(Value::from),
        any::<f64>()
            .prop_filter("not a whole number that the parser holds as one", |n| n
                .is_finite()
                && (n.fract() != 0.0 || n.abs() > 9_007_199_254_740_992.0))
            .prop_map(Value::from),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number,
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #[test]
    fn a_value_survives_its_canonical_and_its_pretty_form(value in value()) {
        let limits = Limits { bytes: 1 << 20, ..Limits::DOCUMENT };
        let form = canonical(&value);
        prop_assert_eq!(&json::parse(form.as_bytes(), &limits).unwrap(), &value);
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let read = json::parse(pretty.as_bytes(), &limits).unwrap();
        prop_assert_eq!(canonical(&read), form);
    }

    #[test]
    fn the_parser_agrees_with_serde_json_on_what_is_json(text in "[-+0-9eE.{}\\[\\]\",:a\\\\u tfn]{0,16}") {
        // Where they differ, the text names a member twice or holds a number out of range.
        if let Ok(ours) = parse(&text) {
            let theirs: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(canonical(&ours), canonical(&theirs));
        } else if let Ok(theirs) = serde_json::from_str::<Value>(&text) {
            let refused = parse(&text).unwrap_err();
            prop_assert!(matches!(refused, JsonError::RepeatedMember { .. }), "{} {}", theirs, refused);
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = json::parse(&bytes, &Limits::DOCUMENT);
    }
}
