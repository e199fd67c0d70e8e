//! Selects the features that the dependencies have in a build of the whole workspace.
//!
//! Cargo unifies the features of dependencies over the packages that one command selects. `cargo test -p vision-ops` therefore builds
//! other variants of some small crates than `cargo test --workspace`, and with them all of Burn once more, which takes six minutes.
//! This package depends on every crate of the registry that any member uses, so
//! `cargo test -p vision-ops -p unified-features --lib` uses the dependencies that a build of the workspace left behind.
