//! An independent implementation, `didcomm` 0.4.1, with our documents and secrets translated for it.

use didcomm::did::resolvers::ExampleDIDResolver;
use didcomm::did::{
    DIDCommMessagingService, DIDDoc, Service, ServiceKind, VerificationMaterial,
    VerificationMethod, VerificationMethodType,
};
use didcomm::secrets::resolvers::ExampleSecretsResolver;
use didcomm::secrets::{Secret, SecretMaterial, SecretType};
use didcomm::{Message, UnpackMetadata, UnpackOptions};
use serde_json::{Value, json};

use super::*;

/// Runs a future of the oracle to its end.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

/// The oracle's view of who exists and of the secrets that it holds.
pub(super) struct Oracle {
    pub(super) dids: ExampleDIDResolver,
    pub(super) secrets: ExampleSecretsResolver,
}

impl Oracle {
    /// Knows these DIDs, and the secrets of the identities made with these seeds.
    pub(super) fn new(dids: &[&Did], owners: &[(&Identity, u8)]) -> Self {
        let dids = dids.iter().map(|did| translate(did)).collect();
        let secrets = owners
            .iter()
            .map(|(identity, seed)| secret(identity.agreement_kid(), &agreement_secret(*seed)));
        Self {
            dids: ExampleDIDResolver::new(dids),
            secrets: ExampleSecretsResolver::new(secrets.collect()),
        }
    }

    pub(super) fn unpack(
        &self,
        message: &[u8],
    ) -> didcomm::error::Result<(Message, UnpackMetadata)> {
        let text = std::str::from_utf8(message).unwrap();
        let options = UnpackOptions {
            unwrap_re_wrapping_forward: false,
            ..UnpackOptions::default()
        };
        wait(Message::unpack(text, &self.dids, &self.secrets, &options))
    }
}

/// Our document as the oracle wants it: absolute identifiers and JSON Web Keys.
fn translate(did: &Did) -> DIDDoc {
    let document = resolve(did).unwrap();
    let keys = document.key_agreement_keys();
    let service = document.didcomm_service().map(|service| Service {
        id: format!("{did}#service"),
        service_endpoint: ServiceKind::DIDCommMessaging {
            value: DIDCommMessagingService {
                uri: service.uri,
                accept: Some(service.accept),
                routing_keys: service.routing_keys,
            },
        },
    });
    DIDDoc {
        id: did.to_string(),
        key_agreement: keys.iter().map(|key| key.kid.clone()).collect(),
        authentication: vec![],
        verification_method: keys
            .iter()
            .map(|key| method(did.as_str(), &key.kid, jwk(&key.public)))
            .collect(),
        service: service.into_iter().collect(),
    }
}

pub(super) fn method(controller: &str, kid: &str, public_key_jwk: Value) -> VerificationMethod {
    VerificationMethod {
        id: kid.to_owned(),
        type_: VerificationMethodType::JsonWebKey2020,
        controller: controller.to_owned(),
        verification_material: VerificationMaterial::JWK { public_key_jwk },
    }
}

fn secret(kid: &str, x25519: &[u8; 32]) -> Secret {
    use base64::Engine as _;
    let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*x25519));
    let mut private_key_jwk = jwk(public.as_bytes());
    private_key_jwk["d"] = base64::prelude::BASE64_URL_SAFE_NO_PAD
        .encode(x25519)
        .into();
    secret_of_jwk(kid, private_key_jwk)
}

pub(super) fn secret_of_jwk(kid: &str, private_key_jwk: Value) -> Secret {
    Secret {
        id: kid.to_owned(),
        type_: SecretType::JsonWebKey2020,
        secret_material: SecretMaterial::JWK { private_key_jwk },
    }
}

fn jwk(x25519: &[u8; 32]) -> Value {
    use base64::Engine as _;
    json!({ "kty": "OKP", "crv": "X25519", "x": base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(x25519) })
}
