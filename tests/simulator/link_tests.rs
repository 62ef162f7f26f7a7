//! Tests of the simulated network between nodes, without a router: one that keeps an order that no network keeps, or loses what none loses,
//! would make every test of a cluster worthless.

use std::collections::{BTreeMap, BTreeSet};

use jindou::engine::event::Event;
use jindou::ids::LinkConn;

use crate::chance::Chance;
use crate::links::{LinkPlan, LinkStep, Links, Machine, address};
use crate::world::HostRef;

/// All of them by name.
pub const ALL: [(&str, fn()); 11] = [
    ("links-keep-bytes-in-order", links_keep_bytes_in_order),
    ("links-are-cut-one-way", links_are_cut_one_way),
    ("links-cut-for-long-end-for-the-writer", links_cut_for_long_end_for_the_writer),
    ("links-that-are-clogged-are-slow", links_that_are_clogged_are_slow),
    ("links-that-are-reset-lose-a-tail", links_that_are_reset_lose_a_tail),
    ("links-bring-the-farewell-last", links_bring_the_farewell_last),
    ("links-wait-for-who-hangs", links_wait_for_who_hangs),
    ("links-to-nobody-are-not-made", links_to_nobody_are_not_made),
    ("links-do-not-tell-of-a-power-cut", links_do_not_tell_of_a_power_cut),
    ("links-of-an-earlier-life-end-by-themselves", links_of_an_earlier_life_end_by_themselves),
    ("datagrams-get-lost-doubled-and-late", datagrams_get_lost_doubled_and_late),
];

const MS: u64 = 1_000_000;
const LATENCY_US: (u64, u64) = (50, 200);

const ONE: HostRef = HostRef { node: 0, shard: 0 };
const OTHER: HostRef = HostRef { node: 1, shard: 0 };

/// The network with a clock.
struct Bench {
    links: Links,
    chance: Chance,
    now_ns: u64,
    steps: BTreeMap<(u64, u64), LinkStep>,
    order: u64,
    heard: Vec<(u64, HostRef, Event)>,
}

impl Bench {
    /// Two nodes that are up.
    fn new(seed: u64, change: impl FnOnce(&mut LinkPlan)) -> Bench {
        let mut plan = LinkPlan {
            us: LATENCY_US,
            split: true,
            clogged_bytes_per_ms: 20,
            lose_permille: 0,
            double_permille: 0,
            late_permille: 0,
        };
        change(&mut plan);
        let mut links = Links::new(plan, 2);
        (0..2).for_each(|node| links.process_begins(0, node, 1));
        let chance = Chance::new(seed, "links");
        Bench { links, chance, now_ns: 0, steps: BTreeMap::new(), order: 0, heard: Vec::new() }
    }

    fn settle(&mut self) {
        for (at_ns, step) in std::mem::take(&mut self.links.due) {
            self.order += 1;
            self.steps.insert((at_ns.max(self.now_ns), self.order), step);
        }
        let heard = std::mem::take(&mut self.links.heard);
        self.heard.extend(heard.into_iter().map(|(host, event)| (self.now_ns, host, event)));
    }

    fn run(&mut self, span_ms: u64) {
        let until_ns = self.now_ns + span_ms * MS;
        self.settle();
        while let Some(entry) = self.steps.first_entry().filter(|entry| entry.key().0 <= until_ns) {
            self.now_ns = entry.key().0;
            let step = entry.remove();
            self.links.step(self.now_ns, step, &mut self.chance);
            self.settle();
        }
        self.now_ns = until_ns;
    }

    fn dial(&mut self) -> LinkConn {
        let conn = LinkConn::dialed(1);
        self.links.dial(self.now_ns, ONE, conn, address(1), &mut self.chance);
        conn
    }

    /// A connection from the one to the other: what each calls it.
    fn connect(&mut self) -> (LinkConn, LinkConn) {
        let here = self.dial();
        self.run(10);
        let accepted = self.heard.iter().find_map(|(_, host, event)| match event {
            Event::LinkAccepted { conn, .. } if *host == OTHER => Some(*conn),
            _ => None,
        });
        assert_eq!(self.dialed(), Some(true));
        (here, accepted.expect("who listens accepts"))
    }

    /// What the dialer heard.
    fn dialed(&self) -> Option<bool> {
        self.heard.iter().find_map(|(_, host, event)| match event {
            Event::LinkDialed { made, .. } if *host == ONE => Some(*made),
            _ => None,
        })
    }

