//! Every bound of the system by name, with the sum behind it and what happens when it is reached. `Limits` is a value so
//! that the simulator can run the real code with tiny ones and meet wrap-around and back-pressure in seconds.

use std::time::Duration;

/// Longest uid in bytes. Over it: CONNACK or SENDACK names the bad id. TangSengDaoDao's are 32 hex digits.
pub const UID_BYTES_MAX: usize = 128;

/// Longest device id in bytes. Over it: CONNACK 2. SDKs send 33 to 36.
pub const DEVICE_ID_BYTES_MAX: usize = 128;

/// Longest token in bytes. Over it: CONNACK 2.
pub const TOKEN_BYTES_MAX: usize = 512;

/// Longest `client_msg_no` in bytes. Over it: SENDACK 9. SDKs send about 70; TangSengDaoDao stores 100.
pub const CLIENT_MSG_NO_BYTES_MAX: usize = 256;

/// Longest topic in bytes. Over it: SENDACK 9.
pub const TOPIC_BYTES_MAX: usize = 256;

/// Largest plain payload in bytes (WKProto sheet, section 8 item 10). Over it: SENDACK 9.
pub const PAYLOAD_BYTES_MAX: usize = 32_767;

/// Largest remaining length a client packet may claim (sheet, section 1). Over it: the connection is closed. A legal
/// packet is at most base64(32 767 + padding) = 43 704 bytes and strings of about 1 KiB.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

/// Longest text for people, and longest address, in a frame between nodes. Texts over it are cut when they are sent; an address over it,
/// or a text that a peer did not cut: the link is broken off.
pub const FRAME_TEXT_BYTES_MAX: usize = 1024;

/// Largest data of one raft entry: an eighth of the smallest segment, so that it fits into everybody's journal, and into a frame. No command of a slot
/// comes near it, and entries of several end before it; a command of the metadata group over it is refused. An entry of another node that does not fit
/// into this one's journal is not taken.
pub const ENTRY_BYTES_MAX: usize = 512 << 10;

/// Smallest journal file that may be configured.
pub const SEGMENT_BYTES_MIN: u64 = 4 << 20;

