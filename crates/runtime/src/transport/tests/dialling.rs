//! Where dials go, and how they fail.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::super::dial::Dialler;
use super::super::{DialError, TransportConfig};
use super::{Agent, defaults};

#[tokio::test]
async fn private_addresses_are_dialled_only_where_allowed() {
    let server = Agent::listening(defaults()).await;
    let client = Agent::start(defaults()).await;
    let port = server.transport.local_addr().unwrap().port();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "10.0.0.1",
        "169.254.169.254",
        "2130706433",
    ] {
        let url: Url = format!("ws://{host}:{port}").parse().unwrap();
        let error = client.transport.dial(&url, false).await.unwrap_err();
        assert!(
            matches!(error, DialError::Private { .. }),
            "{host}: {error}"
        );
    }
    let url: Url = format!("ws://localhost:{port}").parse().unwrap();
    client.transport.dial(&url, true).await.unwrap();
}

#[tokio::test]
async fn urls_that_are_no_websocket_are_refused() {
    let client = Agent::start(defaults()).await;
    for scheme in ["http", "https", "ftp", "didcomm"] {
        let url: Url = format!("{scheme}://127.0.0.1/").parse().unwrap();
        let error = client.transport.dial(&url, true).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("got a URL with scheme {scheme:?}, expected ws or wss")
        );
    }
    for url in ["ws://user:secret@127.0.0.1/", "ws://127.0.0.1/#part"] {
        let error = client
            .transport
            .dial(&url.parse().unwrap(), true)
            .await
            .unwrap_err();
        assert!(matches!(error, DialError::Url { .. }), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn a_failed_dial_says_why_and_frees_its_place() {
    let config = TransportConfig {
        connect_timeout: Duration::from_millis(200),
        max_connections: 1,
        ..defaults()
    };
    let client = Agent::start(config).await;
    let dial = async |url: String| {
        client
            .transport
            .dial(&url.parse().unwrap(), true)
            .await
            .unwrap_err()
    };

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let error = dial(format!("ws://{address}")).await;
    assert!(matches!(error, DialError::TimedOut { .. }), "{error}");

    let answer = async {
        // The first one is that of the dial before.
        listener.accept().await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        stream
    };
    let (error, _stream) = tokio::join!(dial(format!("ws://{address}")), answer);
    assert!(matches!(error, DialError::Handshake { .. }), "{error}");

    drop(listener);
    let error = dial(format!("ws://{address}")).await;
    assert!(matches!(error, DialError::Connect { .. }), "{error}");
    let error = dial("ws://no-such-name.invalid/".to_owned()).await;
    assert!(
        matches!(
            error,
            DialError::Resolve { .. } | DialError::TimedOut { .. }
        ),
        "{error}"
    );

    let web = Agent::listening(defaults()).await;
    let error = dial(format!("{}health", web.url())).await;
    assert!(
        matches!(error, DialError::Refused { status: 200, .. }),
        "{error}"
    );
    client.dial(&web).await;
}

/// A TLS server for `localhost` with a certificate that nobody has vouched for.
struct TlsServer {
    acceptor: tokio_rustls::TlsAcceptor,
    listener: TcpListener,
    certificate: rustls::pki_types::CertificateDer<'static>,
    url: Url,
}

impl TlsServer {
    async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("wss://localhost:{}/", listener.local_addr().unwrap().port())
            .parse()
            .unwrap();
        Self {
            acceptor: Arc::new(config).into(),
            listener,
            certificate,
            url,
        }
    }

    async fn accept(&self) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
        self.acceptor
            .accept(self.listener.accept().await.unwrap().0)
            .await
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused_as_such() {
    let server = TlsServer::start().await;
    let client = Agent::start(defaults()).await;
    let (outcome, accepted) =
        tokio::join!(client.transport.dial(&server.url, true), server.accept());
    let error = outcome.unwrap_err();
    assert!(matches!(error, DialError::Certificate { .. }), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("localhost has no valid certificate"),
        "{error}"
    );
    accepted.unwrap_err();
}

#[tokio::test]
async fn frames_pass_over_tls_with_a_trusted_certificate() {
    let server = TlsServer::start().await;
    let mut client = Agent::start(defaults()).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.certificate.clone()).unwrap();
    client.transport.dialler = Dialler::trusting(roots).unwrap();
    let accept = async { accept_async(server.accept().await.unwrap()).await.unwrap() };
    let (out, mut socket) = tokio::join!(client.transport.dial(&server.url, true), accept);
    let out = out.unwrap();
    client.transport.send(out, b"over tls".to_vec()).unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap(),
        Message::binary(&b"over tls"[..])
    );
    socket.send(Message::text("and back")).await.unwrap();
    assert_eq!(client.frame().await, (out, b"and back".to_vec()));
}
