//! What a group's leader does next so that its members become those that are wanted, and its leader the one that is preferred. Looks at how
//! things stand and names one step; remembers nothing, so any later leader goes on where this one was lost.
//!
//! ```text
//!  newcomers missing ──► learners, one by one ──(caught up)──► voters = wanted, in one joint change
//!  the leader itself is to go ──► hands over to a voter that stays ──► that one goes on
//!        (none stays, or those that do are silent: everybody votes together first)
//!  most of those that shall vote are silent ──► waits: with their votes counted nothing would ever be agreed on
//!  learners nobody wants ──► removed
//!  as wanted ──► report; the preferred replica leads
//! ```

use std::collections::BTreeSet;

use super::raft_group::{RaftGroup, ReplicaProgress};
use crate::format::raft_message::GroupMembers;
use crate::ids::ReplicaId;

/// What the leader sees.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// The leader itself.
    pub leader: ReplicaId,
    /// Who is in the group.
    pub members: &'a GroupMembers,
    /// Who shall vote.
    pub wanted: &'a [ReplicaId],
    /// Who should lead when everything is as wanted.
    pub preferred: ReplicaId,
    /// The others, as far as heard of.
    pub standings: &'a [ReplicaProgress],
    /// The log's last entry.
    pub last_index: u64,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything is as wanted.
    Rest,
    /// Something is under way.
    Wait,
    /// It shall follow, and catch up.
    AddLearner(ReplicaId),
    /// It shall follow no longer.
    RemoveLearner(ReplicaId),
    /// They shall vote, nobody else.
    Vote(Vec<ReplicaId>),
    /// It shall lead.
    HandOver(ReplicaId),
}

/// A replica so many entries behind counts as caught up: the rest follows within one exchange.
const CAUGHT_UP_ENTRIES: u64 = 256;

impl Sight<'_> {
    fn standing(&self, replica: ReplicaId) -> Option<&ReplicaProgress> {
        self.standings.iter().find(|standing| standing.replica == replica)
    }

    fn has_caught_up(&self, replica: ReplicaId) -> bool {
        replica == self.leader
            || self.standing(replica).is_some_and(|standing| {
                // One that has nothing at all has not caught up with a young group either: it may need a snapshot, and as a voter it
                // would keep the group from agreeing on anything meanwhile.
                let near = standing.matched > 0 && standing.matched + CAUGHT_UP_ENTRIES >= self.last_index;
                standing.active && !standing.snapshot_pending && near
            })
    }

    /// The next step.
    #[must_use]
    pub fn step(&self) -> Step {
        assert!(!self.wanted.is_empty(), "a group without voters is no group");
        let joint = !self.members.voters_outgoing.is_empty();
        if joint {
            return Step::Wait;
        }
        let voters: BTreeSet<ReplicaId> = self.members.voters.iter().copied().collect();
        let learners: BTreeSet<ReplicaId> = self.members.learners.iter().copied().collect();
        let wanted: BTreeSet<ReplicaId> = self.wanted.iter().copied().collect();
        if let Some(stray) = learners.iter().find(|learner| !wanted.contains(learner)) {
            return Step::RemoveLearner(*stray);
        }
        if voters == wanted {
            return self.lead_or_hand_over();
        }
        let newcomers: Vec<ReplicaId> = wanted.difference(&voters).copied().collect();
        if let Some(missing) = newcomers.iter().find(|newcomer| !learners.contains(newcomer)) {
            return Step::AddLearner(*missing);
        }
        if !newcomers.iter().all(|newcomer| self.has_caught_up(*newcomer)) {
            return Step::Wait;
        }
        // What they agree on is what counts from then on: without a majority of them nothing would be, not even another change.
        let fit = wanted.iter().filter(|replica| self.has_caught_up(**replica)).count();
        if fit * 2 <= wanted.len() {
            return Step::Wait;
        }
        if wanted.contains(&self.leader) {
            return Step::Vote(self.wanted.to_vec());
        }
        // Leaders do not vote themselves away: one that stays goes on.
        let mut stays: Vec<ReplicaId> = wanted.intersection(&voters).copied().collect();
        let is_silent = |replica: &ReplicaId| !self.standing(*replica).is_some_and(|standing| standing.active);
        if stays.iter().all(is_silent) {
            return Step::Vote(voters.union(&wanted).copied().collect());
        }
        stays.sort_by_key(|replica| *replica != self.preferred);
        match stays.into_iter().find(|replica| self.has_caught_up(*replica)) {
            Some(heir) => Step::HandOver(heir),
            None => Step::Wait,
        }
    }

    fn lead_or_hand_over(&self) -> Step {
        let elsewhere = self.preferred != self.leader && self.wanted.contains(&self.preferred);
        if elsewhere && self.has_caught_up(self.preferred) { Step::HandOver(self.preferred) } else { Step::Rest }
    }

    fn heir(&self, is_fit: impl Fn(ReplicaId) -> bool) -> Option<ReplicaId> {
        let voters = self.standings.iter().filter(|s| s.active && self.members.voters.contains(&s.replica));
        let voters = voters.filter(|standing| is_fit(standing.replica));
        let fit =
            |standing: &ReplicaProgress| self.preferred == standing.replica && self.has_caught_up(standing.replica);
        voters.max_by_key(|standing| (fit(standing), standing.matched)).map(|standing| standing.replica)
    }
}

