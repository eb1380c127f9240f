//! Somebody with a socket and an identity, who may send anything.

use std::time::{SystemTime, UNIX_EPOCH};

use affinidi_crypto::jose::key_agreement::{PrivateKeyAgreement, PublicKeyAgreement};
use affinidi_messaging_didcomm::jwe::encrypt::{anoncrypt, authcrypt};
use beacon_cohort::message::TYPE_PREFIX;
use beacon_didcomm::{
    Did, Endpoint, Identity, Plaintext, Resolver, ReturnRoute, UnpackLimits, pack, protocols,
    resolve, unpack,
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, accept_async};
use uuid::Uuid;

use super::DEADLINE;

/// A peer that the test plays itself.
#[derive(Debug)]
pub struct Stranger {
    identity: Identity,
    secret: [u8; 32],
    resolver: Resolver,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Stranger {
    /// Opens a socket, under a fresh identity that cannot be dialled.
    pub async fn connect(url: &str) -> Self {
        Self::connect_from(url, Endpoint::Queue).await
    }

    /// Opens a socket, under a fresh identity that says where it can be dialled.
    pub async fn connect_from(url: &str, endpoint: Endpoint) -> Self {
        let random = || {
            let mut secret = [0; 32];
            let (left, right) = secret.split_at_mut(16);
            left.copy_from_slice(Uuid::new_v4().as_bytes());
            right.copy_from_slice(Uuid::new_v4().as_bytes());
            secret
        };
        Self::connect_as(url, &random(), &random(), endpoint).await
    }

    /// Opens a socket, under the identity of these secrets (Ed25519, X25519) and this endpoint.
    pub async fn connect_as(
        url: &str,
        ed25519: &[u8; 32],
        x25519: &[u8; 32],
        endpoint: Endpoint,
    ) -> Self {
        Self {
            identity: Identity::new(ed25519, x25519, endpoint).unwrap(),
            secret: *x25519,
            resolver: Resolver::default(),
            socket: dial(url).await,
        }
    }

    /// Closes its socket, and waits until the other side has done so too.
    pub async fn close(&mut self) {
        self.socket.close(None).await.unwrap();
        // The other side answers, and hangs up.
        while let Some(Ok(_)) = timeout(DEADLINE, self.socket.next()).await.unwrap() {}
    }

    /// The same peer on a new socket in place of the one it had.
    pub async fn reconnect(&mut self, url: &str) {
        self.socket = dial(url).await;
    }

    /// The same peer on the socket that somebody opens to it here, in place of the one it had.
    pub async fn accept(&mut self, listener: &TcpListener) {
        let (stream, _) = timeout(DEADLINE, listener.accept())
            .await
            .unwrap_or_else(|_| panic!("nobody dialled"))
            .unwrap();
        self.socket = accept_async(MaybeTlsStream::Plain(stream)).await.unwrap();
    }

    /// Its DID.
    pub fn did(&self) -> &Did {
        self.identity.did()
    }

    /// An honest envelope that asks for answers on this socket.
    pub fn pack(&self, to: &str, message: Plaintext) -> Vec<u8> {
        let message = message.with_return_route(ReturnRoute::All);
        let packed = pack(
            &self.identity,
            &to.parse().unwrap(),
            &message,
            &self.resolver,
        )
        .unwrap();
        packed.frame().to_vec()
    }

    /// An envelope around any content, authenticated as ours.
    pub fn forge(&self, to: &str, content: &Value) -> Vec<u8> {
        let (recipient, key) = recipient(to);
        let sender = PrivateKeyAgreement::X25519(self.secret);
        let content = content.to_string();
        let recipients = [(recipient.as_str(), &key)];
        authcrypt(
            content.as_bytes(),
            self.identity.agreement_kid(),
            &sender,
            &recipients,
        )
        .unwrap()
        .into_bytes()
    }

    /// Sends a binary frame.
    pub async fn send(&mut self, frame: Vec<u8>) {
        self.socket
            .send(Message::Binary(frame.into()))
            .await
            .unwrap();
    }

    /// Sends a text frame.
    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next frame, as it came. The error is the code with which the socket was closed.
    pub async fn receive_frame(&mut self) -> Result<Vec<u8>, u16> {
        loop {
            let next = timeout(DEADLINE, self.socket.next()).await;
            let message = next.unwrap_or_else(|_| panic!("nothing more came on the socket"));
            match message {
                Some(Ok(Message::Binary(bytes))) => return Ok(bytes.to_vec()),
                Some(Ok(Message::Close(frame))) => {
                    return Err(frame.map_or(1005, |frame| frame.code.into()));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("got {other:?}, expected a binary frame or the end"),
            }
        }
    }

    /// The next frame, as it came and opened.
    pub async fn receive(&mut self) -> Result<(Vec<u8>, Plaintext), u16> {
        let frame = self.receive_frame().await?;
        let limits = UnpackLimits::default();
        let opened = unpack(&frame, &self.identity, &self.resolver, now(), &limits);
        Ok((frame, opened.unwrap().into_message()))
    }

    /// Pings the agent with this DID and returns what came in before its answer: what is not there then was not sent, since
    /// frames keep their order.
    pub async fn answers(&mut self, agent: &str) -> Vec<(Vec<u8>, Plaintext)> {
        let ping = protocols::ping(Uuid::new_v4(), now());
        let id = ping.id.clone();
        self.send(self.pack(agent, ping)).await;
        let mut before = Vec::new();
        loop {
            let (frame, message) = self.receive().await.unwrap();
            if message.kind == protocols::PING_RESPONSE && message.thid.as_deref() == Some(&id) {
                return before;
            }
            before.push((frame, message));
        }
    }
}

async fn dial(url: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    tokio_tungstenite::connect_async(url).await.unwrap().0
}

/// A message of our protocol, such as `keygen/subscribe`.
pub fn message(kind: &str, body: Value) -> Plaintext {
    Plaintext::new(Uuid::new_v4(), format!("{TYPE_PREFIX}{kind}"), now()).with_body(body)
}

/// An envelope that tells nothing of its sender.
pub fn anoncrypted(to: &str, content: &Value) -> Vec<u8> {
    let (recipient, key) = recipient(to);
    anoncrypt(
        content.to_string().as_bytes(),
        &[(recipient.as_str(), &key)],
    )
    .unwrap()
    .into_bytes()
}

fn recipient(did: &str) -> (String, PublicKeyAgreement) {
    let document = resolve(&did.parse().unwrap()).unwrap();
    let key = document.key_agreement_keys().remove(0);
    (key.kid, PublicKeyAgreement::X25519(key.public))
}

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}
