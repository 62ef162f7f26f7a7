//! The nodes as one cluster: what their shards ask of the network, who leads what, what each node knows of the others, and
//! whether all of it is as it should be at rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jindou::engine::effect::Effect;
use jindou::engine::event::Event;
use jindou::engine::metadata::{Cluster, MemberState, MetadataCommand, Reshape};
use jindou::engine::shard::ClusterSettings;
use jindou::format::frame::Addresses;
use jindou::ids::{ChannelKey, KeyHash, Place, ShardId, SlotId, Uid};

use crate::checkers::Promise;
use crate::checkers::limits::LINK_BYTES_MAX;
use crate::ledger::LogKey;
use crate::sabotage::Sabotage;
use crate::world::{HostRef, World};

/// Replicas at rest differ by no more entries than this.
const APPLIED_NEAR: u64 = 8;

/// Rows that have changed are said in words, so many at most.
const ROWS_SAID_MAX: usize = 4;

/// Every so many turns of a shard its replicas are compared with others.
const LOOK_EVERY: u64 = 16;

impl World {
    /// What a node is told of the others: the first one founds, the later ones ask to be let in; so does the first when it has lost
    /// its data, because whoever starts it says so.
    pub fn cluster_settings(&self, node: usize) -> ClusterSettings {
        let identity = self.nodes[node].identity;
        if self.nodes.len() == 1 {
            return ClusterSettings::alone(identity);
        }
        let nobody = || Box::<str>::from("");
        let guise = self.nodes[node].guise;
        let cluster = self.links.address_of(node);
        let everybody: Vec<usize> = (0..usize::from(self.plan.nodes)).collect();
        let others = guise.seeds.unwrap_or(&everybody).iter().filter(|other| **other != node);
        let founds = node == 0 && !self.nodes[0].wiped;
        ClusterSettings {
            name: guise.cluster.into(),
            secret: guise.secret.into(),
            address: Some(cluster),
            seeds: if founds { Vec::new() } else { others.map(|other| self.links.address_of(*other)).collect() },
            replicas: self.plan.cluster.replicas,
            steward: self.plan.cluster.steward,
            gossip: self.plan.cluster.gossip,
            links: self.plan.cluster.link_limits,
            addresses: Addresses { cluster, tcp: nobody(), ws: nobody(), wss: nobody(), http: nobody() },
            ..ClusterSettings::alone(identity)
        }
    }

    /// Does what a shard asked of the network between nodes.
    pub fn carry_out_link(&mut self, host: HostRef, effect: Effect) {
        let now_ns = self.now_ns;
        let chance = &mut self.chances.links;
        match effect {
            Effect::Dial { conn, to } => self.links.dial(now_ns, host, conn, to, chance),
            Effect::LinkWrite { conn, bytes } => {
                let waiting = self.links.write(now_ns, host, conn, &bytes, chance);
                if waiting > LINK_BYTES_MAX {
                    let text = format!("{waiting} bytes wait in {conn:?} of {host}");
                    self.judge(Promise::Limits, Err(text));
                }
            }
            Effect::Hangup { conn } => self.links.hang_up(now_ns, host, conn, chance),
            Effect::Datagram { to, bytes } => self.links.datagram(now_ns, host, to, &bytes, chance),
            _ => {}
        }
        self.settle_links();
    }

    /// The first shard of a node knows the cluster anew: so do the others, a little later.
    pub fn tell_cluster(&mut self, host: HostRef, cluster: Arc<Cluster>) {
        assert_eq!(host.shard, 0, "a node's first shard knows the cluster");
        let cluster = if self.sabotages(Sabotage::ForkTable, 3) {
            let mut forged = (*cluster).clone();
            forged.next_replica += 1;
            Arc::new(forged)
        } else {
            cluster
        };
        if let Some(before) = self.checkers.tables.newest().filter(|before| before.version < cluster.version) {
            self.coverage.note_cluster(before, &cluster);
        }
        let node = &mut self.nodes[host.node];
        let verdict = self.checkers.tables.known(host.node, node.life, &cluster);
        let before = node.cluster.clone();
        node.cluster = Some(Arc::clone(&cluster));
        self.judge(Promise::Table, verdict);
        if self.sabotage == Some(Sabotage::EndUpperEarly) {
            self.end_upper_ones(&cluster);
        }
        self.say(|| {
            let known = |slot: &SlotId| before.as_ref().and_then(|before| before.rows.get(slot));
            let changed = cluster.rows.iter().filter(|(slot, row)| known(slot) != Some(*row));
            let rows: Vec<String> = changed.take(ROWS_SAID_MAX).map(|(slot, row)| format!("{slot}: {row:?}")).collect();
            format!("{host} knows the cluster in version {}: {}", cluster.version, rows.join("; "))
        });
        for shard in 1..usize::from(self.plan.shards) {
            self.happen(HostRef { node: host.node, shard }, Event::Cluster(Arc::clone(&cluster)));
        }
    }

