//! The shard's side of links: frames for other nodes leave through them, their news become frames and words about nodes. What a link is, and how
//! nothing is lost on it, is [`crate::engine::link`]'s.

use crate::engine::cluster_news;
use crate::engine::effect::{Effect, Effects};
use crate::engine::journal::entry_data_bytes_max;
use crate::engine::link::{LinkNews, LinkParty, LinkWish, Rank, RefusedWhy};
use crate::engine::metadata::Cluster;
use crate::engine::raft_group;
use crate::format::frame::Frame;
use crate::format::raft_message::RaftMessage;
use crate::ids::{NodeId, Place, SlotId};
use crate::time::Now;

use super::{Shard, left_out};

/// From somebody who is no member nothing is taken but the wish to become one, and what the metadata group says: who the members are. A newcomer
/// knows none, and who was away may know none of those who lead by now. Whoever has a link has proved that it knows the secret, and raft knows by
/// itself whose word counts.
fn is_open_to_all(frame: &Frame) -> bool {
    match frame {
        Frame::Join(_) | Frame::Joined(_) => true,
        Frame::Raft(message) => message.slot == SlotId::METADATA,
        _ => false,
    }
}

impl Shard {
    /// Whom links may reach, and where.
    pub(super) fn tell_links(&mut self, cluster: &Cluster) {
        self.links.set_cluster_id(cluster.id);
        let nodes: Vec<_> = cluster
            .members
            .iter()
            .filter(|(node, _)| **node != self.config.place.node)
            .map(|(node, member)| (*node, member.identity, member.addresses.cluster, member.shards))
            .collect();
        self.links.set_nodes(&nodes);
    }

    /// Takes the links' news in: to be called before the machines talk.
    pub(super) fn take_link_news(&mut self, now: Now, effects: &mut Effects) {
        for news in self.links.take_news() {
            match news {
                LinkNews::Frames { from, member, frames } => self.take_frames(from, member, frames),
                LinkNews::Up { peer, fresh, .. } => self.handle_link_up(now, peer, fresh),
                LinkNews::Down { peer } => self.handle_link_down(peer),
                LinkNews::Reset { peer } => self.handle_link_reset(now, peer, effects),
                LinkNews::Refused { who, why, ours, text } => {
                    let line = if why == RefusedWhy::ClusterId && self.is_seed_of_one_alone(who) {
                        cluster_news::two_clusters(&who, &self.config.cluster.name)
                    } else if ours {
                        format!("this node refuses a link with {who}: {text}")
                    } else {
                        format!("{who} refuses a link with this node: {text}")
                    };
                    effects.push(Effect::Report { warning: true, line });
                }
            }
        }
    }

    /// This node was perhaps meant to join them.
    fn is_seed_of_one_alone(&self, who: LinkParty) -> bool {
        self.is_cluster_by_itself() && who.address.is_some_and(|address| self.config.cluster.seeds.contains(&address))
    }

    fn take_frames(&mut self, from: Place, member: bool, frames: Vec<Frame>) {
        let mut unheard = false;
        for frame in frames {
            if member || is_open_to_all(&frame) {
                self.out.counters.frames_received += 1;
                self.out.loopback.push_back((from, frame));
            } else {
                self.out.counters.frames_unwelcome += 1;
                unheard |= !matches!(frame, Frame::Raft(_));
            }
        }
        if unheard {
            self.links.note_unwelcome(from);
        }
    }

    /// A socket breaks when its process ends, long before anybody is missed: groups led there stand for election soon. When it was only the
    /// socket, the others have heard their leader and do not vote.
    fn handle_link_down(&mut self, peer: Place) {
        self.forget_routes(peer);
        for hosted in &mut self.hosted {
            if hosted.slot.group().leader().is_some_and(|leader| leader.place() == peer) {
                hosted.slot.hurry(peer.node);
            }
        }
        self.council_hurry(peer);
        if self.nodes_doubted.contains(&peer.node) && !self.links.hears(peer.node) {
            self.nodes_doubted.remove(&peer.node);
            self.handle_node_down(peer.node);
        }
    }

