//! Evaluation of a classifier whose answers are known: the head of a random backbone is set to the mean features of coloured classes, so it
//! errs only on pictures in the folder of another class.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::prelude::*;
use burn::tensor::TensorData;
use image::{Rgb, RgbImage};
use serde_json::Value;
use tests::tool::{Ran, program, run};
use vision_datasets::image_io::read_rgb;
use vision_datasets::transforms::ClassificationPipeline;
use vmamba::checkpoint::{StateDict, export_safetensors, state_dict_of};
use vmamba::zoo::BackboneConfig;

const TEST: &str = program::TEST_CLS;

const TINY: &str = r#"
depths = [1, 1, 1, 1]
dims = 8
ssm_d_state = 1
ssm_ratio = 1.0
forward_type = "v05_noz"
mlp_ratio = 1.0
patchembed_version = "v2"
downsample_version = "v3"
norm_layer = "ln2d"
"#;

/// Folders, in an order that differs from the colours'.
const CLASSES: [&str; 7] = ["n07", "n01", "n05", "n03", "n02", "n06", "n04"];
const COLOURS: [[u8; 3]; 7] =
    [[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 10], [10, 250, 250], [250, 10, 250], [128, 128, 128]];
const SIZE: usize = 32;

struct Place(tempfile::TempDir);

impl Place {
    /// Three pictures of every class in `data/val`, four in `data/train`, and a classifier that recognises the colours.
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a temporary folder"));
        for (class, colour) in CLASSES.iter().zip(COLOURS) {
            for (split, count) in [("val", 3), ("train", 4)] {
                for number in 0..count {
                    place.picture(&format!("data/{split}/{class}/{number}.png"), colour, number);
                }
            }
        }
        fs::write(place.path("tiny.toml"), TINY).expect("the folder can be written");
        place.write_classifier();
        place
    }

    fn path(&self, inner: &str) -> String {
        self.0.path().join(inner).to_string_lossy().into_owned()
    }

    /// A coloured picture with a small pattern that depends on its number.
    fn picture(&self, name: &str, colour: [u8; 3], number: u32) {
        let path = self.path(name);
        fs::create_dir_all(Path::new(&path).parent().expect("a folder")).expect("the folder can be made");
        let wave = |x: u32, y: u32| ((x * (3 + number) + y * 5) % 11) as u8;
        let image = RgbImage::from_fn(40 + 3 * number, 44, |x, y| Rgb(colour.map(|level| level.saturating_sub(wave(x, y)))));
        image.save(path).expect("the picture can be written");
    }

    /// Sets the head to a nearest-mean classifier: the weights of a class are the mean feature of its training pictures, the bias is minus
    /// half its square.
    fn write_classifier(&self) {
        let device = Device::flex();
        device.seed(5);
        let config: BackboneConfig = toml::from_str(TINY).expect("the options are right");
        let model = config.try_init_classifier(CLASSES.len(), &device).expect("the options fit together");
        let mut sorted = CLASSES;
        sorted.sort_unstable();
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        let pipeline = ClassificationPipeline::new(SIZE);
        for class in sorted {
            let pictures = (0..4).map(|number| read_rgb(Path::new(&self.path(&format!("data/train/{class}/{number}.png")))));
            let values: Vec<f32> = pictures.flat_map(|picture| pipeline.apply(&picture.expect("a picture")).values).collect();
            let images = Tensor::from_data(TensorData::new(values, [4, 3, SIZE, SIZE]), &device);
            let mean: Vec<f32> = model.features(images).mean_dim(0).into_data().iter::<f32>().collect();
            bias.push(-0.5 * mean.iter().map(|value| value * value).sum::<f32>());
            weight.extend(mean);
        }
        let mut state = state_dict_of(&model, &vmamba::zoo::key);
        state.get_mut("classifier.head.weight").expect("a head").data = weight;
        state.get_mut("classifier.head.bias").expect("a head").data = bias;
        self.save("known.safetensors", &state);
    }

    fn save(&self, name: &str, state: &StateDict) {
        export_safetensors(self.path(name), state).expect("the folder can be written");
    }

    fn test(&self, more: &[&str]) -> Ran {
        self.test_file("known.safetensors", more)
    }

    fn test_file(&self, checkpoint: &str, more: &[&str]) -> Ran {
        let (model, checkpoint, data) = (self.path("tiny.toml"), self.path(checkpoint), self.path("data"));
        let mut arguments = vec!["--batch-size", "4", "--size", "32"];
        for (option, value) in [("--model", &model), ("--checkpoint", &checkpoint), ("--data", &data)] {
            if !more.contains(&option) {
                arguments.extend([option, value.as_str()]);
            }
        }
        arguments.extend(more);
        run(TEST, &arguments)
    }

    fn figures(&self, more: &[&str]) -> Value {
        let json = self.path("figures.json");
        self.test(&[more, &["--json", &json]].concat()).succeeded();
        serde_json::from_slice(&fs::read(json).expect("figures")).expect("JSON")
    }
}

