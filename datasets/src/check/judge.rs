//! The rules: from facts to findings. Each rule is a function that adds what it finds.

use super::scan::{FolderScan, LabelFacts, LabelKind, PairScan, SplitScan};
use super::{CheckOptions, CheckReport, ClassCount, Finding, FindingKind, Severity, SplitReport};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The label that training ignores.
const IGNORED: usize = 255;
/// How many examples a finding names.
const EXAMPLES: usize = 5;
/// Images below this on a side have nothing left at a stride of 32.
const TINY: u32 = 32;
/// A class with less than this share of the labelled pixels is called rare.
const RARE: f64 = 0.001;
/// A class with more than this share leaves little to learn from the others.
const DOMINANT: f64 = 0.9;

pub(super) fn judge(root: Option<&Path>, scan: FolderScan, options: &CheckOptions) -> CheckReport {
    let num_classes = number_of_classes(&scan, options);
    let labels = Labels { num_classes, reduce: options.reduce_zero_label };
    let mut findings = Findings::default();
    class_list(&mut findings, options, num_classes);
    structure(&mut findings, &scan);
    for split in &scan.splits {
        files(&mut findings, split);
        label_formats(&mut findings, split);
        sizes(&mut findings, split);
        ignored(&mut findings, split, labels);
    }
    values(&mut findings, &scan.splits, labels);
    duplicates(&mut findings, &scan.splits);
    let splits: Vec<SplitReport> = scan.splits.iter().map(|split| split_report(split, labels, &options.class_names)).collect();
    occurrence(&mut findings, &splits);

    let mut findings = findings.0;
    // Stable, so that findings of one severity keep the order of the rules.
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    CheckReport { root: root.map(Path::to_owned), num_classes, reduce_zero_label: options.reduce_zero_label, splits, findings }
}

/// How raw values become classes.
#[derive(Clone, Copy)]
struct Labels {
    num_classes: usize,
    reduce: bool,
}

impl Labels {
    /// The raw value of a class.
    fn raw(self, class: usize) -> usize {
        class + usize::from(self.reduce)
    }

    fn is_ignored(self, raw: usize) -> bool {
        raw == IGNORED || (self.reduce && raw == 0)
    }

    fn is_valid(self, raw: usize) -> bool {
        self.is_ignored(raw) || raw < self.raw(self.num_classes)
    }
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    /// Adds a finding about `examples`, unless there are none.
    fn add(
        &mut self,
        severity: Severity,
        kind: FindingKind,
        split: Option<&str>,
        examples: &[String],
        message: impl FnOnce(usize) -> String,
        remedy: &str,
    ) {
        if examples.is_empty() {
            return;
        }
        self.0.push(Finding {
            severity,
            kind,
            split: split.map(str::to_owned),
            count: examples.len(),
            message: message(examples.len()),
            remedy: remedy.to_owned(),
            examples: examples.iter().take(EXAMPLES).cloned().collect(),
        });
    }

    /// Adds a finding that concerns the data set as a whole.
    fn add_whole(&mut self, severity: Severity, kind: FindingKind, message: String, remedy: String) {
        self.0.push(Finding { severity, kind, split: None, count: 1, message, remedy, examples: Vec::new() });
    }
}

/// From the options, or failing that from the largest label.
fn number_of_classes(scan: &FolderScan, options: &CheckOptions) -> usize {
    options.num_classes.or((!options.class_names.is_empty()).then_some(options.class_names.len())).unwrap_or_else(|| {
        let largest = (0..IGNORED).rev().find(|&v| readable_labels(&scan.splits).any(|(_, l)| l.counts[v] > 0));
        largest.map_or(0, |v| v + 1 - usize::from(options.reduce_zero_label && v > 0))
    })
}

/// All label maps that hold class indices, with the name of their image.
fn readable_labels(splits: &[SplitScan]) -> impl Iterator<Item = (&PairScan, &LabelFacts)> + Clone {
    splits.iter().flat_map(|s| &s.pairs).filter_map(|pair| Some((pair, pair.labels.as_ref().ok()?))).filter(|(_, l)| is_index_map(l))
}

fn is_index_map(labels: &LabelFacts) -> bool {
    matches!(labels.kind, LabelKind::Grey | LabelKind::Palette)
}

