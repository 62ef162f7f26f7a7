//! Who should lead each slot, of those who will hold it: as even as what they hold, over nodes and over the shards of each, and as few
//! changes as that takes. A node with `h` replicas should lead the floor or the ceiling of `h / r` slots, and so should each shard. That
//! can always be had: if each replica led `1 / r` of its slot it would be so exactly, and such a flow has a whole one.
//!
//! ```text
//!  slot ─► one of its places ─(floor, ceiling)─► the place's node ─(floor, ceiling)─► end
//! ```
//! What stands is kept where it can be; then every bound that is broken is mended along a shortest path of exchanges.

use std::collections::VecDeque;

use super::{Holding, NodeShape};
use crate::ids::{Place, ShardId};

/// Bounds of a place or a node, and what it leads.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    least: usize,
    most: usize,
    now: usize,
}

impl Count {
    fn bounds(replicas: usize, per_slot: usize) -> Count {
        Count { least: replicas / per_slot, most: replicas.div_ceil(per_slot), now: 0 }
    }

    fn room(&self) -> i64 {
        self.most as i64 - self.now as i64
    }
}

/// A point of the flow: a place with one slot too many, a node with one too many, or the end, which some other node then has to feed
/// with one less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Place(usize),
    Node(usize),
    End,
}

struct Flow {
    /// By place.
    node_of: Vec<usize>,
    /// By node.
    places_of: Vec<Vec<usize>>,
    places: Vec<Count>,
    nodes: Vec<Count>,
    /// By slot: its places, and who leads.
    holders: Vec<Vec<usize>>,
    leader: Vec<usize>,
    /// By place: what it leads. May name slots that it does not lead any more.
    leads: Vec<Vec<usize>>,
}

/// By row: who should lead. `places` are where each row will be, all equally many and none empty.
pub fn choose(serving: &[NodeShape], places: &[Vec<Place>], rows: &[Holding]) -> Vec<Place> {
    let mut flow = Flow::new(serving, places);
    assert_eq!(places.len(), rows.len(), "each row will be somewhere");
    let mut all = Vec::new();
    for shape in serving {
        all.extend((0..shape.shards).map(|shard| Place { node: shape.node, shard: ShardId(shard) }));
    }
    flow.begin(rows.iter().zip(places).map(|((.., preferred), places)| places.iter().position(|to| to == preferred)));
    flow.mend();
    assert_eq!(flow.nodes.iter().map(|node| node.now).sum::<usize>(), rows.len(), "each slot has one leader");
    flow.leader.iter().map(|place| all[*place]).collect()
}

impl Flow {
    fn new(serving: &[NodeShape], rows: &[Vec<Place>]) -> Flow {
        let mut first = Vec::with_capacity(serving.len());
        let (mut node_of, mut places_of) = (Vec::new(), Vec::new());
        for (node, shape) in serving.iter().enumerate() {
            first.push(node_of.len());
            places_of.push((node_of.len()..node_of.len() + usize::from(shape.shards)).collect());
            node_of.extend((0..shape.shards).map(|_| node));
        }
        let index = |place: &Place| {
            let node = serving.binary_search_by_key(&place.node, |shape| shape.node).unwrap_or(0);
            first[node] + usize::from(place.shard.0)
        };
        let holders: Vec<Vec<usize>> = rows.iter().map(|places| places.iter().map(index).collect()).collect();
        let per_slot = rows.first().map_or(1, |places| places.len().max(1));
        let (mut at_place, mut at_node) = (vec![0; node_of.len()], vec![0; serving.len()]);
        for &place in holders.iter().flatten() {
            at_place[place] += 1;
            at_node[node_of[place]] += 1;
        }
        Flow {
            leads: vec![Vec::new(); node_of.len()],
            leader: vec![0; rows.len()],
            places: at_place.into_iter().map(|count| Count::bounds(count, per_slot)).collect(),
            nodes: at_node.into_iter().map(|count| Count::bounds(count, per_slot)).collect(),
            node_of,
            places_of,
            holders,
        }
    }

    /// Those who lead already go on; the other slots go where there is most room.
    fn begin(&mut self, standing: impl Iterator<Item = Option<usize>>) {
        let mut open = Vec::new();
        for (slot, standing) in standing.enumerate() {
            match standing {
                Some(which) => self.put(slot, self.holders[slot][which]),
                None => open.push(slot),
            }
        }
        for slot in open {
            let room = |place: usize| (self.nodes[self.node_of[place]].room(), self.places[place].room());
            let best = self.holders[slot].iter().copied().max_by_key(|place| (room(*place), usize::MAX - place));
            if let Some(place) = best {
                self.put(slot, place);
            }
        }
    }