    pub(super) fn handle_link_up(&mut self, now: Now, peer: Place, fresh: bool) {
        if fresh {
            self.nodes_doubted.remove(&peer.node);
        }
        if self.nodes_down.contains(&peer.node) {
            // The better witness speaks again; gossip may be without a way for long. What was forgotten is to be said once more.
            if !fresh {
                self.nodes_doubted.insert(peer.node);
            }
            self.handle_node_up(peer.node);
        }
        if fresh && self.node_shards.contains_key(&peer.node) && peer == self.partner_on(peer.node) {
            self.announce_to_node(peer.node);
        }
        self.council_link_up(now, peer);
    }

    /// What raft wants said: not repeated when it is lost. The metadata group goes first: without it nothing that is amiss with slots is
    /// mended, and they may have more to say than a link takes. After it goes what has found no room before.
    pub(super) fn send_raft(&mut self, now: Now) {
        let mut messages = std::mem::take(&mut self.raft_out);
        self.left_out.join(now.instant, &mut messages, |place| self.links.has_lossy_room(place));
        if messages.iter().any(|message| message.slot == SlotId::METADATA) {
            messages.sort_by_key(|message| message.slot != SlotId::METADATA);
        }
        for message in messages {
            let to = message.to.place();
            self.out.counters.raft_messages_sent += 1;
            if to.node == self.config.place.node {
                // No links lead to the shards of this node: a replica may move between them.
                self.out.frame(to, Frame::Raft(Box::new(message)));
            } else {
                let whose = left_out::whose(&message);
                let rank = if message.slot == SlotId::METADATA { Rank::First } else { Rank::Usual };
                match self.links.send_lossy(to, Frame::Raft(Box::new(message)), rank) {
                    Err(Frame::Raft(message)) => self.left_out.refused(now.instant, *message),
                    _ => self.left_out.took(to, whose),
                }
            }
        }
    }

    /// Ends a step: frames for other nodes, and what the links themselves want.
    pub(super) fn flush_links(&mut self, now: Now, effects: &mut Effects) {
        for (to, mut frames) in self.out.take_remote() {
            self.give_way(to, &mut frames);
            // Over its window a link is reset: both ends hear of it, and what matters is sent again by those whose it is.
            let _ = self.links.send(to, frames);
        }
        self.submit_rooms.clear();
        self.greetings.rooms.clear();
        let mut wishes = std::mem::take(&mut self.link_wishes);
        self.links.flush(now.instant, &mut wishes);
        for wish in wishes.drain(..) {
            effects.push(match wish {
                LinkWish::Dial { conn, to } => Effect::Dial { conn, to },
                LinkWish::Write { conn, bytes } => Effect::LinkWrite { conn, bytes },
                LinkWish::Hangup { conn } => Effect::Hangup { conn },
            });
        }
        self.link_wishes = wishes;
    }

    /// A link that is given more than its window takes is reset, and all that matters is said again, perhaps all at once. Before it comes to that,
    /// bodies give way: whoever is told of a message without its body fetches it, and what is not stored may be lost.
    fn give_way(&mut self, to: Place, frames: &mut Vec<Frame>) {
        let most = self.links.room(to) / 4 * 3;
        let mut weight: usize = frames.iter().map(Frame::weight).sum();
        if weight <= most {
            return;
        }
        // The last ones before the others: who lacks one message of a channel has no use for the next.
        for frame in frames.iter_mut().rev() {
            if weight <= most {
                break;
            }
            let before = frame.weight();
            if frame.leave_body() {
                self.out.counters.bodies_left += 1;
                weight -= before - frame.weight();
            }
        }
        frames.retain(|frame| !frame.tells_nothing());
    }

