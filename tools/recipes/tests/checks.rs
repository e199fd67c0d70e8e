//! What is refused before a run is built, and what a checkpoint says about the run.

use burn::prelude::*;
use mask_rcnn::MaskRcnnConfig;
use upernet::{UperHeadConfig, UperNet, UperNetConfig};
use vision_datasets::DataError;
use vision_datasets::sample::{DetectionDataset, SegmentationDataset, SegmentationSample};
use vision_datasets::scenes::{SceneConfig, SceneDataset, SceneObjects};
use vmamba::zoo::Backbone;
use vmamba::{Dims, VmambaConfig};
use vmamba_recipes::detection::{AnyDetector, Detection};
use vmamba_recipes::segmentation::Segmentation;
use vmamba_recipes::{Configured, Init, RunConfig, config};
use vmamba_train::{Recipe, TrainConfig, Trainer};
use vmamba_types::ClassList;

type Uper = Segmentation<UperNet<Backbone>>;

fn scenes() -> SceneDataset {
    SceneDataset::new(SceneConfig { count: 2, height: 64, width: 64, ..SceneConfig::default() }).unwrap()
}

/// The scenes under other names.
struct Renamed(SceneDataset, ClassList);

impl SegmentationDataset for Renamed {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, index: usize) -> Result<SegmentationSample, DataError> {
        self.0.get(index)
    }

    fn classes(&self) -> &ClassList {
        &self.1
    }
}

fn model(classes: usize, device: &Device) -> UperNet<Backbone> {
    let backbone = VmambaConfig { depths: vec![1; 4], dims: Dims::Doubling(8), ..VmambaConfig::default() };
    let head = UperHeadConfig { channels: 8, ..UperHeadConfig::default() };
    UperNetConfig { head, auxiliary: None, ..UperNetConfig::on(backbone, classes) }.init(device)
}

#[test]
fn a_model_for_another_number_of_classes_is_refused_before_the_run() {
    let device = Device::flex();
    let classes = scenes().classes().len();
    let recipe = Segmentation::new(scenes(), scenes());
    let error = Trainer::builder(recipe, model(classes - 1, &device)).iterations(1).build(&device).err().unwrap().to_string();
    assert!(error.contains(&format!("the model has {} classes, the training data have {classes}", classes - 1)), "{error}");
}

#[test]
fn a_detector_whose_divisor_does_not_divide_the_padding_is_refused_before_the_run() {
    let device = Device::flex();
    let objects = || SceneObjects::new(SceneConfig { count: 2, height: 64, width: 64, ..SceneConfig::default() }).unwrap();
    let backbone =
        VmambaConfig { depths: vec![1; 5], dims: Dims::Doubling(8), out_indices: vec![0, 1, 2, 3, 4], ..VmambaConfig::default() };
    let model = MaskRcnnConfig::on(backbone, objects().classes().len()).try_init(&device).unwrap();
    let recipe = Detection::new(objects(), objects());
    let error = Trainer::builder(recipe, model).iterations(1).build(&device).err().unwrap().to_string();
    assert!(error.contains("pads images to multiples of 32 pixels, the model needs multiples of 64"), "{error}");
}

#[test]
fn validation_data_with_other_classes_are_refused_before_the_run() {
    let device = Device::flex();
    let mut classes = scenes().classes().clone();
    classes.names.swap(0, 1);
    let count = classes.len();
    let recipe = Segmentation::new(scenes(), Renamed(scenes(), classes));
    let error = Trainer::builder(recipe, model(count, &device)).iterations(1).build(&device).err().unwrap().to_string();
    assert!(error.contains("class 0 is") && error.contains("in the validation data"), "{error}");
}

#[test]
fn a_checkpoint_says_where_its_run_started_from() {
    let overrides = ["init=start.pth", "data.source.size=64", "data.source.train=2", "data.source.val=1"].map(str::to_owned);
    let config: RunConfig<<Uper as Configured>::Task> = config::load_text(Uper::DEMO, &overrides, "the demo").unwrap();
    let metadata = Uper::open(&config).unwrap().metadata(&TrainConfig::default()).unwrap();
    let stored: RunConfig<<Uper as Configured>::Task> = serde_json::from_str(&metadata["config"]).unwrap();
    assert_eq!(stored.init, Init::Checkpoint("start.pth".into()));
}

#[test]
fn a_stride_beyond_the_crop_is_refused() {
    let overrides = ["test.mode.slide.crop=[64, 64]", "test.mode.slide.stride=[64, 65]"].map(str::to_owned);
    let error = config::load_text::<RunConfig<<Uper as Configured>::Task>>(Uper::DEMO, &overrides, "the demo").unwrap_err().to_string();
    assert!(error.contains("test.mode.slide: stride") && error.contains("65"), "{error}");
}

#[test]
fn the_configuration_of_another_task_is_refused_for_its_task() {
    let error = config::load_text::<RunConfig<<Uper as Configured>::Task>>(Detection::<AnyDetector>::DEMO, &[], "det.toml").unwrap_err();
    let error = error.to_string();
    assert!(error.contains("det.toml: task: this is a configuration for detection, not for segmentation"), "{error}");
    // Even where the keys of the other task come first.
    let text = "data = { train = { scales = [[1, 1]] } }\ntask = \"detection\"\n";
    let error = config::load_text::<RunConfig<<Uper as Configured>::Task>>(text, &[], "det.toml").unwrap_err().to_string();
    assert!(error.contains("not for segmentation"), "{error}");
}
