//! One user's record in the user's slot: device tokens, one row per conversation, who is online. Knows nothing of
//! sockets, logs or other homes. Tokens and rows are agreed by the group; who is online is known to the leader only and
//! comes back by registration.
//!
//! A row's numbers only rise, so the leader may run ahead of its group: a number it has learnt is true wherever it is
//! written down, and merging is taking the larger.
//!
//! ```text
//!  row:  fresh ──notified──► dirty ──proposed──► pending ──applied──► settled ──notified──► dirty …
//! ```

use super::chance::{MapState, SeededMap};
use super::devices::{Conflict, Device, PastMasters};
use crate::ids::{ChannelKey, DeviceFlag, DeviceLevel, Place, SessionAddress};

/// One live connection of the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Online {
    /// Where it is.
    pub address: SessionAddress,
    /// Device family.
    pub flag: DeviceFlag,
    /// From the device row at CONNECT.
    pub level: DeviceLevel,
    /// Client-chosen.
    pub device_id: Box<str>,
    /// Larger than of those that were accepted before it, by whichever leader.
    pub order: u64,
    /// Its gateway has named it to this leader, and said before what its devices have taken. False: only the leader of a slot that was taken in
    /// has, and what that had learnt ahead of its group is not known here.
    pub named: bool,
}

/// How far a device family is in a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Which family.
    pub flag: DeviceFlag,
    /// Delivered up to here, as far as this replica knows.
    pub seq: u32,
    /// What the group has agreed on of it.
    pub agreed: u32,
}

/// The user's view of one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The channel's last message.
    pub last_seq: u32,
    /// Read up to here.
    pub read_seq: u32,
    /// By device flag; a flag that is not in here has nothing.
    pub cursors: Vec<Cursor>,
    /// What the group has agreed on of `last_seq`.
    pub settled_seq: u32,
    /// Changed since it was last proposed.
    pub dirty: bool,
    /// The channel's slot waits to hear that the row is settled.
    pub owes: bool,
    /// What was told of it has gone straight to the devices; it is to be looked at again.
    pub watched: bool,
    /// Rises with every agreement on it, over all rows of the home; 0: the group does not know it. The smallest gives way at the limit.
    pub agreed: u64,
}

impl Row {
    /// One that the group has agreed on.
    #[must_use]
    pub fn agreed_on(last_seq: u32, read_seq: u32, cursors: &[(DeviceFlag, u32)]) -> Row {
        let cursors = cursors.iter().map(|(flag, seq)| Cursor { flag: *flag, seq: *seq, agreed: *seq }).collect();
        Row { last_seq, read_seq, settled_seq: last_seq, cursors, ..Row::default() }
    }

    /// Delivered up to here for a flag.
    #[must_use]
    pub fn cursor(&self, flag: DeviceFlag) -> u32 {
        self.cursors.iter().find(|cursor| cursor.flag == flag).map_or(0, |cursor| cursor.seq)
    }

    /// What is known of every flag.
    pub fn known_cursors(&self) -> impl Iterator<Item = (DeviceFlag, u32)> + '_ {
        self.cursors.iter().map(|cursor| (cursor.flag, cursor.seq))
    }

    /// What the group has agreed on of every flag that has something.
    pub fn agreed_cursors(&self) -> impl Iterator<Item = (DeviceFlag, u32)> + '_ {
        let agreed = self.cursors.iter().filter(|cursor| cursor.agreed > 0);
        agreed.map(|cursor| (cursor.flag, cursor.agreed))
    }

    fn has_agreed(&self, flag: DeviceFlag, seq: u32) -> bool {
        seq == 0 || self.cursors.iter().any(|cursor| cursor.flag == flag && cursor.agreed >= seq)
    }

    fn furthest_agreed(&self) -> u32 {
        self.cursors.iter().map(|cursor| cursor.agreed).max().unwrap_or(0)
    }

    fn cursor_mut(&mut self, flag: DeviceFlag) -> &mut Cursor {
        let place = self.cursors.iter().position(|cursor| cursor.flag == flag).unwrap_or_else(|| {
            self.cursors.push(Cursor { flag, seq: 0, agreed: 0 });
            self.cursors.len() - 1
        });
        &mut self.cursors[place]
    }

    /// Moves a flag's cursor forward; false when it was there already.
    fn advance(&mut self, flag: DeviceFlag, seq: u32) -> bool {
        let cursor = self.cursor_mut(flag);
        let newly = cursor.seq < seq;
        cursor.seq = cursor.seq.max(seq);
        newly
    }

    /// The group agrees that a flag has everything up to here.
    fn agree(&mut self, flag: DeviceFlag, seq: u32) {
        let cursor = self.cursor_mut(flag);
        cursor.agreed = cursor.agreed.max(seq);
        cursor.seq = cursor.seq.max(seq);
    }

    /// Forgets what was learnt ahead of the group.
    fn fall_back(&mut self) {
        self.dirty = false;
        self.owes = false;
        self.watched = false;
        self.last_seq = self.settled_seq;
        self.cursors.iter_mut().for_each(|cursor| cursor.seq = cursor.agreed);
    }
}