/// Whom a leader hands over to before its node stops, of those that are fit: the preferred replica if it has caught up, else the one that
/// is furthest.
#[must_use]
pub fn heir(group: &RaftGroup, preferred: ReplicaId, is_fit: impl Fn(ReplicaId) -> bool) -> Option<ReplicaId> {
    let standings = group.progress();
    let (leader, members, last_index) = (group.replica(), group.members(), group.last_index());
    Sight { leader, members, wanted: &[], preferred, standings: &standings, last_index }.heir(is_fit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, Place, ShardId};

    fn replica(node: u16) -> ReplicaId {
        ReplicaId::new(Place { node: NodeId(node), shard: ShardId(0) }, u32::from(node))
    }

    fn replicas(nodes: &[u16]) -> Vec<ReplicaId> {
        nodes.iter().map(|node| replica(*node)).collect()
    }

    /// A group that does every step at once.
    struct Toy {
        members: GroupMembers,
        leader: ReplicaId,
        silent: Vec<ReplicaId>,
        steps: Vec<Step>,
    }

    impl Toy {
        fn new(voters: &[u16], leader: u16) -> Toy {
            let members = GroupMembers { voters: replicas(voters), ..GroupMembers::default() };
            Toy { members, leader: replica(leader), silent: Vec::new(), steps: Vec::new() }
        }

        fn run(&mut self, wanted: &[u16], preferred: u16) {
            let wanted = replicas(wanted);
            for _ in 0..20 {
                let standings: Vec<ReplicaProgress> = self
                    .members
                    .voters
                    .iter()
                    .chain(&self.members.learners)
                    .map(|replica| ReplicaProgress {
                        replica: *replica,
                        matched: 100,
                        active: !self.silent.contains(replica),
                        snapshot_pending: false,
                    })
                    .collect();
                let sight = Sight {
                    leader: self.leader,
                    members: &self.members,
                    wanted: &wanted,
                    preferred: replica(preferred),
                    standings: &standings,
                    last_index: 100,
                };
                let step = sight.step();
                self.steps.push(step.clone());
                match step {
                    Step::Rest => return,
                    Step::Wait => panic!("it waits for nothing: {:?}", self.steps),
                    Step::AddLearner(learner) => self.members.learners.push(learner),
                    Step::RemoveLearner(learner) => self.members.learners.retain(|known| *known != learner),
                    Step::Vote(voters) => {
                        assert!(voters.contains(&self.leader), "a leader never votes itself away");
                        self.members.learners.retain(|learner| !voters.contains(learner));
                        self.members.voters = voters;
                    }
                    Step::HandOver(heir) => {
                        assert!(self.members.voters.contains(&heir), "only a voter can lead");
                        assert!(!self.silent.contains(&heir), "the silent do not lead");
                        self.leader = heir;
                    }
                }
            }
            panic!("it does not come to rest: {:?}", self.steps);
        }
    }

    #[test]
    fn every_change_ends_as_wanted_whoever_leads() {
        for leader in 1..=3 {
            for wanted in [&[1, 2, 3][..], &[2, 3, 4], &[4, 5, 6], &[3], &[1, 2, 3, 4, 5], &[5]] {
                let mut toy = Toy::new(&[1, 2, 3], leader);
                toy.members.learners = replicas(&[9]);
                toy.run(wanted, wanted[wanted.len() - 1]);
                let voters: BTreeSet<_> = toy.members.voters.iter().copied().collect();
                assert_eq!(voters, replicas(wanted).into_iter().collect());
                assert_eq!(toy.leader, replica(wanted[wanted.len() - 1]));
                assert!(toy.members.learners.is_empty());
            }
        }
    }

    #[test]
    fn one_that_stays_and_is_silent_holds_nothing_up() {
        for leader in 1..=2 {
            let mut toy = Toy::new(&[1, 2, 3], leader);
            toy.silent = replicas(&[3]);
            toy.run(&[3, 4, 5], 3);
            assert_eq!(toy.members.voters, replicas(&[3, 4, 5]));
        }
    }

    #[test]
    fn nobody_votes_with_a_majority_of_the_silent() {
        let members = GroupMembers { voters: replicas(&[1, 2, 3]), learners: Vec::new(), ..GroupMembers::default() };
        let wanted = replicas(&[1, 3]);
        let standing = |active| ReplicaProgress { replica: replica(3), matched: 100, active, snapshot_pending: false };
        let step = |standings: &[ReplicaProgress]| {
            let (leader, preferred) = (replica(1), replica(1));
            let (members, wanted) = (&members, wanted.as_slice());
            Sight { leader, members, wanted, preferred, standings, last_index: 100 }.step()
        };
        assert_eq!(step(&[standing(true)]), Step::Vote(replicas(&[1, 3])));
        assert_eq!(step(&[standing(false)]), Step::Wait);
    }

    #[test]
    fn it_waits_for_who_lags_and_never_hands_over_to_the_silent() {
        let members = GroupMembers { voters: replicas(&[1, 2, 3]), ..GroupMembers::default() };
        let wanted = replicas(&[1, 2, 3]);
        let standing =
            |matched, active| ReplicaProgress { replica: replica(2), matched, active, snapshot_pending: false };
        let step = |standing: ReplicaProgress| {
            let standings = [standing];
            let (leader, preferred) = (replica(1), replica(2));
            let sight = Sight {
                leader,
                members: &members,
                wanted: &wanted,
                preferred,
                standings: &standings,
                last_index: 1000,
            };
            sight.step()
        };
        assert_eq!(step(standing(1000, true)), Step::HandOver(replica(2)));
        assert_eq!(step(standing(1000, false)), Step::Rest);
        assert_eq!(step(standing(10, true)), Step::Rest);
    }
}
