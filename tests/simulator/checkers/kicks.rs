//! When a master's CONNECT succeeds, every other connection of its family ends in time: with DISCONNECT 12 when its device
//! id is another. The gateway says which connections were live at that moment.

use std::collections::{BTreeMap, BTreeSet};

/// An end that is due.
#[derive(Clone, Copy, Debug)]
struct Due {
    at_ns: u64,
    notice: bool,
}

/// Ends that are due, by connection.
#[derive(Default)]
pub struct Kicks {
    due: BTreeMap<usize, Due>,
    noticed: BTreeSet<usize>,
    /// How often a kick was carried out.
    pub carried_out: u64,
}

impl Kicks {
    /// This connection must end by `at_ns`, with notice or without.
    pub fn expect(&mut self, connection: usize, at_ns: u64, notice: bool) {
        self.due.entry(connection).or_insert(Due { at_ns, notice });
    }

    /// DISCONNECT with this reason was written to a connection.
    pub fn notice(&mut self, connection: usize, reason: u8) {
        if reason == jindou::format::packet::Reason::Kicked as u8 {
            self.noticed.insert(connection);
        }
    }

    /// The node closed a connection.
    pub fn closed(&mut self, connection: usize) -> Result<(), String> {
        match self.due.remove(&connection) {
            Some(due) if due.notice && !self.noticed.contains(&connection) => {
                Err(format!("connection {connection} was closed for a master without DISCONNECT 12"))
            }
            Some(_) => {
                self.carried_out += 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A connection ended by itself, or its node did.
    pub fn forget(&mut self, connection: usize) {
        self.due.remove(&connection);
    }

    /// What is overdue.
    pub fn overdue(&self, now_ns: u64) -> Result<(), String> {
        match self.due.iter().find(|(_, due)| due.at_ns < now_ns) {
            Some((connection, due)) => Err(format!(
                "connection {connection} should have ended for a master by {:.3} s",
                due.at_ns as f64 / 1e9
            )),
            None => Ok(()),
        }
    }
}
