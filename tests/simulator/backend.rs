//! Backends: what an app's servers ask over HTTP, straight at the shard that holds the key, as the node's HTTP threads do. They
//! store tokens before devices connect, send messages, ask who is online, read history, and end connections.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jindou::engine::event::{ApiAnswer, ApiRequest, Event};
use jindou::engine::shard::shard_of;
use jindou::format::cluster_status::ClusterRequest;
use jindou::format::frame::SendBody;
use jindou::format::message::StoredMessage;
use jindou::format::packet::{HeaderFlags, Setting};
use jindou::ids::{ChannelKey, DeviceFlag, DeviceLevel, Uid};

use crate::checkers::{Promise, Violation, intact};
use crate::ledger::{self, Accepted, Family, Kind, LogKey, Number, Sent, pair_log};
use crate::world::{Action, HostRef, World};

/// Messages asked for in one page of history.
const PAGE_MESSAGES: u32 = 20;

/// How long one of the last questions may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// Why something was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A family's token.
    Token(Family),
    /// A family's end.
    Quit(Family),
    /// A message.
    Message(Number),
    /// A page of a log.
    History(LogKey),
    /// Only that it is answered.
    Idle,
    /// An operator's wish. It may be refused.
    Wish,
    /// That this user, whose connection stands all the time, is not said to be away.
    StaysOnline(usize),
    /// A script or the last checks wait for it.
    Awaited,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    host: HostRef,
    purpose: Purpose,
    /// When it was asked.
    pub since_ns: u64,
}

/// All backends together.
#[derive(Default)]
pub struct Backend {
    calls: BTreeMap<u64, Call>,
    next_ticket: u64,
    masters: BTreeSet<(String, u8)>,
    awaited: Option<ApiAnswer>,
    /// Answers by kind: done, refused or busy.
    pub answers: (u64, u64),
    /// How often users whose connections stand were said to be online or not.
    pub said_online: u64,
}

impl Backend {
    /// Devices of this family are masters.
    pub fn make_master(&mut self, uid: &str, flag: u8) {
        self.masters.insert((uid.to_owned(), flag));
    }

    /// Whether they are.
    pub fn is_master(&self, uid: &str, flag: u8) -> bool {
        self.masters.contains(&(uid.to_owned(), flag))
    }

    /// Requests under way.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.values()
    }

    fn knows(&self, purpose: Purpose) -> bool {
        self.calls.values().any(|call| call.purpose == purpose)
    }
}

fn uid(text: &str) -> Uid {
    Uid::parse(text).expect("the simulator's names are good")
}

impl World {
    /// The shard that holds a user's key.
    fn home_of(&self, user: &str) -> HostRef {
        let shard = shard_of(&uid(user), self.plan.slot_depth, self.plan.shards);
        HostRef { node: 0, shard: usize::from(shard.0) }
    }

    /// The index of the shard that holds a user's home.
    pub fn home_shard(&self, user: usize) -> usize {
        self.home_of(&self.uids[user]).shard
    }

    /// The index of the shard that holds the log of two users.
    pub fn log_shard(&self, a: usize, b: usize) -> usize {
        self.home_of_pair(a, b).shard
    }

    fn home_of_pair(&self, a: usize, b: usize) -> HostRef {
        let key = ChannelKey::pair(&uid(&self.uids[a]), &uid(&self.uids[b]));
        self.home_of(key.members().0)
    }

