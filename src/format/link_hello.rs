//! What two shards say before frames: who they are, that both know the cluster's secret, and from where the link goes on.
//! Does not decide who is let in, and keeps nothing: that is `engine::link`'s.
//!
//! ```text
//!  dialer                                acceptor
//!    Hello   who I am, whom I want  --->
//!            <---  Welcome  who I am, what I have of you, MAC(key, "welcome", Hello, Welcome)
//!    Proof   how we go on, MAC(key, "proof", Hello, Welcome, Proof)  --->
//!            <---  frames, both ways
//!  either:  Refuse  why not, then the socket is hung up
//!
//!  every message:  0 u32 magic   4 u16 version   6 u8 kind   7 u8 zero   8 u32 body bytes   12 u32 zero   16 body
//! ```
//! Integers are little-endian. A body is filled up with zeroes to a multiple of 8, so frames behind it lie aligned; a MAC is
//! its last 32 bytes and covers everything before. The header and Refuse keep their layout in all versions, so nodes of
//! different versions can say why they do not link.
//!
//! A stranger learns the facts of a Welcome if it names the cluster rightly, and nothing more; the frames behind are neither
//! secret nor guarded against somebody on the path: the network between nodes is trusted for that.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use super::frame_codec::FRAMES_VERSION;
use crate::ids::{NodeId, Place, ShardId};

/// First bytes of every message. The first differs from that of a batch of frames, so one byte tells which comes.
pub const LINK_MAGIC: u32 = u32::from_le_bytes(*b"Ljd\x01");

/// Of this layout and, in the low byte, of the frames that follow it. Nodes of different versions do not link.
pub const LINK_VERSION: u16 = (1 << 8) | FRAMES_VERSION;

/// A version as people read it: of the handshake, of the frames.
#[must_use]
pub fn shown_version(version: u16) -> String {
    format!("{}.{}", version >> 8, version & 0xff)
}

/// Bytes before the body.
pub const LINK_HEADER_BYTES: usize = 16;

/// Largest message. Over it: the socket is hung up.
pub const LINK_MESSAGE_BYTES_MAX: usize = 4096;

/// Longest name of a cluster.
pub const CLUSTER_NAME_BYTES_MAX: usize = 255;

/// Longest text of a refusal; more is cut off.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 255;

/// Fresh for every handshake, so that no proof can be used twice.
pub type Nonce = [u8; 16];

const MAC_BYTES: usize = 32;
/// Of the facts before the name.
const FACTS_BYTES: usize = 50;

/// The key that a cluster's secret becomes.
#[derive(Clone)]
pub struct LinkKey([u8; 32]);

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(hidden)")
    }
}

impl LinkKey {
    /// Of a secret of any length.
    #[must_use]
    pub fn new(secret: &str) -> LinkKey {
        let hash = Sha256::new_with_prefix(b"jindou link key").chain_update(secret.as_bytes());
        LinkKey(hash.finalize().into())
    }

    fn mac(&self, tag: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(tag);
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

/// Who one end is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// As configured.
    pub cluster_name: Box<str>,
    /// 0 while it is not known.
    pub cluster_id: u64,
    /// This shard.
    pub place: Place,
    /// Of the data directory.
    pub identity: u64,
    /// Of the process.
    pub boot: u64,
    /// Whom the other end should be; `None` when only an address is known.
    pub wanted: Option<Place>,
    /// Chance.
    pub nonce: Nonce,
}

/// From where reliable frames go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkResume {
    /// Names a run of reliable frames in both directions; 0: there is none.
    pub epoch: u64,
    /// The last reliable batch of that run which has arrived from the other end.
    pub received: u64,
}

/// The dialer's last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkProof {
    /// The run that holds from here on.
    pub resume: LinkResume,
    /// It is a new one: what was before is forgotten.
    pub fresh: bool,
}

/// Why a link is refused. The number travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusedWhy {
    /// Another version of jindou's links.
    Version,
    /// The clusters have different names.
    ClusterName,
    /// The same name, and yet another cluster.
    ClusterId,
    /// The secrets differ.
    Secret,
    /// Two processes use one node id.
    DoubleId,
    /// Somebody else lives at this address.
    WrongTarget,
    /// No room for another link.
    Full,
    /// The other end dials too, or its state has changed meanwhile; it is tried again. Nothing for people.
    Busy,
    /// The node has dialed itself. Nothing for people.
    Itself,
    /// No link speaks here.
    NotLink,
    /// A reason of a later version.
    Unknown(u16),
}

