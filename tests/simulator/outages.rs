//! What goes wrong between nodes and with whole nodes: who does not hear whom, what is slow, who stands still, whose data is lost. What
//! goes wrong inside one is in `node`. Nothing here lasts: every outage ends by itself, and all of them when everything heals.
//! By default never so much is lost that a majority of a slot's replicas is gone for good.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::sabotage::Sabotage;
use crate::world::{Action, World};

/// Something that is wrong for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outage {
    /// A node hears nobody and nobody hears it.
    Isolated(usize),
    /// Two do not hear each other.
    Apart(usize, usize),
    /// The second does not hear the first.
    Deaf(usize, usize),
    /// From the first to the second everything is slow.
    Clogged(usize, usize),
    /// A node stands still: no turns, its sockets stay open and fill.
    Hung(usize),
}

impl Outage {
    /// As coverage counts it.
    fn name(self) -> &'static str {
        match self {
            Outage::Isolated(_) => "fault: isolated node",
            Outage::Apart(..) => "fault: two nodes apart",
            Outage::Deaf(..) => "fault: cut in one direction",
            Outage::Clogged(..) => "fault: clogged direction",
            Outage::Hung(_) => "fault: hung node",
        }
    }
}

/// Outages under way, each with how often.
#[derive(Default)]
pub struct Outages {
    active: BTreeMap<Outage, u32>,
    /// Data directories lost so far.
    pub wiped: u32,
}

impl World {
    /// Plans the next outage and the next broken connection.
    pub fn plan_outages(&mut self) {
        let cluster = self.plan.cluster;
        if self.plan.nodes < 2 || self.healed {
            return;
        }
        let both = [cluster.outage_every, cluster.reset_every];
        let Some(every) = both.into_iter().filter(|every| !every.is_zero()).min() else { return };
        let mean_us = every.as_micros() as u64;
        let span = self.chances.outages.span_us(mean_us / 4, mean_us * 7 / 4);
        self.after(span, Action::OutageTick);
    }

    /// Perhaps something goes wrong: each kind at its own pace.
    pub fn outage_tick(&mut self) {
        self.plan_outages();
        if self.healed {
            return;
        }
        let cluster = self.plan.cluster;
        let fastest = [cluster.outage_every, cluster.reset_every].into_iter().filter(|every| !every.is_zero()).min();
        let fastest_us = fastest.unwrap_or_default().as_micros() as u64;
        let happens = |world: &mut World, every: Duration| {
            !every.is_zero() && world.chances.outages.below(every.as_micros() as u64) < fastest_us
        };
        if happens(self, cluster.reset_every) {
            self.break_connection();
        }
        if happens(self, cluster.outage_every) {
            self.draw_outage();
        }
        if cluster.wipes > self.outages.wiped && self.chances.outages.one_in(4) {
            self.wipe_some_node();
        }
    }

    /// A connection between nodes breaks.
    pub fn break_connection(&mut self) {
        let now_ns = self.now_ns;
        if self.links.reset_one(now_ns, &mut self.chances.links) {
            self.trouble_strikes();
            self.say(|| "a connection between nodes breaks".to_owned());
        }
        self.settle_links();
    }

    fn draw_outage(&mut self) {
        let kinds = self.plan.cluster.kinds;
        let count = self.nodes.len() as u64;
        let chance = &mut self.chances.outages;
        let one = chance.below(count) as usize;
        let other = (one + 1 + chance.below(count - 1) as usize) % self.nodes.len();
        let span = if chance.one_in(3) { chance.span_ms(2_000, 6_000) } else { chance.span_ms(50, 2_000) };
        let short = chance.span_ms(200, 5_000);
        let all = [
            (kinds.isolate, Outage::Isolated(one), span),
            (kinds.pair, Outage::Apart(one, other), span),
            (kinds.one_way, Outage::Deaf(one, other), span),
            (kinds.clog, Outage::Clogged(one, other), span),
            (kinds.hang, Outage::Hung(one), short),
        ];
        let choices: Vec<_> = all.into_iter().filter(|(exists, ..)| *exists).collect();
        if kinds.flap && chance.one_in(5) {
            return self.flap(one, other);
        }
        if kinds.site && chance.one_in(10) {
            return self.site_fails();
        }
        if !choices.is_empty() {
            let (_, outage, span) = *self.chances.outages.pick(&choices);
            self.outage_begins(outage);
            self.after(span, Action::OutageEnds(outage));
        }
    }

