//! Data sets from outside the crate: in memory, with the three methods that have no default, through loader, evaluator and check.

use std::sync::Arc;

use image::RgbImage;
use vision_datasets::DataError;
use vision_datasets::ade20k::IouMetric;
use vision_datasets::check::{CheckOptions, FindingKind, ObjectCheckOptions, check_datasets, check_objects};
use vision_datasets::coco::{EvalConfig, IouType, evaluate, to_results};
use vision_datasets::loader::{DetectionLoader, LoaderConfig, TrainLoader, detection_samples, segmentation_samples};
use vision_datasets::sample::{DetectionDataset, DetectionSample, SegmentationDataset, SegmentationSample};
use vision_datasets::transforms::{CropConfig, DetectionTrainPipeline, TrainPipeline};
use vmamba_types::{BitMask, ClassList, Detection, Instance, InstanceMask, LabelMap, Rle};

const SIZE: [usize; 2] = [48, 64];

/// A white square whose left edge depends on the index.
fn square(index: usize) -> (RgbImage, Vec<bool>) {
    let [height, width] = SIZE;
    let inside = |x: usize, y: usize| (8 * index..8 * index + 20).contains(&x) && (10..30).contains(&y);
    let image =
        RgbImage::from_fn(width as u32, height as u32, |x, y| image::Rgb([if inside(x as usize, y as usize) { 255 } else { 0 }; 3]));
    (image, (0..height).flat_map(|y| (0..width).map(move |x| inside(x, y))).collect())
}

/// Detection samples in memory.
struct Objects {
    samples: Vec<DetectionSample>,
    classes: ClassList,
}

impl Objects {
    fn new() -> Self {
        let sample = |index: usize| {
            let (image, bits) = square(index);
            let left = 8.0 * index as f32;
            let mask = InstanceMask::from_rle(Rle::from_bits(&BitMask::new(SIZE[0], SIZE[1], bits)));
            let instance = Instance { mask: Some(mask), ..Instance::new([left, 10.0, left + 20.0, 30.0], index % 2) };
            DetectionSample::new(image, vec![instance], format!("square {index}"), 10 + index as i64)
        };
        Self { samples: (0..5).map(sample).collect(), classes: ClassList::named(["even", "odd"]) }
    }
}

impl DetectionDataset for Objects {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn get(&self, index: usize) -> Result<DetectionSample, DataError> {
        self.samples.get(index).cloned().ok_or(DataError::NoSuchSample { index, len: self.samples.len() })
    }

    fn classes(&self) -> &ClassList {
        &self.classes
    }
}

/// Segmentation samples in memory.
struct Labels {
    samples: Vec<SegmentationSample>,
    classes: ClassList,
}

impl Labels {
    fn new() -> Self {
        let sample = |index: usize| {
            let (image, bits) = square(index);
            let labels = bits.into_iter().map(u8::from).collect();
            SegmentationSample::new(image, LabelMap::new(SIZE[0], SIZE[1], labels), format!("square {index}"))
        };
        Self { samples: (0..5).map(sample).collect(), classes: ClassList::named(["background", "square"]) }
    }
}

impl SegmentationDataset for Labels {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn get(&self, index: usize) -> Result<SegmentationSample, DataError> {
        self.samples.get(index).cloned().ok_or(DataError::NoSuchSample { index, len: self.samples.len() })
    }

    fn classes(&self) -> &ClassList {
        &self.classes
    }
}

fn detection_batches(data: Objects) -> DetectionLoader {
    let pipeline = DetectionTrainPipeline { scales: vec![[64, 48]], flip: 0.0, ..DetectionTrainPipeline::coco() };
    DetectionLoader::new(Arc::new(data), pipeline, LoaderConfig::new(2), 0)
}

fn segmentation_batches(data: Labels) -> TrainLoader {
    let pipeline = TrainPipeline { resize: None, crop: CropConfig::of([32, 32]), ..TrainPipeline::ade20k() };
    TrainLoader::new(Arc::new(data), pipeline, LoaderConfig::new(2), 0)
}

/// The detections of a perfect detector.
fn perfect(data: &Arc<dyn DetectionDataset>) -> Vec<(i64, Vec<Detection>)> {
    let detection =
        |i: &Instance| Detection { bbox: i.bbox, score: 0.9, category: i.category, mask: i.mask.as_ref().map(InstanceMask::rle) };
    let samples = detection_samples(Arc::clone(data), 2).map(Result::unwrap);
    samples.map(|sample| (sample.image_id, sample.instances.iter().map(detection).collect())).collect()
}

#[test]
fn detection_samples_go_through_loader_and_evaluator() {
    let data: Arc<dyn DetectionDataset> = Arc::new(Objects::new());
    let truth = data.truth().unwrap();
    assert_eq!(truth.images.iter().map(|image| image.id).collect::<Vec<_>>(), [10, 11, 12, 13, 14]);
    assert_eq!(truth.annotations[1].area, 400.0);
    let results = to_results(&truth, &perfect(&data)).unwrap();
    for kind in [IouType::Bbox, IouType::Segm] {
        let report = evaluate(&truth, &results, &EvalConfig::mmdetection(kind)).unwrap();
        assert!(report.stats[0] > 0.999, "{}: AP {}", kind.name(), report.stats[0]);
    }
    let mut shifted = perfect(&data);
    shifted
        .iter_mut()
        .flat_map(|(_, found)| found)
        .for_each(|found| (found.bbox[0], found.bbox[2]) = (found.bbox[0] - 15.0, found.bbox[2] - 15.0));
    let results = to_results(&truth, &shifted).unwrap();
    assert!(evaluate(&truth, &results, &EvalConfig::new(IouType::Bbox)).unwrap().stats[0] < 0.1);

    let batches: Vec<_> = detection_batches(Objects::new()).take(3).map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(|batch| batch.names.len()).sum::<usize>(), 5);
    assert!(batches.iter().all(|batch| batch.size == [64, 64] && batch.instances.iter().all(|own| own.len() == 1)));
}

