//! The shard's side of HTTP requests, and of reading ranges back for them and for sessions that lag.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::engine::effect::{Effect, Effects};
use crate::engine::event::{ApiAnswer, ApiRequest, DiskFault};
use crate::engine::reads::{Progress, Purpose, RangeRead};
use crate::engine::slot::{self, RepeatCheck};
use crate::format::frame::{Answered, Ask, Fetch, Frame, Origin, Submit};
use crate::format::packet::HeaderFlags;
use crate::ids::{ChannelKey, DeviceLevel, Place, SlotId, Uid};
use crate::time::{Instant, Now};

use super::Shard;

impl Shard {
    pub(super) fn handle_api(&mut self, now: Now, ticket: u64, request: ApiRequest, effects: &mut Effects) {
        match &request {
            ApiRequest::Route { uids } => {
                effects.push(Effect::Answer { ticket, answer: ApiAnswer::Routes(self.routes_of(uids)) });
                return;
            }
            ApiRequest::Cluster(asked) if self.cluster.is_none() || self.answers_here(asked) => {
                effects.push(Effect::Answer { ticket, answer: self.status_here(now, asked) });
                return;
            }
            _ => {}
        }
        if self.api_open >= self.config.limits.api_requests_max || self.stopping || self.cluster.is_none() {
            effects.push(Effect::Answer { ticket, answer: ApiAnswer::Busy });
            return;
        }
        self.api_open += 1;
        self.out.counters.api_requests += 1;
        match request {
            ApiRequest::Send { from, to, flags, setting, expire_s, body } => {
                let command = flags.contains(HeaderFlags::SYNC_ONCE);
                let channel = if command { ChannelKey::command(&to) } else { ChannelKey::pair(&from, &to) };
                let slot = self.routes.slot(channel.key_hash());
                let submit = Submit {
                    place: self.config.place,
                    ticket: 0,
                    fingerprint: 0,
                    channel,
                    from,
                    to,
                    device_tag: 0,
                    flags,
                    setting,
                    expire_s,
                    body,
                };
                self.submit(now, Origin::Api { ticket }, slot, submit);
            }
            request => {
                let parts = self.parts_of(request);
                if parts.is_empty() {
                    self.out.answer(ticket, ApiAnswer::Online(Vec::new()));
                    return;
                }
                for number in self.asks.begin(now.instant, ticket, parts) {
                    self.send_ask(number);
                }
            }
        }
    }

    /// A request by the slots that can answer it.
    pub(super) fn parts_of(&self, request: ApiRequest) -> Vec<(SlotId, ApiRequest)> {
        match request {
            ApiRequest::OnlineStatus { uids } => {
                let mut by_slot: BTreeMap<SlotId, Vec<Uid>> = BTreeMap::new();
                for uid in uids {
                    by_slot.entry(self.routes.slot(uid.key_hash())).or_default().push(uid);
                }
                by_slot.into_iter().map(|(slot, uids)| (slot, ApiRequest::OnlineStatus { uids })).collect()
            }
            ApiRequest::SetToken { ref uid, .. } | ApiRequest::QuitDevice { ref uid, .. } => {
                vec![(self.routes.slot(uid.key_hash()), request)]
            }
            ApiRequest::MessageSync { ref login, ref peer, .. } => {
                vec![(self.routes.slot(ChannelKey::pair(login, peer).key_hash()), request)]
            }
            ApiRequest::Cluster(_) => vec![(SlotId::METADATA, request)],
            ApiRequest::Send { .. } | ApiRequest::Route { .. } => Vec::new(),
        }
    }

    /// Sends a part of a request to whoever leads its slot; it stays where it is when nobody is known to.
    pub(super) fn send_ask(&mut self, number: u64) {
        let slot = self.asks.slot_of(number);
        let leader = slot.and_then(|slot| self.leader_of(slot));
        let term = slot.map_or(0, |slot| self.term_of(slot));
        if let Some(place) = leader
            && let Some(ask) = self.asks.send(number, self.config.place, term)
        {
            self.out.frame(place, Frame::Ask(Box::new(ask)));
        }
    }

    /// Who is known to lead a slot, the metadata group among them.
    pub(super) fn leader_of(&self, slot: SlotId) -> Option<Place> {
        match slot {
            SlotId::METADATA => self.metadata_leader.1,
            slot => self.routes.leader(slot).map(|(_, place)| place),
        }
    }

