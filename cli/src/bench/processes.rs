//! What processes have used, by the kernel's own books: time on processors and memory.
//!
//! Linux only: elsewhere every reading is an error.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use crate::error::CliError;

/// One process of a system that is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub name: String,
    pub id: u32,
}

/// Time on processors since each process began, all of its threads, those that ended too.
pub type CpuTimes = BTreeMap<u32, Duration>;

/// The times of the given processes and of everything that they have started. Errs when one of the given has ended.
pub fn cpu_times(roots: &[Process]) -> Result<CpuTimes, CliError> {
    let mut times = CpuTimes::new();
    for (process, id) in family(roots)? {
        let time = match cpu_time(id) {
            Ok(time) => time,
            // What a peer's own processes start may come and go.
            Err(_) if id != process.id => continue,
            Err(source) => return Err(CliError::Measure { process: process.name.clone(), id, source }),
        };
        times.insert(id, time);
    }
    Ok(times)
}

/// What was used between two readings. Processes that began in between count whole.
pub fn used(before: &CpuTimes, after: &CpuTimes) -> Duration {
    after.iter().map(|(id, time)| time.saturating_sub(before.get(id).copied().unwrap_or_default())).sum()
}

/// The most memory that each process has had resident since it began, in bytes.
pub fn peak_rss_bytes(roots: &[Process]) -> Result<Vec<(Process, u64)>, CliError> {
    let mut peaks = Vec::new();
    for (process, id) in family(roots)? {
        let name = match id == process.id {
            true => process.name.clone(),
            false => format!("{}, process {id}", process.name),
        };
        match std::fs::read_to_string(format!("/proc/{id}/status")) {
            Ok(status) => {
                let bytes = high_water_mark(&status).unwrap_or(0);
                peaks.push((Process { name, id }, bytes));
            }
            Err(_) if id != process.id => {}
            Err(source) => return Err(CliError::Measure { process: name, id, source }),
        }
    }
    Ok(peaks)
}

/// The given processes and their descendants, each with the given one that it comes from.
fn family(roots: &[Process]) -> Result<Vec<(&Process, u32)>, CliError> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    let entries = std::fs::read_dir("/proc").map_err(|source| CliError::Folder { path: "/proc".into(), source })?;
    for id in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"));
        parents.extend(stat.ok().and_then(|stat| parent(&stat)).map(|parent| (id, parent)));
    }
    let mut family: Vec<(&Process, u32)> = roots.iter().map(|root| (root, root.id)).collect();
    let mut next = 0;
    while let Some(&(root, id)) = family.get(next) {
        next += 1;
        for &(child, parent) in &parents {
            if parent == id && !family.iter().any(|(_, known)| *known == child) {
                family.push((root, child));
            }
        }
    }
    Ok(family)
}

/// The parent in the text of `/proc/<id>/stat`, whose second field is a name in brackets that may hold anything.
fn parent(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

/// `VmHWM:   123 kB` in the text of `/proc/<id>/status`, in bytes.
fn high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Read from the process's own clock: `/proc/<id>/stat` has the same in steps of 10 ms, as long as a short query.
#[cfg(target_os = "linux")]
fn cpu_time(id: u32) -> io::Result<Duration> {
    let id = libc::pid_t::try_from(id).map_err(io::Error::other)?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the pointer is to a variable of the type that is written.
    let status = unsafe { libc::clock_getcpuclockid(id, &mut clock) };
    if status != 0 {
        return Err(io::Error::from_raw_os_error(status));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a variable of the type that is written.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
    let nanoseconds = u32::try_from(time.tv_nsec).map_err(io::Error::other)?;
    Ok(Duration::new(seconds, nanoseconds))
}

#[cfg(not(target_os = "linux"))]
fn cpu_time(_id: u32) -> io::Result<Duration> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "the time of other processes is read on Linux only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_brackets_and_blanks() {
        assert_eq!(parent("12 (a) b (c)) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 no name"), None);
    }

    #[test]
    fn the_high_water_mark_is_in_bytes() {
        assert_eq!(high_water_mark("VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\nVmRSS: 1 kB\n"), Some(2 << 20));
        assert_eq!(high_water_mark("Name: x\n"), None);
    }

    #[test]
    fn processes_that_began_in_between_count_whole() {
        let seconds = Duration::from_secs;
        let before = CpuTimes::from([(1, seconds(5)), (2, seconds(3))]);
        let after = CpuTimes::from([(1, seconds(7)), (3, seconds(4))]);
        assert_eq!(used(&before, &after), seconds(6));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_used_something() {
        let this = [Process { name: "this".to_owned(), id: std::process::id() }];
        let times = cpu_times(&this).unwrap();
        assert!(times[&std::process::id()] > Duration::ZERO);
        let peaks = peak_rss_bytes(&this).unwrap();
        assert!(peaks[0].1 > 1 << 20, "{peaks:?}");
        assert_eq!(peaks[0].0, this[0]);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = [Process { name: "ended".to_owned(), id: child.id() }];
        child.wait().unwrap();
        assert!(cpu_times(&ended).unwrap_err().to_string().contains("ended"));
    }
}
