//! What arrives is byte for byte what was sent, names the right people, and reaches only those it is for.

use crate::ledger::{Kind, LogKey, Number, Sent, payload};

/// What a RECV or a log read showed of a message.
pub struct Copy<'a> {
    /// Its number.
    pub number: Number,
    /// Sender as shown.
    pub from: &'a str,
    /// Bytes as shown.
    pub payload: &'a [u8],
}

/// The message itself.
pub fn body(copy: &Copy<'_>, sent: &Sent, from: &str) -> Result<(), String> {
    if copy.from != from {
        return Err(format!("message {} of {from} arrived as one of {}", copy.number, copy.from));
    }
    if copy.payload != payload(copy.number, sent.payload_bytes, false) {
        return Err(format!(
            "message {} arrived with another payload: {:?}",
            copy.number,
            String::from_utf8_lossy(&copy.payload[..copy.payload.len().min(60)])
        ));
    }
    Ok(())
}

/// Who sees it, and in which log: the recipient, or the sender under the recipient's name. A sender's copy of a command is
/// in the sender's own queue.
pub fn view(number: Number, sent: &Sent, viewer: usize, channel_user: usize) -> Result<LogKey, String> {
    if viewer == sent.to && channel_user == sent.from {
        return Ok(sent.log());
    }
    if viewer == sent.from && channel_user == sent.to {
        return Ok(if sent.kind == Kind::Command { LogKey::Command(viewer) } else { sent.log() });
    }
    Err(format!(
        "message {number} from user {} to user {} was shown to user {viewer} in the channel of user {channel_user}",
        sent.from, sent.to
    ))
}
