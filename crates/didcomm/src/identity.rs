//! An agent's own identity: a did:peer:2 and the secret that opens what is sent to it.

use std::fmt;
use std::str::FromStr;

use affinidi_crypto::jose::key_agreement::PrivateKeyAgreement;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

use crate::did::{Did, ParseDidError};
use crate::key::PublicKey;
use crate::peer::encode_peer2;
use crate::text::excerpt;

/// The uri of an agent that nobody can dial: it is reached on the sockets that it opens.
const QUEUE: &str = "didcomm:transport/queue";
/// Longest endpoint URL, in bytes.
const MAX_URI_LEN: usize = 1024;

/// Where an agent is reached; part of its DID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// `didcomm:transport/queue`: no listening port.
    Queue,
    /// A `ws`, `wss`, `http` or `https` URL.
    Uri(Url),
}

/// Why a text is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "got endpoint {got}, expected {QUEUE} or a ws, wss, http or https url of at most {MAX_URI_LEN} bytes"
)]
pub struct ParseEndpointError {
    got: String,
}

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == QUEUE {
            return Ok(Self::Queue);
        }
        let error = || ParseEndpointError { got: excerpt(text) };
        if text.len() > MAX_URI_LEN {
            return Err(error());
        }
        let url = Url::parse(text).map_err(|_| error())?;
        let dialled = matches!(url.scheme(), "ws" | "wss" | "http" | "https");
        // Written out it may be longer than it was: what is stored must be readable again.
        if dialled && url.has_host() && url.as_str().len() <= MAX_URI_LEN {
            Ok(Self::Uri(url))
        } else {
            Err(error())
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = ParseEndpointError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue => f.write_str(QUEUE),
            // The URL type writes `ws://host/` for `ws://host`. The DID holds the text, so one spelling must be chosen:
            // the one without the empty path, which is what people configure.
            Self::Uri(url)
                if url.path() == "/" && url.query().is_none() && url.fragment().is_none() =>
            {
                f.write_str(url.as_str().trim_end_matches('/'))
            }
            Self::Uri(url) => f.write_str(url.as_str()),
        }
    }
}

/// Secrets and names of one agent. Not `Clone`: the secret should exist once.
pub struct Identity {
    did: Did,
    endpoint: Endpoint,
    agreement_kid: String,
    /// Zeroized when dropped.
    agreement: PrivateKeyAgreement,
}

impl Identity {
    /// The identity of an Ed25519 secret (seed), an X25519 secret and an endpoint, 32 bytes each.
    ///
    /// The same arguments give the same DID (protocol page, section 1). The Ed25519 secret only contributes its public
    /// key, since nothing is signed with it yet; it is not kept. Fails when the endpoint makes the DID too long.
    pub fn new(
        ed25519_secret: &[u8; 32],
        x25519_secret: &[u8; 32],
        endpoint: Endpoint,
    ) -> Result<Self, ParseDidError> {
        let verification = ed25519_dalek::SigningKey::from_bytes(ed25519_secret).verifying_key();
        let agreement =
            x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*x25519_secret));
        let did = encode_peer2(
            &PublicKey::ed25519(verification.as_bytes()),
            &PublicKey::x25519(agreement.as_bytes()),
            &endpoint.to_string(),
        )?;
        Ok(Self {
            agreement_kid: did.absolute("#key-2"),
            did,
            endpoint,
            agreement: PrivateKeyAgreement::X25519(*x25519_secret),
        })
    }

    /// The agent's DID.
    pub fn did(&self) -> &Did {
        &self.did
    }

    /// The endpoint that the DID announces.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Absolute identifier of the key-agreement key, `<did>#key-2`.
    pub fn agreement_kid(&self) -> &str {
        &self.agreement_kid
    }

    pub(crate) fn agreement(&self) -> &PrivateKeyAgreement {
        &self.agreement
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("did", &self.did)
            .finish_non_exhaustive()
    }
}

/// Finds the identity whose key-agreement key a message was encrypted to.
pub trait Keyring {
    /// The identity with the absolute key identifier `kid`.
    fn identity(&self, kid: &str) -> Option<&Identity>;
}

impl Keyring for Identity {
    fn identity(&self, kid: &str) -> Option<&Identity> {
        (self.agreement_kid == kid).then_some(self)
    }
}