#[test]
fn segmentation_samples_go_through_loader_and_evaluator() {
    let mut metric = IouMetric::new(2);
    for sample in segmentation_samples(Arc::new(Labels::new()), 2).map(Result::unwrap) {
        metric.add(sample.labels.as_slice(), sample.labels.as_slice());
    }
    assert_eq!((metric.report().mean_iou, metric.report().labelled.iter().sum::<u64>()), (1.0, 5 * 48 * 64));
    let batch = segmentation_batches(Labels::new()).next().unwrap().unwrap();
    assert_eq!((batch.len, batch.size, batch.labels.len()), (2, [32, 32], 2 * 32 * 32));
}

#[test]
fn an_invalid_sample_is_an_error_of_its_batch() {
    let refused = |change: fn(&mut Objects)| {
        let mut data = Objects::new();
        change(&mut data);
        detection_batches(data).take(3).find_map(Result::err).map(|error| error.to_string()).unwrap()
    };
    let error = refused(|data| data.samples[3].instances[0].category = 2);
    assert_eq!(error, "sample `square 3`: object 0: class index 2 is outside the 2 classes");
    assert!(refused(|data| data.samples[0].instances[0].bbox[2] = f32::NAN).contains("not finite"));
    assert!(refused(|data| data.samples[0].instances[0].bbox[2] = -4.0).contains("negative side"));
    let small = |data: &mut Objects| data.samples[1].image = RgbImage::new(40, 48);
    assert!(refused(small).contains("the mask is 64x48 pixels, but the image is 40x48"));
    assert_eq!(refused(|data| data.samples.clear()), "the data set has no sample");

    let refused = |change: fn(&mut Labels)| {
        let mut data = Labels::new();
        change(&mut data);
        segmentation_batches(data).take(3).find_map(Result::err).map(|error| error.to_string()).unwrap()
    };
    let mut data = Labels::new();
    data.classes = ClassList::named(["background"]);
    assert!(segmentation_samples(Arc::new(data), 1).any(|sample| sample.is_err()), "evaluation validates samples too");
    let error = refused(|data| data.classes = ClassList::named(["background"]));
    assert!(error.contains("label 1 at column") && error.contains("outside the 1 classes"), "{error}");
    assert!(refused(|data| data.samples[2].image = RgbImage::new(40, 48)).contains("`square 2`: the image is 40x48"), "size");
    assert_eq!(refused(|data| data.samples.clear()), "the data set has no sample");
}

#[test]
fn two_samples_with_one_image_id_are_refused() {
    let mut data = Objects::new();
    data.samples[4].image_id = 11;
    let error = data.truth().unwrap_err().to_string();
    assert_eq!(error, "sample `square 4`: image_id 11 is already that of sample `square 1`");
}

#[test]
fn checks_find_the_problems_of_samples() {
    let found = |data: &Objects| -> Vec<FindingKind> {
        let report = check_objects(data, &ObjectCheckOptions { num_classes: Some(2), ..ObjectCheckOptions::default() });
        report.findings.iter().map(|finding| finding.kind).collect()
    };
    assert_eq!(found(&Objects::new()), []);
    let mut data = Objects::new();
    data.samples[0].instances[0].category = 7;
    data.samples[1].image_id = 12;
    data.samples[3].instances[0].bbox = [0.0, 0.0, 60.0, 40.0];
    data.samples[4].image = data.samples[2].image.clone();
    let found = found(&data);
    for kind in [FindingKind::InvalidSample, FindingKind::DuplicateId, FindingKind::BoxMaskMismatch, FindingKind::DuplicateInSplit] {
        assert!(found.contains(&kind), "{kind:?}: {found:?}");
    }
    let report =
        check_datasets(&[("training", &Labels::new())], &CheckOptions { num_classes: Some(2), ..CheckOptions::default() }).unwrap();
    assert!(report.passes(true), "{:?}", report.findings);
}

#[test]
fn objects_without_masks_are_reported_before_training() {
    let mut data = Objects::new();
    assert_eq!(data.notes(), [""; 0]);
    data.samples.iter_mut().flat_map(|sample| &mut sample.instances).for_each(|instance| instance.mask = None);
    let notes = data.notes();
    assert!(matches!(&notes[..], [note] if note.starts_with("no object of the first 5 images has a mask")), "{notes:?}");
    data.samples.iter_mut().for_each(|sample| sample.instances.clear());
    assert_eq!(data.notes(), [""; 0]);
}

#[test]
fn a_shared_data_set_is_a_data_set() {
    let shared: Arc<dyn DetectionDataset> = Arc::new(Objects::new());
    let again: Arc<dyn DetectionDataset> = Arc::new(Arc::clone(&shared));
    assert_eq!((again.len(), again.size(2).unwrap(), again.truth().unwrap()), (5, SIZE, shared.truth().unwrap()));
    assert_eq!((again.classes(), again.notes(), again.get(1).unwrap().name), (shared.classes(), Vec::new(), "square 1".to_owned()));
}