/// What a notice did to its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// The row covers it durably: tell the channel's slot at once.
    Settled,
    /// The row must be proposed; it was clean before.
    Dirtied,
    /// It is dirty or pending anyway.
    Waiting,
}

/// Whether a row will be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// From now on.
    Begun,
    /// It was to be anyway.
    UnderWay,
    /// It cannot be.
    NoRoom,
}

/// A user's record.
#[derive(Debug)]
pub struct Home {
    devices: Vec<Device>,
    /// Flags that were seen at least once.
    flags: Vec<DeviceFlag>,
    rows: SeededMap<ChannelKey, Row>,
    online: Vec<Online>,
    /// Masters that were, as far as this leader knows.
    past_masters: PastMasters,
    /// Names who is online, to those who were told; 0: nobody was, since somebody came or went.
    mark: u32,
    /// Counts agreements on rows.
    clock: u64,
    /// Rows that the group knows.
    agreed_rows: usize,
}

impl Home {
    /// An empty one.
    #[must_use]
    pub fn new(map_state: MapState) -> Home {
        Home {
            devices: Vec::new(),
            flags: Vec::new(),
            rows: SeededMap::with_hasher(map_state),
            online: Vec::new(),
            past_masters: PastMasters::default(),
            mark: 0,
            clock: 0,
            agreed_rows: 0,
        }
    }

