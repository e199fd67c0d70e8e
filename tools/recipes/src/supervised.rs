//! What the recipes of detectors and segmentors have in common.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use burn::prelude::*;
use burn::tensor::TensorData;
use vision_datasets::json;
use vmamba::zoo::BackboneConfig;
use vmamba_train::guard::is_finite;
use vmamba_train::optimizer::{Groups, ungrouped};
use vmamba_train::{BoxError, Scalars, StepContext, StepLoss, TrainConfig};
use vmamba_types::ClassList;
use vmamba_types::words::counted;

use crate::init::Init;
use crate::run_config::{RunConfig, TaskConfig, metadata};

/// A task with labelled images.
pub trait Task: TaskConfig + 'static {
    /// The contract of its datasets, such as `dyn DetectionDataset`.
    type Dataset: ?Sized + Send + Sync;
    /// Transforms of training images.
    type TrainTransforms;
    /// Transforms of test images.
    type TestTransforms;
    /// The figures of a validation.
    type Report: Clone + Send;

    /// The transforms and the number of worker threads in the configuration of the data.
    fn transforms(data: &mut Self::Data) -> (&mut Self::TrainTransforms, &mut Self::TestTransforms, &mut usize);

    /// The backbone of a model.
    fn backbone(model: &Self::Model) -> &BackboneConfig;
}

/// Checks that the model and both datasets have the same classes.
pub(crate) fn check_classes(model: usize, train: &ClassList, val: &ClassList) -> Result<(), BoxError> {
    if model != train.len() {
        return Err(format!("the model has {}, the training data have {}", counted(model, "class", "classes"), train.len()).into());
    }
    match train.names.iter().zip(&val.names).position(|(train, val)| train != val) {
        Some(index) => {
            let (train, val) = (&train.names[index], &val.names[index]);
            Err(format!("class {index} is \"{train}\" in the training data and \"{val}\" in the validation data").into())
        }
        None if train.len() != val.len() => {
            Err(format!("the training data have {}, the validation data have {}", counted(train.len(), "class", "classes"), val.len())
                .into())
        }
        None => Ok(()),
    }
}

/// Refuses to resume a run on data with other classes, or with its classes in another order.
pub(crate) fn check_resumed(metadata: &BTreeMap<String, String>, now: &ClassList) -> Result<(), BoxError> {
    let Some(text) = metadata.get("classes") else { return Ok(()) };
    let then: ClassList = json::parse(text).map_err(|error| format!("its classes cannot be read: {error}"))?;
    match then.names.iter().zip(&now.names).position(|(then, now)| then != now) {
        Some(index) => {
            let (then, now) = (&then.names[index], &now.names[index]);
            Err(format!("class {index} was \"{then}\" when the run began and is \"{now}\" in the data now").into())
        }
        None if then.len() != now.len() => {
            Err(format!("the run began with {}, the data have {} now", counted(then.len(), "class", "classes"), now.len()).into())
        }
        None => Ok(()),
    }
}

/// Refuses batches in which a batch norm would see a single value a channel: its output is 0 whatever the images, and its running variance
/// shrinks towards 0, which ruins the predictions. PyTorch refuses them too ("Expected more than 1 value per channel when training").
/// `batch` is the size of the smallest batch of a device, `values` what a batch norm takes from one image.
pub(crate) fn check_norms(batch: usize, values: Option<usize>) -> Result<(), BoxError> {
    match values {
        Some(values) if batch * values < 2 => {
            Err("a batch of one image gives a batch norm a single value per channel, whose variance is 0; \
             set train.batch_size to 2 or more (accumulation does not help), train larger images, or keep the norms as they are with \
             train.freeze_norms = true or train.freeze"
                .into())
        }
        _ => Ok(()),
    }
}

/// The images of a batch, `[batch, 3, height, width]`, in the type of the activations.
pub(crate) fn images(values: &[f32], batch: usize, [height, width]: [usize; 2], context: &StepContext) -> Tensor<4> {
    context.precision.input(Tensor::from_data(TensorData::new(values.to_vec(), [batch, 3, height, width]), &context.device))
}

/// The loss of a step. Its figures are the values of `parts`, then `accuracies`.
pub(crate) fn step_loss(total: Tensor<1>, parts: Vec<(String, Tensor<1>)>, accuracies: Scalars) -> StepLoss {
    let parts = parts.into_iter().map(|(name, part)| (name, f64::from(part.into_scalar::<f32>())));
    StepLoss { total, parts: parts.chain(accuracies).collect() }
}

