//! out-of-band 2.0: an agent's DID in a link or a QR code.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;
use uuid::Uuid;

use crate::did::Did;
use crate::document::DIDCOMM_V2;
use crate::message::MAX_ID_LEN;
use crate::text::{brief, excerpt};

/// Type of an invitation.
pub const INVITATION: &str = "https://didcomm.org/out-of-band/2.0/invitation";

/// Longest link that is read, in bytes; a DID of the greatest length fits.
const MAX_LINK_LEN: usize = 16 * 1024;
/// Longest goal or goal code, in bytes.
const MAX_GOAL_LEN: usize = 1024;
/// Name of the query parameter.
const PARAMETER: &str = "_oob";
/// Written without padding; links of others may have it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An invitation to talk to a DID. Anybody can write one: it proves nothing about who did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Id of the invitation, the parent thread of what it leads to.
    pub id: String,
    /// Whom to talk to.
    pub from: Did,
    /// What for, as a code.
    pub goal_code: Option<String>,
    /// What for, in words.
    pub goal: Option<String>,
}

/// Why a link is not an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvitationError {
    /// No URL with the parameter `_oob`, or too long.
    #[error("got {got}, expected a url of at most {MAX_LINK_LEN} bytes with ?_oob=")]
    Link {
        /// The start of the link.
        got: String,
    },
    /// The parameter does not hold an invitation.
    #[error("_oob does not hold an invitation: {detail}")]
    Content {
        /// What is wrong.
        detail: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    from: Did,
    #[serde(default)]
    body: Body,
}

#[derive(Default, Serialize, Deserialize)]
struct Body {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    goal_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    goal: Option<String>,
    #[serde(default)]
    accept: Vec<String>,
}

impl Invitation {
    /// An invitation to talk to `from`.
    pub fn new(id: Uuid, from: Did) -> Self {
        Self {
            id: id.to_string(),
            from,
            goal_code: None,
            goal: None,
        }
    }

    /// The same with what it is for, as a code and in words.
    #[must_use]
    pub fn with_goal(mut self, code: &str, goal: &str) -> Self {
        self.goal_code = Some(code.to_owned());
        self.goal = Some(goal.to_owned());
        self
    }

    /// A link to a page of the inviter's that also carries the invitation.
    pub fn to_url(&self, page: &Url) -> Url {
        let mut url = page.clone();
        url.query_pairs_mut().append_pair(PARAMETER, &self.encode());
        url
    }

    /// A link that agents open themselves: `didcomm://?_oob=…`.
    pub fn to_deep_link(&self) -> String {
        format!("didcomm://?{PARAMETER}={}", self.encode())
    }

    /// Reads either kind of link.
    pub fn from_link(link: &str) -> Result<Self, InvitationError> {
        let not_a_link = || InvitationError::Link { got: excerpt(link) };
        let link = link.trim();
        if link.len() > MAX_LINK_LEN {
            return Err(not_a_link());
        }
        let url = Url::parse(link).map_err(|_| not_a_link())?;
        let (_, encoded) = url
            .query_pairs()
            .find(|(name, _)| name == PARAMETER)
            .ok_or_else(not_a_link)?;
        let content = |detail: String| InvitationError::Content { detail };
        let bytes = BASE64
            .decode(encoded.as_bytes())
            .map_err(|error| content(error.to_string()))?;
        let wire: Wire = serde_json::from_slice(&bytes).map_err(|error| content(brief(&error)))?;
        if wire.kind != INVITATION {
            return Err(content(format!(
                "type {}, expected {INVITATION}",
                excerpt(&wire.kind)
            )));
        }
        let goals = [&wire.body.goal_code, &wire.body.goal];
        let long = goals
            .into_iter()
            .flatten()
            .any(|goal| goal.len() > MAX_GOAL_LEN);
        if long || !(1..=MAX_ID_LEN).contains(&wire.id.len()) {
            return Err(content("id, goal or goal_code is too long".to_owned()));
        }
        if !wire.body.accept.is_empty()
            && !wire.body.accept.iter().any(|profile| profile == DIDCOMM_V2)
        {
            return Err(content(format!("accept does not contain {DIDCOMM_V2}")));
        }
        Ok(Self {
            id: wire.id,
            from: wire.from,
            goal_code: wire.body.goal_code,
            goal: wire.body.goal,
        })
    }

    fn encode(&self) -> String {
        let wire = Wire {
            kind: INVITATION.to_owned(),
            id: self.id.clone(),
            from: self.from.clone(),
            body: Body {
                goal_code: self.goal_code.clone(),
                goal: self.goal.clone(),
                accept: vec![DIDCOMM_V2.to_owned()],
            },
        };
        // Strings always serialize.
        BASE64.encode(serde_json::to_vec(&wire).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invitation() -> Invitation {
        Invitation::new(Uuid::nil(), "did:example:coordinator".parse().unwrap())
            .with_goal("cohort.join", "join a beacon cohort")
    }

    #[test]
    fn both_links_read_back() {
        let url = invitation().to_url(&"https://example.com/join?lang=en".parse().unwrap());
        assert!(
            url.as_str()
                .starts_with("https://example.com/join?lang=en&_oob=ey"),
            "{url}"
        );
        assert_eq!(Invitation::from_link(url.as_str()), Ok(invitation()));
        let link = invitation().to_deep_link();
        assert!(link.starts_with("didcomm://?_oob=ey"), "{link}");
        assert_eq!(Invitation::from_link(&link), Ok(invitation()));
        assert_eq!(
            Invitation::from_link(&format!("{link}=")),
            Ok(invitation()),
            "padding is tolerated"
        );
    }

    #[test]
    fn unknown_members_and_empty_goals_are_accepted() {
        let json = r#"{"type":"https://didcomm.org/out-of-band/2.0/invitation","id":"69212a3a-d068-4f9d-a2dd-4741bca89af3","from":"did:example:alice","body":{"goal_code":"","goal":""},"attachments":[{"id":"request-0"}]}"#;
        let read = Invitation::from_link(&format!(
            "https://example.com/path?_oob={}",
            BASE64.encode(json)
        ))
        .unwrap();
        assert_eq!(
            (read.id.as_str(), read.from.as_str()),
            ("69212a3a-d068-4f9d-a2dd-4741bca89af3", "did:example:alice")
        );
    }

    #[test]
    fn other_links_are_refused() {
        for link in [
            "",
            "did:example:x",
            "https://example.com",
            "https://example.com?oob=e30",
            &"x".repeat(20_000),
        ] {
            assert!(
                matches!(
                    Invitation::from_link(link),
                    Err(InvitationError::Link { .. })
                ),
                "{link:?}"
            );
        }
        let with =
            |json: &str| Invitation::from_link(&format!("didcomm://?_oob={}", BASE64.encode(json)));
        for json in [
            "{}",
            "no json",
            r#"{"type":"https://didcomm.org/out-of-band/1.0/invitation","id":"1","from":"did:example:a"}"#,
            r#"{"type":"https://didcomm.org/out-of-band/2.0/invitation","id":"","from":"did:example:a"}"#,
            r#"{"type":"https://didcomm.org/out-of-band/2.0/invitation","id":"1","from":"alice"}"#,
            r#"{"type":"https://didcomm.org/out-of-band/2.0/invitation","id":"1","from":"did:example:a","body":{"accept":["didcomm/v1"]}}"#,
        ] {
            assert!(
                matches!(with(json), Err(InvitationError::Content { .. })),
                "{json} was accepted"
            );
        }
        assert!(Invitation::from_link("didcomm://?_oob=***").is_err());
    }
}
