//! Frames of every kind with any legal values, for `frames.rs`.

use std::sync::Arc;

use super::*;
use jindou::format::cluster_status::{
    ClusterRequest, ClusterStatus, MemberStanding, MemberStatus, MoveStatus, SlotStatus, UserRoute, WaitStatus,
};
use jindou::format::frame::*;
use jindou::format::packet::Reason;
use jindou::format::raft_message::{GroupMembers, RaftEntry, RaftMessage, SnapshotHead};
use jindou::format::request::{ApiAnswer, ApiRequest};
use jindou::ids::{
    ChannelKey, DeviceFlag, DeviceLevel, NodeId, Place, ReplicaId, SLOT_COUNT_MAX, SessionAddress, SessionId, ShardId,
    SlotId, Uid,
};
use prop::collection::vec;
use prop::option;

type Any<T> = BoxedStrategy<T>;

fn uid() -> Any<Uid> {
    "[a-zäö0-9_]{1,20}".prop_map(|text| Uid::parse(&text).unwrap()).boxed()
}

fn channel() -> Any<ChannelKey> {
    (uid(), uid(), any::<bool>())
        .prop_map(|(a, b, pair)| if pair { ChannelKey::pair(&a, &b) } else { ChannelKey::command(&a) })
        .boxed()
}

fn node() -> Any<NodeId> {
    (1..=u16::MAX).prop_map(NodeId).boxed()
}

fn place() -> Any<Place> {
    (1..=u16::MAX, any::<u16>()).prop_map(|(node, shard)| Place { node: NodeId(node), shard: ShardId(shard) }).boxed()
}

fn session() -> Any<SessionId> {
    any::<(u32, u32)>().prop_map(|(index, generation)| SessionId { index, generation }).boxed()
}

fn address() -> Any<SessionAddress> {
    (place(), session()).prop_map(|(place, session)| SessionAddress { place, session }).boxed()
}

fn slot() -> Any<SlotId> {
    prop_oneof![(0..SLOT_COUNT_MAX as u16).prop_map(SlotId), Just(SlotId::METADATA)].boxed()
}

fn replica() -> Any<ReplicaId> {
    (1..=u64::MAX).prop_map(ReplicaId).boxed()
}

fn replicas() -> Any<Vec<ReplicaId>> {
    vec(replica(), 0..4).boxed()
}

fn flag() -> Any<DeviceFlag> {
    any::<u8>().prop_map(DeviceFlag).boxed()
}

fn level() -> Any<DeviceLevel> {
    prop_oneof![Just(DeviceLevel::Slave), Just(DeviceLevel::Master)].boxed()
}

/// Of every byte, so that one that is missing from either side of `Reason` shows.
fn reason() -> Any<u8> {
    any::<u8>().prop_map(|byte| Reason::from_byte(byte).unwrap_or(Reason::NodeNotMatch) as u8).boxed()
}

fn text() -> Any<Box<str>> {
    "\\PC{0,40}".prop_map(Box::from).boxed()
}

fn payload() -> Any<Vec<u8>> {
    vec(any::<u8>(), 0..100).boxed()
}

fn bytes() -> Any<Bytes> {
    payload().prop_map(Bytes::from).boxed()
}

fn message() -> Any<StoredMessage> {
    (payload(), "\\PC{0,9}", any::<u64>())
        .prop_map(|(payload, text, number)| {
            let mut bytes = Vec::new();
            let fields = MessageFields {
                message_id: number as i64,
                unix_ms: number,
                expire_s: number as u32,
                flags: HeaderFlags(2),
                setting: Setting(8),
                device_tag: number,
                from: "alice",
                to: "bob",
                client_msg_no: &text,
                topic: &text,
                payload: &payload,
            };
            fields.encode(&mut bytes);
            StoredMessage::take(&Bytes::from(bytes)).unwrap()
        })
        .boxed()
}

fn messages() -> Any<Vec<(u32, StoredMessage)>> {
    vec((any::<u32>(), message()), 0..4).boxed()
}

fn body() -> Any<SendBody> {
    ("\\PC{0,9}", "\\PC{0,9}", payload())
        .prop_map(|(number, topic, payload)| SendBody::new(&number, &topic, &payload))
        .boxed()
}