fn plural(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

fn class_list(findings: &mut Findings, options: &CheckOptions, num_classes: usize) {
    let names = &options.class_names;
    if names.is_empty() && options.num_classes.is_none() {
        findings.add_whole(
            Severity::Info,
            FindingKind::NoClassList,
            format!("no class list was given; {num_classes} classes were assumed from the largest label"),
            "give the list of classes, so that label values can be held against it".to_owned(),
        );
    }
    if let Some(wanted) = options.num_classes.filter(|&n| !names.is_empty() && n != names.len()) {
        findings.add_whole(
            Severity::Error,
            FindingKind::NumClassesMismatch,
            format!("the class list has {} names, but the model is to have {wanted} classes", names.len()),
            "make both agree; with reduce_zero_label the list does not contain the class that label 0 stands for".to_owned(),
        );
    }
    let mut seen = BTreeSet::new();
    let twice: Vec<String> = names.iter().filter(|name| !seen.insert(name.as_str())).cloned().collect();
    findings.add(
        Severity::Warning,
        FindingKind::DuplicateClassName,
        None,
        &twice,
        |n| format!("{} more than once in the class list", plural(n, "name occurs", "names occur")),
        "tables cannot tell such classes apart; rename one of them",
    );
}

fn structure(findings: &mut Findings, scan: &FolderScan) {
    if scan.splits.is_empty() && scan.missing.is_empty() {
        let stray = if scan.stray_images > 0 {
            format!(" ({} lie directly in images/)", plural(scan.stray_images, "image", "images"))
        } else {
            String::new()
        };
        findings.add_whole(
            Severity::Error,
            FindingKind::NoSplits,
            format!("there is no split{stray}: expected folders such as images/training and annotations/training"),
            "put the images into images/<split> and the label maps, as PNG with the same names, into annotations/<split>".to_owned(),
        );
    }
    findings.add(
        Severity::Error,
        FindingKind::MissingSplit,
        None,
        &scan.missing,
        |n| format!("{} neither in images/ nor in annotations/", plural(n, "split asked for is", "splits asked for are")),
        "check the spelling; the splits of a data set are the folders below images/",
    );
}

fn files(findings: &mut Findings, split: &SplitScan) {
    let name = Some(split.name.as_str());
    if split.images == 0 {
        findings.add(
            Severity::Error,
            FindingKind::EmptySplit,
            name,
            &[format!("images/{}", split.name)],
            |_| "the split has no image".to_owned(),
            "put jpg, png, bmp, tif or webp files there, or leave the split out",
        );
    }
    // All lonely on both sides is one mistake (a suffix such as _mask), not hundreds.
    if split.pairs.is_empty() && !split.images_without_label.is_empty() && !split.labels_without_image.is_empty() {
        let shown = [split.images_without_label[0].clone(), split.labels_without_image[0].clone()];
        findings.add(
            Severity::Error,
            FindingKind::NamesDoNotMatch,
            name,
            &shown,
            |_| format!("none of the {} images has a label map of the same name", split.images),
            "image and label map must differ in their ending only: a.jpg and a.png",
        );
    } else {
        findings.add(
            Severity::Error,
            FindingKind::ImageWithoutLabel,
            name,
            &split.images_without_label,
            |n| format!("{} no label map", plural(n, "image has", "images have")),
            "add annotations/<split>/<same name>.png or remove the image",
        );
        findings.add(
            Severity::Warning,
            FindingKind::LabelWithoutImage,
            name,
            &split.labels_without_image,
            |n| format!("{} no image and will not be used", plural(n, "label map has", "label maps have")),
            "add the image or remove the label map",
        );
    }
    findings.add(
        Severity::Error,
        FindingKind::AmbiguousName,
        name,
        &split.ambiguous,
        |n| format!("{} by several images that differ in their ending only", plural(n, "label map is claimed", "label maps are claimed")),
        "keep one of the images, or give them different names",
    );
    findings.add(
        Severity::Error,
        FindingKind::LossyLabel,
        name,
        &split.lossy_labels,
        |n| format!("{} not PNG", plural(n, "label map is", "label maps are")),
        "make the label maps again as PNG; values that went through JPEG cannot be restored",
    );
    findings.add(
        Severity::Info,
        FindingKind::OtherFiles,
        name,
        &split.other_files,
        |n| format!("{} neither an image nor a label map", plural(n, "file is", "files are")),
        "nothing needs to be done; such files are skipped",
    );
    let unreadable: Vec<String> = split.pairs.iter().filter_map(|p| p.image.as_ref().err().cloned()).collect();
    findings.add(
        Severity::Error,
        FindingKind::UnreadableImage,
        name,
        &unreadable,
        |n| format!("{} cannot be read", plural(n, "image", "images")),
        "copy or download the files again, or remove them with their label maps",
    );
    let unreadable: Vec<String> = split.pairs.iter().filter_map(|p| p.labels.as_ref().err().cloned()).collect();
    findings.add(
        Severity::Error,
        FindingKind::UnreadableLabel,
        name,
        &unreadable,
        |n| format!("{} cannot be read", plural(n, "label map", "label maps")),
        "copy or make the files again, or remove them with their images",
    );
}

fn label_formats(findings: &mut Findings, split: &SplitScan) {
    let of_kind = |wanted: &dyn Fn(LabelKind) -> bool| -> Vec<String> {
        split.pairs.iter().filter(|p| p.labels.as_ref().is_ok_and(|l| wanted(l.kind))).map(|p| p.name.clone()).collect()
    };
    let name = Some(split.name.as_str());
    findings.add(
        Severity::Error,
        FindingKind::ColourLabel,
        name,
        &of_kind(&|kind| kind == LabelKind::Colour(false)),
        |n| format!("{} colours instead of class indices", plural(n, "label map holds", "label maps hold")),
        "translate every colour into the index of its class and save one channel of 8 bits",
    );
    findings.add(
        Severity::Error,
        FindingKind::ColourLabel,
        name,
        &of_kind(&|kind| kind == LabelKind::Colour(true)),
        |n| format!("{} several equal channels", plural(n, "label map has", "label maps have")),
        "save one of the channels as grey PNG of 8 bits",
    );
    findings.add(
        Severity::Error,
        FindingKind::SixteenBitLabel,
        name,
        &of_kind(&|kind| kind == LabelKind::Grey16),
        |n| format!("{} 16 bits a pixel and values above 255", plural(n, "label map has", "label maps have")),
        "save class indices as grey PNG of 8 bits; instance numbers must be turned into classes first",
    );
    findings.add(
        Severity::Info,
        FindingKind::PaletteLabel,
        name,
        &of_kind(&|kind| kind == LabelKind::Palette),
        |n| {
            format!(
                "{} a table of colours; the indices are taken as labels, the colours are not looked at",
                plural(n, "label map has", "label maps have")
            )
        },
        "nothing needs to be done when the indices are the classes, as in PASCAL VOC",
    );
}

fn sizes(findings: &mut Findings, split: &SplitScan) {
    let mut mismatched = Vec::new();
    let mut turned = 0;
    let mut tiny = Vec::new();
    for pair in &split.pairs {
        let Ok(image) = &pair.image else { continue };
        if image.width < TINY || image.height < TINY {
            tiny.push(format!("{} ({}x{})", pair.name, image.width, image.height));
        }
        let Ok(labels) = &pair.labels else { continue };
        if (image.width, image.height) != (labels.width, labels.height) {
            turned += usize::from((image.width, image.height) == (labels.height, labels.width));
            mismatched.push(format!("{} ({}x{}, labels {}x{})", pair.name, image.width, image.height, labels.width, labels.height));
        }
    }
    let remedy = if turned > 0 {
        "width and height are exchanged: the label map was made without looking at the photo's EXIF orientation, so turn the label map"
    } else {
        "resize the label maps by nearest neighbour, never by interpolation, or take the original images"
    };
    let name = Some(split.name.as_str());
    findings.add(
        Severity::Error,
        FindingKind::SizeMismatch,
        name,
        &mismatched,
        |n| format!("{} another size than the image", plural(n, "label map has", "label maps have")),
        remedy,
    );
    findings.add(
        Severity::Warning,
        FindingKind::TinyImage,
        name,
        &tiny,
        |n| format!("{} smaller than {TINY} pixels on a side", plural(n, "image is", "images are")),
        "the coarsest features have a stride of 32 pixels; enlarge such images or leave them out",
    );
}

fn ignored(findings: &mut Findings, split: &SplitScan, labels: Labels) {
    let mut empty = Vec::new();
    let (mut lost, mut all) = (0u64, 0u64);
    for (pair, facts) in readable_labels(std::slice::from_ref(split)) {
        let total: u64 = facts.counts.iter().sum();
        let ignored: u64 = (0..256).filter(|&v| labels.is_ignored(v)).map(|v| facts.counts[v]).sum();
        if total > 0 && ignored == total {
            empty.push(pair.name.clone());
        }
        lost += ignored;
        all += total;
    }
    let name = Some(split.name.as_str());
    findings.add(
        Severity::Warning,
        FindingKind::OnlyIgnoredPixels,
        name,
        &empty,
        |n| format!("{} nothing but ignored pixels", plural(n, "label map has", "label maps have")),
        "such images teach nothing; remove them, or look whether 255 was meant as a class",
    );
    if all > 0 && empty.len() < split.pairs.len() && lost * 2 > all {
        let share = 100.0 * lost as f64 / all as f64;
        findings.add(
            Severity::Warning,
            FindingKind::MostlyIgnored,
            name,
            &[format!("{share:.1}%")],
            |_| format!("{share:.1}% of all labelled pixels are ignored"),
            if labels.reduce {
                "label 0 is ignored because reduce_zero_label is on; turn it off if 0 is a class such as background"
            } else {
                "look whether 255 was meant as a class"
            },
        );
    }
}

/// The traps of label values, over all splits together: they come from how the labels were made.
fn values(findings: &mut Findings, splits: &[SplitScan], labels: Labels) {
    let n = labels.num_classes;
    let mut files: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (pair, facts) in readable_labels(splits) {
        for value in (0..256).filter(|&v| facts.counts[v] > 0) {
            files.entry(value).or_default().push(pair.name.clone());
        }
    }
    let has = |value: usize| files.contains_key(&value);
    if files.is_empty() {
        return;
    }
    if has(0) && has(IGNORED) && files.len() == 2 {
        let severity = if n >= 2 || labels.reduce { Severity::Error } else { Severity::Warning };
        findings.add(
            severity,
            FindingKind::BinaryMask,
            None,
            &files[&IGNORED],
            |_| "all labels are 0 or 255; 255 means \"ignored\", so nothing but class 0 would be learned".to_owned(),
            "write the foreground as 1 instead of 255 (background 0) and train two classes with reduce_zero_label off",
        );
        return;
    }
    let bad: Vec<usize> = files.keys().copied().filter(|&v| !labels.is_valid(v)).collect();
    if !labels.reduce && bad == [n] && n > 0 {
        let (what, remedy) = if has(0) {
            (
                format!("labels go from 0 to {n}, one more than the {n} classes"),
                "if 0 means \"unlabelled\", turn reduce_zero_label on; if 0 is a class, the class list lacks it",
            )
        } else {
            (
                format!("labels go from 1 to {n} instead of from 0 to {}", n - 1),
                "turn reduce_zero_label on: it makes 0 ignored and moves every label down by one",
            )
        };
        findings.add(Severity::Error, FindingKind::LabelsStartAtOne, None, &files[&n], |_| what, remedy);
    } else if !bad.is_empty() {
        let shown: Vec<String> =
            bad.iter().map(|v| format!("value {v} in {} ({})", plural(files[v].len(), "file", "files"), files[v][0])).collect();
        let (low, high) = (labels.raw(0), labels.raw(n).saturating_sub(1));
        findings.add(
            Severity::Error,
            FindingKind::ValueOutOfRange,
            None,
            &shown,
            |count| {
                format!(
                    "{} outside the classes: with {n} classes labels are {low} to {high}{}, or 255",
                    plural(count, "label value is", "label values are"),
                    if labels.reduce { " or 0 (ignored)" } else { "" }
                )
            },
            "add the missing classes to the list, or map these values to a class or to 255",
        );
    }
    if labels.reduce && n >= 2 && !has(n) && (0..n).all(has) {
        findings.add(
            Severity::Warning,
            FindingKind::ReduceZeroDropsClass,
            None,
            &files[&0],
            |_| format!("reduce_zero_label is on, but labels are exactly 0 to {}: class 0 would be ignored and every other class get the name before it", n - 1),
            "turn reduce_zero_label off, unless 0 really means \"unlabelled\" and the last class never occurs",
        );
    }
    if !labels.reduce && n >= 2 && !has(0) && !has(n) && bad.is_empty() && files.keys().any(|&v| v != IGNORED) {
        findings.add(
            Severity::Warning,
            FindingKind::ZeroNeverUsed,
            None,
            &["0".to_owned()],
            |_| "no label is 0, which is the first class while reduce_zero_label is off".to_owned(),
            "if the labels count from 1, turn reduce_zero_label on",
        );
    }
}

fn duplicates(findings: &mut Findings, splits: &[SplitScan]) {
    // Fingerprint of the image -> every place where it is, with the fingerprint of its labels.
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
        |n| format!("{} in more than one split, so validation would measure memory", plural(n, "image is", "images are")),
        "remove such images from one of the splits",
    );
    findings.add(
        Severity::Warning,
        FindingKind::DuplicateInSplit,
        None,
        &within,
        |n| format!("{} more than once in a split", plural(n, "image is", "images are")),
        "keep one copy; a repeated image counts twice in training and in the metric",
    );
    findings.add(
        Severity::Warning,
        FindingKind::ConflictingLabels,
        None,
        &conflicting,
        |n| format!("{} with different label maps", plural(n, "image occurs", "images occur")),
        "find out which label map is right and remove the others",
    );
}

