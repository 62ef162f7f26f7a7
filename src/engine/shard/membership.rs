//! What only a node's first shard does for the whole node: found or join a cluster, host the node's replica of the metadata group, listen to gossip,
//! and tell the other shards. When its replica leads, it also looks after everybody (the steward). What of the metadata is on disk, and how, is
//! [`super::metadata_disk`]'s affair.
//!
//! ```text
//!  nothing on disk ──no seeds──► found ──(agreed)──► member ──alone, and with seeds──► dials them: another cluster there is told of
//!                  └──seeds────► ask to join ──Accepted──► follows ──(state arrives)──► member
//!                                  ▲    └──Refused──► said to the operator ──(join_every)──┐
//!                                  └───────────────────────────────────────────────────────┘
//!  on disk ──► follows ──► member, says where it is now if that has changed; hears of no leader: asks the voters it hears for the way,
//!              and dials seeds (both every join_every)
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::engine::chance::Chance;
use crate::engine::cluster_news;
use crate::engine::council::Council;
use crate::engine::effect::{Effect, Effects};
use crate::engine::gossip::{Gossip, GossipConfig, GossipWish};
use crate::engine::link::LinkState;
use crate::engine::metadata::{Cluster, MetadataCommand, NewMember};
use crate::engine::raft_group::GroupState;
use crate::engine::steward::Steward;
use crate::engine::tellings::Tellings;
use crate::format::frame::{
    Alive, Frame, Join, Joined, LeaderOf, Leaders, Propose, ProposeOutcome, Proposed, SlotReports, WhoLeads,
};
use crate::ids::{NodeId, Place, ReplicaId, ShardId, SlotId};
use crate::time::{Instant, Now};

use super::hints::Behind;
use super::metadata_disk::{Checkpointing, Installing};
use super::{Shard, ShardConfig};

/// First shards that are asked in one round: the voters, and as many seeds.
const ASKED_MAX: usize = 16;

/// What the first shard keeps.
pub(super) struct Office {
    pub(super) council: Option<Council>,
    pub(super) gossip: Option<Gossip>,
    pub(super) steward: Option<Steward>,
    /// What the gossip wants, for as long as that is looked through.
    pub(super) wishes: Vec<GossipWish>,
    /// The table's version that the gossip was told, and until when it need not hear of the rest.
    pub(super) load_said: (u64, Instant),
    pub(super) behind: Option<Behind>,
    /// Newcomers whose wish is in the log, by the number of the proposal.
    joins: BTreeMap<u64, (Place, NodeId, SocketAddr)>,
    /// Requests of operators, likewise, by who has asked and their number there. No more than the council lets wait.
    operators: BTreeMap<u64, (Place, u64)>,
    /// What each member has said last.
    pub(super) heard: BTreeMap<NodeId, Alive>,
    /// What each other shard of this node has said last: its part of what this node says.
    siblings: BTreeMap<ShardId, Alive>,
    last_ticket: u64,
    /// Snapshots of the metadata that were sent and not confirmed.
    snapshots: BTreeMap<ReplicaId, Instant>,
    /// A snapshot of the metadata that waits for its checkpoint.
    pub(super) installing: Option<Installing>,
    /// The checkpoint that is being written.
    pub(super) checkpointing: Option<Checkpointing>,
    pub(super) replay_segment: u32,
    /// There is a checkpoint of the metadata on disk.
    pub(super) checkpointed: bool,
    pub(super) kept_segment: u32,
    beat_at: Instant,
    ask_at: Instant,
    decide_at: Instant,
    refused: Option<Box<str>>,
    /// Of those who were not let in, and why this node was not.
    pub(super) told: Tellings<Box<str>>,
    founded: bool,
    /// Likewise: the configured name was proposed in this term.
    renamed: bool,
    /// The state that was looked at last.
    decided_version: u64,
    pub(super) checkpoint_mark: u64,
}

impl Office {
    /// Newcomers whose wish waits.
    #[cfg(test)]
    pub(super) fn joins_waiting(&self) -> usize {
        self.joins.len()
    }

