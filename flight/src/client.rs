//! Calls to workers, typed; over a connection, or straight into a worker of this process.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, FlightData, Ticket};
use bytes::Bytes;
use dashmap::DashMap;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use sheaf_common::settings::{ExchangeCompression, ExchangeLink};
use sheaf_common::{ErrorCode, QueryId, WireError};
use tokio::sync::OnceCell;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::admission::Standing;
use crate::channel::{ChannelResolver, WorkerChannel};
use crate::encoding;
use crate::error::{from_status, while_reading, worker_lost};
use crate::exchange::ExchangeReader;
use crate::link::dial::{DialError, Dialer};
use crate::link::{FetchOptions, Link, LinkStream};
use crate::messages::{
    AdmitRequest, EndTasksRequest, LinkOffer, Message, PartitionTicket, QueryRequest, RedirectAnswer, RedirectRequest,
    SubmitRequest, TaskAddress, TaskEvent, TaskList, WorkerAddress, WorkerInfo, action,
};

/// The header that carries the cluster's secret.
pub const SECRET_HEADER: &str = "sheaf-secret-bin";

/// What all nodes of a cluster know and nobody else. Never shown.
#[derive(Clone)]
pub struct ClusterSecret(Arc<[u8]>);

impl ClusterSecret {
    pub fn new(secret: impl AsRef<[u8]>) -> Self {
        Self(secret.as_ref().into())
    }

