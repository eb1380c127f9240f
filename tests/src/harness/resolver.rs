//! `beacon-participant resolver serve`, asked over bare sockets.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use serde_json::Value;

use super::process::Process;
use super::{Binary, DEADLINE};

/// A running resolver.
#[derive(Debug)]
pub struct Resolver {
    host: String,
    process: Process,
}

/// An answer of it.
#[derive(Debug)]
pub struct Served {
    /// The status.
    pub status: u16,
    /// The lines of its head, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Resolver {
    /// One on a free port, with these options of `resolver serve`.
    pub async fn start(folder: &Path, options: &[&str]) -> Self {
        let home = folder.join("resolver-home").display().to_string();
        let fixed = ["--json", "--data-dir", &home, "resolver", "serve"];
        let arguments = fixed.iter().chain(&["--listen", "127.0.0.1:0"]);
        let arguments: Vec<_> = arguments.chain(options).map(ToString::to_string).collect();
        let mut process = Process::start(
            "resolver",
            folder,
            Binary::Participant,
            &arguments,
            HashMap::new(),
            None,
        );
        let line = process.line().await.unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["event"], "ready");
        let url = ready["url"].as_str().unwrap();
        Self {
            host: url.trim_start_matches("http://").to_owned(),
            process,
        }
    }

    /// A new connection.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.host).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// A GET; `accept` may be empty.
    pub fn get(&self, path: &str, accept: &str) -> Served {
        self.request("GET", path, accept, "")
    }

    /// A POST; `accept` may be empty.
    pub fn post(&self, path: &str, accept: &str, body: &str) -> Served {
        self.request("POST", path, accept, body)
    }

    /// Any request.
    pub fn request(&self, method: &str, path: &str, accept: &str, body: &str) -> Served {
        let mut stream = self.connect();
        let accept = match accept {
            "" => String::new(),
            accept => format!("Accept: {accept}\r\n"),
        };
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{accept}",
            self.host
        );
        let head = format!("{head}Connection: close\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // The server may answer and close before it has read a body that is too large.
        let _ = stream.write_all(body.as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Served {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    /// Sends a signal to the process.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for its end and says with which code.
    pub async fn ended(mut self) -> Option<i32> {
        self.process.exit().await.code()
    }
}

impl Served {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }
}
