//! What the programs do with detectors: results of a training run, evaluation, photos.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use burn::prelude::Device;
use clap::Args;
use image::RgbImage;
use serde_json::{Map, Value, json};
use vision_datasets::coco::{EvalReport, IouType, write_results};
use vision_datasets::sample::DetectionDataset;
use vmamba::checkpoint::{LoadReport, Weights};
use vmamba_recipes::MemoryEstimate;
use vmamba_recipes::detection::config::{CocoSource, DetectionSource};
use vmamba_recipes::detection::{
    AnyDetector, Detection, DetectionConfig, DetectionEvaluation, DetectionTask, LoadedDetector, Predictor, Reports, load_detector,
};
use vmamba_report::curves::precision_recall;
use vmamba_report::detection::{ClassFigures, STATISTICS, class_figures, class_table, known, statistics_table, summary};
use vmamba_report::files::write_json;
use vmamba_report::tables::Table;
use vmamba_report::{RunPictures, objects, pictures};
use vmamba_study::published::detection_row;
use vmamba_train::Precision;
use vmamba_types::ClassList;

use crate::arguments::share;
use crate::evaluation::{Evaluate, PICTURES, Prediction};
use crate::options::replace;
use crate::photos::{OBJECTS, OVERLAY, ResultNames, place, with_suffix};
use crate::present::{Present, spread};

/// Score from which on objects are drawn at the end of a training run.
const DRAWN_SCORE: f32 = 0.3;

/// Training of any built-in detector.
pub type Training = Detection<AnyDetector>;

impl Present for Training {
    fn draw(&self, model: &Self::Model, device: &Device, pictures: &mut RunPictures, count: usize) -> Result<usize> {
        let (data, predictor) = (self.validation(), self.predictor(model, device));
        let indices = spread(count, data.len());
        let drawn = indices.len();
        let mut names = ResultNames::default();
        for index in indices {
            let sample = data.get(index)?;
            let found = predictor.predict(&sample.image)?;
            let picture = objects::comparison(&sample.image, Some(&sample.instances), &found, data.classes(), DRAWN_SCORE);
            pictures.save(&format!("{}.png", names.next(&sample.name)), &picture)?;
        }
        Ok(drawn)
    }

    fn results(&self, folder: &Path) -> Result<String> {
        let Some(reports) = self.newest_report() else { return Ok(String::new()) };
        write_curves(folder, &reports)?;
        Ok(tables(&reports, self.validation().classes()) + &summary(&reports.named()) + "\n")
    }
}

/// Options of the evaluation of a detector.
#[derive(Args, Clone, Debug)]
pub struct DetectionOptions {
    /// COCO annotations to evaluate on, instead of the configuration's; relative to the folder of the data.
    #[arg(long, value_name = "FILE", requires = "images")]
    annotations: Option<PathBuf>,
    /// Folder of their images, relative to the folder of the data.
    #[arg(long, value_name = "DIR", requires = "annotations")]
    images: Option<PathBuf>,
    /// Score from which on objects are drawn, 0 to 1.
    #[arg(long, default_value_t = DRAWN_SCORE, value_parser = share)]
    score: f32,
}

impl Evaluate for LoadedDetector {
    type Options = DetectionOptions;
    type Task = DetectionTask;
    type Data = Arc<dyn DetectionDataset>;
    type Figures = DetectionEvaluation;

    fn load(checkpoint: &Path, config: Option<DetectionConfig>, _root: Option<&Path>, weights: Weights, device: &Device) -> Result<Self> {
        load_detector(checkpoint, config, weights, device)
    }

    fn memory(&self) -> MemoryEstimate {
        LoadedDetector::memory(self)
    }

    fn report(&self) -> &LoadReport {
        &self.report
    }

    fn open_data(&mut self, root: Option<&Path>, options: &DetectionOptions) -> Result<Self::Data> {
        choose_source(&mut self.config.data.source, root, options)?;
        LoadedDetector::open_data(self)
    }

    fn images(data: &Self::Data) -> usize {
        data.len()
    }

