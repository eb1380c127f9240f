//! The messages of the protocol (docs/protocol.md, section "Messages"), parsed once into types.
//!
//! A body is read into a typed struct or refused; unknown members are ignored. Nothing here knows
//! envelopes: the runtime supplies a message's type URI and body and learns the thread it belongs to.

mod keygen;
mod sign;

use serde::Deserialize;
use serde_json::Value;

pub use keygen::*;
pub use sign::*;

use crate::ids::{CohortId, SessionId};

/// What every type URI of this protocol begins with.
pub const TYPE_PREFIX: &str = "https://btc1.tools/musig2/";

/// Most bytes of one `registration_result`, as JSON, beyond the first round that it tells of.
pub const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Longest free text that is kept of a peer: labels and comments, in bytes.
pub const MAX_TEXT: usize = 256;

/// At most [`MAX_TEXT`] bytes of a text, cut between characters.
pub(crate) fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

/// A body that cannot be read as its type says.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Not a type of this protocol.
    #[error("unknown message type {0:?}")]
    UnknownType(String),
    /// A member is missing or is not what the protocol says.
    #[error("{kind} cannot be read: {reason}")]
    Malformed {
        /// The message's kind, such as `keygen/opt_in`.
        kind: &'static str,
        /// Which member, what was got and what was expected.
        reason: String,
    },
}

