//! One device of one user: its connection, what it has under way, when it is to come back. Pure but for the connection it holds.
//!
//! ```text
//!            connect              handshake             leave: nothing new       all sent, answered
//!  Away ───────────► Connecting ───────────► Open ─────────────────────► Leaving ───────────────────► Away
//!    ▲                    │ broken             │ broken                      │ broken
//!    └────────────────────┴────────────────────┴─────────────────────────────┘   (what was unanswered has an unknown outcome)
//! ```

use std::collections::VecDeque;

use crate::wire::Wire;

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No connection; on purpose or not.
    Away {
        /// It was asked to.
        planned: bool,
    },
    /// Waiting for the handshake.
    Connecting,
    /// Ready.
    Open,
    /// Sends nothing more, and closes when all is answered.
    Leaving {
        /// How long it will be away.
        away_ns: u64,
    },
}

/// A send without an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flight {
    /// When it was (to be) sent.
    pub at_ns: u64,
    /// Its stream.
    pub stream: u32,
    /// Its number there; 0 is no send.
    pub sequence: u64,
}

/// A device.
pub struct Session {
    /// Whose.
    pub user: u32,
    /// Which of the user's.
    pub device: u8,
    /// Its connection.
    pub wire: Option<Wire>,
    /// Where it stands.
    pub state: State,
    /// How many connections it has had.
    pub connections: u32,
    /// Begin of the present state: of the handshake, or of being open.
    pub since_ns: u64,
    /// Due, but without room in the window: intended time and stream.
    pub waiting: VecDeque<(u64, u32)>,
    /// Its unanswered sends.
    pub flights: Flights,
}

impl Session {
    /// Not connected yet.
    pub fn new(user: u32, device: u8, window: usize) -> Session {
        Session {
            user,
            device,
            wire: None,
            state: State::Away { planned: true },
            connections: 0,
            since_ns: 0,
            waiting: VecDeque::new(),
            flights: Flights::new(window),
        }
    }

    /// True when a message may be sent now. One that leaves still sends what was due before.
    pub fn has_room(&self) -> bool {
        matches!(self.state, State::Open | State::Leaving { .. }) && self.flights.has_room()
    }

    /// True when it was asked to leave and nothing is left to do.
    pub fn has_left_nothing(&self) -> bool {
        self.flights.count == 0 && self.waiting.is_empty()
    }

    /// True when it is away because it was asked to, or about to be.
    pub fn is_leaving(&self) -> bool {
        matches!(self.state, State::Leaving { .. } | State::Away { planned: true })
    }
}

/// Unanswered sends of one connection, by number. Numbers begin at 1 and go on over reconnects.
#[derive(Debug)]
pub struct Flights {
    ring: Vec<Flight>,
    window: usize,
    count: usize,
    last: u32,
    oldest: u32,
}

impl Flights {
    fn new(window: usize) -> Flights {
        let room = if window == 0 { 0 } else { (window * 2).next_power_of_two() };
        Flights { ring: vec![Flight::default(); room], window, count: 0, last: 0, oldest: 1 }
    }

    fn place(&self, number: u32) -> usize {
        number as usize & (self.ring.len() - 1)
    }

    fn has_room(&self) -> bool {
        self.count < self.window && self.ring[self.place(self.last.wrapping_add(1))].sequence == 0
    }

    /// Takes one up; returns its number.
    pub fn begin(&mut self, flight: Flight) -> u32 {
        self.last = self.last.wrapping_add(1);
        let place = self.place(self.last);
        self.ring[place] = flight;
        self.count += 1;
        self.last
    }

    /// The answered one; `None` when it is unknown or was answered before.
    pub fn end(&mut self, number: u32) -> Option<Flight> {
        if self.ring.is_empty() || self.last.wrapping_sub(number) as usize >= self.ring.len() {
            return None;
        }
        let place = self.place(number);
        let flight = std::mem::take(&mut self.ring[place]);
        (flight.sequence > 0).then(|| {
            self.count -= 1;
            flight
        })
    }

    /// The oldest unanswered one up to this number, if there is one.
    pub fn end_up_to(&mut self, number: u32) -> Option<Flight> {
        while self.count > 0 && number.wrapping_sub(self.oldest) < u32::MAX / 2 {
            let oldest = self.oldest;
            self.oldest = oldest.wrapping_add(1);
            if let Some(flight) = self.end(oldest) {
                return Some(flight);
            }
        }
        None
    }

    /// The connection is gone: all of them, whose outcome is now unknown.
    pub fn give_up(&mut self) -> Vec<Flight> {
        self.count = 0;
        self.oldest = self.last.wrapping_add(1);
        self.ring.iter_mut().filter(|flight| flight.sequence > 0).map(std::mem::take).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(sequence: u64) -> Flight {
        Flight { at_ns: sequence * 10, stream: 1, sequence }
    }

    #[test]
    fn answers_find_their_sends_once() {
        let mut flights = Flights::new(2);
        assert_eq!((flights.begin(flight(1)), flights.begin(flight(2))), (1, 2));
        assert!(!flights.has_room());
        assert_eq!(flights.end(2), Some(flight(2)));
        assert_eq!((flights.end(2), flights.end(99), flights.end(0)), (None, None, None));
        assert!(flights.has_room());
        assert_eq!(flights.end(1), Some(flight(1)));
        assert_eq!(flights.count, 0);
    }

    #[test]
    fn one_that_is_never_answered_keeps_its_place() {
        let mut flights = Flights::new(2);
        flights.begin(flight(1));
        for sequence in 2..5 {
            assert!(flights.has_room());
            let number = flights.begin(flight(sequence));
            assert!(flights.end(number).is_some());
        }
        assert!(!flights.has_room(), "the ring has come round to the first one");
        assert_eq!(flights.give_up(), [flight(1)]);
        assert!(flights.has_room());
    }

    #[test]
    fn one_answer_may_be_for_several() {
        let mut flights = Flights::new(4);
        (1..=3).for_each(|sequence| assert_eq!(flights.begin(flight(sequence)), sequence as u32));
        let ended: Vec<_> = std::iter::from_fn(|| flights.end_up_to(2)).collect();
        assert_eq!(ended, [flight(1), flight(2)]);
        assert_eq!(std::iter::from_fn(|| flights.end_up_to(3)).count(), 1);
        assert_eq!(flights.end_up_to(3), None);
        assert_eq!(flights.count, 0);
    }
}
