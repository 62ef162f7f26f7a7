//! What the machines of one step want said: frames to other shards and to this one, answers to API requests, counts. Decides
//! nothing. A frame for this shard comes back in the same step, as an event would: there is no shortcut.

use std::collections::VecDeque;

use super::counters::Counters;
use super::effect::{Effect, Effects};
use super::event::ApiAnswer;
use super::marks::Marks;
use crate::format::frame::Frame;
use crate::ids::Place;

/// Collects; emptied by the shard.
#[derive(Debug)]
pub struct Outbox {
    /// This shard.
    pub here: Place,
    /// Frames for this shard, oldest first.
    pub loopback: VecDeque<(Place, Frame)>,
    /// Totals.
    pub counters: Counters,
    /// Where some messages were, and when.
    pub marks: Marks,
    elsewhere: Vec<(Place, Vec<Frame>)>,
    /// Of those, what is for other nodes; between flush and take.
    remote: Vec<(Place, Vec<Frame>)>,
    answers: Vec<(u64, ApiAnswer)>,
    /// What the operator is to read: serious or not, and the line.
    reports: Vec<(bool, String)>,
}

impl Outbox {
    /// An empty one.
    #[must_use]
    pub fn new(here: Place, marks: Marks) -> Outbox {
        Outbox {
            here,
            loopback: VecDeque::new(),
            counters: Counters::default(),
            marks,
            elsewhere: Vec::new(),
            remote: Vec::new(),
            answers: Vec::new(),
            reports: Vec::new(),
        }
    }

    /// Says something to a shard.
    pub fn frame(&mut self, to: Place, frame: Frame) {
        if to == self.here {
            self.loopback.push_back((to, frame));
            return;
        }
        self.counters.frames_sent += 1;
        match self.elsewhere.iter_mut().find(|(place, _)| *place == to) {
            Some((_, frames)) => frames.push(frame),
            None => self.elsewhere.push((to, vec![frame])),
        }
    }

    /// Answers an API request of this shard.
    pub fn answer(&mut self, ticket: u64, answer: ApiAnswer) {
        self.answers.push((ticket, answer));
    }

    /// Says something to the operator.
    pub fn report(&mut self, warning: bool, line: String) {
        self.reports.push((warning, line));
    }

    /// What the last flush found for other nodes: it goes through links.
    pub fn take_remote(&mut self) -> Vec<(Place, Vec<Frame>)> {
        std::mem::take(&mut self.remote)
    }

    /// Turns everything but the loopback and what is for other nodes into effects: one batch per shard. `api_open` falls by the requests answered.
    pub fn flush(&mut self, api_open: &mut usize, effects: &mut Effects) {
        for (to, frames) in self.elsewhere.drain(..) {
            if to.node == self.here.node {
                effects.push(Effect::Frames { to, frames });
            } else {
                self.remote.push((to, frames));
            }
        }
        for (warning, line) in self.reports.drain(..) {
            effects.push(Effect::Report { warning, line });
        }
        *api_open -= self.answers.len();
        for (ticket, answer) in self.answers.drain(..) {
            effects.push(Effect::Answer { ticket, answer });
        }
    }
}