    fn write(&mut self, host: HostRef, conn: LinkConn, bytes: &[u8]) {
        self.links.write(self.now_ns, host, conn, bytes, &mut self.chance);
        self.settle();
    }

    /// All bytes that a shard has heard, and where each piece of them ended.
    fn bytes_at(&self, at: HostRef) -> (Vec<u8>, BTreeSet<usize>) {
        let (mut all, mut ends) = (Vec::new(), BTreeSet::new());
        for (_, host, event) in &self.heard {
            if let Event::LinkBytes { bytes, .. } = event
                && *host == at
            {
                all.extend_from_slice(bytes);
                ends.insert(all.len());
            }
        }
        (all, ends)
    }

    /// When a shard heard that the connection is gone.
    fn closed_at(&self, at: HostRef) -> Option<u64> {
        let mut closed =
            self.heard.iter().filter(|(_, host, event)| *host == at && matches!(event, Event::LinkClosed { .. }));
        let first = closed.next().map(|(at_ns, ..)| *at_ns);
        assert!(closed.next().is_none(), "a connection ends once");
        first
    }
}

fn text(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|index| (index % 251) as u8).collect()
}

fn links_keep_bytes_in_order() {
    let (mut torn, mut joined) = (0, 0);
    for seed in 0..50 {
        let mut bench = Bench::new(seed, |_| {});
        let (here, there) = bench.connect();
        let (mut written, mut ends) = (0, BTreeSet::new());
        for _ in 0..40 {
            let count = bench.chance.between(1, 300) as usize;
            bench.write(ONE, here, &text(written, count));
            bench.write(OTHER, there, &text(written, count));
            written += count;
            ends.insert(written);
            if bench.chance.one_in(3) {
                bench.run(1);
            }
        }
        bench.run(100);
        for host in [ONE, OTHER] {
            let (bytes, heard) = bench.bytes_at(host);
            assert_eq!(bytes, text(0, written), "bytes arrive as they were written");
            torn += heard.difference(&ends).count();
            joined += ends.difference(&heard).count();
        }
    }
    assert!(torn > 1_000 && joined > 100, "writes arrive torn ({torn}) and joined ({joined})");
}

fn links_are_cut_one_way() {
    let mut bench = Bench::new(1, |_| {});
    let (here, there) = bench.connect();
    bench.links.cut(0, 1);
    bench.write(ONE, here, &text(0, 100));
    bench.write(OTHER, there, &text(0, 100));
    bench.run(1_000);
    assert!(bench.bytes_at(OTHER).0.is_empty(), "nothing crosses a cut");
    assert_eq!(bench.bytes_at(ONE).0, text(0, 100), "the other direction is open");
    bench.write(ONE, here, &text(100, 50));
    bench.links.mend(0, 1, bench.now_ns);
    bench.run(10);
    assert_eq!(bench.bytes_at(OTHER).0, text(0, 150), "what has waited arrives, in order");
    bench.run(20_000);
    assert_eq!((bench.closed_at(ONE), bench.closed_at(OTHER)), (None, None), "a short cut is not noticed");
    // Two cuts at a time are two to be mended.
    bench.links.cut(0, 1);
    bench.links.cut(0, 1);
    bench.links.mend(0, 1, bench.now_ns);
    bench.write(ONE, here, &text(150, 1));
    bench.run(10);
    assert_eq!(bench.bytes_at(OTHER).0.len(), 150);
}

fn links_cut_for_long_end_for_the_writer() {
    let mut bench = Bench::new(2, |_| {});
    let (here, there) = bench.connect();
    bench.links.cut(0, 1);
    bench.links.cut(1, 0);
    let began_ns = bench.now_ns;
    bench.write(ONE, here, &text(0, 100));
    bench.run(20_000);
    let gave_up_ns = bench.closed_at(ONE).expect("the writer gives up") - began_ns;
    assert!((2_000 * MS..7_000 * MS).contains(&gave_up_ns), "after {gave_up_ns} ns");
    assert_eq!(bench.closed_at(OTHER), None, "who did not write does not know");
    bench.links.mend(0, 1, bench.now_ns);
    bench.links.mend(1, 0, bench.now_ns);
    bench.run(20_000);
    assert_eq!(bench.closed_at(OTHER), None, "nobody tells it afterwards");
    bench.write(OTHER, there, &text(0, 10));
    bench.run(100);
    assert!(bench.closed_at(OTHER).is_some(), "its own writing tells it");
    assert_eq!((bench.bytes_at(ONE).0, bench.bytes_at(OTHER).0), (vec![], vec![]), "what was given up never arrives");
}

