//! The acceleration and ablation tables of the paper: variants of VMamba-T from their configurations, with our and the published figures.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::Deserialize;
use serde_json::json;
use vmamba::zoo::BackboneConfig;
use vmamba_recipes::config::{Configuration, load, load_text};
use vmamba_report::files::write_whole;
use vmamba_report::tables::{Cell, Table};
use vmamba_train::Precision;

use crate::error::{Result, invalid};
use crate::measure::{CLASSES, Protocol, Purpose};
use crate::published::{self, Ablation, AblationRow};
use crate::scaling::{self, Plan, Row, Study, options};

/// A table of variants, from a file such as `configs/ablation/d_state.toml`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AblationConfig {
    /// Title of the table; it names what the variants differ in.
    pub title: String,
    /// The published table of the rows, by its name on the command line; `None` for other variants.
    #[serde(default)]
    pub table: Option<String>,
    /// Remarks below the table.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The variants.
    pub row: Vec<Variant>,
}

/// One variant.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name, also that of its published row.
    pub id: String,
    /// The model.
    pub backbone: BackboneConfig,
}

/// Height and width of the images of the published tables, in pixels.
pub const SIDE: usize = 224;

/// The built-in configurations.
const BUILT_IN: [(Ablation, &str); 7] = [
    (Ablation::Acceleration, include_str!("../../../configs/ablation/acceleration.toml")),
    (Ablation::ScanPattern, include_str!("../../../configs/ablation/scan_pattern.toml")),
    (Ablation::Initialisation, include_str!("../../../configs/ablation/initialisation.toml")),
    (Ablation::DState, include_str!("../../../configs/ablation/d_state.toml")),
    (Ablation::SsmRatio, include_str!("../../../configs/ablation/ssm_ratio.toml")),
    (Ablation::MlpRatio, include_str!("../../../configs/ablation/mlp_ratio.toml")),
    (Ablation::Activation, include_str!("../../../configs/ablation/activation.toml")),
];

impl Configuration for AblationConfig {
    fn check(&self) -> anyhow::Result<()> {
        Ok(self.validate()?)
    }
}

impl AblationConfig {
    /// The configuration of a published table.
    ///
    /// # Errors
    /// When the built-in file is invalid.
    pub fn built_in(table: Ablation) -> Result<Self> {
        let Some((_, text)) = BUILT_IN.iter().find(|(name, _)| *name == table) else {
            return Err(invalid!("no built-in configuration of {table}"));
        };
        Ok(load_text(text, &[], table.name())?)
    }

