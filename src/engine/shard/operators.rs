//! What operators want: carried out by the first shard of whoever leads the metadata group, refused in one sentence when it cannot be, shown to
//! them as one picture. And what a node does that is to be emptied: once it leads nothing any more, it lets its sessions go, a bounded
//! number a second, so that they find their users' nodes.
//!
//! Nothing is planned here: a request becomes one command of the metadata group, or none when what is asked for is so already. Asking
//! twice does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::engine::council::Council;
use crate::engine::effect::Effects;
use crate::engine::event::ApiAnswer;
use crate::engine::gossip::GossipMember;
use crate::engine::metadata::{Cluster, MemberState, MetadataCommand, Reshape, SLOT_DEPTH_MAX, SlotRow};
use crate::engine::session::Phase;
use crate::engine::steward::{MoveProgress, Progress};
use crate::format::cluster_status::{
    ClusterRequest, ClusterStatus, MemberStanding, MemberStatus, MoveStatus, STATUS_MOVES_MAX, STATUS_SLOTS_MAX,
    SlotStatus, UserRoute, WaitStatus,
};
use crate::format::frame::{Answered, Frame, ProposeOutcome};
use crate::format::packet::Reason;
use crate::ids::{NodeId, Place, ReplicaId, SessionId, SlotId, Uid};
use crate::time::{Instant, Now};

use super::Shard;

/// Sessions of a node that is to be emptied, on their way out.
pub(super) struct Leaving {
    /// Who was here when it began; whoever comes later was told this address by somebody, and stays.
    sessions: Vec<SessionId>,
    /// Up to when the others have been let go.
    until: Instant,
}

impl Shard {
    /// Somebody asks who leads users' homes: known here, as far as it is known anywhere.
    pub(super) fn routes_of(&self, uids: &[Uid]) -> Vec<UserRoute> {
        let mut by_node: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for (at, uid) in uids.iter().enumerate() {
            let node = self.routes.guess(self.routes.slot(uid.key_hash())).node;
            by_node.entry(node).or_default().push(at as u32);
        }
        let members = self.cluster.as_ref().map(|cluster| &cluster.members);
        let route = |(node, users): (NodeId, Vec<u32>)| {
            let of_member = members.and_then(|members| members.get(&node)).map(|member| &member.addresses);
            // Of itself it knows best.
            let own = node == self.config.place.node;
            let addresses = if own { Some(&self.config.cluster.addresses) } else { of_member };
            let or_none = |address: Option<&Box<str>>| address.cloned().unwrap_or_default();
            UserRoute {
                node: addresses.map(|_| node),
                tcp: or_none(addresses.map(|addresses| &addresses.tcp)),
                ws: or_none(addresses.map(|addresses| &addresses.ws)),
                wss: or_none(addresses.map(|addresses| &addresses.wss)),
                users,
            }
        };
        by_node.into_iter().map(route).collect()
    }

    /// True when a request is for this shard itself: it wants to know what is known here, or nobody is known who could say more.
    pub(super) fn answers_here(&self, request: &ClusterRequest) -> bool {
        match request {
            ClusterRequest::Status { here, .. } => *here || self.metadata_leader.1.is_none(),
            _ => false,
        }
    }

    /// What is known here.
    pub(super) fn status_here(&self, now: Now, request: &ClusterRequest) -> ApiAnswer {
        match (request, &self.cluster) {
            (ClusterRequest::Status { from, max, .. }, Some(cluster)) => {
                ApiAnswer::Cluster(Box::new(self.status(now, cluster, None, (*from, *max))))
            }
            _ => refused("this node is in no cluster yet; it goes on asking its seeds to be let in"),
        }
    }

