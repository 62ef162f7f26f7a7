//! What a slot tells the homes of its channels' members, again until they have confirmed it, and what homes here make of being told.

use super::straight::{Announcement, send_straight};
use super::*;
use crate::format::frame::Pusher;

impl Slot {
    /// Tells every member's home how long the channel is, unless too many wait already: then the retry does.
    pub(super) fn announce(&mut self, index: u32, message: Option<StoredMessage>, around: &mut Surroundings<'_>) {
        let waiting = self.unannounced.len();
        let entry = &mut self.channels[index as usize];
        let newly = !entry.listed;
        if newly {
            entry.listed = true;
            self.unannounced.push(index);
        }
        if newly && waiting >= around.limits.announce_window {
            return;
        }
        let often = around.now.instant.since(entry.noticed_at) < around.limits.talk_often_within;
        entry.noticed_at = around.now.instant;
        let seq = entry.channel.last_seq();
        for member in 0..entry.member_count() {
            if entry.confirmed[member] >= seq {
                continue;
            }
            let to = around.routes.guess(around.routes.slot(entry.hashes[member]));
            let pusher = match &message {
                Some(message) if to.node != around.out.here.node => {
                    let (channel, member) = (&entry.key, Member { channel: index, place: member as u8 });
                    let what = Announcement { channel, member, home: to, seq, message, often };
                    send_straight(&mut self.route_cache, &mut self.notices, &what, around)
                }
                _ => Some(Pusher::Home),
            };
            if let Some(pusher) = pusher {
                let (uid, channel, message) = (entry.members[member].clone(), entry.key.clone(), message.clone());
                around.out.frame(to, Frame::Notify(Notify { uid, channel, seq, message, pusher }));
            }
        }
    }

    /// A home covers a channel of this slot.
    pub fn handle_notified(&mut self, notified: &Notified) {
        let Some(index) = self.channels_by_key.get(&notified.channel) else {
            return;
        };
        let entry = &mut self.channels[*index as usize];
        let seq = notified.seq.min(entry.channel.last_seq());
        for member in 0..2 {
            if entry.members[member] == notified.uid {
                entry.confirmed[member] = entry.confirmed[member].max(seq);
            }
        }
        let all = entry.confirmed[0].min(entry.confirmed[1]);
        entry.channel.announced(all);
    }

    /// The slot leads now: channels that may have been cut short in announcing are announced again.
    pub(super) fn begin_leading(&mut self) {
        if self.is_frozen() {
            return;
        }
        self.begin_marks();
        for (index, entry) in self.channels.iter_mut().enumerate() {
            entry.confirmed = [entry.channel.announced_seq(); 2];
            entry.noticed_at = Instant(0);
            if entry.channel.announced_seq() < entry.channel.last_seq() && !entry.listed {
                entry.listed = true;
                self.unannounced.push(index as u32);
            }
        }
    }

    /// Announces again what was not confirmed in time.
    pub fn retry_announcements(&mut self, around: &mut Surroundings<'_>) {
        if self.led_term.is_none() {
            return;
        }
        let mut sent = 0;
        for index in std::mem::take(&mut self.unannounced) {
            let entry = &mut self.channels[index as usize];
            if entry.channel.announced_seq() >= entry.channel.last_seq() {
                entry.listed = false;
                continue;
            }
            self.unannounced.push(index);
            let late = around.now.instant.since(entry.noticed_at) >= around.limits.announce_retry_after;
            let never = entry.noticed_at == Instant(0);
            if (late || never) && sent < around.limits.announce_window {
                sent += 1;
                self.announce(index, None, around);
            }
        }
    }

    /// Homes of these slots have new leaders: what they have not confirmed is said to them at once.
    pub fn announce_to_slots(&mut self, slots: &BTreeSet<SlotId>, around: &mut Surroundings<'_>) {
        if self.led_term.is_none() {
            return;
        }
        let concerned = |entry: &ChannelEntry| {
            let last = entry.channel.last_seq();
            (0..entry.member_count()).any(|member| {
                entry.confirmed[member] < last && slots.contains(&around.routes.slot(entry.hashes[member]))
            })
        };
        let channels = self.unannounced.iter().copied().filter(|index| concerned(&self.channels[*index as usize]));
        let some: Vec<u32> = channels.take(around.limits.announce_window).collect();
        for index in some {
            self.announce(index, None, around);
        }
    }

    /// Forgets the connections on one gateway shard. Those that wait to be let in there ask again when it names the others, if it is still the same
    /// process: of one that is gone nobody would ever say that they have ended.
    pub fn forget_gateway(&mut self, gateway: Place) {
        self.cancel_registers(|register| register.address.place == gateway);
        self.homes.change_all(|home| home.forget_gateway(gateway));
    }

    /// A node is said to be down: if its replica leads, this one stands for election soon.
    pub fn hurry(&mut self, node: NodeId) {
        self.group.hurry(node);
    }

    /// A channel of another slot has grown, or passes a message on; a home here is told. Answers at
    /// once where the row covers it already.
    pub fn handle_notify(&mut self, notify: &Notify, around: &mut Surroundings<'_>) {
        if notify.seq == 0 {
            return;
        }
        match self.home_or_new(&notify.uid).notice(&notify.channel, notify.seq) {
            Noticed::Dirtied => self.row_dirtied(&notify.uid, &notify.channel, around.now.instant, around.limits),
            Noticed::Settled => {
                let notified = Notified { uid: notify.uid.clone(), channel: notify.channel.clone(), seq: notify.seq };
                tell_settled(notified, around);
            }
            Noticed::Waiting => {}
        }
    }
}