/// Bounds of one shard. Two instances exist: what runs, and what the simulator runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions on one shard. Over it: the accepted socket is closed at once and counted.
    pub sessions_max: usize,
    /// SENDs of one session that have no SENDACK yet. At it: reading from that socket stops until half are answered.
    pub send_window: u32,
    /// RECVs of one session that have no RECVACK yet. At it: messages stay in the log and are fetched later.
    pub recv_window: u32,
    /// Bytes of those RECVs. At it: as above.
    pub recv_window_bytes: u32,
    /// Channels that one session follows at a time because they lag or have RECVs in flight. At it: the home is asked
    /// again when one has caught up.
    pub delivery_channels_max: usize,
    /// Messages in one fetch.
    pub fetch_messages_max: u32,
    /// Bytes read from disk for one fetch (plus one whole message).
    pub fetch_bytes_max: u32,
    /// Bytes of messages in one answer to an API request (one whole message always goes). The rest is announced as more: an answer must fit a
    /// link's window.
    pub answer_bytes_max: usize,
    /// Disk reads under way on one shard. At it: further fetches wait in order, bounded by one per followed channel.
    pub reads_max: usize,
    /// Lagging channels named in one answer of the home. At it: the session asks for the rest.
    pub backlog_rows_max: usize,
    /// How long an unacked RECV waits before it is sent again (sheet, section 5.7).
    pub redeliver_after: Duration,
    /// How often an unacked RECV is sent again. After that it counts as taken, so that one message that a client can
    /// never accept does not block its device for ever.
    pub redeliver_tries: u8,
    /// From accept to CONNECT. Over it: closed.
    pub connect_timeout: Duration,
    /// Without received bytes. Over it: closed. SDKs ping each 60 s.
    pub idle_timeout: Duration,
    /// Between a kick's DISCONNECT and the close.
    pub kick_close_after: Duration,
    /// Wrong msgKeys or undecipherable payloads of one session. At it: closed.
    pub bad_payloads_max: u32,
    /// SENDs per second of one session, long-term. Over it (after a burst of as many): SENDACK 22.
    pub sends_per_second: u32,
    /// Sessions registered for one user at a time, over all flags. At it: the oldest slave of that user is closed.
    pub sessions_per_user_max: usize,
    /// Conversation rows of one user. At it: the row that was agreed on longest ago gives way, one of which
    /// every device has everything before all others; a message of it comes with the whole history again.
    pub rows_per_user_max: usize,
    /// Commands in one raft proposal. At it: the rest goes into the next one.
    pub commands_per_proposal_max: usize,
    /// Bytes of those commands; at most [`ENTRY_BYTES_MAX`], and what fits into a segment. At it: the rest goes into the next one, and a larger command
    /// goes alone.
    pub entry_bytes_max: usize,
    /// Bytes waiting in the journal. At it: sockets that send are paused.
    pub journal_pause_bytes: usize,
    /// Bytes waiting in the journal. At it: SENDs get reason 22. Beyond it by the bytes above: entries of others' leaders are not taken, and come
    /// again.
    pub journal_refuse_bytes: usize,
    /// Bytes of one journal flush; more wait for the next.
    pub flush_bytes_max: usize,
    /// With `durability = "fsync"`, after a write that several shared: the next begins no sooner than the disk has rested as long as it has
    /// worked, or so long after the last began. A slower disk has no rest at all; a fast one next to none.
    pub write_rest_max: Duration,
    /// With `durability = "memory"`: writes begin so long after each other, unless a batch is full. What a process that is killed may forget.
    pub memory_write_every: Duration,
    /// How long changed rows may wait to be proposed together. A crash within it only announces again.
    pub row_flush_after: Duration,
    /// How often unannounced channels are announced again.
    pub announce_retry_after: Duration,
    /// Announcements of one slot under way. At it: channels wait for the retry, without bodies.
    pub announce_window: usize,
    /// Members of channels of one slot of whom its leader remembers where their sessions are. At it: the one asked for longest ago
    /// is forgotten, if that is `route_ask_every` ago; else no more homes are asked. 0: everything goes by the homes.
    pub cached_routes_max: usize,
    /// The same over all slots of a shard. At it a slot's newcomer pushes out one of its own, if that was asked for `route_ask_every` ago; and
    /// with each sweep the slot that has the most forgets the older half of those that were. A route takes about 150 bytes.
    pub cached_routes_shard_max: usize,
    /// Sessions of one user that are told to a channel's leader. Over it: the home sends to all of them itself.
    pub straight_sessions_max: usize,
    /// Two messages of a channel within so long are talking often: it pays to know where the sessions are.
    pub talk_often_within: Duration,
    /// How long after a home was asked, and has said that nobody is away, or nothing, it is asked again.
    pub route_ask_every: Duration,
    /// After messages went straight to a home's sessions, the home looks so much later (and up to `chase_every` more) whether they have come.
    pub look_again_after: Duration,
    /// Rows of one slot's homes that wait for that. At it: the home sends for itself.
    pub watched_rows_max: usize,
    /// Messages of a channel whose (sender, client_msg_no) is remembered. Beyond it a repeat is stored again.
    pub dedupe_window: usize,
    /// Bytes of message bodies a shard keeps in memory. Beyond it the oldest are read from disk.
    pub recent_bytes_max: usize,
    /// Journal bytes since the oldest slot's checkpoint at which that slot is checkpointed. Bounds replay at start.
    pub replay_bytes_max: u64,
    /// Channels, homes and rows of states that a shard encodes in one step. At it: the next step goes on. One channel or home more than fits may
    /// go with it.
    pub state_portion: usize,
    /// Between two steps that do, but for a state that is waited for.
    pub state_rest: Duration,
    /// Bytes of entries that a slot's leader keeps after applying them, for members that lack them; others keep half. Beyond it
    /// a member that lags further is sent a snapshot.
    pub log_tail_bytes_max: usize,
    /// Events of one step.
    pub events_per_step_max: usize,
    /// Raft's clock.
    pub raft_tick: Duration,
    /// Housekeeping: timeouts, redelivery, retries.
    pub sweep_every: Duration,
    /// How long a shard waits for another one's answer (a fetch, who leads) before it asks again.
    pub answer_patience: Duration,
    /// How often what waits for a leader is looked after, should the word of one have been lost.
    pub chase_every: Duration,
    /// How often a node says that it is alive.
    pub alive_every: Duration,
    /// How often a newcomer asks to be let in.
    pub join_every: Duration,
    /// How often every slot led here is reported to whoever leads the metadata group; those that change are more often.
    pub report_every: Duration,
    /// How long a shard that stops waits for others to lead what it leads. Over it: it stops as if its power went.
    pub leave_patience: Duration,
    /// How long leadership stays where it is before it is handed over again.
    pub hand_over_every: Duration,
    /// How long a message waits for its slot to have a leader that takes it. Over it: SENDACK 15, outcome unknown.
    pub submit_give_up_after: Duration,
    /// How long a new leader waits for gateways to name their sessions before it answers who is online. A gateway of a node that is
    /// down is not waited for.
    pub rollcall_patience: Duration,
    /// Sessions in one statement of a gateway.
    pub present_sessions_max: usize,
    /// Slots in one word about leaders.
    pub leaders_per_frame_max: usize,
    /// Slots' states on their way out of a shard, and as many on their way in. At it: raft is told that it failed, and asks again.
    pub transfers_max: usize,
    /// Bytes of one part of such a state; one message more than fits may go with it.
    pub transfer_part_bytes: usize,
    /// Parts on their way without an answer. At it: the next one waits.
    pub transfer_window: u32,
    /// Bytes a second that a shard spends on sending states, long-term. Over it: parts wait.
    pub transfer_bytes_per_second: u64,
    /// How long an offer or a part may be without an answer. Over it: given up, and raft asks again. A receiver waits four times as long.
    pub transfer_patience: Duration,
    /// The same for the last part, which is answered when the receiver's checkpoint is written.
    pub transfer_install_patience: Duration,
    /// Bytes of memory for what a shard has received and not put to use: twelve a message, and the states. At it: what was left behind
    /// longest ago is given up, and if that is not enough, the transfer.
    pub transfer_staged_bytes_max: usize,
    /// Ranges that wait for good copies of damaged messages, and answers to others who do. At it: what is damaged counts as gone.
    pub repairs_max: usize,
    /// Messages asked for at once when copies are damaged. Beyond it they count as gone.
    pub repair_messages_max: u32,
    /// Sessions that a shard lets go in a second while its node is to be emptied. The others wait.
    pub drain_sessions_per_second: u32,
    /// API requests under way on one shard. At it: HTTP 503.
    pub api_requests_max: usize,
    /// Of so many messages one is followed through its stages. 0: none is, and nothing is timed.
    pub marked_one_in: u32,
    /// No bound: what the simulator wants broken. Neither instance breaks anything, and no configuration can ask for it.
    pub breach: Option<Breach>,
}

