//! The check of label maps: every test breaks a healthy data set in one way and expects one finding.

use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;
use tests::tool::{CLAIMING_PNG, executable, program};

const WIDTH: u32 = 48;
const HEIGHT: u32 = 40;

/// A data set of three classes in a temporary folder: four training and two validation images.
struct DataSet {
    dir: TempDir,
}

impl DataSet {
    fn healthy() -> Self {
        let set = Self { dir: tempfile::tempdir().unwrap() };
        for (split, count) in [("training", 4), ("validation", 2)] {
            fs::create_dir_all(set.path(&format!("images/{split}"))).unwrap();
            fs::create_dir_all(set.path(&format!("annotations/{split}"))).unwrap();
            for i in 0..count {
                set.image(split, &format!("{i}.png"), WIDTH, HEIGHT, if split == "training" { i } else { 100 + i });
                set.label(split, &format!("{i}.png"), |x, _| (x * 3 / WIDTH) as u8);
            }
        }
        fs::write(set.path("classes.csv"), "Idx,Name,R,G,B\n1,sky,128,128,128\n2,road,128,64,128\n3,car,64,0,128\n").unwrap();
        set
    }

    fn path(&self, inner: &str) -> PathBuf {
        self.dir.path().join(inner)
    }

    fn image(&self, split: &str, name: &str, width: u32, height: u32, seed: u32) {
        noise(width, height, seed).save(self.path(&format!("images/{split}/{name}"))).unwrap();
    }

    fn label(&self, split: &str, name: &str, value: impl Fn(u32, u32) -> u8) {
        let map = GrayImage::from_fn(WIDTH, HEIGHT, |x, y| Luma([value(x, y)]));
        map.save(self.path(&format!("annotations/{split}/{name}"))).unwrap();
    }

    /// Writes the same kind of label map for every image of every split.
    fn all_labels(&self, value: impl Fn(u32, u32) -> u8) {
        for (split, count) in [("training", 4), ("validation", 2)] {
            (0..count).for_each(|i| self.label(split, &format!("{i}.png"), &value));
        }
    }

    fn check(&self, more: &[&str]) -> Checked {
        let json = self.path("report.json");
        let classes = self.path("classes.csv");
        let mut arguments = vec!["--data", self.dir.path().to_str().unwrap(), "--json", json.to_str().unwrap()];
        arguments.extend(["--classes", classes.to_str().unwrap()]);
        arguments.extend(more);
        let output = run(&arguments);
        let report = fs::read(&json).ok().map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
        Checked { output, report }
    }
}

/// The outcome of the program.
struct Checked {
    output: Output,
    report: Value,
}

impl Checked {
    fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    fn kinds(&self, severity: &str) -> Vec<&str> {
        let findings = self.report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
        findings.iter().filter(|f| f["severity"] == severity).filter_map(|f| f["kind"].as_str()).collect()
    }

    fn finding(&self, kind: &str) -> &Value {
        let findings = self.report["findings"].as_array().unwrap_or_else(|| panic!("no report: {}", self.text()));
        findings.iter().find(|f| f["kind"] == kind).unwrap_or_else(|| panic!("{kind} was not found: {}", self.text()))
    }

    fn text(&self) -> String {
        format!("{}{}", String::from_utf8_lossy(&self.output.stdout), String::from_utf8_lossy(&self.output.stderr))
    }

    /// Asserts that this is the only error, and that the exit code is 1.
    #[track_caller]
    fn only_error(&self, kind: &str) -> &Value {
        assert_eq!(self.kinds("error"), [kind], "{}", self.text());
        assert_eq!(self.code(), Some(1), "{}", self.text());
        self.finding(kind)
    }

