//! The paper's tables of detection and segmentation: each published row, our runs below it, the difference, and the settings that differ.

pub mod layout;
pub mod run;
pub mod setting;

use serde::Serialize;
use serde_json::{Map, Value};
use vmamba::zoo::BackboneConfig;
use vmamba_recipes::detection::DetectionModelConfig;

use self::run::{Run, RunConfig};
use crate::error::Result;
use crate::published::{DetectionRow, DetectionSetting, Published, SegmentationRow, SegmentationSetting, published};

/// A benchmark with its published tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Benchmark {
    /// Mask R-CNN on COCO val2017.
    Coco,
    /// UperNet on ADE20K val.
    Ade20k,
}

impl Benchmark {
    /// Names of the figures, in percent; the first is the main figure.
    pub fn figures(self) -> &'static [&'static str] {
        match self {
            Self::Coco => &["APb", "APb50", "APb75", "APm", "APm50", "APm75"],
            Self::Ade20k => &["mIoU (SS)", "mIoU (MS)"],
        }
    }

    /// The keys of the validated figures, as shares, in the log of a training run.
    pub fn logged(self) -> &'static [&'static str] {
        match self {
            Self::Coco => &["bbox_AP", "bbox_AP50", "bbox_AP75", "segm_AP", "segm_AP50", "segm_AP75"],
            Self::Ade20k => &["mIoU"],
        }
    }

    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coco => "coco",
            Self::Ade20k => "ade20k",
        }
    }

    /// Classes of the published models.
    fn classes(self) -> usize {
        match self {
            Self::Coco => 80,
            Self::Ade20k => 150,
        }
    }

    /// Input size `[height, width]` of the published FLOPs.
    fn flops_input(self) -> [usize; 2] {
        match self {
            Self::Coco => [800, 1280],
            Self::Ade20k => [512, 2048],
        }
    }
}

/// The figures of a line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Numbers {
    /// In percent, in the order of [`Benchmark::figures`].
    pub figures: Vec<Option<f64>>,
    /// Millions of parameters.
    pub params_m: Option<f64>,
    /// Multiply-accumulates / 1e9.
    pub gflops: Option<f64>,
}

impl Numbers {
    /// The figures by name, as JSON.
    pub fn json(&self, benchmark: Benchmark) -> Value {
        let cost = [("params_m", self.params_m), ("gflops", self.gflops)];
        let named = benchmark.figures().iter().copied().zip(self.figures.iter().copied()).chain(cost);
        Value::Object(named.map(|(name, value)| (name.to_owned(), Value::from(value))).collect::<Map<String, Value>>())
    }
}

/// A line of one of our runs.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnLine {
    /// The folder or checkpoint.
    pub place: String,
    /// The source of the figures.
    pub origin: String,
    /// The figures.
    pub numbers: Numbers,
    /// Our figures minus the published ones, where both are known exactly.
    pub difference: Numbers,
    /// The settings that differ; `None` where the configuration is unknown.
    pub differs: Option<Vec<String>>,
}

/// A published row with our runs, or a run of an unpublished model.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Name of the configuration.
    pub id: String,
    /// Name in the publication, or the name of the configuration.
    pub model: String,
    /// The published numbers.
    pub published: Option<Numbers>,
    /// Their source.
    pub source: Option<String>,
    /// Contradictions and conditions.
    pub note: Option<String>,
    /// Our runs.
    pub runs: Vec<OwnLine>,
}

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Name in files: `coco_1x`.
    pub key: String,
    /// Heading.
    pub title: String,
    /// The benchmark.
    pub benchmark: Benchmark,
    /// Its rows, in the order of the paper.
    pub entries: Vec<Entry>,
}

