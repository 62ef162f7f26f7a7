//! One shard's thread: an executor pinned to its core whose main future is the shard's loop. A turn takes what has come from
//! clients, other nodes, mesh and disk, steps the engine once, and carries out what it wants. It sleeps only when all are silent.
//!
//! It decides nothing about messages (the engine) and holds no sockets (the gateway, and the link sockets in a cluster). The executor's own tasks are few: the reader of
//! the bell, and one per disk operation.
//!
//! ```text
//! Starting ── disk read, slots led ──→ Ready ── Serve: listens ──→ Serving ── Stop ──→ Stopping ── Stopped, or five seconds ──→ ended
//!    └── one line why not                └── panic, here and later ──→ the process ends: the journal is the truth
//! ```
//!
//! How it sleeps: see [`waking`]. Deadlines are timeouts on the clients' ring. Before sleeping the loop says that it lies down, and
//! looks at every source once more.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::engine::effect::{Effect, Effects};
use crate::engine::event::{ApiAnswer, Event, EventBatch};
use crate::engine::link::LinkRow;
use crate::engine::shard::{Shard, ShardConfig, ShardView};
use crate::ids::{Place, ShardId};

use super::clock::Clock;
use super::gateway::{Gateway, Listener};
use super::link_sockets::{ClusterSockets, LinkSockets};
use super::mesh::{MeshEndpoint, MeshMessage, NotSent, Outbox};
use super::metronome::BEAT;
use super::stages::{ShardProfile, ShardSnapshot, ShellCounters, Stage, Stages};
use super::turns::{LongTurns, TurnPicture, Work};
use disk_desk::DiskDesk;
use waking::{Alarm, listen_to_knock, make_knock};

mod disk_desk;
mod start;
#[cfg(test)]
mod tests;
mod waking;

/// From the stop to the end of the thread, whatever clients and disk do.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A shard waits so long for leaders of its slots before it says that it is ready. Alone it takes one journal write.
const LEADERS_WITHIN: Duration = Duration::from_secs(3);

/// Mesh messages taken in one turn; the rest waits for the next.
const MESSAGES_PER_TURN_MAX: usize = 256;

/// A deadline closer than this gets a timer of its own; the metronome's next beat is soon enough for the others.
const TIMER_WITHIN: Duration = Duration::from_millis(25);

/// A full inbox of another shard is tried again after this.
const OUTBOX_RETRY: Duration = Duration::from_millis(1);

/// Turns between two passes of the executor while the disk has nothing to do.
const TURNS_PER_PASS: u64 = 64;

/// What one shard's thread is told.
#[derive(Debug)]
pub struct ShardRuntimeConfig {
    /// For the engine.
    pub engine: ShardConfig,
    /// Sockets of this shard from one address. At it: an accepted one is closed at once. 0 is no bound.
    pub sessions_per_address_max: u32,
    /// The processor to pin the thread to; `None` leaves it to the kernel.
    pub cpu: Option<usize>,
    /// Memory that glommio registers with each of its three rings, 64 KiB to 4 MiB. Counts against RLIMIT_MEMLOCK three times.
    pub io_memory_bytes: usize,
    /// The shard's own directory: journal segments and checkpoints. Exists.
    pub directory: PathBuf,
    /// The node's clock.
    pub clock: Clock,
}

/// Sockets that one shard is to serve, all bound.
#[derive(Debug)]
pub struct ShardSockets {
    /// For its clients.
    pub clients: Vec<Listener>,
    /// For other nodes; `None` when this node is alone.
    pub cluster: Option<ClusterSockets>,
}

/// A shard has read its disk and serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Which.
    pub shard: ShardId,
    /// Messages that can be read back.
    pub messages: u64,
    /// Bytes of journal that were replayed.
    pub replayed_bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// Slots are still without a leader, or the node is not let into its cluster: it serves when that has changed.
    pub waits: bool,
}