/// Asserts that `found` is the accuracy of `right` out of `count` images.
fn share(value: &Value, right: usize, count: usize) {
    let found = value.as_f64().expect("a share");
    assert!((found - right as f64 / count as f64).abs() < 1e-12, "{found} is not {right} of {count}");
}

#[test]
fn every_picture_is_counted_with_its_own_label() {
    let place = Place::new();
    let ran = place.test(&[]);
    assert!(ran.succeeded().contains("top-1 100.000  top-5 100.000  mean of classes 100.000  (21 images, 0 skipped"), "{ran:?}");

    // One red picture is in the folder of the blue ones; a class list changes the class of another picture.
    place.picture("data/val/n05/red.png", COLOURS[0], 1);
    let figures = place.figures(&[]);
    let metrics = &figures["metrics"];
    share(&metrics["top1"], 21, 22);
    let of_class: BTreeMap<&str, &Value> =
        metrics["classes"].as_array().expect("classes").iter().map(|class| (class["folder"].as_str().expect("a name"), class)).collect();
    share(&of_class["n05"]["top1"], 3, 4);
    share(&of_class["n01"]["top1"], 3, 3);
    share(&metrics["mean_class_top1"], 27, 28);
    assert_eq!((&figures["resized_side"], &figures["size"]), (&Value::from(36), &Value::from(32)));

    // With two classes swapped in the list, their pictures count as errors.
    let swapped = place.path("swapped.txt");
    fs::write(&swapped, "n02 two\nn01 one\nn03\nn04\nn05\nn06\nn07\n").expect("the folder can be written");
    let metrics = &place.figures(&["--classes", &swapped])["metrics"];
    share(&metrics["top1"], 15, 22);
    assert_eq!((&metrics["classes"][0]["name"], &metrics["classes"][0]["top1"]), (&Value::from("two"), &Value::from(0.0)));
}

#[test]
fn figures_do_not_depend_on_the_number_of_workers() {
    let place = Place::new();
    place.picture("data/val/n05/red.png", COLOURS[0], 1);
    let metrics = |more: &[&str]| {
        let mut metrics = place.figures(more)["metrics"].take();
        metrics.as_object_mut().expect("an object").remove("images_per_second");
        metrics
    };
    let expected = metrics(&["--workers", "1"]);
    assert_eq!(metrics(&["--workers", "5"]), expected);
    assert_eq!(metrics(&["--workers", "2"]), expected);
    assert_eq!(metrics(&[]), expected);
}

#[test]
fn unreadable_pictures_are_skipped_counted_and_named() {
    let place = Place::new();
    fs::write(place.path("data/val/n01/notes.jpg"), "no picture").expect("the folder can be written");
    let whole = place.path("whole.jpg");
    RgbImage::from_pixel(64, 64, Rgb(COLOURS[1])).save(&whole).expect("the picture can be written");
    let bytes = fs::read(&whole).expect("a picture");
    fs::write(place.path("data/val/n02/cut.jpg"), &bytes[..bytes.len() - 30]).expect("the folder can be written");
    let ran = place.test(&[]);
    assert!(ran.succeeded().contains("(21 images, 2 skipped"), "{ran:?}");
    assert!(ran.stderr.contains("notes.jpg") && ran.stderr.contains("cut.jpg") && ran.stderr.contains("truncated"), "{ran:?}");
    let metrics = &place.figures(&[])["metrics"];
    share(&metrics["top1"], 21, 21);
    assert_eq!(metrics["skipped"].as_array().map(Vec::len), Some(2));

    let only = place.path("only");
    for class in CLASSES {
        fs::create_dir_all(format!("{only}/{class}")).expect("the folder can be made");
        fs::write(format!("{only}/{class}/a.png"), "no picture").expect("the folder can be written");
    }
    place.test(&["--data", &only]).failed(&["not one of the 7 images can be read", "a.png"]);
}

