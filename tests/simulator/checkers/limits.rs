//! Windows and queues keep their bounds: un-acknowledged RECVs per session, what a shard says of itself, and what waits in its
//! gateway. Also holds redelivery to its terms, because it sees each RECV that is written: not before its time, not after
//! the acknowledgement, not more often than allowed.

use std::collections::BTreeMap;

use jindou::engine::shard::ShardView;
use jindou::format::message::MESSAGE_BYTES_MAX;
use jindou::limits::Limits;

/// Bytes that one end of a connection between nodes may have written and the other not got: the windows of a link, and a little.
pub const LINK_BYTES_MAX: usize = 13 << 20;

/// A stored RECV that was written to a session.
#[derive(Clone, Copy, Debug)]
struct Written {
    at_ns: u64,
    times: u8,
    bytes: usize,
    /// The step that took its RECVACK, and when.
    acked: Option<(u64, u64)>,
}

/// In good times, what a RECVACK says is agreed on within so long: a leader of a later time knows it.
const ACK_AGREED_NS: u64 = 2_000_000_000;

/// So long after a slot has got another leader, words of the one before may still arrive.
const LED_ANEW_NS: u64 = 5_000_000_000;

/// What one session has been sent.
#[derive(Default)]
pub struct Window {
    written: BTreeMap<i64, Written>,
    open: usize,
    open_bytes: usize,
    /// When the slot of the user's home has got its present leader. What an earlier one has said of where a device is may be under way
    /// still, and old, and what was acknowledged shortly before may not be known to this one: a device then gets it again, and drops
    /// it by its id.
    pub led_anew_ns: Option<u64>,
    /// Since when everything has been well: before, a group may have been unable to agree on anything.
    pub well_since_ns: u64,
    /// How often that has happened.
    pub again: u64,
}

/// What came of a written RECV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits for its acknowledgement.
    Waits,
    /// This was the last try: from now on it may count as taken.
    LastTry,
}

impl Window {
    /// A stored RECV is written.
    pub fn write(
        &mut self,
        at_ns: u64,
        step: u64,
        message_id: i64,
        bytes: usize,
        limits: &Limits,
    ) -> Result<Fate, String> {
        let tries = 1 + limits.redeliver_tries;
        let Some(known) = self.written.get_mut(&message_id) else {
            self.written.insert(message_id, Written { at_ns, times: 1, bytes, acked: None });
            self.open += 1;
            self.open_bytes += bytes;
            return Ok(Fate::Waits);
        };
        let waited_ns = at_ns - known.at_ns;
        known.at_ns = at_ns;
        known.times += 1;
        // In the step that takes a RECVACK, the repeat may have been due before it.
        if let Some((_, acked_ns)) = known.acked.filter(|(acked, _)| *acked < step) {
            let agreed_ns = acked_ns.max(self.well_since_ns) + ACK_AGREED_NS;
            let anew = |led_ns: &u64| at_ns < led_ns + LED_ANEW_NS && agreed_ns > *led_ns;
            if self.led_anew_ns.as_ref().is_some_and(anew) {
                known.times = 1;
                self.again += 1;
                return Ok(Fate::Waits);
            }
            let (acked_s, led_s) = (acked_ns as f64 / 1e9, self.led_anew_ns.map(|led_ns| led_ns as f64 / 1e9));
            return Err(format!(
                "id {message_id} was written again after its RECVACK at {acked_s:.3} s; its home is led anew since {led_s:?} s"
            ));
        }
        if u128::from(waited_ns) < limits.redeliver_after.as_nanos() {
            return Err(format!("id {message_id} was written again after {:.3} s", waited_ns as f64 / 1e9));
        }
        if known.times > tries {
            return Err(format!("id {message_id} was written for the {}th time", known.times));
        }
        Ok(if known.times == tries { Fate::LastTry } else { Fate::Waits })
    }

    /// A RECVACK was handed to the shard.
    pub fn ack(&mut self, at_ns: u64, message_id: i64, step: u64) {
        if let Some(known) = self.written.get_mut(&message_id)
            && known.acked.is_none()
        {
            known.acked = Some((step, at_ns));
            self.open -= 1;
            self.open_bytes -= known.bytes;
        }
    }

    /// Those that are written and wait, those given up left out.
    pub fn waiting(&self, limits: &Limits) -> (usize, usize) {
        let given_up = self.written.values().filter(|one| one.acked.is_none() && one.times > limits.redeliver_tries);
        let (count, bytes) = given_up.fold((0, 0), |(count, bytes), one| (count + 1, bytes + one.bytes));
        (self.open - count, self.open_bytes - bytes)
    }

    /// The window keeps its bounds.
    pub fn check(&self, limits: &Limits) -> Result<(), String> {
        if self.open <= limits.recv_window as usize && self.open_bytes <= limits.recv_window_bytes as usize {
            return Ok(());
        }
        let (count, bytes) = self.waiting(limits);
        if count > limits.recv_window as usize {
            return Err(format!("{count} RECVs wait for an acknowledgement"));
        }
        // One message may cross the mark.
        if bytes > limits.recv_window_bytes as usize + MESSAGE_BYTES_MAX {
            return Err(format!("{bytes} bytes of RECVs wait for an acknowledgement"));
        }
        Ok(())
    }
}

/// The highest values seen, for the report.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peaks {
    /// Bytes waiting for a journal.
    pub journal_pending_bytes: usize,
    /// Bytes of recent messages.
    pub recent_bytes: usize,
    /// Sessions of a shard.
    pub sessions: usize,
    /// Segments of a journal.
    pub segments: u32,
}

/// What a shard says of itself keeps its bounds.
pub fn view_holds(view: &ShardView, limits: &Limits, peaks: &mut Peaks) -> Result<(), String> {
    peaks.journal_pending_bytes = peaks.journal_pending_bytes.max(view.journal_pending_bytes);
    peaks.recent_bytes = peaks.recent_bytes.max(view.recent_bytes);
    peaks.sessions = peaks.sessions.max(view.sessions);
    let (first, last) = view.journal_segments;
    peaks.segments = peaks.segments.max(last.saturating_sub(first) + 1);
    if view.sessions > limits.sessions_max || view.sessions_live > view.sessions {
        return Err(format!("{} sessions, {} of them live", view.sessions, view.sessions_live));
    }
    // Bodies that are not written yet stay, whatever the budget says.
    if view.recent_bytes > limits.recent_bytes_max + view.journal_pending_bytes + MESSAGE_BYTES_MAX {
        return Err(format!("{} bytes of recent messages", view.recent_bytes));
    }
    // Beyond the refusal mark only what was under way may still come: housekeeping of the slots, not SENDs.
    let most = 2 * limits.journal_refuse_bytes + 4 * MESSAGE_BYTES_MAX;
    if view.journal_pending_bytes > most {
        return Err(format!("{} bytes wait for the journal", view.journal_pending_bytes));
    }
    Ok(())
}
