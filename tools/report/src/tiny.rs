//! A run of four steps for the tests of the observers.

use burn::module::Param;
use burn::prelude::*;
use vmamba_train::{
    BatchOrder, Batches, BoxError, KeyMap, Observer, OptimizerConfig, Recipe, Scalars, StepContext, StepLoss, Trainer, TrainerBuilder,
};

#[derive(Module, Debug)]
pub(crate) struct Line {
    slope: Param<Tensor<1>>,
}

/// Fits `y = 3 x`.
pub(crate) struct Fit;

impl Recipe for Fit {
    type Model = Line;
    type Batch = f32;

    fn samples(&self) -> usize {
        2
    }

    fn batches(&self, order: BatchOrder) -> Batches<'_, f32> {
        Box::new((order.first..).map(|_| Ok(1.0)))
    }

    fn loss(&self, model: &Line, x: &f32, _context: &StepContext) -> StepLoss {
        StepLoss { total: ((model.slope.val() - 3.0) * *x).square(), parts: Vec::new() }
    }

    fn validate(&self, model: &Line, _device: &Device) -> Result<Scalars, BoxError> {
        let error = model.slope.val().into_scalar::<f32>() - 3.0;
        Ok(vec![("closeness".to_owned(), 1.0 / (1.0 + f64::from(error.abs())))])
    }

    fn keys(&self) -> KeyMap {
        str::to_owned
    }

    fn name(&self) -> String {
        "fit".to_owned()
    }

    fn sample_names(&self, _batch: &f32) -> Vec<String> {
        vec!["one".to_owned()]
    }
}

/// A run of four steps with validations after the second and the fourth; the slope starts at `slope`.
pub(crate) fn builder(slope: f32) -> TrainerBuilder<Fit> {
    let model = Line { slope: Param::from_tensor(Tensor::from_floats([slope], &Device::flex())) };
    Trainer::builder(Fit, model).iterations(4).val_interval(2).optimizer(OptimizerConfig::adamw(0.5).weight_decay(0.0))
}

/// Runs all four steps under `observer`.
pub(crate) fn run(observer: impl Observer + 'static) {
    builder(0.0).observe(observer).build(&Device::flex()).unwrap().run().unwrap();
}