    /// True when nothing would be lost by forgetting it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.flags.is_empty() && self.rows.is_empty() && self.online.is_empty()
    }

    /// The group has agreed on something about it. What a leader alone knows does not count.
    #[must_use]
    pub fn holds_agreed(&self) -> bool {
        !self.devices.is_empty() || !self.flags.is_empty() || self.agreed_rows > 0
    }

    /// Device rows.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Live connections, in the order they came.
    #[must_use]
    pub fn online(&self) -> &[Online] {
        &self.online
    }

    /// Flags that were seen.
    #[must_use]
    pub fn flags(&self) -> &[DeviceFlag] {
        &self.flags
    }

    /// A row.
    #[must_use]
    pub fn row(&self, channel: &ChannelKey) -> Option<&Row> {
        self.rows.get(channel)
    }

    /// Its slot is led elsewhere now. Who is online is the new leader's to know, and what was learnt ahead of the group is forgotten: it may
    /// never be agreed on, and then this replica would be another than the others for ever. What a device has, its gateway tells the new leader.
    pub fn cease_leading(&mut self) {
        self.online = Vec::new();
        self.past_masters = PastMasters::default();
        self.mark = 0;
        self.rows.retain(|_, row| {
            row.fall_back();
            row.agreed > 0
        });
    }

    /// Number of rows.
    #[must_use]
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// A connection is the user's now.
    pub fn register(&mut self, online: Online) {
        self.mark = 0;
        self.online.retain(|known| known.address != online.address);
        self.online.push(online);
    }

    /// A connection is gone; `None` when it was not there.
    pub fn unregister(&mut self, address: SessionAddress) -> Option<Online> {
        let place = self.online.iter().position(|known| known.address == address)?;
        let gone = self.online.remove(place);
        remember(&mut self.past_masters, &gone);
        self.mark = 0;
        if self.online.is_empty() {
            self.online = Vec::new();
        }
        Some(gone)
    }

    /// Forgets the connections on one gateway shard.
    pub fn forget_gateway(&mut self, place: Place) {
        let before = self.online.len();
        let past_masters = &mut self.past_masters;
        self.online.retain(|known| {
            let stays = known.address.place != place;
            if !stays {
                remember(past_masters, known);
            }
            stays
        });
        if self.online.len() < before {
            self.mark = 0;
        }
        if self.online.is_empty() {
            self.online = Vec::new();
        }
    }

    /// What becomes of a connection that is named late, because of masters that have come after it and gone again.
    #[must_use]
    pub fn outlived(&self, named: &Online) -> Conflict {
        self.past_masters.conflict(named.address, (named.flag, &named.device_id), named.order)
    }

    /// Masters that were online.
    #[must_use]
    pub fn past_masters(&self) -> &PastMasters {
        &self.past_masters
    }

    /// Masters that were online where this home was led until now.
    pub fn take_in_masters(&mut self, past: &PastMasters) {
        self.past_masters.take_in(past);
    }

    /// The name under which somebody was told who is online, if that is still so.
    #[must_use]
    pub fn mark(&self) -> Option<u32> {
        (self.mark != 0).then_some(self.mark)
    }

    /// Somebody is told who is online: under the name that it has, or under this new one.
    pub fn marked(&mut self, fresh: u32) -> u32 {
        assert!(fresh != 0, "0 is no name");
        if self.mark == 0 {
            self.mark = fresh;
        }
        self.mark
    }

    /// A row is to be looked at again before long, if there is room for one more.
    pub fn watch(&mut self, channel: &ChannelKey, room: bool) -> Watch {
        match self.rows.get_mut(channel) {
            Some(row) if row.watched => Watch::UnderWay,
            Some(row) if room => {
                row.watched = true;
                Watch::Begun
            }
            _ => Watch::NoRoom,
        }
    }

    /// It is looked at now.
    pub fn unwatch(&mut self, channel: &ChannelKey) {
        if let Some(row) = self.rows.get_mut(channel) {
            row.watched = false;
        }
    }

    /// The channel has grown to `seq`, says its slot. Returns what to do.
    pub fn notice(&mut self, channel: &ChannelKey, seq: u32) -> Noticed {
        assert!(seq > 0, "only stored messages have rows");
        // Most notices are for a row that is there: one look-up, and no copy of the name.
        let row = self.rows.raw_entry_mut().from_key(channel).or_insert_with(|| (channel.clone(), Row::default())).1;
        if row.settled_seq >= seq {
            return Noticed::Settled;
        }
        row.owes = true;
        if row.last_seq < seq {
            row.last_seq = seq;
            if !row.dirty {
                row.dirty = true;
                return Noticed::Dirtied;
            }
        }
        Noticed::Waiting
    }

    /// The row that was agreed on longest ago gives way, one of which all devices have everything before one that some of them lack: the same one on
    /// every replica, since only agreements count.
    fn drop_oldest_row(&mut self) {
        let taken =
            |row: &Row| !self.flags.is_empty() && self.flags.iter().all(|flag| row.has_agreed(*flag, row.settled_seq));
        let agreed = self.rows.iter().filter(|(_, row)| row.agreed > 0);
        let oldest = agreed.min_by_key(|(_, row)| (!taken(row), row.agreed)).map(|(channel, _)| channel.clone());
        if let Some(channel) = oldest {
            self.rows.remove(&channel);
            self.agreed_rows -= 1;
        }
    }

    /// A device has everything up to `seq`; true when its row must be proposed and was clean before. A leader that is new may hear of
    /// what a device has before it hears of the channel.
    pub fn receive(&mut self, channel: &ChannelKey, flag: DeviceFlag, seq: u32) -> bool {
        let row = self.rows.raw_entry_mut().from_key(channel).or_insert_with(|| (channel.clone(), Row::default())).1;
        // After a restart a device may be further than the row: it read the channel's log, which the row has yet to hear of.
        row.last_seq = row.last_seq.max(seq);
        let newly = row.advance(flag, seq) && !row.dirty;
        if newly {
            row.dirty = true;
        }
        newly
    }

    /// A row as it should be proposed; it is clean afterwards.
    pub fn take_dirty(&mut self, channel: &ChannelKey) -> Option<&Row> {
        let row = self.rows.get_mut(channel)?;
        if !row.dirty {
            return None;
        }
        row.dirty = false;
        Some(row)
    }

    /// The proposal with this row did not enter the log: it is to be proposed again.
    pub fn mark_dirty(&mut self, channel: &ChannelKey) {
        if let Some(row) = self.rows.get_mut(channel) {
            row.dirty = true;
        }
    }

    fn next_agreement(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The group agreed on a row. Returns how far it is settled, if the channel's slot waits to hear it, and whether another row gave
    /// way.
    pub fn apply_row(&mut self, channel: ChannelKey, agreed: &Row, rows_max: usize) -> (Option<u32>, bool) {
        let clock = self.next_agreement();
        let known = self.rows.get(&channel).is_some_and(|row| row.agreed > 0);
        let dropped = !known && self.agreed_rows >= rows_max;
        if dropped {
            self.drop_oldest_row();
        }
        self.agreed_rows += usize::from(!known);
        let row = self.rows.entry(channel).or_default();
        row.last_seq = row.last_seq.max(agreed.last_seq);
        row.read_seq = row.read_seq.max(agreed.read_seq);
        row.settled_seq = row.settled_seq.max(agreed.last_seq);
        row.agreed = clock;
        for (flag, seq) in agreed.agreed_cursors() {
            row.agree(flag, seq);
        }
        let owes = row.owes;
        row.owes &= row.settled_seq < row.last_seq;
        (owes.then_some(row.settled_seq), dropped)
    }

    /// A flag comes online whose devices fetch over HTTP what they missed: it begins at the end of every channel. Nothing changes
    /// for one that is online already. Returns the rows that must be proposed and were clean before.
    pub fn pass_over_missed(&mut self, flag: DeviceFlag) -> Vec<ChannelKey> {
        if self.online.iter().any(|online| online.flag == flag) {
            return Vec::new();
        }
        let mut newly = Vec::new();
        for (channel, row) in &mut self.rows {
            let last_seq = row.last_seq;
            if row.advance(flag, last_seq) && !row.dirty {
                row.dirty = true;
                newly.push(channel.clone());
            }
        }
        newly.sort_unstable();
        newly
    }

    /// The group has not agreed yet on how far the devices of a flag are.
    #[must_use]
    pub fn runs_ahead(&self, flag: DeviceFlag) -> bool {
        let cursors = self.rows.values().flat_map(|row| &row.cursors);
        cursors.filter(|cursor| cursor.flag == flag).any(|cursor| cursor.seq > cursor.agreed)
    }

    /// The group agreed that a flag exists: it begins where the user's furthest device is in each channel, as far as that is agreed on.
    pub fn apply_new_flag(&mut self, flag: DeviceFlag) {
        if self.flags.contains(&flag) {
            return;
        }
        self.flags.push(flag);
        for row in self.rows.values_mut() {
            let furthest = row.furthest_agreed();
            if furthest > 0 {
                row.agree(flag, furthest);
            }
        }
    }

    /// The group agreed on a device row.
    pub fn apply_token(&mut self, flag: DeviceFlag, level: DeviceLevel, token: &str) {
        self.devices.retain(|device| device.flag != flag);
        self.devices.push(Device { flag, level, token: token.into() });
        self.devices.sort_by_key(|device| device.flag);
    }

    /// The group agreed to blank tokens.
    pub fn apply_quit(&mut self, flag: Option<DeviceFlag>) {
        for device in self.devices.iter_mut().filter(|device| flag.is_none_or(|flag| flag == device.flag)) {
            device.token = "".into();
        }
    }

    /// Channels in which a flag lags, in the order of their names so that it repeats, at most `max`; and whether there
    /// are others.
    #[must_use]
    pub fn lagging(&self, flag: DeviceFlag, max: usize) -> (Vec<(ChannelKey, u32, u32)>, bool) {
        let mut rows: Vec<_> = self
            .rows
            .iter()
            .filter(|(_, row)| row.cursor(flag) < row.last_seq)
            .map(|(channel, row)| (channel.clone(), row.cursor(flag), row.last_seq))
            .collect();
        rows.sort_unstable();
        let more = rows.len() > max;
        rows.truncate(max);
        (rows, more)
    }

    /// Rows that the group knows, in the order in which they were agreed on, for a checkpoint. What the leader has learnt ahead of the group
    /// is not part of it.
    #[must_use]
    pub fn agreed_rows(&self) -> Vec<(&ChannelKey, &Row)> {
        let mut rows = Vec::with_capacity(self.agreed_rows);
        rows.extend(self.rows.iter().filter(|(_, row)| row.agreed > 0));
        rows.sort_unstable_by_key(|(_, row)| row.agreed);
        rows
    }

    /// A row out of a checkpoint, made with [`Row::agreed_on`]. To be called in the order of [`Home::agreed_rows`].
    pub fn restore_row(&mut self, channel: ChannelKey, mut row: Row) {
        row.agreed = self.next_agreement();
        self.agreed_rows += 1;
        self.rows.insert(channel, row);
    }

    /// What the group has agreed on of it, as a checkpoint would bring it back.
    #[must_use]
    pub fn agreed_copy(&self, map_state: MapState) -> Home {
        let mut copy = Home::new(map_state);
        copy.devices.clone_from(&self.devices);
        copy.flags.clone_from(&self.flags);
        for (channel, row) in self.agreed_rows() {
            let settled = row.settled_seq;
            let cursors: Vec<_> = row.agreed_cursors().map(|(flag, seq)| (flag, seq.min(settled))).collect();
            copy.restore_row(channel.clone(), Row::agreed_on(settled, row.read_seq.min(settled), &cursors));
        }
        copy
    }

    /// Asserts what must hold between steps.
    pub fn check_invariants(&self) {
        for row in self.rows.values() {
            assert!(row.settled_seq <= row.last_seq);
            assert!(row.cursors.iter().all(|cursor| cursor.seq <= row.last_seq), "a cursor is past its row");
            assert!(row.cursors.iter().all(|cursor| cursor.agreed <= cursor.seq), "what is agreed on is known");
            assert!(row.agreed <= self.clock);
        }
        assert_eq!(self.rows.values().filter(|row| row.agreed > 0).count(), self.agreed_rows);
        for (n, device) in self.devices.iter().enumerate() {
            assert!(self.devices[..n].iter().all(|other| other.flag != device.flag), "one row a device");
        }
    }
}

