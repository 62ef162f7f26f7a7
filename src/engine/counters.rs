//! What a shard has counted since it started. Plain numbers that only rise; the shell turns them into metrics.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Totals since start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: u64,)+ }

        impl Counters {
            /// Each counter's name, meaning and value, in a fixed order.
            pub fn each(&self, mut visit: impl FnMut(&'static str, &'static str, u64)) {
                $(visit(stringify!($name), concat!($($doc),+), self.$name);)+
            }
        }
    };
}

counters! {
    /// Connections that reached a shard.
    sessions_opened,
    /// Connections that ended.
    sessions_closed,
    /// Connections refused because the shard was full.
    sessions_refused,
    /// CONNECTs answered with success.
    connects_accepted,
    /// CONNECTs answered with another reason.
    connects_refused,
    /// Sessions moved to their home's shard.
    sessions_handed_over,
    /// Sessions closed for bytes that are no packet.
    packets_malformed,
    /// SENDs with a wrong msgKey or an undecipherable payload.
    payloads_bad,
    /// Sessions closed because nothing came from them.
    sessions_idle_closed,
    /// Sessions ended by a kick rule or the API.
    sessions_kicked,
    /// SENDs taken in.
    sends,
    /// SENDs answered with a reason other than success.
    sends_refused,
    /// SENDs refused because the sender was too fast or the journal too far behind.
    sends_rate_limited,
    /// Messages stored.
    messages_stored,
    /// Messages passed on without being stored.
    messages_transient,
    /// SENDs recognised as repeats and answered as the first time.
    sends_repeated,
    /// RECVs written.
    recvs,
    /// RECVs written again because no RECVACK came.
    recvs_redelivered,
    /// RECVs given up after the last try.
    recvs_abandoned,
    /// RECVACKs taken in.
    recvacks,
    /// Messages that did not fit a session's window and were left in the log.
    deliveries_deferred,
    /// Messages sent by their channel's leader straight to a session, not by way of the home.
    deliveries_straight,
    /// Of those, such as came to a session that did not follow the channel and were passed on to its home.
    deliveries_strayed,
    /// Times a home was told that messages had gone straight, but its sessions were others by then: it sent for itself.
    deliveries_stale,
    /// Times a home, looking again after messages had gone straight, told a session that had not yet taken them all.
    deliveries_checked,
    /// Bodies of messages that did not go along because the link had no room: they are fetched, or were not stored.
    bodies_left,
    /// Fetches served from memory.
    fetches_recent,
    /// Fetches that read the disk.
    fetches_disk,
    /// Fetches that were left unanswered because the link had no room; they are asked again.
    fetches_put_off,
    /// Stored messages that could not be read back: reported, never served.
    messages_damaged,
    /// Stored messages that were damaged here and replaced by another replica's copy.
    messages_repaired,
    /// States of slots sent whole to a replica that was too far behind.
    transfers_sent,
    /// States of slots received and put to use.
    transfers_received,
    /// Transfers of a slot's state that were given up on either side.
    transfers_failed,
    /// Raft entries proposed.
    proposals,
    /// Journal writes finished.
    journal_flushes,
    /// Bytes of those.
    journal_bytes,
    /// Journal writes that failed.
    journal_faults,
    /// Checkpoints written.
    checkpoints,
    /// Frames to other shards.
    frames_sent,
    /// Frames from other shards.
    frames_received,
    /// Frames from somebody who is no member, other than the wish to become one.
    frames_unwelcome,
    /// Raft messages for replicas that are not here.
    raft_stray,
    /// Raft messages with entries for which the journal has no room now: they come again.
    raft_put_off,
    /// Slots that became two here.
    splits,
    /// Slots that took their siblings in here.
    merges,
    /// Sessions let go because their node is to be emptied.
    sessions_drained,
    /// Times a slot began to be led here: elections won.
    leaderships,
    /// Times a leader named another replica that is to lead.
    hand_overs,
    /// Gateways that told a new leader which of its users' sessions they have.
    rollcall_answers,
    /// Messages sent to a slot's leader because it is another than before, or because its link was reset.
    submits_sent_again,
    /// Raft messages to replicas on other shards and nodes.
    raft_messages_sent,
    /// Raft messages from them.
    raft_messages_received,
    /// Requests of operators carried out or refused here, questions aside.
    operator_requests,
    /// API requests.
    api_requests,
    /// Conversation rows dropped at their limit.
    rows_dropped,
}
