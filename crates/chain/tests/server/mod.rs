//! An HTTP server that answers what a test makes up, and what must come of it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(dead_code, reason = "each test program uses some of it")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use beacon_chain::{ChainError, EsploraChain, Reason};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// Serves every request with the bytes that `answer` makes of its request line. The thread ends
/// with the test process.
pub(crate) fn server(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> SocketAddr {
    whole_server(move |request| answer(request.lines().next().unwrap_or_default()))
}

/// The same, of its whole request.
pub(crate) fn whole_server(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = read_request(&mut stream);
            // A client that gave up is no failure of the test.
            let _ = stream.write_all(&answer(&request));
        }
    });
    address
}

/// Reads head and body, so that closing the socket does not reset the connection.
fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .map_or(0, |(_, value)| value.parse().unwrap());
            if body.len() >= length {
                return text;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return text,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

pub(crate) fn http(status: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub(crate) fn client(address: SocketAddr) -> EsploraChain {
    EsploraChain::new(&format!("http://{address}"), TIMEOUT, 0).unwrap()
}

pub(crate) fn assert_garbage<T: std::fmt::Debug>(result: Result<T, ChainError>) {
    let Err(ChainError::Garbage { reason }) = result else {
        panic!("got {result:?}, expected garbage");
    };
    assert!(reason.as_str().chars().count() <= Reason::MAX_CHARS);
}
