//! Every input of the fuzz corpus, with the bodies of the fuzz targets and a plain compiler. `tests/fuzz/README.md` says how to fuzz.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "fuzz/src/bodies.rs"]
mod bodies;

/// The inputs of a target, in the order of their names.
fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs a body over its corpus. The reader takes some of the inputs and refuses others; a corpus that has only one kind tests little.
fn replay(target: &str, body: fn(&[u8]) -> bool) {
    let inputs = corpus(target);
    let taken = inputs.iter().filter(|path| {
        let data = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        std::panic::catch_unwind(|| body(&data)).unwrap_or_else(|_| panic!("{target}: {} fails", path.display()))
    });
    let taken = taken.count();
    assert!(taken > 0 && taken < inputs.len(), "{target}: the reader takes {taken} of {} inputs", inputs.len());
}

/// One test a target.
macro_rules! replays {
    ($($name:ident: $target:ident,)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($target), bodies::$target);
        })*

        #[test]
        fn every_target_has_a_test_here() {
            let tested = [$(stringify!($target)),*];
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/fuzz_targets");
            let mut targets: Vec<String> = fs::read_dir(folder).unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
            targets.sort();
            let mut tested = tested.map(str::to_owned).to_vec();
            tested.sort();
            assert_eq!(targets, tested);
        }
    };
}

replays! {
    files_of_pytorch_are_read_or_refused: torch,
    safetensors_files_are_read_or_refused: safetensors,
    coco_annotations_are_read_or_refused: coco,
    detections_are_read_or_refused: results,
    run_lengths_are_read_or_refused: rle,
    class_lists_are_read_or_refused: class_list,
    configurations_are_read_or_refused: configuration,
    photos_are_read_or_refused: image,
    label_maps_are_read_or_refused: label_map,
}
