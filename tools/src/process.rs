//! The process of a program: exit codes, memory allocation, signals.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anstream::eprintln;
use vmamba_types::setting::{self, THREADS};

/// The `main` of a program: exit code 0 when `run` returns true, 1 when it returns false or fails, with the error on one line. clap has ended
/// the process with 2 before, if the usage was wrong.
pub fn run_tool(run: impl FnOnce() -> anyhow::Result<bool>) -> ExitCode {
    keep_large_blocks();
    match check_threads().and_then(|()| run()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Checks the number of threads that the environment asks for. Rayon would start any number of them, and take a word for its default.
fn check_threads() -> anyhow::Result<()> {
    const VARIABLE: &str = "RAYON_NUM_THREADS";
    let Some(value) = std::env::var_os(VARIABLE) else { return Ok(()) };
    let value = value.to_string_lossy();
    // 0 is Rayon's default: a thread for every core.
    let valid = value.parse::<usize>().is_ok_and(|threads| threads <= *THREADS.end());
    setting::require(valid, VARIABLE, format!("a whole number from 0 to {}", THREADS.end()), &value)?;
    Ok(())
}

/// Makes glibc's allocator keep large blocks instead of returning them to the system after every tensor: page faults on fresh pages take up
/// to 3.5 times as long as the operation that fills them. Other allocators are not changed.
fn keep_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` only sets parameters of the allocator, and no other thread runs yet.
    unsafe {
        // No `mmap` for large blocks, because `free` would unmap them.
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

/// A flag that SIGINT and SIGTERM set. The program checks it and ends in order; a second signal ends the process at once.
pub fn interrupted() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let flag = FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&flag);
        let handler = move || {
            if set.swap(true, Ordering::SeqCst) {
                // 128 + SIGINT, as shells report it.
                std::process::exit(130);
            }
            eprintln!("\ninterrupted: finishing this step and saving (once more to stop at once)");
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            eprintln!("warning: interrupts will end the program without saving: {error}");
        }
        flag
    });
    Arc::clone(flag)
}
