//! What a shard has asked of its disk, and the outcomes, which become events of a later turn. Journal writes ride on the clients' socket
//! ring, one at a time, as the engine asks for them; segments and checkpoints are the files thread's, whose answers are looked for; reads are
//! tasks of the executor. Deliberately no retries and no order: those are the engine's.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::engine::effect::JournalWrite;
use crate::engine::event::Event;
use crate::ids::SlotId;
use crate::shell::clock::Clock;
use crate::shell::journal_file::{Answer, JournalFiles};
use crate::shell::socket_ring::{AlignedBytes, FileWritten, SocketRing};
use crate::shell::stages::{Stage, Stages};

use super::waking::Alarm;

#[derive(Debug, Default)]
struct Tray {
    done: RefCell<Vec<(Event, Option<u64>)>>,
    under_way: Cell<u64>,
    alarm: Rc<Alarm>,
}

impl Tray {
    fn put(&self, event: Event) {
        self.done.borrow_mut().push((event, None));
        self.under_way.set(self.under_way.get() - 1);
        self.alarm.ring();
    }
}

/// What the files thread is at.
#[derive(Debug)]
enum Asked {
    Segment(u32),
    Checkpoint(SlotId),
}

/// The desk. Lives on the shard's executor.
#[derive(Debug)]
pub(super) struct DiskDesk {
    files: JournalFiles,
    tray: Rc<Tray>,
    /// At most a segment and one checkpoint of each slot, as the engine asks.
    asked: Vec<(Asked, Answer)>,
    /// The journal write under way, and since when.
    writing: Option<(JournalWrite, u64)>,
    /// Where its bytes are put for the kernel, while there is none.
    aligned: AlignedBytes,
}

impl DiskDesk {
    pub(super) fn new(files: JournalFiles, alarm: Rc<Alarm>) -> DiskDesk {
        DiskDesk {
            files,
            tray: Rc::new(Tray { alarm, ..Tray::default() }),
            asked: Vec::new(),
            writing: None,
            aligned: AlignedBytes::default(),
        }
    }

    /// Operations that have not become events yet, whether or not the disk has answered.
    pub(super) fn under_way(&self) -> u64 {
        self.tasks() + self.asked.len() as u64 + u64::from(self.writing.is_some())
    }

    /// Those of them that need the executor to come to an end.
    pub(super) fn tasks(&self) -> u64 {
        self.tray.under_way.get()
    }

    /// True when an outcome waits to be taken.
    pub(super) fn has_outcomes(&self) -> bool {
        !self.tray.done.borrow().is_empty() || self.asked.iter().any(|(_, answer)| answer.is_there())
    }

    /// Moves outcomes into `events`.
    pub(super) fn collect(&mut self, events: &mut Vec<Event>, clock: Clock, stages: &mut Stages) {
        self.asked.retain(|(asked, answer)| {
            let Some(result) = answer.take() else { return true };
            events.push(match asked {
                Asked::Segment(segment) => Event::SegmentReady { segment: *segment, result },
                Asked::Checkpoint(slot) => Event::CheckpointWritten { slot: *slot, result },
            });
            false
        });
        let mut done = self.tray.done.borrow_mut();
        if done.is_empty() {
            return;
        }
        let now = clock.nanos();
        events.extend(done.drain(..).map(|(event, since)| {
            if let Some(since) = since {
                stages.record(Stage::JournalWait, now.saturating_sub(since));
            }
            event
        }));
    }

    fn begin(&self, work: impl Future<Output = Event> + 'static) {
        self.tray.under_way.set(self.tray.under_way.get() + 1);
        let tray = Rc::clone(&self.tray);
        // A panic in it is a bug of ours and unwinds through the executor: the process ends, as it shall.
        glommio::spawn_local(async move {
            let event = work.await;
            tray.put(event);
        })
        .detach();
    }

    pub(super) fn write(&mut self, write: JournalWrite, now_nanos: u64, ring: &mut SocketRing) {
        match self.files.begin_write(&write, std::mem::take(&mut self.aligned)) {
            Ok(file_write) => {
                ring.write_file(file_write);
                self.writing = Some((write, now_nanos));
            }
            Err(fault) => {
                let JournalWrite { flush, bytes, .. } = write;
                let event = Event::JournalWritten { flush, bytes, result: Err(fault) };
                self.tray.done.borrow_mut().push((event, Some(now_nanos)));
            }
        }
    }

    /// The ring has answered the journal write under way.
    pub(super) fn written(&mut self, written: FileWritten) {
        let Some((write, since)) = self.writing.take() else { return };
        let result = self.files.end_write(&write, &written);
        self.aligned = written.bytes;
        let JournalWrite { flush, bytes, .. } = write;
        self.tray.done.borrow_mut().push((Event::JournalWritten { flush, bytes, result }, Some(since)));
    }

    pub(super) fn prepare_segment(&mut self, segment: u32) {
        self.asked.push((Asked::Segment(segment), self.files.prepare_segment(segment)));
    }

    pub(super) fn trim(&self, first: u32) {
        self.files.trim(first);
    }

    pub(super) fn read(&self, ticket: u64, segment: u32, offset: u32, length: u32) {
        let reading = self.files.read(segment, offset, length);
        self.begin(async move { Event::ReadDone { ticket, result: reading.await } });
    }

    pub(super) fn remove_checkpoint(&self, slot: SlotId) {
        self.files.remove_checkpoint(slot);
    }

    pub(super) fn checkpoint(&mut self, slot: SlotId, bytes: Vec<u8>) {
        self.asked.push((Asked::Checkpoint(slot), self.files.write_checkpoint(slot, bytes)));
    }
}
