//! An Esplora server that lies: it hands every request on, and changes answers as a test wants.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::DEADLINE;

/// Makes the body of the answer to a path another one; `None`: the server says that it does not know.
type Lie = Box<dyn Fn(&str, Vec<u8>) -> Option<Vec<u8>> + Send>;

/// A server before an honest one. It tells the truth until it is told to lie.
pub struct Liar {
    url: String,
    lie: Arc<Mutex<Lie>>,
}

impl std::fmt::Debug for Liar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Liar").field(&self.url).finish()
    }
}

impl Liar {
    /// Starts one before the server with this base URL. It lives as long as the test.
    pub fn before(honest: &str) -> Self {
        let honest: SocketAddr = honest.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let truth: Lie = Box::new(|_, body| Some(body));
        let lie = Arc::new(Mutex::new(truth));
        let told = Arc::clone(&lie);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, told) = (client.unwrap(), Arc::clone(&told));
                std::thread::spawn(move || serve(&client, honest, &told));
            }
        });
        Self { url, lie }
    }

    /// Its base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Lies like this from now on.
    pub fn lies(&self, lie: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>> + Send + 'static) {
        *self.lie.lock().unwrap() = Box::new(lie);
    }

    /// Tells the truth from now on.
    pub fn tells_the_truth(&self) {
        self.lies(|_, body| Some(body));
    }
}

/// One request and its answer. A client that goes away is no failure.
fn serve(client: &TcpStream, honest: SocketAddr, lie: &Mutex<Lie>) -> Option<()> {
    client.set_read_timeout(Some(DEADLINE)).ok()?;
    let mut reader = BufReader::new(client);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let length = content_length(&mut reader)?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let path = first.split(' ').nth(1)?;

    let mut server = TcpStream::connect(honest).ok()?;
    let first = first.trim_end();
    write!(
        server,
        "{first}\r\nHost: {honest}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    )
    .ok()?;
    server.write_all(&body).ok()?;
    let mut reader = BufReader::new(server);
    let mut status = String::new();
    reader.read_line(&mut status).ok()?;
    content_length(&mut reader)?;
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).ok()?;

    let told = (lie.lock().unwrap())(path, answer);
    let (status, answer) = match told {
        Some(answer) => (status.trim_end().to_owned(), answer),
        None => (
            "HTTP/1.1 404 Not Found".to_owned(),
            b"Transaction not found".to_vec(),
        ),
    };
    let mut client = client;
    write!(
        client,
        "{status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        answer.len()
    )
    .ok()?;
    client.write_all(&answer).ok()
}

/// Reads headers to their end. Says how long the body is.
fn content_length(reader: &mut impl std::io::BufRead) -> Option<usize> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            return Some(length);
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
}
