//! The operating system's figures of the process, under the names that all of Prometheus' clients use; those that it does
//! not give are left out.

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::text::{Text, families};

pub(super) fn encode(out: &mut Text) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu_seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    families! { out: counter "process_cpu_seconds", cpu_seconds, "User and system CPU time of the process"; }
    let open_fds = open_files().into_iter().map(|count| ([], count));
    let max_fds = getrlimit(Resource::Nofile)
        .current
        .into_iter()
        .map(|limit| ([], limit));
    let status = read("/proc/self/status");
    let memory = |field: &'static str| kib(&status, field);
    let plain = |field| memory(field).into_iter().map(|bytes| ([], bytes));
    let kinds = [
        ("anon", "RssAnon:"),
        ("file", "RssFile:"),
        ("shared", "RssShmem:"),
    ];
    let by_kind = kinds
        .into_iter()
        .filter_map(|(kind, field)| Some(([("kind", kind.into())], memory(field)?)));
    families! { out:
        gauges "process_start_time_seconds", start_time().into_iter().map(|time| ([], time)),
            "When the process started, in seconds since the Unix epoch";
        gauges "process_open_fds", open_fds, "Open file descriptors";
        gauges "process_max_fds", max_fds, "Most file descriptors that may be open";
        gauges "process_virtual_memory_bytes", plain("VmSize:"), "Virtual memory, with every mapped file";
        gauges "process_resident_memory_bytes", plain("VmRSS:"), "Resident memory, with the pages of mapped files";
        gauges "process_anonymous_memory_bytes", plain("RssAnon:"), "Resident memory without mapped files";
        gauges "quipu_resident_memory_bytes", by_kind,
            "Resident memory by kind: anon is the server's own, file is mapped files, which the system takes back when it needs memory, shared is memory that processes share";
    }
}

/// The start of the process, in seconds since the Unix epoch.
fn start_time() -> Option<f64> {
    let stat = read("/proc/self/stat");
    // The name of the program may have spaces; the fields after its parenthesis are counted from 3.
    let fields = stat.rsplit_once(')')?.1;
    let ticks: f64 = fields.split_whitespace().nth(22 - 3)?.parse().ok()?;
    let system = read("/proc/stat");
    let booted = system.lines().find_map(|line| line.strip_prefix("btime "))?;
    let booted: f64 = booted.trim().parse().ok()?;
    Some(booted + ticks / rustix::param::clock_ticks_per_second() as f64)
}

/// A field of `/proc/self/status`, in bytes.
fn kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Empty if it cannot be read.
#[allow(clippy::disallowed_methods, reason = "procfs is no storage")]
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[allow(clippy::disallowed_methods, reason = "procfs is no storage")]
fn open_files() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}
