//! What a request to resolve a DID comes to, the same on the command line and over HTTP.

use beacon_btcr2::{Did, Error, ErrorCode, Resolution, ResolutionOptions};
use serde_json::{Value, json};

use super::{Progress, SourceError, Sources, resolve};

/// A DID resolution result, and what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// `didDocument`, `didDocumentMetadata` and `didResolutionMetadata`.
    pub result: Value,
    /// What it says.
    pub verdict: Verdict,
}

/// What a DID resolution result says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Here is the document.
    Resolved,
    /// Here is the last document of a DID that was deactivated.
    Deactivated,
    /// There is none: the code of this method's specification, or of DID Resolution v1.
    Failed(ErrorCode),
    /// There is none: the DID's network is not the one of the chain source. DID Resolution v1 has `FEATURE_NOT_SUPPORTED`
    /// for what one resolver does not do and another may.
    Unsupported,
}

impl Answer {
    /// Resolves `did`, which may be any text. Options that could not be read are an answer as well. Blocks.
    pub fn to(
        did: &str,
        options: Result<ResolutionOptions, Error>,
        sources: &Sources,
        progress: &Progress,
    ) -> Self {
        let ready = parse(did).and_then(|did| Ok((did, options?)));
        match ready {
            Ok((did, options)) => match resolve(&did, &options, sources, progress) {
                Ok(resolution) => resolution.into(),
                Err(error) => error.into(),
            },
            Err(error) => Resolution::from(error).into(),
        }
    }

    /// What a text comes to that is no DID of this method, whatever the options and the sources are.
    pub fn to_no_did(did: &str) -> Option<Self> {
        let error = parse(did).err()?;
        Some(Resolution::from(error).into())
    }

    /// A failure whose code none of the machine's errors has, or whose words are not the machine's.
    pub(super) fn failed(verdict: Verdict, message: &str) -> Self {
        let code = verdict.code().unwrap_or_default();
        Self {
            result: json!({
                "didResolutionMetadata": { "error": code, "errorMessage": message },
                "didDocument": null,
                "didDocumentMetadata": {},
            }),
            verdict,
        }
    }

    /// The code and the sentence of a failure.
    pub fn failure(&self) -> Option<(&'static str, &str)> {
        let message = self.result["didResolutionMetadata"]["errorMessage"].as_str();
        Some((self.verdict.code()?, message.unwrap_or_default()))
    }
}

impl Verdict {
    /// `didResolutionMetadata.error`.
    pub fn code(self) -> Option<&'static str> {
        match self {
            Self::Resolved | Self::Deactivated => None,
            Self::Failed(code) => Some(code.as_str()),
            Self::Unsupported => Some("FEATURE_NOT_SUPPORTED"),
        }
    }
}

impl From<Resolution> for Answer {
    fn from(resolution: Resolution) -> Self {
        let verdict = match &resolution.0 {
            Ok(resolved) if resolved.document.is_deactivated() => Verdict::Deactivated,
            Ok(_) => Verdict::Resolved,
            Err(error) => Verdict::Failed(error.code),
        };
        Self {
            result: resolution.to_value(),
            verdict,
        }
    }
}

impl From<SourceError> for Answer {
    fn from(error: SourceError) -> Self {
        let verdict = match error {
            SourceError::OtherNetwork { .. } | SourceError::NotServed { .. } => {
                Verdict::Unsupported
            }
            SourceError::Chain(_) | SourceError::Unsettled | SourceError::GivenUp => {
                Verdict::Failed(ErrorCode::InternalError)
            }
        };
        Self::failed(verdict, &error.to_string())
    }
}

fn parse(did: &str) -> Result<Did, Error> {
    did.parse().map_err(|problem| {
        let code = if is_of_another_method(did) {
            ErrorCode::MethodNotSupported
        } else {
            ErrorCode::InvalidDid
        };
        Error::new(code, problem)
    })
}

/// Whether a text has the form of a DID (DID Core 1.1, section 3.1) but not of this method.
fn is_of_another_method(text: &str) -> bool {
    let mut parts = text.splitn(3, ':');
    let (Some("did"), Some(method), Some(id)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let is_method = !method.is_empty()
        && method
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let is_id = !id.is_empty()
        && !id.ends_with(':')
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte));
    is_method && method != "btcr2" && is_id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_did_of_another_method_is_told_from_nonsense() {
        for did in ["did:web:example.org", "did:key:z6Mk", "did:a1:b:c"] {
            assert!(is_of_another_method(did), "{did}");
        }
        for did in [
            "",
            "nonsense",
            "did:",
            "did:web",
            "did:web:",
            "did:Web:a",
            "did::a",
            "did:web:a b",
            "did:web:a:",
            "did:web:a/b",
            "did:web:a#b",
            "did:btcr2:k1q",
        ] {
            assert!(!is_of_another_method(did), "{did}");
        }
    }
}
