//! Files of users and of runs: the one way to open input, to write a file, to append to a log, to lock a folder and to print a name.
//!
//! | task | function |
//! |---|---|
//! | read input: images, annotations, configurations, checkpoints | [`open`], [`read`], [`read_text`] |
//! | write a file that is complete or absent | [`write()`], [`write_with`] |
//! | keep an input from being overwritten | [`same_file`] |
//! | append lines to a log | [`AppendLog`] |
//! | keep a second program out of a folder | [`FolderLock`] |
//! | print a name that comes from a file | [`printable`] |
//!
//! Errors are [`std::io::Error`]s without the path, as those of `std::fs`: every library adds the path in its own error type. What this
//! crate refuses on its own account is a [`Refusal`] inside of the error.
//!
//! `tests/docs.rs` searches the sources: no other crate of this repository opens or writes files by itself.

mod input;
mod lock;
mod log;
mod output;
mod text;

pub use input::{FileKind, Refusal, open, read, read_text};
pub use lock::FolderLock;
pub use log::AppendLog;
pub use output::{Durability, remove_stale, same_file, write, write_with};
pub use text::{decode, printable};