    fn put(&mut self, slot: usize, place: usize) {
        self.leader[slot] = place;
        self.leads[place].push(slot);
        self.places[place].now += 1;
        self.nodes[self.node_of[place]].now += 1;
    }

    fn hand_over(&mut self, slot: usize, to: usize) {
        let from = self.leader[slot];
        assert!(from != to && self.holders[slot].contains(&to), "only who holds a slot can lead it");
        self.places[from].now -= 1;
        self.nodes[self.node_of[from]].now -= 1;
        self.put(slot, to);
    }

    fn mend(&mut self) {
        for place in 0..self.places.len() {
            while self.places[place].room() < 0 {
                let home = self.node_of[place];
                let ends = |flow: &Flow, point| matches!(point, Point::Node(node) if node == home || flow.nodes[node].room() > 0);
                if !self.exchange(Point::Place(place), ends) {
                    break;
                }
            }
        }
        for node in 0..self.nodes.len() {
            while self.nodes[node].room() < 0 {
                let ends = |flow: &Flow, point| matches!(point, Point::Node(node) if flow.nodes[node].room() > 0);
                if !self.exchange(Point::Node(node), ends) {
                    break;
                }
            }
        }
        for place in 0..self.places.len() {
            while self.places[place].now < self.places[place].least {
                let home = Point::Node(self.node_of[place]);
                if !self.exchange(home, |_, point| point == Point::Place(place)) {
                    break;
                }
            }
        }
        for node in 0..self.nodes.len() {
            while self.nodes[node].now < self.nodes[node].least {
                if !self.exchange(Point::End, |_, point| point == Point::Node(node)) {
                    break;
                }
            }
        }
    }

    /// Takes the shortest way from the start, which is not where it may end.
    fn exchange(&mut self, start: Point, is_end: impl Fn(&Flow, Point) -> bool) -> bool {
        let (offset, end) = (self.places.len(), self.places.len() + self.nodes.len());
        let index = |point: Point| match point {
            Point::Place(place) => place,
            Point::Node(node) => offset + node,
            Point::End => end,
        };
        // The point before, and the slot handed over on the way, if any. The start is before itself.
        let mut before: Vec<Option<(Point, Option<usize>)>> = vec![None; end + 1];
        let mut queue = VecDeque::from([start]);
        before[index(start)] = Some((start, None));
        let mut next = Vec::new();
        while let Some(point) = queue.pop_front() {
            next.clear();
            self.steps(point, &mut next);
            for &(to, slot) in &next {
                if before[index(to)].is_some() {
                    continue;
                }
                if is_end(self, to) {
                    self.walk_back(point, slot.map(|slot| (slot, to)), &before, index);
                    return true;
                }
                before[index(to)] = Some((point, slot));
                queue.push_back(to);
            }
        }
        false
    }

    fn walk_back(
        &mut self,
        end: Point,
        last: Option<(usize, Point)>,
        before: &[Option<(Point, Option<usize>)>],
        index: impl Fn(Point) -> usize,
    ) {
        let mut handed = Vec::new();
        handed.extend(last);
        let mut point = end;
        while let Some((earlier, slot)) = before[index(point)] {
            handed.extend(slot.map(|slot| (slot, point)));
            if earlier == point {
                break;
            }
            point = earlier;
        }
        for (slot, to) in handed {
            if let Point::Place(place) = to {
                self.hand_over(slot, place);
            }
        }
    }

    fn steps(&self, point: Point, next: &mut Vec<(Point, Option<usize>)>) {
        match point {
            Point::Place(place) => {
                if self.places[place].room() > 0 {
                    next.push((Point::Node(self.node_of[place]), None));
                }
                for &slot in self.leads[place].iter().filter(|slot| self.leader[**slot] == place) {
                    let others = self.holders[slot].iter().filter(|to| **to != place);
                    next.extend(others.map(|to| (Point::Place(*to), Some(slot))));
                }
            }
            Point::Node(node) => {
                let spare = |place: &&usize| self.places[**place].now > self.places[**place].least;
                next.extend(self.places_of[node].iter().filter(spare).map(|place| (Point::Place(*place), None)));
                if self.nodes[node].room() > 0 {
                    next.push((Point::End, None));
                }
            }
            Point::End => {
                let spare = |node: &usize| self.nodes[*node].now > self.nodes[*node].least;
                next.extend((0..self.nodes.len()).filter(spare).map(|node| (Point::Node(node), None)));
            }
        }
    }
}
