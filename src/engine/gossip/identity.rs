//! Who takes part in the gossip, as foca wants to know it, and the one stream of chance that foca draws from. Decides
//! nothing about liveness.

use std::convert::Infallible;
use std::net::SocketAddr;

use rand_core::TryRng;

use crate::engine::chance::Chance;
use crate::ids::NodeId;

/// One process of one node. A node that was declared down by mistake comes back with the next `renewal`; a node that was
/// started again comes back with a higher `boot`. Of two identities of one node the later wins everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node; 0 stands for "whoever listens there" and is only seen as the destination of an announcement.
    pub node: NodeId,
    /// Which process; must grow from start to start.
    pub boot: u64,
    /// How often this process had to take a new identity.
    pub renewal: u32,
    /// Where its gossip socket listens.
    pub address: SocketAddr,
}

impl Identity {
    /// An identity to address a node by of which no more is known.
    #[must_use]
    pub fn unknown(node: NodeId, address: SocketAddr) -> Identity {
        Identity { node, boot: 0, renewal: 0, address }
    }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Identity> {
        Some(Identity { renewal: self.renewal.checked_add(1)?, ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Identity) -> bool {
        let rank = |identity: &Identity| (identity.boot, identity.renewal, identity.address);
        rank(self) > rank(adversary)
    }
}

/// Lets foca draw from our chance.
#[derive(Debug)]
pub struct Draws(pub Chance);

impl TryRng for Draws {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.number() as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.number())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.0.number().to_le_bytes()[..part.len()]);
        }
        Ok(())
    }
}