    /// Carries a request out if this shard leads the metadata group, else sends it back.
    pub(super) fn handle_operator(
        &mut self,
        now: Now,
        (asker, ticket): (Place, u64),
        term: u64,
        request: &ClusterRequest,
    ) {
        let office = self.office.as_ref();
        let leads = |council: &&Council| council.led_term() == Some(term) && !council.cluster().members.is_empty();
        let council = office.and_then(|office| office.council.as_ref()).filter(leads);
        let (Some(council), Some(steward)) = (council, office.and_then(|office| office.steward.as_ref())) else {
            self.out.frame(asker, Frame::Answered(Box::new(Answered { ticket, answer: None })));
            self.tell_leader(SlotId::METADATA, asker);
            return;
        };
        let cluster = council.cluster().clone();
        if let ClusterRequest::Status { from, max, .. } = request {
            let progress = steward.progress(now.instant, &cluster);
            let status = self.status(now, &cluster, Some(progress), (*from, *max));
            self.answer_ask(asker, ticket, ApiAnswer::Cluster(Box::new(status)));
            return;
        }
        let is_alive = |node: NodeId| node == self.config.place.node || steward.hears(node, now.instant);
        let members = council.group().members();
        let votes = |node: NodeId| {
            members.voters.iter().chain(&members.voters_outgoing).any(|replica| replica.place().node == node)
        };
        let command = match request {
            ClusterRequest::Remove { node } if cluster.members.contains_key(node) && votes(*node) => {
                Err(format!("{node} still votes on the metadata; drain it first, and wait until it does not"))
            }
            _ => command_of(&cluster, request, is_alive),
        };
        self.out.counters.operator_requests += 1;
        if *request == ClusterRequest::Rebalance
            && let Some(steward) = self.office.as_mut().and_then(|office| office.steward.as_mut())
        {
            steward.plan_anew();
        }
        match command {
            Ok(Some(command)) => self.propose_for_operator((asker, ticket), &command),
            Ok(None) => self.answer_ask(asker, ticket, ApiAnswer::Done),
            Err(why) => self.answer_ask(asker, ticket, refused(why)),
        }
    }

    /// What became of what an operator has asked for. Whoever leads now is asked again.
    pub(super) fn answer_operator(&mut self, (asker, ticket): (Place, u64), outcome: ProposeOutcome) {
        let answer = match outcome {
            ProposeOutcome::Applied(_) => Some(ApiAnswer::Done),
            ProposeOutcome::NotLeader => None,
            ProposeOutcome::Refused(why) => Some(refused(why.into_string())),
        };
        self.out.frame(asker, Frame::Answered(Box::new(Answered { ticket, answer })));
    }

    // ---- the picture ----

    /// `progress` is the metadata leader's; without it there are only hints of who is alive.
    fn status(
        &self,
        now: Now,
        cluster: &Cluster,
        progress: Option<Progress>,
        (from, max): (SlotId, u16),
    ) -> ClusterStatus {
        let council = super::membership::council_of(&self.office);
        let voters = council.map_or(&[][..], |council| &council.group().members().voters);
        let complete = progress.is_some();
        let moves = progress.as_ref().map_or(&[][..], |progress| &progress.moves);
        let leader = |slot: SlotId| self.routes.leader(slot).map(|(_, place)| place);
        let rows = || cluster.rows.iter();
        let serving = cluster.members_in(MemberState::Serving).count();
        let enough = usize::from(cluster.replicas_wanted).min(serving);
        let waits = progress.as_ref().map_or(&[][..], |progress| &progress.waits);
        let mut status = ClusterStatus {
            id: cluster.id,
            name: cluster.name.clone(),
            version: cluster.version,
            told_by: self.config.place,
            complete,
            replicas_wanted: cluster.replicas_wanted,
            metadata_leader: self.metadata_leader.1,
            metadata_term: self.metadata_leader.0,
            metadata_voters: voters.iter().map(|replica| replica.place().node).collect(),
            members: self.member_statuses(now, cluster, progress.as_ref()),
            slots_total: cluster.rows.len() as u32,
            slots_leaderless: rows().filter(|(slot, _)| leader(**slot).is_none()).count() as u32,
            slots_misled: rows()
                .filter(|(slot, row)| leader(**slot).is_some_and(|place| place != row.preferred.place()))
                .count() as u32,
            slots_thin: rows().filter(|(_, row)| row.replicas.len() < enough).count() as u32,
            reshapes: rows().filter(|(_, row)| row.reshape.is_some()).count() as u32,
            moves_total: rows().filter(|(_, row)| row.target.is_some()).count() as u32,
            moves: moves.iter().take(STATUS_MOVES_MAX).map(move_status).collect(),
            moves_waiting: progress.as_ref().map_or(0, |progress| progress.moves_waiting as u32),
            remaining_ms: progress.as_ref().and_then(|progress| progress.remaining).map(millis),
            waits: waits
                .iter()
                .map(|wait| WaitStatus { slot: wait.slot, node: wait.node, why: wait.why.clone() })
                .collect(),
            waits_omitted: progress.as_ref().map_or(0, |progress| progress.waits_omitted as u32),
            lost: cluster.lost_rows().take(STATUS_MOVES_MAX).collect(),
            slots: Vec::new(),
            next: None,
        };
        let max = usize::from(max.min(STATUS_SLOTS_MAX));
        let mut page = cluster.rows.range(from..);
        if let Some((node, why)) = complete.then(|| self.metadata_unrest()).flatten() {
            status.waits.push(WaitStatus { slot: None, node: Some(node), why: format!("{node} {why}").into() });
        }
        status.slots =
            page.by_ref().take(max).map(|(slot, row)| slot_status(*slot, row, leader(*slot), moves)).collect();
        status.next = if max == 0 { None } else { page.next().map(|(slot, _)| *slot) };
        assert!(status.slots.len() <= max && status.moves.len() <= STATUS_MOVES_MAX, "an answer is bounded");
        status
    }