    /// Says of every replica that it has digested what it is waited for, whether it has or not.
    fn end_upper_ones(&mut self, cluster: &Cluster) {
        for (slot, row) in &cluster.rows {
            let Some(Reshape::Digest { plan, waits, .. }) = &row.reshape else { continue };
            for replica in waits.iter().copied() {
                self.propose(&MetadataCommand::MergeDigested { slot: *slot, plan: *plan, replica });
            }
        }
    }

    /// A shard has had its turn: who leads, and now and then what its replicas hold.
    pub fn look_at_replicas(&mut self, host: HostRef) {
        let node = &self.nodes[host.node];
        let target = &node.hosts[host.shard];
        let mut place = Place { node: node.id, shard: ShardId(host.shard as u16) };
        if self.sabotage == Some(Sabotage::SecondLeader) && self.saboteur.one_in(50) {
            place.shard.0 += 1;
        }
        let mut verdict = Ok(());
        let changes = self.checkers.leaders.changes;
        for (slot, term) in target.shard.led() {
            verdict = verdict.and(self.checkers.leaders.leads(self.now_ns, slot, term, place));
        }
        let mut agreed = Ok(());
        if target.steps.is_multiple_of(LOOK_EVERY) {
            for replica in target.shard.replicas() {
                let forged = self.sabotage == Some(Sabotage::OtherReplica) && self.saboteur.one_in(50);
                let logs = replica.logs() ^ u64::from(forged);
                agreed = agreed.and(self.checkers.replicas.holds(
                    place,
                    (replica.slot(), replica.plan()),
                    replica.applied(),
                    logs,
                ));
            }
        }
        if self.checkers.leaders.changes != changes {
            let led: Vec<_> = target.shard.led().collect();
            let hosted = target.shard.replicas().count();
            self.say(|| format!("{host} leads {led:?} of {hosted} (slot, term)"));
        }
        self.judge(Promise::OneLeader, verdict);
        self.judge(Promise::Replicas, agreed);
    }