    /// With what the disk remembered of the metadata group.
    pub(super) fn open(config: &ShardConfig, metadata: Option<(GroupState, Vec<u8>, u32)>) -> Result<Office, String> {
        let (mut replay_segment, mut checkpointed) = (0, false);
        let council = match metadata {
            None => None,
            Some((group, state, segment)) => {
                (replay_segment, checkpointed) = (segment, !state.is_empty());
                let cluster = if state.is_empty() {
                    Cluster::default()
                } else {
                    Cluster::decode(&state).map_err(|bad| format!("the metadata's checkpoint: {bad}"))?
                };
                Some(Council::restore(group, cluster, super::chance_of(config, SlotId::METADATA)))
            }
        };
        let gossip = config.cluster.address.map(|address| {
            let gossip = GossipConfig {
                here: config.place.node,
                boot: config.boot,
                address,
                seeds: config.cluster.seeds.clone(),
                cluster_name: config.cluster.name.to_string(),
                secret: config.cluster.secret.as_bytes().to_vec(),
                limits: config.cluster.gossip,
            };
            Gossip::new(gossip, Chance::new(config.seed, 4))
        });
        Ok(Office {
            council,
            gossip,
            steward: None,
            wishes: Vec::new(),
            load_said: (0, Instant(0)),
            behind: None,
            joins: BTreeMap::new(),
            operators: BTreeMap::new(),
            heard: BTreeMap::new(),
            siblings: BTreeMap::new(),
            last_ticket: 0,
            snapshots: BTreeMap::new(),
            installing: None,
            checkpointing: None,
            replay_segment,
            checkpointed,
            kept_segment: replay_segment,
            beat_at: Instant(0),
            ask_at: Instant(0),
            decide_at: Instant(0),
            refused: None,
            told: Tellings::default(),
            founded: false,
            renamed: false,
            decided_version: 0,
            checkpoint_mark: 0,
        })
    }
}

/// The metadata's replica, where this shard has one.
pub(super) fn council_of(office: &Option<Office>) -> Option<&Council> {
    office.as_ref()?.council.as_ref()
}

/// The same, to be changed. Of the field alone, so that the journal and what is to be said can be lent to it.
fn council_mut(office: &mut Option<Office>) -> Option<&mut Council> {
    office.as_mut()?.council.as_mut()
}

impl Shard {
    pub(super) fn check_office(&self) {
        let Some(office) = &self.office else { return };
        let Some(council) = &office.council else {
            assert!(office.steward.is_none(), "only who has a vote looks after others");
            assert!(office.joins.is_empty(), "only a member lets others in");
            return;
        };
        council.check_invariants();
        office.told.check_invariants();
        assert!(office.steward.is_none() || council.led_term().is_some(), "only the leader looks after others");
        assert!(office.joins.keys().all(|ticket| *ticket <= office.last_ticket), "tickets rise");
        assert!(office.operators.keys().all(|ticket| *ticket <= office.last_ticket), "tickets rise");
        let ours = council.group().replica().place();
        assert_eq!(ours, self.config.place, "the metadata's replica lives where its name says");
    }

    // ---- the beginning ----

    /// Nothing on disk and nobody to ask: this node is the first.
    pub(super) fn found_or_wait(&mut self) {
        let config = &self.config.cluster;
        let Some(office) = &self.office else { return };
        if office.council.is_some() || !config.seeds.is_empty() {
            return;
        }
        let replica = ReplicaId::new(self.config.place, 1);
        self.begin_council(replica, vec![replica]);
    }

    fn begin_council(&mut self, replica: ReplicaId, voters: Vec<ReplicaId>) {
        self.journal.append_begin(SlotId::METADATA, 0, replica, &voters);
        let state = GroupState::begin(replica, &voters);
        let chance = super::chance_of(&self.config, SlotId::METADATA);
        let council = Council::restore(state, Cluster::default(), chance);
        let (mark, segment) = (self.journal_mark(), self.journal.written_segment());
        if let Some(office) = &mut self.office {
            office.council = Some(council);
            office.checkpoint_mark = mark;
            (office.replay_segment, office.kept_segment) = (segment, segment);
        }
    }

    fn describe(&self) -> NewMember {
        NewMember {
            node: self.config.place.node,
            identity: self.config.cluster.identity,
            shards: self.config.shard_count,
            addresses: self.config.cluster.addresses.clone(),
        }
    }

    /// The first command of all, once this node leads its own metadata.
    fn found(&mut self) {
        let member = self.describe();
        let id = self.chance.number().max(1);
        let (name, replicas_wanted) = (self.config.cluster.name.clone(), self.config.cluster.replicas);
        let slot_depth = self.config.slot_depth;
        let command = MetadataCommand::Found { id, name, replicas_wanted, slot_depth, member };
        self.propose_metadata(&command, None);
    }