/// The first tensor of a forward pass that is not finite: the images, or an output of a module. `forward` runs the forward pass and calls its
/// second argument with the name of each module, the index of an output and that output.
pub(crate) fn first_non_finite(
    images: Tensor<4>,
    forward: impl FnOnce(Tensor<4>, &mut dyn FnMut(&str, usize, &Tensor<4>)),
) -> Option<String> {
    if !is_finite(&images) {
        return Some("the images".to_owned());
    }
    let mut first = None;
    forward(images, &mut |module, index, output| {
        if first.is_none() && !is_finite(output) {
            first = Some(if index > 0 { format!("{module}, output {index}") } else { module.to_owned() });
        }
    });
    first
}

/// Training of a model `M` on a dataset with labels, and its validation on another one. Use it as
/// [`Detection`](crate::detection::Detection) or [`Segmentation`](crate::segmentation::Segmentation).
pub struct Supervised<T: Task, M> {
    pub(crate) name: String,
    /// Where a configured run starts from.
    init: Init,
    /// The set of weights in that file.
    init_weights: Option<String>,
    pub(crate) data: T::Data,
    pub(crate) test: T::Test,
    /// The configuration of the model, which the checkpoints hold so that they can be loaded without other files.
    model: Option<T::Model>,
    pub(crate) groups: Groups,
    pub(crate) train: Arc<T::Dataset>,
    pub(crate) val: Arc<T::Dataset>,
    /// The figures of the newest validation.
    report: Mutex<Option<T::Report>>,
    trained: PhantomData<fn() -> M>,
}

impl<T: Task, M> Supervised<T, M> {
    pub(crate) fn on(train: Arc<T::Dataset>, val: Arc<T::Dataset>, data: T::Data) -> Self {
        Self {
            name: T::TASK.to_owned(),
            init: Init::Random,
            init_weights: None,
            data,
            test: T::Test::default(),
            model: None,
            groups: ungrouped(),
            train,
            val,
            report: Mutex::new(None),
            trained: PhantomData,
        }
    }

    /// As a configuration describes it, on the data that it names.
    pub(crate) fn configured(train: Arc<T::Dataset>, val: Arc<T::Dataset>, config: &RunConfig<T>) -> Self {
        let recipe = Self::on(train, val, config.data.clone()).name(&config.name).model(config.model.clone()).test(config.test.clone());
        Self { init: config.init.clone(), init_weights: config.init_weights.clone(), ..recipe }
    }

    /// Sets the name of the run, the title of its plots.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the transforms of training and of test images.
    #[must_use]
    pub fn transforms(mut self, train: T::TrainTransforms, test: T::TestTransforms) -> Self {
        let (own_train, own_test, _) = T::transforms(&mut self.data);
        (*own_train, *own_test) = (train, test);
        self
    }

    /// Sets the number of threads that read and transform images.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        *T::transforms(&mut self.data).2 = workers.max(1);
        self
    }

    /// Writes the configuration of a built-in model into the checkpoints, so that they can be loaded without other files. Weight decay and
    /// layer-wise learning rates go by its backbone.
    #[must_use]
    pub fn model(mut self, config: impl Into<T::Model>) -> Self {
        let config = config.into();
        self.groups = Arc::new(T::backbone(&config).clone());
        self.model = Some(config);
        self
    }

    /// Sets weight decay and layers of the parameters of a backbone from outside of this project.
    #[must_use]
    pub fn parameter_groups(mut self, groups: Groups) -> Self {
        self.groups = groups;
        self
    }

    /// Sets how the model is evaluated.
    #[must_use]
    pub fn test(mut self, test: T::Test) -> Self {
        self.test = test;
        self
    }

    /// The validation set.
    pub fn validation(&self) -> &Arc<T::Dataset> {
        &self.val
    }

    /// The figures of the newest validation.
    pub fn newest_report(&self) -> Option<T::Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn keep_report(&self, report: T::Report) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }

    /// The metadata of a checkpoint.
    pub(crate) fn describe(
        &self,
        train: &TrainConfig,
        classes: &ClassList,
        validation_images: usize,
        metric: &str,
    ) -> Result<BTreeMap<String, String>, BoxError> {
        let config = self.model.as_ref().map(|model| RunConfig {
            init: self.init.clone(),
            init_weights: self.init_weights.clone(),
            train: train.clone(),
            test: self.test.clone(),
            ..RunConfig::<T>::new(&self.name, model.clone(), self.data.clone())
        });
        metadata::<T>(config.as_ref(), classes, validation_images, metric)
    }
}