/// A promise that is broken on purpose, so that whoever watches over it can be seen to notice. Only what cannot be broken from outside of
/// the engine is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// A slot that takes its sibling in goes on with its own terms, though its sibling's were later.
    TermsNotLifted,
    /// A home leaves it to a channel's leader to send, under whatever mark the leader knows.
    AnyMark,
}

impl Limits {
    /// What a node runs with unless its configuration says otherwise.
    pub const PRODUCTION: Limits = Limits {
        sessions_max: 250_000,
        send_window: 128,
        recv_window: 256,
        recv_window_bytes: 256 * 1024,
        delivery_channels_max: 256,
        fetch_messages_max: 64,
        fetch_bytes_max: 128 * 1024,
        answer_bytes_max: 1 << 20,
        reads_max: 32,
        backlog_rows_max: 128,
        redeliver_after: Duration::from_secs(60),
        redeliver_tries: 5,
        connect_timeout: Duration::from_secs(8),
        idle_timeout: Duration::from_secs(180),
        kick_close_after: Duration::from_secs(2),
        bad_payloads_max: 32,
        sends_per_second: 20_000,
        sessions_per_user_max: 64,
        rows_per_user_max: 10_000,
        commands_per_proposal_max: 1024,
        entry_bytes_max: ENTRY_BYTES_MAX,
        journal_pause_bytes: 8 << 20,
        journal_refuse_bytes: 32 << 20,
        flush_bytes_max: 1 << 20,
        write_rest_max: Duration::from_micros(500),
        memory_write_every: Duration::from_millis(5),
        row_flush_after: Duration::from_millis(20),
        announce_retry_after: Duration::from_secs(1),
        announce_window: 65_536,
        cached_routes_max: 1024,
        cached_routes_shard_max: 65_536,
        straight_sessions_max: 8,
        talk_often_within: Duration::from_secs(30),
        route_ask_every: Duration::from_secs(60),
        look_again_after: Duration::from_millis(500),
        watched_rows_max: 4096,
        dedupe_window: 4096,
        recent_bytes_max: 64 << 20,
        replay_bytes_max: 256 << 20,
        state_portion: 2048,
        state_rest: Duration::from_millis(1),
        log_tail_bytes_max: 256 << 10,
        events_per_step_max: 8192,
        raft_tick: Duration::from_millis(50),
        sweep_every: Duration::from_secs(1),
        answer_patience: Duration::from_secs(2),
        chase_every: Duration::from_millis(200),
        alive_every: Duration::from_millis(500),
        join_every: Duration::from_secs(1),
        report_every: Duration::from_secs(5),
        leave_patience: Duration::from_secs(3),
        hand_over_every: Duration::from_secs(2),
        submit_give_up_after: Duration::from_secs(10),
        rollcall_patience: Duration::from_secs(3),
        present_sessions_max: 1024,
        leaders_per_frame_max: 4096,
        transfers_max: 2,
        transfer_part_bytes: 128 << 10,
        transfer_window: 4,
        transfer_bytes_per_second: 64 << 20,
        transfer_patience: Duration::from_secs(3),
        transfer_install_patience: Duration::from_secs(60),
        transfer_staged_bytes_max: 512 << 20,
        repairs_max: 64,
        repair_messages_max: 16,
        drain_sessions_per_second: 500,
        api_requests_max: 4096,
        marked_one_in: 64,
        breach: None,
    };

