//! The memory that is free.

use sysinfo::System;

/// The memory that this process can still take, in bytes: what the system has available, and what the control group of a container leaves.
/// `None` where the system does not tell.
pub fn free_memory() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    let available = Some(system.available_memory()).filter(|bytes| *bytes > 0);
    // Files in the page cache count for the group, but they are given up.
    let group = system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
    match (available, group) {
        (Some(available), Some(group)) => Some(available.min(group)),
        (available, group) => available.or(group),
    }
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
