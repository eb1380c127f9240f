//! The dialling side.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{Connector, client_async_tls_with_config};
use url::{Host, Url};

use super::address::is_public;
use super::connection::settings;
use super::registry::{Limit, Registry};
use super::{ConnectionId, TransportError};

/// Addresses of one name that are tried; a name can have any number.
const MAX_ADDRESSES: usize = 8;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Not a WebSocket URL.
    #[error("got a URL with scheme {got:?}, expected ws or wss")]
    Scheme {
        /// Its scheme.
        got: String,
    },
    /// A WebSocket URL that cannot be dialled.
    #[error("cannot dial {url}: {fault}")]
    Url {
        /// The URL without what may be secret in it.
        url: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The name has no address.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Every address of the name is one that strangers must not make us dial.
    #[error(
        "{host} is at {address}, which is private or otherwise special, expected a public address: allow private endpoints in the configuration if this is intended"
    )]
    Private {
        /// The name.
        host: String,
        /// Its first address.
        address: IpAddr,
    },
    /// Nobody listens there, or the network is down.
    #[error("cannot connect to {host} at {address}: {source}")]
    Connect {
        /// The name.
        host: String,
        /// The last address that was tried.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The server's certificate is not to be trusted.
    #[error("{host} has no valid certificate: {fault}")]
    Certificate {
        /// The name.
        host: String,
        /// What is wrong with it.
        fault: String,
    },
    /// The server answered, but with something else than a WebSocket.
    #[error("{host} refused the WebSocket with HTTP status {status}")]
    Refused {
        /// The name.
        host: String,
        /// Its answer: 429 and 503 mean too many connections.
        status: u16,
    },
    /// The server speaks something else.
    #[error("no WebSocket with {host}: {source}")]
    Handshake {
        /// The name.
        host: String,
        /// What did not fit.
        source: Box<Error>,
    },
    /// It took too long.
    #[error("no WebSocket with {host} within {seconds} s")]
    TimedOut {
        /// The name.
        host: String,
        /// How long was waited.
        seconds: u64,
    },
    /// We have too many connections ourselves.
    #[error("too many connections: expected at most {limit}")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The transport is stopping.
    #[error("this agent is stopping and opens no more connections")]
    Stopping,
}

/// Opens connections, trusting the certificate authorities of Mozilla's list.
#[derive(Debug)]
pub(super) struct Dialler {
    tls: Arc<ClientConfig>,
}

impl Dialler {
    pub(super) fn new() -> Result<Self, TransportError> {
        Self::trusting(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect())
    }

    pub(super) fn trusting(roots: RootCertStore) -> Result<Self, TransportError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TransportError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: Arc::new(config),
        })
    }

    pub(super) async fn dial(
        &self,
        registry: &Arc<Registry>,
        url: &Url,
        allow_private: bool,
    ) -> Result<ConnectionId, DialError> {
        let target = Target::of(url)?;
        let place = registry.admit(None).map_err(|limit| match limit {
            Limit::Total(limit) | Limit::PerIp(limit) => DialError::TooMany { limit },
        })?;
        let time = registry.config.connect_timeout;
        let opened = timeout(time, async {
            let addresses = target.addresses(allow_private).await?;
            let (stream, remote) = target.connect(&addresses).await?;
            // Small frames answer each other, so waiting for more to send would cost a round trip each time.
            let _ = stream.set_nodelay(true);
            let request = url
                .as_str()
                .into_client_request()
                .map_err(|error| target.no_websocket(error))?;
            let tls = Some(Connector::Rustls(Arc::clone(&self.tls)));
            let settings = Some(settings(&registry.config));
            let (socket, _) = client_async_tls_with_config(request, stream, settings, tls)
                .await
                .map_err(|error| target.no_websocket(error))?;
            Ok((socket, remote))
        });
        let timed_out = |_| DialError::TimedOut {
            host: target.host.to_string(),
            seconds: time.as_secs(),
        };
        let (socket, remote) = opened.await.map_err(timed_out)??;
        registry
            .open(socket, remote, Arc::new(place))
            .ok_or(DialError::Stopping)
    }
}

struct Target {
    host: Host<String>,
    port: u16,
}

impl Target {
    fn of(url: &Url) -> Result<Self, DialError> {
        if !matches!(url.scheme(), "ws" | "wss") {
            return Err(DialError::Scheme {
                got: url.scheme().to_owned(),
            });
        }
        let fault = |fault| DialError::Url {
            url: format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default()),
            fault,
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fault("it has a user name or password, expected none"));
        }
        if url.fragment().is_some() {
            return Err(fault("it has a fragment, expected none"));
        }
        let host = url
            .host()
            .ok_or_else(|| fault("it has no host"))?
            .to_owned();
        let port = url
            .port_or_known_default()
            .ok_or_else(|| fault("it has no port"))?;
        Ok(Self { host, port })
    }

    /// The addresses to try. Of a name with public and private ones only the public are left.
    async fn addresses(&self, allow_private: bool) -> Result<Vec<SocketAddr>, DialError> {
        let mut addresses: Vec<SocketAddr> = match &self.host {
            Host::Ipv4(ip) => vec![(*ip, self.port).into()],
            Host::Ipv6(ip) => vec![(*ip, self.port).into()],
            Host::Domain(name) => lookup_host((name.as_str(), self.port))
                .await
                .map_err(|source| self.unresolved(source))?
                .take(MAX_ADDRESSES)
                .collect(),
        };
        let first = addresses.first().map(SocketAddr::ip);
        addresses.retain(|address| allow_private || is_public(address.ip()));
        match (addresses.is_empty(), first) {
            (false, _) => Ok(addresses),
            (true, Some(address)) => Err(DialError::Private {
                host: self.host.to_string(),
                address,
            }),
            (true, None) => {
                Err(self.unresolved(io::Error::new(io::ErrorKind::NotFound, "it has no address")))
            }
        }
    }

    /// Connects to one of the addresses themselves: the name is not looked up again, it could have another answer by now.
    async fn connect(
        &self,
        addresses: &[SocketAddr],
    ) -> Result<(TcpStream, SocketAddr), DialError> {
        let mut failure =
            self.unresolved(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
        for &address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok((stream, address)),
                Err(source) => {
                    failure = DialError::Connect {
                        host: self.host.to_string(),
                        address,
                        source,
                    }
                }
            }
        }
        Err(failure)
    }

    fn unresolved(&self, source: io::Error) -> DialError {
        DialError::Resolve {
            host: self.host.to_string(),
            source,
        }
    }

    fn no_websocket(&self, error: Error) -> DialError {
        let host = self.host.to_string();
        match error {
            Error::Http(response) => DialError::Refused {
                host,
                status: response.status().as_u16(),
            },
            Error::Io(error) => match certificate_fault(&error) {
                Some(fault) => DialError::Certificate { host, fault },
                None => DialError::Handshake {
                    host,
                    source: Box::new(Error::Io(error)),
                },
            },
            error => DialError::Handshake {
                host,
                source: Box::new(error),
            },
        }
    }
}

/// tokio-rustls wraps the TLS library's error into one of input and output.
fn certificate_fault(error: &io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(fault) => Some(fault.to_string()),
        _ => None,
    }
}
