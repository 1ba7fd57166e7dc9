//! A plain HTTP/1.1 client (RFC 9112) that shows exactly what came back, and can send what no good client would.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// How long a client waits for any one byte.
const PATIENCE: Duration = Duration::from_secs(30);

/// One answer.
#[derive(Debug)]
pub struct Response {
    /// Such as 200.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// All of the body.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value; names are compared without regard to case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the server keeps the connection open after this answer.
    pub fn keeps_open(&self) -> bool {
        !self
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// One connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    pub fn open(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)
            .with_context(|| format!("connecting to {server}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(64 << 10, stream),
        })
    }

    /// Sends these bytes, whatever they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(bytes)?)
    }

    /// Sends a request without a body; `headers` are whole lines without their ends.
    pub fn request(&mut self, method: &str, target: &str, headers: &[&str]) -> Result<()> {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: guest\r\n");
        for header in headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        self.send(text.as_bytes())
    }

    /// Receives the answer to a request that was sent with `method`: an answer to HEAD has a length, but no body.
    pub fn response(&mut self, method: &str) -> Result<Response> {
        let first = self.line()?;
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|digits| digits.parse().ok())
            .with_context(|| format!("not a status line: {first:?}"))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line
                .split_once(':')
                .with_context(|| format!("not a header: {line:?}"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        if method != "HEAD" && status >= 200 && status != 204 && status != 304 {
            response.body = self.body(&response)?;
        }
        Ok(response)
    }

    /// One request and its answer.
    pub fn exchange(&mut self, method: &str, target: &str, headers: &[&str]) -> Result<Response> {
        self.request(method, target, headers)?;
        self.response(method)
    }

    /// Whether the server closes the connection without sending anything more.
    pub fn is_closed_by_server(&mut self) -> bool {
        match self.stream.fill_buf() {
            Ok(rest) => rest.is_empty(),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// How long to wait for any one byte from now on.
    pub fn set_patience(&mut self, patience: Duration) -> Result<()> {
        Ok(self.stream.get_mut().set_read_timeout(Some(patience))?)
    }

    /// The socket.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.stream.get_mut()
    }

    fn body(&mut self, response: &Response) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        if response
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            loop {
                let line = self.line()?;
                let size = usize::from_str_radix(&line, 16)
                    .with_context(|| format!("not a chunk's size: {line:?}"))?;
                self.take(size, &mut body)?;
                let end = self.line()?;
                ensure!(end.is_empty(), "after a chunk: {end:?}");
                if size == 0 {
                    return Ok(body);
                }
            }
        }
        if let Some(length) = response.header("content-length") {
            self.take(
                length
                    .parse()
                    .with_context(|| format!("not a length: {length:?}"))?,
                &mut body,
            )?;
        } else {
            ensure!(
                !response.keeps_open(),
                "a body without a length on a connection that stays open"
            );
            self.stream.read_to_end(&mut body)?;
        }
        Ok(body)
    }

    fn take(&mut self, count: usize, body: &mut Vec<u8>) -> Result<()> {
        let got = self.stream.by_ref().take(count as u64).read_to_end(body)?;
        ensure!(
            got == count,
            "the connection ended after {got} of {count} bytes of the body"
        );
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let got = self
            .stream
            .by_ref()
            .take(64 << 10)
            .read_until(b'\n', &mut line)
            .context("waiting for a line")?;
        if got == 0 {
            bail!("the connection ended where a line should start");
        }
        ensure!(
            line.ends_with(b"\r\n"),
            "a line that does not end in CR LF: {:?}",
            String::from_utf8_lossy(&line)
        );
        line.truncate(line.len() - 2);
        Ok(String::from_utf8(line)?)
    }
}

/// One GET request on a connection of its own.
pub fn get(server: SocketAddr, target: &str) -> Result<Response> {
    Connection::open(server)?.exchange("GET", target, &["Connection: close"])
}

/// A path as a request's target: everything but letters, digits, `/`, `-`, `.`, `_` and `~` as %XX (RFC 3986 §2).
pub fn target_of(path: &str) -> String {
    let mut target = String::from("/");
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            target.push(char::from(byte));
        } else {
            target.push_str(&format!("%{byte:02X}"));
        }
    }
    target
}
