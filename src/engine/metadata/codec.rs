//! Commands and the whole state as bytes: what goes into the metadata group's log, its checkpoints and snapshots. Both begin with a
//! version; numbers are LEB128, texts and lists have their length in front. There is no checksum: logs, checkpoints and links have
//! theirs. Whatever the bytes, the answer is a value or an error; a state that comes from bytes has passed [`Cluster::fault`].

use crate::format::frame::Addresses;
use crate::ids::{NodeId, Place, ReplicaId, ShardId, SlotId};

use super::{
    ADDRESS_BYTES_MAX, BadMetadata, Cluster, Member, MemberState, MetadataCommand, NAME_BYTES_MAX, NewMember, Reshape,
    SlotRow,
};

const COMMAND_VERSION: u8 = 1;
const STATE_VERSION: u8 = 1;

/// Marks of a row.
const FOUNDED: u8 = 1;
const SETTLING: u8 = 2;

const TRUNCATED: BadMetadata = BadMetadata("the bytes end too early, or a length is wrong");
const NUMBER: BadMetadata = BadMetadata("a number is out of range");
const TEXT: BadMetadata = BadMetadata("a text is too long or not UTF-8");
const ADDRESS: BadMetadata = BadMetadata("an address is none");
const TAG: BadMetadata = BadMetadata("it names something that this program does not know");

impl MetadataCommand {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Output(vec![COMMAND_VERSION]);
        match self {
            MetadataCommand::Found { id, name, replicas_wanted, slot_depth, member } => {
                out.tag(1).number(*id).text(name).number(*replicas_wanted).number(*slot_depth).member(member);
            }
            MetadataCommand::AddMember(member) => {
                out.tag(2).member(member);
            }
            MetadataCommand::SetMemberState { node, state } => {
                out.tag(3).number(node.0).tag(state_tag(*state));
            }
            MetadataCommand::RemoveMember { node } => {
                out.tag(4).number(node.0);
            }
            MetadataCommand::SetTargets { moves } => {
                out.tag(5).list(moves, |out, (slot, epoch, places)| {
                    out.number(slot.0).number(*epoch).list(places, |out, place| {
                        out.place(*place);
                    });
                });
            }
            MetadataCommand::Settled { slot, epoch, voters } => {
                out.tag(6).number(slot.0).number(*epoch).replicas(voters);
            }
            MetadataCommand::CancelTarget { slot, epoch } => {
                out.tag(7).number(slot.0).number(*epoch);
            }
            MetadataCommand::Prefer { choices } => {
                out.tag(8).list(choices, |out, (slot, replica)| {
                    out.number(slot.0).replica(*replica);
                });
            }
            MetadataCommand::SetReplicasWanted { replicas } => {
                out.tag(9).number(*replicas);
            }
            MetadataCommand::Rename { name } => {
                out.tag(16).text(name);
            }
            reshaping => reshaping.encode_reshaping(&mut out),
        }
        out.0
    }

    fn encode_reshaping(&self, out: &mut Output) {
        match self {
            MetadataCommand::Split { slots } => {
                out.tag(10).list(slots, |out, (slot, epoch)| {
                    out.number(slot.0).number(*epoch);
                });
            }
            MetadataCommand::SplitDone { slot, plan } => {
                out.tag(11).number(slot.0).number(*plan);
            }
            MetadataCommand::Merge { slots } => {
                out.tag(12).list(slots, |out, (slot, low, high)| {
                    out.number(slot.0).number(*low).number(*high);
                });
            }
            MetadataCommand::MergeBegin { slots } => {
                out.tag(13).list(slots, |out, (slot, plan)| {
                    out.number(slot.0).number(*plan);
                });
            }
            MetadataCommand::MergeDone { slot, plan } => {
                out.tag(14).number(slot.0).number(*plan);
            }
            MetadataCommand::MergeDigested { slot, plan, replica } => {
                out.tag(15).number(slot.0).number(*plan).replica(*replica);
            }
            _ => debug_assert!(false, "the caller encodes the others"),
        }
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are no command of this version.
    pub fn decode(bytes: &[u8]) -> Result<MetadataCommand, BadMetadata> {
        let mut input = Input { bytes };
        if input.byte()? != COMMAND_VERSION {
            return Err(BadMetadata("it is a command of another version"));
        }
        let command = match input.byte()? {
            1 => MetadataCommand::Found {
                id: input.number()?,
                name: input.text(NAME_BYTES_MAX)?,
                replicas_wanted: input.small()?,
                slot_depth: input.small()?,
                member: input.member()?,
            },
            2 => MetadataCommand::AddMember(input.member()?),
            3 => MetadataCommand::SetMemberState { node: NodeId(input.small()?), state: input.state()? },
            4 => MetadataCommand::RemoveMember { node: NodeId(input.small()?) },
            5 => MetadataCommand::SetTargets {
                moves: input.list(|input| Ok((input.slot()?, input.number()?, input.list(Input::place)?)))?,
            },
            6 => MetadataCommand::Settled { slot: input.slot()?, epoch: input.number()?, voters: input.replicas()? },
            7 => MetadataCommand::CancelTarget { slot: input.slot()?, epoch: input.number()? },
            8 => MetadataCommand::Prefer { choices: input.list(|input| Ok((input.slot()?, input.replica()?)))? },
            9 => MetadataCommand::SetReplicasWanted { replicas: input.small()? },
            10 => MetadataCommand::Split { slots: input.list(|input| Ok((input.slot()?, input.number()?)))? },
            11 => MetadataCommand::SplitDone { slot: input.slot()?, plan: input.number()? },
            12 => MetadataCommand::Merge {
                slots: input.list(|input| Ok((input.slot()?, input.number()?, input.number()?)))?,
            },
            13 => MetadataCommand::MergeBegin { slots: input.list(|input| Ok((input.slot()?, input.number()?)))? },
            14 => MetadataCommand::MergeDone { slot: input.slot()?, plan: input.number()? },
            15 => {
                MetadataCommand::MergeDigested { slot: input.slot()?, plan: input.number()?, replica: input.replica()? }
            }
            16 => MetadataCommand::Rename { name: input.text(NAME_BYTES_MAX)? },
            _ => return Err(TAG),
        };
        input.end()?;
        Ok(command)
    }
}

