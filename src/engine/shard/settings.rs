//! What a shard is told once, and what others may see of it. Values only.

use std::fmt;
use std::net::SocketAddr;

use crate::engine::gossip::GossipLimits;
use crate::engine::journal::entry_data_bytes_max;
use crate::engine::link::{LinkCounters, LinkLimits, LinksConfig};
use crate::engine::steward::StewardLimits;
use crate::format::frame::Addresses;
use crate::ids::Place;
use crate::limits::Limits;

/// What a shard is told once.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard this is.
    pub place: Place,
    /// Shards of this node.
    pub shard_count: u16,
    /// log2 of the slot count.
    pub slot_depth: u8,
    /// Bounds.
    pub limits: Limits,
    /// Whether CONNECT needs the stored token.
    pub token_auth: bool,
    /// Whether what was missed is pushed at CONNECT.
    pub offline: OfflineMode,
    /// What a SENDACK promises.
    pub durability: Durability,
    /// Shape of the journal.
    pub geometry: JournalGeometry,
    /// How much history is kept.
    pub retention: Retention,
    /// Root of all chance in this shard.
    pub seed: [u8; 32],
    /// Names this process; larger than at any earlier start of this node.
    pub boot: u64,
    /// What it is told of its cluster.
    pub cluster: ClusterSettings,
}

impl ShardConfig {
    /// Whether what is asked for goes together.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        if self.limits.entry_bytes_max > entry_data_bytes_max(&self.geometry) {
            return Err("an entry may be longer than a segment of the journal".to_owned());
        }
        Ok(())
    }

    /// Numbers that others echo, and those of sessions, begin here: what is said to an earlier process of this place, late, must not be taken by
    /// this one for an answer to what it has asked, nor by somebody else's session. 47 bits, another place for each process; the lower ones will do.
    #[must_use]
    pub fn first_number(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&self.boot.to_le_bytes()) >> 17
    }

    /// What its links are told.
    #[must_use]
    pub fn links(&self) -> LinksConfig {
        LinksConfig {
            here: self.place,
            cluster_name: self.cluster.name.clone(),
            secret: self.cluster.secret.clone(),
            identity: self.cluster.identity,
            boot: self.boot,
            limits: self.cluster.links,
        }
    }
}

/// What a shard is told of the cluster that its node founds or joins.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// The operator's name for the cluster. Nodes of another one are strangers.
    pub name: Box<str>,
    /// What members prove to each other that they know. Empty when this node is alone.
    pub secret: Box<str>,
    /// Names this node's data directory.
    pub identity: u64,
    /// Where other nodes dial this node's first shard, shard n at the port n higher. `None`: this node is alone.
    pub address: Option<SocketAddr>,
    /// Members to be asked to be let in. Empty, or only this node's own: this node founds the cluster unless it has been in one.
    pub seeds: Vec<SocketAddr>,
    /// Replicas a slot is to have when there are as many nodes.
    pub replicas: u8,
    /// How long a node must be gone before its replicas are rebuilt elsewhere, and other bounds of who looks after the cluster.
    pub steward: StewardLimits,
    /// Bounds of gossip.
    pub gossip: GossipLimits,
    /// Bounds of links.
    pub links: LinkLimits,
    /// What others are told of this node.
    pub addresses: Addresses,
}

impl ClusterSettings {
    /// A node without others, whose data directory has this name.
    #[must_use]
    pub fn alone(identity: u64) -> ClusterSettings {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let nothing = || Box::<str>::from("");
        let addresses = Addresses { cluster: nowhere, tcp: nothing(), ws: nothing(), wss: nothing(), http: nothing() };
        ClusterSettings {
            name: "jindou".into(),
            secret: nothing(),
            identity,
            address: None,
            seeds: Vec::new(),
            replicas: 3,
            steward: StewardLimits::PRODUCTION,
            gossip: GossipLimits::PRODUCTION,
            links: LinkLimits::PRODUCTION,
            addresses,
        }
    }
}

/// Without the secret: a configuration may be shown.
impl fmt::Debug for ClusterSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterSettings")
            .field("name", &self.name)
            .field("identity", &self.identity)
            .field("address", &self.address)
            .field("seeds", &self.seeds)
            .field("replicas", &self.replicas)
            .field("steward", &self.steward)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// What happens with messages that came while a device was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfflineMode {
    /// Pushed at CONNECT, in order, inside the session's window.
    Push,
    /// Only over HTTP.
    Sync,
}

/// What a SENDACK promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk on a majority.
    Fsync,
    /// In memory on a majority; a power cut or a crash of all loses the last moments.
    Memory,
}

/// Shape of the journal on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalGeometry {
    /// Names this journal: a segment of another one is never taken for one of this.
    pub identity: u64,
    /// Unit of writing, a power of two from 512 to 4096.
    pub block_bytes: u32,
    /// Size of a segment, a multiple of the block, at most 1 GiB.
    pub segment_bytes: u32,
}

/// How much history is kept; whole segments at a time. Zero means no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Journal bytes per shard.
    pub bytes: u64,
    /// Age of the newest message of a segment, milliseconds. A restart counts as a message.
    pub age_ms: u64,
}

/// What others may see of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardView {
    /// Live connections, in whatever state.
    pub sessions: usize,
    /// Connections that passed CONNECT.
    pub sessions_live: usize,
    /// Slots hosted here.
    pub slots_hosted: usize,
    /// Slots led here.
    pub slots_led: usize,
    /// Slots hosted here of which nobody is known to lead. One more while the shard has not heard of its cluster: it is ready at zero.
    pub slots_waiting: usize,
    /// Channels known here.
    pub channels: usize,
    /// Homes known here.
    pub homes: usize,
    /// Messages that can be read back.
    pub messages_indexed: u64,
    /// Bytes of message bodies in memory.
    pub recent_bytes: usize,
    /// Bytes waiting for the journal.
    pub journal_pending_bytes: usize,
    /// Segments of the journal, first and last.
    pub journal_segments: (u32, u32),
    /// Ranges being read or waiting to be.
    pub reads_waiting: usize,
    /// False while the disk refuses writes.
    pub writable: bool,
}

/// What may be seen of a shard's part in its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// Of the table that it goes by; 0 before it knows one.
    pub table_version: u64,
    /// Members that serve, as agreed.
    pub members_serving: usize,
    /// Members that are to be emptied.
    pub members_draining: usize,
    /// Members that were judged dead.
    pub members_dead: usize,
    /// Slots of the table that are to move.
    pub moves: usize,
    /// Slots of the table that are to split or to merge.
    pub reshapes: usize,
    /// Messages that wait for their slot's leader.
    pub submits_waiting: usize,
    /// Parts of API requests that wait for their slot's leader.
    pub asks_waiting: usize,
    /// States of slots on their way out of this shard and into it.
    pub transfers: usize,
    /// Links with shards of other nodes that are up.
    pub links_up: usize,
    /// Reliable bytes to them that are not acknowledged.
    pub links_unacknowledged_bytes: usize,
    /// Totals of all links.
    pub links: LinkCounters,
}