    /// Two nodes lose each other again and again, for moments.
    pub fn flap(&mut self, one: usize, other: usize) {
        self.coverage.add("fault: flapping", 1);
        let chance = &mut self.chances.outages;
        let mut at_ns = self.now_ns;
        let times = chance.between(3, 8);
        let spans: Vec<(u64, u64)> =
            (0..times).map(|_| (chance.between(1, 200) * 1_000_000, chance.between(1, 200) * 1_000_000)).collect();
        for (good_ns, bad_ns) in spans {
            at_ns += good_ns;
            self.at(at_ns, Action::OutageBegins(Outage::Apart(one, other)));
            at_ns += bad_ns;
            self.at(at_ns, Action::OutageEnds(Outage::Apart(one, other)));
        }
    }

    /// All nodes lose their power.
    pub fn site_fails(&mut self) {
        self.say(|| "all nodes lose their power".to_owned());
        for node in 0..self.nodes.len() {
            if self.nodes[node].up {
                self.crash_node(node);
            }
        }
        self.coverage.add("fault: site without power", 1);
    }

    fn directions(&self, outage: Outage) -> Vec<(usize, usize)> {
        match outage {
            Outage::Isolated(node) => {
                let others = (0..self.nodes.len()).filter(|other| *other != node);
                others.flat_map(|other| [(node, other), (other, node)]).collect()
            }
            Outage::Apart(one, other) => vec![(one, other), (other, one)],
            Outage::Deaf(from, to) | Outage::Clogged(from, to) => vec![(from, to)],
            Outage::Hung(_) => Vec::new(),
        }
    }

    /// Something begins to be wrong; [`Action::OutageEnds`] ends it.
    pub fn outage_begins(&mut self, outage: Outage) {
        if self.healed {
            return;
        }
        self.say(|| format!("{outage:?} begins"));
        self.trouble_begins();
        *self.outages.active.entry(outage).or_default() += 1;
        for (from, to) in self.directions(outage) {
            if matches!(outage, Outage::Clogged(..)) {
                self.links.clog(from, to, true, self.now_ns);
            } else {
                self.links.cut(from, to);
            }
        }
        if let Outage::Hung(node) = outage {
            self.nodes[node].hangs(self.now_ns);
            self.links.set_hung(node, true, self.now_ns);
        }
        self.coverage.add(outage.name(), 1);
    }

    /// It is over; harmless when everything has healed meanwhile.
    pub fn outage_ends(&mut self, outage: Outage) {
        if self.healed && self.sabotage == Some(Sabotage::StayCut) {
            return;
        }
        let Some(count) = self.outages.active.get_mut(&outage) else { return };
        *count -= 1;
        if *count == 0 {
            self.outages.active.remove(&outage);
        }
        self.say(|| format!("{outage:?} ends"));
        self.trouble_ends();
        let now_ns = self.now_ns;
        for (from, to) in self.directions(outage) {
            if matches!(outage, Outage::Clogged(..)) {
                self.links.clog(from, to, false, now_ns);
            } else {
                self.links.mend(from, to, now_ns);
            }
        }
        if let Outage::Hung(node) = outage
            && self.nodes[node].hangs_no_more(now_ns)
        {
            self.links.set_hung(node, false, now_ns);
            for shard in 0..self.nodes[node].hosts.len() {
                self.nodes[node].hosts[shard].turn_ns = None;
                self.turn_at(crate::world::HostRef { node, shard }, now_ns);
            }
        }
        self.settle_links();
    }

    /// All outages are over.
    pub fn end_outages(&mut self) {
        while let Some(outage) = self.outages.active.keys().next().copied() {
            self.outage_ends(outage);
        }
    }

    /// A node loses its data, when all of it exists elsewhere, on a majority: of two replicas neither can do without the other.
    fn wipe_some_node(&mut self) {
        if self.unrest_of_cluster().is_some() || self.nodes.iter().filter(|node| node.up).count() < 3 {
            return;
        }
        if self.newest_cluster().is_none_or(|newest| newest.rows.values().any(|row| row.replicas.len() < 3)) {
            return;
        }
        let node = self.chances.outages.below(self.nodes.len() as u64) as usize;
        if self.nodes[node].up {
            self.wipe_node(node);
        }
    }

    /// The power goes, and the data directory with it; the node comes back under its number with nothing.
    pub fn wipe_node(&mut self, node: usize) {
        self.outages.wiped += 1;
        self.say(|| format!("node {node} loses its data"));
        self.crash_node(node);
        self.nodes[node].wipe(&self.plan);
        self.coverage.add("fault: wiped disk", 1);
    }
}
