//! Who should hold what: from the nodes and what they hold now, the moves that make it even. The same question always has the same
//! answer, and asking again after the answer was carried out asks for nothing. When and in which order is [`super::steward`]'s
//! affair; who leads is `leaders`'.
//!
//! What is promised, with `r = min(wanted, serving nodes)`:
//! * A slot has `r` replicas, on different serving nodes.
//! * A node's replicas are the floor or the ceiling of its share, which goes by its shards (but no node has a slot twice: what one cannot
//!   take, the others share). So with equal nodes any two differ by at most one. A node's shards differ by at most one.
//! * A join moves at most `ceil(slots × r / nodes)` replicas among equal nodes, all towards the newcomer; a drain or a death moves what
//!   was there. In general hardly more moves than the least possible: a test over drawn histories holds it below one in a hundred.
//!
//! ```text
//!  shares ─► trim (too many replicas) ─► fill (too few) ─► even out (paths from nodes above to nodes below their share) ─► shards
//! ```
//! One loop per step, each bounded by the replicas there are. Finding a path is a search over nodes; there always is one, since shares
//! that sum up to what is needed, none above the number of slots, can be dealt out.

mod leaders;
#[cfg(test)]
mod tests;

use super::metadata::MemberState;
use crate::ids::{NodeId, Place, ShardId, SlotId};

/// What matters of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeShape {
    /// Which.
    pub node: NodeId,
    /// Its share is proportional to this; at least 1.
    pub shards: u16,
    /// Only serving nodes hold anything.
    pub state: MemberState,
}

/// What is to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By slot, ascending.
    pub moves: Vec<Move>,
    /// Who should lead instead, once the moves are done; by slot, ascending.
    pub prefer: Vec<(SlotId, Place)>,
}

/// One slot is to be elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub slot: SlotId,
    /// Everywhere that it is to be, what stays first.
    pub to: Vec<Place>,
}

/// A slot as it is: its places and who should lead it.
pub type Holding = (SlotId, Vec<Place>, Place);

/// Who should hold what. Empty when no node is serving.
#[must_use]
pub fn plan(nodes: &[NodeShape], rows: &[Holding], replicas_wanted: u8) -> Plan {
    let mut serving: Vec<NodeShape> =
        nodes.iter().filter(|shape| shape.state == MemberState::Serving && shape.shards > 0).copied().collect();
    serving.sort_by_key(|shape| shape.node);
    serving.dedup_by_key(|shape| shape.node);
    let replicas = usize::from(replicas_wanted).min(serving.len());
    if replicas == 0 || rows.is_empty() {
        return Plan::default();
    }
    let mut board = Board::new(&serving, rows);
    board.set_quotas(&serving, rows.len(), replicas);
    board.trim(replicas);
    board.fill(replicas);
    board.even_out();
    board.choose_shards();
    let places = board.places(&serving);
    assert!(places.iter().all(|places| places.len() == replicas), "each slot has as many as it should");
    let led = leaders::choose(&serving, &places, rows);
    let mut plan = Plan::default();
    for (index, (slot, current, preferred)) in rows.iter().enumerate() {
        let to = &places[index];
        if to.len() != current.len() || !to.iter().all(|place| current.contains(place)) {
            plan.moves.push(Move { slot: *slot, to: to.clone() });
        }
        if led[index] != *preferred {
            plan.prefer.push((*slot, led[index]));
        }
    }
    plan.moves.sort_by_key(|one| one.slot);
    plan.prefer.sort_by_key(|one| one.0);
    plan
}

/// Shares in whole replicas: `slots × replicas` in proportion to the shards, none above `slots`. Of the shares that are not whole, those
/// are rounded up whose nodes have more than the floor already, so that rounding moves nothing.
fn quotas(serving: &[NodeShape], load: &[usize], slots: usize, replicas: usize) -> Vec<usize> {
    let weight = |node: usize| u64::from(serving[node].shards);
    let (slots, mut left) = (slots as u64, (slots * replicas) as u64);
    let mut quotas = vec![0u64; serving.len()];
    let mut open: Vec<usize> = (0..serving.len()).collect();
    let mut weights: u64 = open.iter().map(|node| weight(*node)).sum();
    loop {
        let full: Vec<usize> = open.iter().copied().filter(|node| left * weight(*node) >= slots * weights).collect();
        if full.is_empty() {
            break;
        }
        open.retain(|node| !full.contains(node));
        for node in full {
            quotas[node] = slots.min(left);
            left -= quotas[node];
            weights -= weight(node);
        }
    }
    if open.is_empty() {
        return quotas.into_iter().map(|quota| quota as usize).collect();
    }
    let mut uneven = Vec::new();
    let mut spare = left;
    for node in open {
        let exact = left * weight(node);
        (quotas[node], spare) = (exact / weights, spare - exact / weights);
        if exact % weights > 0 {
            let above = load[node] as u64 > quotas[node];
            uneven.push((!above, weights - exact % weights, node));
        }
    }
    uneven.sort_unstable();
    assert!(spare as usize <= uneven.len(), "what rounding down left over is less than one each");
    for (.., node) in uneven.into_iter().take(spare as usize) {
        quotas[node] += 1;
    }
    quotas.into_iter().map(|quota| quota as usize).collect()
}

