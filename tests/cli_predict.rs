//! Prediction of photos, folders and patterns; export of weights.

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use tests::tool::{CLAIMING_PNG, Place, program, run};
use vmamba::checkpoint::{Checkpoint, Weights};

const PREDICT: &str = program::PREDICT;

/// A trained checkpoint and three photos of different sizes and formats.
fn place() -> Place {
    let place = Place::new(1);
    place.train_with(program::TRAIN_SEG, "run", &[]).succeeded();
    let photos = place.folder.path().join("photos");
    fs::create_dir_all(photos.join("deeper")).expect("a folder");
    for (name, width, height) in [("a.png", 60, 34), ("b.jpg", 33, 47), ("deeper/a.png", 32, 32)] {
        let photo = RgbImage::from_fn(width, height, |x, y| Rgb([(x * 4) as u8, (y * 5) as u8, 90]));
        photo.save(photos.join(name)).expect("a photo");
    }
    place
}

#[test]
fn files_folders_and_patterns_give_overlays_and_label_maps_of_the_photos_size() {
    let place = place();
    let checkpoint = place.path("run/last.safetensors");
    for (index, inputs) in [vec![place.path("photos/a.png")], vec![place.path("photos")], vec![place.path("photos/*.*")]].iter().enumerate()
    {
        let out = place.path(&format!("out{index}"));
        let mut arguments = vec![checkpoint.clone(), "--out".to_owned(), out.clone()];
        arguments.extend(inputs.iter().cloned());
        let ran = run(PREDICT, &arguments);
        // Folders are read with their subfolders.
        let count = [1, 3, 2][index];
        assert!(ran.succeeded().contains(&format!("{count} of {count} photos")), "{ran:?}");
        let labels = image::open(Path::new(&out).join("a_labels.png")).expect("a label map").into_luma8();
        assert_eq!(labels.dimensions(), (60, 34));
        assert!(Path::new(&out).join("a_overlay.png").is_file());
        assert_eq!(Path::new(&out).join("b_labels.png").is_file(), index > 0);
        assert_eq!(Path::new(&out).join("deeper/a_overlay.png").is_file(), index == 1);
    }
}

#[test]
fn results_of_a_prediction_are_no_photos_of_training_check_test_and_prediction() {
    let place = place();
    let (checkpoint, images) = (place.path("run/last.safetensors"), place.path("data/images/validation"));
    let predicted = |out: &str| run(PREDICT, &[&checkpoint, &images, "--out", out]);
    assert!(predicted(&images).succeeded().contains("4 of 4 photos"));
    assert!(predicted(&format!("{images}/again")).succeeded().contains("skipped images that are no photos: 8 written by this toolkit"));
    // Sixteen pictures lie beside and below the four photos now.
    let again = predicted(&place.path("out"));
    assert!(again.succeeded().contains("4 of 4 photos") && again.stdout.contains("16 written by this toolkit"), "{again:?}");
    let check = run(program::CHECK_DATA, &["--data", &place.path("data"), "--reduce-zero-label"]);
    assert!(check.succeeded().contains("16 images are no photos and are skipped"), "{check:?}");
    let trained = place.train_with(program::TRAIN_SEG, "next", &[]);
    let note = "images/validation: skipped images that are no photos: 16 written by this toolkit";
    assert!(trained.succeeded().contains(note) && trained.stdout.contains("and 4 validation images"), "{trained:?}");
    let tested = run(program::TEST_SEG, &[&checkpoint]);
    assert!(tested.succeeded().contains(note) && tested.stdout.contains("(4 images"), "{tested:?}");
}

