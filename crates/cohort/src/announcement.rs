//! The announcement map of a CAS cohort (docs/protocol.md, section "Announcement map"): which update a signal announces for
//! each DID, in the open. Whoever reads it learns which DIDs are updated: the coordinator and all members do.
//!
//! `beacon-btcr2` reads such maps as a resolver does, one entry at a time, since no other DID's entry may make a DID
//! unresolvable. A member signs a map as a whole, and this type takes no other than those that a member would sign.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use beacon_signal::{Index, Root, UpdateId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Longest DID in a map, in bytes; those of did:btcr2 have 76 at most.
pub const MAX_DID: usize = 128;

/// Most entries of a map. At [`MAX_DID`] bytes each, the map, encrypted, fits one message of 1 MiB.
pub const MAX_ENTRIES: u64 = 4_096;

/// A text that cannot stand for a DID in a map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "got {got:?}, expected a DID of at most {MAX_DID} bytes: did:, a method, a colon, and letters, digits, or . - _ : %"
)]
pub struct NotADid {
    got: String,
}

/// A DID as it stands in a map: ASCII without quotes, so that JSON writes it as it is and every reader sorts it alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AnnouncedDid(String);

impl AnnouncedDid {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// SHA-256 of the text.
    pub fn index(&self) -> Index {
        Index::of_did(&self.0)
    }
}

impl TryFrom<String> for AnnouncedDid {
    type Error = NotADid;

    fn try_from(text: String) -> Result<Self, NotADid> {
        let rest = text.strip_prefix("did:").unwrap_or_default();
        let (method, id) = rest.split_once(':').unwrap_or_default();
        let in_method = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let in_id = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte);
        let is_did = !method.is_empty()
            && !id.is_empty()
            && text.len() <= MAX_DID
            && method.bytes().all(in_method)
            && id.bytes().all(in_id);
        if is_did {
            Ok(Self(text))
        } else {
            let got = text.chars().take(40).collect();
            Err(NotADid { got })
        }
    }
}

impl FromStr for AnnouncedDid {
    type Err = NotADid;

    fn from_str(text: &str) -> Result<Self, NotADid> {
        text.to_owned().try_into()
    }
}

impl From<AnnouncedDid> for String {
    fn from(did: AnnouncedDid) -> Self {
        did.0
    }
}

impl fmt::Display for AnnouncedDid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Which update a signal announces for each DID. A DID that is not in it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Announcement(BTreeMap<AnnouncedDid, UpdateId>);

impl Announcement {
    /// The 32 signal bytes: SHA-256 of the map's canonical form (RFC 8785).
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "texts have a canonical form, and writing into memory does not fail"
    )]
    pub fn signal_bytes(&self) -> Root {
        let canonical = serde_jcs::to_vec(self).expect("a map of texts has a canonical form");
        Root(Sha256::digest(canonical).into())
    }

    /// The updates, by the index of their DIDs.
    pub fn by_index(&self) -> BTreeMap<Index, UpdateId> {
        let entries = self.0.iter();
        entries
            .map(|(did, update)| (did.index(), *update))
            .collect()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no DID is updated.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(AnnouncedDid, UpdateId)> for Announcement {
    fn from_iter<T: IntoIterator<Item = (AnnouncedDid, UpdateId)>>(entries: T) -> Self {
        Self(entries.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_a_did_is_no_key_and_what_is_not_a_hash_no_value() {
        let hash = UpdateId([7; 32]).to_string();
        let longest = format!("did:example:{}", "a".repeat(MAX_DID - 12));
        for key in ["did:btcr2:k1qqp8n0nx0", "did:x:%20._-:Z", longest.as_str()] {
            let map: Announcement = serde_json::from_value(json!({ key: hash })).unwrap();
            assert_eq!(map.by_index()[&Index::of_did(key)], UpdateId([7; 32]));
        }
        let too_long = format!("{longest}a");
        for key in [
            "",
            "did:",
            "did:x",
            "did:x:",
            "did::a",
            "did:X:a",
            "DID:x:a",
            "did:x:a b",
            "did:x:\"",
            "did:x:é",
            &too_long,
        ] {
            let map = serde_json::from_value::<Announcement>(json!({ key: hash }));
            assert!(map.is_err(), "{key:?}");
        }
        let mut not_canonical = hash[..42].to_owned();
        not_canonical.push('d');
        for value in [
            json!(""),
            json!(null),
            json!(7),
            json!(hash[..42]),
            json!(not_canonical),
        ] {
            let map = serde_json::from_value::<Announcement>(json!({ "did:x:a": value }));
            assert!(map.is_err(), "{value}");
        }
        assert!(serde_json::from_value::<Announcement>(json!([])).is_err());
    }

    /// Pinned because resolvers compute it too: `printf '{"did:example:a":"AQEB…"}' | sha256sum`.
    #[test]
    fn the_signal_bytes_are_the_hash_of_the_canonical_form() {
        let entry = |did: &str, byte| (did.parse().unwrap(), UpdateId([byte; 32]));
        let map: Announcement = [entry("did:example:b", 2), entry("did:example:a", 1)]
            .into_iter()
            .collect();
        let text = format!(
            r#"{{"did:example:a":"{}","did:example:b":"{}"}}"#,
            UpdateId([1; 32]),
            UpdateId([2; 32])
        );
        assert_eq!(map.signal_bytes().0, <[u8; 32]>::from(Sha256::digest(text)));
        let none = Announcement::default();
        assert_eq!(
            none.signal_bytes().to_hex(),
            "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
    }

    #[test]
    fn the_largest_map_fits_a_message_of_one_mebibyte() {
        let largest: Announcement = (0..MAX_ENTRIES)
            .map(|number| {
                let did = format!("did:example:{number:0>116}").parse().unwrap();
                (did, UpdateId([255; 32]))
            })
            .collect();
        assert_eq!(largest.len() as u64, MAX_ENTRIES);
        let json = serde_json::to_vec(&largest).unwrap().len();
        // The ciphertext is base64url; 64 KiB are left for the transaction and the envelope.
        assert!(json.div_ceil(3) * 4 < (1 << 20) - (64 << 10), "{json}");
    }
}
