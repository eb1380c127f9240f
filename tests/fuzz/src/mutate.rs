//! Mutations that know what JSON looks like, so that most of them get past the parser.

use std::fmt::Write as _;

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};

use crate::Form;

/// A mutation of `input`, at most `max` bytes long. Equal arguments give equal results.
pub fn mutate(input: &[u8], form: Form, max: usize, seed: u64) -> Vec<u8> {
    let mut dice = Dice(ChaCha20Rng::seed_from_u64(seed));
    let mutated = match form {
        Form::Json if !dice.hits(4) => mutate_json(input, &mut dice),
        _ => None,
    };
    let mut output = mutated.unwrap_or_else(|| mutate_bytes(input, &mut dice));
    output.truncate(max);
    output
}

struct Dice(ChaCha20Rng);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.0.next_u64() % (bound.max(1) as u64)).unwrap_or(0)
    }

    fn hits(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

/// One to four changes of bytes: other ones, fewer, more, repeated ones.
fn mutate_bytes(input: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut output = input.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(output.len());
        let byte = u8::try_from(dice.below(256)).unwrap_or(0);
        match dice.below(5) {
            0 if !output.is_empty() => output[at] = byte,
            1 if !output.is_empty() => output[at] ^= 1 << (byte % 8),
            2 if !output.is_empty() => {
                let end = output.len().min(at + 1 + dice.below(16));
                output.drain(at..end);
            }
            3 => output.insert(at, byte),
            _ => {
                let end = output.len().min(at + 1 + dice.below(32));
                let part = output[at..end].to_vec();
                let to = dice.below(output.len());
                output.splice(to..to, part);
            }
        }
    }
    output
}

/// A change to one node of one line's JSON, or to the lines. `None` where there is none.
fn mutate_json(input: &[u8], dice: &mut Dice) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(input).ok()?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at = dice.below(lines.len());
    if lines.len() > 1 && dice.hits(3) {
        let other = dice.below(lines.len());
        match dice.below(3) {
            0 => drop(lines.remove(at)),
            1 => lines.swap(at, other),
            _ => lines.insert(other, lines[at].clone()),
        }
        return Some(lines.join("\n").into_bytes());
    }
    let line = lines.get_mut(at)?;
    let start = line.find(['{', '['])?;
    let mut value: Value = serde_json::from_str(&line[start..]).ok()?;
    for _ in 0..=dice.below(3) {
        let mut nodes = Vec::new();
        collect(&value, &mut nodes);
        let donor = nodes[dice.below(nodes.len())].clone();
        let chosen = dice.below(nodes.len());
        change(node(&mut value, &mut { chosen })?, &donor, dice);
    }
    line.truncate(start);
    write!(line, "{value}").ok()?;
    Some(lines.join("\n").into_bytes())
}

/// All nodes, each before its children.
fn collect<'a>(value: &'a Value, nodes: &mut Vec<&'a Value>) {
    nodes.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, nodes)),
        Value::Object(members) => members.values().for_each(|item| collect(item, nodes)),
        _ => {}
    }
}

/// The node that [`collect`] puts at this place.
fn node<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| node(item, left)),
        Value::Object(members) => members.values_mut().find_map(|item| node(item, left)),
        _ => None,
    }
}

fn change(value: &mut Value, donor: &Value, dice: &mut Dice) {
    if dice.hits(4) {
        *value = donor.clone();
        return;
    }
    if dice.hits(6) {
        *value = interesting(dice);
        return;
    }
    match value {
        Value::Object(members) => {
            let names: Vec<String> = members.keys().cloned().collect();
            if let Some(name) = names.get(dice.below(names.len())) {
                if dice.hits(2) {
                    members.remove(name);
                } else {
                    members.insert(name.clone(), donor.clone());
                }
            }
        }
        Value::Array(items) if items.is_empty() || dice.hits(3) => items.push(donor.clone()),
        Value::Array(items) => {
            let (at, other) = (dice.below(items.len()), dice.below(items.len()));
            match dice.below(3) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => items.swap(at, other),
            }
        }
        Value::String(text) => change_text(text, dice),
        Value::Number(number) => {
            let number = number.as_u64().unwrap_or(0);
            *value = match dice.below(4) {
                0 => number.wrapping_add(1).into(),
                1 => number.wrapping_sub(1).into(),
                2 => number.wrapping_mul(2).into(),
                _ => (number ^ 1 << dice.below(64)).into(),
            };
        }
        Value::Bool(flag) => *flag = !*flag,
        Value::Null => *value = donor.clone(),
    }
}

/// Hexadecimal digits mostly stay such, so that what was a key stays nearly one.
fn change_text(text: &mut String, dice: &mut Dice) {
    let mut characters: Vec<char> = text.chars().collect();
    let at = dice.below(characters.len());
    let digit = char::from(b"0123456789abcdef"[dice.below(16)]);
    let odd = [
        '\0',
        '"',
        'Z',
        '_',
        '=',
        ' ',
        ':',
        '.',
        '#',
        'é',
        '\u{10ffff}',
    ][dice.below(11)];
    match dice.below(6) {
        0..=2 if !characters.is_empty() => characters[at] = digit,
        3 if !characters.is_empty() => drop(characters.remove(at)),
        4 => characters.insert(at, odd),
        _ => characters.insert(at, digit),
    }
    *text = characters.into_iter().collect();
}

fn interesting(dice: &mut Dice) -> Value {
    match dice.below(14) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(0),
        3 => json!(-1),
        4 => json!(u64::MAX),
        5 => json!(1_u64 << 53),
        6 => json!(u32::MAX),
        7 => json!(1.5),
        8 => json!(""),
        9 => json!([]),
        10 => json!({}),
        11 => json!("00".repeat(32)),
        12 => json!("ff".repeat(33)),
        _ => json!("x".repeat(1 << dice.below(13))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_follow_from_the_seed_and_most_stay_json() {
        let input = br#"a{"one": ["00ff", 2, {"three": null}], "four": "did:example:x"}"#;
        let mut json = 0;
        for seed in 0..200 {
            let mutated = mutate(input, Form::Json, 4_096, seed);
            assert_eq!(mutated, mutate(input, Form::Json, 4_096, seed), "{seed}");
            let value = mutated.get(1..).map(serde_json::from_slice::<Value>);
            json += usize::from(matches!(value, Some(Ok(_))));
        }
        assert!(json > 120, "{json} of 200 are JSON");
    }

    #[test]
    fn nothing_is_too_short_to_be_mutated() {
        for seed in 0..200 {
            for input in [&b""[..], b"{", b"{}", b"[]\n{}", b"\xff"] {
                for form in [Form::Bytes, Form::Json] {
                    assert!(mutate(input, form, 64, seed).len() <= 64);
                }
            }
        }
    }
}