fn remember(past_masters: &mut PastMasters, gone: &Online) {
    if gone.level == DeviceLevel::Master {
        past_masters.remember(gone.address, (gone.flag, &gone.device_id), gone.order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::chance::Chance;
    use crate::ids::{NodeId, SessionId, ShardId, Uid};

    const APP: DeviceFlag = DeviceFlag(0);
    const WEB: DeviceFlag = DeviceFlag(1);

    fn home() -> Home {
        Home::new(Chance::new([0; 32], 0).map_state())
    }

    fn channel(peer: &str) -> ChannelKey {
        ChannelKey::pair(&Uid::parse("me").unwrap(), &Uid::parse(peer).unwrap())
    }

    #[test]
    fn a_row_is_settled_only_by_the_group() {
        let mut home = home();
        let pair = channel("bo");
        assert_eq!(home.notice(&pair, 3), Noticed::Dirtied);
        assert_eq!(home.notice(&pair, 4), Noticed::Waiting);
        let proposed = home.take_dirty(&pair).unwrap().clone();
        assert_eq!(proposed.last_seq, 4);
        assert_eq!(home.notice(&pair, 5), Noticed::Dirtied);
        assert_eq!(home.apply_row(pair.clone(), &proposed, 10), (Some(4), false));
        assert_eq!(home.notice(&pair, 4), Noticed::Settled);
        let proposed = home.take_dirty(&pair).unwrap().clone();
        assert_eq!(home.apply_row(pair.clone(), &proposed, 10), (Some(5), false));
        assert_eq!(home.notice(&pair, 5), Noticed::Settled);
        home.check_invariants();
    }

    #[test]
    fn a_second_device_family_begins_where_the_first_is() {
        let mut home = home();
        let pair = channel("bo");
        let agree = |home: &mut Home| {
            let known = home.take_dirty(&pair).unwrap();
            let known = Row::agreed_on(known.last_seq, 0, &known.known_cursors().collect::<Vec<_>>());
            home.apply_row(pair.clone(), &known, 9);
        };
        home.notice(&pair, 9);
        agree(&mut home);
        home.apply_new_flag(APP);
        assert_eq!(home.lagging(APP, 5).0, vec![(pair.clone(), 0, 9)], "a first device gets everything");
        home.receive(&pair, APP, 7);
        agree(&mut home);
        home.receive(&pair, APP, 8);
        home.apply_new_flag(WEB);
        assert_eq!(home.lagging(WEB, 5).0, vec![(pair.clone(), 7, 9)], "what only the leader knows does not count");
        home.receive(&pair, APP, 100);
        let row = home.row(&pair).unwrap();
        assert_eq!((row.cursor(APP), row.last_seq), (100, 100), "a device that is further than the row raises it");
        home.check_invariants();
    }

    #[test]
    fn what_was_learnt_ahead_of_the_group_ends_with_leading() {
        let (mut ahead, mut behind) = (home(), home());
        let pair = channel("bo");
        for one in [&mut ahead, &mut behind] {
            one.apply_row(pair.clone(), &Row::agreed_on(4, 0, &[(APP, 3)]), 9);
        }
        ahead.notice(&pair, 6);
        ahead.receive(&pair, APP, 5);
        ahead.receive(&pair, WEB, 2);
        ahead.notice(&channel("cy"), 1);
        assert_eq!(ahead.row(&pair).unwrap().cursor(APP), 5);
        ahead.check_invariants();
        ahead.cease_leading();
        ahead.check_invariants();
        let rows = |home: &Home| -> Vec<_> {
            let rows = home.agreed_rows().into_iter();
            rows.map(|(key, row)| (key.clone(), row.last_seq, row.agreed_cursors().collect::<Vec<_>>())).collect()
        };
        assert_eq!((rows(&ahead), ahead.row_count()), (rows(&behind), 1));
        assert_eq!(ahead.row(&pair).unwrap().cursor(APP), 3);
    }

    #[test]
    fn the_row_agreed_on_longest_ago_gives_way() {
        let mut home = home();
        let agreed = |last_seq| Row::agreed_on(last_seq, 0, &[]);
        home.apply_row(channel("a"), &agreed(1), 2);
        home.apply_row(channel("b"), &agreed(1), 2);
        home.apply_row(channel("a"), &agreed(2), 2);
        home.notice(&channel("ahead"), 1);
        assert!(home.apply_row(channel("c"), &agreed(1), 2).1);
        assert!(home.row(&channel("b")).is_none() && home.row(&channel("a")).is_some());
        assert!(home.row(&channel("ahead")).is_some(), "what the group does not know yet is not its to drop");
        assert_eq!(home.agreed_rows().len(), 2);
        home.check_invariants();
    }

    #[test]
    fn a_master_is_remembered_by_whoever_led_when_it_went() {
        let place = |node| Place { node: NodeId(node), shard: ShardId(0) };
        let online = |node, level, device_id: &str, order| {
            let address = SessionAddress { place: place(node), session: SessionId { index: 0, generation: 1 } };
            Online { address, flag: APP, level, device_id: device_id.into(), order, named: true }
        };
        let mut home = home();
        let late = online(9, DeviceLevel::Slave, "late", 1);
        home.register(online(1, DeviceLevel::Slave, "slave", 2));
        home.forget_gateway(place(1));
        assert_eq!(home.outlived(&late), Conflict::None, "a slave ends nobody else");
        for forgotten in [false, true] {
            let master = online(2, DeviceLevel::Master, "master", 3);
            home.register(master.clone());
            if forgotten {
                home.forget_gateway(place(2));
            } else {
                home.unregister(master.address);
            }
            assert_eq!(home.outlived(&late), Conflict::Kicked);
            let mut heir = super::tests::home();
            heir.take_in_masters(home.past_masters());
            assert_eq!(heir.outlived(&late), Conflict::Kicked, "a slot that takes the other in is led on");
            home.cease_leading();
            assert_eq!(home.outlived(&late), Conflict::None);
        }
    }
}