impl RefusedWhy {
    const CODES: [(u16, RefusedWhy); 10] = [
        (1, RefusedWhy::Version),
        (2, RefusedWhy::ClusterName),
        (3, RefusedWhy::ClusterId),
        (4, RefusedWhy::Secret),
        (5, RefusedWhy::DoubleId),
        (6, RefusedWhy::WrongTarget),
        (7, RefusedWhy::Full),
        (8, RefusedWhy::Busy),
        (9, RefusedWhy::Itself),
        (10, RefusedWhy::NotLink),
    ];

    /// As it travels.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            RefusedWhy::Unknown(code) => code,
            known => RefusedWhy::CODES.iter().find(|(_, why)| *why == known).map_or(0, |(code, _)| *code),
        }
    }

    /// The reason of a number.
    #[must_use]
    pub fn from_code(code: u16) -> RefusedWhy {
        RefusedWhy::CODES.iter().find(|(known, _)| *known == code).map_or(RefusedWhy::Unknown(code), |(_, why)| *why)
    }

    /// Part of how links come about, and no fault of anybody.
    #[must_use]
    pub fn is_usual(self) -> bool {
        matches!(self, RefusedWhy::Busy | RefusedWhy::Itself)
    }
}

impl fmt::Display for RefusedWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RefusedWhy::Version => "the two nodes speak different versions of the link protocol",
            RefusedWhy::ClusterName => "the two nodes are configured for clusters of different names",
            RefusedWhy::ClusterId => "the two nodes belong to different clusters of the same name",
            RefusedWhy::Secret => "the two nodes have different cluster secrets",
            RefusedWhy::DoubleId => "two processes use the same node id",
            RefusedWhy::WrongTarget => "another node or shard lives at this address",
            RefusedWhy::Full => "the shard has no room for another link",
            RefusedWhy::Busy => "the link is being made from the other side",
            RefusedWhy::Itself => "the node has dialed itself",
            RefusedWhy::NotLink => "the other side does not speak the link protocol",
            RefusedWhy::Unknown(code) => return write!(f, "a reason of a later version, number {code}"),
        })
    }
}

/// One message of the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkMessage {
    /// The dialer's first.
    Hello(LinkFacts),
    /// The acceptor's answer. Not believed before [`verify_welcome`].
    Welcome(LinkFacts, LinkResume),
    /// The dialer's last. Not believed before [`verify_proof`].
    Proof(LinkProof),
    /// Either's, before it hangs up.
    Refuse(RefusedWhy, Box<str>),
}

/// Why bytes are no message. But for [`BadHello::Cut`] the other end's fault, and the socket is hung up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHello {
    /// The beginning of one: the buffer must hold at least `need` bytes before it is worth trying again.
    Cut {
        /// From the message's first byte.
        need: usize,
    },
    /// Other bytes than a message begins with.
    NotLink,
    /// A message of another version.
    Version(u16),
    /// Larger than [`LINK_MESSAGE_BYTES_MAX`].
    TooLarge,
    /// Lengths or values that cannot be.
    Layout,
}

impl fmt::Display for BadHello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadHello::Cut { need } => write!(f, "a handshake is cut short, {need} bytes are needed"),
            BadHello::NotLink => f.write_str("peer does not begin as a link does"),
            BadHello::Version(version) => {
                let (theirs, ours) = (shown_version(*version), shown_version(LINK_VERSION));
                write!(f, "peer speaks links of version {theirs}, not {ours}")
            }
            BadHello::TooLarge => f.write_str("peer sends a handshake over the limit"),
            BadHello::Layout => f.write_str("peer sends a handshake with an impossible layout"),
        }
    }
}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const PROOF: u8 = 3;
const REFUSE: u8 = 4;

/// A Hello.
#[must_use]
pub fn encode_hello(facts: &LinkFacts) -> Vec<u8> {
    let mut out = begin(HELLO);
    put_facts(facts, &mut out);
    finish(out, 0)
}

