//! Checks a data set before training: `check_data --data DIR --classes FILE` for label maps, `check_data --coco FILE --images DIR` for
//! objects.
//!
//! Exit code 0: the data set is ready for training; 1: it has errors (with `--strict` also warnings), or the check itself failed; 2: wrong
//! usage.

use std::process::ExitCode;

use clap::Parser;
use vmamba_cli::data_check::{self, DataCheckOptions};
use vmamba_cli::process;

/// Check a data set before training on it.
///
/// For segmentation, reads DIR/images/SPLIT/* and DIR/annotations/SPLIT/*.png, counts the pixels of each class, compares label values with
/// the class list and looks for mistakes that make training fail silently. For detection, reads COCO annotations (--coco) and their images.
/// Without either, it checks the built-in scenes.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    check: DataCheckOptions,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| data_check::run(&arguments.check))
}
