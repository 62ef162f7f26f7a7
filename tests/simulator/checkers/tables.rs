//! What the metadata group has agreed on never forks, and no process sees it go back: a version names one state.

use std::collections::BTreeMap;
use std::sync::Arc;

use jindou::engine::metadata::Cluster;

/// States by version, and how far each process is.
#[derive(Default)]
pub struct Tables {
    states: BTreeMap<u64, Arc<Cluster>>,
    seen: BTreeMap<usize, (u64, u64)>,
}

impl Tables {
    /// The latest that anybody has ever known.
    pub fn newest(&self) -> Option<&Arc<Cluster>> {
        self.states.last_key_value().map(|(_, cluster)| cluster)
    }

    /// A node's process knows this now.
    pub fn known(&mut self, node: usize, life: u64, cluster: &Arc<Cluster>) -> Result<(), String> {
        let version = cluster.version;
        let before = self.seen.insert(node, (life, version));
        if let Some((_, older)) = before.filter(|(known, older)| *known == life && *older > version) {
            return Err(format!("node {node} goes back from version {older} of the cluster to {version}"));
        }
        let known = self.states.entry(version).or_insert_with(|| Arc::clone(cluster));
        if known == cluster {
            return Ok(());
        }
        Err(format!("version {version} of the cluster is {known:?}, and for node {node} {cluster:?}"))
    }
}