/// The answer to the Hello of these bytes.
#[must_use]
pub fn encode_welcome(key: &LinkKey, hello: &[u8], facts: &LinkFacts, resume: LinkResume) -> Vec<u8> {
    let mut out = begin(WELCOME);
    put_resume(resume, &mut out);
    put_facts(facts, &mut out);
    let mut out = finish(out, MAC_BYTES);
    let mac = key.mac(b"welcome", &[hello, &out]);
    out.extend_from_slice(&mac.finalize().into_bytes());
    out
}

/// Whether a Welcome comes from somebody who knows the secret and read this Hello.
#[must_use]
pub fn verify_welcome(key: &LinkKey, hello: &[u8], welcome: &[u8]) -> bool {
    let Some((signed, mac)) = welcome.split_last_chunk::<MAC_BYTES>() else { return false };
    key.mac(b"welcome", &[hello, signed]).verify_slice(mac).is_ok()
}

/// The answer to the Welcome of these bytes.
#[must_use]
pub fn encode_proof(key: &LinkKey, hello: &[u8], welcome: &[u8], proof: LinkProof) -> Vec<u8> {
    let mut out = begin(PROOF);
    put_resume(proof.resume, &mut out);
    out.extend_from_slice(&u64::from(proof.fresh).to_le_bytes());
    let mut out = finish(out, MAC_BYTES);
    let mac = key.mac(b"proof", &[hello, welcome, &out]);
    out.extend_from_slice(&mac.finalize().into_bytes());
    out
}

/// Whether a Proof comes from somebody who knows the secret and read this Welcome.
#[must_use]
pub fn verify_proof(key: &LinkKey, hello: &[u8], welcome: &[u8], proof: &[u8]) -> bool {
    let Some((signed, mac)) = proof.split_last_chunk::<MAC_BYTES>() else { return false };
    key.mac(b"proof", &[hello, welcome, signed]).verify_slice(mac).is_ok()
}

/// A refusal, with the words that the other end shows.
#[must_use]
pub fn encode_refuse(why: RefusedWhy, text: &str) -> Vec<u8> {
    let mut out = begin(REFUSE);
    let text = &text.as_bytes()[..text.len().min(REFUSAL_TEXT_BYTES_MAX)];
    out.extend_from_slice(&why.code().to_le_bytes());
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text);
    finish(out, 0)
}

/// Takes the message at the beginning of `bytes`, and says how many bytes it took.
///
/// # Errors
/// See [`BadHello`].
pub fn decode(bytes: &[u8]) -> Result<(LinkMessage, usize), BadHello> {
    let magic = LINK_MAGIC.to_le_bytes();
    if bytes.iter().zip(magic).any(|(byte, expected)| *byte != expected) {
        return Err(BadHello::NotLink);
    }
    let Some((header, rest)) = bytes.split_first_chunk::<LINK_HEADER_BYTES>() else {
        return Err(BadHello::Cut { need: LINK_HEADER_BYTES });
    };
    let mut header = Reader(&header[4..]);
    let (version, kind, zero) = (header.u16()?, header.u8()?, header.u8()?);
    let (body_bytes, zeroes) = (header.u32()? as usize, header.u32()?);
    if version != LINK_VERSION && kind != REFUSE {
        return Err(BadHello::Version(version));
    }
    if body_bytes > LINK_MESSAGE_BYTES_MAX - LINK_HEADER_BYTES {
        return Err(BadHello::TooLarge);
    }
    if zero != 0 || zeroes != 0 || !body_bytes.is_multiple_of(8) {
        return Err(BadHello::Layout);
    }
    let need = LINK_HEADER_BYTES + body_bytes;
    let body = rest.get(..body_bytes).ok_or(BadHello::Cut { need })?;
    let mut body = Reader(body);
    let message = match kind {
        HELLO => LinkMessage::Hello(body.facts()?),
        WELCOME => {
            body.without_mac()?;
            let resume = body.resume()?;
            LinkMessage::Welcome(body.facts()?, resume)
        }
        PROOF => {
            body.without_mac()?;
            let resume = body.resume()?;
            let fresh = match body.u64()? {
                0 => false,
                1 => true,
                _ => return Err(BadHello::Layout),
            };
            LinkMessage::Proof(LinkProof { resume, fresh })
        }
        REFUSE => {
            let why = RefusedWhy::from_code(body.u16()?);
            let text_bytes = usize::from(body.u16()?);
            LinkMessage::Refuse(why, printable(body.take(text_bytes)?))
        }
        _ => return Err(BadHello::Layout),
    };
    body.only_padding()?;
    Ok((message, need))
}