    /// Replicas of a slot are the same at rest.
    pub fn compare_replicas(&mut self) {
        let mut by_slot: BTreeMap<SlotId, Vec<(HostRef, u64, u64, u64)>> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for (shard, host) in node.hosts.iter().enumerate() {
                for replica in host.shard.replicas() {
                    let here = (HostRef { node: index, shard }, replica.applied(), replica.logs(), replica.homes());
                    by_slot.entry(replica.slot()).or_default().push(here);
                }
            }
        }
        self.every_key_is_in_its_slot();
        for (slot, held) in by_slot {
            let first = held[0];
            let other = held.iter().find(|one| (one.1, one.2, one.3) != (first.1, first.2, first.3));
            if let Some(other) = other {
                let text = format!("slot {slot} at rest: {first:?}, but {other:?} (applied, logs, homes)");
                self.judge(Promise::Replicas, Err(text));
            }
        }
    }

    /// A replica holds keys of its slot only, at the depth that the table has.
    fn every_key_is_in_its_slot(&mut self) {
        let Some(newest) = self.newest_cluster().cloned() else { return };
        let mut verdict = Ok(());
        for (index, node) in self.nodes.iter().enumerate() {
            for replica in node.hosts.iter().flat_map(|host| host.shard.replicas()) {
                let (slot, depth) = (replica.slot(), replica.depth());
                if newest.rows.get(&slot).map(|row| row.depth) != Some(depth) {
                    verdict = Err(format!("slot {slot} at rest has depth {depth} on node {index}"));
                }
                if let Some(stray) = replica.stray() {
                    verdict = Err(format!("slot {slot} of depth {depth} on node {index} holds {stray}"));
                }
            }
        }
        self.judge(Promise::Replicas, verdict);
    }

    /// The slot of a user.
    pub fn slot_of_user(&self, user: usize) -> SlotId {
        let uid = Uid::parse(&self.uids[user]).expect("the simulator's names are good");
        self.slot_of_key(uid.key_hash())
    }

    /// The slot of a key in the newest table.
    fn slot_of_key(&self, key: KeyHash) -> SlotId {
        let rows = self.newest_cluster().map(|cluster| &cluster.rows);
        let named = rows.and_then(|rows| rows.iter().find(|(slot, row)| key.slot(row.depth) == **slot));
        named.map_or_else(|| key.slot(self.plan.slot_depth), |(slot, _)| *slot)
    }

    /// The slot of a log.
    pub fn slot_of_log(&self, log: LogKey) -> SlotId {
        let uid = |user: usize| Uid::parse(&self.uids[user]).expect("the simulator's names are good");
        let key = match log {
            LogKey::Pair(a, b) => ChannelKey::pair(&uid(a), &uid(b)),
            LogKey::Command(user) => ChannelKey::command(&uid(user)),
        };
        self.slot_of_key(key.key_hash())
    }

    /// Who leads a slot: of several that believe so, the one of the latest term.
    pub fn leader_of(&self, slot: SlotId) -> Option<HostRef> {
        self.leaders(slot).into_iter().max_by_key(|(term, _)| *term).map(|(_, host)| host)
    }

    fn leaders(&self, slot: SlotId) -> Vec<(u64, HostRef)> {
        let mut leaders = Vec::new();
        for (node, one) in self.nodes.iter().enumerate() {
            for (shard, host) in one.hosts.iter().enumerate() {
                let led = host.shard.led().filter(|(led, _)| *led == slot);
                leaders.extend(led.map(|(_, term)| (term, HostRef { node, shard })));
            }
        }
        leaders
    }

    /// The latest state of the cluster that any running node knows.
    pub fn newest_cluster(&self) -> Option<&Arc<Cluster>> {
        self.nodes.iter().filter_map(|node| node.cluster.as_ref()).max_by_key(|cluster| cluster.version)
    }

    /// On how many nodes' disks a message of a log must be when it is acknowledged. A move that was given up half way may leave two voters on one
    /// node.
    pub fn copies_needed(&self, log: LogKey) -> usize {
        if self.plan.nodes == 1 {
            return 1;
        }
        let row = self.newest_cluster().and_then(|cluster| cluster.rows.get(&self.slot_of_log(log)));
        row.filter(|row| row.target.is_none()).map_or(1, |row| {
            let mut voters: BTreeMap<_, usize> = BTreeMap::new();
            row.replicas.iter().for_each(|replica| *voters.entry(replica.place().node).or_default() += 1);
            let mut voters: Vec<usize> = voters.into_values().collect();
            voters.sort_unstable_by(|a, b| b.cmp(a));
            let majority = row.replicas.len() / 2 + 1;
            let mut counted = 0;
            let short = |more: &&usize| {
                let before = counted;
                counted += **more;
                before < majority
            };
            voters.iter().take_while(short).count()
        })
    }

    /// How long a request may take in good times.
    pub fn patience(&self) -> Duration {
        crate::checkers::endings::PATIENCE * if self.plan.nodes > 1 { 3 } else { 1 }
    }

    /// What is not as it should be with the cluster: at rest there is nothing. Of one node it is asked only whether it leads
    /// what it hosts.
    pub fn unrest_of_cluster(&self) -> Option<String> {
        let Some(newest) = self.newest_cluster() else { return Some("nobody knows the cluster".to_owned()) };
        for slot in newest.rows.keys().copied() {
            match self.leaders(slot).as_slice() {
                [_] => {}
                leaders => return Some(format!("slot {slot} is led by {leaders:?}: {}", self.standings_of(slot))),
            }
        }
        if self.plan.nodes == 1 {
            return None;
        }
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.present) {
            let version = node.cluster.as_ref().map_or(0, |cluster| cluster.version);
            if version != newest.version {
                let hosts = self.nodes.iter().flat_map(|node| &node.hosts);
                let standings: Vec<String> = hosts.filter_map(|host| host.shard.metadata_standing()).collect();
                let standings = standings.join("\n  ");
                return Some(format!("node {index} knows version {version} of {}:\n  {standings}", newest.version));
            }
            if !newest.members.contains_key(&node.id) {
                return Some(format!("node {index} is no member"));
            }
        }
        let mut first_shards = self.nodes.iter().filter_map(|node| node.hosts.first());
        if let Some((node, why)) = first_shards.find_map(|host| host.shard.metadata_unrest()) {
            return Some(format!("{node} {why}"));
        }
        self.unrest_of_rows(newest)
    }

    fn unrest_of_rows(&self, newest: &Cluster) -> Option<String> {
        let serving = newest.members.values().filter(|member| member.state == MemberState::Serving).count();
        let wanted = usize::from(newest.replicas_wanted).min(serving);
        for (slot, row) in &newest.rows {
            if row.reshape.is_some() {
                let (here, depth) = (self.standings_of(*slot), row.depth);
                let beside = [depth, depth + 1].map(|depth| self.standings_of(slot.sibling(depth)));
                return Some(format!(
                    "slot {slot} is to become two or one: {:?}: {here}{}{}",
                    row.reshape, beside[0], beside[1]
                ));
            }
            if row.target.is_some() || row.replicas.len() != wanted {
                let standings = self.standings_of(*slot);
                return Some(format!("slot {slot} is to have {wanted} replicas and has {row:?}: {standings}"));
            }
            let mut said: Vec<Place> = row.replicas.iter().map(|replica| replica.place()).collect();
            said.sort_unstable();
            let real = self.places_of(*slot);
            if said != real {
                return Some(format!("slot {slot} is said to be at {said:?} and is at {real:?}"));
            }
            let applied = self.applied_of(*slot);
            // The last word of a leader may be on its way.
            if applied.iter().any(|one| one.abs_diff(applied[0]) > APPLIED_NEAR) {
                return Some(format!("the replicas of slot {slot} have applied {applied:?}"));
            }
            let preferred = row.preferred.place();
            let leads = self.leader_of(*slot).map(|host| (self.nodes[host.node].id, host.shard));
            if leads != Some((preferred.node, usize::from(preferred.shard.0))) {
                let standings = self.standings_of(*slot);
                return Some(format!("slot {slot} should be led by {preferred} and is by {leads:?}: {standings}"));
            }
            if let Some(astray) = self.who_follows_another(*slot, preferred) {
                return Some(astray);
            }
        }
        unrest_of_leaders(newest)
    }

    /// A replica that hears another leader of its slot than that one, or none.
    fn who_follows_another(&self, slot: SlotId, leader: Place) -> Option<String> {
        let hosts = self.nodes.iter().flat_map(|node| &node.hosts);
        let here = hosts.flat_map(|host| host.shard.replicas()).filter(|replica| replica.slot() == slot);
        let mut astray = here.filter(|replica| replica.follows() != Some(leader));
        astray.next().map(|replica| format!("slot {slot} is led by {leader}, but {}", replica.standing()))
    }

    /// How the replicas of a slot stand, for people.
    fn standings_of(&self, slot: SlotId) -> String {
        let mut text = String::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for host in &node.hosts {
                for replica in host.shard.replicas().filter(|replica| replica.slot() == slot) {
                    text.push_str(&format!("\n  node {index} has {}", replica.standing()));
                }
            }
        }
        text
    }

    fn applied_of(&self, slot: SlotId) -> Vec<u64> {
        let hosts = self.nodes.iter().flat_map(|node| &node.hosts);
        let here = hosts.flat_map(|host| host.shard.replicas()).filter(|replica| replica.slot() == slot);
        here.map(|replica| replica.applied()).collect()
    }

    /// Where a slot is hosted, ascending.
    fn places_of(&self, slot: SlotId) -> Vec<Place> {
        let mut places = Vec::new();
        for node in &self.nodes {
            for (shard, host) in node.hosts.iter().enumerate() {
                let here = host.shard.replicas().filter(|replica| replica.slot() == slot);
                places.extend(here.map(|_| Place { node: node.id, shard: ShardId(shard as u16) }));
            }
        }
        places.sort_unstable();
        places
    }
}

/// Leaders are even: of `h` replicas of `r` each, a node leads the floor or the ceiling of `h / r` slots, and so does a shard.
fn unrest_of_leaders(cluster: &Cluster) -> Option<String> {
    let per_slot = cluster.rows.values().map(|row| row.replicas.len()).next()?;
    let mut places: BTreeMap<Place, (usize, usize)> = BTreeMap::new();
    for row in cluster.rows.values() {
        row.replicas.iter().for_each(|replica| places.entry(replica.place()).or_default().0 += 1);
        places.entry(row.preferred.place()).or_default().1 += 1;
    }
    let mut nodes: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for (place, (held, led)) in &places {
        let node = nodes.entry(place.node).or_default();
        (node.0, node.1) = (node.0 + held, node.1 + led);
    }
    let even = |(held, led): (usize, usize)| (held / per_slot..=held.div_ceil(per_slot)).contains(&led);
    let uneven = places.iter().find(|(_, counts)| !even(**counts));
    let uneven = uneven.map(|(place, counts)| format!("{place} holds and should lead {counts:?}"));
    let node = nodes.iter().find(|(_, counts)| !even(**counts));
    uneven.or_else(|| node.map(|(node, counts)| format!("{node} holds and should lead {counts:?}")))
}
