//! MQTT 3.1.1: a user is a topic, a device a client with a kept session (QoS 1) or a clean one (QoS 0). QoS 1 is answered with PUBACK in both
//! directions. QoS 0 is not answered: a PINGREQ goes behind what is written at once, and its PINGRESP says that the server has read it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mqttrs::{
    Connect, ConnectReturnCode, Packet, Pid, Protocol, Publish, QoS, QosPid, Subscribe, SubscribeReturnCodes,
    SubscribeTopic, decode_slice, encode_slice,
};

use super::{Driver, Heard, Identity, Outgoing, PingMarks, Scratch};

/// Fixed header, topic's length and packet id at their longest.
const OVERHEAD_BYTES_MAX: usize = 16;

/// One connection.
pub struct Mqtt {
    client: String,
    topic: String,
    to: String,
    qos: u8,
    last: u32,
    marks: PingMarks,
}

impl Mqtt {
    /// Not connected yet.
    pub fn new(identity: &Identity, qos: u8) -> Mqtt {
        let client = format!("{}-d{}", identity.user, identity.device);
        Mqtt { client, topic: topic_of(&identity.user), to: String::new(), qos, last: 0, marks: PingMarks::default() }
    }
}

fn topic_of(user: &str) -> String {
    format!("loadgen/{user}")
}

/// Appends a packet; `room` is more than it takes.
fn put(packet: &Packet<'_>, room: usize, out: &mut Vec<u8>) {
    let begin = out.len();
    out.resize(begin + room, 0);
    let bytes = encode_slice(packet, &mut out[begin..]).expect("packets of ours are legal, and there is room");
    out.truncate(begin + bytes);
}

/// Packet ids there are: 16 bits without 0.
const PIDS: u32 = 0xffff;

/// A send's packet id. A window of at most 4096 keeps them apart.
fn pid_of(number: u32) -> Pid {
    Pid::try_from((number % PIDS) as u16 + 1).expect("it is not 0")
}

/// The send with this packet id that is nearest below the last one.
fn number_of(pid: Pid, last: u32) -> u32 {
    let behind = (last % PIDS + PIDS - u32::from(pid.get() - 1)) % PIDS;
    last.wrapping_sub(behind)
}

/// Bytes of the whole packet in front, by its own length field; the codec does not tell.
fn packet_bytes(bytes: &[u8]) -> usize {
    let mut length = 0usize;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return 2 + at + length;
        }
    }
    usize::MAX
}

/// Where brokers keep their version for whoever subscribes: mosquitto and others, and EMQX.
const VERSION_TOPICS: [&str; 2] = ["$SYS/broker/version", "$SYS/brokers/+/version"];

/// More than this a broker does not say before its version.
const SAID_BYTES_MAX: usize = 64 << 10;

/// What a broker says of its version within `patience`; nothing where it says none.
pub(super) fn broker_version(address: SocketAddr, patience: Duration) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
    let until = Instant::now() + patience;
    let identity = Identity { user: "loadgen-version".into(), device: 0, prefix: String::new(), secret: 0 };
    let mut words = Vec::new();
    Mqtt::new(&identity, 0).hello(&mut words);
    let topics = VERSION_TOPICS.map(|topic| SubscribeTopic { topic_path: topic.to_owned(), qos: QoS::AtMostOnce });
    put(&Subscribe { pid: pid_of(0), topics: topics.to_vec() }.into(), 128, &mut words);
    stream.write_all(&words).ok()?;
    let (mut heard, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        let taken = packet_bytes(&heard);
        if taken <= heard.len() {
            if let Ok(Some(Packet::Publish(publish))) = decode_slice(&heard[..taken]) {
                let version = String::from_utf8_lossy(publish.payload).into_owned();
                stream.write_all(&[0xe0, 0]).ok();
                return Some(version);
            }
            heard.drain(..taken);
            continue;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || heard.len() > SAID_BYTES_MAX || stream.set_read_timeout(Some(left)).is_err() {
            return None;
        }
        let bytes = stream.read(&mut piece).ok().filter(|bytes| *bytes > 0)?;
        heard.extend_from_slice(&piece[..bytes]);
    }
}

impl Driver for Mqtt {
    fn hello(&mut self, out: &mut Vec<u8>) {
        let connect = Connect {
            protocol: Protocol::MQTT311,
            keep_alive: 0,
            client_id: &self.client,
            clean_session: self.qos == 0,
            last_will: None,
            username: None,
            password: None,
        };
        put(&connect.into(), self.client.len() + 64, out);
    }

