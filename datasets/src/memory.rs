//! The memory that is free.

use std::path::Path;

use sysinfo::System;

/// The memory that this process can still take, in bytes: what the system has available, what the control group of a container leaves, and
/// what a limit of the process leaves (`ulimit -v`). `None` where the system does not tell.
pub fn free_memory() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    let available = Some(system.available_memory()).filter(|bytes| *bytes > 0);
    // Files in the page cache count for the group, but they are given up.
    let group = system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
    [available, group, left_of_address_space()].into_iter().flatten().min()
}

/// What the limit of the address space leaves this process; `None` without a limit.
fn left_of_address_space() -> Option<u64> {
    const LIMIT: &str = "Max address space";
    const SIZE: &str = "VmSize:";
    let limits = vmamba_files::read_text(Path::new("/proc/self/limits")).ok()?;
    let limit: u64 = limits.lines().find_map(|line| line.strip_prefix(LIMIT))?.split_whitespace().next()?.parse().ok()?;
    let status = vmamba_files::read_text(Path::new("/proc/self/status")).ok()?;
    let kibibytes: u64 = status.lines().find_map(|line| line.strip_prefix(SIZE))?.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(kibibytes.saturating_mul(1024)))
}

/// A number of bytes for a person.
pub fn bytes(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 1024.0 { format!("{mebibytes:.0} MiB") } else { format!("{:.1} GiB", mebibytes / 1024.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn free_memory_is_known() {
        assert!(free_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