    fn evaluate(&self, data: &Self::Data, how: &Prediction, options: &DetectionOptions) -> Result<DetectionEvaluation> {
        let folder = how.folder(PICTURES)?;
        let (pipeline, workers) = (&self.config.data.test, self.config.data.workers);
        let mut names = ResultNames::default();
        let memory = how.check_memory.then(|| self.memory_of_images(how.out.is_some()));
        let predictor = Predictor { model: &self.model, device: how.device, pipeline, precision: how.precision, memory };
        predictor.evaluate(data, workers, |_, sample, detections| {
            if let Some(folder) = &folder {
                let picture = objects::comparison(&sample.image, Some(&sample.instances), detections, &self.classes, options.score);
                pictures::save(&place(folder, &format!("{}.png", names.next(&sample.name)))?, &picture)?;
            }
            how.bar.inc(1);
            Ok(())
        })
    }

    fn check(&self, data: &Self::Data, out: Option<&Path>) -> Result<()> {
        if out.is_none() && !data.truth()?.has_objects() {
            bail!("the annotations have no object, so there is no AP; name a folder for the results with --out");
        }
        Ok(())
    }

    fn tables(&self, _data: &Self::Data, figures: &DetectionEvaluation) -> Result<String> {
        let DetectionEvaluation { reports, images, images_per_second: rate, evaluation_seconds: seconds, .. } = figures;
        let summary = summary(&reports.named());
        Ok(format!("{}{summary}  ({images} images, {rate:.2} images/s, evaluation {seconds:.1} s)\n", tables(reports, &self.classes)))
    }

    fn published(&self, figures: &DetectionEvaluation, _options: &DetectionOptions) -> Result<Option<(Table, String)>> {
        let Some((boxes, masks)) = figures.reports.boxes.as_ref().zip(figures.reports.masks.as_ref()) else { return Ok(None) };
        let percent = |report: &EvalReport| [0, 1, 2].map(|index| report.stats[index] * 100.0);
        let row = detection_row(&self.config.name)?;
        Ok(row.map(|row| (row.compare(percent(boxes), percent(masks)), row.source.clone())))
    }

    fn write_results(&self, figures: &DetectionEvaluation, out: &Path) -> Result<()> {
        for kind in [IouType::Bbox, IouType::Segm] {
            write_results(&out.join(format!("results.{}.json", kind.name())), &figures.results, kind)?;
        }
        write_curves(out, &figures.reports)
    }

    fn json(&self, _data: &Self::Data, figures: &DetectionEvaluation, _options: &DetectionOptions) -> Result<Value> {
        let reports = &figures.reports;
        let mut document = json!({
            "config": self.config.name, "iteration": self.iteration, "images": figures.images, "max_detections": [100, 300, 1000],
            "classes": self.classes.names, "notes": reports.notes, "configuration": self.config,
        });
        for (kind, report) in [(IouType::Bbox, &reports.boxes), (IouType::Segm, &reports.masks)] {
            let report = report.as_ref();
            document[kind.name()] = report.map_or(Value::Null, statistics_json);
            document[format!("classes_{}", kind.name())] =
                report.map_or(Value::Null, |report| classes_json(report, &self.classes, &reports.category_ids));
        }
        Ok(document)
    }
}

/// The twelve statistics as shares of 1.
fn statistics_json(report: &EvalReport) -> Value {
    STATISTICS.iter().zip(report.stats).map(|(name, share)| ((*name).to_owned(), json!(known(share)))).collect::<Map<_, _>>().into()
}

/// The figures of each class as shares of 1.
fn classes_json(report: &EvalReport, classes: &ClassList, ids: &[i64]) -> Value {
    let row = |figures: ClassFigures| {
        let [ap, ap50, ap75] = figures.ap;
        json!({"class": classes.names.get(figures.class), "id": figures.id, "AP": ap, "AP50": ap50, "AP75": ap75})
    };
    class_figures(report, ids).into_iter().map(row).collect()
}

/// The notes, and the tables of the classes and of the twelve COCO statistics.
fn tables(reports: &Reports, classes: &ClassList) -> String {
    let notes: String = reports.notes.iter().map(|note| format!("note: {note}\n")).collect();
    let named = reports.named();
    if named.is_empty() {
        return notes;
    }
    notes + &class_table(&named, classes, &reports.category_ids).text() + &statistics_table(&named).text()
}

