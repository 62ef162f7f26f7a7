//! The bytes: golden vectors from codecs that we did not write, round trips of everything that has two ends, and
//! hostile input (random, cut, flipped), which may be refused but must never panic. Behaviour of sessions is the
//! simulator's affair, real sockets are `end_to_end.rs`'s.

// The fuzz targets are part of this test too, under the name by which they know their engine.
extern crate self as libfuzzer_sys;

use bytes::Bytes;
use jindou::format::client_pipeline::{ClientOptions, ClientPipeline, FromServer};
use jindou::format::message::{MessageFields, StoredMessage};
use jindou::format::packet::{
    Connack, Connect, Disconnect, EventPacket, HeaderFlags, Packet, Recv, Recvack, Send, Sendack, Setting,
    StreamFields, Sub, Suback,
};
use jindou::format::packet_cipher::{CipherScratch, KeyPair, SessionCipher, parse_public_key};
use jindou::format::packet_codec::{Decoded, decode, encode, encoded_bytes};
use jindou::format::pipeline::{ConnackAnswer, Inbound, Scratch, ServerPipeline, Transport};
use jindou::format::websocket::{self, FrameReader, Opcode, Role};
use jindou::format::websocket_upgrade;
use proptest::prelude::*;

fn encoded(packet: &Packet<'_>, version: u8) -> Vec<u8> {
    let mut out = Vec::new();
    encode(packet, version, &mut out);
    out
}

fn decoded(bytes: &[u8], version: u8) -> Packet<'_> {
    match decode(bytes, version) {
        Ok(Decoded::Packet(packet, taken)) if taken == bytes.len() => packet,
        other => panic!("{other:?} from {bytes:02x?}"),
    }
}

#[path = "formats/vectors.rs"]
mod vectors;

/// Values for packets, owned; packets borrow from them.
#[derive(Clone, Debug)]
struct Parts {
    texts: Vec<String>,
    numbers: Vec<u64>,
    payload: Vec<u8>,
}

fn parts() -> impl Strategy<Value = Parts> {
    let texts = prop::collection::vec(prop_oneof![9 => "\\PC{0,20}", 1 => "[a-z]{300}"], 5);
    let numbers = prop::collection::vec(prop_oneof![any::<u64>(), 0..300u64], 5);
    let payload =
        prop_oneof![9 => prop::collection::vec(any::<u8>(), 0..200), 1 => prop::collection::vec(any::<u8>(), 17_000)];
    (texts, numbers, payload).prop_map(|(texts, numbers, payload)| Parts { texts, numbers, payload })
}

impl Parts {
    fn text(&self, index: usize) -> &str {
        &self.texts[index]
    }

    fn byte(&self, index: usize) -> u8 {
        self.numbers[index] as u8
    }

    fn flags(&self) -> HeaderFlags {
        HeaderFlags(self.byte(0) & 15)
    }

    /// A number that fits `message_seq` at a version.
    fn seq(&self, version: u8) -> u64 {
        if version < 6 { self.numbers[3] & 0xffff_ffff } else { self.numbers[3] }
    }

    /// What the wire does not carry at this version is left at its default, as a decoder leaves it.
    fn send(&self, version: u8) -> Send<'_> {
        let setting = Setting(self.byte(1));
        let stream = (2..5).contains(&version) && setting.0 & Setting::STREAM != 0;
        Send {
            flags: self.flags(),
            setting,
            client_seq: self.numbers[2] as u32,
            client_msg_no: self.text(0),
            stream_no: if stream { self.text(1) } else { "" },
            channel_id: self.text(2),
            channel_type: self.byte(4),
            expire: if version >= 3 { self.numbers[3] as u32 } else { 0 },
            msg_key: self.text(3),
            topic: if setting.has_topic() { self.text(4) } else { "" },
            payload: &self.payload,
        }
    }

    fn recv(&self, version: u8) -> Recv<'_> {
        let send = self.send(version);
        let stream = (2..5).contains(&version) && send.setting.0 & Setting::STREAM != 0;
        Recv {
            flags: send.flags,
            setting: send.setting,
            msg_key: send.msg_key,
            from_uid: self.text(1),
            channel_id: send.channel_id,
            channel_type: send.channel_type,
            expire: send.expire,
            client_msg_no: send.client_msg_no,
            stream: stream.then(|| StreamFields {
                stream_flag: self.byte(2),
                stream_no: self.text(3),
                stream_id: self.numbers[4],
            }),
            message_id: self.numbers[2] as i64,
            message_seq: self.seq(version),
            timestamp_s: self.numbers[4] as i32,
            topic: send.topic,
            payload: &self.payload,
        }
    }

    /// One packet of each type.
    fn packets(&self, version: u8) -> Vec<Packet<'_>> {
        let id = self.numbers[2] as i64;
        vec![
            Packet::Connect(Connect {
                version: self.byte(0),
                device_flag: self.byte(1),
                device_id: self.text(0),
                uid: self.text(1),
                token: self.text(2),
                client_timestamp_ms: id,
                client_key: self.text(3),
            }),
            Packet::Connack(Connack {
                server_version: (version > 3).then_some(version),
                time_diff_ms: id,
                reason: self.byte(0),
                server_key: self.text(0),
                salt: self.text(1),
                node_id: if version >= 4 { self.numbers[3] } else { 0 },
            }),
            Packet::Send(self.send(version)),
            Packet::Sendack(Sendack {
                flags: self.flags(),
                message_id: id,
                client_seq: self.numbers[1] as u32,
                message_seq: self.seq(version),
                reason: self.byte(4),
                client_msg_no: self.text(0),
            }),
            Packet::Recv(self.recv(version)),
            Packet::Recvack(Recvack { flags: self.flags(), message_id: id, message_seq: self.seq(version) }),
            Packet::Ping,
            Packet::Pong,
            Packet::Disconnect(Disconnect { reason: self.byte(0), text: self.text(0) }),
            Packet::Sub(Sub {
                setting: Setting(self.byte(0)),
                sub_no: self.text(0),
                channel_id: self.text(1),
                channel_type: self.byte(1),
                action: self.byte(2),
                param: self.text(2),
            }),
            Packet::Suback(Suback {
                sub_no: self.text(0),
                channel_id: self.text(1),
                channel_type: self.byte(1),
                action: self.byte(2),
                reason: self.byte(3),
            }),
            Packet::Event(EventPacket { id: self.text(0), kind: self.text(1), timestamp_ms: id, data: &self.payload }),
        ]
    }
}

#[path = "formats/round_trips.rs"]
mod round_trips;

#[path = "formats/conversations.rs"]
mod conversations;

#[path = "formats/frame_strategies.rs"]
mod frame_strategies;
#[path = "formats/frames.rs"]
mod frames;

#[path = "formats/hostile.rs"]
mod hostile;

#[path = "formats/fuzz_targets.rs"]
mod fuzz_targets;

/// What a fuzz target is made by, here: a function that takes any bytes. Below the targets, so that they have to import it, as from the
/// fuzzer.
#[macro_export]
macro_rules! fuzz_target {
    (|$input:ident: &[u8]| $body:block) => {
        pub fn run($input: &[u8]) {
            $body
        }
    };
}
