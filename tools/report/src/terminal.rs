//! Standard output and standard error of the programs.
//!
//! The standard macros panic when the disk behind a redirection is full, and print terminal escapes that a name in a file may have. The macros
//! [`print!`](crate::print), [`println!`](crate::println) and [`eprintln!`](crate::eprintln) of this crate escape control characters, ignore
//! a reader that has gone (`| head`), and remember any other failure for the end of the program.

use std::fmt;
use std::io::{self, Write};
use std::sync::Mutex;

use vmamba_files::printable;

/// The first failure of this process to print.
static FAILURE: Mutex<Option<String>> = Mutex::new(None);

/// The first failure of this process to print: the stream and the reason. A closed pipe is none.
pub fn failure() -> Option<String> {
    FAILURE.lock().map_or(None, |failure| failure.clone())
}

/// As `std::print!`, without a panic and without terminal escapes.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::terminal::print(format_args!($($argument)*)) };
}

/// As `std::println!`, without a panic and without terminal escapes.
#[macro_export]
macro_rules! println {
    () => { $crate::terminal::print(format_args!("\n")) };
    ($($argument:tt)*) => { $crate::terminal::print(format_args!("{}\n", format_args!($($argument)*))) };
}

/// As `std::eprintln!`, without a panic and without terminal escapes.
#[macro_export]
macro_rules! eprintln {
    () => { $crate::terminal::print_error(format_args!("\n")) };
    ($($argument:tt)*) => { $crate::terminal::print_error(format_args!("{}\n", format_args!($($argument)*))) };
}

/// Prints to standard output; for [`println!`](crate::println).
pub fn print(text: fmt::Arguments) {
    remember("standard output", write_escaped(&mut io::stdout().lock(), &text.to_string()));
}

/// Prints to standard error; for [`eprintln!`](crate::eprintln).
pub fn print_error(text: fmt::Arguments) {
    remember("standard error", write_escaped(&mut io::stderr().lock(), &text.to_string()));
}

fn remember(stream: &str, written: io::Result<()>) {
    if let (Err(reason), Ok(mut failure)) = (written, FAILURE.lock()) {
        failure.get_or_insert_with(|| format!("cannot write to {stream}: {reason}"));
    }
}

/// Writes a text whose control characters are escaped, except for line breaks and tabs.
///
/// # Errors
/// When it cannot be written. A reader that has gone is no error: it does not want the text.
pub(crate) fn write_escaped(out: &mut dyn Write, text: &str) -> io::Result<()> {
    let mut escaped = String::with_capacity(text.len());
    for piece in text.split_inclusive(['\n', '\t']) {
        let end = piece.trim_end_matches(['\n', '\t']);
        escaped.push_str(&printable(end));
        escaped.push_str(&piece[end.len()..]);
    }
    match out.write_all(escaped.as_bytes()).and_then(|()| out.flush()) {
        Err(reason) if reason.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_are_printed_as_text_and_lines_and_tabs_stay() {
        let mut page = Vec::new();
        write_escaped(&mut page, "a\tb\n\u{1b}[31mred\u{7}\n\n").unwrap();
        assert_eq!(String::from_utf8(page).unwrap(), "a\tb\n\\u{1b}[31mred\\u{7}\n\n");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_an_error_and_a_reader_that_has_gone_is_none() {
        let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(write_escaped(&mut full, "a").unwrap_err().kind(), io::ErrorKind::StorageFull);
        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        write_escaped(&mut writer, "a").unwrap();
    }
}
