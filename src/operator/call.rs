//! One request over HTTP/1.1, one connection each, everything with a deadline. Knows nothing of what is asked.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// For one address of the node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// From the request to the end of the answer; a node answers within 30 s, if only that it cannot.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// Largest answer; the largest page of the slot table has a tenth of it.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Where the API is and what it wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Door {
    /// `HOST:PORT`.
    host: String,
    token: String,
}

impl Door {
    /// Of `http://HOST:PORT`, the scheme may be left out.
    pub(super) fn parse(api: &str, token: &str) -> Result<Door, String> {
        let host = api.strip_prefix("http://").unwrap_or(api).trim_end_matches('/');
        let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
        if name.is_empty() || name.contains('/') || port.parse::<u16>().is_err() {
            return Err(format!("--api {api:?} is not allowed; allowed: http://HOST:PORT"));
        }
        if token.chars().any(char::is_control) {
            return Err("--token is not allowed: it holds a control character".to_owned());
        }
        Ok(Door { host: host.to_owned(), token: token.to_owned() })
    }

    /// Status and body; without a body to send it is a GET.
    pub(super) fn call(&self, path: &str, body: Option<&str>) -> io::Result<(u16, String)> {
        let mut stream = self.dial()?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(self.request(path, body).as_bytes())?;
        let mut raw = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut raw)?;
        parse_answer(&raw).ok_or_else(|| io::Error::other(format!("{} does not speak HTTP", self.host)))
    }

    fn request(&self, path: &str, body: Option<&str>) -> String {
        let method = if body.is_some() { "POST" } else { "GET" };
        let body = body.unwrap_or("");
        let token = if self.token.is_empty() { String::new() } else { format!("token: {}\r\n", self.token) };
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n{token}\
             content-length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        )
    }

    fn dial(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", self.host));
        for address in self.host.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl std::fmt::Display for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}", self.host)
    }
}

/// The connection was closed behind it, so all that came is the answer.
fn parse_answer(raw: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(raw);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    Some((words.next()?.parse().ok()?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_anything_is_dialed() {
        for good in ["http://127.0.0.1:5001", "localhost:5001", "http://[::1]:80/"] {
            assert!(Door::parse(good, "").is_ok(), "{good}");
        }
        for bad in ["https://h:1", "h", "http://:80", "h:99999", "http://h:1/path"] {
            assert!(Door::parse(bad, "").is_err(), "{bad}");
        }
        assert!(Door::parse("h:1", "a\r\nb").is_err());
    }

    #[test]
    fn a_request_is_whole_and_an_answer_is_taken_apart() {
        let door = Door::parse("http://h:1", "secret").unwrap();
        let request = door.request("/cluster/drain", Some("{}"));
        assert!(request.starts_with("POST /cluster/drain HTTP/1.1\r\nhost: h:1\r\n"), "{request}");
        assert!(request.contains("\r\ntoken: secret\r\n") && request.ends_with("content-length: 2\r\n\r\n{}"));
        assert_eq!(parse_answer(b"HTTP/1.1 409 Conflict\r\na: b\r\n\r\n{}"), Some((409, "{}".to_owned())));
        assert_eq!(parse_answer(b"SSH-2.0-x\r\n\r\n"), None);
    }
}