    fn propose_metadata(&mut self, command: &MetadataCommand, ticket: Option<u64>) {
        let asker = ticket.map(|ticket| (self.config.place, ticket));
        let Some(council) = council_mut(&mut self.office) else { return };
        council.propose(command.encode(), asker, &mut self.out);
    }

    // ---- turns ----

    /// The metadata group's turn, as a slot's.
    pub(super) fn turn_council(&mut self, now: Now, effects: &mut Effects) {
        if self.office.as_ref().is_some_and(|office| office.installing.is_some()) {
            self.checkpoint_council(effects);
        }
        let Some(office) = &mut self.office else { return };
        let Some(council) = &mut office.council else { return };
        let before = council.led_term();
        if council.has_work() {
            let waits_for = council.turn(&mut self.journal, &mut self.raft_out, &mut self.out);
            if let Some(flush) = waits_for {
                self.awaiting.push_back((flush, SlotId::METADATA));
            }
            for message in council.take_snapshots() {
                office.snapshots.insert(message.to, now.instant);
                self.out.frame(message.to.place(), Frame::Raft(Box::new(message)));
            }
            for line in council.take_refusals() {
                effects.push(Effect::Report { warning: true, line });
            }
        }
        let published = council.take_published(self.journal.durable_flush());
        let (led, leader, term) = (council.led_term(), council.leader(), council.group().term());
        let unfounded = led.is_some() && council.cluster().members.is_empty();
        let misnamed = led.is_some() && !unfounded && council.cluster().name != self.config.cluster.name;
        if led != before {
            office.steward = led.map(|_| Steward::new(self.config.cluster.steward, now.instant));
            (office.founded, office.renamed) = (false, false);
        }
        if (term, leader) != self.metadata_leader {
            self.tell_metadata_leader(term, leader);
        }
        if let Some(cluster) = published {
            self.publish(now, cluster, effects);
        }
        if unfounded && self.office.as_mut().is_some_and(|office| !std::mem::replace(&mut office.founded, true)) {
            self.found();
        }
        if misnamed && self.office.as_mut().is_some_and(|office| !std::mem::replace(&mut office.renamed, true)) {
            // Links are made under the configured name only. So who leads others has theirs, and what they call their cluster is agreed on.
            let name = self.config.cluster.name.clone();
            self.propose_metadata(&MetadataCommand::Rename { name }, None);
        }
    }

    fn tell_metadata_leader(&mut self, term: u64, place: Option<Place>) {
        let known = vec![LeaderOf { slot: SlotId::METADATA, term, place }];
        self.metadata_leader = (term, place);
        self.ask_metadata_again();
        for shard in self.siblings() {
            self.out.frame(shard, Frame::Leaders(Leaders { known: known.clone(), relay: false, announced: false }));
        }
    }

    fn publish(&mut self, now: Now, cluster: Arc<Cluster>, effects: &mut Effects) {
        effects.push(Effect::Cluster(Arc::clone(&cluster)));
        // Whoever is alone has no news of others.
        if self.config.cluster.address.is_some() {
            let (here, known) = (self.config.place.node, self.cluster.as_deref());
            let lines = cluster_news::lines(here, known, &cluster);
            lines.into_iter().for_each(|line| effects.push(Effect::Report { warning: false, line }));
            let line = cluster_news::other_replicas(here, known, &cluster, self.config.cluster.replicas);
            line.into_iter().for_each(|line| effects.push(Effect::Report { warning: true, line }));
        }
        let nodes: Vec<_> = cluster.members.iter().map(|(node, member)| (*node, member.addresses.cluster)).collect();
        if let Some(gossip) = self.office.as_mut().and_then(|office| office.gossip.as_mut()) {
            gossip.set_members(&nodes);
        }
        self.adopt_cluster(now, cluster);
    }

    /// What the first shard does by the clock.
    pub(super) fn office_timers(&mut self, now: Now, effects: &mut Effects) {
        if self.office.is_none() {
            return;
        }
        self.run_gossip(now, effects);
        let Some(office) = &mut self.office else { return };
        if now.instant >= office.beat_at {
            office.beat_at = now.instant + self.config.limits.alive_every;
            self.say_alive();
            self.gossip_load(now);
            self.tell_if_behind(now, effects);
            self.ask_for_leader();
            self.say_where_we_are();
        }
        self.dial_seeds(now, effects);
        let Some(office) = &mut self.office else { return };
        if now.instant >= office.decide_at {
            office.decide_at = now.instant + self.config.limits.chase_every;
            self.decide(now);
        }
    }

