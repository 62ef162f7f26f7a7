//! What an operator is told: how far each move is, how long it may take, and why something waits. Looks only.

use std::time::Duration;

use super::{Begun, Steward, coming, is_there, same};
use crate::engine::metadata::{Cluster, MemberState, SlotRow};
use crate::format::frame::SlotReport;
use crate::ids::{NodeId, Place, SlotId};
use crate::time::Instant;

/// The whole picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Of the agreed state.
    pub version: u64,
    /// By number.
    pub members: Vec<MemberProgress>,
    /// By slot.
    pub moves: Vec<MoveProgress>,
    /// Moves that are planned and not begun.
    pub moves_waiting: usize,
    /// Until nothing moves any more; `None` while no move was measured.
    pub remaining: Option<Duration>,
    /// At most `waits_max`.
    pub waits: Vec<Waiting>,
    /// Reasons that found no room there.
    pub waits_omitted: usize,
    /// Slots of which no replica has its disk any more.
    pub lost: Vec<SlotId>,
}

impl Progress {
    /// Nothing moves, waits or is lost.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.moves.is_empty() && self.moves_waiting == 0 && self.waits.is_empty() && self.lost.is_empty()
    }
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberProgress {
    /// Who.
    pub node: NodeId,
    /// As agreed.
    pub state: MemberState,
    /// It can be counted on.
    pub alive: bool,
    /// Since it was heard, or since this leader listens.
    pub silent: Duration,
    /// Slots of which it has a replica, or shall have one. Zero: a draining member is empty and can be removed.
    pub slots: usize,
    /// Slots that it should lead.
    pub leads: usize,
}

/// A move under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveProgress {
    /// Which slot.
    pub slot: SlotId,
    /// Where it is.
    pub from: Vec<Place>,
    /// Where it shall be.
    pub to: Vec<Place>,
    /// How far the slowest newcomer has read the log, in per cent.
    pub caught_up_percent: Option<u8>,
    /// Since this leader saw it begin.
    pub under_way: Duration,
    /// As long as others took, less what has passed.
    pub remaining: Option<Duration>,
    /// What it does or waits for now.
    pub stage: Box<str>,
}

/// Something that does not go on by itself at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which slot, when it is about one.
    pub slot: Option<SlotId>,
    /// Which member, when it is about one.
    pub node: Option<NodeId>,
    /// For people.
    pub why: Box<str>,
}

impl Steward {
    /// How everything stands.
    #[must_use]
    pub fn progress(&self, now: Instant, cluster: &Cluster) -> Progress {
        let mut waits = Vec::new();
        let mut waiting = 0;
        let (count, into) = self.under_way(now, cluster);
        let full = count >= self.limits.moves_under_way_max;
        for (slot, to) in self.planned.iter().flat_map(|planned| &planned.moves) {
            let Some(row) = cluster.rows.get(slot) else { continue };
            if is_there(row, to, cluster) {
                continue;
            }
            waiting += 1;
            let why = self.why_not_yet(row, to, &into, now, cluster);
            let why = why.or_else(|| full.then(|| format!("{count} moves are under way already")));
            if let Some(why) = why {
                waits.push(Waiting { slot: Some(*slot), node: None, why: why.into() });
            }
        }
        let lost: Vec<SlotId> = cluster.lost_rows().collect();
        let gone = |slot: &SlotId| Waiting {
            slot: Some(*slot),
            node: None,
            why: "every disk that had a replica of it is lost".into(),
        };
        waits.extend(lost.iter().map(gone));
        waits.splice(0..0, cluster.members.keys().filter_map(|node| self.member_waits(*node, now, cluster)));
        let waits_omitted = waits.len().saturating_sub(self.limits.waits_max);
        waits.truncate(self.limits.waits_max);
        assert!(waits.len() <= self.limits.waits_max, "the others are only counted");
        let moves: Vec<MoveProgress> =
            cluster.rows.iter().filter_map(|(slot, row)| self.move_progress(*slot, row, now, cluster)).collect();
        Progress {
            version: cluster.version,
            members: self.member_progress(now, cluster),
            remaining: self.remaining(&moves, waiting),
            moves,
            moves_waiting: waiting,
            waits,
            waits_omitted,
            lost,
        }
    }