impl Cluster {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Output(Vec::with_capacity(64 + 24 * self.rows.len()));
        out.tag(STATE_VERSION).number(self.id).text(&self.name).number(self.version);
        out.number(self.replicas_wanted).number(self.next_replica);
        out.number(self.members.len() as u64);
        for (node, member) in &self.members {
            out.number(node.0).number(member.identity).number(member.since).number(member.shards);
            out.addresses(&member.addresses).replica(member.metadata_replica).tag(state_tag(member.state));
        }
        out.number(self.rows.len() as u64);
        for (slot, row) in &self.rows {
            out.number(slot.0).number(row.depth).number(row.epoch).replicas(&row.replicas).replica(row.preferred);
            match &row.target {
                None => out.tag(0),
                Some(target) => out.tag(1).replicas(target),
            };
            out.tag(if row.founded { FOUNDED } else { 0 } | if row.settling { SETTLING } else { 0 });
            match &row.reshape {
                None => out.tag(0),
                Some(Reshape::Split { plan, child, replicas }) => {
                    out.tag(1).number(*plan).number(child.0).replicas(replicas)
                }
                Some(Reshape::Absorb { plan, sibling, gathered }) => {
                    out.tag(2).number(*plan).number(sibling.0).tag(u8::from(*gathered))
                }
                Some(Reshape::Yield { plan, sibling, gathered }) => {
                    out.tag(3).number(*plan).number(sibling.0).tag(u8::from(*gathered))
                }
                Some(Reshape::Digest { plan, sibling, replicas, waits }) => {
                    out.tag(4).number(*plan).number(sibling.0).replicas(replicas).replicas(waits)
                }
            };
        }
        out.0
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are no state of this version, or one that does not add up.
    pub fn decode(bytes: &[u8]) -> Result<Cluster, BadMetadata> {
        let mut input = Input { bytes };
        if input.byte()? != STATE_VERSION {
            return Err(BadMetadata("it is a state of another version"));
        }
        let mut cluster = Cluster {
            id: input.number()?,
            name: input.text(NAME_BYTES_MAX)?,
            version: input.number()?,
            replicas_wanted: input.small()?,
            next_replica: input.small()?,
            ..Cluster::default()
        };
        let members = input.list(|input| Ok((NodeId(input.small()?), input.agreed_member()?)))?;
        let rows = input.list(|input| Ok((input.slot()?, input.row()?)))?;
        input.end()?;
        let counts = (members.len(), rows.len());
        cluster.members.extend(members);
        cluster.rows.extend(rows);
        if counts != (cluster.members.len(), cluster.rows.len()) {
            return Err(BadMetadata("a member or a slot is there twice"));
        }
        cluster.fault().map_or(Ok(cluster), |fault| Err(BadMetadata(fault)))
    }
}

fn state_tag(state: MemberState) -> u8 {
    match state {
        MemberState::Serving => 0,
        MemberState::Draining => 1,
        MemberState::Dead => 2,
    }
}

struct Output(Vec<u8>);

impl Output {
    fn tag(&mut self, tag: u8) -> &mut Output {
        self.0.push(tag);
        self
    }

    fn number(&mut self, number: impl Into<u64>) -> &mut Output {
        let mut number = number.into();
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.tag(number as u8)
    }

