//! Tables and pictures of a trained model.

use std::path::Path;

use anstream::{print, println};
use anyhow::Result;
use burn::prelude::Device;
use upernet::UperNet;
use vmamba::zoo::Backbone;
use vmamba_recipes::Configured;
use vmamba_recipes::detection::{AnyDetector, Detection, Reports};
use vmamba_recipes::segmentation::Segmentation;
use vmamba_report::curves::precision_recall;
use vmamba_report::pictures::{self, Classes};
use vmamba_report::{detection, objects, segmentation};

/// Scores from which on an object is drawn.
const DRAWN_SCORE: f32 = 0.3;

/// Opacity of drawn labels.
const OPACITY: f32 = 0.6;

/// A task whose results the programs show.
pub trait Present: Configured {
    /// Draws predictions on `count` validation images into `folder`; returns their number.
    ///
    /// # Errors
    /// When a sample cannot be read or a picture cannot be written.
    fn draw(&self, model: &Self::Model, device: &Device, folder: &Path, count: usize) -> Result<usize>;

    /// Prints the tables of the newest validation, and draws its curves into `folder`.
    ///
    /// # Errors
    /// When a curve cannot be written.
    fn print_figures(&self, folder: &Path) -> Result<()>;
}

/// `count` positions spread evenly over `len`.
fn spread(count: usize, len: usize) -> impl ExactSizeIterator<Item = usize> {
    let count = count.min(len);
    (0..count).map(move |position| position * len / count.max(1))
}

impl Present for Detection<AnyDetector> {
    fn draw(&self, model: &Self::Model, device: &Device, folder: &Path, count: usize) -> Result<usize> {
        let (data, predictor) = (self.validation(), self.predictor(model, device));
        let positions = spread(count, data.len());
        let drawn = positions.len();
        for position in positions {
            let sample = data.get(position)?;
            let found = predictor.predict(&sample.image);
            let picture = objects::comparison(&sample.image, Some(&sample.instances), &found, data.classes(), DRAWN_SCORE);
            pictures::save(&folder.join(format!("{}.png", sample.name)), &picture)?;
        }
        Ok(drawn)
    }

    fn print_figures(&self, folder: &Path) -> Result<()> {
        let Some(Reports { boxes, masks }) = self.newest_reports() else { return Ok(()) };
        let data = self.validation();
        let ids: Vec<i64> = data.truth()?.categories.iter().map(|category| category.id).collect();
        print!("{}", detection::category_table(&boxes, &masks, data.classes(), &ids).text());
        print!("{}", detection::statistics_table(&boxes, &masks).text());
        println!("{}", detection::summary(&boxes, &masks));
        precision_recall(folder, &boxes, "bbox")?;
        precision_recall(folder, &masks, "segm")
    }
}

impl Present for Segmentation<UperNet<Backbone>> {
    fn draw(&self, model: &Self::Model, device: &Device, folder: &Path, count: usize) -> Result<usize> {
        let (data, predictor) = (self.validation(), self.predictor(model, device));
        let classes = data.classes();
        let positions = spread(count, data.len());
        let drawn = positions.len();
        for position in positions {
            let sample = data.get(position)?;
            let labels = predictor.predict(&sample.image)?;
            let colours = Classes { names: &classes.names, palette: &classes.palette };
            let picture = pictures::comparison(&sample.image, Some(sample.labels.as_slice()), &labels, colours, OPACITY)?;
            pictures::save(&folder.join(format!("{}.png", sample.name)), &picture)?;
        }
        Ok(drawn)
    }

    fn print_figures(&self, _folder: &Path) -> Result<()> {
        let Some(report) = self.newest_report() else { return Ok(()) };
        print!("{}", segmentation::class_table(&report, self.validation().classes()).text());
        println!("{}", segmentation::summary(&report));
        Ok(())
    }
}