    fn remaining(&self, moves: &[MoveProgress], waiting: usize) -> Option<Duration> {
        if moves.is_empty() && waiting == 0 {
            return Some(Duration::ZERO);
        }
        let longest = moves.iter().filter_map(|one| one.remaining).max().unwrap_or_default();
        let rounds = waiting.div_ceil(self.limits.moves_under_way_max);
        self.move_takes.map(|takes| longest + takes * u32::try_from(rounds).unwrap_or(u32::MAX))
    }

    fn member_progress(&self, now: Instant, cluster: &Cluster) -> Vec<MemberProgress> {
        let mut members: Vec<MemberProgress> = cluster
            .members
            .iter()
            .map(|(node, member)| MemberProgress {
                node: *node,
                state: member.state,
                alive: self.is_alive(*node, now),
                silent: self.silence(*node, now),
                slots: 0,
                leads: 0,
            })
            .collect();
        let mut count = |node: NodeId, slots: usize, leads: usize| {
            if let Ok(at) = members.binary_search_by_key(&node, |member| member.node) {
                members[at].slots += slots;
                members[at].leads += leads;
            }
        };
        for row in cluster.rows.values() {
            let mut nodes: Vec<NodeId> = row.named().map(|replica| replica.place().node).collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes.into_iter().for_each(|node| count(node, 1, 0));
            count(row.preferred.place().node, 0, 1);
        }
        members
    }

    fn member_waits(&self, node: NodeId, now: Instant, cluster: &Cluster) -> Option<Waiting> {
        let state = cluster.members.get(&node)?.state;
        if self.is_alive(node, now) || !self.has_listened(now) || state != MemberState::Serving {
            return None;
        }
        let silent = self.silence(node, now);
        let why = match self.not_judged(node, now, cluster) {
            Some(why) => format!("{node} is silent for {} s and is not judged dead: {why}", silent.as_secs()),
            None => {
                let left = self.limits.replace_after.saturating_sub(silent);
                format!("{node} is silent for {} s, its replicas are rebuilt in {} s", silent.as_secs(), left.as_secs())
            }
        };
        Some(Waiting { slot: None, node: Some(node), why: why.into() })
    }

    fn move_progress(&self, slot: SlotId, row: &SlotRow, now: Instant, cluster: &Cluster) -> Option<MoveProgress> {
        let target = row.target.as_ref()?;
        let report = self.reports.get(&slot).filter(|report| report.epoch == row.epoch);
        let places = |replicas: &[crate::ids::ReplicaId]| replicas.iter().map(|replica| replica.place()).collect();
        let caught_up_percent = report.map(|report| {
            let newcomers = target.iter().filter(|replica| !row.replicas.contains(replica));
            let matched = newcomers.map(|replica| {
                let known = report.matched.iter().find(|(known, _)| known == replica);
                known.map_or(0, |(_, index)| *index)
            });
            let slowest = matched.min().unwrap_or(report.committed).min(report.committed);
            assert!(slowest <= report.committed, "nobody is beyond the end");
            (u128::from(slowest) * 100 / u128::from(report.committed.max(1))) as u8
        });
        let under_way = self.begun.get(&slot).map_or(Duration::ZERO, |begun: &Begun| now.since(begun.at));
        Some(MoveProgress {
            slot,
            from: places(&row.replicas),
            to: places(target),
            caught_up_percent,
            under_way,
            remaining: self.move_takes.map(|takes| takes.saturating_sub(under_way)),
            stage: self.stage(row, report, now, cluster).into(),
        })
    }

    fn stage(&self, row: &SlotRow, report: Option<&SlotReport>, now: Instant, cluster: &Cluster) -> String {
        let Some(target) = &row.target else { return String::new() };
        let to: Vec<Place> = target.iter().map(|replica| replica.place()).collect();
        if !self.has_majority(row, now, cluster) {
            return "waits: most of its replicas are silent".into();
        }
        if row.is_busy() {
            return "waits for its split or merge".into();
        }
        if let Some(place) = coming(row, &to, cluster).find(|place| !self.is_alive(place.node, now)) {
            return format!("waits: {} is silent", place.node);
        }
        let Some(report) = report else { return "waits for its leader's report".into() };
        if report.joint {
            return "its voters are changing".into();
        }
        if same(&report.voters, target) {
            let done = report.learners.is_empty();
            return if done { "is done and being written down" } else { "old replicas are leaving" }.into();
        }
        match report.learners.iter().find(|replica| target.contains(replica)) {
            Some(replica) => format!("{} is catching up", replica.place()),
            None => "its leader is about to begin".into(),
        }
    }
}
