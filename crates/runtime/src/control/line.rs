//! Lines of limited length, for both ends of the socket.

use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};

/// Reads lines of at most `limit` bytes, newline included.
#[derive(Debug)]
pub(super) struct LineReader<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    limit: usize,
}

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("got a line of more than {0} bytes")]
    TooLong(usize),
    #[error("the connection ended in the middle of a line")]
    Cut,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    pub(super) fn new(reader: R, limit: usize) -> Self {
        Self {
            reader: BufReader::new(reader),
            line: Vec::new(),
            limit,
        }
    }

    /// The next line without its newline; none at the end. What was read stays here when this future is dropped early,
    /// so it may stand in a `select!`.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, LineError> {
        let room = self.limit.saturating_sub(self.line.len()) as u64;
        (&mut self.reader)
            .take(room)
            .read_until(b'\n', &mut self.line)
            .await?;
        if self.line.last() == Some(&b'\n') {
            let mut line = std::mem::take(&mut self.line);
            line.pop();
            return Ok(Some(line));
        }
        match self.line.len() {
            0 => Ok(None),
            read if read >= self.limit => Err(LineError::TooLong(self.limit)),
            _ => Err(LineError::Cut),
        }
    }
}