/// Starts a shard's thread. It recovers from its directory, talks to other nodes, says `ready` (once: either that it serves, or
/// one line why it cannot), listens to clients after [`super::mesh::MeshMessage::Serve`], serves until [`super::mesh::MeshMessage::Stop`], and ends within five seconds after it.
/// A panic in it ends the process: the journal is the truth, a limping shard is not.
///
/// # Errors
/// When the thread cannot be started.
pub fn run_shard(
    config: ShardRuntimeConfig,
    mesh: MeshEndpoint,
    sockets: ShardSockets,
    ready: flume::Sender<Result<Ready, String>>,
) -> std::io::Result<JoinHandle<()>> {
    let shard = config.engine.place.shard;
    std::thread::Builder::new().name(format!("shard-{}", shard.0)).spawn(move || {
        let doorbell = Arc::clone(&mesh.doorbell);
        doorbell.enter_thread();
        let outcome = guarded(shard, || {
            let executor = start::executor(&config)?;
            executor.run(serve(config, mesh, sockets, &ready))
        });
        doorbell.leave_thread();
        if let Err(line) = outcome {
            // Nobody listening means that the node has given up already.
            let _ = ready.send(Err(line));
        }
    })
}

/// Runs a shard; a panic in it, or in any task of its executor, ends the process.
fn guarded<T>(shard: ShardId, run: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| die(shard))
}

/// The panic's own message is out already. No destructor may run: they would act on state that nobody can vouch for.
fn die(shard: ShardId) -> ! {
    eprintln!("jindou: shard {} has failed; the process ends, its journal has everything acknowledged", shard.0);
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(101) }
}

async fn serve(
    config: ShardRuntimeConfig,
    mesh: MeshEndpoint,
    sockets: ShardSockets,
    ready: &flume::Sender<Result<Ready, String>>,
) -> Result<(), String> {
    let (shard, files, facts) = start::recover(&config.engine, &config.directory, config.clock).await?;
    let (sender, own) = (mesh.sender.clone(), config.engine.place.shard);
    files.tell(move || sender.wake(own));
    let knock = make_knock().map_err(|error| format!("the kernel gives no eventfd: {error}"))?;
    let gateway = start::gateway(&config, &mesh, knock.as_raw_fd())?;
    let links = sockets.cluster.map(|sockets| start::links(sockets, &mesh)).transpose()?;
    let alarm = Rc::new(Alarm::default());
    let knock = glommio::spawn_local(listen_to_knock(knock, Rc::clone(&alarm)));
    let here = config.engine.place;
    let timed = config.engine.limits.marked_one_in > 0;
    let mut shard_loop = Loop {
        clock: config.clock,
        here,
        api_requests_max: config.engine.limits.api_requests_max,
        events_max: config.engine.limits.events_per_step_max,
        shard,
        gateway,
        links,
        listeners: sockets.clients,
        outbox: Outbox::new(here, config.engine.shard_count),
        mesh,
        disk: DiskDesk::new(files, Rc::clone(&alarm)),
        alarm,
        tickets: HashMap::new(),
        last_ticket: 0,
        stages: Stages::new(timed),
        long_turns: LongTurns::default(),
        turn_picture: TurnPicture::default(),
        counters: ShellCounters::default(),
        events: EventBatch::new(),
        effects: Effects::default(),
        sweep_at: 0,
        give_up_at: None,
        stopped: false,
    };
    shard_loop.run(Waiting { facts, ready }).await;
    knock.cancel().await;
    Ok(())
}

struct Loop {
    clock: Clock,
    here: Place,
    api_requests_max: usize,
    events_max: usize,
    shard: Shard,
    gateway: Gateway,
    /// `None`: this node is alone.
    links: Option<LinkSockets>,
    /// Bound, until the node says that clients may come.
    listeners: Vec<Listener>,
    mesh: MeshEndpoint,
    outbox: Outbox,
    disk: DiskDesk,
    alarm: Rc<Alarm>,
    /// Who waits for which answer.
    tickets: HashMap<u64, flume::Sender<ApiAnswer>>,
    last_ticket: u64,
    stages: Stages,
    long_turns: LongTurns,
    /// Of the turn under way.
    turn_picture: TurnPicture,
    counters: ShellCounters,
    events: EventBatch,
    effects: Effects,
    sweep_at: u64,
    /// Set by the stop.
    give_up_at: Option<u64>,
    stopped: bool,
}

/// What is left to be said: that the shard is ready.
struct Waiting<'a> {
    facts: Ready,
    ready: &'a flume::Sender<Result<Ready, String>>,
}

