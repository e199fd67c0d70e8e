//! Effective receptive fields of several models, before and after training, over the same images.
//!
//! ```text
//! images.rs:   folder or scenes ── shuffle by a seed ── resize, crop ──┐
//! subjects.rs: names, configurations, checkpoints ── LastMap, frozen ──┴─ run: central_gradient, mean ──> report.rs: figure, tables, .npy
//! ```
//! [`vmamba::analysis`] computes the gradients. `docs/analysis.md` has the protocol and its differences from the published script.

mod images;
mod report;
mod subjects;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::prelude::*;
use burn::tensor::TensorData;
use indicatif::ProgressBar;
use serde::Serialize;
use vision_datasets::transforms::Normalize;
use vmamba::analysis::{ReceptiveField, central_gradient, covering_square};
use vmamba_report::console::{progress_bar, weights_line};
use vmamba_report::eprintln;

use crate::error::{Place, Result, StudyError, invalid};

pub use images::{ImageSource, Images};
pub use report::{Look, write_field, write_report};
pub(crate) use subjects::Network;
pub use subjects::{Subject, subjects};

/// Shares of the contribution with a reported square, as in RepLKNet.
pub const SHARES: [f64; 4] = [0.2, 0.3, 0.5, 0.99];

/// The weights of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Random weights.
    Before,
    /// The weights of a checkpoint.
    After,
}

impl State {
    /// The state in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Before => "before training",
            Self::After => "after training",
        }
    }
}

/// The smallest square around the centre that holds a share of the contribution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Square {
    /// The share.
    pub share: f64,
    /// Its side in pixels; `None` for a field without a positive value.
    pub side: Option<usize>,
    /// Its area over the area of the image.
    pub area: Option<f64>,
}

/// The effective receptive field of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Field {
    /// The model's name in the figure.
    pub model: String,
    /// Before or after training.
    pub state: State,
    /// The checkpoint, after training.
    pub checkpoint: Option<PathBuf>,
    /// A property that distinguishes models of one family, such as the window size.
    pub remark: String,
    /// Number of requested images.
    pub images_wanted: usize,
    /// Number of images in the mean; smaller when there were too few usable images.
    pub images_used: usize,
    /// Names of the images in the mean, in order.
    pub images: Vec<String>,
    /// Images left out because a value of their contribution was not finite.
    pub not_finite: Vec<String>,
    /// The squares of [`SHARES`].
    pub squares: Vec<Square>,
    /// The mean contribution, `[height, width]` in row-major order, not normalised.
    #[serde(skip)]
    pub map: Vec<f32>,
}

impl Field {
    /// A warning when the mean has fewer images than requested.
    pub fn shortage(&self) -> Option<String> {
        let left_out = match self.not_finite.len() {
            0 => String::new(),
            count => format!(" ({count} gave values that are not finite)"),
        };
        (self.images_used < self.images_wanted)
            .then(|| format!("{} {}: only {} of {} images{left_out}", self.model, self.state.words(), self.images_used, self.images_wanted))
    }
}

/// Settings of the computation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Height and width of the images in pixels.
    pub size: usize,
    /// Number of images in the mean.
    pub images: usize,
    /// Seed of random weights.
    pub seed: u64,
    /// The device, without autodiff.
    pub device: Device,
}