    /// A newcomer asks whom it was told to ask. So does a node that is a cluster by itself, though it wants nothing: should there be
    /// another cluster, the handshake says so on both sides, and nobody believes that this node has joined. Members dial seeds, too, that may lead
    /// to somebody whom they do not hear: since the table was agreed on, one of them, or all, may have been started elsewhere.
    fn dial_seeds(&mut self, now: Now, effects: &mut Effects) {
        let alone = self.is_cluster_by_itself();
        let Some(office) = self.office.as_mut().filter(|office| now.instant >= office.ask_at) else { return };
        office.ask_at = now.instant + self.config.limits.join_every;
        let is_newcomer = office.council.is_none();
        let leaderless = self.metadata_leader.1.is_none();
        if is_newcomer || leaderless && !alone {
            self.ask_whom_we_hear();
        }
        for seed in self.config.cluster.seeds.clone() {
            let others = is_newcomer || alone || self.may_lead_to_somebody(seed, leaderless);
            if Some(seed) != self.config.cluster.address && others {
                self.links.dial_address(now.instant, seed);
            }
        }
        let Some(office) = &mut self.office else { return };
        if let Some(why) = office.refused.take()
            && office.told.is_due(now.instant, why.clone())
        {
            effects.push(Effect::Report { warning: true, line: format!("not let into the cluster: {why}") });
        }
    }

    /// Asks the first shards that are heard to be let in, or for the way to who leads: a member that was started elsewhere, and its leader too,
    /// has no other way there. Of those who are members already the voters know.
    fn ask_whom_we_hear(&mut self) {
        let voters: Option<Vec<NodeId>> = self
            .cluster
            .as_ref()
            .map(|cluster| cluster.metadata_voters_wanted().into_iter().map(|voter| voter.place().node).collect());
        let up = self.links.rows().into_iter().filter(|row| row.state == LinkState::Up).map(|row| row.peer);
        let first = up.filter(|peer| peer.shard == ShardId(0));
        let asked: Vec<Place> =
            first.filter(|peer| voters.as_ref().is_none_or(|voters| voters.contains(&peer.node))).collect();
        asked.into_iter().take(ASKED_MAX).for_each(|peer| self.ask_to_join(peer));
    }

    /// A seed at an address of the table is that member's, which is dialed anyway, unless nobody knows whom to believe. One at another address
    /// may be anybody's who is not heard.
    fn may_lead_to_somebody(&self, seed: SocketAddr, leaderless: bool) -> bool {
        let Some(cluster) = &self.cluster else { return true };
        let here = self.config.place.node;
        let is_heard = |node: &NodeId| *node == here || self.links.hears(*node);
        match cluster.members.iter().find(|(_, member)| member.addresses.cluster == seed) {
            Some((node, _)) => leaderless && !is_heard(node),
            None => !cluster.members.keys().all(is_heard),
        }
    }

    /// The table names this node only.
    pub(super) fn is_cluster_by_itself(&self) -> bool {
        let members = self.cluster.as_ref().map(|cluster| &cluster.members);
        members.is_some_and(|members| members.len() == 1 && members.contains_key(&self.config.place.node))
    }

    /// What is to be decided is decided in this turn.
    pub(super) fn hurry_office(&mut self) {
        if let Some(office) = &mut self.office {
            office.decide_at = Instant(0);
        }
    }

    fn decide(&mut self, now: Now) {
        let Some(office) = &mut self.office else { return };
        let Some(council) = &mut office.council else { return };
        if self.stopping {
            council.hand_over();
            return;
        }
        council.steer();
        let patience = self.config.limits.answer_patience;
        let late: Vec<ReplicaId> = office
            .snapshots
            .iter()
            .filter(|(_, sent)| now.instant.since(**sent) >= patience)
            .map(|(replica, _)| *replica)
            .collect();
        for replica in late {
            office.snapshots.remove(&replica);
            council.report_snapshot(replica, false);
        }
        let cluster = Arc::clone(council.cluster());
        let Some(steward) = &mut office.steward else { return };
        // A node without others has nothing to look after until something changes.
        if cluster.members.len() == 1 && office.decided_version == cluster.version {
            return;
        }
        office.decided_version = cluster.version;
        steward.alive(self.config.place.node, self.config.boot, now.instant);
        for command in steward.decide(now.instant, &cluster) {
            council.propose(command.encode(), None, &mut self.out);
        }
    }