impl Loop {
    async fn run(&mut self, waiting: Waiting<'_>) {
        let began = self.clock.nanos();
        let mut waiting = Some(waiting);
        loop {
            self.turn();
            if self.has_ended() {
                return;
            }
            if let Some(waiting) = waiting.take_if(|_| self.is_ready(began)) {
                let view = self.shard.view();
                let facts = Ready { messages: view.messages_indexed, waits: slots_waiting(&view) > 0, ..waiting.facts };
                // Nobody listening means that the node has given up; its stop is on its way.
                let _ = waiting.ready.send(Ok(facts));
            }
            if !self.has_news() {
                self.sleep().await;
            } else if self.disk.tasks() > 0 || self.counters.turns.is_multiple_of(TURNS_PER_PASS) {
                // The executor sees the disk's answers, and hands it new wishes, only when it gets the thread.
                glommio::executor().yield_task_queue_now().await;
            }
        }
    }

    /// A client that is let in before the slots have leaders would be turned away.
    fn is_ready(&self, began_nanos: u64) -> bool {
        slots_waiting(&self.shard.view()) == 0 || self.clock.nanos() - began_nanos > LEADERS_WITHIN.as_nanos() as u64
    }

    fn turn(&mut self) {
        let began = self.clock.nanos();
        self.counters.turns += 1;
        self.mesh.doorbell.count_turn();
        if let Some(links) = &mut self.links {
            // Before the clients, whose number must not keep other nodes waiting.
            links.gather(&mut self.events);
        }
        self.gateway.gather(&mut self.events, self.clock, &mut self.stages);
        self.take_messages();
        if let Some(written) = self.gateway.take_file_written() {
            self.disk.written(written);
        }
        self.disk.collect(&mut self.events, self.clock, &mut self.stages);
        let now = self.clock.now();
        if began >= self.sweep_at {
            self.sweep_at = began + BEAT.as_nanos() as u64;
            self.gateway.sweep();
            self.with_links(LinkSockets::sweep);
        }
        let due = self.shard.next_deadline().is_some_and(|deadline| deadline <= now.instant);
        if self.events.is_empty() && !due {
            // A new connection that has sent half a packet so far is to be read on.
            self.gateway.settle();
            self.flush_mesh();
            return;
        }
        let stepping = self.clock.nanos();
        self.gateway.note_step(stepping);
        let (before, events) = (Work::so_far(self.shard.counters()), self.events.len());
        self.shard.step(now, &mut self.events, &mut self.effects);
        let stepped = self.clock.nanos();
        self.stages.record(Stage::Step, stepped - stepping);
        self.turn_picture = TurnPicture {
            began_nanos: began,
            gather_nanos: stepping - began,
            step_nanos: stepped - stepping,
            events,
            effects: self.effects.list.len(),
            work: Work::so_far(self.shard.counters()).since(before),
            ..TurnPicture::default()
        };
        self.carry_out(stepped);
        self.gateway.settle();
        self.flush_mesh();
        self.end_turn(began);
    }

    fn end_turn(&mut self, began: u64) {
        if self.stages.timed() {
            let whole_nanos = self.clock.nanos() - began;
            self.stages.record(Stage::Turn, whole_nanos);
            self.long_turns.note(TurnPicture { whole_nanos, ..self.turn_picture });
        }
    }

    fn take_messages(&mut self) {
        for _ in 0..MESSAGES_PER_TURN_MAX {
            if self.events.len() >= self.events_max {
                return;
            }
            let Ok(message) = self.mesh.inbox.try_recv() else { return };
            match message {
                MeshMessage::Frames { from, frames, sent_nanos } => {
                    self.stages.record(Stage::MeshHop, self.clock.nanos().saturating_sub(sent_nanos));
                    self.events.push(Event::Frames { from, frames });
                }
                MeshMessage::HandOver(parcel) => {
                    let now = self.clock.nanos();
                    self.gateway.arrive(*parcel, &mut self.events, now);
                }
                MeshMessage::Api { request, reply } => {
                    if self.tickets.len() >= self.api_requests_max {
                        // An asker that has gone away needs no answer, here and wherever a reply is sent.
                        let _ = reply.try_send(ApiAnswer::Busy);
                        continue;
                    }
                    self.last_ticket += 1;
                    self.tickets.insert(self.last_ticket, reply);
                    self.events.push(Event::Api { ticket: self.last_ticket, request });
                }
                MeshMessage::Snapshot { reply } => {
                    let _ = reply.try_send(Box::new(self.snapshot()));
                }
                MeshMessage::Profile { after, reply } => {
                    let _ = reply.try_send(Box::new(self.profile(after)));
                }
                MeshMessage::Watch { uid, span, reply } => {
                    let now = Clock::instant(self.clock.nanos());
                    let _ = reply.try_send(self.shard.watch(now, uid, now + span).is_ok());
                }
                MeshMessage::Cluster(cluster) => self.events.push(Event::Cluster(cluster)),
                MeshMessage::Serve { reply } => {
                    let _ = reply.try_send(self.listen());
                }
                MeshMessage::Tick => {}
                MeshMessage::Stop => {
                    if self.give_up_at.is_none() {
                        self.give_up_at = Some(self.clock.nanos() + STOP_WITHIN.as_nanos() as u64);
                        self.gateway.stop_listening();
                        self.events.push(Event::Stop);
                    }
                }
            }
        }
    }