#[test]
fn data_and_checkpoints_that_do_not_fit_the_model_are_errors() {
    let place = Place::new();
    let none = place.path("none");
    place.test(&["--data", &none]).failed(&["--data", "none: no such folder"]);
    place.test(&["--checkpoint", &none]).failed(&["none"]);
    place.test(&["--model", "vmamba_tinny"]).failed(&["--model", "vmamba_tinny", "vmamba_tiny_s1l8"]);
    place.test(&["--model", &place.path("none.toml")]).failed(&["--model", "none.toml"]);
    // The data have a class that the model lacks.
    place.picture("data/val/n08/0.png", COLOURS[0], 0);
    place.test(&[]).failed(&["7 classes", "has 8", "--classes"]);
    fs::remove_dir_all(place.path("data/val/n08")).expect("it is there");
    // With a class missing, the indices of the others would shift.
    fs::remove_dir_all(place.path("data/val/n01")).expect("it is there");
    place.test(&[]).failed(&["7 classes", "has 6"]);
    let list = place.path("list.txt");
    fs::write(&list, "n01\nn02\nn03\nn04\nn05\nn06\nn07\n").expect("the folder can be written");
    assert!(place.test(&["--classes", &list]).succeeded().contains("top-1 100.000"));
    let wider = place.path("wider.toml");
    fs::write(&wider, TINY.replace("dims = 8", "dims = 16")).expect("the folder can be written");
    place.test(&["--classes", &list, "--model", &wider]).failed(&["known.safetensors", "does not fit"]);
    let unknown = place.path("unknown.toml");
    fs::write(&unknown, "dimms = 16").expect("the folder can be written");
    place.test(&["--model", &unknown]).failed(&["unknown.toml", "dimms"]);
    // The checkpoint of a backbone has no head.
    let device = Device::flex();
    let config: BackboneConfig = toml::from_str(TINY).expect("the options are right");
    let backbone = config.try_init(&device).expect("the options fit together");
    place.save("backbone.safetensors", &state_dict_of(&backbone, &vmamba::zoo::key));
    place.test_file("backbone.safetensors", &["--classes", &list]).failed(&["backbone.safetensors", "classifier.head.weight"]);
    for usage in [&["--size", "0"][..], &["--reinit"], &["--device", "gpu"]] {
        assert_eq!(place.test(usage).code, Some(2), "{usage:?}");
    }
}

#[test]
fn linear_tuning_starts_from_the_trained_head_or_learns_a_new_one() {
    let place = Place::new();
    let data = place.path("data");
    let figures = place.figures(&["--linear-tuning", &data]);
    let tuned = &figures["linear_tuning"];
    share(&tuned["before"]["top1"], 21, 21);
    share(&tuned["best"]["top1"], 21, 21);
    assert_eq!(
        (&tuned["train_images"], &tuned["batch_size"], &tuned["config"]["lr"]),
        (&Value::from(28), &Value::from(28), &Value::from(0.05))
    );
    assert_eq!(tuned["epochs"].as_array().map(Vec::len), Some(30));

    let anew = ["--linear-tuning", &data, "--reinit", "--epochs", "80", "--tuning-batch", "12", "--lr", "0.5"];
    let ran = place.test(&anew);
    assert!(ran.succeeded().contains("linear tuning, best epoch"), "{ran:?}");
    let figures = place.figures(&anew);
    let tuned = &figures["linear_tuning"];
    let at = |epoch: &str| tuned[epoch]["top1"].as_f64().expect("a share");
    assert!(at("before") < 0.6 && at("best") > 0.9, "{} {}", at("before"), at("best"));
    assert_eq!(place.figures(&anew)["linear_tuning"], *tuned, "the same seed takes the same steps");

    // The training folder has another class.
    fs::rename(place.path("data/train/n07"), place.path("data/train/n09")).expect("it is there");
    place.test(&["--linear-tuning", &data]).failed(&["differ", "n09", "n07"]);
}