fn submission() -> Any<Frame> {
    let submit = (place(), channel(), uid(), uid(), any::<(u64, u64, u64, u8, u8, u32)>(), body()).prop_map(
        |(place, channel, from, to, numbers, body)| Submit {
            place,
            ticket: numbers.0,
            channel,
            from,
            to,
            device_tag: numbers.1,
            fingerprint: numbers.2,
            flags: HeaderFlags(numbers.3),
            setting: Setting(numbers.4),
            expire_s: numbers.5,
            body,
        },
    );
    let submission = (slot(), any::<u64>(), submit)
        .prop_map(|(slot, term, submit)| Frame::Submit(Submission { slot, term, submit: Arc::new(submit) }));
    let submitted = (any::<(u64, u64, i64, u32)>(), reason()).prop_map(|(numbers, reason)| {
        let (ticket, term, message_id, message_seq) = numbers;
        Frame::Submitted(Submitted { ticket, term, message_id, message_seq, reason })
    });
    prop_oneof![submission, submitted].boxed()
}

fn session_frame() -> Any<Frame> {
    let present_session = (session(), uid(), flag(), level(), text(), any::<u64>()).prop_map(
        |(session, uid, flag, level, device_id, order)| PresentSession { session, uid, flag, level, device_id, order },
    );
    prop_oneof![
        (address(), uid(), flag(), "[a-z]{0,128}", "[a-z]{0,512}").prop_map(|(address, uid, flag, id, token)| {
            Frame::Register(Box::new(Register { address, uid, flag, device_id: id.into(), token: token.into() }))
        }),
        (session(), reason(), level(), any::<u64>()).prop_map(|(session, reason, level, order)| {
            Frame::Registered(Registered { session, reason, level, order })
        }),
        (address(), uid()).prop_map(|(address, uid)| Frame::Unregister(Unregister { address, uid })),
        (address(), uid(), any::<u32>()).prop_map(|(address, uid, question)| Frame::Resume(Resume {
            address,
            uid,
            question
        })),
        (session(), option::of((reason(), text()))).prop_map(|(session, notice)| {
            let notice = notice.map(|(reason, text)| KickNotice { reason, text });
            Frame::Kick(Kick { session, notice })
        }),
        (place(), vec((slot(), any::<u64>()), 0..4), vec(present_session, 0..4), any::<(bool, bool)>()).prop_map(
            |(place, slots, sessions, (first, last))| Frame::Present(Box::new(Present {
                place,
                slots,
                sessions,
                first,
                last
            }))
        ),
    ]
    .boxed()
}

fn channel_frame() -> Any<Frame> {
    let row = (channel(), any::<(u32, u32)>()).prop_map(|(channel, (cursor, last_seq))| BacklogRow {
        channel,
        cursor,
        last_seq,
    });
    prop_oneof![
        (uid(), channel(), any::<(u32, u32)>(), option::of(message())).prop_map(
            |(uid, channel, (seq, pusher), message)| {
                Frame::Notify(Notify { uid, channel, seq, message, pusher: Pusher::of_number(pusher) })
            }
        ),
        (uid(), channel(), any::<(u32, bool)>(), vec(address(), 0..4)).prop_map(
            |(uid, channel, (mark, others), away)| {
                Frame::Whereabouts(Box::new(Whereabouts { uid, channel, mark, away, others }))
            }
        ),
        (uid(), channel(), any::<u32>()).prop_map(|(uid, channel, seq)| Frame::Notified(Notified {
            uid,
            channel,
            seq
        })),
        (session(), channel(), any::<(u32, Option<u32>, u64)>(), slot(), option::of(message())).prop_map(
            |(session, channel, (seq, cursor, term), slot, message)| Frame::Deliver(Deliver {
                session,
                channel,
                seq,
                cursor,
                term,
                slot,
                message
            })
        ),
        (uid(), flag(), channel(), any::<u32>()).prop_map(|(uid, flag, channel, seq)| Frame::Received(Received {
            uid,
            flag,
            channel,
            seq
        })),
        (session(), vec(row, 0..4), slot(), any::<(bool, u32, u64)>()).prop_map(
            |(session, rows, slot, (more, question, term))| {
                Frame::Backlog(Backlog { session, rows, more, question, term, slot })
            }
        ),
        (address(), channel(), any::<(u32, u32)>()).prop_map(|(address, channel, (from_seq, messages_max))| {
            Frame::Fetch(Fetch { address, channel, from_seq, messages_max })
        }),
        (session(), channel(), messages(), any::<(u32, u32)>()).prop_map(
            |(session, channel, messages, (next_seq, last_seq))| Frame::Fetched(Fetched {
                session,
                channel,
                messages,
                next_seq,
                last_seq
            })
        ),
        (place(), channel(), vec(any::<u32>(), 0..9)).prop_map(|(place, channel, seqs)| Frame::Repair(Repair {
            place,
            channel,
            seqs
        })),
        (channel(), messages()).prop_map(|(channel, messages)| Frame::Repaired(Repaired { channel, messages })),
    ]
    .boxed()
}

