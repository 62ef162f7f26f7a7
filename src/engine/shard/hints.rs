//! What the first shard makes of the gossip: hints. Who seems to be up or down makes elections sooner and presence fresher; that others have
//! newer tables for long is told to the operator; what nodes say of themselves is shown where nobody who knows better can be asked. Nothing is decided by it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::effect::{Effect, Effects};
use crate::engine::gossip::{GossipMember, GossipNews, GossipWish};
use crate::format::frame::{Frame, Rumour};
use crate::ids::NodeId;
use crate::time::{Instant, Now};

use super::Shard;

/// Slots led and sessions are told to everybody no more often: each change is passed on by every node.
const LOAD_EVERY: Duration = Duration::from_secs(5);
/// A table is on its way for less time than this.
const BEHIND_FOR: Duration = Duration::from_secs(10);
/// What is told once a minute, whatever the numbers in it.
const BEHIND: &str = "the table is behind";

/// Somebody has a newer table than this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behind {
    node: NodeId,
    version: u64,
    /// The one that this node had.
    own: u64,
    /// When that was heard first.
    since: Instant,
}

impl Shard {
    /// What is due by the gossip's clock, and what it has to say.
    pub(super) fn run_gossip(&mut self, now: Now, effects: &mut Effects) {
        let Some(office) = &mut self.office else { return };
        let Some(gossip) = &mut office.gossip else { return };
        if gossip.next_deadline().is_some_and(|due| due <= now.instant) {
            gossip.fire(now.instant);
        }
        let mut wishes = std::mem::take(&mut office.wishes);
        gossip.drain(&mut wishes);
        let mut news = Vec::new();
        for wish in wishes.drain(..) {
            match wish {
                GossipWish::Datagram { to, bytes } => effects.push(Effect::Datagram { to, bytes }),
                GossipWish::News(one) => news.push(one),
            }
        }
        office.wishes = wishes;
        for one in news {
            self.hear_gossip(now, one);
        }
    }

    fn hear_gossip(&mut self, now: Now, news: GossipNews) {
        let (node, boot, up) = match news {
            GossipNews::Up { node, boot, .. } => (node, boot, true),
            GossipNews::Down { node, boot } | GossipNews::Left { node, boot } => (node, boot, false),
            GossipNews::Load { node, table_version, .. } => return self.hear_of_table(now, node, table_version),
        };
        if let Some(steward) = self.office.as_mut().and_then(|office| office.steward.as_mut()) {
            steward.hint(node, boot, up);
        }
        for shard in self.siblings() {
            self.out.frame(shard, Frame::Rumour(Rumour { node, up }));
        }
        self.hear_of_node(node, up);
    }

    /// Somebody has a newer table than this node. Most of the time it is on its way here.
    fn hear_of_table(&mut self, now: Now, node: NodeId, version: u64) {
        let Some(cluster) = self.cluster.as_ref().filter(|cluster| cluster.members.contains_key(&node)) else { return };
        let Some(office) = self.office.as_mut().filter(|_| version > cluster.version) else { return };
        let own = cluster.version;
        let since = office.behind.filter(|behind| behind.own == own).map_or(now.instant, |behind| behind.since);
        office.behind = Some(Behind { node, version, own, since });
    }

    /// When gossip arrives, and for a long time nothing of the metadata group does, the operator's network is what keeps it away.
    pub(super) fn tell_if_behind(&mut self, now: Now, effects: &mut Effects) {
        let own = self.cluster.as_ref().map_or(0, |cluster| cluster.version);
        let Some(office) = &mut self.office else { return };
        let is_up = |node| office.gossip.as_ref().is_some_and(|gossip| gossip.is_up(node));
        let still = office.behind.filter(|behind| behind.version > own && is_up(behind.node));
        // What arrives in small steps arrives.
        office.behind =
            still.map(|behind| if behind.own == own { behind } else { Behind { own, since: now.instant, ..behind } });
        let Some(Behind { node, version, since, .. }) = office.behind else { return };
        if now.instant.since(since) < BEHIND_FOR || !office.told.is_due(now.instant, BEHIND.into()) {
            return;
        }
        let line = format!(
            "node {node} has version {version} of the cluster's table, as gossip says, and this node has had {own} for {} s and more: datagrams arrive, and \
             the links over which the metadata group agrees do not: look at the addresses, and at what stands between them, of TCP to the [cluster] listen ports",
            BEHIND_FOR.as_secs()
        );
        effects.push(Effect::Report { warning: true, line });
    }

