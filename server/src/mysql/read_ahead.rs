//! A task that owns a socket's read half and reads ahead of whoever takes the packets.
//!
//! While a statement runs nobody takes packets, so without it a client that hung up would be noticed only at the next
//! row. Memory: [`QUEUE_BYTES_MAX`] of packets not yet taken, and the one that is being received.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::packet::{FrameError, Packet, PacketReader};
use super::socket::ReadHalf;

/// Bytes of pipelined commands at which reading stops until some are taken.
const QUEUE_BYTES_MAX: usize = 64 << 10;
/// How often a socket that is not read, because the queue is full, is asked whether its client is still there.
const CLOSED_POLL: Duration = Duration::from_millis(100);

/// Why no more packets come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client closed the connection or reset it.
    HangUp,
    /// What came is no packet that is allowed; it, and all that follows, is read and dropped.
    Refused(FrameError),
}

#[derive(Default)]
struct Queue {
    packets: VecDeque<Packet>,
    n_bytes: usize,
    end: Option<End>,
}

struct Shared {
    queue: Mutex<Queue>,
    arrived: Notify,
    taken: Notify,
    packet_bytes_max: AtomicUsize,
    hang_up: CancellationToken,
}

/// The packets of one client. Dropping it ends the task.
pub struct ReadAhead {
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

impl ReadAhead {
    /// `hang_up` is cancelled as soon as the client is seen to be gone, whatever it sent before.
    pub fn start(socket: ReadHalf, packet_bytes_max: usize, hang_up: CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            arrived: Notify::new(),
            taken: Notify::new(),
            packet_bytes_max: AtomicUsize::new(packet_bytes_max),
            hang_up,
        });
        let mut task = JoinSet::new();
        let reader = Reader { socket, shared: Arc::clone(&shared), packets: PacketReader::default() };
        task.spawn(reader.run());
        Self { shared, _task: task }
    }

    /// Allows packets of another size, from the next one received on.
    pub fn set_packet_bytes_max(&self, n_bytes: usize) {
        self.shared.packet_bytes_max.store(n_bytes, Ordering::Relaxed);
    }

    /// The next packet in the order sent; the end once all packets before it were taken. Dropping the future loses none.
    pub async fn next(&self) -> Result<Packet, End> {
        loop {
            let arrived = self.shared.arrived.notified();
            {
                let mut queue = self.shared.queue.lock();
                if let Some(packet) = queue.packets.pop_front() {
                    queue.n_bytes -= packet.payload.len();
                    self.shared.taken.notify_one();
                    return Ok(packet);
                }
                if let Some(end) = &queue.end {
                    return Err(end.clone());
                }
            }
            arrived.await;
        }
    }
}

struct Reader {
    socket: ReadHalf,
    shared: Arc<Shared>,
    packets: PacketReader,
}

impl Reader {
    async fn run(mut self) {
        let end = loop {
            match self.packet().await {
                Ok(packet) => self.push(packet).await,
                Err(end) => break end,
            }
        };
        let goes_on = end != End::HangUp;
        if !goes_on {
            self.shared.hang_up.cancel();
        }
        self.shared.queue.lock().end = Some(end);
        self.shared.arrived.notify_one();
        if goes_on {
            self.drain().await;
            self.shared.hang_up.cancel();
        }
    }

    /// Reads what nobody wants, so that the client can finish writing and read why.
    async fn drain(&mut self) {
        loop {
            self.packets.received.clear();
            if self.receive().await.is_err() {
                return;
            }
        }
    }

    async fn push(&mut self, packet: Packet) {
        {
            let mut queue = self.shared.queue.lock();
            queue.n_bytes += packet.payload.len();
            queue.packets.push_back(packet);
        }
        self.shared.arrived.notify_one();
        loop {
            let taken = self.shared.taken.notified();
            if self.shared.queue.lock().n_bytes < QUEUE_BYTES_MAX {
                return;
            }
            tokio::select! {
                () = taken => {}
                () = tokio::time::sleep(CLOSED_POLL) => {
                    if self.socket.is_closed() {
                        self.shared.hang_up.cancel();
                    }
                }
            }
        }
    }