impl Keyring for [Identity] {
    fn identity(&self, kid: &str) -> Option<&Identity> {
        self.iter().find(|identity| identity.agreement_kid == kid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve;

    fn secret(hex_text: &str) -> [u8; 32] {
        hex::decode(hex_text).unwrap().try_into().unwrap()
    }

    fn known() -> Identity {
        Identity::new(
            &secret("c4ce344c422ff4fa2d1e9fe74e71549a6ff1b878495b7d607ee0df6359833cae"),
            &secret("e921ae2ca846c27909c686cd31d459737ce4aba8e07878e9ff1126b3be11a8ef"),
            "ws://localhost:8765".parse().unwrap(),
        )
        .unwrap()
    }

    const SERVICE: &str = "SeyJ0IjoiZG0iLCJzIjp7InVyaSI6IndzOi8vbG9jYWxob3N0Ojg3NjUiLCJhIjpbImRpZGNvbW0vdjIiXSwiciI6W119fQ";

    #[test]
    fn known_answer_of_the_protocol_page() {
        let expected = format!(
            "did:peer:2.Vz6MksvTpc5zbWrfdZCo3NyjABQQUDqC7yksyBk7PYmCqQ74i.Ez6LSgRMYHNDvqr93XiBp5qNtF1tzQ1cm3gKaoeYukcrnEB1p.{SERVICE}"
        );
        assert_eq!(known().did().as_str(), expected);
        assert_eq!(known().agreement_kid(), format!("{expected}#key-2"));
    }

    #[test]
    fn example_did_of_the_protocol_page_is_rebuilt_from_its_keys() {
        let verification =
            PublicKey::from_multibase("z6MkgExXQ5es6n7Fie6SdyEdhYgYA5VDtzDwCJUGWGspWemo").unwrap();
        let agreement =
            PublicKey::from_multibase("z6LSePN8SKTBYuyMjpYZrYjFqoKARsnrPqYwBuRSByoLX8bP").unwrap();
        let did = encode_peer2(&verification, &agreement, "ws://localhost:8765").unwrap();
        let expected = format!(
            "did:peer:2.Vz6MkgExXQ5es6n7Fie6SdyEdhYgYA5VDtzDwCJUGWGspWemo.Ez6LSePN8SKTBYuyMjpYZrYjFqoKARsnrPqYwBuRSByoLX8bP.{SERVICE}"
        );
        assert_eq!(did.as_str(), expected);
    }

    #[test]
    fn own_did_resolves_to_own_key_and_endpoint() {
        let identity = known();
        let document = resolve(identity.did()).unwrap();
        let keys = document.key_agreement_keys();
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].kid, identity.agreement_kid());
        let service = document.didcomm_service().unwrap();
        assert_eq!(
            service.uri.parse::<Endpoint>().unwrap(),
            *identity.endpoint()
        );
        assert_eq!(
            (service.accept, service.routing_keys),
            (vec!["didcomm/v2".to_owned()], vec![])
        );
    }

    #[test]
    fn endpoints_have_one_spelling() {
        for (given, written) in [
            ("didcomm:transport/queue", "didcomm:transport/queue"),
            ("ws://localhost:8765", "ws://localhost:8765"),
            ("ws://localhost:8765/", "ws://localhost:8765"),
            ("wss://EXAMPLE.com/didcomm", "wss://example.com/didcomm"),
            ("https://example.com/?a=/", "https://example.com/?a=/"),
        ] {
            let endpoint: Endpoint = given.parse().unwrap();
            assert_eq!(endpoint.to_string(), written);
            assert_eq!(written.parse::<Endpoint>().unwrap().to_string(), written);
        }
        for given in [
            "",
            "localhost:8765",
            "ftp://x",
            "ws:",
            "didcomm:transport/other",
            "file:///etc/passwd",
        ] {
            let error = given.parse::<Endpoint>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("got endpoint {given:?}, expected")),
                "{error}"
            );
        }
        assert!(
            format!("ws://{}", "h".repeat(MAX_URI_LEN))
                .parse::<Endpoint>()
                .is_err()
        );
    }

    /// Found by fuzzing: what is escaped grows, and an endpoint that was taken could not be read again.
    #[test]
    fn an_endpoint_that_grows_beyond_the_limit_is_refused() {
        let given = |spaces| format!("ws://host/{}x", " ".repeat(spaces));
        assert!(given(300).parse::<Endpoint>().is_ok());
        assert!(given(1_000).len() <= MAX_URI_LEN);
        assert!(given(1_000).parse::<Endpoint>().is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", known());
        assert!(
            shown.contains("did:peer:2") && !shown.contains("agreement") && !shown.contains("e921"),
            "{shown}"
        );
    }
}
