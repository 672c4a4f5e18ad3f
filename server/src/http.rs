//! Health, the cluster and metrics over HTTP.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use sheaf_common::WireError;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How a node is.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    /// `ready`, `joining`, `draining` or `stopping`; only the first is a healthy answer.
    pub status: &'static str,
    pub node: String,
    pub role: String,
    pub version: String,
    /// Live workers that this node knows of.
    pub workers: usize,
    pub uptime_s: u64,
}

/// The nodes of the cluster and the replicas of its metadata, as this node knows them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cluster {
    pub nodes: Vec<ClusterNode>,
    /// None where a worker was asked.
    pub replicas: Vec<ClusterReplica>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ClusterNode {
    pub name: String,
    pub role: String,
    /// `alive` or `lost`.
    pub state: String,
    pub address: String,
    pub cores: u64,
    pub version: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct ClusterReplica {
    pub node: String,
    /// `leader`, `follower`, `candidate`, `learner`, `removed` or `unreachable`.
    pub role: String,
    pub term: u64,
    pub commit_index: u64,
    pub applied_index: u64,
}

/// What the pages show. Asked at each request.
#[async_trait]
pub trait HttpSource: Send + Sync {
    fn health(&self) -> Health;
    async fn cluster(&self) -> Result<Cluster, WireError>;
    /// All metrics in Prometheus' text format.
    fn metrics(&self) -> String;
}

type Source = Arc<dyn HttpSource>;

/// Serves until `stop`; requests under way are answered first.
pub async fn serve(listener: TcpListener, source: Source, stop: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router(source)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router(source: Source) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/health", get(health))
        .route("/v1/health", get(health))
        .route("/v1/cluster", get(cluster))
        .route("/metrics", get(metrics))
        .fallback(async || (StatusCode::NOT_FOUND, "no such page, see /\n"))
        .with_state(source)
}

async fn index(State(source): State<Source>) -> String {
    let Health { status, node, role, version, workers, .. } = source.health();
    format!(
        "SheafDB {version}\nnode {node}, role {role}, {status}, {workers} live workers\n\n\
         /v1/health   how this node is, as JSON; also at /health\n\
         /v1/cluster  the nodes of its cluster, as JSON\n\
         /metrics     what it counts, for Prometheus\n"
    )
}

async fn health(State(source): State<Source>) -> Response {
    let health = source.health();
    let code = if health.status == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, axum::Json(health)).into_response()
}

async fn cluster(State(source): State<Source>) -> Response {
    match source.cluster().await {
        Ok(cluster) => axum::Json(cluster).into_response(),
        Err(error) => {
            let code = StatusCode::from_u16(error.code.numbers().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (code, format!("{}\n", error.message)).into_response()
        }
    }
}

async fn metrics(State(source): State<Source>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], source.metrics()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Fixed(&'static str);

    #[async_trait]
    impl HttpSource for Fixed {
        fn health(&self) -> Health {
            let (node, role, version) = ("n1".to_owned(), "all".to_owned(), "0".to_owned());
            Health { status: self.0, node, role, version, workers: 2, uptime_s: 3 }
        }

        async fn cluster(&self) -> Result<Cluster, WireError> {
            let replica = ClusterReplica {
                node: "n1".to_owned(),
                role: "leader".to_owned(),
                term: 1,
                commit_index: 2,
                applied_index: 2,
            };
            Ok(Cluster { nodes: vec![], replicas: vec![replica] })
        }

        fn metrics(&self) -> String {
            "sheaf_things 1\n".to_owned()
        }
    }

    async fn ask(status: &'static str, page: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, Arc::new(Fixed(status)), stop.clone()));
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        stop.cancel();
        server.await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn pages_answer() {
        let ready = ask("ready", "/health").await;
        assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("\"workers\":2"), "{ready}");
        assert!(ask("ready", "/v1/health").await.starts_with("HTTP/1.1 200"));
        let cluster = ask("ready", "/v1/cluster").await;
        assert!(cluster.contains(r#""replicas":[{"node":"n1","role":"leader""#), "{cluster}");
        let joining = ask("joining", "/health").await;
        assert!(joining.starts_with("HTTP/1.1 503") && joining.contains("\"status\":\"joining\""), "{joining}");
        let metrics = ask("ready", "/metrics").await;
        assert!(metrics.contains("text/plain") && metrics.ends_with("sheaf_things 1\n"), "{metrics}");
        assert!(ask("ready", "/").await.contains("node n1, role all, ready, 2 live workers"));
        assert!(ask("ready", "/no").await.starts_with("HTTP/1.1 404"));
    }
}
