//! WKProto with jindou's own codec, with or without the cipher. It answers each RECV with RECVACK, as the SDKs do.

use std::fmt::Write as _;

use jindou::format::packet::{Connack, Connect, HeaderFlags, Packet, Recvack, Send, Setting};
use jindou::format::packet_cipher::{KeyPair, SALT_BYTES, SessionCipher, parse_public_key};
use jindou::format::packet_codec::{self, Decoded};

use super::{Driver, Heard, Identity, Outgoing, Scratch};

/// The protocol version that the generator speaks.
const VERSION: u8 = 5;

/// Success in CONNACK and SENDACK.
const SUCCESS: u8 = 1;

/// CONNACK without a key in CONNECT.
const NO_KEY: u8 = 21;

const WANTS_CIPHER: &str = "the listener wants the cipher: use wk:// without --plain";

/// One connection.
pub struct Wk {
    identity: Identity,
    keys: Option<KeyPair>,
    cipher: Option<SessionCipher>,
    open: bool,
}

impl Wk {
    /// The secret of the key agreement is different for each session, and no secret to anybody.
    pub fn new(identity: &Identity, plain: bool) -> Wk {
        let mut secret = [0x5a; 32];
        secret[..8].copy_from_slice(&(identity.secret + 1).to_le_bytes());
        let keys = (!plain).then(|| KeyPair::new(secret));
        Wk { identity: identity.clone(), keys, cipher: None, open: false }
    }

    fn agree(&mut self, connack: &Connack<'_>) -> Result<(), String> {
        if connack.reason == NO_KEY && self.keys.is_none() {
            return Err(WANTS_CIPHER.to_owned());
        }
        if connack.reason != SUCCESS {
            return Err(format!("CONNACK with reason {}", connack.reason));
        }
        let Some(keys) = &self.keys else {
            if connack.server_key.is_empty() {
                return Ok(());
            }
            return Err(WANTS_CIPHER.to_owned());
        };
        let salt: Option<[u8; SALT_BYTES]> = connack.salt.as_bytes().try_into().ok();
        let agreed = parse_public_key(connack.server_key).ok().zip(salt).and_then(|(key, salt)| keys.agree(&key, salt));
        match agreed {
            None => Err("CONNACK without a usable key: is the listener in plain mode? Try --plain".to_owned()),
            some => {
                self.cipher = some;
                Ok(())
            }
        }
    }
}

impl Driver for Wk {
    fn hello(&mut self, out: &mut Vec<u8>) {
        let public = self.keys.as_ref().map(KeyPair::public_text);
        let connect = Connect {
            version: VERSION,
            // Devices of one user differ in their flag: app, web, PC.
            device_flag: self.identity.device,
            device_id: "loadgen",
            uid: &self.identity.user,
            token: "",
            client_timestamp_ms: 0,
            client_key: public.as_ref().map_or("", |text| text.as_str()),
        };
        packet_codec::encode(&Packet::Connect(connect), VERSION, out);
    }

    fn send(&mut self, message: Outgoing<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) {
        scratch.number.clear();
        write!(scratch.number, "{:x}", message.sequence).expect("writing to a string cannot fail");
        let mut send = Send {
            flags: HeaderFlags::RED_DOT,
            setting: Setting(0),
            client_seq: message.number,
            client_msg_no: &scratch.number,
            stream_no: "",
            channel_id: message.to,
            channel_type: 1,
            expire: 0,
            msg_key: "",
            topic: "",
            payload: message.payload,
        };
        let Some(cipher) = &self.cipher else {
            packet_codec::encode(&Packet::Send(send), VERSION, out);
            return;
        };
        scratch.sealed.clear();
        cipher.seal_payload(message.payload, &mut scratch.cipher, &mut scratch.sealed);
        let key = cipher.send_msg_key(&send, &scratch.sealed, &mut scratch.cipher);
        send.payload = &scratch.sealed;
        send.msg_key = std::str::from_utf8(&key).unwrap_or("");
        packet_codec::encode(&Packet::Send(send), VERSION, out);
    }

    fn next<'a>(
        &mut self,
        bytes: &'a [u8],
        scratch: &'a mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<Option<(usize, Heard<'a>)>, String> {
        let decoded =
            packet_codec::decode(bytes, VERSION).map_err(|fault| format!("what came is no WKProto: {fault}"))?;
        let Decoded::Packet(packet, taken) = decoded else {
            return Ok(None);
        };
        let heard = match packet {
            Packet::Connack(connack) if !self.open => {
                self.agree(&connack)?;
                self.open = true;
                Heard::Open
            }
            other if !self.open => return Err(format!("the first packet is no CONNACK: {other:?}")),
            Packet::Sendack(ack) if ack.reason == SUCCESS => Heard::Acknowledged(ack.client_seq),
            Packet::Sendack(ack) => Heard::Refused { number: ack.client_seq, reason: u16::from(ack.reason) },
            Packet::Recv(recv) => {
                let order = Some((recv.message_seq, recv.message_id));
                let opened = match &self.cipher {
                    None => Ok(recv.payload),
                    Some(cipher) => {
                        scratch.plain.clear();
                        cipher.open_recv(&recv, &mut scratch.cipher, &mut scratch.plain).map(|()| &scratch.plain[..])
                    }
                };
                let Ok(payload) = opened else {
                    return Ok(Some((taken, Heard::Damaged)));
                };
                let (message_id, message_seq) = (recv.message_id, recv.message_seq);
                let recvack = Recvack { flags: HeaderFlags(0), message_id, message_seq };
                packet_codec::encode(&Packet::Recvack(recvack), VERSION, out);
                Heard::Message { order, payload }
            }
            Packet::Disconnect(end) => return Err(format!("DISCONNECT with reason {}", end.reason)),
            Packet::Pong => Heard::Pong,
            _ => Heard::Other,
        };
        Ok(Some((taken, heard)))
    }

    fn ping(&mut self, out: &mut Vec<u8>) {
        packet_codec::encode(&Packet::Ping, VERSION, out);
    }
}
