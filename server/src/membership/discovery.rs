//! A coordinator that looks for its workers by itself, by a list of addresses or by names that have many.
//!
//! What it finds goes into the registry, as workers that register do: there they are live as long as they answer. A
//! worker whose address is gone from its name is asked no more, and counts as lost as one that is silent does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use sheaf_common::config::{HostPort, Role};
use sheaf_common::{ErrorCode, WireError};
use sheaf_flight::messages::WorkerInfo;
use sheaf_flight::{FlightClient, WorkerAddress};
use tracing::{debug, warn};

use super::places::Places;
use super::{Node, Registry};

/// How often each place is asked.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// A worker that does not answer by then is asked again the next time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps the workers at these places in the registry, without end.
pub async fn discover_workers(registry: Arc<Registry>, client: Arc<FlightClient>, places: Places) {
    loop {
        let found = places.look_up().await;
        join_all(found.iter().map(|place| ask(&registry, &client, place))).await;
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn ask(registry: &Registry, client: &FlightClient, place: &HostPort) {
    let address = WorkerAddress { node: String::new(), host: place.host.clone(), port: place.port };
    let answer = client.worker_info(&address, ANSWER_TIMEOUT).await;
    let found = answer.and_then(|info| Ok((node_of(&info, place)?, info.draining)));
    let (node, draining) = match found {
        Ok(found) => found,
        Err(error) => {
            debug!(%place, error = %error.message, "no worker answers at a place that was given");
            return;
        }
    };
    if node.name == registry.own().name {
        return;
    }
    let now = Instant::now();
    if registry.heartbeat(&node.name, node.incarnation, draining, now) {
        return;
    }
    if let Err(error) = registry.join(node, now) {
        warn!(%place, %error, "a worker that was found cannot be taken");
    }
}

fn node_of(info: &WorkerInfo, place: &HostPort) -> Result<Node, WireError> {
    let id = info.node.rsplit_once('#');
    let id = id.and_then(|(name, incarnation)| Some((name, u64::from_str_radix(incarnation, 16).ok()?)));
    let Some((name, incarnation)) = id else {
        let text = format!("worker {place} says that it is {:?}, which is no node", info.node);
        return Err(WireError::new(ErrorCode::InvalidArgument, text));
    };
    Ok(Node {
        name: name.to_owned(),
        incarnation,
        host: place.host.clone(),
        port: place.port,
        cores: info.cores as usize,
        memory_bytes: info.memory_limit_bytes,
        role: Role::Worker.to_string(),
        version: info.version.clone(),
    })
}
