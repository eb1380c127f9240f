//! The script tree that terms may add to the beacon address: who can spend without all members' signatures.

use std::fmt;
use std::num::NonZeroU16;

use bitcoin::XOnlyPublicKey;
use serde::{Deserialize, Serialize};

use super::TermsError;

/// Most keys of a fallback leaf. Tapscript allows 1,000 elements on the stack: one signature, or an empty element, for each
/// member, and the key that is pushed above them.
pub const MAX_FALLBACK_KEYS: u64 = 999;

/// Ways to spend from the beacon besides the signature of all members. Each stands in the terms, and so in the address; none
/// is there unless the terms say so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptTree {
    /// One key that spends alone, after some time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// Some of the members, at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

/// The recovery leaf: the holder of a key spends alone what has waited long enough. Meant for who paid the deposit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// The key, x-only: 32 bytes of hex.
    pub key: XOnlyPublicKey,
    /// Blocks that an output must be old (BIP112): 1 to 65,535. Every signal sends the change back and starts anew.
    pub blocks: NonZeroU16,
}

/// The fallback leaf: so many members, whoever they are, spend without the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// Members that are needed: 1 (any member alone) to `min_members`, so that there are as many in every cohort.
    pub threshold: NonZeroU16,
}

impl ScriptTree {
    /// What it means for every member, a sentence for each leaf: what must be said before anybody joins.
    pub fn consequences(&self) -> Vec<String> {
        let recovery = self.recovery.as_ref().map(ToString::to_string);
        let fallback = self.fallback.as_ref().map(ToString::to_string);
        recovery.into_iter().chain(fallback).collect()
    }

    /// Whether both the tree and the number of members make sense.
    pub(super) fn check(&self, min_members: u64, max_members: u64) -> Result<(), TermsError> {
        if self.recovery.is_none() && self.fallback.is_none() {
            return Err(TermsError::NoLeaf);
        }
        let Some(fallback) = &self.fallback else {
            return Ok(());
        };
        if max_members > MAX_FALLBACK_KEYS {
            return Err(TermsError::OutOfRange {
                member: "max_members",
                got: max_members,
                expected: "at most 999 with a fallback leaf",
            });
        }
        let threshold = u64::from(fallback.threshold.get());
        if threshold > min_members {
            return Err(TermsError::OutOfRange {
                member: "script_tree.fallback.threshold",
                got: threshold,
                expected: "1 to min_members",
            });
        }
        Ok(())
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, blocks } = self;
        let blocks = match blocks.get() {
            1 => "1 block".to_owned(),
            many => format!("{many} blocks"),
        };
        write!(
            f,
            "whoever holds the key {key} can, {blocks} after a deposit or a signal, spend all of the beacon's money alone and \
             announce through it what it likes: every member's DID can become unresolvable"
        )
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match self.threshold.get() {
            1 => "any member alone can, at any time,".to_owned(),
            many => format!("any {many} of the members can, at any time,"),
        };
        write!(
            f,
            "{who} spend all of the beacon's money without the others and announce through it what they like: every other \
             member's DID can become unresolvable"
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::ids::Timestamp;
    use crate::terms::{BtcNetwork, Terms};

    const KEY: &str = "4f355bdcb7cc0af728ef3cceb9615d90684bb5b2ca5f859ab0f0b704075871aa";

    fn with(tree: Value, min: u64, max: u64) -> Result<Terms, String> {
        let terms = Terms::new(BtcNetwork::Regtest, max, Timestamp(1));
        let mut value = terms.to_value().unwrap();
        value["min_members"] = min.into();
        value["script_tree"] = tree;
        let parsed = Terms::parse(&value).map_err(|error| error.to_string())?.0;
        assert_eq!(parsed.to_value().unwrap(), value, "written as it was read");
        Ok(parsed)
    }

    #[test]
    fn trees_of_one_leaf_or_two_are_read() {
        let recovery = json!({ "key": KEY, "blocks": 144 });
        for tree in [
            json!({ "recovery": recovery }),
            json!({ "fallback": { "threshold": 2 } }),
            json!({ "recovery": recovery, "fallback": { "threshold": 1 } }),
        ] {
            with(tree, 2, 3).unwrap();
        }
        for blocks in [1, 65_535] {
            with(
                json!({ "recovery": { "key": KEY, "blocks": blocks } }),
                2,
                2,
            )
            .unwrap();
        }
        with(json!({ "fallback": { "threshold": 999 } }), 999, 999).unwrap();
        // A recovery leaf has one key, whatever the number of members.
        with(json!({ "recovery": recovery }), 2, 1_000).unwrap();
    }

    #[test]
    fn what_makes_no_tree_is_refused_by_name() {
        let recovery =
            |key: &str, blocks: u64| json!({ "recovery": { "key": key, "blocks": blocks } });
        let fallback = |threshold: i64| json!({ "fallback": { "threshold": threshold } });
        let off_the_curve = "ff".repeat(32);
        for (tree, min, max, wording) in [
            (json!({}), 2, 2, "got no leaf"),
            (json!("00"), 2, 2, "expected struct ScriptTree"),
            (json!({ "owner": 1 }), 2, 2, "unknown field `owner`"),
            (json!({ "recovery": { "key": KEY } }), 2, 2, "blocks"),
            (
                json!({ "fallback": { "threshold": 1, "k": 1 } }),
                2,
                2,
                "unknown field `k`",
            ),
            (recovery(KEY, 0), 2, 2, "0"),
            (recovery(KEY, 65_536), 2, 2, "65536"),
            (recovery(&KEY[2..], 1), 2, 2, "terms cannot be read"),
            (recovery(&off_the_curve, 1), 2, 2, "terms cannot be read"),
            (fallback(0), 2, 2, "0"),
            (fallback(-1), 2, 2, "-1"),
            (
                fallback(3),
                2,
                9,
                "script_tree.fallback.threshold: got 3, expected 1 to min_members",
            ),
            (
                fallback(1),
                2,
                1_000,
                "max_members: got 1000, expected at most 999",
            ),
        ] {
            let error = with(tree, min, max).unwrap_err();
            assert!(error.contains(wording), "{wording}: {error}");
        }
    }

    #[test]
    fn the_consequences_are_said_in_words() {
        let tree = |tree: Value| {
            with(tree, 2, 5)
                .unwrap()
                .script_tree
                .unwrap()
                .consequences()
        };
        let said = tree(json!({
            "recovery": { "key": KEY, "blocks": 144 }, "fallback": { "threshold": 2 },
        }));
        assert_eq!(said.len(), 2);
        assert!(said[0].starts_with(&format!(
            "whoever holds the key {KEY} can, 144 blocks after"
        )));
        assert!(said[1].starts_with("any 2 of the members can"));
        assert!(said.iter().all(|said| said.contains("unresolvable")));
        let said = tree(json!({ "fallback": { "threshold": 1 } }));
        assert!(said[0].starts_with("any member alone can"), "{said:?}");
    }
}
