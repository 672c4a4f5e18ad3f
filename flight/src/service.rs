//! The Flight service that every node offers to the others: actions, and the reading of task output.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use sheaf_common::settings::ExchangeCompression;
use sheaf_common::{ErrorCode, WireError};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::channel::{
    CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, HEADER_BYTES_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT,
    STREAM_WINDOW_BYTES,
};
use crate::client::{ClusterSecret, SECRET_HEADER};
use crate::encoding::{self, Encoder};
use crate::error::to_status;
use crate::exchange::{ExchangeReader, Segment};
use crate::link::{self, Door, LinkServer, LinkSocket};
use crate::messages::{
    AdmitRequest, EndTasksRequest, LinkOffer, Message, PartitionTicket, QueryRequest, RedirectRequest, SubmitRequest,
    action,
};
use crate::tls::{ClusterTls, Peer, Strangers};
use crate::worker::WorkerState;

/// Actions beyond those of a worker, on the same port: membership.
#[async_trait]
pub trait NodeActions: Send + Sync + 'static {
    /// Answers one action. Errs with `UnknownCommand` when there is none of this name.
    async fn act(&self, name: &str, body: Bytes) -> Result<Bytes, WireError>;
}

/// A node without actions of its own.
pub struct NoActions;

#[async_trait]
impl NodeActions for NoActions {
    async fn act(&self, name: &str, _: Bytes) -> Result<Bytes, WireError> {
        Err(unknown(name))
    }
}

/// The error for an action that nobody knows.
pub fn unknown(name: &str) -> WireError {
    WireError::new(ErrorCode::UnknownCommand, format!("action {name:?} does not exist"))
}

/// The service of one node.
pub struct NodeService {
    /// None on a node that runs no tasks.
    worker: Option<Arc<WorkerState>>,
    actions: Arc<dyn NodeActions>,
    secret: Option<ClusterSecret>,
    /// Lets links in; told to those who show the secret.
    link_token: Bytes,
    socket: Option<Arc<LinkSocket>>,
    tls: Option<Arc<ClusterTls>>,
    strangers: Arc<Strangers>,
}

/// Connections that wait for the HTTP/2 service to take them.
const ACCEPTED_MAX: usize = 64;

impl NodeService {
    /// With a secret, every call must show it.
    pub fn new(worker: Option<Arc<WorkerState>>, actions: Arc<dyn NodeActions>, secret: Option<ClusterSecret>) -> Self {
        let link_token = Bytes::copy_from_slice(&rand::random::<[u8; 32]>());
        Self { worker, actions, secret, link_token, socket: None, tls: None, strangers: Arc::default() }
    }

    /// Lets in only those who show a certificate of the cluster.
    pub fn with_tls(mut self, tls: Option<Arc<ClusterTls>>) -> Self {
        self.tls = tls;
        self
    }

    /// Also lets processes of this host read over a Unix socket.
    pub fn with_socket(mut self, socket: LinkSocket) -> Self {
        self.socket = Some(Arc::new(socket));
        self
    }

    /// Serves until `shutdown` resolves; then running calls may take a few seconds to come to their end.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        let token = ClusterSecret::new(&self.link_token);
        let links = self.worker.clone().map(|worker| LinkServer::new(worker, token, Arc::clone(&self.strangers)));
        let links = links.map(Arc::new);
        let (accepted, incoming) = mpsc::channel(ACCEPTED_MAX);
        let socket = self.socket.clone();
        let door = Door {
            links: links.clone(),
            tls: self.tls.clone(),
            strangers: Arc::clone(&self.strangers),
            others: accepted,
        };
        // Not a task of its own: when this call is dropped, both listeners and all links are closed with it.
        let listening = async {
            let at_socket = async {
                if let (Some(socket), Some(links)) = (&socket, &links) {
                    socket.accept(links).await;
                }
            };
            tokio::join!(link::accept(listener, door), at_socket);
            std::future::pending().await
        };
        let service =
            FlightServiceServer::new(self).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
        let incoming = ReceiverStream::new(incoming);
        tokio::select! {
            served = server_builder().add_service(service).serve_with_incoming_shutdown(incoming, shutdown) => served,
            served = listening => served,
        }
    }

    fn authorize<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let Some(secret) = &self.secret else { return Ok(()) };
        let shown = request.metadata().get_bin(SECRET_HEADER).and_then(|value| value.to_bytes().ok());
        if shown.is_some_and(|shown| secret.is(&shown)) {
            return Ok(());
        }
        let text = "the cluster secret is missing or wrong";
        self.strangers.refused(request.extensions().get::<Peer>().and_then(|it| it.0), &text);
        Err(to_status(&WireError::new(ErrorCode::AccessDenied, text)))
    }

    fn worker(&self) -> Result<&Arc<WorkerState>, WireError> {
        self.worker.as_ref().ok_or_else(|| WireError::new(ErrorCode::Unsupported, "this node runs no tasks"))
    }

    async fn act(&self, name: &str, body: Bytes) -> Result<Bytes, WireError> {
        match name {
            action::CANCEL_QUERY
            | action::RELEASE
            | action::END_RETENTION
            | action::END_TASKS
            | action::REDIRECT_TASK
            | action::WORKER_INFO
            | action::LIST_TASKS => answer(self.worker()?, name, &body),
            action::OFFER_LINKS => {
                self.worker()?;
                let path = self.socket.as_ref().and_then(|socket| socket.path().to_str());
                let socket = path.unwrap_or_default().to_owned();
                LinkOffer { token: self.link_token.clone(), host: link::host_id(), socket }.encode()
            }
            _ => self.actions.act(name, body).await,
        }
    }
}

