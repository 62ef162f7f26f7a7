//! What must hold between the steps of a shard, as one long question. The simulator asks it after every step, the shell never.

use super::{Durability, Hosted, Shard};
use crate::engine::raft_group;
use crate::ids::{NodeId, Place, ShardId, SlotId};

impl Shard {
    /// Asserts what must hold between steps. Costs time in the order of the state: the simulator calls it always, the
    /// shell never.
    pub fn check_invariants(&self) {
        self.check_sessions();
        self.check_hosted();
        self.check_cluster();
        self.check_memory();
        self.journal.check_invariants();
        self.check_transfers();
        self.check_checkpoints();
        self.check_merges();
        self.submits.check_invariants(|slot| self.routes.leader(slot).map(|(term, _)| term));
        self.greetings.check_invariants();
        self.hosted.iter().for_each(|hosted| hosted.endings.check_invariants());
        self.asks.check_invariants();
        self.routes.check_invariants();
        self.links.check_invariants();
    }

    fn check_sessions(&self) {
        let limits = &self.config.limits;
        let sessions = self.sessions.iter().flatten();
        assert_eq!(sessions.clone().count(), self.session_count);
        assert!(self.session_count <= limits.sessions_max, "more sessions than the limit");
        assert!(self.live_count <= self.session_count, "who is live is here");
        assert_eq!(sessions.clone().filter(|session| session.counted_live).count(), self.live_count);
        for session in sessions {
            assert!(self.sessions[session.id.index as usize].is_some(), "a session is where its name says");
            if let Some(identity) = &session.identity {
                identity.delivery.check_invariants(limits);
            }
        }
    }

    fn check_hosted(&self) {
        for (at, hosted) in self.hosted.iter().enumerate() {
            let slot = hosted.slot.id();
            hosted.slot.check_invariants();
            hosted.slot.check_straight(&self.config.limits);
            assert_eq!(self.place_of(slot), Some(at), "a replica is found by its slot");
            assert_eq!(hosted.slot.replica().place(), self.config.place, "a replica lives where its name says");
            assert_ne!(slot, SlotId::METADATA, "the metadata's replica is the council's");
            assert!(hosted.replay_segment <= self.journal.segments().1.max(1));
            assert!(hosted.kept_segment <= hosted.replay_segment.max(1), "what others need is kept too");
            assert!(
                !hosted.slot.leads() || hosted.slot.led_term() == Some(hosted.slot.group().term()),
                "one term is led"
            );
            let followed = self.leadership_changes.iter().all(|(changed, _)| *changed != slot);
            // Who was away may still think that it leads what the others have merged away: nobody asks for that.
            let wanted = self.routes.table().row(slot).is_some() && !hosted.slot.is_frozen();
            if let Some(term) = hosted.slot.led_term().filter(|_| followed && wanted) {
                let known = self.routes.leader(slot) == Some((term, self.config.place));
                assert!(known || self.routes.term(slot) > term, "who is asked who leads is the leader, and knows it");
            }
            assert!(!hosted.dirty || self.dirty_slots.contains(&(at as u32)), "who has work is in the list");
            assert!(!hosted.rows_listed || self.row_slots.contains(&(at as u32)), "who has rows is in the list");
            assert!(hosted.slot.routes_known() <= hosted.routes_counted, "every route is counted");
        }
        let routes: usize = self.hosted.iter().map(|hosted| hosted.routes_counted).sum();
        assert_eq!(self.routes_cached, routes, "a route is counted once");
        assert!(routes <= self.config.limits.cached_routes_shard_max, "too many routes are remembered");
        let known = |at: &u32| (*at as usize) < self.hosted.len();
        assert!(self.dirty_slots.iter().all(known), "only replicas that are here have work");
        assert!(self.row_slots.iter().all(known), "only replicas that are here have rows");
        let here = self.places.iter().filter(|place| **place != u32::MAX).count();
        assert_eq!(here, self.hosted.len(), "nothing is found that is not here");
        assert!(self.awaiting.iter().zip(self.awaiting.iter().skip(1)).all(|(a, b)| a.0 <= b.0), "flushes rise");
        let end = self.journal.position();
        self.ended.check_invariants(end);
        let busy = |hosted: &Hosted| hosted.checkpointing.is_some() && self.ended.keeps_disk_busy(hosted.slot.id());
        assert!(!self.hosted.iter().any(busy), "one checkpoint of a slot at a time");
    }

    fn check_cluster(&self) {
        assert_eq!(self.office.is_some(), self.config.place.shard == ShardId(0), "the first shard has the office");
        assert!(self.raft_out.is_empty(), "what raft wants said has been said");
        assert!(self.leadership_changes.is_empty() || self.restless, "changes of leadership are followed at once");
        assert!(self.node_shards.values().all(|shards| *shards > 0), "a node has shards");
        assert!(self.nodes_down.iter().all(|node| *node != self.config.place.node), "nobody thinks itself down");
        let leader = self.metadata_leader.1;
        assert!(leader.is_none_or(|place| place.shard == ShardId(0)), "the metadata is led by a first shard");
        let Some(cluster) = &self.cluster else {
            assert_eq!(self.routes.table().version(), 0, "no table without a cluster");
            return;
        };
        assert!(self.routes.table().version() <= cluster.version, "no table is newer than the cluster");
        assert!(
            self.node_shards.keys().all(|node| cluster.members.contains_key(node)),
            "only members' shards are known"
        );
        let is_member = |node: &NodeId| cluster.members.contains_key(node);
        assert!(self.nodes_down.iter().all(is_member), "only members are thought down");
        assert!(self.nodes_doubted.iter().all(is_member), "only members are doubted");
        let preferred = |row: &crate::engine::metadata::SlotRow| row.replicas.contains(&row.preferred);
        assert!(cluster.rows.values().all(preferred), "who should lead votes");
        let exists = |place: Place| cluster.members.get(&place.node).is_none_or(|member| place.shard.0 < member.shards);
        let replicas = cluster.rows.values().flat_map(|row| &row.replicas);
        assert!(replicas.into_iter().all(|replica| exists(replica.place())), "a replica lives on a shard that exists");
        self.check_office();
    }

    fn check_memory(&self) {
        let limits = &self.config.limits;
        // With `memory`, bodies that are not written yet stay beyond the budget, each with what it costs beside its bytes: what the journal takes
        // before it refuses, and the message with which it gets there.
        let unwritten = match self.config.durability {
            Durability::Fsync => 0,
            Durability::Memory => {
                let message_bytes_max = raft_group::MESSAGE_TAILS_MAX * limits.log_tail_bytes_max;
                limits.journal_refuse_bytes + limits.journal_pause_bytes + message_bytes_max
            }
        };
        let (bytes, budget) = (self.recent.bytes(), limits.recent_bytes_max);
        let waiting = self.journal.pending_bytes();
        assert!(
            bytes <= budget + 2 * unwritten,
            "{bytes} bytes of bodies in memory, budget {budget}, and {waiting} bytes wait to be written"
        );
    }
}
