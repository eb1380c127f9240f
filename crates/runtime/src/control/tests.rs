use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::*;
use crate::counts::Counts;
use crate::limits::Limits;

/// A running server. Its handler knows `echo`, `follow` (a stream that the test feeds), `silent` (never answers), `drop`.
struct Running {
    _folder: TempDir,
    path: PathBuf,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    /// The senders of the streams that were started.
    streams: mpsc::Receiver<mpsc::Sender<Value>>,
    counts: Counts,
}

async fn bind(path: &Path) -> Result<ControlServer, ControlError> {
    ControlServer::bind(path, &Limits::default(), &Counts::default()).await
}

impl Running {
    async fn start() -> Self {
        Self::start_with(&Limits::default(), None).await
    }

    async fn start_with_timeout(timeout: Duration) -> Self {
        Self::start_with(&Limits::default(), Some(timeout)).await
    }

    async fn start_with(limits: &Limits, timeout: Option<Duration>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let counts = Counts::default();
        let mut server = ControlServer::bind(&path, limits, &counts).await.unwrap();
        server.timeout = timeout.unwrap_or(server.timeout);
        let (handler, requests) = mpsc::channel(1);
        let (stop, stopped) = oneshot::channel();
        let (started, streams) = mpsc::channel(8);
        tokio::spawn(handle(requests, started));
        let server = tokio::spawn(server.serve(handler, async { drop(stopped.await) }));
        Self {
            _folder: folder,
            path,
            stop,
            server,
            streams,
            counts,
        }
    }

    async fn raw(&self) -> Raw {
        Raw(BufReader::new(
            UnixStream::connect(&self.path).await.unwrap(),
        ))
    }
}

async fn handle(
    mut requests: mpsc::Receiver<ControlRequest>,
    started: mpsc::Sender<mpsc::Sender<Value>>,
) {
    let mut unanswered = Vec::new();
    while let Some(ControlRequest {
        method,
        params,
        reply,
    }) = requests.recv().await
    {
        let answer = match method.as_str() {
            "echo" => ControlReply::Result(params),
            "follow" => {
                let (sender, events) = mpsc::channel(4);
                started.send(sender).await.unwrap();
                ControlReply::Stream {
                    result: json!("following"),
                    events,
                }
            }
            "silent" => {
                unanswered.push(reply);
                continue;
            }
            "drop" => continue,
            other => ControlReply::Error(RpcError::method_not_found(other)),
        };
        let _ = reply.send(answer);
    }
}

/// A client that sends what it likes.
struct Raw(BufReader<UnixStream>);

impl Raw {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    async fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn ask(&mut self, line: &str) -> Value {
        self.send(format!("{line}\n").as_bytes()).await;
        self.receive().await
    }

    async fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        // A close with unread bytes is a reset.
        let _ = self.0.read_to_end(&mut rest).await;
        assert_eq!(String::from_utf8(rest).unwrap(), "");
    }
}

#[tokio::test]
async fn a_call_gets_its_result() {
    let running = Running::start().await;
    for params in [json!({"a": [1, "ü\n"]}), json!([1, 2])] {
        assert_eq!(
            call(&running.path, "echo", params.clone()).await.unwrap(),
            params
        );
    }
    assert_eq!(
        call(&running.path, "echo", Value::Null).await.unwrap(),
        Value::Null
    );
}

#[tokio::test]
async fn a_large_request_passes() {
    let running = Running::start().await;
    let text = json!(["x".repeat(Limits::default().control_request_bytes - 100)]);
    assert_eq!(
        call(&running.path, "echo", text.clone()).await.unwrap(),
        text
    );
}

#[tokio::test]
async fn an_unknown_method_is_told_apart() {
    let running = Running::start().await;
    let error = call(&running.path, "nonsense", Value::Null)
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            CallError::Rpc(RpcError {
                code: METHOD_NOT_FOUND,
                ..
            })
        ),
        "{error}"
    );
    assert_eq!(error.to_string(), "unknown method \"nonsense\"");
}

