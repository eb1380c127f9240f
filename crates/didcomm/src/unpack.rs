//! Opening a message and proving who sent it.

use affinidi_crypto::jose::key_agreement::PublicKeyAgreement;
use affinidi_messaging_didcomm::jwe::decrypt::{SenderKey, decrypt_bound};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::did::{Did, split_kid};
use crate::envelope::{Envelope, is_object};
use crate::identity::{Identity, Keyring};
use crate::message::{DEFAULT_LIFETIME, Plaintext};
use crate::peer::short_form_of_peer4;
use crate::refusal::{Proven, Refusal, UnpackError};
use crate::resolve::{ResolveError, Resolver};
use crate::text::{brief, excerpt};

/// Largest message accepted by default, in bytes: 1 MiB (protocol page, section 2).
pub const DEFAULT_MAX_BYTES: usize = 1024 * 1024;

/// Bounds on what [`unpack`] accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Largest envelope, in bytes.
    pub max_bytes: usize,
    /// Seconds by which clocks may differ.
    pub skew: u64,
    /// Seconds that a message may still be valid when it arrives. Ids are remembered until a message expires, so this
    /// bounds how long a stranger can make us remember.
    pub max_lifetime: u64,
}

impl Default for UnpackLimits {
    /// 1 MiB, 5 minutes, 30 days.
    fn default() -> Self {
        Self {
            max_bytes: DEFAULT_MAX_BYTES,
            skew: 5 * 60,
            max_lifetime: 30 * 24 * 60 * 60,
        }
    }
}

/// A message whose sender is proven, which is addressed to us and still valid.
///
/// Only [`unpack`] makes one. Whether its id was seen before is for the caller to find out.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    sender: Did,
    recipient: Did,
    message: Plaintext,
    expires_at: u64,
}

impl Verified {
    /// The DID whose key-agreement key authenticated the message. Of a did:peer:4 it is always the long form, whichever
    /// form the message used, so that a peer has one name.
    pub fn sender(&self) -> &Did {
        &self.sender
    }

    /// Which of our identities it was sent to.
    pub fn recipient(&self) -> &Did {
        &self.recipient
    }

    /// The message.
    pub fn message(&self) -> &Plaintext {
        &self.message
    }

    /// Unix seconds at which the message stops being valid, whether it says so or not. Its id must be remembered until
    /// then plus [`UnpackLimits::skew`].
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }

    /// The message without the proof.
    pub fn into_message(self) -> Plaintext {
        self.message
    }
}

/// Opens an envelope and checks everything that the protocol page, section 2, asks of it.
///
/// `now` is in Unix seconds. `keyring` finds our identity by the key identifiers in the envelope. On success a did:peer:4
/// sender's long form is remembered by `resolver`.
pub fn unpack<K: Keyring + ?Sized>(
    bytes: &[u8],
    keyring: &K,
    resolver: &Resolver,
    now: u64,
    limits: &UnpackLimits,
) -> Result<Verified, UnpackError> {
    let opened = open(bytes, keyring, resolver, limits)?;
    let mut proven = Proven {
        sender: opened.sender,
        recipient: opened.recipient.did().clone(),
        id: None,
        thread: None,
    };
    let checked = read_plaintext(&opened.plaintext).and_then(|message| {
        proven.id = Some(message.id.clone());
        proven.thread = Some(message.thread().to_owned());
        check_addresses(&message, &proven.sender, opened.recipient.did())?;
        let expires_at = check_times(&message, now, limits)?;
        Ok((message, expires_at))
    });
    match checked {
        Ok((message, expires_at)) => {
            resolver.remember(&proven.sender);
            Ok(Verified {
                sender: proven.sender,
                recipient: opened.recipient.did().clone(),
                message,
                expires_at,
            })
        }
        Err(refusal) => Err(UnpackError::proven(refusal, proven)),
    }
}

struct Opened<'k> {
    plaintext: Vec<u8>,
    sender: Did,
    recipient: &'k Identity,
}