fn split_report(split: &SplitScan, labels: Labels, names: &[String]) -> SplitReport {
    let mut pixels = [0u64; 256];
    let mut images = [0usize; 256];
    for (_, facts) in readable_labels(std::slice::from_ref(split)) {
        for value in 0..256 {
            pixels[value] += facts.counts[value];
            images[value] += usize::from(facts.counts[value] > 0);
        }
    }
    let range = |side: &dyn Fn(&PairScan) -> Option<u32>| {
        let sides = split.pairs.iter().filter_map(side);
        [sides.clone().min().unwrap_or(0), sides.max().unwrap_or(0)]
    };
    let class = |index: usize| ClassCount {
        index,
        name: names.get(index).cloned().unwrap_or_else(|| format!("class {index}")),
        pixels: pixels[labels.raw(index)],
        images: images[labels.raw(index)],
    };
    SplitReport {
        name: split.name.clone(),
        images: split.images,
        labels: split.labels,
        usable: split.pairs.iter().filter(|p| p.image.is_ok() && p.labels.as_ref().is_ok_and(is_index_map)).count(),
        width: range(&|p| p.image.as_ref().ok().map(|i| i.width)),
        height: range(&|p| p.image.as_ref().ok().map(|i| i.height)),
        ignored_pixels: (0..256).filter(|&v| labels.is_ignored(v)).map(|v| pixels[v]).sum(),
        pixels: pixels.iter().sum(),
        raw_values: (0..=255u8).map(|v| (v, pixels[usize::from(v)])).filter(|(_, count)| *count > 0).collect(),
        classes: (0..labels.num_classes).map(class).collect(),
    }
}

