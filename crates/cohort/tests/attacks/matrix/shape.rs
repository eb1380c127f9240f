//! Mutations of a body's form: every member, and every element of every list, missing, added, of another type, of another
//! length, written otherwise, or far too large.

use serde_json::{Map, Value, json};

use super::Mutation;

/// A body with one thing wrong.
pub(super) struct Mutant {
    pub mutation: Mutation,
    /// Where, with `N` for any number.
    pub place: String,
    /// What was done there.
    pub what: &'static str,
    pub body: Value,
}

/// How a value is written.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Uuid,
    /// 32 bytes, base64url.
    Hash,
    /// A compressed point, 33 bytes of hex.
    Point,
    /// A scalar, 32 bytes of hex.
    Scalar,
    /// Other bytes of a fixed length, hex.
    Bytes,
    /// Bytes of any length, hex.
    Script,
    /// A transaction, hex.
    Transaction,
    /// One of some words.
    Word,
    /// Free text.
    Text,
    Address,
    Number,
    Flag,
    List,
    Object,
}

/// By the name of the member: a new member needs its line here.
fn form(place: &str, value: &Value) -> Form {
    let mut names = place.rsplit('/');
    let name = names.find(|name| *name != "N").unwrap_or_default();
    match value {
        Value::Array(_) => Form::List,
        Value::Object(_) => Form::Object,
        Value::Number(_) => Form::Number,
        Value::Bool(_) => Form::Flag,
        Value::Null => panic!("{place} is null: give it a value"),
        Value::String(_) if place == "/terms/proof_of_possession" => Form::Word,
        Value::String(_) => match name {
            "cohort_id" | "session_id" | "succeeds" => Form::Uuid,
            "terms_hash" | "ack_hash" | "indexes" | "index" | "data" | "value" | "id"
            | "collapsed" | "hashes" => Form::Hash,
            "participant_pk"
            | "cohort_keys"
            | "nonce_contribution"
            | "nonce_contributions"
            | "aggregated_nonce"
            | "aggregated_nonces" => Form::Point,
            "partial_signature" | "partial_signatures" => Form::Scalar,
            "proof_of_possession" | "signature" | "txid" | "replaces" | "block_hash" => Form::Bytes,
            "script" => Form::Script,
            "pending_tx" | "transaction" => Form::Transaction,
            "label" | "comment" | "code" | "did" | "sidecar" | "method" | "psbt" => Form::Text,
            "beacon_address" => Form::Address,
            "networks" | "btc_network" | "beacon_types" | "beacon_type" | "kind" | "next"
            | "status" | "flow" | "admission" => Form::Word,
            other => panic!("{other:?} at {place} has no form in this table: add it"),
        },
    }
}

/// Every mutation of a body's form.
pub(super) fn mutants(body: &Value) -> Vec<Mutant> {
    let mut found = Vec::new();
    visit(body, body, "", &mut found);
    found
}

fn visit(body: &Value, value: &Value, place: &str, found: &mut Vec<Mutant>) {
    let mut add = |mutation, what, changed: Value| {
        let mut mutated = body.clone();
        *mutated.pointer_mut(place).unwrap() = changed;
        found.push(Mutant {
            mutation,
            place: general(place),
            what,
            body: mutated,
        });
    };
    for (what, other) in other_types(value) {
        add(Mutation::WrongType, what, other);
    }
    match value {
        Value::Object(members) => {
            let mut more = members.clone();
            more.insert("from_a_later_version".to_owned(), json!({"a": [1]}));
            add(Mutation::Extra, "unknown member", more.into());
            for name in members.keys() {
                let mut less = members.clone();
                less.remove(name);
                found.push(Mutant {
                    mutation: Mutation::Missing,
                    place: general(&format!("{place}/{name}")),
                    what: "missing",
                    body: replaced(body, place, less),
                });
            }
            for (name, member) in members {
                visit(body, member, &format!("{place}/{name}"), found);
            }
        }
        Value::Array(items) => {
            add(Mutation::WrongLength, "empty", json!([]));
            let last = items.last().cloned().into_iter();
            let longer: Vec<_> = items.iter().cloned().chain(last).collect();
            add(Mutation::Extra, "last element twice", longer.into());
            let many = items.iter().cycle().take(10_000).cloned();
            add(
                Mutation::TooLarge,
                "10 000 elements",
                many.collect::<Vec<_>>().into(),
            );
            if let Some(first) = items.first() {
                visit(body, first, &format!("{place}/0"), found);
            }
        }
        Value::String(text) => {
            let form = form(&general(place), value);
            add(
                Mutation::TooLarge,
                "100 000 characters",
                json!(text.chars().cycle().take(100_000).collect::<String>()),
            );
            for (what, other) in lengths(form, text) {
                add(Mutation::WrongLength, what, json!(other));
            }
            for (what, other) in encodings(form, text) {
                add(Mutation::WrongEncoding, what, json!(other));
            }
        }
        Value::Number(number) => {
            add(Mutation::TooLarge, "largest number", json!(u64::MAX));
            add(
                Mutation::WrongEncoding,
                "as text",
                json!(number.to_string()),
            );
            add(Mutation::WrongEncoding, "negative", json!(-1));
            add(
                Mutation::WrongEncoding,
                "with a fraction",
                json!(number.as_f64().unwrap() + 0.5),
            );
        }
        Value::Bool(flag) => add(Mutation::WrongEncoding, "as text", json!(flag.to_string())),
        Value::Null => {}
    }
}