    /// Reads a configuration.
    ///
    /// # Errors
    /// When the file cannot be read, is invalid, or names a published table or row that does not exist.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(load(path, &[])?)
    }

    /// The published table.
    ///
    /// # Errors
    /// [`StudyError::Invalid`](crate::StudyError::Invalid) for an unknown name.
    pub fn published(&self) -> Result<Option<Ablation>> {
        let parse = |name: &String| name.parse().map_err(|reason| invalid!("table: {reason}"));
        self.table.as_ref().map(parse).transpose()
    }

    fn validate(&self) -> Result<()> {
        if self.row.is_empty() {
            return Err(invalid!("row: at least one variant"));
        }
        for (index, variant) in self.row.iter().enumerate() {
            if self.row.iter().take(index).any(|other| other.id == variant.id) {
                return Err(invalid!("row: two variants are called `{}`", variant.id));
            }
            if self.published()?.is_some() && self.published_row(&variant.id)?.is_none() {
                return Err(invalid!("row: the published table has no `{}`", variant.id));
            }
        }
        Ok(())
    }

    fn published_row(&self, id: &str) -> Result<Option<&'static AblationRow>> {
        Ok(self.published()?.and_then(|table| published::ablation(table).iter().find(|row| row.id == id)))
    }

    /// The distinct models of the variants with their names in a study.
    pub fn models(&self) -> Vec<(String, BackboneConfig)> {
        let mut models: Vec<(String, BackboneConfig)> = Vec::new();
        for variant in &self.row {
            if !models.iter().any(|(_, known)| *known == variant.backbone) {
                models.push((format!("{}: {}", self.title, variant.id), variant.backbone.clone()));
            }
        }
        models
    }

    /// The name of its files, made of the title.
    fn file_name(&self) -> String {
        self.title.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_")
    }

    /// Source and notes of the published table, then our notes.
    ///
    /// # Errors
    /// [`StudyError::Invalid`](crate::StudyError::Invalid) when the published table does not exist.
    pub fn remarks(&self) -> Result<Vec<String>> {
        let published = self.published()?.and_then(published::ablation_table);
        let source = published.map(|table| format!("published: {}", table.source));
        let notes = published.map(|table| table.notes.clone()).unwrap_or_default();
        Ok(source.into_iter().chain(notes).chain(self.notes.iter().cloned()).collect())
    }

    /// Cost of every variant and its speed, where `study` has it, beside the published figures.
    ///
    /// # Errors
    /// [`StudyError::Invalid`](crate::StudyError::Invalid) when the published table does not exist.
    pub fn table(&self, study: &Study) -> Result<Table> {
        let mut table = Table::new([
            "variant",
            "params, M",
            "params, M, published",
            "GFLOPs",
            "GFLOPs, published",
            "images/s",
            "images/s, published, A100",
            "training, images/s",
            "training, images/s, published, A100",
            "top-1, %, published",
            "remark",
        ]);
        for variant in &self.row {
            let published = self.published_row(&variant.id)?;
            let cost = variant.backbone.classifier_complexity(CLASSES, [SIDE; 2]);
            let model = options(&variant.backbone);
            let of = |purpose: Purpose| study.rows.iter().find(|row| row.options == model && row.work.purpose == purpose);
            let speed = |purpose: Purpose| {
                let measured = of(purpose).and_then(|row| row.measured.as_ref());
                measured.map_or(Cell::Missing, |measured| Cell::Number(measured.images_per_second, 2))
            };
            let figure =
                |value: &dyn Fn(&AblationRow) -> f64, decimals| published.map_or(Cell::Missing, |row| Cell::Number(value(row), decimals));
            let failed = [Purpose::Inference, Purpose::Training].into_iter().filter_map(|purpose| of(purpose)?.failed.clone());
            table.push([
                variant.id.as_str().into(),
                Cell::Number(cost.params as f64 / 1e6, 1),
                figure(&|row| row.params_m, 1),
                Cell::Number(cost.flops() as f64 / 1e9, 2),
                figure(&|row| row.gflops, 2),
                speed(Purpose::Inference),
                figure(&|row| row.throughput, 0),
                speed(Purpose::Training),
                figure(&|row| row.train_throughput, 0),
                figure(&|row| row.top1, 2),
                failed.collect::<Vec<_>>().join("; ").into(),
            ]);
        }
        Ok(table)
    }
}

/// A request to measure the speed of all variants.
#[derive(Clone, Debug)]
pub struct Speed {
    /// Batch size.
    pub batch: usize,
    /// Type to compute in.
    pub precision: Precision,
    /// The device by name.
    pub device: String,
    /// The timing protocol.
    pub protocol: Protocol,
    /// Whether to repeat measurements that failed before.
    pub retry: bool,
}

/// Speeds of the variants.
#[derive(Clone, Debug)]
pub struct Speeds {
    study: Study,
    /// False when the measurement was interrupted.
    pub complete: bool,
    remark: String,
}

