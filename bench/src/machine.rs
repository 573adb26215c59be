//! Where a benchmark ran: figures mean little without it.

use std::path::Path;
use std::time::Duration;

use fkv_env::Files;
use serde::Serialize;

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// CPU model as the kernel names it.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Last-level cache in bytes; 0 if the kernel does not say.
    pub l3_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Transparent huge pages: the kernel's setting.
    pub transparent_huge_pages: String,
}

impl Machine {
    /// Reads what the kernel tells under `/proc` and `/sys`.
    #[must_use]
    pub fn detect(files: &dyn Files) -> Self {
        // Files under /proc and /sys have no length; they are read through the reader of the process itself.
        let text = |path: &str| read_special(files, Path::new(path));
        let cpuinfo = text("/proc/cpuinfo");
        let field = |text: &str, name: &str| {
            text.lines()
                .find(|line| line.starts_with(name))
                .and_then(|line| line.split_once(':'))
                .map_or(String::new(), |(_, value)| value.trim().to_owned())
        };
        let kibibytes = |text: &str| -> u64 {
            text.split_whitespace().next().and_then(|n| n.trim_end_matches('K').parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        Self {
            cpu: field(&cpuinfo, "model name"),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: kibibytes(&field(&text("/proc/meminfo"), "MemTotal")),
            l3_bytes: kibibytes(text("/sys/devices/system/cpu/cpu0/cache/index3/size").trim()),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            transparent_huge_pages: text("/sys/kernel/mm/transparent_hugepage/enabled").trim().to_owned(),
        }
    }
}

/// Memory of this process that is resident, in bytes.
#[must_use]
pub fn resident_bytes(files: &dyn Files) -> u64 {
    let status = read_special(files, Path::new("/proc/self/status"));
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Blocks of 4 KiB that this process has had read from devices so far; 0 if the kernel does not count.
#[cfg(feature = "rivals")]
pub(crate) fn device_reads(files: &dyn Files) -> u64 {
    let counts = read_special(files, Path::new("/proc/self/io"));
    let bytes = counts.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    bytes.and_then(|bytes| bytes.trim().parse::<u64>().ok()).unwrap_or(0) / 4096
}

/// CPU time of this thread so far.
#[must_use]
pub fn thread_cpu() -> Duration {
    cpu(rustix::time::ClockId::ThreadCPUTime)
}

/// CPU time of this process so far, in user and kernel mode.
#[must_use]
pub fn process_cpu() -> Duration {
    cpu(rustix::time::ClockId::ProcessCPUTime)
}

fn cpu(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn read_special(files: &dyn Files, path: &Path) -> String {
    let Ok(file) = files.open(path) else { return String::new() };
    let mut text = Vec::new();
    let mut byte = [0];
    while text.len() < 1 << 20 && file.read_exact_at(&mut byte, text.len() as u64).is_ok() {
        text.push(byte[0]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_names_the_machine() {
        let machine = Machine::detect(&fkv_env::OsFiles);
        assert!(machine.cores > 0);
        assert!(machine.memory_bytes > 1 << 20, "{machine:?}");
        assert!(!machine.kernel.is_empty());
    }
}