fn is_training(name: &str) -> bool {
    name.to_lowercase().starts_with("train")
}

/// Classes that never or hardly occur.
fn occurrence(findings: &mut Findings, splits: &[SplitReport]) {
    let training: Vec<&SplitReport> = splits.iter().filter(|s| is_training(&s.name)).collect();
    for split in splits.iter().filter(|s| s.usable > 0) {
        let labelled: u64 = split.classes.iter().map(|c| c.pixels).sum();
        if labelled == 0 {
            continue;
        }
        let name = Some(split.name.as_str());
        let shown = |wanted: &dyn Fn(f64) -> bool| -> Vec<String> {
            let share = |c: &ClassCount| c.pixels as f64 / labelled as f64;
            split
                .classes
                .iter()
                .filter(|c| c.pixels > 0 && wanted(share(c)))
                .map(|c| format!("{} ({:.3}%)", c.name, 100.0 * share(c)))
                .collect()
        };
        let never: Vec<String> = split.classes.iter().filter(|c| c.pixels == 0).map(|c| c.name.clone()).collect();
        findings.add(
            if is_training(&split.name) { Severity::Warning } else { Severity::Info },
            FindingKind::ClassNeverPresent,
            name,
            &never,
            |n| format!("{n} of {} classes never occur", split.classes.len()),
            if is_training(&split.name) {
                "the model cannot learn such classes; add images, or drop them from the list"
            } else {
                "they have no IoU here and do not count in the mean"
            },
        );
        findings.add(
            Severity::Info,
            FindingKind::RareClass,
            name,
            &shown(&|share| share < RARE),
            |n| format!("{} less than {}% of the labelled pixels", plural(n, "class has", "classes have"), 100.0 * RARE),
            "expect a low IoU there; crops that prefer rare classes and longer training help",
        );
        findings.add(
            Severity::Warning,
            FindingKind::Imbalance,
            name,
            &shown(&|share| share > DOMINANT),
            |_| format!("one class has more than {}% of the labelled pixels", 100.0 * DOMINANT),
            "pixel accuracy will look good whatever the model learns; judge by mIoU and consider class weights",
        );
    }
    if training.is_empty() {
        return;
    }
    let seen = |index: usize| training.iter().any(|s| s.classes.get(index).is_some_and(|c| c.pixels > 0));
    for split in splits.iter().filter(|s| !is_training(&s.name)) {
        let only: Vec<String> = split.classes.iter().filter(|c| c.pixels > 0 && !seen(c.index)).map(|c| c.name.clone()).collect();
        findings.add(
            Severity::Warning,
            FindingKind::ClassMissingInTraining,
            Some(&split.name),
            &only,
            |n| format!("{} here but never in training, so the IoU there will be 0", plural(n, "class occurs", "classes occur")),
            "move images between the splits so that every class can be learned",
        );
    }
}
