//! Any bytes as a message of a link's handshake, as they are and behind a right header: refused or not, never a panic; what is
//! let in is no larger than what was given, and what a stranger made up never proves anything.
//! Run with `cargo +nightly fuzz run --fuzz-dir tests/fuzz link_hello`.
#![no_main]

use jindou::format::link_hello::{
    BadHello, LINK_HEADER_BYTES, LINK_MAGIC, LINK_MESSAGE_BYTES_MAX, LINK_VERSION, LinkKey, LinkMessage, decode,
    encode_hello, encode_refuse, verify_proof, verify_welcome,
};
use libfuzzer_sys::fuzz_target;

fn check(bytes: &[u8]) {
    match decode(bytes) {
        Ok((message, taken)) => {
            assert!(taken <= bytes.len() && taken <= LINK_MESSAGE_BYTES_MAX);
            match message {
                LinkMessage::Hello(facts) => {
                    let again = encode_hello(&facts);
                    assert_eq!(decode(&again), Ok((LinkMessage::Hello(facts), again.len())));
                }
                LinkMessage::Welcome(..) => assert!(!verify_welcome(&LinkKey::new("secret"), b"", &bytes[..taken])),
                LinkMessage::Proof(_) => assert!(!verify_proof(&LinkKey::new("secret"), b"", b"", &bytes[..taken])),
                LinkMessage::Refuse(why, text) => {
                    assert!(!text.contains(char::is_control));
                    assert!(decode(&encode_refuse(why, &why.to_string())).is_ok());
                }
            }
        }
        Err(BadHello::Cut { need }) => assert!(need > bytes.len() && need <= LINK_MESSAGE_BYTES_MAX),
        Err(_) => {}
    }
}

fuzz_target!(|input: &[u8]| {
    check(input);
    let Some((kind, body)) = input.split_first() else { return };
    let mut message = vec![0; LINK_HEADER_BYTES];
    message[0..4].copy_from_slice(&LINK_MAGIC.to_le_bytes());
    message[4..6].copy_from_slice(&LINK_VERSION.to_le_bytes());
    message[6] = kind % 6;
    message.extend_from_slice(body);
    message.resize(message.len().next_multiple_of(8), 0);
    let body_bytes = (message.len() - LINK_HEADER_BYTES) as u32;
    message[8..12].copy_from_slice(&body_bytes.to_le_bytes());
    check(&message);
});
