//! A slot's homes: found by their uids, and read in an order that is the same on every replica, also in portions. The order is that of the hashes that
//! name users' slots, read from their lowest bits on: so what a split takes away is the end of it.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::engine::chance::{MapState, SeededMap};
use crate::engine::home::Home;
use crate::ids::{SlotId, Uid};

/// A home's place in the order; without a uid it is before all homes of its hash.
pub(super) type Name = (u64, Option<Uid>);

pub(super) fn name_of(uid: &Uid) -> Name {
    (uid.key_hash().0.reverse_bits(), Some(uid.clone()))
}

pub(super) fn uid_of(name: &Name) -> &Uid {
    name.1.as_ref().expect("a home has a uid")
}

/// The homes.
#[derive(Debug)]
pub(super) struct Homes {
    by_uid: SeededMap<Uid, Home>,
    /// Of all of them: homes come and go seldom, and sorting them all would take long.
    names: BTreeSet<Name>,
}

impl Homes {
    pub(super) fn new(map_state: MapState) -> Homes {
        Homes { by_uid: SeededMap::with_hasher(map_state), names: BTreeSet::new() }
    }

    /// Each uid once.
    pub(super) fn of(homes: Vec<(Uid, Home)>, map_state: MapState) -> Homes {
        let names = homes.iter().map(|(uid, _)| name_of(uid)).collect();
        let mut by_uid = SeededMap::with_capacity_and_hasher(homes.len(), map_state);
        by_uid.extend(homes);
        Homes { by_uid, names }
    }

    pub(super) fn len(&self) -> usize {
        self.by_uid.len()
    }

    pub(super) fn home(&self, uid: &str) -> Option<&Home> {
        self.by_uid.get(uid)
    }

    pub(super) fn home_mut(&mut self, uid: &str) -> Option<&mut Home> {
        self.by_uid.get_mut(uid)
    }

    /// One that is there, or `fresh`.
    pub(super) fn home_or(&mut self, uid: &Uid, fresh: impl FnOnce() -> Home) -> &mut Home {
        let names = &mut self.names;
        let home = self.by_uid.raw_entry_mut().from_key(uid);
        let made = || {
            names.insert(name_of(uid));
            (uid.clone(), fresh())
        };
        home.or_insert_with(made).1
    }

    /// False when there was one of this name.
    pub(super) fn insert(&mut self, uid: Uid, home: Home) -> bool {
        self.names.insert(name_of(&uid));
        self.by_uid.insert(uid, home).is_none()
    }

    /// Forgets one that holds nothing.
    pub(super) fn forget_empty(&mut self, uid: &Uid) {
        if self.by_uid.get(uid).is_some_and(Home::is_empty) {
            self.by_uid.remove(uid);
            self.names.remove(&name_of(uid));
        }
    }

    /// Does this to all of them, and forgets those that hold nothing then.
    pub(super) fn change_all(&mut self, change: impl Fn(&mut Home)) {
        let names = &mut self.names;
        self.by_uid.retain(|uid, home| {
            change(home);
            if home.is_empty() {
                names.remove(&name_of(uid));
            }
            !home.is_empty()
        });
    }

    /// In no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &Home> {
        self.by_uid.values()
    }

    /// In their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Uid, &Home)> {
        self.after(None).map(|(name, home)| (uid_of(name), home))
    }

    /// In their order, behind one of them.
    pub(super) fn after<'a>(&'a self, name: Option<&Name>) -> impl Iterator<Item = (&'a Name, &'a Home)> + use<'a> {
        let from = name.map_or(Bound::Unbounded, Bound::Excluded);
        let known = |name| (name, self.by_uid.get(uid_of(name)).expect("what has a name in the list is in the map"));
        self.names.range::<Name, _>((from, Bound::Unbounded)).map(known)
    }

    /// Takes out what is a child's from now on.
    pub(super) fn take_out(&mut self, child: SlotId) -> Leaving {
        let names = self.names.split_off(&(u64::from(child.0).reverse_bits(), None));
        let by_uid = &mut self.by_uid;
        let leave = |name| by_uid.remove_entry(uid_of(name)).expect("what has a name in the list is in the map");
        let left: Vec<(Uid, Home)> = names.iter().map(leave).collect();
        let map_state = *self.by_uid.hasher();
        let by_uid = SeededMap::with_capacity_and_hasher(left.len(), map_state);
        Leaving { left, homes: Homes { by_uid, names } }
    }

    pub(super) fn check_invariants(&self) {
        assert_eq!(self.by_uid.len(), self.names.len(), "every home has its name in the list");
        assert!(self.names.iter().all(|name| self.by_uid.contains_key(uid_of(name))), "every name has its home");
    }
}

/// Homes on their way to another slot.
#[derive(Debug)]
pub(super) struct Leaving {
    left: Vec<(Uid, Home)>,
    homes: Homes,
}

impl Leaving {
    /// Some of those that have not gone on yet.
    #[cfg(test)]
    pub(super) fn left(&self) -> &[(Uid, Home)] {
        &self.left
    }

    /// The next one goes on, without what only its leader knew. Returns its rows; `None`: all have gone.
    pub(super) fn go_on(&mut self) -> Option<usize> {
        let (uid, mut home) = self.left.pop()?;
        let rows = home.row_count();
        home.cease_leading();
        if home.is_empty() {
            self.homes.names.remove(&name_of(&uid));
        } else {
            self.homes.by_uid.insert(uid, home);
        }
        Some(rows)
    }

    pub(super) fn is_through(&self) -> bool {
        self.left.is_empty()
    }

    /// Where they are at home from now on.
    pub(super) fn settle(self) -> Homes {
        assert!(self.is_through(), "nobody is left behind");
        self.homes
    }
}