    fn text(&mut self, text: &str) -> &mut Output {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn list<T>(&mut self, items: &[T], mut one: impl FnMut(&mut Output, &T)) -> &mut Output {
        self.number(items.len() as u64);
        items.iter().for_each(|item| one(self, item));
        self
    }

    fn place(&mut self, place: Place) -> &mut Output {
        self.number(place.node.0).number(place.shard.0)
    }

    fn replica(&mut self, replica: ReplicaId) -> &mut Output {
        self.place(replica.place()).number(replica.number())
    }

    fn replicas(&mut self, replicas: &[ReplicaId]) -> &mut Output {
        self.list(replicas, |out, replica| {
            out.replica(*replica);
        })
    }

    fn addresses(&mut self, addresses: &Addresses) -> &mut Output {
        let Addresses { cluster, tcp, ws, wss, http } = addresses;
        self.text(&cluster.to_string()).text(tcp).text(ws).text(wss).text(http)
    }

    fn member(&mut self, member: &NewMember) -> &mut Output {
        let NewMember { node, identity, shards, addresses } = member;
        self.number(node.0).number(*identity).number(*shards).addresses(addresses)
    }
}

struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BadMetadata> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(TRUNCATED)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, BadMetadata> {
        self.take(1).map(|taken| taken[0])
    }

    fn number(&mut self) -> Result<u64, BadMetadata> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return Err(NUMBER);
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(NUMBER)
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Result<T, BadMetadata> {
        T::try_from(self.number()?).map_err(|_| NUMBER)
    }

    /// Each item takes at least a byte, so a wrong count cannot ask for much memory.
    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> Result<T, BadMetadata>) -> Result<Vec<T>, BadMetadata> {
        let count: usize = self.small()?;
        if count > self.bytes.len() {
            return Err(TRUNCATED);
        }
        (0..count).map(|_| one(self)).collect()
    }

    fn text(&mut self, bytes_max: usize) -> Result<Box<str>, BadMetadata> {
        let length: usize = self.small()?;
        if length > bytes_max {
            return Err(TEXT);
        }
        std::str::from_utf8(self.take(length)?).map(Box::from).map_err(|_| TEXT)
    }

    fn slot(&mut self) -> Result<SlotId, BadMetadata> {
        self.small().map(SlotId)
    }

    fn place(&mut self) -> Result<Place, BadMetadata> {
        Ok(Place { node: NodeId(self.small()?), shard: ShardId(self.small()?) })
    }

    fn replica(&mut self) -> Result<ReplicaId, BadMetadata> {
        Ok(ReplicaId::new(self.place()?, self.small()?))
    }

    fn replicas(&mut self) -> Result<Vec<ReplicaId>, BadMetadata> {
        self.list(Input::replica)
    }

    fn addresses(&mut self) -> Result<Addresses, BadMetadata> {
        Ok(Addresses {
            cluster: self.text(ADDRESS_BYTES_MAX)?.parse().map_err(|_| ADDRESS)?,
            tcp: self.text(ADDRESS_BYTES_MAX)?,
            ws: self.text(ADDRESS_BYTES_MAX)?,
            wss: self.text(ADDRESS_BYTES_MAX)?,
            http: self.text(ADDRESS_BYTES_MAX)?,
        })
    }

    fn member(&mut self) -> Result<NewMember, BadMetadata> {
        Ok(NewMember {
            node: NodeId(self.small()?),
            identity: self.number()?,
            shards: self.small()?,
            addresses: self.addresses()?,
        })
    }

    fn state(&mut self) -> Result<MemberState, BadMetadata> {
        match self.byte()? {
            0 => Ok(MemberState::Serving),
            1 => Ok(MemberState::Draining),
            2 => Ok(MemberState::Dead),
            _ => Err(TAG),
        }
    }

    fn agreed_member(&mut self) -> Result<Member, BadMetadata> {
        Ok(Member {
            identity: self.number()?,
            since: self.small()?,
            shards: self.small()?,
            addresses: self.addresses()?,
            metadata_replica: self.replica()?,
            state: self.state()?,
        })
    }

    fn flag(&mut self) -> Result<bool, BadMetadata> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(TAG),
        }
    }

    fn row(&mut self) -> Result<SlotRow, BadMetadata> {
        let (depth, epoch) = (self.small()?, self.number()?);
        let (replicas, preferred) = (self.replicas()?, self.replica()?);
        let target = if self.flag()? { Some(self.replicas()?) } else { None };
        let marks = self.byte()?;
        if marks > (FOUNDED | SETTLING) {
            return Err(TAG);
        }
        let (founded, settling) = (marks & FOUNDED != 0, marks & SETTLING != 0);
        Ok(SlotRow { depth, epoch, replicas, preferred, target, founded, settling, reshape: self.reshape()? })
    }

    fn reshape(&mut self) -> Result<Option<Reshape>, BadMetadata> {
        let tag = self.byte()?;
        if tag == 0 {
            return Ok(None);
        }
        let (plan, slot) = (self.number()?, self.slot()?);
        Ok(Some(match tag {
            1 => Reshape::Split { plan, child: slot, replicas: self.replicas()? },
            2 => Reshape::Absorb { plan, sibling: slot, gathered: self.flag()? },
            3 => Reshape::Yield { plan, sibling: slot, gathered: self.flag()? },
            4 => Reshape::Digest { plan, sibling: slot, replicas: self.replicas()?, waits: self.replicas()? },
            _ => return Err(TAG),
        }))
    }

    fn end(&self) -> Result<(), BadMetadata> {
        if self.bytes.is_empty() { Ok(()) } else { Err(BadMetadata("there are bytes behind the end")) }
    }
}