    /// What this shard can say of its node by itself.
    fn own_alive(&self) -> Alive {
        Alive {
            node: self.config.place.node.0,
            boot: self.config.boot,
            table_version: self.cluster.as_ref().map_or(0, |cluster| cluster.version),
            slots_led: self.hosted.iter().filter(|hosted| hosted.slot.leads()).count() as u32,
            sessions: self.live_count as u32,
            stopping: self.stopping,
        }
    }

    /// Of the whole node: the other shards' parts are as old as their last word.
    pub(super) fn node_alive(&self) -> Alive {
        let mut alive = self.own_alive();
        for part in self.office.iter().flat_map(|office| office.siblings.values()) {
            alive.slots_led = alive.slots_led.saturating_add(part.slots_led);
            alive.sessions = alive.sessions.saturating_add(part.sessions);
        }
        alive
    }

    fn say_alive(&mut self) {
        let Some(leader) = self.metadata_leader.1.filter(|leader| *leader != self.config.place) else { return };
        self.out.frame(leader, Frame::Alive(self.node_alive()));
    }

    /// A shard that is not the first tells the first its part, when that has changed.
    pub(super) fn say_part(&mut self) {
        if self.office.is_some() {
            return;
        }
        let alive = self.own_alive();
        let part = (alive.slots_led, alive.sessions);
        if std::mem::replace(&mut self.said_part, part) != part {
            self.out.frame(Place { shard: ShardId(0), ..self.config.place }, Frame::Alive(alive));
        }
    }

    /// A member that was started at other addresses than the others know has them agreed on.
    fn say_where_we_are(&mut self) {
        let (Some(cluster), (_, Some(leader))) = (&self.cluster, self.metadata_leader) else { return };
        let settings = &self.config.cluster;
        let moved = cluster
            .members
            .get(&self.config.place.node)
            .is_some_and(|known| known.identity == settings.identity && known.addresses != settings.addresses);
        if !moved || settings.address.is_none() {
            return;
        }
        let command = MetadataCommand::AddMember(self.describe()).encode();
        let propose = Propose { place: self.config.place, ticket: 0, command: command.into() };
        self.out.frame(leader, Frame::Propose(propose));
    }

    /// True when this node's replica of the metadata group leads, and somebody else could.
    pub(super) fn council_must_be_left(&self) -> bool {
        let council = council_of(&self.office);
        council.is_some_and(|council| council.led_term().is_some() && council.heir().is_some())
    }

    /// A member that hears from no leader of the metadata group asks the others; that also makes the links by which it is heard.
    fn ask_for_leader(&mut self) {
        if self.metadata_leader.1.is_some() {
            return;
        }
        for node in self.other_nodes() {
            let asked = WhoLeads { slot: SlotId::METADATA, place: self.config.place };
            self.out.frame(Place { node, shard: ShardId(0) }, Frame::WhoLeads(asked));
        }
    }

    /// The metadata's leader may be gone.
    pub(super) fn council_hurry(&mut self, peer: Place) {
        if let Some(council) = council_mut(&mut self.office)
            && council.leader() == Some(peer)
        {
            council.hurry(peer.node);
        }
    }

    /// The metadata group's clock.
    pub(super) fn tick_council(&mut self) {
        if let Some(council) = council_mut(&mut self.office) {
            council.tick();
        }
    }

    /// The metadata group's entries are durable up to here.
    pub(super) fn council_durable(&mut self, flush: u64) {
        if let Some(council) = council_mut(&mut self.office) {
            council.handle_durable(flush, &mut self.raft_out);
        }
    }

    pub(super) fn council_has_work(&self) -> bool {
        let council = council_of(&self.office);
        council.is_some_and(|council| council.has_work() || council.is_publishable(self.journal.durable_flush()))
    }

    pub(super) fn council_link_up(&mut self, now: Now, peer: Place) {
        let Some(office) = &mut self.office else { return };
        if office.council.is_none() && peer.shard == ShardId(0) {
            office.ask_at = now.instant + self.config.limits.join_every;
            self.ask_to_join(peer);
        }
    }

