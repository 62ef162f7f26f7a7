//! One plain thread that beats for every shard: each 50 ms a tick into its mesh inbox. The tick is the shards' coarse
//! clock, and a shard that makes no turn between two beats is found here and woken by force: glommio can park with runnable
//! tasks, and an interrupted system call always ends that.
//!
//! It deliberately repairs nothing beyond that wake: a shard that stands still is reported and counted, for people, and for the
//! service manager that ends a process which does not say that it lives.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::ids::ShardId;

use super::mesh::{MeshMessage, MeshSender, NUDGE_SIGNAL};

/// Between two beats. An idle shard pays one wake-up for each.
pub const BEAT: Duration = Duration::from_millis(50);

/// A shard that has not turned for so long is reported.
pub const STALL_AFTER: Duration = Duration::from_secs(1);

/// What the watchdog has seen, for the metrics page.
#[derive(Debug)]
pub struct Watch {
    /// Beats so far.
    beats: AtomicU64,
    shards: Vec<ShardWatch>,
}

#[derive(Debug, Default)]
struct ShardWatch {
    /// Times the shard was found standing still for [`STALL_AFTER`].
    stalls: AtomicU64,
    /// The longest time without a turn, milliseconds.
    longest_ms: AtomicU64,
    /// Without a turn at the last beat, milliseconds; 0 before the first turn.
    still_ms: AtomicU64,
}

impl Watch {
    fn new(shard_count: u16) -> Watch {
        Watch { beats: AtomicU64::new(0), shards: (0..shard_count).map(|_| ShardWatch::default()).collect() }
    }

    /// Beats since the start.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Times a shard was found standing still for [`STALL_AFTER`] or longer.
    #[must_use]
    pub fn stalls(&self, shard: ShardId) -> u64 {
        self.shards.get(usize::from(shard.0)).map_or(0, |watch| watch.stalls.load(Ordering::Relaxed))
    }

    /// At the last beat every shard that had begun had made a turn within this time.
    #[must_use]
    pub fn all_turn(&self, within: Duration) -> bool {
        self.shards.iter().all(|watch| Duration::from_millis(watch.still_ms.load(Ordering::Relaxed)) <= within)
    }

    /// The longest time a shard was seen without a turn.
    #[must_use]
    pub fn longest(&self, shard: ShardId) -> Duration {
        let longest_ms =
            self.shards.get(usize::from(shard.0)).map_or(0, |watch| watch.longest_ms.load(Ordering::Relaxed));
        Duration::from_millis(longest_ms)
    }
}

/// What the thread remembers of one shard.
struct Pulse {
    turns: u64,
    changed: Instant,
    reported: bool,
}

/// The running thread. Dropping it ends it.
#[derive(Debug)]
pub struct Metronome {
    watch: Arc<Watch>,
    handler: signal_hook::SigId,
    stop: Option<flume::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Metronome {
    /// Starts beating. To be called before the shards start: they may need a nudge already then. A shard that has not
    /// turned yet gets no ticks and is not reported, as reading its disk may take long.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(mesh: MeshSender) -> io::Result<Metronome> {
        Metronome::start_with(mesh, BEAT, STALL_AFTER)
    }

    fn start_with(mesh: MeshSender, beat: Duration, stall_after: Duration) -> io::Result<Metronome> {
        let watch = Arc::new(Watch::new(mesh.shard_count()));
        // SAFETY: an empty handler is safe at any moment. Without one the signal would be ignored and interrupt nothing.
        let handler = unsafe { signal_hook::low_level::register(NUDGE_SIGNAL, || {}) }?;
        let (stop, stopped) = flume::bounded(1);
        let seen = watch.clone();
        let thread = std::thread::Builder::new()
            .name("metronome".into())
            .spawn(move || run(&mesh, &seen, &stopped, beat, stall_after))?;
        Ok(Metronome { watch, handler, stop: Some(stop), thread: Some(thread) })
    }

    /// What the watchdog has seen; may be kept after the end.
    #[must_use]
    pub fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends at once: its only wait is for the channel that was just closed. A panic of it was reported by then.
            let _ = thread.join();
        }
        signal_hook::low_level::unregister(self.handler);
    }
}