    /// Whom a backend asks: the shard that holds the key, or, as backends do that know no keys, the next one that is there.
    fn desk(&self, home: HostRef) -> HostRef {
        if self.asks_homes() {
            return home;
        }
        let there: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].up).collect();
        let turn = self.backend.next_ticket as usize;
        let node = if there.is_empty() { 0 } else { there[turn % there.len()] };
        HostRef { node, shard: turn / there.len().max(1) % usize::from(self.plan.shards) }
    }

    fn asks_homes(&self) -> bool {
        self.plan.nodes == 1 && self.plan.seed.is_multiple_of(2)
    }

    /// Asks something; false when the node is not there.
    fn ask(&mut self, home: HostRef, purpose: Purpose, request: ApiRequest) -> bool {
        self.ask_at(self.desk(home), purpose, request)
    }

    fn ask_at(&mut self, host: HostRef, purpose: Purpose, request: ApiRequest) -> bool {
        let node = &self.nodes[host.node];
        if !node.up || node.stopping {
            return false;
        }
        self.backend.next_ticket += 1;
        let ticket = self.backend.next_ticket;
        self.backend.calls.insert(ticket, Call { host, purpose, since_ns: self.now_ns });
        self.say(|| format!("{host} is asked {ticket}: {request:?}"));
        self.happen(host, Event::Api { ticket, request });
        true
    }

    /// Backends act: tokens that are needed, and now and then something else.
    pub fn backend_tick(&mut self) {
        let every = self.plan.workload.api_every;
        let span = if every.is_zero() || self.healed { Duration::from_millis(100) } else { every };
        self.after(span, Action::BackendTick);
        if self.plan.token_auth {
            self.store_tokens();
        }
        if every.is_zero() || self.healed || self.uids.len() < 2 {
            return;
        }
        let user = self.chances.workload.below(self.uids.len() as u64) as usize;
        let peer = (user + 1) % self.uids.len();
        match self.chances.workload.below(10) {
            0..=2 => {
                let home = self.home_of(&self.uids[user]);
                let uids = vec![uid(&self.uids[user])];
                self.ask(home, Purpose::Idle, ApiRequest::OnlineStatus { uids });
            }
            3..=5 => {
                let kind = *self.chances.workload.pick(&[Kind::Stored, Kind::Stored, Kind::Transient, Kind::Command]);
                self.api_send(user, peer, kind);
            }
            6..=8 => {
                let from = self.chances.workload.between(1, 40) as u32;
                self.ask_history(user, peer, from, Purpose::History(pair_log(user, peer)));
            }
            _ if self.plan.token_auth && self.chances.workload.one_in(4) => {
                let flag = self.chances.workload.below(2) as u8;
                self.quit(Family { user, flag });
            }
            _ => {}
        }
    }

    fn store_tokens(&mut self) {
        let wanting: BTreeSet<Family> =
            self.devices.iter().filter(|device| device.token.is_none()).map(|device| device.family()).collect();
        for family in wanting {
            if !self.backend.knows(Purpose::Token(family)) && !self.backend.knows(Purpose::Quit(family)) {
                self.store_token(family);
            }
        }
    }

    /// Stores a family's token, with the level that it is to have.
    pub fn store_token(&mut self, family: Family) {
        let name = self.uids[family.user].clone();
        let master = self.backend.is_master(&name, family.flag);
        let request = ApiRequest::SetToken {
            uid: uid(&name),
            flag: DeviceFlag(family.flag),
            level: if master { DeviceLevel::Master } else { DeviceLevel::Slave },
            token: token_of(family).into(),
        };
        let home = self.home_of(&name);
        self.ask(home, Purpose::Token(family), request);
    }

    fn quit(&mut self, family: Family) {
        // From now on the token is void, whether or not the answer comes.
        for device in &mut self.devices {
            if device.family() == family {
                device.token = None;
            }
        }
        let home = self.desk(self.home_of(&self.uids[family.user]));
        self.quit_at(home, family);
    }

    /// Asks whoever is there, as an operator does.
    pub fn ask_as_operator(&mut self, request: ClusterRequest) {
        let host = self.desk(HostRef { node: 0, shard: 0 });
        self.ask_at(host, Purpose::Wish, ApiRequest::Cluster(request));
    }

    /// A family's devices are to go: asked of a shard.
    pub fn quit_at(&mut self, host: HostRef, family: Family) {
        let request = ApiRequest::QuitDevice { uid: uid(&self.uids[family.user]), flag: Some(DeviceFlag(family.flag)) };
        self.ask_at(host, Purpose::Quit(family), request);
    }

    /// A device was refused: its token has to be stored again.
    pub fn backend_token_void(&mut self, device: usize) {
        if self.plan.token_auth {
            self.devices[device].token = None;
        }
    }

    /// Sends a message over HTTP.
    pub fn api_send(&mut self, from: usize, to: usize, kind: Kind) -> Option<Number> {
        let number = self.ledger.next_number();
        let payload_bytes = self.chances.workload.between(30, 200) as usize;
        let payload = ledger::payload(number, payload_bytes, false);
        let (home, flags) = match kind {
            Kind::Command => (self.home_of(&self.uids[to]), HeaderFlags::SYNC_ONCE),
            Kind::Transient => (self.home_of_pair(from, to), HeaderFlags::NO_PERSIST),
            Kind::Stored => (self.home_of_pair(from, to), HeaderFlags::RED_DOT),
        };
        let request = ApiRequest::Send {
            from: uid(&self.uids[from]),
            to: uid(&self.uids[to]),
            flags,
            setting: Setting(0),
            expire_s: 0,
            body: SendBody::new(&ledger::number_text(number), "", &payload),
        };
        let sent = Sent {
            from,
            to,
            kind,
            payload_bytes,
            device: None,
            accepted: None,
            wanted_by: BTreeSet::new(),
            seen_by: BTreeSet::new(),
            abandoned_by: BTreeSet::new(),
        };
        if !self.ask(home, Purpose::Message(number), request) {
            return None;
        }
        self.ledger.note_sent(number, sent, None);
        Some(number)
    }

    fn ask_history(&mut self, a: usize, b: usize, from: u32, purpose: Purpose) -> bool {
        let request = ApiRequest::MessageSync {
            login: uid(&self.uids[a]),
            peer: uid(&self.uids[b]),
            start_seq: from,
            end_seq: 0,
            limit: PAGE_MESSAGES,
            newer: true,
        };
        let home = self.home_of_pair(a, b);
        self.ask(home, purpose, request)
    }

    /// A shard answers.
    pub fn api_answered(&mut self, host: HostRef, ticket: u64, answer: ApiAnswer) {
        self.say(|| format!("{host} answers {ticket}: {answer:?}"));
        let Some(call) = self.backend.calls.remove(&ticket) else {
            let text = format!("shard {} answers {ticket}, which nobody asks", host.shard);
            return self.judge(Promise::Endings, Err(text));
        };
        let refused = matches!(answer, ApiAnswer::Busy | ApiAnswer::Refused { .. });
        self.backend.answers.0 += u64::from(!refused);
        self.backend.answers.1 += u64::from(refused);
        match (call.purpose, answer) {
            (Purpose::Token(family), ApiAnswer::Done) => {
                for device in &mut self.devices {
                    if device.family() == family {
                        device.token = Some(token_of(family));
                    }
                }
            }
            (Purpose::Message(number), ApiAnswer::Sent { message_id, message_seq }) => {
                self.api_accepted(number, message_id, message_seq);
            }
            (Purpose::History(log), ApiAnswer::Messages { messages, .. }) => {
                let _ = self.judge_page(log, &messages);
            }
            (Purpose::Wish, ApiAnswer::Done) => self.coverage.add("seen wishes agreed on", 1),
            (Purpose::Wish, ApiAnswer::Refused { .. }) => self.coverage.add("seen wishes refused", 1),
            (Purpose::Awaited, answer) => self.backend.awaited = Some(answer),
            (Purpose::StaysOnline(user), ApiAnswer::Online(entries)) => {
                self.backend.said_online += 1;
                if entries.is_empty() {
                    let text = format!("{host} says that nobody of user {user} is online, whose connection stands");
                    self.judge(Promise::Presence, Err(text));
                }
            }
            _ => {}
        }
    }

    /// Asks a node whether a user is online whose connections are not touched.
    pub fn ask_whether_online(&mut self, host: HostRef, user: usize) {
        let uids = vec![uid(&self.uids[user])];
        self.ask_at(host, Purpose::StaysOnline(user), ApiRequest::OnlineStatus { uids });
    }

    fn api_accepted(&mut self, number: Number, message_id: i64, seq: u32) {
        let Some(sent) = self.ledger.sent.get(&number) else { return };
        if self.names_no_more_than_a_position(sent, message_id, seq) {
            return;
        }
        let Some(sent) = self.ledger.sent.get_mut(&number) else { return };
        let (log, kind) = (sent.log(), sent.kind);
        sent.accepted.get_or_insert(Accepted { message_id, seq, at_ns: self.now_ns });
        if kind != Kind::Transient {
            self.judge_durable(number);
        }
        self.checkers.accepted(self.now_ns, log, number, message_id, seq);
    }

    /// Judges messages read from a log, and gives them as the checkers want them.
    fn judge_page(&mut self, log: LogKey, messages: &[(u32, StoredMessage)]) -> Vec<(u32, i64, Number)> {
        let mut found = Vec::new();
        for (seq, message) in messages {
            let Some(number) = ledger::parse_number(message.client_msg_no()) else {
                let text = format!("{log:?} holds the number {:?}", message.client_msg_no());
                self.judge(Promise::Intact, Err(text));
                continue;
            };
            let Some(sent) = self.ledger.sent.get(&number) else {
                self.judge(Promise::Intact, Err(format!("{log:?} holds message {number}, which nobody sent")));
                continue;
            };
            let copy = intact::Copy { number, from: message.from(), payload: message.payload() };
            let verdict = intact::body(&copy, sent, &self.uids[sent.from]);
            let verdict = verdict.and(if sent.log() == log {
                Ok(())
            } else {
                Err(format!("{log:?} holds message {number} of {:?}", sent.log()))
            });
            self.judge(Promise::Intact, verdict);
            found.push((*seq, message.message_id(), number));
        }
        let rising = found.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let verdict = if rising { Ok(()) } else { Err(format!("a page of {log:?} does not rise")) };
        self.judge(Promise::Order, verdict);
        found
    }

    /// A node's HTTP connections are gone with it.
    pub fn api_dies(&mut self, node: usize) {
        self.backend.calls.retain(|_, call| call.host.node != node);
    }

    /// Asks and lets time pass until the answer is there.
    fn ask_and_wait(&mut self, host: HostRef, request: &ApiRequest) -> Result<ApiAnswer, Violation> {
        let until_ns = self.now_ns + (ANSWER_PATIENCE.max(self.patience())).as_nanos() as u64;
        while self.now_ns < until_ns {
            self.backend.awaited = None;
            if self.ask(host, Purpose::Awaited, request.clone()) {
                while self.backend.awaited.is_none() && self.now_ns < until_ns {
                    self.run_for(Duration::from_millis(1))?;
                }
                match self.backend.awaited.take() {
                    Some(ApiAnswer::Busy) | None => {}
                    Some(answer) => return Ok(answer),
                }
            }
            self.run_for(Duration::from_millis(20))?;
        }
        let text = format!("a backend's question is not answered: {request:?}");
        Err(Violation { promise: Promise::Endings, text, at_ns: self.now_ns })
    }

    /// Reads the whole log of two users.
    ///
    /// # Errors
    /// A promise broken meanwhile.
    pub fn read_log(&mut self, a: usize, b: usize) -> Result<Vec<(u32, i64, Number)>, Violation> {
        let log = pair_log(a, b);
        let host = self.home_of_pair(a, b);
        let mut found: Vec<(u32, i64, Number)> = Vec::new();
        let mut from = 1;
        loop {
            let request = ApiRequest::MessageSync {
                login: uid(&self.uids[a]),
                peer: uid(&self.uids[b]),
                start_seq: from,
                end_seq: 0,
                limit: PAGE_MESSAGES,
                newer: true,
            };
            let ApiAnswer::Messages { messages, more } = self.ask_and_wait(host, &request)? else {
                let text = format!("the history of {log:?} is refused");
                return Err(Violation { promise: Promise::Endings, text, at_ns: self.now_ns });
            };
            found.extend(self.judge_page(log, &messages));
            match messages.last() {
                Some((last, _)) if more => from = last + 1,
                _ => return Ok(found),
            }
        }
    }

    /// Asks about everybody who is online.
    ///
    /// # Errors
    /// A promise broken meanwhile.
    pub fn who_is_online(&mut self) -> Result<Vec<(usize, u8)>, Violation> {
        let mut by_host: BTreeMap<HostRef, Vec<Uid>> = BTreeMap::new();
        for name in &self.uids {
            by_host.entry(self.home_of(name)).or_default().push(uid(name));
        }
        let mut online = Vec::new();
        let mut questions: Vec<(HostRef, Vec<Uid>)> = by_host.into_iter().collect();
        if !self.asks_homes() {
            let each = |(host, uids): (HostRef, Vec<Uid>)| uids.into_iter().map(move |uid| (host, vec![uid]));
            questions = questions.into_iter().flat_map(each).collect();
        }
        for (host, uids) in questions {
            if let ApiAnswer::Online(entries) = self.ask_and_wait(host, &ApiRequest::OnlineStatus { uids })? {
                for (who, flag) in entries {
                    let user = self.uids.iter().position(|name| name == who.as_str()).unwrap_or(usize::MAX);
                    online.push((user, flag.0));
                }
            }
        }
        Ok(online)
    }
}

fn token_of(family: Family) -> String {
    format!("token-{}-{}", family.user, family.flag)
}