/// Decrypts; success proves that the holder of the sender's key made the envelope for this recipient.
fn open<'k, K: Keyring + ?Sized>(
    bytes: &[u8],
    keyring: &'k K,
    resolver: &Resolver,
    limits: &UnpackLimits,
) -> Result<Opened<'k>, Refusal> {
    if bytes.len() > limits.max_bytes {
        return Err(Refusal::TooLarge {
            got: bytes.len(),
            max: limits.max_bytes,
        });
    }
    let envelope = Envelope::parse(bytes)?;
    // Looked up before the sender is resolved: what is not for us costs us nothing more.
    let recipient = envelope
        .kids
        .iter()
        .find_map(|kid| keyring.identity(kid))
        .ok_or(Refusal::NotForUs)?;
    let (sender, _) = split_kid(&envelope.skid).map_err(ResolveError::from)?;
    let document = resolver.resolve(&sender)?;
    let key = document
        .key_agreement_keys()
        .into_iter()
        .find(|key| key.kid == envelope.skid)
        .ok_or_else(|| Refusal::UnknownSenderKey {
            kid: excerpt(&envelope.skid),
        })?;
    let public = PublicKeyAgreement::X25519(key.public);
    let sender_key = SenderKey::new(&envelope.skid, &public);
    let decrypted = decrypt_bound(
        envelope.json,
        recipient.agreement_kid(),
        recipient.agreement(),
        Some(sender_key),
    )
    .map_err(|_| Refusal::Decryption)?;
    // The library says the same twice; if it ever did not, nothing would be proven.
    if !decrypted.authenticated || decrypted.sender_kid.as_deref() != Some(envelope.skid.as_str()) {
        return Err(Refusal::Decryption);
    }
    Ok(Opened {
        plaintext: decrypted.plaintext,
        sender: resolver.canonical(&sender),
        recipient,
    })
}

pub(crate) fn read_plaintext(plaintext: &[u8]) -> Result<Plaintext, Refusal> {
    #[derive(Deserialize)]
    struct Nested {
        #[serde(default)]
        payload: Option<IgnoredAny>,
        #[serde(default)]
        ciphertext: Option<IgnoredAny>,
    }

    if !is_object(plaintext) {
        return Err(Refusal::Content {
            detail: "not a JSON object".to_owned(),
        });
    }
    let message =
        serde_json::from_slice::<Plaintext>(plaintext).map_err(
            |error| match serde_json::from_slice::<Nested>(plaintext) {
                Ok(Nested {
                    payload,
                    ciphertext,
                }) if payload.is_some() || ciphertext.is_some() => Refusal::Nested,
                _ => Refusal::Content {
                    detail: brief(&error),
                },
            },
        )?;
    message.check()?;
    Ok(message)
}

fn check_addresses(message: &Plaintext, sender: &Did, recipient: &Did) -> Result<(), Refusal> {
    let from = message.from.as_ref().ok_or(Refusal::NoFrom)?;
    // A did:peer:4 may call itself by either of its forms; `sender` is the long one.
    if from != sender && short_form_of_peer4(sender).as_ref() != Some(from) {
        return Err(Refusal::FromMismatch {
            from: excerpt(from.as_str()),
        });
    }
    if message.to.contains(recipient) {
        Ok(())
    } else {
        Err(Refusal::NotAddressed)
    }
}

/// Returns when the message expires.
fn check_times(message: &Plaintext, now: u64, limits: &UnpackLimits) -> Result<u64, Refusal> {
    let latest = now.saturating_add(limits.skew);
    if let Some(created) = message.created_time.filter(|created| *created > latest) {
        return Err(Refusal::FromTheFuture { created, now });
    }
    let expires = match (message.expires_time, message.created_time) {
        (Some(expires), _) => expires,
        (None, Some(created)) => created.saturating_add(DEFAULT_LIFETIME),
        (None, None) => return Err(Refusal::NoTime),
    };
    if now > expires.saturating_add(limits.skew) {
        return Err(Refusal::Expired { expires, now });
    }
    if expires > now.saturating_add(limits.max_lifetime) {
        return Err(Refusal::LivesTooLong {
            expires,
            max: limits.max_lifetime,
        });
    }
    Ok(expires)
}
