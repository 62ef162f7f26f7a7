//! How long each stage of a shard's work takes, and the picture of a shard that the metrics page shows. Recording is
//! done by the shard itself, once per batch and with the clock readings of the turn, so that measuring costs a small
//! part of what is measured.
//!
//! It deliberately holds no names of metrics and no text format (`shell::http`), and counts nothing that the engine counts.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::engine::counters::Counters;
use crate::engine::link::LinkRow;
use crate::engine::marks::{Mark, Named};
use crate::engine::shard::{ClusterView, ShardView};
use crate::ids::{Place, ShardId};

use super::turns::TurnPicture;

/// A timed part of a message's way through one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Kernel: submit what the last turn queued and reap what has arrived, per turn that reaped something. The kernel
    /// writes to sockets and copies from them in here.
    Read,
    /// All bytes read in one turn to packets, deciphered.
    Decode,
    /// Of that, what connections with a cipher took: one read's bytes to packets.
    Decipher,
    /// One step of the engine.
    Step,
    /// A journal write: from the wish to the disk's answer.
    JournalWait,
    /// From a SEND's step to its SENDACK, sampled.
    Commit,
    /// A batch's way through the mesh, from flush to drain; measured by the receiver with the sender's stamp.
    MeshHop,
    /// Packets of one turn to bytes, enciphered; the other wishes of the turn are carried out in here.
    Encode,
    /// Of that, one RECV to bytes and enciphered, sampled at most once per turn.
    Encipher,
    /// A send, sampled at most once per turn: from its first packet being encoded to its completion.
    Write,
    /// From the bytes of a SEND to its SENDACK encoded, sampled at most once per turn.
    WholePath,
    /// One whole turn in which something happened.
    Turn,
}

impl Stage {
    /// All, in the order of their values.
    pub const ALL: [Stage; 12] = [
        Stage::Read,
        Stage::Decode,
        Stage::Decipher,
        Stage::Step,
        Stage::JournalWait,
        Stage::Commit,
        Stage::MeshHop,
        Stage::Encode,
        Stage::Encipher,
        Stage::Write,
        Stage::WholePath,
        Stage::Turn,
    ];

    /// As the metrics page calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Read => "read",
            Stage::Decode => "decode",
            Stage::Decipher => "decipher",
            Stage::Step => "step",
            Stage::JournalWait => "journal_wait",
            Stage::Commit => "commit",
            Stage::MeshHop => "mesh_hop",
            Stage::Encode => "encode",
            Stage::Encipher => "encipher",
            Stage::Write => "write",
            Stage::WholePath => "whole_path",
            Stage::Turn => "turn",
        }
    }
}

/// Longest duration a histogram tells apart; longer ones count as this.
const LONGEST_NANOS: u64 = 60_000_000_000;

/// Two significant digits: 1 % of error, and about 40 KiB per stage of counters that mostly stay untouched.
const SIGNIFICANT_DIGITS: u8 = 2;

/// The histograms of one shard. Fixed size: recording never allocates.
#[derive(Debug)]
pub struct Stages {
    /// Nothing is measured when it is false.
    timed: bool,
    histograms: Vec<Histogram<u32>>,
    sums_nanos: [u64; Stage::ALL.len()],
}

impl Stages {
    /// Nothing recorded; and nothing will be when not `timed`.
    #[must_use]
    pub fn new(timed: bool) -> Stages {
        let histograms = Stage::ALL
            .iter()
            .map(|_| {
                Histogram::new_with_bounds(64, LONGEST_NANOS, SIGNIFICANT_DIGITS)
                    .expect("the bounds are constants that the crate accepts")
            })
            .collect();
        Stages { timed, histograms, sums_nanos: [0; Stage::ALL.len()] }
    }

    /// False: readings of the clock that serve nothing else can be left out.
    #[must_use]
    pub fn timed(&self) -> bool {
        self.timed
    }

    /// One measurement.
    pub fn record(&mut self, stage: Stage, nanos: u64) {
        if !self.timed {
            return;
        }
        self.sums_nanos[stage as usize] += nanos;
        self.histograms[stage as usize].saturating_record(nanos);
    }

    /// Everything recorded: by stage the nanoseconds (upper ends of buckets) and how often each was seen.
    #[must_use]
    pub fn buckets(&self) -> Vec<(Stage, Vec<(u64, u64)>)> {
        let seen = |stage: Stage| {
            let recorded = self.histograms[stage as usize].iter_recorded();
            recorded.map(|bucket| (bucket.value_iterated_to(), bucket.count_since_last_iteration())).collect()
        };
        Stage::ALL.iter().map(|&stage| (stage, seen(stage))).collect()
    }

