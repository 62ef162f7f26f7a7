//! The HTTP/1.1 request that turns a socket into a WebSocket, and its answer, for both ends (RFC 6455, section 4).
//! Any path is taken, as clients open the configured address as it is. Does not serve HTTP: whatever is no upgrade
//! gets a short answer and the connection ends. Frames are [`super::websocket`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// Bytes of a request or answer up to its empty line. Browsers with large cookies stay below. Over it: 431.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// RFC 6455, section 1.3.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// An upgrade that will not happen, in words for the log. An HTTP answer has been written where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

/// Why, and what to answer.
struct Answer(&'static str, &'static str);

const NOT_HTTP: Answer = Answer("400 Bad Request", "websocket upgrade is not an HTTP/1.1 GET");
const NO_UPGRADE: Answer = Answer("426 Upgrade Required", "request is no websocket upgrade");
const NOT_VERSION_13: Answer = Answer("426 Upgrade Required", "websocket version is not 13");
const BAD_KEY: Answer = Answer("400 Bad Request", "websocket key is missing or not 16 bytes of base64");
const TOO_LONG: Answer = Answer("431 Request Header Fields Too Large", "websocket upgrade is longer than 8 KiB");

/// Server's side: looks for a whole request at the beginning of `bytes`. When there is one, appends the answer to `reply`
/// and gives the length of the request; frames follow it. `None` while it is cut.
///
/// # Errors
/// [`Refused`]; an answer that says why is in `reply`.
pub fn accept(bytes: &[u8], reply: &mut Vec<u8>) -> Result<Option<usize>, Refused> {
    let key = match head(bytes) {
        Ok(None) => return Ok(None),
        Ok(Some(text)) => check_request(text).map(|key| (key, text.len())),
        Err(answer) => Err(answer),
    };
    match key {
        Ok((key, head_bytes)) => {
            reply.extend_from_slice(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
            );
            reply.extend_from_slice(&accept_key(key.as_bytes()));
            reply.extend_from_slice(b"\r\n\r\n");
            Ok(Some(head_bytes))
        }
        Err(Answer(status, what)) => {
            reply.extend_from_slice(b"HTTP/1.1 ");
            reply.extend_from_slice(status.as_bytes());
            reply.extend_from_slice(b"\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: close\r\n");
            reply.extend_from_slice(format!("Content-Length: {}\r\n\r\n{what}\n", what.len() + 1).as_bytes());
            Err(Refused(what))
        }
    }
}

/// Client's side: appends the request. `key` is 16 random bytes.
pub fn request(host: &str, path: &str, key: [u8; 16], out: &mut Vec<u8>) {
    let text = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n\r\n",
        STANDARD.encode(key)
    );
    out.extend_from_slice(text.as_bytes());
}

/// Client's side: checks the answer at the beginning of `bytes` and gives its length; `None` while it is cut.
///
/// # Errors
/// [`Refused`]: the server does not speak WebSocket, or not to us.
pub fn check_answer(bytes: &[u8], key: [u8; 16]) -> Result<Option<usize>, Refused> {
    let text = match head(bytes) {
        Ok(None) => return Ok(None),
        Ok(Some(text)) => text,
        Err(_) => {
            return Err(Refused("answer to the websocket upgrade is not HTTP, or endless"));
        }
    };
    if !text.starts_with("HTTP/1.1 101") {
        return Err(Refused("server refused the websocket upgrade"));
    }
    let expected = accept_key(STANDARD.encode(key).as_bytes());
    let accepted = field(text, "sec-websocket-accept").is_some_and(|value| value.as_bytes() == expected);
    if !accepted || !lists(text, "upgrade", "websocket") || !lists(text, "connection", "upgrade") {
        return Err(Refused("answer to the websocket upgrade does not fit the request"));
    }
    Ok(Some(text.len()))
}

/// The text up to and with the empty line; `None` while it has not come.
fn head(bytes: &[u8]) -> Result<Option<&str>, Answer> {
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let Some(at) = window.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() >= HEAD_BYTES_MAX { Err(TOO_LONG) } else { Ok(None) };
    };
    std::str::from_utf8(&window[..at + 4]).map(Some).map_err(|_| NOT_HTTP)
}