    /// The latest term of which is known that somebody leads a slot in it.
    pub(super) fn term_of(&self, slot: SlotId) -> u64 {
        if slot == SlotId::METADATA { self.metadata_leader.0 } else { self.routes.term(slot) }
    }

    pub(super) fn handle_answered(&mut self, answered: Answered) {
        if let Some((ticket, answer)) = self.asks.answer(answered.ticket, answered.answer) {
            self.out.answer(ticket, answer);
        }
    }

    /// Carries a request out when its slot is led here, else sends it back.
    pub(super) fn handle_ask(&mut self, now: Now, ask: Ask, effects: &mut Effects) {
        let Ask { place: asker, ticket, slot, term, request } = ask;
        if let ApiRequest::Cluster(asked) = &request {
            self.handle_operator(now, (asker, ticket), term, asked);
            return;
        }
        let in_term = |place: &usize| self.hosted[*place].slot.led_term() == Some(term);
        let Some(place) = self.leading(slot).filter(in_term) else {
            self.out.frame(asker, Frame::Answered(Box::new(Answered { ticket, answer: None })));
            self.tell_leader(slot, asker);
            return;
        };
        if !self.owns_request(place, &request) {
            // It has split: the asker will hear of it.
            self.out.frame(asker, Frame::Answered(Box::new(Answered { ticket, answer: None })));
            return;
        }
        let limits = self.config.limits;
        let writes = matches!(request, ApiRequest::SetToken { .. } | ApiRequest::QuitDevice { .. });
        if writes && !self.journal.writable() {
            self.answer_ask(asker, ticket, ApiAnswer::Busy);
            return;
        }
        match request {
            ApiRequest::SetToken { uid, flag, level, token } => {
                self.with_slot(place, now, |slot, _, _| {
                    slot.propose_token((asker, ticket), (&uid, flag, level, &token), &limits);
                });
                if level == DeviceLevel::Master {
                    self.end_devices(place, &uid, Some(flag), "account is logged in on other devices");
                }
            }
            ApiRequest::QuitDevice { .. } if !self.hosted[place].rollcall.is_complete(now.instant) => {
                // Nor does it know yet who would have to go.
                self.out.frame(asker, Frame::Answered(Box::new(Answered { ticket, answer: None })));
            }
            ApiRequest::QuitDevice { uid, flag } => {
                self.with_slot(place, now, |slot, _, _| slot.propose_quit((asker, ticket), &uid, flag, &limits));
            }
            ApiRequest::OnlineStatus { .. } if !self.hosted[place].rollcall.is_complete(now.instant) => {
                // It does not know yet: to be asked again soon.
                self.out.frame(asker, Frame::Answered(Box::new(Answered { ticket, answer: None })));
            }
            ApiRequest::OnlineStatus { uids } => {
                let online = uids.iter().flat_map(|uid| self.online_of(uid)).collect();
                self.answer_ask(asker, ticket, ApiAnswer::Online(online));
            }
            ApiRequest::MessageSync { login, peer, start_seq, end_seq, limit, newer } => {
                let channel = ChannelKey::pair(&login, &peer);
                let page = (start_seq, end_seq, limit, newer);
                self.handle_message_sync((asker, ticket), &channel, page, effects);
            }
            ApiRequest::Send { .. } | ApiRequest::Route { .. } | ApiRequest::Cluster(_) => {
                let text = "this is not asked of a slot's leader: the asking node is at fault";
                let reason = crate::format::packet::Reason::SystemError as u8;
                self.answer_ask(asker, ticket, ApiAnswer::Refused { reason, text: text.into() });
            }
        }
    }

    pub(super) fn answer_ask(&mut self, asker: Place, ticket: u64, answer: ApiAnswer) {
        let mut frame = Frame::Answered(Box::new(Answered { ticket, answer: Some(answer) }));
        if !self.takes_bytes(asker, frame.weight()) {
            frame = Frame::Answered(Box::new(Answered { ticket, answer: Some(ApiAnswer::Busy) }));
        }
        self.out.frame(asker, frame);
    }

