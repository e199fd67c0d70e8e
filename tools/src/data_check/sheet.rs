//! Contact sheets of label maps.

use std::path::Path;

use image::{Rgb, RgbImage};
use vision_datasets::check::CheckReport;
use vision_datasets::image_io::{self, ExifOrientation};
use vision_datasets::photos::photos_below;
use vmamba_report::label_maps::{self, Classes};
use vmamba_report::pictures;
use vmamba_types::ClassList;

use super::options::DataCheckOptions;
use crate::present::spread;

/// Name, picture and labels as training sees them; no labels where they cannot be read.
pub(super) type Shown = (String, RgbImage, Option<Vec<u8>>);

/// The contact sheet of a folder; none when it has no readable image.
pub(super) fn folder_sheet(root: &Path, report: &CheckReport, classes: Option<&ClassList>, options: &DataCheckOptions) -> Option<RgbImage> {
    let generated;
    let classes = match classes {
        Some(classes) => classes,
        None => {
            generated = ClassList::numbered(report.num_classes);
            &generated
        }
    };
    let mut parts: Vec<(String, Vec<Shown>)> = Vec::new();
    for split in &report.splits {
        let folder = root.join("images").join(&split.name);
        let files = photos_below(&folder).map(|photos| photos.files).unwrap_or_default();
        let load = |index: usize| -> Option<Shown> {
            let path = files.get(index)?;
            let image = image_io::read_photo(path, ExifOrientation::ignored_if(options.ignore_exif)).ok()?;
            let below = path.strip_prefix(&folder).ok()?;
            let name = below.display().to_string();
            let labels = root.join("annotations").join(&split.name).join(below).with_extension("png");
            let labels = image_io::read_labels(&labels).ok().filter(|l| l.size() == [image.height() as usize, image.width() as usize]);
            let labels = labels.map(|l| if options.reduce_zero_label { l.reduce_zero_label() } else { l });
            Some((name, image, labels.map(|l| l.as_slice().to_vec())))
        };
        parts.push((split.name.clone(), spread(options.sheet_images, files.len()).filter_map(load).collect()));
    }
    parts.retain(|(_, shown)| !shown.is_empty());
    (!parts.is_empty()).then(|| contact_sheet(&parts, classes))
}

/// A heading and a grid of overlays for every split, above a legend of the labels they show.
pub(super) fn contact_sheet(parts: &[(String, Vec<Shown>)], classes: &ClassList) -> RgbImage {
    const COLUMNS: usize = 4;
    const CELL: u32 = 300;
    let mut rows = Vec::new();
    let mut all_labels = Vec::new();
    for (name, shown) in parts {
        let cells: Vec<(String, RgbImage)> = shown
            .iter()
            .map(|(title, image, labels)| {
                let large = pictures::fit(image, CELL);
                let overlay = labels.as_ref().and_then(|labels| {
                    all_labels.extend_from_slice(labels);
                    let labels = resize_labels(labels, image.dimensions(), large.dimensions());
                    label_maps::overlay(&large, &labels, &classes.palette, 0.5).ok()
                });
                match overlay {
                    Some(overlay) => (title.clone(), overlay),
                    None => (format!("no labels: {title}"), crossed_out(large)),
                }
            })
            .collect();
        let grid = pictures::contact_sheet(&cells, COLUMNS, CELL);
        rows.push(pictures::heading(name, grid.width()));
        rows.push(grid);
    }
    let width = rows.iter().map(RgbImage::width).max().unwrap_or(CELL);
    rows.push(label_maps::legend(&all_labels, Classes { names: &classes.names, palette: &classes.palette }, width));
    pictures::stack(&rows.iter().collect::<Vec<_>>())
}

/// Resizes a label map with nearest neighbours at pixel centres.
fn resize_labels(labels: &[u8], (width, height): (u32, u32), (new_width, new_height): (u32, u32)) -> Vec<u8> {
    let source = |i: u32, new: u32, old: u32| ((u64::from(i) * 2 + 1) * u64::from(old) / (2 * u64::from(new))) as usize;
    (0..new_height)
        .flat_map(|y| (0..new_width).map(move |x| source(y, new_height, height) * width as usize + source(x, new_width, width)))
        .map(|at| labels[at])
        .collect()
}

/// Crosses out a picture whose labels cannot be shown.
fn crossed_out(mut image: RgbImage) -> RgbImage {
    let (w, h) = (image.width() as f32 - 1.0, image.height() as f32 - 1.0);
    for offset in [-1.0, 0.0, 1.0] {
        imageproc::drawing::draw_line_segment_mut(&mut image, (offset, 0.0), (w + offset, h), Rgb([220, 0, 0]));
        imageproc::drawing::draw_line_segment_mut(&mut image, (offset, h), (w + offset, 0.0), Rgb([220, 0, 0]));
    }
    image
}