/// The tables of `benchmarks`, with the runs that belong to them.
///
/// # Errors
/// [`StudyError::Published`](crate::StudyError::Published) when the built-in data are damaged.
pub fn assemble(benchmarks: &[Benchmark], runs: &[Run]) -> Result<Vec<Section>> {
    let data = published()?;
    let mut sections = Vec::new();
    for &benchmark in benchmarks {
        let own: Vec<(&Run, Option<&str>)> =
            runs.iter().filter(|run| run.benchmark == benchmark).map(|run| (run, published_id(data, run))).collect();
        // Settings with a name belong to single rows of a table; they make no table of their own.
        let tables: Vec<Section> = match benchmark {
            Benchmark::Coco => {
                let rows = || data.coco_mask_rcnn.iter();
                let settings = data.coco_settings.iter().filter(|setting| setting.recipe.is_none());
                let section = |setting: &DetectionSetting| Section {
                    key: format!("coco_{}", setting.schedule),
                    title: format!("COCO val2017, Mask R-CNN {} ({} epochs)", setting.schedule, setting.epochs),
                    benchmark,
                    entries: rows().filter(|row| row.schedule == setting.schedule).map(|row| detector(data, row, &own)).collect(),
                };
                settings.map(section).collect()
            }
            Benchmark::Ade20k => {
                let rows = || data.ade20k_upernet.iter();
                let settings = data.ade20k_settings.iter().filter(|setting| setting.recipe.is_none());
                let section = |setting: &SegmentationSetting| Section {
                    key: format!("ade20k_{}", setting.crop),
                    title: format!("ADE20K val, UperNet, crop {}", setting.crop),
                    benchmark,
                    entries: rows().filter(|row| row.crop == setting.crop).map(|row| segmentor(data, row, &own)).collect(),
                };
                settings.map(section).collect()
            }
        };
        sections.extend(tables);
        let strangers = own.iter().filter(|(_, id)| id.is_none()).map(|(run, _)| stranger(run));
        sections.push(Section {
            key: format!("{}_other", benchmark.name()),
            title: format!("Runs of models without a published row ({})", benchmark.figures().join(", ")),
            benchmark,
            entries: strangers.collect(),
        });
    }
    for section in &mut sections {
        // A published configuration without a published result gets a row only with a run of ours.
        section.entries.retain(|e| !e.runs.is_empty() || e.published.iter().any(|p| p.figures.iter().any(Option::is_some)));
    }
    sections.retain(|section| !section.entries.is_empty());
    Ok(sections)
}

/// The published row of a run: the row with its name; otherwise the row of its backbone with the nearest schedule or crop.
fn published_id<'a>(data: &'a Published, run: &Run) -> Option<&'a str> {
    let named = match run.benchmark {
        Benchmark::Coco => data.coco_mask_rcnn.iter().map(|row| row.id.as_str()).find(|id| *id == run.name),
        Benchmark::Ade20k => data.ade20k_upernet.iter().map(|row| row.id.as_str()).find(|id| *id == run.name),
    };
    if named.is_some() {
        return named;
    }
    match run.config.as_ref()? {
        RunConfig::Detection(config) => {
            // The published tables have no cascades.
            let DetectionModelConfig::MaskRcnn(model) = &config.model else { return None };
            let backbone = name_of(&model.backbone)?;
            let schedule = if config.train.epochs.is_some_and(|epochs| epochs >= 36) { "3x" } else { "1x" };
            let rows: Vec<&DetectionRow> = data.coco_mask_rcnn.iter().filter(|r| r.backbone == backbone && r.batch.is_none()).collect();
            let nearest = rows.iter().find(|row| row.schedule == schedule).or(rows.first());
            nearest.map(|row| row.id.as_str())
        }
        RunConfig::Segmentation(config) => {
            let backbone = name_of(&config.model.backbone)?;
            let crop = config.data.train.crop.size[0];
            let rows: Vec<&SegmentationRow> = data.ade20k_upernet.iter().filter(|row| row.backbone == backbone).collect();
            let nearest = rows.iter().min_by_key(|row| row.crop.abs_diff(crop));
            nearest.map(|row| row.id.as_str())
        }
    }
}

/// The published model with the options of `backbone`, ignoring regularisation and the selection of outputs.
fn name_of(backbone: &BackboneConfig) -> Option<&'static str> {
    BackboneConfig::names().into_iter().find(|name| is_named(backbone, name))
}

/// Whether a backbone is the published model `name`, as in [`name_of`].
fn is_named(backbone: &BackboneConfig, name: &str) -> bool {
    BackboneConfig::named(name).is_ok_and(|named| essence(&named) == essence(backbone))
}

/// The options that determine what a backbone computes.
fn essence(backbone: &BackboneConfig) -> Map<String, Value> {
    let mut options = Map::from(backbone.clone());
    for option in ["drop_path_rate", "out_indices"] {
        options.remove(option);
    }
    options
}