    fn listen(&mut self) -> Result<(), String> {
        let listeners = std::mem::take(&mut self.listeners);
        if self.give_up_at.is_some() {
            return Ok(());
        }
        listeners.into_iter().try_for_each(|listener| self.gateway.listen(listener))
    }

    fn carry_out(&mut self, now_nanos: u64) {
        let mut sent = false;
        let mut effects = std::mem::take(&mut self.effects.list);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { session, packet } => {
                    sent = true;
                    self.gateway.send(session, &packet, now_nanos, &mut self.stages);
                }
                Effect::Close { session } => self.gateway.close(session),
                Effect::HandOver { session, to } => self.gateway.hand_over(session, to),
                Effect::Reading { session, paused } => self.gateway.reading(session, paused),
                Effect::Frames { to, frames } => {
                    if to.node == self.here.node {
                        self.outbox.push(to.shard, frames);
                    } else {
                        self.counters.frames_without_link += frames.len() as u64;
                    }
                }
                Effect::JournalWrite(write) => {
                    self.turn_picture.journal_bytes += write.bytes.len();
                    self.disk.write(write, now_nanos, self.gateway.ring());
                }
                Effect::JournalSegment { segment } => self.disk.prepare_segment(segment),
                Effect::JournalTrim { first } => self.disk.trim(first),
                Effect::Read { ticket, segment, offset, length } => self.disk.read(ticket, segment, offset, length),
                Effect::Checkpoint { slot, bytes } => {
                    self.turn_picture.checkpoint_bytes += bytes.len();
                    self.disk.checkpoint(slot, bytes);
                }
                Effect::Answer { ticket, answer } => {
                    if let Some(reply) = self.tickets.remove(&ticket) {
                        let _ = reply.try_send(answer);
                    }
                }
                Effect::Stopped => {
                    self.stopped = true;
                    self.with_links(LinkSockets::close_all);
                }
                Effect::RemoveCheckpoint { slot } => self.disk.remove_checkpoint(slot),
                Effect::Cluster(cluster) => self.outbox.tell_others(&cluster),
                Effect::Report { warning, line } => report(self.here, warning, &line),
                Effect::Dial { conn, to } => self.with_links(|links| links.dial(conn, to)),
                Effect::LinkWrite { conn, bytes } => self.with_links(|links| links.write(conn, bytes)),
                Effect::Hangup { conn } => self.with_links(|links| links.hang_up(conn)),
                Effect::Datagram { to, bytes } => self.with_links(|links| links.send_datagram(to, &bytes)),
            }
        }
        self.effects.list = effects;
        if sent && self.stages.timed() {
            self.stages.record(Stage::Encode, self.clock.nanos() - now_nanos);
        }
    }

    /// A node that is alone has no links, and its engine asks for none.
    fn with_links(&mut self, work: impl FnOnce(&mut LinkSockets)) {
        if let Some(links) = &mut self.links {
            work(links);
        }
    }

    /// Sends frames and travellers on. What meets a full inbox stays for the next turn.
    fn flush_mesh(&mut self) {
        self.outbox.flush(&self.mesh.sender, self.clock);
        let departures = self.gateway.departures();
        for _ in 0..departures.len() {
            let (to, parcel) = departures.remove(0);
            let outcome = self.mesh.sender.send(to, MeshMessage::HandOver(parcel));
            // A shard that is gone means that the node is stopping; dropping the parcel closes the socket.
            if let Err(NotSent::Full(MeshMessage::HandOver(parcel))) = outcome {
                departures.push((to, parcel));
            }
        }
    }

    /// Something has come that the next turn is to look at.
    fn has_news(&mut self) -> bool {
        let now = Clock::instant(self.clock.nanos());
        self.gateway.has_news()
            || self.links.as_mut().is_some_and(LinkSockets::has_work)
            || self.disk.has_outcomes()
            || !self.mesh.inbox.is_empty()
            || self.shard.next_deadline().is_some_and(|deadline| deadline <= now)
    }

    async fn sleep(&mut self) {
        let now = self.clock.nanos();
        if let Some(span) = self.wake_within(now) {
            self.gateway.ring().wake_within(now, span);
        }
        self.mesh.doorbell.lie_down();
        if !self.alarm.take()
            && self.mesh.inbox.is_empty()
            && !self.disk.has_outcomes()
            && self.gateway.prepare_wait()
            && self.links.as_mut().is_none_or(|links| links.ring().prepare_sleep())
        {
            self.counters.sleeps += 1;
            self.wait().await;
            if let Some(links) = &mut self.links {
                links.ring().awake();
            }
        }
        self.mesh.doorbell.awake();
    }

    /// Until something comes.
    async fn wait(&mut self) {
        if self.disk.tasks() == 0 {
            self.gateway.ring().wait();
            return;
        }
        let ring = self.gateway.ring();
        ring.submit();
        if ring.prepare_sleep() {
            self.alarm.wait().await;
            self.gateway.ring().awake();
        }
    }

    /// How long the loop may sleep, if the metronome's beat may be too late for what is next.
    fn wake_within(&mut self, now_nanos: u64) -> Option<Duration> {
        let deadline = self.shard.next_deadline();
        let mut span =
            deadline.map_or(Duration::MAX, |deadline| Duration::from_nanos(Clock::until(now_nanos, deadline)));
        if !self.outbox.is_empty() || !self.gateway.departures().is_empty() {
            span = span.min(OUTBOX_RETRY);
        }
        if self.give_up_at.is_some() {
            // The metronome may have ended before the shards.
            return Some(span.min(BEAT));
        }
        (span < TIMER_WITHIN).then_some(span)
    }

    fn has_ended(&mut self) -> bool {
        let Some(give_up_at) = self.give_up_at else { return false };
        let links = self.links.as_ref().map_or(0, LinkSockets::sockets);
        let sockets = self.gateway.sockets() + links;
        if self.stopped && sockets == 0 && self.disk.under_way() == 0 && self.outbox.is_empty() {
            return true;
        }
        let late = self.clock.nanos() >= give_up_at;
        if late {
            tracing::warn!(
                shard = %self.here.shard,
                sockets = self.gateway.sockets(),
                links,
                disk_under_way = self.disk.under_way(),
                stopped = self.stopped,
                "the shard did not come to rest in time and ends anyway"
            );
        }
        late
    }

    fn link_rows(&self) -> Vec<(LinkRow, Duration)> {
        let now = Clock::instant(self.clock.nanos());
        self.shard.link_rows().into_iter().map(|row| (row, now.since(row.since))).collect()
    }

    fn profile(&mut self, after: u64) -> ShardProfile {
        let (marks, marks_next) = self.shard.marks().since(after);
        ShardProfile {
            place: self.here,
            snapshot: self.snapshot(),
            buckets: self.stages.buckets(),
            turns: self.long_turns.kept(),
            marks,
            marks_next,
            named: self.shard.marks().named(),
            now_nanos: self.clock.nanos(),
            cpu: Clock::thread_cpu(),
        }
    }

    fn snapshot(&mut self) -> ShardSnapshot {
        let mut shell = self.counters;
        self.gateway.count_into(&mut shell);
        if let Some(links) = &self.links {
            links.count_into(&mut shell);
        }
        shell.disk_under_way = self.disk.under_way();
        ShardSnapshot {
            shard: self.here.shard,
            counters: *self.shard.counters(),
            engine: self.shard.view(),
            cluster: self.shard.cluster_view(),
            shell,
            stages: self.stages.summaries(),
            links: self.link_rows(),
        }
    }
}

/// Slots hosted here for which nobody could speak now.
fn slots_waiting(view: &ShardView) -> usize {
    view.slots_waiting
}

fn report(here: Place, warning: bool, line: &str) {
    if warning {
        tracing::warn!(shard = %here.shard, "{line}");
    } else {
        tracing::info!(shard = %here.shard, "{line}");
    }
}