fn links_that_are_clogged_are_slow() {
    let arrival_ms = |clogged: bool| {
        let mut bench = Bench::new(3, |plan| plan.split = false);
        let (here, there) = bench.connect();
        if clogged {
            bench.links.clog(0, 1, true, bench.now_ns);
        }
        let began_ns = bench.now_ns;
        bench.write(ONE, here, &text(0, 2_000));
        bench.write(OTHER, there, &text(0, 2_000));
        bench.run(1_000);
        let took = |at: HostRef| {
            let heard =
                bench.heard.iter().find(|(_, host, event)| *host == at && matches!(event, Event::LinkBytes { .. }));
            (heard.expect("it arrives in the end").0 - began_ns) / MS
        };
        (took(OTHER), took(ONE))
    };
    assert_eq!(arrival_ms(false), (0, 0));
    let (slow, quick) = arrival_ms(true);
    assert!((100..150).contains(&slow), "2000 bytes at 20 a millisecond took {slow} ms");
    assert_eq!(quick, 0, "the other direction is quick");
    // What waits when it ends is quick too.
    let mut bench = Bench::new(3, |_| {});
    let (here, _) = bench.connect();
    bench.links.clog(0, 1, true, bench.now_ns);
    bench.write(ONE, here, &text(0, 20_000));
    bench.run(10);
    bench.links.clog(0, 1, false, bench.now_ns);
    bench.run(10);
    assert_eq!(bench.bytes_at(OTHER).0, text(0, 20_000));
}

fn links_that_are_reset_lose_a_tail() {
    let (mut lost, mut half) = (0, 0);
    for seed in 0..60 {
        let mut bench = Bench::new(seed, |_| {});
        let (here, _) = bench.connect();
        bench.write(ONE, here, &text(0, 100));
        bench.run(5);
        bench.write(ONE, here, &text(100, 100));
        let now_ns = bench.now_ns;
        assert!(bench.links.reset_one(now_ns, &mut bench.chance));
        bench.run(100);
        let (bytes, _) = bench.bytes_at(OTHER);
        assert_eq!(bytes, text(0, bytes.len()), "what arrives is a beginning of what was written");
        assert!(bytes.len() >= 100, "what had arrived is not taken back");
        lost += u64::from(bytes.len() < 200);
        let closed = [ONE, OTHER].map(|host| bench.closed_at(host).is_some());
        assert_ne!(closed, [false, false], "somebody hears of it");
        half += u64::from(closed != [true, true]);
        let now_ns = bench.now_ns;
        assert!(!bench.links.reset_one(now_ns, &mut bench.chance), "nothing is left to be reset");
    }
    assert!(lost > 0 && half > 0, "{lost} lost something, {half} are half open");
}

fn links_bring_the_farewell_last() {
    for seed in 0..30 {
        let mut bench = Bench::new(seed, |_| {});
        let (here, _) = bench.connect();
        bench.write(ONE, here, &text(0, 500));
        bench.links.hang_up(bench.now_ns, ONE, here, &mut bench.chance);
        bench.run(100);
        assert_eq!(bench.bytes_at(OTHER).0, text(0, 500), "what was written before still arrives");
        assert!(bench.closed_at(ONE).is_some() && bench.closed_at(OTHER).is_some());
        let last = bench.heard.iter().rfind(|(_, host, _)| *host == OTHER);
        assert!(matches!(last, Some((_, _, Event::LinkClosed { .. }))), "the end is heard last");
        bench.write(ONE, here, &text(0, 10));
        bench.run(100);
        assert_eq!(bench.bytes_at(OTHER).0.len(), 500, "who has hung up says nothing any more");
    }
}

fn links_wait_for_who_hangs() {
    let mut bench = Bench::new(5, |_| {});
    let (here, _) = bench.connect();
    bench.links.set_hung(1, true, bench.now_ns);
    bench.write(ONE, here, &text(0, 300));
    bench.run(10_000);
    assert!(bench.bytes_at(OTHER).0.is_empty(), "who stands still hears nothing");
    assert_eq!(bench.closed_at(ONE), None, "its kernel acknowledges");
    bench.links.set_hung(1, false, bench.now_ns);
    bench.run(10);
    assert_eq!(bench.bytes_at(OTHER).0, text(0, 300), "it hears everything afterwards");
}

