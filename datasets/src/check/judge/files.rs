//! Rules about files: whether they exist, can be read, and fit each other.

use std::collections::{BTreeMap, BTreeSet};

use vmamba_types::words::counted;

use super::super::scan::{FolderScan, LabelKind, PairScan, SplitScan};
use super::super::{FindingKind, Severity, TINY};
use super::Findings;
use crate::image_io::ExifOrientation;

pub(super) fn structure(findings: &mut Findings, scan: &FolderScan) {
    if scan.splits.is_empty() && scan.missing.is_empty() {
        let stray = if scan.stray_images > 0 {
            format!(" (images/ itself holds {})", counted(scan.stray_images, "image", "images"))
        } else {
            String::new()
        };
        findings.add_whole(
            Severity::Error,
            FindingKind::NoSplits,
            format!("there is no split{stray}: expected folders such as images/training and annotations/training"),
            "put the images into images/<split>, and label maps of the same names, as PNG, into annotations/<split>".to_owned(),
        );
    }
    findings.add(
        Severity::Error,
        FindingKind::MissingSplit,
        None,
        &scan.missing,
        |n| format!("{} neither in images/ nor in annotations/", counted(n, "requested split is", "requested splits are")),
        "check the spelling; the splits of a data set are the folders below images/",
    );
}

pub(super) fn files(findings: &mut Findings, split: &SplitScan) {
    let name = Some(split.name.as_str());
    if split.files.images == 0 {
        findings.add(
            Severity::Error,
            FindingKind::EmptySplit,
            name,
            &[format!("images/{}", split.name)],
            |_| "the split has no image".to_owned(),
            "add jpg, png, bmp, tif or webp files, or remove the split",
        );
    }
    pairing(findings, split);
    skipped(findings, split);
    readability(findings, split);
}

/// Images and label maps belong together by name.
fn pairing(findings: &mut Findings, split: &SplitScan) {
    let name = Some(split.name.as_str());
    // When no file has a partner, the cause is one mistake, such as the suffix _mask: one finding, not hundreds.
    if split.pairs.is_empty() && !split.files.images_without_label.is_empty() && !split.files.labels_without_image.is_empty() {
        let shown = [split.files.images_without_label[0].clone(), split.files.labels_without_image[0].clone()];
        findings.add(
            Severity::Error,
            FindingKind::NamesDoNotMatch,
            name,
            &shown,
            |_| format!("none of the {} images has a label map of the same name", split.files.images),
            "give image and label map the same name except for the extension: a.jpg and a.png",
        );
    } else {
        findings.add(
            Severity::Error,
            FindingKind::ImageWithoutLabel,
            name,
            &split.files.images_without_label,
            |n| format!("{} no label map", counted(n, "image has", "images have")),
            "add annotations/<split>/<same name>.png or remove the image",
        );
        findings.add(
            Severity::Warning,
            FindingKind::LabelWithoutImage,
            name,
            &split.files.labels_without_image,
            |n| format!("{} no image and will not be used", counted(n, "label map has", "label maps have")),
            "add the image or remove the label map",
        );
    }
    let ambiguous: Vec<String> = split.files.ambiguous.iter().map(|names| names.join(" and ")).collect();
    findings.add(
        Severity::Error,
        FindingKind::AmbiguousName,
        name,
        &ambiguous,
        |n| format!("{} shared by several files that differ only in their extension", counted(n, "name is", "names are")),
        "keep one of the files, or give them different names: image and label map belong together by name",
    );
    // Training reads PNG only. A file of another format beside the PNG of an image is not read.
    let paired =
        |name: &String| split.files.pairs.iter().any(|pair| Some(pair.name.as_str()) == name.rsplit_once('.').map(|(stem, _)| stem));
    let (unused, lossy): (Vec<String>, Vec<String>) = split.files.other_formats.iter().cloned().partition(paired);
    findings.add(
        Severity::Warning,
        FindingKind::LossyLabel,
        name,
        &unused,
        |n| format!("{} not PNG and will not be used; the PNG of the same name is", counted(n, "label map is", "label maps are")),
        "remove the file that is not meant",
    );
    findings.add(
        Severity::Error,
        FindingKind::LossyLabel,
        name,
        &lossy,
        |n| format!("{} not PNG", counted(n, "label map is", "label maps are")),
        "write the label maps as PNG; JPEG has lost their values, so start from the originals",
    );
    findings.add(
        Severity::Info,
        FindingKind::OtherFiles,
        name,
        &split.files.other_files,
        |n| format!("{} neither an image nor a label map", counted(n, "file is", "files are")),
        "nothing to do: such files are skipped",
    );
}

