//! Panics of other libraries as errors. Burn panics where a driver is missing or memory is full, and decoders of images panic on some
//! damaged files.
//!
//! This crate sets the process's panic hook, once, and nothing else may set one.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Number of calls in progress whose panics, on any thread, become errors.
static SILENT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Number of calls in progress whose panics on this thread become errors.
    static SILENT_HERE: Cell<usize> = const { Cell::new(0) };
}

/// Installs the hook. It is installed once and never swapped, so that calls on several threads cannot leave a silent hook behind.
fn install() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let silent_here = SILENT_HERE.try_with(Cell::get).is_ok_and(|calls| calls > 0);
            if SILENT.load(Ordering::SeqCst) == 0 && !silent_here {
                previous(panic);
            }
        }));
    });
}

/// Suppresses the messages of panics of all threads while it lives.
struct Silence;

impl Silence {
    fn begin() -> Self {
        install();
        SILENT.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        SILENT.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Runs `work` and returns the message of a panic as an error. Nothing is printed, whatever thread panics. The caller must discard state
/// that a panic left inconsistent.
///
/// # Errors
/// The first non-empty line of the panic's message.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let silence = Silence::begin();
    let result = catch_unwind(AssertUnwindSafe(work));
    drop(silence);
    result.map_err(|panic| panic_message(&*panic))
}

/// As [`catch`], for work that starts no thread: panics of other threads are printed meanwhile.
///
/// # Errors
/// The first non-empty line of the panic's message.
pub fn catch_on_this_thread<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    install();
    SILENT_HERE.set(SILENT_HERE.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(work));
    SILENT_HERE.set(SILENT_HERE.get() - 1);
    result.map_err(|panic| panic_message(&*panic))
}

/// Runs `work` on a thread of its own and returns the message of a panic, or of a missing answer after `patience`, as an error. Nothing is
/// printed.
///
/// # Errors
/// The message of the panic, or that there was no answer.
pub fn catch_within<T: Send + 'static>(patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let silence = Silence::begin();
    let (sender, receiver) = channel();
    // The receiver is gone when the patience has run out; the result is dropped then.
    std::thread::spawn(move || drop(sender.send(catch_unwind(AssertUnwindSafe(work)))));
    let result = receiver.recv_timeout(patience);
    drop(silence);
    match result {
        Ok(done) => done.map_err(|panic| panic_message(&*panic)),
        Err(_) => Err(format!("no answer within {} seconds", patience.as_secs())),
    }
}

/// The first non-empty line of a panic's message.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.and_then(|text| text.lines().find(|line| !line.trim().is_empty())).unwrap_or("it panicked without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_panic_and_a_missing_answer_are_errors_with_the_reason() {
        let patience = Duration::from_secs(60);
        assert_eq!(catch_within(patience, || 7), Ok(7));
        let missing = "library";
        assert_eq!(catch_within(patience, move || -> u8 { panic!("\nno {missing}\nmore") }), Err("no library".to_owned()));
        assert_eq!(catch(|| -> u8 { panic!("no {missing}") }), Err("no library".to_owned()));
        let slow = catch_within(Duration::ZERO, || std::thread::sleep(Duration::from_secs(1)));
        assert_eq!(catch_on_this_thread(|| -> u8 { panic!("no {missing}") }), Err("no library".to_owned()));
        assert_eq!(slow, Err("no answer within 0 seconds".to_owned()));
    }

    #[test]
    fn calls_on_many_threads_do_not_leave_the_hook_silent() {
        static PRINTED: AtomicBool = AtomicBool::new(false);
        // The hook of a program, which must see every panic outside of `catch`.
        install();
        let own = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if SILENT.load(Ordering::SeqCst) == 0 && SILENT_HERE.get() == 0 {
                PRINTED.store(true, Ordering::SeqCst);
            }
            own(panic);
        }));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..50).for_each(|_| assert!(catch(|| panic!("inside")).is_err())));
                scope.spawn(|| (0..50).for_each(|_| assert!(catch_on_this_thread(|| panic!("inside")).is_err())));
            }
        });
        // Tests beside this one may be inside `catch_within` for a moment.
        while SILENT.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        assert!(std::thread::spawn(|| panic!("outside")).join().is_err());
        assert!(PRINTED.load(Ordering::SeqCst));
    }
}
