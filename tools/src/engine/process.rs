//! The process around a run: exit codes, memory allocation, signals.

use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anstream::eprintln;

/// The `main` of a tool that computes: exit code 0 when `run` returns true, 1 when it returns false or fails, with the error on one line.
/// Wrong usage ends with 2 before that.
pub fn run_tool(run: impl FnOnce() -> anyhow::Result<bool>) -> ExitCode {
    keep_large_blocks();
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells glibc's allocator to keep large blocks instead of returning them to the system after every tensor: fresh pages cost up to 3.5
/// times the time of the operation that fills them. Other allocators are left alone.
fn keep_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` only sets parameters of the allocator, and no other thread runs yet.
    unsafe {
        // No block of its own mapping, which would be unmapped when freed.
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

/// Runs `work` and makes a panic an error with its message: Burn panics where a driver is missing or memory is full. Nothing is printed.
///
/// # Errors
/// The first line of the message.
pub fn without_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    // Whoever calls this drops what `work` may have left half done.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    std::panic::set_hook(hook);
    result.map_err(|reason| {
        let text = reason.downcast_ref::<String>().map(String::as_str).or_else(|| reason.downcast_ref::<&str>().copied());
        text.and_then(|text| text.lines().find(|line| !line.trim().is_empty())).unwrap_or("it panicked without a message").to_owned()
    })
}

/// Processor time of all threads of this process so far, in seconds, where the system tells.
pub fn cpu_seconds() -> Option<f64> {
    #[cfg(unix)]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is a valid place for the answer, and zeros are a valid `rusage` if there is none.
        let (status, usage) = unsafe { (libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), usage.assume_init()) };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
        (status == 0).then(|| seconds(usage.ru_utime) + seconds(usage.ru_stime))
    }
    #[cfg(not(unix))]
    None
}

/// Resident memory of this process in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub now: u64,
    /// The most so far.
    pub peak: u64,
}

/// Resident memory of this process, where the system tells: on Linux.
pub fn memory() -> Option<Memory> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some(Memory { now: field("VmRSS")?, peak: field("VmHWM")? })
}

/// Whether SIGINT or SIGTERM has arrived. The first asks for an orderly end; the second ends the process at once.
pub fn interrupted() -> &'static AtomicBool {
    static FLAG: OnceLock<&'static AtomicBool> = OnceLock::new();
    FLAG.get_or_init(|| {
        static INTERRUPTED: AtomicBool = AtomicBool::new(false);
        let handler = || {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                // 128 + SIGINT, as shells report it.
                std::process::exit(130);
            }
            eprintln!("\ninterrupted: finishing this step and saving (once more to stop at once)");
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            eprintln!("warning: interrupts will end the program without saving: {error}");
        }
        &INTERRUPTED
    })
}