/// Text from a stranger, made safe for a line of a log.
fn printable(bytes: &[u8]) -> Box<str> {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(REFUSAL_TEXT_BYTES_MAX)]);
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn begin(kind: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&LINK_MAGIC.to_le_bytes());
    out.extend_from_slice(&LINK_VERSION.to_le_bytes());
    out.extend_from_slice(&[kind, 0]);
    out.extend_from_slice(&[0; 8]);
    out
}

/// Fills up with zeroes and sets the length; `more` bytes will follow.
fn finish(mut out: Vec<u8>, more: usize) -> Vec<u8> {
    out.resize(out.len().next_multiple_of(8), 0);
    let body_bytes = (out.len() + more - LINK_HEADER_BYTES) as u32;
    out[8..12].copy_from_slice(&body_bytes.to_le_bytes());
    out
}

fn put_resume(resume: LinkResume, out: &mut Vec<u8>) {
    out.extend_from_slice(&resume.epoch.to_le_bytes());
    out.extend_from_slice(&resume.received.to_le_bytes());
}

/// A name over the limit is cut off: the configuration has refused it before.
fn put_facts(facts: &LinkFacts, out: &mut Vec<u8>) {
    let start = out.len();
    for number in [facts.cluster_id, facts.identity, facts.boot] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let wanted = facts.wanted.unwrap_or(Place { node: NodeId(0), shard: ShardId(0) });
    for number in [facts.place.node.0, facts.place.shard.0, wanted.node.0, wanted.shard.0] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&facts.nonce);
    let name = facts.cluster_name.as_bytes();
    let name = &name[..name.len().min(CLUSTER_NAME_BYTES_MAX)];
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    debug_assert_eq!(out.len() - start, FACTS_BYTES, "the layout is fixed");
    out.extend_from_slice(name);
}

