//! Network namespaces: each worker of a cluster on a wire of its own, so that some can be cut from others and not from
//! the coordinator. Linux only, and only for who may make them.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

/// A namespace for the coordinator, which passes packets on, and one for each worker. Dropping it takes them away.
#[derive(Debug)]
pub struct Wires {
    prefix: String,
    workers: usize,
}

impl Wires {
    /// Makes the namespaces and their wires. Errs with why that is not possible here.
    pub fn new(workers: usize) -> Result<Self, String> {
        static N_EVER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = N_EVER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let network = Self { prefix: format!("sheaf-{}-{n}", std::process::id()), workers };
        let hub = network.hub();
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link set lo up"))?;
        ip(&format!("-n {hub} address add {}/32 dev lo", network.coordinator()))?;
        ip(&format!("netns exec {hub} sh -c echo\u{a0}1\u{a0}>/proc/sys/net/ipv4/ip_forward"))?;
        for index in 0..workers {
            let (name, address) = (network.worker(index), network.address(index));
            let gate = format!("10.77.{index}.1");
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {hub} link add w{index} type veth peer name eth0 netns {name}"))?;
            ip(&format!("-n {hub} address add {gate}/24 dev w{index}"))?;
            ip(&format!("-n {hub} link set w{index} up"))?;
            ip(&format!("-n {name} address add {address}/24 dev eth0"))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} route add default via {gate}"))?;
        }
        Ok(network)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    fn worker(&self, index: usize) -> String {
        format!("{}-{index}", self.prefix)
    }

    /// Where the coordinator is reached by its workers.
    pub fn coordinator(&self) -> &'static str {
        "10.77.255.1"
    }

    /// Where a worker is reached by the others.
    pub fn address(&self, index: usize) -> String {
        format!("10.77.{index}.2")
    }

    /// What runs a program in the coordinator's namespace; `Some` worker's in that one's.
    pub fn launcher(&self, worker: Option<usize>) -> Vec<String> {
        let name = worker.map_or_else(|| self.hub(), |index| self.worker(index));
        ["ip", "netns", "exec", &name].map(str::to_owned).to_vec()
    }

    /// Takes this thread, and all that it starts from now on, to where the coordinator is.
    pub fn enter(&self) -> std::io::Result<()> {
        let namespace = File::open(Path::new("/run/netns").join(self.hub()))?;
        // SAFETY: the descriptor is open, and what changes is this thread's view of the network alone.
        match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    /// From now on no packet passes between two workers. Nobody is told: what one of them sends fails there, what the other
    /// sends is never answered.
    pub fn cut(&self, one: usize, other: usize) {
        let (name, address) = (self.worker(one), self.address(other));
        ip(&format!("-n {name} route add blackhole {address}/32")).expect("a route can be added");
    }

    pub fn mend(&self, one: usize, other: usize) {
        let (name, address) = (self.worker(one), self.address(other));
        ip(&format!("-n {name} route del blackhole {address}/32")).expect("the route is there");
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        for name in (0..self.workers).map(|index| self.worker(index)).chain([self.hub()]) {
            // One that was never made is not there.
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// Runs `ip` with these words; a space that does not break is one within a word.
fn ip(words: &str) -> Result<(), String> {
    let words: Vec<String> = words.split(' ').map(|word| word.replace('\u{a0}', " ")).collect();
    let output = Command::new("ip").args(&words).output().map_err(|error| format!("cannot run ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
    }
}
