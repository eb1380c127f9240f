//! What can be said about an encrypted envelope before it is opened.

use std::borrow::Cow;
use std::fmt::Display;

use affinidi_messaging_didcomm::jwe::envelope::{
    ALG_ANONCRYPT, ALG_AUTHCRYPT, Jwe, ProtectedHeader,
};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use crate::did::{MAX_DID_LEN, MAX_FRAGMENT_LEN};
use crate::document::x25519_of_jwk;
use crate::key::is_small_order;
use crate::refusal::Refusal;
use crate::text::{brief, excerpt};

/// Media type of an encrypted message; also the older spelling that Python `didcomm-messaging` sends.
const ENCRYPTED_TYPS: [&str; 2] = [
    "application/didcomm-encrypted+json",
    "application/didcomm+encrypted",
];
/// The only content encryption that is opened.
const ENC: &str = "A256CBC-HS512";
/// Most recipient blocks of an envelope, and most keys that one is made for.
pub(crate) const MAX_RECIPIENTS: usize = 16;

/// An authcrypt envelope that has everything needed to try to open it.
pub(crate) struct Envelope<'a> {
    /// The whole envelope.
    pub(crate) json: &'a str,
    /// Absolute identifier of the key that claims to have sent it.
    pub(crate) skid: String,
    /// Absolute identifiers of the keys it is for.
    pub(crate) kids: Vec<String>,
}

impl<'a> Envelope<'a> {
    /// Reads an envelope and refuses everything but authcrypt with the one suite that we speak.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        if !is_object(bytes) {
            return Err(Refusal::Malformed {
                detail: "not a JSON object".to_owned(),
            });
        }
        let malformed = |error: &dyn Display| Refusal::Malformed {
            detail: brief(error),
        };
        let json = std::str::from_utf8(bytes).map_err(|error| malformed(&error))?;
        refuse_unencrypted(json)?;
        // The envelope library parses the same text with the same types again, so that both see the same members.
        let jwe: Jwe = serde_json::from_str(json).map_err(|error| malformed(&error))?;
        let header =
            ProtectedHeader::from_base64url(&jwe.protected).map_err(|error| malformed(&error))?;
        let kids: Vec<String> = jwe
            .recipients
            .into_iter()
            .map(|recipient| recipient.header.kid)
            .collect();
        let skid = check_header(header, &kids)?;
        Ok(Self { json, skid, kids })
    }
}

/// Whether JSON text is an object. The derived readers would also take a list of the members' values.
pub(crate) fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first() == Some(&b'{')
}

/// Tells plaintext and signed messages from encrypted ones.
fn refuse_unencrypted(json: &str) -> Result<(), Refusal> {
    /// Members that tell the kinds apart (DIDComm Messaging 2.1, "Message Types").
    #[derive(Deserialize)]
    struct Members<'a> {
        ciphertext: Option<IgnoredAny>,
        payload: Option<IgnoredAny>,
        #[serde(rename = "type", borrow)]
        kind: Option<Cow<'a, str>>,
    }

    let members: Members = serde_json::from_str(json).map_err(|error| Refusal::Malformed {
        detail: brief(&error),
    })?;
    match members {
        Members {
            ciphertext: Some(_),
            ..
        } => Ok(()),
        Members {
            payload: Some(_), ..
        } => Err(Refusal::SignedOnly),
        Members { kind: Some(_), .. } => Err(Refusal::Plaintext),
        _ => Err(Refusal::Malformed {
            detail: "no ciphertext, payload or type".to_owned(),
        }),
    }
}

/// Checks the protected header against the recipients and returns the sender's key identifier.
fn check_header(header: ProtectedHeader, kids: &[String]) -> Result<String, Refusal> {
    match header.alg.as_str() {
        ALG_AUTHCRYPT => {}
        ALG_ANONCRYPT => return Err(Refusal::Anoncrypt),
        other => {
            return Err(Refusal::Algorithm {
                got: excerpt(other),
                expected: ALG_AUTHCRYPT,
            });
        }
    }
    if header.enc != ENC {
        return Err(Refusal::Algorithm {
            got: excerpt(&header.enc),
            expected: ENC,
        });
    }
    if !header
        .typ
        .as_deref()
        .is_some_and(|typ| ENCRYPTED_TYPS.contains(&typ))
    {
        return Err(Refusal::MediaType {
            got: excerpt(header.typ.as_deref().unwrap_or_default()),
        });
    }
    let point = x25519_of_jwk(&header.epk);
    if point.is_none_or(|point| is_small_order(&point)) {
        return Err(Refusal::EphemeralKey);
    }
    check_kids(kids)?;
    if header.apv != BASE64_URL_SAFE_NO_PAD.encode(apv_of(kids)) {
        return Err(Refusal::RecipientsHash);
    }
    let skid = header.skid.ok_or(Refusal::NoSenderKeyId)?;
    if header
        .apu
        .is_none_or(|apu| apu != BASE64_URL_SAFE_NO_PAD.encode(&skid))
    {
        return Err(Refusal::SenderInfo);
    }
    Ok(skid)
}

fn check_kids(kids: &[String]) -> Result<(), Refusal> {
    if !(1..=MAX_RECIPIENTS).contains(&kids.len()) {
        return Err(Refusal::RecipientCount { got: kids.len() });
    }
    let distinct = kids
        .iter()
        .enumerate()
        .all(|(at, kid)| !kids.iter().take(at).any(|earlier| earlier == kid));
    let short = kids
        .iter()
        .all(|kid| kid.len() <= MAX_DID_LEN + 1 + MAX_FRAGMENT_LEN);
    if distinct && short {
        Ok(())
    } else {
        Err(Refusal::Malformed {
            detail: "a recipient key id is repeated or too long".to_owned(),
        })
    }
}

/// Hash of the sorted recipient key identifiers, joined by full stops (DIDComm Messaging 2.1, "ECDH-1PU").
fn apv_of(kids: &[String]) -> [u8; 32] {
    let mut sorted: Vec<&str> = kids.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    Sha256::digest(sorted.join(".")).into()
}
