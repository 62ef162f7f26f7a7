//! What may be seen of a shard's replicas and sessions from outside: for comparing them with each other. Changes nothing, and
//! says nothing about what only a leader knows, save where it says so.

use xxhash_rust::xxh3::Xxh3;

use super::{ClusterView, Shard};
use crate::engine::link::{LinkRow, LinkState};
use crate::engine::metadata::MemberState;
use crate::engine::raft_group::RaftGroup;
use crate::engine::slot::Slot;
use crate::ids::{ChannelKey, KeyHash, NodeId, Place, ReplicaId, SessionId, SlotId};

/// One replica.
#[derive(Clone, Copy)]
pub struct ReplicaView<'a> {
    slot: &'a Slot,
}

impl Shard {
    /// Slots that are led here, each with the term. Those that siblings have taken in, or are about to, are nobody's any more.
    pub fn led(&self) -> impl Iterator<Item = (SlotId, u64)> + '_ {
        let led = self.hosted.iter().filter(|hosted| hosted.slot.leads() && !hosted.slot.is_frozen());
        led.map(|hosted| (hosted.slot.id(), hosted.slot.group().term()))
    }

    /// States of slots on their way into this shard.
    #[must_use]
    pub fn transfers_coming(&self) -> usize {
        self.transfers.incoming.count()
    }

    /// Bytes that are kept of them.
    #[must_use]
    pub fn transfers_coming_bytes(&self) -> usize {
        self.transfers.incoming.bytes()
    }

    /// The term in which this node's replica of the metadata group leads it.
    #[must_use]
    pub fn metadata_term(&self) -> Option<u64> {
        self.office.as_ref()?.council.as_ref()?.led_term()
    }

    /// Who votes in the metadata group, as this node's replica knows.
    #[must_use]
    pub fn metadata_voters(&self) -> &[ReplicaId] {
        let council = super::membership::council_of(&self.office);
        council.map_or(&[], |council| &council.group().members().voters)
    }

    /// What is missing in the metadata group, as its leader sees it.
    #[must_use]
    pub fn metadata_unrest(&self) -> Option<(NodeId, &'static str)> {
        let council = super::membership::council_of(&self.office)?;
        council.led_term().and_then(|_| council.unrest())
    }

    /// How this node's replica of the metadata group stands, for people.
    #[must_use]
    pub fn metadata_standing(&self) -> Option<String> {
        super::membership::council_of(&self.office).map(|council| standing_of(council.group()))
    }

    /// Every replica hosted here.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaView<'_>> {
        self.hosted.iter().map(|hosted| ReplicaView { slot: &hosted.slot })
    }

    /// The number under which a session's home has let it in: the greater one of a user's came later.
    #[must_use]
    pub fn session_order(&self, id: SessionId) -> Option<u64> {
        let session = self.sessions.get(id.index as usize)?.as_deref().filter(|session| session.id == id)?;
        session.identity.as_ref().map(|identity| identity.order)
    }

    /// Where whoever names its sessions begins to number them.
    #[must_use]
    pub fn first_number(&self) -> u64 {
        self.config.first_number()
    }

    /// Its links with shards of other nodes.
    #[must_use]
    pub fn link_rows(&self) -> Vec<LinkRow> {
        self.links.rows()
    }

    /// Its part in the cluster.
    #[must_use]
    pub fn cluster_view(&self) -> ClusterView {
        let cluster = self.cluster.as_deref();
        let members = |state| cluster.map_or(0, |cluster| cluster.members_in(state).count());
        let rows = || cluster.into_iter().flat_map(|cluster| cluster.rows.values());
        let links = self.links.rows();
        ClusterView {
            table_version: cluster.map_or(0, |cluster| cluster.version),
            members_serving: members(MemberState::Serving),
            members_draining: members(MemberState::Draining),
            members_dead: members(MemberState::Dead),
            moves: rows().filter(|row| row.target.is_some()).count(),
            reshapes: rows().filter(|row| row.reshape.is_some()).count(),
            submits_waiting: self.submits.len(),
            asks_waiting: self.asks.len(),
            transfers: self.transfers.outgoing.count() + self.transfers.incoming.count(),
            links_up: links.iter().filter(|row| row.state == LinkState::Up).count(),
            links_unacknowledged_bytes: links.iter().map(|row| row.unacknowledged_bytes).sum(),
            links: self.links.counters(),
        }
    }
}

