//! Reads every file of a data set once and keeps the facts that the rules need: sizes, label values, fingerprints of the content.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::CheckError;
use crate::image_io::{self, IMAGE_ENDINGS};
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
    /// Numbers of image and label files, paired or not.
    pub(super) images: usize,
    pub(super) labels: usize,
    pub(super) pairs: Vec<PairScan>,
    pub(super) images_without_label: Vec<String>,
    pub(super) labels_without_image: Vec<String>,
    /// Images that share their stem, and so their label map.
    pub(super) ambiguous: Vec<String>,
    /// Label maps in another format than PNG, such as JPEG, which does not keep the values.
    pub(super) lossy_labels: Vec<String>,
    pub(super) other_files: Vec<String>,
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
pub(super) fn scan_folder(root: &Path, wanted: &[String]) -> Result<FolderScan, CheckError> {
    list(root)?;
    let (images, annotations) = (root.join("images"), root.join("annotations"));
    let entries = if images.is_dir() { list(&images)? } else { Vec::new() };
    let stray_images = entries.iter().filter(|p| p.is_file() && has_ending(p, &IMAGE_ENDINGS)).count();
    let mut found: Vec<String> = entries.iter().filter(|p| p.is_dir()).map(|p| file_name(p)).collect();
    if annotations.is_dir() {
        found.extend(list(&annotations)?.iter().filter(|p| p.is_dir()).map(|p| file_name(p)));
    }
    // Training first, then validation and test, then all others.
    let rank = |name: &str| ["train", "val", "test"].iter().position(|start| name.starts_with(start)).unwrap_or(3);
    found.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
    found.dedup();
    let missing = wanted.iter().filter(|w| !found.contains(w)).cloned().collect();
    if !wanted.is_empty() {
        found.retain(|name| wanted.contains(name));
    }
    let splits = found.iter().map(|name| scan_split(name, &images.join(name), &annotations.join(name))).collect::<Result<Vec<_>, _>>()?;
    Ok(FolderScan { splits, missing, stray_images })
}

fn scan_split(name: &str, images: &Path, annotations: &Path) -> Result<SplitScan, CheckError> {
    let mut split = SplitScan { name: name.to_owned(), ..SplitScan::default() };
    let mut image_files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in list_files(images)? {
        if has_ending(&path, &IMAGE_ENDINGS) {
            split.images += 1;
            image_files.entry(stem(&path)).or_default().push(path);
        } else {
            split.other_files.push(file_name(&path));
        }
    }
    let mut label_files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in list_files(annotations)? {
        if has_ending(&path, &["png"]) {
            split.labels += 1;
            label_files.insert(stem(&path), path);
        } else if has_ending(&path, &IMAGE_ENDINGS) {
            split.lossy_labels.push(file_name(&path));
        } else {
            split.other_files.push(file_name(&path));
        }
    }
    let mut pairs = Vec::new();
    for (stem, paths) in image_files {
        if paths.len() > 1 {
            split.ambiguous.push(paths.iter().map(|p| file_name(p)).collect::<Vec<_>>().join(" and "));
        }
        let label = label_files.remove(&stem);
        for path in paths {
            match &label {
                Some(label) => pairs.push((path, label.clone())),
                None => split.images_without_label.push(file_name(&path)),
            }
        }
    }
    split.labels_without_image = label_files.values().map(|p| file_name(p)).collect();
    split.pairs = pairs
        .par_iter()
        .map(|(image, label)| PairScan { name: file_name(image), image: image_facts(image), labels: label_facts(label) })
        .collect();
    Ok(split)
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
                    image: Ok(ImageFacts { width, height, content: fingerprint(width, height, sample.image.as_raw()) }),
                    labels: Ok(label_values(label_width as u32, label_height as u32, LabelKind::Grey, sample.labels.as_slice())),
                }
            }
            Err(error) => PairScan { name: format!("sample {index}"), image: Err(error.to_string()), labels: Err(error.to_string()) },
        })
        .collect();
    SplitScan { name: name.to_owned(), images: pairs.len(), labels: pairs.len(), pairs, ..SplitScan::default() }
}

fn image_facts(path: &Path) -> Result<ImageFacts, String> {
    let image = image_io::read_rgb(path).map_err(|error| error.to_string())?;
    let (width, height) = image.dimensions();
    Ok(ImageFacts { width, height, content: fingerprint(width, height, image.as_raw()) })
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
    let reader = png::Decoder::new(BufReader::new(File::open(path)?)).read_info()?;
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

/// The entries of a folder, sorted, without hidden ones.
fn list(folder: &Path) -> Result<Vec<PathBuf>, CheckError> {
    let error = |reason| CheckError::Io { path: folder.to_owned(), reason };
    let mut entries =
        std::fs::read_dir(folder).map_err(error)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(error)?;
    entries.retain(|path| !file_name(path).starts_with('.'));
    entries.sort();
    Ok(entries)
}

/// The files of a folder; none for a folder that does not exist.
fn list_files(folder: &Path) -> Result<Vec<PathBuf>, CheckError> {
    let mut entries = if folder.is_dir() { list(folder)? } else { Vec::new() };
    entries.retain(|path| path.is_file());
    Ok(entries)
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| endings.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}
