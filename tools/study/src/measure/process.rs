//! CPU time and resident memory of this process.

/// CPU time of all threads of this process so far, in seconds; `None` where the system does not report it.
pub fn cpu_seconds() -> Option<f64> {
    #[cfg(unix)]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` points to a writable `rusage`; all zeros are a valid `rusage` if the call fails.
        let (status, usage) = unsafe { (libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), usage.assume_init()) };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
        (status == 0).then(|| seconds(usage.ru_utime) + seconds(usage.ru_stime))
    }
    #[cfg(not(unix))]
    None
}

/// Resident memory of this process in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    /// The current size.
    pub now: u64,
    /// The largest size since the process started.
    pub peak: u64,
}

/// Resident memory of this process; `None` on systems other than Linux.
pub fn resident() -> Option<Resident> {
    let status = vmamba_files::read_text(std::path::Path::new("/proc/self/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some(Resident { now: field("VmRSS")?, peak: field("VmHWM")? })
}
