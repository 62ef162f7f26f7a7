//! When a master's CONNECT succeeds, every other connection of its family ends in time: with DISCONNECT 12 when its device
//! id is another. The gateway says which connections were live at that moment. Of two that were let in at once, with CONNACKs that may be written
//! in any order, the home says who came later. The newcomer may go again: the leader that has let it in
//! remembers it, the next one does not. A slave ends connections of its own device only, and is not remembered: when it goes before its home
//! has heard of an older connection of that device, the older one stays until it is silent for too long.

use std::collections::{BTreeMap, BTreeSet};

use jindou::ids::SlotId;

/// An end that is due.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// At the latest.
    pub at_ns: u64,
    /// DISCONNECT 12 before it.
    pub notice: bool,
    /// The connection that came.
    pub newcomer: usize,
    /// The newcomer's number at its home: the greater one came later.
    pub order: u64,
    /// When it was let in.
    pub since_ns: u64,
    /// Whose connections they are.
    pub user: usize,
    /// The slot of the user's home then.
    pub slot: SlotId,
    /// The newcomer is a master, which its leader remembers when it has gone.
    pub master: bool,
}

/// Ends that are due, by connection.
#[derive(Default)]
pub struct Kicks {
    due: BTreeMap<usize, Vec<Due>>,
    noticed: BTreeSet<usize>,
    /// How often a kick was carried out.
    pub carried_out: u64,
}

impl Kicks {
    /// This connection must end.
    pub fn expect(&mut self, connection: usize, due: Due) {
        self.due.entry(connection).or_default().push(due);
    }

    /// It is to end for somebody.
    pub fn is_due(&self, connection: usize) -> bool {
        self.due.contains_key(&connection)
    }

    /// What is due, and for which connections.
    pub fn due(&self) -> impl Iterator<Item = (usize, Due)> + '_ {
        self.due.iter().flat_map(|(connection, dues)| dues.iter().map(|due| (*connection, *due)))
    }

    /// Nobody who leads has heard of this newcomer: nobody ends for it.
    pub fn release(&mut self, newcomer: usize) {
        self.due.retain(|_, dues| {
            dues.retain(|due| due.newcomer != newcomer);
            !dues.is_empty()
        });
    }

    /// DISCONNECT with this reason was written to a connection.
    pub fn notice(&mut self, connection: usize, reason: u8) {
        if reason == jindou::format::packet::Reason::Kicked as u8 {
            self.noticed.insert(connection);
        }
    }

    /// A connection was told that another device's master has come.
    pub fn is_noticed(&self, connection: usize) -> bool {
        self.noticed.contains(&connection)
    }

    /// The node closed a connection. Who came first decides how.
    pub fn closed(&mut self, connection: usize) -> Result<(), String> {
        let first = |dues: Vec<Due>| dues.into_iter().min_by_key(|due| due.order);
        match self.due.remove(&connection).and_then(first) {
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
        match self.due().find(|(_, due)| due.at_ns < now_ns) {
            Some((connection, due)) => Err(format!(
                "connection {connection} should have ended for a master by {:.3} s",
                due.at_ns as f64 / 1e9
            )),
            None => Ok(()),
        }
    }
}
