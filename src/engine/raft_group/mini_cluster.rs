//! The groups' world: hosts, disks, a network, and what must hold in it. Time is counted in steps.

use std::collections::BTreeMap;

use super::*;
use crate::engine::checkpoint::{self, Cover};
use crate::engine::effect::{Effect, Effects, JournalWrite};
use crate::engine::recovery::Recovery;
use crate::engine::shard::{ClusterSettings, Durability, JournalGeometry, OfflineMode, Retention, ShardConfig};
use crate::ids::{Place, ShardId};
use crate::limits::Limits;
use crate::time::Instant;

pub const STEPS_PER_TICK: u64 = 10;
const SLOT: SlotId = SlotId::METADATA;
const GEOMETRY: JournalGeometry = JournalGeometry { block_bytes: 512, segment_bytes: 16384, identity: 77 };

/// Steps after which a snapshot that is under way is given up by its sender.
const SNAPSHOT_PATIENCE: u64 = 400;

#[derive(Clone, Copy, Default)]
pub struct Troubles {
    pub crashes: bool,
    pub network: bool,
    pub members: bool,
}

#[derive(Clone, Default)]
pub struct Disk {
    segments: BTreeMap<u32, Vec<u8>>,
    checkpoint: Option<Vec<u8>>,
}

/// What the group agrees on, as short as can be: how many values and a digest over them in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    count: u64,
    digest: u64,
}

impl State {
    fn apply(&mut self, data: &[u8]) {
        self.count += 1;
        self.digest = self.digest.rotate_left(7) ^ u64::from(crc32fast::hash(data)).wrapping_mul(0x9e37_79b9);
    }

    fn bytes(self) -> Vec<u8> {
        [self.count.to_le_bytes(), self.digest.to_le_bytes()].concat()
    }

    fn parse(bytes: &[u8]) -> State {
        let number = |at: usize| {
            bytes.get(at..at + 8).map_or(0, |raw| u64::from_le_bytes(raw.try_into().expect("eight bytes were taken")))
        };
        State { count: number(0), digest: number(8) }
    }
}

/// A checkpoint on its way: written when the journal is so far, and then takes a moment.
struct Saving {
    bytes: Vec<u8>,
    after: Position,
    due: Option<u64>,
    /// The snapshot that it installs.
    install: Option<RaftMessage>,
    first_segment: u32,
}

struct Host {
    disk: Disk,
    journal: Journal,
    group: Option<RaftGroup>,
    state: State,
    up_at: Option<u64>,
    writing: Option<(u64, JournalWrite)>,
    saving: Option<Saving>,
    /// The end of its life is on its way to the disk.
    ending: Option<Position>,
    effects: Effects,
    snapshot_since: BTreeMap<ReplicaId, u64>,
    lives: u64,
    /// Who is to live here, and who founded its group.
    wanted: Option<(ReplicaId, Vec<ReplicaId>)>,
}

enum Parcel {
    Message(RaftMessage),
    Snapshot(RaftMessage),
}

pub struct Cluster {
    seed: u64,
    dice: Chance,
    pub now: u64,
    hosts: Vec<Host>,
    network: BTreeMap<(u64, u64), Parcel>,
    sent: u64,
    number: u32,
    troubles: Troubles,
    leaders: BTreeMap<u64, ReplicaId>,
    agreed: BTreeMap<u64, (u64, Bytes)>,
    states: BTreeMap<u64, (State, GroupMembers)>,
    ever: Vec<ReplicaId>,
    pub replaced: u64,
    pub installed: u64,
}

pub fn config() -> ShardConfig {
    ShardConfig {
        place: Place { node: NodeId(1), shard: ShardId(0) },
        shard_count: 1,
        slot_depth: 0,
        limits: Limits { flush_bytes_max: 4096, ..Limits::TINY },
        token_auth: false,
        offline: OfflineMode::Push,
        durability: Durability::Fsync,
        geometry: GEOMETRY,
        retention: Retention { bytes: 0, age_ms: 0 },
        seed: [3; 32],
        boot: 5,
        cluster: ClusterSettings::alone(1),
    }
}