fn head() -> Any<SnapshotHead> {
    (any::<(u64, u64, bool)>(), replicas(), replicas(), replicas(), replicas(), bytes())
        .prop_map(|((index, term, auto_leave), voters, learners, voters_outgoing, learners_next, data)| {
            let members = GroupMembers { voters, learners, voters_outgoing, learners_next, auto_leave };
            SnapshotHead { index, term, members, data }
        })
        .boxed()
}

fn raft_message() -> Any<RaftMessage> {
    let entries = (0..=u64::MAX - 9, vec((any::<u64>(), 0..=1u8, bytes()), 0..9)).prop_map(|(first, parts)| {
        let numbered = parts.into_iter().zip(first..);
        numbered.map(|((term, kind, data), index)| RaftEntry { term, index, kind, data }).collect::<Vec<_>>()
    });
    (slot(), replica(), replica(), any::<([u64; 7], i64, u8, bool)>(), entries, bytes(), option::of(head()))
        .prop_map(|(slot, from, to, (numbers, priority, kind, reject), entries, context, snapshot)| {
            let [term, log_term, index, commit, commit_term, reject_hint, request_snapshot] = numbers;
            RaftMessage {
                slot,
                kind,
                from,
                to,
                term,
                log_term,
                index,
                commit,
                commit_term,
                entries,
                reject,
                reject_hint,
                request_snapshot,
                priority,
                context,
                snapshot,
            }
        })
        .boxed()
}

fn raft_frame() -> Any<Frame> {
    prop_oneof![
        3 => raft_message().prop_map(|message| Frame::Raft(Box::new(message))),
        1 => (raft_message(), any::<(u64, u64, u64)>()).prop_map(|(message, (transfer, messages, plan))| {
            Frame::SnapshotOffer(Box::new(SnapshotOffer { message, transfer, messages, plan }))
        }),
        1 => (any::<(u64, bool)>(), slot(), replica(), vec(any::<u32>(), 0..9)).prop_map(
            |((transfer, accepted), slot, from, have)| {
                Frame::SnapshotWant(SnapshotWant { transfer, slot, from, have, accepted })
            }
        ),
        1 => (any::<(u64, u32, bool)>(), slot(), bytes()).prop_map(|((transfer, number, last), slot, body)| {
            Frame::SnapshotPart(SnapshotPart { transfer, slot, number, last, body })
        }),
        1 => (any::<(u64, u32, bool)>(), slot(), replica()).prop_map(|((transfer, number, good), slot, from)| {
            Frame::SnapshotTaken(SnapshotTaken { transfer, slot, from, number, good })
        }),
    ]
    .boxed()
}

fn cluster_request() -> Any<ClusterRequest> {
    let slots = || vec(slot(), 0..9);
    prop_oneof![
        (slot(), any::<(u16, bool)>()).prop_map(|(from, (max, here))| ClusterRequest::Status { from, max, here }),
        node().prop_map(|node| ClusterRequest::Drain { node }),
        node().prop_map(|node| ClusterRequest::Serve { node }),
        node().prop_map(|node| ClusterRequest::Remove { node }),
        (node(), node()).prop_map(|(node, by)| ClusterRequest::Replace { node, by }),
        Just(ClusterRequest::Rebalance),
        any::<u8>().prop_map(|replicas| ClusterRequest::SetReplicas { replicas }),
        (slots(), any::<u8>()).prop_map(|(slots, depth)| ClusterRequest::Split { slots, depth }),
        (slots(), any::<u8>()).prop_map(|(slots, depth)| ClusterRequest::Merge { slots, depth }),
        (slot(), node()).prop_map(|(slot, node)| ClusterRequest::Transfer { slot, node }),
    ]
    .boxed()
}

fn user_route() -> Any<UserRoute> {
    (option::of(node()), text(), text(), text(), vec(any::<u32>(), 0..9))
        .prop_map(|(node, tcp, ws, wss, users)| UserRoute { node, tcp, ws, wss, users })
        .boxed()
}