/// A replica: on which node (by index), on which shard.
#[derive(Clone, Copy, Debug)]
struct Held {
    node: usize,
    /// `None`: it comes here by this plan, and its shard is chosen last.
    shard: Option<usize>,
}

struct Board {
    /// By slot's index.
    held: Vec<Vec<Held>>,
    /// By node and shard, and behind the shards those that come: slots that are there. May name slots that have left; whoever meets
    /// one drops it.
    lists: Vec<Vec<Vec<usize>>>,
    /// By node and shard: how many stay.
    stay: Vec<Vec<usize>>,
    load: Vec<usize>,
    quota: Vec<usize>,
}

impl Board {
    fn new(serving: &[NodeShape], rows: &[Holding]) -> Board {
        let mut board = Board {
            held: vec![Vec::new(); rows.len()],
            lists: serving.iter().map(|shape| vec![Vec::new(); usize::from(shape.shards) + 1]).collect(),
            stay: serving.iter().map(|shape| vec![0; usize::from(shape.shards)]).collect(),
            load: vec![0; serving.len()],
            quota: Vec::new(),
        };
        for (slot, (_, current, _)) in rows.iter().enumerate() {
            for place in current {
                let Ok(node) = serving.binary_search_by_key(&place.node, |shape| shape.node) else { continue };
                if place.shard.0 < serving[node].shards && !board.holds(slot, node) {
                    board.put(slot, Held { node, shard: Some(usize::from(place.shard.0)) });
                }
            }
        }
        board
    }

    fn set_quotas(&mut self, serving: &[NodeShape], slots: usize, replicas: usize) {
        self.quota = quotas(serving, &self.load, slots, replicas);
        assert_eq!(self.quota.iter().sum::<usize>(), slots * replicas, "the shares are everything");
    }

    fn holds(&self, slot: usize, node: usize) -> bool {
        self.held[slot].iter().any(|held| held.node == node)
    }

    fn is_in_list(&self, slot: usize, node: usize, list: usize) -> bool {
        let comes = self.lists[node].len() - 1;
        self.held[slot].iter().any(|held| held.node == node && held.shard.unwrap_or(comes) == list)
    }

    fn put(&mut self, slot: usize, held: Held) {
        assert!(!self.holds(slot, held.node), "no node has a slot twice");
        let comes = self.stay[held.node].len();
        self.held[slot].push(held);
        self.lists[held.node][held.shard.unwrap_or(comes)].push(slot);
        self.load[held.node] += 1;
        if let Some(shard) = held.shard {
            self.stay[held.node][shard] += 1;
        }
    }

    fn take(&mut self, slot: usize, node: usize) {
        let Some(at) = self.held[slot].iter().position(|held| held.node == node) else { return };
        let held = self.held[slot].remove(at);
        self.load[node] -= 1;
        if let Some(shard) = held.shard {
            self.stay[node][shard] -= 1;
        }
    }

    fn above(&self, node: usize) -> i64 {
        self.load[node] as i64 - self.quota[node] as i64
    }

    /// Replicas beyond the number leave the fullest nodes, and there the fullest shards.
    fn trim(&mut self, replicas: usize) {
        for slot in 0..self.held.len() {
            while self.held[slot].len() > replicas {
                let fullest = self.held[slot].iter().max_by_key(|held| {
                    let on_shard = held.shard.map_or(0, |shard| self.stay[held.node][shard]);
                    (self.above(held.node), on_shard, held.node)
                });
                let Some(node) = fullest.map(|held| held.node) else { break };
                self.take(slot, node);
            }
        }
    }

    /// Missing replicas come to the nodes that lack most, the slots with the fewest first.
    fn fill(&mut self, replicas: usize) {
        for has in 0..replicas {
            for slot in 0..self.held.len() {
                if self.held[slot].len() != has {
                    continue;
                }
                let free = (0..self.load.len()).filter(|node| !self.holds(slot, *node));
                if let Some(node) = free.min_by_key(|node| (self.above(*node), *node)) {
                    self.put(slot, Held { node, shard: None });
                }
            }
        }
    }

    /// From nodes above their share to nodes below it: by what this plan brought if that will do, else straight, else in steps.
    fn even_out(&mut self) {
        for node in 0..self.load.len() {
            while self.above(node) > 0 {
                if self.path(node, true) || self.straight(node) || self.path(node, false) {
                    continue;
                }
                debug_assert!(false, "shares that sum up can be dealt out");
                break;
            }
        }
    }