    fn send(&mut self, message: Outgoing<'_>, _: &mut Scratch, out: &mut Vec<u8>) {
        self.to.clear();
        self.to.push_str("loadgen/");
        self.to.push_str(message.to);
        let qospid = match self.qos {
            0 => QosPid::AtMostOnce,
            _ => QosPid::AtLeastOnce(pid_of(message.number)),
        };
        let publish = Publish { dup: false, qospid, retain: false, topic_name: &self.to, payload: message.payload };
        put(&publish.into(), OVERHEAD_BYTES_MAX + self.to.len() + message.payload.len(), out);
        self.last = message.number;
        if self.qos == 0 {
            self.marks.sent(message.number);
        }
    }

    fn before_flush(&mut self, out: &mut Vec<u8>) {
        if self.marks.before_flush() {
            put(&Packet::Pingreq, 2, out);
        }
    }

    fn next<'a>(
        &mut self,
        bytes: &'a [u8],
        _: &'a mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<Option<(usize, Heard<'a>)>, String> {
        let taken = packet_bytes(bytes);
        if taken > bytes.len() {
            return Ok(None);
        }
        let packet = decode_slice(&bytes[..taken]).map_err(|fault| format!("what came is no MQTT: {fault}"))?;
        let Some(packet) = packet else {
            return Ok(None);
        };
        let heard = match packet {
            Packet::Connack(connack) if connack.code == ConnectReturnCode::Accepted => {
                let qos = if self.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
                let topics = vec![SubscribeTopic { topic_path: self.topic.clone(), qos }];
                put(&Subscribe { pid: pid_of(0), topics }.into(), self.topic.len() + 32, out);
                Heard::Other
            }
            Packet::Connack(connack) => return Err(format!("CONNACK says {:?}", connack.code)),
            Packet::Suback(suback) if suback.return_codes.contains(&SubscribeReturnCodes::Failure) => {
                return Err("the subscription is refused".to_owned());
            }
            Packet::Suback(_) => Heard::Open,
            Packet::Puback(pid) => Heard::Acknowledged(number_of(pid, self.last)),
            Packet::Publish(publish) => {
                if let QosPid::AtLeastOnce(pid) = publish.qospid {
                    put(&Packet::Puback(pid), 4, out);
                }
                Heard::Message { order: None, payload: publish.payload }
            }
            Packet::Pingresp => self.marks.ponged(),
            other => return Err(format!("a server does not send {:?}", other.get_type())),
        };
        Ok(Some((taken, heard)))
    }

    fn ping(&mut self, out: &mut Vec<u8>) {
        self.marks.pinged();
        put(&Packet::Pingreq, 2, out);
    }

    fn goodbye(&mut self, out: &mut Vec<u8>) {
        put(&Packet::Disconnect, 2, out);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn packet_ids_lead_back_to_their_sends() {
        for last in [1u32, 5000, 65_534, 65_535, 65_536, 131_071, 1_000_000] {
            for behind in [0, 1, 4095] {
                if let Some(number) = last.checked_sub(behind) {
                    assert_eq!(number_of(pid_of(number), last), number, "{number} of {last}");
                }
            }
        }
    }

    /// A broker that answers in pieces of one byte and says `words`, then nothing.
    fn broker(words: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            words.chunks(1).for_each(|piece| stream.write_all(piece).unwrap());
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        });
        address
    }

    #[test]
    fn a_broker_tells_its_version_or_nothing() {
        let connack_suback = b"\x20\x02\0\0\x90\x04\0\x01\0\x80";
        let mut words = connack_suback.to_vec();
        words.extend_from_slice(b"\x30\x1b\0\x13$SYS/broker/version2.0.11");
        let told = broker_version(broker(words.leak()), Duration::from_secs(20));
        assert_eq!(told.as_deref(), Some("2.0.11"));
        assert_eq!(broker_version(broker(connack_suback), Duration::from_millis(100)), None);
        assert_eq!(broker_version(broker(b"HTTP/1.1 400"), Duration::from_millis(100)), None);
    }

    #[test]
    fn a_packet_says_how_long_it_is() {
        assert_eq!(packet_bytes(&[0x30]), usize::MAX);
        assert_eq!(packet_bytes(&[0xd0, 0]), 2);
        assert_eq!(packet_bytes(&[0x30, 0x80, 0x01]), 131);
        assert_eq!(packet_bytes(&[0x30, 0x80]), usize::MAX);
    }
}