fn member_status() -> Any<MemberStatus> {
    let standing =
        prop_oneof![Just(MemberStanding::Serving), Just(MemberStanding::Draining), Just(MemberStanding::Dead)];
    let numbers = any::<(u64, u64, u16, u32, u32, u32)>();
    let known = (option::of(any::<bool>()), option::of(any::<u32>()));
    (node(), standing, known, (socket(), text(), text()), numbers)
        .prop_map(|(node, standing, (alive, sessions), (cluster, http, tcp), numbers)| {
            let (silent_ms, table_version, shards, slots, preferred, leads) = numbers;
            MemberStatus {
                node,
                standing,
                alive,
                silent_ms,
                shards,
                cluster,
                http,
                tcp,
                slots,
                preferred,
                leads,
                table_version,
                sessions,
            }
        })
        .boxed()
}

fn move_status() -> Any<MoveStatus> {
    let numbers = (option::of(any::<u8>()), any::<u64>(), option::of(any::<u64>()));
    (slot(), vec(place(), 0..4), vec(place(), 0..4), numbers, text())
        .prop_map(|(slot, from, to, (percent, under_way_ms, remaining_ms), stage)| MoveStatus {
            slot,
            from,
            to,
            percent,
            under_way_ms,
            remaining_ms,
            stage,
        })
        .boxed()
}

fn slot_status() -> Any<SlotStatus> {
    (slot(), any::<(u8, u64)>(), replicas(), replicas(), replica(), option::of(place()), text())
        .prop_map(|(slot, (depth, epoch), replicas, target, preferred, leader, stage)| SlotStatus {
            slot,
            depth,
            epoch,
            replicas,
            target,
            preferred,
            leader,
            stage,
        })
        .boxed()
}

fn cluster_status() -> Any<ClusterStatus> {
    let wait =
        (option::of(slot()), option::of(node()), text()).prop_map(|(slot, node, why)| WaitStatus { slot, node, why });
    let whole = (any::<(u64, u64, u64, u8, bool)>(), text(), place(), option::of(place()));
    let counts = (any::<[u32; 8]>(), option::of(any::<u64>()));
    let lists = (
        vec(node(), 0..5),
        vec(member_status(), 0..4),
        vec(move_status(), 0..4),
        vec(wait, 0..4),
        vec(slot(), 0..4),
        vec(slot_status(), 0..4),
    );
    (whole, counts, lists, option::of(slot()))
        .prop_map(|(whole, (counts, remaining_ms), (metadata_voters, members, moves, waits, lost, slots), next)| {
            let ((id, version, metadata_term, replicas_wanted, complete), name, told_by, metadata_leader) = whole;
            ClusterStatus {
                id,
                name,
                version,
                told_by,
                complete,
                replicas_wanted,
                metadata_leader,
                metadata_term,
                metadata_voters,
                members,
                slots_total: counts[0],
                slots_leaderless: counts[1],
                slots_misled: counts[2],
                slots_thin: counts[3],
                reshapes: counts[4],
                moves_total: counts[5],
                moves,
                moves_waiting: counts[6],
                remaining_ms,
                waits,
                waits_omitted: counts[7],
                lost,
                slots,
                next,
            }
        })
        .boxed()
}

fn api_frame() -> Any<Frame> {
    let send = (uid(), uid(), any::<(u8, u8, u32)>(), body()).prop_map(|(from, to, numbers, body)| {
        let (flags, setting) = (HeaderFlags(numbers.0), Setting(numbers.1));
        ApiRequest::Send { from, to, flags, setting, expire_s: numbers.2, body }
    });
    let request = prop_oneof![
        (uid(), flag(), level(), "[a-z]{1,512}").prop_map(|(uid, flag, level, token)| ApiRequest::SetToken {
            uid,
            flag,
            level,
            token: token.into()
        }),
        (uid(), option::of(flag())).prop_map(|(uid, flag)| ApiRequest::QuitDevice { uid, flag }),
        vec(uid(), 0..9).prop_map(|uids| ApiRequest::OnlineStatus { uids }),
        send,
        (uid(), uid(), any::<(u32, u32, u32, bool)>()).prop_map(|(login, peer, (start_seq, end_seq, limit, newer))| {
            ApiRequest::MessageSync { login, peer, start_seq, end_seq, limit, newer }
        }),
        vec(uid(), 0..9).prop_map(|uids| ApiRequest::Route { uids }),
        cluster_request().prop_map(ApiRequest::Cluster),
    ];
    let answer = prop_oneof![
        Just(ApiAnswer::Done),
        Just(ApiAnswer::Busy),
        vec((uid(), flag()), 0..9).prop_map(ApiAnswer::Online),
        any::<(i64, u32)>().prop_map(|(message_id, message_seq)| ApiAnswer::Sent { message_id, message_seq }),
        (messages(), any::<bool>()).prop_map(|(messages, more)| ApiAnswer::Messages { messages, more }),
        vec(user_route(), 0..4).prop_map(ApiAnswer::Routes),
        cluster_status().prop_map(|status| ApiAnswer::Cluster(Box::new(status))),
        (reason(), text()).prop_map(|(reason, text)| ApiAnswer::Refused { reason, text: text.into_string().into() }),
    ];
    prop_oneof![
        (place(), any::<(u64, u64)>(), slot(), request).prop_map(|(place, (ticket, term), slot, request)| Frame::Ask(
            Box::new(Ask { place, ticket, slot, term, request })
        )),
        (any::<u64>(), option::of(answer))
            .prop_map(|(ticket, answer)| Frame::Answered(Box::new(Answered { ticket, answer }))),
    ]
    .boxed()
}

