//! What [`unpack`](crate::unpack) says about a message that it refuses.

use thiserror::Error;

use crate::did::Did;
use crate::envelope::MAX_RECIPIENTS;
use crate::message::MessageError;
use crate::resolve::ResolveError;

/// A message that was refused.
#[derive(Debug, Error)]
#[error("{refusal}")]
pub struct UnpackError {
    refusal: Refusal,
    /// Boxed to keep the error small.
    proven: Option<Box<Proven>>,
}

/// What decryption, and as far as possible the content, told about a refused message.
#[derive(Debug)]
pub(crate) struct Proven {
    pub(crate) sender: Did,
    pub(crate) recipient: Did,
    pub(crate) id: Option<String>,
    pub(crate) thread: Option<String>,
}

impl UnpackError {
    pub(crate) fn proven(refusal: Refusal, proven: Proven) -> Self {
        Self {
            refusal,
            proven: Some(Box::new(proven)),
        }
    }

    /// Why it was refused.
    pub fn refusal(&self) -> &Refusal {
        &self.refusal
    }

    /// A stable word for counting and logging.
    pub fn kind(&self) -> &'static str {
        self.refusal.kind()
    }

    /// The sender, if decryption proved one: only then may a problem report be sent, and only to it.
    pub fn proven_sender(&self) -> Option<&Did> {
        self.proven.as_ref().map(|proven| &proven.sender)
    }

    /// Which of our identities it was encrypted to, if decryption proved a sender: an answer comes from no other.
    pub fn recipient(&self) -> Option<&Did> {
        self.proven.as_ref().map(|proven| &proven.recipient)
    }

    /// Id of the refused message, if it could be read from a proven sender.
    pub fn message_id(&self) -> Option<&str> {
        self.proven.as_ref()?.id.as_deref()
    }

    /// Thread of the refused message (its own id without `thid`), if it could be read from a proven sender.
    pub fn thread_id(&self) -> Option<&str> {
        self.proven.as_ref()?.thread.as_deref()
    }
}

impl From<ResolveError> for Refusal {
    fn from(error: ResolveError) -> Self {
        Self::Sender(error)
    }
}

impl From<Refusal> for UnpackError {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            proven: None,
        }
    }
}

/// Every reason to refuse a message.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Larger than [`UnpackLimits::max_bytes`](crate::UnpackLimits::max_bytes).
    #[error("message of {got} bytes, expected at most {max}")]
    TooLarge {
        /// Size in bytes.
        got: usize,
        /// Limit in bytes.
        max: usize,
    },
    /// No envelope that can be read.
    #[error("not a DIDComm envelope: {detail}")]
    Malformed {
        /// What the parser says.
        detail: String,
    },
    /// A message that is not encrypted.
    #[error("got a plaintext message, expected authcrypt")]
    Plaintext,
    /// A message that is signed and not encrypted.
    #[error("got a signed message, expected authcrypt")]
    SignedOnly,
    /// A message whose sender is anonymous.
    #[error("got anoncrypt, expected authcrypt")]
    Anoncrypt,
    /// An algorithm that we do not speak.
    #[error("got algorithm {got}, expected {expected}")]
    Algorithm {
        /// The header's value.
        got: String,
        /// Ours.
        expected: &'static str,
    },
    /// The envelope's `typ` is missing or another.
    #[error("got typ {got}, expected application/didcomm-encrypted+json")]
    MediaType {
        /// The header's value; empty when missing.
        got: String,
    },
    /// The ephemeral key is no X25519 key, or one of small order.
    #[error("ephemeral key is not a usable x25519 key")]
    EphemeralKey,
    /// No recipients, or too many.
    #[error("{got} recipients, expected 1 to {MAX_RECIPIENTS}")]
    RecipientCount {
        /// Number of recipient blocks.
        got: usize,
    },
    /// `apv` is not the hash of the recipients' key identifiers: a recipient was added or removed.
    #[error("apv is not the hash of the recipient key ids")]
    RecipientsHash,
    /// `skid` is missing.
    #[error("no skid, expected the sender's key id")]
    NoSenderKeyId,
    /// `apu` is not the encoded `skid`.
    #[error("apu does not encode the skid")]
    SenderInfo,
    /// None of the recipient keys is ours.
    #[error("not encrypted to any of our keys")]
    NotForUs,
    /// The sender's DID does not resolve.
    #[error("sender does not resolve: {0}")]
    Sender(ResolveError),
    /// The sender's document has no such X25519 key-agreement key.
    #[error("sender's document has no usable key-agreement key {kid}")]
    UnknownSenderKey {
        /// The start of the `skid`.
        kid: String,
    },
    /// Altered on the way, or not made by the holder of the sender's key.
    #[error("decryption failed")]
    Decryption,
    /// A signed or encrypted message inside the encrypted one.
    #[error("got a nested envelope, expected a plaintext message inside")]
    Nested,
    /// The content is no plaintext message.
    #[error("content is not a plaintext message: {detail}")]
    Content {
        /// What the parser says.
        detail: String,
    },
    /// A member of the content is out of bounds.
    #[error(transparent)]
    Bounds(#[from] MessageError),
    /// `from` is missing.
    #[error("no from, expected the sender's did")]
    NoFrom,
    /// `from` is not the DID whose key authenticated the message.
    #[error("from is {from}, expected the did of the proven sender key")]
    FromMismatch {
        /// The start of the claim.
        from: String,
    },
    /// `to` does not name the identity whose key opened the message.
    #[error("to does not contain our did")]
    NotAddressed,
    /// Neither `created_time` nor `expires_time`.
    #[error("no created_time and no expires_time, expected at least one")]
    NoTime,
    /// No longer valid.
    #[error("expired at {expires}, now is {now}")]
    Expired {
        /// Unix seconds.
        expires: u64,
        /// Unix seconds.
        now: u64,
    },
    /// Made after now, by more than the skew.
    #[error("created at {created}, now is {now}")]
    FromTheFuture {
        /// Unix seconds.
        created: u64,
        /// Unix seconds.
        now: u64,
    },
    /// Valid for longer than we would remember its id.
    #[error("expires at {expires}, expected at most {max} seconds from now")]
    LivesTooLong {
        /// Unix seconds.
        expires: u64,
        /// Seconds.
        max: u64,
    },
}

impl Refusal {
    /// A stable word for counting and logging.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::Malformed { .. } => "malformed",
            Self::Plaintext => "plaintext",
            Self::SignedOnly => "signed-only",
            Self::Anoncrypt => "anoncrypt",
            Self::Algorithm { .. } => "algorithm",
            Self::MediaType { .. } => "media-type",
            Self::EphemeralKey => "ephemeral-key",
            Self::RecipientCount { .. } => "recipient-count",
            Self::RecipientsHash => "recipients-hash",
            Self::NoSenderKeyId => "no-sender-key-id",
            Self::SenderInfo => "sender-info",
            Self::NotForUs => "not-for-us",
            Self::Sender(_) => "sender-unresolved",
            Self::UnknownSenderKey { .. } => "unknown-sender-key",
            Self::Decryption => "decryption",
            Self::Nested => "nested",
            Self::Content { .. } => "content",
            Self::Bounds(_) => "bounds",
            Self::NoFrom => "no-from",
            Self::FromMismatch { .. } => "from-mismatch",
            Self::NotAddressed => "not-addressed",
            Self::NoTime => "no-time",
            Self::Expired { .. } => "expired",
            Self::FromTheFuture { .. } => "from-the-future",
            Self::LivesTooLong { .. } => "lives-too-long",
        }
    }
}