#[tokio::test]
async fn a_reply_that_is_dropped_is_an_internal_error() {
    let running = Running::start().await;
    let error = call(&running.path, "drop", Value::Null).await.unwrap_err();
    assert!(
        matches!(
            &error,
            CallError::Rpc(RpcError {
                code: INTERNAL_ERROR,
                ..
            })
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_reply_that_never_comes_is_a_timeout() {
    let running = Running::start_with_timeout(Duration::from_millis(20)).await;
    let error = call(&running.path, "silent", Value::Null)
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            CallError::Rpc(RpcError {
                code: TIMED_OUT,
                ..
            })
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let running = Running::start_with_timeout(Duration::from_millis(20)).await;
    running.raw().await.assert_closed().await;
}

#[tokio::test]
async fn bad_lines_get_their_codes_and_the_connection_lives_on() {
    let running = Running::start().await;
    let mut raw = running.raw().await;
    let cases = [
        ("{\"jsonrpc\"", PARSE_ERROR, Value::Null),
        ("\u{0}garbage", PARSE_ERROR, Value::Null),
        ("17", INVALID_REQUEST, Value::Null),
        (
            r#"[{"jsonrpc":"2.0","id":1,"method":"echo"}]"#,
            INVALID_REQUEST,
            Value::Null,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"echo"}"#,
            INVALID_REQUEST,
            Value::Null,
        ),
        (
            r#"{"jsonrpc":"2.0","id":{},"method":"echo"}"#,
            INVALID_REQUEST,
            Value::Null,
        ),
        (
            r#"{"jsonrpc":"1.0","id":5,"method":"echo"}"#,
            INVALID_REQUEST,
            json!(5),
        ),
        (r#"{"id":"x","method":"echo"}"#, INVALID_REQUEST, json!("x")),
        (r#"{"jsonrpc":"2.0","id":5}"#, INVALID_REQUEST, json!(5)),
        (
            r#"{"jsonrpc":"2.0","id":5,"method":1}"#,
            INVALID_REQUEST,
            json!(5),
        ),
        (
            r#"{"jsonrpc":"2.0","id":5,"method":"echo","params":7}"#,
            INVALID_REQUEST,
            json!(5),
        ),
        (
            r#"{"jsonrpc":"2.0","id":5,"method":"nonsense"}"#,
            METHOD_NOT_FOUND,
            json!(5),
        ),
    ];
    for (line, code, id) in cases {
        let answer = raw.ask(line).await;
        assert_eq!(answer["error"]["code"], json!(code), "{line}: {answer}");
        assert_eq!(answer["id"], id, "{line}: {answer}");
        assert_eq!(answer["jsonrpc"], "2.0");
    }
    raw.send(b"\n  \r\n").await;
    let answer = raw
        .ask(r#"{"jsonrpc":"2.0","id":"last","method":"echo","params":[1]}"#)
        .await;
    assert_eq!(
        answer,
        json!({"jsonrpc": "2.0", "id": "last", "result": [1]})
    );
}

#[tokio::test]
async fn a_line_over_the_limit_is_refused_and_the_connection_closed() {
    let running = Running::start().await;
    let mut raw = running.raw().await;
    raw.send(&vec![b'['; Limits::default().control_request_bytes])
        .await;
    let answer = raw.receive().await;
    assert_eq!(answer["error"]["code"], json!(INVALID_REQUEST));
    assert_eq!(
        answer["error"]["message"],
        "got a request of more than 1048576 bytes"
    );
    raw.assert_closed().await;
}

#[tokio::test]
async fn a_stream_is_a_result_and_then_events() {
    let mut running = Running::start().await;
    let mut follow = follow(&running.path, "follow", Value::Null).await.unwrap();
    assert_eq!(follow.result, "following");
    let events = running.streams.recv().await.unwrap();
    for number in 0..10 {
        events.send(json!({ "number": number })).await.unwrap();
        assert_eq!(
            follow.next().await.unwrap(),
            Some(json!({ "number": number }))
        );
    }
    drop(events);
    assert_eq!(follow.next().await.unwrap(), None);
}

#[tokio::test]
async fn events_have_the_documented_form() {
    let mut running = Running::start().await;
    let mut raw = running.raw().await;
    let answer = raw
        .ask(r#"{"jsonrpc":"2.0","id":1,"method":"follow"}"#)
        .await;
    assert_eq!(
        answer,
        json!({"jsonrpc": "2.0", "id": 1, "result": "following"})
    );
    running
        .streams
        .recv()
        .await
        .unwrap()
        .send(json!([1]))
        .await
        .unwrap();
    assert_eq!(
        raw.receive().await,
        json!({"jsonrpc": "2.0", "method": "event", "params": [1]})
    );
}

#[tokio::test]
async fn a_follower_that_hangs_up_ends_its_stream() {
    let mut running = Running::start().await;
    let follow = follow(&running.path, "follow", Value::Null).await.unwrap();
    let events = running.streams.recv().await.unwrap();
    drop(follow);
    events.closed().await;
}

#[tokio::test]
async fn there_is_a_limit_of_connections_and_a_place_becomes_free() {
    let limits = Limits {
        control_connections: 3,
        ..Limits::default()
    };
    let running = Running::start_with(&limits, None).await;
    let mut open = Vec::new();
    for _ in 0..limits.control_connections {
        let mut raw = running.raw().await;
        // Answered, so it has its place.
        raw.ask(r#"{"jsonrpc":"2.0","id":1,"method":"echo"}"#).await;
        open.push(raw);
    }
    let error = call(&running.path, "echo", Value::Null).await.unwrap_err();
    assert!(
        matches!(&error, CallError::Rpc(RpcError { code: BUSY, .. })),
        "{error}"
    );
    assert_eq!(running.counts.of("control-over-limit"), 1);
    drop(open.pop());
    // The server notices the hang-up in its own time.
    while let Err(error) = call(&running.path, "echo", Value::Null).await {
        assert!(
            matches!(&error, CallError::Rpc(RpcError { code: BUSY, .. })),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_socket_is_private_and_gone_after_the_end() {
    let running = Running::start().await;
    assert_eq!(
        fs::metadata(&running.path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let Running {
        _folder,
        path,
        stop,
        server,
        mut streams,
        ..
    } = running;
    let mut follow = follow(&path, "follow", Value::Null).await.unwrap();
    let _events = streams.recv().await.unwrap();
    stop.send(()).unwrap();
    server.await.unwrap();
    assert_eq!(follow.next().await.unwrap(), None);
    assert!(!path.exists());
}

#[tokio::test]
async fn without_a_server_the_remedy_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let told = |error: &CallError| {
        assert!(matches!(error, CallError::NotRunning { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains("start it with the `run` command"),
            "{error}"
        );
        assert!(error.to_string().contains("control.sock"), "{error}");
    };
    told(&call(&path, "echo", Value::Null).await.unwrap_err());
    drop(UnixListener::bind(&path).unwrap());
    assert!(
        path.exists(),
        "the socket of the dead process is the second case"
    );
    told(&call(&path, "echo", Value::Null).await.unwrap_err());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    let first = bind(&path).await.unwrap();
    let error = bind(&path).await.unwrap_err();
    assert!(matches!(error, ControlError::InUse { .. }), "{error}");
    drop(first);
    bind(&path).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    fs::write(&path, "precious").unwrap();
    let error = bind(&path).await.unwrap_err();
    assert!(matches!(error, ControlError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

/// Answers one connection with fixed bytes and hangs up.
async fn answered_with(bytes: &'static [u8]) -> CallError {
    let folder = tempfile::tempdir().unwrap();
    let path: &Path = &folder.path().join("control.sock");
    let listener = UnixListener::bind(path).unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(bytes).await.unwrap();
    };
    let (answer, ()) = tokio::join!(call(path, "echo", Value::Null), server);
    answer.unwrap_err()
}

#[tokio::test]
async fn a_client_survives_any_answer() {
    assert!(matches!(answered_with(b"").await, CallError::HungUp { .. }));
    for bytes in [
        &b"garbage\n"[..],
        b"{}\n",
        b"[]\n",
        b"{\"error\": 5}\n",
        b"{\"result\": 1}",
    ] {
        let error = answered_with(bytes).await;
        assert!(matches!(error, CallError::Malformed { .. }), "{error}");
    }
}