fn write_curves(folder: &Path, reports: &Reports) -> Result<()> {
    for (kind, report) in reports.named() {
        precision_recall(folder, report, kind)?;
    }
    Ok(())
}

/// Replaces the data of a configuration by those of the options.
fn choose_source(source: &mut DetectionSource, root: Option<&Path>, options: &DetectionOptions) -> Result<()> {
    let (annotations, images) = (options.annotations.as_deref(), options.images.as_deref());
    match (source, annotations.zip(images)) {
        (DetectionSource::Coco(CocoSource { root: own, val_annotations, val_images, .. }), _) => {
            replace(own, root);
            replace(val_annotations, annotations);
            replace(val_images, images);
        }
        (source, Some((annotations, images))) => {
            *source = DetectionSource::Coco(CocoSource {
                root: root.unwrap_or(Path::new(".")).to_owned(),
                train_annotations: annotations.to_owned(),
                train_images: images.to_owned(),
                val_annotations: annotations.to_owned(),
                val_images: images.to_owned(),
                drop_root_category: false,
                ignore_exif: false,
            });
        }
        (_, None) if root.is_some() => {
            bail!("--data needs --annotations and --images, because this model was not trained on COCO annotations");
        }
        (_, None) => (),
    }
    Ok(())
}

/// Predicts a photo and writes `<prefix>_overlay.png` and `<prefix>_objects.json` with the objects whose score is at least `score`.
///
/// # Errors
/// When a file cannot be written.
pub fn predict_photo(
    detector: &LoadedDetector,
    (device, precision, check_memory): (&Device, Precision, bool),
    photo: &RgbImage,
    score: f32,
    prefix: &Path,
) -> Result<()> {
    let LoadedDetector { model, config, classes, .. } = detector;
    let memory = check_memory.then(|| detector.memory_of_images(true));
    let mut found = Predictor { model, device, pipeline: &config.data.test, precision, memory }.predict(photo)?;
    found.retain(|detection| detection.score >= score);
    pictures::save(&with_suffix(prefix, OVERLAY), &objects::overlay(photo, &found, classes, score))?;
    let objects: Vec<_> = found.iter().map(|detection| described(detection, classes)).collect();
    let document = json!({"width": photo.width(), "height": photo.height(), "objects": objects});
    Ok(write_json(&with_suffix(prefix, OBJECTS), &document)?)
}

/// An object in COCO's format, with the name of its class, and its category id where the annotations of the training gave one.
fn described(detection: &vmamba_types::Detection, classes: &ClassList) -> Value {
    let [x0, y0, x1, y1] = detection.bbox;
    json!({
        "class": classes.names.get(detection.category),
        "category_id": classes.ids.get(detection.category),
        "score": detection.score,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "segmentation": detection.mask.as_ref().map(|mask| json!({"size": mask.size, "counts": mask.to_compressed()})),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_the_options_replace_those_of_the_configuration() {
        let options = |given: bool| {
            let path = |name: &str| given.then(|| PathBuf::from(name));
            DetectionOptions { annotations: path("a.json"), images: path("photos"), score: 0.5 }
        };
        let mut source = DetectionSource::Own;
        choose_source(&mut source, Some(Path::new("root")), &options(true)).unwrap();
        let DetectionSource::Coco(coco) = &source else { panic!("{source:?}") };
        assert_eq!((coco.root.as_path(), coco.val_annotations.as_path()), (Path::new("root"), Path::new("a.json")));

        choose_source(&mut source, Some(Path::new("other")), &options(false)).unwrap();
        let DetectionSource::Coco(coco) = &source else { panic!("{source:?}") };
        assert_eq!((coco.root.as_path(), coco.val_images.as_path()), (Path::new("other"), Path::new("photos")));

        let error = choose_source(&mut DetectionSource::Own, Some(Path::new("root")), &options(false)).unwrap_err();
        assert!(error.to_string().contains("--annotations"), "{error}");
    }
}
