//! A measurement in a child process: this program, called with `--measure REQUEST`. The peak memory of the child is that of one
//! measurement, and a network that runs out of memory ends the child alone.

use std::io::{Read, Seek, SeekFrom};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Time between two calls of `watch`; `nvidia-smi` takes about as long to answer.
const WATCH: Duration = Duration::from_millis(50);

/// Sends `request` to a child process and returns its answer. Calls `watch` while the child runs.
///
/// # Errors
/// The error that the child printed, or how it ended.
pub(super) fn ask<A: DeserializeOwned>(request: &impl Serialize, watch: Option<&mut dyn FnMut()>) -> Result<A, String> {
    let start = |error: std::io::Error| format!("cannot start this program again: {error}");
    let program = std::env::current_exe().map_err(start)?;
    let request = serde_json::to_string(request).map_err(|error| error.to_string())?;
    // A file instead of a pipe: the child never waits for a reader.
    let mut errors = tempfile::tempfile().map_err(|error| format!("cannot create a temporary file: {error}"))?;
    let mut child = Command::new(program)
        .args(["--measure", &request])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors.try_clone().map_err(start)?)
        .spawn()
        .map_err(start)?;
    if let Some(watch) = watch {
        while child.try_wait().map_err(start)?.is_none() {
            watch();
            std::thread::sleep(WATCH);
        }
    }
    let output = child.wait_with_output().map_err(start)?;
    if !output.status.success() {
        let mut text = Vec::new();
        // Without the text, the exit status is the reason.
        let _ = errors.seek(SeekFrom::Start(0)).and_then(|_| errors.read_to_end(&mut text));
        return Err(explain(output.status, &String::from_utf8_lossy(&text)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("the child process answered invalid JSON: {error}"))
}

/// Why a child failed, from its standard error and exit status. A process killed for lack of memory prints nothing.
fn explain(status: ExitStatus, errors: &str) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        // Rust prints a hint or a backtrace after this line.
        let refused = errors.lines().find(|line| line.starts_with("memory allocation of"));
        return match (signal, refused) {
            (libc::SIGKILL, _) => "killed by SIGKILL; the system does this when it runs out of memory".to_owned(),
            (libc::SIGABRT, Some(refused)) => format!("out of memory: {refused}"),
            (other, _) => format!("killed by signal {other}"),
        };
    }
    let error = errors.lines().find_map(|line| line.strip_prefix("error: "));
    let last = error.or_else(|| errors.lines().rfind(|line| !line.trim().is_empty()));
    last.map_or_else(|| status.to_string(), str::to_owned)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_failure_is_explained_by_signal_error_line_or_status() {
        let aborted = ExitStatus::from_raw(libc::SIGABRT);
        let text = "\nthread 'main' (1) panicked\nmemory allocation of 1099511627776 bytes failed\nnote: run with `RUST_BACKTRACE=1`\n   0: main\n";
        assert_eq!(explain(aborted, text), "out of memory: memory allocation of 1099511627776 bytes failed");
        assert_eq!(explain(aborted, "assertion\n"), "killed by signal 6");
        assert!(explain(ExitStatus::from_raw(libc::SIGKILL), "").contains("out of memory"));
        assert_eq!(explain(ExitStatus::from_raw(1 << 8), "warning: x\nerror: no such device\na second line\n"), "no such device");
    }

    #[test]
    fn a_failed_allocation_prints_the_line_that_explain_expects() {
        // The test runs itself in a child process that asks for more memory than exists.
        const ASKED: &str = "VMAMBA_TEST_ALLOCATE";
        if std::env::var_os(ASKED).is_some() {
            let layout = std::alloc::Layout::from_size_align(1 << 46, 8).expect("a layout");
            std::alloc::handle_alloc_error(layout);
        }
        let program = std::env::current_exe().expect("this program");
        let name = "measure::child::tests::a_failed_allocation_prints_the_line_that_explain_expects";
        let output = Command::new(program).args(["--exact", name, "--nocapture"]).env(ASKED, "1").output().expect("a process");
        let reason = explain(output.status, &String::from_utf8_lossy(&output.stderr));
        assert_eq!(reason, "out of memory: memory allocation of 70368744177664 bytes failed");
    }
}