pub fn empty_journal() -> Journal {
    let recovered = Recovery::new(config()).settle(None).expect("nothing is nothing wrong");
    recovered.journal
}

impl Cluster {
    pub fn new(seed: u64, founders: usize, spares: usize) -> Cluster {
        let mut dice = [0; 32];
        dice[..8].copy_from_slice(&seed.to_le_bytes());
        let mut cluster = Cluster {
            seed,
            dice: Chance::new(dice, 0),
            now: 0,
            hosts: Vec::new(),
            network: BTreeMap::new(),
            sent: 0,
            number: 0,
            troubles: Troubles::default(),
            leaders: BTreeMap::new(),
            agreed: BTreeMap::new(),
            states: BTreeMap::new(),
            ever: Vec::new(),
            replaced: 0,
            installed: 0,
        };
        for _ in 0..founders + spares {
            cluster.hosts.push(Host {
                disk: Disk::default(),
                journal: empty_journal(),
                group: None,
                state: State::default(),
                up_at: None,
                writing: None,
                saving: None,
                ending: None,
                effects: Effects::default(),
                snapshot_since: BTreeMap::new(),
                lives: 0,
                wanted: None,
            });
        }
        let voters: Vec<ReplicaId> = (0..founders).map(|host| cluster.next_replica(host)).collect();
        for host in 0..founders {
            cluster.begin(host, voters[host], &voters);
        }
        cluster
    }

    fn next_replica(&mut self, host: usize) -> ReplicaId {
        self.number += 1;
        ReplicaId::new(Place { node: NodeId(host as u16 + 1), shard: ShardId(0) }, self.number)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.dice.between(0, n) == 0
    }

    fn chance_of(&self, host: usize) -> Chance {
        let mut seed = [9; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        Chance::new(seed, (host as u64) << 32 | self.hosts[host].lives)
    }

    fn begin(&mut self, at: usize, replica: ReplicaId, founders: &[ReplicaId]) {
        let chance = self.chance_of(at);
        let host = &mut self.hosts[at];
        host.journal.append_begin(SLOT, 0, replica, founders);
        host.state = State::default();
        host.wanted = Some((replica, founders.to_vec()));
        let state = GroupState::begin(replica, founders);
        host.group = Some(RaftGroup::restore(SLOT, state, config().limits.log_tail_bytes_max, chance));
    }

    pub fn begin_spare(&mut self, host: usize) -> ReplicaId {
        let replica = self.next_replica(host);
        self.begin(host, replica, &[]);
        replica
    }

    // ---- what tests ask and do ----

    pub fn leader(&self) -> Option<usize> {
        let leads = |host: &Host| host.up_at.is_none() && host.group.as_ref().is_some_and(RaftGroup::leads);
        let leaders = self.hosts.iter().enumerate().filter(|(_, host)| leads(host));
        leaders.max_by_key(|(_, host)| host.group.as_ref().map(RaftGroup::term)).map(|(at, _)| at)
    }

    pub fn group(&mut self, host: usize) -> &mut RaftGroup {
        self.hosts[host].group.as_mut().expect("a replica lives there")
    }

    pub fn replica(&self, host: usize) -> ReplicaId {
        self.hosts[host].group.as_ref().expect("a replica lives there").replica()
    }

    /// As the furthest replica has applied them.
    pub fn members(&self) -> GroupMembers {
        self.states.values().next_back().map(|(_, members)| members.clone()).unwrap_or_default()
    }

    pub fn propose(&mut self) -> Option<Proposed> {
        let leader = self.leader()?;
        let length = self.dice.between(8, 300) as usize;
        let data: Vec<u8> = (0..length).map(|_| self.dice.number() as u8).collect();
        self.group(leader).propose(data).ok()
    }

    pub fn change(&mut self, change: &MemberChange) {
        if let Some(leader) = self.leader() {
            let _ = self.group(leader).propose_members(change);
        }
    }

    pub fn transfer(&mut self, to: ReplicaId) {
        if let Some(leader) = self.leader() {
            self.group(leader).transfer(to);
        }
    }

    pub fn hurry(&mut self, down: usize) {
        for host in self.hosts.iter_mut().filter(|host| host.up_at.is_none()) {
            if let Some(group) = &mut host.group {
                group.hurry(NodeId(down as u16 + 1));
            }
        }
    }

    pub fn caught_up(&self, replica: ReplicaId) -> bool {
        let Some(leader) = self.leader() else { return false };
        let group = self.hosts[leader].group.as_ref().expect("it leads");
        let known = group.progress().into_iter().find(|progress| progress.replica == replica);
        known.is_some_and(|progress| progress.active && progress.matched >= group.committed())
    }

    pub fn disk_image(&self, host: usize) -> Disk {
        self.hosts[host].disk.clone()
    }

    pub fn set_disk(&mut self, host: usize, disk: Disk) {
        self.hosts[host].disk = disk;
    }

    pub fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
    }