/// Images that training takes for no photos.
fn skipped(findings: &mut Findings, split: &SplitScan) {
    let skipped = &split.files.skipped;
    let examples: Vec<String> = skipped.note(format_args!("images/{}", split.name)).into_iter().collect();
    findings.add(
        Severity::Info,
        FindingKind::SkippedImages,
        Some(split.name.as_str()),
        &examples,
        |_| counted(skipped.hidden + skipped.written, "image is no photo and is skipped", "images are no photos and are skipped"),
        "nothing to do: training skips them too",
    );
}

/// Every file can be decoded.
fn readability(findings: &mut Findings, split: &SplitScan) {
    let name = Some(split.name.as_str());
    let unreadable: Vec<String> = split.pairs.iter().filter_map(|p| p.image.as_ref().err().cloned()).collect();
    findings.add(
        Severity::Error,
        FindingKind::UnreadableImage,
        name,
        &unreadable,
        |n| format!("{} cannot be read", counted(n, "image", "images")),
        "copy or download the files again, or remove them with their label maps",
    );
    let unreadable: Vec<String> = split.pairs.iter().filter_map(|p| p.labels.as_ref().err().cloned()).collect();
    findings.add(
        Severity::Error,
        FindingKind::UnreadableLabel,
        name,
        &unreadable,
        |n| format!("{} cannot be read", counted(n, "label map", "label maps")),
        "copy or write the files again, or remove them with their images",
    );
}

pub(super) fn label_formats(findings: &mut Findings, split: &SplitScan) {
    let of_kind = |wanted: &dyn Fn(LabelKind) -> bool| -> Vec<String> {
        split.pairs.iter().filter(|p| p.labels.as_ref().is_ok_and(|l| wanted(l.kind))).map(|p| p.name.clone()).collect()
    };
    let name = Some(split.name.as_str());
    findings.add(
        Severity::Error,
        FindingKind::ColourLabel,
        name,
        &of_kind(&|kind| kind == LabelKind::Colour(false)),
        |n| format!("{} colours instead of class indices", counted(n, "label map holds", "label maps hold")),
        "map every colour to the index of its class and save one channel of 8 bits",
    );
    findings.add(
        Severity::Error,
        FindingKind::ColourLabel,
        name,
        &of_kind(&|kind| kind == LabelKind::Colour(true)),
        |n| format!("{} several equal channels", counted(n, "label map has", "label maps have")),
        "save one of the channels as a grey PNG of 8 bits",
    );
    findings.add(
        Severity::Error,
        FindingKind::SixteenBitLabel,
        name,
        &of_kind(&|kind| kind == LabelKind::Grey16),
        |n| format!("{} 16 bits a pixel and values above 255", counted(n, "label map has", "label maps have")),
        "save class indices as a grey PNG of 8 bits; map instance numbers to classes first",
    );
    findings.add(
        Severity::Info,
        FindingKind::PaletteLabel,
        name,
        &of_kind(&|kind| kind == LabelKind::Palette),
        |n| {
            format!(
                "{} a palette; the indices are the labels, and the colours do not matter",
                counted(n, "label map has", "label maps have")
            )
        },
        "nothing to do if the indices are the classes, as in PASCAL VOC",
    );
}