/// Computes the fields of all subjects and passes each to `finished`. Returns false when it was interrupted. Validates sizes and weights
/// first. Subjects without a checkpoint have no field after training; when that is the only state, a warning names them.
///
/// # Errors
/// When a model does not take the size, weights do not fit, no image is usable, or `finished` fails.
pub fn run(
    subjects: &[Subject],
    states: &[State],
    images: &mut Images,
    settings: &Settings,
    interrupted: &AtomicBool,
    mut finished: impl FnMut(Field) -> Result<()>,
) -> Result<bool> {
    for subject in subjects {
        subject.check(settings.size)?;
    }
    let works: Vec<(&Subject, State)> = subjects
        .iter()
        .flat_map(|subject| states.iter().map(move |state| (subject, *state)))
        .filter(|(subject, state)| *state == State::Before || subject.checkpoint.is_some())
        .collect();
    if works.is_empty() {
        return Err(invalid!("nothing to do: without random weights, at least one model needs a checkpoint"));
    }
    let missing: Vec<&str> = subjects
        .iter()
        .filter(|subject| !works.iter().any(|(work, _)| work.name == subject.name))
        .map(|subject| subject.name.as_str())
        .collect();
    if !missing.is_empty() {
        eprintln!("warning: left out for lack of a checkpoint: {}", missing.join(", "));
    }
    for (subject, _) in works.iter().filter(|(_, state)| *state == State::After) {
        if let Some(path) = &subject.checkpoint {
            let (_, origin) = subject.load_weights(path, &settings.device).at_with(|| format!("--checkpoint {}", subject.name))?;
            eprintln!("{}", weights_line(path, &origin));
        }
    }
    let bar = progress_bar((works.len() * settings.images) as u64);
    for (number, (subject, state)) in works.into_iter().enumerate() {
        bar.set_message(format!("images, {} {}", subject.name, state.words()));
        let Some(field) = field(subject, state, images, settings, interrupted, &bar)? else {
            bar.finish_and_clear();
            return Ok(false);
        };
        bar.set_position(((number + 1) * settings.images) as u64);
        bar.suspend(|| finished(field))?;
    }
    bar.finish_and_clear();
    Ok(true)
}

/// The field of a subject; `None` when it was interrupted.
fn field(
    subject: &Subject,
    state: State,
    images: &mut Images,
    settings: &Settings,
    interrupted: &AtomicBool,
    bar: &ProgressBar,
) -> Result<Option<Field>> {
    let size = [settings.size; 2];
    let device = settings.device.clone().autodiff();
    let network = subject.network(state, settings.seed, &device)?;
    let chain = network.chain(size);
    let mut field = ReceptiveField::new(size);
    let (mut used, mut not_finite) = (Vec::new(), Vec::new());
    for place in 0..images.candidates() {
        if field.images() == settings.images {
            break;
        }
        if interrupted.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let Some(picture) = images.read(place) else { continue };
        let image = tensor(&subject.normalize, &picture.pixels, size, &device);
        let contribution = central_gradient(&chain, image).into_data().iter::<f32>().collect::<Vec<_>>();
        if field.add(&contribution) {
            used.push(picture.name);
            bar.inc(1);
        } else {
            bar.suspend(|| eprintln!("warning: {}: {} gives values that are not finite; left out", subject.name, picture.name));
            not_finite.push(picture.name);
        }
    }
    let Some(map) = field.mean() else {
        match images.first_unreadable() {
            Some(reason) if not_finite.is_empty() => return Err(invalid!("no image can be read; the first error: {reason}")),
            _ => return Err(StudyError::Run(format!("{} {}: no image gives finite values", subject.name, state.words()))),
        }
    };
    let square = |share: f64| {
        let square = covering_square(&map, size, share);
        Square { share, side: square.map(|square| square.side), area: square.map(|square| square.area) }
    };
    Ok(Some(Field {
        model: subject.name.clone(),
        state,
        checkpoint: subject.checkpoint.clone().filter(|_| state == State::After),
        remark: subject.remark(settings.size),
        images_wanted: settings.images,
        images_used: used.len(),
        images: used,
        not_finite,
        squares: SHARES.map(square).into(),
        map,
    }))
}

/// Converts a picture of `[height, width]` into the input `[1, 3, height, width]`.
fn tensor(normalize: &Normalize, pixels: &image::RgbImage, [height, width]: [usize; 2], device: &Device) -> Tensor<4> {
    let input = normalize.apply(pixels, [height, width]);
    Tensor::from_data(TensorData::new(input.values, [1, 3, height, width]), device)
}