/// HTTP/2 as our traffic needs it: many streams that stand still for long, next to others that must not.
pub fn server_builder() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        // The default of 200 would let waiting streams keep out those that they wait for.
        .max_concurrent_streams(u32::MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        // A LIMIT drops many streams at once; between nodes that is no attack.
        .http2_max_pending_accept_reset_streams(Some(1 << 20))
        .http2_max_local_error_reset_streams(Some(1 << 20))
        .tcp_nodelay(true)
}

/// A worker's answer to an action that has one.
pub(crate) fn answer(worker: &WorkerState, name: &str, body: &[u8]) -> Result<Bytes, WireError> {
    match name {
        action::CANCEL_QUERY => worker.cancel(QueryRequest::decode(body)?.query),
        action::RELEASE => worker.release(QueryRequest::decode(body)?.query),
        action::END_RETENTION => worker.end_retention(QueryRequest::decode(body)?.query),
        action::END_TASKS => worker.end_tasks(&EndTasksRequest::decode(body)?),
        action::REDIRECT_TASK => return worker.redirect(&RedirectRequest::decode(body)?).encode(),
        action::WORKER_INFO => return worker.info().encode(),
        action::LIST_TASKS => return worker.list_tasks().encode(),
        _ => return Err(unknown(name)),
    }
    Ok(Bytes::new())
}

/// A partition as messages.
struct Outgoing {
    reader: ExchangeReader,
    compression: ExchangeCompression,
    encoder: Option<Encoder>,
    queue: VecDeque<FlightData>,
    done: bool,
}

impl Outgoing {
    fn new(reader: ExchangeReader, compression: ExchangeCompression) -> Self {
        Self { reader, compression, encoder: None, queue: VecDeque::new(), done: false }
    }

    fn encode(&mut self, segment: &Segment) -> Result<(), WireError> {
        let schema = segment.batch.schema_ref();
        if self.encoder.is_none() {
            let (encoder, message) = Encoder::new(schema, self.compression)?;
            self.queue.push_back(message);
            self.encoder = Some(encoder);
        }
        match &mut self.encoder {
            Some(encoder) if !self.reader.is_shared() => self.queue.extend(encoder.encode(&segment.batch)?),
            // Encoded once for all readers.
            _ => self.queue.extend(segment.encoded()?.iter().cloned()),
        }
        Ok(())
    }
}

impl Stream for Outgoing {
    type Item = Result<FlightData, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(data) = self.queue.pop_front() {
                return Poll::Ready(Some(Ok(data)));
            }
            if self.done {
                return Poll::Ready(None);
            }
            let segment = ready!(self.reader.poll_next_unpin(context));
            let outcome = match segment {
                Some(Ok(segment)) => self.encode(&segment),
                Some(Err(error)) => Err(error),
                None => {
                    self.queue.push_back(encoding::end_mark());
                    self.done = true;
                    Ok(())
                }
            };
            if let Err(error) = outcome {
                self.done = true;
                self.queue.clear();
                return Poll::Ready(Some(Err(to_status(&error))));
            }
        }
    }
}

fn unsupported<T>(method: &str) -> Result<Response<T>, Status> {
    let text = format!("Flight method {method} is not offered between nodes");
    Err(to_status(&WireError::new(ErrorCode::Unsupported, text)))
}

#[tonic::async_trait]
impl FlightService for NodeService {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoExchangeStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoActionStream = BoxStream<'static, Result<arrow_flight::Result, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        self.authorize(&request)?;
        let open = async {
            let ticket = PartitionTicket::decode(&request.get_ref().ticket)?;
            let worker = self.worker()?;
            worker.check_node(&ticket.worker)?;
            let wait = Duration::from_millis(ticket.wait_ms);
            let reader = worker.exchanges().open(ticket.task, ticket.partition as usize, wait).await?;
            Ok(Outgoing::new(reader, ticket.compression))
        };
        let rows = open.await.map_err(|error: WireError| to_status(&error))?;
        Ok(Response::new(rows.boxed()))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        self.authorize(&request)?;
        let Action { r#type: name, body } = request.into_inner();
        if name == action::ADMIT {
            let admit = || self.worker()?.admit(&AdmitRequest::decode(&body)?);
            let place = admit().map_err(|error| to_status(&error))?.into_stream();
            let standings = place.map(|standing| match standing.encode() {
                Ok(body) => Ok(arrow_flight::Result::new(body)),
                Err(error) => Err(to_status(&error)),
            });
            return Ok(Response::new(standings.boxed()));
        }
        if name != action::SUBMIT_TASKS {
            let body = self.act(&name, body).await.map_err(|error| to_status(&error))?;
            return Ok(Response::new(futures::stream::once(async { Ok(arrow_flight::Result::new(body)) }).boxed()));
        }
        let submit = || self.worker()?.submit(SubmitRequest::decode(&body)?);
        let lease = submit().map_err(|error| to_status(&error))?;
        let events = lease.map(|event| match event.and_then(|event| event.encode()) {
            Ok(body) => Ok(arrow_flight::Result::new(body)),
            Err(error) => Err(to_status(&error)),
        });
        Ok(Response::new(events.boxed()))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        unsupported("Handshake")
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        unsupported("ListFlights")
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        unsupported("GetFlightInfo")
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        unsupported("PollFlightInfo")
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        unsupported("GetSchema")
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        unsupported("DoPut")
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        unsupported("DoExchange")
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        unsupported("ListActions")
    }
}
