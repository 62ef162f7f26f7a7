//! A slot's homes: found by their uids, and read in the order of these, also in portions. Keeps no order that a stranger could choose: the map is
//! seeded, and the order is that of the names.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::engine::chance::{MapState, SeededMap};
use crate::engine::home::Home;
use crate::ids::Uid;

/// The homes.
#[derive(Debug)]
pub(super) struct Homes {
    by_uid: SeededMap<Uid, Home>,
    /// Their uids: homes come and go seldom, and sorting them all would take long.
    uids: BTreeSet<Uid>,
}

impl Homes {
    pub(super) fn new(map_state: MapState) -> Homes {
        Homes { by_uid: SeededMap::with_hasher(map_state), uids: BTreeSet::new() }
    }

    /// Each uid once. Quickest when they rise.
    pub(super) fn of(homes: Vec<(Uid, Home)>, map_state: MapState) -> Homes {
        let uids = homes.iter().map(|(uid, _)| uid.clone()).collect();
        let mut by_uid = SeededMap::with_capacity_and_hasher(homes.len(), map_state);
        by_uid.extend(homes);
        Homes { by_uid, uids }
    }

    pub(super) fn len(&self) -> usize {
        self.by_uid.len()
    }

    pub(super) fn get(&self, uid: &str) -> Option<&Home> {
        self.by_uid.get(uid)
    }

    pub(super) fn get_mut(&mut self, uid: &str) -> Option<&mut Home> {
        self.by_uid.get_mut(uid)
    }

    /// One that is there, or `fresh`.
    pub(super) fn get_or_insert(&mut self, uid: &Uid, fresh: impl FnOnce() -> Home) -> &mut Home {
        let uids = &mut self.uids;
        let home = self.by_uid.raw_entry_mut().from_key(uid);
        let made = || {
            uids.insert(uid.clone());
            (uid.clone(), fresh())
        };
        home.or_insert_with(made).1
    }

    /// False when there was one of this name.
    pub(super) fn insert(&mut self, uid: Uid, home: Home) -> bool {
        self.uids.insert(uid.clone());
        self.by_uid.insert(uid, home).is_none()
    }

    /// Forgets one that holds nothing.
    pub(super) fn forget_empty(&mut self, uid: &Uid) {
        if self.by_uid.get(uid).is_some_and(Home::is_empty) {
            self.by_uid.remove(uid);
            self.uids.remove(uid);
        }
    }

    /// Does this to all of them, and forgets those that hold nothing then.
    pub(super) fn change_all(&mut self, change: impl Fn(&mut Home)) {
        let uids = &mut self.uids;
        self.by_uid.retain(|uid, home| {
            change(home);
            if home.is_empty() {
                uids.remove(uid);
            }
            !home.is_empty()
        });
    }

    /// In no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &Home> {
        self.by_uid.values()
    }

    /// In the order of their uids, behind one of them.
    pub(super) fn after<'a>(&'a self, uid: Option<&Uid>) -> impl Iterator<Item = (&'a Uid, &'a Home)> + use<'a> {
        let from = uid.map_or(Bound::Unbounded, Bound::Excluded);
        let known = |uid| (uid, self.by_uid.get(uid).expect("what has a name in the list is in the map"));
        self.uids.range::<Uid, _>((from, Bound::Unbounded)).map(known)
    }

    /// Takes out those that do not stay, in the order of their uids.
    pub(super) fn take_out(&mut self, stays: impl Fn(&Uid) -> bool) -> Vec<(Uid, Home)> {
        let mut go = Vec::new();
        self.uids.retain(|uid| {
            let stays = stays(uid);
            if !stays {
                go.push(uid.clone());
            }
            stays
        });
        let by_uid = &mut self.by_uid;
        go.iter().map(|uid| by_uid.remove_entry(uid).expect("what has a name in the list is in the map")).collect()
    }

    pub(super) fn check_invariants(&self) {
        assert_eq!(self.by_uid.len(), self.uids.len(), "every home has its name in the list");
        assert!(self.uids.iter().all(|uid| self.by_uid.contains_key(uid)), "every name in the list has its home");
    }
}
