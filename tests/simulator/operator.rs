//! What an operator does while everything runs: lets a node join, drains one, asks for splits and merges, replaces one, lets another replica lead,
//! asks for more or fewer replicas. Joining is starting a node that has nothing and knows another's address; the last three are asked
//! of any node over its HTTP API, as the command line does, and may be refused; the rest is a command to whoever leads the metadata group.

use jindou::engine::event::Event;
use jindou::engine::metadata::{MemberState, MetadataCommand};
use jindou::format::cluster_status::ClusterRequest;
use jindou::format::frame::{Frame, Propose};
use jindou::ids::{Place, ShardId};

use crate::world::{Action, HostRef, World};

/// One doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A node that was never there starts.
    Join(usize),
    /// A node is to hold nothing any more.
    Drain(usize),
    /// A node holds its share again.
    Undrain(usize),
    /// A node that is gone for good is to be forgotten.
    Forget(usize),
    /// Every slot becomes two.
    Split,
    /// The slot of this number, modulo all, becomes two.
    SplitOne(usize),
    /// All siblings become one.
    Merge,
    /// The siblings of this number, modulo all, become one.
    MergeOne(usize),
    /// The first node's share is the second's.
    Replace(usize, usize),
    /// The slot of this number, modulo all, is led by this node.
    Transfer(usize, usize),
    /// So many replicas a slot.
    Replicas(u8),
}

impl World {
    /// Plans the next doing.
    pub fn plan_orders(&mut self) {
        let every = self.plan.cluster.order_every;
        if every.is_zero() || self.healed || self.plan.nodes < 2 {
            return;
        }
        let mean_us = every.as_micros() as u64;
        let span = self.chances.outages.span_us(mean_us / 4, mean_us * 7 / 4);
        let absent = self.nodes.iter().position(|node| !node.present);
        let chance = &mut self.chances.outages;
        let some = chance.below(u64::from(self.plan.nodes)) as usize;
        let order = match (absent, chance.below(7)) {
            (Some(absent), 0 | 1) => Order::Join(absent),
            (_, 2) => Order::Drain(some),
            (_, 3) => Order::Split,
            (_, 4) => Order::SplitOne(chance.below(64) as usize),
            (_, 5) => Order::Merge,
            (_, 6) => Order::MergeOne(chance.below(64) as usize),
            _ => Order::Undrain(some),
        };
        let order = if self.plan.cluster.orders_by_api { self.order_by_api().unwrap_or(order) } else { order };
        self.after(span, Action::Operate(order));
    }

    /// In half of the cases one that is asked over the HTTP API.
    fn order_by_api(&mut self) -> Option<Order> {
        let (nodes, has_wipes) = (self.nodes.len() as u64, self.plan.cluster.wipes > 0);
        let chance = &mut self.chances.operator;
        let (node, other) = (chance.below(nodes) as usize, chance.below(nodes) as usize);
        let number = chance.below(64) as usize;
        match chance.below(6) {
            0 => Some(Order::Replace(node, other)),
            1 => Some(Order::Transfer(number, node)),
            // Of two replicas one must not lose its disk: the other is no majority.
            2 => Some(Order::Replicas(if has_wipes { 3 + number as u8 % 3 } else { 2 + number as u8 % 4 })),
            _ => None,
        }
    }

    /// What such an order is to the API, and how it is counted.
    fn request_of(&self, order: Order) -> Option<(ClusterRequest, &'static str)> {
        let id = |node: usize| self.nodes[node].id;
        Some(match order {
            Order::Replace(node, by) => {
                (ClusterRequest::Replace { node: id(node), by: id(by) }, "seen orders to replace")
            }
            Order::Transfer(number, node) => {
                let cluster = self.newest_cluster()?;
                let slot = *cluster.rows.keys().nth(number % cluster.rows.len().max(1))?;
                (ClusterRequest::Transfer { slot, node: id(node) }, "seen orders to transfer")
            }
            Order::Replicas(replicas) => (ClusterRequest::SetReplicas { replicas }, "seen orders of replicas"),
            _ => return None,
        })
    }

    /// Does it.
    pub fn operate(&mut self, order: Order) {
        self.plan_orders();
        if self.healed && !self.scripted {
            return;
        }
        self.say(|| format!("the operator: {order:?}"));
        if let Order::Join(node) = order {
            self.start_node(node);
            self.trouble_strikes();
            return self.coverage.add("seen orders to join", 1);
        }
        if let Order::Split | Order::SplitOne(_) = order {
            let which = if let Order::SplitOne(slot) = order { Some(slot) } else { None };
            self.split(which);
            return self.coverage.add("seen orders to split", 1);
        }
        if let Order::Merge | Order::MergeOne(_) = order {
            let which = if let Order::MergeOne(pair) = order { Some(pair) } else { None };
            self.merge(which);
            return self.coverage.add("seen orders to merge", 1);
        }
        if let Some((request, counted)) = self.request_of(order) {
            self.trouble_strikes();
            self.ask_as_operator(request);
            return self.coverage.add(counted, 1);
        }
        match self.command_of(order) {
            Some(command) => {
                self.trouble_strikes();
                self.propose(&command);
            }
            None => self.coverage.add("seen orders that no command exists for", 1),
        }
    }

    /// Whoever leads the metadata group takes it; the others send it back.
    pub fn propose(&mut self, command: &MetadataCommand) {
        for node in 0..self.nodes.len() {
            let place = Place { node: self.nodes[node].id, shard: ShardId(0) };
            let propose = Propose { place, ticket: 0, command: command.encode().into() };
            if self.nodes[node].up {
                let frames = vec![Frame::Propose(propose)];
                self.happen(HostRef { node, shard: 0 }, Event::Frames { from: place, frames });
            }
        }
    }

    fn command_of(&self, order: Order) -> Option<MetadataCommand> {
        let state = |node: usize, state| MetadataCommand::SetMemberState { node: self.nodes[node].id, state };
        match order {
            Order::Drain(node) => Some(state(node, MemberState::Draining)),
            Order::Undrain(node) => Some(state(node, MemberState::Serving)),
            Order::Forget(node) => Some(MetadataCommand::RemoveMember { node: self.nodes[node].id }),
            Order::Join(_) | Order::Split | Order::SplitOne(_) | Order::Merge | Order::MergeOne(_) => None,
            Order::Replace(..) | Order::Transfer(..) | Order::Replicas(_) => None,
        }
    }
}