    fn give(&mut self, slot: usize, from: usize, to: usize) {
        self.take(slot, from);
        self.put(slot, Held { node: to, shard: None });
    }

    /// One replica of the fullest shard goes to the node that lacks most.
    fn straight(&mut self, from: usize) -> bool {
        let mut lacking: Vec<usize> = (0..self.load.len()).filter(|node| self.above(*node) < 0).collect();
        lacking.sort_by_key(|node| (self.above(*node), *node));
        let mut shards: Vec<usize> = (0..self.stay[from].len()).collect();
        shards.sort_by_key(|shard| (std::cmp::Reverse(self.stay[from][*shard]), *shard));
        for shard in shards {
            let mut at = self.lists[from][shard].len();
            while at > 0 {
                at -= 1;
                let slot = self.lists[from][shard][at];
                if !self.is_in_list(slot, from, shard) {
                    self.lists[from][shard].swap_remove(at);
                    continue;
                }
                if let Some(to) = lacking.iter().copied().find(|to| !self.holds(slot, *to)) {
                    self.lists[from][shard].swap_remove(at);
                    self.give(slot, from, to);
                    return true;
                }
            }
        }
        false
    }

    /// The shortest way over several nodes; with `coming` only by replicas that this plan brought, which costs nothing.
    fn path(&mut self, from: usize, coming: bool) -> bool {
        let nodes = self.load.len();
        // The node before, and the slot that goes from it.
        let mut before: Vec<Option<(usize, usize)>> = vec![None; nodes];
        let mut queue = std::collections::VecDeque::from([from]);
        let mut unseen: Vec<usize> = (0..nodes).filter(|node| *node != from).collect();
        while let Some(node) = queue.pop_front() {
            let comes = self.lists[node].len() - 1;
            for list in if coming { comes..=comes } else { 0..=comes } {
                for &slot in &self.lists[node][list] {
                    if unseen.is_empty() {
                        break;
                    }
                    if !self.is_in_list(slot, node, list) {
                        continue;
                    }
                    let free = unseen.iter().copied().filter(|to| !self.holds(slot, *to));
                    let reached: Vec<usize> = free.collect();
                    unseen.retain(|to| !reached.contains(to));
                    for &to in &reached {
                        before[to] = Some((node, slot));
                    }
                    if let Some(&end) = reached.iter().find(|to| self.above(**to) < 0) {
                        self.walk_back(end, &before);
                        return true;
                    }
                    queue.extend(reached);
                }
            }
        }
        false
    }

    fn walk_back(&mut self, end: usize, before: &[Option<(usize, usize)>]) {
        assert!(self.above(end) < 0, "a path ends where something is lacking");
        let mut to = end;
        while let Some((node, slot)) = before[to] {
            self.give(slot, node, to);
            to = node;
        }
    }

    /// What comes goes to the emptiest shard of its node; should what stays be uneven by itself, it is evened out.
    fn choose_shards(&mut self) {
        let mut coming = vec![Vec::new(); self.load.len()];
        for (slot, held) in self.held.iter().enumerate() {
            for one in held.iter().filter(|one| one.shard.is_none()) {
                coming[one.node].push(slot);
            }
        }
        for (node, slots) in coming.into_iter().enumerate() {
            for slot in slots {
                let shard = emptiest(&self.stay[node]);
                self.set_shard(slot, node, shard);
            }
            loop {
                let to = emptiest(&self.stay[node]);
                let counts = self.stay[node].iter().enumerate();
                let Some((from, most)) = counts.max_by_key(|(shard, count)| (**count, usize::MAX - shard)) else {
                    break;
                };
                if *most <= self.stay[node][to] + 1 {
                    break;
                }
                let there = |held: &Vec<Held>| held.iter().any(|one| one.node == node && one.shard == Some(from));
                let Some(slot) = self.held.iter().position(there) else { break };
                self.stay[node][from] -= 1;
                self.set_shard(slot, node, to);
            }
        }
    }

    fn set_shard(&mut self, slot: usize, node: usize, shard: usize) {
        for held in self.held[slot].iter_mut().filter(|held| held.node == node) {
            held.shard = Some(shard);
            self.stay[node][shard] += 1;
        }
    }

    fn places(&self, serving: &[NodeShape]) -> Vec<Vec<Place>> {
        let place =
            |held: &Held| Place { node: serving[held.node].node, shard: ShardId(held.shard.unwrap_or(0) as u16) };
        self.held.iter().map(|held| held.iter().map(place).collect()).collect()
    }
}

fn emptiest(counts: &[usize]) -> usize {
    let fewest = counts.iter().enumerate().min_by_key(|(shard, count)| (**count, *shard));
    fewest.map_or(0, |(shard, _)| shard)
}