    fn ask_to_join(&mut self, peer: Place) {
        let member = self.describe();
        let join = Join {
            node: member.node.0,
            identity: member.identity,
            boot: self.config.boot,
            shards: member.shards,
            belongs: council_of(&self.office).is_some(),
            addresses: member.addresses,
            version: env!("CARGO_PKG_VERSION").into(),
        };
        self.out.frame(peer, Frame::Join(Box::new(join)));
    }

    // ---- joining ----

    /// Somebody wants in.
    pub(super) fn handle_join(&mut self, now: Now, from: Place, join: Join) {
        let answer = |this: &mut Shard, joined: Joined| this.out.frame(from, Frame::Joined(Box::new(joined)));
        let Some(office) = &mut self.office else { return };
        let Some(council) = &office.council else {
            answer(self, Joined::Elsewhere { leader: None });
            return;
        };
        if council.led_term().is_none() || council.cluster().members.is_empty() {
            let leader = council
                .leader()
                .and_then(|place| council.cluster().members.get(&place.node).map(|member| member.addresses.cluster));
            answer(self, Joined::Elsewhere { leader });
            return;
        }
        let node = NodeId(join.node);
        let ours = env!("CARGO_PKG_VERSION");
        if *join.version != *ours {
            let line =
                format!("node {} asks to be let in and runs jindou {:?}, this one {ours:?}", node.0, join.version);
            if office.told.is_due(now.instant, line.as_str().into()) {
                self.out.report(true, line);
            }
        }
        let cluster = council.cluster();
        if let Some(known) = cluster.members.get(&node) {
            let alive = office.steward.as_ref().is_some_and(|steward| steward.hears(node, now.instant));
            let listened = office.steward.as_ref().is_some_and(|steward| steward.has_listened(now.instant));
            if known.identity != join.identity && !alive && !listened {
                // Nobody has been heard yet: it may be alive all the same.
                answer(self, Joined::Elsewhere { leader: None });
                return;
            }
            if known.identity != join.identity && (alive || join.belongs) {
                let what = if alive { "is alive" } else { "took its place" };
                let why = format!(
                    "node id {node} belongs to a node that {what}, at {}; give this one another id",
                    known.addresses.cluster
                );
                self.tell_not_let_in(now, node, join.addresses.cluster, &why);
                self.out.frame(from, Frame::Joined(Box::new(Joined::Refused { why: why.into() })));
                return;
            }
            if known.identity == join.identity && known.addresses == join.addresses {
                let (identity, replica) = (known.identity, known.metadata_replica);
                let accepted = Joined::Accepted { cluster: cluster.id, identity, replica };
                answer(self, accepted);
                return;
            }
        }
        if join.belongs && !cluster.members.contains_key(&node) {
            let why = format!(
                "node {node} was removed from the cluster; start it with an empty data directory to let it in again"
            );
            answer(self, Joined::Refused { why: why.into() });
            return;
        }
        office.last_ticket += 1;
        let ticket = office.last_ticket;
        office.joins.insert(ticket, (from, node, join.addresses.cluster));
        let (identity, shards, addresses) = (join.identity, join.shards, join.addresses);
        let command = MetadataCommand::AddMember(NewMember { node, identity, shards, addresses });
        self.propose_metadata(&command, Some(ticket));
    }

    /// One line on this side too, once in a while.
    fn tell_not_let_in(&mut self, now: Now, node: NodeId, at: SocketAddr, why: &str) {
        let line = format!("node {} at {at} is not let into the cluster: {why}", node.0);
        let Some(office) = &mut self.office else { return };
        if office.told.is_due(now.instant, line.as_str().into()) {
            self.out.report(true, line);
        }
    }

    /// A member has answered our wish.
    pub(super) fn handle_joined(&mut self, now: Now, joined: Joined) {
        let Some(office) = &mut self.office else { return };
        let belongs = office.council.is_some();
        match joined {
            Joined::Elsewhere { leader: Some(leader) } if !belongs || self.metadata_leader.1.is_none() => {
                self.links.dial_address(now.instant, leader);
            }
            Joined::Refused { why } if belongs => office.refused = Some(why),
            _ if belongs => {}
            // Somebody was let in who had this number and this place before, and is no more.
            Joined::Accepted { identity, .. } if identity != self.config.cluster.identity => {}
            Joined::Accepted { cluster, replica, .. } => {
                self.links.set_cluster_id(cluster);
                self.begin_council(replica, Vec::new());
            }
            Joined::Elsewhere { .. } => {}
            Joined::Refused { why } => office.refused = Some(why),
        }
    }