    fn member_statuses(&self, now: Now, cluster: &Cluster, progress: Option<&Progress>) -> Vec<MemberStatus> {
        let hinted = if progress.is_none() { self.hinted() } else { BTreeMap::new() };
        let heard = self.office.as_ref().map(|office| &office.heard);
        let mut leads: BTreeMap<NodeId, u32> = BTreeMap::new();
        let (mut holds, mut preferred) = (leads.clone(), leads.clone());
        for (slot, row) in &cluster.rows {
            if let Some((_, place)) = self.routes.leader(*slot) {
                *leads.entry(place.node).or_default() += 1;
            }
            *preferred.entry(row.preferred.place().node).or_default() += 1;
            let nodes: BTreeSet<NodeId> = row.named().map(|replica| replica.place().node).collect();
            nodes.into_iter().for_each(|node| *holds.entry(node).or_default() += 1);
        }
        let count = |counts: &BTreeMap<NodeId, u32>, node: NodeId| counts.get(&node).copied().unwrap_or(0);
        let status = |(node, member): (&NodeId, &crate::engine::metadata::Member)| {
            let known = progress.and_then(|progress| progress.members.iter().find(|known| known.node == *node));
            let own = *node == self.config.place.node;
            // What was said to this node while it led before is old.
            let said = heard.filter(|_| progress.is_some()).and_then(|heard| heard.get(node));
            let hint = hinted.get(node);
            let hint_load = hint.filter(|hint| hint.is_up()).and_then(|hint| hint.load);
            let table_version = said.map(|alive| alive.table_version).or(hint_load.map(|load| load.table_version));
            // Of who is silent nobody knows.
            let sessions = said.filter(|_| known.is_some_and(|known| known.alive)).map(|alive| alive.sessions);
            let sessions = sessions.or(hint_load.map(|load| load.sessions));
            let silent = hint.filter(|hint| !hint.is_up()).map_or(Duration::ZERO, |hint| now.instant.since(hint.since));
            MemberStatus {
                node: *node,
                standing: match member.state {
                    MemberState::Serving => MemberStanding::Serving,
                    MemberState::Draining => MemberStanding::Draining,
                    MemberState::Dead => MemberStanding::Dead,
                },
                alive: known.map(|known| known.alive).or(hint.map(GossipMember::is_up)).or(own.then_some(true)),
                silent_ms: millis(known.map_or(silent, |known| known.silent)),
                shards: member.shards,
                cluster: member.addresses.cluster,
                http: member.addresses.http.clone(),
                tcp: member.addresses.tcp.clone(),
                slots: count(&holds, *node),
                preferred: count(&preferred, *node),
                leads: count(&leads, *node),
                table_version: if own { cluster.version } else { table_version.unwrap_or(0) },
                sessions: if own && heard.is_some() { Some(self.node_alive().sessions) } else { sessions },
            }
        };
        cluster.members.iter().map(status).collect()
    }

    // ---- sessions of a node that is to be emptied ----

    /// Lets sessions go, spread over time, once this node leads nothing any more.
    pub(super) fn let_sessions_go(&mut self, now: Now, effects: &mut Effects) {
        let own = self.config.place.node;
        // Whoever was removed is of no use to its clients either.
        let leaves = |cluster: &std::sync::Arc<Cluster>| {
            cluster.members.get(&own).is_none_or(|member| member.state == MemberState::Draining)
        };
        if !self.cluster.as_ref().is_some_and(leaves) {
            self.leaving = None;
            return;
        }
        if self.leaving.is_none() {
            let mut own_shards = self.siblings().chain([self.config.place]);
            if own_shards.any(|place| !self.routes.led_at(place).is_empty()) {
                return;
            }
            let sessions = self.sessions.iter().flatten().map(|session| session.id).collect();
            self.leaving = Some(Leaving { sessions, until: now.instant });
        }
        let Some(leaving) = &mut self.leaving else { return };
        let rate = u64::from(self.config.limits.drain_sessions_per_second);
        let passed = now.instant.since(leaving.until).min(Duration::from_secs(1));
        let due = rate * passed.as_millis() as u64 / 1000;
        if due == 0 {
            return;
        }
        leaving.until = now.instant;
        let keep = leaving.sessions.len().saturating_sub(due as usize);
        let gone = leaving.sessions.split_off(keep);
        assert!(gone.len() as u64 <= rate, "no more than the rate in a second");
        for id in gone {
            if self.session(id).is_some_and(|session| session.phase != Phase::Closing) {
                self.out.counters.sessions_drained += 1;
                self.close(id, effects);
            }
        }
    }
}