    /// Percentiles of every stage.
    #[must_use]
    pub fn summaries(&self) -> Vec<StageSummary> {
        Stage::ALL
            .iter()
            .map(|&stage| {
                let histogram = &self.histograms[stage as usize];
                let at = |quantile| Duration::from_nanos(histogram.value_at_quantile(quantile));
                StageSummary {
                    stage,
                    count: histogram.len(),
                    sum: Duration::from_nanos(self.sums_nanos[stage as usize]),
                    p50: at(0.5),
                    p90: at(0.9),
                    p99: at(0.99),
                    p999: at(0.999),
                    max: Duration::from_nanos(histogram.max()),
                }
            })
            .collect()
    }
}

/// What the metrics page shows of one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // quantiles say what they are
pub struct StageSummary {
    pub stage: Stage,
    pub count: u64,
    pub sum: Duration,
    pub p50: Duration,
    pub p90: Duration,
    pub p99: Duration,
    pub p999: Duration,
    pub max: Duration,
}

/// What the shell itself has counted on one shard. Totals rise, the others are present values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShellCounters {
    /// Turns of the loop, total.
    pub turns: u64,
    /// Times the loop went to sleep, total.
    pub sleeps: u64,
    /// Bytes read from clients, total.
    pub bytes_read: u64,
    /// Bytes given to the kernel for clients, total.
    pub bytes_written: u64,
    /// Sends given to the kernel, total.
    pub writes: u64,
    /// Connections refused because their address had too many, total.
    pub refused_by_address: u64,
    /// Connections refused because the shard was full, total.
    pub refused_by_total: u64,
    /// Sessions closed because they read too slowly, total.
    pub closed_slow: u64,
    /// Times the shared read buffers ran out, total.
    pub read_buffers_exhausted: u64,
    /// Frames dropped because their node has no link, total.
    pub frames_without_link: u64,
    /// Open sockets.
    pub sockets: u64,
    /// Bytes waiting to be written.
    pub outbound_bytes: u64,
    /// Journal writes, segment preparations, reads and checkpoints under way.
    pub disk_under_way: u64,
    /// Open connections to and from other nodes.
    pub links: u64,
    /// Bytes read from other nodes, total.
    pub link_bytes_read: u64,
    /// Bytes given to the kernel for other nodes, total.
    pub link_bytes_written: u64,
    /// Sends given to the kernel for other nodes, total.
    pub link_writes: u64,
    /// Connections to other nodes closed because too much waited for them, total.
    pub links_closed_slow: u64,
    /// Connections from other nodes refused because the shard had too many, total.
    pub links_refused: u64,
    /// Bytes waiting to be written to other nodes.
    pub link_outbound_bytes: u64,
    /// Gossip datagrams that came, total.
    pub datagrams_received: u64,
    /// Gossip datagrams given to the kernel, total.
    pub datagrams_sent: u64,
    /// Gossip datagrams that were too long or met no room, total.
    pub datagrams_dropped: u64,
}

impl ShellCounters {
    /// Each number's name, meaning and value in a fixed order; true for totals that only rise.
    pub fn each(&self, mut visit: impl FnMut(&'static str, &'static str, bool, u64)) {
        visit("turns", "Turns of the shard's loop.", true, self.turns);
        visit("sleeps", "Times the loop went to sleep.", true, self.sleeps);
        visit("bytes_read", "Bytes read from clients.", true, self.bytes_read);
        visit("bytes_written", "Bytes given to the kernel for clients.", true, self.bytes_written);
        visit("writes", "Sends given to the kernel.", true, self.writes);
        visit("refused_by_address", "Connections refused: too many of one address.", true, self.refused_by_address);
        visit("refused_by_total", "Connections refused: the shard was full.", true, self.refused_by_total);
        visit("closed_slow", "Sessions closed because they read too slowly.", true, self.closed_slow);
        visit("read_buffers_exhausted", "Times the read buffers ran out.", true, self.read_buffers_exhausted);
        visit("frames_without_link", "Frames dropped: no link to their node.", true, self.frames_without_link);
        visit("sockets", "Open sockets.", false, self.sockets);
        visit("outbound_bytes", "Bytes waiting to be written to clients.", false, self.outbound_bytes);
        visit("disk_under_way", "Disk operations under way.", false, self.disk_under_way);
        visit("links", "Open connections to and from other nodes.", false, self.links);
        visit("link_read_bytes", "Bytes read from other nodes.", true, self.link_bytes_read);
        visit("link_written_bytes", "Bytes given to the kernel for other nodes.", true, self.link_bytes_written);
        visit("link_writes", "Sends given to the kernel for other nodes.", true, self.link_writes);
        visit("links_closed_slow", "Links closed: too much waited for them.", true, self.links_closed_slow);
        visit("links_refused", "Connections of other nodes refused: too many.", true, self.links_refused);
        visit("link_outbound_bytes", "Bytes waiting to be written to other nodes.", false, self.link_outbound_bytes);
        visit("datagrams_received", "Gossip datagrams that came.", true, self.datagrams_received);
        visit("datagrams_sent", "Gossip datagrams given to the kernel.", true, self.datagrams_sent);
        visit("datagrams_dropped", "Gossip datagrams: too long, or no room.", true, self.datagrams_dropped);
    }
}