pub(super) fn sizes(findings: &mut Findings, split: &SplitScan, exif: ExifOrientation) {
    let (mut mismatched, mut other_reading, mut turned) = (Vec::new(), Vec::new(), Vec::new());
    let mut exchanged = 0;
    let mut tiny = Vec::new();
    for pair in &split.pairs {
        let Ok(image) = &pair.image else { continue };
        if image.width.min(image.height) < TINY as u32 {
            tiny.push(format!("{} ({}x{})", pair.name, image.width, image.height));
        }
        let Ok(labels) = &pair.labels else { continue };
        let label_size = [labels.height as usize, labels.width as usize];
        if (image.width, image.height) != (labels.width, labels.height) {
            let other = image.header.is_some_and(|header| header.fits_other_reading(exif, label_size));
            let list = if other { &mut other_reading } else { &mut mismatched };
            exchanged += usize::from(!other && (image.width, image.height) == (labels.height, labels.width));
            list.push(format!("{} ({}x{}, labels {}x{})", pair.name, image.width, image.height, labels.width, labels.height));
        } else if image.header.is_some_and(|header| header.is_turned_unseen()) {
            turned.push(pair.name.clone());
        }
    }
    let name = Some(split.name.as_str());
    findings.add(
        Severity::Error,
        FindingKind::SizeMismatch,
        name,
        &other_reading,
        |n| {
            let photos = counted(n, "photo has the size of its label map", "photos have the size of their label maps");
            format!("{photos} only when the EXIF orientation is read the other way")
        },
        exif.remedy(),
    );
    findings.add(
        Severity::Warning,
        FindingKind::TurnedPhoto,
        name,
        &turned,
        |n| {
            let photos = counted(n, "photo is", "photos are");
            format!("{photos} turned by half a circle, mirrored or square by the EXIF orientation, which no size reveals")
        },
        "compare some with their label maps (--sheet); label maps for stored pixels need data.source.ignore_exif = true",
    );
    findings.add(
        Severity::Error,
        FindingKind::SizeMismatch,
        name,
        &mismatched,
        |n| format!("{} another size than the image", counted(n, "label map has", "label maps have")),
        if exchanged > 0 {
            "rotate the label maps: width and height are exchanged, because the EXIF orientation of the photos was ignored or is lost"
        } else {
            "resize the label maps with nearest neighbour, never with interpolation, or use the original images"
        },
    );
    findings.add(
        Severity::Warning,
        FindingKind::TinyImage,
        name,
        &tiny,
        |n| format!("{} smaller than {TINY} pixels on a side", counted(n, "image is", "images are")),
        "enlarge or remove the images: the coarsest features have a stride of 32 pixels",
    );
}

pub(super) fn duplicates(findings: &mut Findings, splits: &[SplitScan]) {
    // By fingerprint of the image: its splits and pairs.
    let mut places: BTreeMap<u64, Vec<(usize, &PairScan)>> = BTreeMap::new();
    for (index, split) in splits.iter().enumerate() {
        for pair in &split.pairs {
            if let Ok(image) = &pair.image {
                places.entry(image.content).or_default().push((index, pair));
            }
        }
    }
    let mut groups: Vec<Vec<(usize, &PairScan)>> = places.into_values().filter(|group| group.len() > 1).collect();
    groups.sort_by(|a, b| (a[0].0, &a[0].1.name).cmp(&(b[0].0, &b[0].1.name)));
    let show =
        |group: &[(usize, &PairScan)]| group.iter().map(|(s, p)| format!("{}/{}", splits[*s].name, p.name)).collect::<Vec<_>>().join(" = ");
    let crosses = |group: &[(usize, &PairScan)]| group.iter().any(|(s, _)| *s != group[0].0);
    let across: Vec<String> = groups.iter().filter(|g| crosses(g)).map(|g| show(g)).collect();
    let within: Vec<String> = groups.iter().filter(|g| !crosses(g)).map(|g| show(g)).collect();
    let conflicting: Vec<String> = groups
        .iter()
        .filter(|group| group.iter().filter_map(|(_, p)| p.labels.as_ref().ok()).map(|l| l.content).collect::<BTreeSet<_>>().len() > 1)
        .map(|g| show(g))
        .collect();
    findings.add(
        Severity::Warning,
        FindingKind::DuplicateAcrossSplits,
        None,
        &across,
        |n| format!("{} in more than one split, so validation would reward memorising", counted(n, "image is", "images are")),
        "remove the images from one of the splits",
    );
    findings.add(
        Severity::Warning,
        FindingKind::DuplicateInSplit,
        None,
        &within,
        |n| format!("{} more than once in a split", counted(n, "image is", "images are")),
        "keep one copy; a repeated image counts twice in training and in the metric",
    );
    findings.add(
        Severity::Warning,
        FindingKind::ConflictingLabels,
        None,
        &conflicting,
        |n| format!("{} with different label maps", counted(n, "image occurs", "images occur")),
        "keep the right label map and remove the others",
    );
}
