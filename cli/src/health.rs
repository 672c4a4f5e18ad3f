//! `sheaf health`: whether a node is ready, for health checks of containers and for scripts.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use clap::Args;
use sheaf_common::config::{ConfigValue, HostPort, ServerConfig};

use crate::error::CliError;

#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Where the node serves HTTP; an address that means every interface is asked on this machine.
    #[arg(long, value_name = "HOST:PORT", env = "SHEAF_HTTP_LISTEN", value_parser = host_port,
        default_value_t = ServerConfig::default().http_listen)]
    http: HostPort,
}

const DEADLINE: Duration = Duration::from_secs(3);
/// The answer is a few hundred bytes; what is longer comes from something else.
const ANSWER_MAX: u64 = 64 << 10;

fn host_port(text: &str) -> Result<HostPort, String> {
    HostPort::parse(text).ok_or_else(|| format!("expected {}", HostPort::EXPECTED))
}

/// Prints what the node says of itself; errs when it is not ready.
pub fn run(args: &HealthArgs) -> Result<(), CliError> {
    let failed = |source| CliError::Health { address: args.http.clone(), source };
    let (status, body) = get(&args.http, "/health").map_err(failed)?;
    println!("{}", body.trim_end());
    if status == 200 { Ok(()) } else { Err(failed(io::Error::other(format!("it answers {status}")))) }
}

/// Asks for a page over HTTP/1.0. Gives its status and its body.
pub fn get(address: &HostPort, path: &str) -> io::Result<(u16, String)> {
    let started = Instant::now();
    let left = || DEADLINE.checked_sub(started.elapsed()).filter(|it| !it.is_zero()).ok_or(io::ErrorKind::TimedOut);
    let host = if address.is_unspecified() { "127.0.0.1" } else { &address.host };
    let target = (host, address.port).to_socket_addrs()?.next();
    let target = target.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address"))?;
    let mut stream = TcpStream::connect_timeout(&target, DEADLINE)?;
    stream.set_write_timeout(Some(left()?))?;
    // At once: a server may answer and close after what it takes for a whole request.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    stream.set_read_timeout(Some(left()?))?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok());
    let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that answers one client so.
    fn answering(answer: &'static str) -> HostPort {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        HostPort::new("0.0.0.0", port)
    }

    #[test]
    fn the_status_decides() {
        let (status, body) = get(&answering("HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\n{}"), "/health").unwrap();
        assert_eq!((status, body.as_str()), (503, "{}"));
        let error = get(&answering("hello"), "/health").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn nobody_there_is_an_error() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let args = HealthArgs { http: HostPort::new("127.0.0.1", port) };
        assert!(matches!(run(&args), Err(CliError::Health { .. })));
    }
}
