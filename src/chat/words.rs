//! What the chat client writes for people, and the payload it writes for programs.

/// WuKongIM's text message.
pub(super) fn payload_of(text: &str) -> Vec<u8> {
    serde_json::json!({"type": 1, "content": text}).to_string().into_bytes()
}

/// The text of a payload; one that is no text message is shown as it is.
pub(super) fn text_of(payload: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(payload).ok();
    let content = json.as_ref().and_then(|json| json.get("content")).and_then(|content| content.as_str());
    match content {
        Some(text) => printable(text),
        None => printable(&String::from_utf8_lossy(payload)),
    }
}

/// Without control characters: what others send must not steer this terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Hours, minutes and seconds in UTC, which needs no time zone of the machine.
pub(super) fn time_of_day(unix_s: i32) -> String {
    let second = unix_s.rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Whether a refusal of CONNECT may be different the next time: an inner fault, or a user who is being moved.
pub(super) fn passes(reason: u8) -> bool {
    matches!(reason, 15 | 18)
}

/// Why a CONNECT was refused.
pub(super) fn connack_refusal(reason: u8) -> String {
    let words = match reason {
        2 => "wrong token, or a key that the node does not take",
        15 => "the node has an inner fault",
        18 => "another node is responsible for this user",
        19 => "this user is banned",
        21 => "the node wants a cipher; leave out --plain",
        _ => "the node gives no known reason",
    };
    format!("not let in: {words} (reason {reason})")
}

/// Why a message was refused.
pub(super) fn sendack_refusal(reason: u8) -> String {
    let words = match reason {
        9 => "the node could not read it",
        11 => "sending is not allowed",
        15 => "the node has an inner fault",
        16 => "there can be no such recipient",
        19 => "this user is banned",
        22 => "too fast, or the node is behind; try again later",
        23 => "the node does not serve this kind of channel",
        28 => "its number was used for another message",
        _ => "no known reason",
    };
    format!("{words}, reason {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_send_cannot_steer_the_terminal() {
        assert_eq!(text_of(br#"{"type":1,"content":"a\u001b[2Jb\nc"}"#), "a [2Jb c");
        assert_eq!(text_of(b"\x07raw\xff"), " raw\u{fffd}");
        assert_eq!(text_of(&payload_of("h\"i")), "h\"i");
    }

    #[test]
    fn times_are_of_the_day() {
        assert_eq!(time_of_day(1_700_000_000), "22:13:20Z");
        assert_eq!(time_of_day(-1), "23:59:59Z");
    }
}