    pub fn run_until(&mut self, what: &str, mut reached: impl FnMut(&mut Cluster) -> bool) {
        for _ in 0..40_000 {
            if reached(self) {
                return;
            }
            self.step();
        }
        panic!("seed {}: it never came to this: {what}", self.seed);
    }

    pub fn trouble(&mut self, troubles: Troubles, steps: u64) {
        self.troubles = troubles;
        for _ in 0..steps {
            if self.one_in(12) {
                self.propose();
            }
            if troubles.crashes && self.one_in(400) {
                let host = self.dice.between(0, self.hosts.len() as u64) as usize;
                let steps = self.dice.between(1, 600);
                self.crash(host, steps);
            }
            if self.one_in(500) {
                let down = self.dice.between(0, self.hosts.len() as u64) as usize;
                self.hurry(down);
            }
            if self.one_in(300) {
                let voters = self.members().voters;
                if !voters.is_empty() {
                    let to = voters[self.dice.between(0, voters.len() as u64) as usize];
                    self.transfer(to);
                }
            }
            if troubles.members && self.one_in(20) {
                self.move_members();
            }
            self.step();
        }
        self.troubles = Troubles::default();
    }

    /// Good times: everybody who is a member comes to the same end.
    pub fn converge(&mut self) {
        for host in &mut self.hosts {
            host.up_at = host.up_at.map(|_| self.now);
        }
        self.run_until("nobody changes members", |cluster| {
            cluster.leader().is_some() && cluster.members().voters_outgoing.is_empty()
        });
        let mut last = None;
        self.run_until("everybody has everything", |cluster| {
            if last.is_none() || cluster.now.is_multiple_of(1000) {
                last = cluster.propose();
            }
            let members = cluster.members();
            last.is_some_and(|last| {
                let all = members.voters.iter().chain(&members.learners);
                all.into_iter().all(|member| {
                    let host = &cluster.hosts[usize::from(member.place().node.0) - 1];
                    let group = host.group.as_ref().filter(|group| group.replica() == *member);
                    group.is_some_and(|group| group.applied() >= last.index)
                }) && cluster.agreed.get(&last.index).is_some_and(|(term, _)| *term == last.term)
            })
        });
    }

    fn move_members(&mut self) {
        let Some(leader) = self.leader() else { return };
        let members = self.members();
        let known = |replica: ReplicaId| {
            members.voters.contains(&replica)
                || members.learners.contains(&replica)
                || members.voters_outgoing.contains(&replica)
        };
        let at = self.dice.between(0, self.hosts.len() as u64) as usize;
        let host = &mut self.hosts[at];
        if host.up_at.is_some() || host.ending.is_some() {
            return;
        }
        match host.group.as_ref().map(RaftGroup::replica) {
            None => {
                self.begin_spare(at);
            }
            Some(replica) if !known(replica) && self.ever.contains(&replica) => {
                // It was removed: its life ends.
                host.journal.append_end(SLOT, replica);
                host.ending = Some(host.journal.position());
                (host.group, host.saving, host.wanted) = (None, None, None);
            }
            Some(replica) if !known(replica) => self.change(&MemberChange::AddLearner(replica)),
            Some(replica) if members.learners.contains(&replica) => {
                if self.one_in(10) {
                    self.change(&MemberChange::RemoveLearner(replica));
                } else if self.caught_up(replica) {
                    let own = self.replica(leader);
                    let mut voters = members.voters.clone();
                    let gone = self.dice.between(0, voters.len() as u64) as usize;
                    if voters[gone] != own || self.one_in(5) {
                        voters[gone] = replica;
                        self.change(&MemberChange::Replace { voters });
                    }
                }
            }
            Some(_) => {}
        }
    }