    /// Compares in a time that does not depend on where the first difference is.
    pub fn is(&self, other: &[u8]) -> bool {
        let differences = self.0.iter().zip(other).fold(0, |sum, (left, right)| sum | (left ^ right));
        std::hint::black_box(differences) == 0 && self.0.len() == other.len()
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

/// What becomes of submitted tasks. Dropping it gives up the lease: the worker ends them. Comes to an end when the
/// query was released; anything else that ends it is an error.
pub type TaskEvents = BoxStream<'static, Result<TaskEvent, WireError>>;

/// Where a query stands at a worker that was asked to let it in. Dropping it gives the query's place up.
pub type Standings = BoxStream<'static, Result<Standing, WireError>>;

/// A worker that does not say by then how its rows are fetched is taken for lost.
const OFFER_TIMEOUT: Duration = Duration::from_secs(10);

/// A batch of another task.
#[derive(Debug)]
pub struct Received {
    pub batch: RecordBatch,
    pub link: Link,
    /// As they were on the link.
    pub bytes: usize,
}

/// Calls workers.
#[derive(Debug)]
pub struct FlightClient {
    resolver: Arc<dyn ChannelResolver>,
    secret: Option<ClusterSecret>,
    dialer: Dialer,
    /// What each run of each worker offered.
    offers: DashMap<WorkerAddress, Arc<OnceCell<LinkOffer>>>,
}

impl FlightClient {
    /// A client that finds its way by `resolver` and shows `secret`, if the cluster has one.
    pub fn new(resolver: Arc<dyn ChannelResolver>, secret: Option<ClusterSecret>) -> Self {
        Self { resolver, secret, dialer: Dialer::new(), offers: DashMap::new() }
    }

    #[cfg(test)]
    fn idle_links(&self) -> usize {
        self.dialer.idle_links()
    }

    pub fn resolver(&self) -> &Arc<dyn ChannelResolver> {
        &self.resolver
    }

    /// Asks a worker to run tasks; waits up to `timeout` until it has taken them.
    ///
    /// The stream begins with [`TaskEvent::Accepted`].
    pub async fn submit(
        &self,
        worker: &WorkerAddress,
        request: SubmitRequest,
        timeout: Duration,
    ) -> Result<TaskEvents, WireError> {
        let channel = match self.resolver.resolve(worker).await? {
            WorkerChannel::Local(worker) => return Ok(worker.submit(request)?.boxed()),
            WorkerChannel::Remote(channel) => channel,
        };
        let body = request.encode()?;
        let answers = self.act(channel, worker, action::SUBMIT_TASKS, body, timeout).await?;
        Ok(answers.map(|answer| answer.and_then(|body| TaskEvent::decode(&body))).boxed())
    }

    /// Asks a worker to let a query in; waits up to `timeout` for its first answer, which comes at once.
    ///
    /// The stream tells where the query stands, and is its place: dropping it gives that back. Errs with `Busy` when the
    /// query would have to wait and may not, with `NoWorker` when the worker drains.
    pub async fn admit(
        &self,
        worker: &WorkerAddress,
        request: &AdmitRequest,
        timeout: Duration,
    ) -> Result<Standings, WireError> {
        let channel = match self.resolver.resolve(worker).await? {
            WorkerChannel::Local(worker) => return Ok(worker.admit(request)?.into_stream().map(Ok).boxed()),
            WorkerChannel::Remote(channel) => channel,
        };
        let answers = self.act(channel, worker, action::ADMIT, request.encode()?, timeout).await?;
        Ok(answers.map(|answer| answer.and_then(|body| Standing::decode(&body))).boxed())
    }

    /// Reads one partition of a task's output from its start. Nothing is sent before the first poll; dropping the
    /// stream tells the producer. Ends after the last row or with an error, never short; the error names the attempt
    /// where it arose, or as [`WireError::unread`] the one that could not be reached.
    ///
    /// Errs with `Unsupported` when `options` force a link that cannot be had.
    pub fn fetch(self: &Arc<Self>, source: TaskAddress, partition: usize, options: FetchOptions) -> FetchStream {
        let state = self.opening(&source, partition, options);
        FetchStream { client: Arc::clone(self), source, partition, options, is_begun: false, state }
    }

    fn opening(self: &Arc<Self>, source: &TaskAddress, partition: usize, options: FetchOptions) -> FetchState {
        let (client, from) = (Arc::clone(self), source.clone());
        FetchState::Opening(async move { client.open(from, partition, options).await }.boxed())
    }

    async fn open(&self, source: TaskAddress, partition: usize, options: FetchOptions) -> Result<Opened, WireError> {
        let TaskAddress { task, worker } = source;
        let impossible = |link: Link, reason: &dyn fmt::Display| {
            let text = format!(
                "exchange_link is {:?}, and rows of worker {worker} cannot come that way: {reason}; SET exchange_link = 'auto'",
                link.name()
            );
            WireError::new(ErrorCode::Unsupported, text)
        };
        let channel = match (self.resolver.resolve(&worker).await?, options.link) {
            (WorkerChannel::Local(worker), ExchangeLink::Auto | ExchangeLink::Local) => {
                return worker.exchanges().open(task, partition, options.wait).await.map(Opened::Local);
            }
            (WorkerChannel::Local(_), ExchangeLink::Uds | ExchangeLink::Tcp) => self.resolver.connect(&worker).await?,
            (WorkerChannel::Remote(_), ExchangeLink::Local) => {
                return Err(impossible(Link::Local, &"it is another process"));
            }
            (WorkerChannel::Remote(channel), _) => channel,
        };
        let mut ticket = PartitionTicket {
            task,
            partition: partition as u32,
            worker: worker.node.clone(),
            wait_ms: options.wait.as_millis() as u64,
            compression: ExchangeCompression::Off,
        };
        if self.resolver.is_direct() {
            let offer = self.offer(channel.clone(), &worker).await?;
            if options.link != ExchangeLink::Tcp {
                match self.open_socket(&worker, &offer, &ticket).await {
                    Ok(stream) => return Ok(Opened::Link(Box::new(stream))),
                    Err(error) if options.link == ExchangeLink::Uds => return Err(impossible(Link::Uds, &error)),
                    Err(error) => tracing::trace!(%worker, %error, "no Unix socket"),
                }
            }
            ticket.compression = options.compression;
            match self.dialer.open(&worker, Link::Tcp, &offer, &ticket, self.resolver.tls()).await {
                Ok(stream) => return Ok(Opened::Link(Box::new(stream))),
                Err(error) => tracing::debug!(%worker, %error, "no link of its own, rows come over HTTP/2"),
            }
        } else if options.link == ExchangeLink::Uds {
            return Err(impossible(Link::Uds, &"workers are not connected to directly here"));
        }
        ticket.compression = options.compression;
        let request = self.sign(Request::new(Ticket::new(ticket.encode()?)));
        let response = flight(channel).do_get(request).await;
        let response = response.map_err(|status| self.failed(&status, &worker))?;
        Ok(Opened::Remote(Box::new(RemoteStream::new(response.into_inner().boxed(), worker))))
    }

    async fn open_socket(
        &self,
        worker: &WorkerAddress,
        offer: &LinkOffer,
        ticket: &PartitionTicket,
    ) -> Result<LinkStream, DialError> {
        self.dialer.shares_socket(offer)?;
        self.dialer.open(worker, Link::Uds, offer, ticket, None).await
    }

    /// How the rows of a worker are fetched; asked once.
    async fn offer(&self, channel: Channel, worker: &WorkerAddress) -> Result<LinkOffer, WireError> {
        if !self.offers.contains_key(worker) {
            // Another run at this address has ended.
            self.offers.retain(|known, _| (&known.host, known.port) != (&worker.host, worker.port));
        }
        let cell = Arc::clone(&self.offers.entry(worker.clone()).or_default());
        let ask = || async {
            let answer = async {
                let mut answers = self.act(channel, worker, action::OFFER_LINKS, Bytes::new(), OFFER_TIMEOUT).await?;
                answers.next().await.unwrap_or_else(|| Err(worker_lost(worker, "no answer")))
            };
            let answer = tokio::time::timeout(OFFER_TIMEOUT, answer).await;
            LinkOffer::decode(&answer.unwrap_or_else(|_| Err(silent(worker, OFFER_TIMEOUT)))?)
        };
        cell.get_or_try_init(ask).await.cloned()
    }

    /// Calls an action that has one answer.
    pub async fn call(
        &self,
        worker: &WorkerAddress,
        name: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, WireError> {
        let channel = match self.resolver.resolve(worker).await? {
            WorkerChannel::Local(worker) => return crate::service::answer(&worker, name, &body),
            WorkerChannel::Remote(channel) => channel,
        };
        let answer = async {
            let mut answers = self.act(channel, worker, name, body, timeout).await?;
            answers.next().await.unwrap_or_else(|| Err(worker_lost(worker, "no answer")))
        };
        tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| Err(silent(worker, timeout)))
    }

    /// Ends a query on a worker for good.
    pub async fn cancel(&self, worker: &WorkerAddress, query: QueryId, timeout: Duration) -> Result<(), WireError> {
        let body = QueryRequest { query }.encode()?;
        self.call(worker, action::CANCEL_QUERY, body, timeout).await.map(|_| ())
    }

    /// Frees what a worker holds of a query that came to its end.
    pub async fn release(&self, worker: &WorkerAddress, query: QueryId, timeout: Duration) -> Result<(), WireError> {
        let body = QueryRequest { query }.encode()?;
        self.call(worker, action::RELEASE, body, timeout).await.map(|_| ())
    }

    /// Tells a worker that rows of a query have gone to the client: what its exchanges retain is given up.
    pub async fn end_retention(
        &self,
        worker: &WorkerAddress,
        query: QueryId,
        timeout: Duration,
    ) -> Result<(), WireError> {
        let body = QueryRequest { query }.encode()?;
        self.call(worker, action::END_RETENTION, body, timeout).await.map(|_| ())
    }

    /// Ends some tasks of a query on a worker.
    pub async fn end_tasks(
        &self,
        worker: &WorkerAddress,
        request: &EndTasksRequest,
        timeout: Duration,
    ) -> Result<(), WireError> {
        self.call(worker, action::END_TASKS, request.encode()?, timeout).await.map(|_| ())
    }

    /// Has the readers of a task read another attempt, or asks whether that could be done; says whether.
    pub async fn redirect(
        &self,
        worker: &WorkerAddress,
        request: &RedirectRequest,
        timeout: Duration,
    ) -> Result<bool, WireError> {
        let answer = self.call(worker, action::REDIRECT_TASK, request.encode()?, timeout).await?;
        Ok(RedirectAnswer::decode(&answer)?.is_possible)
    }

    pub async fn worker_info(&self, worker: &WorkerAddress, timeout: Duration) -> Result<WorkerInfo, WireError> {
        WorkerInfo::decode(&self.call(worker, action::WORKER_INFO, Bytes::new(), timeout).await?)
    }

    pub async fn list_tasks(&self, worker: &WorkerAddress, timeout: Duration) -> Result<TaskList, WireError> {
        TaskList::decode(&self.call(worker, action::LIST_TASKS, Bytes::new(), timeout).await?)
    }

    /// Sends an action and waits until its stream of answers is open.
    async fn act(
        &self,
        channel: Channel,
        worker: &WorkerAddress,
        name: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<BoxStream<'static, Result<Bytes, WireError>>, WireError> {
        let request = self.sign(Request::new(Action::new(name, body)));
        let mut flight = flight(channel);
        let response = tokio::time::timeout(timeout, flight.do_action(request)).await;
        let response = response.map_err(|_| silent(worker, timeout))?;
        let answers = response.map_err(|status| self.failed(&status, worker))?.into_inner();
        let worker = worker.clone();
        Ok(answers.map(move |answer| answer.map(|it| it.body).map_err(|status| from_status(&status, &worker))).boxed())
    }

    fn failed(&self, status: &Status, worker: &WorkerAddress) -> WireError {
        let error = from_status(status, worker);
        if error.code == ErrorCode::WorkerLost {
            self.resolver.forget(worker);
            self.dialer.forget(worker);
            self.offers.remove(worker);
        }
        error
    }

    fn sign<T>(&self, mut request: Request<T>) -> Request<T> {
        if let Some(secret) = &self.secret {
            request.metadata_mut().insert_bin(SECRET_HEADER, MetadataValue::from_bytes(&secret.0));
        }
        request
    }
}

/// A client without limits on the size of messages: plans can be of any size.
fn flight(channel: Channel) -> FlightServiceClient<Channel> {
    FlightServiceClient::new(channel).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
}

fn silent(worker: &WorkerAddress, timeout: Duration) -> WireError {
    worker_lost(worker, format!("no answer within {} ms", timeout.as_millis()))
}

enum Opened {
    Local(ExchangeReader),
    Link(Box<LinkStream>),
    Remote(Box<RemoteStream>),
}

enum FetchState {
    Opening(BoxFuture<'static, Result<Opened, WireError>>),
    Open(Opened),
    Done,
}

/// One partition of a task's output.
pub struct FetchStream {
    client: Arc<FlightClient>,
    source: TaskAddress,
    partition: usize,
    options: FetchOptions,
    /// A batch of it came: what another attempt puts out does not go with that.
    is_begun: bool,
    state: FetchState,
}

impl FetchStream {
    /// Where the same is read instead, if that is what an error says. Turns there.
    fn turn(&mut self, error: &WireError) -> bool {
        let Some(to) = error.moved_to.as_deref().filter(|_| !self.is_begun) else { return false };
        let worker = WorkerAddress { node: to.node.clone(), host: to.host.clone(), port: to.port };
        self.source = TaskAddress { task: to.task, worker };
        self.state = self.client.opening(&self.source, self.partition, self.options);
        true
    }
}

impl Stream for FetchStream {
    type Item = Result<Received, WireError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let item = match &mut self.state {
                FetchState::Done => return Poll::Ready(None),
                FetchState::Opening(opening) => match ready!(opening.poll_unpin(context)) {
                    Ok(opened) => {
                        self.state = FetchState::Open(opened);
                        continue;
                    }
                    Err(error) => Some(Err(error)),
                },
                FetchState::Open(Opened::Local(reader)) => {
                    let segment = ready!(reader.poll_next_unpin(context));
                    segment.map(|segment| {
                        segment.map(|it| Received { batch: it.batch.clone(), link: Link::Local, bytes: it.bytes })
                    })
                }
                FetchState::Open(Opened::Link(stream)) => ready!(stream.poll_next_unpin(context)),
                FetchState::Open(Opened::Remote(stream)) => ready!(stream.poll_next_unpin(context)),
            };
            match &item {
                Some(Ok(_)) => self.is_begun = true,
                Some(Err(error)) if self.turn(error) => continue,
                None | Some(Err(_)) => self.state = FetchState::Done,
            }
            return Poll::Ready(item.map(|item| item.map_err(|error| while_reading(error, &self.source))));
        }
    }
}

/// Where the messages of a stream stand before they are decoded.
#[derive(Debug, Default)]
struct Incoming {
    /// Bytes since the last batch.
    bytes: usize,
    /// The end mark came.
    is_whole: bool,
}

/// A stream of Flight messages, decoded and checked for its end mark.
struct RemoteStream {
    decoder: FlightDataDecoder,
    incoming: Arc<parking_lot::Mutex<Incoming>>,
    worker: WorkerAddress,
}

impl RemoteStream {
    fn new(messages: BoxStream<'static, Result<FlightData, Status>>, worker: WorkerAddress) -> Self {
        let incoming = Arc::new(parking_lot::Mutex::new(Incoming::default()));
        let shared = Arc::clone(&incoming);
        let messages = messages.filter_map(move |message| {
            let message = match message {
                Ok(message) => {
                    let mut incoming = shared.lock();
                    incoming.bytes += encoding::wire_bytes(&message);
                    if encoding::is_end_mark(&message) {
                        incoming.is_whole = true;
                        None
                    } else {
                        Some(Ok(message))
                    }
                }
                Err(status) => Some(Err(FlightError::from(status))),
            };
            std::future::ready(message)
        });
        Self { decoder: FlightDataDecoder::new(messages), incoming, worker }
    }
}

impl Stream for RemoteStream {
    type Item = Result<Received, WireError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(self.decoder.poll_next_unpin(context)) {
                Some(Ok(decoded)) => {
                    if let DecodedPayload::RecordBatch(batch) = decoded.payload {
                        let bytes = std::mem::take(&mut self.incoming.lock().bytes);
                        return Poll::Ready(Some(Ok(Received { batch, link: Link::Tcp, bytes })));
                    }
                }
                Some(Err(FlightError::Tonic(status))) => {
                    return Poll::Ready(Some(Err(from_status(&status, &self.worker))));
                }
                Some(Err(error)) => {
                    let text = format!("a stream from worker {} could not be read: {error}", self.worker);
                    return Poll::Ready(Some(Err(WireError::new(ErrorCode::Internal, text).retryable())));
                }
                None if self.incoming.lock().is_whole => return Poll::Ready(None),
                None => return Poll::Ready(Some(Err(worker_lost(&self.worker, "a stream ended before its end mark")))),
            }
        }
    }
}

#[cfg(test)]
mod tests;