    /// The others hear what this node can say of itself: its table with the next beat, the rest not as often as it changes.
    pub(super) fn gossip_load(&mut self, now: Now) {
        let said = self.node_alive();
        let Some(office) = &mut self.office else { return };
        let Some(gossip) = &mut office.gossip else { return };
        if office.load_said.0 == said.table_version && now.instant < office.load_said.1 {
            return;
        }
        office.load_said = (said.table_version, now.instant + LOAD_EVERY);
        gossip.set_load(said.table_version, said.slots_led, said.sessions);
    }

    /// What the gossip has of a node, for whoever has no better witness.
    pub(super) fn hinted(&self) -> BTreeMap<NodeId, GossipMember> {
        let gossip = self.office.as_ref().and_then(|office| office.gossip.as_ref());
        gossip.map_or(BTreeMap::new(), |gossip| gossip.view().into_iter().map(|known| (known.node, known)).collect())
    }

    /// The last that others hear of this process: nobody has to miss it first.
    pub(super) fn take_leave(&mut self, effects: &mut Effects) {
        let Some(office) = &mut self.office else { return };
        let Some(gossip) = &mut office.gossip else { return };
        gossip.leave();
        gossip.drain(&mut office.wishes);
        for wish in office.wishes.drain(..) {
            if let GossipWish::Datagram { to, bytes } = wish {
                effects.push(Effect::Datagram { to, bytes });
            }
        }
    }

    pub(super) fn handle_datagram(&mut self, now: Now, from: std::net::SocketAddr, bytes: &[u8]) {
        if let Some(gossip) = self.office.as_mut().and_then(|office| office.gossip.as_mut()) {
            gossip.handle_datagram(now.instant, from, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::meeting_tests::Meeting;
    use super::*;
    use crate::engine::event::ApiAnswer;
    use crate::format::cluster_status::{ClusterRequest, ClusterStatus};
    use crate::ids::SlotId;

    fn three() -> Meeting {
        let mut meeting = Meeting::new(31);
        meeting.comes(&[], "east");
        meeting.run(Duration::from_millis(500));
        meeting.comes(&[1], "east");
        meeting.comes(&[1], "east");
        meeting.run(Duration::from_secs(30));
        meeting
    }

    /// What the third knows without asking anybody.
    fn picture(meeting: &Meeting) -> ClusterStatus {
        let request = ClusterRequest::Status { from: SlotId(0), max: 0, here: true };
        match meeting.parties[2].shard.status_here(meeting.now, &request) {
            ApiAnswer::Cluster(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn whoever_is_left_without_a_metadata_leader_knows_by_gossip_who_is_there() {
        let mut meeting = three();
        let before = picture(&meeting);
        let known = |status: &ClusterStatus| -> Vec<_> {
            let of = |member: &crate::format::cluster_status::MemberStatus| (member.alive, member.sessions.is_some());
            status.members.iter().map(of).collect()
        };
        assert_eq!(known(&before), [(Some(true), true); 3]);
        let versions: Vec<u64> = before.members.iter().map(|member| member.table_version).collect();
        assert_eq!(versions, [before.version; 3], "they are at rest");
        [0, 1].iter().for_each(|gone: &usize| meeting.parties[*gone].stopped = true);
        meeting.run(Duration::from_secs(30));
        let alone = picture(&meeting);
        assert_eq!(known(&alone), [(Some(false), false), (Some(false), false), (Some(true), true)]);
        assert!(alone.members[0].silent_ms > 10_000, "{alone:?}");
        assert!(!alone.complete);
    }

    #[test]
    fn a_node_whose_table_stays_behind_tells_its_operator() {
        let mut meeting = three();
        let (node, version) = (NodeId(1), picture(&meeting).version);
        let hears = |meeting: &mut Meeting, table_version| {
            let load = GossipNews::Load { node, table_version, slots_led: 0, sessions: 0 };
            meeting.parties[2].shard.hear_gossip(meeting.now, load);
        };
        let told = |meeting: &Meeting| meeting.parties[2].lines("node n1 has version");
        hears(&mut meeting, version);
        meeting.run(Duration::from_secs(20));
        assert_eq!(told(&meeting), 0);
        hears(&mut meeting, version + 1);
        meeting.run(Duration::from_secs(9));
        assert_eq!(told(&meeting), 0, "it may be on its way");
        hears(&mut meeting, version + 2);
        meeting.run(Duration::from_secs(40));
        assert_eq!(told(&meeting), 1, "{:?}", meeting.parties[2].said);
        // It has arrived.
        let mut cluster = meeting.parties[2].shard.cluster.as_deref().expect("it is a member").clone();
        cluster.version = version + 2;
        meeting.parties[2].shard.cluster = Some(std::sync::Arc::new(cluster));
        meeting.run(Duration::from_secs(120));
        assert_eq!(told(&meeting), 1);
    }
}