    /// What the simulator runs with: everything small enough that each bound is met within seconds.
    pub const TINY: Limits = Limits {
        sessions_max: 64,
        send_window: 4,
        recv_window: 3,
        recv_window_bytes: 4096,
        delivery_channels_max: 2,
        fetch_messages_max: 2,
        fetch_bytes_max: 1024,
        answer_bytes_max: 2048,
        reads_max: 1,
        backlog_rows_max: 1,
        redeliver_after: Duration::from_secs(2),
        redeliver_tries: 3,
        connect_timeout: Duration::from_secs(3),
        idle_timeout: Duration::from_secs(6),
        kick_close_after: Duration::from_millis(500),
        bad_payloads_max: 3,
        sends_per_second: 200,
        sessions_per_user_max: 4,
        rows_per_user_max: 64,
        commands_per_proposal_max: 3,
        entry_bytes_max: 4 << 10,
        journal_pause_bytes: 16 << 10,
        journal_refuse_bytes: 64 << 10,
        flush_bytes_max: 8 << 10,
        write_rest_max: Duration::from_micros(500),
        memory_write_every: Duration::from_millis(5),
        row_flush_after: Duration::from_millis(20),
        announce_retry_after: Duration::from_millis(500),
        announce_window: 4,
        cached_routes_max: 4,
        cached_routes_shard_max: 6,
        straight_sessions_max: 2,
        talk_often_within: Duration::from_secs(5),
        route_ask_every: Duration::from_secs(1),
        look_again_after: Duration::from_millis(300),
        watched_rows_max: 2,
        dedupe_window: 64,
        recent_bytes_max: 4 << 10,
        replay_bytes_max: 128 << 10,
        state_portion: 2,
        state_rest: Duration::from_millis(3),
        log_tail_bytes_max: 4 << 10,
        events_per_step_max: 64,
        raft_tick: Duration::from_millis(100),
        sweep_every: Duration::from_millis(250),
        answer_patience: Duration::from_millis(500),
        chase_every: Duration::from_millis(200),
        alive_every: Duration::from_millis(500),
        join_every: Duration::from_secs(1),
        report_every: Duration::from_secs(2),
        leave_patience: Duration::from_secs(2),
        hand_over_every: Duration::from_secs(1),
        submit_give_up_after: Duration::from_secs(10),
        rollcall_patience: Duration::from_secs(2),
        present_sessions_max: 2,
        leaders_per_frame_max: 2,
        transfers_max: 1,
        transfer_part_bytes: 512,
        transfer_window: 2,
        transfer_bytes_per_second: 256 << 10,
        transfer_patience: Duration::from_secs(1),
        transfer_install_patience: Duration::from_secs(5),
        transfer_staged_bytes_max: 1 << 20,
        repairs_max: 2,
        repair_messages_max: 2,
        drain_sessions_per_second: 5,
        api_requests_max: 4,
        marked_one_in: 2,
        breach: None,
    };

    /// How the bounds must relate; asserted for both instances when the crate is compiled.
    const fn hold_together(&self) -> bool {
        self.breach.is_none()
            && self.journal_pause_bytes < self.journal_refuse_bytes
            && self.flush_bytes_max <= self.journal_pause_bytes
            && self.recv_window >= 1
            && self.send_window >= 2
            && self.redeliver_tries >= 1
            && self.delivery_channels_max >= 1
            && self.backlog_rows_max >= 1
            && self.reads_max >= 1
            && self.transfers_max >= 1
            && self.state_portion >= 1
            && self.transfer_window >= 1
            && self.transfer_bytes_per_second >= 1
            && self.repair_messages_max >= 1
            && self.commands_per_proposal_max >= 1
            && self.entry_bytes_max <= ENTRY_BYTES_MAX
            && self.dedupe_window >= self.send_window as usize
            // A silent device is noticed before its RECVs are given up as taken.
            && self.idle_timeout.as_millis() < self.redeliver_after.as_millis() * (self.redeliver_tries as u128 + 1)
    }
}

const _: () = assert!(ENTRY_BYTES_MAX as u64 <= SEGMENT_BYTES_MIN / 8);
const _: () = assert!(Limits::PRODUCTION.hold_together());
const _: () = assert!(Limits::TINY.hold_together());