    fn online_of(&self, uid: &Uid) -> Vec<(Uid, crate::ids::DeviceFlag)> {
        let home = self.leading_of(uid.key_hash()).and_then(|place| self.hosted[place].slot.home(uid));
        home.map_or(Vec::new(), |home| home.online().iter().map(|online| (uid.clone(), online.flag)).collect())
    }

    /// History paging (`wkapi.md`, section 3.6).
    fn handle_message_sync(
        &mut self,
        (asker, ticket): (Place, u64),
        channel: &ChannelKey,
        (start_seq, end_seq, limit, newer): (u32, u32, u32, bool),
        effects: &mut Effects,
    ) {
        let Some(place) = self.leading_of(channel.key_hash()) else {
            self.answer_ask(asker, ticket, ApiAnswer::Busy);
            return;
        };
        let slot = self.hosted[place].slot.id();
        let found = self.hosted[place].slot.channel_index(channel);
        let entry = found.map(|index| (index, &self.hosted[place].slot.channels()[index as usize].channel));
        let range = entry.and_then(|(index, channel)| {
            let bounds = (channel.first_seq(), channel.last_seq());
            page(bounds, start_seq, end_seq, limit, newer).map(|range| (index, range))
        });
        let Some((index, (next, until, more))) = range else {
            self.answer_ask(asker, ticket, ApiAnswer::Messages { messages: Vec::new(), more: false });
            return;
        };
        let newest = !newer || (start_seq, end_seq) == (0, 0);
        let purpose = Purpose::Api { asker, ticket, more, newest };
        let range = RangeRead::new((slot, index), next..=until, purpose);
        self.advance_range(range, effects);
    }

    pub(super) fn read_for_fetch(&mut self, place: usize, channel: u32, fetch: Fetch, effects: &mut Effects) {
        let wanted = fetch.messages_max.clamp(1, self.config.limits.fetch_messages_max);
        let range = RangeRead::new(
            (self.hosted[place].slot.id(), channel),
            fetch.from_seq..=fetch.from_seq.saturating_add(wanted - 1),
            Purpose::Fetch(fetch),
        );
        self.advance_range(range, effects);
    }

    pub(super) fn queue_repeat_check(&mut self, slot: SlotId, check: RepeatCheck) {
        let range = RangeRead::new((slot, check.channel), check.seq..=check.seq, Purpose::Repeat(Box::new(check)));
        self.reads.queue(range);
    }

    pub(super) fn start_queued_reads(&mut self, effects: &mut Effects) {
        for _ in 0..self.config.limits.reads_max {
            let Some(range) = self.reads.take_queued(&self.config.limits) else {
                break;
            };
            self.advance_range(range, effects);
        }
    }

    pub(super) fn advance_range(&mut self, range: RangeRead, effects: &mut Effects) {
        let Some(place) = self.place_of(range.slot) else {
            return;
        };
        let channel = &self.hosted[place].slot.channels()[range.channel as usize].channel;
        let before = range.messages.len();
        let written_end = self.journal.written_end();
        match self.reads.advance(range, channel, written_end, &self.config.limits, effects) {
            Progress::Done(range) => {
                self.out.counters.fetches_recent += u64::from(before == 0);
                self.finish_range(place, range);
            }
            Progress::Waiting => {}
        }
    }

    pub(super) fn handle_read_done(&mut self, ticket: u64, result: &Result<Bytes, DiskFault>, effects: &mut Effects) {
        let Some((slot, channel)) = self.reads.channel_of(ticket) else {
            return;
        };
        let Some(place) = self.place_of(slot) else {
            return;
        };
        let entry = &self.hosted[place].slot.channels()[channel as usize];
        let Some(range) = self.reads.handle_done(ticket, result, &entry.key, &entry.channel) else {
            return;
        };
        self.out.counters.fetches_disk += 1;
        if range.one_trip {
            self.finish_range(place, range);
        } else {
            self.advance_range(range, effects);
        }
    }

