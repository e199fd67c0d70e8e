//! The process of a program: exit codes, memory allocation, signals.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use vmamba_report::{eprintln, terminal};
use vmamba_types::setting::{self, THREADS};

/// Added to the number of a signal, this is the exit code of a program that the signal ended, as shells report it: 130 for SIGINT, 143 for
/// SIGTERM.
const BY_SIGNAL: i32 = 128;
/// Ctrl-C.
const SIGINT: i32 = 2;
/// Within this time after the first signal, further ones are the same request: `timeout` signals a program and its process group, and a
/// terminal signals every process of a pipeline.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// The signal that has asked this process to end; 0 before.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// The `main` of a program. The exit code is 0 when `run` returns true, and 1 when it returns false or fails, with the error on one line, or
/// when something could not be printed. It is 128 + the number of the signal when a signal asked for the end and `run` ended in order, so
/// that `train && test` does not go on. clap has ended the process with 2 before, if the usage was wrong.
pub fn run_tool(run: impl FnOnce() -> anyhow::Result<bool>) -> ExitCode {
    keep_large_blocks();
    ignore_file_size_signal();
    vmamba_files::protect_inputs();
    let outcome = check_threads().and_then(|()| run());
    match (outcome, terminal::failure(), SIGNAL.load(Ordering::SeqCst)) {
        (Err(error), ..) => eprintln!("error: {}", one_line(&described(&error))),
        (Ok(_), Some(failure), _) => eprintln!("error: {failure}"),
        (Ok(true), None, 0) => return ExitCode::SUCCESS,
        (Ok(false), None, 0) => (),
        (Ok(_), None, signal) => return ExitCode::from(u8::try_from(BY_SIGNAL + signal).unwrap_or(u8::MAX)),
    }
    ExitCode::FAILURE
}

/// An error with its causes. A cause that the message before it contains is not said again: some libraries put a cause into their message,
/// others leave it to the chain.
pub fn described(error: &anyhow::Error) -> String {
    let said_once = |text: String, cause: String| if text.contains(&cause) { text } else { format!("{text}: {cause}") };
    error.chain().map(ToString::to_string).reduce(said_once).unwrap_or_default()
}

/// A message on one line: some parsers draw diagrams, and names in files may have line breaks.
fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
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

/// Makes a write beyond `ulimit -f` fail as on a full disk, which saves the run, instead of ending the process without a word. CPython does
/// the same.
fn ignore_file_size_signal() {
    #[cfg(unix)]
    // SAFETY: `SIG_IGN` is a valid action for this signal, and no handler runs.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// A flag that SIGINT, SIGTERM and SIGHUP set. The program checks it and ends in order, with the exit code of the signal. A SIGINT at least a
/// second after the first signal ends the process at once; every other further signal is ignored.
pub fn interrupted() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let flag = FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        let mut requests = Requests { flag: Arc::clone(&flag), first: None };
        if let Err(error) = listen(move |signal| requests.receive(signal)) {
            eprintln!("warning: interrupts will end the program without saving: {error}");
        }
        flag
    });
    Arc::clone(flag)
}

/// The signals that this process has received.
struct Requests {
    flag: Arc<AtomicBool>,
    /// When the first one came.
    first: Option<Instant>,
}

impl Requests {
    fn receive(&mut self, signal: i32) {
        match self.first {
            None => {
                self.first = Some(Instant::now());
                SIGNAL.store(signal, Ordering::SeqCst);
                self.flag.store(true, Ordering::SeqCst);
                eprintln!("\ninterrupted: finishing this step and saving (Ctrl-C once more to stop at once)");
            }
            Some(first) if ends_at_once(signal, first.elapsed()) => std::process::exit(BY_SIGNAL + SIGINT),
            Some(_) => (),
        }
    }
}

/// Whether a signal ends the process at once, so long after the first one.
fn ends_at_once(signal: i32, after: Duration) -> bool {
    signal == SIGINT && after >= SAME_REQUEST
}

/// Calls `receive` for every signal that asks the process to end, in a thread of its own.
#[cfg(unix)]
fn listen(mut receive: impl FnMut(i32) + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    // `nohup` starts a program with SIGHUP ignored, so that the end of the session does not end it.
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    let waiting = move || signals.forever().for_each(&mut receive);
    std::thread::Builder::new().name("signals".to_owned()).spawn(waiting).map(drop)
}

/// Calls `receive` for every Ctrl-C.
#[cfg(not(unix))]
fn listen(mut receive: impl FnMut(i32) + Send + 'static) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || receive(SIGINT))
}

#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null pointer asks for the current action, and `action` points to a writable `sigaction`; all zeros are a valid one if the
    // call fails.
    let (status, action) = unsafe { (libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()), action.assume_init()) };
    status == 0 && action.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ctrl_c_a_second_after_the_first_signal_ends_the_process_at_once() {
        let (term, hangup) = (15, 1);
        assert!(ends_at_once(SIGINT, Duration::from_secs(1)) && ends_at_once(SIGINT, Duration::from_secs(60)));
        assert!(!ends_at_once(SIGINT, Duration::from_millis(999)));
        for signal in [term, hangup] {
            assert!(!ends_at_once(signal, Duration::from_secs(60)));
        }
    }

    #[test]
    fn a_cause_is_said_once() {
        let cause = anyhow::anyhow!("a.json: line 3 is damaged");
        let repeating = cause.context("cannot resume: a.json: line 3 is damaged");
        assert_eq!(described(&repeating), "cannot resume: a.json: line 3 is damaged");
        assert_eq!(described(&repeating.context("run 7")), "run 7: cannot resume: a.json: line 3 is damaged");
        assert_eq!(described(&anyhow::anyhow!("no such file").context("a.json")), "a.json: no such file");
    }

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(one_line("a is not TOML: error\n  |\n1 | [train\n\n"), "a is not TOML: error | 1 | [train");
    }
}
