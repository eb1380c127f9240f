//! A wire between two agents that remembers what went over it.

use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{accept_async, connect_async};

/// All frames so far, of both directions and of all connections.
#[derive(Clone, Debug, Default)]
pub struct Tap(Arc<Mutex<Vec<Vec<u8>>>>);

impl Tap {
    /// Takes what dials the port `listen` to the port `target` of this machine, until the test's runtime ends.
    pub async fn start(listen: u16, target: u16) -> Self {
        let tap = Self::default();
        let listener = TcpListener::bind(("127.0.0.1", listen)).await.unwrap();
        let relays = tap.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(relays.clone().relay(stream, target));
            }
        });
        tap
    }

    /// What went over it.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().clone()
    }

    async fn relay(self, stream: TcpStream, target: u16) {
        // Whoever hangs up, the other one sees it.
        let Ok(mut one) = accept_async(stream).await else {
            return;
        };
        let Ok((mut other, _)) = connect_async(format!("ws://127.0.0.1:{target}")).await else {
            return;
        };
        loop {
            let passed_on = tokio::select! {
                Some(Ok(message)) = one.next() => other.send(self.remember(message)).await,
                Some(Ok(message)) = other.next() => one.send(self.remember(message)).await,
                else => return,
            };
            if passed_on.is_err() {
                return;
            }
        }
    }

    fn remember(&self, message: Message) -> Message {
        if let Message::Binary(bytes) = &message {
            self.0.lock().unwrap().push(bytes.to_vec());
        }
        message
    }
}