    // ---- time ----

    fn step(&mut self) {
        self.now += 1;
        while let Some(entry) = self.network.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                Parcel::Message(message) => self.deliver(message),
                Parcel::Snapshot(message) => self.deliver_snapshot(message),
            }
        }
        for at in 0..self.hosts.len() {
            match self.hosts[at].up_at {
                Some(due) if due <= self.now => self.restart(at),
                Some(_) => {}
                None => self.turn(at),
            }
        }
    }

    fn deliver(&mut self, message: RaftMessage) {
        let host = &mut self.hosts[usize::from(message.to.place().node.0) - 1];
        if let Some(group) = host.group.as_mut().filter(|_| host.up_at.is_none()) {
            let right = group.replica() == message.to;
            // An answer of somebody who has left since is refused too.
            assert!(group.step(message).is_err() || right);
        }
    }

    /// The state arrives: bodies into the journal, then a checkpoint, then raft.
    fn deliver_snapshot(&mut self, message: RaftMessage) {
        let host = &mut self.hosts[usize::from(message.to.place().node.0) - 1];
        let Some(group) = host.group.as_mut().filter(|_| host.up_at.is_none()) else { return };
        let head = message.snapshot.clone().expect("a snapshot has a head");
        if group.replica() != message.to || host.saving.is_some() {
            return;
        }
        let body = host.journal.append_body(SLOT, message.to, &head.data);
        assert!(body < host.journal.position());
        match group.prepare_install(&head, &mut host.journal) {
            Some(state) => {
                let replay_segment = group.replay_segment(&host.journal);
                let bytes = checkpoint::encode_metadata(&state, Cover { depth: 0, replay_segment }, &head.data);
                let after = host.journal.position();
                let install = Some(message);
                host.saving = Some(Saving { bytes, after, due: None, install, first_segment: replay_segment });
            }
            // The log does without: raft says how far it is.
            None => drop(group.step(message)),
        }
    }

    fn turn(&mut self, at: usize) {
        self.disk_answers(at);
        self.save(at);
        let host = &mut self.hosts[at];
        let mut out = Vec::new();
        let mut wishes = Vec::new();
        if let Some(mut group) = host.group.take() {
            if self.now.is_multiple_of(STEPS_PER_TICK) {
                group.tick();
            }
            self.turn_group(at, &mut group, &mut out);
            wishes = group.take_snapshot_wishes();
            for wish in &mut wishes {
                let mut head = group.snapshot_head();
                head.data = self.hosts[at].state.bytes().into();
                wish.snapshot = Some(head);
            }
            group.check_invariants();
            self.watch_snapshots(at, &mut group);
            if group.leads() {
                let leader = self.leaders.entry(group.term()).or_insert(group.replica());
                assert_eq!(*leader, group.replica(), "seed {}: two leaders in term {}", self.seed, group.term());
            }
            self.hosts[at].group = Some(group);
        }
        for message in out {
            self.send(Parcel::Message(message));
        }
        for wish in wishes {
            self.send(Parcel::Snapshot(wish));
        }
        self.flush(at);
    }

    fn turn_group(&mut self, at: usize, group: &mut RaftGroup, out: &mut Vec<RaftMessage>) {
        let mut committed = Vec::new();
        let durable = self.hosts[at].journal.durable_flush();
        group.handle_durable(durable, out);
        loop {
            group.drain(&mut self.hosts[at].journal, &mut committed, out);
            if committed.is_empty() {
                return;
            }
            for entry in committed.drain(..) {
                self.apply(at, group, &entry);
            }
        }
    }

    fn apply(&mut self, at: usize, group: &mut RaftGroup, entry: &CommittedEntry) {
        let seed = self.seed;
        let what = (entry.term, entry.data.clone());
        let agreed = self.agreed.entry(entry.index).or_insert_with(|| what.clone());
        assert_eq!(*agreed, what, "seed {seed}: entry {} is not what was agreed on", entry.index);
        assert_eq!(entry.index, group.applied() + 1, "seed {seed}: entries are applied in order");
        self.hosts[at].state.apply(&entry.data);
        let before = group.members().clone();
        group.applied_to(entry.index, entry.term);
        assert!(entry.members_changed || before == *group.members(), "only such an entry changes members");
        let now = (self.hosts[at].state, group.members().clone());
        for replica in now.1.voters.iter().chain(&now.1.learners) {
            if !self.ever.contains(replica) {
                self.ever.push(*replica);
            }
        }
        if entry.members_changed && !self.states.contains_key(&entry.index) && !now.1.voters_outgoing.is_empty() {
            self.replaced += 1;
        }
        let first = self.states.entry(entry.index).or_insert_with(|| now.clone());
        assert_eq!(*first, now, "seed {seed}: state and members are the same everywhere at {}", entry.index);
    }

    /// The sender's own patience with snapshots.
    fn watch_snapshots(&mut self, at: usize, group: &mut RaftGroup) {
        let since = &mut self.hosts[at].snapshot_since;
        let progress = group.progress();
        since.retain(|replica, _| progress.iter().any(|known| known.replica == *replica && known.snapshot_pending));
        for pending in progress.iter().filter(|progress| progress.snapshot_pending) {
            let began = *since.entry(pending.replica).or_insert(self.now);
            if self.now - began > SNAPSHOT_PATIENCE {
                since.remove(&pending.replica);
                group.report_snapshot(pending.replica, false);
            }
        }
    }

    fn send(&mut self, parcel: Parcel) {
        let bad = self.troubles.network;
        let copies = if bad && self.one_in(20) { self.dice.between(0, 3) } else { 1 };
        for copy in 0..copies {
            let late = if bad && self.one_in(10) { self.dice.between(1, 200) } else { self.dice.between(1, 6) };
            self.sent += 1;
            let (again, due) = match &parcel {
                Parcel::Message(message) => (Parcel::Message(message.clone()), self.now + late),
                Parcel::Snapshot(message) => (Parcel::Snapshot(message.clone()), self.now + 20 + late),
            };
            self.network.insert((due, self.sent + copy), again);
            self.sent += copy;
        }
    }

    // ---- disks ----

    fn disk_answers(&mut self, at: usize) {
        let now = Instant(self.now * 1_000_000);
        let fault = self.troubles.crashes && self.one_in(2000);
        let host = &mut self.hosts[at];
        if let Some((_, write)) = host.writing.take_if(|(due, _)| *due <= self.now) {
            let file = host.disk.segments.get_mut(&write.segment).expect("only prepared segments are written to");
            if fault {
                host.journal.handle_written(now, write.flush, write.bytes, Err(crate::engine::event::DiskFault::Full));
            } else {
                let begin = write.offset as usize;
                file[begin..begin + write.bytes.len()].copy_from_slice(&write.bytes);
                host.journal.handle_written(now, write.flush, write.bytes, Ok(()));
            }
        }
        if host.ending.take_if(|end| *end <= host.journal.written()).is_some() {
            host.disk.checkpoint = None;
        }
    }

    /// A checkpoint now and then, and one that is under way.
    fn save(&mut self, at: usize) {
        let begins = self.one_in(300);
        let took = self.dice.between(1, 30);
        let host = &mut self.hosts[at];
        let Some(group) = &mut host.group else { return };
        let written = host.journal.written();
        if let Some(saving) = &mut host.saving {
            if saving.due.is_none() && written >= saving.after {
                saving.due = Some(self.now + took);
            }
            if saving.due.is_some_and(|due| due <= self.now) {
                let saving = host.saving.take().expect("it was just seen");
                host.disk.checkpoint = Some(saving.bytes);
                if let Some(message) = saving.install {
                    let head = message.snapshot.clone().expect("a snapshot has a head");
                    host.state = State::parse(&head.data);
                    group.install(message).expect("it was prepared");
                    assert_eq!((group.applied(), group.members()), (head.index, &head.members));
                    self.installed += 1;
                }
                host.journal.trim(saving.first_segment, &mut host.effects);
            }
        } else if begins {
            let replay_segment = group.replay_segment(&host.journal);
            let cover = Cover { depth: 0, replay_segment };
            let bytes = checkpoint::encode_metadata(&group.state(), cover, &host.state.bytes());
            let after = Position { segment: 0, offset: 0 };
            host.saving = Some(Saving { bytes, after, due: None, install: None, first_segment: replay_segment });
        }
    }

    fn flush(&mut self, at: usize) {
        let now = Instant(self.now * 1_000_000);
        let took = self.dice.between(1, 8);
        let host = &mut self.hosts[at];
        host.journal.flush(now, &mut host.effects);
        while let Some(effect) = host.effects.list.pop() {
            match effect {
                Effect::JournalWrite(write) => host.writing = Some((self.now + took, write)),
                Effect::JournalSegment { segment } => {
                    host.disk.segments.insert(segment, vec![0; GEOMETRY.segment_bytes as usize]);
                    host.journal.handle_segment_ready(now, segment, Ok(()));
                    host.journal.flush(now, &mut host.effects);
                }
                Effect::JournalTrim { first } => host.disk.segments.retain(|segment, _| *segment >= first),
                other => panic!("a journal does not ask for {other:?}"),
            }
        }
    }

    /// Everything that was not written is gone, and the write under way is torn.
    pub fn crash(&mut self, at: usize, steps: u64) {
        let keep = self.dice.number();
        let host = &mut self.hosts[at];
        if host.up_at.is_some() {
            return;
        }
        if let Some((_, write)) = host.writing.take() {
            let file = host.disk.segments.get_mut(&write.segment).expect("only prepared segments are written to");
            for (n, sector) in write.bytes.chunks(512).enumerate().filter(|(n, _)| keep >> (n % 64) & 1 == 1) {
                let begin = write.offset as usize + n * 512;
                file[begin..begin + sector.len()].copy_from_slice(sector);
            }
        }
        (host.group, host.saving, host.ending) = (None, None, None);
        host.effects.list.clear();
        host.snapshot_since.clear();
        host.up_at = Some(self.now + steps);
    }

    fn restart(&mut self, at: usize) {
        self.hosts[at].lives += 1;
        let chance = self.chance_of(at);
        let host = &mut self.hosts[at];
        let mut recovery = Recovery::new(config());
        if let Some(bytes) = &host.disk.checkpoint {
            recovery.checkpoint(SLOT, bytes).expect("what was written whole is whole");
        }
        let oldest = host.disk.segments.keys().next().copied();
        let last = host.disk.segments.keys().next_back().copied();
        if let (Some(oldest), Some(last)) = (oldest, last) {
            for (segment, bytes) in host.disk.segments.range(recovery.first_segment().clamp(oldest, last)..) {
                recovery.segment(*segment, bytes).unwrap_or_else(|what| panic!("seed {}: {what}", self.seed));
            }
        }
        let recovered = recovery.settle(oldest).unwrap_or_else(|what| panic!("seed {}: {what}", self.seed));
        host.journal = recovered.journal;
        host.up_at = None;
        if let Some((state, bytes, _)) = recovered.metadata {
            host.state = State::parse(&bytes);
            host.group = Some(RaftGroup::restore(SLOT, state, config().limits.log_tail_bytes_max, chance));
        }
        // Its beginning got lost, and so did everything it might have said: it begins again.
        let missing = host.wanted.clone().filter(|_| host.group.is_none());
        if let Some((replica, founders)) = missing {
            self.begin(at, replica, &founders);
        }
    }
}