#[test]
fn photos_are_read_without_their_exif_orientation_if_the_training_ignored_it() {
    let place = place();
    let (checkpoint, photo) = (place.path("run/last.safetensors"), place.path("turned.jpg"));
    // 48x32 stored pixels, turned by a quarter.
    RgbImage::from_pixel(48, 32, Rgb([200, 10, 10])).save(&photo).expect("a photo");
    let plain = fs::read(&photo).expect("a photo");
    let tiff: &[u8] = &[b'I', b'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 0x01, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
    let exif = [&[0xff, 0xe1, 0, (8 + tiff.len()) as u8][..], b"Exif\0\0", tiff].concat();
    fs::write(&photo, [&plain[..2], &exif, &plain[2..]].concat()).expect("a photo");
    let size = |more: &[&str]| {
        run(PREDICT, &[&[checkpoint.as_str(), &photo, "--out", &place.path("out")], more].concat()).succeeded();
        image::open(place.path("out/turned_labels.png")).expect("a label map").into_luma8().dimensions()
    };
    assert_eq!(size(&[]), (32, 48));
    // The configuration in the checkpoint is changed without another file.
    assert_eq!(size(&["--set", "data.source.ignore_exif=true"]), (48, 32));
}

#[test]
fn exported_weights_have_the_official_keys_and_the_validated_values() {
    let place = place();
    let (checkpoint, file) = (place.path("run/last.safetensors"), place.path("weights.safetensors"));
    let export = |more: &[&str]| run(program::EXPORT_WEIGHTS, &[&[checkpoint.as_str(), &file, "--overwrite"], more].concat());
    let read = |path: &str, weights| Checkpoint::read(path).and_then(|checkpoint| checkpoint.state_dict(weights)).expect("readable");
    export(&[]).succeeded();
    assert_eq!(read(&file, Weights::Validated), read(&checkpoint, Weights::Ema));
    export(&["--weights", "model"]).succeeded();
    assert_eq!(read(&file, Weights::Validated), read(&checkpoint, Weights::Model));
    export(&["--weights", "ema", "--prefix", "backbone."]).succeeded();
    let (exported, averaged) = (read(&file, Weights::Validated), read(&checkpoint, Weights::Ema));
    assert_eq!(exported.get("patch_embed.0.weight"), averaged.get("backbone.patch_embed.0.weight"));
    assert!(exported.keys().all(|key| !key.starts_with("decode_head.")), "only the backbone");
    export(&["--prefix", "spine."]).failed(&["last.safetensors", "`spine.`"]);
}

#[test]
fn photos_of_the_same_name_do_not_overwrite_each_other() {
    let place = place();
    let out = place.path("out");
    let (first, second) = (place.path("photos/a.png"), place.path("photos/deeper/a.png"));
    run(PREDICT, &[place.path("run/last.safetensors"), first, second, "--out".to_owned(), out.clone()]).succeeded();
    let size = |name: &str| image::open(Path::new(&out).join(name)).expect(name).into_luma8().dimensions();
    assert_eq!((size("a_labels.png"), size("a_2_labels.png")), ((60, 34), (32, 32)));
}

#[test]
fn a_damaged_photo_is_named_and_the_others_are_still_segmented() {
    let place = place();
    let photo = place.folder.path().join("photos/b.jpg");
    let bytes = fs::read(&photo).expect("a photo");
    fs::write(&photo, &bytes[..bytes.len() / 2]).expect("a shorter photo");
    let out = place.path("out");
    let ran = run(PREDICT, &[place.path("run/last.safetensors"), place.path("photos"), "--out".to_owned(), out.clone()]);
    ran.failed(&["b.jpg", "truncated"]);
    assert!(ran.stdout.contains("2 of 3 photos"), "{ran:?}");
    assert!(Path::new(&out).join("a_labels.png").is_file());
}

#[test]
fn a_photo_that_claims_a_huge_size_is_named_and_the_others_are_still_segmented() {
    let place = place();
    fs::write(place.folder.path().join("photos/claim.png"), CLAIMING_PNG).expect("a photo");
    let (checkpoint, out) = (place.path("run/last.safetensors"), place.path("out"));
    let ran = run(PREDICT, &[checkpoint.clone(), place.path("photos"), "--out".to_owned(), out.clone()]);
    ran.failed(&["claim.png", "200000x200000", "--max-pixels"]);
    assert!(ran.stdout.contains("3 of 4 photos"), "{ran:?}");
    // b.jpg has 33 x 47 pixels, a.png 60 x 34.
    let ran = run(PREDICT, &[checkpoint, place.path("photos/?.*"), "--out".to_owned(), out, "--max-pixels".to_owned(), "1551".to_owned()]);
    ran.failed(&["a.png", "60x34", "1551"]);
    assert!(ran.stdout.contains("1 of 2 photos"), "{ran:?}");
}

#[test]
fn wrong_inputs_are_explained() {
    let place = place();
    let checkpoint = place.path("run/last.safetensors");
    run(PREDICT, &[&checkpoint, &place.path("none.jpg")]).failed(&["none.jpg", "no such file"]);
    fs::create_dir(place.folder.path().join("empty")).expect("a folder");
    run(PREDICT, &[&checkpoint, &place.path("empty")]).failed(&["empty", "no photo"]);
    let ran = run(PREDICT, &[checkpoint.as_str(), &place.path("photos"), "--alpha", "2"]);
    assert_eq!(ran.code, Some(2), "wrong usage: {ran:?}");
    let ran = run(PREDICT, &[checkpoint.as_str(), &place.path("photos"), "--device", "cuda"]);
    if cfg!(not(feature = "cuda")) {
        ran.failed(&["--features cuda"]);
    }
}