fn links_to_nobody_are_not_made() {
    let mut refused = Bench::new(6, |_| {});
    refused.links.process_ends(0, 1, Machine::Refuses, 2, &mut refused.chance);
    refused.dial();
    refused.run(10);
    assert_eq!(refused.dialed(), Some(false), "where nobody listens the answer comes at once");
    let mut dark = Bench::new(6, |_| {});
    dark.links.process_ends(0, 1, Machine::Dark, 2, &mut dark.chance);
    dark.dial();
    dark.run(500);
    assert_eq!(dark.dialed(), None, "without power there is no answer");
    dark.run(3_000);
    assert_eq!(dark.dialed(), Some(false), "the dialer has waited enough");
    let mut cut = Bench::new(6, |_| {});
    cut.links.cut(0, 1);
    cut.dial();
    cut.run(100);
    cut.links.mend(0, 1, cut.now_ns);
    cut.run(900);
    assert_eq!(cut.dialed(), Some(true), "who knocks again is heard when the cut is mended in time");
}

fn links_do_not_tell_of_a_power_cut() {
    for (machine, tells) in [(Machine::Dark, false), (Machine::Refuses, true)] {
        let mut bench = Bench::new(7, |_| {});
        let (_, there) = bench.connect();
        bench.links.process_ends(bench.now_ns, 0, machine, 2, &mut bench.chance);
        bench.run(1_000);
        assert_eq!(bench.closed_at(OTHER).is_some(), tells, "a kernel says that its process is gone, {machine:?}");
        bench.write(OTHER, there, &text(0, 10));
        bench.run(10_000);
        assert!(bench.closed_at(OTHER).is_some(), "who writes finds out");
        assert!(bench.bytes_at(ONE).0.is_empty(), "the dead hear nothing");
    }
}

/// A process numbers its connections from the beginning. What becomes of its predecessor's is nothing to it.
fn links_of_an_earlier_life_end_by_themselves() {
    let mut bench = Bench::new(9, |_| {});
    let (here, there) = bench.connect();
    bench.write(OTHER, there, &text(0, 10));
    bench.run(10);
    // A tail is under way, slowly, when its writer ends and its reader does not want it any more.
    bench.links.clog(0, 1, true, bench.now_ns);
    bench.write(ONE, here, &text(0, 2_000));
    bench.links.hang_up(bench.now_ns, OTHER, there, &mut bench.chance);
    bench.links.process_ends(bench.now_ns, 0, Machine::Refuses, 2, &mut bench.chance);
    bench.links.process_begins(bench.now_ns, 0, 2);
    assert_eq!(bench.dial(), here, "the next process calls its first one the same");
    bench.run(1_000);
    let before = bench.bytes_at(OTHER).0.len();
    bench.write(ONE, here, &text(0, 100));
    bench.run(1_000);
    assert_eq!(bench.bytes_at(OTHER).0.len() - before, 100, "the end of the earlier one is not that of this one");
}

fn datagrams_get_lost_doubled_and_late() {
    let counts = |change: fn(&mut LinkPlan)| {
        let mut bench = Bench::new(8, change);
        for number in 0..200u8 {
            bench.links.datagram(bench.now_ns, ONE, address(1), &[number], &mut bench.chance);
            bench.run(1);
        }
        bench.run(100);
        let heard = bench.heard.iter().filter_map(|(_, host, event)| match event {
            Event::Datagram { from, bytes } if *host == OTHER => {
                assert_eq!(*from, address(0));
                Some(bytes[0])
            }
            _ => None,
        });
        let heard: Vec<u8> = heard.collect();
        let disordered = heard.windows(2).filter(|pair| pair[0] > pair[1]).count();
        (heard.len(), disordered)
    };
    assert_eq!(counts(|_| {}), (200, 0));
    let (lossy, _) = counts(|plan| plan.lose_permille = 300);
    assert!((100..180).contains(&lossy), "{lossy} of 200 arrived");
    let (doubled, _) = counts(|plan| plan.double_permille = 300);
    assert!((230..290).contains(&doubled), "{doubled} arrived of 200");
    let (all, disordered) = counts(|plan| plan.late_permille = 300);
    assert!(all == 200 && disordered > 0, "{all} arrived, {disordered} too early");
}
