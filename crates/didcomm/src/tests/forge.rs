//! An envelope maker that can lie in one place while all the cryptography stays right.

use affinidi_crypto::jose::key_agreement::{
    Curve, EphemeralKeyPair, PrivateKeyAgreement, PublicKeyAgreement,
};
use affinidi_crypto::jose::{aes_kw, concat_kdf, content_encryption};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::*;

/// What to make; the starting point is an honest authcrypt envelope.
pub(super) struct Forgery<'a> {
    pub(super) plaintext: &'a [u8],
    pub(super) sender_secret: [u8; 32],
    pub(super) skid: &'a str,
    /// Key identifiers of the recipient blocks; each is encrypted to Bob's key.
    pub(super) kids: Vec<String>,
    /// Changes the protected header before anything is derived from it.
    pub(super) header: fn(&mut Value),
}

impl<'a> Forgery<'a> {
    /// From Alice to Bob.
    pub(super) fn honest(plaintext: &'a [u8], skid: &'a str) -> Self {
        let kids = vec![bob().agreement_kid().to_owned()];
        Self {
            plaintext,
            sender_secret: agreement_secret(1),
            skid,
            kids,
            header: |_| {},
        }
    }

    pub(super) fn make(&self) -> String {
        let mut kids: Vec<&str> = self.kids.iter().map(String::as_str).collect();
        kids.sort_unstable();
        let ephemeral = EphemeralKeyPair::generate(Curve::X25519);
        let mut header = json!({
            "typ": "application/didcomm-encrypted+json",
            "alg": "ECDH-1PU+A256KW",
            "enc": "A256CBC-HS512",
            "skid": self.skid,
            "apu": BASE64.encode(self.skid),
            "apv": BASE64.encode(Sha256::digest(kids.join("."))),
            "epk": ephemeral.public.to_jwk(),
        });
        (self.header)(&mut header);
        let member = |name: &str| {
            BASE64
                .decode(header[name].as_str().unwrap_or_default())
                .unwrap()
        };
        let protected = BASE64.encode(header.to_string());
        let (cek, iv) = (
            content_encryption::generate_cek(),
            content_encryption::generate_iv(),
        );
        let (ciphertext, tag) =
            content_encryption::encrypt(self.plaintext, &cek, &iv, protected.as_bytes()).unwrap();
        let kek = self.kek(&ephemeral, &header, &member("apu"), &member("apv"), &tag);
        let wrapped = BASE64.encode(aes_kw::wrap(&kek, &cek).unwrap());
        let recipients: Vec<Value> = self
            .kids
            .iter()
            .map(|kid| json!({ "header": { "kid": kid }, "encrypted_key": wrapped }))
            .collect();
        json!({
            "protected": protected,
            "recipients": recipients,
            "iv": BASE64.encode(iv),
            "ciphertext": BASE64.encode(ciphertext),
            "tag": BASE64.encode(tag),
        })
        .to_string()
    }

    fn kek(
        &self,
        ephemeral: &EphemeralKeyPair,
        header: &Value,
        apu: &[u8],
        apv: &[u8],
        tag: &[u8],
    ) -> [u8; 32] {
        let bob = bob().agreement().public_key();
        // A header that names another ephemeral key means one of small order here: its secret is zero for everybody.
        let honest = header["epk"] == ephemeral.public.to_jwk();
        let mut z = if honest {
            ephemeral.private.diffie_hellman(&bob).unwrap()
        } else {
            vec![0; 32]
        };
        z.extend(
            PrivateKeyAgreement::X25519(self.sender_secret)
                .diffie_hellman(&bob)
                .unwrap(),
        );
        concat_kdf::concat_kdf_1pu(&z, b"ECDH-1PU+A256KW", apu, apv, 256, tag)
            .unwrap()
            .try_into()
            .unwrap()
    }
}

/// An honest envelope from Alice to Bob around any content.
pub(super) fn seal(content: &Value) -> String {
    let skid = alice().agreement_kid().to_owned();
    Forgery::honest(content.to_string().as_bytes(), &skid).make()
}

/// Anoncrypt to Bob by the library.
pub(super) fn anoncrypt_to_bob(content: &Value) -> String {
    let bob = bob();
    let key: PublicKeyAgreement = bob.agreement().public_key();
    let recipients = [(bob.agreement_kid(), &key)];
    affinidi_messaging_didcomm::jwe::encrypt::anoncrypt(content.to_string().as_bytes(), &recipients)
        .unwrap()
}

#[test]
fn the_honest_starting_point_is_accepted() {
    let verified = bob_unpacks(seal(&content())).unwrap();
    assert_eq!(verified.sender(), alice().did());
    assert_eq!(verified.recipient(), bob().did());
    assert_eq!(verified.message().body["text"], "hello");
    assert_eq!(verified.expires_at(), NOW + DEFAULT_LIFETIME);
}
