//! What a fuzz target does with one input. Every reader must return a value or an error, never panic, abort, hang, or take memory out of
//! proportion; what it returns must hold what its documentation promises. Each body says whether the reader took the input, so that the
//! replay can tell a corpus that exercises the reader from one that is refused at the first byte.

use std::cell::RefCell;
use std::fmt::Debug;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::TempDir;
use vision_datasets::class_list::{ClassFile, read_class_list};
use vision_datasets::coco::{EvalConfig, IouType, evaluate, read_results};
use vision_datasets::ground_truth::GroundTruth;
use vision_datasets::image_io::{read_labels, read_rgb, set_max_pixels};
use vmamba::checkpoint::{Checkpoint, Weights};
use vmamba_recipes::config::{self, Configuration};
use vmamba_recipes::detection::DetectionConfig;
use vmamba_recipes::segmentation::SegmentationConfig;
use vmamba_types::Rle;

/// Masks and images above this number of pixels are not decoded: a valid file of some hundred bytes may hold a large image, and that is no fault.
const MOST_PIXELS: usize = 1 << 20;

/// Weights above this number of values are not read, for the same reason.
const MOST_VALUES: usize = 1 << 22;

thread_local! {
    /// One folder a thread; the inputs of a thread replace each other in it.
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// Writes `data` to a file in the folder of this thread. The folder is in memory where the system has such a place.
fn file(name: &str, data: &[u8]) -> PathBuf {
    FOLDER.with_borrow_mut(|folder| {
        let folder = folder.get_or_insert_with(|| {
            let memory = Path::new("/dev/shm");
            let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
            tempfile::tempdir_in(place).expect("a temporary folder")
        });
        let path = folder.path().join(name);
        std::fs::write(&path, data).expect("the input can be written");
        path
    })
}

/// Opens a checkpoint and reads every set of weights in it.
fn checkpoint(path: &Path) -> bool {
    let Ok(checkpoint) = Checkpoint::read(path) else { return false };
    let _ = (checkpoint.metadata(), checkpoint.weight_sets(), checkpoint.is_ours());
    for name in checkpoint.blob_names() {
        let _ = checkpoint.blob(name);
    }
    for weights in [Weights::Validated, Weights::Model, Weights::Ema] {
        let Ok(shapes) = checkpoint.shapes(weights) else { continue };
        let values = shapes.values().map(|shape| shape.iter().fold(1_usize, |all, side| all.saturating_mul(*side)));
        if values.fold(0_usize, usize::saturating_add) > MOST_VALUES {
            continue;
        }
        let Ok(state) = checkpoint.state_dict(weights) else { continue };
        let skipped = state.skipped().len();
        assert!(state.len() + skipped >= shapes.len(), "{} tensors and {skipped} skipped of {}", state.len(), shapes.len());
    }
    true
}

/// PyTorch's files: the pickle, alone or in a zip archive.
pub fn torch(data: &[u8]) -> bool {
    checkpoint(&file("weights.pth", data))
}

/// Safetensors files, ours included.
pub fn safetensors(data: &[u8]) -> bool {
    checkpoint(&file("weights.safetensors", data))
}

/// COCO's annotations. What has been read is written, read again, and is the same.
pub fn coco(data: &[u8]) -> bool {
    let Ok(truth) = GroundTruth::read(&file("annotations.json", data)) else { return false };
    let pixels = |size: [usize; 2]| size[0].saturating_mul(size[1]);
    if truth.images.iter().map(|image| pixels(image.size)).fold(0, usize::saturating_add) > MOST_PIXELS {
        return true;
    }
    let again = file("again.json", b"");
    truth.write(&again).expect("annotations that were read can be written");
    let second = GroundTruth::read(&again).expect("annotations that were written can be read");
    assert_eq!((truth.images.len(), truth.annotations.len()), (second.images.len(), second.annotations.len()));
    for kind in [IouType::Bbox, IouType::Segm] {
        let _ = evaluate(&truth, &[], &EvalConfig::new(kind));
    }
    true
}

/// Detections in COCO's form, against two small images. What has been read can be evaluated.
pub fn results(data: &[u8]) -> bool {
    const TRUTH: &str = r#"{"images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}, {"id": 2, "file_name": "b.png", "height": 8, "width": 8}],
        "categories": [{"id": 1, "name": "ball"}, {"id": 7, "name": "crate"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 8], "area": 80, "iscrowd": 0, "segmentation": [[2, 3, 12, 3, 12, 11, 2, 11]]},
                        {"id": 2, "image_id": 2, "category_id": 7, "bbox": [0, 0, 8, 4], "area": 32, "iscrowd": 1, "segmentation": {"size": [8, 8], "counts": [0, 32, 32]}}]}"#;
    let truth = GroundTruth::read(&file("truth.json", TRUTH.as_bytes())).expect("the annotations above are valid");
    let Ok(results) = read_results(&file("results.json", data), &truth) else { return false };
    for kind in [IouType::Bbox, IouType::Segm] {
        let Ok(report) = evaluate(&truth, &results, &EvalConfig::new(kind)) else { continue };
        let stats = report.stats;
        assert!(stats.iter().all(|value| *value == -1.0 || (0.0..=1.0).contains(value)), "{stats:?}");
    }
    true
}