fn socket() -> Any<std::net::SocketAddr> {
    prop_oneof![any::<([u8; 4], u16)>().prop_map(Into::into), any::<([u8; 16], u16)>().prop_map(Into::into)].boxed()
}

fn joined() -> Any<Joined> {
    prop_oneof![
        (any::<(u64, u64)>(), replica()).prop_map(|((cluster, identity), replica)| Joined::Accepted {
            cluster,
            identity,
            replica
        }),
        option::of(socket()).prop_map(|leader| Joined::Elsewhere { leader }),
        text().prop_map(|why| Joined::Refused { why }),
    ]
    .boxed()
}

fn cluster_frame() -> Any<Frame> {
    let leader =
        (slot(), any::<u64>(), option::of(place())).prop_map(|(slot, term, place)| LeaderOf { slot, term, place });
    let addresses = (socket(), text(), text(), text(), text()).prop_map(|(cluster, tcp, ws, wss, http)| Addresses {
        cluster,
        tcp,
        ws,
        wss,
        http,
    });
    let outcome = prop_oneof![
        any::<u64>().prop_map(ProposeOutcome::Applied),
        Just(ProposeOutcome::NotLeader),
        text().prop_map(ProposeOutcome::Refused),
    ];
    let numbers = any::<(u64, u64, bool, u64, u64)>();
    let report = (slot(), numbers, replicas(), replicas(), vec((replica(), any::<u64>()), 0..9)).prop_map(
        |(slot, (epoch, term, joint, committed, bytes), voters, learners, matched)| SlotReport {
            slot,
            epoch,
            term,
            voters,
            learners,
            joint,
            committed,
            matched,
            bytes,
        },
    );
    prop_oneof![
        (vec(leader, 0..9), any::<bool>(), any::<bool>())
            .prop_map(|(known, relay, announced)| Frame::Leaders(Leaders { known, relay, announced })),
        (slot(), place()).prop_map(|(slot, place)| Frame::WhoLeads(WhoLeads { slot, place })),
        (1..=u16::MAX, 1..=u16::MAX, any::<(u64, u64, bool)>(), addresses, text()).prop_map(
            |(node, shards, (identity, boot, belongs), addresses, version)| Frame::Join(Box::new(Join {
                node,
                identity,
                boot,
                shards,
                belongs,
                addresses,
                version
            }))
        ),
        joined().prop_map(|joined| Frame::Joined(Box::new(joined))),
        (place(), any::<u64>(), bytes()).prop_map(|(place, ticket, command)| Frame::Propose(Propose {
            place,
            ticket,
            command
        })),
        (any::<u64>(), outcome).prop_map(|(ticket, outcome)| Frame::Proposed(Proposed { ticket, outcome })),
        (place(), vec(report, 0..4)).prop_map(|(place, reports)| Frame::SlotReports(SlotReports { place, reports })),
        (1..=u16::MAX, any::<(u64, u64, u32, u32, bool)>()).prop_map(
            |(node, (boot, table_version, slots_led, sessions, stopping))| Frame::Alive(Alive {
                node,
                boot,
                table_version,
                slots_led,
                sessions,
                stopping
            })
        ),
    ]
    .boxed()
}

/// Any frame that an honest node sends.
pub fn frame() -> Any<Frame> {
    prop_oneof![submission(), session_frame(), channel_frame(), raft_frame(), api_frame(), cluster_frame()].boxed()
}