    /// A replica of a group that has one here says something.
    pub(super) fn handle_raft(&mut self, now: Now, message: RaftMessage, effects: &mut Effects) {
        self.out.counters.raft_messages_received += 1;
        let longest = message.entries.iter().map(|entry| entry.data.len()).max().unwrap_or(0);
        if longest > entry_data_bytes_max(&self.config.geometry) {
            let line = format!(
                "{} sends an entry that is longer than a segment of this journal: it is at fault",
                message.from
            );
            effects.push(Effect::Report { warning: true, line });
            return;
        }
        // A node that stops does not begin to lead again. It goes on voting and acknowledging while its sessions leave: a new leader may
        // have nobody else who is quick. After that it is as good as stopped.
        if self.left && (self.session_count == 0 || raft_group::makes_leader(&message)) {
            return;
        }
        if message.slot == SlotId::METADATA {
            self.council_step(message, effects);
            return;
        }
        let Some(place) = self.place_of(message.slot).filter(|place| self.hosted[*place].slot.replica() == message.to)
        else {
            self.out.counters.raft_stray += 1;
            return;
        };
        let newborn = self.transfers.is_newborn(message.slot) && raft_group::brings_entries(&message);
        if newborn || self.waits_for_half(place) {
            self.hold_for_child(message);
            return;
        }
        if !message.entries.is_empty() && self.journal_is_full() {
            self.out.counters.raft_put_off += 1;
            return;
        }
        self.with_slot(place, now, |slot, _, _| slot.step(message));
    }

    /// The disk does not keep up with what others' leaders send. They do not wait for this replica while two others answer, so it has to
    /// protect itself: an entry that is not taken is as good as lost on the way, and comes again when the leader hears that it is missing; and
    /// parts of a state are not answered, so that no more of them come.
    pub(super) fn journal_is_full(&self) -> bool {
        let limits = &self.config.limits;
        self.journal.pending_bytes() >= limits.journal_refuse_bytes + limits.journal_pause_bytes
    }

    /// The first shard's gossip says that a node is down or up: the others are told in their own words.
    pub(super) fn hear_of_node(&mut self, node: NodeId, up: bool) {
        if up {
            self.nodes_doubted.remove(&node);
            self.handle_node_up(node);
        } else if self.links.hears(node) && self.node_shards.contains_key(&node) {
            // A link is a better witness. Should it be lost before gossip has come to another view, gossip was right.
            self.nodes_doubted.insert(node);
        } else {
            self.handle_node_down(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Bench;
    use super::*;
    use crate::format::raft_message::RaftEntry;
    use crate::ids::{ReplicaId, ShardId};

    const PEER: Place = Place { node: NodeId(2), shard: ShardId(0) };

    /// An append of a kilobyte.
    fn said(slot: SlotId) -> RaftMessage {
        let entries = vec![RaftEntry { term: 1, index: 1, kind: 0, data: vec![7; 1024].into() }];
        RaftMessage { slot, to: ReplicaId::new(PEER, 9), entries, ..RaftMessage::default() }
    }

    #[test]
    fn the_metadata_finds_room_however_much_slots_have_to_say() {
        let mut bench = Bench::new();
        let shard = &mut bench.shard;
        shard.links.set_nodes(&[(PEER.node, 5, "127.0.0.2:5300".parse().unwrap(), 1)]);
        // In one step, and in the next one, when the link is full already.
        for step in 1..=2 {
            shard.raft_out.extend((0..8192).map(|_| said(SlotId(0))));
            shard.raft_out.push(said(SlotId::METADATA));
            shard.send_raft(bench.now);
            let waiting = shard.links.lossy_waiting(PEER);
            let of = |frame: &Frame| matches!(frame, Frame::Raft(message) if message.slot == SlotId::METADATA);
            assert_eq!(waiting.iter().filter(|frame| of(frame)).count(), step);
            assert!(of(&waiting[0]), "it goes first");
            assert!(waiting.len() < 8192, "there was too much for the link");
        }
    }

    #[test]
    fn from_strangers_only_what_makes_members_is_taken() {
        let word = |slot| Frame::Raft(Box::new(RaftMessage { slot, ..RaftMessage::default() }));
        assert!(is_open_to_all(&word(SlotId::METADATA)), "who leads by now may be a stranger to who was away");
        assert!(!is_open_to_all(&word(SlotId(0))));
    }
}
