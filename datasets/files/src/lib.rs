//! Files of users and of runs: the one way to open input, to write a file, to append to a log, to lock a folder and to print a name.
//!
//! | task | function |
//! |---|---|
//! | read input: images, annotations, configurations, checkpoints | [`open`], [`read`], [`read_text`] |
//! | tell what a file is by its first bytes | [`read_head`] |
//! | write a file that is complete or absent | [`write()`], [`write_with`] |
//! | check an output before any work | [`reserve`], [`reserve_folder`], [`reserve_all_in`] |
//! | keep an input from being overwritten | [`protect_inputs`], [`check_inputs`], [`may_replace`], [`is_input`] |
//! | append lines to a log | [`AppendLog`] |
//! | keep a second program out of a folder | [`FolderLock`] |
//! | print a name that comes from a file | [`printable`] |
//!
//! Errors are [`std::io::Error`]s without the path, as those of `std::fs`: every library adds the path in its own error type. What this
//! crate refuses on its own account is a [`Refusal`] inside of the error.
//!
//! `tests/docs.rs` searches the sources: no other crate of this repository opens or writes files by itself.

mod input;
mod ledger;
mod lock;
mod log;
mod output;
mod text;

pub use input::{FileKind, Refusal, open, read, read_head, read_text};
pub use ledger::{check_inputs, is_input, may_replace, protect_inputs, reserve, reserve_all_in, reserve_folder};
pub use lock::FolderLock;
pub use log::AppendLog;
pub use output::{Durability, remove_stale, write, write_with};
pub use text::{decode, printable};