fn refused(why: impl Into<std::borrow::Cow<'static, str>>) -> ApiAnswer {
    ApiAnswer::Refused { reason: Reason::SystemError as u8, text: why.into() }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn move_status(progress: &MoveProgress) -> MoveStatus {
    MoveStatus {
        slot: progress.slot,
        from: progress.from.clone(),
        to: progress.to.clone(),
        percent: progress.caught_up_percent,
        under_way_ms: millis(progress.under_way),
        remaining_ms: progress.remaining.map(millis),
        stage: progress.stage.clone(),
    }
}

fn slot_status(slot: SlotId, row: &SlotRow, leader: Option<Place>, moves: &[MoveProgress]) -> SlotStatus {
    let moving = moves.binary_search_by_key(&slot, |one| one.slot).ok().map(|at| &moves[at]);
    let stage = match (&row.reshape, moving) {
        (Some(Reshape::Split { child, .. }), _) => format!("splits: slot {child} begins"),
        (Some(Reshape::Absorb { sibling, gathered: false, .. }), None) => {
            format!("waits for slot {sibling} to come beside it")
        }
        (Some(Reshape::Yield { sibling, gathered: false, .. }), None) => format!("is to come beside slot {sibling}"),
        (Some(Reshape::Absorb { gathered: false, .. } | Reshape::Yield { gathered: false, .. }), Some(moving)) => {
            format!("is to merge; {}", moving.stage)
        }
        (Some(Reshape::Absorb { sibling, .. }), _) => format!("takes slot {sibling} in"),
        (Some(Reshape::Yield { sibling, .. }), _) => format!("ends in slot {sibling}"),
        (Some(Reshape::Digest { sibling, waits, .. }), _) => {
            let nodes: Vec<String> = waits.iter().map(|replica| replica.place().node.to_string()).collect();
            format!("has taken slot {sibling} in; waits for {}", nodes.join(", "))
        }
        (None, Some(moving)) => moving.stage.to_string(),
        (None, None) if row.target.is_some() => "moves".to_owned(),
        (None, None) => String::new(),
    };
    SlotStatus {
        slot,
        depth: row.depth,
        epoch: row.epoch,
        replicas: row.replicas.clone(),
        target: row.target.clone().unwrap_or_default(),
        preferred: row.preferred,
        leader,
        stage: stage.into(),
    }
}

/// What the metadata group is to agree on so that a request is carried out; nothing when it is already.
///
/// # Errors
/// One sentence for the operator.
pub(super) fn command_of(
    cluster: &Cluster,
    request: &ClusterRequest,
    is_alive: impl Fn(NodeId) -> bool,
) -> Result<Option<MetadataCommand>, String> {
    let state = |node: NodeId| cluster.members.get(&node).map(|member| member.state);
    match request {
        ClusterRequest::Status { .. } | ClusterRequest::Rebalance => Ok(None),
        ClusterRequest::Drain { node } => drain(*node, state(*node)),
        ClusterRequest::Serve { node } => match state(*node) {
            None => Err(format!("{node} is no member of this cluster; start it with the cluster's seeds and it joins")),
            Some(MemberState::Serving) => Ok(None),
            Some(MemberState::Draining) => {
                Ok(Some(MetadataCommand::SetMemberState { node: *node, state: MemberState::Serving }))
            }
            Some(MemberState::Dead) => Err(format!("{node} was judged dead; it serves again as soon as it is heard")),
        },
        ClusterRequest::Remove { node } => Ok(state(*node).map(|_| MetadataCommand::RemoveMember { node: *node })),
        ClusterRequest::Replace { node, by } => {
            match state(*by) {
                _ if node == by => return Err(format!("{node} cannot be replaced by itself")),
                None => {
                    return Err(format!(
                        "{by} is no member yet; start it with the cluster's seeds, and ask again once it has joined"
                    ));
                }
                Some(MemberState::Serving) if !is_alive(*by) => {
                    return Err(format!("{by} is not heard; nothing is moved away from {node} before it is"));
                }
                Some(MemberState::Serving) => {}
                Some(_) => return Err(format!("{by} does not serve itself; it cannot take the share of {node}")),
            }
            drain(*node, state(*node))
        }
        ClusterRequest::SetReplicas { replicas } => Ok((*replicas != cluster.replicas_wanted)
            .then_some(MetadataCommand::SetReplicasWanted { replicas: *replicas })),
        ClusterRequest::Split { slots, depth } => split(cluster, slots, *depth),
        ClusterRequest::Merge { slots, depth } => merge(cluster, slots, *depth),
        ClusterRequest::Transfer { slot, node } => transfer(cluster, *slot, *node, is_alive),
    }
}

fn drain(node: NodeId, state: Option<MemberState>) -> Result<Option<MetadataCommand>, String> {
    match state {
        None => Err(format!("{node} is no member of this cluster")),
        Some(MemberState::Draining) => Ok(None),
        Some(_) => Ok(Some(MetadataCommand::SetMemberState { node, state: MemberState::Draining })),
    }
}

fn split(cluster: &Cluster, slots: &[SlotId], depth: u8) -> Result<Option<MetadataCommand>, String> {
    if depth > SLOT_DEPTH_MAX {
        return Err(format!("slots cannot be named by {depth} bits; at most {SLOT_DEPTH_MAX} are possible"));
    }
    if let Some(unknown) = slots.iter().find(|slot| !cluster.rows.contains_key(slot)) {
        return Err(format!("there is no slot {unknown}"));
    }
    let wanted = |slot: &SlotId, row: &SlotRow| {
        (slots.is_empty() || slots.contains(slot))
            && row.depth < depth
            && !matches!(row.reshape, Some(Reshape::Split { .. }))
    };
    let rows = cluster.rows.iter().filter(|(slot, row)| wanted(slot, row));
    let slots: Vec<(SlotId, u64)> = rows.map(|(slot, row)| (*slot, row.epoch)).collect();
    Ok((!slots.is_empty()).then_some(MetadataCommand::Split { slots }))
}

fn merge(cluster: &Cluster, slots: &[SlotId], depth: u8) -> Result<Option<MetadataCommand>, String> {
    // One that was merged away is in another row, which is named by fewer bits.
    let row_of = |slot: SlotId| {
        let own = cluster.rows.get(&slot).map(|row| (slot, row));
        own.or_else(|| {
            (0..=SLOT_DEPTH_MAX).rev().find_map(|depth| {
                let named = slot.at(depth);
                cluster.rows.get(&named).filter(|row| row.depth <= depth).map(|row| (named, row))
            })
        })
    };
    let mut chosen: Vec<(SlotId, &SlotRow)> = Vec::new();
    for slot in slots {
        chosen.push(row_of(*slot).ok_or_else(|| format!("there is no slot {slot}"))?);
    }
    if slots.is_empty() {
        chosen = cluster.rows.iter().map(|(slot, row)| (*slot, row)).collect();
    }
    let deeper = chosen.into_iter().filter(|(_, row)| row.depth > depth && row.depth > 0);
    let lows: BTreeSet<SlotId> = deeper.map(|(slot, row)| slot.at(row.depth - 1)).collect();
    let mut pairs = Vec::new();
    for low in lows {
        let Some(row) = cluster.rows.get(&low).filter(|row| !matches!(row.reshape, Some(Reshape::Absorb { .. })))
        else {
            continue;
        };
        let Some(high) = cluster.rows.get(&low.sibling(row.depth.max(1))) else { continue };
        pairs.push((low, row.epoch, high.epoch));
    }
    Ok((!pairs.is_empty()).then_some(MetadataCommand::Merge { slots: pairs }))
}

fn transfer(
    cluster: &Cluster,
    slot: SlotId,
    node: NodeId,
    is_alive: impl Fn(NodeId) -> bool,
) -> Result<Option<MetadataCommand>, String> {
    let Some(row) = cluster.rows.get(&slot) else { return Err(format!("there is no slot {slot}")) };
    let here = |replica: &&ReplicaId| replica.place().node == node && !cluster.is_lost(**replica);
    let Some(replica) = row.replicas.iter().find(here) else {
        let nodes: Vec<String> = row.replicas.iter().map(|replica| replica.place().node.to_string()).collect();
        return Err(format!("slot {slot} has no replica on {node}; it has them on {}", nodes.join(", ")));
    };
    if !is_alive(node) {
        return Err(format!("{node} is not heard; it cannot lead slot {slot}"));
    }
    let choices = vec![(slot, *replica)];
    Ok((*replica != row.preferred).then_some(MetadataCommand::Prefer { choices }))
}