macro_rules! messages {
    ($($(#[$doc:meta])* $variant:ident = $kind:literal;)*) => {
        /// One message of the protocol.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "messages are moved a few times, never stored in bulk")]
        pub enum Message {
            $($(#[$doc])* $variant($variant),)*
        }

        /// Every kind, in the order of the protocol's table.
        pub const KINDS: &[&str] = &[$($kind),*];

        impl Message {
            /// The type URI without [`TYPE_PREFIX`], such as `keygen/opt_in`.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $kind,)*
                }
            }

            /// Reads the body of a message of the given type URI.
            pub fn parse(type_uri: &str, body: &Value) -> Result<Self, MessageError> {
                let unknown = || MessageError::UnknownType(shortened(type_uri));
                let kind = type_uri.strip_prefix(TYPE_PREFIX).ok_or_else(unknown)?;
                match kind {
                    // Readers of structs take a list of their values as well.
                    $($kind if !body.is_object() => Err(MessageError::Malformed {
                        kind: $kind,
                        reason: "got a body that is not an object".to_owned(),
                    }),)*
                    $($kind => $variant::deserialize(body).map(Self::$variant).map_err(|error| {
                        MessageError::Malformed { kind: $kind, reason: shortened(&error.to_string()) }
                    }),)*
                    _ => Err(unknown()),
                }
            }

            /// The body to send.
            pub fn body(&self) -> Result<Value, serde_json::Error> {
                match self {
                    $(Self::$variant(body) => serde_json::to_value(body),)*
                }
            }
        }

        $(impl From<$variant> for Message {
            fn from(body: $variant) -> Self {
                Self::$variant(body)
            }
        })*
    };
}

messages! {
    /// P→C: tell me of cohorts.
    Subscribe = "keygen/subscribe";
    /// C→P: you will be told.
    SubscribeAccept = "keygen/subscribe_accept";
    /// P→C: no more.
    Unsubscribe = "keygen/unsubscribe";
    /// C→P: a cohort is open.
    CohortAdvert = "keygen/cohort_advert";
    /// P→C: I join with this key, for these indexes.
    OptIn = "keygen/opt_in";
    /// P→C: I leave; before the cohort is set.
    OptOut = "keygen/opt_out";
    /// C→P: these are the members and this is the address.
    CohortSet = "keygen/cohort_set";
    /// P→C: recomputed and agreed.
    CohortAck = "keygen/cohort_ack";
    /// P→C: further indexes that I answer for.
    DidRegistration = "keygen/did_registration";
    /// C→P: which of them were accepted.
    RegistrationResult = "keygen/registration_result";
    /// P→C: this DID is mine, whoever answers for it.
    DidContest = "keygen/did_contest";
    /// C→P: a round is open; answer for your indexes.
    UpdateOpportunity = "sign/update_opportunity";
    /// P→C: updates to announce.
    RequestSignature = "sign/request_signature";
    /// P→C: indexes that have no update.
    NoUpdate = "sign/no_update";
    /// C→P: the transaction, with everything needed to check it.
    AuthorizationRequest = "sign/authorization_request";
    /// P→C: public nonces.
    NonceContribution = "sign/nonce_contribution";
    /// C→P: aggregated nonces.
    AggregatedNonces = "sign/aggregated_nonce";
    /// P→C: partial signatures.
    SignatureAuthorization = "sign/signature_authorization";
    /// P→C: I do not sign, and why.
    Decline = "sign/decline";
    /// C→P: the session is over without a signature.
    SessionAborted = "sign/session_aborted";
    /// C→P and to subscribers: what became of a signal.
    SignalPublished = "sign/signal_published";
    /// P→C: show me the session as a PSBT.
    PsbtRequest = "sign/psbt_request";
    /// C→P: the session as a PSBT, with what members have given so far.
    SessionPsbt = "sign/psbt";
}

/// Kinds of which messages that wait for a peer are pointless, once one of this kind is written for it on the same thread: its
/// own where a peer needs the last one only, and what it takes back.
pub fn replaces(kind: &str) -> &'static [&'static str] {
    match kind {
        "keygen/subscribe" | "keygen/unsubscribe" => &["keygen/subscribe", "keygen/unsubscribe"],
        "keygen/subscribe_accept" => &["keygen/subscribe_accept"],
        "keygen/cohort_advert" => &["keygen/cohort_advert"],
        "keygen/opt_out" => &["keygen/opt_in"],
        "keygen/cohort_set" => &["keygen/cohort_set"],
        "sign/update_opportunity" => &["sign/update_opportunity"],
        "sign/decline" => &["sign/nonce_contribution"],
        "sign/psbt_request" => &["sign/psbt_request"],
        "sign/psbt" => &["sign/psbt"],
        "sign/session_aborted" => &["sign/authorization_request", "sign/aggregated_nonce"],
        "sign/signal_published" => &["sign/signal_published"],
        _ => &[],
    }
}

impl Message {
    /// The cohort and the session that the message belongs to. In formation the cohort is its thread; in
    /// signing the session is, with the cohort as the parent thread.
    pub fn thread(&self) -> (Option<CohortId>, Option<SessionId>) {
        match self {
            Self::Subscribe(_) | Self::SubscribeAccept(_) | Self::Unsubscribe(_) => (None, None),
            Self::CohortAdvert(m) => (Some(m.cohort_id), None),
            Self::OptIn(m) => (Some(m.cohort_id), None),
            Self::OptOut(m) => (Some(m.cohort_id), None),
            Self::CohortSet(m) => (Some(m.cohort_id), None),
            Self::CohortAck(m) => (Some(m.cohort_id), None),
            Self::DidRegistration(m) => (Some(m.cohort_id), None),
            Self::DidContest(m) => (Some(m.cohort_id), None),
            Self::RegistrationResult(m) => (Some(m.cohort_id), None),
            Self::UpdateOpportunity(m) => (Some(m.cohort_id), None),
            Self::RequestSignature(m) => (Some(m.cohort_id), None),
            Self::NoUpdate(m) => (Some(m.cohort_id), None),
            Self::AuthorizationRequest(m) => (Some(m.cohort_id), Some(m.session_id)),
            Self::NonceContribution(m) => (Some(m.cohort_id), Some(m.session_id)),
            Self::AggregatedNonces(m) => (Some(m.cohort_id), Some(m.session_id)),
            Self::SignatureAuthorization(m) => (Some(m.cohort_id), Some(m.session_id)),
            Self::PsbtRequest(m) => (Some(m.cohort_id), Some(m.session_id)),
            Self::SessionPsbt(m) => (Some(m.cohort_id), Some(m.session_id)),
            Self::Decline(m) => (Some(m.cohort_id), Some(m.session_id)),
            Self::SessionAborted(m) => (Some(m.cohort_id), Some(m.session_id)),
            Self::SignalPublished(m) => (Some(m.cohort_id), Some(m.session_id)),
        }
    }

    /// Kinds that this message answers on its thread: when it arrives, copies of those that still wait to be
    /// delivered to its sender have done their work. Leaves answer nothing: in the push flow they may have been sent
    /// before the coordinator asked for the rest.
    pub fn answers(&self) -> &'static [&'static str] {
        match self {
            Self::SubscribeAccept(_) => &["keygen/subscribe"],
            Self::OptIn(_) => &["keygen/cohort_advert"],
            Self::CohortSet(_) => &["keygen/opt_in"],
            Self::CohortAck(_) => &["keygen/cohort_set"],
            Self::RegistrationResult(body) if !body.contest => &["keygen/did_registration"],
            Self::NonceContribution(_) => &["sign/authorization_request"],
            Self::AggregatedNonces(_) => &["sign/nonce_contribution"],
            Self::SignatureAuthorization(_) => &["sign/aggregated_nonce"],
            Self::SessionPsbt(_) => &["sign/psbt_request"],
            Self::Decline(_) => &["sign/authorization_request", "sign/aggregated_nonce"],
            Self::SessionAborted(_) | Self::SignalPublished(_) => &[
                "sign/authorization_request",
                "sign/nonce_contribution",
                "sign/aggregated_nonce",
                "sign/signature_authorization",
                "sign/decline",
            ],
            _ => &[],
        }
    }
}
