//! The check of a data set before training: label maps in the ADE20K layout, COCO annotations, or the built-in scenes.

mod label_maps;
mod objects;
mod options;
mod report;
mod sheet;

use anyhow::{Context, Result};
use vmamba_report::files::check_picture;
use vmamba_report::{eprintln, pictures, print};

pub use options::DataCheckOptions;

use crate::options::reserve;

/// Checks a data set, prints the report, and writes the files that the options name. Returns whether the data set passes.
///
/// # Errors
/// When the data set cannot be read at all, or a file cannot be written.
pub fn run(options: &DataCheckOptions) -> Result<bool> {
    options.limit.apply();
    options.json.reserve()?;
    if let Some(path) = &options.sheet {
        reserve("--sheet", path)?;
        check_picture(path).context("--sheet")?;
    }
    let checked = match (&options.coco, &options.images) {
        (Some(annotations), Some(images)) => objects::check(annotations, images, options)?,
        _ => label_maps::check(options)?,
    };
    print!("{}", checked.text);
    options.json.write(|| checked.report)?;
    if let Some(path) = &options.sheet {
        match &checked.sheet {
            Some(sheet) => pictures::save(path, sheet)?,
            None => eprintln!("no contact sheet: there is no readable image"),
        }
    }
    Ok(checked.passes)
}