fn replaced(body: &Value, place: &str, members: Map<String, Value>) -> Value {
    let mut mutated = body.clone();
    *mutated.pointer_mut(place).unwrap() = members.into();
    mutated
}

fn general(place: &str) -> String {
    let parts = place.split('/').map(|part| {
        let number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if number { "N" } else { part }
    });
    parts.collect::<Vec<_>>().join("/")
}

fn other_types(value: &Value) -> Vec<(&'static str, Value)> {
    let all = [
        ("null", json!(null)),
        ("true", json!(true)),
        ("7", json!(7)),
        ("1.5", json!(1.5)),
        ("a text", json!("x")),
        ("a list", json!([])),
        ("a list of a text", json!(["x"])),
        ("an object", json!({})),
    ];
    let kind = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    };
    let own = kind(value);
    all.into_iter()
        .filter(|(_, other)| kind(other) != own)
        .collect()
}

fn lengths(form: Form, text: &str) -> Vec<(&'static str, String)> {
    let unit = match form {
        Form::Word | Form::Text | Form::Number | Form::Flag | Form::List | Form::Object => {
            return Vec::new();
        }
        Form::Uuid | Form::Hash | Form::Address => 1,
        Form::Point | Form::Scalar | Form::Bytes | Form::Script | Form::Transaction => 2,
    };
    let mut longer = text.to_owned();
    longer.push_str(&text[..unit]);
    vec![
        ("empty", String::new()),
        ("one unit less", text[..text.len() - unit].to_owned()),
        ("half a unit less", text[..text.len() - 1].to_owned()),
        ("one unit more", longer),
    ]
}

fn encodings(form: Form, text: &str) -> Vec<(&'static str, String)> {
    let around = |text: &str| format!(" {text}");
    let digit = |at: usize, with: &str| {
        let mut text = text.to_owned();
        text.replace_range(at..=at, with);
        text
    };
    let mut all = vec![
        ("after a space", around(text)),
        ("with a NUL", format!("{text}\0")),
    ];
    match form {
        Form::Text => all.clear(),
        Form::Number | Form::Flag | Form::List | Form::Object => {}
        Form::Uuid => all.extend([
            ("uppercase", text.to_uppercase()),
            ("without hyphens", text.replace('-', "")),
            ("in braces", format!("{{{text}}}")),
            ("as URN", format!("urn:uuid:{text}")),
            ("no digit", digit(0, "g")),
        ]),
        Form::Hash => {
            let trailing = match text.as_bytes().last() {
                // 43 digits are 258 bits: the last digit's two lowest bits must be zero.
                Some(b'A') => "B",
                _ => "_",
            };
            all.extend([
                ("padded", format!("{text}=")),
                ("standard alphabet", digit(0, "+")),
                ("bits after the end", digit(text.len() - 1, trailing)),
                ("hex", "ab".repeat(32)),
            ]);
        }
        Form::Point | Form::Scalar | Form::Bytes | Form::Script | Form::Transaction => {
            all.extend([
                ("uppercase", text.to_uppercase()),
                ("with 0x", format!("0x{text}")),
                ("no digit", digit(0, "g")),
                (
                    "base64",
                    "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=".to_owned(),
                ),
            ]);
            match form {
                Form::Point => all.extend([
                    ("off the curve", format!("02{}", "ff".repeat(32))),
                    ("prefix of another form", digit(1, "4")),
                    ("infinity", "00".repeat(33)),
                ]),
                Form::Scalar => all.push(("not below the order", "ff".repeat(32))),
                _ => {}
            }
        }
        Form::Word => all.extend([
            ("other case", swapped(text)),
            ("unknown word", "no-such-word".to_owned()),
        ]),
        Form::Address => all.extend([
            ("uppercase", text.to_uppercase()),
            ("another network", text.replacen("bcrt", "bc", 1)),
        ]),
    }
    all
}

fn swapped(text: &str) -> String {
    let swap = |letter: char| {
        if letter.is_lowercase() {
            letter.to_ascii_uppercase()
        } else {
            letter.to_ascii_lowercase()
        }
    };
    text.chars().map(swap).collect()
}