fn detector(data: &Published, row: &DetectionRow, runs: &[(&Run, Option<&str>)]) -> Entry {
    let numbers = Numbers { figures: row.figures().to_vec(), params_m: millions(row.params).or(row.params_m), gflops: Some(row.gflops) };
    let setting = data.detection_setting(row);
    let differs = |run: &Run| match (&run.config, setting) {
        (Some(RunConfig::Detection(config)), Some(setting)) => Some(setting::detection(config, &run.facts, setting, row)),
        _ => None,
    };
    let lines = own_lines(&row.id, runs, &numbers, row.params.is_some(), row.flops_input, differs);
    let own = setting.filter(|setting| setting.recipe.is_some());
    let recipe = own.map(|own| format!("{}, learning rate {}, batch {}", own.optimizer, own.lr, own.batch));
    let (source, note) = (Some(row.source.clone()), joined(recipe, row.note.clone()));
    let model = row.batch.map_or_else(|| row.model.clone(), |batch| format!("{}, batch {batch}", row.model));
    Entry { id: row.id.clone(), model, published: Some(numbers), source, note, runs: lines }
}

fn segmentor(data: &Published, row: &SegmentationRow, runs: &[(&Run, Option<&str>)]) -> Entry {
    let figures = vec![row.miou_ss, row.miou_ms];
    let numbers = Numbers { figures, params_m: millions(row.params).or(row.params_m), gflops: row.gflops };
    let setting = data.segmentation_setting(row);
    let differs = |run: &Run| match (&run.config, setting) {
        (Some(RunConfig::Segmentation(config)), Some(setting)) => Some(setting::segmentation(config, &run.facts, setting, row)),
        _ => None,
    };
    let size = row.flops_input.unwrap_or(Benchmark::Ade20k.flops_input());
    let lines = own_lines(&row.id, runs, &numbers, row.params.is_some(), size, differs);
    let own = setting.filter(|setting| setting.recipe.is_some());
    let windows = |slide: bool| if slide { ", sliding windows" } else { "" };
    let recipe = own.map(|own| {
        format!("{} iterations, {}, learning rate {}, batch {}{}", own.iterations, own.optimizer, own.lr, own.batch, windows(own.slide))
    });
    let (source, note) = (Some(row.source.clone()), joined(recipe, row.note.clone()));
    Entry { id: row.id.clone(), model: row.model.clone(), published: Some(numbers), source, note, runs: lines }
}

/// The recipe and the note of a row, joined.
fn joined(recipe: Option<String>, note: Option<String>) -> Option<String> {
    let parts: Vec<String> = [recipe, note].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn stranger(run: &Run) -> Entry {
    let numbers = own_numbers(run, run.benchmark.flops_input());
    let line = OwnLine { place: run.place.clone(), origin: run.origin.clone(), numbers, difference: Numbers::default(), differs: None };
    Entry { id: run.name.clone(), model: run.name.clone(), published: None, source: None, note: None, runs: vec![line] }
}

/// Our lines below the published row `id`. `exact`: whether its number of parameters is exact rather than rounded.
fn own_lines(
    id: &str,
    runs: &[(&Run, Option<&str>)],
    published: &Numbers,
    exact: bool,
    size: [usize; 2],
    differs: impl Fn(&Run) -> Option<Vec<String>>,
) -> Vec<OwnLine> {
    let minus = |own: Option<f64>, published: Option<f64>| own.zip(published).map(|(own, published)| own - published);
    let of = runs.iter().filter(|(_, of)| *of == Some(id)).map(|(run, _)| run);
    of.map(|run| {
        let numbers = own_numbers(run, size);
        let difference = Numbers {
            figures: numbers.figures.iter().zip(&published.figures).map(|(own, published)| minus(*own, *published)).collect(),
            params_m: minus(numbers.params_m, published.params_m).filter(|_| exact),
            // Whole GFLOPs are rounded.
            gflops: minus(numbers.gflops, published.gflops.filter(|gflops| gflops.fract() != 0.0)),
        };
        OwnLine { place: run.place.clone(), origin: run.origin.clone(), numbers, difference, differs: differs(run) }
    })
    .collect()
}

/// The figures of a run, and its cost where model and number of classes are known. Published configurations have the classes of the benchmark.
fn own_numbers(run: &Run, size: [usize; 2]) -> Numbers {
    let classes =
        run.facts.classes.or_else(|| run.config.as_ref().is_some_and(RunConfig::has_published_data).then(|| run.benchmark.classes()));
    let cost = run.config.as_ref().zip(classes).and_then(|(config, classes)| config.cost(classes, size));
    Numbers { figures: run.figures.clone(), params_m: millions(cost.map(|(params, _)| params)), gflops: cost.map(|(_, gflops)| gflops) }
}

fn millions(params: Option<u64>) -> Option<f64> {
    params.map(|params| params as f64 / 1e6)
}