    async fn packet(&mut self) -> Result<Packet, End> {
        loop {
            let payload_bytes_max = self.shared.packet_bytes_max.load(Ordering::Relaxed);
            match self.packets.next(payload_bytes_max) {
                Ok(Some(packet)) => return Ok(packet),
                Ok(None) => self.receive().await?,
                Err(error) => return Err(End::Refused(error)),
            }
        }
    }

    /// Waits for some bytes.
    async fn receive(&mut self) -> Result<(), End> {
        match self.socket.receive(&mut self.packets.received).await {
            Ok(0) | Err(_) => Err(End::HangUp),
            Ok(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::super::packet::PART_MAX;
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    async fn pair(packet_bytes_max: usize) -> (TcpStream, ReadAhead) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        // The write half is dropped here, which shuts nothing that these tests look at.
        let (read, write) = server.into_split();
        write.forget();
        (client, ReadAhead::start(ReadHalf::Plain(read), packet_bytes_max, CancellationToken::new()))
    }

    fn framed(sequence: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_le_bytes();
        let mut bytes = vec![length[0], length[1], length[2], sequence];
        bytes.extend_from_slice(payload);
        bytes
    }

    async fn next(packets: &ReadAhead) -> Result<Packet, End> {
        timeout(SOON, packets.next()).await.expect("a packet or the end")
    }

    #[tokio::test]
    async fn pipelined_packets_come_in_order_and_none_is_lost_at_a_hang_up() {
        let (mut client, packets) = pair(1024).await;
        let bytes = [framed(0, b"one"), framed(0, b""), framed(3, b"three")].concat();
        client.write_all(&bytes).await.unwrap();
        drop(client);
        timeout(SOON, packets.shared.hang_up.cancelled()).await.expect("the hang-up is seen before anything is taken");
        for (sequence, payload) in [(0, &b"one"[..]), (0, b""), (3, b"three")] {
            let packet = Packet { first_sequence: sequence, sequence, payload: payload.to_vec() };
            assert_eq!(next(&packets).await, Ok(packet));
        }
        assert_eq!(next(&packets).await, Err(End::HangUp));
        assert_eq!(next(&packets).await, Err(End::HangUp));
    }

    #[tokio::test]
    async fn a_hang_up_behind_more_bytes_than_are_read_ahead_is_seen() {
        let (mut client, packets) = pair(1 << 20).await;
        let bytes = framed(0, &[7; 40 << 10]).repeat(4);
        client.write_all(&bytes).await.unwrap();
        drop(client);
        timeout(SOON, packets.shared.hang_up.cancelled())
            .await
            .expect("seen though two packets are still in the socket");
        for _ in 0..4 {
            assert_eq!(next(&packets).await.unwrap().payload.len(), 40 << 10);
        }
        assert_eq!(next(&packets).await, Err(End::HangUp));
    }

    #[tokio::test]
    async fn parts_are_joined() {
        let (mut client, packets) = pair(PART_MAX + 2).await;
        let whole = vec![5; PART_MAX];
        let write = async {
            client.write_all(&framed(0, &whole)).await.unwrap();
            client.write_all(&framed(1, &[6, 6])).await.unwrap();
        };
        let (packet, ()) = tokio::join!(next(&packets), write);
        let packet = packet.unwrap();
        assert_eq!((packet.sequence, packet.payload.len()), (1, PART_MAX + 2));
        assert_eq!(packet.payload[PART_MAX - 1..], [5, 6, 6]);
    }

    #[tokio::test]
    async fn a_packet_that_is_too_large_is_dropped() {
        let (mut client, packets) = pair(8).await;
        client.write_all(&framed(0, &[1; 8])).await.unwrap();
        client.write_all(&framed(2, &[1; 9])).await.unwrap();
        assert_eq!(next(&packets).await.unwrap().payload.len(), 8);
        assert_eq!(next(&packets).await, Err(End::Refused(FrameError::TooLarge { sequence: 2 })));
        assert!(!packets.shared.hang_up.is_cancelled());
        client.write_all(&[1; 4 << 20]).await.expect("it is still read");
        drop(client);
        timeout(SOON, packets.shared.hang_up.cancelled()).await.expect("the hang-up is seen");
    }
}