/// What [`ShardSnapshot`] leaves out because it is large: for `jindou profile`, `trace` and `top`.
#[derive(Clone, Debug)]
pub struct ShardProfile {
    /// Whose.
    pub place: Place,
    /// The numbers.
    pub snapshot: ShardSnapshot,
    /// Every stage's histogram.
    pub buckets: Vec<(Stage, Vec<(u64, u64)>)>,
    /// The longest turn of each of the last seconds.
    pub turns: Vec<TurnPicture>,
    /// Where messages were, from the serial number that was asked for.
    pub marks: Vec<Mark>,
    /// Serial number behind the last of those.
    pub marks_next: u64,
    /// Watched users' messages.
    pub named: Vec<Named>,
    /// The node's clock now.
    pub now_nanos: u64,
    /// Processor time of the shard's thread since it began.
    pub cpu: Duration,
}

/// One shard's numbers at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSnapshot {
    /// Whose.
    pub shard: ShardId,
    /// The engine's totals.
    pub counters: Counters,
    /// The engine's present values.
    pub engine: ShardView,
    /// Of those, what is about its cluster.
    pub cluster: ClusterView,
    /// The shell's.
    pub shell: ShellCounters,
    /// The stages'.
    pub stages: Vec<StageSummary>,
    /// Its links with shards of other nodes, each with how long it has stood as it does.
    pub links: Vec<(LinkRow, Duration)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_back_within_one_percent() {
        let mut stages = Stages::new(true);
        for n in 1..=1000u64 {
            stages.record(Stage::Step, n * 1000);
        }
        stages.record(Stage::Turn, u64::MAX);
        let summaries = stages.summaries();
        let step = summaries[Stage::Step as usize];
        assert_eq!((step.stage, step.count), (Stage::Step, 1000));
        assert_eq!(step.sum, Duration::from_nanos(500_500_000));
        for (value, expected_nanos) in [(step.p50, 500_000.0), (step.p99, 990_000.0), (step.max, 1_000_000.0)] {
            let error = (value.as_nanos() as f64 - expected_nanos).abs() / expected_nanos;
            assert!(error <= 0.01, "{value:?} instead of {expected_nanos} ns");
        }
        let turn = summaries[Stage::Turn as usize];
        assert!(turn.count == 1 && turn.max >= Duration::from_secs(59), "too long counts as the longest");
    }

    #[test]
    fn buckets_hold_everything_that_was_recorded() {
        let mut stages = Stages::new(true);
        for nanos in [1000, 1000, 500_000] {
            stages.record(Stage::Step, nanos);
        }
        let (stage, seen) = stages.buckets().swap_remove(Stage::Step as usize);
        assert_eq!((stage, seen.iter().map(|(_, count)| count).sum::<u64>(), seen.len()), (Stage::Step, 3, 2));
        assert!(seen[0].0 >= 1000 && seen[0].0 < 1030 && seen[0].1 == 2, "{seen:?}");
        let mut silent = Stages::new(false);
        silent.record(Stage::Step, 1000);
        assert!(silent.buckets().iter().all(|(_, seen)| seen.is_empty()) && !silent.timed());
    }

    #[test]
    fn stages_lie_in_the_order_of_their_values() {
        for (index, stage) in Stage::ALL.iter().enumerate() {
            assert_eq!(*stage as usize, index);
        }
    }
}