fn run(mesh: &MeshSender, watch: &Watch, stopped: &flume::Receiver<()>, beat: Duration, stall_after: Duration) {
    let mut pulses: Vec<Pulse> = (0..mesh.shard_count())
        .map(|shard| Pulse { turns: mesh.turns(ShardId(shard)), changed: Instant::now(), reported: false })
        .collect();
    while let Err(flume::RecvTimeoutError::Timeout) = stopped.recv_timeout(beat) {
        watch.beats.fetch_add(1, Ordering::Relaxed);
        for (index, pulse) in pulses.iter_mut().enumerate() {
            let shard = ShardId(u16::try_from(index).expect("counted from a u16"));
            check(mesh, watch, shard, pulse, stall_after);
            if pulse.turns > 0 {
                // A full inbox means that the shard has enough to wake up for; one that has ended needs no beat.
                let _ = mesh.send(shard, MeshMessage::Tick);
            }
        }
    }
}

fn check(mesh: &MeshSender, watch: &Watch, shard: ShardId, pulse: &mut Pulse, stall_after: Duration) {
    let turns = mesh.turns(shard);
    let seen = &watch.shards[usize::from(shard.0)];
    let still = pulse.changed.elapsed();
    if turns != pulse.turns {
        if pulse.reported {
            tracing::warn!(%shard, still_ms = still.as_millis(), "the shard turns again");
        }
        *pulse = Pulse { turns, changed: Instant::now(), reported: false };
        seen.still_ms.store(0, Ordering::Relaxed);
        return;
    }
    // No turn since the last beat although that beat was a message: wake it, whatever it believes of itself.
    mesh.nudge(shard);
    if turns == 0 {
        // It still reads its disk, which may take long, or hangs in its first pass, which the nudge ends.
        return;
    }
    let still_ms = u64::try_from(still.as_millis()).unwrap_or(u64::MAX);
    seen.still_ms.store(still_ms, Ordering::Relaxed);
    seen.longest_ms.fetch_max(still_ms, Ordering::Relaxed);
    if still >= stall_after && !pulse.reported {
        pulse.reported = true;
        seen.stalls.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%shard, still_ms = still.as_millis(), "the shard has made no turn: its clients wait");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::mesh::build_mesh;

    #[test]
    fn it_ticks_every_shard_finds_the_one_that_stands_still_and_ends() {
        let endpoints = build_mesh(2).unwrap();
        let metronome =
            Metronome::start_with(endpoints[0].sender.clone(), Duration::from_millis(5), Duration::from_millis(60))
                .unwrap();
        let watch = metronome.watch();
        let began = Instant::now();
        let mut ticks = 0;
        for endpoint in &endpoints {
            endpoint.doorbell.count_turn();
        }
        // Shard 0 turns for each tick, shard 1 never.
        while watch.stalls(ShardId(1)) == 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "the stall went unseen");
            if let Ok(message) = endpoints[0].inbox.recv_timeout(Duration::from_millis(100)) {
                assert!(matches!(message, MeshMessage::Tick));
                ticks += 1;
                endpoints[0].doorbell.count_turn();
            }
        }
        assert!(ticks >= 2);
        assert!(!watch.all_turn(Duration::from_millis(50)));
        assert!(watch.all_turn(Duration::from_secs(60)));
        assert!(watch.longest(ShardId(1)) >= Duration::from_millis(60));
        assert!(watch.longest(ShardId(0)) < watch.longest(ShardId(1)));
        assert!(!endpoints[1].inbox.is_empty());
        let seen = began.elapsed();
        endpoints[1].doorbell.count_turn();
        while !watch.all_turn(Duration::from_millis(50)) {
            assert!(began.elapsed() < seen + Duration::from_secs(20), "that it turns again went unseen");
            endpoints.iter().for_each(|endpoint| endpoint.doorbell.count_turn());
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(metronome);
        let beats = watch.beats();
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(watch.beats(), beats, "it beats after its end");
    }
}