impl Speed {
    /// Measures inference and training of all variants in `tables` that `study.json` in `folder` lacks.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn measure(&self, tables: &[AblationConfig], folder: &Path, interrupted: &AtomicBool) -> Result<Speeds> {
        let Self { batch, precision, protocol, .. } = *self;
        let plan = Plan {
            models: Vec::new(),
            sides: vec![SIDE],
            batches: vec![batch],
            precisions: vec![precision],
            purposes: Purpose::ALL.into(),
            device: self.device.clone(),
            protocol,
        };
        let mut study = Study::open(folder)?;
        if self.retry {
            study.rows.retain(|row| row.failed.is_none());
        }
        // Many tables share a model; it is measured once.
        let mut models: Vec<(String, BackboneConfig)> = Vec::new();
        for (name, model) in tables.iter().flat_map(AblationConfig::models) {
            if !models.iter().any(|(_, known)| *known == model) {
                models.push((name, model));
            }
        }
        let complete = scaling::run(&plan.works_of(&models), protocol, &mut study, folder, interrupted)?;
        // The folder may have rows of other settings.
        study.rows.retain(|Row { work, protocol: measured, .. }| {
            (*measured, work.side, work.batch, work.precision, &work.device) == (protocol, SIDE, batch, precision, &self.device)
        });
        let machine = study.rows.iter().find_map(|row| Some(row.measured.as_ref()?.machine.clone()));
        let remark = format!(
            "speed: {}, {precision}, batch {batch}, {SIDE}x{SIDE}, {} warm-up runs, then the median of {} rounds of {}",
            machine.unwrap_or_else(|| self.device.clone()),
            protocol.warmup,
            protocol.rounds,
            protocol.runs
        );
        Ok(Speeds { study, complete, remark })
    }
}

/// Checks that no two tables have the same file name, see [`write()`].
///
/// # Errors
/// [`StudyError::Invalid`](crate::StudyError::Invalid) with the name of two tables.
pub fn check_file_names(tables: &[AblationConfig]) -> Result<()> {
    let mut names = BTreeSet::new();
    match tables.iter().map(AblationConfig::file_name).find(|name| !names.insert(name.clone())) {
        Some(name) => Err(invalid!("two tables would be written to {name}.md; give them different titles")),
        None => Ok(()),
    }
}

/// Writes a table as Markdown, CSV and JSON into `folder`, under a name made of its title. Returns the table as text.
///
/// # Errors
/// When a file cannot be written.
pub fn write(config: &AblationConfig, speeds: Option<&Speeds>, folder: &Path) -> Result<String> {
    let none = Study::default();
    let table = config.table(speeds.map_or(&none, |speeds| &speeds.study))?;
    let remarks: Vec<String> = speeds.map(|speeds| speeds.remark.clone()).into_iter().chain(config.remarks()?).collect();
    let lines = |bullet: &str| remarks.iter().map(|remark| format!("{bullet}{remark}\n")).collect::<String>();
    let (title, name) = (&config.title, config.file_name());
    let document = json!({ "title": title, "remarks": remarks, "rows": table.json_rows() });
    for (ending, text) in
        [("md", format!("## {title}\n\n{}\n{}", table.markdown(), lines("* "))), ("csv", table.csv()), ("json", format!("{document:#}\n"))]
    {
        write_whole(&folder.join(format!("{name}.{ending}")), text.as_bytes())?;
    }
    Ok(format!("{title}\n{}{}", table.text(), lines("  ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To the published digits: one decimal of the parameters, two of the FLOPs.
    #[test]
    fn every_published_variant_costs_what_was_published() {
        let mut compared = 0;
        for (table, _) in BUILT_IN {
            let config = AblationConfig::built_in(table).unwrap();
            for variant in &config.row {
                let published = config.published_row(&variant.id).unwrap().unwrap();
                let cost = variant.backbone.classifier_complexity(CLASSES, [SIDE; 2]);
                let (params, gflops) = (cost.params as f64 / 1e6, cost.flops() as f64 / 1e9);
                // The paper rounds all parameters but one, which it truncates: 28.257 to 28.2.
                assert!(
                    (-0.0501..0.0601).contains(&(params - published.params_m)),
                    "{table:?} {}: {params} M, not {}",
                    variant.id,
                    published.params_m
                );
                // The released code of the cascade has two LayerNorms; the published count has one.
                let slack = if variant.id == "cascade" { 0.00851 } else { 0.00501 };
                assert!((gflops - published.gflops).abs() < slack, "{table:?} {}: {gflops} G, not {}", variant.id, published.gflops);
                compared += 1;
            }
        }
        assert_eq!(compared, 12 + 8 + 3 + 5 + 3 + 3 + 3);
    }
}