    // ---- proposals ----

    /// Another shard wants something agreed on.
    pub(super) fn handle_propose(&mut self, propose: Propose) {
        let here = self.config.place;
        if let (_, Some(leader)) = self.metadata_leader
            && leader != here
            && propose.place == here
        {
            // One of this node's own: to whoever can do it.
            self.out.frame(leader, Frame::Propose(propose));
            return;
        }
        let asker = Some((propose.place, propose.ticket));
        match council_mut(&mut self.office) {
            Some(council) => council.propose(propose.command.to_vec(), asker, &mut self.out),
            None => {
                let proposed = Proposed { ticket: propose.ticket, outcome: ProposeOutcome::NotLeader };
                self.out.frame(propose.place, Frame::Proposed(proposed));
            }
        }
    }

    /// What became of something that this shard wanted.
    pub(super) fn handle_proposed(&mut self, now: Now, proposed: Proposed) {
        let Some(office) = &mut self.office else { return };
        if let Some((to, node, address)) = office.joins.remove(&proposed.ticket) {
            let member = office.council.as_ref().and_then(|council| council.cluster().members.get(&node).cloned());
            let joined = match (proposed.outcome, member) {
                (ProposeOutcome::Applied(_), Some(member)) => {
                    let cluster = office.council.as_ref().map_or(0, |council| council.cluster().id);
                    Joined::Accepted { cluster, identity: member.identity, replica: member.metadata_replica }
                }
                (ProposeOutcome::Refused(why), _) => Joined::Refused { why },
                _ => Joined::Elsewhere { leader: None },
            };
            if let Joined::Refused { why } = &joined {
                self.tell_not_let_in(now, node, address, why);
            }
            self.out.frame(to, Frame::Joined(Box::new(joined)));
            return;
        }
        if let Some(asked) = office.operators.remove(&proposed.ticket) {
            self.answer_operator(asked, proposed.outcome);
        }
    }

    /// Proposes what an operator has asked for; they hear what becomes of it.
    pub(super) fn propose_for_operator(&mut self, asked: (Place, u64), command: &MetadataCommand) {
        let Some(office) = &mut self.office else { return };
        office.last_ticket += 1;
        let ticket = office.last_ticket;
        office.operators.insert(ticket, asked);
        self.propose_metadata(command, Some(ticket));
    }

    // ---- who is alive ----

    pub(super) fn handle_alive(&mut self, now: Now, from: Place, alive: Alive) {
        if from.node == self.config.place.node {
            if let Some(office) = &mut self.office {
                office.siblings.insert(from.shard, alive);
                assert!(office.siblings.len() < usize::from(self.config.shard_count), "one part of each other shard");
            }
            return;
        }
        if let Some(steward) = self.office.as_mut().and_then(|office| office.steward.as_mut()) {
            steward.alive(NodeId(alive.node), alive.boot, now.instant);
        }
        let is_member = self.cluster.as_ref().is_some_and(|cluster| cluster.members.contains_key(&NodeId(alive.node)));
        if let Some(office) = self.office.as_mut().filter(|_| is_member) {
            office.heard.insert(NodeId(alive.node), alive);
        }
    }

    /// Reports of this node's shards go on to whoever leads the metadata group; those of others are for the steward.
    pub(super) fn handle_slot_reports(&mut self, reports: SlotReports) {
        if let Some(steward) = self.office.as_mut().and_then(|office| office.steward.as_mut()) {
            reports.reports.into_iter().for_each(|report| steward.report(report));
        } else if reports.place.node == self.config.place.node
            && let Some(leader) = self.metadata_leader.1
            && leader != self.config.place
        {
            self.out.frame(leader, Frame::SlotReports(reports));
        }
    }

    pub(super) fn office_deadline(&self) -> Option<Instant> {
        let office = self.office.as_ref()?;
        let gossip = office.gossip.as_ref().and_then(Gossip::next_deadline);
        let own = office.beat_at.min(office.decide_at);
        Some(gossip.map_or(own, |due| due.min(own)))
    }
}