impl ReplicaView<'_> {
    /// Of which slot.
    #[must_use]
    pub fn slot(&self) -> SlotId {
        self.slot.id()
    }

    /// Bits of the hash that name its slot.
    #[must_use]
    pub fn depth(&self) -> u8 {
        self.slot.depth()
    }

    /// The last plan of a split or merge that it has carried out. Who once had its slot's number had another.
    #[must_use]
    pub fn plan(&self) -> u64 {
        self.slot.reshaped().plan
    }

    /// Something that it holds and that belongs to another slot: there is nothing of the kind.
    #[must_use]
    pub fn stray(&self) -> Option<String> {
        let elsewhere = |key: KeyHash| key.slot(self.slot.depth()) != self.slot.id();
        let channels = self.slot.channels().iter().filter(|entry| elsewhere(entry.key.key_hash()));
        let homes = self.slot.sorted_homes().filter(|(uid, _)| elsewhere(uid.key_hash()));
        let channels = channels.map(|entry| format!("channel {}", entry.key.id));
        channels.chain(homes.map(|(uid, _)| format!("the home of {uid}"))).next()
    }

    /// Where the leader is that it follows, or that it is itself.
    #[must_use]
    pub fn follows(&self) -> Option<Place> {
        self.slot.group().leader().map(ReplicaId::place)
    }

    /// The last entry that is in its state.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.slot.group().applied()
    }

    /// How it stands in its group, for people.
    #[must_use]
    pub fn standing(&self) -> String {
        standing_of(self.slot.group())
    }

    /// A number for all logs: how long they are, their last ids and what was sent to them lately. Replicas that have applied the same entry
    /// have the same. Where messages lie on this disk, and who was told of them, is left out.
    #[must_use]
    pub fn logs(&self) -> u64 {
        let mut hash = Xxh3::new();
        for entry in self.slot.channels() {
            let parts = entry.channel.parts();
            put_key(&entry.key, &mut hash);
            hash.update(&parts.last_seq.to_le_bytes());
            hash.update(&parts.last_message_id.to_le_bytes());
            parts.fingerprints.iter().for_each(|fingerprint| hash.update(&fingerprint.0.to_le_bytes()));
        }
        hash.digest()
    }

    /// A number for all homes: tokens, flags and rows. What a leader knows ahead of its group is left out.
    #[must_use]
    pub fn homes(&self) -> u64 {
        let mut hash = Xxh3::new();
        for (uid, home) in self.slot.sorted_homes() {
            if home.flags().is_empty() && home.devices().is_empty() && home.agreed_rows().is_empty() {
                continue;
            }
            hash.update(uid.as_str().as_bytes());
            let mut flags: Vec<u8> = home.flags().iter().map(|flag| flag.0).collect();
            flags.sort_unstable();
            hash.update(&flags);
            let mut devices: Vec<_> = home.devices().iter().collect();
            devices.sort_unstable_by_key(|device| device.flag);
            for device in devices {
                hash.update(&[device.flag.0, device.level as u8]);
                hash.update(device.token.as_bytes());
            }
            for (channel, row) in home.agreed_rows() {
                put_key(channel, &mut hash);
                hash.update(&row.settled_seq.to_le_bytes());
                hash.update(&row.read_seq.to_le_bytes());
                let mut cursors: Vec<_> = row.agreed_cursors().collect();
                cursors.sort_unstable();
                for (flag, seq) in cursors {
                    hash.update(&[flag.0]);
                    hash.update(&seq.to_le_bytes());
                }
            }
        }
        hash.digest()
    }
}

fn put_key(key: &ChannelKey, hash: &mut Xxh3) {
    hash.update(&[key.kind as u8]);
    hash.update(key.id.as_bytes());
    hash.update(&[0]);
}

/// How a replica stands in its group, and how its leader sees the others, for people.
fn standing_of(group: &RaftGroup) -> String {
    let (role, term, leader) = (group.role(), group.term(), group.leader().map(ReplicaId::place));
    let (applied, committed, last) = (group.applied(), group.committed(), group.last_index());
    let named = |replicas: &[ReplicaId]| replicas.iter().map(|one| one.to_string()).collect::<Vec<_>>().join(" ");
    let members = group.members();
    let (voters, outgoing) = (named(&members.voters), named(&members.voters_outgoing));
    let learners = named(&members.learners);
    let own = group.replica();
    let progress = group.progress();
    let progress = if progress.is_empty() { String::new() } else { format!("; sees {progress:?}") };
    format!(
        "{own}: {role:?} in term {term}, follows {leader:?}, applied {applied}, agreed {committed}, last {last}; voters {voters}; \
         outgoing {outgoing}; learners {learners}{progress}"
    )
}
