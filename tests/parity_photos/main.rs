//! Photos read as OpenCV reads them, value for value. The small photos and their pixels are written by `generate.py`; with the full reference
//! set, real photos are compared with the fixtures in `parity_preprocess`.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use vision_datasets::image_io::{ExifOrientation, read_labels, read_photo, read_rgb, set_max_pixels};
use vision_datasets::photos::has_photo_name;

/// Four-channel JPEGs are decoded by another decoder than libjpeg-turbo, see `datasets/src/image_io/jpeg.rs`.
const CMYK_LEVELS: u8 = 2;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parity_photos")
}

fn photos() -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join("photos.json")).expect("photos.json");
    serde_json::from_str(&text).expect("a list")
}

#[test]
fn photos_of_every_kind_are_read_as_opencv_reads_them() {
    let mut differ = Vec::new();
    for photo in photos() {
        let name = photo["name"].as_str().expect("a name");
        let image = read_rgb(&folder().join("photos").join(name)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!([image.height(), image.width()], [0, 1].map(|axis| photo["size"][axis].as_u64().expect("a side") as u32), "{name}");
        let equal = match photo["pixels"].as_array() {
            Some(expected) => {
                let level = |value: &Value| value.as_u64().expect("a level") as u8;
                image.as_raw().iter().zip(expected).all(|(own, expected)| own.abs_diff(level(expected)) <= CMYK_LEVELS)
            }
            None => Sha256::digest(image.as_raw()).iter().map(|byte| format!("{byte:02x}")).collect::<String>() == photo["sha256"],
        };
        if !equal {
            differ.push(name.to_owned());
        }
    }
    assert!(differ.is_empty(), "these differ from OpenCV: {}", differ.join(", "));
}

#[test]
fn an_ignored_orientation_leaves_the_stored_pixels() {
    for orientation in 5..=8 {
        let path = folder().join(format!("photos/orientation_{orientation}.jpg"));
        let size = |exif| read_photo(&path, exif).map(|image| image.dimensions()).expect("a photo");
        assert_eq!((size(ExifOrientation::Applied), size(ExifOrientation::Ignored)), ((7, 12), (12, 7)));
    }
}

/// Headers that claim huge sizes, damaged files that made decoders panic, and odd but valid photos.
#[test]
fn hostile_images_are_read_or_refused_by_name() {
    let Some(root) = tests::shared_root() else {
        println!("not run: the images lie in $VMAMBA_SHARED/cases, which is not set");
        return;
    };
    // Fewer than the 400 million real pixels of b20k.png, whatever memory is free.
    set_max_pixels(NonZeroU64::new(1 << 26).expect("a limit"));
    let mut refused = 0;
    for entry in std::fs::read_dir(root.join("cases")).expect("the folder `cases`") {
        let path = entry.expect("an entry").path();
        if !has_photo_name(&path) {
            continue;
        }
        let name = path.display().to_string();
        for outcome in [read_rgb(&path).map(drop), read_labels(&path).map(drop)] {
            if let Err(error) = outcome {
                assert!(error.to_string().starts_with(&name) && !error.to_string().contains('\n'), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "{refused} images were refused");
    let claims = |name: &str| read_rgb(&root.join("cases").join(name)).expect_err(name).to_string();
    for name in ["claim200k.png", "b20k.png", "j65535.jpg", "jp65535.jpg", "w16383.webp"] {
        assert!(claims(name).contains("--max-pixels"), "{}", claims(name));
    }
    for (name, size) in [("tall2.png", (2, 3000)), ("h1e6.png", (1, 1_000_000))] {
        assert_eq!(read_rgb(&root.join("cases").join(name)).map(|image| image.dimensions()).expect(name), size);
    }
}