    /// Asserts that this warning is reported, no error, and that the exit code is 0.
    #[track_caller]
    fn warns(&self, kind: &str) -> &Value {
        assert_eq!(self.kinds("error"), [""; 0], "{}", self.text());
        assert_eq!(self.code(), Some(0), "{}", self.text());
        let finding = self.finding(kind);
        assert_eq!(finding["severity"], "warning");
        finding
    }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(executable(program::CHECK_DATA)).args(arguments).output().unwrap()
}

fn noise(width: u32, height: u32, seed: u32) -> RgbImage {
    let mut state = seed.wrapping_mul(0x9E37_79B9).wrapping_add(12345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    RgbImage::from_fn(width, height, |_, _| Rgb([next(), next(), next()]))
}

#[test]
fn a_healthy_set_passes_even_under_strict() {
    let set = DataSet::healthy();
    let checked = set.check(&["--strict"]);
    assert_eq!(checked.code(), Some(0), "{}", checked.text());
    assert_eq!(checked.report["findings"].as_array().map(Vec::len), Some(0), "{}", checked.text());
    let training = &checked.report["splits"][0];
    assert_eq!((training["usable"].as_u64(), training["classes"][2]["images"].as_u64()), (Some(4), Some(4)));
    assert_eq!(training["classes"][0]["pixels"].as_u64(), Some(4 * u64::from(WIDTH / 3 * HEIGHT)));
}

#[test]
fn an_image_without_label_map_is_an_error() {
    let set = DataSet::healthy();
    fs::remove_file(set.path("annotations/training/2.png")).unwrap();
    assert_eq!(set.check(&[]).only_error("image_without_label")["examples"][0], "2.png");
}

#[test]
fn a_label_map_without_image_is_a_warning_that_strict_takes_seriously() {
    let set = DataSet::healthy();
    fs::remove_file(set.path("images/training/2.png")).unwrap();
    set.check(&[]).warns("label_without_image");
    assert_eq!(set.check(&["--strict"]).code(), Some(1));
}

#[test]
fn a_photo_and_a_label_map_that_claim_a_huge_size_are_named() {
    let set = DataSet::healthy();
    fs::write(set.path("images/training/0.png"), CLAIMING_PNG).unwrap();
    fs::write(set.path("annotations/training/1.png"), CLAIMING_PNG).unwrap();
    let text = set.check(&[]).text();
    for name in ["images/training/0.png", "annotations/training/1.png"] {
        assert!(text.contains(&format!("{name}: the image claims 200000x200000 pixels")), "{name}: {text}");
    }
}

#[test]
fn a_truncated_jpeg_is_unreadable() {
    let set = DataSet::healthy();
    let path = set.path("images/training/1.jpg");
    fs::remove_file(set.path("images/training/1.png")).unwrap();
    DynamicImage::from(noise(WIDTH, HEIGHT, 1)).save_with_format(&path, ImageFormat::Jpeg).unwrap();
    assert_eq!(set.check(&[]).code(), Some(0), "the whole file is fine");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let checked = set.check(&[]);
    let examples = checked.only_error("unreadable_image")["examples"].to_string();
    assert!(examples.contains("1.jpg"), "{examples}");
}

#[test]
fn an_empty_file_and_a_text_file_are_unreadable_images() {
    let set = DataSet::healthy();
    fs::write(set.path("images/training/0.png"), b"").unwrap();
    fs::write(set.path("images/training/1.png"), b"<html>404</html>").unwrap();
    assert_eq!(set.check(&[]).only_error("unreadable_image")["count"], 2);
}

#[test]
fn a_truncated_label_map_is_unreadable() {
    let set = DataSet::healthy();
    let path = set.path("annotations/validation/0.png");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(set.check(&[]).only_error("unreadable_label")["split"], "validation");
}

#[test]
fn a_label_map_of_another_size_is_an_error() {
    let set = DataSet::healthy();
    set.image("training", "3.png", WIDTH + 2, HEIGHT, 3);
    let checked = set.check(&[]);
    let finding = checked.only_error("size_mismatch");
    assert_eq!(finding["examples"][0], "3.png (50x40, labels 48x40)");
}

#[test]
fn exchanged_width_and_height_point_to_the_exif_orientation() {
    let set = DataSet::healthy();
    set.image("training", "3.png", HEIGHT, WIDTH, 3);
    let checked = set.check(&[]);
    assert!(checked.only_error("size_mismatch")["remedy"].as_str().unwrap().contains("rotate the label maps"));
}

#[test]
fn photos_whose_label_maps_were_made_without_the_exif_orientation_are_read_with_the_switch() {
    let set = DataSet::healthy();
    fs::remove_file(set.path("images/training/3.png")).unwrap();
    let path = set.path("images/training/3.jpg");
    let turned = |orientation: u8| {
        noise(WIDTH, HEIGHT, 3).save(&path).unwrap();
        let plain = fs::read(&path).unwrap();
        let tiff: &[u8] = &[b'I', b'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0, 0, 0, 0, 0];
        let exif = [&[0xff, 0xe1, 0, (8 + tiff.len()) as u8][..], b"Exif\0\0", tiff].concat();
        fs::write(&path, [&plain[..2], &exif, &plain[2..]].concat()).unwrap();
    };
    turned(6);
    let checked = set.check(&[]);
    assert!(checked.only_error("size_mismatch")["remedy"].as_str().unwrap().contains("data.source.ignore_exif = true"));
    let checked = set.check(&["--ignore-exif"]);
    assert_eq!(checked.code(), Some(0), "{}", checked.text());
    // Half a circle, which no size reveals.
    turned(3);
    assert_eq!(set.check(&[]).warns("turned_photo")["examples"][0], "3.jpg");
}

#[test]
fn a_folder_without_a_class_list_is_not_ready_as_in_training() {
    let set = DataSet::healthy();
    fs::rename(set.path("classes.csv"), set.path("names.csv")).unwrap();
    let json = set.path("report.json");
    let (root, report) = (set.dir.path().to_str().unwrap(), json.to_str().unwrap());
    let output = run(&["--data", root, "--json", report, "--num-classes", "3"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["findings"][0]["kind"], "no_class_list");
    assert!(report["findings"][0]["message"].as_str().unwrap().contains("has no class list"), "{report}");
}

#[test]
fn a_training_split_of_one_class_is_an_error_and_a_validation_split_is_not() {
    let set = DataSet::healthy();
    (0..2).for_each(|i| set.label("validation", &format!("{i}.png"), |x, _| if x < 20 { 255 } else { 1 }));
    assert_eq!(set.check(&[]).warns("one_class")["split"], "validation");
    (0..4).for_each(|i| set.label("training", &format!("{i}.png"), |x, _| if x < 20 { 255 } else { 1 }));
    let checked = set.check(&[]);
    let finding = checked.only_error("one_class");
    assert_eq!(finding["split"], "training");
    assert!(finding["message"].as_str().unwrap().contains("have the label 1"), "{finding}");
}

#[test]
fn a_contact_sheet_is_a_png() {
    let set = DataSet::healthy();
    let checked = set.check(&["--sheet", set.path("sheet.jpg").to_str().unwrap()]);
    assert_eq!(checked.code(), Some(1));
    assert!(checked.text().contains("the name must end with .png"), "{}", checked.text());
}

#[test]
fn masks_of_0_and_255_are_explained() {
    let set = DataSet::healthy();
    set.all_labels(|x, _| if x < 20 { 255 } else { 0 });
    let checked = set.check(&[]);
    // Both splits have such masks.
    assert_eq!((checked.kinds("error"), checked.code()), (vec!["binary_mask"; 2], Some(1)), "{}", checked.text());
    assert!(checked.finding("binary_mask")["remedy"].as_str().unwrap().contains("as 1 instead of 255"));
}

#[test]
fn labels_from_one_ask_for_reduce_zero_label() {
    let set = DataSet::healthy();
    set.all_labels(|x, _| (x * 3 / WIDTH) as u8 + 1);
    assert!(set.check(&[]).only_error("labels_start_at_one")["remedy"].as_str().unwrap().contains("turn reduce_zero_label on"));
    let checked = set.check(&["--reduce-zero-label", "--strict"]);
    assert_eq!(checked.code(), Some(0), "{}", checked.text());
}

#[test]
fn one_label_too_many_says_both_readings() {
    let set = DataSet::healthy();
    set.all_labels(|x, _| (x * 4 / WIDTH) as u8);
    let checked = set.check(&[]);
    let finding = checked.only_error("labels_start_at_one");
    assert!(finding["message"].as_str().unwrap().contains("from 0 to 3"), "{finding}");
}

#[test]
fn values_outside_the_classes_are_listed_with_their_files() {
    let set = DataSet::healthy();
    set.label("training", "1.png", |x, _| if x == 0 { 200 } else { 1 });
    set.label("training", "2.png", |x, _| if x == 0 { 77 } else { 2 });
    let checked = set.check(&[]);
    let finding = checked.only_error("value_out_of_range");
    assert_eq!(finding["examples"][0], "value 77 in 1 file (2.png)");
    assert_eq!(finding["count"], 2);
}

#[test]
fn reduce_zero_label_on_labels_from_zero_is_noticed() {
    let set = DataSet::healthy();
    let checked = set.check(&["--reduce-zero-label"]);
    let finding = checked.warns("reduce_zero_drops_class");
    assert!(finding["message"].as_str().unwrap().contains("labels are exactly 0 to 2"), "{finding}");
}

#[test]
fn labels_that_never_use_zero_are_noticed() {
    let set = DataSet::healthy();
    set.all_labels(|x, _| (x * 2 / WIDTH) as u8 + 1);
    set.check(&[]).warns("zero_never_used");
}

#[test]
fn coloured_label_maps_are_an_error() {
    let set = DataSet::healthy();
    noise(WIDTH, HEIGHT, 9).save(set.path("annotations/training/0.png")).unwrap();
    assert_eq!(set.check(&[]).only_error("colour_label")["examples"][0], "0.png");
}

#[test]
fn label_maps_with_a_colour_table_are_read_by_index() {
    let set = DataSet::healthy();
    let file = fs::File::create(set.path("annotations/training/0.png")).unwrap();
    let mut encoder = png::Encoder::new(file, WIDTH, HEIGHT);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_palette(vec![0, 0, 0, 128, 0, 0, 0, 128, 0]);
    let indices: Vec<u8> = (0..WIDTH * HEIGHT).map(|i| ((i % WIDTH) * 3 / WIDTH) as u8).collect();
    encoder.write_header().unwrap().write_image_data(&indices).unwrap();
    let checked = set.check(&["--strict"]);
    assert_eq!(checked.code(), Some(0), "{}", checked.text());
    assert_eq!(checked.kinds("info"), ["palette_label"]);
    assert_eq!(checked.report["splits"][0]["classes"][1]["pixels"].as_u64(), Some(4 * u64::from(WIDTH / 3 * HEIGHT)));
}

#[test]
fn label_maps_of_16_bits_are_an_error_only_above_255() {
    let set = DataSet::healthy();
    let save = |base: u16| {
        let map = image::ImageBuffer::<Luma<u16>, _>::from_fn(WIDTH, HEIGHT, |x, _| Luma([(x * 3 / WIDTH) as u16 + base]));
        map.save(set.path("annotations/training/0.png")).unwrap();
    };
    save(0);
    assert_eq!(set.check(&["--strict"]).code(), Some(0));
    save(1000);
    set.check(&[]).only_error("sixteen_bit_label");
}

#[test]
fn label_maps_as_jpeg_are_an_error() {
    let set = DataSet::healthy();
    let map = image::open(set.path("annotations/training/0.png")).unwrap();
    map.save_with_format(set.path("annotations/training/0.jpg"), ImageFormat::Jpeg).unwrap();
    // Training reads the PNG beside it.
    set.check(&[]).warns("lossy_label");
    fs::remove_file(set.path("annotations/training/0.png")).unwrap();
    let mut kinds = set.check(&[]).kinds("error").into_iter().map(str::to_owned).collect::<Vec<_>>();
    kinds.sort();
    assert_eq!(kinds, ["image_without_label", "lossy_label"]);
}

#[test]
fn names_with_a_suffix_are_one_finding_instead_of_hundreds() {
    let set = DataSet::healthy();
    for (split, count) in [("training", 4), ("validation", 2)] {
        for i in 0..count {
            fs::rename(set.path(&format!("annotations/{split}/{i}.png")), set.path(&format!("annotations/{split}/{i}_mask.png"))).unwrap();
        }
    }
    let checked = set.check(&[]);
    assert_eq!(checked.kinds("error"), ["names_do_not_match"; 2], "{}", checked.text());
}

#[test]
fn two_images_for_one_label_map_are_an_error() {
    let set = DataSet::healthy();
    DynamicImage::from(noise(WIDTH, HEIGHT, 55)).save_with_format(set.path("images/training/0.jpg"), ImageFormat::Jpeg).unwrap();
    set.check(&[]).only_error("ambiguous_name");
}

#[test]
fn duplicates_within_and_across_splits_are_told_apart() {
    let set = DataSet::healthy();
    fs::copy(set.path("images/training/0.png"), set.path("images/training/1.png")).unwrap();
    fs::copy(set.path("images/training/2.png"), set.path("images/validation/1.png")).unwrap();
    let checked = set.check(&[]);
    assert_eq!(checked.warns("duplicate_in_split")["examples"][0], "training/0.png = training/1.png");
    assert_eq!(checked.warns("duplicate_across_splits")["examples"][0], "training/2.png = validation/1.png");
}

#[test]
fn equal_images_with_different_labels_are_noticed() {
    let set = DataSet::healthy();
    fs::copy(set.path("images/training/0.png"), set.path("images/training/1.png")).unwrap();
    set.label("training", "1.png", |_, y| (y * 3 / HEIGHT) as u8);
    set.check(&[]).warns("conflicting_labels");
}

#[test]
fn tiny_images_are_noticed() {
    let set = DataSet::healthy();
    set.image("training", "0.png", 20, 20, 0);
    GrayImage::new(20, 20).save(set.path("annotations/training/0.png")).unwrap();
    assert_eq!(set.check(&[]).warns("tiny_image")["examples"][0], "0.png (20x20)");
}

#[test]
fn classes_that_training_never_sees_are_noticed() {
    let set = DataSet::healthy();
    (0..4).for_each(|i| set.label("training", &format!("{i}.png"), |x, _| (x * 2 / WIDTH) as u8));
    let checked = set.check(&[]);
    assert_eq!(checked.warns("class_never_present")["examples"][0], "car");
    assert_eq!(checked.warns("class_missing_in_training")["split"], "validation");
}

#[test]
fn one_class_nearly_everywhere_is_noticed() {
    let set = DataSet::healthy();
    set.all_labels(|x, y| if y == 0 { (x * 3 / WIDTH) as u8 } else { 0 });
    set.check(&[]).warns("imbalance");
}

#[test]
fn label_maps_of_ignored_pixels_only_are_noticed() {
    let set = DataSet::healthy();
    set.label("training", "0.png", |_, _| 255);
    assert_eq!(set.check(&[]).warns("only_ignored_pixels")["count"], 1);
}

#[test]
fn a_split_of_ignored_pixels_only_is_an_error_as_in_training() {
    let set = DataSet::healthy();
    for i in 0..4 {
        set.label("training", &format!("{i}.png"), |_, _| 255);
    }
    assert_eq!(set.check(&[]).only_error("only_ignored_pixels")["split"], "training");
}

#[test]
fn subfolders_of_a_split_are_checked() {
    let set = DataSet::healthy();
    for kind in ["images", "annotations"] {
        fs::create_dir(set.path(&format!("{kind}/training/city"))).unwrap();
    }
    set.image("training", "city/0.png", WIDTH, HEIGHT, 77);
    assert_eq!(set.check(&[]).only_error("image_without_label")["examples"][0], "city/0.png");
    set.label("training", "city/0.png", |x, _| if x < 20 { 0 } else { 9 });
    assert_eq!(set.check(&[]).only_error("value_out_of_range")["examples"][0], "value 9 in 1 file (city/0.png)");
}

#[test]
fn a_split_that_training_does_not_read_stops_no_training() {
    let set = DataSet::healthy();
    fs::create_dir_all(set.path("images/test")).unwrap();
    set.image("test", "0.png", WIDTH, HEIGHT, 78);
    set.check(&[]).warns("image_without_label");
    set.check(&["--split", "test"]).only_error("image_without_label");
}

#[test]
fn an_empty_folder_says_what_was_expected() {
    let set = DataSet::healthy();
    for folder in ["images", "annotations"] {
        fs::remove_dir_all(set.path(folder)).unwrap();
    }
    let checked = set.check(&[]);
    assert!(checked.only_error("no_splits")["message"].as_str().unwrap().contains("images/training"));
}

#[test]
fn a_split_without_images_and_a_misspelt_split_are_errors() {
    let set = DataSet::healthy();
    for folder in ["images", "annotations"] {
        fs::remove_dir_all(set.path(&format!("{folder}/validation"))).unwrap();
        fs::create_dir(set.path(&format!("{folder}/validation"))).unwrap();
    }
    assert_eq!(set.check(&[]).only_error("empty_split")["split"], "validation");
    assert_eq!(set.check(&["--split", "trainig"]).only_error("missing_split")["examples"][0], "trainig");
    assert_eq!(set.check(&["--split", "training"]).code(), Some(0));
}

#[test]
fn a_class_count_that_disagrees_with_the_list_is_an_error() {
    let set = DataSet::healthy();
    assert_eq!(set.check(&["--num-classes", "150"]).only_error("num_classes_mismatch")["severity"], "error");
}

#[test]
fn a_folder_that_does_not_exist_is_named() {
    let output = run(&["--data", "/no/such/folder"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/folder"));
}

#[test]
fn wrong_usage_exits_with_two() {
    assert_eq!(run(&["--no-such-option"]).status.code(), Some(2));
    assert_eq!(run(&["--num-classes", "many"]).status.code(), Some(2));
}

#[test]
fn the_built_in_scenes_pass_and_make_a_contact_sheet() {
    let dir = tempfile::tempdir().unwrap();
    let sheet = dir.path().join("sheet.png");
    let output = run(&["--scenes", "40", "--sheet", sheet.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("gem"));
    let picture = image::open(&sheet).unwrap();
    assert!(picture.width() > 500 && picture.height() > 300);
}

#[test]
fn a_contact_sheet_shows_sets_with_broken_files_as_well() {
    let set = DataSet::healthy();
    fs::write(set.path("images/training/0.png"), b"").unwrap();
    set.image("training", "3.png", WIDTH + 2, HEIGHT, 3);
    let sheet = set.path("sheet.png");
    assert_eq!(set.check(&["--sheet", sheet.to_str().unwrap()]).code(), Some(1));
    assert!(image::open(&sheet).is_ok());
}

#[test]
fn an_output_folder_that_cannot_be_written_is_named() {
    let set = DataSet::healthy();
    let blocked = set.path("classes.csv/sheet.png");
    let checked = set.check(&["--sheet", blocked.to_str().unwrap()]);
    assert_eq!(checked.code(), Some(1));
    assert!(checked.text().contains(Path::new("classes.csv").to_str().unwrap()), "{}", checked.text());
}