/// Takes numbers from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], BadHello> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(BadHello::Layout)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const BYTES: usize>(&mut self) -> Result<[u8; BYTES], BadHello> {
        let (taken, rest) = self.0.split_first_chunk::<BYTES>().ok_or(BadHello::Layout)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, BadHello> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, BadHello> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, BadHello> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, BadHello> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn place(&mut self) -> Result<Place, BadHello> {
        Ok(Place { node: NodeId(self.u16()?), shard: ShardId(self.u16()?) })
    }

    fn resume(&mut self) -> Result<LinkResume, BadHello> {
        Ok(LinkResume { epoch: self.u64()?, received: self.u64()? })
    }

    fn facts(&mut self) -> Result<LinkFacts, BadHello> {
        let (cluster_id, identity, boot) = (self.u64()?, self.u64()?, self.u64()?);
        let (place, wanted) = (self.place()?, self.place()?);
        let nonce = self.array()?;
        let name_bytes = usize::from(self.u16()?);
        if place.node.0 == 0 || name_bytes > CLUSTER_NAME_BYTES_MAX {
            return Err(BadHello::Layout);
        }
        let name = std::str::from_utf8(self.take(name_bytes)?).map_err(|_| BadHello::Layout)?;
        Ok(LinkFacts {
            cluster_name: Box::from(name),
            cluster_id,
            place,
            identity,
            boot,
            wanted: (wanted.node.0 != 0).then_some(wanted),
            nonce,
        })
    }

    /// Leaves the MAC out of what is read.
    fn without_mac(&mut self) -> Result<(), BadHello> {
        (self.0, _) = self.0.split_last_chunk::<MAC_BYTES>().ok_or(BadHello::Layout)?;
        Ok(())
    }

    fn only_padding(&self) -> Result<(), BadHello> {
        if self.0.len() < 8 && self.0.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(BadHello::Layout) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts(name: &str) -> LinkFacts {
        LinkFacts {
            cluster_name: Box::from(name),
            cluster_id: 77,
            place: Place { node: NodeId(3), shard: ShardId(1) },
            identity: u64::MAX - 1,
            boot: 5,
            wanted: Some(Place { node: NodeId(9), shard: ShardId(4) }),
            nonce: *b"0123456789abcdef",
        }
    }

    fn all() -> Vec<(LinkMessage, Vec<u8>)> {
        let key = LinkKey::new("secret");
        let resume = LinkResume { epoch: 8, received: 9 };
        let proof = LinkProof { resume, fresh: true };
        let hello = encode_hello(&facts("test"));
        let welcome = encode_welcome(&key, &hello, &facts("a longer name"), resume);
        let proof_bytes = encode_proof(&key, &hello, &welcome, proof);
        assert!(verify_welcome(&key, &hello, &welcome));
        assert!(verify_proof(&key, &hello, &welcome, &proof_bytes));
        let text = "two".into();
        vec![
            (LinkMessage::Hello(facts("test")), hello),
            (LinkMessage::Welcome(facts("a longer name"), resume), welcome),
            (LinkMessage::Proof(proof), proof_bytes),
            (LinkMessage::Refuse(RefusedWhy::DoubleId, text), encode_refuse(RefusedWhy::DoubleId, "two")),
        ]
    }

    #[test]
    fn messages_come_out_as_they_went_in_and_leave_frames_aligned() {
        for (message, bytes) in all() {
            assert_eq!(bytes.len() % 8, 0, "{message:?}");
            assert_eq!(decode(&bytes), Ok((message.clone(), bytes.len())));
            for end in 0..bytes.len() {
                let Err(BadHello::Cut { need }) = decode(&bytes[..end]) else { panic!("{message:?} cut at {end}") };
                assert!(need > end && need <= bytes.len());
            }
        }
    }

    #[test]
    fn a_proof_holds_for_its_secret_and_its_handshake_only() {
        let [(_, hello), (_, welcome), (_, proof), _] = <[_; 4]>::try_from(all()).unwrap();
        let (key, other) = (LinkKey::new("secret"), LinkKey::new("secret "));
        assert!(!verify_welcome(&other, &hello, &welcome));
        assert!(!verify_proof(&other, &hello, &welcome, &proof));
        assert!(!verify_proof(&key, &welcome, &hello, &proof));
        assert!(!verify_welcome(&key, &hello, &proof) && !verify_proof(&key, &hello, &welcome, &welcome));
        assert!(!verify_welcome(&key, &hello, &[]));
        for at in 0..welcome.len() {
            let mut bent = welcome.clone();
            bent[at] ^= 1;
            assert!(!verify_welcome(&key, &hello, &bent), "byte {at} is not covered");
        }
    }

    #[test]
    fn another_version_is_told_apart_and_its_refusal_is_read() {
        let mut hello = encode_hello(&facts("test"));
        hello[5] = 2;
        assert!(matches!(decode(&hello), Err(BadHello::Version(version)) if version >> 8 == 2));
        let mut refuse = encode_refuse(RefusedWhy::Unknown(900), "new");
        refuse[5] = 2;
        assert!(matches!(decode(&refuse), Ok((LinkMessage::Refuse(RefusedWhy::Unknown(900), _), _))));
        assert_eq!(decode(b"GET / HTTP/1.1\r\n\r\n"), Err(BadHello::NotLink));
    }

    #[test]
    fn every_reason_keeps_its_number() {
        for (code, why) in RefusedWhy::CODES {
            assert_eq!((why.code(), RefusedWhy::from_code(code)), (code, why));
        }
    }

    #[test]
    fn a_text_from_a_stranger_cannot_break_a_line() {
        assert_eq!(&*printable(b"one\r\n\x1b[2Jtwo\xff"), "one   [2Jtwo\u{fffd}");
    }

    proptest! {
        #[test]
        fn bent_messages_are_refused_or_read_and_never_panic(
            which in 0..4usize,
            bends in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            kind in 0..6u8,
        ) {
            let mut bytes = all().swap_remove(which).1;
            bytes[6] = kind;
            for (at, byte) in bends {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok((_, taken)) = decode(&bytes) {
                prop_assert!(taken <= bytes.len() && taken <= LINK_MESSAGE_BYTES_MAX);
            }
        }
    }
}
