//! Accuracy of a classifier on a folder of images.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use burn::prelude::*;
use burn::tensor::TensorData;
use vision_datasets::DataError;
use vision_datasets::imagenet::ImageFolder;
use vision_datasets::loader::Prefetch;
use vision_datasets::transforms::{ClassificationPipeline, NetworkInput};
use vmamba::zoo::Classifier;
use vmamba_train::Precision;

use super::report::{ClassificationReport, Counts, Skipped};

/// How images are read and batched, and where the classifier runs.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Transforms of an image.
    pub pipeline: ClassificationPipeline,
    /// Images in a batch.
    pub batch_size: usize,
    /// Threads that read images.
    pub workers: usize,
    /// Type of the activations.
    pub precision: Precision,
    /// The device of the classifier.
    pub device: Device,
    /// Ends the evaluation with [`Interrupted`] when it is set.
    pub stop: Option<Arc<AtomicBool>>,
}

/// The evaluation was stopped by [`Feed::stop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Checks that a data set and a model have the same number of classes.
///
/// # Errors
/// When the numbers differ; names both.
pub fn check_classes(data: &ImageFolder, num_classes: usize) -> Result<()> {
    let found = data.classes().len();
    if found != num_classes {
        bail!(
            "the model knows {num_classes} classes, {} has {found}; name a list of all classes with --classes if some have no folder",
            data.root().display()
        );
    }
    Ok(())
}

/// Top-1 and top-5 accuracy of a classifier without gradients on a data set with the same number of classes. The figures do not depend on the
/// number of workers. Images that cannot be read are skipped and reported; they count neither as right nor as wrong. `progress` is called
/// with the number of images since its last call.
///
/// # Errors
/// When no image can be read, or a logit is NaN or infinite.
pub fn evaluate_classifier(
    model: &Classifier,
    data: &Arc<ImageFolder>,
    feed: &Feed,
    progress: &dyn Fn(u64),
) -> Result<ClassificationReport> {
    let begin = Instant::now();
    let mut counts = Counts::new(data.classes().len());
    let skipped = for_each_batch(data, feed, progress, |images, batch| {
        let logits: Vec<f32> = model.forward(images).into_data().iter::<f32>().collect();
        counts.add(&logits, &batch.labels).map_err(|place| anyhow::anyhow!("the logits of {} are not finite", batch.name(data, place)))
    })?;
    Ok(counts.report(data.classes(), skipped, begin.elapsed().as_secs_f64()))
}

/// The images of a batch, in the order of the data set.
#[derive(Default)]
pub(super) struct ImageBatch {
    /// Their classes.
    pub(super) labels: Vec<usize>,
    /// Their indices in the data set.
    pub(super) indices: Vec<usize>,
}

impl ImageBatch {
    /// The file of an image, by its position in the batch.
    pub(super) fn name(&self, data: &ImageFolder, place: usize) -> String {
        let image = self.indices.get(place).and_then(|index| data.image(*index));
        image.map_or_else(|| "an image".to_owned(), |(path, _)| path.display().to_string())
    }
}

/// Calls a function with all readable images of a data set in normalised batches `[batch, 3, size, size]`; returns the unreadable ones.
pub(super) fn for_each_batch(
    data: &Arc<ImageFolder>,
    feed: &Feed,
    progress: &dyn Fn(u64),
    mut each: impl FnMut(Tensor<4>, &ImageBatch) -> Result<()>,
) -> Result<Vec<Skipped>> {
    let inputs = {
        let (source, pipeline) = (Arc::clone(data), feed.pipeline.clone());
        let make = move |index: u64| -> Result<(NetworkInput, usize), DataError> {
            let sample = source.get(index as usize)?;
            Ok((pipeline.apply(&sample.image), sample.label))
        };
        Prefetch::new(0..data.len() as u64, feed.workers, feed.batch_size.max(2 * feed.workers), make)
    };
    let side = feed.pipeline.size;
    let (mut values, mut batch) = (Vec::new(), ImageBatch::default());
    let mut skipped = Vec::new();
    let mut seen = 0;
    for (index, input) in inputs.enumerate() {
        seen += 1;
        match input {
            Ok((input, label)) => {
                values.extend(input.values);
                batch.labels.push(label);
                batch.indices.push(index);
            }
            Err(error) => {
                progress(1);
                skipped.push(Skipped { reason: error.to_string() });
            }
        }
        if feed.stop.as_ref().is_some_and(|stop| stop.load(Ordering::SeqCst)) {
            return Err(Interrupted.into());
        }
        let count = batch.labels.len();
        if count > 0 && (count >= feed.batch_size || seen == data.len()) {
            let shape = [count, 3, side, side];
            let images = feed.precision.input(Tensor::from_data(TensorData::new(std::mem::take(&mut values), shape), &feed.device));
            each(images, &std::mem::take(&mut batch))?;
            progress(count as u64);
        }
    }
    if seen < data.len() {
        bail!("a thread that reads images ended early, after {seen} of {}", data.len());
    }
    match skipped.first() {
        Some(first) if skipped.len() == data.len() => {
            bail!("not one of the {} images can be read; the first: {}", data.len(), first.reason)
        }
        _ => Ok(skipped),
    }
}