/// The client's key, if everything else is right.
fn check_request(text: &str) -> Result<&str, Answer> {
    let line = text.split("\r\n").next().unwrap_or("");
    let mut words = line.split(' ');
    let well_formed = words.next() == Some("GET")
        && words.next().is_some_and(|path| !path.is_empty())
        && words.next() == Some("HTTP/1.1")
        && words.next().is_none();
    if !well_formed {
        return Err(NOT_HTTP);
    }
    if !lists(text, "upgrade", "websocket") || !lists(text, "connection", "upgrade") {
        return Err(NO_UPGRADE);
    }
    if field(text, "sec-websocket-version") != Some("13") {
        return Err(NOT_VERSION_13);
    }
    let key = field(text, "sec-websocket-key").ok_or(BAD_KEY)?;
    match STANDARD.decode(key) {
        Ok(raw) if raw.len() == 16 => Ok(key),
        _ => Err(BAD_KEY),
    }
}

/// Values of a header field, in order; names do not care for case.
fn fields<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    text.split("\r\n").skip(1).filter_map(move |line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The value of a header field that may come only once.
fn field<'a>(text: &'a str, name: &'a str) -> Option<&'a str> {
    let mut values = fields(text, name);
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// Whether a field lists a token among others.
fn lists(text: &str, name: &str, token: &str) -> bool {
    fields(text, name).flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

fn accept_key(key_text: &[u8]) -> Vec<u8> {
    let digest = Sha1::new().chain_update(key_text).chain_update(MAGIC).finalize();
    STANDARD.encode(digest).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = "GET /chat?x=1 HTTP/1.1\r\nHost: server.example.com\r\nupgrade: WebSocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\nOrigin: http://example.com\r\n\r\n";

    fn answer_to(request: &str) -> (Result<Option<usize>, Refused>, String) {
        let mut reply = Vec::new();
        let outcome = accept(request.as_bytes(), &mut reply);
        (outcome, String::from_utf8(reply).unwrap())
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted_and_every_cut_waits() {
        let (outcome, reply) = answer_to(&format!("{REQUEST}frames"));
        assert_eq!(outcome, Ok(Some(REQUEST.len())));
        assert!(reply.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{reply}");
        for cut in 0..REQUEST.len() {
            assert_eq!(answer_to(&REQUEST[..cut]), (Ok(None), String::new()));
        }
    }

    #[test]
    fn what_is_no_upgrade_is_told_so() {
        let refused = |request: &str, status: &str| {
            let (outcome, reply) = answer_to(request);
            assert!(outcome.is_err(), "{request}");
            assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
            assert!(reply.contains("\r\n\r\n"));
        };
        refused(&REQUEST.replace("GET", "POST"), "400");
        refused(&REQUEST.replace("HTTP/1.1", "HTTP/1.0"), "400");
        refused(&REQUEST.replace("WebSocket\r\n", "h2c\r\n"), "426");
        refused(&REQUEST.replace("keep-alive, Upgrade", "keep-alive"), "426");
        refused(&REQUEST.replace("Version: 13", "Version: 8"), "426");
        refused(&REQUEST.replace("dGhl", ""), "400");
        refused(&REQUEST.replace("Sec-WebSocket-Key", "X-Key"), "400");
        refused(&"x".repeat(HEAD_BYTES_MAX), "431");
        refused("\r\n\r\n", "400");
    }

    #[test]
    fn both_ends_understand_each_other_and_a_wrong_answer_is_seen() {
        let key = [7; 16];
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        request("127.0.0.1:5200", "/", key, &mut asked);
        assert_eq!(accept(&asked, &mut answered), Ok(Some(asked.len())));
        assert_eq!(check_answer(&answered, key), Ok(Some(answered.len())));
        assert_eq!(check_answer(&answered[..30], key), Ok(None));
        assert!(check_answer(&answered, [8; 16]).is_err());
        assert!(check_answer(b"HTTP/1.1 404 Not Found\r\n\r\n", key).is_err());
    }
}
