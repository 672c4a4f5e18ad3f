//! A coordinator's standing question to each of its workers. It is answered when the worker stops, and fails at once when
//! the worker's process is gone: long before its heartbeats are missed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use sheaf_flight::FlightClient;
use tokio::task::JoinSet;

use super::actions::address;
use super::messages::{WATCH, WatchRequest};
use super::{Node, Registry};

/// The question is asked anew after so long.
const ASK_EVERY: Duration = Duration::from_secs(3600);

/// Watches all workers that the registry counts as live, without end; those that are gone are reported to it.
pub async fn watch_workers(registry: Arc<Registry>, client: Arc<FlightClient>) {
    let mut view = registry.watch();
    let mut watched: HashSet<String> = HashSet::new();
    let mut watches: JoinSet<String> = JoinSet::new();
    loop {
        view.mark_unchanged();
        for node in registry.watched() {
            if watched.insert(node.id()) {
                watches.spawn(watch(registry.clone(), client.clone(), node));
            }
        }
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return },
            Some(Ok(ended)) = watches.join_next() => { watched.remove(&ended); }
        }
    }
}

/// Until the worker is not live any more. Returns whom it watched.
async fn watch(registry: Arc<Registry>, client: Arc<FlightClient>, node: Node) -> String {
    let id = node.id();
    let body = Bytes::from(WatchRequest { incarnation: node.incarnation }.encode_to_vec());
    loop {
        let asked = Instant::now();
        match client.call(&address(&node), WATCH, body.clone(), ASK_EVERY).await {
            Ok(_) => {
                registry.leave(&node.name, node.incarnation);
                return id;
            }
            Err(_) if asked.elapsed() >= ASK_EVERY => {}
            Err(error) => {
                registry.report_lost(&id, &error.message);
                return id;
            }
        }
    }
}
