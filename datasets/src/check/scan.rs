//! Reads every file of a data set once and keeps the facts that the rules need: sizes, label values, fingerprints of the content.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::BufReader;
use std::path::Path;

use rayon::prelude::*;

use super::{CheckError, CheckOptions};
use crate::ade20k::pairs::{Pair, SplitFiles, split_files};
use crate::folders::{Listing, entries, file_name, has_ending};
use crate::image_io::{self, ExifOrientation, IMAGE_ENDINGS, PhotoHeader};
use crate::sample::SegmentationDataset;

pub(super) struct FolderScan {
    pub(super) splits: Vec<SplitScan>,
    /// Requested splits that do not exist.
    pub(super) missing: Vec<String>,
    /// Number of images directly in `images/`, which belong to no split.
    pub(super) stray_images: usize,
}

#[derive(Default)]
pub(super) struct SplitScan {
    pub(super) name: String,
    /// The files; their pairs are scanned.
    pub(super) files: SplitFiles,
    pub(super) pairs: Vec<PairScan>,
}

pub(super) struct PairScan {
    pub(super) name: String,
    pub(super) image: Result<ImageFacts, String>,
    pub(super) labels: Result<LabelFacts, String>,
}

pub(super) struct ImageFacts {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) content: u64,
    /// The header of the file; none for the sample of a data set.
    pub(super) header: Option<PhotoHeader>,
}

pub(super) struct LabelFacts {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) kind: LabelKind,
    /// Pixels of each value; all 0 for a kind without class indices.
    pub(super) counts: Box<[u64; 256]>,
    pub(super) content: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LabelKind {
    /// Grey values, which are the labels.
    Grey,
    /// Palette indices, which are the labels.
    Palette,
    /// Grey values of 16 bits, some above 255.
    Grey16,
    /// Several channels; `true` when they are equal at every pixel.
    Colour(bool),
}

/// Finds the splits below `images/` and reads them.
pub(super) fn scan_folder(root: &Path, options: &CheckOptions) -> Result<FolderScan, CheckError> {
    let wanted = &options.splits;
    entries(root)?;
    let (images, annotations) = (root.join("images"), root.join("annotations"));
    let of = |folder: &Path| if folder.is_dir() { entries(folder) } else { Ok((Vec::new(), Listing::default())) };
    let (image_folders, own_files) = of(&images)?;
    let stray_images = own_files.files.iter().filter(|path| has_ending(path, &IMAGE_ENDINGS)).count();
    let mut found: Vec<String> = image_folders.iter().chain(&of(&annotations)?.0).map(|path| file_name(path)).collect();
    // Training first, then validation and test, then all others.
    let rank = |name: &str| ["train", "val", "test"].iter().position(|start| name.starts_with(start)).unwrap_or(3);
    found.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
    found.dedup();
    let missing = wanted.iter().filter(|w| !found.contains(w)).cloned().collect();
    if !wanted.is_empty() {
        found.retain(|name| wanted.contains(name));
    }
    let splits = found
        .iter()
        .map(|name| scan_split(name, &images.join(name), &annotations.join(name), options.exif))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(FolderScan { splits, missing, stray_images })
}

fn scan_split(name: &str, images: &Path, annotations: &Path, exif: ExifOrientation) -> Result<SplitScan, CheckError> {
    let files = split_files(images, annotations)?;
    let scan = |pair: &Pair| PairScan {
        name: file_of(&pair.image, images),
        image: image_facts(&pair.image, exif),
        labels: label_facts(&pair.labels),
    };
    Ok(SplitScan { name: name.to_owned(), pairs: files.pairs.par_iter().map(scan).collect(), files })
}

/// The path of a file below the folder of its split.
fn file_of(path: &Path, folder: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}

/// The facts of the samples of a data set.
pub(super) fn scan_dataset(name: &str, dataset: &dyn SegmentationDataset) -> SplitScan {
    let pairs: Vec<PairScan> = (0..dataset.len())
        .into_par_iter()
        .map(|index| match dataset.get(index) {
            Ok(sample) => {
                let (width, height) = sample.image.dimensions();
                let [label_height, label_width] = sample.labels.size();
                PairScan {
                    name: sample.name,
                    image: Ok(ImageFacts { width, height, content: fingerprint(width, height, sample.image.as_raw()), header: None }),
                    labels: Ok(label_values(label_width as u32, label_height as u32, LabelKind::Grey, sample.labels.as_slice())),
                }
            }
            Err(error) => PairScan { name: format!("sample {index}"), image: Err(error.to_string()), labels: Err(error.to_string()) },
        })
        .collect();
    let files = SplitFiles { images: pairs.len(), labels: pairs.len(), ..SplitFiles::default() };
    SplitScan { name: name.to_owned(), files, pairs }
}

fn image_facts(path: &Path, exif: ExifOrientation) -> Result<ImageFacts, String> {
    let image = image_io::read_photo(path, exif).map_err(|error| error.to_string())?;
    let (width, height) = image.dimensions();
    let header = PhotoHeader::read(path).map_err(|error| error.to_string())?;
    Ok(ImageFacts { width, height, content: fingerprint(width, height, image.as_raw()), header: Some(header) })
}

/// Reads a label file as training does; for a file that training refuses, finds out why.
fn label_facts(path: &Path) -> Result<LabelFacts, String> {
    let (colour, depth) = png_kind(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let without_values = |kind| -> Result<LabelFacts, String> {
        let image = image_io::read_rgb(path).map_err(|error| error.to_string())?;
        let (width, height) = image.dimensions();
        let kind = match kind {
            LabelKind::Colour(_) => LabelKind::Colour(image.pixels().all(|p| p.0[0] == p.0[1] && p.0[1] == p.0[2])),
            other => other,
        };
        Ok(LabelFacts { width, height, kind, counts: Box::new([0; 256]), content: fingerprint(width, height, image.as_raw()) })
    };
    let kind = match colour {
        png::ColorType::Grayscale => LabelKind::Grey,
        png::ColorType::Indexed => LabelKind::Palette,
        _ => return without_values(LabelKind::Colour(false)),
    };
    match image_io::read_labels(path) {
        Ok(labels) => {
            let [height, width] = labels.size();
            Ok(label_values(width as u32, height as u32, kind, labels.as_slice()))
        }
        // Training refuses 16 bits only for values above 255.
        Err(_) if depth == png::BitDepth::Sixteen => without_values(LabelKind::Grey16),
        Err(error) => Err(error.to_string()),
    }
}

/// Colour type and bit depth by the header of a PNG file.
fn png_kind(path: &Path) -> Result<(png::ColorType, png::BitDepth), png::DecodingError> {
    let reader = png::Decoder::new(BufReader::new(vmamba_files::open(path)?)).read_info()?;
    Ok((reader.info().color_type, reader.info().bit_depth))
}

fn label_values(width: u32, height: u32, kind: LabelKind, values: &[u8]) -> LabelFacts {
    let mut counts = Box::new([0; 256]);
    values.iter().for_each(|&v| counts[usize::from(v)] += 1);
    LabelFacts { width, height, kind, counts, content: fingerprint(width, height, values) }
}

/// A hash of the content. With 64 bits, the probability of a false pair among a million images is 3e-8.
pub(super) fn fingerprint(width: u32, height: u32, bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (width, height).hash(&mut hasher);
    bytes.hash(&mut hasher);
    hasher.finish()
}