/// COCO's compressed run lengths: two bytes for the size of the image, then the text.
pub fn rle(data: &[u8]) -> bool {
    let Some(([height, width], text)) = data.split_first_chunk::<2>() else { return false };
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let size = [usize::from(*height), usize::from(*width)];
    let Ok(mask) = Rle::from_compressed(text, size) else { return false };
    mask.validate().expect("a mask that was decoded is valid");
    let bits = mask.to_bits();
    assert_eq!(bits.as_slice().iter().filter(|bit| **bit).count() as u64, mask.area());
    let again = Rle::from_compressed(&mask.to_compressed(), size).expect("a mask that was encoded can be decoded");
    assert_eq!(again.to_bits().as_slice(), bits.as_slice());
    true
}

/// Lists of classes. Every name is there, and no name spans lines.
pub fn class_list(data: &[u8]) -> bool {
    let Ok(ClassFile { classes, .. }) = read_class_list(&file("classes.txt", data)) else { return false };
    assert!(!classes.is_empty() && classes.palette.len() == classes.len());
    assert!(classes.names.iter().all(|name| !name.trim().is_empty() && !name.contains(['\n', '\r', '\u{feff}'])), "{:?}", classes.names);
    true
}

/// Configurations of both tasks: what has been read is written as TOML, read again, and is the same.
pub fn configuration(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let segmentation = config::load_text::<SegmentationConfig>(text, &[], "fuzz.toml").ok();
    if let Some(first) = &segmentation {
        let _ = first.validate();
        returns(first);
    }
    let detection = config::load_text::<DetectionConfig>(text, &[], "fuzz.toml").ok();
    if let Some(first) = &detection {
        let _ = first.validate();
        returns(first);
    }
    segmentation.is_some() || detection.is_some()
}

/// A configuration is the same after it has been written and read.
fn returns<C: Configuration + Debug + PartialEq + Serialize>(first: &C) {
    let written = toml::to_string(first).expect("a configuration that was read can be written");
    let second: C = config::load_text(&written, &[], "again.toml").expect("a configuration that was written can be read");
    // NaN differs from itself, but not from its text.
    assert!(*first == second || format!("{first:?}") == format!("{second:?}"), "{written}");
}

/// Refuses images above [`MOST_PIXELS`].
fn limit_pixels() {
    NonZeroU64::new(MOST_PIXELS as u64).into_iter().for_each(set_max_pixels);
}

/// Photos of every format.
pub fn image(data: &[u8]) -> bool {
    limit_pixels();
    let Ok(image) = read_rgb(&file("photo", data)) else { return false };
    assert_eq!(image.as_raw().len(), image.width() as usize * image.height() as usize * 3);
    true
}

/// Label maps.
pub fn label_map(data: &[u8]) -> bool {
    limit_pixels();
    let Ok(labels) = read_labels(&file("labels.png", data)) else { return false };
    let [height, width] = labels.size();
    assert_eq!(labels.as_slice().len(), height * width);
    true
}