    fn finish_range(&mut self, place: usize, range: RangeRead) {
        let Some(mut range) = self.repair_first(place, range) else {
            return;
        };
        if !matches!(range.purpose, Purpose::Repair { .. }) {
            self.out.counters.messages_damaged += range.damaged.len() as u64;
        }
        let entry = &self.hosted[place].slot.channels()[range.channel as usize];
        let last_seq = entry.channel.last_seq();
        let cut = match range.purpose {
            Purpose::Api { newest, .. } => range.cut(self.config.limits.answer_bytes_max, newest),
            _ => false,
        };
        match range.purpose {
            // The session asks again; by then they may have answered, or another leads.
            Purpose::Fetch(_) if !range.damaged.is_empty() && (range.unsure || !self.hosted[place].slot.leads()) => {}
            Purpose::Fetch(fetch) => self.answer_fetch(&fetch, range.messages, range.next, last_seq),
            Purpose::Api { asker, ticket, .. } if !range.damaged.is_empty() && range.unsure => {
                self.answer_ask(asker, ticket, ApiAnswer::Busy);
            }
            Purpose::Api { asker, ticket, more, .. } => {
                let more = cut || more;
                self.answer_ask(asker, ticket, ApiAnswer::Messages { messages: range.messages, more });
            }
            // Whether it is the same payload nobody can say now.
            Purpose::Repeat(check) if !range.damaged.is_empty() && (range.unsure || range.gave_up) => {
                slot::refuse(check.asker, crate::format::packet::Reason::SystemError, &mut self.out);
            }
            Purpose::Repeat(check) => {
                let first = range.messages.first().map(|(_, message)| message);
                slot::answer_checked_repeat(&check, first, &mut self.out);
            }
            Purpose::Transfer(transfer) => {
                self.transfers.outgoing.handle_read(transfer, &range.messages, range.next, &self.config.limits);
            }
            Purpose::Repair { seqs, .. } if range.gave_up && seqs.iter().any(|seq| range.damaged.contains(seq)) => {
                self.repairs.end_answer();
            }
            Purpose::Repair { asker, seqs } => {
                let key = entry.key.clone();
                self.finish_repair((asker, &seqs), key, range.messages);
            }
        }
    }

    /// The node is to stop. What is led here is handed over at once; sessions are served until that is done, so that whoever leaves
    /// finds leaders at the node to which it goes ([`Shard::leave_groups`]).
    pub(super) fn handle_stop(&mut self) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.chase_at = Instant(0);
        self.hurry_office();
    }
}

/// The positions a page covers, and whether there are others in its direction; `None` when it is empty.
///
/// * start = end = 0: the newest `limit`, whatever the direction;
/// * older: `end < seq <= start`, the newest `limit` of them;
/// * newer: `start <= seq < end` (end 0: no bound), the oldest `limit` of them.
fn page((first, last): (u32, u32), start_seq: u32, end_seq: u32, limit: u32, newer: bool) -> Option<(u32, u32, bool)> {
    if last == 0 || limit == 0 || first > last {
        return None;
    }
    let (from, to, keep_newest) = match (start_seq, end_seq, newer) {
        (0, 0, _) => (first, last, true),
        (start, end, false) => (first.max(end.saturating_add(1)), last.min(start), true),
        (start, 0, true) => (first.max(start), last, false),
        (start, end, true) => (first.max(start), last.min(end.saturating_sub(1)), false),
    };
    if from > to {
        return None;
    }
    let more = to - from >= limit;
    match (more, keep_newest) {
        (false, _) => Some((from, to, false)),
        (true, true) => Some((to - limit + 1, to, true)),
        (true, false) => Some((from, from + limit - 1, true)),
    }
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn pages_follow_the_sheet() {
        let all = (1, 10);
        assert_eq!(page(all, 0, 0, 3, false), Some((8, 10, true)));
        assert_eq!(page(all, 0, 0, 3, true), Some((8, 10, true)));
        assert_eq!(page(all, 7, 0, 3, false), Some((5, 7, true)), "older, from 7 on downwards");
        assert_eq!(page(all, 7, 5, 3, false), Some((6, 7, false)), "the end is left out");
        assert_eq!(page(all, 5, 7, 3, false), None);
        assert_eq!(page(all, 0, 7, 3, false), None);
        assert_eq!(page(all, 4, 0, 3, true), Some((4, 6, true)));
        assert_eq!(page(all, 4, 6, 3, true), Some((4, 5, false)));
        assert_eq!(page(all, 11, 0, 3, true), None);
        assert_eq!(page((5, 10), 6, 0, 9, false), Some((5, 6, false)), "what retention took is gone");
        assert_eq!(page((1, 0), 0, 0, 9, false), None);
    }
}
